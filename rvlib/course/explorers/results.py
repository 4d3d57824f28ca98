"""Notebook 06's explorer: Table 1 beside the report's, and what is certified, attacked, clean."""

import textwrap

import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.figures import dress
from rvlib.course.smoothing_lessons import Ladder, ladder
from rvlib.recipes import SIGMA, TRUE_L2, smoothed_name
from rvlib.report.reference import TITLES
from rvlib.report.tables import table1
from rvlib.stages.run import Run, table1_cells

BLUE, ORANGE, GREEN = sns.color_palette("colorblind")[:3]

Cell = dict[str, str]
"""One line of Table 1."""


def explore_results(run: Run) -> Explorer:
    """Choose a cell of Table 1 and see it beside the report's value and the defence's other cells.

    Parameters
    ----------
    run : Run
        Whose rows to read; all of Table 1's must be there.

    Returns
    -------
    Explorer
        Knobs ``defence`` and ``attack``.
    """
    table = table1(run.place.rows, "heldout", table1_cells(run), run.profile.heldout)
    defences = list(dict.fromkeys(line["defence"] for line in table))
    attacks = list(dict.fromkeys(line["attack"] for line in table))
    ladders = {defence: ladder(run, defence) for defence in defences}

    figure = Figure(figsize=(9.6, 6.4), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    column, steps = _Column(left, attacks), _Steps(right, run.profile.certified)

    def draw(defence: str, attack: str) -> str:
        lines = {line["attack"]: line for line in table if line["defence"] == defence}
        column.show(TITLES[defence], lines, attack)
        steps.show(ladders[defence])
        words = "not measured" if attack not in lines else _words(lines[attack])
        return f"{TITLES[defence]}, {TITLES[attack]}: {words}. {ladders[defence].words()}"

    knobs = [
        Knob(
            "defence",
            "defence",
            defences,
            defences.index(smoothed_name(SIGMA)),
            [TITLES[defence] for defence in defences],
            menu=True,
        ),
        Knob(
            "attack",
            "attack",
            attacks,
            attacks.index("pgd-linf"),
            [TITLES[attack] for attack in attacks],
            menu=True,
        ),
    ]
    moving = [*column.moving, *steps.moving]
    return Explorer("results", knobs, Picture(figure, moving), draw)


class _Column:
    """One defence under all attacks: our accuracy with its interval, the report's value."""

    def __init__(self, axes: Axes, attacks: list[str]) -> None:
        self.attacks = attacks
        self.chosen = axes.axhspan(-0.4, 0.4, color="0.88")
        self.intervals, self.ours, self.theirs, self.missing = [], [], [], []
        for k in range(len(attacks)):
            self.intervals += axes.plot([], [], "-|", color=BLUE, linewidth=2, markersize=12)
            self.ours += axes.plot([], [], "o", color=BLUE, markersize=8)
            self.theirs += axes.plot([], [], "s", color=ORANGE, markersize=10)
            self.theirs[-1].set(markerfacecolor="none", markeredgewidth=2)
            self.missing.append(axes.text(1, k, "", va="center", fontsize=12))
        self.intervals[0].set_label("ours, 95 % interval")
        self.theirs[0].set_label("the report")
        self.numbers = axes.text(110, 0, "", va="center", ha="right", fontsize=12)
        self.title = axes.set_title(" ", fontsize=14)
        names = [textwrap.fill(TITLES[attack], 22) for attack in attacks]
        axes.set_yticks(range(len(attacks)), names)
        axes.set_xticks(range(0, 81, 20))
        axes.set(xlim=(-2, 112), ylim=(len(attacks) - 0.5, -0.5))
        dress(axes, "accuracy, %", "")
        axes.legend(
            fontsize=12, frameon=False, loc="upper right", bbox_to_anchor=(1, -0.1), ncols=2
        )
        self.moving: list[Artist] = [self.chosen, *self.intervals, *self.ours, *self.theirs]
        self.moving += [*self.missing, self.numbers, self.title]

    def show(self, title: str, lines: dict[str, Cell], chosen: str) -> None:
        self.title.set_text(title)
        row, cell = self.attacks.index(chosen), lines.get(chosen, {})
        self.chosen.set_y(row - 0.4)
        self.numbers.set_y(row)
        report = f" (report {cell['report_value']})" if cell.get("report_value") else ""
        self.numbers.set_text(cell.get("accuracy", "") + report)
        for k, attack in enumerate(self.attacks):
            line = lines.get(attack, {})
            ends = [float(line[end]) for end in ("ci_low", "ci_high") if line]
            self.intervals[k].set_data(ends, [k] * len(ends))
            for artist, column in ((self.ours[k], "accuracy"), (self.theirs[k], "report_value")):
                at = [float(line[column])] if line.get(column) else []
                artist.set_data(at, [k] * len(at))
            self.missing[k].set_text("" if line else "not measured")


class _Steps:
    """Certified, attacked, clean, on the same images."""

    def __init__(self, axes: Axes, images: int) -> None:
        colours, hatches = (GREEN, ORANGE, BLUE), ("..", "//", "")
        self.bars = [
            axes.bar(k, 0, color=colour, hatch=hatch)[0]
            for k, (colour, hatch) in enumerate(zip(colours, hatches, strict=True))
        ]
        self.ends = [axes.plot([], [], "-_", color="k", markersize=12)[0] for _ in self.bars]
        self.none = axes.text(0, 1, "none", ha="center", fontsize=12)
        axes.set_xticks(range(3), ["certified", "\nattacked", "clean"])
        axes.set(ylim=(0, 100), xlim=(-0.6, 2.6))
        axes.set_title(f"l2 ball of {TRUE_L2.eps},\n{images} images", fontsize=14)
        dress(axes, "", "accuracy, %")
        self.moving: list[Artist] = [*self.bars, *self.ends, self.none]

    def show(self, steps: Ladder) -> None:
        for k, step in enumerate((steps.certified, steps.attacked, steps.clean)):
            self.bars[k].set_height(step.percent if step else 0)
            self.ends[k].set_data(*([k, k], step.interval) if step else ([], []))
        self.none.set_text("" if steps.certified else "none")


def _words(line: Cell) -> str:
    ours = f"{line['accuracy']} % of {line['n']} images ({line['ci_low']} to {line['ci_high']})"
    if not line["report_value"]:
        return f"{ours}; the report has no such cell"
    where = "inside" if line["report_in_interval"] == "yes" else "outside"
    return f"{ours}; the report's {line['report_value']} % lies {where} that interval"
