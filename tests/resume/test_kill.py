"""A run killed again and again at random moments ends as one that nobody touched.

The killing itself is in ``tests.resume.soak``, a process of its own: it forks, so it must be free
of threads.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rvlib.data import load_cifar10
from rvlib.files import write_whole
from rvlib.recipes import find_recipe
from rvlib.training import fit
from tests.resume import soak
from tests.resume.worker import PHASES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_at_least_20_times_it_ends_as_an_unbroken_run(tmp_path):
    out = tmp_path / "soak.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.resume.soak", "--kills", "20", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["wrong"] == []
    assert record["kills"] == sum(record["phases"].values()) >= 20
    assert min(record["by"].values()) > 5
    assert all(record["phases"][phase] > 0 for phase in PHASES)
    assert record["files_of_a_run"] > 95  # weights, records, rows, tables, figures, the report
    assert record["files_read_after_kills"] > 200


# --- the soak sees what is wrong -----------------------------------------------------------------

SHIPPED = ROOT / "report"


@pytest.fixture
def root(tmp_path):
    """A few of the report's files, of every kind but the checkpoint."""
    for name in (
        "models/standard/seed-0.safetensors",
        "models/standard/seed-0.json",
        "rows/heldout/standard/seed-0/fgsm.csv",
        "tables/table1.csv",
        "tables/table1.md",
        "figures/figure1.pdf",
        "figures/figure1.svg",
        "figures/figure1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHIPPED / name, tmp_path / name)
    return tmp_path


def test_whole_files_are_readable(root):
    assert len(soak.files(root)) == 8
    assert soak.unreadable(root) == []


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_half_written_file_is_found(root, part):
    for path in soak.files(root):
        if path.suffix == ".md" or (path.name == "fgsm.csv" and part):
            continue  # half a page of text is text, and rows may be few
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole)) // 2 * 2])
        if path.name != "table1.csv" or not part:
            assert any(str(path.relative_to(root)) in line for line in soak.unreadable(root)), path
        path.write_bytes(whole)


def test_a_half_written_checkpoint_is_found(tmp_path):
    path = tmp_path / "standard" / "seed-0.checkpoint"
    write_checkpoint(path)
    assert soak.unreadable(tmp_path) == []
    path.write_bytes(path.read_bytes()[:-1000])
    assert len(soak.unreadable(tmp_path)) == 1


def write_checkpoint(path):
    recipe = find_recipe("standard")
    images, labels = load_cifar10("heldout")
    fit(
        recipe.build(0),
        recipe.make_objective(),
        (images[:8], labels[:8]),
        epochs=1,
        checkpoint=path,
        identity={"recipe": recipe.record(), "seed": 0},
        log=lambda line: None,
    )


def test_one_other_byte_is_a_difference_and_another_date_is_none(root):
    before = soak.contents(root)
    record = root / "models/standard/seed-0.json"
    fields = json.loads(record.read_text())
    write_whole(record, json.dumps(fields | {"date": "1999", "seconds": 1.0}).encode())
    assert soak.differences(before, soak.contents(root)) == []
    write_whole(record, json.dumps(fields | {"epochs": 1}).encode())
    rows = root / "rows/heldout/standard/seed-0/fgsm.csv"
    rows.write_bytes(rows.read_bytes()[:-2] + b"x\n")
    (root / "tables/table1.md").unlink()
    assert soak.differences(before, soak.contents(root)) == [
        "models/standard/seed-0.json",
        "rows/heldout/standard/seed-0/fgsm.csv",
        "tables/table1.md",
    ]


def test_the_phases_are_those_of_a_run():
    assert list(PHASES) == ["training", "attacks", "votes", "certificates", "check", "report"]
