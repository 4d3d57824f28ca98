"""The shipped report is that of the shipped rows and weights, to the last digit."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binom

from rvlib.experiments import ALPHA, DEFENCES, SIGMAS, grid_cells
from rvlib.models import read_record
from rvlib.pipeline import Run, measurements, repository
from rvlib.report.build import write_tables
from rvlib.results import read, read_meta

SHIPPED = repository() / "report"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A full run whose rows and weights are the shipped ones; it measures nothing."""
    full = Run.open("full", "cpu")
    profile = replace(full.profile, trains=False, reads_published=True)
    out = tmp_path_factory.mktemp("full")
    return replace(full, profile=profile, models=SHIPPED / "models", out=out)


@pytest.fixture(scope="module")
def tables(run):
    return write_tables(run)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tables_of_the_shipped_rows_are_the_shipped_tables(run, tables):
    made, shipped = content(run.out / "tables"), content(SHIPPED / "tables")
    assert made == {name: shipped[name] for name in made}
    assert set(shipped) - set(made) == {"sanity.csv", "sanity.json"}
    assert not (run.out / "rows").exists()


def test_figure_1_of_the_shipped_rows_is_the_shipped_figure(run, tables):
    assert content(run.out / "figures") == content(SHIPPED / "figures")


def test_the_run_is_described_as_the_shipped_one(run, tables):
    made, shipped = (json.loads((folder / "run.json").read_text()) for folder in (run.out, SHIPPED))
    here = {"rvlib", "commit", "torch", "python", "device", "threads", "instructions", "date"}
    assert [name for name in made if name in shipped] == [n for n in shipped if n != "memory"]
    assert made.keys() - shipped.keys() <= {"instructions"}
    # Answers under noise are shipped as a table: their rows are counted in the shipped run alone.
    of_grid = Counter(shipped.pop("rows_from")) - Counter(made.pop("rows_from"))
    assert of_grid.total() == len(list(grid_cells()))
    assert all(made[name] == shipped[name] for name in made if name not in here)


def test_all_that_is_shipped_was_made_by_committed_code(run):
    assert len(list((SHIPPED / "rows").rglob("meta.json"))) == len(measurements(run)) == 231
    for path in (SHIPPED / "rows").rglob("meta.json"):
        for provenance in read(path.parent).provenances:
            assert not provenance["commit"].endswith("+"), path
    for name, seed in run.profile.models():
        assert not read_record(run.weights(name, seed))["commit"].endswith("+"), (name, seed)


def test_the_shipped_checks_are_of_the_shipped_weights(run):
    found = json.loads((SHIPPED / "tables" / "sanity.json").read_text())["identity"]["weights"]
    assert found == {name: read_record(run.weights(name))["sha256"] for name in DEFENCES}


def test_no_attack_inside_certified_balls_changed_more_answers_than_alpha_allows(tables):
    inside = tables["inside"]
    assert len(inside) == len(SIGMAS)
    assert (inside["share"] == 0.99).all()
    attacked, close, changed = inside[["attacked", "too_close", "changed"]].sum()
    assert attacked > 1000
    assert close < 0.1 * attacked
    # A false certificate with probability alpha, and an answer of the vote with another.
    assert changed <= binom.isf(1e-4, attacked, 2 * ALPHA)


def test_an_identity_keeps_what_results_depend_on_only():
    assert "unit" not in read_meta(SHIPPED / "rows" / "heldout" / "standard" / "seed-0" / "fgsm")
