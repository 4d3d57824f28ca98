"""The static pages from disk: twins follow the hand, and nothing is asked for from anywhere."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from playwright.sync_api import Page

from rvlib.course.twin import Control, Frame, twin
from rvlib.report.site import build_site
from rvlib.stages.run import Run, repository
from tests.browser.hand import Hand, Knob, walk

FACE = "twin"
NOTEBOOKS = sorted((repository() / "notebooks").glob("[0-9]*.ipynb"))
WIDTH, HEIGHT = 1200, 1000

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass(frozen=True)
class Watched:
    """A page, with what it asked for and what went wrong on it."""

    page: Page
    asked: list[str]
    wrong: list[str]

    def go(self, path) -> list[Hand]:
        """Open a file; the hands on its twins."""
        self.page.goto(path.as_uri())
        return list(hands(self.page))

    def assert_quiet(self) -> None:
        assert self.wrong == []
        assert {url.partition(":")[0] for url in self.asked} <= {"file", "data", "blob"}


@pytest.fixture(scope="module")
def site():
    """Build the site, as `make site` does."""
    return build_site(Run.open("course", "cpu")).parent


@pytest.fixture
def watched(browser):
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
    watched = Watched(page, [], [])
    page.on("request", lambda request: watched.asked.append(request.url))
    page.on("pageerror", lambda error: watched.wrong.append(str(error)))
    page.on("console", lambda m: watched.wrong.append(m.text) if m.type == "error" else None)
    yield watched
    page.close()


def hands(page) -> Iterator[Hand]:
    """Find the twins of a page by their class, and their knobs by their labels."""
    for root in page.locator("figure.twin").all():
        name = re.findall(r"\btwin-(\w+)", root.get_attribute("class"))[0]
        rows = root.locator("label", has=page.locator("input:not([type=hidden]), select")).all()
        knobs = [
            Knob(row.locator("span").inner_text(), row.locator("input, select")) for row in rows
        ]
        yield Hand(page, name, root, knobs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_as_a_page(notebook, site, watched, artefacts, latencies):
    found = watched.go(site / f"{notebook.stem}.html")
    assert bool(found) == ("explore_" in notebook.read_text())
    watched.page.screenshot(path=artefacts / f"site-{notebook.stem}.png", full_page=True)
    for hand in found:
        assert hand.knobs
        for knob in hand.knobs:
            assert knob.control.is_enabled()
            for kind, times in walk(hand, knob).items():
                if times:
                    latencies[f"{hand.name} {knob.name}"][kind] += times
    watched.assert_quiet()


def test_every_page_is_reached_from_the_first(site, watched, artefacts):
    watched.go(site / "index.html")
    watched.page.screenshot(path=artefacts / "site-index.png", full_page=True)
    links = watched.page.locator("main a").all()
    pages = {link.get_attribute("href") for link in links}
    assert {f"{notebook.stem}.html" for notebook in NOTEBOOKS} <= pages
    for name in sorted(page for page in pages if page.endswith(".html")):
        watched.go(site / name)
        assert watched.page.title()
        if name != "report.html":
            assert watched.page.locator("nav [aria-current]").get_attribute("href") == name
    watched.assert_quiet()


# --- twins by themselves -------------------------------------------------------------------------


def grey_twin(name: str, shift: int) -> str:
    """Write a twin of three greys on a slider, two places on a menu, and one size."""
    frames: dict[tuple[int, ...], Frame] = {}
    for grey in range(3):
        for place in range(2):
            pixels = np.full((60, 90, 3), 255, dtype=np.uint8)
            pixels[20:40, 20 + 30 * place : 40 + 30 * place] = 60 * grey + shift
            frames[grey, place, 0] = pixels, f"grey {grey} at {place}"
    controls = [
        Control("grey", list("012"), False),
        Control("place", ["left", "right"], True),
        Control("size", ["whole"], False),
    ]
    return twin(name, controls, frames, (1, 0, 0))


@pytest.fixture
def three(tmp_path):
    """A page with the same twin twice, and another one."""
    page = tmp_path / "page.html"
    body = grey_twin("toy", 0) * 2 + grey_twin("other", 5)
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>three</title>{body}')
    return page


def test_equal_twins_on_one_page_move_each_by_itself(three, watched):
    first, second, other = watched.go(three)
    assert [hand.look()[1] for hand in (first, second, other)] == ["grey 1 at 0"] * 3
    still = second.look(), other.look()
    for knob in first.knobs:
        walk(first, knob)
    first.press(first.knobs[0], "End")
    assert first.look()[1] == "grey 2 at 0"
    assert (second.look(), other.look()) == still
    second.press(second.knobs[1], "ArrowDown")
    assert second.look()[1] == "grey 1 at 1"
    assert first.look()[1] == "grey 2 at 0"
    watched.assert_quiet()


def test_what_is_on_the_screen_is_the_frame(three, watched):
    hand, *_ = watched.go(three)
    hand.put(hand.knobs[0], 2)
    hand.put(hand.knobs[1], 1)
    hand.page.wait_for_timeout(100)
    corners = [
        hand.root.locator("div").evaluate(
            """async (div, [x, y]) => {
              const canvas = new OffscreenCanvas(90, 60), pen = canvas.getContext("2d");
              for (const image of div.querySelectorAll("img")) {
                await image.decode();
                pen.drawImage(image, image.offsetLeft, image.offsetTop, image.width, image.height);
              }
              return pen.getImageData(x, y, 1, 1).data[0];
            }""",
            at,
        )
        for at in ([20, 20], [39, 39], [50, 20], [69, 39], [70, 39], [49, 20])
    ]
    assert corners == [255, 255, 120, 120, 255, 255]


def test_a_keyboard_reaches_every_control_and_hears_its_value(three, watched):
    hand, *_ = watched.go(three)
    watched.page.keyboard.press("Tab")
    for knob in hand.knobs:
        assert knob.control.evaluate("control => control === document.activeElement")
        watched.page.keyboard.press("Tab")
    slider, menu = hand.knobs
    hand.put(slider, 2)
    assert slider.control.get_attribute("aria-valuetext") == "2"
    assert hand.root.get_by_label("place").input_value() == "0"
    assert hand.root.locator("img").first.get_attribute("alt") == "grey 2 at 0"
    assert menu.control.locator("option:checked").inner_text() == "left"


def test_without_scripts_the_first_picture_stays(three, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(three.as_uri())
    root = page.locator("figure.twin").first
    assert root.get_by_role("img", name="grey 1 at 0").is_visible()
    assert root.get_by_text("moves under its sliders where scripts may run").is_visible()
    assert root.get_by_label("grey").is_disabled()
    context.close()
