"""Running a student's function without harm: it cannot hang, raise or leave traces."""

import inspect
import linecache
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from numpy.random import mtrand

LINES = 200_000
"""Lines of the student's own code that one call may run: a second or so."""


class TooLong(BaseException):
    """Stops a loop without end; no Exception, so that ``except Exception`` lets it through."""


@contextmanager
def sealed() -> Iterator[None]:
    """Keep random states, gradient mode and warnings of the notebook as they are.

    Inside, the random numbers always are the same ones and gradients are on.

    Yields
    ------
    None
    """
    python, numpy = random.getstate(), mtrand.get_state(legacy=False)
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        # Not torch.manual_seed, which also seeds the GPUs.
        torch.default_generator.manual_seed(0)
        random.seed(0)
        mtrand.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            mtrand.set_state(numpy)


def attempt(
    student: Callable[..., Any], arguments: Sequence[Any], signature: str
) -> tuple[Any, str]:
    """Call a student's function.

    Parameters
    ----------
    student : callable
        The function.
    arguments : sequence
        What to call it with.
    signature : str
        How it is called: told where the call itself fails.

    Returns
    -------
    tuple of (object, str)
        What it returned and "", or None and one line about its error.
    """
    try:
        with _patience(student):
            return student(*arguments), ""
    except (Exception, SystemExit, TooLong) as error:
        return None, _told(error, student, signature)


@contextmanager
def _patience(student: Callable[..., Any]) -> Iterator[None]:
    """Stop code of the student's namespace after so many lines: the same on every machine."""
    namespace = getattr(inspect.unwrap(student), "__globals__", None)
    left = LINES

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_globals is not namespace:
            return None
        left -= 1
        if left < 0:
            raise TooLong(f"{LINES} lines have run and no end is in sight: does the loop stop?")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _told(error: BaseException, student: Callable[..., Any], signature: str) -> str:
    """Put an error into one line, with the line of the student's function it came through."""
    message = (str(error).splitlines() or [""])[0]
    what = _quoted(f"{type(error).__name__}: {message}")
    code: CodeType | None = getattr(inspect.unwrap(student), "__code__", None)
    frames = traceback.walk_tb(error.__traceback__)
    numbers = [number for frame, number in frames if frame.f_code is code]
    if code is None or not numbers:
        return f"{what} when called as `{signature}`"
    text = linecache.getline(code.co_filename, numbers[-1]).strip()
    shown = f", {_quoted(text)}" if text else ""
    return f"{what} in line {numbers[-1] - code.co_firstlineno + 1}{shown}"


def _quoted(text: str) -> str:
    """Show code in Markdown, cut where it is long."""
    return "`" + text[:200].replace("`", "'") + "`"
