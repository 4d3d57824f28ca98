"""rvlib.device: a device that works or one line, and a record that says what ran."""

import json
import re
import subprocess
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch

import rvlib
from rvlib import device

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [None, "auto", ""])
def test_by_itself_it_takes_the_gpu_where_there_is_one(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device(name) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device(name) == torch.device("cuda")


def test_a_named_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_compute_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here: ") as refusal:
        device.pick_device(name)
    assert "\n" not in str(refusal.value)


def test_cpu_has_a_name_and_its_threads():
    assert re.fullmatch(r".*\S.*, 1 threads?", device.device_name(CPU))


@pytest.mark.parametrize(
    ("kind", "convolutions", "products", "expected"),
    [
        ("cpu", True, True, "float32"),
        ("cuda", False, False, "float32"),
        ("cuda", True, False, "tf32"),
        ("cuda", False, True, "tf32"),
    ],
)
def test_a_gpu_that_may_round_is_said_to(monkeypatch, kind, convolutions, products, expected):
    for of, name, may in (
        (torch.backends, "cudnn", convolutions),
        (torch.backends.cuda, "matmul", products),
    ):
        monkeypatch.setattr(of, name, SimpleNamespace(allow_tf32=may))
    assert device.arithmetic(torch.device(kind)) == expected


def test_provenance_is_complete_and_plain():
    record = device.provenance(CPU)
    assert list(record) == ["rvlib", "commit", "torch", "python", "device", "memory", "date"]
    assert json.loads(json.dumps(record)) == record
    assert record["rvlib"] == rvlib.__version__
    assert record["torch"] == torch.__version__
    assert record["device"] == device.device_name(CPU)
    assert record["memory"] > 0
    assert datetime.fromisoformat(record["date"]).tzinfo is not None


def test_commit_names_the_checkout_and_marks_changes(tmp_path, monkeypatch):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *author, *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set inside git's own hooks
        monkeypatch.delenv(name, raising=False)
    module = tmp_path / "package" / "device.py"
    module.parent.mkdir()
    module.write_text("1\n")
    (tmp_path / "notes").write_text("1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(device, "__file__", str(module))
    head = git("rev-parse", "HEAD").stdout[:12]

    def commit():
        return device.provenance(CPU)["commit"]

    assert commit() == head
    (tmp_path / "notes").write_text("2\n")
    assert commit() == head  # outside the package
    module.write_text("2\n")
    assert commit() == head + "+"


def test_commit_is_unknown_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(device, "__file__", str(tmp_path / "device.py"))
    assert device.provenance(CPU)["commit"] == "unknown"


def test_commit_is_unknown_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert device.provenance(CPU)["commit"] == "unknown"
