"""Notebook 03's explorer: what a network was trained against, and what it is attacked with."""

import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rvlib.attacks import pgd
from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.explorers.fgsm import probabilities
from rvlib.course.explorers.pgd import Shot, place
from rvlib.course.figures import MARKERS, STYLES, dress
from rvlib.course.lessons import answers, robust_curve
from rvlib.data import CLASSES
from rvlib.recipes import LINF, PIXEL_L2, TRUE_L2
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf, PixelL2

TRAINED = {
    "standard": "nothing",
    "pgd-linf-at": "l∞",
    "pgd-pixel-l2-at": "per-pixel l2",
    "pgd-l2-at": "l2",
    "mixed-at": "l∞ and per-pixel l2",
}
"""What the shipped networks were trained against, as the menu reads it out."""
Ball = Linf | PixelL2 | L2

BALLS: dict[str, Ball] = {"l∞": LINF, "per-pixel l2": PIXEL_L2, "l2": TRUE_L2}
"""The balls of training, by name."""
MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Slider grid of epsilon, in multiples of the radius in training."""
IMAGES = 192
"""Images that the curves are measured on."""
COLOURS = dict(zip(TRAINED, sns.color_palette("colorblind"), strict=False))
MARKS = dict(zip(TRAINED, MARKERS, strict=True))


def explore_training(run: Run) -> Explorer:
    """Choose what a network was trained against and what it meets, and see what it withstands.

    Parameters
    ----------
    run : Run
        Whose networks and images to use.

    Returns
    -------
    Explorer
        Knobs ``trained``, ``norm`` and ``multiple``.
    """
    models = {name: run.model(name) for name in TRAINED}
    many, labels = run.images(min(IMAGES, run.profile.heldout))
    curves = {
        (name, norm): robust_curve(model, many, labels, [_times(ball, m) for m in MULTIPLES])
        for name, model in models.items()
        for norm, ball in BALLS.items()
    }
    right = torch.stack([answers(model, many) == labels for model in models.values()])
    best = int(right.sum(0).argmax())  # the first image that most of them read rightly
    x, y = many[best : best + 1], labels[best : best + 1]
    attacked = {
        (name, norm, multiple): (
            pgd(model, x, y, _times(ball, multiple), random_start=False) if multiple else x
        )
        for name, model in models.items()
        for norm, ball in BALLS.items()
        for multiple in MULTIPLES
    }

    figure = Figure(figsize=(9.6, 6.4), dpi=100)
    panels = {
        norm: _Panel(place(figure, 62 + 310 * k, 330, 262, 222), norm, curves)
        for k, norm in enumerate(BALLS)
    }
    figure.legend(
        *panels["l∞"].axes.get_legend_handles_labels(),
        title="trained against",
        title_fontsize=13,
        fontsize=13,
        ncols=len(TRAINED),
        frameon=False,
        loc="upper center",
        columnspacing=1.2,
    )
    shots = [Shot(place(figure, left, 64, 160, 160)) for left in (62, 272)]
    bars = _Bars(place(figure, 590, 64, 344, 190))

    def draw(trained: str, norm: str, multiple: float) -> str:
        for name, panel in panels.items():
            panel.show(trained, multiple if name == norm else None)
        x_adv = attacked[trained, norm, multiple]
        p, label = probabilities(models[trained], x_adv)[0], int(y)
        answer, eps = CLASSES[int(p.argmax())], multiple * BALLS[norm].eps
        delta = x_adv[0] - x[0]
        shots[0].show(0.5 + delta / (2 * float(delta.abs().max()) or 1), "change, amplified")
        shots[1].show(x_adv[0], f"read as {answer}")
        bars.show(p, label)
        here, there = (
            curves[name, norm][MULTIPLES.index(multiple)] for name in (trained, "standard")
        )
        return (
            f"Trained against {TRAINED[trained]}, attacked in the {norm} ball with ε = {eps:.3g} "
            f"({multiple:g} × the radius in training): {here:.0f} % of {len(labels)} images are "
            f"still read rightly (undefended {there:.0f} %). The picture of class "
            f"{CLASSES[label]} is read as {answer}; the true class has {float(p[label]):.1%}."
        )

    knobs = [
        Knob("trained", "trained against", list(TRAINED), 1, list(TRAINED.values()), menu=True),
        Knob("norm", "attacked in the ball", list(BALLS), menu=True),
        Knob(
            "multiple",
            "ε / ε in training",
            MULTIPLES,
            4,
            [f"{multiple:g}" for multiple in MULTIPLES],
            twin=(0, 4),
        ),
    ]
    parts: list[_Panel | Shot | _Bars] = [*panels.values(), *shots, bars]
    moving = [artist for part in parts for artist in part.moving]
    return Explorer("training", knobs, Picture(figure, moving), draw)


def _times(ball: Ball, multiple: float) -> Ball:
    """Make the ball whose radius is a multiple of the one in training."""
    return type(ball)(multiple * ball.eps)


class _Panel:
    """Accuracy of every network against epsilon in one ball; the chosen network stands out."""

    def __init__(self, axes: Axes, norm: str, curves: dict[tuple[str, str], list[float]]) -> None:
        self.axes, self.curves = axes, {name: curves[name, norm] for name in TRAINED}
        self.radii = [multiple * BALLS[norm].eps for multiple in MULTIPLES]
        for (name, title), style in zip(TRAINED.items(), STYLES, strict=False):
            (line,) = axes.plot(self.radii, self.curves[name], linestyle=style, label=title)
            line.set(color=COLOURS[name], marker=MARKS[name], markersize=5)
        # Marks only: between them nothing moves, which makes a twin a third as large.
        (self.chosen,) = axes.plot([], [], linestyle="", markeredgecolor="black")
        self.chosen.set(markersize=10, markeredgewidth=1.5)
        (self.here,) = axes.plot([], [], "o", color="white", markeredgecolor="black")
        self.here.set(markersize=6, markeredgewidth=1.5)
        axes.set(ylim=(0, 70), xticks=[0, self.radii[4], self.radii[-1]])
        dress(axes, "ε", "accuracy, %" if norm == "l∞" else "")
        axes.set_title(f"attacked in the {norm} ball", fontsize=14)
        if legend := axes.get_legend():
            legend.remove()
        self.moving: list[Artist] = [self.chosen, self.here]

    def show(self, trained: str, multiple: float | None) -> None:
        self.chosen.set_data(self.radii, self.curves[trained])
        self.chosen.set(markerfacecolor=COLOURS[trained], marker=MARKS[trained])
        at = [] if multiple is None else [MULTIPLES.index(multiple)]
        self.here.set_data([self.radii[i] for i in at], [self.curves[trained][i] for i in at])


class _Bars:
    """Probability of every class, the true one hatched."""

    def __init__(self, axes: Axes) -> None:
        self.bars = axes.barh(CLASSES, 1, color=sns.color_palette("colorblind")[0])
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
        axes.invert_yaxis()
        dress(axes, "probability (true class hatched)", "")
        self.moving: list[Artist] = [*self.bars]

    def show(self, p: Tensor, label: int) -> None:
        for k, (bar, width) in enumerate(zip(self.bars, p.tolist(), strict=True)):
            bar.set_width(width)
            bar.set_hatch("//" if k == label else "")
