"""Notebook 06's second explorer: random answers, and an attack that averages over the noise."""

import pandas as pd

from rvlib.course.explorer import Control, Explorer
from rvlib.course.explorers.panels import Curves, PercentBars, new_figure, place
from rvlib.course.figures import BLUE, GREEN, ORANGE
from rvlib.course.lessons import AVERAGED, TEST_SIGMAS
from rvlib.experiments import SIGMA
from rvlib.pipeline import Run

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

    with new_figure() as figure:
        left, right = place(figure, 62, 58, 330, 270), place(figure, 470, 84, 240, 258)
        against = Curves(left, TEST_SIGMAS, {name: name for name in curves})
        left.set(xlabel="noise at test time σ", ylabel="accuracy, %", ylim=(0, 70))
        figure.legend(loc="upper left", ncols=3, columnspacing=1)
        looks = ((BLUE, ""), (GREEN, ".."), (ORANGE, "//"))
        bars = PercentBars(right, looks, n, top=70, gap=2)
        names = ["plain\nanswer", "random\nanswer", "random,\nchosen\nattack"]
        right.set_xticks(range(3), names)
        right.set(ylabel="accuracy under PGD l∞, %")

    def draw(sigma: float, averaged: int) -> str:
        at, name = TEST_SIGMAS.index(sigma), NAMES[averaged]
        against.show(curves, name, at)
        unaware, aware = curves[NAMES[0]][at], curves[name][at]
        bars.show_percent(plain, unaware, aware)
        sentence = (
            f"Noise σ = {sigma:g} at test time, trained with {SIGMA}, {n} images. PGD on the "
            f"network leaves an accuracy of {plain:.1f} % without noise at test time and of "
            f"{unaware:.1f} % with it"
        )
        if not averaged:
            return f"{sentence}; copies that the attack averages over: none."
        return f"{sentence}; PGD {name} leaves {aware:.1f} %."

    start, copies = TEST_SIGMAS.index(SIGMA), "copies averaged over"
    controls = [
        Control("sigma", "noise at test time σ", TEST_SIGMAS, start, "{:g}".format),
        Control("averaged", copies, AVERAGED, 0, lambda m: str(m or "none")),
    ]
    return Explorer("noise", controls, figure, draw)
