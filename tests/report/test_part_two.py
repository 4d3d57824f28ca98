"""rvlib.report.part_two: tables from rows and records of a few lines, and the shipped ones."""

import json

import numpy as np
import pandas as pd
import pytest

from rvlib.modern import MODERN, PROFILE, PUBLIC, SPLIT
from rvlib.report import part_two
from rvlib.report.tables import text
from rvlib.results import open_results, write_shard

SMOOTH = "resnet20-gaussian-0.50"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20-standard", (1, 1)),
        ("lenet-trades", (13, 12)),  # what PGD is to leave, ten steps, both images
        ("lenet-nuat", (4, 3)),  # the clean logits, one step, both images
    ],
)
def test_passes_of_a_step_known_by_heart(name, expected):
    assert part_two.passes(MODERN[name]) == expected


def test_nothing_is_there_yet(tmp_path):
    tables = {name: text(table) for name, table in part_two.all_tables(tmp_path).items()}
    assert set(tables["training"]["done"]) == {"0"}
    assert set(tables["accuracy"]["n"]) == {"0"}
    assert set(tables["certified"]["images"]) == {"0"}
    assert part_two.probabilities(tmp_path, SMOOTH) is None


def record(folder, name, **facts):
    path = part_two.weights_of(folder, name).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"sha256": "of now", "recipe": {}} | facts))


def predicted(predictions):
    return {"label": range(1, len(predictions) + 1), "prediction": predictions}


def write(folder, split, name, what, columns, **meta):
    record(folder, name)
    meta = {"weights": "of now"} | meta
    place = folder / "rows" / split / name / "seed-0" / what
    open_results(place, meta)
    write_shard(place, 0, columns, {})


def test_rows_of_weights_that_are_gone_are_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(type(PROFILE), "cells", lambda self: [("lenet-nuat", "natural", 2)])
    meta = {"attack": {"threat": "-"}, "weights": "of before"}
    write(tmp_path, "test", "lenet-nuat", "natural", predicted([1, 0, 0]), **meta)
    assert part_two.accuracy_table(tmp_path)["n"].tolist() == [0]
    assert part_two.measured(tmp_path) == []
    record(tmp_path, "lenet-nuat", sha256="of before")
    (line,) = text(part_two.accuracy_table(tmp_path)).to_dict("records")
    assert (line["n"], line["accuracy"]) == ("2", "50.00")  # of three, as two are asked for
    (place,) = part_two.measured(tmp_path)
    assert place.name == "natural"
    monkeypatch.setattr(type(PROFILE), "cells", lambda self: [("lenet-nuat", "natural", 4)])
    assert part_two.measured(tmp_path) == []  # not whole


@pytest.fixture
def certified(tmp_path, monkeypatch):
    """Three images: sure, of a wrong class, sure only in the small vote."""
    monkeypatch.setattr(
        part_two, "PROFILE", PROFILE.__class__("modern", certified=3, ns=(100, 10_000))
    )
    columns = {
        "label": [0, 1, 1],
        "selection": ["100 0", "100 0", "0 100"],
        "counts_100": ["100 0", "90 10", "0 100"],
        "counts_10000": ["10000 0", "0 0", "4000 6000"],
    }
    write(tmp_path, SPLIT, SMOOTH, "certificates", columns, sigma=0.5)
    return tmp_path


def test_certified_accuracies_known_by_heart(certified, monkeypatch):
    table = part_two.certified_table(certified).set_index(["defence", "radius"]).loc[SMOOTH]
    # 10,000 of 10,000 votes certify 0.5 Phi^-1(0.001^(1/10000)) = 1.6, 60 % certify 0.11.
    assert table["certified"].round(2).tolist() == [66.67, *[33.33] * 6]
    assert table["public"].tolist() == list(PUBLIC[SMOOTH].values())
    # Wilson's interval of 2 of 3 ends at 94 %, that of 1 of 3 at 79 %.
    assert set(table["reached"]) == {"yes"}
    assert PUBLIC[SMOOTH][0.0] <= table["ci_high"][0.0]
    monkeypatch.setitem(PUBLIC, SMOOTH, {0.0: 93.0, 0.25: 79.5})
    table = part_two.certified_table(certified).set_index("defence")
    assert table.loc[SMOOTH, "reached"].tolist() == ["yes", "no", *[""] * 5]
    assert table.loc["resnet20-consistency-0.50", "certified"].isna().all()


def test_the_share_of_votes_is_of_all_that_were_drawn(certified):
    share = part_two.probabilities(certified, SMOOTH)
    assert share is not None
    assert share.tolist() == [1.0, 0.1, 0.6]


def test_the_shipped_tables_are_those_of_the_shipped_rows():
    folder = part_two.shipped()
    for name, table in part_two.all_tables(folder).items():
        shipped = pd.read_csv(folder / "tables" / f"{name}.csv", dtype=str, keep_default_na=False)
        assert text(table).astype(str).equals(shipped), name


def test_the_average_has_a_history_of_its_own():
    name = "lenet-nuat"
    own, average = (
        part_two.histories(part_two.shipped(), name, averaged=averaged)["LeNet, NuAT"]
        for averaged in (False, True)
    )
    assert len(own) == len(average) == 30
    assert not np.isnan(own).any()
    assert np.isnan(average).nonzero()[0].tolist() == list(range(10))  # it begins after a third
    line = part_two.training_table(part_two.shipped()).set_index("defence").loc[name]
    assert max(own) == line["highest_last"]
    assert average[line["best_epoch"] - 1] == line["best"]
