"""Notebook 07's explorer: accuracy against the cost of training, and certified accuracy."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from rvlib.course.explorer import MAX_EXPORTED, Control, Explorer, animate
from rvlib.course.explorers.panels import HERE, Curves, new_figure, place
from rvlib.course.figures import BLUE
from rvlib.experiments import find_recipe, title
from rvlib.modern import NETWORKS, RADII
from rvlib.pipeline import Run
from rvlib.report import part_two

START = RADII.index(0.5)


def explore_modern(run: Run) -> Explorer:
    """Choose a network and an attack, a smoothed network and a radius, among what was run.

    Parameters
    ----------
    run : Run
        Of the checkout whose tables of Part II to show.

    Returns
    -------
    Explorer
        Controls ``network``, ``attack``, ``smoothed`` and ``radius``.
    """
    training, accuracy, certified, _ = part_two.shipped_tables(run.published.parent).values()
    measured = accuracy[accuracy["n"] > 0].set_index(["attack", "defence"])
    smoothed = [name for name in measured.index.levels[1] if find_recipe(name).sigma]
    measured = measured.drop(index=smoothed, level="defence")  # the right panel has them
    cost = training.set_index("defence")
    images = 1e-6 * 47_952  # of train-rest, in millions
    passes = images * cost["done"] * (cost["forwards"] + cost["backwards"])
    attacks = [a for a in accuracy["attack"].unique() if a in measured.index]
    networks = list(measured.index.unique("defence"))
    curves = {
        name: rows["certified"].tolist()
        for name, rows in certified[certified["images"] > 0].groupby("defence", sort=False)
    }
    lines = certified.set_index(["defence", "radius"])
    with new_figure() as figure:
        points = _Points(place(figure, 62, 56, 270, 262), passes[networks])
        axes = place(figure, 420, 56, 286, 262)
        smooth = Curves(axes, RADII, {name: title(name) for name in curves})
        for line in smooth.lines:
            line.set_linestyle("")  # between two radii it may fall to nothing, at the largest one
        (public,) = axes.plot([], [], "s", color="k", markersize=10, markerfacecolor="none")
        animate(public)
        axes.set(ylim=(0, 80), xlabel="l2 radius", ylabel="certified accuracy, %")
        figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=2)

    def draw(network: str, attack: str, smoothed: str, radius: float) -> str:
        points.show(measured.loc[attack], network, title(attack))
        smooth.show(curves, smoothed, RADII.index(radius))
        printed = lines.loc[smoothed]["public"]
        public.set_data(RADII, printed.tolist())
        at, found = lines.loc[(smoothed, radius)], "not measured"
        if (attack, network) in measured.index:
            line = measured.loc[(attack, network)]
            found = f"{line['accuracy']:.1f} % of {line['n']:.0f} test images "
            found += f"({line['ci_low']:.1f} to {line['ci_high']:.1f})"
        words = f"; published: {at['public']:.1f} %" if pd.notna(at["public"]) else ""
        return (
            f"{title(network)}, {title(attack)}: {found}, after {passes[network]:.1f} million "
            f"passes. {title(smoothed)}, radius {radius:g}: "
            f"{at['certified']:.1f} % of {at['images']:.0f} certified{words}."
        )

    room = MAX_EXPORTED // (len(networks) * len(attacks) * len(curves))  # in the static export
    kept = sorted(range(len(RADII)), key=lambda at: abs(at - START))[:room]
    controls = [
        Control("network", "network", networks, 0, title, menu=True),
        Control("attack", "attack", attacks, 0, title, menu=True),
        Control("smoothed", "smoothed", list(curves), 0, title, menu=True),
        Control("radius", "radius", RADII, START, "{:g}".format, exported=kept),
    ]
    return Explorer("modern", controls, figure, draw)


class _Points:
    """Networks by the passes of their training and their accuracy, one of them chosen."""

    def __init__(self, axes: Axes, passes: pd.Series) -> None:
        self.axes, self.passes = axes, passes
        kinds = {find_recipe(name).network for name in passes.index}
        look: dict[str, Any] = {"color": BLUE, "markersize": 8, "linestyle": ""}
        self.points = {
            kind: axes.plot([], [], marker, label=NETWORKS[kind], **look)[0]
            for kind, marker in {"lenet": "o", "resnet20": "^", "resnet18": "D"}.items()
            if kind in kinds
        }
        (self.here,) = axes.plot([], [], **HERE)
        (self.ends,) = axes.plot([], [], "-_", color="k", markersize=12)
        self.name = axes.text(0, 0, "")
        self.title = axes.set_title(" ", loc="right")
        axes.set(xscale="log", xlim=(1.5, 60), ylim=(0, 100))
        axes.set(xlabel="passes of the training, millions", ylabel="accuracy, %")
        axes.set_xticks(ticks := (2, 5, 10, 20, 50), map(str, ticks))
        axes.minorticks_off()
        axes.legend(loc="center right", bbox_to_anchor=(1, 0.64), handletextpad=0.2, frameon=True)
        animate(*self.points.values(), self.here, self.ends, self.name, self.title)

    def show(self, lines: pd.DataFrame, chosen: str, attack: str) -> None:
        """Show the accuracies under one attack."""
        kinds = [find_recipe(name).network for name in lines.index]
        for network, points in self.points.items():
            some = lines[[kind == network for kind in kinds]]
            points.set_data(self.passes[some.index], some["accuracy"])
        self.title.set_text(attack)
        for mark in (self.here, self.ends, self.name):
            mark.set_visible(chosen in lines.index)
        if chosen not in lines.index:
            return
        x, line = self.passes[chosen], lines.loc[chosen]
        self.here.set_data([x], [line["accuracy"]])
        self.here.set_marker(self.points[find_recipe(chosen).network].get_marker())
        self.ends.set_data([x, x], [line["ci_low"], line["ci_high"]])
        low = line["ci_low"] < 20  # the name stands above, elsewhere below
        y, side = (line["ci_high"] + 3, "bottom") if low else (line["ci_low"] - 3, "top")
        ha = "left" if x < 5 else "right" if x > 15 else "center"  # within the panel
        self.name.set(position=(x, y), va=side, ha=ha, text=title(chosen))
