"""The figures of the notebooks: colour-blind safe, large enough to be projected, with alt text."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from rvlib.data import CLASSES
from rvlib.types import Images, Labels

STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
MOST_DRAWN_COLOURS = 4096
"""A figure with more of them has photographs in it."""


def show_attack(x: Images, x_adv: Images, y: Labels, answers: Labels) -> Image:
    """Show clean images, the perturbations (amplified, zero is grey) and the attacked images.

    Parameters
    ----------
    x, x_adv : Tensor of shape (B, 3, H, W), float, in [0, 1]
        Before and after.
    y, answers : Tensor of shape (B,), int64
        True labels, and what the network says of the attacked images.

    Returns
    -------
    IPython.display.Image
        A picture of three rows with its alt text.
    """
    delta = x_adv - x
    scale = max(float(delta.abs().max()), 1e-9)
    figure = Figure(figsize=(1.5 * len(x), 5), layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    rows = (x, 0.5 + delta / (2 * scale), x_adv)
    titles = (
        [CLASSES[c] for c in y.tolist()],
        [""] * len(x),
        [CLASSES[c] for c in answers.tolist()],
    )
    for line, images, words in zip(axes, rows, titles, strict=True):
        for ax, image, word in zip(line, images, words, strict=True):
            ax.imshow(pixels(image))
            ax.set_title(word, fontsize=13)
            ax.set(xticks=[], yticks=[])
    names = ("clean", f"change\n(grey = 0,\n±{scale:.3f})", "attacked")
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=13)
    fooled = int((answers != y).sum())
    return show_figure(
        figure, f"{len(x)} images, their perturbations, attacked: {fooled} are misread."
    )


def show_balls(x: Tensor, attacked: Mapping[str, Images], answers: Mapping[str, str]) -> Image:
    """Show what the balls of one radius do to one picture.

    Parameters
    ----------
    x : Tensor of shape (C, H, W), float, in [0, 1]
        The picture.
    attacked : mapping of str to Tensor of shape (C, H, W)
        The attacked picture of each ball, by the ball's name.
    answers : mapping of str to str
        What the network says of each.

    Returns
    -------
    IPython.display.Image
        A column a ball: the change on one scale for all, on its own, and the attacked picture.
    """
    deltas = {name: x_adv - x for name, x_adv in attacked.items()}
    largest = max(float(delta.abs().max()) for delta in deltas.values())
    figure = Figure(figsize=(8, 7.6), layout="constrained")
    axes = figure.subplots(3, len(attacked), squeeze=False)
    for column, (name, delta) in zip(axes.T, deltas.items(), strict=True):
        own = max(float(delta.abs().max()), 1e-9)
        shown = (0.5 + delta / (2 * largest), 0.5 + delta / (2 * own), attacked[name])
        titles = (name, f"±{own:.2g}", answers[name])
        for ax, values, title in zip(column, shown, titles, strict=True):
            ax.imshow(pixels(values))
            ax.set_title(title, fontsize=13)
            ax.set(xticks=[], yticks=[])
    names = (f"change, all ±{largest:.2g}", "change, own scale", "attacked")
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=13)
    lengths = ", ".join(f"{name} {float(delta.norm()):.2f}" for name, delta in deltas.items())
    return show_figure(figure, f"One picture attacked in {len(deltas)} balls; lengths: {lengths}.")


def show_curves(
    x: Sequence[float],
    curves: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    alt: str,
    mark: float | None = None,
    log: bool = False,
) -> Image:
    """Draw curves over one axis, told apart by colour, marker and line style.

    Parameters
    ----------
    x : sequence of float
        Where they were measured.
    curves : mapping of str to array-like of float
        Values by name.
    xlabel, ylabel : str
        Axes with their units.
    alt : str
        What the picture shows, in words.
    mark : float, default=None
        A value of `x` to mark with a vertical line.
    log : bool, default=False
        Whether `x` has a logarithmic axis.

    Returns
    -------
    IPython.display.Image
        The picture with its alt text.
    """
    if len(curves) > len(STYLES):
        raise ValueError(f"{len(curves)} curves: more than {len(STYLES)} cannot be told apart")
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, style, marker in zip(
        curves.items(), sns.color_palette("colorblind"), STYLES, MARKERS, strict=False
    ):
        axes.plot(x, values, color=colour, linestyle=style, marker=marker, label=name)
    if mark is not None:
        axes.axvline(mark, color="0.4", linewidth=1)
    if log:
        axes.set_xscale("log")
    dress(axes, xlabel, ylabel)
    return show_figure(figure, alt)


def show_history(histories: Mapping[str, Sequence[Mapping[str, float]]], probe: str) -> Image:
    """Draw held-out accuracy by epoch, clean (solid) and under the probe (dashed).

    Parameters
    ----------
    histories : mapping of str to sequence of mappings
        The ``history`` of each model's record.
    probe : str
        The attack watched in training.

    Returns
    -------
    IPython.display.Image
        The picture with its alt text.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, history), colour in zip(
        histories.items(), sns.color_palette("colorblind"), strict=False
    ):
        epochs = range(1, len(history) + 1)
        axes.plot(epochs, [100 * h["natural"] for h in history], color=colour, label=name)
        axes.plot(epochs, [100 * h[probe] for h in history], color=colour, linestyle="--")
    dress(axes, "epoch", "held-out accuracy, %")
    axes.legend(fontsize=12, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return show_figure(
        figure, f"Accuracy by epoch of {', '.join(histories)}; dashed under {probe}."
    )


def show_progress(
    histories: Mapping[str, Sequence[Mapping[str, float]]], epochs: int, attacks: Sequence[str]
) -> Image:
    """Draw held-out accuracy by epoch, a panel an attack and a curve a training.

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
    IPython.display.Image
        The picture with its alt text.
    """
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    panels = figure.subplots(1, len(attacks), squeeze=False)[0]
    for axes, attack in zip(panels, attacks, strict=True):
        for (name, history), colour, style, marker in zip(
            histories.items(), sns.color_palette("colorblind"), STYLES, MARKERS, strict=False
        ):
            (line,) = axes.plot([entry[attack] for entry in history], label=name)
            line.set(color=colour, linestyle=style, marker=marker)
        axes.set(xlim=(-0.1, epochs + 0.1), xticks=range(epochs + 1))
        dress(axes, "epoch", "held-out accuracy, %")
        axes.set_title(attack if attack == "natural" else f"under {attack}", fontsize=14)
        if legend := axes.get_legend():
            legend.remove()
    lines, names = panels[0].get_legend_handles_labels()
    columns = min(5, max(1, len(names)))
    figure.legend(lines, names, ncols=columns, fontsize=12, frameon=False, loc="outside upper left")
    ends = "; ".join(
        f"{name}: " + ", ".join(f"{attack} {history[-1][attack]:.1f} %" for attack in attacks)
        for name, history in histories.items()
    )
    return show_figure(figure, ends or "Nothing is trained yet.")


def show_votes(counts: Tensor, label: int) -> Image:
    """Draw the votes of one image as bars, the true class hatched.

    Parameters
    ----------
    counts : Tensor of shape (K,), int64
        Votes of each class.
    label : int
        The true class.

    Returns
    -------
    IPython.display.Image
        The picture with its alt text.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(CLASSES, counts.tolist(), color=sns.color_palette("colorblind")[0])
    bars[label].set_hatch("//")
    axes.bar_label(bars, fontsize=11, padding=2)
    axes.margins(y=0.12)
    dress(axes, "class (true class hatched)", "votes")
    axes.tick_params(axis="x", rotation=30)
    top = CLASSES[int(counts.argmax())]
    return show_figure(figure, f"Votes by class; {top} leads, the true class is {CLASSES[label]}.")


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label axes with their units, large enough to be projected; a legend where there are labels.

    Parameters
    ----------
    axes : Axes
        What to dress.
    xlabel, ylabel : str
        Axes with their units.
    """
    axes.set_xlabel(xlabel, fontsize=13)
    axes.set_ylabel(ylabel, fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=12, frameon=False)


def pixels(image: Tensor) -> np.ndarray:
    """Turn an image (C, H, W) into what matplotlib shows: (H, W, C), clipped to [0, 1].

    Parameters
    ----------
    image : Tensor of shape (C, H, W), float
        On any device.

    Returns
    -------
    ndarray of shape (H, W, C)
        Its values.
    """
    return image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()


def show_figure(figure: Figure, alt: str) -> Image:
    """Turn a figure into a PNG output: no pyplot, so nothing piles up and threads do not matter.

    Parameters
    ----------
    figure : Figure
        What to show.
    alt : str
        What it shows, in words.

    Returns
    -------
    IPython.display.Image
        The picture with its alt text.
    """
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # Lines and letters have few colours: a palette of 256 is a third of the bytes, and no eye sees
    # the difference.  Photographs have more, and keep them.
    if drawn.getcolors(MOST_DRAWN_COLOURS):
        drawn = drawn.quantize(256, dither=PIL.Image.Dither.NONE)
    content = io.BytesIO()
    drawn.save(content, "PNG", optimize=True)
    return Image(content.getvalue(), format="png", alt=alt)
