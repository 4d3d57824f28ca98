"""rvlib.course.twin: an explorer for pages without a kernel, exact to the pixel, asking nobody."""

import base64
import html
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rvlib.course.twin import GAP, Box, Control, Frame, data_uri, patch_boxes, twin

CONTROLS = [Control("size", ["small", "large"], False), Control("kind", ["a", "b", "c"], True)]
BREAKOUT = "</script><img src=x onerror=alert(1)> & \"quoted\" 'words' \u2028 <!-- ε"


@st.composite
def films(draw):
    """Frames that are equal but for a few rectangles: (F, height, width, 3), uint8."""
    count, height, width = (draw(st.integers(1, most)) for most in (4, 40, 40))
    noise = np.random.default_rng(draw(st.integers(0, 9)))
    film = np.repeat(noise.integers(0, 256, (1, height, width, 3), dtype=np.uint8), count, 0)
    for _ in range(draw(st.integers(0, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        part = film[draw(st.integers(0, count - 1)), top : top + 5, left : left + 5]
        part[...] = noise.integers(0, 256, part.shape)
    return film


def grid_film():
    """A frame for each position of `CONTROLS`: two patches far apart, one for each control."""
    film = {}
    for size, kind in itertools.product(range(2), range(3)):
        pixels = np.full((30, 40, 3), 255, dtype=np.uint8)
        pixels[2:8, 2:8] = 80 * size
        pixels[20:28, 30:38] = 80 * kind
        film[size, kind] = pixels, f"size {size}, kind {kind}"
    return film


class Page(HTMLParser):
    """The tags of a piece of HTML, the labels around its inputs, and its script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.labelled, self.script, self._in = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("input", "select") and "label" in self._in:
            self.labelled.append(dict(attrs))
        if tag not in ("img", "input"):
            self._in.append(tag)

    def handle_endtag(self, tag):
        assert self._in.pop() == tag  # everything that was opened is closed, in order

    def handle_data(self, data):
        if self._in and self._in[-1] == "script":
            self.script += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def data(self):
        """What the script holds: boxes, patches and frames."""
        (line,) = re.findall(r"^  const \{boxes, patches, frames\} = (.*);$", self.script, re.M)
        return json.loads(line)


def decode(uri):
    head, _, content = uri.partition(",")
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def painted(page, key):
    """The pixels and the words of a frame, put together as the script does."""
    (still,) = page.all("img")
    pixels = decode(still["src"]).copy()
    which, words = page.data["frames"][",".join(map(str, key))]
    for number, (top, bottom, left, right) in zip(which, page.data["boxes"], strict=True):
        patch = decode(page.data["patches"][number])
        assert patch.shape == (bottom - top, right - left, 3)
        pixels[top:bottom, left:right] = patch
    return pixels, words


# --- boxes ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(films())
def test_boxes_cover_what_moves_and_no_more(film):
    moves = (film != film[0]).any((0, 3))
    covered = np.zeros_like(moves, dtype=int)
    for box in patch_boxes(film):
        covered[box.top : box.bottom, box.left : box.right] += 1
        inside = moves[box.top : box.bottom, box.left : box.right]
        for line in (inside.any(0), inside.any(1)):
            at = np.flatnonzero(line)
            assert (at[0], at[-1]) == (0, len(line) - 1)  # tight
            assert np.diff(at, prepend=-1).max() <= GAP  # no still stripe could be cut out
    assert covered.max(initial=0) <= 1
    assert (covered[moves] == 1).all()


def test_boxes_by_hand():
    film = np.zeros((3, 40, 40, 3), dtype=np.uint8)
    assert patch_boxes(film) == []
    assert patch_boxes(film[:1]) == []
    film[1, 3, 4, 2] = 1
    assert patch_boxes(film) == [Box(3, 4, 4, 5)]
    film[2, 3 + GAP, 4, 0] = 1  # GAP - 1 still rows between: one box
    assert patch_boxes(film) == [Box(3, 4 + GAP, 4, 5)]
    film[2, 3 + GAP] = 0
    film[2, 4 + GAP, 4, 0] = 1  # GAP still rows: two
    assert patch_boxes(film) == [Box(3, 4, 4, 5), Box(4 + GAP, 5 + GAP, 4, 5)]


def test_a_box_is_cut_again_where_only_a_part_of_it_has_a_gap():
    film = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    film[1, :30, 0] = 1  # a column, and beside it two pixels one above the other
    film[1, 0, 20] = film[1, 29, 20] = 1
    assert patch_boxes(film) == [Box(0, 30, 0, 1), Box(0, 1, 20, 21), Box(29, 30, 20, 21)]


# --- pictures ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(films(), st.data())
def test_patches_put_together_are_the_frame(film, data):
    count = len(film)
    start = (data.draw(st.integers(0, count - 1)),)
    frames: dict[tuple[int, ...], Frame] = {
        (i,): (pixels, f"frame {i}") for i, pixels in enumerate(film)
    }
    page = Page(twin("toy", [Control("i", ["x"] * count, False)], frames, start))
    for key, (pixels, words) in frames.items():
        shown, said = painted(page, key)
        assert (shown == pixels).all()
        assert said == words
    (still,) = page.all("img")
    assert (decode(still["src"]) == film[start[0]]).all()


def test_equal_patches_are_stored_once():
    page = Page(twin("toy", CONTROLS, grid_film(), (0, 0)))
    assert len(page.data["boxes"]) == 2
    assert len(page.data["patches"]) == 2 + 3  # and not 2 for each of 6 frames
    assert len(set(page.data["patches"])) == 5


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_image_survives_its_address(kind):
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(data_uri(pixels, kind, **options)) == pixels).all()


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text():
    return twin("toy", CONTROLS, grid_film(), (1, 2))


def test_it_asks_for_nothing(text):
    page = Page(text)
    for _, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not attributes.keys() & {"href", "srcset", "action", "poster", "background"}
    assert not page.all("link", "iframe", "object", "base", "style")
    bare = re.sub(r"data:image/webp;base64,[\w+/=]+", "", text)
    assert not re.search(r"//\w|url\(|@import|import\(|fetch|XMLHttp|WebSocket|eval", bare)


def test_its_inputs_are_native_labelled_and_wait_for_the_script(text):
    page = Page(text)
    inputs = page.all("input", "select")
    assert page.labelled == inputs
    assert len(inputs) == len(CONTROLS)
    (slider,) = page.all("input")
    wanted = {"type": "range", "min": "0", "max": "1", "value": "1", "aria-valuetext": "large"}
    assert wanted.items() <= slider.items()
    chosen = [(o["value"], "selected" in o) for o in page.all("option")]
    assert chosen == [("0", False), ("1", False), ("2", True)]
    for attributes, control in zip(inputs, CONTROLS, strict=True):
        assert "disabled" in attributes
        assert json.loads(attributes["data-words"]) == control.words


def test_what_has_one_position_is_said_and_not_offered():
    film = grid_film()
    frames: dict[tuple[int, ...], Frame] = {(i, 0): film[i, 0] for i in range(2)}
    text = twin("toy", [CONTROLS[0], Control("kind", ["<a>"], True)], frames, (0, 0))
    slider, still = Page(text).all("input", "select")
    assert slider["type"] == "range"
    assert (still["type"], still["value"]) == ("hidden", "0")
    assert "<output>&lt;a&gt;</output>" in text


def test_without_scripts_the_first_picture_and_its_words_remain(text):
    pixels, words = grid_film()[1, 2]
    page = Page(text)
    (still,) = page.all("img")
    assert still["alt"] == words
    assert (still["width"], still["height"]) == ("40", "30")
    assert (decode(still["src"]) == pixels).all()
    visible = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert f'<figcaption role="status" style="max-width:40px">{words}</figcaption>' in visible
    assert "where scripts may run" in visible


def test_words_cannot_break_out():
    frames: dict[tuple[int, ...], Frame] = {
        (i,): (pixels, BREAKOUT) for i, (pixels, _) in enumerate(grid_film().values())
    }
    for menu in (False, True):
        text = twin("toy", [Control(BREAKOUT, [BREAKOUT] * 6, menu)], frames, (0,))
        page = Page(text)
        assert [len(page.all(tag)) for tag in ("script", "img")] == [1, 1]
        assert {words for _, words in page.data["frames"].values()} == {BREAKOUT}
        assert page.all("img")[0]["alt"] == BREAKOUT
        (field,) = page.all("input", "select")
        assert json.loads(field["data-words"]) == [BREAKOUT] * 6
        assert f'width:11em">{html.escape(BREAKOUT)}</span>' in text


def test_the_same_frames_give_the_same_page_and_others_another(text):
    assert twin("toy", CONTROLS, grid_film(), (1, 2)) == text
    film = grid_film()
    film[0, 0][0][3, 3] = 7
    other = twin("toy", CONTROLS, film, (1, 2))
    (first,), (second,) = (Page(page).all("figure") for page in (text, other))
    assert first["id"] != second["id"]
    assert f"[id={first['id']}]" in text
    assert first["class"] == "twin twin-toy"
