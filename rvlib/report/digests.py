"""Digests of the rows that are shipped: a line that was changed by hand does not reach a table."""

import hashlib
from pathlib import Path

from rvlib.files import write_whole
from rvlib.rows import RowsError

SUMS = "SHA256SUMS"
"""The file's name; its lines are those of ``sha256sum``."""


def write_sums(rows: Path) -> Path:
    """Write down the digests of a folder of rows.

    Parameters
    ----------
    rows : Path
        The folder.

    Returns
    -------
    Path
        ``SHA256SUMS`` in it.
    """
    lines = [f"{digest}  {name}\n" for name, digest in _digests(rows).items()]
    write_whole(rows / SUMS, "".join(lines).encode())
    return rows / SUMS


def check_sums(rows: Path) -> None:
    """Refuse rows that are not those whose digests were written down.

    Parameters
    ----------
    rows : Path
        The folder.  Without ``SHA256SUMS``, as in a run that goes on, nothing is compared.

    Raises
    ------
    RowsError
        If a file was changed, added or removed; one line that names the first.
    """
    if not (rows / SUMS).exists():
        return
    found = _digests(rows)
    lines = (rows / SUMS).read_text().splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            what = "is not the file" if name in written else "is no file"
            raise RowsError(f"{rows / name} {what} that {SUMS} lists: restore it from git")


def _digests(rows: Path) -> dict[str, str]:
    return {
        path.relative_to(rows).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(rows.rglob("*.csv"))
    }
