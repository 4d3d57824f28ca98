"""The printed report, from a run's folder of a few hand-written lines."""

import json
import re

import pandas as pd
import pytest

from rvlib.experiments import REPORT_TABLE1
from rvlib.report.document import CLAIMS, build, gather, judge, linf_reach

NETWORKS = ["standard", "gaussian-0.25", "pgd-pixel-l2-at", "pgd-linf-at", "mixed-at"]
THREATS = {
    "natural": "-",
    "fgsm": "linf 0.03",
    "pgd-linf": "linf 0.03",
    "pgd-pixel-l2": "pixel-l2 0.045",
    "pgd-l2": "l2 0.5",
}
TABLE1 = (
    "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high,report_value,"
    "answered_only,report_in_interval"
)
CERTIFIED = "sigma,n,images,r=0,r=1,ACR,cap,false_expected\n0.25,100,16,61.37,18.75,0.158,0.37,0.02"
TABLES = {
    "seeds": "defence,attack,seeds,mean,std,min,max,low,high,report_value,report_in_range\n"
    "standard,natural,2,53.91,1.10,53.12,54.69,41.07,66.27,58.20,yes",
    "sigma": "sigma,attack,n,plain,plain_low,plain_high,vote,vote_low,vote_high,vote_abstained\n"
    + "\n".join(
        f"0.25,{a},16,50.00,28.00,72.00,56.25,33.18,76.90,18.75" for a in list(THREATS)[:4]
    ),
    "standard": "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high\n"
    + "\n".join(
        f"{d},{a},linf 8/255,64,1,0,{v},10.00,50.00"
        for d, v in (("standard", 30.0), ("mixed-at", 40.0))
        for a, v in (("natural", 2 * v), ("pgd-20-linf-8", v + 4), ("ensemble-linf-8", v / 2))
    ),
    "mcnemar": "attack,defence,other,only_first,only_second,p,p_holm\n"
    "ensemble-linf-8,standard,mixed-at,3,9,0.15,0.15\nensemble-linf-8,standard,gaussian-0.25,1,20,2.1e-05,4.2e-05",
    "certified": CERTIFIED,
    "jointly": CERTIFIED,
    "sanity": "defence,check,images,passed,finding\n"
    "standard,more steps,64,yes,fine\nmixed-at,8 bits,64,no,3 stand; expected: none",
    "inside": "sigma,certified_n,votes,images,attacked,share,stands,too_close,changed,"
    "false_expected,plausible\n0.25,100,100,16,9,0.99,7,2,0,0.02,1\n0.50,100,100,16,8,0.99,8,0,0,0.02,1",
    "figure1": "panel,sigma,n,radius,certified_accuracy,ci_low,ci_high\n"
    "a,0.25,100,0.0000,61.37,38.00,80.00\na,0.25,100,1.5000,18.75,6.59,43.01\n"
    "a,0.25,100,1.7000,12.50,3.50,36.02\nb,0.25,100,0.0000,61.37,38.00,80.00",
}
READINGS = (
    "reading,defence,attack,n,report_value,accuracy,ci_low,ci_high,seeds,mean,low,high,"
    "in_interval,in_range"
)
TRIED = (
    "column,sigma,answer,abstentions,noise,gradients,linf,pixel_l2,log_likelihood,"
    "natural,fgsm,pgd-linf,pgd-pixel-l2,worst,points,errors_off"
)
HOW = "{},left out,once,{},pgd-linf,pgd-pixel-l2"
TRIED_LINES = [
    "gaussian-0.25,0.20,one draw,-,once,plain,pgd-linf,pgd-pixel-l2"
    ",-11.5,53.9,26.6,25.4,26.2,natural,-8.2,-3.1",
    f"gaussian-0.25,0.25,{HOW.format('vote of 400', 'plain')},-8.25,63.6,27.2,25.3,26.1,fgsm,1,.5",
    f"gaussian-0.25,0.25,{HOW.format('vote of 100', 'plain')},-9.0,67.3,29.8,26,26.8,natural,5,2",
    f"smoothed-0.25,0.45,{HOW.format('vote of 400', 'noisy')},-7.5,58,40.6,41,41.3,fgsm,2.5,1.2",
]
ATTACK = {"steps": 10, "step_size": 0.02, "random_start": False, "restarts": 1, "sigma": None}
WEIGHTS = {
    **{"sha256": "96b622ad41091cd2831e", "epochs": 30},
    **{"commit": "61669a24b278", "device": "a CPU", "last": {"natural": 0.5634}},
}
RUN = {
    **{"profile": "smoke", "heldout": 64, "test": 0, "certified": 16, "ns": [100], "votes": 100},
    **{"n0": 100, "alpha": 0.001, "sigma": 0.25, "sigmas": [0.25], "seeds": {"standard": [0, 1]}},
    "defences": NETWORKS,
    "attacks": {name: {"name": name, "threat": t, **ATTACK} for name, t in THREATS.items()},
    "vote_attack": {"draws": 16, "steps": 20},
    "rows_from": {"61669a24b278": 3, "0000000abcde": 1},
    "rows_function": {"arithmetic": "float32", "device": "cpu", "attacked": 256, "voted": 64},
    "data": "82e0267fb55400d7",
    "weights": {"standard seed 0": WEIGHTS},
    **{"rvlib": "1.0.0", "commit": "61669a24b278", "torch": "2.15.0", "python": "3.11.7"},
    **{"device": "a CPU", "date": "2026-01-01T00:00:00+00:00"},
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"></svg>'


def line(defence, attack, threat):
    """Every cell is the same: 34 of 64, with 2 abstentions."""
    value = REPORT_TABLE1.get(defence, {}).get(attack)
    reported = "" if value is None else f"{value:.2f}"
    inside = "" if value is None else ("yes" if 41.07 <= value <= 64.82 else "no")
    answered = "54.84" if defence.startswith("smoothed") else ""
    return f"{defence},{attack},{threat},64,34,2,53.12,41.07,64.82,{reported},{answered},{inside}"


def lines():
    defences = [*NETWORKS, "smoothed-0.25"]
    cells = [line(d, a, t) for d in defences for a, t in THREATS.items()]
    return cells + [line("smoothed-0.25", f"vote-{a}", THREATS[a]) for a in list(THREATS)[2:]]


def reading(name, defence, attack):
    """Both readings of a cell are the same: 34 of 64."""
    value = REPORT_TABLE1[defence][attack]
    inside, in_range = (
        "yes" if low <= value <= high else "no" for low, high in ((41.07, 64.82), (30, 70))
    )
    return (
        f"{name},{defence},{attack},64,{value},53.12,41.07,64.82,2,53.12,30,70,{inside},{in_range}"
    )


def readings():
    return [
        reading(name, defence, attack)
        for name in ("likely", "proper")
        for defence in [*NETWORKS, "smoothed-0.25"]
        for attack in list(THREATS)[:4]
    ]


@pytest.fixture
def out(tmp_path):
    """Write a run's folder, of a few lines a table."""
    further = [line("pgd-l2-at", attack, threat) for attack, threat in THREATS.items()]
    bodies = {"table1": lines(), "further": further}
    tables = TABLES | {name: "\n".join([TABLE1, *body]) for name, body in bodies.items()}
    tables["readings"] = "\n".join([READINGS, *readings()])
    tables["hypotheses"] = "\n".join([TRIED, *TRIED_LINES])
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    for name, text in tables.items():
        (tmp_path / "tables" / f"{name}.csv").write_text(f"{text}\n")
    (tmp_path / "figures" / "figure1.svg").write_text(SVG)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_page_loads_nothing_and_both_files_are_the_same_bytes_again(out):
    pdf, html = build(out)
    first = pdf.read_bytes(), html.read_bytes()
    assert first[0].startswith(b"%PDF")
    build(out)
    assert (pdf.read_bytes(), html.read_bytes()) == first
    page = html.read_text()
    loads = re.findall(r'(?:src|srcset|data|poster)\s*=\s*"([^"]*)"', page)
    assert [address.partition(",")[0] for address in loads] == ["data:image/svg+xml;base64"]
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    assert re.search(r'<img [^>]*alt="Two panels', page)


def test_numbers_and_sentences_come_from_the_tables(out):
    page = build(out)[1].read_text()
    assert "6 of the 24 printed values lie inside" in page  # all natural ones
    assert re.search(r"2 of the 8 in the two columns fitted.*\s4 of the 16 others", page)
    assert "9 of 24 lie in the range" in page  # of 30 to 70: three more of smoothing
    assert "<td>61.37</td>" in page
    assert "This is a run of the smoke profile" in page
    assert "leaves the official test set out" in page
    change(out / "tables" / "certified.csv", "61.37", "61.38")
    change(out / "tables" / "readings.csv", "30,70,yes,yes", "30,70,no,yes")
    change(out / "run.json", '"profile": "smoke"', '"profile": "full"')
    page = build(out)[1].read_text()
    assert "5 of the 24 printed values lie inside" in page
    assert "σ = 0.25, vote of 400, abstentions left out" in page
    assert "<td>61.38</td>" in page
    assert "This is a run of the" not in page


def test_the_test_set_has_its_table_where_it_was_measured(out):
    change(out / "run.json", '"test": 0', '"test": 64')
    with pytest.raises(ValueError, match=r"table2\.csv is missing: make report writes it$"):
        build(out)
    text = (out / "tables" / "table1.csv").read_text().replace("53.12", "47.11")
    (out / "tables" / "table2.csv").write_text(text)
    page = build(out)[1].read_text()
    assert "47.11" in page
    assert "on 64 official test images" in page


@pytest.mark.parametrize("name", ["run.json", "tables/sigma.csv", "figures/figure1.svg"])
def test_a_missing_file_is_named_in_one_line(out, name):
    (out / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing: make report writes it$"):
        build(out)
    assert not (out / "report.pdf").exists()


def test_a_missing_line_and_a_wrong_source_are_one_line(out, tmp_path):
    source = tmp_path / "other.typ"
    source.write_text("#unknown")
    with pytest.raises(ValueError, match=r"other\.typ: unknown variable: unknown$"):
        build(out, source)
    path = out / "tables" / "readings.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:5]))
    with pytest.raises(
        ValueError, match=r"a table is incomplete .*: run make report again$"
    ) as error:
        build(out)
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
    ends = zip(CLAIMS[2].pairs, (first, second), strict=True)
    cells = {name: e for pair, both in ends for name, e in zip(pair, both, strict=True)}
    index = pd.MultiIndex.from_tuples(list(cells))
    table = pd.DataFrame(list(cells.values()), index=index, columns=["ci_low", "ci_high"])
    assert judge(CLAIMS[2], table)["verdict"] == verdict


def test_findings_known_by_heart(out):
    found = gather(out)["findings"]
    assert found["inside"] == {
        **{"attacked": "17", "stands": "15", "too_close": "2", "changed": "0"},
        **{"false_expected": "0.0", "percent": "99", "certified_n": "100", "votes": "100"},
    }
    assert (found["sanity"]["checks"], found["sanity"]["passed"]) == (2, 1)
    assert [row["check"] for row in found["sanity"]["failed"]] == ["8 bits"]
    # 62.16 lies in 28 to 72; 59.71, 38.1, 37.68 and 39.8 in 33.18 to 76.9.
    assert found["sigma"] == [{"sigma": "0.25", "plain": 1, "vote": 4}]
    standard = {"defence": "standard", "cells": 4, "inside": 1, "in_range": 1, "with_range": 4}
    assert found["columns"]["likely"][0] == found["columns"]["proper"][0] == standard
    noisy = found["tried"]["columns"]["gaussian-0.25"]
    assert [line["behind"] for line in noisy["lines"]] == ["0.00", "3.25"]  # one a way to answer
    assert (noisy["close"], noisy["lines"][0]["worst"]) == (2, "FGSM")
    assert noisy["off"] == "1.00 points (0.50 standard errors) above"
    behind = [(line["sigma"], line["behind"]) for line in noisy["sigmas"]]
    assert behind == [("0.20", "3.25"), ("0.25", "0.00")]
    assert found["tried"]["columns"]["smoothed-0.25"]["words"].endswith("attack through the noise")
    # 54.41 lies between 557 / 1024 = 54.39 % and 558 / 1024 = 54.49 %; 0.29 is 3 / 1024.
    assert found["multiples"] == {
        **dict.fromkeys(["standard", "standard-lr-0.001", "pgd-pixel-l2-at", "mixed-at"], 4),
        **{"gaussian-0.25": 2, "pgd-linf-at": 3, "smoothed-0.25": 0},
    }
    assert found["widest_table1"] == "11.9"
    images = {"images": "64", "others": "64"}
    assert found["vote"][0] == {"attack": "pgd-linf", "gain": "0.00"} | images
    assert found["stronger"] is None
    gap = {"points": "24.00", "defence": "mixed-at", "attack": "ensemble-linf-8"}
    assert found["gap"] == gap
    pair = {"pairs": 2, "apart": 1, "others": [["standard", "mixed-at"]]}
    assert found["mcnemar"] == [{"attack": "ensemble-linf-8", **pair}]


def test_the_stronger_attack_and_the_one_on_the_vote_are_compared_in_points(out):
    path = out / "tables" / "table1.csv"
    stronger = line("mixed-at", "pgd-linf-50x5", "linf 0.03").replace("53.12", "50.00")
    path.write_text(path.read_text() + stronger + "\n")
    change(path, "vote-pgd-l2,l2 0.5,64,34,2,53.12", "vote-pgd-l2,l2 0.5,64,36,2,56.25")
    found = gather(out)["findings"]
    assert found["stronger"] == "3.12"
    images = {"images": "64", "others": "64"}
    assert found["vote"][2] == {"attack": "pgd-l2", "gain": "−3.13"} | images


def test_the_scan_follows_its_table(out):
    change(out / "tables" / "sigma.csv", "28.00,72.00", "28.00,60.00")
    assert gather(out)["findings"]["sigma"] == [{"sigma": "0.25", "plain": 0, "vote": 4}]


def test_a_claim_is_judged_in_both_readings(out):
    path = out / "tables" / "readings.csv"
    before = gather(out)["findings"]["claims"][0]
    assert before["likely"]["verdict"] == before["proper"]["verdict"] == "not decided"
    for attack in list(THREATS)[1:4]:  # noise alone is now better than nothing, in one reading
        line = reading("likely", "gaussian-0.25", attack)
        change(path, line, line.replace("41.07,64.82", "70.00,80.00"))
    after = gather(out)["findings"]["claims"][0]
    assert (after["likely"]["verdict"], after["likely"]["agree"]) == ("holds", 3)
    assert after["proper"]["verdict"] == "not decided"
    assert "first holds, then not decided" in build(out)[1].read_text()


def test_certificates_are_compared_with_the_other_balls_by_their_l2_reach(out):
    curve = pd.read_csv(out / "tables" / "figure1.csv")[:3]
    # 0.03 * sqrt(3072) = 1.66 and 0.045 * sqrt(1024) = 1.44; at least what is certified there.
    assert linf_reach(RUN, curve) == {
        "pgd-linf": {"radius": "1.66", "certified": "18.75"},
        "pgd-pixel-l2": {"radius": "1.44", "certified": "61.37"},
    }
