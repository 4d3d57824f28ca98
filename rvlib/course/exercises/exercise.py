"""An exercise: a task, small cases, and a table of known mistakes with what to say about each."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown, display
from numpy.typing import NDArray
from torch import Tensor, nn

from rvlib.course.calls import Ask, Call, Failure, Solution, observe
from rvlib.course.exercises import solutions

Law = Callable[..., str]
"""Called with a result and the arguments: what the result breaks, or nothing."""


JOIN = "put each comparison in parentheses and join them with `&`: `(a == b) & (c >= d)`."
HINTS = {"ufunc 'bitwise_and'": JOIN.capitalize()} | dict.fromkeys(
    ["truth value of an array", "Boolean value of Tensor"],
    "An `if`, an `and` or an `or` decides once, for a whole array: choose entry by entry with "
    f"`where`, or {JOIN}",
)
"""What to say beside an exception, by a part of it."""


class Check:
    """Judges a student's function: an exercise, or a task."""

    signature: str
    also_right: Sequence[Solution] = ()

    @property
    def name(self) -> str:
        """What the function is called."""
        return self.signature.partition("(")[0]

    @property
    def answers(self) -> list[Solution]:
        """Correct solutions, first the one of this name in ``solutions``."""
        return [getattr(solutions, self.name), *self.also_right]

    def __call__(self, student: object) -> None:
        """Show the verdict on a student's function.

        Parameters
        ----------
        student : callable
            The function itself; an exception that it raises is shown in one line.
        """
        display(Markdown(self.verdict(student)))

    def verdict(self, student: object) -> str:
        """Find the mistake in a student's function.

        Parameters
        ----------
        student : callable
            The function itself.

        Returns
        -------
        str
            Markdown that begins with **Not yet.**, **Almost.** or **Right.**
        """
        if not callable(student):
            return f"**Not yet.** Pass the function `{self.name}` itself, without calling it."
        return self.judge(partial(observe, student))

    def judge(self, ask: Ask) -> str:
        """Judge a function that may run elsewhere.

        Parameters
        ----------
        ask : callable
            Calls the function with the arguments of a case.

        Returns
        -------
        str
            As `verdict`.
        """
        raise NotImplementedError

    def judge_more(self, ask: Ask, seed: int) -> str:
        """Judge a function in cases that nobody has seen.

        Parameters
        ----------
        ask : callable
            Calls the function with the arguments of a case.
        seed : int
            Of these cases.

        Returns
        -------
        str
            As `verdict`.
        """
        raise NotImplementedError


class Part:
    """A mistake in one part of a solution, which a student may make together with others.

    Parameters
    ----------
    words : str
        What to say about it beside another one.
    **parts
        What `Exercise.make` takes in place of the right parts.
    """

    def __init__(self, words: str, **parts: Any) -> None:
        self.words, self.parts = words, parts


@dataclass(frozen=True, repr=False)
class Exercise(Check):
    """A check that names the mistake in a student's function.

    Each known mistake is stored as the function that a student who makes it would write, so a
    diagnosis is exact: the student's results equal those of the mistaken function in every case.

    Parameters
    ----------
    signature : str
        The function to write, such as ``my_fgsm(model, x, y, eps)``.
    task : str
        What the function should return.
    cases : sequence of tuple
        Arguments of the calls; every call gets its own copies.
    mistakes : sequence of str, callable and Part
        A table: what to say about a mistake, then the solutions that make it, and so on. The first
        match is shown; two parts at once are tried last.
    fact : str
        What a student who has finished reads.
    more : callable
        Draws further cases from a NumPy generator, which nobody has seen: for grading.
    also_right : sequence of callable, default=()
        Other correct solutions, whose values differ.
    make : callable, optional
        Makes the solutions that have other parts than the right ones; of two mistakes at once the
        first of them is known.
    laws : sequence of callable, default=()
        What every right result keeps to: named where no known mistake explains a wrong one.
    special : mapping of str to tuple, default={}
        Special cases, tried once `cases` are right: what to say if one is wrong, its arguments.
    describe : callable, default=None
        Maps the list of results to named numbers, which are compared instead of the results.
    tolerance : float, default=1e-5
        Largest absolute and relative difference between results that count as equal.
    """

    signature: str
    task: str
    cases: Sequence[tuple[Any, ...]]
    mistakes: Sequence[str | Solution | Part]
    fact: str
    more: Callable[[np.random.Generator], list[tuple[Any, ...]]]
    also_right: Sequence[Solution] = ()
    make: Callable[..., list[Solution]] = lambda **parts: []
    laws: Sequence[Law] = ()
    special: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    describe: Callable[[list[Any]], Mapping[str, float]] | None = None
    tolerance: float = 1e-5

    def judge(self, ask: Ask) -> str:
        """Find the mistake, in the cases of the check."""
        calls = [ask(case) for case in self.cases]
        if found := self._mistake([call.result for call in calls]):
            return f"**Not yet.** {self._spoilt(calls[0]) or found}"
        if found := self._special_case(ask):
            return f"**Almost.** {found}"
        if found := self._side_effect(calls[0]):
            return f"**Almost.** The values are right, but {found}."
        return f"**Right.** {self.fact}"

    def judge_more(self, ask: Ask, seed: int) -> str:
        """Find the mistake in cases drawn by `more`."""
        cases = self.more(np.random.default_rng(seed))
        return replace(self, cases=cases, special={}).judge(ask)

    @property
    def _names(self) -> list[str]:
        """The function's name and those of its arguments."""
        return re.findall(r"\w+", self.signature)

    def _spoilt(self, call: Call) -> str:
        """Say that an argument was changed, from which wrong values may come."""
        if call.changed is None or isinstance(call.result, Failure):
            return ""
        name, given = self._names[1 + call.changed], self.cases[0][call.changed]
        copied = "clone" if isinstance(given, Tensor) else "copy"
        words = f"Your function changes `{name}`: start from `{name}.{copied}()`."
        return "" if isinstance(given, nn.Module) else words

    def _mistake(self, results: list[Any]) -> str:
        right = self._known(self.answers[0])
        if failures := [result for result in results if isinstance(result, Failure)]:
            hints = [words for error, words in HINTS.items() if error in failures[0]]
            return " ".join([f"{failures[0]}.", *hints])
        if all(result is None for result in results):
            doubt = " in every case." if None in right else ": is a `return` missing?"
            return f"`{self.name}` returns None{doubt} Return {self.task}"
        agrees = self._agree(results)
        for words, solution in self._table:
            if agrees(solution):
                return words
        return self._difference(results, right)

    @cached_property
    def _table(self) -> list[tuple[str, Solution]]:
        """Solutions and what to say about them: right ones, known mistakes, two at once."""
        table, words, parts = [("", answer) for answer in self.answers], "", []
        for row in self.mistakes:
            if isinstance(row, str):
                words = row
            elif isinstance(row, Part):
                parts.append(row)
                table += [(words, solution) for solution in self.make(**row.parts)]
            else:
                table.append((words, row))
        for one, two in combinations(parts, 2):
            if not one.parts.keys() & two.parts.keys():
                both, *_ = self.make(**one.parts, **two.parts)
                table.append((f"Two mistakes at once. {one.words} {two.words}", both))
        return table

    @cached_property
    def _known(self) -> Callable[[Solution], list[Any]]:
        """Results of a row of a table, made when they are first compared with."""
        return cache(self._results)

    @cached_property
    def _described(self) -> Callable[[Solution], list[Any]]:
        """What is compared of them."""
        return cache(lambda row: self._compared(self._known(row)))

    def _results(self, solution: Solution) -> list[Any]:
        return [observe(solution, case).result for case in self.cases]

    def _agree(self, results: list[Any]) -> Callable[[Solution], bool]:
        """Make a test of rows: are their results these?  All results are described once."""
        mine = cache(lambda: self._compared(results))

        def agrees(row: Solution) -> bool:
            alike = all(map(fits, results, self._known(row)))
            return alike and all(map(self._same, mine(), self._described(row)))

        return agrees

    def _same(self, one: Any, other: Any) -> bool:
        return same(one, other, self.tolerance)

    def _compared(self, results: list[Any]) -> list[Any]:
        return list(self.describe(results).values()) if self.describe else results

    def _difference(self, results: list[Any], right: list[Any]) -> str:
        """Show the first result that differs: no known mistake explains it."""
        for mine, other in zip(results, right, strict=True):
            if not fits(mine, other):
                return f"`{self.name}` returns {kind(mine)}, not {kind(other)}."
        if broken := self._broken_law(results):
            return broken
        places = [(self._inputs(case), self._given(case)) for case in self.cases]
        if self.describe:
            places = [(name, {}) for name in self.describe(right)]
        rows = zip(places, self._compared(results), self._compared(right), strict=True)
        place, mine, other = next(row for row in rows if not self._same(*row[1:]))
        return f"{place[0]}: {contrast(mine, other, place[1])}."

    def _given(self, case: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._names[1:], case, strict=True))

    def _broken_law(self, results: list[Any]) -> str:
        """Say what no right result does, and where: no known mistake explains it."""
        for case, result in zip(self.cases, results, strict=True):
            for law in self.laws if result is not None else ():
                if found := law(result, *case):
                    return f"{self._inputs(case)}: {found}."
        return ""

    def _inputs(self, case: tuple[Any, ...]) -> str:
        """Write out the arguments that are short enough to read."""
        pairs = [(name, short(value)) for name, value in self._given(case).items()]
        shown = ", ".join(f"{name} = {text}" for name, text in pairs if text and len(text) < 60)
        return f"With `{shown}`" if shown else "In the example of this check"

    def _special_case(self, ask: Ask) -> str:
        for words, case in self.special.items():
            mine, right = ask(case).result, observe(self.answers[0], case).result
            if not self._same(mine, right):
                return f"{words} {self._inputs(case)}: {contrast(mine, right)}."
        return ""

    def _side_effect(self, call: Call) -> str:
        right, *_, slope = observe(self.answers[0], self.cases[0])
        if call.mode:
            return f"your function leaves the network in {call.mode} mode: set it back"
        if call.changed is not None:
            name = self._names[1 + call.changed]
            return f"your function changes `{name}`: work on a copy, or undo the change"
        if call.filled and isinstance(right, Tensor) and right.requires_grad:
            return "your function calls `.backward()`: only return the loss, the caller does that"
        if call.filled:
            return (
                "`loss.backward()` also fills the `.grad` of the network's parameters, which "
                "the next training step would use: call `torch.autograd.grad(loss, x)` instead"
            )
        if call.slope and slope and not math.isclose(call.slope, slope, rel_tol=1e-3):
            return "a part of the loss has lost its graph: no `.item()`, `.detach()` or `no_grad`"
        return fault(call.result, right) if isinstance(right, Tensor) else ""


def within(result: float, most: float, words: str) -> str:
    """Say so where a number does not lie between 0 and the most that it can be."""
    right = 0 <= result <= most + 1e-9
    return "" if right else f"yours is {float(result):.4g}, but {words}"


def numbers(value: Any) -> NDArray[np.float64] | None:
    """Read a number, a tensor, an array or a list as an array; None for anything else."""
    try:
        if isinstance(value, Tensor):  # NumPy has no bfloat16
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array.astype(float) if array.dtype.kind in "biuf" else None


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Compare two results; None is a result like others, and equals only None."""
    left, right = numbers(a), numbers(b)
    if left is None or right is None:
        return a is b
    alike = left.shape == right.shape
    return alike and np.allclose(left, right, tolerance, tolerance, equal_nan=True)


def fits(value: Any, right: Any) -> bool:
    """Whether a result has the type and shape of the right one, whatever its numbers."""
    if isinstance(right, Tensor) and not isinstance(value, Tensor):
        return False
    found, wanted = numbers(value), numbers(right)
    if found is None or wanted is None:
        return value is None or right is None
    return found.shape == wanted.shape


def kind(value: Any) -> str:
    """Describe the type and shape of a result."""
    array = numbers(value)
    shape = "" if array is None or not array.shape else f" of shape {array.shape}"
    return f"`{type(value).__name__}`{shape}"


def contrast(mine: Any, right: Any, given: Mapping[str, Any] | None = None) -> str:
    """Show where two results differ most, and what was given there."""
    if isinstance(mine, Failure):
        return mine[0].lower() + mine[1:]
    found, wanted = numbers(mine), numbers(right)
    if found is None or wanted is None or found.shape != wanted.shape or not wanted.shape:
        return f"yours is {short(mine) or kind(mine)}, the right answer is {short(right)}"
    at = np.unravel_index(np.nan_to_num(abs(found - wanted), nan=np.inf).argmax(), found.shape)
    arrays = {name: numbers(value) for name, value in (given or {}).items()}
    there = [
        f"`{name}` is {short(array[at])}"
        for name, array in arrays.items()
        if array is not None and array.shape == found.shape
    ]
    place = f"entry {[int(i) for i in at]} is {short(found[at])} and should be {short(wanted[at])}"
    return f"{place}, where {' and '.join(there)}" if there else place


def short(value: Any) -> str:
    """Write out a number or a list of numbers with four digits, or None; "" for anything else."""
    array = numbers(value)
    if array is None:
        return "None" if value is None else ""
    text = ", ".join(f"{entry:.4g}" for entry in array.flat)
    return f"[{text}]" if array.shape else text


def fault(result: Tensor, right: Tensor) -> str:
    """Name what is wrong with a tensor of the right values."""
    if result.requires_grad and not right.requires_grad:
        return "the result keeps its graph in memory: `.detach()` it"
    if right.requires_grad and not result.requires_grad:
        return (
            "the loss has lost its graph and cannot be minimised: remove `.detach()` or `no_grad`"
        )
    if result.dtype != right.dtype:
        return f"the result has dtype `{result.dtype}`, not `{right.dtype}`"
    return ""
