"""rvlib.cli: every command reaches its work, and what is wrong with it is one line."""

import os
import re
import runpy
import shutil
from unittest import mock

import pytest
import torch

import rvlib
from rvlib import cli, pipeline
from rvlib.arguments import find_network
from rvlib.pipeline import Run, duration, everything

COMMANDS = ("data", "train", "measure", "check", "report", "notebooks", "site", "publish")


def test_help_and_version(capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\n +{command}\b", listed)
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert f"rvlib {command}" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["rvlib", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("rvlib", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{rvlib.__version__}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data nothing", "nothing"),
        *((f"{command} --profile nothing", "nothing") for command in COMMANDS[1:]),
        *((f"{command} --device nowhere", "nowhere") for command in COMMANDS[1:]),
        ("measure --seed -1", "seed=-1"),
        ("train nothing", "nothing"),
        ("train standard --profile smoke", "smoke"),
        ("train standard --training-seed 99", "has a training seed 99"),
        ("train standard --profile modern", "'modern' has no standard: try --profile full"),
        ("train resnet20-standard", "'full' has no resnet20-standard: try --profile modern"),
        ("report --profile modern", "is for rvlib train, measure and publish"),
        ("evaluate gaussian-0.45", "rvlib train --profile full gaussian-0.45"),
        ("evaluate lenet-nuat --profile full", "rvlib train --profile modern lenet-nuat"),
        ("certify own:net --sigma 1 --profile full", "for the report's networks"),
        ("evaluate standard --size 16", "--size is for folders"),
        ("evaluate standard --sigma 1 --keep-images", "leave out --sigma"),
        ("evaluate standard --sigma 1 --attack standard", "leave out --sigma"),
    ],
)
def test_what_is_wrong_is_one_line(words, told, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    monkeypatch.setattr(Run, "train_one", lambda *a: pytest.fail("it trains"))
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rvlib: ")
    assert err.count("\n") == 1
    assert told in err


@pytest.mark.parametrize(
    "words",
    [
        *[[], ["nothing"], ["train", "--nothing"], ["measure", "--seed", "x"]],
        *[["evaluate", "standard", "--images", "0"], ["evaluate", "standard", "--images", "-5"]],
    ],
)
def test_what_is_no_command_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_outside_a_checkout_every_command_says_so(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    assert cli.main([command]) == 2
    assert "is no checkout of rvlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *[(KeyboardInterrupt(), 130), (MemoryError(), 2), (OSError(28, "No space left"), 2)],
        (ModuleNotFoundError("No module named 'typst'", name="typst"), 2),
    ],
)
def test_errors_of_the_machine_are_one_line(error, status, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Run, "open", fail)
    assert cli.main(["measure"]) == status
    err = capsys.readouterr().err
    assert err.startswith("rvlib: ")
    assert err.count("\n") == 1
    assert ("typst is not installed: pip install 'rvlib[course]'" in err) == (
        type(error) is ModuleNotFoundError
    )


def test_faults_of_the_library_are_not_hidden(monkeypatch):
    monkeypatch.setattr(Run, "open", lambda *a, **k: dict[str, int]()["fault"])
    with pytest.raises(KeyError):
        cli.main(["measure"])


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Record what commands do instead of doing it."""
    from rvlib.report import document, notebooks, publish, site, tables

    done = mock.Mock()
    done.open.side_effect = Run.open
    for module, name, answer in (
        (everything, "measure_everything", None),
        (duration, "estimate", 4200.0),
        (pipeline, "check", "table"),
        (tables, "markdown", "as text"),
        (document, "build", ["report.pdf"]),
        (notebooks, "run_notebooks", ["executed"]),
        (notebooks, "publish_notebooks", None),
        (site, "build_site", "site"),
        (publish, "publish", []),
    ):
        getattr(done, name).return_value = answer
        monkeypatch.setattr(module, name, getattr(done, name))
    monkeypatch.setattr(Run, "train", done.train)
    monkeypatch.setattr(Run, "open", done.open)
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    return done


MEASURES = ["estimate", "measure_everything"]
REPORTS = [*MEASURES, "run_notebooks", "build"]


@pytest.mark.parametrize(
    ("words", "opened", "done", "printed"),
    [
        ("measure", ("full", 0), MEASURES, "about 70 min left"),
        ("measure --profile smoke --seed 3", ("smoke", 3), MEASURES, "smoke-seed-3"),
        ("check", ("course", 0), ["check", "markdown"], "as text\n"),
        ("report", ("course", 0), REPORTS, "report.pdf\n"),
        ("report --profile full", ("full", 0), REPORTS, "report.pdf\n"),
        ("publish", ("full", 0), ["publish"], ""),
        ("site", ("lesson", 0), ["build_site"], "site\n"),
        ("notebooks", ("lesson", 0), ["run_notebooks", "publish_notebooks"], ""),
    ],
)
def test_commands_do_their_work(calls, words, opened, done, printed, capsys):
    assert cli.main(words.split()) == 0
    assert [name for name, *_ in calls.mock_calls] == ["open", *done]
    (given,) = calls.open.mock_calls
    assert (given.args[0], given.kwargs["seed"]) == opened
    assert printed in capsys.readouterr().out
    if words == "check":
        calls.markdown.assert_called_with("table")


def test_the_same_bits_may_be_asked_for(calls, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr("rvlib.device.choose_algorithms", asked.append)
    for words in (["measure"], ["measure", "--deterministic"]):
        assert cli.main(words) == 0
    for more in ([], ["--deterministic"]):
        cli.main(["certify", "no such network", "--sigma", "0.25", *more])
    assert asked == [False, True] * 2


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["standard", "--training-seed", "3"], {("standard", 3)}),
        (
            ["mixed-at", "pgd-l2-at"],
            {*(("mixed-at", seed) for seed in (0, 1, 3)), ("pgd-l2-at", 0)},
        ),
        (["pgd-linf-at"], {("pgd-linf-at", seed) for seed in range(3)}),
        ([], None),
    ],
)
def test_training_of_some_networks(calls, words, pairs):
    assert cli.main(["train", *words]) == 0
    assert [name for name, *_ in calls.mock_calls] == ["open", "train"]
    asked = calls.train.call_args.args
    assert set(asked) == pairs if pairs else len(asked) == len(set(asked)) == 37


def test_own_weights_are_those_of_their_profile(monkeypatch, tmp_path):
    shipped = [Run.open("lesson").weights("standard", seed) for seed in (0, 1)]
    own = tmp_path / "full/models/standard/seed-0.safetensors"
    own.parent.mkdir(parents=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(shipped[1].with_suffix(suffix), own.with_suffix(suffix))
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    x = torch.rand(2, 3, 32, 32)
    answers = [find_network("standard", profile)(x) for profile in (None, "full")]
    assert not torch.equal(*answers)


def test_relative_folders_are_those_of_where_the_command_is_given(calls, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RVLIB_BUILD", "mine")
    assert cli.main(["check"]) == 0
    assert os.environ["RVLIB_BUILD"] == str(tmp_path / "mine")


def test_data_are_fetched(monkeypatch, capsys):
    monkeypatch.setattr("rvlib.data.fetch", "{}.npz".format)
    for words in ([], ["mnist"]):
        assert cli.main(["data", *words]) == 0
    assert capsys.readouterr().out == "cifar10.npz\nmnist.npz\n"
