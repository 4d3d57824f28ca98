"""Tables of a run: every printed number goes back to rows on disk.

A table is a DataFrame of numbers; accuracies and shares are in percent.  ``text`` prints it.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats takes a second to load: at its first use
from numpy.typing import NDArray

from rvlib import experiments as ex
from rvlib.experiments import ALPHA, REPORT_ATTACKS, REPORT_TABLE1, SIGMA, SIGMAS, TITLES
from rvlib.pipeline import Run, certificates, interval
from rvlib.report.hypotheses import another_run, hypotheses, inside, noise_table, readings
from rvlib.results import Results, atomic_write, counts
from rvlib.smoothing import statistics as st
from rvlib.smoothing.statistics import ABSTAIN

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii of the certified accuracies in ``certified_table``, in pixel units."""

RADIUS_STEP = 0.01
"""Spacing of the points of Figure 1, in pixel units."""

FORMATS = {"radius": ".4f", "ACR": ".3f", "share": "g", "one_draw": ".3f", "log_likelihood": ".4f"}
SMALLEST = 1e-300
FORMATS |= {"p": ".2g", "p_holm": ".2g"}
"""How columns of numbers are printed; all others with two decimals."""


def accuracies(run: Run, cells: Iterable[tuple[Any, ...]], **where: Any) -> pd.DataFrame:
    """Collect accuracies, one line a cell.

    Parameters
    ----------
    run : Run
        Reads what is measured; measures what is not.
    cells : iterable of (str, str) or (str, str, int)
        Defence, attack and training seed (default 0).
    **where
        ``split`` and ``count``, as for ``Run.accuracy``.

    Returns
    -------
    DataFrame
        Columns ``defence, attack, threat, n, correct, abstained, accuracy, ci_low, ci_high``.
    """
    lines = []
    for defence, attack, *seed in cells:
        found = run.accuracy(defence, attack, seed=seed[0] if seed else 0, **where)
        low, high = found.interval
        counted = (found.n, found.correct, found.abstained)
        lines.append((defence, attack, found.threat, *counted, found.percent, low, high))
    names = "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high"
    return pd.DataFrame(lines, columns=names.split(","))


def table1(run: Run, cells: Iterable[tuple[str, str]], split: str = "heldout") -> pd.DataFrame:
    """Set accuracies beside the report's.

    Parameters
    ----------
    run : Run
        The run.
    cells : iterable of (str, str)
        Defence and attack.
    split : str, default="heldout"
        ``"heldout"`` (the report's images) or ``"test"`` (without the report's values).

    Returns
    -------
    DataFrame
        As ``accuracies``, then ``report_value``, ``answered_only`` (smoothed networks: share of
        the images that got an answer) and ``report_in_interval`` (yes, no or empty).
    """
    table = accuracies(run, cells, split=split)
    table["report_value"] = _reported(table) if split == "heldout" else np.nan
    smoothed = table["defence"].str.startswith("smoothed")
    answered = table["n"] - table["abstained"]  # 0 / 0 is NaN, which is printed as nothing
    table["answered_only"] = (100 * table["correct"] / answered).where(smoothed)
    table["report_in_interval"] = inside(table["report_value"], table["ci_low"], table["ci_high"])
    return table


def standard_table(run: Run) -> pd.DataFrame:
    """Measure networks as the field compares them: official test images, PGD-20, AutoAttack.

    Parameters
    ----------
    run : Run
        The run; ``run.profile.standard`` images.

    Returns
    -------
    DataFrame
        As ``accuracies``.
    """
    return accuracies(run, ex.standard_cells(), split="test", count=run.profile.standard)


def mcnemar_table(run: Run) -> pd.DataFrame:
    r"""Compare networks in pairs on the same images, under the ensemble of each ball.

    McNemar's exact test: if two networks are equally accurate, each image that only one of them
    gets right is the first one's with probability 1/2.  Below 1e-300 no p-value is told apart.

    Parameters
    ----------
    run : Run
        The run; ``run.profile.standard`` images.

    Returns
    -------
    DataFrame
        One line an attack and a pair: ``only_first`` and ``only_second``, images that only one
        gets right, the p-value ``p``, and ``p_holm``, adjusted by Holm for all lines [1]_ [2]_.

    References
    ----------
    .. [1] McNemar, Psychometrika 12(2), 1947.
    .. [2] Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    lines: list[dict[str, Any]] = []
    for attack in (name for name in ex.STANDARD_ATTACKS if name.startswith("ensemble")):
        right = {}
        for defence in dict(ex.standard_cells()):
            rows = run.answers(defence, attack, split="test", count=run.profile.standard).frame
            right[defence] = (rows["prediction"] == rows["label"]).to_numpy()
        for first, second in itertools.combinations(right, 2):
            a, b = right[first], right[second]
            only = int((a & ~b).sum()), int((b & ~a).sum())
            p = scipy.stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
            line: dict[str, Any] = {"attack": attack, "defence": first, "other": second}
            line |= {"only_first": only[0], "only_second": only[1], "p": max(p, SMALLEST)}
            lines.append(line)
    table = pd.DataFrame(lines)
    order = table["p"].sort_values(kind="stable").index
    steps = table["p"][order] * np.arange(len(table), 0, -1)
    return table.assign(p_holm=steps.cummax().clip(upper=1))  # aligned by the index


def _reported(table: pd.DataFrame) -> list[float]:
    cells = zip(table["defence"], table["attack"], strict=True)
    return [REPORT_TABLE1.get(defence, {}).get(attack, np.nan) for defence, attack in cells]


def seeds_table(run: Run) -> pd.DataFrame:
    """Summarise the training seeds of each network on the report's images.

    Parameters
    ----------
    run : Run
        The run; ``run.profile.seeds`` lists them.

    Returns
    -------
    DataFrame
        Mean, standard deviation, extremes; ``low`` and ``high``, the 95 % prediction interval of
        one more run on other images (``prediction_interval``); the report's value and whether it
        lies in it.
    """
    seeds = run.profile.seeds
    cells = [(m, a, seed) for m in seeds for seed in seeds[m] for a in REPORT_ATTACKS]
    groups = accuracies(run, cells).groupby(["defence", "attack"], sort=False)
    summary = {name: ("accuracy", name) for name in ("mean", "std", "min", "max")}
    table = groups.agg(seeds=("accuracy", "count"), **summary).reset_index()
    shares = ((group["accuracy"] / 100, group["n"]) for _, group in groups)
    table[["low", "high"]] = [another_run(p.tolist(), int(n.iloc[0])) for p, n in shares]
    table["report_value"] = _reported(table)
    table["report_in_range"] = inside(table["report_value"], table["low"], table["high"])
    return table


def sigma_table(run: Run) -> pd.DataFrame:
    """Compare, at each noise level, the network itself with its vote under the report's attacks.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    DataFrame
        One line a noise level and attack; accuracies with Wilson's 95 % intervals.
    """
    count = run.profile.certified
    pairs = [(sigma, attack) for sigma in SIGMAS for attack in REPORT_ATTACKS]
    plain = accuracies(run, [(ex.gaussian_name(s), a) for s, a in pairs], count=count)
    voted = accuracies(run, [(ex.smoothed_name(s), a) for s, a in pairs], count=count)
    table = pd.DataFrame(pairs, columns=["sigma", "attack"]).assign(n=plain["n"])
    for name, found in (("plain", plain), ("vote", voted)):
        table[[name, f"{name}_low", f"{name}_high"]] = found[["accuracy", "ci_low", "ci_high"]]
    return table.assign(vote_abstained=100 * voted["abstained"] / voted["n"])


def radii(results: Results, n: int, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Compute the radius each image is rightly certified in from its first `n` votes.

    Parameters
    ----------
    results : Results
        Of ``Run.certificates``.
    n : int
        One of its numbers of votes.
    alpha : float, default=0.001
        Failure probability of one image's certificate.

    Returns
    -------
    ndarray of float64, shape (N,)
        In pixel units; -1 where the answer is wrong or abstains.
    """
    return st.correct_radii(certificates(results, n, alpha), results.frame["label"])


def curve(panel: str, results: Results, n: int) -> pd.DataFrame:
    """List certified accuracy at radii from 0 to just beyond the largest possible one.

    Parameters
    ----------
    panel : str
        ``a`` or ``b``.
    results : Results
        Of ``Run.certificates``.
    n : int
        Number of votes.

    Returns
    -------
    DataFrame
        Columns ``panel, sigma, n, radius, certified_accuracy, ci_low, ci_high``.
    """
    found, sigma = radii(results, n), results.meta["sigma"]
    cap = st.largest_radius(n, ALPHA, sigma)
    at = np.unique([*np.arange(0, cap, RADIUS_STEP).round(6), cap, cap + RADIUS_STEP])
    shares = st.certified_accuracy(found, at.tolist())
    ends = np.array([interval(round(share * len(found)), len(found)) for share in shares])
    table = pd.DataFrame({"panel": panel, "sigma": sigma, "n": n, "radius": _rounded_down(at, 4)})
    table["certified_accuracy"] = 100 * shares
    return table.assign(ci_low=100 * ends[:, 0], ci_high=100 * ends[:, 1])


def figure1_table(run: Run) -> pd.DataFrame:
    """Make the data of Figure 1: panel a over the number of votes, panel b over the noise level.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    DataFrame
        As ``curve``.
    """
    ns = run.profile.ns
    a = [curve("a", run.certificates(SIGMA), n) for n in ns]
    b = [curve("b", run.certificates(sigma), max(ns)) for sigma in SIGMAS]
    return pd.concat([*a, *b], ignore_index=True)


def certified_table(run: Run, jointly: bool = False) -> pd.DataFrame:
    """Summarise the certificates: certified accuracy at a few radii, and the average radius.

    Parameters
    ----------
    run : Run
        The run.
    jointly : bool, default=False
        Whether *all* certificates of a line hold at once with probability 1 - alpha (Bonferroni),
        instead of each.

    Returns
    -------
    DataFrame
        One line a noise level and number of votes; ``ACR`` is the average certified radius, ``cap``
        the largest possible one, ``false_expected`` how many false certificates to expect at most.
    """
    alpha = ALPHA / run.profile.certified if jointly else ALPHA
    lines = []
    for sigma in SIGMAS:
        results = run.certificates(sigma)
        for n in run.profile.ns:
            found = radii(results, n, alpha)
            shares = 100 * st.certified_accuracy(found, list(RADII))
            line: dict[str, Any] = {"sigma": sigma, "n": n, "images": len(found)}
            line |= {f"r={r:g}": share for r, share in zip(RADII, shares, strict=True)}
            line["ACR"] = np.floor(st.average_certified_radius(found) * 1000) / 1000
            line["cap"] = np.floor(st.largest_radius(n, alpha, sigma) * 100) / 100
            lines.append(line | {"false_expected": f"{len(found) * alpha:.3g}"})
    return pd.DataFrame(lines)


def inside_table(run: Run) -> pd.DataFrame:
    """Count what attacks inside certified balls have changed: nothing, if certificates hold.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    DataFrame
        One line a noise level: how many balls were attacked, how many answers stand, are too close
        to call, and changed; ``false_expected`` of the latter to expect at most, ``plausible`` the
        number that chance exceeds once in a thousand runs.
    """
    return pd.DataFrame([_inside_line(run.inside(sigma)) for sigma in SIGMAS])


def _inside_line(results: Results) -> dict[str, Any]:
    meta, attacked = results.meta, results.frame[results.frame["certified"] != ABSTAIN]
    answers = st.vote(counts(attacked, "counts"), meta["alpha"]) if len(attacked) else np.array([])
    stands, close = (int((answers == c).sum()) for c in (attacked["certified"], ABSTAIN))
    chance = 2 * meta["alpha"]  # a certificate and an answer may each be wrong with probability α
    return {
        "sigma": meta["sigma"],
        "certified_n": max(meta["ns"]),
        "votes": meta["n"],
        "images": len(results.frame),
        "attacked": len(attacked),
        "share": meta["share"],
        "stands": stands,
        "too_close": close,
        "changed": len(attacked) - stands - close,
        "false_expected": chance * len(attacked),
        "plausible": int(scipy.stats.binom.isf(0.001, len(attacked), chance)),
    }


def all_tables(run: Run) -> dict[str, pd.DataFrame]:
    """Make every table of a run, by the name of its file.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of str to DataFrame
        ``table1, further, standard, mcnemar, seeds, sigma, noise, hypotheses, readings, certified,
        jointly, inside, figure1`` and, where the profile measures the test set, ``table2``.
    """
    cells, noise = ex.table1_cells(run.profile), noise_table(run)
    tried = hypotheses(noise)
    tables = {
        "table1": table1(run, cells),
        "further": table1(run, [(m, attack) for m in ex.FURTHER for attack in run.profile.attacks]),
        "standard": standard_table(run),
        "mcnemar": mcnemar_table(run),
        "seeds": seeds_table(run),
        "sigma": sigma_table(run),
        "noise": noise,
        "hypotheses": tried,
        "readings": readings(run, noise, tried),
        "certified": certified_table(run),
        "jointly": certified_table(run, jointly=True),
        "inside": inside_table(run),
        "figure1": figure1_table(run),
    }
    return tables | ({"table2": table1(run, cells, "test")} if run.profile.test else {})


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Print the numbers of a table as its CSV file and its Markdown have them.

    Parameters
    ----------
    table : DataFrame
        Numbers and text.

    Returns
    -------
    DataFrame of str
        Floats by ``FORMATS``, nothing where a value is missing.
    """

    def printed(column: pd.Series) -> pd.Series:
        form = FORMATS.get(str(column.name), ".2f") if column.dtype == float else ""
        return column.astype(object).map(lambda v: "" if pd.isna(v) else f"{v:{form}}")

    return table.apply(printed)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV."""
    atomic_write(path, text(table).to_csv(index=False, lineterminator="\n").encode())


def markdown(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """Lay a table out in Markdown.

    Parameters
    ----------
    table : DataFrame
        The table.
    columns : sequence of str, default=all
        Columns to show, in this order.

    Returns
    -------
    str
        Header, rule, one line a row.

    Examples
    --------
    >>> print(markdown(pd.DataFrame({"attack": ["fgsm"], "accuracy": [3.8125]})))
    | attack | accuracy |
    |---|---|
    | fgsm | 3.81 |
    """
    shown = text(table[list(columns or table.columns)])
    lines = [f"| {' | '.join(line)} |" for line in [list(shown), *shown.to_numpy().tolist()]]
    return "\n".join([lines[0], "|---" * shown.shape[1] + "|", *lines[1:]])


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Turn Table 1 into the report's shape: a line an attack, a column a defence.

    Parameters
    ----------
    table : DataFrame
        As made by ``table1``.

    Returns
    -------
    DataFrame of str
        Cells ``accuracy [low, high] (report: value)``; a dash where nothing was measured.
    """
    shown = text(table)
    cells = shown["accuracy"] + " [" + shown["ci_low"] + ", " + shown["ci_high"] + "]"
    reported = " (report: " + shown["report_value"] + ")"
    cells += reported.where(shown["report_value"] != "", "")
    return _wide(table.assign(cell=cells), "attack", "Accuracy, %")


def sanity_grid(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the table of ``rvlib check`` into a line a check, a column a defence.

    Parameters
    ----------
    table : DataFrame
        As in ``tables/sanity.csv``.

    Returns
    -------
    DataFrame of str
        Cells ``yes`` where the check passes, else ``NO``; a dash where it was not made.
    """
    passed = table["passed"].map({"yes": "yes", "no": "NO"})
    return _wide(table.assign(cell=passed), "check", "check")


def _wide(table: pd.DataFrame, line: str, title: str) -> pd.DataFrame:
    cells = table.set_index([line, "defence"])["cell"].unstack(fill_value="-")
    cells = cells.reindex(table[line].unique())[table["defence"].unique()]
    cells = cells.rename(index=TITLES, columns=TITLES).rename_axis(title).reset_index()
    return cells.rename_axis(columns=None)


def _rounded_down(radii: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Round radii so that none promises more than was certified."""
    printed = radii.round(digits)
    # The grid's own points are decimal fractions already; only the cap has more digits than these.
    return np.where(printed <= radii + 1e-12, printed, printed - 10.0**-digits)
