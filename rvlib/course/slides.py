"""Slides of the notebooks: reveal.js in the page, explorers with their sliders, no request."""

import copy
import hashlib
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import SlidesExporter

from rvlib.course.exercises import NOTEBOOKS
from rvlib.course.exercises.exercise import Check
from rvlib.course.handouts import exercise_in, student_version
from rvlib.data import DataError, data_folder, unpack_npm
from rvlib.pipeline import Run, repository
from rvlib.report.front import title
from rvlib.report.site import exporter, latest, without_plumbing
from rvlib.results import atomic_write

REVEAL = "reveal.js@5.2.1"
SHA256 = {
    "reveal.js": "46538b52db48724192f59bf46f5e851a18e302777c46f4a34c32709d010d6a29",
    "reveal.css": "68f915a11ebf7203c0446576b7e952ff61c5dd02134a8a226ffaf62ed42136d2",
}
"""Its files and their checksums."""

UNSAID = "*Time:"
"""How a paragraph begins that is for who runs a notebook, not for a slide."""
ANYTHING = ("words", "figure", "sentence", "code")
"""Kinds of cells that show something."""
ROOM = 720
"""Pixels of a slide's height that may be filled by joining cells."""
WORDS, CODE, FIGURE, EXPLORER = 36, 26, 390, 540
"""Pixels of a line of either kind, and of pictures that can still be read."""


def build_slides(run: Run, out: Path | None = None, root: Path | None = None) -> list[Path]:
    """Write every notebook as slides.

    Parameters
    ----------
    run : Run
        Its executed notebooks are shown; where it has none, the shipped ones.
    out : Path, default=``build/slides``
        Folder of the pages.
    root : Path, default=``repository()``
        The folder that holds ``notebooks/`` and ``report/``.

    Returns
    -------
    list of Path
        One page a notebook, which asks for nothing when it is shown.

    Raises
    ------
    DataError
        If reveal.js is not there yet and cannot be fetched.
    """
    root, out = root or repository(), out or run.out.parent / "slides"
    reveal = {name: reveal_file(name).read_text(encoding="utf-8") for name in SHA256}
    resources = {"reveal_js": reveal["reveal.js"], "reveal_css": reveal["reveal.css"]}
    writer = exporter(SlidesExporter, "slides", root / "report")
    writer.exclude_anchor_links = True
    pages = []
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook = as_slides(latest(path, run.out), path.stem)
        notebook.metadata["title"] = title(notebook)
        text, _ = writer.from_notebook_node(notebook, dict(resources))
        pages.append(out / f"{path.stem}.html")
        atomic_write(pages[-1], text.encode())
    return pages


def reveal_file(name: str) -> Path:
    """Find a file of reveal.js beside the data; fetch it with npm where it is missing.

    Parameters
    ----------
    name : str
        ``reveal.js`` or ``reveal.css``.

    Returns
    -------
    Path
        A file of the right checksum.

    Raises
    ------
    DataError
        If it cannot be fetched, or is another file; says where to put it.
    """
    file = data_folder() / REVEAL / name
    if not file.exists():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                package = unpack_npm(REVEAL, Path(scratch))
            except DataError as error:
                raise DataError(f"{error}: put dist/{name} of {REVEAL} at {file}") from None
            for each in SHA256:
                atomic_write(file.with_name(each), (package / "dist" / each).read_bytes())
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256[name]:
        raise DataError(f"{file} is not that of {REVEAL}: remove it, and run again")
    return file


def as_slides(notebook: nbformat.NotebookNode, stem: str) -> nbformat.NotebookNode:
    """Give each heading a slide, and below it each figure, listing and sentence one of its own.

    A heading alone is joined by what follows it.  Where there is room, words stand above the
    figure, table or listing that they lead to, and a sentence that reads it below.

    Parameters
    ----------
    notebook : NotebookNode
        With outputs.
    stem : str
        Name of the notebook: its exercises are shown without outputs.

    Returns
    -------
    NotebookNode
        The same object, marked for nbconvert; cells that show nothing are skipped.
    """
    checks = NOTEBOOKS.get(stem, ())
    notebook = without_plumbing(student_version(notebook, checks))
    notebook.cells = [part for cell in notebook.cells for part in _apart(cell)]
    joins: Collection[str] = ()  # what may stand on the slide of the cell before
    height = 0
    for cell in notebook.cells:
        shown = _shown(cell, checks)
        if shown == "nothing":
            cell.metadata["slideshow"] = {"slide_type": "skip"}
            continue
        height += _height(cell)
        if joins is ANYTHING or (shown in joins and height <= ROOM):
            kind = "-"
        else:
            kind = "slide" if cell.source.startswith("#") and shown == "words" else "subslide"
            height = _height(cell)
        joins = _followers(cell, shown)
        cell.metadata["slideshow"] = {"slide_type": kind}
    return notebook


def _followers(cell: nbformat.NotebookNode, shown: str) -> Collection[str]:
    """Name what may follow on the same slide."""
    if shown == "words":
        heading = cell.source.startswith("#") and "\n" not in cell.source
        return ANYTHING if heading else ("figure", "sentence", "code")
    return () if shown == "sentence" else ("sentence",)


def _height(cell: nbformat.NotebookNode) -> int:
    """Estimate the pixels that a cell takes on a slide."""
    if cell.cell_type == "markdown":
        return _words(cell.source)
    height = 0 if "transient" in cell.metadata else CODE * (2 + cell.source.count("\n"))
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            height += EXPLORER if "text/html" in data else FIGURE
        elif "text/markdown" in data:
            height += _words(data["text/markdown"])
        else:
            height += CODE * (1 + data.get("text/plain", "").count("\n"))
    return height


def _words(text: str) -> int:
    """Estimate the pixels of Markdown: 80 letters a line, and a heading as two."""
    lines = text.strip().splitlines()
    return sum(WORDS * (1 + len(line) // 80 + line.startswith("#")) for line in lines)


def _apart(cell: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Cut words at headings, and many outputs of hidden code below each table."""
    parts: list[dict[str, Any]] = [{}]
    if cell.cell_type == "markdown":
        kept = (text for text in cell.source.split("\n\n") if not text.startswith(UNSAID))
        parts = [{"source": text} for text in re.split(r"\n\n(?=#)", "\n\n".join(kept))]
    elif "transient" in cell.metadata and len(cell.outputs) > 2:
        parts = [{"source": "", "outputs": some} for some in _by_table(cell.outputs)]
    for number, changed in enumerate(parts):
        part = copy.deepcopy(cell)
        part.update(changed, id=f"{cell.id}-{number}")
        yield part


def _by_table(outputs: list[nbformat.NotebookNode]) -> Iterator[list[nbformat.NotebookNode]]:
    """Group each table with the title above it."""
    some: list[nbformat.NotebookNode] = []
    for output in outputs:
        some.append(output)
        if "|" in output.get("data", {}).get("text/markdown", ""):
            yield some
            some = []
    if some:
        yield some


def _shown(cell: nbformat.NotebookNode, checks: Sequence[Check]) -> str:
    """Words, a figure, a sentence that the notebook computed, other code, or nothing."""
    if cell.cell_type == "markdown":
        return "words"
    if cell.outputs and cell.source.startswith("course."):
        cell.metadata["transient"] = {"remove_source": True}  # a figure, not a lesson in code
    if any("image/png" in output.get("data", {}) for output in cell.outputs):
        return "figure"
    hidden = "transient" in cell.metadata
    if cell.outputs:
        said = "".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
        return "sentence" if hidden and said and "|" not in said else "code"
    return "code" if exercise_in(cell, checks) else "nothing"
