"""rvlib.report.tables and figures: hand-written results give tables known by heart."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from rvlib import experiments as ex
from rvlib.experiments import ALPHA, SIGMA, SIGMAS, TITLES
from rvlib.pipeline import Accuracy
from rvlib.report import tables
from rvlib.results import Results

NS = (100, 1000)
CERTIFICATES = [
    (0, "100 0", "100 0", "1000 0"),  # right, all votes agree: certified up to the cap
    (1, "10 90", "10 90", "100 900"),  # right
    (1, "80 20", "90 10", ""),  # selected wrongly: not sampled any further
    (1, "45 55", "50 50", "500 500"),  # selected rightly, too close to call
]
ATTACKS = ("natural", "fgsm", "pgd-linf", "pgd-pixel-l2")


def results(columns, rows, **meta):
    frame = pd.DataFrame(rows, columns=columns.split(","))
    return Results({"sigma": SIGMA, **meta}, [], frame)


def votes(sigma=SIGMA, rows=CERTIFICATES):
    return results("label,selection,counts_100,counts_1000", rows, sigma=sigma)


def fake_run(cells=(), inside=()) -> Any:
    """Make a run of a few cells: (defence, attack, seed) -> n (or the count), right, abstained."""

    def accuracy(defence, attack, *, seed=0, split="heldout", count=None):
        n, correct, abstained = dict(cells)[defence, attack, seed]
        return Accuracy(count or n, correct, abstained, "-" if attack == "natural" else "ball")

    seeds = {"standard": (0, 1, 2), "pgd-l2-at": (0,)}
    meta = {"ns": [100, 10_000], "n": 1000, "alpha": 0.001, "share": 0.99}
    return SimpleNamespace(
        accuracy=accuracy,
        profile=SimpleNamespace(certified=len(CERTIFICATES), ns=NS, seeds=seeds),
        certificates=votes,
        inside=lambda sigma: results("label,certified,counts", inside, **meta),
    )


def test_table1_known_by_heart(tmp_path):
    cells = {
        ("standard", "natural"): (6, 3, 0),
        ("standard", "fgsm"): (6, 6, 0),
        ("standard", "pgd-l2"): (6, 0, 0),
        ("smoothed-0.25", "fgsm"): (6, 3, 2),
        ("smoothed-0.25", "pgd-l2"): (2, 0, 2),  # never answers
    }
    run = fake_run({(*cell, 0): found for cell, found in cells.items()})
    # The report says 58.2, 3.81, nothing, 38.1, nothing.
    tables.write_csv(tmp_path / "tables" / "table1.csv", tables.table1(run, cells))
    assert (tmp_path / "tables" / "table1.csv").read_text() == (
        "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high,report_value,"
        "answered_only,report_in_interval\n"
        "standard,natural,-,6,3,0,50.00,18.76,81.24,58.20,,yes\n"
        "standard,fgsm,ball,6,6,0,100.00,60.97,100.00,3.81,,no\n"
        "standard,pgd-l2,ball,6,0,0,0.00,0.00,39.03,,,\n"
        "smoothed-0.25,fgsm,ball,6,3,2,50.00,18.76,81.24,38.10,75.00,yes\n"
        "smoothed-0.25,pgd-l2,ball,2,0,2,0.00,0.00,65.76,,,\n"
    )


class Answered:
    """A run on test images whose networks answer 1 or 0 where the label is 1."""

    def __init__(self, right, n):
        self.right, self.n, self.profile = right, n, SimpleNamespace(standard=n)

    def answers(self, defence, attack, *, split, count):
        assert (split, count) == ("test", self.n)
        prediction = [int(i in self.right[defence, attack]) for i in range(self.n)]
        return results("label,prediction", [(1, p) for p in prediction])


def test_networks_are_compared_in_pairs_on_the_same_images(monkeypatch):
    cells = [(name, a) for name in ("a", "b", "c") for a in ex.STANDARD_ATTACKS]
    monkeypatch.setattr(ex, "standard_cells", lambda: cells)
    right = {cell: range(10) for cell in cells}
    right["b", "ensemble-linf-8"] = range(9, 19)  # 9 and 9 are right alone
    right["c", "ensemble-linf-8"] = range(2, 18)  # against a: 2 and 8; against b: 7 and 1
    run: Any = Answered(right, 20)
    table = tables.mcnemar_table(run)
    assert table["attack"].unique().tolist() == ["ensemble-linf-8", "ensemble-l2"]
    first = table[table["attack"] == "ensemble-linf-8"].set_index(["defence", "other"])
    assert first[["only_first", "only_second"]].to_numpy().tolist() == [[9, 9], [2, 8], [1, 7]]
    # Twice the tail of a fair coin: 56 of 1024 and 9 of 256.
    assert first["p"].tolist() == pytest.approx([1, 112 / 1024, 18 / 256])
    # Of six lines the smallest counts six times, the next five times.
    assert first["p_holm"].tolist() == pytest.approx([1, 5 * 112 / 1024, 6 * 18 / 256])
    assert set(table[table["attack"] == "ensemble-l2"]["p_holm"]) == {1.0}


def test_the_standard_protocol_takes_the_images_of_the_profile(monkeypatch):
    monkeypatch.setattr(ex, "standard_cells", lambda: [("standard", "fgsm")])
    run = fake_run({("standard", "fgsm", 0): (6, 3, 0)})
    run.profile.standard = 4
    assert tables.standard_table(run)["accuracy"].tolist() == [75.0]


def test_seeds_known_by_heart():
    cells = {("standard", a, s): (6, 2 + s, 0) for s in range(3) for a in ATTACKS}
    cells |= {("pgd-l2-at", a, 0): (6, 6, 0) for a in ATTACKS}
    table = tables.text(tables.seeds_table(fake_run(cells)))
    assert table["attack"].tolist() == [*ATTACKS, *ATTACKS]
    # 33.33, 50.00, 66.67: so few seeds and images leave everything open.
    assert ",".join(table.iloc[1]) == (
        "standard,fgsm,3,50.00,16.67,33.33,66.67,0.00,100.00,3.81,yes"
    )
    assert ",".join(table.iloc[5]) == "pgd-l2-at,fgsm,1,100.00,,100.00,100.00,,,,"


def test_the_scan_compares_each_network_with_its_vote():
    cells = {(f"gaussian-{s:.2f}", a, 0): (8, 2, 0) for s in SIGMAS for a in ATTACKS}
    cells |= {(f"smoothed-{s:.2f}", a, 0): (8, 3, 1) for s in SIGMAS for a in ATTACKS}
    table = tables.text(tables.sigma_table(fake_run(cells)))
    assert len(table) == len(SIGMAS) * len(ATTACKS)
    assert ",".join(table.iloc[0]) == "0.12,natural,4,50.00,15.00,85.00,75.00,30.06,95.44,25.00"


# --- certificates --------------------------------------------------------------------------------


def radius(k, n, alpha=ALPHA, sigma=SIGMA):
    """The certified radius by SciPy's own Clopper-Pearson bound."""
    low = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    return max(0.0, sigma * norm.ppf(low))


@pytest.mark.parametrize("n", NS)
def test_radii_of_known_votes(n):
    assert tables.radii(votes(), n).tolist() == pytest.approx(
        [radius(n, n), radius(n * 9 // 10, n), -1, -1]
    )
    assert tables.radii(votes(), n, alpha=0.1)[0] > tables.radii(votes(), n)[0]
    assert tables.radii(votes(rows=CERTIFICATES[2:3]), n).tolist() == [-1]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", NS)
def test_a_curve_known_by_heart(sigma, n):
    table = tables.text(tables.curve("a", votes(sigma), n))
    assert ",".join(table.iloc[0]) == f"a,{sigma:.2f},{n},0.0000,50.00,15.00,85.00"
    at, shares = table["radius"].astype(float), table["certified_accuracy"].astype(float)
    near, far = radius(n * 9 // 10, n, sigma=sigma), radius(n, n, sigma=sigma)
    assert set(shares[at < near - 1e-3]) == {50.0}
    assert set(shares[(at > near) & (at < far)]) == {25.0}
    # The last but one is the cap, which all votes together reach, rounded down; then comes nothing.
    assert 0 <= far - at.iloc[-2] < 1e-4
    assert far < at.iloc[-1]
    assert shares.tolist()[-2:] == [25.0, 0.0]
    assert table["radius"].tolist()[:-2] == [f"{i / 100:.4f}" for i in range(len(table) - 2)]


def test_certified_tables_known_by_heart():
    table = tables.text(tables.certified_table(fake_run()))
    assert table["sigma"].tolist() == [f"{sigma:.2f}" for sigma in SIGMAS for _ in NS]
    assert dict(table.iloc[3]) == {
        "sigma": "0.25",
        "n": "1000",
        "images": "4",
        **{"r=0": "50.00", "r=0.25": "50.00", "r=0.5": "25.00", "r=0.75": "0.00"},
        **{"r=1": "0.00", "r=1.5": "0.00", "r=2": "0.00"},
        "ACR": "0.223",  # 0.2236, rounded down
        "cap": "0.61",
        "false_expected": "0.004",
    }
    jointly = tables.text(tables.certified_table(fake_run(), jointly=True)).iloc[3]
    mean = sum(radius(k, 1000, ALPHA / 4) for k in (900, 1000)) / 4
    assert (jointly["ACR"], jointly["false_expected"]) == (f"{mean - 0.0005:.3f}", f"{ALPHA:g}")
    assert float(jointly["cap"]) <= radius(1000, 1000, ALPHA / 4) < radius(1000, 1000)


def test_what_became_of_attacked_balls_is_counted():
    rows = [(0, 0, "900 100"), (0, 0, "510 490"), (1, 0, "100 900"), (1, -1, "")]
    table = tables.inside_table(fake_run(inside=rows))
    assert table["false_expected"].iloc[0] == pytest.approx(3 * 2 * 0.001)
    line = tables.text(table).iloc[0]
    assert ",".join(line) == "0.25,10000,1000,4,3,0.99,1,1,1,0.01,1"
    line = tables.text(tables.inside_table(fake_run(inside=rows[3:]))).iloc[0]  # nothing certified
    assert ",".join(line) == "0.25,10000,1000,1,0,0.99,0,0,0,0.00,0"


# --- layouts -------------------------------------------------------------------------------------


def test_a_missing_value_is_printed_as_nothing():
    columns = {"k": pd.array([3, pd.NA], dtype="Int64"), "x": [1.0, np.nan], "s": ["a", None]}
    printed = tables.text(pd.DataFrame(columns))
    assert printed.to_numpy().tolist() == [["3", "1.00", "a"], ["", "", ""]]


def test_markdown_of_some_columns_in_their_order():
    table = pd.DataFrame({"attack": ["α"], "n": [6], "accuracy": [0.125], "high": [np.nan]})
    assert tables.markdown(table, ["accuracy", "attack", "n", "high"]).splitlines() == [
        "| accuracy | attack | n | high |",
        "|---|---|---|---|",
        "| 0.12 | α | 6 |  |",
    ]


def test_the_checks_have_a_line_each_and_a_column_a_defence():
    rows = [
        ("standard", "more steps", "yes"),
        ("standard", "transfer", "no"),
        ("new-defence", "more steps", "no"),
    ]
    found = tables.sanity_grid(pd.DataFrame(rows, columns=["defence", "check", "passed"]))
    assert list(found) == ["check", TITLES["standard"], "new-defence"]
    assert found.to_numpy().tolist() == [["more steps", "yes", "NO"], ["transfer", "NO", "-"]]
