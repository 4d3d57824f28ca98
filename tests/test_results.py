"""A measurement on disk: identity, shards, what is missing, what is refused."""

import itertools
import json
import os
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvlib import results
from rvlib.results import ResultsError

IDENTITY = {"model": "lenet", "attack": {"name": "pgd", "steps": 10}, "ns": (100, np.int64(1000))}


@pytest.fixture
def folder(tmp_path):
    """Lend the folder of a measurement without rows."""
    results.open_results(tmp_path / "pgd", IDENTITY)
    return tmp_path / "pgd"


def write(folder, first, labels, commit="abc", **columns):
    columns = {"label": labels, "prediction": labels, **columns}
    return results.write_shard(folder, first, columns, {"commit": commit})


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_rows_come_back_as_they_were_written(folder):
    write(folder, 2, np.array([7]), commit="def")
    path = write(folder, 0, torch.tensor([5, 6]).tolist())
    assert path.name == "00000-00002.csv"
    assert path.read_text() == '# {"commit": "abc"}\nindex,label,prediction\n0,5,5\n1,6,6\n'
    found = results.read(folder)
    assert found.meta == IDENTITY | {"ns": [100, 1000]}
    assert found.provenances == [{"commit": "abc"}, {"commit": "def"}]
    assert list(found.frame) == ["index", "label", "prediction"]
    assert found.frame.to_numpy().tolist() == [[0, 5, 5], [1, 6, 6], [2, 7, 7]]
    assert set(map(str, found.frame.dtypes)) == {"int64"}
    part = results.read(folder, 2)
    assert (part.frame["label"].tolist(), part.provenances) == ([5, 6], found.provenances[:1])
    assert len(pd.read_csv(path, comment="#")) == 2


def test_counts_and_radii_where_nothing_was_certified(folder):
    counts = torch.tensor([[3, 0, 7], [0, 0, 0]])
    columns = {"certified": [2, ""], "radius": ["0.500000000", ""]}
    columns |= {"label": [2, 1], "counts": results.texts(counts)}
    results.write_shard(folder, 0, columns, {})
    frame = results.read(folder).frame
    assert frame["certified"].tolist() == [2, -1]
    assert frame["radius"].tolist() == [0.5, 0.0]
    assert frame["counts"].tolist() == ["3 0 7", ""]
    assert results.counts(frame, "counts").tolist() == counts.tolist()


@pytest.mark.parametrize("text", ["1 x", "1 2 3"])
def test_what_is_no_counts_is_refused(text):
    with pytest.raises(ResultsError, match=r"column 'counts' holds no counts \(.*\): measure"):
        results.counts(pd.DataFrame({"counts": ["1 2", text]}), "counts")


def test_another_identity_is_refused_with_what_differs(folder):
    results.open_results(folder, IDENTITY | {"ns": [100, 1000]})  # the same after JSON
    other = IDENTITY | {"attack": {"name": "pgd", "steps": 20}, "weights": "0" * 64, "eps": None}
    with pytest.raises(ResultsError) as error:
        results.open_results(folder, other)
    assert (
        "attack.steps is 10, not 20; weights is missing, not 000000000000...; eps is missing"
        in str(error.value)
    )
    assert results.read_meta(folder)["attack"]["steps"] == 10


def test_an_identity_that_no_file_can_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="give numbers, texts"):
        results.open_results(tmp_path / "pgd", IDENTITY | {"model": torch.nn.Linear(1, 1)})


def test_the_identity_written_first_stays(tmp_path, monkeypatch):
    """Two runs that both find no identity: the later one must not replace the earlier one's."""
    link = os.link

    def late(source, target):
        results.atomic_write(target, json.dumps({"seed": 1}).encode())
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ResultsError, match="seed is 1, not 0"):
        results.open_results(tmp_path, {"seed": 0})


@settings(deadline=None)  # it writes files
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=5),
    st.integers(1, 40),
    st.integers(1, 15),
)
def test_missing_is_what_no_shard_holds_in_blocks(tmp_path_factory, shards, count, size):
    folder = tmp_path_factory.mktemp("rows")
    there = set()
    for first, length in shards:
        write(folder, first, list(range(length)))
        there |= set(range(first, first + length))
    found = results.missing(folder, count, size)
    assert [i for images in found for i in images] == [i for i in range(count) if i not in there]
    assert all(images.start // size == (images.stop - 1) // size for images in found)
    pairs = itertools.pairwise(found)
    assert not any(a.stop == b.start and b.start % size for a, b in pairs)  # none could be joined


@settings(deadline=None)  # it writes files
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_parts_are_disjoint_and_all_of_it(tmp_path_factory, count, size, n):
    folder = tmp_path_factory.mktemp("rows")
    parts = [results.missing(folder, count, size, (k, n)) for k in range(1, n + 1)]
    whole = results.missing(folder, count, size)
    assert sorted(itertools.chain(*parts), key=lambda images: images.start) == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    # What one part has done leaves the others theirs.
    for images in parts[0]:
        write(folder, images.start, list(images))
    assert results.missing(folder, count, size, (1, n)) == []
    assert [results.missing(folder, count, size, (k, n)) for k in range(2, n + 1)] == parts[1:]


def test_runs_that_overlap_agree_or_are_refused(folder):
    write(folder, 0, [0, 1, 2])
    write(folder, 1, [1, 2, 3])
    assert results.read(folder).frame["label"].tolist() == [0, 1, 2, 3]
    write(folder, 3, [4])
    with pytest.raises(ResultsError, match="two shards disagree on image 3"):
        results.read(folder)


def test_gaps_and_too_few_rows_are_refused(folder):
    with pytest.raises(ResultsError, match="holds no rows"):
        results.read(folder)
    write(folder, 0, [0])
    write(folder, 2, [2])
    with pytest.raises(ResultsError, match="holds 2 of 3 images"):
        results.read(folder)
    assert len(results.read(folder, 1).frame) == 1
    with pytest.raises(ResultsError, match="missing"):
        results.read(folder / "other")


DAMAGE = [("1,6,6\n", row) for row in ("1,6\n", "1,6,6,6\n", "1,6,\n", "", "2,6,6\n")]
DAMAGE += [("index", "images"), ("# {", "{"), ("# {", "# "), ('# {"commit": "abc"}', "# 3")]


@pytest.mark.parametrize(("old", "new"), DAMAGE)
def test_a_damaged_shard_is_named(folder, old, new):
    path = write(folder, 0, [5, 6])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ResultsError, match=r"00000-00002\.csv is damaged .*: delete it") as error:
        results.read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_shard_without_its_end_is_damaged(folder, lost):
    """Cut in its last number, a row has all its columns, and fewer votes."""
    path = write(folder, 0, [5, 6], counts=["89 11", "903 97"])
    path.write_text(path.read_text()[:-lost])
    with pytest.raises(ResultsError, match=r"is damaged .*: delete it"):
        results.read(folder)


def test_shards_of_other_columns_are_refused(folder):
    write(folder, 0, [0])
    write(folder, 1, [1], counts=["1"])
    with pytest.raises(ResultsError, match="different columns"):
        results.read(folder)


def test_what_a_killed_run_left_is_ignored_and_swept_when_old(folder):
    names = [f".{name}.tmp" for name in ("a.csv.0123abcd", "b.csv.0123abcd", "unsaved letter")]
    for name, age in zip(names, (7200, 0, 7200), strict=True):
        (folder / name).write_text("half a l")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert results.missing(folder, 4, 2) == [range(0, 2), range(2, 4)]
    write(folder, 0, [0, 1])
    assert files(folder) == [*names[1:], "00000-00002.csv", "meta.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    path = write(folder, 0, [0])
    before = path.read_bytes()
    monkeypatch.setattr(
        type(path), "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match=r"full: .*/00000-00001\.csv'"):
        write(folder, 0, [9])
    assert path.read_bytes() == before
    assert files(folder) == ["00000-00001.csv", "meta.json"]


def test_what_is_there_already_is_not_written_again(tmp_path):
    """A finished evaluation can be read where nothing can be written."""
    file = tmp_path / "verdict.txt"
    results.atomic_write(file, b"one")
    before = file.stat().st_ino
    results.atomic_write(file, b"one")
    assert file.stat().st_ino == before
    results.atomic_write(file, b"two")
    assert file.read_bytes() == b"two"
