"""Notebook 02's second explorer: how far attacks get with the same number of steps."""

import pandas as pd

from rvlib.course.explorer import Control, Explorer
from rvlib.course.explorers.panels import Curves, PercentBars, new_figure, place
from rvlib.course.figures import BLUE, ORANGE
from rvlib.course.lessons import BUDGETS, COMPARED, ENSEMBLE, LONGER
from rvlib.experiments import LINF, title


def explore_attacks(measured: pd.DataFrame, images: int) -> Explorer:
    """Choose a network and a number of steps, and see which attack leaves least.

    Parameters
    ----------
    measured : DataFrame
        As given by ``compare_attacks``.
    images : int
        On how many images.

    Returns
    -------
    Explorer
        Controls ``network`` and ``steps``.
    """
    table = measured.set_index(["network", "attack", "steps"])

    with new_figure() as figure:
        left, right = place(figure, 62, 58, 380, 270), place(figure, 530, 84, 180, 244)
        against = Curves(left, range(len(BUDGETS)), {name: name for name in LONGER})
        left.set(xlabel="steps", ylabel="accuracy, %", ylim=(0, 45))
        left.set_xticks(range(len(BUDGETS)), [str(steps) for steps in BUDGETS])
        figure.legend(loc="upper left", ncols=2, columnspacing=1)
        looks = ((BLUE, ""), (ORANGE, "//"))
        bars = PercentBars(right, looks, images, top=45, gap=1)
        right.set_xticks(range(2), ["PGD", "Auto-\nAttack"])
        right.set_ylabel("accuracy, %")

    def draw(network: str, steps: int) -> str:
        accuracy = table["accuracy"][network]
        curves = {name: [accuracy[name, n] for n in BUDGETS] for name in LONGER}
        at, best = BUDGETS.index(steps), accuracy[ENSEMBLE, BUDGETS[-1]]
        against.show(curves, "PGD", at)
        bars.show_percent(curves["PGD"][at], best)
        least = min(curve[at] for curve in curves.values())
        strongest = " and ".join(name for name, curve in curves.items() if curve[at] == least)
        return (
            f"{title(network)}, l∞ ball of {LINF.eps}, {images} images: PGD with {steps} steps "
            f"leaves {curves['PGD'][at]:.1f} %, the strongest of the four ({strongest}) "
            f"{least:.1f} %, the ensemble {best:.1f} %."
        )

    controls = [
        Control("network", "network", COMPARED, 1, title, menu=True),
        Control("steps", "steps", BUDGETS, 1),
    ]
    return Explorer("attacks", controls, figure, draw)
