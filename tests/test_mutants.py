"""tests.mutants: the table fits the code as it is, and its verdicts are right."""

import json

import pytest

from tests.mutants import FOLDER, RECORD, ROOT, Mutant, killer, mutants, planted, record

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


@pytest.mark.parametrize(("source", "times"), [("b = 1", 0), ("a = 1; a = 1", 2)])
def test_a_text_that_is_gone_or_ambiguous_is_named(source, times):
    mutant = Mutant("one-for-two", "rvlib/x.py", "a = 1", "a = 2", [])
    with pytest.raises(ValueError, match=f"^one-for-two: its text stands {times} times"):
        mutant.change(source)


def test_unknown_names_are_refused_and_known_ones_chosen():
    with pytest.raises(ValueError, match="no such mutants: nobody"):
        mutants(["nobody", "attacks"])
    assert [mutant.name for mutant in mutants(["linf-open-below"])] == ["linf-open-below"]


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


def test_what_was_found_is_recorded_though_a_text_was_edited_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.mutants.RECORD", tmp_path / "record.json")
    monkeypatch.setattr("tests.mutants.ROOT", tmp_path)  # where no text stands any more
    record([{"name": "linf-open-below", "killed_by": "a test"}, {"name": "gone", "killed_by": ""}])
    entries = json.loads((tmp_path / "record.json").read_text())
    assert list(entries) == ["linf-open-below"]
    record([{"name": "linf-sample-of-one-side", "killed_by": "a test"}])
    assert len(json.loads((tmp_path / "record.json").read_text())) == 2
