"""The printed report, from a run's folder of a few hand-written lines."""

import json
import re

import pytest

from rvlib.report.document import CLAIMS, TABLES, build, find, gather, judge, linf_reach
from rvlib.report.reference import REPORT_TABLE1
from rvlib.report.tables import read_csv

NETWORKS = ["standard", "gaussian-0.25", "pgd-pixel-l2-at", "pgd-linf-at", "mixed-at"]
THREATS = {
    "natural": "-",
    "fgsm": "linf 0.03",
    "pgd-linf": "linf 0.03",
    "pgd-pixel-l2": "pixel-l2 0.045",
    "pgd-l2": "l2 0.5",
}
HEADS = {
    "table1": "defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high,report_value,"
    "answered_only,report_in_interval",
    "seeds": "defence,attack,seeds,mean,std,min,max,low,high,report_value,report_in_range",
    "sigma": "sigma,attack,n,plain,plain_low,plain_high,vote,vote_low,vote_high,vote_abstained",
    "certified": "sigma,n,images,r=0,r=1,ACR,cap,false_expected",
    "sanity": "defence,check,images,passed,finding",
    "inside": "sigma,certified_n,votes,images,attacked,share,stands,too_close,changed,"
    "false_expected,plausible",
    "figure1": "panel,sigma,n,radius,certified_accuracy,ci_low,ci_high",
}
SEEDS = ["standard,natural,2,53.91,1.10,53.12,54.69,41.07,66.27,58.20,yes"]
SIGMA = [
    f"0.25,{attack},16,50.00,28.00,72.00,56.25,33.18,76.90,18.75" for attack in list(THREATS)[:4]
]
SANITY = ["standard,more steps,64,yes,fine", "mixed-at,8 bits,64,no,3 stand; expected: none"]
CERTIFIED = ["0.25,100,16,61.37,18.75,0.158,0.37,0.02"]
INSIDE = ["0.25,100,100,16,9,0.99,7,2,0,0.02,1", "0.50,100,100,16,8,0.99,8,0,0,0.02,1"]
FIGURE1 = [
    "a,0.25,100,0.0000,61.37,38.00,80.00",
    "a,0.25,100,1.5000,18.75,6.59,43.01",
    "a,0.25,100,1.7000,12.50,3.50,36.02",
    "b,0.25,100,0.0000,61.37,38.00,80.00",
]
RUN = {
    "profile": "smoke",
    "heldout": 64,
    "test": 0,
    "certified": 16,
    "ns": [100],
    "votes": 100,
    "n0": 100,
    "alpha": 0.001,
    "sigma": 0.25,
    "sigmas": [0.25],
    "seeds": {"standard": 2},
    "defences": NETWORKS,
    "attacks": {
        name: {
            "name": name,
            "threat": threat,
            "steps": 10,
            "step_size": 0.02,
            "random_start": False,
            "restarts": 1,
            "sigma": None,
        }
        for name, threat in THREATS.items()
    },
    "vote_attack": {"draws": 16, "steps": 20},
    "rows_from": {"61669a24b278": 3, "0000000abcde": 1},
    "rows_function": {"arithmetic": "float32", "device": "cpu", "attacked": 256, "voted": 64},
    "data": "82e0267fb55400d7",
    "weights": {
        "standard seed 0": {
            "sha256": "96b622ad41091cd2831e",
            "epochs": 30,
            "seconds": 311.2,
            "commit": "61669a24b278",
            "device": "a CPU",
            "last": {"natural": 0.5634},
        }
    },
    "rvlib": "0.1.0",
    "commit": "61669a24b278",
    "torch": "2.15.0",
    "python": "3.11.7",
    "device": "a CPU",
    "date": "2026-01-01T00:00:00+00:00",
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"></svg>'


def line(defence, attack, threat):
    value = REPORT_TABLE1.get(defence, {}).get(attack)
    reported = "" if value is None else f"{value:.2f}"
    inside = "" if value is None else ("yes" if 41.07 <= value <= 64.82 else "no")
    answered = "54.84" if defence.startswith("smoothed") else ""
    row = f"{defence},{attack},{threat},64,34,2,53.12,41.07,64.82,{reported},{answered},{inside}"
    return row


def lines():
    """Every cell the same: 34 of 64, with 2 abstentions."""
    networks = [line(d, a, t) for d in NETWORKS for a, t in THREATS.items()]
    smoothed = [line("smoothed-0.25", a, t) for a, t in THREATS.items()]
    vote = [line("smoothed-0.25", f"vote-{a}", t) for a, t in list(THREATS.items())[2:]]
    return networks + smoothed + vote


@pytest.fixture
def out(tmp_path):
    """Write a run's folder as ``write_tables`` does, of a few lines a table."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    further = [line("pgd-l2-at", attack, threat) for attack, threat in THREATS.items()]
    bodies = {"table1": lines(), "further": further, "seeds": SEEDS, "sigma": SIGMA}
    bodies |= {
        "certified": CERTIFIED,
        "jointly": CERTIFIED,
        "sanity": SANITY,
        "inside": INSIDE,
        "figure1": FIGURE1,
    }
    for name, body in bodies.items():
        text = (
            "\n".join([HEADS.get({"jointly": "certified"}.get(name, name), HEADS["table1"]), *body])
            + "\n"
        )
        (tmp_path / "tables" / f"{name}.csv").write_text(text)
    (tmp_path / "figures" / "figure1.svg").write_text(SVG)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_writes_a_pdf_and_a_page_that_are_the_same_bytes_again(out):
    pdf, html = build(out)
    assert (pdf.name, html.name) == ("report.pdf", "report.html")
    first = pdf.read_bytes(), html.read_bytes()
    assert first[0].startswith(b"%PDF")
    build(out)
    assert (pdf.read_bytes(), html.read_bytes()) == first


def test_the_page_loads_nothing(out):
    page = build(out)[1].read_text()
    loads = re.findall(r'(?:src|srcset|data|poster)\s*=\s*"([^"]*)"', page)
    assert len(loads) == 1
    assert loads[0].startswith("data:image/svg+xml;base64,")
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    assert re.search(r'<img [^>]*alt="Two panels', page)


def test_numbers_come_from_the_tables(out):
    page = build(out)[1].read_text()
    assert "6 of the 24 printed values lie inside" in page  # all natural ones
    assert "<td>61.37</td>" in page
    assert "61.38" not in page
    change(out / "tables" / "certified.csv", "61.37", "61.38")
    assert "<td>61.38</td>" in build(out)[1].read_text()


def test_the_summary_counts_what_the_table_says(out):
    change(out / "tables" / "table1.csv", "58.20,,yes", "58.20,,no")
    page = build(out)[1].read_text()
    assert "5 of the 24 printed values lie inside" in page
    assert "Basic classifier 0 of 4" in page


def test_a_short_profile_says_so_and_the_full_one_does_not(out):
    page = build(out)[1].read_text()
    assert "This is a run of the smoke profile" in page
    assert "leaves the official test set out" in page
    change(out / "run.json", '"profile": "smoke"', '"profile": "full"')
    assert "This is a run of the" not in build(out)[1].read_text()


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
    with pytest.raises(ValueError, match=rf"{name} is missing: make report writes it$") as error:
        build(out)
    assert "\n" not in str(error.value)
    assert not (out / "report.pdf").exists()


def test_a_missing_line_and_a_wrong_source_are_told_in_one_line(out, tmp_path):
    source = tmp_path / "other.typ"
    source.write_text("#unknown")
    with pytest.raises(ValueError, match=r"other\.typ: unknown variable: unknown$"):
        build(out, source)
    with pytest.raises(ValueError, match=r"none\.typ is missing: run from a checkout"):
        build(out, tmp_path / "none.typ")
    path = out / "tables" / "table1.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:5]))
    with pytest.raises(ValueError, match=r"make report writes them anew$") as error:
        build(out)
    assert "\n" not in str(error.value)


def cell(low, high):
    return {"ci_low": str(low), "ci_high": str(high)}


@pytest.mark.parametrize(
    ("trained", "other", "verdict"),
    [
        (cell(30, 40), cell(10, 20), "holds"),
        (cell(10, 20), cell(30, 40), "the reverse holds"),
        (cell(10, 30), cell(30, 40), "not decided"),
    ],
)
def test_a_claim_holds_only_where_the_intervals_lie_apart(trained, other, verdict):
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for high, low in CLAIMS[2].pairs:
        cells |= {high: trained, low: other}
    assert judge(CLAIMS[2], cells)["verdict"] == verdict


def test_a_claim_can_hold_and_fail_in_part():
    (a, b), (c, d) = CLAIMS[2].pairs
    high, low, wide = cell(30, 40), cell(10, 20), cell(0, 100)
    assert judge(CLAIMS[2], {a: high, b: low, c: wide, d: wide})["verdict"] == "holds in part"
    assert judge(CLAIMS[2], {a: low, b: high, c: wide, d: wide})["verdict"] == "fails in part"
    both = judge(CLAIMS[2], {a: high, b: low, c: low, d: high})
    assert (both["agree"], both["against"]) == (1, 1)
    assert both["verdict"] == "holds in part, fails in part"


def test_attacks_inside_the_balls_are_added_up(out):
    found = gather(out)["findings"]["inside"]
    assert found == {
        "attacked": "17",
        "stands": "15",
        "too_close": "2",
        "changed": "0",
        "false_expected": "0.0",
        "percent": "99",
        "certified_n": "100",
        "votes": "100",
    }


def test_checks_that_fail_are_named(out):
    assert gather(out)["findings"]["sanity"] == {
        "checks": 2,
        "passed": 1,
        "images": "64",
        "failed": [dict(zip(HEADS["sanity"].split(","), SANITY[1].split(","), strict=True))],
    }


def test_certificates_are_compared_with_the_other_balls_by_their_l2_reach():
    curve = [dict(zip(HEADS["figure1"].split(","), row.split(","), strict=True)) for row in FIGURE1]
    reach = linf_reach(RUN, curve[:3])
    # 0.03 * sqrt(3072) = 1.66 and 0.045 * sqrt(1024) = 1.44; at least what is certified there.
    assert reach["pgd-linf"] == {"radius": "1.66", "certified": "18.75"}
    assert reach["pgd-pixel-l2"] == {"radius": "1.44", "certified": "61.37"}


def test_answered_only_and_the_scan_are_held_against_the_report(out):
    tables = {name: read_csv(out / "tables" / f"{name}.csv") for name in TABLES}
    found = find(RUN, tables)
    # 34 of 62 answered: Wilson's interval 42.5 to 66.6 holds 59.71, none of the attacked values.
    assert [a["inside"] for a in found["answered"]] == [True, False, False, False]
    # 62.16 lies in 28 to 72; 59.71, 38.1, 37.68 and 39.8 in 33.18 to 76.9.
    assert found["sigma"] == [{"sigma": "0.25", "plain": 1, "vote": 4}]
    assert found["widest_table1"] == "11.9"
    assert found["vote"][0] == {"attack": "pgd-linf", "gain": "0.00"}
    assert found["stronger"] is None
