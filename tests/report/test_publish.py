"""rvlib.report.publish: what is shipped is what a full run made."""

from dataclasses import replace
from pathlib import Path

import pytest

from rvlib.report.publish import publish
from rvlib.rows import RowsError
from rvlib.stages.run import Run
from tests.report.heads import head_of

ROWS = "rows/heldout/standard/seed-0/fgsm.csv"
MADE = {
    "models/standard/seed-0.safetensors": b"weights",
    ROWS: f"{head_of(Path(ROWS))}\nindex,label,prediction\n0,1,1\n".encode(),
    "tables/table1.csv": b"table",
    "figures/figure1.pdf": b"figure",
    "report.pdf": b"pdf",
    "report.html": b"html",
    "run.json": b"{}",
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
def run(tmp_path, lines):
    return replace(Run.open("full", "cpu", tmp_path), log=lines.append)


def test_a_full_run_is_copied(run, tmp_path, lines):
    write(run.out, MADE | dict.fromkeys(NOT_SHIPPED, b""))
    copied = publish(run, tmp_path)
    assert content(tmp_path / "report") == MADE
    names = ("models", "rows", "tables", "figures", "report.pdf", "report.html", "run.json")
    assert copied == [tmp_path / "report" / name for name in names]
    assert lines == [f"published report/{name}" for name in names]
    assert content(run.out).keys() == {*MADE, *NOT_SHIPPED}  # copied, not moved


def test_what_is_not_made_yet_is_left_as_it_is(run, tmp_path):
    there = {"report.typ": b"source", "profiles/full.yaml": b"", "tables/table1.csv": b"old"}
    write(tmp_path / "report", there)
    (name, new) = ("models/standard/seed-0.safetensors", b"new")
    write(run.out, {name: new})
    assert publish(run, tmp_path) == [tmp_path / "report" / "models"]
    assert content(tmp_path / "report") == there | {name: new}


def test_what_was_shipped_before_is_replaced(run, tmp_path):
    write(tmp_path / "report", dict.fromkeys([*MADE, "rows/of/an/earlier/run.csv"], b"old"))
    write(run.out, MADE)
    publish(run, tmp_path)
    assert content(tmp_path / "report") == MADE


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
