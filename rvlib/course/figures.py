"""The figures of the notebooks: one style, for colour-blind readers too and for the back row."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Rectangle
from numpy.typing import ArrayLike
from torch import Tensor

from rvlib.course.static import is_headless
from rvlib.data import DATASETS
from rvlib.experiments import title
from rvlib.threat_models import Linf, ThreatModel

CLASSES = DATASETS["cifar10"].classes
"""Names of the classes in the lessons."""

PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#949494")
"""Eight colours that colour-blind readers tell apart (seaborn's "colorblind", reordered)."""
BLUE, ORANGE, GREEN = PALETTE[:3]
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
DPI = 90
"""A figure of 8 inches is 720 pixels wide: beside JupyterLab's side bar on a projector of 1280."""
FEW_COLOURS = 4096
"""A figure with more of them has photographs in it."""

STYLE: Any = {
    "figure.dpi": DPI,
    "font.size": 13,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
"""For figures 8 inches wide."""


@contextmanager
def styled(**options: Any) -> Iterator[Figure]:
    """Make a figure, and draw it in the notebooks' style: ``with styled() as figure: ...``."""
    with rc_context(STYLE):
        yield Figure(**options)


def curve_style(k: int) -> dict[str, Any]:
    """Colour, line style and marker of the k-th curve: five can be told apart without colour."""
    return {
        "color": PALETTE[k % len(PALETTE)],
        "linestyle": LINE_STYLES[k % len(LINE_STYLES)],
        "marker": MARKERS[k % len(MARKERS)],
    }


class Shown:
    """A figure as a notebook's output, with its alternative text.

    Parameters
    ----------
    png : bytes
        The picture.
    alt : str
        What it shows, in words.
    """

    def __init__(self, png: bytes, alt: str) -> None:
        self.png, self.alt = png, alt

    def __repr__(self) -> str:
        """Give the alternative text."""
        return self.alt

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        encoded = base64.b64encode(self.png).decode()
        bundle = {"image/png": encoded, "text/plain": self.alt}
        if not is_headless():  # JupyterLab has no alternative text for a PNG; saved pages have
            source = f"data:image/png;base64,{encoded}"
            bundle["text/html"] = f'<img src="{source}" alt="{html.escape(self.alt)}">'
        return bundle, {"image/png": {"alt": self.alt}}


def show_figure(figure: Figure, alt: str) -> Shown:
    """Turn a figure into an output with an alternative text; no pyplot, so nothing piles up.

    Parameters
    ----------
    figure : Figure
        What to show.
    alt : str
        What it shows, in words.

    Returns
    -------
    Shown
        For the last line of a cell, or ``display``.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # Lines and letters in a palette of 256 colours: a third of the bytes, and nobody sees it.
    if drawn.getcolors(FEW_COLOURS):
        drawn = drawn.quantize(256, dither=PIL.Image.Dither.NONE)
    content = io.BytesIO()
    drawn.save(content, "PNG", optimize=True)
    return Shown(content.getvalue(), alt)


def show_attack(x: Tensor, x_adv: Tensor, y: Tensor, answers: Tensor) -> Shown:
    """Show clean images, the perturbations (amplified, grey is zero) and the attacked images.

    Parameters
    ----------
    x, x_adv : Tensor of shape (B, C, H, W), float, in [0, 1]
        Before and after.
    y, answers : Tensor of shape (B,), int64
        True labels, and the network's answers to the attacked images.

    Returns
    -------
    Shown
        A column for each image.
    """
    delta = x_adv - x
    scale = max(float(delta.abs().max()), 1e-9)
    rows = (x, 0.5 + delta / (2 * scale), x_adv)
    names = ("clean", f"perturbation\n±{scale:.3f}", "attacked")
    labels, read = ([CLASSES[c] for c in part.tolist()] for part in (y, answers))
    fooled = int((answers != y).sum())
    alt = f"{len(x)} images, their perturbations, the attacked images: {fooled} are misclassified. "
    alt += "; ".join(f"{a} → {b}" for a, b in zip(labels, read, strict=True))
    with styled(figsize=(8, 3 * min(1.9, 7.2 / len(x)) + 1), layout="constrained") as figure:
        axes = figure.subplots(3, len(x), squeeze=False)
        for line, images, words in zip(axes, rows, (labels, [""] * len(x), read), strict=True):
            for ax, image, word in zip(line, images, words, strict=True):
                ax.imshow(pixels(image))
                ax.set_title(word, fontsize=13 if len(x) <= 6 else 11)
                ax.set(xticks=[], yticks=[])
        for ax, name in zip(axes[:, 0], names, strict=True):
            ax.set_ylabel(name)
    return show_figure(figure, alt)


def show_balls(
    x: Tensor,
    balls: Mapping[str, ThreatModel],
    attacked: Mapping[str, Tensor],
    answers: Mapping[str, str],
) -> Shown:
    """Show what balls of one radius do to one image.

    Parameters
    ----------
    x : Tensor of shape (C, H, W), float, in [0, 1]
        The image.
    balls : mapping of str to ThreatModel
        The balls by name.
    attacked : mapping of str to Tensor of shape (C, H, W)
        The image attacked in each.
    answers : mapping of str to str
        The network's answer to each.

    Returns
    -------
    Shown
        A column for each ball: the change of every pixel in two channels, with the ball (a square
        or a disc); the change as an image, on its own scale; the attacked image.
    """
    deltas = {name: (attacked[name] - x).cpu() for name in balls}
    largest = max(float(ball.eps) for ball in balls.values())
    with styled(figsize=(8, 7.4), layout="constrained") as figure:
        axes = figure.subplots(3, len(balls), squeeze=False)
        for column, (name, ball), delta in zip(axes.T, balls.items(), deltas.values(), strict=True):
            scatter, change, image = column
            draw_ball(scatter, ball)
            scatter.plot(*delta[:2].flatten(1).numpy(), ".", color=BLUE, markersize=3, alpha=0.5)
            limit = (-1.2 * largest, 1.2 * largest)
            scatter.set(xlim=limit, ylim=limit, aspect="equal", title=name, xlabel="change in red")
            scatter.locator_params(nbins=3)
            scale = max(float(delta.abs().max()), 1e-9)
            change.imshow(pixels(0.5 + delta / (2 * scale)))
            change.set(title=f"perturbation, ±{scale:.2g}")
            image.imshow(pixels(attacked[name]))
            image.set(title=answers[name])
            for ax in (change, image):
                ax.set(xticks=[], yticks=[])
        axes[0, 0].set_ylabel("change in green")
    alt = "One image attacked in balls of the same radius. " + "; ".join(
        f"{name}: largest change {float(delta.abs().max()):.2g}, Euclidean norm "
        f"{float(delta.norm()):.2f}, classified as {answers[name]}"
        for name, delta in deltas.items()
    )
    return show_figure(figure, alt)


def draw_ball(axes: Axes, ball: ThreatModel) -> Patch:
    """Draw what a ball looks like in two channels of one pixel: a square for l∞, else a disc."""
    radius = float(ball.eps)
    look: dict[str, Any] = {"facecolor": "0.92", "edgecolor": "0.3", "linestyle": "--"}
    if isinstance(ball, Linf):
        return axes.add_patch(Rectangle((-radius, -radius), 2 * radius, 2 * radius, **look))
    return axes.add_patch(Circle((0, 0), radius, **look))


def show_curves(
    x: Sequence[float],
    curves: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    alt: str,
    mark: float | None = None,
    log: bool = False,
    level: float | None = None,
    ylim: tuple[float, float] | None = None,
) -> Shown:
    """Draw up to five curves over one axis, told apart by colour, marker and line style.

    Parameters
    ----------
    x : sequence of float
        Where they were measured.
    curves : mapping of str to array-like of float
        Values by name.
    xlabel, ylabel : str
        Axes with their units.
    alt : str
        What the figure shows, in words.
    mark : float, optional
        A value of `x` to mark with a vertical line.
    log : bool, default=False
        Whether `x` has a logarithmic axis.
    level : float, optional
        A value to mark with a horizontal line.
    ylim : (low, high), optional
        What the vertical axis shows.

    Returns
    -------
    Shown
        The figure with its alternative text.
    """
    if len(curves) > len(MARKERS):
        raise ValueError(f"{len(curves)} curves: more than {len(MARKERS)} cannot be told apart")
    with styled(figsize=(8, 4), layout="constrained") as figure:
        axes = figure.subplots()
        for k, (name, values) in enumerate(curves.items()):
            axes.plot(x, values, label=name, **curve_style(k))
        if mark is not None:
            axes.axvline(mark, color="0.4", linewidth=1)
        if level is not None:
            axes.axhline(level, color="0.4", linewidth=1)
        axes.update_datalim([(at, 0) for at in (min(x), max(x))], updatey=False)  # of nan, too
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear", ylim=ylim)
        if isinstance(x, range):  # epochs, steps
            axes.locator_params("x", integer=True)
        figure.legend(loc="outside upper left", ncols=2 if len(curves) > 3 else 3)
    return show_figure(figure, alt)


def show_history(histories: Mapping[str, Sequence[Mapping[str, float]]], probe: str) -> Shown:
    """Draw held-out accuracy by epoch, clean (solid) and under the probe (dashed).

    Parameters
    ----------
    histories : mapping of str to sequence of mappings
        The ``history`` of each network's record: accuracies between 0 and 1.
    probe : str
        The attack watched in training.

    Returns
    -------
    Shown
        The figure with its alternative text.
    """
    with styled(figsize=(8, 4.4), layout="constrained") as figure:
        axes = figure.subplots()
        for k, (name, history) in enumerate(histories.items()):
            epochs, every = range(1, len(history) + 1), max(1, len(history) // 6)
            look = curve_style(k) | {"markevery": every, "linestyle": "-"}
            axes.plot(epochs, [100 * h["natural"] for h in history], label=name, **look)
            axes.plot(epochs, [100 * h[probe] for h in history], **look | {"linestyle": "--"})
        axes.set(xlabel="epoch", ylabel="held-out accuracy, %")
        figure.legend(loc="outside upper left", ncols=2)
    ends = (
        f"{name}: clean {100 * h[-1]['natural']:.1f} %, under {probe} {100 * h[-1][probe]:.1f} %"
        for name, h in histories.items()
    )
    return show_figure(figure, f"Accuracy by epoch; after the last one: {'; '.join(ends)}.")


def show_progress(
    histories: Mapping[str, Sequence[Mapping[str, float]]], epochs: int, attacks: Sequence[str]
) -> Shown:
    """Draw held-out accuracy by epoch, a panel for each attack and a curve for each training.

    Parameters
    ----------
    histories : mapping of str to sequence of mappings
        By training: accuracies in percent by attack, before the first epoch and after each so far.
    epochs : int
        How many there will be.
    attacks : sequence of str
        The attacks measured.

    Returns
    -------
    Shown
        The figure with its alternative text.
    """
    with styled(figsize=(8, 4), layout="constrained") as figure:
        panels = figure.subplots(1, len(attacks), squeeze=False, sharey=True)[0]
        for axes, attack in zip(panels, attacks, strict=True):
            for k, (name, history) in enumerate(histories.items()):
                axes.plot([entry[attack] for entry in history], label=name, **curve_style(k))
            axes.set(xlim=(-0.1, epochs + 0.1), xticks=range(epochs + 1), xlabel="epoch")
            axes.set_title("clean" if attack == "natural" else f"under {title(attack)}")
        panels[0].set_ylabel("held-out accuracy, %")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, ncols=min(5, max(1, len(names))), loc="outside upper left")
    ends = "; ".join(
        f"{name}: " + ", ".join(f"{attack} {history[-1][attack]:.1f} %" for attack in attacks)
        for name, history in histories.items()
    )
    return show_figure(figure, ends or "Nothing is trained yet.")


def show_votes(counts: Tensor, label: int) -> Shown:
    """Draw the votes for one image as bars, the true class hatched.

    Parameters
    ----------
    counts : Tensor of shape (K,), int64
        Votes by class.
    label : int
        The true class.

    Returns
    -------
    Shown
        The figure with its alternative text.
    """
    with styled(figsize=(8, 3.8), layout="constrained") as figure:
        axes: Axes = figure.subplots()
        bars = axes.bar(CLASSES, counts.tolist(), color=BLUE)
        bars[label].set_hatch("//")
        axes.bar_label(bars, padding=2)
        axes.margins(y=0.12)
        axes.set(xlabel="class (true class hatched)", ylabel="votes")
        axes.tick_params(axis="x", rotation=30)
    votes = ", ".join(f"{CLASSES[k]} {counts[k]}" for k in counts.argsort(descending=True)[:3])
    return show_figure(figure, f"Votes by class: {votes}; the true class is {CLASSES[label]}.")


def show_certified(table: pd.DataFrame) -> Shown:
    """Show Figure 1 of the report: certified accuracy against the radius.

    Parameters
    ----------
    table : DataFrame
        As made by ``rvlib.report.tables.figure1_table``.

    Returns
    -------
    Shown
        The figure with its alternative text.
    """
    from rvlib.report.figures import draw_figure1  # loads seaborn, which takes seconds

    with rc_context(STYLE):
        figure = draw_figure1(table)
        figure.set_size_inches(8, 4.4)
    ends = ", ".join(
        f"{curve['certified_accuracy'].iloc[0]:.0f} % at radius 0 and none beyond "
        f"{curve['radius'].iloc[-2]:.2f} for σ = {sigma:.2f}"
        for sigma, curve in table[table["panel"] == "b"].groupby("sigma")
    )
    n = table[table["panel"] == "b"]["n"].iloc[0]
    return show_figure(figure, f"Certified accuracy with N = {n:,} votes: {ends}.")


def pixels(image: Tensor) -> np.ndarray:
    """Turn an image (C, H, W) on any device into what matplotlib draws: (H, W, C) in [0, 1]."""
    return image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()
