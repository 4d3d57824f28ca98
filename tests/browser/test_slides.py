"""Slides of the notebooks in a real Chromium: in sight, of readable size, live, silent."""

from pathlib import Path

import pytest

from rvlib.course.slides import build_slides
from rvlib.pipeline import Run, repository

pytestmark = [
    pytest.mark.browser,
]
WIDTH, HEIGHT = 1280, 720
STEMS = sorted(path.stem for path in (repository() / "notebooks").glob("[0-9]*.ipynb"))
SLIDE = """() => {
  const slide = Reveal.getCurrentSlide(), shown = slide.getBoundingClientRect();
  const parts = [...slide.querySelectorAll('h1, h2, h3, p, li, img, pre, td')]
    .map(e => e.getBoundingClientRect()).filter(r => r.width && r.height);
  return {top: shown.top, left: shown.left, width: shown.width,
          zoom: Number(slide.style.zoom), parts: parts.length,
          right: Math.max(...parts.map(r => r.right)),
          bottom: Math.max(...parts.map(r => r.bottom)),
          last: Reveal.isLastSlide()}; }"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    return {page.stem: page for page in build_slides(Run.open("lesson", "cpu"), out)}


@pytest.mark.parametrize("stem", STEMS[::3])
def test_every_slide_is_in_sight_and_readable(stem, slides, watched, artefacts):
    page = watched.page
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(Path(slides[stem]).as_uri())
    page.wait_for_function("Reveal.isReady()")
    page.screenshot(path=artefacts / f"slides-{stem}.png")
    number, last = 0, False
    while not last:
        shown = page.evaluate(SLIDE)
        where = f"slide {number}: {shown}"
        assert shown["parts"], where
        assert (shown["top"], shown["left"], shown["width"]) == (0, 0, WIDTH), where
        assert shown["right"] <= WIDTH, where
        assert shown["bottom"] <= HEIGHT, where
        assert shown["zoom"] >= 0.6, where  # letters of 26 pixels stay above 15
        number, last = number + 1, shown["last"]
        page.evaluate("Reveal.next()")
    watched.assert_quiet()


def test_the_explorer_of_a_slide_is_live(slides, watched, artefacts):
    page = watched.page
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(Path(slides["01_fgsm"]).as_uri())
    page.wait_for_function("Reveal.isReady()")
    while not page.evaluate("Boolean(Reveal.getCurrentSlide().querySelector('.explorer'))"):
        page.evaluate("Reveal.next()")
    picture = page.screenshot(path=artefacts / "slides-explorer.png")
    before = page.evaluate("Reveal.getIndices()")
    page.locator("section.present input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert page.screenshot() != picture
    assert page.evaluate("Reveal.getIndices()") == before  # the key moved the slider only
    watched.assert_quiet()
