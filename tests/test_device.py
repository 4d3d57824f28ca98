"""rvlib.device: a device that works or one line, and a record that says what ran."""

import os
import re
import subprocess
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

import rvlib
from rvlib import device

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [None, "auto", ""])
def test_by_itself_it_takes_the_gpu_where_there_is_one(name, monkeypatch):
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device.pick_device(name) == torch.device(expected)
    assert device.pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "meta", "privateuseone"])
def test_a_device_that_cannot_compute_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here: [^\n]+$"):
        device.pick_device(name)


@pytest.fixture
def algorithms(monkeypatch):
    """Nothing is asked for yet; afterwards all is as it was."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with mock.patch.dict(os.environ):
        for name in ("CUBLAS_WORKSPACE_CONFIG", "RVLIB_DETERMINISTIC"):
            os.environ.pop(name, None)
        yield
    torch.use_deterministic_algorithms(False)


def test_algorithms_are_timed_unless_the_same_bits_are_asked_for(algorithms):
    device.choose_algorithms()
    assert torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    device.choose_algorithms(deterministic=True)
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_pytorch_was_asked_for_before_stays(algorithms):
    torch.use_deterministic_algorithms(True, warn_only=True)
    device.choose_algorithms()
    assert not torch.backends.cudnn.benchmark
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_processes_that_are_started_do_the_same(algorithms):
    device.choose_algorithms(deterministic=True)
    torch.use_deterministic_algorithms(False)  # as in a process of its own
    device.choose_algorithms()
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()


def test_a_record_of_a_gpu_says_which(algorithms, monkeypatch):
    monkeypatch.setattr(device, "device_name", str)
    assert "deterministic" not in device.provenance(CPU)
    assert device.provenance(torch.device("cuda"))["deterministic"] is False
    device.choose_algorithms(deterministic=True)
    assert device.provenance(torch.device("cuda"))["deterministic"] is True


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
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
def test_what_may_round_is_read(
    monkeypatch, kind, convolutions, products, library, everything, expected
):
    conv, matmul = (SimpleNamespace(fp32_precision=p) for p in (convolutions, products))
    one = SimpleNamespace(conv=conv, matmul=matmul, fp32_precision=library)
    backends = SimpleNamespace(mkldnn=one, cudnn=one, cuda=one, fp32_precision=everything)
    monkeypatch.setattr(torch, "backends", backends)
    assert device.arithmetic(torch.device(kind)) == expected


def test_both_precision_settings_of_this_torch_are_read():
    backends: Any = torch.backends
    gpu, conv, product = torch.device("cuda"), backends.cudnn.conv, backends.cuda.matmul
    before = conv.fp32_precision, product.fp32_precision
    try:
        for of_conv, of_product in (("ieee", "ieee"), ("ieee", "tf32"), ("tf32", "ieee")):
            conv.fp32_precision, product.fp32_precision = of_conv, of_product
            expected = "tf32" if "tf32" in (of_conv, of_product) else "float32"
            assert device.arithmetic(gpu) == expected
        torch.set_float32_matmul_precision("medium")
        assert device.arithmetic(CPU) == "bf16"
        torch.set_float32_matmul_precision("highest")
        backends.mkldnn.conv.fp32_precision = "bf16"
        assert device.arithmetic(CPU) == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
        backends.mkldnn.conv.fp32_precision = "none"
        conv.fp32_precision, product.fp32_precision = before
    assert device.arithmetic(CPU) == "float32"


def test_autocast_is_said():
    with torch.autocast("cpu", torch.bfloat16):
        assert device.arithmetic(CPU) == "bfloat16"
    assert device.arithmetic(CPU) == "float32"


def test_a_record_says_what_ran():
    record = device.provenance(CPU)
    assert record["rvlib"] == rvlib.__version__
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert re.fullmatch(r".*\S.*, \d+ threads?", record["device"])
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", record["commit"])
    assert datetime.fromisoformat(record["date"]).tzinfo is not None


def commit(folder, *files):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a", "--allow-empty"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode()[:12]


def test_a_commit_is_that_of_rvlibs_own_checkout(monkeypatch, tmp_path):
    for own in (tmp_path / "own", tmp_path / "project/.venv/site-packages"):
        (own / "rvlib").mkdir(parents=True)
        (own / "rvlib" / "device.py").write_text("")
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    mine, _ = commit(tmp_path / "own"), commit(tmp_path / "project")
    monkeypatch.setattr(device, "__file__", str(tmp_path / "own/rvlib/device.py"))
    assert device._commit() == mine
    (tmp_path / "own/rvlib/device.py").write_text("changed")
    assert device._commit() == f"{mine}+"
    installed = tmp_path / "project/.venv/site-packages/rvlib/device.py"
    monkeypatch.setattr(device, "__file__", str(installed))
    assert device._commit() == "unknown"
    monkeypatch.setattr(device, "__file__", str(tmp_path / "own/rvlib/device.py"))
    monkeypatch.setenv("PATH", "")
    assert device._commit() == "unknown"
