"""rvlib.grid_noise: the law is that of a rounded Gaussian, and every sum is exact."""

import math

import mpmath
import pytest
import torch
from scipy.stats import chi2, norm
from torch import nn

from rvlib.grid_noise import BITS, GUIDE_BITS, UNSURE, _tables, grid_noise, to_grid
from rvlib.models import LeNet
from rvlib.smoothing import certify, certify_at, predict, sample_under_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the law -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.001, 0.12, 0.25, 1.0])
def test_it_has_the_law_of_the_rounded_gaussian(sigma):
    n = 400_000
    noise = grid_noise((n,), sigma, generator())
    scale = 255 * sigma
    edge = max(1, int(2.5 * scale))
    steps = torch.arange(-edge, edge + 1)
    upper, lower = (norm.cdf((steps.double() + half) / scale) for half in (0.5, -0.5))
    expected = n * torch.tensor(upper - lower)
    expected = torch.cat([expected, n - expected.sum(keepdim=True, dim=0)])
    within = noise.abs() <= edge
    counts = torch.bincount((noise[within] + edge).long(), minlength=2 * edge + 1).double()
    counts = torch.cat([counts, (~within).sum()[None].double()])
    enough = expected > 10
    statistic = ((counts - expected)[enough] ** 2 / expected[enough]).sum().item()
    # Beyond that value once in ten thousand seeds; here the seed is fixed.
    assert statistic < chi2.isf(1e-4, int(enough.sum()))


@pytest.mark.parametrize("sigma", [1e-4, 1e-9, 1e-300])
def test_noise_far_below_a_step_is_none(sigma):
    assert not grid_noise((1000,), sigma, generator()).any()
    assert _tables(sigma)[0].diff().min() >= 0


def test_the_thresholds_are_exact():
    thresholds, _ = _tables(0.25)
    reach = len(thresholds) // 2
    for k in (-reach, -64, -1, 0, 63, 200, reach - 1):
        with mpmath.workdps(60):
            p = mpmath.quad(
                lambda t: mpmath.exp(-(t**2) / 2) / mpmath.sqrt(2 * mpmath.pi),
                [0, mpmath.mpf(2 * k + 1) / (2 * 255 * mpmath.mpf("0.25"))],
            )
            exact = int(mpmath.floor((p + mpmath.mpf(1) / 2) * 2**BITS))
        assert abs(int(thresholds[k + reach]) - exact) <= 1, k


def test_the_table_and_the_comparison_agree():
    thresholds, guide = _tables(0.12)
    uniform = torch.empty(200_000, dtype=torch.int64).random_(generator=generator())
    compared = torch.bucketize(uniform, thresholds, right=True)
    looked_up = guide[uniform >> (BITS - GUIDE_BITS)]
    sure = looked_up != UNSURE
    assert torch.equal(looked_up[sure].long(), compared[sure])
    assert 0 < (~sure).double().mean() < 0.05
    noise = grid_noise((200_000,), 0.12, generator())
    assert torch.equal(noise, (compared - len(thresholds) // 2).float())


@pytest.mark.parametrize("end", [0, 2**BITS - 1])
def test_the_ends_are_in_reach(end, monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "random_", lambda self, generator=None: self.fill_(end), raising=True
    )
    noise = grid_noise((3,), 0.25, generator())
    assert noise.abs().min() == len(_tables(0.25)[0]) // 2 >= 9 * 0.25 * 255


def test_it_is_symmetric_and_of_the_right_spread():
    noise = grid_noise((1_000_000,), 0.25, generator(1)).double() / 255
    assert abs(noise.mean()) < 5 * 0.25 / 1000
    # Rounding adds a twelfth of a squared step.
    variance = 0.25**2 + 1 / (12 * 255**2)
    assert abs(noise.var() / variance - 1) < 5 * math.sqrt(2 / 1e6)


# --- the grid ------------------------------------------------------------------------------------


def test_stored_images_are_on_the_grid():
    stored = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_grid(stored.float() / 255), stored.float())


def test_an_image_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"off the grid.*round to 8 bits"):
        to_grid(torch.full((1, 1, 2, 2), 0.3001))


class Seen(nn.Module):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x.flatten(1)[:, :2]


@pytest.fixture
def stored():
    return torch.randint(256, (3, 3, 4, 4), generator=generator()).float() / 255


def test_the_network_sees_a_function_of_the_whole_number_alone(stored):
    """Two images that reach the same noisy image are the same to the network, bit by bit."""
    seen = Seen()
    sample_under_noise(seen, stored, 0.25, 2000, sound=True, batch_size=300)
    pixels = torch.cat(seen.seen).flatten()
    whole = (pixels.double() * 255).round()
    assert torch.equal(pixels, whole.float() / 255)
    # The ordinary sampler's noisy images hold thousands of values besides.
    ordinary = Seen()
    sample_under_noise(ordinary, stored, 0.25, 2000, batch_size=300)
    pixels = torch.cat(ordinary.seen).flatten()
    assert not torch.equal(pixels, (pixels * 255).round() / 255)


def test_sound_votes_have_the_ordinary_law(stored):
    n = 20_000
    sound, ordinary = (
        sample_under_noise(Seen(), stored, 0.25, n, sound=flag)[:, 0] for flag in (True, False)
    )
    # Five standard deviations of the difference of two binomial counts.
    assert (sound - ordinary).abs().max() < 5 * math.sqrt(2 * n / 4)


def test_all_three_algorithms_can_be_sound():
    model = LeNet().eval()
    x = torch.randint(256, (2, 3, 32, 32), generator=generator()).float() / 255
    assert predict(model, x, 0.25, n=100, sound=True).shape == (2,)
    assert certify(model, x, 0.25, n=100, sound=True).radius.shape == (2,)
    assert certify_at(model, x, 0.0, 0.25, most=100, sound=True).votes.shape == (2,)
    with pytest.raises(ValueError, match="off the grid"):
        certify(model, x * 0.999, 0.25, n=100, sound=True)


def test_counts_do_not_depend_on_batch_or_company(stored):
    whole = sample_under_noise(Seen(), stored, 0.25, 500, sound=True)
    for batch_size in (100, 250):
        again = sample_under_noise(Seen(), stored, 0.25, 500, sound=True, batch_size=batch_size)
        assert torch.equal(again, whole)
    alone = sample_under_noise(Seen(), stored[1:2], 0.25, 500, sound=True)
    assert torch.equal(alone, whole[1:2])
    own = sample_under_noise(Seen(), stored, 0.25, 500, sound=True, image_ids=range(3))
    assert not torch.equal(own, whole)
