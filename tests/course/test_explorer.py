"""rvlib.course.explorer and .static: what is shown is what the sliders say, live and in a page."""

import base64
import io
import json
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rvlib.course import explorer as module
from rvlib.course import static
from rvlib.course.explorer import Control, Explorer, animate

WIDGET = "application/vnd.jupyter.widget-view+json"
LEVELS = [0.0, 0.25, 0.5, 0.75, 1.0]


def make(draw=None, start=(1, 0), exported=()):
    """Make an explorer of a bar's height and its title, and the list of calls of its `draw`."""
    figure = Figure(figsize=(2, 1), dpi=60)
    axes = figure.subplots()
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    (bar,) = axes.bar([0], [0], 0.5)
    title = axes.set_title(" ")
    animate(bar, title)
    calls = []

    def move(level, name):
        calls.append((level, name))
        if draw:
            draw(level, name)
        bar.set_height(level)
        title.set_text(name)
        return f"{name} is at <{level}> </script>"

    controls = [
        Control("level", "height", LEVELS, start[0], exported=exported),
        Control("name", "name", ["ada", "bob"], start[1], str.title, menu=True),
    ]
    return Explorer("toy", controls, figure, move), calls


def decode(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def shown(explorer):
    return decode(explorer.png), explorer.frame["text"]


def assert_same(one, other):
    assert one[1] == other[1]
    assert (one[0] == other[0]).all()


def test_each_move_shows_what_a_new_explorer_shows_there():
    moved, _ = make()
    for level, name in [(4, 0), (4, 1), (0, 1), (1, 0)]:
        moved.positions = [level, name]
        assert moved.frame["positions"] == [level, name]
        assert_same(shown(moved), shown(make(start=(level, name))[0]))


def test_the_page_is_given_names_values_and_size():
    spec = make()[0].spec
    assert (spec["width"], spec["height"]) == (120, 60)
    assert {"spec", "positions", "png", "frame"} <= set(make()[0].keys)  # sent to the page
    height, name = spec["controls"]
    flags = {"menu": False, "plays": False, "blinks": False}
    values = {"values": ["0.0", "0.25", "0.5", "0.75", "1.0"], "start": 1}
    assert height == {"name": "level", "label": "height"} | values | flags
    assert (name["values"], name["menu"]) == (["Ada", "Bob"], True)


def test_an_error_is_shown_in_one_line_and_the_next_move_works():
    def fail(level, name):
        if level == 1.0:
            raise ValueError("no such level")

    explorer, _ = make(fail)
    explorer.positions = [4, 0]
    assert explorer.frame == {"positions": [4, 0], "text": "ValueError: no such level"}
    explorer.positions = [2, 0]
    assert_same(shown(explorer), shown(make(start=(2, 0))[0]))


def test_of_two_threads_the_later_one_shows_the_newest_positions():
    entered, go = threading.Event(), threading.Event()

    def wait(level, name):
        if level == 0.75:
            entered.set()
            assert go.wait(10)

    explorer, _ = make(wait)
    threads = []
    for positions in ([3, 0], [4, 1]):
        threads.append(threading.Thread(target=setattr, args=(explorer, "positions", positions)))
        threads[-1].start()
        assert entered.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert_same(shown(explorer), shown(make(start=(4, 1))[0]))


# --- what a notebook keeps ------------------------------------------------------------------------


def test_shown_live_only_the_first_frame_is_drawn(monkeypatch):
    monkeypatch.setenv("RVLIB_STATIC", "0")
    explorer, calls = make()
    bundle, metadata = explorer._repr_mimebundle_()
    assert calls == [(0.25, "ada")]
    assert set(bundle) == {WIDGET, "image/png", "text/plain"}
    pixels, text = shown(explorer)
    assert (decode(base64.b64decode(bundle["image/png"])) == pixels).all()
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == text


def test_without_a_front_end_the_page_gets_every_frame_instead_of_the_widget(monkeypatch):
    monkeypatch.setenv("RVLIB_STATIC", "1")
    explorer, calls = make(exported=(0, 4))
    bundle, _ = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert set(calls) == {(level, name) for level in (0, 0.25, 1) for name in ("ada", "bob")}
    assert bundle["text/html"] == make(exported=(0, 4))[0].html()  # the same bytes in every run


@pytest.mark.parametrize("content", [{"allow_stdin": True}, {"allow_stdin": False}, {}, None])
def test_a_front_end_is_known_by_its_requests(monkeypatch, content):
    monkeypatch.delenv("RVLIB_STATIC", raising=False)
    kernel = SimpleNamespace(get_parent=lambda: {"content": content})
    shell = None if content is None else SimpleNamespace(kernel=kernel)  # None: no notebook
    monkeypatch.setattr(static, "get_ipython", lambda: shell)
    assert static.is_headless() == (content == {"allow_stdin": False})


def call(page):
    """Arguments of the script: controls, tiles, frames."""
    found = re.search(r'still\("explorer-[0-9a-f]{12}", (.*)\);</script>$', page)
    assert found
    return json.loads(f"[{found[1]}]")


def read(page):
    """Read an export back: its first picture, its controls, its frames."""
    _, _, rest = page.partition('<img src="data:image/webp;base64,')
    first, (spec, images, frames) = rest.partition('"')[0], call(page)
    base = decode(base64.b64decode(first))
    pictures = [decode(base64.b64decode(uri.partition(",")[2])) for uri in images]
    height, width = (side // static.TILES for side in base.shape[:2])
    found = {}
    for key, (tiles, text) in frames.items():
        whole = base.copy()
        for place, number in tiles:
            row, column = divmod(place, static.TILES)
            part = whole[row * height : (row + 1) * height, column * width : (column + 1) * width]
            tile = pictures[number]
            part[tile[..., 3] > 0] = tile[tile[..., 3] > 0, :3]
        found[tuple(map(int, key.split(",")))] = whole, text
    return spec, found


def test_an_export_holds_every_frame():
    explorer, _ = make(exported=(0, 4))
    spec, found = read(explorer.html())
    assert spec["controls"][0]["values"] == ["0.0", "0.25", "1.0"]
    assert spec["controls"][0]["start"] == 1
    assert len(found) == 6
    for (level, name), frame in found.items():
        assert_same(frame, explorer.draw([(0, 1, 4)[level], name]))


def test_an_export_stands_alone_and_its_words_cannot_end_its_script():
    page = make()[0].html()
    assert page.count("</script>") == 1
    assert not re.search(r"https?://", page)
    assert 'alt="ada is at &lt;0.25&gt; &lt;/script&gt;"' in page


def test_equal_tiles_are_stored_once():
    frame = np.zeros((10, 10, 3), np.uint8)
    other = frame.copy()
    other[:2, :2] = other[4:6, 4:6] = 255
    spec = {"name": "toy", "controls": [{"start": 0}], "width": 10, "height": 10}
    page = static.export(spec, {(0,): (frame, "a"), (1,): (other, "b")})
    _, images, frames = call(page)
    assert len(images) == 1
    assert frames == {"0": [[], "a"], "1": [[[0, 0], [12, 0]], "b"]}


def test_too_many_frames_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_EXPORTED", 9)
    with pytest.raises(ValueError, match="10 frames"):
        make()[0].html()
