"""Run the benchmark and write it down."""

import json
import platform
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rvlib.bench.apart import apart
from rvlib.bench.compare import Do, compare
from rvlib.bench.jobs import jobs
from rvlib.bench.plan import SIZES
from rvlib.bench.table import NOT_MEASURED, markdown_tables
from rvlib.bench.whole import measure_whole, wholes
from rvlib.device import provenance
from rvlib.files import write_whole
from rvlib.stages.run import Run, repository

REPETITIONS = 5
END = "<!-- /bench -->"
PEERS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")


def bench(run: Run, lend: Callable[[Run], AbstractContextManager[Do]] = apart) -> Path:
    """Time every job beside the peers that are installed; print and write the tables.

    The record is written after each job: what was measured before an interruption is kept.

    Parameters
    ----------
    run : Run
        Whose networks, images, device and folder to use.
    lend : callable, default=``rvlib.bench.apart.apart``
        Makes of the run a context that lends what does a way once.

    Returns
    -------
    Path
        The record, ``bench/<cpu or cuda>.json`` in the run's folder; beside it the tables.

    Notes
    -----
    Jobs that only a peer does beside us are left out where none is installed, and a line says so.
    """
    device = run.place.device
    path = run.out / "bench" / f"{device.type}.json"
    record: dict[str, Any] = {
        **provenance(device),
        "machine": platform.machine(),
        **{name: version(name) for name in ("torchvision", "numpy")},
        "peers": {name: _version(name) for name in PEERS},
        "repetitions": REPETITIONS,
        "jobs": [],
        "wholes": [],
    }
    with lend(run) as do:
        for job in jobs(run):
            if len(job.ways) < 2:
                run.log(f"{job.name}: left out, as no peer is installed (make bench installs them)")
                continue
            r = compare(job, REPETITIONS, do)
            record["jobs"].append(r)
            _write(path, record)
            run.log(f"{r['job']}: {r['median']} times faster than {r['fastest']}")
    for whole in wholes(run):
        before = record["wholes"]
        for r in measure_whole(whole, device):
            record["wholes"] = [*before, r]
            _write(path, record)
            parts = ", ".join(f"{name} {part['seconds']} s" for name, part in r["parts"].items())
            run.log(f"{r['job']}: {parts}")
    print(markdown_tables(record, device.type))
    return path


def publish_bench(run: Run, root: Path | None = None) -> Path:
    """Copy the record and its tables into ``report/bench``, and every table into the README.

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
    ValueError
        If the README has no place for the tables.
    """
    root = root or repository()
    measured = run.out / "bench" / f"{run.place.device.type}.json"
    if not measured.exists():
        raise FileNotFoundError(f"{measured} is missing: measure first (make bench)")
    readme = root / "README.md"
    text = readme.read_text()
    for device in SIZES:
        if not re.search(_place(device), text, flags=re.S):
            raise ValueError(f"{readme} has no place for the table: {_start(device)} … {END}")
    path = root / "report" / "bench" / measured.name
    _write(path, json.loads(measured.read_text()))
    for device in SIZES:
        new = f"{_start(device)}\n{shown(root, device)}\n{END}"
        text = re.sub(_place(device), lambda _, new=new: new, text, flags=re.S)  # type: ignore[misc]
    write_whole(readme, text.encode())
    return path


def shown(root: Path, device: str) -> str:
    """Say what the README shows of a kind of device: what was measured on, and the tables.

    Parameters
    ----------
    root : Path
        The folder that holds ``report/``.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    str
        Markdown; where there is no record, the goals and that nothing was measured.
    """
    path = root / "report" / "bench" / f"{device}.json"
    record = json.loads(path.read_text()) if path.exists() else None
    said = f"GPU: {NOT_MEASURED}." if device == "cuda" else f"CPU: {NOT_MEASURED}."
    if record:
        said = f"{record['device']}, torch {record['torch']}, {record['repetitions']} rounds:"
    return f"{said}\n\n{markdown_tables(record, device)}"


def _start(device: str) -> str:
    return f"<!-- bench: {device} -->"


def _place(device: str) -> str:
    return rf"{re.escape(_start(device))}.*?{re.escape(END)}"


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    tables = markdown_tables(record, path.stem) + "\n"
    write_whole(path.with_suffix(".md"), tables.encode())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
