"""Explorers of notebooks 01 to 03: what they show is what the library's attacks do."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.attacks.ascent import loss_gradient
from rvlib.course.explorer import MOST_FRAMES
from rvlib.course.explorers import explore_fgsm, explore_pgd, explore_training
from rvlib.course.explorers import fgsm as fgsm_room
from rvlib.course.explorers import pgd as pgd_room
from rvlib.course.explorers.pgd import BALLS, EDGE, LEVELS, PORTIONS, SIDE, Plane, walk
from rvlib.course.explorers.training import BALLS as TRAINED_BALLS
from rvlib.course.explorers.training import MULTIPLES, TRAINED
from rvlib.course.lessons import answers
from rvlib.data import CLASSES
from rvlib.profiles import PROFILES
from rvlib.recipes import PGD_STEPS
from rvlib.stages.measure import Place
from rvlib.stages.run import Run
from rvlib.threat_models import Linf

COUNT = 12


def network(name):
    """Make a bent network of its own for each name, sure enough of its answers to be attacked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        first, second = nn.Linear(3072, 20), nn.Linear(20, 10)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.15)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)


class Bent(Run):
    """A run on random pictures, labelled as the undefended network reads them; two by others."""

    def model(self, name, seed=0):
        return network(name)

    def images(self, count, split="heldout"):
        generator = torch.Generator().manual_seed(0)
        x = 0.2 + 0.6 * torch.rand(COUNT, 3, 32, 32, generator=generator)
        y = answers(network("standard"), x)
        y[-2:] = (y[-2:] + 1) % 10
        return x[:count], y[:count]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    profile = replace(PROFILES["smoke"], heldout=COUNT)
    return Bent(profile, Place(folder, folder / "rows", torch.device("cpu")), folder)


def said(explorer, **values):
    """The sentence of one frame; knobs that are not named stand at their start."""
    starts = {knob.name: knob.values[knob.start] for knob in explorer._knobs}
    assert values.keys() <= starts.keys()
    return explorer._draw(**starts | values)


def number(before, sentence):
    """The number that follows some words."""
    found = re.search(before + r"(-?[\d.]*\d(?:e-\d+)?)", sentence)
    assert found, (before, sentence)
    return float(found[1])


def probability(model, x, label):
    with torch.no_grad():
        return 100 * model(x[None]).softmax(1)[0, label].item()


def loss(model, x, y):
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def accuracy(model, x, y):
    return 100 * (answers(model, x) == y).double().mean().item()


def picture(explorer, k):
    """The k-th picture of the frame that was drawn last: (3, H, W)."""
    images = [artist for artist in explorer._picture.moving if hasattr(artist, "get_array")]
    pictures = [image for image in images if image.get_array().shape == (32, 32, 3)]
    return torch.tensor(np.asarray(pictures[k].get_array())).permute(2, 0, 1)


@pytest.mark.parametrize("explore", [explore_fgsm, explore_pgd, explore_training])
def test_every_knob_moves_the_picture_and_the_twin_is_small(run, explore):
    explorer = explore(run)
    starts = [knob.start for knob in explorer._knobs]
    first = explorer._frame(starts)
    for k, knob in enumerate(explorer._knobs):
        moved = [*starts]
        moved[k] = next(i for i in range(len(knob.values)) if i != knob.start)
        pixels, words = explorer._frame(moved)
        assert (pixels != first[0]).any(), knob.name
        assert words != first[1], knob.name
    pixels, words = explorer._frame(starts)
    assert (pixels == first[0]).all()
    assert words == first[1]
    assert np.prod([len(knob.shown) for knob in explorer._knobs]) <= MOST_FRAMES


# --- 01: one step --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_step(run):
    return explore_fgsm(run)


@pytest.mark.parametrize("k", range(len(fgsm_room.RADII)))
def test_it_shows_fgsm(run, one_step, k):
    eps = fgsm_room.RADII[k]
    model, (x, y) = run.model("standard"), run.images(COUNT)
    x_adv = fgsm(model, x, y, Linf(eps))
    sentence = said(one_step, picture=1, eps=eps)
    label = int(y[1])
    assert number(f"{CLASSES[label]}, ", sentence) == pytest.approx(
        probability(model, x_adv[1], label), abs=0.06
    )
    assert number("clean ", sentence) == pytest.approx(probability(model, x[1], label), abs=0.06)
    assert number("it reads ", sentence) == pytest.approx(accuracy(model, x_adv, y), abs=0.51)
    assert torch.allclose(picture(one_step, 0), x[1])
    assert torch.allclose(picture(one_step, 2), x_adv[1], atol=1e-6)
    change = (x_adv[1] - x[1]) / (2 * eps) if eps else torch.zeros(3, 32, 32)
    assert torch.allclose(picture(one_step, 1), 0.5 + change, atol=1e-4)


# --- 02: many steps ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_steps(run):
    return explore_pgd(run)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("eps", pgd_room.RADII)
@pytest.mark.parametrize("portion", PORTIONS)
@pytest.mark.parametrize("step", [0, 1, PGD_STEPS])
def test_it_shows_pgd(run, many_steps, norm, eps, portion, step):
    model, (x, y) = run.model("standard"), run.images(1)
    threat = BALLS[norm](eps)
    stops = {0: x} | {
        steps: pgd(model, x, y, threat, steps=steps, step_size=portion * eps, random_start=False)
        for steps in (1, PGD_STEPS)
    }
    sentence = said(many_steps, norm=norm, eps=eps, portion=portion, step=step)
    assert number(": loss ", sentence) == pytest.approx(loss(model, stops[step], y), abs=0.006)
    assert number("clean ", sentence) == pytest.approx(loss(model, x, y), abs=0.006)
    leap = fgsm(model, x, y, threat)
    assert number("FGSM ", sentence) == pytest.approx(loss(model, leap, y), abs=0.006)
    delta, largest = stops[step] - x, (stops[PGD_STEPS] - x).abs().max()
    assert number("of the change: ", sentence) == pytest.approx(delta.norm().item(), abs=0.006)
    level = 0.51 / 15  # the explorer shows 16 levels of a colour
    assert torch.allclose(picture(many_steps, 0), stops[step][0], atol=level)
    change = 0.5 + delta[0] / (2 * largest)
    assert torch.allclose(picture(many_steps, 1), change, atol=level)


def plane(threat, generator):
    x = 0.5 + 0 * torch.rand(1, 3, 8, 8)
    along = threat.eps * threat.steepest(torch.randn(x.shape, generator=generator))
    return Plane.through(x, along, torch.randn(x.shape, generator=generator))


@pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
def test_the_rim_is_where_the_norm_is_epsilon(ball):
    threat = ball(0.1)
    found = plane(threat, torch.Generator().manual_seed(0))
    rim = found.rim(threat, points=40)
    norms = threat.norm(found.images(rim) - found.x)
    assert torch.allclose(norms, torch.full_like(norms, 0.1), rtol=1e-4)
    assert torch.allclose(rim[0], torch.tensor([1.0, 0.0]), atol=1e-4)  # the steepest direction


def test_a_plane_knows_its_points_again():
    threat = BALLS["l∞"](0.1)
    found = plane(threat, torch.Generator().manual_seed(1))
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.3, -0.8]])
    assert torch.allclose(found.places(found.images(places)), places, atol=1e-5)
    assert (found.along * found.across).sum().abs() < 1e-5  # at a right angle
    assert torch.allclose(found.along.norm(), found.across.norm())


def test_a_landscape_is_the_loss(run):
    model, (x, y) = run.model("standard"), run.images(1)
    threat, generator = BALLS["l2"](0.5), torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator)
    found = walk(model, x, y, threat, 0.1, noise)
    with torch.no_grad():
        gradient = loss_gradient(model, x, y)
    across = noise - gradient * (gradient * noise).sum() / (gradient * gradient).sum()
    edge = EDGE * 0.5
    for row, column, a, b in (
        (0, 0, -edge, -edge),
        (0, SIDE - 1, edge, -edge),
        (SIDE - 1, 0, -edge, edge),
        (SIDE - 1, SIDE - 1, edge, edge),
    ):
        there = x + a * gradient / gradient.norm() + b * across / across.norm()
        true = max(loss(model, there.clamp(0, 1), y), LEVELS[0] / 2)
        assert found.landscapes[0][row, column] == pytest.approx(true, rel=0.02)


def test_the_second_plane_holds_the_end_of_the_path(run):
    model, (x, y) = run.model("standard"), run.images(1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = walk(model, x, y, BALLS["l2"](0.5), 0.2, noise)
    with torch.no_grad():
        gradient = loss_gradient(model, x, y)
    length = (found.stops[-1:] - x).norm().item()
    assert np.linalg.norm(found.paths[1][-1]) == pytest.approx(length / 0.5, rel=1e-4)
    along = ((found.stops[-1:] - x) * gradient).sum() / gradient.norm() / 0.5
    assert found.paths[1][-1][0] == pytest.approx(along.item(), rel=1e-3)


# --- 03: every network in every ball -------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(run):
    return explore_training(run)


def stands(model, x, y, balls):
    """Whether each image is read rightly, and every iterate of PGD in each of these balls."""
    right = answers(model, x) == y
    for ball in balls:
        for t in range(1, 11):
            attacked = pgd(model, x, y, ball, steps=t, step_size=ball.eps / 4, random_start=False)
            right &= answers(model, attacked) == y
    return right


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("norm", TRAINED_BALLS)
def test_its_accuracies_are_those_under_pgd(run, trained, name, norm):
    x, y = run.images(COUNT)
    for multiple in (0.0, 0.5, 2.0):
        sentence = said(trained, trained=name, norm=norm, multiple=multiple)
        for words, model in (("training\\): ", name), ("undefended ", "standard")):
            ball = TRAINED_BALLS[norm]
            balls = [type(ball)(m * ball.eps) for m in MULTIPLES if 0 < m <= multiple]
            right = stands(run.model(model), x, y, balls)
            percent = 100 * right.double().mean().item()
            assert number(words, sentence) == pytest.approx(percent, abs=0.51)
        assert number("ε = ", sentence) == pytest.approx(multiple * TRAINED_BALLS[norm].eps)
