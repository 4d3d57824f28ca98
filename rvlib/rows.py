"""What a measurement is: a file with one row an image, appended to, read back, resumed.

The first line is ``# `` and a JSON object, the *head*: what was measured (``identity``: weights,
attack, noise, data, batch size, seed; two runs with the same identity measure the same thing) and
how it came about (``provenance``: commit, versions, device, memory, date; where another version or
machine went on with it, ``further`` says which and from which row).  Then a CSV header and a line
an image.  ``pandas.read_csv(path, comment="#")`` reads it too.
"""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rvlib.checks import check_whole
from rvlib.files import BusyError, OnlyWriter, sweep, write_whole

Row = dict[str, str]


class RowsError(RuntimeError):
    """A rows file that is missing, unreadable, incomplete or of another run."""


PASSING = {"date", "memory"}
"""What of a provenance may differ from one stretch of a run to the next without being told."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a split, a defence or an attack may be called."""


def rows_path(folder: Path, split: str, defence: str, seed: int, what: str) -> Path:
    """Say where rows lie: ``rows/heldout/standard/seed-0/fgsm.csv``.

    Parameters
    ----------
    folder : Path
        Folder of a run's rows.
    split : str
        Which images.
    defence : str
        A model, or a smoothed network.
    seed : int
        Training seed.
    what : str
        An attack, or ``certificates``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a name could lead elsewhere: it has other signs than letters, digits, ``.``, ``_`` and
        ``-``, or begins with one of these three.
    """
    for name in (split, defence, what):
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for rows: use letters, digits and . _ -")
    return folder / split / defence / f"seed-{seed}" / f"{what}.csv"


@dataclass(frozen=True)
class Rows:
    """A rows file, read.

    Parameters
    ----------
    head : dict
        ``identity`` and ``provenance``.
    rows : list of dict
        One an image, values as text.
    """

    head: dict[str, Any]
    rows: list[Row]

    def integers(self, column: str) -> list[int]:
        """Read one column as integers."""
        try:
            return [int(row[column]) for row in self.rows]
        except (KeyError, ValueError) as error:
            raise RowsError(
                f"column {column!r} holds no whole numbers ({error}): restore the rows, or measure "
                "them again"
            ) from None


class RowFile:
    """Append rows to a file that may already hold some, or find that all are there.

    While rows are missing this is the only writer of the file: ``with`` a row file, or until
    `count` rows are there, the object is forgotten or the process ends, however it ends.

    Parameters
    ----------
    path : Path or str
        The file; its folder is made.
    identity : dict
        What is measured, as plain JSON values.  A file with another identity is refused.
    provenance : dict
        How it comes about; kept from the first run if the file is there.  Where rows are missing
        and it differs in more than date and memory, it is added to the head as ``further``.
    columns : sequence of str
        Names of the columns.
    count : int
        How many rows are wanted.  The file may hold more, or be extended later.
    unit : int, default=1
        Rows come in units of this many; where rows are missing, a unit cut short by a kill is
        dropped, so that it is measured again in the same company.

    Attributes
    ----------
    done : int
        How many rows are there.
    provenance : dict
        How the first of them came about.

    Raises
    ------
    RowsError
        If the file belongs to another measurement, cannot be read, or another run is writing it.
    """

    def __init__(
        self,
        path: Path | str,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        columns: Sequence[str],
        count: int,
        unit: int = 1,
    ) -> None:
        check_whole("count", count, least=0)
        check_whole("unit", unit)
        self.path = path = Path(path)
        self.columns, self._count = list(columns), count
        self.provenance = provenance
        self._only: OnlyWriter | None = None
        self.done = self._found(identity) or 0
        sweep(path)
        if self.done >= count:
            return
        try:
            self._only = OnlyWriter(path)
        except BusyError as error:
            raise RowsError(str(error)) from None
        found = self._found(identity)  # again: another run may have written until just now
        self.done = found or 0
        if found is None:
            head = json.dumps({"identity": identity, "provenance": provenance})
            write_whole(path, f"# {head}\n{','.join(self.columns)}\n".encode())
        elif found < count:
            self._go_on(found - found % unit, provenance)
        self._close_if_done()

    def _found(self, identity: dict[str, Any]) -> int | None:
        """Count the rows that are there, after checking whose they are; None without a head."""
        # Fewer than two whole lines: killed before there was a head to trust.
        if not self.path.exists() or self.path.read_bytes().count(b"\n") < 2:
            return None
        found = _read(self.path)
        if found.head.get("identity") != identity:
            raise RowsError(_difference(self.path, found.head.get("identity"), identity))
        if found.rows and list(found.rows[0]) != self.columns:
            raise RowsError(f"{self.path} has other columns: move it away and run again")
        self.provenance = found.head["provenance"]
        return len(found.rows)

    def _go_on(self, keep: int, provenance: dict[str, Any]) -> None:
        """Keep whole rows up to a number; a half-written line and a half-written unit go."""
        lines = self.path.read_bytes().splitlines(keepends=True)[: 2 + keep]
        head = json.loads(lines[0].removeprefix(b"# "))
        # What was told of rows that go is told anew.
        further = [told for told in head.pop("further", []) if told["from"] < keep]
        if _lasting(provenance) != _lasting((further or [self.provenance])[-1]):
            further.append({"from": keep, **provenance})
        if further:
            head["further"] = further
        first = f"# {json.dumps(head)}\n".encode()
        if first == lines[0]:
            os.truncate(self.path, sum(map(len, lines)))
        else:
            write_whole(self.path, b"".join([first, *lines[1:]]))
        self.done = keep

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows in one write, on disk before the next work starts.

        Parameters
        ----------
        rows : iterable of dict
            Values by column.

        Raises
        ------
        RowsError
            If the file is closed, or held all the rows that were wanted.
        OSError
            If they cannot be written, on a full disk for one; none of them is there then.
        """
        if self._only is None:
            raise RowsError(f"{self.path} is closed: open it again to append")
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        rows = list(rows)
        writer.writerows(rows)
        for row in rows:
            if missing := sorted(set(self.columns) - set(row)):
                raise ValueError(f"a row lacks {', '.join(missing)}: give every column")
        self._write(text.getvalue().encode())
        self.done += len(rows)
        self._close_if_done()

    def _write(self, content: bytes) -> None:
        before = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            with contextlib.suppress(OSError):  # the next run cuts a part of a line, too
                os.truncate(self.path, before)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise

    def _close_if_done(self) -> None:
        if self.done >= self._count:
            self.close()

    def close(self) -> None:
        """Let other runs write the file."""
        if self._only is not None:
            self._only.release()
            self._only = None

    def __enter__(self) -> "RowFile":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def read_rows(path: Path | str, count: int | None = None) -> Rows:
    """Read a rows file.

    Parameters
    ----------
    path : Path or str
        The file.
    count : int, default=None
        How many rows to take, from the first on; all by default.

    Returns
    -------
    Rows
        Head and rows.

    Raises
    ------
    RowsError
        If the file is missing, unreadable, or holds fewer rows.
    """
    path = Path(path)
    if not path.exists():
        raise RowsError(f"{path} is missing: measure it first (`make report` does)")
    found = _read(path)
    if count is not None and len(found.rows) < count:
        raise RowsError(f"{path} holds {len(found.rows)} of {count} rows: run the same again")
    return Rows(found.head, found.rows[:count])


def _read(path: Path) -> Rows:
    """Read head and rows, leaving out a last line that a kill cut off."""
    content = path.read_bytes()
    try:
        lines = content[: content.rfind(b"\n") + 1].decode().splitlines()
        head = json.loads(lines[0].removeprefix("# "))
        rows = list(csv.DictReader(lines[1:]))
        if not lines[0].startswith("# ") or not isinstance(head, dict):
            raise ValueError("no head")
        _check_head(head)
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row of another length")
        indices = [row["index"] for row in rows if "index" in row]
        if indices != [str(i) for i in range(len(indices))]:
            raise ValueError("rows were taken out, put in or moved")
    except (ValueError, LookupError, OverflowError, RecursionError, csv.Error) as error:
        raise RowsError(f"{path} is not a rows file ({error}): delete it and run again") from None
    return Rows(head, rows)


def _check_head(head: dict[str, Any]) -> None:
    """Refuse a head whose parts are not of the kind that is written."""
    further = head.get("further", [])
    parts = [head.get("identity"), head.get("provenance")]
    parts += further if isinstance(further, list) else [further]
    starts = [part.get("from") for part in parts[2:] if isinstance(part, dict)]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("its head does not tell what it is of and how it came about")
    if not all(isinstance(start, int) for start in starts):
        raise ValueError("its head does not tell from which row another run went on")


def _lasting(provenance: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in provenance.items() if k not in {*PASSING, "from"}}


def _difference(path: Path, found: Any, wanted: dict[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
    return f"{path} is of another run (differs in {', '.join(keys)}): move it away and run again"
