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
    "words",
    [
        ["data", "nothing"],
        *([command, "--profile", "nothing"] for command in COMMANDS[1:]),
        *([command, "--device", "nowhere"] for command in COMMANDS[1:]),
        ["measure", "--seed", "-1"],
        ["train", "nothing"],
        ["train", "standard", "--profile", "smoke"],
        ["train", "standard", "--training-seed", "99"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    monkeypatch.setattr(Run, "train_one", lambda *a: pytest.fail("it trains"))
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rvlib: ")
    assert err.count("\n") == 1
    assert any(word in err for word in ("nothing", "nowhere", "-1", "smoke", "99"))


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


@pytest.mark.parametrize(
    ("words", "opened", "done"),
    [
        (["measure"], ("full", 0), ["estimate", "measure_everything"]),
        (["measure", "--profile", "smoke", "--seed", "3"], ("smoke", 3), None),
        (["check"], ("course", 0), ["check", "markdown"]),
        (["report"], ("course", 0), None),
        (["report", "--profile", "full"], ("full", 0), None),
        (["publish"], ("full", 0), ["publish"]),
        (["site"], ("lesson", 0), ["build_site"]),
        (["notebooks"], ("lesson", 0), None),
    ],
    ids=lambda words: " ".join(map(str, words)) if words else "",
)
def test_commands_do_their_work(calls, words, opened, done, capsys):
    assert cli.main(words) == 0
    first, *names = [name for name, *_ in calls.mock_calls]
    (given,) = calls.open.mock_calls
    assert (first, given.args[0], given.kwargs["seed"]) == ("open", *opened)
    if done is not None:
        assert names == done
    if words == ["check"]:
        calls.markdown.assert_called_with("table")
    if words[0] == "report":
        assert names == ["estimate", "measure_everything", "run_notebooks", "build"]
        assert capsys.readouterr().out.endswith("report.pdf\n")
    if words == ["measure"]:
        assert "about 70 min left" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["train", "--profile", "modern", "standard"],
            "'modern' has no standard: try --profile full",
        ),
        (["train", "resnet20-standard"], "'full' has no resnet20-standard: try --profile modern"),
        (["train", "mixed-at", "--training-seed", "9"], "has a training seed 9"),
        (["report", "--profile", "modern"], "is for rvlib train, measure and publish"),
        (["evaluate", "gaussian-0.45"], "rvlib train --profile full gaussian-0.45"),
        (
            ["evaluate", "lenet-nuat", "--profile", "full"],
            "rvlib train --profile modern lenet-nuat",
        ),
        (["certify", "own:net", "--sigma", "1", "--profile", "full"], "for the report's networks"),
        (["evaluate", "standard", "--size", "16"], "--size is for folders"),
        (["evaluate", "standard", "--sigma", "1", "--keep-images"], "leave out --sigma"),
        (["evaluate", "standard", "--sigma", "1", "--attack", "standard"], "leave out --sigma"),
    ],
)
def test_what_does_not_fit_together_is_one_line(words, told, capsys):
    assert cli.main(words) == 2
    assert told in capsys.readouterr().err


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
