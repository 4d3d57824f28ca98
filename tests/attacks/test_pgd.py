"""rvlib.attacks.fgsm and pgd: the papers' iterations, known optima, restarts, targets."""

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import log_odds, margin
from rvlib.threat_models import Linf
from tests.networks import Recorder, Scaled, fgsm, pgd, seeded, targeted_dlr, towards

# ---- one step, several steps ------------------------------------------------------------------


def test_fgsm_is_one_step_of_length_eps_along_the_steepest_direction(threat, toys, batch):
    x, y = batch
    toy = toys().eval()
    x_grad = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(toy(x_grad), y), x_grad)
    expected = (x + threat.eps * threat.steepest(grad)).clamp(0, 1)
    torch.testing.assert_close(fgsm(toy, x, y, threat), expected)
    options = {"steps": 1, "step_size": threat.eps, "random_start": False}
    for loss in (log_odds, margin):
        one = pgd(toy, x, y, threat, **options, loss=loss)
        torch.testing.assert_close(fgsm(toy, x, y, threat, loss=loss), one, rtol=0, atol=1e-7)


def test_the_iteration_is_the_papers(threat, toys, batch):
    """Written out anew, gradient of one image at a time, in double precision."""
    x, y = batch[0].double(), batch[1]
    toy = toys().double().eval()
    eta = 0.4 * threat.eps
    expected = []
    for image, label in zip(x.split(1), y, strict=True):
        x_t = image
        for _ in range(4):
            x_t = x_t.requires_grad_()
            (grad,) = torch.autograd.grad(-F.log_softmax(toy(x_t), 1)[0, label], x_t)
            x_t = x_t.detach() + eta * threat.steepest(grad)
            x_t = (image.detach() + threat.project(x_t - image.detach())).clamp(0, 1)
        expected.append(x_t)
    x_adv = pgd(toy, x, y, threat, steps=4, step_size=eta, random_start=False)
    torch.testing.assert_close(x_adv, torch.cat(expected), rtol=0, atol=1e-9)


def test_every_iterate_is_in_the_ball_and_the_box_from_the_start_on(threat, toys, batch):
    x, y = batch
    recorder = Recorder(toys())
    pgd(recorder, x, y, threat, steps=6, step_size=threat.eps, generator=seeded())
    assert len(recorder.seen) == 6
    assert torch.equal(recorder.seen[0], (x + threat.sample(x, seeded())).clamp(0, 1))
    for x_t in recorder.seen:
        assert (threat.norm(x_t - x) <= threat.eps * (1 + 1e-5)).all()
        assert x_t.min() >= 0
        assert x_t.max() <= 1


def test_defaults_are_ten_steps_of_a_quarter_eps(threat, toys, batch):
    x, y = batch
    for steps, given in ((10, {}), (5, {"steps": 5})):
        options = {"steps": steps, "step_size": 2.5 * threat.eps / steps, "restarts": 1}
        expected = pgd(toys(), x, y, threat, **options, random_start=True, generator=seeded())
        assert torch.equal(pgd(toys(), x, y, threat, **given, generator=seeded()), expected)


# ---- known optima ------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize("label", [0, 1])
def test_the_optimum_of_a_linear_network(attack, label, threat, linear):
    """Two classes: the loss of class 0 rises along w_1 - w_0, so the optimum is one step."""
    model, normal = linear
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)  # the box is out of reach
    threat = dataclasses.replace(threat, eps=0.05)
    options = {} if attack is fgsm else {"random_start": False}
    x_adv = attack(model, x, torch.tensor([label]), threat, **options)
    optimum = x + (1 - 2 * label) * 0.05 * threat.steepest(normal)
    torch.testing.assert_close(x_adv, optimum)


# ---- restarts ---------------------------------------------------------------------------------


class Flat(nn.Module):
    """Constant logits on either side of 0.5: an attack ends where it started.

    Class 0 loses on the left by a hair (loss 0.71); on the right it wins with the higher
    loss (1.08), because three classes share the probability.
    """

    def forward(self, x):
        left = torch.tensor([0.49, 0.51, 1e-9]).log()
        right = torch.tensor([0.34, 0.33, 0.33]).log()
        pixel = x.flatten(1)  # (B, 1)
        return torch.where(pixel < 0.5, left, right) + 0 * pixel


ONE_PIXEL = torch.full((16, 1, 1, 1), 0.5), torch.zeros(16, dtype=torch.int64)


class Slope(nn.Module):
    """Class 0 wins everywhere, to the right by less; no gradient."""

    def forward(self, x):
        pixel = x.flatten(1).detach()
        return torch.cat([2 - pixel, 0 * pixel], 1) + 0 * x.flatten(1)


class Corners(nn.Module):
    """Three classes by the place of one pixel: 1 below 0.3, 2 above 0.7, else 0."""

    def forward(self, x):
        pixel = x.flatten(1).detach()
        logits = torch.cat([0.2 - (pixel - 0.5).abs(), 0.3 - pixel + 0.01, pixel - 0.7 + 0.01], 1)
        return logits + 0 * x.flatten(1)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize(
    ("model", "targets"),
    [
        *[(Flat(), None), (Corners(), torch.tensor([1, 2] * 8))],
        # At a scale of 20 cross-entropies are of e^-20, which rounds to zero.
        *[(Scaled(Slope(), scale), None) for scale in (1, 20)],
    ],
)
def test_restarts_keep_what_fools_first_else_the_highest_loss(model, targets, batch_size):
    x, y = ONE_PIXEL
    attack = partial(pgd, x=x, y=y, threat=Linf(0.5), steps=1, batch_size=batch_size)
    if targets is not None:
        attack = partial(attack, loss=towards, targets=targets)
    generator, runs, harm = seeded(), [], []
    for _ in range(8):
        runs.append(attack(model, generator=generator))
        z = model(runs[-1])
        fools = z.argmax(1) != y if targets is None else z.argmax(1) == targets
        loss = log_odds(z, y) if targets is None else towards(z, y, targets)
        harm.append(torch.where(fools, torch.inf, loss))
    chosen = torch.stack(harm).argmax(0)
    recorder = Recorder(model)
    best = attack(recorder, restarts=8, generator=seeded())
    assert torch.equal(best, torch.stack(runs)[chosen, torch.arange(16)])
    assert len(set(chosen.tolist())) > 1  # image by image
    left = torch.stack(harm).cummax(0).values < torch.inf  # go on to the next run
    assert sum(map(len, recorder.seen)) == 16 + left[:-1].sum()


def test_restarts_draw_alike_whoever_has_fallen(batch):
    """Ranks of a training, each with images of its own, draw from generators in one state."""
    x = batch[0]
    model, states = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), []
    for labels in (model(x).argmin(1), model(x).argmax(1)):  # all wrong to begin with, all right
        generator = seeded()
        pgd(model, x, labels, Linf(1e-4), steps=1, restarts=3, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


# ---- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [towards, targeted_dlr])
def test_targeted_attacks_reach_their_targets(loss, batch):
    x = batch[0]
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, bias=False))
    with torch.no_grad():  # each class has twelve pixels of its own, which a target makes white
        model[1].weight.copy_(torch.eye(4).repeat_interleave(12, 1))
    y = model(x).argmax(1)
    for shift in (1, 2, 3):
        targets = (y + shift) % 4
        x_adv = pgd(model, x, y, Linf(1.0), loss=loss, targets=targets, generator=seeded())
        assert (towards(model(x_adv), y, targets) > 0).all()
        assert loss is targeted_dlr or torch.equal(model(x_adv).argmax(1), targets)
