"""``make handouts-check``: hand out, hand in and grade assignments with nbgrader itself.

``python -m tests.nbgrader_check FOLDER``, the folder with the programs of nbgrader's environment.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from ipykernel.kernelspec import write_kernel_spec

from rvlib.course.handouts import write_handouts
from rvlib.pipeline import repository

ASSIGNMENT = "05_certification"
BOUND = "def my_lower_bound(k, n, alpha):\n    "
SUBMITTED = {
    "right": (None, 4),
    "share": (f"{BOUND}return k / n", 2),
    "loops": (f"{BOUND}raise SystemExit", 2),
    "empty": ("", 0),
}
"""By student: the first function (None: the solution), and the points that are due."""


def main(programs: Path) -> None:
    """Fail unless every student gets the points that are due, and sees no solution."""
    with tempfile.TemporaryDirectory(prefix="nbgrader-") as scratch:
        course = write_handouts(repository(), Path(scratch))[2]
        nbgrader = [str(programs / "nbgrader")]
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic
        environment = os.environ | {"PATH": path, "JUPYTER_PATH": str(kernel(Path(scratch)))}

        def run(*words: str) -> None:
            done = subprocess.run(
                [*nbgrader, *words], cwd=course, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"nbgrader {' '.join(words)}:\n{done.stderr[-3000:]}")

        run("generate_assignment", ASSIGNMENT)
        file = Path(ASSIGNMENT, f"{ASSIGNMENT}.ipynb")
        released = (course / "release" / file).read_text()
        for secret in ("SOLUTION", "HIDDEN", "nbgrader_points(", "norm.ppf(p)"):
            assert secret not in released, f"students see {secret!r}"
        solved = nbformat.read(course / "source" / file, 4)
        for student, (first, _) in SUBMITTED.items():
            notebook = nbformat.reads(released, 4)
            if first != "":
                fill(notebook, solved, first)
            target = course / "submitted" / student / file
            target.parent.mkdir(parents=True)
            nbformat.write(notebook, target)
        run("autograde", ASSIGNMENT)
        run("export", "--to=grades.csv")
        with (course / "grades.csv").open() as lines:
            scores = {line["student_id"]: float(line["score"]) for line in csv.DictReader(lines)}
    due = {student: points for student, (_, points) in SUBMITTED.items()}
    assert scores == due, f"nbgrader gives {scores}, due are {due}"
    print(f"nbgrader grades {ASSIGNMENT} as it should: {scores}")


def fill(notebook: nbformat.NotebookNode, solved: nbformat.NotebookNode, first: str | None) -> None:
    """Write answers into the cells that a student may change."""
    answers = {c.metadata.nbgrader.grade_id: c.source for c in cells_of(solved)}
    if first is not None:
        answers["my_lower_bound"] = first
    for cell in cells_of(notebook):
        if cell.metadata.nbgrader.solution:
            cell.source = answers[cell.metadata.nbgrader.grade_id]


def cells_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Cells with nbgrader's marks."""
    return [cell for cell in notebook.cells if "nbgrader" in cell.metadata]


def kernel(scratch: Path) -> Path:
    """Name this environment, which has rvlib, as the kernel python3."""
    write_kernel_spec(scratch / "jupyter" / "kernels" / "python3")
    return scratch / "jupyter"


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
