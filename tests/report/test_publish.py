"""rvlib.report.publish: what is shipped is what a full run made."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rvlib.pipeline import Run
from rvlib.report import part_two
from rvlib.report.publish import publish, publish_part_two

MADE = (
    *("rows/heldout/standard/seed-0/fgsm/meta.json", "lessons/collapse.json"),
    *("tables/table1.csv", "figures/figure1.pdf"),
)
FILES = ("report.pdf", "report.html", "run.json")
NOT_SHIPPED = (
    *("checkpoints/standard/seed-1.pt", "notebooks/01.ipynb", "rows/heldout/.a.tmp"),
    *("models/gaussian-0.45/seed-0.safetensors", "models/gaussian-0.50/seed-1.json"),
    "rows/heldout/noisy-0.25/seed-0/fgsm/meta.json",
)
"""Of the answers under noise the table is shipped, which is made of these."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A full run that came to its end, and a report of before."""
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    (tmp_path / "report").mkdir()
    run = Run.open("full", "cpu")
    weights = [f"models/{name}/seed-{seed}.safetensors" for name, seed in run.profile.models()]
    weights += [name.replace(".safetensors", ".json") for name in weights]
    for name in (*weights, *MADE, *FILES, *NOT_SHIPPED):
        (run.out / name).parent.mkdir(parents=True, exist_ok=True)
        (run.out / name).write_text(f"new {name}")
    for name in ("tables/old.csv", "run.json", "report.typ"):
        (tmp_path / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "report" / name).write_text("old")
    return run


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def test_what_a_run_made_takes_the_place_of_what_was_there(run, tmp_path):
    made = {name: text for name, text in content(run.out).items() if name not in NOT_SHIPPED}
    publish(run)
    assert content(tmp_path / "report") == made | {"report.typ": "old"}
    publish(run)  # again
    assert content(tmp_path / "report") == made | {"report.typ": "old"}


@pytest.mark.parametrize("name", ["report.pdf", "tables", "models/standard/seed-4.safetensors"])
def test_an_unfinished_run_is_not_published(run, tmp_path, name):
    path, before = run.out / name, content(tmp_path / "report")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=rf"lacks {name}: make report PROFILE=full$"):
        publish(run)
    assert content(tmp_path / "report") == before


def test_only_a_run_from_scratch_is_published(run, tmp_path):
    other = replace(run, profile=replace(run.profile, name="course", trains=False))
    with pytest.raises(ValueError, match="profile 'course' does not train"):
        publish(other)


def test_a_copy_that_fails_leaves_what_was_there(run, tmp_path, monkeypatch):
    before = content(tmp_path / "report")
    monkeypatch.setattr(shutil, "copytree", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        publish(run)
    assert content(tmp_path / "report") == before


def network(folder, name, text="weights"):
    path = folder / "models" / name / "seed-0.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_a_network_of_part_two_is_added_to_those_that_are_there(run, tmp_path, monkeypatch):
    monkeypatch.setattr(part_two, "all_tables", lambda folder: {folder.name: pd.DataFrame([1])})
    monkeypatch.setattr(part_two, "measured", lambda out: [*out.glob("rows/*/*/*/*")])
    with pytest.raises(ValueError, match="has no network"):
        publish_part_two(replace(run, out=tmp_path / "empty"))
    before = network(tmp_path / "report" / "modern", "lenet-nuat", "old")
    made = tmp_path / "modern"
    network(made, "lenet-trades")
    row = Path("rows/test/lenet-trades/seed-0/natural/00000-00064.csv")
    (made / row).parent.mkdir(parents=True)
    (made / row).write_text("row")
    copied = publish_part_two(replace(run, out=made))
    assert [path.name for path in copied] == ["lenet-trades", "natural", "modern.csv"]
    assert copied[-1].exists()
    assert before.read_text() == "old"
    assert (tmp_path / "report" / "modern" / row).read_text() == "row"
