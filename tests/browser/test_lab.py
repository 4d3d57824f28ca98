"""Each notebook in a real JupyterLab: it runs, and its explorer follows the hand."""

import re
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

from rvlib.stages.run import repository
from tests.browser.hand import Hand, Knob, walk

FACE = "live"
NOTEBOOKS = [
    path.name
    for path in sorted((repository() / "notebooks").glob("[0-9]*.ipynb"))
    if "explore_" in path.read_text()
]

pytestmark = [pytest.mark.browser, pytest.mark.slow]

READY = """() => window.jupyterapp?.shell.currentWidget
  ?.sessionContext?.session?.kernel?.status === "idle" """

# The notebook's own model says whether it ran: the page shows warnings and errors alike.
RAN = """() => {
  const panel = jupyterapp.shell.currentWidget;
  const cells = panel.content.model.toJSON().cells
    .filter(cell => cell.cell_type === "code" && [cell.source].flat().join("").trim());
  const error = cells.flatMap(cell => cell.outputs).find(o => o.output_type === "error");
  if (error) return `${error.ename}: ${error.evalue}`;
  return cells.every(cell => cell.execution_count)
    && panel.sessionContext.session?.kernel?.status === "idle" && "ran";
}"""

# Scrolls to the top; how high the notebook is.
TOP = """() => {
  const panel = document.querySelector(".jp-NotebookPanel .jp-WindowedPanel-outer");
  panel.scrollTop = 0;
  return panel.scrollHeight;
}"""

WIDTH, HEIGHT = 1200, 1000

BROKEN = "Click to show javascript error"

# Explorer and knob, a number of its sentence, and which way the number goes with the knob.
DIRECTIONS = {
    ("fgsm", "eps"): (r"gives the true class, \w+, ([\d.]+)%", -1),
    ("certification", "n"): (r"p is at least ([\d.]+)", 1),
}


@dataclass(frozen=True)
class Opened:
    """A notebook that was run in Lab, and the hands on its explorers."""

    name: str
    page: Page
    outcome: str
    hands: list[Hand]


@contextmanager
def ran(browser, address, name):
    """Open a notebook and run all of it; its kernel is ended afterwards."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_function(READY)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    outcome = page.wait_for_function(RAN, timeout=300_000).json_value()
    yield Opened(name, page, outcome, hands(page))
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


@pytest.fixture(scope="module", params=NOTEBOOKS)
def opened(request, browser, lab):
    """Run a notebook in JupyterLab, without the list of files beside it."""
    with ran(browser, lab(request.param), request.param) as opened:
        opened.page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
        yield opened


def hands(page):
    """Find the explorers of a page by their class, and their knobs by theirs."""
    found = []
    for root in page.locator("[class*='explorer-']").all():
        name = re.findall(r"\bexplorer-(\w+)", root.get_attribute("class"))[0]
        knobs = []
        for row in root.locator(f"[class*='{name}-']").all():
            knob = re.findall(rf"(?<![\w-]){name}-(\w+)", row.get_attribute("class"))
            if knob:
                knobs.append(Knob(knob[0], row.locator(".noUi-handle")))
        found.append(Hand(page, name, root, knobs))
    return found


def test_it_runs_without_an_error(opened):
    assert opened.outcome == "ran"
    assert BROKEN not in opened.page.inner_text("body")
    assert opened.hands
    for hand in opened.hands:
        assert hand.knobs
        picture, words = hand.look()
        assert picture.startswith("data:image/png;base64,")
        assert hand.root.locator("img").get_attribute("alt") == words


def test_its_screenshots_are_kept(opened, artefacts):
    stem = opened.name.partition(".")[0]
    for hand in opened.hands:
        hand.root.screenshot(path=artefacts / f"{stem}-{hand.name}.png")
    height = opened.page.evaluate(TOP)
    opened.page.set_viewport_size({"width": WIDTH, "height": min(height + 150, 16_000)})
    opened.page.screenshot(path=artefacts / f"{stem}.png")
    opened.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def test_every_knob_moves_the_picture_and_the_sentence(opened, latencies):
    for hand in opened.hands:
        hand.root.scroll_into_view_if_needed()
        for knob in hand.knobs:
            for kind, times in walk(hand, knob).items():
                if times:
                    latencies[f"{hand.name} {knob.name}"][kind] += times


def test_the_numbers_move_the_right_way(opened):
    for hand in opened.hands:
        for knob in hand.knobs:
            if (hand.name, knob.name) in DIRECTIONS:
                number, sign = DIRECTIONS[hand.name, knob.name]
                start = knob.position
                ends = []
                for position in (0, knob.last):
                    hand.put(knob, position)
                    ends.append(float(re.findall(number, hand.look()[1])[0]))
                assert sign * (ends[1] - ends[0]) > 0, (hand.name, knob.name, ends)
                hand.put(knob, start)


def test_in_notebook_7(browser, lab, artefacts):
    name = NOTEBOOKS[0]
    with ran(browser, lab(name, "notebooks"), name) as opened:
        assert opened.outcome == "ran"
        (hand,) = opened.hands
        hand.root.scroll_into_view_if_needed()
        opened.page.screenshot(path=artefacts / "notebook-7.png")
        for knob in hand.knobs:
            walk(hand, knob)


def test_what_plays_ends_at_its_last_value(opened):
    for hand in opened.hands:
        for buttons in hand.root.locator(".widget-play").all():
            knob = next(knob for knob in hand.knobs if knob.name == "step")
            hand.put(knob, 0)
            buttons.locator("button").first.click()
            hand.wait_for_words(f"after {knob.last} steps")
            assert knob.position == knob.last
    assert opened.name != "02_pgd.ipynb" or opened.page.locator(".widget-play").count() == 1
