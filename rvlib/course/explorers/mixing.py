"""Notebook 03's second explorer: the weight of the clean loss, and what it trades for what."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import Curves, new_figure, place
from rvlib.course.figures import curve_style
from rvlib.course.lessons import TEST_RADII, ShortTraining
from rvlib.pipeline import Run


def explore_mixing(run: Run, trainings: Sequence[ShortTraining]) -> Explorer:
    """Move the weight of the clean loss and see what a network gains under attack, and pays.

    Parameters
    ----------
    run : Run
        The run that they were made in.
    trainings : sequence of ShortTraining
        As given by ``compare_clean_weights``.

    Returns
    -------
    Explorer
        Controls ``name`` and ``eps``.
    """
    curves = {training.name: training.curve for training in trainings}
    names, n = list(curves), run.profile.heldout

    with new_figure() as figure:
        left, right = (place(figure, at, 58, 270, 280) for at in (62, 418))
        against = Curves(left, TEST_RADII, {name: name for name in names})
        left.set(xlabel="ε at test time", ylabel="accuracy, %", ylim=(0, 80), xticks=TEST_RADII)
        figure.legend(loc="upper center", ncols=5, columnspacing=1)
        trade = _Trade(right, curves)

    def draw(name: str, eps: float) -> str:
        at = TEST_RADII.index(eps)
        against.show(curves, name, at)
        trade.show(name, at)
        first, last = (f"{k} gives {curves[k][at]:.1f} %" for k in (names[0], names[-1]))
        return (
            f"{name}, {n} images: clean accuracy {curves[name][0]:.1f} %; under PGD in the l∞ ball "
            f"of ε = {eps:g} it is {curves[name][at]:.1f} %. At this ε, {first} and {last}."
        )

    controls = [
        Control("name", "weight of the clean loss", names, len(names) // 2),
        Control("eps", "ε at test time", TEST_RADII, 3, "{:g}".format),
    ]
    return Explorer("mixing", controls, figure, draw)


class _Trade:
    """Clean accuracy against accuracy at the chosen epsilon, a point for each weight."""

    def __init__(self, axes: Axes, curves: dict[str, list[float]]) -> None:
        self.curves = curves
        (self.path,) = axes.plot([], [], "-", color="0.6")
        looks = [curve_style(k) | {"linestyle": "", "markersize": 9} for k in range(len(curves))]
        self.points = [axes.plot([], [], **look)[0] for look in looks]
        (self.here,) = axes.plot([], [], "o", color="none", markeredgecolor="k", markersize=18)
        clean = [values[0] for values in curves.values()]
        axes.set(xlim=(min(clean) - 4, max(clean) + 4), ylim=(0, 80))
        axes.locator_params("x", nbins=5)
        axes.set(xlabel="clean accuracy, %", ylabel="accuracy at ε, %")
        animate(self.path, *self.points, self.here)

    def show(self, name: str, at: int) -> None:
        places = {name: (values[0], values[at]) for name, values in self.curves.items()}
        self.path.set_data(*zip(*places.values(), strict=True))
        for point, (clean, attacked) in zip(self.points, places.values(), strict=True):
            point.set_data([clean], [attacked])
        self.here.set_data(*([place] for place in places[name]))
