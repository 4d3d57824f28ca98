"""rvlib.cli: every command does its one thing, and a mistake is one line and status 2."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rvlib
import rvlib.bench
import rvlib.data
import rvlib.device
import rvlib.report.document
import rvlib.report.publish
import rvlib.report.runner
import rvlib.report.site
import rvlib.stages.estimate
import rvlib.stages.run
from rvlib.cli import main
from rvlib.stages.run import Run

COMMANDS = ("data", "train", "measure", "check", "report", "publish", "notebooks", "site", "bench")
WORK = {
    rvlib.data: ("fetch_cifar10",),
    rvlib.stages.run: ("train_all", "measure_everything"),
    rvlib.report.runner: ("run_notebooks", "publish_notebooks"),
    rvlib.report.document: ("build",),
    rvlib.report.publish: ("publish",),
    rvlib.report.site: ("build_site",),
    rvlib.bench: ("bench",),
}
RESULTS = {
    "fetch_cifar10": Path("data/cifar10.npz"),
    "run_notebooks": [Path("01.ipynb")],
    "build": [Path("report.pdf"), Path("report.html")],
    "build_site": Path("site/index.html"),
}


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What was called, in order, with what; nothing is really done."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def stand_in(name):
        def call(*words):
            calls.append((name, words))
            return RESULTS.get(name)

        return call

    for module, names in WORK.items():
        for name in names:
            monkeypatch.setattr(module, name, stand_in(name))
    monkeypatch.setattr(rvlib.stages.estimate, "seconds", lambda run, cores: 5400.0)
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    return calls


def names(calls):
    return [name for name, _ in calls]


def profile_of(words):
    return words[0].profile.name


def failure(capsys, *words, status=2):
    """Run a command that must fail; return its line on stderr."""
    assert main([*words]) == status
    output = capsys.readouterr()
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("rvlib: ")
    return output.err.removeprefix("rvlib: ").rstrip("\n")


# --- what each command does ----------------------------------------------------------------------


def test_data_is_fetched_and_its_place_printed(calls, capsys):
    assert main(["data"]) == 0
    assert names(calls) == ["fetch_cifar10"]
    assert capsys.readouterr().out == "data/cifar10.npz\n"


@pytest.mark.parametrize("chosen", [(), ("standard",), ("mixed-at", "pgd-linf-at")], ids=str)
def test_train(calls, chosen, tmp_path):
    assert main(["train", *chosen, "--device", "cpu"]) == 0
    ((name, (pairs, models, _, device)),) = calls
    assert name == "train_all"
    assert {model for model, _ in pairs} == set(chosen or rvlib.recipes.RECIPES)
    assert models == tmp_path / "build" / "full" / "models"
    assert device == torch.device("cpu")


def test_measure_says_how_long_it_takes_first(calls, capsys, tmp_path):
    assert main(["measure", "--profile", "smoke", "--device", "cpu"]) == 0
    assert names(calls) == ["measure_everything"]
    assert profile_of(calls[0][1]) == "smoke"
    out = capsys.readouterr().out
    assert out.startswith("profile smoke: left to train and measure on ")
    assert ": about 90 min; " in out
    assert str(tmp_path / "build" / "smoke") in out


def test_report_of_shipped_weights(calls, capsys, tmp_path):
    assert main(["report", "--device", "cpu"]) == 0
    assert names(calls) == ["fetch_cifar10", "run_notebooks", "build"]
    run, device = calls[1][1]
    assert (run.profile.name, device) == ("course", "cpu")
    assert calls[2][1] == (tmp_path / "build" / "course",)
    assert capsys.readouterr().out == "report.pdf\nreport.html\n"


def test_report_from_scratch_measures_outside_the_notebooks(calls):
    assert main(["report", "--profile", "full"]) == 0
    assert names(calls) == ["fetch_cifar10", "measure_everything", "run_notebooks", "build"]
    assert calls[2][1][1] is None


def test_publish(calls):
    assert main(["publish"]) == 0
    assert names(calls) == ["publish"]
    assert profile_of(calls[0][1]) == "full"


def test_notebooks_are_run_and_then_written_back(calls):
    assert main(["notebooks", "--profile", "smoke", "--device", "cpu"]) == 0
    assert names(calls) == ["run_notebooks", "publish_notebooks"]
    assert profile_of(calls[0][1]) == "smoke"
    assert calls[1][1] == (RESULTS["run_notebooks"],)


def test_site(calls, capsys):
    assert main(["site"]) == 0
    assert names(calls) == ["build_site"]
    assert profile_of(calls[0][1]) == "course"
    assert capsys.readouterr().out == "site/index.html\n"


def test_bench(calls):
    assert main(["bench", "--device", "cpu"]) == 0
    assert names(calls) == ["fetch_cifar10", "bench"]
    assert profile_of(calls[1][1]) == "course"


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "measure", "report", "publish", "notebooks", "site"])
def test_an_unknown_profile(calls, capsys, command):
    message = failure(capsys, command, "--profile", "fulll")
    assert message == "unknown profile 'fulll': choose from smoke, course, full"
    assert calls == []


@pytest.mark.parametrize("command", ["train", "measure", "report", "notebooks", "bench"])
def test_an_unknown_device(calls, capsys, command):
    message = failure(capsys, command, "--device", "tpu9")
    assert message.startswith("device 'tpu9' cannot be used here: ")
    assert calls == []


def test_an_unknown_model(calls, capsys):
    message = failure(capsys, "train", "standard", "standart")
    assert message.startswith("unknown model 'standart': choose from standard, ")
    assert calls == []


def test_shipped_weights_are_not_trained(calls, capsys):
    message = failure(capsys, "train", "--profile", "course")
    assert message == "profile 'course' uses the shipped weights; use full"
    assert calls == []


def test_only_a_run_from_scratch_is_published(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    assert "not a run from scratch" in failure(capsys, "publish", "--profile", "smoke")


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), RuntimeError("bad"), OSError("bad"), rvlib.rows.RowsError("bad")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_one_line(calls, capsys, monkeypatch, error):
    def fail(run):
        raise error

    monkeypatch.setattr(rvlib.stages.run, "measure_everything", fail)
    assert failure(capsys, "measure", "--device", "cpu") == "bad"


def test_an_error_of_several_lines_is_one_line_too(calls, capsys, monkeypatch):
    def fail(run):
        raise RuntimeError("CUDA error: out of memory\nCompile with DSA to enable assertions.\n")

    monkeypatch.setattr(rvlib.bench, "bench", fail)
    assert failure(capsys, "bench", "--device", "cpu").startswith("CUDA error: out of memory")


def test_an_interruption_is_130(calls, capsys, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(rvlib.stages.run, "measure_everything", interrupt)
    message = failure(capsys, "measure", "--device", "cpu", status=130)
    assert message == "stopped; the same command goes on from here"


def test_a_bug_is_not_hidden(calls, monkeypatch):
    def fail(run):
        raise KeyError("bug")

    monkeypatch.setattr(rvlib.stages.run, "measure_everything", fail)
    with pytest.raises(KeyError):
        main(["measure", "--device", "cpu"])


@pytest.mark.parametrize("words", [[], ["repport"], ["data", "--device", "cpu"]], ids=str)
def test_what_is_no_command_is_refused_with_status_2(calls, capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err
    assert calls == []


# --- help ----------------------------------------------------------------------------------------


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{rvlib.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"rvlib {command}" in capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    code = """
import sys
from rvlib.cli import main
try:
    main(["--help"])
except SystemExit as end:
    print("end", end.code, sorted({"torch", "numpy", "matplotlib"} & sys.modules.keys()))
"""
    folder = str(Path(rvlib.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True
    )
    assert all(f"  {command}" in done.stdout for command in COMMANDS)
    assert done.stdout.endswith("end 0 []\n")


def test_a_run_is_opened_where_the_root_is(calls, tmp_path):
    main(["measure", "--profile", "smoke", "--device", "cpu"])
    (run,) = calls[0][1]
    assert isinstance(run, Run)
    assert run.out == tmp_path / "build" / "smoke"
