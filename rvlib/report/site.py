"""The static pages: playground, executed notebooks and report, for a reader without a kernel."""

import shutil
from pathlib import Path
from typing import NamedTuple

import nbformat
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from rvlib.pipeline import Run, repository
from rvlib.report.notebooks import source_digest, without_injected
from rvlib.report.playground import playground

TITLE = "Robust image classifiers: seven notebooks and a report"

# What a page can show of an output, the richest first: a live widget is no part of it.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "text/plain"]

MATH = LatexToMathML(fancy_error=False)


class Page(NamedTuple):
    """One page.

    Parameters
    ----------
    file : str
        Its file.
    name : str
        What the other pages' menu calls it.
    title : str
        Its title.
    """

    file: str
    name: str
    title: str


def build_site(run: Run, root: Path | None = None) -> Path:
    """Write playground, notebooks and report as pages that need no kernel and no network.

    Parameters
    ----------
    run : Run
        Its executed notebooks and its report are shown; where it has none, the shipped ones.
    root : Path, default=``repository()``
        The folder that holds ``notebooks/`` and ``report/``.

    Returns
    -------
    Path
        The first page, ``build/site/index.html``.  What an earlier call wrote there is gone.

    Raises
    ------
    ValueError
        If an equation cannot be shown; names the notebook and the equation.
    """
    root = root or repository()
    site = run.out.parent / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    notebooks = {
        path.stem: without_plumbing(latest(path, run.out))
        for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    }
    pages = [
        Page("index.html", "Overview", TITLE),
        Page("playground.html", "Playground", "Playground: attack a network, live in this page"),
        *(
            Page(f"{stem}.html", stem.replace("_", " "), title(nb))
            for stem, nb in notebooks.items()
        ),
        *_report(run.out, root / "report", site),
    ]
    writer = exporter(HTMLExporter, "site", root / "report")
    for page, (stem, notebook) in zip(pages[2:], notebooks.items(), strict=False):
        notebook.metadata["title"] = page.title
        try:
            text, _ = writer.from_notebook_node(notebook, {"pages": pages, "page": page})
        except LatexError as error:
            raise ValueError(f"{stem}: {error}") from None
        (site / page.file).write_text(text)
    text = playground(root, home=pages[0].file)
    (site / pages[1].file).write_text(text, encoding="utf-8")
    home = writer.environment.get_template("home.html.j2")
    text = home.render(resources={"pages": pages, "page": pages[0]})
    (site / pages[0].file).write_text(text)
    return site / pages[0].file


def latest(path: Path, out: Path) -> nbformat.NotebookNode:
    """Read the executed copy of a notebook if it is of the same cells, else the notebook itself.

    Parameters
    ----------
    path : Path
        The notebook.
    out : Path
        Folder of a run.

    Returns
    -------
    NotebookNode
        Without the cell that handed over the parameters.
    """
    shipped, executed = nbformat.read(path, 4), out / "notebooks" / path.name
    if not executed.exists():
        return shipped
    found = without_injected(nbformat.read(executed, 4))
    return found if source_digest(found) == source_digest(shipped) else shipped


def without_plumbing(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out the sources that are collapsed in JupyterLab; their outputs stay."""
    for cell in notebook.cells:
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
        if hidden or "hide-input" in cell.metadata.get("tags", []):
            cell.metadata["transient"] = {"remove_source": True}  # nbconvert's own mark
    return notebook


def title(notebook: nbformat.NotebookNode) -> str:
    """Read the title: the heading in the first line."""
    return str(notebook.cells[0].source).partition("\n")[0].lstrip("# ")


def _report(out: Path, shipped: Path, site: Path) -> list[Page]:
    """Copy the report of the run; if it has none, the shipped one."""
    for folder in (out, shipped):
        files = [folder / "report.html", folder / "report.pdf"]
        if all(file.exists() for file in files):
            for file in files:
                shutil.copy2(file, site)
            return [
                Page("report.html", "Report", "The report"),
                Page("report.pdf", "PDF", "The report, to print"),
            ]
    return []


def exporter(kind: type[HTMLExporter], template: str, templates: Path) -> HTMLExporter:
    """Make an exporter of pages that load nothing.

    Parameters
    ----------
    kind : type
        ``HTMLExporter`` or a class derived from it.
    template : str
        Name of the template.
    templates : Path
        Its folder.

    Returns
    -------
    HTMLExporter
        Writes equations as MathML.
    """
    made = kind(
        template_name=template,
        extra_template_basedirs=[str(templates)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}),
    )
    made.register_filter("markdown2html", markdown)
    return made


def markdown(text: str) -> str:
    """Turn a notebook's Markdown into HTML that needs no script.

    Parameters
    ----------
    text : str
        Markdown with equations in dollars.

    Returns
    -------
    str
        HTML with equations as MathML.

    Raises
    ------
    LatexError
        If an equation has a command that is not known.
    """
    return str(MarkdownWithMath(renderer=_Renderer(escape=False)).render(text))


class _Renderer(IPythonRenderer):
    """Loads nothing: equations are MathML, badges become their alternative text."""

    def block_math(self, body: str) -> str:
        return MATH.convert_with_local_state(body, displaystyle=True)

    def inline_math(self, body: str) -> str:
        return MATH.convert_with_local_state(body, displaystyle=False)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text if "://" in url else super().image(text, url, title)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        page = url if "://" in url else url.replace(".ipynb", ".html")
        return super().link(text, page, title)
