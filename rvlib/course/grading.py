"""Grade a notebook: its functions run in a process of their own and are judged in this one.

A student's code never meets the check. It gets arguments and sends results back, so what it
prints, and what it replaces in its own process, changes no result here; that it changed an argument
is noticed in that process. It can neither import nor open the answers in Python. What is not
prevented: a function that calls the library's own attack is right, as it is in the notebook, and
code that is out to do harm can read past Python, hide what it changed, and harm the account that
grades it.
"""

import ast
import dis
import multiprocessing
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from rvlib.course import sandbox
from rvlib.course.calls import Call, Failure
from rvlib.course.exercises import NOTEBOOKS
from rvlib.course.exercises.exercise import Check

POINTS = {"**Right.**": 2, "**Almost.**": 1, "**Not yet.**": 0}
"""By the first words of a verdict."""
NOT_RUN = (
    "If it relies on a call that stands alone, such as `seen.append(1)`, or on an assignment to an "
    "entry, such as `seen[0] = 1`: grading runs neither, so move it into the function."
)
"""What is said with an error that may come of it."""
STARTING_S = 300
"""Seconds until the other process has loaded PyTorch, at most."""


def points_at_most(exercises: int) -> int:
    """Points of so many exercises."""
    return exercises * max(POINTS.values())


class Grade(NamedTuple):
    """What one exercise is worth.

    Parameters
    ----------
    exercise : str
        Name of its function.
    points : int
        Out of 2.
    verdict : str
        The diagnosis.
    """

    exercise: str
    points: int
    verdict: str


def grade(path: Path, seed: int, seconds: float = 60) -> list[Grade]:
    """Grade the exercises of a notebook.

    Parameters
    ----------
    path : Path
        The student's notebook. Of its cells only the functions of the exercises run, and the
        imports, functions and assignments whose names they use.
    seed : int
        Of the cases that the notebook's own check does not have.
    seconds : float, default=60
        Time for an exercise.

    Returns
    -------
    list of Grade
        One an exercise, also for those that are missing.

    Raises
    ------
    ValueError
        If this is no notebook, or has no exercise.
    """
    try:
        notebook = nbformat.read(path, 4)
    except Exception:
        raise ValueError(f"{path} is no notebook: give the .ipynb file of a student") from None
    cells = [(i, c.source) for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
    grades = grade_cells(cells, seed, seconds)
    if not grades:
        raise ValueError(f"{path} has no exercise of the course, such as my_fgsm")
    return grades


def grade_cells(cells: list[tuple[int, str]], seed: int, seconds: float = 60) -> list[Grade]:
    """Grade the exercises in the code of some cells: as `grade`, by number and text."""
    defined = set().union(*(_defined(*cell) for cell in cells))
    groups = [group for group in NOTEBOOKS.values() if any(each.name in defined for each in group)]
    return [_grade(exercise, cells, seed, seconds) for group in groups for exercise in group]


def nbgrader_points(name: str, history: list[str]) -> int:
    """Grade one exercise in a hidden cell of nbgrader, from the cells that ran before.

    Parameters
    ----------
    name : str
        Of the function.
    history : list of str
        The kernel's ``In``.

    Returns
    -------
    int
        Points, which nbgrader reads from the cell's output. The diagnosis is printed, too.
        The student's code has run in this kernel: ``rvlib grade`` on the submitted notebook is
        what cannot be fooled.
    """
    (found,) = (g for g in grade_cells(list(enumerate(history)), seed=0) if g.exercise == name)
    print(found.verdict)
    return found.points


def _grade(exercise: Check, cells: list[tuple[int, str]], seed: int, seconds: float) -> Grade:
    code = list(needed(cells, exercise.name))
    if not code:
        verdict = f"**Not yet.** `{exercise.name}` is not there, or its cell is no valid Python."
        return Grade(exercise.name, 0, verdict)
    try:
        verdict = _judged(exercise, code, seed, seconds)
    except Exception as error:  # of the check: it must not cost the other exercises their points
        told = " ".join(f"{type(error).__name__}: {error}".split())
        verdict = f"**Not yet.** The check itself stops with `{told}`: look at the function."
    if re.search("stops with `(NameError|KeyError|IndexError)", verdict):
        verdict += f" {NOT_RUN}"
    points = next(p for words, p in POINTS.items() if verdict.startswith(words))
    return Grade(exercise.name, points, verdict)


def _judged(exercise: Check, code: sandbox.Code, seed: int, seconds: float) -> str:
    with Student(code, exercise.name, seconds) as student:
        verdict = exercise.judge(student)
        if verdict.startswith("**Right.**"):
            more = exercise.judge_more(student, seed)
            if not more.startswith("**Right.**"):
                told = more.partition("** ")[2]
                verdict = f"**Almost.** Right in the cases of the check, wrong in others: {told}"
    return verdict


class Student:
    """Calls a student's function in another process, which it ends.

    Parameters
    ----------
    code : sequence of tuple of int and str
        As `sandbox.serve`.
    name : str
        The function.
    seconds : float
        Time for all calls together.
    """

    def __init__(self, code: sandbox.Code, name: str, seconds: float) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=sandbox.serve, args=(theirs, code, name), daemon=True
        )
        self._seconds, self._end, self._failure = seconds, 0.0, ""
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Student":
        """Wait until the other process is there; the time for calls begins."""
        if not self._connection.poll(STARTING_S):
            raise RuntimeError("the process for the student's code did not start")
        self._connection.recv_bytes()
        self._end = time.monotonic() + self._seconds
        return self

    def __exit__(self, *exception: object) -> None:
        """End the other process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def __call__(self, case: tuple[Any, ...]) -> Call:
        """Call the function; once it has hung or ended its process, every call fails."""
        if not self._failure:
            try:
                self._connection.send_bytes(pickle.dumps(case))
                if self._connection.poll(max(0, self._end - time.monotonic())):
                    return sandbox.unpack(self._connection.recv_bytes(sandbox.LARGEST))
                self._failure = (
                    f"Your function was stopped after {self._seconds:g} s, perhaps in a loop "
                    "without an end"
                )
            except (EOFError, ConnectionError):
                self._failure = "Your function ends its process"
            except Exception:
                self._failure = "Your function returns what cannot be read: return numbers"
        return Call(Failure(self._failure))


def _context() -> Any:
    """Start processes from one that has loaded PyTorch, once for all, where that exists."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([sandbox.__name__, "rvlib.course.examples", "scipy.stats"])
    return context


def needed(cells: list[tuple[int, str]], name: str) -> Iterator[tuple[int, str]]:
    """Find the statements that define a name, and those whose names these use.

    Parameters
    ----------
    cells : list of tuple of int and str
        Number and text of code cells. One that is no valid Python is left out.
    name : str
        Of a function.

    Yields
    ------
    tuple of int and str
        Number of the cell and text of the statement, below as many empty lines as it has above.
    """
    found = [each for number, text in cells for each in _statements(number, text)]
    wanted = {name}
    while more := set().union(*(s.uses for s in found if s.binds & wanted)) - wanted:
        wanted |= more
    if any(name in s.binds for s in found):
        yield from ((s.cell, s.text) for s in found if s.binds & wanted or "*" in s.binds)


class _Statement(NamedTuple):
    cell: int
    text: str
    binds: set[str]
    uses: set[str]


def _statements(cell: int, text: str) -> Iterator[_Statement]:
    """Take a cell apart; a call alone, such as that of a check, binds no name and never runs."""
    text = re.sub("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "", text)  # no ends of lines to Python
    above = re.match(r"(\s*\n)?", text)[0].count("\n")  # type: ignore[index]  # may be empty
    # Magics and shell lines become calls.
    source = "\n" * above + TransformerManager().transform_cell(text)
    try:
        tree = ast.parse(source)
        compile(source, "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return
    match tree.body:
        case [ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [_, _, ast.Constant(rest)]))]:
            # %%time or another, and the rest of the cell below its line
            yield from _statements(cell, "\n" * tree.body[0].lineno + str(rest))
            return
    lines = source.splitlines()
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        first = min(n.lineno for n in (node, *decorators)) - 1
        part = "\n" * first + "\n".join(lines[first : node.end_lineno])
        code = compile(ast.Module([node], []), "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        yield _Statement(cell, part, _bound(node), _globals(code))


def _defined(cell: int, text: str) -> set[str]:
    """Names that a cell binds, or begins to define where it is no valid Python."""
    begun = re.findall(r"^def (\w+)", text, re.M)
    return {*begun}.union(*(statement.binds for statement in _statements(cell, text)))


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    inside = [*ast.walk(node)]
    aliases = {a.asname or a.name.split(".")[0] for a in inside if isinstance(a, ast.alias)}
    names = (n for n in inside if isinstance(n, ast.Name))
    return aliases | {n.id for n in names if isinstance(n.ctx, ast.Store)}


def _globals(code: CodeType) -> set[str]:
    """Names that code looks up outside of itself, when it runs or when its functions do."""
    lookups = {"LOAD_GLOBAL", "LOAD_NAME"}
    own = {i.argval for i in dis.get_instructions(code) if i.opname in lookups}
    return own.union(*(_globals(c) for c in code.co_consts if isinstance(c, CodeType)))
