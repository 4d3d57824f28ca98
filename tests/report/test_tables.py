"""rvlib.report.tables: hand-written rows give tables known by heart."""

import pytest

from rvlib.intervals import another_run
from rvlib.report import tables
from rvlib.report.reference import TITLES
from rvlib.report.tables import (
    grid,
    markdown,
    read_csv,
    sanity_grid,
    seeds_table,
    table1,
    write_csv,
)
from rvlib.rows import RowsError

PREDICTIONS = """\
# {"identity": {"attack": {"threat": "THREAT"}}, "provenance": {}}
index,label,prediction
"""
VOTES = """\
# {"identity": {"attack": {"threat": "linf 0.03"}}, "provenance": {}}
index,label,counts
0,0,99 1 0
1,1,5 95 0
2,2,0 0 100
3,0,0 0 100
4,0,55 45 0
5,1,40 60 0
"""  # right three times, wrong once, twice too close to call


def write_predictions(folder, where, right, count=6, threat="linf 0.03"):
    """Rows of which the first ones are right."""
    path = folder / f"{where}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{i},{i % 3},{i % 3 if i < right else 9}\n" for i in range(count)]
    path.write_text(PREDICTIONS.replace("THREAT", threat) + "".join(lines))


@pytest.fixture
def folder(tmp_path):
    for split in ("heldout", "test"):
        write_predictions(tmp_path, f"{split}/standard/seed-0/natural", 3, threat="-")
        write_predictions(tmp_path, f"{split}/standard/seed-0/fgsm", 6)
        write_predictions(tmp_path, f"{split}/standard/seed-0/pgd-l2", 0, threat="l2 0.5")
        path = tmp_path / split / "smoothed-0.25" / "seed-0" / "fgsm.csv"
        path.parent.mkdir(parents=True)
        path.write_text(VOTES)
    return tmp_path


CELLS = [
    ("standard", "natural"),
    ("standard", "fgsm"),
    ("standard", "pgd-l2"),
    ("smoothed-0.25", "fgsm"),
]
# The report says 58.2, 3.81, nothing, 38.1.
HELDOUT = """\
defence,attack,threat,n,correct,abstained,accuracy,ci_low,ci_high,report_value,answered_only,\
report_in_interval
standard,natural,-,6,3,0,50.00,18.76,81.24,58.20,,yes
standard,fgsm,linf 0.03,6,6,0,100.00,60.97,100.00,3.81,,no
standard,pgd-l2,l2 0.5,6,0,0,0.00,0.00,39.03,,,
smoothed-0.25,fgsm,linf 0.03,6,3,2,50.00,18.76,81.24,38.10,75.00,yes
"""


def test_table1_known_by_heart(folder, tmp_path):
    table = table1(folder, "heldout", CELLS, 6)
    path = tmp_path / "tables" / "table1.csv"
    write_csv(path, table)
    assert path.read_text() == HELDOUT
    assert read_csv(path) == table
    assert list(table[0]) == tables.TABLE1_COLUMNS


def test_on_test_images_there_is_no_report_to_compare_with(folder):
    for line in table1(folder, "test", CELLS, 6):
        assert (line["report_value"], line["report_in_interval"]) == ("", "")
        assert line["n"] == "6"


def test_the_first_images_of_more_are_taken(folder):
    (line,) = table1(folder, "heldout", CELLS[:1], 4)
    assert (line["n"], line["correct"], line["accuracy"]) == ("4", "3", "75.00")


def test_a_vote_that_never_answers_has_no_share_of_answers(folder):
    path = folder / "heldout" / "smoothed-0.25" / "seed-0" / "fgsm.csv"
    head = "".join(VOTES.splitlines(keepends=True)[:2])
    path.write_text(head + "0,0,50 50\n1,0,51 49\n")
    (line,) = table1(folder, "heldout", CELLS[3:], 2)
    assert (line["accuracy"], line["abstained"], line["answered_only"]) == ("0.00", "2", "")


@pytest.mark.parametrize("damage", ["missing", "short"])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_missing_or_short_rows_give_no_table(folder, cell, damage):
    path = folder / "heldout" / cell[0] / "seed-0" / f"{cell[1]}.csv"
    content = path.read_text()
    path.unlink()
    if damage == "short":
        path.write_text("".join(content.splitlines(keepends=True)[:-1]))
    expected = {"missing": f"{path} is missing", "short": f"{path} holds 5 of 6 rows"}
    with pytest.raises(RowsError) as caught:
        table1(folder, "heldout", CELLS, 6)
    assert str(caught.value).startswith(expected[damage])
    assert "\n" not in str(caught.value)


# --- training seeds ------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path):
    for seed, right in enumerate((2, 3, 4)):
        write_predictions(tmp_path, f"heldout/standard/seed-{seed}/fgsm", right)
    write_predictions(tmp_path, "heldout/pgd-l2-at/seed-0/fgsm", 6)
    return tmp_path


def test_seeds_known_by_heart(seeds):
    # 33.33, 50.00, 66.67 of which the mean is 50 and the deviation 100 / 6: so few seeds and
    # images leave everything open.
    first, second = seeds_table(seeds, {"standard": 3, "pgd-l2-at": 1}, ["fgsm"], 6)
    assert first == {
        "defence": "standard",
        "attack": "fgsm",
        "seeds": "3",
        "mean": "50.00",
        "std": "16.67",
        "min": "33.33",
        "max": "66.67",
        "low": "0.00",
        "high": "100.00",
        "report_value": "3.81",
        "report_in_range": "yes",
    }
    assert (second["std"], second["mean"], second["min"], second["max"]) == ("", *["100.00"] * 3)
    assert (second["report_value"], second["report_in_range"]) == ("", "")


# The report says 3.81: 0.2 +- 0.064 is above it, 0.05 +- 0.035 is not.
@pytest.mark.parametrize(("right", "verdict"), [((60, 60, 60), "no"), ((15, 15, 15), "yes")])
def test_the_range_is_that_of_another_run(tmp_path, right, verdict):
    for seed, count in enumerate(right):
        write_predictions(tmp_path, f"heldout/standard/seed-{seed}/fgsm", count, 300)
    (line,) = seeds_table(tmp_path, {"standard": 3}, ["fgsm"], 300)
    low, high = another_run([count / 300 for count in right], 300)
    assert (line["low"], line["high"]) == (f"{100 * low:.2f}", f"{100 * high:.2f}")
    assert line["report_in_range"] == verdict


def test_one_seed_has_no_range(seeds):
    (line,) = seeds_table(seeds, {"standard": 1}, ["fgsm"], 6)
    assert (line["low"], line["high"], line["report_in_range"]) == ("", "", "")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_missing_or_short_rows_of_a_seed_give_no_table(seeds, seed):
    where = f"heldout/standard/seed-{seed}/fgsm"
    (seeds / f"{where}.csv").unlink()
    with pytest.raises(RowsError, match="is missing"):
        seeds_table(seeds, {"standard": 3}, ["fgsm"], 6)
    write_predictions(seeds, where, 2, count=5)
    with pytest.raises(RowsError, match="holds 5 of 6 rows"):
        seeds_table(seeds, {"standard": 3}, ["fgsm"], 6)


def test_seeds_are_compared_on_the_same_images(seeds):
    write_predictions(seeds, "heldout/standard/seed-2/fgsm", 4, count=12)
    (line,) = seeds_table(seeds, {"standard": 3}, ["fgsm"], 6)
    assert line["max"] == "66.67"


# --- layouts -------------------------------------------------------------------------------------

TABLE = [
    {"attack": "fgsm", "n": "6", "accuracy": "50.00"},
    {"attack": "α", "n": "", "accuracy": ""},
]


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "| attack | n | accuracy |",
        "|---|---|---|",
        "| fgsm | 6 | 50.00 |",
        "| α |  |  |",
    ]


def test_markdown_of_some_columns_in_their_order():
    assert markdown(TABLE[:1], ["accuracy", "attack"]).splitlines() == [
        "| accuracy | attack |",
        "|---|---|",
        "| 50.00 | fgsm |",
    ]


def test_grid_has_a_line_an_attack_and_a_column_a_defence(folder):
    assert grid(table1(folder, "heldout", CELLS, 6)) == [
        {
            "Accuracy, %": "Natural",
            "Basic classifier": "50.00 [18.76, 81.24] (report: 58.20)",
            "Randomized smoothing": "-",
        },
        {
            "Accuracy, %": "FGSM",
            "Basic classifier": "100.00 [60.97, 100.00] (report: 3.81)",
            "Randomized smoothing": "50.00 [18.76, 81.24] (report: 38.10)",
        },
        {
            "Accuracy, %": "PGD l2",
            "Basic classifier": "0.00 [0.00, 39.03]",
            "Randomized smoothing": "-",
        },
    ]


def test_a_name_without_a_title_stands_for_itself(folder):
    table = table1(folder, "heldout", CELLS[:1], 6)
    (line,) = grid([table[0] | {"defence": "new-defence", "attack": "new-attack"}])
    assert line["Accuracy, %"] == "new-attack"
    assert "new-defence" in line


def test_the_checks_have_a_line_each_and_a_column_a_defence():
    def line(defence, check, passed):
        return {"defence": defence, "check": check, "passed": passed}

    found = sanity_grid(
        [
            line("standard", "more steps", "yes"),
            line("standard", "transfer", "no"),
            line("new-defence", "more steps", "no"),
        ]
    )
    assert [tuple(row.values()) for row in found] == [
        ("more steps", "yes", "NO"),
        ("transfer", "NO", "-"),
    ]
    assert list(found[0]) == ["check", TITLES["standard"], "new-defence"]
