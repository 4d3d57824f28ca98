"""Figure 1: certified accuracy against radius."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvlib.report.tables import text
from rvlib.results import atomic_write

CURVE = ["radius", "certified_accuracy", "ci_low", "ci_high"]


def draw_figure1(table: pd.DataFrame) -> Figure:
    """Draw Figure 1 from its table, with each curve's largest possible radius marked.

    Parameters
    ----------
    table : DataFrame
        As made by ``rvlib.report.tables.figure1_table``.

    Returns
    -------
    Figure
        Two panels, not registered with pyplot; shaded are Wilson's 95 % intervals.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    printed = text(table).astype(dict.fromkeys(CURVE, float))  # what the CSV file says
    a, b = (printed[printed["panel"] == panel] for panel in "ab")
    _panel(left, a, "n", lambda n: f"N = {_thousands(n)}")
    _panel(right, b, "sigma", lambda sigma: f"σ = {sigma}")
    left.set_title(f"(a) number of noisy copies N, at σ = {a['sigma'].iloc[0]}")
    right.set_title(f"(b) noise level σ, at N = {_thousands(b['n'].iloc[0])}")
    left.set_ylabel("certified accuracy, %")
    return figure


def _thousands(n: str) -> str:
    return f"{int(n):,}".replace(",", " ")


def _panel(axes: Axes, table: pd.DataFrame, key: str, title: Callable[[str], str]) -> None:
    curves = table.groupby(key, sort=False)
    colours = sns.color_palette("colorblind", curves.ngroups)
    styles = itertools.cycle(["-", "--", "-.", ":"])
    for (value, curve), colour, style in zip(curves, colours, styles, strict=False):
        x, y, low, high = (curve[column] for column in CURVE)
        axes.plot(x, y, style, color=colour, label=title(str(value)), linewidth=2)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        # The cap is the last radius but one; beyond it N votes certify nothing.
        axes.plot(x.iloc[-2], 0, marker="v", markersize=9, color=colour, clip_on=False, zorder=5)
    axes.plot([], [], "kv", markersize=7, linestyle="none", label="largest radius N allows")
    axes.set(xlabel="l2 radius (pixel units)", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write a figure as PDF, PNG and SVG, the same bytes for the same data.

    Parameters
    ----------
    figure : Figure
        What to write.
    stem : Path
        Path without a suffix.
    """
    formats: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None}},
        "svg": {"metadata": {"Date": None}},
        "png": {"dpi": 200},
    }
    with matplotlib.rc_context({"svg.hashsalt": "rvlib", "svg.fonttype": "path"}):
        for suffix, options in formats.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, **options)
            atomic_write(stem.with_suffix(f".{suffix}"), content.getvalue())
