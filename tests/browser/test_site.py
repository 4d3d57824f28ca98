"""The exported pages from disk: explorers follow the reader; nothing is asked from anywhere."""

import html
import json
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rvlib as rv
from rvlib.course.static import export
from rvlib.pipeline import repository
from rvlib.sanity_checks import Check
from rvlib.verdict import Verdict

NOTEBOOKS = sorted((repository() / "notebooks").glob("[0-9]*.ipynb"))

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def watched(watched):
    """Lend the page, which has asked for nothing and met no error when the test ends."""
    yield watched
    watched.assert_quiet()


@pytest.mark.parametrize("notebook", NOTEBOOKS[::3], ids=lambda path: path.stem)
def test_a_notebook_as_a_page(notebook, site, watched, artefacts):
    found = watched.go(site / f"{notebook.stem}.html")
    watched.page.screenshot(path=artefacts / f"site-{notebook.stem}.png")
    assert found
    for explorer in found:
        for control in explorer.controls:
            explorer.walk(control)
    text = watched.page.inner_text("main")
    assert "course.say(f" not in text  # prose is shown once: without its source
    assert "Colab" not in text  # its line is for the notebook itself
    assert not re.search(r"\$[^$\n]+\$", text)  # equations are rendered


OUTSIDE = """() => [...document.querySelectorAll(".explorer")].flatMap((explorer) => {
  const { right } = explorer.getBoundingClientRect();
  return [...explorer.querySelectorAll("button, input, select, label, .value")]
    .filter((part) => part.getBoundingClientRect().right > Math.min(right, innerWidth) + 1)
    .map((part) => part.outerHTML);
})"""


def test_every_page_is_reached_from_the_first_and_its_explorers_fit_a_phone(
    site, watched, artefacts
):
    watched.go(site / "index.html")
    watched.page.screenshot(path=artefacts / "site-index.png", full_page=True)
    pages = {link.get_attribute("href") for link in watched.page.locator("main a").all()}
    assert {f"{notebook.stem}.html" for notebook in NOTEBOOKS} <= pages
    for name in sorted(page for page in pages if page.endswith(".html")):
        watched.page.set_viewport_size({"width": 360, "height": 740})
        watched.go(site / name)
        assert watched.page.title()
        assert watched.page.evaluate(OUTSIDE) == []


PAGES = ["index.html", "bring-your-own.html", "api/index.html", "api/attacks.html"]
PAGES += ["07_state_of_the_art.html", "report.html", "scale.html"]
WRAPPED = """codes => codes.filter((code) => getComputedStyle(code).whiteSpace !== "pre").length"""
CUT = """codes => codes.filter((code) => code.scrollWidth > code.clientWidth + 1).length"""


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_only_code_scrolls_and_on_paper_nothing(name, site, watched):
    watched.page.set_viewport_size({"width": 375, "height": 667})
    watched.go(site / name)
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 375
    code = watched.page.locator(".highlight pre")
    assert code.evaluate_all(WRAPPED) == 0
    watched.page.emulate_media(media="print")
    assert code.evaluate_all(CUT) == 0


def test_the_verdict_of_an_evaluation_fits_a_phone_and_marks_what_failed(
    tmp_path, watched, artefacts
):
    numbers = {"n": 128, "correct": 50, "accuracy": 39.06, "ci_low": 31.05, "ci_high": 47.72}
    passes = {"forwards": [1.0, np.nan], "backwards": [0.0, np.nan]}
    stages = pd.DataFrame({"attack": ["clean", "worst case"]} | numbers | passes)
    finding = "4 of 74 wrong answers are right once the images are rounded to 8 bits <in the ball>"
    checks = [
        Check("8 bits", False, finding, "at most 3"),
        Check("one step", True, "0", "at most 2"),
    ]
    found = Verdict("mine", rv.Linf(0.1), "fast", pd.DataFrame(), stages, checks, [])
    (tmp_path / "verdict.html").write_text(found.html(), encoding="utf-8")
    watched.page.set_viewport_size({"width": 375, "height": 667})
    watched.page.emulate_media(color_scheme="dark")
    watched.go(tmp_path / "verdict.html")
    watched.page.screenshot(path=artefacts / "verdict.png", full_page=True)
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 375
    assert watched.page.evaluate("getComputedStyle(document.body).color") == "rgb(236, 236, 236)"
    text = watched.page.inner_text("body")
    assert not re.search("NaN|True|False|ci_", text)
    assert "39.1 % (31.1 to 47.7)" in text
    colours = "rows => rows.map((row) => getComputedStyle(row).backgroundColor)"
    failed, passed = watched.page.locator(".checks tbody tr").evaluate_all(colours)
    assert failed != passed


def test_the_dark_is_dark_and_the_printed_page_is_not(site, watched, artefacts):
    def brightness(of):
        colour = watched.page.evaluate(f"getComputedStyle(document.body).{of}")
        return sum(map(int, re.findall(r"\d+", colour)))

    for name in ("report", "07_state_of_the_art", "index"):
        watched.page.emulate_media(media="screen", color_scheme="dark")
        watched.go(site / f"{name}.html")
        watched.page.screenshot(path=artefacts / f"dark-{name}.png")
        assert brightness("backgroundColor") < 100 < 600 < brightness("color"), name
        watched.page.emulate_media(media="print")
        assert brightness("color") < 100 < 700 < brightness("backgroundColor"), name
        assert watched.page.locator("nav:visible, form:visible").count() == 0


FIRST_FOUND = {
    "adversarial training": "03_adversarial_training.html",
    "randomized smoothing": "04_randomized_smoothing.html",
    "playground": "playground.html",
    "own picture": "playground.html",
    "install": "index.html#install",
    "quiz": "quiz.html",
}


def test_a_keyboard_searches_and_opens_what_it_finds(site, watched):
    page, keyboard = watched.page, watched.page.keyboard
    watched.go(site / "index.html")
    page.get_by_label("Search").focus()
    keyboard.type("wilson inter")
    assert page.locator("[role=status]").inner_text() == "1 found"
    keyboard.press("Tab")
    keyboard.press("Enter")
    page.wait_for_url("**/api/smoothing.html#rvlib.wilson")
    assert "wilson" in page.locator(":target").inner_text()
    page.go_back()
    page.get_by_label("Search").fill("ACCURACY wombat")
    assert page.locator("[role=status]").inner_text() == "Nothing found"
    for query, first in FIRST_FOUND.items():
        page.get_by_label("Search").fill(query)
        assert page.locator("#found a").first.get_attribute("href") == first, query
    page.get_by_label("Search").fill("ACCURACY against epsilon")
    keyboard.press("Enter")  # the first, without a way through the list
    page.wait_for_url("**/01_fgsm.html#*")
    assert page.locator(":target").inner_text().startswith("Accuracy against ε")


def test_all_that_the_search_can_find_is_there(site):
    (index,) = re.findall(r'id="index">(.*?)</script>', (site / "index.html").read_text())
    entries = json.loads(index)
    assert len(entries) > 150
    assert all((site / entry["address"].partition("#")[0]).exists() for entry in entries)
    for entry in entries:
        name, mark, anchor = entry["address"].partition("#")
        assert (
            not mark or f'id="{html.escape(anchor, quote=False)}"' in (site / name).read_text()
        ), entry


@pytest.fixture
def scriptless(browser):
    """Open a page that runs no script."""
    with browser.new_context(java_script_enabled=False) as context:
        yield context.new_page()


def test_without_scripts_the_front_door_lacks_the_search_alone(site, scriptless):
    page = scriptless
    page.goto((site / "index.html").as_uri())
    assert page.get_by_role("listitem").filter(has=page.get_by_role("img")).count() >= 6
    assert page.get_by_role("link", name="API reference").is_visible()
    assert not page.get_by_label("Search").is_visible()


@pytest.fixture
def three(tmp_path):
    """A page with the same explorer twice, and another one: greys on a slider, two places."""

    def grey(shift):
        frames: dict[tuple[int, ...], tuple[np.ndarray, str]] = {}
        for level, place in np.ndindex(3, 2):
            pixels = np.full((50, 100, 3), 255, dtype=np.uint8)
            pixels[20:40, 20 + 40 * place : 40 + 40 * place] = 60 * level + shift
            frames[level, place] = pixels, f"grey {level} at {place}"
        controls = [
            {"name": name, "label": name, "values": values, "start": start, "menu": menu}
            for name, values, start, menu in (
                ("grey", ["0", "1", "2"], 1, False),
                ("place", ["left", "right"], 0, True),
            )
        ]
        controls = [control | {"plays": False} for control in controls]
        spec = {"name": f"grey{shift}", "controls": controls, "width": 100, "height": 50}
        return export(spec, frames)

    page = tmp_path / "page.html"
    body = grey(0) * 2 + grey(5)
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>three</title>{body}')
    return page


def test_equal_explorers_on_one_page_move_each_by_itself(three, watched):
    first, second, other = watched.go(three)
    assert [each.look()[2] for each in (first, second, other)] == ["grey 1 at 0"] * 3
    for control in first.controls:
        first.walk(control)
    first.press(first.controls[0], "End")
    assert first.look()[2] == "grey 2 at 0"
    assert second.look()[2] == other.look()[2] == "grey 1 at 0"
    second.press(second.controls[1], "ArrowDown")
    assert second.look()[2] == "grey 1 at 1"
    assert first.root.locator("img").first.get_attribute("alt") == "grey 2 at 0"


def test_the_screen_shows_the_frame(three, watched):
    explorer, *_ = watched.go(three)
    explorer.press(explorer.controls[0], "End")
    explorer.press(explorer.controls[1], "ArrowDown")
    picture = explorer.root.locator(".picture")
    screen = picture.screenshot()
    shown = np.asarray(Image.open(BytesIO(screen)).convert("L").resize((100, 50)))
    assert abs(int(shown[30, 70]) - 120) < 8  # the new place, at the new grey
    assert shown[30, 30] > 247  # the old place is empty again


def test_a_keyboard_reaches_every_control(three, watched):
    explorer, *_ = watched.go(three)
    for control in explorer.controls:
        watched.page.keyboard.press("Tab")
        assert control.evaluate("control => control === document.activeElement")
    assert watched.page.get_by_label("grey").count() == 3


def test_without_scripts_the_first_picture_stays(three, scriptless):
    scriptless.goto(three.as_uri())
    assert scriptless.get_by_role("img", name="grey 1 at 0").first.is_visible()
    assert scriptless.get_by_text("grey 1 at 0").first.is_visible()
