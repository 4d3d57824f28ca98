"""rvlib.stages.check: a table of checks for every network, found again where it is the same."""

import csv
import json
from dataclasses import replace

import pytest

from rvlib.cli import main
from rvlib.evaluation import Check, sanity
from rvlib.profiles import DEFENCES
from rvlib.recipes import LINF, LINF_STEP_SIZE
from rvlib.stages import check as module
from rvlib.stages.check import COLUMNS, check, surrogate
from rvlib.stages.run import Run

IMAGES = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Shipped weights, few of the report's images, a folder of its own."""
    found = Run.open("course", "cpu")
    profile = replace(found.profile, heldout=IMAGES)
    said: list[str] = []
    return replace(found, profile=profile, out=tmp_path_factory.mktemp("run"), log=said.append)


@pytest.fixture(scope="module")
def table(run):
    return check(run)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def asked(monkeypatch):
    """For which networks the checks were really run."""
    asked = []

    def recorded(model, x, y, threat, **options):
        asked.append((len(x), options["seed"]))
        return sanity(model, x, y, threat, **(options | {"queries": 1, "restarts": 1, "steps": 1}))

    monkeypatch.setattr(module, "sanity", recorded)
    return asked


def test_every_network_has_every_check(run, table):
    assert table == run.out / "tables" / "sanity.csv"
    found = rows(table)
    assert tuple(found[0]) == COLUMNS
    names = [row["check"] for row in found if row["defence"] == DEFENCES[0]]
    assert {"transfer", "no gradients", "8 bits", "label leaking"} <= set(names)
    assert [(row["defence"], row["check"]) for row in found] == [
        (defence, name) for defence in DEFENCES for name in names
    ]


def test_the_findings_are_those_of_sanity(run, table):
    x, y = run.images(IMAGES)
    expected = sanity(
        run.model("pgd-linf-at"),
        x,
        y,
        LINF,
        step_size=LINF_STEP_SIZE,
        transfer_from=run.model("pgd-linf-at", 1),
    )
    found = [row for row in rows(table) if row["defence"] == "pgd-linf-at"]
    assert [row["check"] for row in found] == [each.name for each in expected]
    assert [row["passed"] == "yes" for row in found] == [each.passed for each in expected]
    for row, each in zip(found, expected, strict=True):
        assert row["finding"].startswith(each.finding)
        assert ("expected: " in row["finding"]) == (not each.passed)


def test_the_markdown_has_the_same_cells(table):
    head, rule, *lines = table.with_suffix(".md").read_text().splitlines()
    assert head == "| defence | check | images | passed | finding |"
    assert rule == "|---|---|---|---|---|"
    assert lines == ["| " + " | ".join(row.values()) + " |" for row in rows(table)]


def test_the_record_names_weights_images_and_seed(run, table):
    head = json.loads(table.with_suffix(".json").read_text())
    shipped = json.loads((run.place.models / "standard" / "seed-0.json").read_text())
    assert head["identity"]["weights"]["standard"] == shipped["sha256"]
    assert set(head["identity"]["weights"]) == set(DEFENCES)
    assert (head["identity"]["images"], head["identity"]["seed"]) == (IMAGES, 0)
    assert {"commit", "device"} <= set(head["provenance"])


def test_what_is_there_is_found_again(run, table, asked):
    before = table.read_bytes()
    assert check(run) == table
    assert asked == []
    assert table.read_bytes() == before


@pytest.mark.parametrize("spoil", ["csv", "json", "md", "seed", "images", "half"])
def test_another_identity_or_a_spoilt_file_is_made_anew(run, table, asked, tmp_path, spoil):
    (tmp_path / "tables").mkdir()
    for suffix in (".csv", ".md", ".json"):
        source = table.with_suffix(suffix)
        (tmp_path / "tables" / source.name).write_bytes(source.read_bytes())
    other = replace(run, out=tmp_path)
    copy = tmp_path / "tables" / table.name
    if spoil == "seed":
        other = replace(other, place=replace(run.place, seed=1))
    elif spoil == "images":
        other = replace(other, profile=replace(run.profile, heldout=IMAGES - 1))
    elif spoil == "half":
        copy.write_bytes(copy.read_bytes()[:500])
    else:
        copy.with_suffix(f".{spoil}").unlink()
    assert check(other) == copy
    count, seed = IMAGES - (spoil == "images"), int(spoil == "seed")
    assert asked == [(count, seed)] * len(DEFENCES)
    check(other)
    assert len(asked) == len(DEFENCES)


def test_a_failure_says_what_was_expected(run, asked, tmp_path, monkeypatch):
    log: list[str] = []
    fails = Check("one step", False, "9 of 24 fell", "at most 1")
    monkeypatch.setattr(module, "sanity", lambda *words, **options: [fails])
    path = check(replace(run, out=tmp_path, log=log.append))
    assert rows(path)[0]["passed"] == "no"
    assert rows(path)[0]["finding"] == "9 of 24 fell; expected: at most 1"
    assert log[0].startswith(f"{DEFENCES[0]}  fails one step  n = {IMAGES}")


def test_the_surrogate_is_a_sister_where_there_is_one(run):
    assert surrogate(run, "standard") == ("standard", 1)
    assert surrogate(run, "pgd-linf-at") == ("pgd-linf-at", 1)
    assert surrogate(run, "mixed-at") == ("pgd-linf-at", 0)


def test_the_command_prints_the_table(run, table, monkeypatch, capsys):
    opened = []

    def open_run(*words, **options):
        opened.append((words, options))
        return run

    monkeypatch.setattr(Run, "open", open_run)
    assert main(["check", "--profile", "course", "--device", "cpu", "--seed", "3"]) == 0
    assert opened == [(("course", "cpu"), {"seed": 3})]
    assert capsys.readouterr().out == table.with_suffix(".md").read_text()
