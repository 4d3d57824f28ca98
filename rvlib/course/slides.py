"""Slides of the notebooks: reveal.js in the page, explorers with their sliders, no request."""

import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

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

LONG = 300
"""Letters of a sentence that has a slide of its own."""


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

    A heading alone is joined by what follows it, a figure by a short sentence that reads it.

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
    checks = {check.name: check for check in NOTEBOOKS.get(stem, ())}
    notebook = without_plumbing(student_version(notebook, checks))
    notebook.cells = [part for cell in notebook.cells for part in _apart(cell)]
    joins = ""  # what the next cell may be to stand on the slide of the one before
    for cell in notebook.cells:
        shown = _shown(cell, checks)
        if shown == "nothing":
            kind = "skip"
        elif joins in ("anything", shown):
            kind, joins = "-", ""
        else:
            kind = "slide" if cell.source.startswith("#") and shown == "words" else "subslide"
            joins = "sentence" if shown == "figure" else ""
            heading = cell.source.startswith("#") and "\n" not in cell.source
            if heading or shown == "title":
                joins = "anything"
        cell.metadata["slideshow"] = {"slide_type": kind}
    return notebook


def _apart(cell: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Several tables of a cell whose code is hidden do not fit on one slide."""
    if cell.cell_type == "markdown" or "transient" not in cell.metadata or len(cell.outputs) < 3:
        yield cell
        return
    for number, output in enumerate(cell.outputs):
        part = copy.deepcopy(cell)
        part.id, part.source, part.outputs = f"{cell.id}-{number}", "", [output]
        yield part


def _shown(cell: nbformat.NotebookNode, checks: Mapping[str, Check]) -> str:
    """Words, a figure, a title, a sentence that the notebook computed, other code, or nothing."""
    if cell.cell_type == "markdown":
        return "words"
    if cell.outputs and cell.source.startswith("course."):
        cell.metadata["transient"] = {"remove_source": True}  # a figure, not a lesson in code
    if any("image/png" in output.get("data", {}) for output in cell.outputs):
        return "figure"
    hidden = "transient" in cell.metadata
    if cell.outputs:
        said = "".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
        if hidden and not cell.source and "|" not in said:
            return "title"  # of the table that comes next
        return "sentence" if hidden and len(said) < LONG else "code"
    return "code" if exercise_in(cell.source, checks) else "nothing"
