"""The front door of the site: a card for every notebook, and what its search box looks through."""

import html
import json
import re
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import nbformat

from rvlib.report.reference import public_names, title_of


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
    text : str, default=""
        A sentence for its card on the first page.
    picture, alt : str, default="", ""
        The card's picture, a PNG in base64, and its alternative text.
    """

    file: str
    name: str
    title: str
    text: str = ""
    picture: str = ""
    alt: str = ""


class Entry(NamedTuple):
    """What the search finds: a page, a heading or a public name, with its address."""

    title: str
    place: str
    address: str
    text: str = ""


def title(notebook: nbformat.NotebookNode) -> str:
    """Read the title: the heading in the first line."""
    return str(notebook.cells[0].source).partition("\n")[0].lstrip("# ")


def about(notebook: nbformat.NotebookNode) -> str:
    """Read the first paragraph below the title, as words without markup."""
    _, *paragraphs = notebook.cells[0].source.split("\n\n")
    first = " ".join(paragraphs[0].split()) if paragraphs else ""
    return re.sub(r"\[(.*?)\]\(.*?\)|[*`$]", r"\1", first)


def card(stem: str, notebook: nbformat.NotebookNode) -> Page:
    """Make a notebook's page: its question, what it takes, the first frame of its explorer.

    Parameters
    ----------
    stem : str
        Name of its file without the suffix.
    notebook : NotebookNode
        Its first cell says ``*Time: ...*``; without outputs there is no picture.

    Returns
    -------
    Page
        For the menu and the first page.
    """
    time = re.search(r"\*(Time: .+?\.)[ *]", notebook.cells[0].source)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    first = next((o for o in outputs if "image/png" in o.get("data", {})), None)
    return Page(
        f"{stem}.html",
        stem.replace("_", " "),
        title(notebook),
        time[1] if time else "",
        first.data["image/png"].replace("\n", "") if first else "",
        first.metadata.get("image/png", {}).get("alt", "") if first else "",
    )


def elsewhere(page: Page) -> dict[str, str]:
    """Find where else a page is: ``[project.urls]`` of pyproject.toml, as far as it is set.

    Parameters
    ----------
    page : Page
        The page.

    Returns
    -------
    dict of str to str
        Names and addresses: the repository, and for a notebook, in whose folder the others end,
        Colab and Binder.
    """
    lines = metadata.metadata("rvlib").get_all("Project-URL") or []
    found = dict(line.split(", ", 1) for line in lines)
    own = {}
    if notebook := re.fullmatch(r"(\d\d_\w+)\.html", page.file):
        file = f"{notebook[1]}.ipynb"
        own = {f"Open in {k}": found[k] + file for k in ("Colab", "Binder") if k in found}
    return {k: v for k, v in found.items() if k == "Repository"} | own


def entry(page: Page, text: str = "") -> Entry:
    """Let a page be found by its title, its name, and its card's words or others."""
    return Entry(page.title, page.name, page.file, text or page.text)


def headings(page: Page, text: str) -> Iterator[Entry]:
    """Find the headings of a page of HTML, all but its title, each with the link to itself."""
    pattern = r'<h[23] id="[^"]*">(.*?)<a class="anchor-link" href="([^"]*)"'
    for heading, anchor in re.findall(pattern, text, flags=re.S):
        words = html.unescape(re.sub("<.*?>", "", heading))
        yield Entry(words, page.title, page.file + html.unescape(anchor))


def api_entries(folder: str) -> Iterator[Entry]:
    """List the public names with their parameters and first lines, as words without markup."""
    for name in public_names():
        own, *_ = name.text.partition("See Also")
        takes = ", ".join(re.findall(r"^(\*?\w[\w, ]*) : ", own, flags=re.M))
        words = re.sub(r"[:,]? ?:math:`.*?`|`", "", name.summary)
        words += f" Takes {takes}." if takes else ""
        yield Entry(f"rv.{name.name}", title_of(name.group), f"{folder}/{name.address}", words)


def as_json(entries: list[Entry]) -> str:
    """Write entries as JSON that may stand inside a script element."""
    listed = [entry._asdict() for entry in entries]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
