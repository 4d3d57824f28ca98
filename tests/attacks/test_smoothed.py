"""rvlib.attacks.smoothed: the attack on the vote."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import pgd, smoothed_pgd
from rvlib.threat_models import L2, Linf
from tests.networks import Wrapped, seeded


@pytest.fixture
def seen(toy):
    """Collect what the network is shown while gradients are on."""
    seen: list[torch.Tensor] = []

    def hook(_, inputs):
        if torch.is_grad_enabled():
            seen.append(inputs[0].detach().clone())

    toy.register_forward_pre_hook(hook)
    return seen


def test_without_noise_to_speak_of_it_is_pgd(threat, toy, batch):
    x, y = batch[0].double(), batch[1]
    toy = toy.double()
    expected = pgd(toy, x, y, threat, steps=5, random_start=False)
    x_adv = smoothed_pgd(toy, x, y, threat, sigma=1e-9, draws=3, steps=5, generator=seeded())
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("scale", [1, 1e6])
def test_the_optimum_of_a_linear_network_exactly(threat, linear, sigma, scale):
    """Noise changes how steep the loss is, never the direction w_1 - w_0 it rises in."""
    model, normal = linear
    with torch.no_grad():
        model[1].weight.mul_(scale)  # so sure that probabilities round to 1
    x = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
    threat = dataclasses.replace(threat, eps=torch.tensor([0.05, 0.02], dtype=torch.float64))
    x_adv = smoothed_pgd(model, x, torch.tensor([0, 1]), threat, sigma=sigma, generator=seeded())
    signed = torch.tensor([0.05, -0.02])[:, None, None, None]
    optimum = x + signed.double() * threat.steepest(normal)
    torch.testing.assert_close(x_adv, optimum, atol=1e-7, rtol=0)


def test_a_step_follows_the_log_of_the_mean_probability(toy, batch, seen):
    """Not the mean of the logs, which would attack a typical copy instead of the vote."""
    x, y = batch[0].double(), batch[1]
    toy = toy.double()
    options: dict[str, Any] = {"sigma": 1.0, "draws": 6, "steps": 1, "step_size": 0.1}
    x_adv = smoothed_pgd(toy, x, y, L2(0.1), **options, generator=seeded())
    noise = seen[0] - x.repeat_interleave(6, 0)  # copies of one image stand together
    x_grad = x.clone().requires_grad_()
    logits = toy.eval()(x_grad.repeat_interleave(6, 0) + noise)
    probability = F.softmax(logits, 1).view(4, 6, 3)[torch.arange(4), :, y]
    (wanted,) = torch.autograd.grad(-probability.mean(1).log().sum(), x_grad, retain_graph=True)
    (other,) = torch.autograd.grad(-probability.log().mean(1).sum(), x_grad)
    expected, wrong = ((x + 0.1 * L2(1).steepest(g)).clamp(0, 1) for g in (wanted, other))
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-9)
    assert (wrong - expected).abs().max() > 1e-5  # the test can tell them apart


def test_noise_is_gaussian_fresh_at_every_step_and_unclipped(toy, batch, seen):
    # A radius of nearly nothing: what the network sees is the images and the noise.
    x, y = batch
    smoothed_pgd(toy, x, y, Linf(1e-6), sigma=0.25, draws=40, steps=3, generator=seeded())
    assert [len(copies) for copies in seen] == [160, 160, 160]
    noise = torch.stack(seen) - x.repeat_interleave(40, 0)  # (3, 160, 3, 4, 4)
    n = noise.numel()
    # Five standard errors of the mean and of the variance of n normal deviates.
    assert abs(noise.mean()) < 5 * 0.25 / n**0.5
    assert abs(noise.var() / 0.25**2 - 1) < 5 * (2 / n) ** 0.5
    assert min(copies.min() for copies in seen) < -0.5
    # No draw twice: two of 48 pixels lie sqrt(2 * 48) sigma apart, by far more than half of that.
    assert torch.pdist(noise.flatten(0, 1).flatten(1)).min() > 0.5 * 0.25 * 96**0.5


@pytest.mark.parametrize("after", [nn.Identity(), nn.Linear(48, 3)], ids=["none", "of the weights"])
def test_where_no_gradient_leads_to_the_image_it_stays(after):
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    model = Wrapped(nn.Sequential(nn.Flatten(), after), lambda x: 2 * x.detach())
    assert torch.equal(smoothed_pgd(model, x, y, L2(0.5), sigma=0.25, steps=2), x)
