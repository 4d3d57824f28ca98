"""Copy a finished full run into ``report/``: what is shipped is what was run."""

import shutil
import tempfile
from pathlib import Path

from rvlib.modern import PROFILE
from rvlib.pipeline import Run, repository
from rvlib.report import part_two
from rvlib.report.tables import write_csv

PARTS = ("rows", "lessons", "tables", "figures", "report.pdf", "report.html", "run.json")


def publish(run: Run) -> list[Path]:
    """Copy weights, rows, tables, figures and the report of a run into ``report/``.

    Of the answers under noise only the table is shipped, and no weights that are for it alone.

    Parameters
    ----------
    run : Run
        A run from scratch that came to its end.

    Returns
    -------
    list of Path
        What was copied.

    Raises
    ------
    ValueError
        If the profile does not train, or the run lacks something; nothing is copied then.
    """
    name = run.profile.name
    if not run.profile.trains:
        raise ValueError(f"profile {name!r} does not train its weights: publish a full run")
    weights = [f"models/{name}/seed-{seed}.safetensors" for name, seed in run.profile.models()]
    if lacks := [part for part in (*PARTS, *weights) if not (run.out / part).exists()]:
        raise ValueError(f"{run.out} lacks {', '.join(lacks[:3])}: make report PROFILE={name}")
    report = repository() / "report"
    with tempfile.TemporaryDirectory(dir=run.out) as folder:
        for path in [*weights, *(w.replace(".safetensors", ".json") for w in weights)]:
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(run.out / path, Path(folder) / path)
        models = _replace(Path(folder) / "models", report / "models")
    return [models, *(_replace(run.out / part, report / part) for part in PARTS)]


def publish_part_two(run: Run) -> list[Path]:
    """Add the networks of Part II that a run has to those that are shipped; tables of them all."""
    report = repository() / "report" / PROFILE.name
    made = [*run.out.glob("models/*"), *part_two.measured(run.out)]
    if not made:
        raise ValueError(f"{run.out} has no network: rvlib train --profile {PROFILE.name} NAME")
    copied = [_replace(path, report / path.relative_to(run.out)) for path in sorted(made)]
    for name, table in part_two.all_tables(report).items():
        copied.append(report / "tables" / f"{name}.csv")
        write_csv(copied[-1], table)
    return copied


def _replace(source: Path, target: Path) -> Path:
    """Replace a file or a folder by a copy, which is made beside it first: a disk may be full."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(".*", "noisy-*"))
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, fresh)
    return fresh.replace(target)
