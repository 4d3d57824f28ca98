"""One call of a student's function: its result or its error in a line, and its side effects."""

import copy
import inspect
import math
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Solution = Callable[..., Any]
"""A function with the signature of the exercise: correct, mistaken, or the student's."""


class Failure(str):
    """One line about an exception, in place of a result."""


class Call(NamedTuple):
    """What one call did.

    Parameters
    ----------
    result : object
        What it returned, or a Failure.
    changed : int, optional
        Position of the first argument that it changed.
    filled : bool, default=False
        Whether it left gradients in the parameters of a network.
    mode : str, default=""
        Mode that it left a network in, if that is another than before: training or evaluation.
    slope : float, optional
        Of a loss: the norm of its gradient in the parameters of the networks.
    """

    result: Any
    changed: int | None = None
    filled: bool = False
    mode: str = ""
    slope: float | None = None


Ask = Callable[[tuple[Any, ...]], Call]
"""Calls a student's function, here or in a process of its own, with these arguments."""


def observe(solution: Solution, arguments: tuple[Any, ...]) -> Call:
    """Call a function with a copy of the arguments.

    Parameters
    ----------
    solution : callable
        The function.
    arguments : tuple
        They stay as they are.

    Returns
    -------
    Call
        An exception is its result, too.
    """
    given = copy.deepcopy(arguments)
    try:
        result = solution(*given)
    except Exception as error:
        return Call(Failure(f"Your function stops with {in_one_line(error, solution)}"))
    changed = (
        place
        for place, (before, after) in enumerate(zip(arguments, given, strict=True))
        if state(before) != state(after)
    )
    networks = [argument for argument in given if isinstance(argument, nn.Module)]
    weights = [p for network in networks for p in network.parameters()]
    filled = any(p.grad is not None for p in weights)
    modes = [n.training for n in networks]
    before = [n.training for n in arguments if isinstance(n, nn.Module)]
    mode = ("training" if any(modes) else "evaluation") if modes != before else ""
    return Call(result, next(changed, None), filled, mode, _slope(result, weights))


def _slope(loss: Any, weights: list[nn.Parameter]) -> float | None:
    """Norm of a loss's gradient, as a training step would take it."""
    if not (weights and isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1):
        return None
    try:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError:  # the function went backwards itself
        return None
    return math.hypot(*(g.norm().item() for g in found if g is not None))


def in_one_line(error: Exception, student: Solution) -> str:
    """Shorten a traceback to the error and the student's line that it passed through."""
    code = getattr(inspect.unwrap(student), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    place = f" in line {own[-1].lineno}, {_code(own[-1].line or '')}" if own else ""
    return _code(f"{type(error).__name__}: {error}") + place


def _code(text: str) -> str:
    return "`" + text.partition("\n")[0][:200].replace("`", "'") + "`"


def state(argument: Any) -> Any:
    """Read what a function must not change about its argument."""
    if isinstance(argument, nn.Module):
        modes = [module.training for module in argument.modules()]
        return modes, [state(parameter) for parameter in argument.parameters()]
    if isinstance(argument, Tensor):
        return argument.requires_grad, argument.tolist()
    return list(argument) if isinstance(argument, list | np.ndarray) else None
