"""rvlib.course.short_training: drawn as it goes, found again, unbroken by a kill."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.course import short_training
from rvlib.course.explorers import explore_mixing
from rvlib.course.lessons import answers
from rvlib.course.short_training import (
    COLLAPSE_BALL,
    Plan,
    along_the_step,
    compare_alphas,
    one_layer,
    train_shortly,
    train_to_collapse,
)
from rvlib.objectives import adversarial, standard
from rvlib.profiles import PROFILES
from rvlib.recipes import AttackRecipe
from rvlib.stages.measure import Place
from rvlib.stages.run import Run
from rvlib.threat_models import Linf

COUNT = 24
NATURAL, STEP = AttackRecipe("natural"), AttackRecipe("step", Linf(0.05))


def pictures(seed):
    """Bytes whose class is where they are bright: a linear network learns it at once."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (200,), generator=generator)
    images = torch.randint(60, 190, (200, 3, 32, 32), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 3] += 60
    return images.to(torch.uint8), labels


def linear():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


class Small(Run):
    def model(self, name, seed=0):
        return linear().eval()

    def images(self, count, split="heldout"):
        images, labels = pictures(1)
        return images[:count] / 255, labels[:count]


class Screen:
    """What a notebook would show: every picture's words."""

    def __init__(self):
        self.shown = []

    def update(self, picture):
        self.shown.append(picture.alt)


@pytest.fixture
def screen(monkeypatch):
    found = Screen()

    def display(picture, display_id):
        assert display_id
        found.update(picture)
        return found

    monkeypatch.setattr(short_training, "display", display)
    monkeypatch.setattr(short_training, "load_cifar10", lambda split: pictures(0))
    return found


@pytest.fixture
def run(tmp_path):
    profile = replace(PROFILES["smoke"], heldout=COUNT)
    return Small(profile, Place(tmp_path, tmp_path / "rows", torch.device("cpu")), tmp_path)


@pytest.fixture
def plan():
    return Plan(
        "toy",
        linear,
        {"clean": standard, "attacked": adversarial(STEP, 0.0)},
        (NATURAL, STEP),
        images=96,
        epochs=3,
        batch_size=32,
        lr=0.01,
    )


def weights(training):
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def test_every_epoch_is_measured_and_shown(run, plan, screen):
    found = train_shortly(run, plan)
    assert [training.name for training in found] == ["clean", "attacked"]
    x, y = run.images(COUNT)
    for training in found:
        assert len(training.history) == 1 + plan.epochs
        for model, entry in (
            (linear(), training.history[0]),
            (training.model, training.history[-1]),
        ):
            assert not training.model.training
            for name, x_adv in (("natural", x), ("step", fgsm(model, x, y, Linf(0.05)))):
                right = 100 * (answers(model, x_adv) == y).double().mean().item()
                assert entry[name] == pytest.approx(right)
    assert found[0].history[-1]["natural"] > found[0].history[0]["natural"]
    # First an empty picture, then one an epoch; the last has both trainings in it.
    assert len(screen.shown) == 1 + 2 * plan.epochs
    assert "attacked" not in screen.shown[plan.epochs]
    for training in found:
        accuracy = training.history[-1]["natural"]
        assert f"{training.name}: natural {accuracy:.1f} %" in screen.shown[-1]


def test_the_trainings_differ_in_their_loss_only(run, plan, screen):
    twice = replace(plan, objectives={"one": standard, "two": standard})
    one, two = train_shortly(run, twice)
    assert torch.equal(weights(one), weights(two))
    clean, attacked = train_shortly(run, plan)
    assert not torch.equal(weights(clean), weights(attacked))


def test_what_was_trained_is_read_from_disk(run, plan, screen, monkeypatch):
    first = train_shortly(run, plan)
    monkeypatch.setattr("rvlib.training._epoch", None)  # training would fail
    again = train_shortly(run, plan)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(weights(one), weights(other))
        assert one.history == other.history


def test_a_broken_training_goes_on_to_the_same_end(run, plan, screen, monkeypatch, tmp_path):
    whole = train_shortly(replace(run, out=tmp_path / "other"), plan)
    calls = []

    def falls(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return entry(*arguments)

    from rvlib.training import _epoch as entry

    monkeypatch.setattr("rvlib.training._epoch", falls)
    with pytest.raises(KeyboardInterrupt):
        train_shortly(run, plan)
    resumed = train_shortly(run, plan)
    assert len(calls) == 1 + 2 * plan.epochs  # only the broken epoch was trained twice
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(weights(one), weights(other))
        assert one.history == other.history


def test_weights_of_the_clean_loss(run, screen):
    trainings = compare_alphas(run)
    assert [training.name for training in trainings] == [
        f"α = {alpha:g}" for alpha in short_training.ALPHAS
    ]
    assert all(set(t.history[0]) == {"natural", "pgd-linf"} for t in trainings)
    explorer = explore_mixing(run, trainings)
    x, y = run.images(COUNT)
    for training in trainings:
        words = explorer._draw(name=training.name, eps=0.03)
        clean = 100 * (answers(training.model, x) == y).double().mean().item()
        assert words.startswith(f"{training.name}: of {COUNT} images {clean:.1f} % are read")
        standing = answers(training.model, x) == y
        for eps in (0.005, 0.01, 0.015, 0.02, 0.03):
            for t in range(1, 11):
                ball = Linf(eps)
                x_adv = pgd(
                    training.model, x, y, ball, steps=t, step_size=eps / 4, random_start=False
                )
                standing &= answers(training.model, x_adv) == y
        assert f"still {100 * standing.double().mean().item():.1f} %." in words


def test_one_step_and_two(run, screen):
    one, two = train_to_collapse(run)
    assert (one.name, two.name) == ("trained against FGSM", "trained against PGD, 2 steps")
    assert torch.equal(one.model.get_buffer("0.mean"), two.model.get_buffer("0.mean"))
    assert set(one.history[0]) == {"FGSM", "PGD, 10 steps"}
    assert one.history[0] == two.history[0]  # the same start
    assert not torch.equal(weights(one), weights(two))
    radii, curves = along_the_step(run, [one, two])
    assert (radii[0], radii[-1]) == (0, COLLAPSE_BALL.eps)
    for training in (one, two):
        assert curves[training.name][-1] == pytest.approx(training.history[-1]["FGSM"])


def test_one_layer_sees_standardised_pixels():
    x = 0.3 + 0.1 * torch.rand(50, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = one_layer(x, seed=0)
    seen = network.get_submodule("0")(x)
    assert torch.allclose(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(seen.std((0, 2, 3)), torch.ones(3), atol=1e-4)
    assert network(x).shape == (50, 10)
    first = network.get_parameter("1.weight")
    assert torch.equal(one_layer(x, 0).get_parameter("1.weight"), first)
    assert not torch.equal(one_layer(x, 1).get_parameter("1.weight"), first)
