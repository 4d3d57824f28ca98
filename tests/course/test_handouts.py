"""rvlib.course.handouts and the tasks: empty, solved and graded versions of one source."""

import re
from functools import partial

import nbformat
import pytest
import torch
from torch import Tensor

import rvlib as rv
from rvlib.course import exercises
from rvlib.course.calls import Call, observe
from rvlib.course.grading import grade
from rvlib.course.handouts import solved, write_handouts
from rvlib.pipeline import repository

TASKS = exercises.NOTEBOOKS["break_a_defence"]


@pytest.fixture(scope="module")
def handouts(tmp_path_factory):
    return write_handouts(repository(), tmp_path_factory.mktemp("handouts"))


def code(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_a_student_gets_nothing_of_the_solution(handouts):
    for path in handouts[0].glob("*.ipynb"):
        source = (*repository().glob(f"**/{path.name}"),)[0]
        assert [c.source for c in code(path)] == [c.source for c in code(source)]
        empty = [c for c in code(path) if c.source.count("    ...\n")]
        assert len(empty) == len(exercises.NOTEBOOKS[path.stem])
        assert not any(cell.outputs for cell in empty)


def test_a_solution_is_what_the_check_accepts(handouts):
    for path in handouts[1].glob("*.ipynb"):
        checked = [cell for cell in code(path) if "course.check_" in cell.source]
        said = [output.data["text/markdown"] for cell in checked for output in cell.outputs]
        assert len(said) == len(exercises.NOTEBOOKS[path.stem])
        assert all(text.startswith("**Right.**") for text in said)
        assert not any("    ...\n" in cell.source for cell in code(path))


def test_handouts_are_graded_as_they_should_be(handouts):
    student, solution = (folder / "04_randomized_smoothing.ipynb" for folder in handouts[:2])
    assert [each.points for each in grade(solution, seed=2)] == [2, 2]
    empty = grade(student, seed=2)
    assert [each.points for each in empty] == [0, 0]
    assert "returns None" in empty[0].verdict


def test_an_assignment_marks_what_is_written_and_what_is_graded(handouts):
    (path,) = handouts[2].glob("source/01_fgsm/*.ipynb")
    marks = [cell.metadata.nbgrader for cell in code(path)]
    written, graded = (False, True, None), (True, False, 2)
    found = [(m.grade, m.solution, m.get("points")) for m in marks]
    assert found == [written, graded] * 2
    assert "### BEGIN SOLUTION\n    import torch\n" in code(path)[0].source


def test_a_cell_without_a_place_for_the_solution_is_named():
    with pytest.raises(ValueError, match="cell of my_vote has no line"):
        solved("def my_vote(counts, alpha): return 1", exercises.check_vote)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_not_solved_by_plain_pgd(task):
    wrong = task.verdict(lambda model, x, y, eps: rv.pgd(model, x, y, rv.Linf(eps)))
    assert wrong.startswith("**Not yet.** ")
    assert wrong.endswith(task.hint)


def test_one_step_does_not_break_the_masked_gradient():
    def attack(model, x, y, eps):
        return rv.fgsm(model.network, x, y, rv.Linf(eps))

    verdicts = [TASKS[0].verdict(attack), TASKS[0].judge_more(partial(observe, attack), 0)]
    assert all(text.startswith("**Not yet.** ") for text in verdicts)
    assert "of 128 images" in verdicts[1]


def test_plain_pgd_is_the_same_each_time_and_helps_nothing_to_stand():
    told = [TASKS[k].verdict(lambda model, x, y, eps: x) for k in (0, 1, 1)]
    torch.manual_seed(7)
    assert told[1] == told[2] == TASKS[1].verdict(lambda model, x, y, eps: x)
    clean, plain = re.findall("(?:attack|PGD) ([0-9.]+) %", told[0])
    assert clean == plain  # no gradient, no step


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda model, x, y, eps: x, " % may."),
        (lambda model, x, y, eps: x + 2 * eps, "0 to 1."),
        (lambda model, x, y, eps: (x + 2 * eps).clamp(0, 1), "by 0.06, allowed 0.03."),
        (lambda model, x, y, eps: x * float("nan"), "0 to 1."),
        (lambda model, x, y, eps: x.numpy(), "returns `ndarray` of shape"),
        (lambda model, x, y, eps: x[:1], "returns `Tensor` of shape (1, 3, 32, 32), not"),
        (lambda model, x, y, eps: None, "returns None: is a `return` missing?"),
        (lambda model, x, y, eps: 1 / 0, "`ZeroDivisionError: division by zero`"),
    ],
)
def test_what_breaks_no_defence_is_named(attack, words):
    assert words in TASKS[0].verdict(attack)


def test_other_images_are_attacked_in_grading():
    def attack(case):
        seen.append(case[1])
        return Call(case[1])

    seen: list[Tensor] = []
    TASKS[0].judge(attack)
    TASKS[0].judge_more(attack, 1)
    assert not any((image == seen[0]).flatten(1).all(1).any() for image in seen[1])
