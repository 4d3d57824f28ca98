"""rvlib.report.publish: what is shipped is what a full run made."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from rvlib.profiles import find_profile
from rvlib.report import publish as publishing
from rvlib.report.publish import publish, unfinished
from rvlib.rows import RowsError
from rvlib.stages.run import Run
from tests.report.heads import head_of

ROWS = "rows/heldout/standard/seed-0/fgsm.csv"
MADE = {
    "models/standard/seed-0.safetensors": b"weights",
    ROWS: f"{head_of(find_profile('full'), Path(ROWS))}\nindex,label,prediction\n0,1,1\n".encode(),
    "tables/table1.csv": b"table",
    "figures/figure1.pdf": b"figure",
    "report.pdf": b"pdf",
    "report.html": b"html",
    "run.json": b"{}",
}
SUMS = {
    "rows/SHA256SUMS": f"{sha256(MADE[ROWS]).hexdigest()}  {ROWS.removeprefix('rows/')}\n".encode()
}
NOT_SHIPPED = ("checkpoints/standard/seed-1.checkpoint", "finished/01.json", "notebooks/01.ipynb")


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def lines():
    return []


@pytest.fixture
def unfinished_run(tmp_path, lines):
    return replace(Run.open("full", "cpu", tmp_path), log=lines.append)


@pytest.fixture
def run(unfinished_run, monkeypatch):
    """A run of one rows file that passes for finished."""
    monkeypatch.setattr(publishing, "unfinished", lambda run: [])
    return unfinished_run


def test_a_full_run_is_copied(run, tmp_path, lines):
    write(run.out, MADE | dict.fromkeys(NOT_SHIPPED, b""))
    copied = publish(run, tmp_path)
    assert content(tmp_path / "report") == MADE | SUMS
    names = ("models", "rows", "tables", "figures", "report.pdf", "report.html", "run.json")
    assert copied == [tmp_path / "report" / name for name in names]
    assert lines == [f"published report/{name}" for name in names]
    assert content(run.out).keys() == {*MADE, *NOT_SHIPPED}  # copied, not moved


@pytest.mark.parametrize("made", [{}, {"models/standard/seed-0.safetensors": b"new"}, MADE])
def test_a_run_that_lacks_something_is_not_shipped(unfinished_run, tmp_path, made):
    there = {"report.typ": b"source", "models/standard/seed-1.json": b"old", ROWS: b"old"}
    write(tmp_path / "report", there)
    write(unfinished_run.out, made)
    with pytest.raises(ValueError, match=r"lacks the weights of .* things more: run make report"):
        publish(unfinished_run, tmp_path)
    assert content(tmp_path / "report") == there


def test_what_a_run_lacks_is_said_in_words(unfinished_run, monkeypatch):
    write(unfinished_run.out, MADE)
    lacks = unfinished(unfinished_run)
    assert lacks[0] == "the weights of standard, seed 0"
    assert "1023 rows of heldout/standard/seed-0/fgsm" in lacks
    assert "10000 rows of test/mixed-at/seed-0/pgd-linf" in lacks
    (unfinished_run.out / "report.pdf").unlink()
    assert unfinished(unfinished_run)[-1] == "report.pdf"


@pytest.mark.parametrize("name", ["models", "rows"])
def test_a_copy_that_fails_leaves_what_was_there(run, tmp_path, monkeypatch, name):
    before = dict.fromkeys(MADE, b"old")
    write(tmp_path / "report", before)
    write(run.out, MADE)
    real = shutil.copytree

    def full_disk(source, target, *rest, **more):
        real(source, target, *rest, **more)
        if Path(source).name == name:
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copytree", full_disk)
    with pytest.raises(OSError, match="No space left"):
        publish(run, tmp_path)
    after = content(tmp_path / "report")
    assert after.keys() == before.keys()  # nothing half done lies about
    assert {after[file] for file in after if file.startswith(name)} == {b"old"}


def test_what_was_shipped_before_is_replaced(run, tmp_path):
    write(tmp_path / "report", dict.fromkeys([*MADE, "rows/of/an/earlier/run.csv"], b"old"))
    write(run.out, MADE)
    publish(run, tmp_path)
    assert content(tmp_path / "report") == MADE | SUMS


def test_rows_of_another_run_are_not_shipped(run, tmp_path):
    write(run.out, MADE | {ROWS: MADE[ROWS].replace(b'"seed": 0', b'"seed": 1')})
    with pytest.raises(RowsError, match="is of seed 1, not 0 as this run"):
        publish(run, tmp_path)
    assert not (tmp_path / "report").exists()


def test_only_a_run_from_scratch_is_shipped(tmp_path):
    run = Run.open("smoke", "cpu", tmp_path)
    write(run.out, MADE)
    with pytest.raises(ValueError, match="'smoke' is not a run from scratch; use full"):
        publish(run, tmp_path)
    assert not (tmp_path / "report").exists()
