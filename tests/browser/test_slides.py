"""Slides of the notebooks in a real Chromium: in sight, of readable size, live, silent."""

import pytest

from rvlib.course.slides import build_slides
from rvlib.pipeline import Run, repository

pytestmark = [pytest.mark.browser]
WIDTH, HEIGHT = 1280, 720
STEMS = sorted(path.stem for path in (repository() / "notebooks").glob("[0-9]*.ipynb"))
PARTS = "h1, h2, h3, p, li, img, pre, th, td, figcaption, button, select, label, .picture"
# All slides in one call: one for each would take longer than looking at it.
WALK = """parts => {
  const found = [];
  for (let last = false; !last; Reveal.next()) {
    const slide = Reveal.getCurrentSlide(), shown = slide.getBoundingClientRect();
    const boxes = [...slide.querySelectorAll(parts)]
      .map(e => e.getBoundingClientRect()).filter(r => r.width && r.height);
    found.push({
      top: shown.top, left: shown.left, width: shown.width,
      zoom: Number(slide.style.zoom), parts: boxes.length,
      right: Math.max(...boxes.map(r => r.right)), bottom: Math.max(...boxes.map(r => r.bottom)),
      clipped: [...slide.querySelectorAll("pre")].some(e => e.scrollWidth > e.clientWidth),
      ends: [...slide.querySelectorAll("h1, h2, h3, p, li, pre, img, td")].pop().tagName,
    });
    last = Reveal.isLastSlide();
  }
  return found;
}"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    return {page.stem: page for page in build_slides(Run.open("lesson", "cpu"), out)}


def open_slides(watched, path):
    """Show slides on a projector; the page."""
    watched.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    watched.page.goto(path.as_uri())
    watched.page.wait_for_function("Reveal.isReady()")
    return watched.page


@pytest.mark.parametrize("stem", STEMS)
def test_every_slide_is_in_sight_and_readable(stem, slides, watched):
    page = open_slides(watched, slides[stem])
    for number, shown in enumerate(page.evaluate(WALK, PARTS)):
        where = f"slide {number}: {shown}"
        assert shown["parts"], where
        assert (shown["top"], shown["left"], shown["width"]) == (0, 0, WIDTH), where
        assert shown["right"] <= WIDTH, where
        assert shown["bottom"] <= HEIGHT, where
        assert shown["zoom"] >= 0.75, where  # letters of 26 pixels stay above 19
        assert not shown["clipped"], where
        assert not shown["ends"].startswith("H"), where  # a heading above nothing
    watched.assert_quiet()


def test_the_number_of_a_slide_is_beside_the_arrows(slides, watched):
    page = open_slides(watched, slides[STEMS[0]])
    parts = (".slide-number", ".reveal > .controls .navigate-left")
    number, arrows = (page.locator(part).bounding_box() or {} for part in parts)
    assert number["x"] + number["width"] <= arrows["x"]


def test_the_explorer_of_a_slide_is_live_and_keeps_its_keys_and_fingers(slides, watched, artefacts):
    page = open_slides(watched, slides["02_pgd"])
    while not page.evaluate("Boolean(Reveal.getCurrentSlide().querySelector('.explorer'))"):
        page.evaluate("Reveal.next()")
    picture = page.screenshot(path=artefacts / "slides-explorer.png")
    before = page.evaluate("Reveal.getIndices()")
    slider = page.locator("section.present input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert page.screenshot() != picture
    menu = page.locator("section.present select").first
    at = menu.input_value()
    menu.press("ArrowDown" if at == "0" else "ArrowUp")
    assert menu.input_value() != at
    guess = page.locator("section.present").get_by_role("button", name="Guess first")
    guess.press(" ")
    assert guess.get_attribute("aria-pressed") == "true"
    box, finger = slider.bounding_box() or {}, page.context.new_cdp_session(page)
    y, at = box["y"] + box["height"] / 2, slider.input_value()
    for kind, share in (("touchStart", 0.1), ("touchMove", 0.5), ("touchMove", 0.9)):
        touch = {"x": box["x"] + share * box["width"], "y": y}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [touch]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert slider.input_value() != at
    assert page.evaluate("Reveal.getIndices()") == before  # none of it turned the slide
    guess.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.getIndices()") != before
    watched.assert_quiet()
