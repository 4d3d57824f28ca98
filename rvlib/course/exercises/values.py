"""Comparing what a student's function returned with what it should have returned."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


def numbers(value: Any) -> NDArray[np.float64] | None:
    """Read a number, a tensor, an array or a list as numbers.

    Parameters
    ----------
    value : object
        Whatever a student's function returned.

    Returns
    -------
    ndarray of float64 or None
        None for what holds no numbers.
    """
    # NumPy would read None as nan and "3" as 3.
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().double().numpy()
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Compare two answers; answers of unlike shape differ, two of None are alike."""
    if a is None or b is None:
        return a is b
    left, right = numbers(a), numbers(b)
    if left is None or right is None or left.shape != right.shape:
        return False
    return np.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True)


def fits(value: Any, expected: Any) -> bool:
    """Whether an answer has the kind and the shape of the right one, whatever its numbers."""
    if isinstance(expected, Tensor):
        return isinstance(value, Tensor) and value.shape == expected.shape
    # Among numbers None is one more answer: "there is none".
    if value is None or expected is None:
        return True
    found, wanted = numbers(value), numbers(expected)
    return found is not None and wanted is not None and found.shape == wanted.shape


def kind(value: Any) -> str:
    """Name what an answer is: its type, and its shape where it has one."""
    if isinstance(value, Tensor | np.ndarray):
        what = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{what} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value)}"
    array = numbers(value)
    return f"a value of type `{type(value).__name__}`" if array is None else "a number"


def contrast(value: Any, expected: Any) -> str:
    """Say where two answers differ most, and by what."""
    found, wanted = numbers(value), numbers(expected)
    if found is None or wanted is None or found.shape != wanted.shape or not wanted.shape:
        return f"yours is {short(value)}, the right answer {short(expected)}"
    gap = np.abs(found - wanted)
    at = np.unravel_index(np.where(np.isnan(gap), np.inf, gap).argmax(), gap.shape)
    place = ", ".join(str(int(i)) for i in at)
    return (
        f"entry [{place}] of yours is {short(found[at])}, of the right answer {short(wanted[at])}"
    )


def short(value: Any) -> str:
    """Write a value in a few characters."""
    array = numbers(value)
    if array is None:
        return repr(value)[:60]
    if array.shape:
        return f"[{', '.join(f'{entry:.4g}' for entry in array.flat)}]"
    return f"{float(array):.4g}"


def readable(value: Any) -> bool:
    """Whether a value can be written out in a line."""
    array = numbers(value)
    return array is not None and array.size <= 10


def damage(name: str, before: Any, after: Any) -> str:
    """Say what a function did to one of its arguments.

    Parameters
    ----------
    name : str
        The argument's name.
    before, after : object
        The argument as it was given, and as it came back.

    Returns
    -------
    str
        A sentence, or "" where nothing has changed.
    """
    if isinstance(before, nn.Module):
        return _damage_of_network(before, after)
    if isinstance(before, Tensor | np.ndarray | list) and not same(before, after, 0):
        return f"`{name}` itself is changed: work on a copy, and without `_` or `+=`."
    if isinstance(before, Tensor) and before.requires_grad != after.requires_grad:
        return (
            f"`{name}.requires_grad` stays switched on in the caller's tensor: differentiate at "
            f"`{name}.detach().clone().requires_grad_()`."
        )
    return ""


def _damage_of_network(before: nn.Module, after: nn.Module) -> str:
    weights = list(zip(before.parameters(), after.parameters(), strict=True))
    if not all(same(old, new, 0) for old, new in weights):
        return "The network's weights are not what they were."
    if any(old.requires_grad != new.requires_grad for old, new in weights):
        return "Parameters of the network have another `requires_grad` than before."
    if _each(before, lambda module: module.training) != _each(after, lambda m: m.training):
        mode = "training" if before.training else "evaluation"
        return f"The network came in {mode} mode and leaves in the other one."
    if any(parameter.grad is not None for parameter in after.parameters()):
        return (
            "`loss.backward()` has also filled the `.grad` of the network's parameters, and the "
            "next training step would add it to its own; `torch.autograd.grad(loss, x)` works out "
            "only what it is asked for."
        )
    return ""


def _each(network: nn.Module, look: Callable[[nn.Module], bool]) -> list[bool]:
    return [look(module) for module in network.modules()]
