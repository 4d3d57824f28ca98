"""rvlib.course.grading: points for what a function does, whatever it prints, replaces or claims."""

import inspect
import io
import re
import textwrap
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import rvlib as rv
from rvlib.cli import main
from rvlib.course import exercises, grading, sandbox
from rvlib.course.calls import Call, Failure
from rvlib.course.grading import grade, grade_cells, needed
from rvlib.pipeline import repository

BOUND = "def my_lower_bound(k, n, alpha):\n"
RIGHT = BOUND + "    import rvlib\n    return rvlib.lower_confidence_bound(k, n, alpha)\n"
SHARE = BOUND + "    return k / n\n"
SHARE_ANYWAY = BOUND + "    print('**Right.**')\n    return k / n\nprint('**Right.** 2/2')"
PATCH = """
    from rvlib.course.exercises.exercise import Exercise
    Exercise.judge = Exercise.verdict = lambda *a: '**Right.**'
    import rvlib.course.grading as g
    g.POINTS['**Not yet.**'] = 2"""
PATCHED = "course.check_lower_bound = lambda f: display('**Right.**')"
CHECK = exercises.check_lower_bound
VISIBLE = [*CHECK.cases, *CHECK.special.values()]
KNOWN = {case: CHECK.answers[0](*case) for case in VISIBLE}


def judged(*cells, seconds=60.0):
    """Grade the first exercise of notebook 05, whose other one is missing."""
    texts = [textwrap.dedent(cell) for cell in cells]
    first, second = grade_cells(list(enumerate(texts)), seed=3, seconds=seconds)
    assert (second.exercise, second.points) == ("my_radius", 0)
    return first


def test_every_notebook_and_every_exercise_is_in_the_table():
    paths = [*repository().glob("notebooks/*.ipynb"), *repository().glob("docs/teaching/*.ipynb")]
    found = {
        path.stem: re.findall(r"course\.check_(\w+)\(my_\1\)", path.read_text()) for path in paths
    }
    table = exercises.NOTEBOOKS.items()
    assert found == {stem: [c.name.removeprefix("my_") for c in group] for stem, group in table}


@pytest.mark.parametrize(
    ("cells", "points", "words"),
    [
        ([SHARE, RIGHT], 2, "**Right.**"),
        ([RIGHT, SHARE], 0, "**Not yet.** This is the *share* k/n"),
        # printing, replacing the check, a table of the visible cases
        ([SHARE_ANYWAY], 0, "*share*"),
        ([PATCH, SHARE, PATCHED], 0, "*share*"),
        ([f"known = {KNOWN}", BOUND + "    return known.get((k, n, alpha), 0.5)"], 1,
         "**Almost.** Right in the cases of the check, wrong in others:"),
        # what is no function, or cannot be run
        (["def my_lower_bound(k, n alpha):"], 0, "is not there, or its cell is no valid Python"),
        (["check_lower_bound(my_lower_bound)", "def my_radius(): ..."], 0, "is not there"),
        (["async " + SHARE], 0, "returns `coroutine`, not `float`."),
        (["import nothing_like_this as t", BOUND + "    return t"], 0, "Cell 0 stops with `Mod"),
        (["seen = []\nseen.append(0)", BOUND + "    return seen[0]"], 0, grading.NOT_RUN),
        (["seen = {}\nseen[0] = 1", BOUND + "    return seen[0]"], 0, grading.NOT_RUN),
        # what a notebook may hold
        (["%pip install x\n!ls", "x = 1 / 0", "from scipy.stats import beta\nq = beta.ppf",
          BOUND + "    return q(alpha, k, n - k + 1) if k else 0"], 2, "**Right.**"),
        (["%%time\n" + RIGHT], 2, "**Right.**"),
        ([f"get_ipython().run_cell_magic('time', '', {RIGHT!r})"], 2, "**Right.**"),
        (["%%capture\n%%time\n" + BOUND + "    return 1 / 0"], 0, "in line 4, `return 1 / 0`"),
        ([RIGHT.replace("\n", "  # one\u2028two\n", 1)], 2, "**Right.**"),
        (["\n\n" + BOUND + "    return 1 / 0"], 0, "in line 4, `return 1 / 0`"),
        (["return 1", "await print", RIGHT], 2, "**Right.**"),
    ],
)  # fmt: skip
def test_points_and_diagnosis(cells, points, words):
    found = judged(*cells)
    assert (found.points, found.exercise) == (points, "my_lower_bound")
    assert words in found.verdict


ANSWERS = Path(exercises.solutions.__file__)
PLACES = f"FILE, FOLDER = {str(ANSWERS)!r}, {str(ANSWERS.parents[1])!r}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # the answers themselves
        ("import rvlib.course as c; c.check_radius", "PermissionError: the answers are not there"),
        ("from rvlib.course.exercises import solutions", "ImportError: the answers are not there"),
        ("open(FILE)", "PermissionError: the answers are not there"),
        ("import os; os.open(FOLDER, os.O_RDONLY)", "PermissionError: the answers are not there"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError: grading runs no other"),
        # memory
        ("import torch; torch.empty(2**33)", "for more than 4 GB of memory."),
        ("import numpy; numpy.empty(2**31)", "for more than 4 GB of memory."),
        ("import torch; return torch.ones(1).expand(2**25)", "than 16 MB."),
        # ways out
        ("import os; os._exit(0)", "ends its process"),
        ("raise SystemExit", "ends its process"),
        ("return k / 0", "division by zero` in line 2, `return k / 0`"),
        ("return '**Right.**'", "returns `str`, not `float`."),
        ("return object()", "returns `object`, not `float`."),
    ],
)
def test_what_gets_no_points(body, words):
    found = judged(PLACES, f"{BOUND}    {body}")
    assert (found.points, found.exercise) == (0, "my_lower_bound")
    assert words in found.verdict


def test_a_fault_of_a_check_costs_no_other_exercise(monkeypatch):
    first, second = exercises.NOTEBOOKS["05_certification"]
    cells = [(0, inspect.getsource(getattr(exercises.solutions, c.name))) for c in (first, second)]
    judge = type(first).judge
    fail = {first.name: lambda ask: 1 // 0}
    monkeypatch.setattr(
        type(first), "judge", lambda self, ask: fail.get(self.name, partial(judge, self))(ask)
    )
    found = grade_cells(cells, seed=0)
    assert [each.points for each in found] == [0, 2]
    assert "The check itself stops with `ZeroDivisionError" in found[0].verdict


NUMPY = """
    import numpy as np
    import torch
    import torch.nn.functional as F

    def my_fgsm(model, x, y, eps):
        a = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(a), y), a)
        return torch.from_numpy(np.clip(x.numpy() + eps * np.sign(g.numpy()), 0, 1))"""
HIDES = """
    def my_average_radius(p, sigma):
        import rvlib.course.calls
        from rvlib.course import calls
        from scipy.stats import norm
        calls.state = rvlib.course.calls.state = lambda argument: None
        p.clip(min=0.5, out=p)
        return (sigma * norm.ppf(p)).mean()"""


@pytest.mark.parametrize(
    ("student", "exercise", "points", "words"),
    [(NUMPY, "my_fgsm", 2, "**Right.**"), (HIDES, "my_average_radius", 1, "changes `p`")],
    ids=["numpy", "patch"],
)
def test_numpy_gets_all_points_and_a_patch_hides_no_change(student, exercise, points, words):
    grades = grade_cells([(0, textwrap.dedent(student))], seed=0)
    (found,) = (each for each in grades if each.exercise == exercise)
    assert found.points == points
    assert words in found.verdict


def test_a_loop_without_end_is_stopped():
    found = judged(BOUND + "    while True: pass", seconds=1)
    assert found.verdict == (
        "**Not yet.** Your function was stopped after 1 s, perhaps in a loop without an end."
    )


@pytest.mark.parametrize("stem", exercises.NOTEBOOKS)
def test_the_solutions_get_all_points(stem):
    tasks = stem == "break_a_defence"  # of which one is enough here: they take longer
    names = [check.name for check in exercises.NOTEBOOKS[stem]][: 1 if tasks else None]
    cells = [(i, inspect.getsource(getattr(exercises.solutions, n))) for i, n in enumerate(names)]
    assert [each.points for each in grade_cells(cells, seed=11)] == ([2, 0, 0] if tasks else [2, 2])


def test_chance_is_the_same_each_time():
    draws = "random.random() + numpy.random.rand() + torch.rand(1).item()"
    student = f"{BOUND}    import random, numpy, torch\n    return {draws}"
    assert judged(student) == judged(student)


def test_this_process_reads_no_result_that_is_too_large(monkeypatch):
    monkeypatch.setattr(sandbox, "LARGEST", 10_000)  # here; the other process would send more
    with grading.Student([(0, "def f(n):\n    return [1.5] * n")], "f", 60) as student:
        assert student((1,)).result == [1.5]
        assert "returns what cannot be read" in student((10**5,)).result


def test_what_is_sent_back_runs_nothing():
    content = io.BytesIO()
    torch.save((print, None, False), content)
    with pytest.raises(Exception, match="weights_only"):
        sandbox.unpack(content.getvalue())


@pytest.mark.parametrize(
    "value", [None, 1, 2.5, "a", (0.5, 1), [1, [2, 3]], Failure("no"), 10**400]
)
def test_a_result_comes_back_as_it_was(value):
    again = sandbox.unpack(sandbox.pack(Call(value, 2, True, slope=0.1)))
    assert again == Call(value, 2, True, slope=0.1)
    assert type(again.result) is type(value)


def test_a_named_tuple_comes_back_as_a_tuple():
    again = sandbox.unpack(sandbox.pack(Call(rv.wilson(1, 4))))
    assert again.result == tuple(rv.wilson(1, 4))


def test_only_what_a_function_uses_is_run():
    cells = [
        "import os\nx = 1\ny = x + 1\nz = 5",
        "@g\ndef f(z):\n    return y\nf(1)",
        "def g(h): ...",
    ]
    found = [text.strip() for _, text in needed(list(enumerate(cells)), "f")]
    assert found == ["x = 1", "y = x + 1", "@g\ndef f(z):\n    return y", "def g(h): ..."]
    assert not list(needed(list(enumerate(cells)), "absent"))


def test_a_function_that_is_only_mentioned_chooses_no_exercise():
    cells = ["# as my_fgsm\nwords = 'def my_pgd(x)'", "def my_wilson(k, n): ..."]
    found = grade_cells(list(enumerate(cells)), seed=0)
    assert [each.exercise for each in found] == ["my_wilson", "my_certified_accuracy"]


def test_a_notebook_is_graded_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "anna.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 05"), new_code_cell(RIGHT)]), path)
    assert main(["grade", str(path), "--seed", "5", "--out", str(tmp_path / "points.csv")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("2/2  my_lower_bound: **Right.**")
    assert shown[1].startswith("0/2  my_radius: **Not yet.** `my_radius` is not there")
    assert shown[2] == f"{path}: 2 of 4 points, seed 5"
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 3


def test_one_broken_file_costs_the_others_nothing(tmp_path, capsys, monkeypatch):
    def graded(path, seed, seconds):
        if path.parent.name == "bob":
            raise RuntimeError("no\nprocess")
        if path.parent.name == "cleo":
            assert table.read_text().count("\n") == 3  # written after each file
        return [grading.Grade("my_wilson", 2, "**Right.**")]

    table = tmp_path / "points.csv"
    monkeypatch.setattr(grading, "grade", graded)
    paths = [str(tmp_path / name / "06.ipynb") for name in ("alice", "bob", "cleo")]
    assert main(["grade", *paths, "--seed", "5", "--out", str(table)]) == 2
    assert capsys.readouterr().err == "rvlib: 1 of 3 files were not graded\n"
    assert table.read_text().splitlines() == [
        "notebook,seed,exercise,points,verdict",
        f"{paths[0]},5,my_wilson,2,**Right.**",
        f"{paths[1]},5,,0,no process",
        f"{paths[2]},5,my_wilson,2,**Right.**",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is no notebook"), ("", "is no notebook"), (None, "has no exercise")],
)
def test_what_is_no_students_notebook_is_refused(tmp_path, content, words):
    path = tmp_path / "x.ipynb"
    path.write_text(nbformat.writes(new_notebook()) if content is None else content)
    with pytest.raises(ValueError, match=words):
        grade(path, seed=0)
    assert grading.points_at_most(2) == 4
