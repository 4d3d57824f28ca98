"""rvlib.stages.measure: rows of real images, the same whether or not a run was interrupted."""

import json
from dataclasses import replace

import pytest
import torch

from rvlib.attacks import pgd
from rvlib.data import CIFAR10_DIGEST, load_cifar10
from rvlib.evaluation import from_callable, nested_votes, predictions, votes_under_attack
from rvlib.memory import budget
from rvlib.models import LeNet, save_weights
from rvlib.models.weights import WeightsError, read_record
from rvlib.recipes import ALPHA, ATTACKS, LINF, N0, AttackRecipe, find_recipe, gaussian_name
from rvlib.report.tables import grid, table1
from rvlib.rows import RowsError, read_rows, rows_path
from rvlib.smoothing import largest_radius
from rvlib.stages import measure
from rvlib.stages.measure import (
    Place,
    measure_attack,
    measure_certificates,
    measure_inside,
    measure_votes,
)
from rvlib.stages.train import weights_path

SPLIT, COUNT, UNIT = "test", 10, 4  # units of 4, 4 and 2 images
SIGMA = 0.25
NS = (100, 200)
# With a random start and restarts: the images of a batch share a random stream.
RANDOM = AttackRecipe("random-pgd", LINF, 2, 0.02, random_start=True, restarts=2)

MEASURES = {
    "attack": lambda place, count=COUNT: measure_attack(place, "standard", 0, RANDOM, SPLIT, count),
    "votes": lambda place, count=COUNT: measure_votes(place, SIGMA, 0, RANDOM, SPLIT, count, 100),
    "certificates": lambda place, count=COUNT: measure_certificates(
        place, SIGMA, 0, SPLIT, count, NS
    ),
}
EVALUATIONS = {
    "attack": "predictions",
    "votes": "votes_under_attack",
    "certificates": "nested_votes",
}
every_measure = pytest.mark.parametrize("what", MEASURES)


@pytest.fixture(scope="module")
def cifar10():
    images, labels = load_cifar10(SPLIT)
    return images[:64].clone(), labels[:64].clone()


def save_fresh(models, name, seed=0):
    """Put weights as they are before training where a training would."""
    recipe = find_recipe(name)
    network = recipe.build(seed)
    save_weights(network, weights_path(models, name, 0), {"recipe": recipe.record()})
    return network.eval()


@pytest.fixture
def place(tmp_path, cifar10, monkeypatch):
    """A place with untrained weights, units of 4 images and a provenance that has no date."""
    for name in ("standard", gaussian_name(SIGMA)):
        save_fresh(tmp_path / "models", name)
    real = measure._measure

    def in_small_units(place, path, what, columns, split, count, unit, step):
        return real(place, path, what, columns, split, count, UNIT, step)

    monkeypatch.setattr(measure, "_measure", in_small_units)
    monkeypatch.setattr(measure, "provenance", lambda device: {"device": str(device)})
    monkeypatch.setattr(measure, "load_cifar10", lambda split: {SPLIT: cifar10}[split])
    return Place(tmp_path / "models", tmp_path / "rows", torch.device("cpu"))


def elsewhere(place):
    return Place(place.models, place.rows / "elsewhere", place.device)


def stop_after(units, what):
    """Let the evaluation fail after some units; return the patch, to be undone."""
    name, left = EVALUATIONS[what], iter(range(units))
    real = getattr(measure, name)

    def failing(*words, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*words, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(measure, name, failing)
    return patch


def integers(rows, column):
    return [list(map(int, row[column].split())) for row in rows.rows]


# --- what is in the rows -------------------------------------------------------------------------


def test_rows_of_an_attack(place, cifar10):
    path = measure_attack(place, "standard", 0, ATTACKS["pgd-linf"], SPLIT, COUNT)
    assert path == place.rows / SPLIT / "standard" / "seed-0" / "pgd-linf.csv"
    rows = read_rows(path, COUNT)
    images, labels = (tensor[:COUNT] for tensor in cifar10)
    assert rows.integers("index") == list(range(COUNT))
    assert rows.integers("label") == labels.tolist()
    network = find_recipe("standard").build(0)
    expected = predictions(network, images, labels, ATTACKS["pgd-linf"], unit=UNIT)
    assert rows.integers("prediction") == expected.tolist()


def test_rows_of_a_random_attack_are_drawn_by_unit(place, cifar10):
    images, labels = (tensor[:COUNT] for tensor in cifar10)
    rows = read_rows(MEASURES["votes"](place), COUNT)
    network = find_recipe(gaussian_name(SIGMA)).build(0)
    expected = votes_under_attack(network, images, labels, RANDOM, SIGMA, 100, unit=UNIT)
    assert integers(rows, "counts") == expected.tolist()


def test_an_attack_from_elsewhere_stands_in_the_same_table(place):
    ours = ATTACKS["pgd-linf"]
    theirs = from_callable(
        lambda model, x, y: pgd(model, x, y, LINF, random_start=False), LINF, name="theirs"
    )
    for attack in (ours, theirs):
        measure_attack(place, "standard", 0, attack, SPLIT, COUNT)
    cells = [("standard", "pgd-linf"), ("standard", "theirs")]
    one, other = table1(place.rows, SPLIT, cells, COUNT)
    assert (one["attack"], other["attack"]) == ("pgd-linf", "theirs")
    assert other["threat"] == one["threat"] == "linf 0.03"
    assert [line["Accuracy, %"] for line in grid([one, other])] == ["PGD l∞", "theirs"]
    rows = read_rows(rows_path(place.rows, SPLIT, "standard", 0, "theirs"))
    assert rows.head["identity"]["attack"]["origin"] == "a callable"
    # Another attack of the same name from another source is not gone on with.
    other_source = replace(theirs, origin="elsewhere 1.0")
    with pytest.raises(RowsError, match="attack"):
        measure_attack(place, "standard", 0, other_source, SPLIT, COUNT)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b"])
def test_a_name_that_is_no_file_is_refused(place, name):
    attack = replace(from_callable(lambda model, x, y: x, LINF, name="x"), name=name)
    with pytest.raises(ValueError, match="name"):
        measure_attack(place, "standard", 0, attack, SPLIT, COUNT)


def test_rows_of_votes(place, cifar10):
    path = measure_votes(place, SIGMA, 0, ATTACKS["natural"], SPLIT, COUNT, 200)
    assert path == place.rows / SPLIT / "smoothed-0.25" / "seed-0" / "natural.csv"
    rows = read_rows(path, COUNT)
    assert rows.integers("label") == cifar10[1][:COUNT].tolist()
    counts = integers(rows, "counts")
    assert {(len(row), sum(row)) for row in counts} == {(10, 200)}


@pytest.fixture
def constant(place):
    """A base network that always answers class 3: certified as far as the votes allow."""
    name = gaussian_name(SIGMA)
    recipe = find_recipe(name)
    network = recipe.build(0)
    assert isinstance(network, LeNet)
    with torch.no_grad():
        network.fc3.weight.zero_()
        network.fc3.bias.copy_(torch.eye(10)[3])
    save_weights(network, weights_path(place.models, name, 0), {"recipe": recipe.record()})
    return place


def test_rows_from_inside_the_certified_balls(constant, cifar10):
    measure_certificates(constant, SIGMA, 0, SPLIT, COUNT, NS)
    path = measure_inside(constant, SIGMA, 0, SPLIT, COUNT, NS, 100)
    assert path == constant.rows / SPLIT / "smoothed-0.25" / "seed-0" / "inside.csv"
    cap = largest_radius(max(NS), ALPHA, SIGMA)
    # Only images of class 3 were sampled to the end: the others are selected wrongly.
    for row, label in zip(read_rows(path, COUNT).rows, cifar10[1].tolist(), strict=False):
        if label == 3:
            assert row["certified"] == "3"
            assert row["counts"] == "0 0 0 100 0 0 0 0 0 0"
            assert cap - 1e-8 < float(row["radius"]) <= cap  # rounded down
        else:
            assert (row["certified"], row["radius"], row["counts"]) == ("", "", "")
    assert 3 in cifar10[1][:COUNT]


def test_without_certificates_there_is_nothing_to_attack_inside(place):
    with pytest.raises(RowsError, match="certificates"):
        measure_inside(place, SIGMA, 0, SPLIT, COUNT, NS, 100)


def test_rows_of_certificates(place, cifar10):
    path = MEASURES["certificates"](place)
    assert path == place.rows / SPLIT / "smoothed-0.25" / "seed-0" / "certificates.csv"
    rows = read_rows(path, COUNT)
    images, labels = (tensor[:COUNT] for tensor in cifar10)
    network = find_recipe(gaussian_name(SIGMA)).build(0)
    selection, counts = nested_votes(network, images, SIGMA, NS, n0=N0, labels=labels)
    assert rows.integers("label") == labels.tolist()
    assert integers(rows, "selection") == selection.tolist()
    assert integers(rows, "counts_100") == counts[100].tolist()
    right = (selection.argmax(1) == labels).tolist()
    assert 0 < sum(right) < COUNT  # an untrained network is right by chance
    assert integers(rows, "counts_200") == [
        row if is_right else [] for row, is_right in zip(counts[200].tolist(), right, strict=True)
    ]


@every_measure
def test_the_head_says_what_was_measured(place, what):
    head = read_rows(MEASURES[what](place)).head
    identity = head["identity"]
    model = "standard" if what == "attack" else gaussian_name(SIGMA)
    record = read_record(weights_path(place.models, model, 0))
    expected = {
        "model": model,
        "training_seed": 0,
        "weights": record["sha256"],
        "data": CIFAR10_DIGEST,
        "split": SPLIT,
        "unit": UNIT,
        "seed": 0,
    }
    if what != "attack":
        expected["sigma"] = SIGMA
    if what != "certificates":
        expected["attack"] = RANDOM.record()
    if what == "votes":
        expected["n"] = 100
    if what == "certificates":
        expected |= {"n0": N0, "ns": list(NS)}
    assert identity == expected
    assert head["provenance"] == {"device": "cpu"}


@every_measure
def test_a_gpu_that_rounds_is_another_function(place, what, monkeypatch):
    MEASURES[what](place)
    monkeypatch.setattr(measure, "arithmetic", lambda device: "tf32")
    with pytest.raises(RowsError):
        MEASURES[what](place)
    path = MEASURES[what](replace(place, rows=place.rows / "rounded"))
    assert read_rows(path).head["identity"]["arithmetic"] == "tf32"


@every_measure
def test_rows_are_ended_within_the_memory_that_they_were_begun_with(place, monkeypatch, what):
    """Free memory changes from day to day; what is measured together must not."""
    told = iter([5_000_000, 9_000_000])
    monkeypatch.setattr(measure, "provenance", lambda device: {"memory": next(told)})
    name, held = EVALUATIONS[what], []
    real = getattr(measure, name)

    def recording(*words, **options):
        held.append(budget(place.device))
        return real(*words, **options)

    monkeypatch.setattr(measure, name, recording)
    MEASURES[what](place, UNIT)
    path = MEASURES[what](place)
    assert held == [5_000_000] * 3
    assert read_rows(path).head["provenance"] == {"memory": 5_000_000}


@every_measure
def test_rows_are_ended_with_the_threads_that_they_were_begun_with(place, monkeypatch, what):
    """Sums are rounded otherwise in another number of threads."""
    monkeypatch.setattr(measure, "provenance", lambda _: {"threads": torch.get_num_threads()})
    name, held, before = EVALUATIONS[what], [], torch.get_num_threads()
    real = getattr(measure, name)

    def recording(*words, **options):
        held.append(torch.get_num_threads())
        return real(*words, **options)

    monkeypatch.setattr(measure, name, recording)
    try:
        torch.set_num_threads(2)
        MEASURES[what](place, UNIT)
        torch.set_num_threads(1)
        path = MEASURES[what](place)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert held == [2] * 3
    assert read_rows(path).head["provenance"] == {"threads": 2}


@pytest.mark.parametrize("told", [{}, {"memory": "much"}, {"memory": 0}])
def test_a_head_without_a_budget_gets_one(place, monkeypatch, told):
    monkeypatch.setenv("RVLIB_MEMORY", "0.003")
    path = MEASURES["attack"](place, UNIT)
    path.write_text(path.read_text().replace('{"device": "cpu"}', json.dumps(told)))
    assert len(read_rows(MEASURES["attack"](place)).rows) == COUNT
    assert read_rows(path).head["provenance"] == told


@every_measure
def test_each_unit_is_addressed_by_its_first_image(place, monkeypatch, what):
    # An untrained network hardly feels noise, so the arguments are looked at, not the answers.
    name, asked = EVALUATIONS[what], []
    real = getattr(measure, name)

    def recording(network, images, *words, **options):
        # Certificates need no address: all images see the same draws.
        asked.append((options.get("first_id"), len(images), options["seed"]))
        return real(network, images, *words, **options)

    monkeypatch.setattr(measure, name, recording)
    path = MEASURES[what](replace(place, seed=5))
    assert read_rows(path).head["identity"]["seed"] == 5
    firsts = [None] * 3 if what == "certificates" else [0, 4, 8]
    assert asked == [(first, size, 5) for first, size in zip(firsts, (4, 4, 2), strict=True)]


# --- going on ------------------------------------------------------------------------------------


@every_measure
@pytest.mark.parametrize("units", [0, 1, 2])
def test_an_interrupted_run_ends_with_the_rows_of_an_unbroken_one(place, what, units):
    unbroken = MEASURES[what](elsewhere(place)).read_bytes()
    patch = stop_after(units, what)
    with pytest.raises(KeyboardInterrupt):
        MEASURES[what](place)
    patch.undo()
    (path,) = (place.rows / SPLIT).rglob("*.csv")
    assert len(read_rows(path).rows) == units * UNIT
    assert MEASURES[what](place).read_bytes() == unbroken


@every_measure
def test_a_run_killed_while_it_wrote_ends_the_same(place, what):
    path = MEASURES[what](place)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    # The middle of the sixth row; nine whole rows; the head alone.
    for content in (b"".join(lines[:7]) + lines[7][:3], b"".join(lines[:11]), lines[0]):
        path.write_bytes(content)
        assert MEASURES[what](place).read_bytes() == whole


@every_measure
def test_a_shorter_run_is_extended_to_the_longer_one(place, what):
    whole = MEASURES[what](elsewhere(place)).read_bytes()
    assert len(read_rows(MEASURES[what](place, 6)).rows) == 6
    assert MEASURES[what](place).read_bytes() == whole
    assert MEASURES[what](place, 6).read_bytes() == whole  # more than asked for is kept


@every_measure
def test_a_finished_run_is_not_done_again(place, monkeypatch, what):
    def never(*words, **options):
        raise AssertionError("done again")

    path = MEASURES[what](place)
    before = path.read_bytes(), path.stat().st_mtime_ns
    for name in ("load_model", "load_cifar10", EVALUATIONS[what]):
        monkeypatch.setattr(measure, name, never)
    assert MEASURES[what](place) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# --- what is refused -----------------------------------------------------------------------------


@every_measure
def test_other_weights_under_finished_rows_are_refused(place, what):
    path = MEASURES[what](place)
    before = path.read_bytes()
    for name in ("standard", gaussian_name(SIGMA)):
        save_fresh(place.models, name, seed=1)
    with pytest.raises(RowsError, match=r"of another run \(differs in weights\)") as caught:
        MEASURES[what](place)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@every_measure
def test_other_weights_under_unfinished_rows_are_refused(place, what):
    patch = stop_after(1, what)
    with pytest.raises(KeyboardInterrupt):
        MEASURES[what](place)
    patch.undo()
    for name in ("standard", gaussian_name(SIGMA)):
        save_fresh(place.models, name, seed=1)
    with pytest.raises(RowsError, match="differs in weights"):
        MEASURES[what](place)


def test_another_step_size_or_number_of_votes_is_another_run(place):
    MEASURES["attack"](place)
    finer = AttackRecipe("random-pgd", LINF, 2, 0.01, random_start=True, restarts=2)
    with pytest.raises(RowsError, match="differs in attack"):
        measure_attack(place, "standard", 0, finer, SPLIT, COUNT)
    MEASURES["votes"](place)
    with pytest.raises(RowsError, match="differs in n\\)"):
        measure_votes(place, SIGMA, 0, RANDOM, SPLIT, COUNT, 200)
    MEASURES["certificates"](place)
    with pytest.raises(RowsError, match="differs in ns\\)"):
        measure_certificates(place, SIGMA, 0, SPLIT, COUNT, (100,))


@every_measure
def test_without_weights_there_are_no_rows(place, tmp_path, what):
    empty = Place(tmp_path / "nothing", place.rows, place.device)
    with pytest.raises(WeightsError, match="missing: train the model") as caught:
        MEASURES[what](empty)
    assert "\n" not in str(caught.value)
    assert not place.rows.exists()


@every_measure
def test_damaged_weights_measure_nothing(place, what):
    for file in place.models.rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file its record describes"):
        MEASURES[what](place)
    assert all(not read_rows(path).rows for path in place.rows.rglob("*.csv"))
