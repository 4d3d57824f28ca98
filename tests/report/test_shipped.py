"""The shipped ``report/`` is whole: its rows are of its weights, and its tables of its rows."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import binom

from rvlib.evaluation import changed, votes
from rvlib.models.weights import read_record
from rvlib.profiles import DEFENCES, find_profile
from rvlib.recipes import ALPHA, SIGMAS
from rvlib.report.build import write_tables
from rvlib.report.digests import SUMS, check_sums, write_sums
from rvlib.rows import RowsError, read_rows
from rvlib.smoothing import ABSTAIN
from rvlib.stages.measure import Place
from rvlib.stages.run import Run, repository
from rvlib.stages.train import weights_path

SHIPPED = repository() / "report"
ROWS = sorted((SHIPPED / "rows").rglob("*.csv"))


def run_on(rows, out):
    return Run(
        find_profile("full"),
        Place(SHIPPED / "models", rows, torch.device("cpu")),
        out,
        log=lambda line: None,
    )


def test_every_rows_file_can_be_read_and_says_which_code_measured_it():
    assert ROWS
    for path in ROWS:
        provenance = read_rows(path).head["provenance"]
        assert {"commit", "device", "torch"} <= set(provenance), path
        assert not provenance["commit"].endswith("+"), f"{path}: of code that was not committed"


def test_rows_of_the_shipped_weights_make_the_shipped_tables(tmp_path):
    write_tables(run_on(SHIPPED / "rows", tmp_path))
    made = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    shipped = {path.name: path.read_bytes() for path in (SHIPPED / "tables").iterdir()}
    assert made == {name: shipped[name] for name in made}
    # `rvlib check` makes the others, from attacks of its own.
    assert set(shipped) - set(made) == {"sanity.csv", "sanity.json", "sanity.md"}


def test_the_shipped_checks_are_of_the_shipped_weights():
    found = json.loads((SHIPPED / "tables" / "sanity.json").read_text())["identity"]["weights"]
    assert set(found) == set(DEFENCES)
    for name, digest in found.items():
        assert digest == read_record(weights_path(SHIPPED / "models", name, 0))["sha256"]


def test_no_attack_inside_the_shipped_certificates_changed_more_answers_than_alpha_allows():
    attacked = changes = close = 0
    paths = sorted((SHIPPED / "rows" / "heldout").glob("smoothed-*/seed-0/inside.csv"))
    assert len(paths) == len(SIGMAS)
    for path in paths:
        rows = read_rows(path)
        told = rows.head["identity"]
        assert told["share"] == 0.99
        radii = [row["radius"] for row in rows.rows]
        certified = np.array([radius != "" for radius in radii])
        prediction = np.array([int(row["certified"] or ABSTAIN) for row in rows.rows])[certified]
        outcomes = changed(prediction, votes(rows, "counts")[certified], told["alpha"])
        attacked += certified.sum()
        close += (outcomes == 1).sum()
        changes += (outcomes == 2).sum()
    assert attacked > 1000
    assert close < 0.1 * attacked
    # A false certificate with probability alpha, and an answer of the vote with another.
    assert changes <= binom.isf(1e-4, attacked, 2 * ALPHA)


def test_every_shipped_weight_has_a_record_of_committed_code():
    weights = sorted((SHIPPED / "models").rglob("*.safetensors"))
    assert len(weights) == len(find_profile("full").models())
    for path in weights:
        assert not read_record(path)["commit"].endswith("+"), path


def test_the_digests_of_the_shipped_rows_hold():
    listed = (SHIPPED / "rows" / SUMS).read_text().splitlines()
    assert len(listed) == len(ROWS)
    check_sums(SHIPPED / "rows")


@pytest.mark.parametrize("fault", ["added", "removed", "changed"])
def test_shipped_rows_are_those_whose_digests_are_listed(tmp_path, fault):
    rows = tmp_path / "rows"
    shutil.copytree(SHIPPED / "rows" / "heldout" / "standard", rows)
    write_sums(rows)
    check_sums(rows)
    path = rows / "seed-0" / "pgd-linf.csv"
    if fault == "added":
        shutil.copy(path, path.with_name("mine.csv"))
    elif fault == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2] + b"3\n")
    with pytest.raises(RowsError, match=r"(mine|pgd-linf)\.csv is no.* file that SHA256SUMS lists"):
        check_sums(rows)


@pytest.mark.parametrize("fault", ["twice", "gone", "other weights", "all right"])
def test_a_fault_planted_into_the_shipped_rows_is_seen(tmp_path, fault):
    rows = tmp_path / "rows"
    shutil.copytree(SHIPPED / "rows", rows)
    path = rows / "test" / "smoothed-0.25" / "seed-0" / "vote-pgd-l2.csv"
    head, columns, *lines = path.read_text().splitlines()
    if fault == "twice":  # as a file once was that two runs had written at the same time
        lines[3000:4216] = lines[:1216]
    elif fault == "gone":
        lines = lines[:-1]
    elif fault == "other weights":
        head = head.replace('"weights": "', '"weights": "0')
    else:
        cells = [line.split(",") for line in lines]
        lines = [
            f"{i},{label},{'0 ' * int(label)}1000" + " 0" * (9 - int(label))
            for i, label, _ in cells
        ]
    path.write_text("\n".join([head, columns, *lines, ""]))
    if fault != "all right":  # seen without their digests, too
        (rows / SUMS).unlink()
    with pytest.raises(RowsError, match=r"vote-pgd-l2\.csv"):
        write_tables(run_on(rows, tmp_path))
