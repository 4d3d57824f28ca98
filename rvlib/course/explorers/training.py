"""Notebook 03's explorer: what a network was trained against, and what it is attacked with."""

from functools import cache

import torch

from rvlib.attacks import pgd
from rvlib.course.explorer import Control, Explorer
from rvlib.course.explorers.panels import ClassBars, Curves, Shot, new_figure, percent, place
from rvlib.course.figures import CLASSES
from rvlib.course.lessons import answers, probabilities, robust_curve
from rvlib.experiments import LINF, PIXEL_L2, TRUE_L2
from rvlib.pipeline import Run
from rvlib.threat_models import L2, Linf, PixelL2

TRAINED = {
    "standard": "nothing",
    "pgd-linf-at": "l∞",
    "pgd-pixel-l2-at": "pixel l2",
    "pgd-l2-at": "l2",
    "mixed-at": "l∞ + pixel l2",
}
"""What the shipped networks were trained against."""
Ball = Linf | PixelL2 | L2
BALLS: dict[str, Ball] = {"l∞": LINF, "per-pixel l2": PIXEL_L2, "l2": TRUE_L2}
"""The balls of training, by name."""
MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Slider grid of epsilon, in multiples of the radius in training."""
IMAGES = 96
"""Images that the curves are measured on, at most."""


def explore_training(run: Run) -> Explorer:
    """Choose what a network was trained against and what it meets, and see what it withstands.

    Parameters
    ----------
    run : Run
        Whose networks and images to use.

    Returns
    -------
    Explorer
        Controls ``trained``, ``norm`` and ``multiple``.
    """
    models = {name: run.model(name) for name in TRAINED}
    many, labels = run.images(min(IMAGES, run.profile.live))
    right = torch.stack([answers(model, many) == labels for model in models.values()])
    best = int(right.sum(0).argmax())  # the first image that most of them classify correctly
    x, y, label = many[best : best + 1], labels[best : best + 1], int(labels[best])

    @cache
    def curves(norm: str) -> dict[str, list[float]]:
        balls = [_times(BALLS[norm], multiple) for multiple in MULTIPLES]
        return {name: robust_curve(model, many, labels, balls) for name, model in models.items()}

    with new_figure() as figure:
        axes = place(figure, 62, 56, 262, 280)
        panel = Curves(axes, MULTIPLES, TRAINED)
        axes.set(ylim=(0, 80), xticks=MULTIPLES, xlabel="ε / training ε")
        axes.set_ylabel("accuracy under attack, %")
        look = {"columnspacing": 0.9, "handlelength": 1.8, "borderaxespad": 0}
        figure.legend(title="trained against", alignment="left", ncols=5, loc="upper left", **look)
        change, attacked = (Shot(figure, 346, bottom) for bottom in (196, 24))
        bars = ClassBars(place(figure, 576, 56, 82, 280), "probability")

    def draw(trained: str, norm: str, multiple: float) -> str:
        model, ball, found = models[trained], _times(BALLS[norm], multiple), curves(norm)
        panel.show(found, trained, MULTIPLES.index(multiple))
        x_adv = pgd(model, x, y, ball, random_start=False) if multiple else x
        p, delta = probabilities(model, x_adv)[0], x_adv[0] - x[0]
        answer = CLASSES[int(p.argmax())]
        change.show(0.5 + delta / (2 * float(delta.abs().max()) or 1), "perturbation, scaled")
        attacked.show(x_adv[0], f"{answer} {percent(p.max())}")
        bars.show(label, p.tolist())
        here, there = (found[k][MULTIPLES.index(multiple)] for k in (trained, "standard"))
        return (
            f"Trained against {TRAINED[trained]}, attacked in the {norm} ball of ε = {ball.eps:.3g}"
            f" ({multiple:g} × the training ε): accuracy {here:.0f} % on {len(labels)} images "
            f"(undefended network {there:.0f} %). This {CLASSES[label]} is classified "
            f"as {answer}; its true class has probability {percent(p[label], 1)}."
        )

    words = "{:g}".format
    controls = [
        Control("trained", "trained against", list(TRAINED), 1, TRAINED.__getitem__, menu=True),
        Control("norm", "attacked in", list(BALLS), 0, "the {} ball".format, menu=True),
        Control("multiple", "ε / training ε", MULTIPLES, 2, words, exported=(0, 2, 4), blinks=True),
    ]
    return Explorer("training", controls, figure, draw)


def _times(ball: Ball, multiple: float) -> Ball:
    return type(ball)(multiple * ball.eps)
