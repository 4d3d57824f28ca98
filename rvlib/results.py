"""A measurement on disk: a folder with its identity and one row per image, in shards.

``meta.json`` is the identity: what was measured (model, attack, noise, weights, data, seed).  Two
measurements with the same identity have the same rows (random starts: if their shards begin at the
same images, of which each shard's draws are).  ``FIRST-END.csv`` holds the rows of the
images FIRST to END - 1; its first line is ``# `` and how these came about (commit, versions,
device, date) as JSON.  ``pandas.read_csv(path, comment="#")`` reads it too.

Every file is written whole under a temporary name and renamed, so nothing needs a lock: a run that
is killed loses the shard it was computing, and two runs in one folder write the same shards.
"""

import contextlib
import csv
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

META = "meta.json"
SHARD = re.compile(r"(\d+)-(\d+)\.csv")
OWN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Name of a temporary file of ``atomic_write``."""
ABANDONED = 3600
"""Age in seconds from which a temporary file is taken for a killed run's."""


class ResultsError(ValueError):
    """A measurement that is missing, incomplete, damaged or another one."""


class Incomplete(ResultsError):
    """A measurement of which rows are missing: other shards are still being measured."""


@dataclass(frozen=True)
class Results:
    """A measurement, read.

    Parameters
    ----------
    meta : dict
        The identity: what was measured.
    provenances : list of dict
        How each shard came about, in the order of the images.
    frame : DataFrame
        Columns ``index``, ``label`` and those of the measurement.  Integer columns are int64
        (``certified`` is -1 and ``radius`` 0.0 where nothing is certified); columns of counts are
        text, see ``counts``.
    """

    meta: dict[str, Any]
    provenances: list[dict[str, Any]]
    frame: pd.DataFrame


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it, or what was there before.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    content : bytes
        All of it.

    Raises
    ------
    OSError
        If it cannot be written; it names `path`, which is as it was.
    """
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return  # a folder that cannot be written may hold it
    try:
        with _temporary(path, content) as temporary:
            temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files that killed runs left."""
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # gone by now, or not ours to remove
            if OWN.fullmatch(left.name) and time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def open_results(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder of a measurement, or check that it is this one's.

    Parameters
    ----------
    folder : Path
        The folder.
    identity : dict
        What is measured: JSON values, tuples, NumPy numbers.

    Raises
    ------
    ResultsError
        If the folder is of another measurement; one line that names what differs.
    """
    path, wanted = folder / META, plain(identity)
    if not path.exists():
        content = f"{json.dumps(wanted, indent=1)}\n".encode()
        with _temporary(path, content) as temporary:
            try:
                os.link(temporary, path)  # unlike a rename, leaves what another run wrote just now
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                temporary.replace(path)
    check_identity(folder, wanted)


def check_identity(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a folder whose measurement is not the one that is wanted.

    Parameters
    ----------
    folder : Path
        The folder.
    wanted : dict
        The identity.

    Raises
    ------
    ResultsError
        One line that names what differs.
    """
    a, b = dict(_flat(read_meta(folder))), dict(_flat(plain(wanted)))
    entries = [(key, a.get(key, "missing"), b.get(key, "missing")) for key in {**a, **b}]
    differing = [f"{key} is {_short(x)}, not {_short(y)}" for key, x, y in entries if x != y]
    if differing:
        raise ResultsError(
            f"{folder} is of another measurement ({'; '.join(differing)}): move it away, "
            "or measure into another folder"
        )


def plain(value: Any) -> Any:
    """Turn tuples, NumPy numbers and arrays into plain JSON values."""
    try:
        return json.loads(json.dumps(value, default=lambda v: v.tolist()))
    except AttributeError as error:
        raise TypeError(f"{error}: give numbers, texts, lists and dictionaries") from error


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the identity of a measurement.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict
        The identity.

    Raises
    ------
    ResultsError
        If there is none.
    """
    path = folder / META
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise ResultsError(f"{folder} is missing: measure it first") from None
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def missing(folder: Path, count: int, size: int, shard: tuple[int, int] = (1, 1)) -> list[range]:
    """List the images of a measurement that no shard holds yet.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist.
    count : int
        How many images are wanted, from the first on.
    size : int
        Images of a shard.  Ranges end at its multiples, so that they do not depend on which of
        them another run has measured.
    shard : (k, n), default=(1, 1)
        Only those of the k-th of n parts: every n-th block of `size` images, from the k-th on.

    Returns
    -------
    list of range
        At most `size` images each, in order.
    """
    there = np.zeros(count, dtype=bool)
    for images in _shards(folder).values():
        there[images.start : images.stop] = True
    found = []
    k, n = shard
    if not 1 <= k <= n:
        raise ValueError(f"shard {k} of {n}: give (k, n) with 1 <= k <= n")
    for start in range((k - 1) * size, count, n * size):
        block = np.pad(there[start : start + size], 1, constant_values=True)
        # Where neighbours differ, a stretch of missing images starts or ends.
        edges = start + np.flatnonzero(np.diff(block)).reshape(-1, 2)
        found += [range(a, b) for a, b in edges.tolist()]
    return found


def write_shard(
    folder: Path,
    first: int,
    columns: pd.DataFrame | Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write the rows of consecutive images.

    Parameters
    ----------
    folder : Path
        As made by ``open_results``.
    first : int
        Index of the first image.
    columns : DataFrame or dict of str to sequence
        One value per image: ``label``, then ``prediction``, ``counts`` or others.  ``index`` is put
        before them.
    provenance : dict
        How they came about.

    Returns
    -------
    Path
        The shard, ``FIRST-END.csv``.
    """
    frame = pd.DataFrame(columns).reset_index(drop=True)
    frame.insert(0, "index", range(first, first + len(frame)))
    path = folder / f"{first:05d}-{first + len(frame):05d}.csv"
    head = f"# {json.dumps(plain(provenance))}\n"
    atomic_write(path, (head + frame.to_csv(index=False, lineterminator="\n")).encode())
    return path


def read(folder: Path, count: int | None = None) -> Results:
    """Read a measurement.

    Parameters
    ----------
    folder : Path
        The folder.
    count : int, default=None
        How many images, from the first on; all by default.

    Returns
    -------
    Results
        The rows of images 0, 1, ... without a gap.

    Raises
    ------
    ResultsError
        If rows are missing (``Incomplete``), a shard is damaged, or two shards disagree; one line.
    """
    meta = read_meta(folder)
    shards = [
        _read_shard(path, images, path.stat().st_mtime_ns)
        for path, images in _shards(folder).items()
        if count is None or images.start < count
    ]
    if not shards:
        raise Incomplete(f"{folder} holds no rows: run the same again")
    provenances, columns = zip(*shards, strict=True)
    if any(list(shard) != list(columns[0]) for shard in columns):
        raise ResultsError(f"{folder} holds shards of different columns: delete one of them")
    # One frame of all: a frame a shard takes longer than reading the file.
    joined = {name: np.concatenate([shard[name] for shard in columns]) for name in columns[0]}
    frame = pd.DataFrame(joined)
    if (np.diff(joined["index"]) != 1).any():  # rarely: two runs have measured the same images
        frame = frame.drop_duplicates().sort_values("index")
    if twice := frame["index"][frame["index"].duplicated()].tolist():
        raise ResultsError(f"{folder}: two shards disagree on image {twice[0]}: delete one of them")
    wanted = int(frame["index"].max()) + 1 if count is None else count
    frame = frame[frame["index"] < wanted].reset_index(drop=True)
    if len(frame) < wanted:
        raise Incomplete(f"{folder} holds {len(frame)} of {wanted} images: run the same again")
    return Results(meta, list(provenances), frame)


def _shards(folder: Path) -> dict[Path, range]:
    """Find the shards of a folder and the images of each, in order."""
    names = {path: SHARD.fullmatch(path.name) for path in folder.glob("*-*.csv")}
    found = {path: range(int(name[1]), int(name[2])) for path, name in names.items() if name}
    return dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)))


NUMBERS = {"index": int, "label": int, "prediction": int, "certified": int, "radius": float}
EMPTY = {"certified": "-1", "radius": "0"}


@cache  # tables read most measurements several times
def _read_shard(
    path: Path, images: range, written: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read how a shard came about, and its columns; `written` (ns) makes a new file another."""
    try:
        text = path.read_text(encoding="utf-8")
        first, *lines = text.splitlines()
        header, *rows = csv.reader(lines)
        whole = text.endswith("\n") and first.startswith("# ")
        if not whole or any(len(row) != len(header) for row in rows):
            raise ValueError("a line is cut off")
        columns: dict[str, NDArray[Any]] = {}
        for name, texts in zip(header, zip(*rows, strict=True), strict=True):
            column = np.array([text or EMPTY.get(name, "") for text in texts], object)
            columns[name] = column.astype(NUMBERS.get(name, object))
        if columns["index"].tolist() != list(images):
            raise ValueError("rows were taken out, put in or moved")
        return dict(json.loads(first[2:])), columns
    except (ValueError, LookupError, TypeError, OverflowError, csv.Error) as error:
        raise _damaged(path, error) from None


def counts(frame: pd.DataFrame, column: str) -> NDArray[np.int64]:
    """Turn a column of counts into numbers.

    Parameters
    ----------
    frame : DataFrame
        Of ``Results``.
    column : str
        ``counts``, ``selection``, ``counts_1000``, ...

    Returns
    -------
    ndarray of int64, shape (n, K)
        Votes of each class; zeros where an image was not sampled.
    """
    try:
        read = [[int(v) for v in text.split()] for text in frame[column]]
        classes = max(map(len, read), default=0)
        found = np.array([row or [0] * classes for row in read], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ResultsError(f"column {column!r} holds no counts ({error}): measure again") from None
    return found.reshape(len(read), classes)


def texts(counts: Sequence[Sequence[int]] | Any) -> list[str]:
    """Write votes as text: each image's numbers with spaces between, nothing where all are zero.

    Parameters
    ----------
    counts : Tensor or array-like of int, shape (n, K)
        Votes of each class.

    Returns
    -------
    list of str
        What ``counts`` reads.
    """
    rows = counts.tolist() if hasattr(counts, "tolist") else counts
    return [" ".join(map(str, row)) if any(row) else "" for row in rows]


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """List the entries of nested dictionaries, as ``attack.steps``."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{before}{key}.")
        else:
            yield before + key, entry


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 20 else f"{str(value)[:12]}..."


def _damaged(path: Path, error: Exception) -> ResultsError:
    return ResultsError(f"{path} is damaged ({error}): delete it and run again")
