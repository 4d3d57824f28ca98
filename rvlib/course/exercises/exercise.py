"""An exercise: what is asked, small cases with known answers, and the mistakes it knows."""

import dis
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from rvlib.course.exercises.sandbox import attempt, sealed
from rvlib.course.exercises.values import contrast, damage, fits, kind, readable, same, short
from rvlib.course.notebook import say

Answer = Callable[..., Any]
"""A function that answers the exercise: the right one, a mistaken one, the student's."""


class Case(NamedTuple):
    """What a function is called with.

    Parameters
    ----------
    arguments : tuple
        In their order.
    trap : str, default=""
        Makes it a special case, looked at once the usual ones are right: what to say to those
        who fall into it.
    """

    arguments: tuple[Any, ...]
    trap: str = ""


class Trial(NamedTuple):
    """One call of the student's function and what became of it.

    Parameters
    ----------
    case : Case
        What it was called with; the arguments as they came back.
    result : object
        What it returned.
    error : str
        One line about its error, "" where there was none.
    """

    case: Case
    result: Any
    error: str


@dataclass(frozen=True)
class Exercise:
    """A function to write, and a check that says what is wrong with it.

    Each known mistake is written down as the function that a student who makes it would hand in:
    a diagnosis is an equality on every usual case, not a guess.

    Parameters
    ----------
    signature : str
        How the function is called: ``my_fgsm(model, x, y, eps)``.
    task : str
        What to do, for those who have not begun.
    cases : callable
        Makes the cases, each time anew and each time the same: a function may spoil its arguments.
    rights : sequence of callable
        Right answers; the first is the one that others are compared with.
    mistakes : mapping of str to sequence of callable
        What to say of a mistake, and the ways of making it; the first that fits is told.
    fact : str
        Something worth knowing, for those who got it right.
    look : callable, default=None
        What to compare of the list of results, by name; by default each result itself.
    tolerance : float, default=1e-5
        Largest difference, absolute and relative, of answers that count as equal.
    """

    signature: str
    task: str
    cases: Callable[[], list[Case]]
    rights: Sequence[Answer]
    mistakes: Mapping[str, Sequence[Answer]]
    fact: str
    look: Callable[[list[Any]], Mapping[str, Any]] | None = None
    tolerance: float = 1e-5

    def check(self, student: Any) -> None:
        """Show the verdict on a student's function.

        Parameters
        ----------
        student : callable
            The function; whatever it does, nothing is raised.
        """
        say(self.verdict(student))

    def verdict(self, student: Any) -> str:
        """Say what is wrong with a student's function, or that it is right.

        Parameters
        ----------
        student : callable
            The function.

        Returns
        -------
        str
            Markdown that begins with **Not yet.**, **Almost.** or **Right.**
        """
        if not callable(student):
            return f"**Not yet.** Hand in the function itself, `{self._name}`, without calling it."
        with sealed():
            trials = self._trials(student)
            if wrong := self._wrong(student, [t for t in trials if not t.case.trap]):
                return f"**Not yet.** {wrong}"
            if wrong := self._trapped([t for t in trials if t.case.trap]):
                return f"**Almost.** {wrong}"
            if wrong := self._careless(trials):
                return f"**Almost.** The values are right, but one thing is not. {wrong}"
            return f"**Right.** {self.fact}"

    @property
    def _name(self) -> str:
        return self.signature.partition("(")[0]

    @property
    def _names(self) -> list[str]:
        return self.signature.partition("(")[2].rstrip(")").split(", ")

    def _trials(self, student: Answer) -> list[Trial]:
        """Call a student's function case by case, until one goes wrong."""
        trials: list[Trial] = []
        for case in self.cases():
            trials.append(Trial(case, *attempt(student, case.arguments, self.signature)))
            if trials[-1].error:
                break
        return trials

    def _wrong(self, student: Answer, trials: list[Trial]) -> str:
        """Say what is wrong in the usual cases, "" if nothing is."""
        results = [trial.result for trial in trials]
        if error := next((trial.error for trial in trials if trial.error), ""):
            return f"Your function stops with {error}."
        if all(result is None for result in results):
            if _does_nothing(student):
                return f"Fill in `{self.signature}`: {self.task}"
            return f"`{self._name}` returns nothing: is a `return` missing?"
        if any(self._alike(results, answer) for answer in self.rights):
            return ""
        for words, answers in self.mistakes.items():
            if any(self._alike(results, answer) for answer in answers):
                return words
        return self._unlike(results)

    def _alike(self, results: list[Any], answer: Answer) -> bool:
        """Whether a function of ours gives the student's results."""
        others = _results(self.cases, answer)
        if not all(map(fits, results, others)):
            return False
        pairs = zip(self._seen(results), self._seen(others), strict=True)
        return all(same(mine, theirs, self.tolerance) for mine, theirs in pairs)

    def _seen(self, results: list[Any]) -> list[Any]:
        """Pick what is compared."""
        return list(self.look(results).values()) if self.look else results

    def _given(self, case: Case) -> str:
        """Name the arguments that are short enough to be read."""
        pairs = zip(self._names, case.arguments, strict=True)
        shown = [f"{name} = {short(value)}" for name, value in pairs if readable(value)]
        return f"With `{', '.join(shown)}`" if shown else "In the check's example"

    def _unlike(self, results: list[Any]) -> str:
        """Say where results differ from the right ones: no known mistake explains them."""
        rights = _results(self.cases, self.rights[0])
        for result, right in zip(results, rights, strict=True):
            if not fits(result, right):
                return f"`{self._name}` returns {kind(result)}, not {kind(right)}."
        if self.look:
            places: list[str] = list(self.look(rights))
        else:
            places = [self._given(case) for case in self.cases() if not case.trap]
        seen = zip(places, self._seen(results), self._seen(rights), strict=True)
        place, mine, right = next(each for each in seen if not same(*each[1:], self.tolerance))
        return f"{place} {contrast(mine, right)}."

    def _trapped(self, trials: list[Trial]) -> str:
        """Say which special case is wrong, "" if none is."""
        cases = [case for case in self.cases() if case.trap]
        for trial, case in zip(trials, cases, strict=False):
            if trial.error:
                return f"{case.trap} Your function stops with {trial.error}."
            right = self.rights[0](*case.arguments)
            if not same(trial.result, right, self.tolerance):
                return f"{case.trap} {self._given(case)} {contrast(trial.result, right)}."
        return ""

    def _careless(self, trials: list[Trial]) -> str:
        """Say what a function with right values does besides returning them, "" if nothing."""
        for trial, case in zip(trials, self.cases(), strict=True):
            # First of all the copy of the arguments: the right answer may use them up.
            given = zip(self._names, case.arguments, trial.case.arguments, strict=True)
            if harm := next(filter(None, (damage(*each) for each in given)), ""):
                return harm
            if harm := _graph(trial.result, self.rights[0](*case.arguments)):
                return harm
        return ""


@cache
def _results(cases: Callable[[], list[Case]], answer: Answer) -> list[Any]:
    """Call a function of ours in the usual cases, once for all: they never change."""
    return [answer(*case.arguments) for case in cases() if not case.trap]


def _does_nothing(student: Answer) -> bool:
    """Whether the body is empty, or `...`, or `pass`: resume, load None, return it."""
    code = getattr(inspect.unwrap(student), "__code__", None)
    return code is not None and len(list(dis.get_instructions(code))) <= 3


def _graph(result: Any, right: Any) -> str:
    """Say whether a result hangs on a graph that it should be free of, or the reverse."""
    if not isinstance(result, Tensor) or not isinstance(right, Tensor):
        return ""
    if result.requires_grad and not right.requires_grad:
        return (
            "The result still hangs on the graph of its gradient, which it keeps in memory: "
            "`.detach()` it."
        )
    if right.requires_grad and not result.requires_grad:
        return (
            "The result has lost its graph, so nothing can be learned from it: no `.detach()`, no "
            "`torch.no_grad()`."
        )
    return ""
