"""The table in the README is made of the record that lies in report/bench."""

import json
import re
from pathlib import Path

from rvlib.bench.compare import markdown_table

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "report" / "bench" / "cpu.json").read_text())


def test_the_readme_has_the_table_of_the_record():
    table = markdown_table(RECORD["jobs"])
    assert (ROOT / "report" / "bench" / "cpu.md").read_text() == table + "\n"
    readme = (ROOT / "README.md").read_text()
    (shown,) = re.findall(
        r"<!-- bench: report/bench/cpu\.md -->\n(.*?)\n<!-- /bench -->", readme, re.S
    )
    said, shown_table = shown.split("\n\n")
    assert shown_table == table
    assert said == f"{RECORD['device']}, torch {RECORD['torch']}, {RECORD['repetitions']} rounds:"


def test_no_peer_was_missing_and_none_is_more_robust():
    assert "not installed" not in RECORD["peers"].values()
    for job in RECORD["jobs"]:
        if job["job"].startswith(("robust accuracy", "eight radii")):
            ours = job["ways"]["rvlib"]["score"]
            assert all(ours <= way["score"] for way in job["ways"].values())
