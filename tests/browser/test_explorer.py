"""An exported explorer, on a page and on a slide: all of it is seen, full screen, too."""

import json

import nbformat
import numpy as np
import pytest

from rvlib.course.slides import build_slides
from rvlib.course.static import SCRIPT, export
from rvlib.pipeline import Run, repository
from tests.browser.explorers import explorers

pytestmark = [pytest.mark.browser]

SENTENCE = "A sentence of the length that the sentences of the notebooks' explorers have. " * 3


def toy():
    """Export an explorer as large as the notebooks', with all that one can have."""
    flags = {"menu": False, "plays": False, "blinks": False, "start": 1, "values": ["0", "1"]}
    controls = [
        flags | {"name": "eps", "label": "ε", "plays": True, "blinks": True},
        *({"name": n, "label": n} | flags | {"menu": n == "kind"} for n in ("kind", "a", "b", "c")),
    ]
    spec = {"name": "toy", "controls": controls, "width": 720, "height": 360}
    keys = [tuple(int(bit) for bit in f"{number:05b}") for number in range(32)]
    white = np.full((360, 720, 3), 255, np.uint8)
    return export(spec, {key: (white, f"{key} {SENTENCE}") for key in keys})


def as_page(folder):
    path = folder / "page.html"
    path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>toy</title>{toy()}')
    return path


def as_slide(folder):
    """Put it below long code, so that the slide is shown smaller."""
    output = nbformat.v4.new_output("display_data", {"text/html": toy()})
    cells = [
        nbformat.v4.new_markdown_cell("# Toy"),
        nbformat.v4.new_code_cell("\n".join(["pass"] * 20), outputs=[output]),
    ]
    (folder / "notebooks").mkdir()
    (folder / "report").symlink_to(repository() / "report")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / "01_toy.ipynb")
    (path,) = build_slides(Run.open("lesson", "cpu"), folder / "slides", folder)
    return path


@pytest.fixture(scope="module", params=[as_page, as_slide])
def path(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("toy"))


@pytest.fixture(params=[(1280, 720), (1920, 1080), (1080, 1920)], ids=str)
def screen(request, watched):
    size = dict(zip(("width", "height"), request.param, strict=True))
    watched.page.set_viewport_size(size)
    return request.param


@pytest.fixture
def explorer(path, watched):
    watched.go(path)
    return explorers(watched.page)[0]


def visible(explorer):
    """Boxes of all that a reader may want: [left, top, right, bottom]."""
    return explorer.root.evaluate("""root =>
      [...root.querySelectorAll("button, input, select, label, .picture, figcaption")].map(e => {
        if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
          throw Error(`invisible: ${e.outerHTML}`);
        const box = e.getBoundingClientRect();
        return [box.left, box.top, box.right, box.bottom];
      })""")


def test_every_button_is_seen(explorer, watched):
    buttons = explorer.root.get_by_role("button")
    assert buttons.count() == 5  # play, blink, guess, reset, full screen
    visible(explorer)
    watched.assert_quiet()


def test_full_screen_holds_all_of_it(screen, explorer, watched, artefacts):
    explorer.root.get_by_role("button", name="Full screen").click()
    watched.page.wait_for_function("document.fullscreenElement !== null")
    watched.page.wait_for_timeout(100)
    watched.page.screenshot(path=artefacts / f"full-screen-{screen[0]}.png")
    lefts, tops, rights, bottoms = zip(*visible(explorer), strict=True)
    assert min(lefts) >= 0
    assert min(tops) >= 0
    assert max(rights) <= screen[0]
    assert max(bottoms) <= screen[1]
    picture = explorer.root.locator(".picture").bounding_box()
    assert picture is not None
    assert picture["width"] == pytest.approx(2 * picture["height"], abs=1)
    assert picture["width"] > 0.9 * screen[0] or picture["height"] > 0.5 * screen[1]


@pytest.mark.parametrize("uncovers", ["Show", "Reset"])
def test_a_guess_comes_before_picture_and_sentence(uncovers, explorer):
    slider, button = explorer.controls[2], explorer.root.get_by_role("button", name=uncovers)
    picture, sentence = (explorer.root.get_by_role(role) for role in ("img", "status"))
    explorer.root.get_by_role("button", name="Guess first").click()
    slider.press("ArrowLeft")
    assert not picture.count()  # its text is not read out, either
    assert not sentence.is_visible()
    button.click()
    assert picture.count() == 1
    assert sentence.is_visible()
    if uncovers == "Show":  # the next key is for the slider again
        assert slider.evaluate("slider => slider === document.activeElement")


def test_blink_alternates_between_the_first_value_and_the_one_that_is_set(explorer):
    explorer.root.get_by_role("button", name="Blink").click()
    for value in (0, 1, 0):
        explorer.sentence_with(f"({value}, 1, 1, 1, 1)")


def test_reset_stops_what_plays(explorer, watched):
    play = explorer.root.get_by_role("button", name="Play")
    assert play.get_attribute("aria-pressed") == "false"
    play.click()
    explorer.root.get_by_role("button", name="Reset").click()
    assert play.get_attribute("aria-pressed") == "false"
    before = explorer.look()
    watched.page.wait_for_timeout(1000)
    assert explorer.look() == before


# The page of a live explorer, with a kernel that never answers, where full screen is not allowed.
LIVE = """<!DOCTYPE html><meta charset="utf-8"><title>live</title><body><script type="module">
Object.defineProperty(document, "fullscreenEnabled", { value: false });
const values = %s, heard = {};
const model = {
  get: (name) => values[name], set: (name, value) => { values[name] = value; }, save_changes() {},
  on: (name, act) => { heard[name] = act; },
};
window.die = () => heard.comm_live_update();
%s
render({ model, el: document.body });
</script>"""


def test_without_its_kernel_an_explorer_rests(watched, tmp_path):
    flags = {"menu": False, "plays": True, "blinks": True, "start": 1, "values": ["0", "1", "2"]}
    spec = {"name": "live", "controls": [{"label": "ε"} | flags], "width": 720, "height": 360}
    values = {"spec": spec, "positions": [1], "frame": {"positions": [1], "text": ""}, "png": []}
    script = SCRIPT.read_text(encoding="utf-8").replace("export default { render };", "")
    (tmp_path / "live.html").write_text(LIVE % (json.dumps(values), script), encoding="utf-8")
    (explorer,) = watched.go(tmp_path / "live.html")
    assert not explorer.root.get_by_role("button", name="Full screen").count()
    explorer.root.get_by_role("button", name="Play").click()
    watched.page.evaluate("die()")
    watched.page.wait_for_timeout(1500)  # until it would play, and then wait for the kernel
    assert explorer.look()[2] == "The kernel of this picture is gone. Run its cell again."
    assert explorer.position(explorer.controls[0])[0] == 1
    assert explorer.root.locator(":is(input, button):enabled").count() == 0
    watched.assert_quiet()
