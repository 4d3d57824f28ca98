"""Tables are group-bys over rows: every printed number goes back to a rows file."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from rvlib.evaluation import accuracy
from rvlib.files import write_whole
from rvlib.intervals import another_run
from rvlib.report.reference import REPORT_TABLE1, TITLES
from rvlib.rows import read_rows, rows_path

Table = list[dict[str, str]]
"""Rows of text by column, as they stand in the CSV file."""


TABLE1_COLUMNS = (
    "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high,report_value,"
    "answered_only,report_in_interval"
).split(",")


def table1(folder: Path, split: str, cells: Iterable[tuple[str, str]], images: int) -> Table:
    """Make Table 1: one line a defence and attack, of the models of training seed 0.

    Parameters
    ----------
    folder : Path
        Folder of the rows.
    split : str
        ``"heldout"`` (beside the report's values) or ``"test"`` (without them).
    cells : iterable of (str, str)
        Defence and attack.
    images : int
        How many images.

    Returns
    -------
    Table
        Columns ``TABLE1_COLUMNS``; percentages with two digits.
    """
    table = []
    for defence, attack in cells:
        measured = accuracy(read_rows(rows_path(folder, split, defence, 0, attack), images))
        low, high = measured.interval
        reported = REPORT_TABLE1.get(defence, {}).get(attack) if split == "heldout" else None
        smoothed = defence.startswith("smoothed")
        table.append(
            {
                "defence": defence,
                "attack": attack,
                "threat": measured.threat,
                "n": str(measured.n),
                "correct": str(measured.correct),
                "abstained": str(measured.abstained),
                "accuracy": f"{measured.percent:.2f}",
                "ci_low": f"{low:.2f}",
                "ci_high": f"{high:.2f}",
                "report_value": "" if reported is None else f"{reported:.2f}",
                "answered_only": _percent(measured.answered_only) if smoothed else "",
                "report_in_interval": ""
                if reported is None
                else ("yes" if low <= reported <= high else "no"),
            }
        )
    return table


def seeds_table(folder: Path, seeds: dict[str, int], attacks: Sequence[str], images: int) -> Table:
    """Summarise the training seeds of each model on the report's images.

    Parameters
    ----------
    folder : Path
        Folder of the rows.
    seeds : dict of str to int
        Number of training seeds by model.
    attacks : sequence of str
        Attacks to summarise.
    images : int
        How many images.

    Returns
    -------
    Table
        Mean, standard deviation and ends over training seeds, in percent; ``low`` and ``high``,
        the 95 % range for one more run on other images (``rvlib.intervals.another_run``), empty
        for one seed; the report's value and whether it lies in that range.
    """
    table = []
    for model, count in seeds.items():
        for attack in attacks:
            cells = [
                accuracy(read_rows(rows_path(folder, "heldout", model, seed, attack), images))
                for seed in range(count)
            ]
            values = [cell.percent for cell in cells]
            reported = REPORT_TABLE1.get(model, {}).get(attack)
            low = high = inside = ""
            if count > 1:
                ends = another_run([value / 100 for value in values], images)
                low, high = (f"{100 * end:.2f}" for end in ends)
            if low and reported is not None:
                inside = "yes" if float(low) <= reported <= float(high) else "no"
            table.append(
                {
                    "defence": model,
                    "attack": attack,
                    "seeds": str(count),
                    "mean": f"{statistics.mean(values):.2f}",
                    "std": f"{statistics.stdev(values):.2f}" if count > 1 else "",
                    "min": f"{min(values):.2f}",
                    "max": f"{max(values):.2f}",
                    "low": low,
                    "high": high,
                    "report_value": "" if reported is None else f"{reported:.2f}",
                    "report_in_range": inside,
                }
            )
    return table


def write_csv(path: Path, table: Table) -> None:
    """Write a table as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue().encode())


def read_csv(path: Path) -> Table:
    """Read a table that ``write_csv`` wrote."""
    with path.open() as file:
        return list(csv.DictReader(file))


def markdown(table: Table, columns: Sequence[str] | None = None) -> str:
    """Lay a table out in Markdown.

    Parameters
    ----------
    table : Table
        At least one line.
    columns : sequence of str, default=all
        Columns to show, in this order.

    Returns
    -------
    str
        Header, rule, one line a row.

    Examples
    --------
    >>> print(markdown([{"attack": "fgsm", "accuracy": "3.81"}]))
    | attack | accuracy |
    |---|---|
    | fgsm | 3.81 |
    """
    columns = list(columns or table[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in table)]
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    shown[1] = shown[1].replace(" ", "")
    return "\n".join(shown)


def grid(table: Table) -> Table:
    """Turn Table 1 into the report's shape: a line an attack, a column a defence.

    Parameters
    ----------
    table : Table
        As made by ``table1``.

    Returns
    -------
    Table
        Cells ``accuracy [low, high] (report: value)``; a dash where nothing was measured.
    """
    defences = list(dict.fromkeys(row["defence"] for row in table))
    attacks = list(dict.fromkeys(row["attack"] for row in table))
    cells = {(row["defence"], row["attack"]): _cell(row) for row in table}
    return [
        {"Accuracy, %": TITLES.get(attack, attack)}
        | {TITLES.get(d, d): cells.get((d, attack), "-") for d in defences}
        for attack in attacks
    ]


def sanity_grid(table: Table) -> Table:
    """Turn the table of ``rvlib check`` into a line a check, a column a defence.

    Parameters
    ----------
    table : Table
        As in ``tables/sanity.csv``.

    Returns
    -------
    Table
        Cells ``yes`` where the check passes, else ``NO``; a dash where it was not made.
    """
    defences = list(dict.fromkeys(row["defence"] for row in table))
    words = {"yes": "yes", "no": "NO"}
    cells = {(row["defence"], row["check"]): words[row["passed"]] for row in table}
    return [
        {"check": check} | {TITLES.get(d, d): cells.get((d, check), "-") for d in defences}
        for check in dict.fromkeys(row["check"] for row in table)
    ]


def _cell(row: dict[str, str]) -> str:
    text = f"{row['accuracy']} [{row['ci_low']}, {row['ci_high']}]"
    return f"{text} (report: {row['report_value']})" if row["report_value"] else text


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
