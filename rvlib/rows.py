"""What a measurement is: a file with one row an image, appended to, read back, resumed.

The first line is ``# `` and a JSON object, the *head*: what was measured (``identity``: weights,
attack, noise, data, batch size, seed; two runs with the same identity measure the same thing) and
how it came about (``provenance``: commit, versions, device, date).  Then a CSV header and a line
an image.  ``pandas.read_csv(path, comment="#")`` reads it too.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, str]


class RowsError(RuntimeError):
    """A rows file that is missing, unreadable, incomplete or of another run."""


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
    """
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
        return [int(row[column]) for row in self.rows]


class RowFile:
    """Append rows to a file that may already hold some, or find that all are there.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    identity : dict
        What is measured, as plain JSON values.  A file with another identity is refused.
    provenance : dict
        How it comes about; kept from the first run if the file is there.
    columns : sequence of str
        Names of the columns.
    count : int
        How many rows are wanted.  The file may come to hold more, or be extended later.
    unit : int, default=1
        Rows come in units of this many; where rows are missing, a unit cut short by a kill is
        dropped, so that it is measured again in the same company.

    Raises
    ------
    RowsError
        If the file belongs to another measurement or cannot be read.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        columns: Sequence[str],
        count: int,
        unit: int = 1,
    ) -> None:
        self.path, self.columns = path, list(columns)
        # Fewer than two whole lines: killed before there was a head to trust.
        if path.exists() and path.read_bytes().count(b"\n") >= 2:
            found = _read(path)
            if found.head.get("identity") != identity:
                raise RowsError(_difference(path, found.head.get("identity"), identity))
            if found.rows and list(found.rows[0]) != self.columns:
                raise RowsError(f"{path} has other columns: move it away and run again")
            self.done = len(found.rows)
            if self.done < count:
                self._cut(self.done - self.done % unit)
        else:
            head = json.dumps({"identity": identity, "provenance": provenance})
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(f"# {head}\n{','.join(self.columns)}\n", mode="w")
            self.done = 0

    def _cut(self, keep: int) -> None:
        """Keep whole rows up to a number; a half-written line and a half-written unit go."""
        lines = self.path.read_bytes().splitlines(keepends=True)[: 2 + keep]
        with self.path.open("r+b") as file:
            file.truncate(sum(map(len, lines)))
        self.done = keep

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows in one write, on disk before the next work starts.

        Parameters
        ----------
        rows : iterable of dict
            Values by column.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        rows = list(rows)
        writer.writerows(rows)
        self._write(text.getvalue())
        self.done += len(rows)

    def _write(self, text: str, mode: str = "a") -> None:
        with self.path.open(mode) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def read_rows(path: Path, count: int | None = None) -> Rows:
    """Read a rows file.

    Parameters
    ----------
    path : Path
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
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row of another length")
    except (ValueError, IndexError) as error:
        raise RowsError(f"{path} is not a rows file ({error}): delete it and run again") from None
    return Rows(head, rows)


def _difference(path: Path, found: Any, wanted: dict[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
    return f"{path} is of another run (differs in {', '.join(keys)}): move it away and run again"
