"""The frame around every notebook: start, show the library's source, say, finish."""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from IPython import get_ipython
from IPython.display import Code, Markdown, display

from rvlib.evaluation import Accuracy
from rvlib.files import write_whole
from rvlib.report.tables import markdown
from rvlib.stages.run import Run

PARAMETERS = ("profile", "seed", "device")
"""What papermill may set in every notebook."""


def start(profile: str, seed: int, device: str | None) -> Run:
    """Open the run of a notebook, after checking what it was given.

    Parameters
    ----------
    profile : str
        ``smoke``, ``course`` or ``full``.
    seed : int
        Of attacks and votes.
    device : str or None
        As for ``rvlib.device.pick_device``.

    Returns
    -------
    Run
        Where the notebook measures and what it finds again.

    Raises
    ------
    ValueError
        If the profile or the device is unknown, or the notebook was given a parameter that it
        does not have (papermill itself would only warn, and run with the default).
    """
    shell = get_ipython()
    # Only in the first cell that runs: later the namespace holds the lesson's own variables.
    if shell is not None and "_rvlib_started" not in shell.user_ns:
        unknown = _plain_values(shell.user_ns) - set(PARAMETERS)
        if unknown:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"unknown parameter {names}: choose from {', '.join(PARAMETERS)}")
        shell.user_ns["_rvlib_started"] = True
    return Run.open(profile, device, seed=seed)


def _plain_values(namespace: Mapping[str, Any]) -> set[str]:
    """Names of what a parameters cell could have set, as opposed to what was imported."""
    shell_names = {"In", "Out", "exit", "quit", "get_ipython", "open"}
    return {
        name
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in shell_names
        and not name.isupper()
        and (value is None or isinstance(value, str | int | float | list | dict | tuple))
    }


def source(function: Callable[..., Any]) -> Code:
    """Show the code that runs, without its docstring: signature and body.

    Parameters
    ----------
    function : callable
        A function or class of the library.

    Returns
    -------
    IPython.display.Code
        Highlighted where the reader can show that.
    """
    text = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    first = node.body[0]
    lines = text.splitlines()
    if ast.get_docstring(node) is not None:
        assert first.end_lineno is not None
        lines = lines[: first.lineno - 1] + lines[first.end_lineno :]
    return Code("\n".join(lines), language="python")


def say(text: str) -> None:
    """Show Markdown whose numbers come from variables."""
    display(Markdown(textwrap.dedent(text)))


def show_accuracies(cells: Mapping[str, Accuracy]) -> None:
    """Show accuracies as a table: interval, abstentions where there are any, number of images.

    Parameters
    ----------
    cells : mapping of str to Accuracy
        Accuracies by attack.
    """
    table = []
    for name, cell in cells.items():
        low, high = cell.interval
        line = {"attack": name, "threat": cell.threat, "accuracy, %": f"{cell.percent:.2f}"}
        line["95 % interval"] = f"{low:.2f} to {high:.2f}"
        if any(other.abstained for other in cells.values()):
            answered = cell.answered_only
            line["abstained, %"] = f"{100 * cell.abstained / cell.n:.1f}"
            line["answered only, %"] = "-" if answered is None else f"{answered:.2f}"
        table.append(line | {"n": str(cell.n)})
    say(markdown(table))


def finish(run: Run, name: str) -> None:
    """Write that a notebook came to its end: what ``make report`` trusts.

    Parameters
    ----------
    run : Run
        The notebook's run.
    name : str
        The notebook, ``01_fgsm``.
    """
    manifest = {
        "notebook": name,
        "profile": run.profile.name,
        "seed": run.place.seed,
        "device": str(run.place.device),
        "torch": torch.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    folder = run.out / "finished"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", json.dumps(manifest).encode())
    print(f"{name}: finished, rows in {run.place.rows.name}/ of the profile {run.profile.name!r}")
