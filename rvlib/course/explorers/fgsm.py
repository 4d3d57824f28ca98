"""Notebook 01's explorer: one gradient step of length epsilon, on one picture."""

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import nn

from rvlib.attacks import fgsm
from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.figures import dress, pixels
from rvlib.course.lessons import readable, sweep
from rvlib.data import CLASSES
from rvlib.frozen import frozen
from rvlib.stages.run import Run
from rvlib.threat_models import Linf
from rvlib.types import Images

RADII = [level / 2 / 255 for level in range(17)]
"""Slider grid of epsilon: 0 to 8 levels of 255, in halves."""


def explore_fgsm(run: Run, images: int = 6) -> Explorer:
    """Move epsilon and see a picture, its perturbation and the network's opinion change.

    Parameters
    ----------
    run : Run
        Whose undefended network and images to use.
    images : int, default=6
        How many pictures to choose from: the first that the network reads rightly.

    Returns
    -------
    Explorer
        Knobs ``picture`` and ``eps``.
    """
    model = run.model("standard")
    many, labels = run.images(min(256, run.profile.heldout))
    curve = sweep(model, labels, lambda eps: fgsm(model, many, labels, Linf(eps)), RADII)
    x, y = (part[:images] for part in readable(model, many, labels))
    # The sign of the gradient at x does not depend on epsilon: one attack serves all of them.
    direction = (fgsm(model, x, y, Linf(1e-4)) - x).sign()

    figure = Figure(figsize=(9.6, 6.4), layout="constrained", dpi=100)
    axes = figure.subplot_mosaic("ABC;DDE")
    shown = [axes[key].imshow(pixels(x[0])) for key in "ABC"]
    titles = [image.axes.set_title(" ", fontsize=14) for image in shown]
    for image in shown:
        image.axes.set(xticks=[], yticks=[])
    bars_axes, curve_axes = axes["D"], axes["E"]
    blue, orange = sns.color_palette("colorblind")[:2]
    places = range(len(CLASSES))
    before = bars_axes.bar([k - 0.2 for k in places], 1, 0.4, color=blue, label="clean")
    after = bars_axes.bar(
        [k + 0.2 for k in places], 1, 0.4, color=orange, hatch="//", label="attacked"
    )
    bars_axes.set_ylim(0, 1.19)
    bars_axes.set_xticks(places, CLASSES, rotation=40, ha="right")
    dress(bars_axes, "", "probability")
    # One line above the bars, however high they are.
    bars_axes.legend(fontsize=12, frameon=False, ncols=2, loc="upper right", borderaxespad=0.1)
    curve_axes.plot([255 * eps for eps in RADII], curve, color=blue)
    (marker,) = curve_axes.plot([0], [100], "o", color=orange, markersize=10)
    dress(curve_axes, "ε, in levels of 255", "accuracy, %")

    def draw(picture: int, eps: float) -> str:
        clean = x[picture]
        attacked = (clean + eps * direction[picture]).clamp(0, 1)
        change = attacked - clean
        p, q = probabilities(model, torch.stack([clean, attacked]))
        for image, values in zip(
            shown, (clean, 0.5 + change / (2 * eps or 1), attacked), strict=True
        ):
            image.set_data(pixels(values))
        amplified = f"change × {0.5 / eps:.0f}" if eps else "no change"
        said = [f"{CLASSES[int(r.argmax())]} {float(r.max()):.0%}" for r in (p, q)]
        for title, text in zip(
            titles, (f"clean: {said[0]}", amplified, f"attacked: {said[1]}"), strict=True
        ):
            title.set_text(text)
        for bars, heights in ((before, p), (after, q)):
            for bar, height in zip(bars, heights.tolist(), strict=True):
                bar.set_height(height)
        accuracy = curve[RADII.index(eps)]
        marker.set_data([255 * eps], [accuracy])
        label = int(y[picture])
        return (
            f"ε = {255 * eps:.1f} of 255 levels: the network gives the true class, "
            f"{CLASSES[label]}, {float(q[label]):.1%} (clean {float(p[label]):.1%}) and answers "
            f"{CLASSES[int(q.argmax())]}. Of {len(labels)} images it reads {accuracy:.0f} %."
        )

    knobs = [
        Knob(
            "picture",
            "picture",
            range(len(x)),
            words=[CLASSES[c] for c in y.tolist()],
            twin=range(4),
        ),
        Knob(
            "eps",
            "ε (levels of 255)",
            RADII,
            6,
            [f"{255 * eps:.1f}" for eps in RADII],
            twin=range(0, 17, 2),
        ),
    ]
    moving = [*shown, *titles, *before, *after, marker]
    return Explorer("fgsm", knobs, Picture(figure, moving), draw)


def probabilities(model: nn.Module, x: Images) -> torch.Tensor:
    """Softmax of the network's logits, (B, K), on the CPU."""
    with frozen(model), torch.no_grad():
        return model(x).softmax(1).cpu()
