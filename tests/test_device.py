"""rvlib.device: a device that works or one line, and a record that says what ran."""

import json
import re
import subprocess
from datetime import datetime
from types import SimpleNamespace
from typing import Any

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


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "hpu", "privateuseone"])
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


def test_autocast_is_said():
    with torch.autocast("cpu", torch.bfloat16):
        assert device.arithmetic(CPU) == "bfloat16"
    assert device.arithmetic(CPU) == "float32"


@pytest.mark.parametrize(
    ("convolutions", "products", "library", "everything", "expected"),
    [
        ("none", "none", "none", "none", "float32"),
        ("ieee", "ieee", "bf16", "tf32", "float32"),
        ("bf16", "none", "none", "none", "bf16"),
        ("none", "bf16", "none", "none", "bf16"),
        ("none", "none", "tf32", "none", "tf32"),
        ("none", "none", "none", "tf32", "tf32"),
        ("none", "none", "ieee", "tf32", "float32"),
    ],
)
def test_a_cpu_that_was_told_to_round_is_said_to(
    monkeypatch, convolutions, products, library, everything, expected
):
    conv, matmul = (SimpleNamespace(fp32_precision=said) for said in (convolutions, products))
    onednn = SimpleNamespace(conv=conv, matmul=matmul, fp32_precision=library)
    backends = SimpleNamespace(mkldnn=onednn, fp32_precision=everything)
    monkeypatch.setattr(torch, "backends", backends)
    assert device.arithmetic(CPU) == expected


def test_what_this_torch_says_of_rounding_is_read():
    onednn: Any = torch.backends.mkldnn
    assert onednn.conv.fp32_precision in {"none", "ieee"}
    assert device.arithmetic(CPU) == "float32"


def test_threads_are_held_and_come_back(two_threads):
    with device.repeatable(CPU):
        assert torch.get_num_threads() == 2
    with device.repeatable(CPU, 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), device.repeatable(CPU, 1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_a_gpus_library_may_only_repeat_and_is_then_let_go(monkeypatch):
    library = SimpleNamespace(deterministic=False, benchmark=True)
    monkeypatch.setattr(torch.backends, "cudnn", library)
    with device.repeatable(torch.device("cuda"), 1):
        assert (library.deterministic, library.benchmark) == (True, False)
    assert (library.deterministic, library.benchmark) == (False, True)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_provenance_is_complete_and_plain():
    record = device.provenance(CPU)
    keys = "rvlib commit torch python device threads arithmetic memory date"
    assert list(record) == keys.split()
    assert json.loads(json.dumps(record)) == record
    assert record["rvlib"] == rvlib.__version__
    assert record["torch"] == torch.__version__
    assert record["device"] == device.device_name(CPU)
    assert record["memory"] > 0
    assert record["threads"] == torch.get_num_threads()
    assert record["arithmetic"] == "float32"
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
