"""Run the benchmark and write it down."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rvlib.bench.compare import compare, markdown_table
from rvlib.bench.jobs import jobs
from rvlib.device import provenance
from rvlib.files import write_whole
from rvlib.stages.run import Run

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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
