"""rvlib.course.slides: which cells share a slide."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rvlib.course.slides import as_slides

HIDDEN = {"jupyter": {"source_hidden": True}}
FIGURE = {"image/png": "", "text/plain": "a figure"}
TABLE = "| a |\n|---|\n| 1 |"


def said(*texts):
    outputs = [new_output("display_data", {"text/markdown": text}) for text in texts]
    return new_code_cell("course.say()", outputs=outputs, metadata=HIDDEN)


def code(source="f()", data=FIGURE):
    return new_code_cell(source, outputs=[new_output("display_data", data)])


def slides(*cells):
    """Letters of the cells of each slide: Words, Code or a computed sentence or table."""
    found: list[str] = []
    for cell in as_slides(new_notebook(cells=list(cells)), "toy").cells:
        kind = cell.metadata["slideshow"]["slide_type"]
        letter = "w" if cell.cell_type == "markdown" else "s" if said_by(cell) else "c"
        if kind == "-":
            found[-1] += letter
        elif kind != "skip":
            found.append(letter)
    return found


def said_by(cell):
    return any("text/markdown" in output.data for output in cell.outputs)


WORDS = new_markdown_cell("We measure it:")
LONG = new_markdown_cell("Long. " * 300)
MANY = "pass\n" * 24


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([WORDS, code()], ["wc"]),
        ([WORDS, code(), said("It is so.")], ["wcs"]),
        ([WORDS, code("course.source(f)", {"text/plain": "pass"})], ["wc"]),
        ([WORDS, said(TABLE), said("It is so.")], ["wss"]),
        ([WORDS, LONG], ["w", "w"]),
        ([LONG, code()], ["w", "c"]),
        ([WORDS, code(MANY)], ["w", "c"]),
        ([new_markdown_cell("Text.\n\n## Exercises"), LONG], ["w", "ww"]),
        ([new_markdown_cell("## Limits\n\nText.\n\n## The code that runs"), code()], ["w", "wc"]),
        ([new_markdown_cell("## A heading"), code(MANY)], ["wc"]),  # never alone
        ([said("One:", TABLE, "Two:", TABLE)], ["s", "s"]),
        ([new_code_cell("x = 1"), new_markdown_cell("")], ["w"]),
    ],
)
def test_what_shares_a_slide(cells, expected):
    assert slides(*cells) == expected


def test_what_is_for_who_runs_the_notebook_is_left_out():
    cell = new_markdown_cell("# Title\n\nText.\n\n*Time: a minute.*\n\n*On Colab, once:* ...")
    (shown,) = as_slides(new_notebook(cells=[cell]), "toy").cells
    assert shown.source == "# Title\n\nText."
