"""tests.mutants: the table fits the code as it is, and its verdicts are right."""

import pytest

from tests.mutants import MUTANTS, ROOT, TIMEOUT, Mutant, chosen, copy_of, examine, judge

FAILED = "FAILED tests/test_x.py::test_it[a b] - assert 1 == 2\n1 failed in 0.1s\n"


def test_there_are_enough_and_no_name_comes_twice():
    assert len(MUTANTS) >= 45
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_its_file_at_one_place(mutant):
    source = (ROOT / mutant.file).read_text()
    changed = mutant.change(source)
    assert changed != source
    compile(changed, mutant.file, "exec")
    assert all((ROOT / test).is_file() for test in mutant.tests)


@pytest.mark.parametrize(("source", "times"), [("b = 1", 0), ("a = 1; a = 1", 2)])
def test_a_text_that_is_gone_or_ambiguous_is_named(source, times):
    mutant = Mutant("one-for-two", "rvlib/x.py", "a = 1", "a = 2", ())
    with pytest.raises(ValueError, match=f"^one-for-two: its text stands {times} times in rvlib/x"):
        mutant.change(source)


def test_an_unknown_name_is_refused():
    assert chosen(["few-streams"]) == [m for m in MUTANTS if m.name == "few-streams"]
    with pytest.raises(ValueError, match=r"no such mutants: nobody$"):
        chosen(["few-streams", "nobody"])


@pytest.mark.parametrize(
    ("status", "output", "killed_by", "problem"),
    [
        (0, "1 passed", None, "SURVIVED"),
        (1, FAILED, "tests/test_x.py::test_it[a b]", ""),
        (None, "", f"no end after {TIMEOUT} s", ""),
        # A file that cannot be imported, or holds no test, says nothing about the fault.
        (2, "ERROR tests/test_x.py\n1 error in 0.1s", None, "pytest ended with status 2: 1 error"),
        (5, "no tests ran", None, "pytest ended with status 5: no tests"),
    ],
)
def test_only_a_failed_test_or_no_end_kills(status, output, killed_by, problem):
    found = judge(status, output)
    assert found[0] == killed_by
    assert found[1].startswith(problem)
    assert bool(found[1]) == (killed_by is None)


TESTS = """
from rvlib.noise import stream
def test_addresses_differ():
    assert stream("cpu", 1, 23).initial_seed() != stream("cpu", 12, 3).initial_seed()
def test_passes():
    pass
"""


@pytest.mark.parametrize(
    ("new", "killed_by"),
    [
        ('"".join(map(str, address)).encode()', "tests/test_it.py::test_addresses_differ"),
        ("str(address).encode()", None),  # the same bytes
    ],
)
def test_the_copy_is_tested_and_the_tree_stays_as_it_was(tmp_path, new, killed_by):
    file = ROOT / "rvlib/noise.py"
    before = file.read_bytes()
    whole = copy_of(ROOT, tmp_path)
    (whole / "tests/test_it.py").write_text(TESTS)
    mutant = Mutant("it", "rvlib/noise.py", "repr(address).encode()", new, ("tests/test_it.py",))
    verdict = examine(mutant, whole)
    assert verdict.killed_by == killed_by
    assert verdict.problem == ("" if killed_by else "SURVIVED")
    assert file.read_bytes() == before == (whole / "rvlib/noise.py").read_bytes()
