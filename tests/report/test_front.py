"""rvlib.report.front: cards of the notebooks, and what the search looks through."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import rvlib as rv
from rvlib.pipeline import repository
from rvlib.report.front import Entry, Page, about, api_entries, as_json, card, headings
from rvlib.report.site import markdown

PICTURES = [
    new_output("stream", text="words"),
    new_output("display_data", {"text/plain": "no picture"}),
    new_output("display_data", {"image/png": "iVB\nORw\n"}, metadata={"image/png": {"alt": "a"}}),
    new_output("display_data", {"image/png": "later"}),
]


def test_a_card_has_question_time_and_first_picture():
    first = "# 01 · How *far*?\n\nIn 1.5 steps.\n\n*Time: about 1.5 min. The rest takes hours.*"
    code = new_code_cell("explore()", outputs=PICTURES)
    made = card("01_a_b", new_notebook(cells=[new_markdown_cell(first), code]))
    time = "Time: about 1.5 min."
    assert made == Page("01_a_b.html", "01 a b", "01 · How *far*?", time, "iVBORw", "a")


def test_the_search_knows_a_notebook_by_its_first_paragraph():
    first = "# 01 · How *far*?\n\n*Words* of `code`, of\n[links](a.ipynb).\n\n*Time: long.*"
    assert about(new_notebook(cells=[new_markdown_cell(first)])) == "Words of code, of links."
    assert about(new_notebook(cells=[new_markdown_cell("# 02")])) == ""


@pytest.mark.parametrize("path", sorted((repository() / "notebooks").glob("[0-9]*.ipynb")))
def test_each_notebook_says_what_it_takes(path):
    made = card(path.stem, nbformat.read(path, 4))
    assert re.match(r"Time: about .* (second|minute)", made.text)
    assert made.title.endswith("?")
    assert bool(made.alt) == bool(made.picture)


def test_headings_are_found_with_the_links_that_the_page_has():
    text = markdown("# Title\n\n## Of ε & <i>*more*</i>\n\n### $\\sigma$\n\n#### Detail")
    found = list(headings(Page("a.html", "a", "A"), text))
    assert [entry.title for entry in found] == ["Of ε & more", "σ"]
    for entry in found:
        assert entry.place == "A"
        file, anchor = entry.address.split("#")
        assert file == "a.html"
        assert f'id="{anchor.replace("&", "&amp;")}"' in text


def test_every_public_name_is_found_with_its_first_line():
    found = list(api_entries("api"))
    assert [entry.title for entry in found] == [f"rv.{name}" for name in rv.__all__[:-1]]
    assert all(re.fullmatch(r"[^`\\]{15,}", entry.text) for entry in found)
    wanted = "api/smoothing.html#rvlib.ABSTAIN"
    (abstain,) = [entry for entry in found if entry.title == "rv.ABSTAIN"]
    assert (abstain.place, abstain.address) == ("Smoothing", wanted)
    assert abstain.text.startswith("The answer of a vote that is too close to call. It never")
    assert all(entry.text[-1] in ".?" for entry in found)  # also where it takes two lines
    (wilson,) = [entry for entry in found if entry.title == "rv.wilson"]
    assert wilson.text.endswith("share. Takes correct, n, confidence.")  # found, too
    assert not any(re.search(r",[.,]", entry.text) for entry in found)  # where equations were


def test_no_heading_ends_the_script_that_it_stands_in():
    entries = [Entry("</script><b>", "ε", "a.html#b")]
    assert "<" not in as_json(entries)
    assert [Entry(**entry) for entry in json.loads(as_json(entries))] == entries
