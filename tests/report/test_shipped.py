"""The shipped ``report/`` is whole: its rows are of its weights, and its tables of its rows."""

import json
import shutil

import pytest
import torch

from rvlib.models.weights import read_record
from rvlib.profiles import DEFENCES, find_profile
from rvlib.report.build import write_tables
from rvlib.rows import RowsError, read_rows
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


def test_every_shipped_weight_has_a_record_of_committed_code():
    weights = sorted((SHIPPED / "models").rglob("*.safetensors"))
    assert len(weights) == len(find_profile("full").models())
    for path in weights:
        assert not read_record(path)["commit"].endswith("+"), path


@pytest.mark.parametrize("fault", ["twice", "gone", "other weights"])
def test_a_fault_planted_into_the_shipped_rows_is_seen(tmp_path, fault):
    rows = tmp_path / "rows"
    shutil.copytree(SHIPPED / "rows", rows)
    path = rows / "test" / "smoothed-0.25" / "seed-0" / "vote-pgd-l2.csv"
    head, columns, *lines = path.read_text().splitlines()
    if fault == "twice":  # as a file once was that two runs had written at the same time
        lines[3000:4216] = lines[:1216]
    elif fault == "gone":
        lines = lines[:-1]
    else:
        head = head.replace('"weights": "', '"weights": "0')
    path.write_text("\n".join([head, columns, *lines, ""]))
    with pytest.raises(RowsError, match=r"vote-pgd-l2\.csv"):
        write_tables(run_on(rows, tmp_path))
