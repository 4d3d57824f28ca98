"""Notebook 03's second explorer: the weight of the clean loss, and what it trades for what."""

from collections.abc import Sequence

import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.figures import MARKERS, STYLES, dress
from rvlib.course.lessons import robust_curve
from rvlib.course.short_training import ShortTraining
from rvlib.stages.run import Run
from rvlib.threat_models import Linf

RADII = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04)
"""Slider grid of epsilon at test time."""
START = RADII.index(0.03)
IMAGES = 256
"""Images that the curves are measured on."""
COLOURS = sns.color_palette("colorblind")


def explore_mixing(run: Run, trainings: Sequence[ShortTraining]) -> Explorer:
    """Move the weight of the clean loss and see what a network gains under attack, and pays.

    Parameters
    ----------
    run : Run
        Whose images to use.
    trainings : sequence of ShortTraining
        Networks trained alike but for that weight.

    Returns
    -------
    Explorer
        Knobs ``name`` and ``eps``.
    """
    x, y = run.images(min(IMAGES, run.profile.heldout))
    curves = {t.name: robust_curve(t.model, x, y, list(map(Linf, RADII))) for t in trainings}
    names = list(curves)

    figure = Figure(figsize=(9.6, 4.8), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)
    against, trade = _Against(left, curves), _Trade(right, curves)

    def draw(name: str, eps: float) -> str:
        at = RADII.index(eps)
        against.show(name, at)
        trade.show(name, at)
        first, last = (f"{name} keeps {curves[name][at]:.1f} %" for name in (names[0], names[-1]))
        return (
            f"{name}: of {len(y)} images {curves[name][0]:.1f} % are read rightly, under PGD in "
            f"the l∞ ball of ε = {eps:g} still {curves[name][at]:.1f} %. There {first}, {last}."
        )

    knobs = [
        Knob("name", "mixing weight", names, len(names) // 2),
        Knob("eps", "ε at test time", RADII, START, [f"{eps:g}" for eps in RADII], twin=(0, 2)),
    ]
    return Explorer("mixing", knobs, Picture(figure, [*against.moving, *trade.moving]), draw)


class _Against:
    """Accuracy against epsilon for every weight; the chosen one stands out."""

    def __init__(self, axes: Axes, curves: dict[str, list[float]]) -> None:
        self.curves = curves
        for (name, values), colour, style, marker in zip(
            curves.items(), COLOURS, STYLES, MARKERS, strict=False
        ):
            (line,) = axes.plot(RADII, values, label=name)
            line.set(color=colour, linestyle=style, marker=marker, markersize=5)
        (self.chosen,) = axes.plot([], [], "", markersize=10, markeredgecolor="black")
        (self.here,) = axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=6)
        axes.set(ylim=(0, 70), xticks=[0, 0.01, 0.02, 0.03, 0.04])
        dress(axes, "ε at test time", "accuracy, %")
        axes.legend(fontsize=12, frameon=False, loc="lower left")
        self.moving: list[Artist] = [self.chosen, self.here]

    def show(self, name: str, at: int) -> None:
        values = self.curves[name]
        self.chosen.set_data(RADII, values)
        k = list(self.curves).index(name)
        self.chosen.set(markerfacecolor=COLOURS[k], marker=MARKERS[k], linestyle="")
        self.here.set_data([RADII[at]], [values[at]])


class _Trade:
    """Clean accuracy against accuracy at the chosen epsilon, a point a weight."""

    def __init__(self, axes: Axes, curves: dict[str, list[float]]) -> None:
        self.curves = curves
        (self.path,) = axes.plot([], [], "-", color="0.6")
        self.points = [
            axes.plot([], [], marker, color=colour, markersize=9)[0]
            for _, colour, marker in zip(curves, COLOURS, MARKERS, strict=False)
        ]
        (self.here,) = axes.plot([], [], "o", color="none", markeredgecolor="black", markersize=18)
        clean = [values[0] for values in curves.values()]
        axes.set(xlim=(min(clean) - 4, max(clean) + 4), ylim=(0, 70))
        dress(axes, "clean accuracy, %", "accuracy at ε, %")
        self.moving: list[Artist] = [self.path, *self.points, self.here]

    def show(self, name: str, at: int) -> None:
        places = {name: (values[0], values[at]) for name, values in self.curves.items()}
        self.path.set_data(*zip(*places.values(), strict=True))
        for point, (clean, attacked) in zip(self.points, places.values(), strict=True):
            point.set_data([clean], [attacked])
        self.here.set_data(*([place] for place in places[name]))
