"""The printed report, from the shipped run and from changes of it; findings of a few lines."""

import json
import re
import shutil

import pandas as pd
import pytest

from rvlib.pipeline import repository
from rvlib.report import document as doc

SHIPPED = repository() / "report"


@pytest.fixture
def out(tmp_path):
    """Copy what the report is made of, to change it."""
    for name in ("tables", "figures"):
        shutil.copytree(SHIPPED / name, tmp_path / name)
    shutil.copy(SHIPPED / "run.json", tmp_path)
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_printed_report_of_the_shipped_tables_is_the_shipped_one(out):
    for path in doc.build(out):
        assert path.read_bytes() == (SHIPPED / path.name).read_bytes()


def test_the_page_loads_nothing():
    page = (SHIPPED / "report.html").read_text()
    loads = re.findall(r'(?:src|srcset|data|poster)\s*=\s*"([^"]*)"', page)
    assert [address.partition(",")[0] for address in loads] == ["data:image/svg+xml;base64"]
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    assert re.search(r'<img [^>]*alt="Two panels', page)


def test_numbers_and_sentences_come_from_the_tables(out):
    assert "20 of the 24 printed values lie inside" in (SHIPPED / "report.html").read_text()
    readings, table1 = out / "tables" / "readings.csv", out / "tables" / "table1.csv"
    change(readings, "51.02,61.25,yes,yes", "51.02,61.25,no,no")
    for attack in ("fgsm", "pgd-linf", "pgd-pixel-l2"):  # noise alone is now no better than nothing
        text = readings.read_text()
        (line,) = re.findall(rf"^likely,gaussian-0\.25,{attack},.*$", text, flags=re.M)
        low, high = line.split(",")[6:8]
        change(readings, line, line.replace(f",{low},{high},", f",0.00,{high},"))
    change(out / "tables" / "certified.csv", "0.18,1.02", "0.18,1.03")
    table1.write_text(re.sub(".*pgd-linf-50x5.*\n", "", table1.read_text()))
    run = json.loads((out / "run.json").read_text()) | {"profile": "smoke", "test": 0}
    (out / "run.json").write_text(json.dumps(run))
    page = doc.build(out)[1].read_text()
    assert "19 of the 24 printed values lie inside" in page
    assert re.search(r"7 of the 8 in the two columns fitted.*\s12 of the 16 others", page)
    assert "23 of 24 lie in the range" in page
    assert "first not decided, then holds" in page
    assert "1.03 false certificates" in page
    assert "This is a run of the smoke profile" in page
    assert "leaves the official test set out" in page
    assert "leaves out the attack with 50 steps" in page


@pytest.mark.parametrize(
    "name", ["run.json", "tables/sigma.csv", "tables/table2.csv", "figures/figure1.svg"]
)
def test_a_missing_file_is_named_in_one_line(out, name):
    (out / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing: make report writes it$"):
        doc.build(out)
    assert not (out / "report.pdf").exists()


def test_a_missing_line_and_a_wrong_source_are_one_line(out, tmp_path):
    source = tmp_path / "other.typ"
    source.write_text("#unknown")
    with pytest.raises(ValueError, match=r"other\.typ: unknown variable: unknown$"):
        doc.build(out, source)
    path = out / "tables" / "readings.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:5]))
    with pytest.raises(
        ValueError, match=r"a table is incomplete .*: run make report again$"
    ) as error:
        doc.build(out)
    assert "\n" not in str(error.value)


HIGH, LOW, WIDE = (30, 40), (10, 20), (0, 100)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((HIGH, LOW), (HIGH, LOW), "holds"),
        ((LOW, HIGH), (LOW, HIGH), "the reverse holds"),
        (((30, 40), (20, 35)), (WIDE, WIDE), "not decided"),
        ((HIGH, LOW), (WIDE, WIDE), "holds in part"),
        ((LOW, HIGH), (WIDE, WIDE), "fails in part"),
        ((HIGH, LOW), (LOW, HIGH), "holds in part, fails in part"),
    ],
)
def test_a_claim_holds_only_where_the_intervals_lie_apart(first, second, verdict):
    ends = zip(doc.CLAIMS[2].pairs, (first, second), strict=True)
    cells = {name: e for pair, both in ends for name, e in zip(pair, both, strict=True)}
    index = pd.MultiIndex.from_tuples(list(cells))
    table = pd.DataFrame(list(cells.values()), index=index, columns=["ci_low", "ci_high"])
    assert doc.judge(doc.CLAIMS[2], table)["verdict"] == verdict


def test_counts_known_by_heart():
    # 54.41 lies between 557 / 1024 = 54.39 % and 558 / 1024 = 54.49 %; 0.29 is 3 / 1024.
    assert doc.multiples(1024) == {
        **dict.fromkeys(["standard", "standard-lr-0.001", "pgd-pixel-l2-at", "mixed-at"], 4),
        **{"gaussian-0.25": 2, "pgd-linf-at": 3, "smoothed-0.25": 0},
    }
    sigma = pd.DataFrame({"sigma": 0.25, "attack": ["natural", "fgsm"]})
    sigma = sigma.assign(plain_low=28, plain_high=72, vote_low=39, vote_high=76)
    # The report says 62.16 and 26.17 of the network, 59.71 and 38.1 of the vote.
    assert doc.inside_by_sigma(sigma) == [{"sigma": "0.25", "plain": 1, "vote": 1}]
    pairs = pd.DataFrame({"attack": "a", "defence": list("bbc"), "other": list("cdd")})
    told = [{"attack": "a", "pairs": 3, "apart": 2, "others": [["b", "d"]]}]
    assert doc.told_apart(pairs.assign(p_holm=[0.04, 0.05, 0.049])) == told


def test_points_of_accuracy_known_by_heart():
    accuracy = {"natural": 60, "pgd-20-linf-8": 44, "ensemble-linf-8": 20.5}
    rows = [("a", attack, value) for attack, value in accuracy.items()]
    rows += [("b", attack, value / 2) for attack, value in accuracy.items()]
    table = pd.DataFrame(rows, columns=["defence", "attack", "accuracy"])
    gap = {"points": "23.50", "defence": "a", "attack": "ensemble-linf-8"}
    assert doc.ensemble_gap(table) == gap
    balls = ("pgd-linf", "pgd-pixel-l2", "pgd-l2")
    cells = {(doc.SMOOTHED, ball): (50.0, 64) for ball in balls}
    cells |= {(doc.SMOOTHED, f"vote-{ball}"): (40 + 6 * i, 16) for i, ball in enumerate(balls)}
    cells |= {("mixed-at", "pgd-linf"): (50, 64), ("mixed-at", "pgd-linf-50x5"): (46.875, 64)}
    frame = pd.DataFrame(cells, index=["accuracy", "n"], dtype=float).T
    gains = [(g["gain"], g["images"], g["others"]) for g in doc.vote_attack_gain(frame)]
    assert gains == [("10.00", "16", "64"), ("4.00", "16", "64"), ("−2.00", "16", "64")]
    assert doc.stronger_attack(frame, ["mixed-at"]) == "3.12"


def test_certificates_are_compared_with_the_other_balls_by_their_l2_reach():
    rows = [(0.0, 61.37), (1.5, 18.75), (1.7, 12.5)]
    curve = pd.DataFrame(rows, columns=["radius", "certified_accuracy"]).assign(sigma=0.25, n=100)
    run = json.loads((SHIPPED / "run.json").read_text())
    # 0.03 * sqrt(3072) = 1.66 and 0.045 * sqrt(1024) = 1.44; at least what is certified there.
    assert doc.linf_reach(run, curve) == {
        "pgd-linf": {"radius": "1.66", "certified": "18.75"},
        "pgd-pixel-l2": {"radius": "1.44", "certified": "61.37"},
    }
