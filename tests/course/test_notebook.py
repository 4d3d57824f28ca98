"""The frame around every notebook: parameters, sources without docstrings, prose with numbers."""

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from rvlib.attacks.pgd import ascend
from rvlib.course import notebook
from rvlib.pipeline import Accuracy
from rvlib.threat_models import PixelL2


@pytest.fixture
def shown(monkeypatch):
    """Collect the Markdown that a cell shows."""
    texts: list[str] = []
    monkeypatch.setattr(notebook, "display", lambda shown: texts.append(shown.data))
    return texts


@pytest.fixture
def shell(monkeypatch):
    """Run in a shell of IPython, in which no cell has run."""
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    shell.user_ns["In"] = [""]
    yield shell
    assert shell.history_manager is not None
    shell.history_manager.end_session()


def test_start_takes_whatever_was_typed_before(shell):
    shell.user_ns["In"] += ["epochs = 3", "profile = 'smoke'"]
    run = notebook.start("smoke", 3, "cpu")
    assert run.profile.name == "smoke"
    assert run.out.name == "smoke-seed-3"
    run.log("a line")  # goes nowhere


def test_start_takes_the_algorithms_that_were_asked_for(monkeypatch):
    monkeypatch.setenv("RVLIB_DETERMINISTIC", "1")
    try:
        notebook.start("smoke", 0, "cpu")
        assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_start_takes_papermills_own_parameters_and_refuses_others(shell):
    shell.user_ns["In"] += ["# Parameters\nprofile = 'smoke'\nseed = 0\n"]
    notebook.start("smoke", 0, "cpu")
    shell.user_ns["In"] += ["# Parameters\nprofile = 'smoke'\nepsilon = 0.1\n"]
    with pytest.raises(ValueError, match=r"unknown parameter epsilon: .*seed"):
        notebook.start("smoke", 0, "cpu")


def test_an_interrupt_is_one_line(shell, capsys):
    notebook.start("smoke", device="cpu")
    capsys.readouterr()
    found = shell.run_cell("def f(): raise KeyboardInterrupt\nf()")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert isinstance(found.error_in_exec, KeyboardInterrupt)


@pytest.mark.parametrize("thing", [ascend, PixelL2, notebook.say])
def test_source_is_the_code_without_its_docstring(thing):
    text = notebook.source(thing).data
    compile(text, "source", "exec")
    assert '"""' not in text.partition("def norm")[0]
    assert text.splitlines()[0].startswith(("@", "def ", "class "))


def test_source_of_the_pgd_step_fits_on_a_slide():
    text = notebook.source(ascend).data
    assert "threat.steepest(gradient)" in text
    assert len(text.splitlines()) <= 20


def test_no_line_ends_between_a_number_and_its_percent_sign(shown):
    notebook.say("5 % of 10 images, % and 95 %")
    assert shown == ["5\N{NO-BREAK SPACE}% of 10 images, % and 95\N{NO-BREAK SPACE}%"]


def test_say_removes_common_indentation(shown):
    notebook.say(
        """
        # 3
        images"""
    )
    assert shown == ["\n# 3\nimages"]


def test_accuracies_are_a_table_with_columns_for_abstentions_where_there_are_any(shown):
    notebook.show_accuracies({"fgsm": Accuracy(8, 4, 0, "linf 0.03")})
    notebook.show_accuracies({"fgsm": Accuracy(8, 4, 2, "-"), "mine": Accuracy(8, 0, 8, "-")})
    head, _, line = shown[0].splitlines()
    assert "abstained" not in head
    assert line == "| FGSM | linf 0.03 | 50.00 | 21.52 to 78.48 | 8 |"
    head, _, first, second = shown[1].splitlines()
    assert "answered only" in head
    assert "| 25.0 | 66.67 | 8 |" in first
    assert "| mine |" in second
    assert "| 100.0 | - | 8 |" in second
