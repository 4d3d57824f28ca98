"""Run the benchmark and write it down."""

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rvlib.bench.compare import compare, markdown_table
from rvlib.bench.jobs import jobs
from rvlib.device import provenance
from rvlib.files import write_whole
from rvlib.stages.run import Run, repository

REPETITIONS = 5
PEERS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")


def bench(run: Run) -> Path:
    """Time every job beside the peers that are installed; print and write the table.

    Parameters
    ----------
    run : Run
        Whose networks, images, device and folder to use.

    Returns
    -------
    Path
        The record, ``bench/<cpu or cuda>.json`` in the run's folder; beside it the table.
    """
    results = []
    for job in jobs(run):
        if len(job.ways) > 1:
            results.append(compare(job, REPETITIONS, run.place.device))
            r = results[-1]
            run.log(f"{r['job']}: {r['median']} times faster than {r['fastest']}")
    if not results:
        raise FileNotFoundError("no peer is installed: make bench installs them")
    record = {
        **provenance(run.place.device),
        "machine": platform.machine(),
        "peers": {name: _version(name) for name in PEERS},
        "repetitions": REPETITIONS,
        "jobs": results,
    }
    path = run.out / "bench" / f"{run.place.device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    table = markdown_table(results)
    write_whole(path.with_suffix(".md"), (table + "\n").encode())
    print(table)
    return path


def publish_bench(run: Run, root: Path | None = None) -> Path:
    """Copy the record and its table into ``report/bench``, and the table into the README.

    Parameters
    ----------
    run : Run
        The run that ``bench`` was called with.
    root : Path, default=``repository()``
        The folder that holds ``report/`` and ``README.md``.

    Returns
    -------
    Path
        The record in ``report/bench``.

    Raises
    ------
    FileNotFoundError
        If nothing was measured yet.
    """
    root = root or repository()
    measured = run.out / "bench" / f"{run.place.device.type}.json"
    if not measured.exists():
        raise FileNotFoundError(f"{measured} is missing: measure first (make bench)")
    record = json.loads(measured.read_text())
    path = root / "report" / "bench" / measured.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, measured.read_bytes())
    table = markdown_table(record["jobs"])
    write_whole(path.with_suffix(".md"), (table + "\n").encode())
    readme = root / "README.md"
    name = path.with_suffix(".md").relative_to(root).as_posix()
    shown = (
        f"<!-- bench: {name} -->\n{record['device']}, torch {record['torch']}, "
        f"{record['repetitions']} rounds:\n\n{table}\n<!-- /bench -->"
    )
    pattern = rf"<!-- bench: {re.escape(name)} -->.*?<!-- /bench -->"
    text, found = re.subn(pattern, lambda _: shown, readme.read_text(), flags=re.S)
    if not found:
        raise ValueError(f"{readme} has no place for the table: <!-- bench: {name} -->")
    write_whole(readme, text.encode())
    return path


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
