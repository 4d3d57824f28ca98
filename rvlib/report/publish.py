"""Copy a finished full run into ``report/``: what is shipped is what was run."""

import shutil
from pathlib import Path

from rvlib.report.belonging import check_belonging
from rvlib.report.digests import write_sums
from rvlib.stages.measurements import missing_rows
from rvlib.stages.run import Run, repository

PARTS = ("models", "rows", "tables", "figures")
FILES = ("report.pdf", "report.html", "run.json")


def publish(run: Run, root: Path | None = None) -> list[Path]:
    """Copy weights, rows, tables, figures and the report of a run into ``report/``.

    Parameters
    ----------
    run : Run
        A run from scratch that came to its end.
    root : Path, default=``repository()``
        The folder that holds ``report/``.

    Returns
    -------
    list of Path
        What was copied.

    Raises
    ------
    ValueError
        If the profile does not train, or the run lacks something: nothing is copied.
    RowsError, WeightsError
        If rows and weights do not belong together; nothing is copied.
    OSError
        If a folder cannot be copied, on a full disk for one; it is then as it was.
    """
    if not run.profile.trains:
        raise ValueError(f"profile {run.profile.name!r} is not a run from scratch; use full")
    if lacks := unfinished(run):
        raise ValueError(
            f"{run.out} lacks {lacks[0]}"
            + (f" and {len(lacks) - 1} things more" if lacks[1:] else "")
            + f": run make report PROFILE={run.profile.name} to its end"
        )
    check_belonging(run)
    target = (root or repository()) / "report"
    copied = [_replace(run.out / name, target / name) for name in (*PARTS, *FILES)]
    for path in copied:
        run.log(f"published {path.relative_to(target.parent)}")
    return copied


def unfinished(run: Run) -> list[str]:
    """List what a run lacks to be shipped.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    list of str
        Weights, rows, and files of the report, in words; empty where all is there.
    """
    lacks = [f"the weights of {name}, seed {seed}" for name, seed in run.untrained()]
    lacks += [
        f"{images} rows of {split}/{defence}/seed-{seed}/{what}"
        for (split, defence, seed, what), images in missing_rows(run).items()
    ]
    return lacks + [name for name in (*PARTS, *FILES) if not (run.out / name).exists()]


def _replace(source: Path, target: Path) -> Path:
    """Put a copy in a file's or a folder's place, whole: what is not in the copy does not stay.

    The copy is made beside it first, so that a disk that is full costs nothing that was there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".{target.name}.{which}") for which in ("new", "old"))
    for rest in (fresh, old):
        _remove(rest)
    try:
        if source.is_dir():
            shutil.copytree(source, fresh)
            if source.name == "rows":
                write_sums(fresh)
        else:
            shutil.copy2(source, fresh)
    except BaseException:
        _remove(fresh)
        raise
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    _remove(old)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
