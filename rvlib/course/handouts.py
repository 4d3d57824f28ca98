"""Handouts, all from the notebooks: for students, solved, and for nbgrader."""

import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from rvlib.course.exercises import NOTEBOOKS
from rvlib.course.exercises.exercise import Check
from rvlib.course.grading import points_at_most

EMPTY = "    ...\n"
"""The line of an exercise's cell that a student replaces."""

TESTS = """from rvlib.course.grading import nbgrader_points

### BEGIN HIDDEN TESTS
nbgrader_points("{}", In)
### END HIDDEN TESTS"""
"""A cell of nbgrader that grades the function of this name."""

NBGRADER_CONFIG = """c = get_config()
c.CourseDirectory.course_id = "rvlib"
c.Execute.timeout = 600  # seconds: the first cell that grades loads PyTorch
c.Execute.iopub_timeout = 120
"""


def write_handouts(root: Path, out: Path) -> list[Path]:
    """Write every notebook three times.

    Parameters
    ----------
    root : Path
        The checkout: its notebooks, and the tasks in ``docs/teaching``.
    out : Path
        Its folders ``student``, ``solution`` and ``nbgrader`` are written anew: the notebooks with
        empty exercises; with those solved, and what the check says to that; and an nbgrader course
        whose assignments are the exercises alone, so that grading runs nothing else.

    Returns
    -------
    list of Path
        The three folders.
    """
    folders = [out / name for name in ("student", "solution", "nbgrader")]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    sources = [*root.glob("notebooks/*.ipynb"), *root.glob("docs/teaching/*.ipynb")]
    for stem, checks in NOTEBOOKS.items():
        (path,) = (p for p in sources if p.stem == stem)
        makers = {"student": student_version, "solution": solution_version}
        for place, make in (makers | {f"nbgrader/source/{stem}": assignment}).items():
            (out / place).mkdir(parents=True, exist_ok=True)
            nbformat.write(make(nbformat.read(path, 4), checks), out / place / path.name)
    (folders[2] / "nbgrader_config.py").write_text(NBGRADER_CONFIG)
    return folders


def exercise_in(cell: nbformat.NotebookNode, checks: Sequence[Check]) -> Check | None:
    """Find the exercise whose function a cell of code defines."""
    source = cell.source if cell.cell_type == "code" else ""
    return next((check for check in checks if f"def {check.name}(" in source), None)


def solved(source: str, check: Check) -> str:
    """Put the body of the check's own right answer into an exercise's cell."""
    answer = inspect.getsource(check.answers[0])
    body = answer.partition("\n")[2]
    if source.count(EMPTY) != 1:
        raise ValueError(f"the cell of {check.name} has no line `...`: nothing to solve")
    return source.replace(EMPTY, body)


def student_version(
    notebook: nbformat.NotebookNode, checks: Sequence[Check]
) -> nbformat.NotebookNode:
    """Leave the exercises empty, without what a check said to the empty function."""
    for cell in notebook.cells:
        if exercise_in(cell, checks):
            cell.outputs, cell.execution_count = [], None
    return notebook


def solution_version(
    notebook: nbformat.NotebookNode, checks: Sequence[Check]
) -> nbformat.NotebookNode:
    """Solve the exercises; their outputs are what the checks say."""
    for cell in notebook.cells:
        if check := exercise_in(cell, checks):
            cell.source = solved(cell.source, check)
            said = check.verdict(check.answers[0])
            data = {"text/markdown": said, "text/plain": said}
            cell.outputs = [new_output("display_data", data)]
    return notebook


def assignment(notebook: nbformat.NotebookNode, checks: Sequence[Check]) -> nbformat.NotebookNode:
    """Take the exercises alone, with nbgrader's marks: what a student writes, what is graded."""
    cells = [notebook.cells[0]]
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if check := exercise_in(cell, checks):
            marked = f"    ### BEGIN SOLUTION\n{EMPTY}    ### END SOLUTION\n"
            function = cell.source.partition("\n\n\n")[0] + "\n"
            function = solved(function.replace(EMPTY, marked), check)
            tests = TESTS.format(check.name)
            answer = _marks(check.name, grade=False)
            graded = _marks(f"test_{check.name}", grade=True, points=points_at_most(1))
            cells += [before, new_code_cell(function.rstrip(), metadata=answer)]
            cells += [new_code_cell(tests, metadata=graded)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"
    return new_notebook(cells=cells, metadata={"kernelspec": notebook.metadata.kernelspec})


def _marks(name: str, grade: bool, **points: int) -> dict[str, dict[str, object]]:
    marks = {"grade_id": name, "grade": grade, "solution": not grade, "locked": grade, **points}
    return {"nbgrader": {**marks, "task": False, "schema_version": 3}}
