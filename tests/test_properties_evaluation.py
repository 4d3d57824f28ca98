"""Laws of the functions that evaluate: drawn shapes and values, the same ones each time."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.data import to_float
from rvlib.evaluation import (
    accuracy,
    attacked_batches,
    changed,
    from_callable,
    nested_votes,
    predictions,
    sanity,
    votes_inside,
    votes_under_attack,
)
from rvlib.grid_noise import GRID, grid_noise, to_grid
from rvlib.models.weights import pack, unpack
from rvlib.rows import RowFile, Rows, read_rows
from rvlib.smoothing import ABSTAIN, certificate, certify, certify_at, predict, sample_under_noise
from rvlib.smoothing import vote as called
from rvlib.threat_models import Linf

CLASSES = 3
BALL = Linf(0.1)

often = settings(derandomize=True, deadline=None, max_examples=20, database=None)
seldom = settings(often, max_examples=8)

shapes = st.tuples(*(st.integers(1, most) for most in (5, 3, 5, 5)))
seeds = st.integers(0, 10**6)
sigmas = st.floats(0.05, 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def problem(shape, seed):
    """A network that is sure of itself, stored images of the shape, and labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(math.prod(shape[1:]), CLASSES)
    images = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, shape[:1], generator=seeded(seed + 1))
    with torch.no_grad():
        linear.weight.mul_(5)
    return nn.Sequential(nn.Flatten(), linear).eval(), images, labels


def at_random(model, x, y, generator):
    return pgd(model, x, y, BALL, steps=2, generator=generator)


# --- smoothing -----------------------------------------------------------------------------------


@often
@given(shapes, seeds, sigmas, st.booleans())
def test_predictions_and_certificates_are_those_of_the_votes(shape, seed, sigma, sound):
    model, images, _ = problem(shape, seed)
    x = to_float(images)
    options = {"seed": seed, "sound": sound}
    selection, estimation, votes = (
        sample_under_noise(model, x, sigma, n, purpose=purpose, **options)
        for n, purpose in ((100, "selection"), (200, "estimation"), (200, "prediction"))
    )
    answers = predict(model, x, sigma, n=200, **options)
    assert np.array_equal(answers, called(votes.numpy(), 0.001))
    found = certify(model, x, sigma, n=200, **options)
    expected = certificate(selection.numpy(), estimation.numpy(), 0.001, sigma)
    assert np.array_equal(found.prediction, expected.prediction)
    assert np.array_equal(found.radius, expected.radius)
    assert ((found.radius > 0) <= (found.prediction != ABSTAIN)).all()


@seldom
@given(shapes, seeds, sigmas, st.floats(0, 1), st.integers(1, 5))
def test_certified_at_a_radius_within_the_votes_allowed(shape, seed, sigma, part, hundreds):
    model, images, labels = problem(shape, seed)
    most = 100 * hundreds + 200
    # Of what so many votes could certify if they all agreed, some part.
    radius = 0.5 * part * sigma
    found = certify_at(model, to_float(images), radius, sigma, labels=labels, most=most, seed=seed)
    assert (found.votes >= 100).all()
    assert (found.votes <= 100 + most).all()
    wrong = found.prediction != labels.numpy()
    assert not found.certified[wrong].any()
    assert (found.votes[wrong] == 100).all()


@often
@given(st.tuples(st.integers(1, 4), st.integers(1, 50)), sigmas, seeds)
def test_noise_on_the_grid_is_whole_and_sums_are_exact(shape, sigma, seed):
    noise = grid_noise(shape, sigma, seeded(seed))
    assert noise.shape == shape
    assert torch.equal(noise, noise.round())
    pixels = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    steps = to_grid(to_float(pixels))
    assert torch.equal(steps, pixels.float())
    exact = pixels.double() + noise.double()
    assert torch.equal((steps + noise).double(), exact)
    assert noise.abs().max() <= 9 * sigma * GRID + 1


# --- evaluation ----------------------------------------------------------------------------------


@often
@given(shapes, seeds, st.integers(1, 6), st.integers(0, 50))
def test_attacked_images_and_answers_belong_together(shape, seed, unit, first_id):
    model, images, labels = problem(shape, seed)
    options = {"first_id": first_id, "unit": unit, "seed": seed}
    batches = list(attacked_batches(model, images, labels, at_random, **options))
    assert [len(x) for x, _ in batches] == [len(p) for p in images.split(unit)]
    x_adv = torch.cat([x for x, _ in batches])
    assert BALL.norm(x_adv - to_float(images)).max() <= BALL.eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    found = predictions(model, images, labels, at_random, **options)
    assert torch.equal(found, model(x_adv).argmax(1))
    # Cut after a unit, the two parts are the whole.
    cut = min(unit, len(images))
    if cut < len(images):
        head = predictions(model, images[:cut], labels[:cut], at_random, **options)
        options["first_id"] += cut
        tail = predictions(model, images[cut:], labels[cut:], at_random, **options)
        assert torch.equal(torch.cat([head, tail]), found)


@often
@given(shapes, seeds)
def test_a_callable_is_the_attack_that_it_calls(shape, seed):
    model, images, labels = problem(shape, seed)
    external = from_callable(lambda model, x, y: fgsm(model, x, y, BALL), BALL, name="x")
    ours = predictions(model, images, labels, lambda m, x, y, g: fgsm(m, x, y, BALL))
    assert torch.equal(predictions(model, images, labels, external), ours)


@often
@given(shapes, seeds, sigmas, st.booleans())
def test_votes_for_more_draws_hold_those_for_fewer(shape, seed, sigma, skip):
    model, images, labels = problem(shape, seed)
    selection, counts = nested_votes(
        model, images, sigma, [100, 300], labels=labels if skip else None, seed=seed
    )
    right = selection.argmax(1) == labels
    went_on = right if skip else torch.ones_like(right)
    assert (counts[100].sum(1) == 100).all()
    assert torch.equal(counts[300].sum(1), 300 * went_on.long())
    assert (counts[300] >= counts[100])[went_on].all()
    whole = sample_under_noise(model, to_float(images), sigma, 300, purpose="estimation", seed=seed)
    assert torch.equal(counts[300][went_on], whole[went_on])


@seldom
@given(shapes, seeds, sigmas)
def test_votes_on_attacked_images_are_votes_on_those_images(shape, seed, sigma):
    model, images, labels = problem(shape, seed)
    counts = votes_under_attack(model, images, labels, at_random, sigma, 100, seed=seed, unit=2)
    batches = attacked_batches(model, images, labels, at_random, unit=2, seed=seed)
    expected = [
        sample_under_noise(model, x, sigma, 100, purpose="prediction", seed=seed)
        for x, _ in batches
    ]
    assert torch.equal(counts, torch.cat(expected))


@seldom
@given(shapes, seeds, sigmas)
def test_no_answer_changes_inside_a_certified_ball(shape, seed, sigma):
    model, images, _ = problem(shape, seed)
    x = to_float(images)
    found = certify(model, x, sigma, n=1000, seed=seed)
    counts = votes_inside(model, x, found, sigma, steps=2, draws=2, n=200, seed=seed)
    certified = (found.prediction != ABSTAIN) & (found.radius > 0)
    assert (counts.sum(1).numpy() == 200 * certified).all()
    if certified.any():
        before = found.prediction[certified]
        after = changed(before, counts[torch.from_numpy(certified)], 0.001)
        assert (after < 2).all()  # stands, or too close to call


# --- sanity checks -------------------------------------------------------------------------------

NEVER_MASKED = {
    "ball and box",
    "more steps",
    "more restarts",
    "larger radius",
    "one step",
    "random noise",
    "no gradients",
    "zero gradients",
}


@seldom
@given(shapes, seeds, st.floats(0.01, 0.3), st.booleans())
def test_a_linear_network_masks_nothing_and_is_told_the_same_twice(shape, seed, eps, other):
    model, images, labels = problem(shape, seed)
    model[1] = nn.Linear(
        model[1].in_features, 2
    ).eval()  # of two classes: the loss is monotone on a line
    x, y = to_float(images), labels % 2
    options = {"steps": 3, "restarts": 2, "queries": 10, "seed": seed}
    if other:
        options["transfer_from"] = problem(shape, seed + 1)[0]
    checks = sanity(model, x, y, Linf(eps), **options)
    assert checks == sanity(model, x, y, Linf(eps), **options)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names) == 12 + other
    assert set(names) >= NEVER_MASKED
    assert not [check for check in checks if check.name in NEVER_MASKED and not check.passed]
    assert not any("\n" in check.finding + check.expectation for check in checks)


# --- rows and files ------------------------------------------------------------------------------


@often
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_rows_come_back_as_written_and_are_counted(answers):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        identity = {"attack": {"threat": "-"}}
        columns = ["index", "label", "prediction"]
        with RowFile(path, identity, {}, columns, len(answers)) as file:
            for i, (label, answer) in enumerate(answers):
                file.append([{"index": i, "label": label, "prediction": answer}])
        rows = read_rows(path, len(answers))
    assert list(zip(rows.integers("label"), rows.integers("prediction"), strict=True)) == answers
    found = accuracy(rows)
    assert (found.n, found.abstained) == (len(answers), 0)
    assert found.correct == sum(label == answer for label, answer in answers)
    assert 0 <= found.interval.low <= found.percent <= found.interval.high <= 100
    part = accuracy(Rows(rows.head, rows.rows[:1]))
    assert part.correct == (answers[0][0] == answers[0][1])


votes_ = st.lists(st.integers(0, 200), min_size=3, max_size=3).filter(lambda row: sum(row) >= 40)
alphas = st.floats(1e-6, 0.05)


@often
@given(st.lists(votes_, min_size=1, max_size=20), seeds, alphas, alphas)
def test_abstentions_are_errors_and_grow_with_caution(rows, seed, one, other):
    labels = torch.randint(0, CLASSES, (len(rows),), generator=seeded(seed)).tolist()
    lines = [
        {"label": str(label), "counts": " ".join(map(str, row))}
        for label, row in zip(labels, rows, strict=True)
    ]
    head = {"identity": {"attack": {"threat": "linf 0.1"}}}
    careful, bold = (accuracy(Rows(head, lines), alpha) for alpha in sorted((one, other)))
    assert careful.abstained >= bold.abstained
    assert careful.correct <= bold.correct
    assert careful.correct + careful.abstained <= careful.n == len(rows)
    answers = called(rows, min(one, other))
    assert careful.correct == sum(answers == labels)
    answered = careful.n - careful.abstained
    share = careful.answered_only
    assert share is None if answered == 0 else share == 100 * careful.correct / answered


leaves = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@often
@given(trees, st.lists(st.floats(width=32), max_size=6))
def test_what_is_packed_comes_back(tree, values):
    tensor = torch.tensor(values)
    back = unpack(pack({"tree": tree, "tensor": tensor}))
    assert back["tree"] == tree
    assert torch.equal(back["tensor"].nan_to_num(), tensor.nan_to_num())
