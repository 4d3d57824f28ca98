"""Figure 1 and its table: certified accuracy against radius, from rows of votes."""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from rvlib.evaluation import (
    average_certified_radius,
    certified_accuracy,
    changed,
    correct_radii,
    votes,
)
from rvlib.files import write_whole
from rvlib.intervals import wilson
from rvlib.recipes import ALPHA, smoothed_name
from rvlib.report.tables import Table
from rvlib.rows import Rows, read_rows, rows_path
from rvlib.smoothing import ABSTAIN, certificate, largest_radius
from rvlib.smoothing.certificate import Floats

RADIUS_STEP = 0.01
"""Spacing of the curves' points, in pixel units."""


def certificate_rows(folder: Path, sigma: float, images: int) -> Rows:
    """Read the votes that certify the first images of the report's at one noise level."""
    path = rows_path(folder, "heldout", smoothed_name(sigma), 0, "certificates")
    return read_rows(path, images)


def radii(rows: Rows, n: int, alpha: float = ALPHA) -> Floats:
    """Compute the radius each image is rightly certified in from its first `n` votes.

    Parameters
    ----------
    rows : Rows
        As written by ``rvlib.stages.measure.measure_certificates``.
    n : int
        One of the numbers of votes in the rows.
    alpha : float, default=0.001
        Failure probability of one image's certificate.

    Returns
    -------
    ndarray of float64, shape (N,)
        -1 where the answer is wrong or abstains.
    """
    labels = np.array(rows.integers("label"))
    selection, counts = votes(rows, "selection"), votes(rows, f"counts_{n}")
    # Not sampled to n: the selected class was wrong, so no radius is certified rightly.
    sampled = counts.sum(1) > 0
    result = np.full(len(labels), -1.0)
    if not sampled.any():
        return result
    sigma = rows.head["identity"]["sigma"]
    found = certificate(selection[sampled], counts[sampled], alpha, sigma)
    result[sampled] = correct_radii(found, labels[sampled])
    return result


def curve(panel: str, rows: Rows, n: int, alpha: float = ALPHA) -> Table:
    """List certified accuracy in percent at radii from 0 to just beyond the largest possible one.

    Parameters
    ----------
    panel : str
        ``"a"`` or ``"b"``.
    rows : Rows
        Votes of one noise level.
    n : int
        Number of votes.
    alpha : float, default=0.001
        Failure probability of one image's certificate.

    Returns
    -------
    Table
        Columns of ``figure1.csv``.
    """
    found = radii(rows, n, alpha)
    sigma = rows.head["identity"]["sigma"]
    cap = largest_radius(n, alpha, sigma)
    grid = np.unique([*np.arange(0, cap, RADIUS_STEP).round(6), cap, cap + RADIUS_STEP])
    table = []
    for radius, share in zip(grid, certified_accuracy(found, grid.tolist()), strict=True):
        low, high = wilson(round(share * len(found)), len(found))
        table.append(
            {
                "panel": panel,
                "sigma": f"{sigma:.2f}",
                "n": str(n),
                "radius": _rounded_down(radius),
                "certified_accuracy": f"{100 * share:.2f}",
                "ci_low": f"{100 * low:.2f}",
                "ci_high": f"{100 * high:.2f}",
            }
        )
    return table


def figure1_table(
    folder: Path, sigma: float, sigmas: Sequence[float], ns: Sequence[int], images: int
) -> Table:
    """Make the data of Figure 1: panel a over the number of votes, panel b over the noise level.

    Parameters
    ----------
    folder : Path
        Folder of the rows.
    sigma : float
        Noise level of panel a.
    sigmas : sequence of float
        Noise levels of panel b, at the largest number of votes.
    ns : sequence of int
        Numbers of votes of panel a.
    images : int
        How many images.

    Returns
    -------
    Table
        Columns ``panel, sigma, n, radius, certified_accuracy, ci_low, ci_high``.
    """
    rows = {s: certificate_rows(folder, s, images) for s in {sigma, *sigmas}}
    a = [line for n in ns for line in curve("a", rows[sigma], n)]
    return a + [line for s in sigmas for line in curve("b", rows[s], max(ns))]


def certified_table(
    folder: Path,
    sigmas: Sequence[float],
    ns: Sequence[int],
    at: Sequence[float],
    images: int,
    alpha: float = ALPHA,
) -> Table:
    """Summarise the certificates: certified accuracy at a few radii, and the average radius.

    Parameters
    ----------
    folder : Path
        Folder of the rows.
    sigmas : sequence of float
        Noise levels.
    ns : sequence of int
        Numbers of votes.
    at : sequence of float
        Radii to print certified accuracy (percent) at.
    images : int
        How many images.
    alpha : float, default=0.001
        Failure probability of one image's certificate.  With ``alpha / images`` *all* certificates
        of a line hold at once with probability 1 - alpha (Bonferroni).

    Returns
    -------
    Table
        One line a noise level and number of votes; ``ACR`` is the average certified radius,
        ``false_expected`` the number of false certificates to expect at most (images x alpha).
    """
    table = []
    for sigma in sigmas:
        rows = certificate_rows(folder, sigma, images)
        for n in ns:
            found = radii(rows, n, alpha)
            shares = certified_accuracy(found, list(at))
            table.append(
                {
                    "sigma": f"{sigma:.2f}",
                    "n": str(n),
                    "images": str(len(found)),
                    **{f"r={r:g}": f"{100 * s:.2f}" for r, s in zip(at, shares, strict=True)},
                    "ACR": f"{np.floor(average_certified_radius(found) * 1000) / 1000:.3f}",
                    "cap": f"{np.floor(largest_radius(n, alpha, sigma) * 100) / 100:.2f}",
                    "false_expected": f"{len(found) * alpha:.3g}",
                }
            )
    return table


def inside_table(folder: Path, sigmas: Sequence[float], images: int) -> Table:
    """Count what attacks inside certified balls have changed: nothing, if certificates hold.

    Parameters
    ----------
    folder : Path
        Folder of the rows.
    sigmas : sequence of float
        Noise levels.
    images : int
        How many images.

    Returns
    -------
    Table
        One line a noise level: how many balls were attacked, how many answers stand, are too close
        to call, and changed; ``false_expected`` of the latter to expect at most, ``plausible`` the
        number that chance exceeds once in a thousand runs.
    """
    table = []
    for sigma in sigmas:
        path = rows_path(folder, "heldout", smoothed_name(sigma), 0, "inside")
        rows = read_rows(path, images)
        head = rows.head["identity"]
        attacked = np.array([row["certified"] != "" for row in rows.rows])
        prediction = np.array([int(row["certified"] or ABSTAIN) for row in rows.rows])[attacked]
        counts = torch.from_numpy(votes(rows, "counts")[attacked])
        found = changed(prediction, counts, head["alpha"]) if attacked.any() else np.zeros(0)
        # A certificate and an answer may each be wrong with probability alpha.
        chance = 2 * head["alpha"]
        stands, close, other = (int((found == k).sum()) for k in range(3))
        table.append(
            {
                "sigma": f"{sigma:.2f}",
                "certified_n": str(max(head["ns"])),
                "votes": str(head["n"]),
                "images": str(images),
                "attacked": str(len(found)),
                "share": f"{head['share']:g}",
                "stands": str(stands),
                "too_close": str(close),
                "changed": str(other),
                "false_expected": f"{chance * len(found):.2f}",
                "plausible": str(int(binom.isf(0.001, len(found), chance)) if len(found) else 0),
            }
        )
    return table


def draw_figure1(table: Table) -> Figure:
    """Draw Figure 1 from its table, with each curve's largest possible radius marked.

    Parameters
    ----------
    table : Table
        As made by ``figure1_table``.

    Returns
    -------
    Figure
        Two panels, not registered with pyplot; shaded are Wilson's 95 % intervals.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sigma = next(row["sigma"] for row in table if row["panel"] == "a")
    n = max(int(row["n"]) for row in table)
    _panel(left, table, "a", "n", lambda v: f"N = {_thousands(int(v))}")
    _panel(right, table, "b", "sigma", lambda v: f"σ = {v}")
    left.set_title(f"(a) number of noisy copies N, at σ = {sigma}")
    right.set_title(f"(b) noise level σ, at N = {_thousands(n)}")
    left.set_ylabel("certified accuracy, %")
    return figure


def _rounded_down(radius: float) -> str:
    """Print a radius so that it never promises more than was certified.

    The grid's own points are decimal fractions already; only a cap has more digits than these.
    """
    printed = round(radius, 4)
    return f"{printed if printed <= radius + 1e-12 else printed - 1e-4:.4f}"


def _thousands(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _panel(axes: Axes, table: Table, panel: str, key: str, name) -> None:  # type: ignore[no-untyped-def]
    rows = [row for row in table if row["panel"] == panel]
    values = list(dict.fromkeys(row[key] for row in rows))
    colours = sns.color_palette("colorblind", len(values))
    styles = itertools.cycle(["-", "--", "-.", ":"])
    for value, colour, style in zip(values, colours, styles, strict=False):
        line = [row for row in rows if row[key] == value]
        x, y, low, high = (
            [float(row[c]) for row in line]
            for c in ("radius", "certified_accuracy", "ci_low", "ci_high")
        )
        axes.plot(x, y, style, color=colour, label=name(value), linewidth=2)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        # The cap is the last radius but one; beyond it N votes certify nothing.
        axes.plot(x[-2], 0, marker="v", markersize=9, color=colour, clip_on=False, zorder=5)
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
    stem.parent.mkdir(parents=True, exist_ok=True)
    formats: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None}},
        "svg": {"metadata": {"Date": None}},
        "png": {"dpi": 200},
    }
    with matplotlib.rc_context({"svg.hashsalt": "rvlib", "svg.fonttype": "path"}):
        for suffix, options in formats.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, **options)
            write_whole(stem.with_suffix(f".{suffix}"), content.getvalue())
