"""The API reference: a page for each group of public names, from their docstrings, by Sphinx."""

import importlib
import inspect
import io
import pkgutil
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import docutils_namespace, patch_docutils

import rvlib

MATH = LatexToMathML(fancy_error=False)

SETTINGS = {
    "extensions": ["sphinx.ext.autodoc", "numpydoc", __name__],
    "html_theme": "basic",
    "html_math_renderer": "mathml",
    "default_role": "literal",  # `x` is a parameter
    "autodoc_typehints": "none",  # the docstrings say more: shapes, ranges, units
    "numpydoc_show_class_members": False,
}


MEMBERS = [
    *["   :members:", "   :inherited-members: Module, Protocol, tuple"],
    "   :exclude-members: log",  # a field of Run, whose default is Python's own print
]


class Name(NamedTuple):
    """One public name.

    Parameters
    ----------
    name : str
        The name, without ``rvlib``.
    group : str
        The module or package that it belongs to.
    text : str
        Its documentation.
    """

    name: str
    group: str
    text: str

    @property
    def summary(self) -> str:
        """The first paragraph of the documentation, as reStructuredText without references."""
        first, *_ = self.text.split("\n\n")
        return re.sub(r" ?\[\d\]_", "", " ".join(first.split()))

    @property
    def address(self) -> str:
        """Where it is described, from the folder of the reference."""
        return f"{self.group}.html#rvlib.{self.name}"


def public_names() -> list[Name]:
    """List what ``import rvlib`` gives, group by group."""
    return [
        Name(name, group, _documentation(name, group))
        for group, names in rvlib._PUBLIC.items()
        for name in names
    ]


def write_reference(out: Path, templates: Path, context: dict[str, Any]) -> None:
    """Write ``index.html`` and a page for each group.

    Parameters
    ----------
    out : Path
        Folder of the pages; made.
    templates : Path
        Folder of ``page.html``.
    context : dict
        What that template needs besides title and body.

    Raises
    ------
    ValueError
        If Sphinx warns of a docstring; says of which, and why.
    """
    names = public_names()
    sources = {"index": _index(names)}
    for group in rvlib._PUBLIC:
        sources[group] = _group(group, [name for name in names if name.group == group])
    warnings = io.StringIO()
    settings = SETTINGS | {"templates_path": [str(templates)], "html_context": context}
    with tempfile.TemporaryDirectory() as scratch, patch_docutils(), docutils_namespace():
        source, html = Path(scratch, "source"), Path(scratch, "html")
        source.mkdir()
        for stem, text in sources.items():
            (source / f"{stem}.rst").write_text(text, encoding="utf-8")
        app = Sphinx(
            *(source, None, html, Path(scratch, "doctrees"), "html"),
            confoverrides=settings,
            status=None,
            warning=warnings,
        )
        app.build()
        if found := warnings.getvalue():
            first = re.sub(r"\x1b\[.*?m", "", found.strip()).partition("\n")[0]
            raise ValueError(f"the API reference cannot be made: {first}")
        out.mkdir(parents=True, exist_ok=True)
        for stem in sources:  # not Sphinx's own search page, scripts and fonts
            shutil.copy2(html / f"{stem}.html", out)


def _documentation(name: str, group: str) -> str:
    """Docstring of a function or class, or the text at the definition of a value."""
    value = getattr(rvlib, name)
    if inspect.isroutine(value) or inspect.isclass(value):
        return inspect.getdoc(value) or ""
    home = importlib.import_module(f"rvlib.{group}")
    parts = pkgutil.iter_modules(getattr(home, "__path__", []), f"{home.__name__}.")
    for module in (home.__name__, *(part.name for part in parts)):
        if lines := ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name)):
            return "\n".join(lines).strip()
    return ""


def title_of(group: str) -> str:
    """Name a group as a heading does: ``Threat models``."""
    return group.replace("_", " ").capitalize()


def _heading(text: str) -> list[str]:
    return [text, "=" * len(text), ""]


def _index(names: list[Name]) -> str:
    lines = [*_heading("API reference"), ".. currentmodule:: rvlib", ""]
    for group in rvlib._PUBLIC:
        first = (importlib.import_module(f"rvlib.{group}").__doc__ or "").partition("\n")[0]
        listed = ", ".join(f":py:obj:`{n.name}`" for n in names if n.group == group)
        lines += [f":doc:`{title_of(group)} <{group}>`", f"   {first}", "", f"   {listed}", ""]
    lines += [".. toctree::", "   :hidden:", "", *(f"   {group}" for group in rvlib._PUBLIC)]
    return "\n".join(lines)


def _group(group: str, names: list[Name]) -> str:
    lines = [*_heading(title_of(group)), f".. automodule:: rvlib.{group}", ""]
    lines += [".. currentmodule:: rvlib", ""]
    lines += [f"* :py:obj:`{name.name}`: {name.summary}" for name in names]
    for name in names:
        lines += ["", *_entry(name)]
    return "\n".join(lines)


def _entry(name: Name) -> list[str]:
    value = getattr(rvlib, name.name)
    if inspect.isclass(value):
        return [f".. autoclass:: {name.name}", *MEMBERS]
    if inspect.isroutine(value):
        return [f".. autofunction:: {name.name}"]
    return [f".. py:data:: {name.name}", "", *(f"   {line}" for line in name.text.split("\n"))]


# --- Sphinx calls these. --------------------------------------------------------------------------


def setup(app: Sphinx) -> None:
    """Make equations MathML, which needs no script and no font; name functions by their names."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    app.connect("autodoc-process-signature", _named_functions)


def _named_functions(*given: Any) -> tuple[str | None, str | None]:
    """Write a default as ``log_odds``; Sphinx's own way to do so changes the functions."""
    *_, signature, returned = given
    return signature and re.sub(r"<function (\w+)>", r"\1", signature), returned


def _visit_inline(translator: Any, node: nodes.math) -> None:
    _write(translator, node, node.astext(), displaystyle=False)


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    text = node.astext()
    if r"\\" in text:  # several lines, as Sphinx lets one write them
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    _write(translator, node, text, displaystyle=True)


def _write(translator: Any, node: nodes.Node, text: str, displaystyle: bool) -> None:
    try:
        translator.body.append(MATH.convert_with_local_state(text, displaystyle=displaystyle))
    except LatexError as error:
        logging.getLogger(__name__).warning(str(error), location=node)
    raise nodes.SkipNode
