"""The printed report: one typst source and a run's tables in, ``report.pdf`` and HTML out."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typst

from rvlib.data import SPLITS
from rvlib.files import write_whole
from rvlib.intervals import wilson
from rvlib.recipes import REPORT_ATTACKS, SIGMA, find_recipe, gaussian_name, smoothed_name
from rvlib.report.reference import REPORT_TABLE1, TITLES
from rvlib.report.tables import Table, read_csv
from rvlib.stages.run import repository

TABLES = (
    "table1",
    "further",
    "seeds",
    "sigma",
    "certified",
    "jointly",
    "inside",
    "figure1",
    "sanity",
)
"""Tables that every run has; ``table2`` is there where the profile measures the test set."""

SIDE, CHANNELS = 32, 3
"""Shape of a CIFAR-10 image."""

ATTACKED = REPORT_ATTACKS[1:]
TRAINED = ("pgd-pixel-l2-at", "pgd-linf-at", "mixed-at")
NOISY, SMOOTHED = gaussian_name(SIGMA), smoothed_name(SIGMA)

Cell = tuple[str, str]
"""Defence and attack."""


class Claim(NamedTuple):
    """A statement of the report about its Table 1, as comparisons that a run can decide.

    Parameters
    ----------
    text : str
        The statement.
    pairs : list of (Cell, Cell)
        The first cell of each pair is said to be more accurate than the second.
    """

    text: str
    pairs: list[tuple[Cell, Cell]]


CLAIMS = (
    Claim(
        "Training with noise alone raises the accuracy under every attack",
        [((NOISY, a), ("standard", a)) for a in ATTACKED],
    ),
    Claim(
        "Each adversarial training raises the accuracy under every attack",
        [((d, a), ("standard", a)) for d in TRAINED for a in ATTACKED],
    ),
    Claim(
        "Against PGD, the network trained on that very norm beats the one trained on the other",
        [
            (("pgd-linf-at", "pgd-linf"), ("pgd-pixel-l2-at", "pgd-linf")),
            (("pgd-pixel-l2-at", "pgd-pixel-l2"), ("pgd-linf-at", "pgd-pixel-l2")),
        ],
    ),
    Claim(
        "Mixed adversarial training beats both single ones under every attack",
        [(("mixed-at", a), (d, a)) for d in TRAINED[:2] for a in ATTACKED],
    ),
    Claim(
        "Adversarial training costs accuracy on natural images",
        [(("standard", "natural"), (d, "natural")) for d in TRAINED],
    ),
    Claim(
        "Smoothing beats every adversarial training, the network being attacked",
        [((SMOOTHED, a), (d, a)) for d in TRAINED for a in ATTACKED],
    ),
    Claim(
        "The same, the vote being attacked (not in the report)",
        [((SMOOTHED, f"vote-{a}"), (d, a)) for d in TRAINED for a in ATTACKED[1:]],
    ),
)
"""What the report concludes from its Table 1, and one sharper question."""


def build(out: Path, source: Path | None = None) -> list[Path]:
    """Write the report of a run as PDF and as HTML, from one typst source.

    Parameters
    ----------
    out : Path
        Folder of a run, with ``run.json``, ``tables/`` and ``figures/`` as ``write_tables`` made
        them; the report is written into it.
    source : Path, default=``repository() / "report" / "report.typ"``
        The typst source: all of the text and the layout.

    Returns
    -------
    list of Path
        ``report.pdf`` and ``report.html``, each self-contained; the same bytes for the same run.

    Raises
    ------
    ValueError
        If a table is missing, or typst refuses the source; the message is one line.
    """
    source = (source or repository() / "report" / "report.typ").resolve()
    if not source.is_file():
        raise ValueError(f"{source} is missing: run from a checkout, or set RVLIB_ROOT to one")
    content = json.dumps(gather(out))
    pdf, html = out / "report.pdf", out / "report.html"
    write_whole(pdf, _compile(source, content, format="pdf", pdf_standards=["ua-1"]))
    write_whole(html, _compile(source, content, format="html"))
    return [pdf, html]


def _compile(source: Path, content: str, **options: Any) -> bytes:
    """Compile with the fonts inside typst only: no page depends on the machine's."""
    try:
        with warnings.catch_warnings():
            # That typst's HTML is young is known; its result was looked at.
            warnings.simplefilter("ignore", typst.TypstWarning)
            return typst.compile(
                source,
                root=source.parent,
                sys_inputs={"content": content},
                ignore_system_fonts=True,
                **options,
            )
    except typst.TypstError as error:
        raise ValueError(f"{source}: {' '.join(error.message.split())}") from None


def gather(out: Path) -> dict[str, Any]:
    """Collect all that the source prints: the run's files, the names, and what follows from them.

    Parameters
    ----------
    out : Path
        Folder of a run.

    Returns
    -------
    dict
        Plain values; numbers from tables stay the text they are in the files.

    Raises
    ------
    ValueError
        If a file is missing or cannot be read; the message names it.
    """
    run = _read(out / "run.json", lambda path: json.loads(path.read_text()))
    names = (*TABLES, "table2") if run["test"] else TABLES
    tables = {name: _read(out / "tables" / f"{name}.csv", read_csv) for name in names}
    figure = _read(out / "figures" / "figure1.svg", Path.read_text)
    try:
        findings = find(run, tables)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{out / 'tables'}: a line or column is missing ({error}); make report writes them anew"
        ) from None
    recipe = find_recipe("standard")
    parameters = sum(p.numel() for p in recipe.build(0).parameters())
    return {
        "run": run,
        "tables": tables,
        "figure": figure,
        "titles": TITLES,
        "recipe": recipe.record() | {"parameters": parameters},
        "findings": findings,
        "side": SIDE,
        "heldout": SPLITS["heldout"][1].stop,
    }


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: make report writes it") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): make report writes it anew") from None


def find(run: dict[str, Any], tables: dict[str, Table]) -> dict[str, Any]:
    """Compute what the report's sentences say from what its tables say.

    Parameters
    ----------
    run : dict
        As in ``run.json``.
    tables : dict of str to Table
        By name.

    Returns
    -------
    dict
        Counts and comparisons by name, none of them rounded but those that are printed.
    """
    cells = {(row["defence"], row["attack"]): row for row in tables["table1"]}
    return {
        "columns": inside_by_column(tables["table1"]),
        "claims": [judge(claim, cells) for claim in CLAIMS],
        "answered": answered_only(cells),
        "sigma": inside_by_sigma(tables["sigma"]),
        "vote": vote_attack_gain(cells),
        "stronger": stronger_attack(cells, tuple(run["defences"])),
        "widest_table1": _widest(tables["table1"]),
        "widest_figure1": _widest(tables["figure1"]),
        "reach": linf_reach(run, tables["figure1"]),
        "inside": inside_counts(tables["inside"]),
        "sanity": sanity_counts(tables["sanity"]),
    }


def inside_by_column(table: Table) -> list[dict[str, Any]]:
    """Count, a defence, the report's values that lie in this run's 95 % intervals."""
    reported = [row for row in table if row["report_value"]]
    return [
        {
            "defence": defence,
            "cells": len(rows),
            "inside": sum(row["report_in_interval"] == "yes" for row in rows),
            "above": sum(float(row["report_value"]) > float(row["ci_high"]) for row in rows),
            "below": sum(float(row["report_value"]) < float(row["ci_low"]) for row in rows),
        }
        for defence in dict.fromkeys(row["defence"] for row in reported)
        for rows in [[row for row in reported if row["defence"] == defence]]
    ]


def judge(claim: Claim, cells: dict[Cell, dict[str, str]]) -> dict[str, Any]:
    """Decide a claim by whether the 95 % intervals of its pairs lie apart, and which way.

    Parameters
    ----------
    claim : Claim
        The claim.
    cells : dict
        Lines of Table 1 by defence and attack.

    Returns
    -------
    dict
        ``text, pairs, agree, against`` (numbers of pairs) and ``verdict``.
    """
    pairs = [(cells[high], cells[low]) for high, low in claim.pairs]
    agree = sum(_apart(high, low) for high, low in pairs)
    against = sum(_apart(low, high) for high, low in pairs)
    return {
        "text": claim.text,
        "pairs": len(pairs),
        "agree": agree,
        "against": against,
        "verdict": _verdict(len(pairs), agree, against),
    }


def _apart(high: dict[str, str], low: dict[str, str]) -> bool:
    return float(high["ci_low"]) > float(low["ci_high"])


def _verdict(pairs: int, agree: int, against: int) -> str:
    if agree == pairs:
        return "holds"
    if against == pairs:
        return "the reverse holds"
    if agree and against:
        return "holds in part, fails in part"
    if against:
        return "fails in part"
    return "holds in part" if agree else "not decided"


def answered_only(cells: dict[Cell, dict[str, str]]) -> list[dict[str, Any]]:
    """Say where the report's smoothing values lie if abstentions are left out of the count."""
    result = []
    for attack in REPORT_ATTACKS:
        row = cells[SMOOTHED, attack]
        answered = int(row["n"]) - int(row["abstained"])
        inside = False
        if answered:
            low, high = wilson(int(row["correct"]), answered)
            inside = bool(100 * low <= float(row["report_value"]) <= 100 * high)
        result.append({"attack": attack, "inside": inside})
    return result


def inside_by_sigma(table: Table) -> list[dict[str, Any]]:
    """Count, a noise level, the report's noisy and smoothing values in the scan's intervals."""
    result = []
    for sigma in dict.fromkeys(row["sigma"] for row in table):
        rows = [row for row in table if row["sigma"] == sigma]
        counts = {
            column: sum(
                float(row[f"{column}_low"])
                <= REPORT_TABLE1[defence][row["attack"]]
                <= float(row[f"{column}_high"])
                for row in rows
            )
            for column, defence in (("plain", NOISY), ("vote", SMOOTHED))
        }
        result.append({"sigma": sigma, **counts})
    return result


def vote_attack_gain(cells: dict[Cell, dict[str, str]]) -> list[dict[str, str]]:
    """Say, a ball, how many points of accuracy the attack on the vote takes beyond the other."""
    result = []
    for attack in ("pgd-linf", "pgd-pixel-l2", "pgd-l2"):
        plain, vote = cells[SMOOTHED, attack], cells[SMOOTHED, f"vote-{attack}"]
        gain = float(plain["accuracy"]) - float(vote["accuracy"])
        result.append({"attack": attack, "gain": f"{gain:.2f}".replace("-", "−")})
    return result


def stronger_attack(cells: dict[Cell, dict[str, str]], defences: Sequence[str]) -> str | None:
    """Give the most accuracy, in points, that 50 steps with 5 restarts take beyond PGD's 10."""
    gains = [
        float(cells[d, "pgd-linf"]["accuracy"]) - float(cells[d, "pgd-linf-50x5"]["accuracy"])
        for d in defences
        if (d, "pgd-linf-50x5") in cells
    ]
    return f"{max(gains):.2f}".replace("-", "−") if gains else None


def _widest(table: Table) -> str:
    return f"{max(float(row['ci_high']) - float(row['ci_low']) for row in table) / 2:.1f}"


def inside_counts(table: Table) -> dict[str, str]:
    """Add up what attacks inside certified balls did, over all noise levels."""
    sums = {
        column: sum(int(row[column]) for row in table)
        for column in ("attacked", "stands", "too_close", "changed")
    }
    expected = sum(float(row["false_expected"]) for row in table)
    percent = 100 * float(table[0]["share"])
    return {k: str(v) for k, v in sums.items()} | {
        "false_expected": f"{expected:.1f}",
        "percent": f"{percent:g}",
        "certified_n": table[0]["certified_n"],
        "votes": table[0]["votes"],
    }


def sanity_counts(table: Table) -> dict[str, Any]:
    """Count the checks of ``rvlib check`` that pass, and list those that fail."""
    failed = [row for row in table if row["passed"] != "yes"]
    passed = len(table) - len(failed)
    return {"checks": len(table), "passed": passed, "failed": failed, "images": table[0]["images"]}


def linf_reach(run: dict[str, Any], curves: Table) -> dict[str, Any]:
    """Compare the l2 certificates with the report's other two balls.

    Parameters
    ----------
    run : dict
        Its attacks give the radii.
    curves : Table
        ``figure1.csv``.

    Returns
    -------
    dict
        A ball's largest l2 norm, and what Figure 1 certifies at that radius at most: all that the
        certificates say about the ball.
    """
    falling: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in curves:
        point = float(row["radius"]), float(row["certified_accuracy"])
        falling.setdefault((row["sigma"], row["n"]), []).append(point)
    result = {}
    for attack, independent in (("pgd-linf", SIDE * SIDE * CHANNELS), ("pgd-pixel-l2", SIDE**2)):
        eps = float(run["attacks"][attack]["threat"].split()[1])
        radius = eps * math.sqrt(independent)
        # The last point up to the radius: as the curves fall, no less than at the radius itself.
        most = max(min(y for x, y in curve if x <= radius) for curve in falling.values())
        result[attack] = {"radius": f"{radius:.2f}", "certified": f"{most:.2f}"}
    return result
