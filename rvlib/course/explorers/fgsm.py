"""Notebook 01's explorer: one gradient step of length epsilon, on one image."""

from pathlib import Path

import torch
from torch import Tensor, nn

from rvlib.attacks import fgsm
from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import HERE, ClassBars, Shot, new_figure, percent, place
from rvlib.course.figures import BLUE, CLASSES
from rvlib.course.lessons import answers, probabilities, sweep
from rvlib.data import read_image, to_float
from rvlib.pipeline import Run
from rvlib.threat_models import Linf

LEVELS = [level / 2 for level in range(17)]
"""Slider grid of epsilon, in units of 1/255."""
START = 6
"""Its first position."""


def explore_fgsm(run: Run, images: int = 6, picture: Path | str | None = None) -> Explorer:
    """Move epsilon and see an image, its perturbation and the network's answer change.

    Parameters
    ----------
    run : Run
        Whose undefended network and images to use.
    images : int, default=6
        How many images to choose from: the first that the network classifies correctly, and of
        them first those that fall at once, from the clearest on.
    picture : Path or str, optional
        A picture of your own, shown first: its middle square, as small as the network's images.
        What the network sees in it counts as its true class.

    Returns
    -------
    Explorer
        Controls ``image`` and ``level``.
    """
    model = run.model("standard")
    many, labels = run.images(run.profile.live)
    # The sign of the gradient at x does not depend on epsilon: one attack gives it for all of them.
    signs = _signs(model, many, labels)
    curve = sweep(model, labels, lambda level: (many + level / 255 * signs).clamp(0, 1), LEVELS)
    right = answers(model, many) == labels
    x, y, direction = (part[right][:images] for part in (many, labels, signs))
    falls = answers(model, (x + LEVELS[START] / 255 * direction).clamp(0, 1)) != y
    clearest = probabilities(model, x).max(1).values.to(x.device)
    best = (falls + clearest).argsort(descending=True)
    x, y, direction = x[best], y[best], direction[best]
    if picture is not None:
        height, width = x.shape[2:]
        pixels = torch.tensor(read_image(Path(picture), (height, width)))
        own = to_float(pixels.permute(2, 0, 1)[None]).to(x.device)
        seen = answers(model, own)
        x, y = torch.cat([own, x]), torch.cat([seen, y])
        direction = torch.cat([_signs(model, own, seen), direction])

    with new_figure() as figure:
        clean, change, attacked = (Shot(figure, left, 224) for left in (12, 160, 308))
        axes = place(figure, 64, 54, 372, 126)
        axes.plot(LEVELS, curve, color=BLUE)
        axes.set(xlabel="ε, in units of 1/255", ylabel="accuracy, %", ylim=(0, None))
        (here,) = axes.plot([0], [0], **HERE)
        animate(here)
        beside = place(figure, 552, 54, 106, 306)
        bars = ClassBars(beside, "probability", ["clean", "attacked"])
        figure.legend(loc="upper right", ncols=2, borderaxespad=0.1)

    def draw(image: int, level: float) -> str:
        eps, label = level / 255, int(y[image])
        moved = (x[image] + eps * direction[image]).clamp(0, 1)
        p, q = probabilities(model, torch.stack([x[image], moved]))
        before, after = (f"{CLASSES[int(r.argmax())]} {percent(r.max())}" for r in (p, q))
        clean.show(x[image], f"clean\n{before}")
        amplified = f"perturbation\n× {0.5 / eps:.0f}" if eps else "no\nperturbation"
        change.show(0.5 + (moved - x[image]) / (2 * eps or 1), amplified)
        attacked.show(moved, f"attacked\n{after}")
        bars.show(label, p.tolist(), q.tolist())
        accuracy = curve[LEVELS.index(level)]
        here.set_data([level], [accuracy])
        return (
            f"ε = {level:.1f}/255: the true class, {CLASSES[label]}, has probability "
            f"{percent(q[label], 1)} (clean {percent(p[label], 1)}); the prediction is "
            f"{CLASSES[int(q.argmax())]}. Accuracy on {len(labels)} images: {accuracy:.0f} %."
        )

    names = [CLASSES[c] for c in y.tolist()]
    controls = [
        Control(
            "image", "image", range(len(x)), 0, names.__getitem__,
            menu=True, exported=(0, 1, 2, 5),
        ),
        Control(
            "level", "ε in units of 1/255", LEVELS, START, "{:.1f}".format,
            exported=range(0, 17, 2), blinks=True,
        ),
    ]  # fmt: skip
    return Explorer("fgsm", controls, figure, draw)


def _signs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (fgsm(model, x, y, Linf(1e-4)) - x).sign()
