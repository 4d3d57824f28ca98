"""The static pages: front door, playground, notebooks, report and API, for who has no kernel."""

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from math_core import LatexError
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from rvlib.pipeline import Run, repository
from rvlib.report import front
from rvlib.report.front import Entry, Page
from rvlib.report.notebooks import source_digest, without_injected
from rvlib.report.playground import playground
from rvlib.report.reference import MATH, write_reference

# What a page can show of an output, the richest first: a live widget is no part of it.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "text/plain"]

HOME = Page("index.html", "Overview", "Robust image classifiers: seven notebooks and a report")
PLAYGROUND = Page(
    "playground.html",
    "Playground",
    "Playground: attack a network, live in this page",
    "Attack a picture of your own, or let noisy copies of it vote: computed in the browser, "
    "nothing is sent, nothing is loaded.",
    alt="The playground: an undefended network is fooled, an adversarially trained one is not.",
)
REPORT = [
    Page("report.html", "Report", "The report", "Every table and figure, from stored rows."),
    Page("report.pdf", "PDF", "The report, to print", "The same as a PDF."),
]
REFERENCE = Page(
    "api/index.html",
    "API",
    "API reference",
    "Every public function: its arguments, shapes, errors and examples.",
)
OWN = Page(
    "bring-your-own.html",
    "Bring your own",
    "Bring your own",
    "An attack, a norm, a network, a data set, a defence: a complete example of each.",
)
DOCS = {
    "bring-your-own.md": OWN,
    "scale.md": Page(
        "scale.html",
        "Scale",
        "Beyond one machine",
        "Training and measuring by many GPUs: torchrun, SLURM, Kubernetes.",
    ),
    "teaching/README.md": Page(
        "teaching.html",
        "Teaching",
        "Teaching with these notebooks",
        "A lecture, a lab, grading, and answers to what goes wrong.",
    ),
    "teaching/places.md": Page(
        "places.html",
        "Places",
        "Where a class can run this",
        "A room without internet, a JupyterHub, Windows, Colab.",
    ),
    "teaching/quiz.md": Page(
        "quiz.html", "Quiz", "A quiz for every notebook", "Five questions each, with answers."
    ),
    "playground.md": Page(
        "playground-help.html",
        "Help",
        "About the playground",
        "What it can do, and how its arithmetic is tested.",
    ),
}
INSTALL = Entry(
    "Install rvlib", HOME.name, f"{HOME.file}#install", "How to get it: make report, make test."
)
COLAB = r"(?m)^\*On Colab, once:.*\n?"


def build_site(run: Run) -> Path:
    """Write playground, notebooks, report and API as pages that need no kernel and no network.

    Parameters
    ----------
    run : Run
        Its executed notebooks and its report are shown; where it has none, the shipped ones.

    Returns
    -------
    Path
        The first page, ``build/site/index.html``.  What an earlier call wrote there is gone.

    Raises
    ------
    ValueError
        If an equation or a docstring cannot be shown; names it, and where it stands.
    """
    root, site = repository(), run.out.parent / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    notebooks = {
        front.card(path.stem, found): found
        for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))
        for found in [without_plumbing(latest(path, run.out))]
    }
    report = _report(run.out, root / "report")
    more = [*(REPORT if report else []), REFERENCE]
    menu = [HOME, PLAYGROUND, *notebooks, *more, OWN]
    writer = exporter(HTMLExporter, "site", root / "report")

    def resources(page: Page) -> dict[str, Any]:
        return {"pages": menu, "page": page, "elsewhere": front.elsewhere(page)}

    def fill(template: str, page: Page, **parts: Any) -> str:
        made = writer.environment.get_template(template)
        return str(made.render(title=page.title, resources=resources(page), **parts))

    def write(page: Page, text: str, words: str = "") -> list[Entry]:
        (site / page.file).write_text(text, encoding="utf-8")
        return [front.entry(page, words), *front.headings(page, text)]

    index = [INSTALL, *write(PLAYGROUND, playground(HOME.file))]
    for page, notebook in notebooks.items():
        index += write(page, _html(writer, notebook, resources(page)), front.about(notebook))
    if report:
        page, pdf = REPORT
        shutil.copy2(report / pdf.file, site)
        text = (report / page.file).read_text(encoding="utf-8")
        text = text.replace("<body>", fill("report.html.j2", page), 1)
        index += write(page, text.replace("</body>", "</main></body>"))
    for source, page in DOCS.items():
        body = markdown((root / "docs" / source).read_text(encoding="utf-8"))
        index += write(page, fill("page.html", page, body=body))
    index += [front.entry(REFERENCE), *front.api_entries("api")]
    context = {"resources": resources(REFERENCE), "up": "../"}
    write_reference(site / "api", root / "report" / "site", context)
    picture = base64.b64encode((root / "docs" / "playground.png").read_bytes()).decode()
    cards = {"playground": PLAYGROUND._replace(picture=picture), "notebooks": list(notebooks)}
    more += DOCS.values()
    write(HOME, fill("home.html.j2", HOME, more=more, index=front.as_json(index), **cards))
    return site / HOME.file


def _html(writer: HTMLExporter, notebook: nbformat.NotebookNode, resources: dict[str, Any]) -> str:
    """Write a notebook as HTML; an equation that cannot be shown is named with its page."""
    page = resources["page"]
    notebook.metadata["title"] = page.title
    try:
        return str(writer.from_notebook_node(notebook, resources)[0])
    except LatexError as error:
        raise ValueError(f"{Path(page.file).stem}: {error}") from None


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
    """Leave out the sources that are collapsed in JupyterLab, and Colab's line; outputs stay."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # The menu has its address, if there is one.
            cell.source = re.sub(COLAB, "", cell.source).rstrip()
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
        if hidden or "hide-input" in cell.metadata.get("tags", []):
            cell.metadata["transient"] = {"remove_source": True}  # nbconvert's own mark
    return notebook


def _report(*folders: Path) -> Path | None:
    """Find the first folder with a report."""
    found = (f for f in folders if all((f / page.file).exists() for page in REPORT))
    return next(found, None)


def address_of(file: str) -> str:
    """Find the page that is made of a notebook or a file of ``docs/``; "" if none is."""
    if re.fullmatch(r"\d\d_\w+\.ipynb", file):
        return file.replace(".ipynb", ".html")
    name = file.lstrip("./")
    return next((page.file for source, page in DOCS.items() if source.endswith(name)), "")


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
    """Loads nothing: equations are MathML, badges their alternative text; links lead to pages."""

    def block_math(self, body: str) -> str:
        return MATH.convert_with_local_state(body, displaystyle=True)

    def inline_math(self, body: str) -> str:
        return MATH.convert_with_local_state(body, displaystyle=False)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text if "://" in url else super().image(text, url, title)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file, mark, anchor = url.partition("#")
        if "://" in url or not file:
            return super().link(text, url, title)
        page = address_of(file)
        return super().link(text, page + mark + anchor, title) if page else text
