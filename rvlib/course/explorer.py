"""A picture under sliders: live in a notebook, and a static export for pages without a kernel."""

import base64
import itertools
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rvlib.course.static import Frame, encode, export, is_headless

MAX_EXPORTED = 160
"""Frames of a static export: one is about 5 kB of the page and 50 ms of its making."""


@dataclass(frozen=True)
class Control:
    """A slider or a menu over a list of values.

    Parameters
    ----------
    name : str
        Argument of the explorer's ``draw``.
    label : str
        Its name on the page.
    values : sequence
        The values, in order.
    start : int, default=0
        Position of the first one shown.
    words : callable, default=str
        Gives a value as text, also for screen readers.
    menu : bool, default=False
        A menu instead of a slider: for values without an order.
    exported : sequence of int, default=all
        Positions in the static export; the start is always among them.
    plays : bool, default=False
        A button that goes through the values by itself.
    blinks : bool, default=False
        A button that alternates between the first value and the one that is set.
    """

    name: str
    label: str
    values: Sequence[Hashable]
    start: int = 0
    words: Callable[[Any], str] = str
    menu: bool = False
    exported: Sequence[int] = ()
    plays: bool = False
    blinks: bool = False

    @property
    def texts(self) -> list[str]:
        """Every value as text."""
        return [self.words(value) for value in self.values]

    @property
    def kept(self) -> list[int]:
        """Positions in the static export."""
        every = set(range(len(self.values)))  # of fewer values than usual, perhaps
        return sorted(every & {self.start, *(self.exported or every)})

    def spec(self, positions: Sequence[int]) -> dict[str, Any]:
        """Describe the control, with some of its positions, to the page."""
        values, start = [self.texts[i] for i in positions], list(positions).index(self.start)
        spec = {"name": self.name, "label": self.label, "values": values, "start": start}
        return spec | {"menu": self.menu, "plays": self.plays, "blinks": self.blinks}


def animate(*artists: Artist) -> None:
    """Mark what changes in a picture; it is painted in the order in which it was made."""
    for artist in artists:
        artist.set_animated(True)


class Picture:
    """A figure whose still parts are painted once and whose moving parts are painted each time.

    Parameters
    ----------
    figure : Figure
        Of fixed size.  What was marked by `animate` changes, in front of all that does not; limits
        and ticks of axes must stay.
    """

    def __init__(self, figure: Figure) -> None:
        self._canvas, self._moving = FigureCanvasAgg(figure), figure.findobj(Artist.get_animated)
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(figure.bbox)

    def pixels(self) -> np.ndarray:
        """Paint the moving parts over the still ones: (height, width, 3), uint8."""
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            self._canvas.figure.draw_artist(artist)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


class Explorer(anywidget.AnyWidget):
    """Sliders over a picture, and a sentence with the numbers that it shows.

    A move of a slider calls `draw` and repaints one picture.  Moves that come meanwhile are merged
    into one.  JupyterLab with ipykernel 7 calls in another thread than the cells': sliders answer
    while a cell runs.  A page saved without a front end (papermill, nbconvert) gets the static
    export instead, and every page a PNG with its alternative text.

    Parameters
    ----------
    name : str
        Short name, in letters: hook for styles and tests.
    controls : sequence of Control
        The sliders and menus.
    figure : Figure
        What `draw` changes.
    draw : callable
        Takes one value of each control by name, changes what is animated, returns the sentence.
        It runs in any thread: no pyplot, no global random state, no global gradient mode.
    """

    _esm = Path(__file__).with_name("explorer.js")
    spec = traitlets.Dict().tag(sync=True)
    positions: traitlets.List[int] = traitlets.List().tag(sync=True)
    png = traitlets.Bytes().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)

    def __init__(
        self, name: str, controls: Sequence[Control], figure: Figure, draw: Callable[..., str]
    ) -> None:
        self._controls, self._picture, self._draw = controls, Picture(figure), draw
        self._lock, start = threading.Lock(), [control.start for control in controls]
        pixels, text = self._first = self.draw(start)
        super().__init__(
            spec=self._spec(name, [range(len(control.values)) for control in controls]),
            positions=start,
            png=encode(pixels),
            frame={"positions": start, "text": text},
        )
        self.observe(self._moved, "positions")
        # JupyterLab addresses moves to a thread of their own (a subshell).  ipykernel 7.4 would
        # bring them back to the thread that opened the comm: the cells', which may be busy.
        if self.comm is not None:
            self.comm._reply_subshell_for = None

    def _spec(self, name: str, positions: Sequence[Sequence[int]]) -> dict[str, Any]:
        height, width = self._first[0].shape[:2]
        controls = [c.spec(kept) for c, kept in zip(self._controls, positions, strict=True)]
        return {"name": name, "controls": controls, "width": width, "height": height}

    def draw(self, positions: Sequence[int]) -> Frame:
        """Draw one frame.

        Parameters
        ----------
        positions : sequence of int
            Position of every control.

        Returns
        -------
        pixels : ndarray of shape (height, width, 3), uint8
            The picture.
        text : str
            Its sentence.
        """
        chosen = zip(self._controls, positions, strict=True)
        text = self._draw(**{control.name: control.values[at] for control, at in chosen})
        return self._picture.pixels(), text

    def _moved(self, change: Any) -> None:
        with self._lock:  # of two threads the later one reads, and shows, the newest positions
            positions = list(self.positions)
            try:
                pixels, text = self.draw(positions)
            except Exception as error:  # nobody would see it: callbacks have no output
                self.frame = {"positions": positions, "text": f"{type(error).__name__}: {error}"}
                return
            with self.hold_sync():
                self.png, self.frame = encode(pixels), {"positions": positions, "text": text}

    def html(self) -> str:
        """Make the static export: HTML with all frames in it, without kernel or network.

        Raises
        ------
        ValueError
            If the positions that the controls keep make too many frames.
        """
        kept = [control.kept for control in self._controls]
        keys = list(itertools.product(*(range(len(positions)) for positions in kept)))
        if len(keys) > MAX_EXPORTED:
            raise ValueError(f"{len(keys)} frames in a static export: at most {MAX_EXPORTED}")
        with self._lock:
            drawn = [self.draw(positions) for positions in itertools.product(*kept)]
        return export(self._spec(self.spec["name"], kept), dict(zip(keys, drawn, strict=True)))

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        pixels, text = self._first
        png = base64.b64encode(encode(pixels, optimize=True)).decode()
        bundle, metadata = {"image/png": png, "text/plain": text}, {"image/png": {"alt": text}}
        if is_headless():  # pages prefer a widget to HTML, even where it cannot be shown
            return bundle | {"text/html": self.html()}, metadata
        live, more = super()._repr_mimebundle_(**options) or ({}, {})
        return live | bundle, more | metadata
