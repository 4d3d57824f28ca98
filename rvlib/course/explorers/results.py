"""Notebook 06's explorer: Table 1 beside the report's, and what is certified, attacked, clean."""

from collections.abc import Mapping, Sequence
from functools import cache

from matplotlib.axes import Axes

from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import Bars, new_figure, place
from rvlib.course.figures import BLUE, GREEN, ORANGE
from rvlib.course.lessons import Ladder, ladder
from rvlib.experiments import REPORT_TABLE1, SIGMA, TRUE_L2, smoothed_name, table1_cells, title
from rvlib.pipeline import Accuracy, Run

SHORT = {
    "pgd-pixel-l2": "PGD pixel-l2",
    "pgd-l2-small": "PGD l2, ε = 0.045",
    "pgd-linf-50x5": "PGD l∞, 5 × 50 steps",
    "vote-fgsm": "on the vote, one step",
    "vote-pgd-linf": "on the vote, l∞",
    "vote-pgd-pixel-l2": "on the vote, pixel-l2",
    "vote-pgd-l2": "on the vote, l2",
}
"""Names of attacks beside an axis."""


def explore_results(run: Run) -> Explorer:
    """Choose a cell of Table 1 and see it beside the report's value and the defence's other cells.

    Parameters
    ----------
    run : Run
        Whose results to read; they are measured where they are missing.

    Returns
    -------
    Explorer
        Controls ``defence`` and ``attack``.
    """
    cells = table1_cells(run.profile)
    defences, attacks = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))

    @cache
    def found(defence: str) -> tuple[dict[str, Accuracy], Ladder]:
        names = [attack for name, attack in cells if name == defence]
        return {a: run.accuracy(defence, a) for a in names}, ladder(run, defence)

    with new_figure() as figure:
        column = _Column(place(figure, 190, 84, 302, 284), attacks)
        axes = place(figure, 572, 84, 136, 262)
        bars = Bars(axes, ((GREEN, ".."), (ORANGE, "//"), (BLUE, "")), top=80)
        axes.set_xticks(range(3), ["certified", "attacked", "clean"], rotation=30, ha="right")
        axes.set(ylabel="accuracy, %", title=f"l2 ball\nof {TRUE_L2.eps}")
        none = axes.text(0, 1, "none", ha="center")
        animate(none)

    def draw(defence: str, attack: str) -> str:
        (measured, steps), printed = found(defence), REPORT_TABLE1.get(defence, {})
        column.show(title(defence), measured, printed, attack)
        bars.show(*((step.percent, step.interval) if step else None for step in steps))
        none.set_visible(steps.certified is None)
        words = _words(measured.get(attack), printed.get(attack))
        return f"{title(defence)}, {title(attack)}: {words}. {steps.sentence()}"

    start = defences.index(smoothed_name(SIGMA)), attacks.index("pgd-linf")
    controls = [
        Control("defence", "defence", defences, start[0], title, menu=True),
        Control("attack", "attack", attacks, start[1], title, menu=True),
    ]
    return Explorer("results", controls, figure, draw)


class _Column:
    """One defence under all attacks: our accuracy with its interval, the report's value."""

    def __init__(self, axes: Axes, attacks: Sequence[str]) -> None:
        self.attacks, rows = list(attacks), range(len(attacks))
        self.chosen = axes.axhspan(-0.4, 0.4, color="0.88")
        self.intervals = [axes.plot([], [], "-|", color=BLUE, markersize=12)[0] for _ in rows]
        (self.ours,) = axes.plot([], [], "o", color=BLUE, markersize=8, label="ours, 95 % interval")
        (self.theirs,) = axes.plot([], [], "s", color=ORANGE, markersize=11, label="the report")
        self.theirs.set(markerfacecolor="none", markeredgewidth=2)
        self.missing = [axes.text(1, k, "", va="center") for k in rows]
        self.title = axes.set_title(" ", loc="right")
        axes.set_yticks(rows, [SHORT.get(attack, title(attack)) for attack in attacks])
        axes.set(xlim=(-2, 84), xticks=range(0, 81, 20), ylim=(len(attacks) - 0.5, -0.5))
        axes.set_xlabel("accuracy, %", labelpad=0)
        axes.legend(loc="upper right", bbox_to_anchor=(1.04, -0.13), ncols=2, columnspacing=1)
        lines = [*self.intervals, self.ours, self.theirs]
        animate(self.chosen, *lines, *self.missing, self.title)

    def show(
        self, name: str, measured: Mapping[str, Accuracy], printed: Mapping[str, float], chosen: str
    ) -> None:
        self.title.set_text(name)
        self.chosen.set_y(self.attacks.index(chosen) - 0.4)
        for k, attack in enumerate(self.attacks):
            ends = measured[attack].interval if attack in measured else ()
            self.intervals[k].set_data(ends, [k] * len(ends))
            self.missing[k].set_text("" if attack in measured else "not measured")
        for line, values in (
            (self.ours, {attack: cell.percent for attack, cell in measured.items()}),
            (self.theirs, printed),
        ):
            line.set_data(list(values.values()), [self.attacks.index(a) for a in values])


def _words(ours: Accuracy | None, printed: float | None) -> str:
    if ours is None:
        return "not measured"
    low, high = ours.interval
    words = f"accuracy {ours.percent:.2f} % on {ours.n} images ({low:.2f} to {high:.2f})"
    if printed is None:
        return f"{words}; the report has no value"
    where = "inside" if low <= printed <= high else "outside"
    return f"{words}; the report's {printed} % lies {where} this 95 % interval"
