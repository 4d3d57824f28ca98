"""Notebook 05's explorer: from votes to a bound, from the bound to a radius, and Figure 1."""

import math
from functools import cache
from typing import Any

import numpy as np
import scipy
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import HERE, new_figure, percent, place
from rvlib.course.figures import BLUE, GREEN, curve_style
from rvlib.experiments import ALPHA, SIGMA, SIGMAS
from rvlib.pipeline import Run
from rvlib.report.tables import radii as certified_radii
from rvlib.smoothing import (
    certified_accuracy,
    certified_radius,
    largest_radius,
    lower_confidence_bound,
)

NS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Slider grid of the number of votes."""
ALPHAS = (0.05, 0.01, ALPHA, 0.0001)
"""Slider grid of the failure probability."""
SHARES = (0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Slider grid of the leader's share of the votes."""
GRID = np.arange(0, 4.1, 0.01)
"""Radii of the curves, in pixel units; the largest possible one is within."""
QUOTED = 0.25
"""The radius whose certified accuracy the sentence gives."""
Radii = dict[float, NDArray[np.float64]]
"""Certified radii of the images, by noise level."""


def explore_certification(run: Run) -> Explorer:
    """Move the number of votes and see the bound close in and the certified radius grow.

    Parameters
    ----------
    run : Run
        Whose certificates to use; they are measured where they are missing.

    Returns
    -------
    Explorer
        Controls ``share``, ``alpha``, ``sigma`` and ``n``.
    """
    results = {sigma: run.certificates(sigma) for sigma in SIGMAS}

    @cache
    def radii(n: int, alpha: float) -> Radii:
        return {sigma: certified_radii(results[sigma], n, alpha) for sigma in SIGMAS}

    with new_figure() as figure:
        bound = _Bound(place(figure, 62, 252, 264, 118))
        radius = _Radius(place(figure, 62, 52, 264, 118))
        curves = _Curves(place(figure, 408, 52, 302, 318))

    def draw(share: float, alpha: float, sigma: float, n: int) -> str:
        p = bound.show(share, alpha, n)
        within = radius.show(p, alpha, sigma, n)
        # Votes are stored for some numbers only: of those the next smaller one.
        stored = max(m for m in run.profile.ns if m <= n)
        found = radii(stored, alpha)
        caps = {s: largest_radius(stored, alpha, s) for s in SIGMAS}
        curves.show(found, caps, sigma, stored)
        curves.radius.set_xdata([within])
        at = 100 * float(certified_accuracy(found[sigma], QUOTED)[0])
        promise = (
            f"at σ = {sigma} no perturbation below R = {_down(within)} changes the prediction"
            if within > 0
            else "not above one half, so nothing is certified"
        )
        return (
            f"{percent(share)} of N = {n:,} votes, α = {alpha}: p ≥ {_down(p, 4)}, {promise}; "
            f"the largest possible R is {_down(largest_radius(n, alpha, sigma))}. Certified "
            f"accuracy at radius {QUOTED} with {stored:,} votes: {at:.1f} % of "
            f"{len(found[sigma])} images."
        )

    controls = [
        Control("share", "leader's share", SHARES, 3, percent, exported=(1, 7)),
        Control("alpha", "failure prob. α", ALPHAS, ALPHAS.index(ALPHA), exported=(0, 2)),
        Control("sigma", "noise level σ", SIGMAS, SIGMAS.index(SIGMA), "{:.2f}".format),
        Control("n", "votes N", NS, 3, "{:,}".format, exported=(0, 3, 6, 9)),
    ]
    return Explorer("certification", controls, figure, draw)


class _Bound:
    """The lower confidence bound against the number of votes."""

    def __init__(self, axes: Axes) -> None:
        (self.share,) = axes.plot(NS, [0.5] * len(NS), "--", color="0.3", label="share")
        (self.curve,) = axes.plot(NS, [0.5] * len(NS), color=BLUE, label="bound")
        (self.here,) = axes.plot([NS[0]], [0.5], **HERE)
        self.title = axes.set_title(" ")
        axes.axhspan(0, 0.5, color="0.9", zorder=0)
        axes.set(xscale="log", ylim=(0.26, 1.05), xlim=(80, 125_000), yticks=[0.5, 1])
        axes.set_xticks(NS[::3], ["10²", "10³", "10⁴", "10⁵"])
        axes.set_xlabel("votes N", labelpad=0)
        axes.set_ylabel("probability p")
        axes.legend(loc="lower right", ncols=2, columnspacing=1, borderaxespad=0)
        animate(self.share, self.curve, self.here, self.title)

    def show(self, share: float, alpha: float, n: int) -> float:
        bounds = lower_confidence_bound([round(share * m) for m in NS], NS, alpha)
        p = float(bounds[NS.index(n)])
        self.share.set_ydata([share] * len(NS))
        self.curve.set_ydata(bounds)
        self.here.set_data([n], [p])
        self.title.set_text(f"p ≥ {_down(p, 4)}")
        return p


class _Radius:
    """The radius against the bound, in units of the noise level, and the most that N allows."""

    def __init__(self, axes: Axes) -> None:
        p = 1 - np.geomspace(0.5, 1e-5, 200)
        axes.plot(p, scipy.stats.norm.ppf(p), color=BLUE, label="Φ⁻¹(p)")
        (self.cap,) = axes.plot([0.5], [0], "v", color=GREEN, markersize=11, label="largest R")
        (self.here,) = axes.plot([0.5], [0], **HERE)
        self.title = axes.set_title(" ")
        axes.axvspan(0, 0.5, color="0.9", zorder=0)
        axes.set(xlim=(0.34, 1.03), ylim=(-0.3, 4.4), xlabel="lower bound on p", ylabel="R / σ")
        axes.legend(loc="upper left", bbox_to_anchor=(0.24, 1.0), borderaxespad=0)
        animate(self.cap, self.here, self.title)

    def show(self, p: float, alpha: float, sigma: float, n: int) -> float:
        within = float(certified_radius(p, sigma))
        self.cap.set_data(
            [float(lower_confidence_bound(n, n, alpha))], [largest_radius(n, alpha, 1.0)]
        )
        self.here.set_data([p], [within / sigma])
        words = f"R = σ Φ⁻¹(p) = {_down(within)}" if within > 0 else "nothing is certified"
        self.title.set_text(words)
        return within


class _Curves:
    """Certified accuracy against the radius; the chosen noise level is bold."""

    def __init__(self, axes: Axes) -> None:
        looks = [curve_style(k) | {"marker": ""} for k in range(len(SIGMAS))]
        self.lines = {
            sigma: axes.plot(GRID, 0 * GRID, label=f"σ = {sigma:.2f}", **look)[0]
            for sigma, look in zip(SIGMAS, looks, strict=True)
        }
        look: dict[str, Any] = {"color": "0.2", "markersize": 11, "clip_on": False, "zorder": 5}
        (self.radius,) = axes.plot([0], [0], "^", label="R, as on the left", **look)
        self.title = axes.set_title(" ")
        axes.set(xlim=(0, GRID[-1]), ylim=(0, 80))
        axes.set(xlabel="l2 radius (pixel units)", ylabel="certified accuracy, %")
        axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
        animate(*self.lines.values(), self.radius, self.title)

    def show(self, found: Radii, caps: dict[float, float], chosen: float, n: int) -> None:
        for sigma, line in self.lines.items():
            # One point beyond the cap, where every curve drops to zero.
            grid = GRID[: np.searchsorted(GRID, caps[sigma]) + 1]
            line.set_data(grid, 100 * certified_accuracy(found[sigma], grid.tolist()))
            line.set_linewidth(4 if sigma == chosen else 1.8)
        self.title.set_text(f"{len(found[chosen])} images, N = {n:,} votes each")


def _down(value: float, digits: int = 3) -> str:
    """Print a bound so that it never promises more than was computed."""
    return f"{math.floor(10**digits * value) / 10**digits:.{digits}f}"
