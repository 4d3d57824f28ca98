"""rvlib.course.notebook: what a notebook was given is checked, what it shows is what runs."""

import inspect
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from rvlib.attacks import fgsm, pgd
from rvlib.course import finish, say, show_accuracies, source, start
from rvlib.course import notebook as module
from rvlib.evaluation import Accuracy
from rvlib.stages.run import Run
from rvlib.threat_models import PixelL2

# What IPython itself puts there, and what a lesson imports.
SHELL = {
    "In": ["", "1"],
    "Out": {},
    "_i1": "1",
    "__name__": "__main__",
    "exit": "quitter",
    "quit": "quitter",
    "open": open,
    "get_ipython": len,
    "json": json,
    "pgd": pgd,
    "Run": Run,
    "LINF_STEP_SIZE": 0.02,
    "CLASSES": ("airplane",),
}


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """The namespace of a shell whose parameters cell has run."""
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    shell = SimpleNamespace(user_ns=SHELL | {"profile": "smoke", "device": "cpu"})
    monkeypatch.setattr(module, "get_ipython", lambda: shell)
    return shell


@pytest.fixture
def shown(monkeypatch):
    """Markdown that was displayed."""
    texts: list[str] = []
    monkeypatch.setattr(module, "display", lambda shown: texts.append(shown.data))
    return texts


# --- start ---------------------------------------------------------------------------------------


def test_start_opens_the_run_of_the_profile(shell, tmp_path):
    run = start("smoke", 0, "cpu")
    assert run.profile.name == "smoke"
    assert run.out == tmp_path / "build" / "smoke"
    assert run.place.device.type == "cpu"


def test_start_works_outside_a_shell(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "get_ipython", lambda: None)
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    assert start("course", 0, "cpu").profile.name == "course"


@pytest.mark.parametrize("value", [1, 0.5, "full", None, [1], {"a": 1}, (1,), True], ids=repr)
def test_an_unknown_parameter_is_refused(shell, value):
    shell.user_ns["profil"] = value
    with pytest.raises(ValueError, match="parameter profil: choose from profile, seed, device"):
        start("smoke", 0, "cpu")


def test_unknown_parameters_are_named_in_one_line(shell):
    shell.user_ns |= {"steps": 1, "epochs": 2}
    with pytest.raises(ValueError, match="parameter epochs, steps: choose") as caught:
        start("smoke", 0, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("profile", "device"), [("fulll", None), ("smoke", "tpu9")])
def test_an_unknown_profile_or_device_is_refused(shell, profile, device):
    with pytest.raises(ValueError, match=r"'(fulll|tpu9)'"):
        start(profile, 0, device)


def test_another_seed_works_in_a_folder_of_its_own(shell):
    run, other = start("smoke", 0, "cpu"), start("smoke", 3, "cpu")
    assert (run.place.seed, other.place.seed) == (0, 3)
    assert (run.out.name, other.out.name) == ("smoke", "smoke-seed-3")
    assert run.place.models == other.place.models


def test_the_first_cell_can_be_run_again_after_the_lesson(shell):
    start("smoke", 0, "cpu")
    shell.user_ns |= {"radii": [0, 0.01], "alt": "a picture"}  # the lesson's own variables
    assert start("smoke", 0, "cpu").profile.name == "smoke"


# --- source --------------------------------------------------------------------------------------


def documented(x):
    """Say what it does.

    At length.
    """
    # The reason for the next line.
    text = """not a docstring"""
    return text, x  # and of this one


def undocumented(x):
    return x


@dataclass
class Documented:
    """What it is."""

    x: int  # its unit

    def method(self):
        # A reason.
        return self.x


def test_source_drops_the_docstring_and_keeps_the_comments():
    assert source(documented).data == (
        "def documented(x):\n"
        "    # The reason for the next line.\n"
        '    text = """not a docstring"""\n'
        "    return text, x  # and of this one"
    )


def test_source_of_what_has_no_docstring_is_all_of_it():
    assert source(undocumented).data == "def undocumented(x):\n    return x"


def test_source_of_a_class():
    text = source(Documented).data
    assert text.startswith("@dataclass\nclass Documented:\n")
    assert "What it is." not in text
    assert "x: int  # its unit" in text
    assert "# A reason." in text


def test_source_of_a_method_begins_at_the_margin():
    assert source(Documented.method).data.startswith("def method(self):\n    # A reason.\n")


@pytest.mark.parametrize("what", [fgsm, pgd, PixelL2], ids=lambda what: what.__name__)
def test_source_of_the_library_runs_as_it_is_shown(what):
    code = source(what)
    assert inspect.getdoc(what) not in code.data
    assert code.language == "python"
    compile(code.data, "shown", "exec")
    left = iter(inspect.getsource(what).splitlines())
    assert all(line in left for line in code.data.splitlines())  # all of it, in its order


# --- saying and finishing ------------------------------------------------------------------------


def test_say_shows_markdown_at_the_margin(shown):
    say("""
    At ε = 0.03

    the network fails.
    """)
    assert shown == ["\nAt ε = 0.03\n\nthe network fails.\n"]


def test_accuracies_of_networks(shown):
    show_accuracies({"natural": Accuracy(6, 3, 0, "-"), "fgsm": Accuracy(6, 0, 0, "linf 0.03")})
    assert shown[0].splitlines() == [
        "| attack | threat | accuracy, % | 95 % interval | n |",
        "|---|---|---|---|---|",
        "| natural | - | 50.00 | 18.76 to 81.24 | 6 |",
        "| fgsm | linf 0.03 | 0.00 | 0.00 to 39.03 | 6 |",
    ]


def test_abstentions_are_shown_in_every_line_where_there_are_any(shown):
    show_accuracies(
        {
            "natural": Accuracy(6, 6, 0, "-"),
            "fgsm": Accuracy(6, 3, 2, "linf 0.03"),
            "pgd": Accuracy(6, 0, 6, "linf 0.03"),
        }
    )
    head, _, *lines = shown[0].splitlines()
    assert "| abstained, % | answered only, % | n |" in head
    assert [line.split(" | ")[4:] for line in lines] == [
        ["0.0", "100.00", "6 |"],
        ["33.3", "75.00", "6 |"],
        ["100.0", "-", "6 |"],
    ]


def test_finish_leaves_the_manifest_that_the_runner_trusts(tmp_path, capsys):
    run = Run.open("smoke", "cpu", tmp_path)
    finish(run, "01_fgsm")
    manifest = json.loads((run.out / "finished" / "01_fgsm.json").read_text())
    assert manifest.keys() == {"notebook", "profile", "seed", "device", "torch", "finished"}
    assert manifest["notebook"] == "01_fgsm"
    assert (manifest["profile"], manifest["device"]) == ("smoke", "cpu")
    assert capsys.readouterr().out.startswith("01_fgsm: finished")
