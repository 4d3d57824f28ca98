"""The frame around every notebook: start, show the library's source, print numbers as prose."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from IPython import get_ipython
from IPython.display import Code, Markdown, display

from rvlib.device import choose_algorithms
from rvlib.experiments import title
from rvlib.pipeline import Accuracy, Run

PARAMETERS = ("profile", "seed", "device")
"""Parameters that papermill may set in every notebook."""


def start(profile: str = "lesson", seed: int = 0, device: str | None = None) -> Run:
    """Open the run of a notebook.

    Parameters
    ----------
    profile : str, default="lesson"
        ``lesson`` reads what is published, ``course`` measures it anew, ``full`` trains, too.
    seed : int, default=0
        Of attacks and votes.
    device : str, optional
        ``"cpu"``, ``"cuda"``; the GPU where there is one by default.

    Returns
    -------
    Run
        Networks, images and measurements.

    Raises
    ------
    ValueError
        If profile or device is unknown, or papermill injected a parameter that notebooks do not
        have (papermill itself only warns).
    """
    unknown = sorted(_injected() - set(PARAMETERS))
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(unknown)}: choose from {', '.join(PARAMETERS)}"
        )
    choose_algorithms()
    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((KeyboardInterrupt,), _interrupted)
    return replace(Run.open(profile, device, seed=seed), log=lambda line: None)


def _injected() -> set[str]:
    """Names that papermill assigned: its cell begins with ``# Parameters``."""
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    injected = [ast.parse(cell) for cell in cells if cell.startswith("# Parameters")]
    nodes = (node for tree in injected for node in ast.walk(tree))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _interrupted(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: Any = None) -> None:
    """Report an interrupt in one line instead of a traceback."""
    print("Interrupted. Run this cell again to go on.", file=sys.stderr)


def source(function: Callable[..., Any]) -> Code:
    """Show the code that runs, without its docstring: signature and body.

    Parameters
    ----------
    function : callable
        A function or class of the library.

    Returns
    -------
    Code
        For the output of a notebook's cell.
    """
    text = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = text.splitlines()
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        lines = lines[: docstring.lineno - 1] + lines[docstring.end_lineno :]
    return Code("\n".join(lines).strip(), language="python")


def say(text: str) -> None:
    """Show Markdown whose numbers come from variables.

    Parameters
    ----------
    text : str
        Markdown; common indentation is removed, and no line ends between a number and its %.
    """
    display(Markdown(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", textwrap.dedent(text))))


def show_accuracies(cells: Mapping[str, Accuracy]) -> None:
    """Show accuracies as a table: interval, abstentions where there are any, number of images.

    Parameters
    ----------
    cells : dict of str to Accuracy
        By name of the attack or defence.
    """
    abstain = any(cell.abstained for cell in cells.values())
    columns = ["", "threat", "accuracy, %", "95 % interval"]
    columns += ["abstained, %", "answered only, %"] if abstain else []
    lines = [[*columns, "n"], ["---"] * (len(columns) + 1)]
    for name, cell in cells.items():
        low, high = cell.interval
        line = [title(name), cell.threat, f"{cell.percent:.2f}", f"{low:.2f} to {high:.2f}"]
        if abstain:
            answered = cell.answered_only
            line += [f"{100 * cell.abstained / cell.n:.1f}"]
            line += ["-" if answered is None else f"{answered:.2f}"]
        lines.append([*line, str(cell.n)])
    say("\n".join("| " + " | ".join(line) + " |" for line in lines))
