"""Notebook 06's second explorer: random answers, and an attack that averages over the noise."""

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from rvlib.course.explorer import Control, Explorer, Picture
from rvlib.course.explorers.panels import Curves, moving, new_figure, place
from rvlib.course.figures import BLUE, GREEN, ORANGE, style
from rvlib.course.lessons import AVERAGED, TEST_SIGMAS
from rvlib.experiments import SIGMA
from rvlib.pipeline import Run
from rvlib.smoothing import wilson

NAMES = {m: f"through {m} cop{'y' if m == 1 else 'ies'}" for m in AVERAGED} | {0: "on the network"}
"""Attacks, by the number of copies over which they average their gradient."""


def explore_noise(run: Run, measured: pd.DataFrame) -> Explorer:
    """Move the noise at test time, and the copies over which the attack averages its gradient.

    Parameters
    ----------
    run : Run
        The run that they were measured in.
    measured : DataFrame
        As given by ``answer_at_random``.

    Returns
    -------
    Explorer
        Controls ``sigma`` and ``averaged``.
    """
    table, n = measured.pivot(index="sigma", columns="averaged"), run.profile.heldout
    curves: dict[str, list[float]] = {"no attack": table["clean", 0].tolist()}
    curves |= {NAMES[m]: table["attacked", m].tolist() for m in AVERAGED}
    plain = curves[NAMES[0]][0]

    with style():
        figure = new_figure()
        left, right = place(figure, 62, 58, 330, 270), place(figure, 470, 84, 240, 258)
        against = Curves(left, TEST_SIGMAS, {name: name for name in curves})
        left.set(xlabel="noise at test time σ", ylabel="accuracy, %", ylim=(0, 70))
        figure.legend(*left.get_legend_handles_labels(), loc="upper left", ncols=3, columnspacing=1)
        bars = _Bars(right, n)

    def draw(sigma: float, averaged: int) -> str:
        at, name = TEST_SIGMAS.index(sigma), NAMES[averaged]
        against.show(curves, name, at)
        unaware, aware = curves[NAMES[0]][at], curves[name][at]
        bars.show(plain, unaware, aware)
        sentence = (
            f"Noise σ = {sigma:g} at test time, trained with {SIGMA}, {n} images. PGD on the "
            f"network leaves {plain:.1f} % of its plain answers right and {unaware:.1f} % of its "
            "random ones"
        )
        if not averaged:
            return f"{sentence}; none of its gradients is averaged over noise."
        return f"{sentence}; PGD {name} leaves {aware:.1f} %."

    words = [f"{sigma:g}" for sigma in TEST_SIGMAS]
    copies = ["none", *map(str, AVERAGED[1:])]
    controls = [
        Control("sigma", "noise at test time σ", TEST_SIGMAS, TEST_SIGMAS.index(SIGMA), words),
        Control("averaged", "copies the attack averages over", AVERAGED, 0, copies),
    ]
    return Explorer("noise", controls, Picture(figure, moving(against, bars)), draw)


class _Bars:
    """Plain answers and random ones under the same attack; random ones under the chosen attack."""

    def __init__(self, axes: Axes, n: int) -> None:
        self.n = n
        looks = ((BLUE, ""), (GREEN, ".."), (ORANGE, "//"))
        self.bars = [
            axes.bar(k, 0, color=color, hatch=hatch)[0] for k, (color, hatch) in enumerate(looks)
        ]
        self.ends = [axes.plot([], [], "-_", color="k", markersize=12)[0] for _ in self.bars]
        self.values = [axes.text(k, 0, "", ha="center") for k in range(3)]
        axes.set_xticks(range(3), ["plain\nanswer", "random\nanswer", "random,\nchosen\nattack"])
        axes.set(ylim=(0, 70), xlim=(-0.6, 2.6), ylabel="accuracy under PGD l∞, %")
        self.moving: list[Artist] = [*self.bars, *self.ends, *self.values]

    def show(self, *percent: float) -> None:
        rows = zip(self.bars, self.ends, self.values, percent, strict=True)
        for k, (bar, ends, value, height) in enumerate(rows):
            low, high = wilson(round(self.n * height / 100), self.n)
            bar.set_height(height)
            ends.set_data([k, k], [100 * low, 100 * high])
            value.set_text(f"{height:.1f}")
            value.set_y(100 * high + 2)
