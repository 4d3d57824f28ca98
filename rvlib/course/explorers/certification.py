"""Notebook 05's explorer: from votes to a bound, from the bound to a radius, and Figure 1."""

import math

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.figures import STYLES, dress
from rvlib.evaluation import certified_accuracy
from rvlib.recipes import ALPHA, SIGMA, SIGMAS
from rvlib.report.curves import radii
from rvlib.smoothing import certified_radius, largest_radius, lower_confidence_bound
from rvlib.smoothing.certificate import Floats
from rvlib.stages.run import Run

NS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Slider grid of the number of votes."""
ALPHAS = (0.05, 0.01, ALPHA, 0.0001)
"""Slider grid of the failure probability."""
SHARES = (0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Slider grid of the leader's share of the votes."""
GRID = np.arange(0, 4.1, 0.01)
"""Radii of the curves, in pixel units; the largest cap of all is within."""
QUOTED = 0.25
"""The radius whose certified accuracy is put into words."""

COLOURS = sns.color_palette("colorblind")
BLUE, ORANGE = COLOURS[:2]


def explore_certification(run: Run) -> Explorer:
    """Move the number of votes and see the bound close in and the certified radius grow.

    Parameters
    ----------
    run : Run
        Whose certificates to use; they are measured where they are missing.

    Returns
    -------
    Explorer
        Knobs ``share``, ``alpha``, ``sigma`` and ``n``.
    """
    rows = {sigma: run.certificates(sigma) for sigma in SIGMAS}
    certified = {
        (sigma, n, alpha): radii(rows[sigma], n, alpha)
        for sigma in SIGMAS
        for n in run.profile.ns
        for alpha in ALPHAS
    }
    figure = Figure(figsize=(9.6, 6.4), layout="constrained", dpi=100)
    axes = figure.subplot_mosaic("AB;CC")
    bound, radius = _Bound(axes["A"]), _Radius(axes["B"])
    curves = _Curves(axes["C"], 100 * max((found >= 0).mean() for found in certified.values()))

    def draw(share: float, alpha: float, sigma: float, n: int) -> str:
        p = bound.show(share, alpha, n)
        within = radius.show(p, alpha, sigma, n)
        # Votes are stored for some numbers only: of those the next smaller one.
        stored = max(m for m in run.profile.ns if m <= n)
        found = {s: certified[s, stored, alpha] for s in SIGMAS}
        caps = {s: largest_radius(stored, alpha, s) for s in SIGMAS}
        curves.show(found, caps, sigma, stored, within)
        at = 100 * float(certified_accuracy(found[sigma], QUOTED)[0])
        promise = (
            f"at σ = {sigma} nothing shorter than R = {_down(within)} changes the answer"
            if within > 0
            else "which does not exceed one half: nothing is promised"
        )
        return (
            f"{share:.0%} of N = {n:,} votes, α = {alpha}: p is at least {_down(p, 4)}, {promise}; "
            f"with N = {n:,} no R exceeds {_down(largest_radius(n, alpha, sigma))}. Certified at "
            f"radius {QUOTED} from {stored:,} votes: {at:.1f} % of {len(found[sigma])} images."
        )

    knobs = [
        Knob("share", "share of the votes", SHARES, 3, [f"{s:.0%}" for s in SHARES], twin=(1, 7)),
        Knob("alpha", "risk α", ALPHAS, ALPHAS.index(ALPHA), twin=(0, 2)),
        Knob("sigma", "noise level σ", SIGMAS, SIGMAS.index(SIGMA), [f"{s:.2f}" for s in SIGMAS]),
        Knob("n", "votes N", NS, 3, [f"{n:,}" for n in NS], twin=(0, 3, 6, 9)),
    ]
    moving = [*bound.moving, *radius.moving, *curves.moving]
    return Explorer("certification", knobs, Picture(figure, moving), draw)


class _Bound:
    """The lower confidence bound against the number of votes."""

    def __init__(self, axes: Axes) -> None:
        (self.share,) = axes.plot(NS, [0.5] * len(NS), "--", color="0.3", label="share seen")
        (self.curve,) = axes.plot(NS, [0.5] * len(NS), color=BLUE, label="lower bound on p")
        (self.marker,) = axes.plot([NS[0]], [0.5], "o", color=ORANGE, markersize=10)
        self.title = axes.set_title(" ", fontsize=14)
        axes.axhspan(0, 0.5, color="0.9", zorder=0)
        axes.set(xscale="log", ylim=(0.34, 1.03), xlim=(80, 125_000))
        axes.set_xticks(NS[::3], [f"{n:,}" for n in NS[::3]])
        dress(axes, "votes N", "probability p")
        axes.legend(fontsize=12, frameon=False, loc="lower right", ncols=2, columnspacing=1)
        self.moving: list[Artist] = [self.share, self.curve, self.marker, self.title]

    def show(self, share: float, alpha: float, n: int) -> float:
        bounds = lower_confidence_bound([round(share * m) for m in NS], NS, alpha)
        p = float(bounds[NS.index(n)])
        self.share.set_ydata([share] * len(NS))
        self.curve.set_ydata(bounds)
        self.marker.set_data([n], [p])
        self.title.set_text(f"p ≥ {_down(p, 4)}")
        return p


class _Radius:
    """The radius against the bound, in units of the noise level, and the cap of N votes."""

    def __init__(self, axes: Axes) -> None:
        p = 1 - np.geomspace(0.5, 1e-5, 200)
        axes.plot(p, norm.ppf(p), color=BLUE, label="Φ⁻¹(p)")
        (self.cap,) = axes.plot([0.5], [0], "v", color=COLOURS[2], markersize=11, label="cap of N")
        (self.marker,) = axes.plot([0.5], [0], "o", color=ORANGE, markersize=10)
        self.words = axes.text(0.53, 2.4, " ", fontsize=14)
        axes.set_title("R = σ · Φ⁻¹(p)", fontsize=14)
        axes.axvspan(0, 0.5, color="0.9", zorder=0)
        axes.set(xlim=(0.34, 1.03), ylim=(-0.2, 4.3))
        dress(axes, "lower bound on p", "R / σ")
        axes.legend(fontsize=12, frameon=False, loc="upper left", bbox_to_anchor=(0.24, 1))
        self.moving: list[Artist] = [self.cap, self.marker, self.words]

    def show(self, p: float, alpha: float, sigma: float, n: int) -> float:
        within = float(certified_radius(p, sigma))
        most = float(lower_confidence_bound(n, n, alpha))
        self.cap.set_data([most], [largest_radius(n, alpha, 1.0)])
        self.marker.set_data([p], [within / sigma])
        self.words.set_text(f"R = {_down(within)}" if within > 0 else "no promise")
        return within


class _Curves:
    """Figure 1: certified accuracy against the radius; the chosen noise level is set in bold."""

    def __init__(self, axes: Axes, top: float) -> None:
        self.lines, self.names = {}, {}
        for k, (sigma, colour, style) in enumerate(zip(SIGMAS, COLOURS, STYLES, strict=False)):
            kind = {"color": colour, "linestyle": style, "linewidth": 2}
            (self.lines[sigma],) = axes.plot(GRID, 0 * GRID, **kind)
            # A legend of our own: where the name alone moves, a twin stays small.
            axes.plot([3.3, 3.5], [(1.03 - 0.2 * k) * top] * 2, **kind)
            self.names[sigma] = axes.text(
                3.57, (0.98 - 0.2 * k) * top, f"σ = {sigma:.2f}", fontsize=12
            )
        (self.radius,) = axes.plot([0], [1.24 * top], "v", color="0.2", label="R of the vote above")
        self.radius.set(markersize=10, clip_on=False)
        self.title = axes.set_title(" ", fontsize=14)
        axes.set(xlim=(0, GRID[-1]), ylim=(0, 1.35 * top))
        dress(axes, "l2 radius (pixel units)", "certified, %")
        axes.legend(fontsize=12, frameon=False, loc="center", bbox_to_anchor=(0.5, 0.75))
        words: list[Artist] = [*self.names.values(), self.title]
        self.moving: list[Artist] = [*self.lines.values(), self.radius, *words]

    def show(
        self,
        found: dict[float, Floats],
        caps: dict[float, float],
        chosen: float,
        n: int,
        within: float,
    ) -> None:
        for sigma, line in self.lines.items():
            # One point beyond the cap, where every curve drops to zero.
            grid = GRID[: np.searchsorted(GRID, caps[sigma]) + 1]
            line.set_data(grid, 100 * certified_accuracy(found[sigma], grid.tolist()))
            self.names[sigma].set_fontweight("bold" if sigma == chosen else "normal")
        self.radius.set_xdata([within])
        self.title.set_text(f"{len(found[chosen])} images, certified from N = {n:,} votes each")


def _down(value: float, digits: int = 3) -> str:
    """Print a bound so that it never promises more than was computed."""
    return f"{math.floor(10**digits * value) / 10**digits:.{digits}f}"
