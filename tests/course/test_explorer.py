"""rvlib.course.explorer: what is shown is what the sliders say, live and in every other reader."""

import base64
import html
import io
import re
import threading
import time
from functools import partial

import ipywidgets as widgets
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image

from rvlib.course.explorer import MOST_FRAMES, Explorer, Knob, Picture
from rvlib.course.twin import Control, twin

LEVELS = [0.0, 0.25, 0.5, 0.75, 1.0]
WIDGET = "application/vnd.jupyter.widget-view+json"


def make(draw=None, start=(1, 0), thin=(), levels=LEVELS):
    """Make an explorer of a bar's height and its title, and the list of calls of its `draw`."""
    figure = Figure(figsize=(1.5, 1), dpi=60)
    axes = figure.subplots()
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    (bar,) = axes.bar([0], [0], 0.5)
    title = axes.set_title(" ")
    calls = []

    def move(level, name):
        calls.append((level, name))
        if draw:
            draw(level, name)
        bar.set_height(level)
        title.set_text(name)
        return f"{name} is at <{level}>"

    knobs = [
        Knob("level", "level", levels, start[0], twin=thin),
        Knob("name", "name", ["ada", "bob"], start[1], ["Ada", "Bob"], menu=True),
    ]
    return Explorer("toy", knobs, Picture(figure, [bar, title]), move), calls


def parts(explorer):
    _, *controls, image = explorer.children
    return controls, image


def decode(content):
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def shown(explorer):
    """The pixels and the sentence of the live picture."""
    _, image = parts(explorer)
    alt, source = re.findall(
        r'<img alt="(.*?)" width="90" src="data:image/png;base64,(.*?)"', image.value
    )[0]
    assert image.value.count(f">{alt}<") == 1  # the sentence under it
    return decode(source), html.unescape(alt)


def fresh(level, name):
    """What a new explorer shows that starts there."""
    return shown(make(start=(level, name))[0])


def assert_same(one, other):
    assert one[1] == other[1]
    assert (one[0] == other[0]).all()


# --- live ----------------------------------------------------------------------------------------


def test_it_starts_where_its_knobs_say():
    explorer, calls = make()
    assert calls == [(0.25, "ada")]
    pixels, words = shown(explorer)
    assert pixels.shape == (60, 90, 3)
    assert words == "ada is at <0.25>"


def test_a_moved_picture_has_no_remains_of_the_one_before():
    explorer, _ = make()
    (level, name), _ = parts(explorer)
    for position, who in ((4, 1), (0, 0), (2, 1), (1, 0)):
        level.value, name.value = position, who
        assert_same(shown(explorer), fresh(position, who))


def test_each_move_draws_once():
    explorer, calls = make()
    (level, _), _ = parts(explorer)
    calls.clear()
    level.value = 3
    level.value = 3
    assert calls == [(0.75, "ada")]


def test_its_controls_are_labelled_and_can_be_found():
    explorer, _ = make()
    (level, name), image = parts(explorer)
    assert "explorer-toy" in explorer._dom_classes
    assert [control._dom_classes for control in (level, name)] == [("toy-level",), ("toy-name",)]
    assert [control.description for control in (level, name)] == ["level", "name"]
    assert [text for text, _ in level.options] == [str(value) for value in LEVELS]
    assert [text for text, _ in name.options] == ["Ada", "Bob"]
    assert 'role="status"' in image.value


def test_an_error_is_shown_and_the_next_move_recovers():
    def fail(level, name):
        if level == 1:
            raise ZeroDivisionError("no <b>level</b>")

    explorer, _ = make(fail)
    (level, _), image = parts(explorer)
    before = shown(explorer)
    level.value = 4
    assert image.value.startswith('<pre role="alert">')
    assert "ZeroDivisionError: no &lt;b&gt;level&lt;/b&gt;" in image.value
    assert ", in fail" in image.value  # where it came from
    level.value = 1
    assert_same(shown(explorer), before)


def test_an_error_at_the_start_is_loud():
    def fail(level, name):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(fail)


def test_moves_from_several_threads_end_at_the_last_values():
    inside, go_on = threading.Event(), threading.Event()

    def wait(level, name):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(10)

    explorer, calls = make(wait)
    (level, name), _ = parts(explorer)
    calls.clear()
    changes = [partial(setattr, level, "value", position) for position in (0, 2, 3, 4)]
    threads = [
        threading.Thread(target=change) for change in (*changes, partial(setattr, name, "value", 1))
    ]
    for thread in threads:
        thread.start()
        assert inside.wait(10)  # the first is drawing; the others come to the lock
        time.sleep(0.02)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert calls[0] == (0.0, "ada")
    assert set(calls[1:]) == {(1.0, "bob")}  # nobody draws what is no longer wanted
    assert_same(shown(explorer), fresh(4, 1))


def test_no_pyplot_figure_is_made():
    before = dict(Gcf.figs)
    explorer, _ = make()
    parts(explorer)[0][0].value = 3
    explorer._repr_mimebundle_()
    assert before == Gcf.figs


# --- the other faces -----------------------------------------------------------------------------


def test_every_frame_is_what_the_sliders_would_show():
    explorer, _ = make()
    frames = explorer.frames()
    assert list(frames) == [(i, j) for i in range(5) for j in range(2)]
    for key, frame in frames.items():
        assert_same(frame, fresh(*key))


def test_a_thinned_twin_keeps_the_start():
    explorer, _ = make(thin=(4, 0))
    frames = explorer.frames()
    assert list(frames) == [(i, j) for i in range(3) for j in range(2)]
    for shown_at, level in enumerate((0, 1, 4)):
        assert_same(frames[shown_at, 0], fresh(level, 0))
    data, _ = explorer._repr_mimebundle_()
    controls = [
        Control("level", ["0.0", "0.25", "1.0"], False),
        Control("name", ["Ada", "Bob"], True),
    ]
    assert data["text/html"] == twin("toy", controls, frames, (1, 0))


def test_one_output_has_all_faces_and_the_same_words():
    explorer, _ = make()
    data, metadata = explorer._repr_mimebundle_()
    pixels, words = shown(explorer)
    assert data.keys() == {WIDGET, "text/html", "image/png", "text/plain"}
    assert data[WIDGET]["model_id"] == explorer.model_id
    assert (decode(data["image/png"]) == pixels).all()
    assert data["text/plain"] == words == metadata["image/png"]["alt"]


def test_showing_it_again_neither_moves_it_nor_changes_the_twin():
    explorer, _ = make()
    (level, name), _ = parts(explorer)
    first, _ = explorer._repr_mimebundle_()
    level.value, name.value = 4, 1
    second, _ = explorer._repr_mimebundle_()
    assert second == first
    assert_same(shown(explorer), fresh(4, 1))
    level.value = 0
    assert_same(shown(explorer), fresh(0, 1))


def test_two_explorers_alike_give_the_same_page():
    (one, _), (other, _) = make(), make()
    assert one._repr_mimebundle_()[0]["text/html"] == other._repr_mimebundle_()[0]["text/html"]


def test_too_many_frames_are_refused_before_any_is_drawn():
    explorer, calls = make(levels=range(MOST_FRAMES // 2 + 1))
    calls.clear()
    with pytest.raises(ValueError, match=f"^162 frames in toy's twin: at most {MOST_FRAMES}$"):
        explorer.frames()
    assert calls == []
    assert len(make(levels=range(MOST_FRAMES // 2))[0].frames()) == MOST_FRAMES


def test_words_that_do_not_fit_the_values_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Knob("level", "level", LEVELS, words=["low"]).widget("toy")


def test_a_knob_that_plays_goes_through_its_values(monkeypatch):
    linked = []
    monkeypatch.setattr(widgets, "jslink", lambda *ends: linked.append(ends))
    knob = Knob("level", "level", LEVELS, 2, plays=True)
    control = knob.widget("toy")
    slider, play = knob.row(control).children
    assert slider is control
    assert (play.min, play.max, play.value) == (0, len(LEVELS) - 1, 2)
    assert linked == [((play, "value"), (control, "index"))]


def test_other_knobs_stand_alone():
    knob = Knob("level", "level", LEVELS)
    control = knob.widget("toy")
    assert knob.row(control) is control
