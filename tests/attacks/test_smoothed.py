"""rvlib.attacks.smoothed: the attack on the vote."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import pgd, smoothed_pgd
from rvlib.threat_models import L2, Linf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorder(nn.Module):
    """A linear network that keeps what it was shown."""

    def __init__(self, pixels):
        super().__init__()
        self.layer = nn.Linear(pixels, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layer(x.flatten(1))


def test_without_noise_to_speak_of_it_is_pgd(threat, toy, batch):
    x, y = batch[0].double(), batch[1]
    toy = toy.double()
    expected = pgd(toy, x, y, threat, steps=5, random_start=False)
    x_adv = smoothed_pgd(toy, x, y, threat, sigma=1e-9, draws=3, steps=5, generator=seeded())
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_optimum_of_a_linear_network_exactly(threat, linear, sigma):
    """Noise changes how steep the loss is, never the direction w_1 - w_0 it rises in."""
    model, normal = linear
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    threat = dataclasses.replace(threat, eps=0.05)
    for label, sign in ((0, 1), (1, -1)):
        y = torch.tensor([label])
        x_adv = smoothed_pgd(model, x, y, threat, sigma=sigma, generator=seeded())
        torch.testing.assert_close(x_adv, x + sign * 0.05 * threat.steepest(normal))


def test_step_follows_the_log_of_the_mean_probability(toy, batch):
    """Not the mean of the logs, which would attack a typical copy instead of the vote."""
    x, y = batch[0][:1].double(), batch[1][:1]
    toy = toy.double()
    seen = []
    hook = toy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    options: dict[str, Any] = {
        "sigma": 1.0,
        "draws": 6,
        "steps": 1,
        "step_size": 0.1,
        "generator": seeded(),
    }
    x_adv = smoothed_pgd(toy, x, y, L2(0.1), **options)
    hook.remove()
    noise = seen[0] - x  # (6, 3, 4, 4)
    x_grad = x.clone().requires_grad_(True)
    probability = F.softmax(toy.eval()(x_grad + noise), 1)[:, y[0]]
    (wanted,) = torch.autograd.grad(-probability.mean().log(), x_grad, retain_graph=True)
    (other,) = torch.autograd.grad(-probability.log().mean(), x_grad)
    expected, wrong = ((x + 0.1 * L2(1).steepest(g)).clamp(0, 1) for g in (wanted, other))
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-9)
    assert (wrong - expected).abs().max() > 1e-5  # the test can tell them apart


def test_noise_is_gaussian_fresh_at_every_step_and_unclipped():
    x, y = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    recorder = Recorder(192)
    # A radius of nearly nothing: what the network sees is the noise.
    smoothed_pgd(recorder, x, y, Linf(1e-9), sigma=0.25, draws=8, steps=3, generator=seeded())
    assert [len(copies) for copies in recorder.seen] == [32, 32, 32]
    noise = torch.stack(recorder.seen)  # (3, 32, 3, 8, 8)
    assert len(noise.flatten(0, 1).flatten(1).unique(dim=0)) == 96  # no draw used twice
    n = noise.numel()
    # Five standard errors of the mean and of the variance of n normal deviates.
    assert abs(noise.mean()) < 5 * 0.25 / n**0.5
    assert abs(noise.var() / 0.25**2 - 1) < 5 * (2 / n) ** 0.5
    assert noise.min() < -0.75  # clipped pixels would end at 0


def test_each_image_meets_its_own_label(batch):
    """Copies of one image stand together: image i's probability is of label i."""
    layer = nn.Linear(48, 3)
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.full((3, 3, 4, 4), 0.5)
    y = torch.tensor([0, 1, 2])
    x_adv = smoothed_pgd(model, x, y, L2(0.5), sigma=0.01, draws=5, generator=seeded())
    with torch.no_grad():
        before = F.cross_entropy(model(x), y, reduction="none")
        after = F.cross_entropy(model(x_adv), y, reduction="none")
        # As far as one exact step along each image's own gradient would get, nearly.
        reached = pgd(model, x, y, L2(0.5), random_start=False)
        best = F.cross_entropy(model(reached), y, reduction="none")
    assert (after - before > 0.9 * (best - before)).all()


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": -1.0}, {"sigma": 0.1, "draws": 0}])
def test_noise_that_is_none_is_refused(toy, batch, options):
    x, y = batch
    with pytest.raises(ValueError, match=r"^(sigma|draws)=") as refusal:
        smoothed_pgd(toy, x, y, L2(0.5), **options)
    assert "\n" not in str(refusal.value)
