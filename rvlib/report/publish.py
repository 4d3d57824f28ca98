"""Copy a finished full run into ``report/``: what is shipped is what was run."""

import shutil
from pathlib import Path

from rvlib.report.belonging import check_belonging
from rvlib.stages.run import Run, repository

PARTS = ("models", "rows", "tables", "figures")
FILES = ("report.pdf", "report.html", "run.json")


def publish(run: Run, root: Path | None = None) -> list[Path]:
    """Copy weights, rows, tables, figures and the report of a run into ``report/``.

    Parameters
    ----------
    run : Run
        A run that trains; what it has not made yet is left as it is in ``report/``.
    root : Path, default=``repository()``
        The folder that holds ``report/``.

    Returns
    -------
    list of Path
        What was copied.

    Raises
    ------
    ValueError
        If the profile does not train: only a run from scratch is shipped.
    RowsError, WeightsError
        If rows and weights do not belong together; nothing is copied.
    """
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} is not a run from scratch; use full")
    check_belonging(run)
    target = (root or repository()) / "report"
    copied = []
    for part in (run.out / name for name in PARTS):
        if part.exists():
            # Replaced whole: what an earlier run had and this one has not does not stay behind.
            shutil.rmtree(target / part.name, ignore_errors=True)
            shutil.copytree(part, target / part.name)
            copied.append(target / part.name)
    for file in (run.out / name for name in FILES):
        if file.exists():
            shutil.copy2(file, target / file.name)
            copied.append(target / file.name)
    for path in copied:
        run.log(f"published {path.relative_to(target.parent)}")
    return copied
