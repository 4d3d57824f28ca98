"""tests.mutants: the table fits the code as it is, and its verdicts are right."""

import json

import pytest

from tests.mutants import FOLDER, RECORD, ROOT, killer, mutants, planted

FAILED = "FAILED tests/test_x.py::test_it[a b] - assert 1 == 2\n1 failed in 0.1s\n"


@pytest.mark.parametrize("file", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_mutants_change_their_files_at_one_place(file):
    for mutant in mutants([file]):
        changed = mutant.change((ROOT / mutant.file).read_text())
        assert changed != (ROOT / mutant.file).read_text()
        if mutant.file.endswith(".py"):
            compile(changed, mutant.file, "exec")
        for test in mutant.tests:
            path, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text(), test


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (1, FAILED, "tests/test_x.py::test_it[a b]"),
        (0, "1 passed", None),
        (2, "ERROR tests/test_x.py - ImportError", None),
        (1, "", None),
        (None, "", "no end in time"),
    ],
)
def test_only_a_test_that_fails_kills(status, output, expected):
    assert killer(status, output) == expected


def test_every_mutant_was_killed():
    entries = json.loads(RECORD.read_text())
    assert list(entries) == sorted(planted())
    assert all(entry["killed_by"] for entry in entries.values())
