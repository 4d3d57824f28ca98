"""How long a class waits: ``python -m benchmarks.lessons [NOTEBOOK ...]``, for docs/teaching.

Runs notebooks as JupyterLab does, with live explorers, and writes the times into the table of
``docs/teaching/README.md``. Lines of other notebooks stay as they are.
"""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from rvlib.device import device_name
from rvlib.pipeline import repository
from rvlib.results import atomic_write

HEAD = ["| notebook | opening to first slider, s | restart and run all, s | measured on |"]
HEAD += ["| --- | --- | --- | --- |"]


def seconds(path: Path) -> tuple[float, float]:
    """Time a notebook, from the start of its kernel: to its first explorer, and to its end."""
    notebook = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {}})
    client.resources["metadata"]["path"] = str(path.parent)
    started, first = time.monotonic(), 0.0
    with client.setup_kernel():
        for number, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, number)
            if not first and "course.explore_" in cell.source:
                first = time.monotonic() - started
    return first, time.monotonic() - started


def machine() -> str:
    """Name the processor, and what else kept it busy."""
    return f"{device_name(torch.device('cpu'))}, load {os.getloadavg()[0]:.0f}"


def main(names: list[str]) -> None:
    """Measure, print, and rewrite the table."""
    os.environ["RVLIB_STATIC"] = "0"
    page = repository() / "docs" / "teaching" / "README.md"
    before, old, after = re.split(r"(?<=<!-- times -->\n)|(?=<!-- /times -->)", page.read_text())
    lines = {line.split(" | ")[0]: line for line in old.splitlines()[2:]}
    for path in sorted((repository() / "notebooks").glob("[0-9]*.ipynb")):
        if names and path.stem not in names:
            continue
        first, whole = seconds(path)
        lines[f"| {path.stem}"] = f"| {path.stem} | {first:.0f} | {whole:.0f} | {machine()} |"
        print(lines[f"| {path.stem}"], flush=True)
        table = "\n".join([*HEAD, *(lines[key] for key in sorted(lines))])
        atomic_write(page, f"{before}{table}\n{after}".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
