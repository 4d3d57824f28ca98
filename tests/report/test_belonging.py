"""rvlib.report.belonging: rows of other weights, data, noise or seed never reach a table."""

import json

import pytest
import torch

from rvlib.data import CIFAR10_DIGEST
from rvlib.models.weights import WeightsError
from rvlib.profiles import Profile
from rvlib.recipes import (
    REPORT_ATTACKS,
    SIGMA,
    SIGMAS,
    find_recipe,
    gaussian_name,
    smoothed_name,
)
from rvlib.report import build, curves, tables
from rvlib.report.belonging import check_belonging, row_commits
from rvlib.report.build import write_tables
from rvlib.report.digests import write_sums
from rvlib.rows import RowsError, rows_path
from rvlib.stages.measure import Place
from rvlib.stages.measurements import NOISE, Measurement, identity, measurements
from rvlib.stages.run import Run
from rvlib.stages.train import weights_path

TINY = Profile(
    "tiny",
    trains=False,
    heldout=2,
    test=2,
    attacks=REPORT_ATTACKS,
    votes=100,
    certified=2,
    ns=(100, 1000),
    seeds={"standard": 2},
)
COLUMNS = {
    "prediction": ["0,0,0", "1,1,0"],
    "counts": ["0,0,99 1", "1,1,95 5"],
    "certified,radius,counts": ["0,0,0,0.5,100 0", "1,1,,,"],
    "selection,counts_100,counts_1000": ["0,0,100 0,99 1,990 10", "1,1,10 90,5 95,50 950"],
}


def columns_of(defence, what):
    if what == "certificates":
        return "selection,counts_100,counts_1000"
    if what == "inside":
        return "certified,radius,counts"
    return "counts" if defence in NOISE else "prediction"


def model_of(defence):
    return gaussian_name(NOISE[defence]) if defence in NOISE else defence


def digest_of(model, seed):
    return f"{model} {seed}".encode().hex().ljust(64, "0")


def write_rows(run, split, defence, seed, what, *, changes=None, known=True):
    """Write rows as a run does, but for some changes of what their head says."""
    told = identity(run.profile, Measurement(split, defence, seed, what)) if known else {}
    told |= {
        "weights": digest_of(model_of(defence), seed),
        "data": CIFAR10_DIGEST,
        "split": split,
        "unit": 64,
        "seed": 0,
    }
    path = rows_path(run.place.rows, split, defence, seed, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = columns_of(defence, what)
    head = "# " + json.dumps({"identity": told | (changes or {}), "provenance": {"commit": "abc"}})
    path.write_text("\n".join([head, f"index,label,{columns}", *COLUMNS[columns], ""]))
    return path


def write_record(run, model, seed, **changes):
    path = weights_path(run.place.models, model, seed).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"sha256": digest_of(model, seed), "recipe": find_recipe(model).record()}
    path.write_text(json.dumps(record | changes))


@pytest.fixture
def run(tmp_path):
    run = Run(TINY, Place(tmp_path / "models", tmp_path / "rows", torch.device("cpu")), tmp_path)
    for split, defence, seed, what in measurements(run):
        write_rows(run, split, defence, seed, what)
        write_record(run, model_of(defence), seed)
    return run


def refusal(run, error=RowsError):
    with pytest.raises(error) as caught:
        write_tables(run)
    assert "\n" not in str(caught.value)
    assert not (run.out / "tables").exists()
    assert not (run.out / "run.json").exists()
    return str(caught.value)


def test_rows_that_belong_together_make_their_tables(run):
    check_belonging(run)
    assert write_tables(run)["table1"]


PLACES = [
    ("heldout", "standard", 0, "fgsm"),
    ("heldout", "standard", 1, "natural"),
    ("test", "mixed-at", 0, "pgd-linf"),
    ("heldout", "pgd-l2-at", 0, "fgsm"),
    ("heldout", smoothed_name(SIGMA), 0, "vote-pgd-l2"),
    ("heldout", smoothed_name(SIGMAS[-1]), 0, "certificates"),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", "f" * 64),
        ("data", "0" * 16),
        ("model", "gaussian-0.99"),
        ("training_seed", 7),
        ("split", "elsewhere"),
        ("seed", 3),
    ],
)
def test_rows_of_another_run_are_refused_by_name(run, place, key, value):
    path = write_rows(run, *place, changes={key: value})
    message = refusal(run)
    assert message.startswith(f"{path} is of {key} {str(value)[:12]}, not ")
    assert "move it away and measure again" in message


@pytest.mark.parametrize("place", PLACES[4:], ids=str)
def test_votes_under_other_noise_are_refused(run, place):
    write_rows(run, *place, changes={"sigma": 0.33})
    assert "is of sigma 0.33, not " in refusal(run)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (PLACES[0], "attack", {"threat": "linf 0.03", "steps": 1}),
        (PLACES[2], "arithmetic", "tf32"),
        (PLACES[2], "device", "cuda"),
        (PLACES[4], "n", 1000),
        (PLACES[4], "attack", None),
        (PLACES[5], "n0", 10),
        (PLACES[5], "ns", [100]),
    ],
    ids=str,
)
def test_what_was_measured_otherwise_is_refused(run, place, key, value):
    path = write_rows(run, *place, changes={key: value})
    assert refusal(run).startswith(f"{path} is of {key} {value}, not ")


@pytest.mark.parametrize("key", ["alpha", "share", "draws", "steps"])
def test_attacks_inside_other_balls_are_refused(run, key):
    write_rows(run, "heldout", smoothed_name(SIGMA), 0, "inside", changes={key: 0.5})
    assert f"is of {key} 0.5, not " in refusal(run)


def test_rows_that_were_all_computed_alike_belong_together(run):
    for split, defence, seed, what in measurements(run):
        changes = {"arithmetic": "tf32", "device": "cuda"}
        write_rows(run, split, defence, seed, what, changes=changes)
    check_belonging(run)


@pytest.mark.parametrize(
    ("place", "before", "after", "said"),
    [
        (PLACES[4], "95 5", "95 6", "has 101 votes of image 1 in 'counts', not 100"),
        (PLACES[5], "990 10", "99 1", "has 100 votes of image 0 in 'counts_1000', not 1000"),
        (PLACES[5], "100 0,", "90 0,", "has 90 votes of image 0 in 'selection', not 100"),
    ],
    ids=str,
)
def test_votes_that_are_too_many_or_too_few_are_refused(run, place, before, after, said):
    path = write_rows(run, *place)
    path.write_text(path.read_text().replace(before, after))
    assert f"{path} {said}" in refusal(run)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_another_label_than_that_of_other_rows_is_refused(run, place):
    path = write_rows(run, *place)
    path.write_text(path.read_text().replace("\n1,1,", "\n1,2,"))
    assert "that image 1 is of class" in refusal(run)


@pytest.mark.parametrize("key", ["weights", "data", "model", "training_seed", "split", "seed"])
def test_a_head_that_leaves_it_open_is_refused(run, key):
    write_rows(run, *PLACES[0], changes={key: None})
    assert f"is of {key} None, not " in refusal(run)


def test_the_commits_that_measured_are_counted(run):
    path = write_rows(run, *PLACES[0])
    path.write_text(path.read_text().replace('"abc"', '"def"'))
    path = write_rows(run, *PLACES[1])
    head, _, rest = path.read_text().partition("\n")
    told = json.loads(head.removeprefix("# ")) | {"further": [{"from": 1, "commit": "def"}]}
    path.write_text(f"# {json.dumps(told)}\n{rest}")  # begun by one, ended by the other
    counted = row_commits(run)
    assert list(counted) == ["abc", "def"]
    assert counted["def"] == 2
    assert counted["abc"] == len(measurements(run)) - 1
    write_tables(run)
    assert json.loads((run.out / "run.json").read_text())["rows_from"] == counted


def test_weights_that_were_replaced_after_the_rows_are_seen(run):
    write_record(run, "mixed-at", 0, sha256="e" * 64)
    assert "mixed-at" in (message := refusal(run))
    assert "is of weights" in message
    assert "not eeeeeeeeeeee as this run" in message


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"data": "0" * 16}], ids=str)
def test_weights_of_another_recipe_or_other_data_are_refused(run, change):
    write_record(run, "pgd-linf-at", 0, recipe=find_recipe("pgd-linf-at").record() | change)
    assert "another recipe than pgd-linf-at's" in refusal(run, WeightsError)


def test_what_no_table_is_made_of_may_lie_there(run):
    write_rows(run, "heldout", "standard", 0, "an-older-attack", known=False)
    check_belonging(run)


def test_all_that_the_tables_read_is_compared(run, monkeypatch):
    """The list of files is not one that can fall behind the tables."""
    read = set()

    def spy(original):
        def read_rows(path, count=None):
            read.add(path)
            return original(path, count)

        return read_rows

    for module in (tables, curves, build):
        monkeypatch.setattr(module, "read_rows", spy(module.read_rows))
    write_tables(run)
    assert read <= {rows_path(run.place.rows, *measured) for measured in measurements(run)}
    assert len(read) > 50


def test_rows_that_are_not_those_whose_digests_are_listed_are_refused(run):
    path = write_sums(run.place.rows).parent / "heldout" / "standard" / "seed-0" / "fgsm.csv"
    check_belonging(run)
    path.write_text(path.read_text().replace("1,1,0", "1,1,1"))
    assert refusal(run).startswith(f"{path} is not the file that SHA256SUMS lists")
