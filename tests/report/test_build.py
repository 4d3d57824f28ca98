"""rvlib.report.build: every table of a run from its rows, or none."""

import json

import pytest
import torch

from rvlib.data import CIFAR10_DIGEST
from rvlib.profiles import Profile
from rvlib.recipes import (
    ATTACKS,
    RECIPES,
    REPORT_ATTACKS,
    SIGMA,
    SIGMAS,
    SLOWER,
    gaussian_name,
    smoothed_name,
)
from rvlib.report import build
from rvlib.report.build import facts, sigma_table, write_tables
from rvlib.report.tables import grid, markdown, read_csv
from rvlib.rows import RowsError, rows_path
from rvlib.stages.measure import Place
from rvlib.stages.measurements import measurements
from rvlib.stages.run import SMOOTHED_ATTACKS, Run
from tests.report.heads import head_of

COUNT = 4
TINY = Profile(
    "tiny",
    trains=False,
    heldout=COUNT,
    test=0,
    attacks=REPORT_ATTACKS,
    votes=100,
    certified=COUNT,
    ns=(100, 1000),
    seeds={"standard": 2},
)
TABLES = ("table1", "further", "seeds", "sigma", "certified", "jointly", "inside", "figure1")


INSIDE = ["0,0,0,0.5,97 3", "1,1,,,", "2,2,,,", "3,0,,,"]


def write(path, columns, lines, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = head_of(TINY, path, **more)
    path.write_text("\n".join([head, f"index,label,{columns}", *lines, ""]))


def fill(folder, splits=("heldout",)):
    """All rows that the tiny profile needs: networks right twice, votes once and one abstention."""
    predictions = ["0,0,0", "1,1,1", "2,2,0", "3,0,2"]
    counts = ["0,0,99 1 0", "1,1,95 5 0", "2,2,0 50 50", "3,0,10 0 90"]
    certificates = ["0,0,100 0,99 1,990 10", "1,1,80 20,90 10,"]
    certificates += ["2,2,20 80,10 90,", "3,0,20 80,10 90,"]
    for split in splits:
        for model in RECIPES:
            for seed in range(TINY.seeds.get(model, 1)):
                for attack in REPORT_ATTACKS:
                    path = rows_path(folder, split, model, seed, attack)
                    write(path, "prediction", predictions)
        for sigma in SIGMAS:
            for recipe in SMOOTHED_ATTACKS:
                path = rows_path(folder, split, smoothed_name(sigma), 0, recipe.name)
                write(path, "counts", counts)
            path = rows_path(folder, split, smoothed_name(sigma), 0, "certificates")
            write(path, "selection,counts_100,counts_1000", certificates)
            path = rows_path(folder, split, smoothed_name(sigma), 0, "inside")
            write(path, "certified,radius,counts", INSIDE)


def make_run(out, profile=TINY):
    return Run(profile, Place(out / "models", out / "rows", torch.device("cpu")), out)


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path)
    fill(run.place.rows)
    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The tiny run and the tables that were written from it."""
    run = make_run(tmp_path_factory.mktemp("run"))
    fill(run.place.rows)
    return run, write_tables(run)


def test_every_table_and_figure_is_written(written):
    run, tables = written
    assert sorted(tables) == sorted(TABLES)
    found = {str(p.relative_to(run.out)) for p in run.out.rglob("*.*") if "rows" not in p.parts}
    assert found == {
        *(f"tables/{name}.csv" for name in TABLES),
        "tables/table1.md",
        *(f"figures/figure1.{suffix}" for suffix in ("pdf", "svg", "png")),
        "run.json",
    }
    for name, table in tables.items():
        assert read_csv(run.out / "tables" / f"{name}.csv") == table


def test_table1_as_markdown_in_both_layouts(written):
    run, tables = written
    text = (run.out / "tables" / "table1.md").read_text()
    assert text == markdown(grid(tables["table1"])) + "\n\n" + markdown(tables["table1"]) + "\n"


def test_table1_has_the_five_networks_and_the_vote(written):
    _, tables = written
    networks = ["standard", "gaussian-0.25", "pgd-pixel-l2-at", "pgd-linf-at", "mixed-at"]
    lines = [(line["defence"], line["attack"]) for line in tables["table1"]]
    assert lines[:20] == [(model, attack) for model in networks for attack in REPORT_ATTACKS]
    assert lines[20:] == [("smoothed-0.25", attack.name) for attack in SMOOTHED_ATTACKS]
    assert {line["accuracy"] for line in tables["table1"][:20]} == {"50.00"}
    assert {line["abstained"] for line in tables["table1"][20:]} == {"1"}
    assert {line["defence"] for line in tables["further"]} == {"pgd-l2-at", SLOWER}


def test_sigma_table_known_by_heart(run):
    table = sigma_table(run)
    assert [(line["sigma"], line["attack"]) for line in table] == [
        (f"{sigma:.2f}", attack) for sigma in SIGMAS for attack in REPORT_ATTACKS
    ]
    assert table[0] == {
        "sigma": "0.12",
        "attack": "natural",
        "n": "4",
        "plain": "50.00",
        "plain_low": "15.00",
        "plain_high": "85.00",
        "vote": "25.00",
        "vote_low": "4.56",
        "vote_high": "69.94",
        "vote_abstained": "25.00",
    }


def test_the_test_images_give_a_second_table(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "save_figure", lambda figure, stem: None)
    profile = Profile(**{**vars(TINY), "test": 3})
    run = make_run(tmp_path, profile)
    fill(run.place.rows, ("heldout", "test"))
    table = write_tables(run)["table2"]
    assert {line["n"] for line in table} == {"3"}
    assert {line["report_value"] for line in table} == {""}
    assert (run.out / "tables" / "table2.md").exists()


DAMAGED = {
    "table1": ("mixed-at", 0, "fgsm"),
    "vote": (smoothed_name(SIGMA), 0, "vote-pgd-l2"),
    "further": ("pgd-l2-at", 0, "natural"),
    "seeds": ("standard", 1, "pgd-linf"),
    "sigma": (gaussian_name(1.0), 0, "fgsm"),
    "certificates": (smoothed_name(0.5), 0, "certificates"),
    "inside": (smoothed_name(0.5), 0, "inside"),
}


@pytest.mark.parametrize("damage", ["missing", "short"])
@pytest.mark.parametrize("cell", DAMAGED.values(), ids=DAMAGED)
def test_from_a_part_no_table_is_written(run, cell, damage, monkeypatch):
    monkeypatch.setattr(build, "save_figure", lambda figure, stem: None)
    path = rows_path(run.place.rows, "heldout", *cell)
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    if damage == "short":
        path.write_text("".join(lines[:-1]))
    with pytest.raises(RowsError) as caught:
        write_tables(run)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert {child.name for child in run.out.iterdir()} == {"rows"}


# --- what the printed report says about the run --------------------------------------------------


def test_facts_of_a_run(run, monkeypatch):
    monkeypatch.setattr(build, "provenance", lambda device: {"device": str(device)})
    record = {
        "sha256": "0" * 64,
        "recipe": {},
        "epochs": 30,
        "seconds": 1.5,
        "commit": "abc",
        "torch": "2",
        "device": "cpu",
        "date": "2024-01-01",
        "best_epoch": 7,
        "best": {"natural": 0.6},
        "last": {"natural": 0.5},
        "history": [{"natural": 0.5}],
    }
    path = run.place.models / "standard" / "seed-1.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    path.with_suffix(".json").write_text(json.dumps(record))
    found, rows = facts(run), run.place.rows
    kept = {key: value for key, value in record.items() if key not in ("recipe", "history")}
    assert found.pop("weights") == {"standard seed 1": kept}
    assert found.pop("attacks") == {name: ATTACKS[name].record() for name in REPORT_ATTACKS}
    assert found == {
        "profile": "tiny",
        "heldout": COUNT,
        "test": 0,
        "certified": COUNT,
        "ns": [100, 1000],
        "votes": 100,
        "n0": 100,
        "alpha": 0.001,
        "sigma": 0.25,
        "sigmas": [0.12, 0.25, 0.5, 1.0],
        "seeds": {"standard": 2},
        "defences": ["standard", "gaussian-0.25", "pgd-pixel-l2-at", "pgd-linf-at", "mixed-at"],
        "vote_attack": {"draws": 16, "steps": 20},
        "rows_function": {"arithmetic": "float32", "device": "cpu", "attacked": 4, "voted": 4},
        "rows_from": {"abc": len({rows_path(rows, *place) for place in measurements(run)})},
        "data": CIFAR10_DIGEST,
        "device": "cpu",
    }


def test_facts_are_what_is_in_run_json(written):
    run, _ = written
    found = json.loads((run.out / "run.json").read_text())
    assert found.keys() == facts(run).keys()
    assert found["weights"] == {}  # none are in this run's folder
