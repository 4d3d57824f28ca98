"""Run the notebooks in order, and write them back with their outputs.

Processes that do nothing but drive a notebook import this: torch is imported where it is needed.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from rvlib.results import atomic_write

if TYPE_CHECKING:
    from rvlib.pipeline import Run

INJECTED = "injected-parameters"
"""Papermill's tag of the cell that hands over the parameters."""


class NotebookError(RuntimeError):
    """A notebook that failed."""


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
        If there is no such profile.
    """
    from rvlib.experiments import find_profile

    find_profile(name)
    path = root / "report" / "profiles" / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def run_notebooks(run: "Run", device: str | None = None, at_once: int = 1) -> list[Path]:
    """Execute the notebooks of a profile.

    Parameters
    ----------
    run : Run
        Profile, seed and folder; executed notebooks go to ``out/notebooks``.
    device : str, default=None
        Handed to every notebook.
    at_once : int, default=1
        How many run at a time, each on one thread: for notebooks whose rows are measured.

    Returns
    -------
    list of Path
        The executed notebooks in order.

    Raises
    ------
    NotebookError
        At the first failure: names the notebook, the cell and the error.  What was measured stays;
        the next call goes on from there.
    ValueError
        If a profile hands over a parameter that a notebook does not have; before anything runs.
    """
    from rvlib.pipeline import repository
    from rvlib.processes import single_threaded

    root = repository()
    parameters = profile_parameters(run.profile.name, root) | {"seed": run.seed}
    parameters |= {"device": device} if device else {}
    sources = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    for source in sources:
        check_parameters(source, parameters)
    if at_once > 1:
        sources.reverse()  # the last one takes longest
    targets = [run.out / "notebooks" / source.name for source in sources]
    with single_threaded(at_once) if at_once > 1 else nullcontext() as pool:
        each: Any = pool.map if pool else map
        done = each(_timed, sources, targets, itertools.repeat(parameters))
        for position, (target, seconds) in enumerate(zip(targets, done, strict=True), start=1):
            run.log(f"notebook {position}/{len(sources)}  {target.name}  {seconds:.0f} s")
    return sorted(targets)


def _timed(source: Path, target: Path, parameters: dict[str, Any]) -> float:
    """Seconds that a notebook took."""
    started = time.monotonic()
    execute(source, target, parameters)
    return time.monotonic() - started


def check_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """Refuse a parameter that a notebook does not declare; papermill itself would only warn."""
    with contextlib.redirect_stdout(io.StringIO()):
        declared = papermill.inspect_notebook(str(path))
    if unknown := sorted(set(parameters) - set(declared)):
        names = ", ".join(sorted(declared))
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}: it has {names}")


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> Path:
    """Execute one notebook.

    Parameters
    ----------
    source : Path
        The notebook; it runs in its folder.
    target : Path
        Where the executed copy goes; that of a run that failed goes to ``failed-NAME`` beside it.
    parameters : dict
        By name.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    NotebookError
        One line: the notebook, the cell and the error.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    failed = target.with_name(f"failed-{target.name}")
    # For the kernel: nobody moves a slider here, so explorers draw their static export.
    static = mock.patch.dict(os.environ, RVLIB_STATIC="1")
    with static, tempfile.TemporaryDirectory(prefix="rvlib-") as folder:
        copy = Path(folder) / target.name
        try:
            papermill.execute_notebook(
                str(source),
                str(copy),
                parameters,
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                cwd=str(source.parent),
                store_widget_state=False,
                config=_transport(folder),
            )
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            atomic_write(failed, copy.read_bytes())
            raise NotebookError(f"{source.name}{_reason(error)} (see {failed})") from None
        atomic_write(target, copy.read_bytes())
    failed.unlink(missing_ok=True)
    return target


def _reason(error: Exception) -> str:
    if isinstance(error, DeadKernelError):
        return ": its kernel died, perhaps for want of memory"
    first = str(error.evalue or "").partition("\n")[0]  # type: ignore[attr-defined]
    return f", cell {error.cell_index}: {error.ename}: {first}"  # type: ignore[attr-defined]


def _transport(folder: str) -> Config:
    """Talk to the kernel through sockets in a folder of its own: two runs at once share none.

    Where there are no Unix sockets, or their path would be too long, it is TCP.
    """
    if os.name != "posix" or len(folder) > 80:
        return Config()
    return Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


def publish_notebooks(executed: list[Path]) -> None:
    """Write executed notebooks back over their sources, with their outputs.

    Widget state, papermill's and the machine's metadata and execution times go; tags and collapsed
    inputs stay.  The digest of the source cells is kept, so that a test can tell when outputs are
    older than the code.

    Parameters
    ----------
    executed : list of Path
        As returned by ``run_notebooks``.
    """
    from rvlib.pipeline import repository

    for path in executed:
        notebook = without_injected(nbformat.read(path, 4))
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:02d}"
            kept = {key: cell.metadata.get(key) for key in ("tags", "jupyter")}
            cell.metadata = nbformat.from_dict({key: value for key, value in kept.items() if value})
        code = (cell for cell in notebook.cells if cell.cell_type == "code")
        for number, cell in enumerate(code, 1):
            cell.execution_count = number  # nbval takes one without for one that never ran
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output["execution_count"] = number
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        about = {"kernelspec": kernel, "language_info": {"name": "python"}}
        about["rvlib"] = {"source": source_digest(notebook)}
        notebook.metadata = nbformat.from_dict(about)
        target = repository() / "notebooks" / path.name
        atomic_write(target, nbformat.writes(notebook).encode() + b"\n")


def without_injected(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out the cell that handed over the parameters."""
    notebook.cells = [c for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]
    return notebook


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """Digest of a notebook's cells without their outputs."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]
