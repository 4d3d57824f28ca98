"""rvlib.rows: whatever a kill leaves behind, the finished file is that of an unbroken run."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rvlib
from rvlib.rows import RowFile, RowsError, read_rows

COUNT, UNIT = 10, 4  # units of 4, 4 and 2 rows
IDENTITY = {"model": "standard", "seed": 0, "ns": [100, 1000]}
PROVENANCE = {"date": "2024-01-01"}
COLUMNS = ["index", "label", "counts"]


def rows(first, last):
    return [{"index": i, "label": i % 3, "counts": f"{i * i} {7 * i}"} for i in range(first, last)]


def opened(path, count=COUNT, **changes):
    return RowFile(path, IDENTITY | changes, PROVENANCE, COLUMNS, count, UNIT)


def finish(file, count=COUNT):
    """What every stage does: the units that are not there yet."""
    for first in range(file.done, count, UNIT):
        file.append(rows(first, min(first + UNIT, count)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "rows.csv"


@pytest.fixture
def whole(tmp_path):
    """The bytes of an unbroken run."""
    file = opened(tmp_path / "whole.csv")
    finish(file)
    return file.path.read_bytes()


def refusal(call, *arguments, **options):
    """Let a call be refused; return the message, which must be one line."""
    with pytest.raises(RowsError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- writing and reading -------------------------------------------------------------------------


def test_the_format(path):
    file = opened(path)
    assert file.done == 0
    file.append(rows(0, 2))
    assert file.done == 2
    head, *lines = path.read_text().splitlines()
    assert json.loads(head.removeprefix("# ")) == {"identity": IDENTITY, "provenance": PROVENANCE}
    assert lines == ["index,label,counts", "0,0,0 0", "1,1,1 7"]


def test_a_path_may_be_text(path):
    finish(RowFile(str(path), IDENTITY, PROVENANCE, COLUMNS, COUNT, UNIT))
    assert read_rows(str(path), COUNT) == read_rows(path)


def test_what_was_written_is_read_back(path):
    finish(opened(path))
    found = read_rows(path, COUNT)
    assert found.head == {"identity": IDENTITY, "provenance": PROVENANCE}
    assert found.integers("index") == list(range(10))
    assert [row["counts"] for row in found.rows] == [row["counts"] for row in rows(0, 10)]
    assert all(list(row) == COLUMNS for row in found.rows)


@pytest.mark.parametrize("text", ["", "a,b", 'say "x"', "# not a head", "ünï"], ids=str)
def test_any_text_survives(path, text):
    identity = {"model": text}
    RowFile(path, identity, {}, ["index", "text"], 2).append([{"index": 0, "text": text}])
    assert RowFile(path, identity, {}, ["index", "text"], 2).done == 1
    assert read_rows(path, 1).rows == [{"index": "0", "text": text}]


def test_rows_of_other_columns_are_refused_and_not_half_written(path):
    file = opened(path)
    file.append(rows(0, 4))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not in fieldnames"):
        file.append([*rows(4, 7), {"index": 7, "label": 0, "votes": 1}])
    assert path.read_bytes() == before
    assert file.done == 4


def test_rows_are_on_disk_when_append_returns(path):
    file = opened(path)
    for first in range(0, COUNT, 2):
        file.append(rows(first, first + 2))
        assert len(read_rows(path).rows) == first + 2


def test_too_few_rows_are_refused(path):
    finish(opened(path))
    assert f"{path} holds 10 of 11 rows" in refusal(read_rows, path, 11)


def test_the_first_rows_of_more_can_be_read(path):
    finish(opened(path))
    assert read_rows(path, 3).integers("index") == [0, 1, 2]
    assert read_rows(path).integers("index") == list(range(10))


def test_a_missing_file_is_refused(path):
    message = refusal(read_rows, path)
    assert message.startswith(f"{path} is missing")
    assert not path.parent.exists()


# --- going on ------------------------------------------------------------------------------------


def test_a_finished_file_is_left_alone(path):
    finish(opened(path))
    before = path.read_bytes(), path.stat().st_mtime_ns
    file = RowFile(path, IDENTITY, {"date": "2025-05-05"}, COLUMNS, COUNT, UNIT)
    assert file.done == COUNT  # the smaller last unit counts
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_more_rows_than_wanted_are_left_alone(path, whole):
    finish(opened(path))
    file = opened(path, count=6)
    assert file.done >= 6
    assert path.read_bytes() == whole


@pytest.mark.parametrize("first", [2, 4, 6, 8])
def test_a_finished_file_is_extended_to_that_of_a_longer_run(path, whole, first):
    finish(opened(path, first), first)
    file = opened(path)
    assert file.done == first - first % UNIT  # the smaller last unit is measured again, whole
    finish(file)
    assert path.read_bytes() == whole


def test_provenance_is_that_of_the_first_run(path):
    opened(path).append(rows(0, 4))
    finish(RowFile(path, IDENTITY, {"date": "2025-05-05"}, COLUMNS, COUNT, UNIT))
    assert read_rows(path, COUNT).head["provenance"] == PROVENANCE


NEWER = {"date": "2025-05-05", "memory": 7, "commit": "def"}


def gone_on_with(path, provenance, count=COUNT):
    finish(RowFile(path, IDENTITY, provenance, COLUMNS, count, UNIT), count)
    return read_rows(path, count).head


def test_who_else_went_on_with_it_is_told_once_and_from_where(path, whole):
    opened(path).append(rows(0, 6))
    for last in (8, COUNT):
        head = gone_on_with(path, NEWER, last)
        assert head["provenance"] == PROVENANCE
        assert head["further"] == [{"from": 4, **NEWER}]
    assert path.read_bytes().split(b"\n", 1)[1] == whole.split(b"\n", 1)[1]
    # The rows are there: whoever looks now has no part in them.
    assert gone_on_with(path, {"commit": "third"})["further"] == [{"from": 4, **NEWER}]


def test_what_is_told_of_rows_that_are_measured_anew_is_told_anew(path):
    opened(path, 4).append(rows(0, 4))
    RowFile(path, IDENTITY, NEWER, COLUMNS, COUNT, UNIT).append(rows(4, 5))
    head = gone_on_with(path, {"commit": "third"})
    assert head["further"] == [{"from": 4, "commit": "third"}]


def test_another_date_and_other_memory_are_no_other_run(path):
    opened(path).append(rows(0, 4))
    assert "further" not in gone_on_with(path, {"date": "2025-05-05", "memory": 7})


@pytest.mark.parametrize(
    ("there", "kept"), [(0, 0), (1, 0), (3, 0), (4, 4), (5, 4), (7, 4), (8, 8), (9, 8), (10, 10)]
)
def test_a_unit_cut_short_is_dropped(path, whole, there, kept):
    opened(path).append(rows(0, there))
    file = opened(path)
    assert file.done == kept
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[: 2 + kept])
    finish(file)
    assert path.read_bytes() == whole


def test_cut_at_any_byte_the_file_is_finished_the_same(path, whole, monkeypatch):
    monkeypatch.setattr("rvlib.rows.os.fsync", lambda file: None)  # slow, and hundreds of times
    path.parent.mkdir()
    kept = set()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        file = opened(path)
        kept.add(file.done)
        assert whole.startswith(path.read_bytes()), size
        finish(file)
        assert path.read_bytes() == whole, size
    assert kept == {0, 4, 8, 10}


def test_a_cut_line_is_not_read_as_a_row(path, whole):
    path.parent.mkdir()
    path.write_bytes(whole[:-2])
    assert len(read_rows(path).rows) == 9
    assert path.read_bytes() == whole[:-2]  # reading repairs nothing
    assert "holds 9 of 10" in refusal(read_rows, path, COUNT)


CHILD = """
import sys, time
from pathlib import Path
from rvlib.rows import RowFile
count, unit = 2000, 8
file = RowFile(Path(sys.argv[1]), {}, {}, ["index", "text"], count, unit)
print("ready", flush=True)
for first in range(file.done, count, unit):
    file.append([{"index": i, "text": "x" * (i % 97)} for i in range(first, first + unit)])
    time.sleep(0.002)
"""


def start(path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(rvlib.__file__).parents[1])},
    )
    assert child.stdout is not None
    with child.stdout as out:
        assert out.readline() == "ready\n"
    return child


def test_killed_five_times_it_ends_as_an_unbroken_run(tmp_path):
    unbroken, broken = tmp_path / "unbroken.csv", tmp_path / "broken.csv"
    assert start(unbroken).wait(60) == 0
    moments, sizes = random.Random(0), []
    for _ in range(5):
        child = start(broken)
        time.sleep(moments.uniform(0.005, 0.06))
        child.kill()
        assert child.wait(60) == -9  # it was at work: 250 units take half a second
        sizes.append(len(read_rows(broken).rows))
    assert start(broken).wait(60) == 0
    assert 0 < sizes[-1] < 2000
    assert sizes == sorted(sizes)
    assert broken.read_bytes() == unbroken.read_bytes()
    assert len(read_rows(broken, 2000).rows) == 2000


# --- what is not gone on with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"ns": [100, 10_000]}, "ns"),
        ({"extra": None, "weights": "abc"}, "weights"),
        ({"model": "mixed-at", "seed": 2}, "model, seed"),
    ],
    ids=str,
)
@pytest.mark.parametrize("there", [0, 6, 10])
def test_rows_of_another_run_are_refused_by_the_key(path, there, changes, named):
    opened(path).append(rows(0, there))
    before = path.read_bytes()
    message = refusal(opened, path, **changes)
    assert message.startswith(f"{path} is of another run (differs in {named})")
    assert path.read_bytes() == before


def test_a_key_that_is_no_more_is_named(path):
    opened(path, weights="abc")
    assert "differs in weights)" in refusal(opened, path)


DAMAGED = {
    "no head": b"index,label,counts\n0,0,1\n",
    "head is no JSON": b"# {identity}\nindex,label,counts\n0,0,1\n",
    "head is a list": b"# []\nindex,label,counts\n0,0,1\n",
    "a cell too many": b'# {"identity": {}}\nindex,label,counts\n0,0,1,2\n',
    "a cell too few": b'# {"identity": {}}\nindex,label,counts\n0,0\n1,1,1\n',
    "no provenance": b'# {"identity": {}}\nindex,label\n0,0\n1,1\n',
    "provenance is text": b'# {"identity": {}, "provenance": "x"}\nindex,label\n0,0\n1,1\n',
    "identity is null": b'# {"identity": null, "provenance": {}}\nindex,label\n0,0\n1,1\n',
    "further is a number": b'# {"identity": {}, "provenance": {}, "further": 5}\nindex\n0\n',
    "further starts nowhere": b'# {"identity": {}, "provenance": {}, "further": [{}]}\nindex\n0\n',
    "not text": b"\x89PNG\r\n\x1a\n\xff\xfe\n\x00\x00\n",
    "not text below": b'# {"identity": {}}\nindex,label,counts\n0,0,\xff\xfe\n',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_and_kept(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    for call in (read_rows, opened):
        assert refusal(call, path).startswith(str(path))
        assert path.read_bytes() == content


def test_a_file_of_other_columns_is_refused(path):
    opened(path).append(rows(0, 4))
    with pytest.raises(RowsError):
        RowFile(path, IDENTITY, PROVENANCE, ["index", "label", "prediction"], COUNT, UNIT)


@pytest.mark.parametrize("content", [b"", b"# {", b"\n"])
def test_an_empty_file_is_not_read(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert refusal(read_rows, path).startswith(f"{path} is not a rows file")
