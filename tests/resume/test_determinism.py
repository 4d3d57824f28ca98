"""What is the same from run to run, and what a batch size may change."""

import pytest
import torch

from rvlib.attacks import ascent, pgd
from rvlib.data import load_cifar10, to_float
from rvlib.evaluation import attacked_batches, predictions
from rvlib.models import load_weights
from rvlib.noise import stream
from rvlib.recipes import LINF, AttackRecipe, find_recipe
from rvlib.smoothing import sample_under_noise
from rvlib.stages.run import repository
from rvlib.stages.train import weights_path


def shipped(name):
    recipe = find_recipe(name)
    network = recipe.build(0)
    load_weights(network, weights_path(repository() / "report/models", name, 0), recipe.record())
    return network.eval()


@pytest.fixture(scope="module")
def images():
    images, labels = load_cifar10("heldout")
    return images[:12].clone(), labels[:12].clone()


# Two fresh processes end alike: every round of tests.resume.soak compares two of them.


# --- votes ---------------------------------------------------------------------------------------


def test_votes_at_another_batch_size_differ_only_by_rounding_and_hardly(images):
    network, x, n = shipped("gaussian-0.25"), to_float(images[0]), 1000
    counts = {size: sample_under_noise(network, x, 0.25, n, batch_size=size) for size in (100, 700)}
    moved = (counts[100] - counts[700]).abs().sum().item() // 2
    # Two logits must agree to about seven digits for a vote to move: of 12,000, none or one.
    assert moved <= 2
    assert (counts[100].max(1).values < n).sum() > 6  # votes are not so clear that all is well
    other = sample_under_noise(network, x, 0.25, n, batch_size=100, seed=1)
    assert (counts[100] - other).abs().sum().item() // 2 > 20  # other noise is far more


def test_the_same_votes_twice_are_the_same(images):
    network, x = shipped("gaussian-0.25"), to_float(images[0])
    one, other = (sample_under_noise(network, x, 0.25, 500) for _ in range(2))
    assert torch.equal(one, other)


# --- random starts -------------------------------------------------------------------------------

# No steps of any length: what comes out is the start.
START = AttackRecipe("start", LINF, 1, 0.0, random_start=True)


def starts(images, first_id=0, unit=4, seed=0):
    x, y = images
    batches = attacked_batches(
        find_recipe("standard").build(0),
        x,
        y,
        START,
        first_id=first_id,
        unit=unit,
        seed=seed,
    )
    return torch.cat([x_adv for x_adv, _ in batches])


def test_a_start_depends_on_the_unit_and_the_place_in_it_alone(images):
    x, y = images
    whole = starts(images)
    assert not torch.equal(whole, to_float(x))
    # A run taken up again at a unit's first image, and a set that ends elsewhere: the same starts.
    assert torch.equal(starts((x[4:], y[4:]), first_id=4), whole[4:])
    assert torch.equal(starts((x[:8], y[:8])), whole[:8])


def test_a_shorter_last_unit_has_the_same_starts(images):
    # Noise is drawn image by image from one stream: the first of many are those of few.
    x, y = images
    assert torch.equal(starts((x[:6], y[:6])), starts(images)[:6])


def test_another_unit_size_is_other_starts(images):
    # The unit is part of the seed: rows record it, and rows of another unit are refused.
    assert torch.equal(starts(images, unit=4)[:4], starts(images, unit=6)[:4])
    assert not torch.equal(starts(images, unit=4)[4:6], starts(images, unit=6)[4:6])


@pytest.mark.parametrize("at_once", [3, 5])
def test_how_many_go_at_once_changes_no_start_and_hardly_an_answer(images, monkeypatch, at_once):
    attack = AttackRecipe("pgd", LINF, 5, 0.02, random_start=True, restarts=2)
    network = shipped("pgd-linf-at")
    before = starts(images), predictions(network, images[0], images[1], attack)
    monkeypatch.setattr(ascent, "TILE", at_once)
    sizes = []
    network.register_forward_hook(lambda net, seen, logits: sizes.append(len(logits)))
    after = starts(images), predictions(network, images[0], images[1], attack)
    assert max(sizes) == at_once
    assert torch.equal(before[0], after[0])
    # A sign that rounding turned may send an image another way: one of twelve at most.
    assert (before[1] != after[1]).sum() <= 1


def test_another_seed_is_other_starts(images):
    assert not torch.equal(starts(images), starts(images, seed=1))


def test_the_stream_of_a_unit_is_its_first_images(images):
    x, y = images
    network = find_recipe("standard").build(0)
    batch = to_float(x[4:8]).contiguous(memory_format=torch.channels_last)
    expected = pgd(
        network,
        batch,
        y[4:8],
        LINF,
        steps=1,
        step_size=0.0,
        random_start=True,
        generator=stream("cpu", 0, "attack", 4),
    )
    assert torch.equal(starts(images)[4:8], expected)


# --- answers under an attack ---------------------------------------------------------------------


def test_without_random_starts_the_unit_changes_rounding_only(images):
    attack = AttackRecipe("pgd", LINF, 10, 0.02)
    network = shipped("pgd-linf-at")
    answers = [predictions(network, images[0], images[1], attack, unit=size) for size in (1, 5, 12)]
    # A sign that rounding turned may send an image another way: one of twelve at most.
    assert max((answers[0] != other).sum().item() for other in answers) <= 1


def test_the_same_attack_twice_is_the_same_answers(images):
    attack = AttackRecipe("pgd", LINF, 5, 0.02, random_start=True, restarts=2)
    network = shipped("pgd-linf-at")
    one, other = (predictions(network, images[0], images[1], attack, unit=4) for _ in range(2))
    assert torch.equal(one, other)
