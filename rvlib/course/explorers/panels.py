"""Panels that explorers share, placed at pixels of a figure of 720 x 400."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rvlib.course.explorer import animate
from rvlib.course.figures import BLUE, CLASSES, DPI, ORANGE, curve_style, pixels, styled
from rvlib.smoothing import wilson
from rvlib.smoothing.statistics import Interval

WIDTH, HEIGHT = 720, 400
"""Beside JupyterLab's side bar, with sliders and a sentence, on a projector of 1280 x 720."""
SHOT = 128
"""Pixels along a side of a shown image: each of its own pixels is 4 x 4."""
HERE: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 11,
    "color": ORANGE,
    "markeredgecolor": "k",
}
"""The mark of the chosen point."""


def new_figure() -> AbstractContextManager[Figure]:
    """Make the figure of an explorer: ``with new_figure() as figure: ...``."""
    return styled(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)


def percent(share: Tensor | float, digits: int = 0) -> str:
    """Write a share as every page does: ``33.5 %``."""
    return f"{100 * float(share):.{digits}f} %"


def place(figure: Figure, left: int, bottom: int, width: int, height: int) -> Axes:
    """Add axes at pixels of the screen."""
    w, h = figure.bbox.size
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


class Shot:
    """An image under a title of at most two lines."""

    def __init__(self, figure: Figure, left: int, bottom: int) -> None:
        axes = place(figure, left, bottom, SHOT, SHOT)
        axes.set_axis_off()
        self.image = axes.imshow(np.zeros((2, 2, 3)), extent=(0, 1, 0, 1))
        self.title = axes.set_title(" ", linespacing=1.1, pad=5)
        animate(self.image, self.title)

    def show(self, image: Tensor, title: str) -> None:
        """Show an image (C, H, W) in [0, 1]."""
        # 16 levels of each colour: nobody sees the difference, and an export is half as large.
        self.image.set_data((15 * pixels(image)).round() / 15)
        self.title.set_text(title)


class ClassBars:
    """A bar for every class, or one for each of two series; an arrow at the true class."""

    def __init__(self, axes: Axes, xlabel: str, series: Sequence[str] = ("",)) -> None:
        rows, height = np.arange(len(CLASSES)), 0.76 / len(series)
        looks: tuple[dict[str, Any], ...] = ({"color": BLUE}, {"color": ORANGE, "hatch": "///"})
        self.bars = [
            axes.barh(rows + (k - (len(series) - 1) / 2) * height, 1, height, label=name, **look)
            for k, (name, look) in enumerate(zip(series, looks, strict=False))
        ]
        self.true = axes.text(1.0, 0, " ◀ true", va="center", clip_on=False)
        axes.set_yticks(rows, CLASSES)
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel=xlabel, ylim=(len(CLASSES) - 0.5, -0.5))
        axes.set_xticklabels(["0", "½", "1"])
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        animate(*(bar for bars in self.bars for bar in bars), self.true)

    def show(self, label: int, *shares: Sequence[float]) -> None:
        """Show the share of every class in each series."""
        for bars, widths in zip(self.bars, shares, strict=True):
            for bar, width in zip(bars, widths, strict=True):
                bar.set_width(width)
        self.true.set_y(label)


class Curves:
    """A curve for every name over one grid: the chosen one with large markers, one point marked."""

    def __init__(self, axes: Axes, x: Sequence[float], names: Mapping[str, str]) -> None:
        self.axes, self.x, self.names = axes, list(x), list(names)
        self.lines = [
            axes.plot(x, [np.nan] * len(x), label=label, markersize=5, **curve_style(k))[0]
            for k, label in enumerate(names.values())
        ]
        margin = 0.03 * (self.x[-1] - self.x[0])
        axes.set_xlim(self.x[0] - margin, self.x[-1] + margin)
        (self.chosen,) = axes.plot([], [], linestyle="", markersize=10, markeredgecolor="k")
        (self.here,) = axes.plot([], [], **(HERE | {"color": "white", "markersize": 6}))
        animate(*self.lines, self.chosen, self.here)

    def show(self, curves: Mapping[str, Sequence[float]], chosen: str, at: int) -> None:
        """Show the curves, one of them chosen, and a point of it marked."""
        for line, name in zip(self.lines, self.names, strict=True):
            line.set_ydata(curves[name])
        look = curve_style(self.names.index(chosen))
        self.chosen.set_data(self.x, curves[chosen])
        self.chosen.set(marker=look["marker"], markerfacecolor=look["color"])
        self.here.set_data([self.x[at]], [curves[chosen][at]])


class Bars:
    """Accuracies as bars, each with its interval.

    Parameters
    ----------
    axes : Axes
        Where they are drawn.
    looks : sequence of (color, hatch)
        One a bar.
    top : float
        End of the vertical axis, in percent.
    """

    def __init__(self, axes: Axes, looks: Sequence[tuple[str, str]], top: float) -> None:
        self.bars = [axes.bar(k, 0, color=c, hatch=hatch)[0] for k, (c, hatch) in enumerate(looks)]
        self.ends = [axes.plot([], [], "-_", color="k", markersize=12)[0] for _ in self.bars]
        axes.set(ylim=(0, top), xlim=(-0.6, len(self.bars) - 0.4))
        animate(*self.bars, *self.ends)

    def show(self, *heights: tuple[float, Interval] | None) -> None:
        """Show accuracies and the ends of their intervals, in percent."""
        for k, (bar, ends, found) in enumerate(zip(self.bars, self.ends, heights, strict=True)):
            height, interval = found or (0, ())
            bar.set_height(height)
            ends.set_data([k] * len(interval), interval)


class PercentBars(Bars):
    """Accuracies on `n` images as bars, each with Wilson's 95 % interval and its value above."""

    def __init__(
        self, axes: Axes, looks: Sequence[tuple[str, str]], n: int, top: float, gap: float
    ) -> None:
        super().__init__(axes, looks, top)
        self.n, self.gap = n, gap
        self.values = [axes.text(k, 0, "", ha="center") for k in range(len(looks))]
        animate(*self.values)

    def show_percent(self, *heights: float) -> None:
        """Show accuracies in percent."""
        found = [wilson(round(self.n * height / 100), self.n) for height in heights]
        intervals = [Interval(100 * low, 100 * high) for low, high in found]
        self.show(*zip(heights, intervals, strict=True))
        for value, height, interval in zip(self.values, heights, intervals, strict=True):
            value.set(text=f"{height:.1f}", y=interval.high + self.gap)
