"""rvlib.attacks.fgsm: one step of full length."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm, pgd
from rvlib.threat_models import Linf


def test_it_is_one_step_of_length_eps_along_the_steepest_direction(threat, toy, batch):
    x, y = batch
    toy.eval()
    x_grad = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(F.cross_entropy(toy(x_grad), y), x_grad)
    expected = (x + threat.eps * threat.steepest(grad)).clamp(0, 1)
    torch.testing.assert_close(fgsm(toy, x, y, threat), expected)


def test_it_is_pgd_of_one_step_from_the_image(threat, toy, batch):
    x, y = batch
    expected = pgd(toy, x, y, threat, steps=1, step_size=threat.eps, random_start=False)
    assert torch.equal(fgsm(toy, x, y, threat), expected)


def test_optimum_of_a_linear_network_exactly(threat, linear):
    model, normal = linear
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    threat = dataclasses.replace(threat, eps=0.05)
    for label, sign in ((0, 1), (1, -1)):
        x_adv = fgsm(model, x, torch.tensor([label]), threat)
        torch.testing.assert_close(x_adv, x + sign * 0.05 * threat.steepest(normal))


def test_pixels_move_by_eps_or_to_the_wall(toy, batch):
    x, y = batch
    moved = (fgsm(toy, x, y, Linf(0.1)) - x).abs()
    room = torch.minimum(x, 1 - x)
    assert ((moved - 0.1).abs() < 1e-6).sum() > 0.5 * x.numel()
    assert ((moved - 0.1).abs() < 1e-6)[room > 0.1].all()


def test_a_flat_loss_leaves_the_image(batch):
    """Without a gradient there is no direction: nothing, not NaN."""
    x, y = batch
    layer = torch.nn.Linear(48, 3)
    torch.nn.init.zeros_(layer.weight)
    flat = torch.nn.Sequential(torch.nn.Flatten(), layer)
    assert torch.equal(fgsm(flat, x, y, Linf(0.1)), x)


def test_it_takes_no_options(toy, batch):
    x, y = batch
    with pytest.raises(TypeError):
        fgsm(toy, x, y, Linf(0.1), steps=2)  # type: ignore[call-arg]
