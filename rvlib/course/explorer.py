"""A picture under sliders, with three faces: live in a notebook, a web page's, and a plain PNG."""

import html
import itertools
import threading
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rvlib.course.twin import Control, Frame, data_uri, twin

STYLE = """<style onload="(function quiet(style) {
  const root = style.closest('.explorer');
  if (!root) return setTimeout(quiet, 50, style);
  root.addEventListener('focusin',
    event => event.target.setAttribute('data-lm-suppress-shortcuts', ''));
})(this)">
.explorer :is(.widget-label, .widget-readout) { font-size: 16px }
.explorer .widget-readout { min-width: 20em; max-width: 20em; text-align: left }
</style>"""
"""Controls to be read at a distance, whose tracks are of one length whatever they say; and whose
arrow keys Jupyter's pages do not take for moves between cells.  No widget can set an attribute of
its own element, but a style that was loaded can."""

MOST_FRAMES = 160
"""Frames of a static twin: one is 5 to 15 kB of the notebook and 50 ms of its opening."""


@dataclass(frozen=True)
class Knob:
    """One thing that the hand moves, on a grid of values.

    Parameters
    ----------
    name : str
        Argument of the explorer's ``draw``.
    label : str
        What stands beside the slider.
    values : sequence
        The values, in the slider's order.
    start : int, default=0
        Position of the first one shown.
    words : sequence of str, default=str of each value
        How the values are read out.
    menu : bool, default=False
        A menu instead of a slider in the static twin: for values without an order.  Live it is
        a slider all the same, as JupyterLab takes the arrow keys away from a menu.
    twin : sequence of int, default=all
        Positions that the static twin has.
    plays : bool, default=False
        Buttons beside the live slider that go through the values by themselves.
    """

    name: str
    label: str
    values: Sequence[Hashable]
    start: int = 0
    words: Sequence[str] = ()
    menu: bool = False
    twin: Sequence[int] = ()
    plays: bool = False

    @property
    def texts(self) -> list[str]:
        """How each value is read out."""
        return list(self.words) or [str(value) for value in self.values]

    @property
    def shown(self) -> list[int]:
        """Positions in the static twin, among them the start."""
        return sorted({self.start, *(self.twin or range(len(self.values)))})

    def widget(self, explorer: str) -> widgets.ValueWidget:
        """Make the live control, whose value is a position."""
        control = widgets.SelectionSlider(
            options=list(zip(self.texts, range(len(self.values)), strict=True)),
            value=self.start,
            description=self.label,
            style={"description_width": "11em"},
            layout=widgets.Layout(width="800px"),
        )
        control.add_class(f"{explorer}-{self.name}")
        return control

    def row(self, control: widgets.ValueWidget) -> widgets.Widget:
        """Set the control on its line, with the buttons that play it where it has some."""
        if not self.plays:
            return control
        play = widgets.Play(max=len(self.values) - 1, value=self.start, interval=600)
        # Linked in the page: the kernel hears of the slider only.
        widgets.jslink((play, "value"), (control, "index"))
        return widgets.HBox([control, play])


@dataclass(frozen=True)
class Picture:
    """A figure whose still parts are painted once and whose moving parts are painted each time.

    Parameters
    ----------
    figure : Figure
        Of fixed size, so that the page never jumps.
    moving : sequence of Artist
        What changes; in front of all that does not.  Limits and ticks of axes must stay.
    """

    figure: Figure
    moving: Sequence[Artist]
    _still: list[Any] = field(default_factory=list)

    def pixels(self) -> np.ndarray:
        """Paint the moving parts over the still ones: (height, width, 3), uint8."""
        canvas = self.figure.canvas
        if not self._still:
            canvas = FigureCanvasAgg(self.figure)
            for artist in self.moving:
                artist.set_animated(True)
            canvas.draw()
            self._still.append(canvas.copy_from_bbox(self.figure.bbox))
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.restore_region(self._still[0])
        for artist in self.moving:
            assert artist.axes is not None
            artist.axes.draw_artist(artist)
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Explorer(widgets.VBox):  # type: ignore[misc]
    """Sliders over a picture and a sentence that says what it shows.

    Each move calls `draw` and repaints one image that is made once: no figures pile up and nothing
    flickers.  Moves that come while one is painted are merged by the widgets' own throttling.
    Shown in a notebook it has three faces, of which every reader takes the richest it can show:
    the live widget, a static twin (HTML with the frames of its grid, no kernel, no network) and a
    PNG.

    Parameters
    ----------
    name : str
        Short name, in letters: hook of styles and tests.
    knobs : sequence of Knob
        What the hand moves.
    picture : Picture
        What the eye sees.
    draw : callable
        Takes one value of each knob by name, moves the artists, returns a sentence with the
        numbers shown: the picture's text for those who do not see it.  Must not use pyplot, global
        random state or global gradient mode: it runs in other threads.
    """

    def __init__(
        self, name: str, knobs: Sequence[Knob], picture: Picture, draw: Callable[..., str]
    ) -> None:
        self._name, self._knobs, self._picture, self._draw = name, list(knobs), picture, draw
        self._lock = threading.Lock()
        self._controls = [knob.widget(name) for knob in self._knobs]
        pixels, words = self._frame([knob.start for knob in self._knobs])
        height, width = pixels.shape[:2]
        # HTML and not widgets.Image: it has no alternative text.
        self._image = widgets.HTML(layout=widgets.Layout(min_height=f"{height}px"))
        self._size = width
        self._show(pixels, words)
        style = widgets.HTML(STYLE, layout=widgets.Layout(display="none"))
        rows = [knob.row(c) for knob, c in zip(self._knobs, self._controls, strict=True)]
        super().__init__([style, *rows, self._image])
        self.add_class("explorer").add_class(f"explorer-{name}")
        for control in self._controls:
            control.observe(self._moved, "value")

    def _frame(self, positions: Sequence[int]) -> Frame:
        """Draw one frame: its pixels and its sentence."""
        values = {
            knob.name: knob.values[at] for knob, at in zip(self._knobs, positions, strict=True)
        }
        words = self._draw(**values)
        return self._picture.pixels(), words

    def _show(self, pixels: np.ndarray, words: str) -> None:
        alt, source = html.escape(words), data_uri(pixels, "PNG", compress_level=1)
        self._image.value = (
            f'<img alt="{alt}" width="{self._size}" src="{source}" style="max-width: none">'
            f'<div role="status" style="font-size: 16px; width: {self._size}px">{alt}</div>'
        )

    def _moved(self, change: Any) -> None:
        # Inside the lock: of two threads the later one reads, and shows, the newest values.
        with self._lock:
            try:
                self._show(*self._frame([control.value for control in self._controls]))
            except Exception:
                # In a callback it would be seen by nobody.
                trace = html.escape(traceback.format_exc(limit=-2))
                self._image.value = f'<pre role="alert">{trace}</pre>'

    def frames(self) -> dict[tuple[int, ...], Frame]:
        """Draw every frame of the static twin.

        Returns
        -------
        dict of tuple of int to Frame
            By position among the values that the twin has of each knob.

        Raises
        ------
        ValueError
            If there are more than ``MOST_FRAMES``.
        """
        grid = list(itertools.product(*(range(len(knob.shown)) for knob in self._knobs)))
        if len(grid) > MOST_FRAMES:
            raise ValueError(f"{len(grid)} frames in {self._name}'s twin: at most {MOST_FRAMES}")
        with self._lock:
            return {
                key: self._frame([knob.shown[i] for knob, i in zip(self._knobs, key, strict=True)])
                for key in grid
            }

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        frames, knobs = self.frames(), self._knobs
        start = tuple(knob.shown.index(knob.start) for knob in knobs)
        pixels, words = frames[start]
        controls = [Control(k.label, [k.texts[i] for i in k.shown], k.menu) for k in knobs]
        bundle = {
            **super()._repr_mimebundle_(**options),
            "text/html": twin(self._name, controls, frames, start),
            "image/png": data_uri(pixels, "PNG", optimize=True).partition(",")[2],
            "text/plain": words,
        }
        return bundle, {"image/png": {"alt": words}}
