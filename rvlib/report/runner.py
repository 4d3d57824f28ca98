"""Run the notebooks in order, stop at the first failure, and go on from there the next time."""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_core.paths import jupyter_runtime_dir
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

import rvlib
from rvlib.files import write_whole
from rvlib.stages.run import Run, repository


class NotebookError(RuntimeError):
    """A notebook that failed or did not come to its end."""


def profile_parameters(name: str, root: Path) -> dict[str, Any]:
    """Read ``report/profiles/<name>.yaml``: what papermill hands every notebook.

    Parameters
    ----------
    name : str
        Name of a profile.
    root : Path
        The folder that holds ``report/``.

    Returns
    -------
    dict
        Parameters by name.

    Raises
    ------
    ValueError
        If there is no such file.
    """
    path = root / "report" / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ValueError(f"unknown profile {name!r}: choose from {known}")
    return dict(yaml.safe_load(path.read_text()))


def run_notebooks(run: Run, device: str | None = None, root: Path | None = None) -> list[Path]:
    """Execute the notebooks of a profile, each once.

    Parameters
    ----------
    run : Run
        Profile and folder; executed notebooks go to ``out/notebooks``.
    device : str, default=None
        Handed to every notebook.
    root : Path, default=``repository()``
        The folder that holds ``notebooks/``.

    Returns
    -------
    list of Path
        The executed notebooks in order.

    Raises
    ------
    NotebookError
        At the first failure: names the notebook, the cell and the error.  What was done stays;
        the next call goes on with the failed notebook.
    ValueError
        If a profile hands over a parameter that a notebook does not have; before anything runs.
    """
    root = root or repository()
    parameters = profile_parameters(run.profile.name, root) | {"seed": run.place.seed}
    if device:
        parameters["device"] = device
    sources = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    for path in sources:
        check_parameters(path, parameters)
    done = []
    for position, path in enumerate(sources, start=1):
        started = time.monotonic()
        fresh = _run_one(path, run, parameters)
        seconds = time.monotonic() - started
        note = f"{seconds:.0f} s" if fresh else "done before"
        run.log(f"notebook {position}/{len(sources)}  {path.name}  {note}")
        done.append(run.out / "notebooks" / path.name)
    return done


def check_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """Refuse a parameter that a notebook does not declare; papermill itself would only warn."""
    with contextlib.redirect_stdout(io.StringIO()):
        declared = papermill.inspect_notebook(str(path))
    unknown = sorted(set(parameters) - set(declared))
    if unknown:
        names = ", ".join(sorted(declared))
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}: it has {names}")


def _run_one(path: Path, run: Run, parameters: dict[str, Any]) -> bool:
    """Execute one notebook unless it came to its end as it is and on the rows that are there."""
    manifest = run.out / "finished" / f"{path.stem}.json"
    target = run.out / "notebooks" / path.name
    key = _key(path, run, parameters)
    if target.exists() and manifest.exists() and _is_current(_read(manifest), key, run):
        return False
    # Removed first: after the run it is there only if the last cell was reached.
    manifest.unlink(missing_ok=True)
    _execute(path, target, parameters)
    if not manifest.exists():
        raise NotebookError(f"{path.name} did not reach its last cell; see {target}")
    finished = _read(manifest) | {"key": key, "rows": _rows_digests(run)}
    write_whole(manifest, json.dumps(finished, indent=1).encode())
    return True


def _is_current(manifest: dict[str, Any], key: str, run: Run) -> bool:
    """Whether neither the notebook nor any of the rows that it found or made has changed since.

    Rows of later notebooks come after it and do not count.
    """
    rows, now = manifest.get("rows"), _rows_digests(run)
    return (
        manifest.get("key") == key
        and isinstance(rows, dict)
        and all(now.get(name) == digest for name, digest in rows.items())
    )


def _rows_digests(run: Run) -> dict[str, str]:
    """Digests of the rows that are there, by the names of their files."""
    rows = run.place.rows
    return {
        path.relative_to(rows).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(rows.rglob("*.csv"))
    }


def _execute(path: Path, target: Path, parameters: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            parameters,
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            cwd=str(path.parent),
            store_widget_state=False,
            config=_transport(),
        )
    except DeadKernelError:
        raise NotebookError(f"{path.name}: its kernel died, perhaps for want of memory") from None
    except papermill.PapermillExecutionError as error:
        value = str(error.evalue).splitlines()[0] if error.evalue else ""
        raise NotebookError(
            f"{path.name}, cell {error.cell_index}: {error.ename}: {value} (see {target})"
        ) from None


def _transport() -> Config:
    """Talk to the kernel through files where that works: over TCP it warns at every start.

    The path of a Unix socket may not be longer than about 100 characters.
    """
    if os.name == "posix" and len(jupyter_runtime_dir()) < 50:
        return Config({"KernelManager": {"transport": "ipc"}})
    return Config()


def _key(path: Path, run: Run, parameters: dict[str, Any]) -> str:
    """Digest of all that decides what a notebook shows: cells, parameters, package, weights."""
    source = source_digest(nbformat.read(path, 4))
    digest = hashlib.sha256((source + json.dumps(parameters, sort_keys=True)).encode())
    package = Path(rvlib.__file__).parent
    files = [*sorted(package.rglob("*.py")), *sorted(run.place.models.rglob("*.json"))]
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(manifest: Path) -> dict[str, Any]:
    return dict(json.loads(manifest.read_text()))


def publish_notebooks(executed: list[Path], root: Path | None = None) -> None:
    """Write executed notebooks back over their sources, cleaned of what a code host refuses.

    Widget state, papermill's and the machine's metadata, and execution times go; the default
    parameters stay as they were; the digest of the source cells is kept, so that a test can tell
    when outputs are older than the code.

    Parameters
    ----------
    executed : list of Path
        As returned by ``run_notebooks``.
    root : Path, default=``repository()``
        The folder that holds ``notebooks/``.
    """
    root = root or repository()
    for path in executed:
        notebook = nbformat.read(path, 4)
        notebook.cells = [
            cell
            for cell in notebook.cells
            if "injected-parameters" not in cell.metadata.get("tags", [])
        ]
        ran = itertools.count(1)
        for number, cell in enumerate(notebook.cells):
            tags = cell.metadata.get("tags", [])
            cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
            cell.id = f"cell-{number:02d}"
            if cell.cell_type == "code":
                # nbval takes a cell with outputs but without a number for one that never ran.
                cell.execution_count = next(ran)
                for output in cell.outputs:
                    if output.output_type == "execute_result":
                        output["execution_count"] = cell.execution_count
        notebook.metadata = nbformat.from_dict(
            {
                "kernelspec": {
                    "display_name": "Python 3 (ipykernel)",
                    "language": "python",
                    "name": "python3",
                },
                "language_info": {"name": "python"},
                "rvlib": {"source": source_digest(notebook)},
            }
        )
        target = root / "notebooks" / path.name
        write_whole(target, nbformat.writes(notebook).encode() + b"\n")


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """Digest of a notebook's cells without their outputs."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]
