"""The printed report: one typst source and a run's tables in, ``report.pdf`` and HTML out."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import typst

from rvlib import experiments as ex
from rvlib.data import DATASETS
from rvlib.experiments import REPORT_TABLE1, TITLES
from rvlib.modern import TODAY
from rvlib.pipeline import repository
from rvlib.report.part_two import shipped_tables
from rvlib.report.tables import text
from rvlib.results import atomic_write

HELDOUT = DATASETS["cifar10"].splits["heldout"][1].stop
"""Images that the report's accuracies are of."""
TABLES = (
    *("table1", "further", "standard", "mcnemar", "seeds", "sigma", "readings"),
    *("certified", "jointly", "inside", "figure1", "sanity"),
)
"""Tables that the report prints; ``table2`` is there where the profile measures the test set."""

ATTACKED = ex.REPORT_ATTACKS[1:]
TRAINED = ("pgd-pixel-l2-at", "pgd-linf-at", "mixed-at")
NOISY, SMOOTHED = ex.gaussian_name(ex.SIGMA), ex.smoothed_name(ex.SIGMA)

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
        "Smoothing beats every adversarial training",
        [((SMOOTHED, a), (d, a)) for d in TRAINED for a in ATTACKED],
    ),
)
"""What the report concludes from its Table 1."""


def build(out: Path, source: Path | None = None) -> list[Path]:
    """Write the report of a run as PDF and as HTML, from one typst source.

    Parameters
    ----------
    out : Path
        Folder of a run, with ``run.json``, ``tables/`` and ``figures/``; the report is written
        into it.
    source : Path, default=``repository() / "report" / "report.typ"``
        The typst source: all of the text and the layout.

    Returns
    -------
    list of Path
        ``report.pdf`` and ``report.html``, each self-contained; the same bytes for the same run.

    Raises
    ------
    ValueError
        If a table is missing or incomplete, or typst refuses the source; one line.
    """
    source = (source or repository() / "report" / "report.typ").resolve()
    content = json.dumps(gather(out))
    pdf, html = out / "report.pdf", out / "report.html"
    atomic_write(pdf, _compile(source, content, format="pdf", pdf_standards=["ua-1"]))
    atomic_write(html, _compile(source, content, format="html"))
    return [pdf, html]


def _compile(source: Path, content: str, **options: Any) -> bytes:
    """Compile with the fonts inside typst only: no page depends on the machine's."""
    try:
        with warnings.catch_warnings():
            # Typst's HTML export is experimental and warns; its result was looked at.
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
    """Collect all that the source prints: the run's files, the names, and the findings.

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
    try:
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
        names = [*TABLES, *(["table2"] if run["test"] else [])]
        paths = {name: out / "tables" / f"{name}.csv" for name in names}
        printed = {k: pd.read_csv(p, dtype=str, keep_default_na=False) for k, p in paths.items()}
        figure = (out / "figures" / "figure1.svg").read_text(encoding="utf-8")
        paths["hypotheses"] = out / "tables" / "hypotheses.csv"
        findings = find(run, {name: pd.read_csv(path) for name, path in paths.items()})
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing: make report writes it") from None
    except (KeyError, ValueError, TypeError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{out}: a table is incomplete ({what}): run make report again") from None
    part_two = shipped_tables(dtype=str, keep_default_na=False)
    recipe, cifar10 = ex.RECIPES["standard"], DATASETS["cifar10"]
    parameters = sum(p.numel() for p in recipe.build(0).parameters())
    return {
        "run": run,
        "tables": {name: table.to_dict("records") for name, table in printed.items()},
        "figure": figure,
        "titles": TITLES | {name: modern.title for name, modern in TODAY.items()},
        "part_two": {name: table.to_dict("records") for name, table in part_two.items()},
        "recipe": recipe.record() | {"parameters": parameters},
        "findings": findings,
        "side": cifar10.shape[-1],
        "heldout": HELDOUT,
    }


def find(run: dict[str, Any], tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Compute what the report's sentences say from what its tables say.

    Parameters
    ----------
    run : dict
        As in ``run.json``.
    tables : dict of str to DataFrame
        By name.

    Returns
    -------
    dict
        Counts and comparisons by name; numbers that are printed as text.
    """
    cells = tables["table1"].set_index(["defence", "attack"])
    read = {name: rows for name, rows in tables["readings"].groupby("reading", sort=False)}
    return {
        "columns": {name: inside_by_column(rows) for name, rows in read.items()},
        "claims": [judge_readings(claim, read) for claim in CLAIMS],
        "tried": tried(tables["hypotheses"]),
        "multiples": multiples(HELDOUT),
        "sigma": inside_by_sigma(tables["sigma"]),
        "vote": vote_attack_gain(cells),
        "stronger": stronger_attack(cells, run["defences"]),
        "widest_table1": _widest(tables["table1"]),
        "widest_figure1": _widest(tables["figure1"]),
        "reach": linf_reach(run, tables["figure1"]),
        "inside": inside_counts(tables["inside"]),
        "sanity": sanity_counts(tables["sanity"]),
        "gap": ensemble_gap(tables["standard"]),
        "mcnemar": told_apart(tables["mcnemar"]),
    }


def inside_by_column(readings: pd.DataFrame) -> list[dict[str, Any]]:
    """Count, a defence, the report's values in the 95 % intervals of one of the readings."""
    return [
        {
            "defence": defence,
            "cells": len(rows),
            "inside": int((rows["in_interval"] == "yes").sum()),
            "in_range": int((rows["in_range"] == "yes").sum()),
            "with_range": int(rows["in_range"].isin(["yes", "no"]).sum()),
        }
        for defence, rows in readings.groupby("defence", sort=False)
    ]


def judge_readings(claim: Claim, readings: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Decide a claim in both readings of Table 1.

    Parameters
    ----------
    claim : Claim
        The claim.
    readings : dict of str to DataFrame
        The lines of ``readings`` by the name of the reading.

    Returns
    -------
    dict
        ``text``, ``pairs`` (how many), and by reading what ``judge`` finds.
    """
    found = {r: judge(claim, rows.set_index(["defence", "attack"])) for r, rows in readings.items()}
    return {"text": claim.text, "pairs": len(claim.pairs), **found}


def tried(table: pd.DataFrame) -> dict[str, Any]:
    """Summarise ``hypotheses``: a column's likeliest combination, and that of each way to answer.

    Parameters
    ----------
    table : DataFrame
        ``hypotheses.csv``.

    Returns
    -------
    dict
        ``combinations`` of a column; by column ``close``, how many are less than two natural units
        of log-likelihood behind the best, ``words`` for the best, ``off`` for its worst cell,
        ``lines``, one a way, and ``sigmas``, how far the best of each noise level is behind.
    """
    columns = {}
    for column, rows in table.groupby("column", sort=False):
        rows = rows.sort_values("log_likelihood", ascending=False, kind="stable")
        rows = rows.assign(behind=rows["log_likelihood"].max() - rows["log_likelihood"])
        ways = rows.groupby([rows["answer"].str.split().str[0], "abstentions", "noise"])
        lines = text(ways.head(1).replace({"worst": TITLES}))
        best, sigmas = rows.iloc[0], rows.groupby("sigma")["behind"].min()
        points, errors = abs(best["points"]), abs(best["errors_off"])
        side = "below" if best["points"] < 0 else "above"
        columns[str(column)] = {
            "close": int((rows["behind"] < 2).sum()),
            "words": words(best),
            "off": f"{points:.2f} points ({errors:.2f} standard errors) {side}",
            "sigmas": [{"sigma": f"{s:.2f}", "behind": f"{b:.2f}"} for s, b in sigmas.items()],
            "lines": lines.assign(words=lines.apply(words, axis=1)).to_dict("records"),
        }
    return {"combinations": int(len(table) / len(columns)), "columns": columns}


def multiples(n: int) -> dict[str, int]:
    """Count each printed column's multiples of 1/n, rounded or cut off: accuracies on n images."""
    percent = 100 * np.arange(n + 1) / n
    possible = {f"{p:.2f}" for p in (*percent, *np.floor(100 * percent) / 100)}
    return {
        column: sum(f"{value:.2f}" in possible for value in cells.values())
        for column, cells in REPORT_TABLE1.items()
    }


def words(line: pd.Series) -> str:
    """Say a combination of ``hypotheses`` in words."""
    parts = [f"σ = {float(line['sigma']):.2f}", line["answer"]]
    parts += {
        "errors": ["abstentions are errors"],
        "left out": ["abstentions left out"],
        "none": ["no abstention"],
    }.get(line["abstentions"], [])
    parts += ["noise added twice"] if line["noise"] == "twice" else []
    parts += ["attack through the noise"] if line["gradients"] == "noisy" else []
    parts += ["l∞ radius 0.031"] if line["linf"].endswith("0.031") else []
    parts += ["pixel-l2 step 0.02"] if line["pixel_l2"].endswith("0.02") else []
    return ", ".join(parts)


def judge(claim: Claim, cells: pd.DataFrame) -> dict[str, Any]:
    """Decide a claim by whether the 95 % intervals of its pairs lie apart, and which way.

    Parameters
    ----------
    claim : Claim
        The claim.
    cells : DataFrame
        Table 1, indexed by defence and attack.

    Returns
    -------
    dict
        ``agree, against`` (numbers of pairs) and ``verdict``.
    """
    low, high = cells["ci_low"], cells["ci_high"]
    agree = sum(bool(low[more] > high[less]) for more, less in claim.pairs)
    against = sum(bool(low[less] > high[more]) for more, less in claim.pairs)
    verdict = _verdict(len(claim.pairs), agree, against)
    return {"agree": agree, "against": against, "verdict": verdict}


def _verdict(pairs: int, agree: int, against: int) -> str:
    if pairs in (agree, against):
        return "holds" if agree else "the reverse holds"
    parts = ["holds in part"] * bool(agree) + ["fails in part"] * bool(against)
    return ", ".join(parts) or "not decided"


def inside_by_sigma(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Count, a noise level, the report's noisy and smoothing values in the scan's intervals."""
    counted = table[["sigma"]].copy()
    for column, defence in (("plain", NOISY), ("vote", SMOOTHED)):
        value = table["attack"].map(REPORT_TABLE1[defence])
        counted[column] = value.between(table[f"{column}_low"], table[f"{column}_high"])
    sums = counted.groupby("sigma", sort=False).sum().to_dict("index")
    return [{"sigma": f"{sigma:.2f}", **inside} for sigma, inside in sums.items()]


def vote_attack_gain(cells: pd.DataFrame) -> list[dict[str, str]]:
    """Say, a ball, how many points of accuracy the attack on the vote takes beyond the other."""
    gains = []
    for attack in ("pgd-linf", "pgd-pixel-l2", "pgd-l2"):
        network, vote = (cells.loc[(SMOOTHED, name)] for name in (attack, f"vote-{attack}"))
        gain = {"attack": attack, "gain": _points(network["accuracy"] - vote["accuracy"])}
        gains.append(gain | {"images": f"{vote['n']:.0f}", "others": f"{network['n']:.0f}"})
    return gains


def stronger_attack(cells: pd.DataFrame, defences: list[str]) -> str | None:
    """Give the most accuracy, in points, that 50 steps with 5 restarts take beyond PGD's 10."""
    accuracy = cells["accuracy"].unstack()
    if "pgd-linf-50x5" not in accuracy:
        return None
    return _points((accuracy["pgd-linf"] - accuracy["pgd-linf-50x5"])[defences].max())


def _points(gain: float) -> str:
    return f"{gain:.2f}".replace("-", "−")


def _widest(table: pd.DataFrame) -> str:
    return f"{(table['ci_high'] - table['ci_low']).max() / 2:.1f}"


def inside_counts(table: pd.DataFrame) -> dict[str, str]:
    """Add up what attacks inside certified balls did, over all noise levels."""
    sums = table[["attacked", "stands", "too_close", "changed"]].sum()
    first = table.iloc[0]
    return {name: str(value) for name, value in sums.items()} | {
        "false_expected": f"{table['false_expected'].sum():.1f}",
        "percent": f"{100 * first['share']:g}",
        "certified_n": str(int(first["certified_n"])),
        "votes": str(int(first["votes"])),
    }


def sanity_counts(table: pd.DataFrame) -> dict[str, Any]:
    """Count the checks of ``rvlib check`` that pass, and list those that fail."""
    failed = table[table["passed"] != "yes"]
    return {
        "checks": len(table),
        "passed": len(table) - len(failed),
        "failed": failed.to_dict("records"),
        "images": str(table["images"].iloc[0]),
    }


def ensemble_gap(table: pd.DataFrame) -> dict[str, str]:
    """Find the network and ball for which PGD-20 leaves the most points above the ensemble."""
    accuracy = table.set_index(["defence", "attack"])["accuracy"].unstack()
    balls = [name.removeprefix("ensemble-") for name in accuracy if name.startswith("ensemble-")]
    gaps = pd.concat({b: accuracy[f"pgd-20-{b}"] - accuracy[f"ensemble-{b}"] for b in balls})
    ball, defence = gaps.idxmax()
    return {"points": _points(gaps.max()), "defence": defence, "attack": f"ensemble-{ball}"}


def told_apart(table: pd.DataFrame, level: float = 0.05) -> list[dict[str, Any]]:
    """Count, an attack, the pairs of networks that McNemar's test tells apart; list the others."""
    return [
        {
            "attack": attack,
            "pairs": len(rows),
            "apart": int((rows["p_holm"] < level).sum()),
            "others": rows.loc[rows["p_holm"] >= level, ["defence", "other"]].values.tolist(),
        }
        for attack, rows in table.groupby("attack", sort=False)
    ]


def linf_reach(run: dict[str, Any], curves: pd.DataFrame) -> dict[str, Any]:
    """Compare the l2 certificates with the report's other two balls.

    Parameters
    ----------
    run : dict
        Its attacks give the radii.
    curves : DataFrame
        ``figure1.csv``.

    Returns
    -------
    dict
        A ball's largest l2 norm, and what Figure 1 certifies at that radius at most: all that the
        certificates say about the ball.
    """
    channels, height, width = DATASETS["cifar10"].shape
    independent = {"pgd-linf": channels * height * width, "pgd-pixel-l2": height * width}
    result = {}
    for attack, parts in independent.items():
        radius = float(run["attacks"][attack]["threat"].split()[1]) * math.sqrt(parts)
        # The last point up to the radius: as the curves fall, no less than at the radius itself.
        reached = curves[curves["radius"] <= radius].groupby(["sigma", "n"])
        most = reached["certified_accuracy"].min().max()
        result[attack] = {"radius": f"{radius:.2f}", "certified": f"{most:.2f}"}
    return result
