"""The tables in the README are made of the records that lie in report/bench."""

import json
from pathlib import Path

import pytest

from rvlib.bench.run import shown
from rvlib.bench.table import markdown_tables

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "report" / "bench").glob("*.json"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_readme_has_the_tables_of_the_record(device):
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- bench: {device} -->\n{shown(ROOT, device)}\n<!-- /bench -->" in readme


def test_a_gpu_is_named_or_nothing_is_said_to_be_measured_on_one():
    assert ROOT / "report" / "bench" / "cpu.json" in RECORDS
    measured = any(path.stem == "cuda" for path in RECORDS)
    assert shown(ROOT, "cuda").startswith("GPU: not measured.") != measured


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_no_peer_was_missing_and_none_is_more_robust(path):
    record = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == markdown_tables(record, path.stem) + "\n"
    assert "not installed" not in record["peers"].values()
    for job in record["jobs"]:
        if job["job"].startswith(("robust accuracy", "eight radii")):
            ours = job["ways"]["rvlib"]["score"]
            assert all(ours <= way["score"] for way in job["ways"].values())
