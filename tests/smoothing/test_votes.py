"""rvlib.smoothing.votes: the counts are right, and depend on the noise's address alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from rvlib.noise import stream
from rvlib.smoothing import certify_at, sample_under_noise


class Buckets(nn.Module):
    """Tells ten grey values of one pixel apart, by comparisons alone.

    No arithmetic, so no rounding: equal noise gives equal counts, bit by bit, in any batch, and
    the ten counts are a fingerprint of the noise.
    """

    def __init__(self, at=(0, 0, 0)):
        super().__init__()
        self.at = at
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        channel, row, column = self.at
        pixel = x[:, channel, row, column].contiguous()
        bucket = torch.bucketize(pixel, torch.linspace(0.1, 0.9, 9))
        return nn.functional.one_hot(bucket, 10).float()


class Recorder(nn.Module):
    """Keeps what it is shown; its answer is always class 0 of 2."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.grads = []
        self.modes = []

    def forward(self, x):
        self.seen.append(x.clone())
        self.grads.append(torch.is_grad_enabled())
        self.modes.append(self.training)
        return torch.stack([torch.ones(len(x)), torch.zeros(len(x))], dim=1)


@pytest.fixture
def x():
    return torch.rand(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))


def counts_of(x, n=500, sigma=0.25, **options):
    return sample_under_noise(Buckets(), x, sigma, n, **options)


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [0, 2])
def test_a_constant_classifier_gets_every_vote(x, answer):
    layer = nn.Linear(24, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.eye(3)[answer])
    counts = sample_under_noise(nn.Sequential(nn.Flatten(), layer), x, 0.5, 300)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[300 if k == answer else 0 for k in range(3)]] * 5


@pytest.mark.parametrize("n", [100, 700])
def test_every_row_sums_to_n(x, n):
    counts = counts_of(x, n)
    assert counts.shape == (5, 10)
    assert counts.sum(1).tolist() == [n] * 5
    assert (counts > 0).sum() > 30  # not one class that takes it all


def test_each_image_gets_its_own_votes():
    x = torch.tensor([0.05, 0.95, 0.45]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    # Noise far smaller than a bucket: each image stays in its own.
    counts = sample_under_noise(Buckets(), x, 1e-4, 200, batch_size=300)
    assert counts.argmax(1).tolist() == [0, 9, 4]
    assert counts.max(1).values.tolist() == [200] * 3


def test_a_network_without_parameters_will_do(x):
    assert sample_under_noise(Recorder(), x, 0.25, 100).tolist() == [[100, 0]] * 5


# --- the noise's address -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 30, 100, 250, 700, 10**6])
def test_counts_do_not_depend_on_the_batch_size(x, batch_size):
    assert torch.equal(counts_of(x, batch_size=batch_size), counts_of(x))


@pytest.mark.parametrize(
    ("images", "batch_size", "largest"), [(1, 350, 300), (2, 350, 200), (7, 350, 300), (2, 30, 30)]
)
def test_batch_size_is_kept(images, batch_size, largest):
    recorder = Recorder()
    sample_under_noise(recorder, torch.zeros(images, 3, 2, 2), 0.25, 700, batch_size=batch_size)
    sizes = [len(seen) for seen in recorder.seen]
    assert max(sizes) == largest
    assert sum(sizes) == images * 700


def test_counts_do_not_depend_on_neighbours(x):
    whole = counts_of(x)
    for i in range(5):
        assert torch.equal(counts_of(x[i : i + 1]), whole[i : i + 1])
    assert torch.equal(counts_of(x[1:4]), whole[1:4])


def test_counts_do_not_depend_on_order(x):
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(counts_of(x[order]), counts_of(x)[order])


def test_another_seed_or_purpose_is_other_noise():
    x = torch.full((1, 3, 4, 4), 0.5)
    options: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"seed": 2},
        {"purpose": "selection"},
        {"purpose": "prediction"},
        {"first": 1000},
    ]
    fingerprints = {tuple(counts_of(x, 1000, **option)[0].tolist()) for option in options}
    assert len(fingerprints) == len(options)


@pytest.mark.parametrize("batch_size", [100, 300, 10_000])
def test_images_share_their_draws_and_no_draw_comes_twice(batch_size):
    recorder = Recorder()
    sample_under_noise(recorder, torch.zeros(3, 1, 4, 4), 1.0, 500, batch_size=batch_size)
    copies = torch.cat(recorder.seen).flatten(1)
    draws, times = copies.unique(dim=0, return_counts=True)
    assert len(draws) == 500
    assert times.tolist() == [3] * 500


@pytest.mark.parametrize("cut", [100, 300, 900])
def test_parts_of_a_stream_add_up(x, cut):
    head, tail = counts_of(x, cut), counts_of(x, 1000 - cut, first=cut)
    assert torch.equal(head + tail, counts_of(x, 1000))


def test_first_leaves_out_that_many_draws(x):
    recorders = Recorder(), Recorder()
    sample_under_noise(recorders[0], x[:1], 0.25, 500, batch_size=100)
    sample_under_noise(recorders[1], x[:1], 0.25, 200, first=300, batch_size=100)
    whole, part = (torch.cat(recorder.seen) for recorder in recorders)
    assert torch.equal(part, whole[300:])


def test_the_address_is_seed_purpose_and_hundred(x):
    # Rows on disk are gone on with by address: this is part of their format.
    recorder = Recorder()
    options: dict[str, Any] = {"purpose": "votes", "seed": 3, "batch_size": 200}
    sample_under_noise(recorder, x[:1], 0.25, 200, first=100, **options)
    noise = [
        torch.empty(100, 2, 4, 3).normal_(generator=stream("cpu", 3, "votes", hundred))
        for hundred in (1, 2)
    ]
    copies = x[:1] + 0.25 * torch.cat(noise).permute(0, 3, 1, 2)
    assert torch.allclose(torch.cat(recorder.seen), copies, atol=1e-6)


def test_global_random_state_is_neither_used_nor_moved(x):
    before = torch.get_rng_state()
    counts = counts_of(x)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(counts_of(x), counts)


# --- noise of its own for each image --------------------------------------------------------------


def test_images_with_ids_have_draws_of_their_own():
    recorder = Recorder()
    ids = [4, 7, 9]
    counts = sample_under_noise(
        recorder, torch.zeros(3, 1, 4, 4), 1.0, 500, image_ids=ids, batch_size=200
    )
    assert counts.tolist() == [[500, 0]] * 3
    assert len(torch.cat(recorder.seen).flatten(1).unique(dim=0)) == 1500


def test_an_image_with_an_id_has_the_same_votes_in_any_company(x):
    whole = counts_of(x, image_ids=range(5))
    assert torch.equal(counts_of(x[[3, 1]], image_ids=[3, 1]), whole[[3, 1]])
    assert torch.equal(counts_of(x, image_ids=range(5), batch_size=100), whole)
    assert not torch.equal(counts_of(x, image_ids=range(1, 6)), whole)


def test_parts_of_a_stream_with_an_id_add_up(x):
    parts = [counts_of(x, 200, first=f, image_ids=range(5)) for f in (0, 200)]
    assert torch.equal(sum(parts), counts_of(x, 400, image_ids=range(5)))


def test_errors_of_images_with_ids_are_independent():
    # Twins: under shared noise their counts are equal, with their own they scatter apart.
    twins = torch.full((200, 3, 1, 1), 0.45)
    shared = counts_of(twins, 100)[:, 0]
    own = counts_of(twins, 100, image_ids=range(200))[:, 0].double()
    assert len(set(shared.tolist())) == 1
    p = norm.cdf((0.1 - 0.45) / 0.25)
    # The variance of 200 binomial counts, within five of its standard errors.
    assert abs(own.var() / (100 * p * (1 - p)) - 1) < 5 * math.sqrt(2 / 199)


def test_one_id_an_image(x):
    with pytest.raises(ValueError, match="3 image_ids for 5 images"):
        counts_of(x, image_ids=range(3))


# --- the noise itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.12, 0.5])
@pytest.mark.parametrize("at", [(0, 0, 0), (2, 1, 3), (1, 0, 2)], ids=str)
def test_shares_are_those_of_the_normal_distribution(sigma, at):
    n, value = 10_000, 0.4
    x = torch.rand(1, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    x[0, at[0], at[1], at[2]] = value
    counts = sample_under_noise(Buckets(at), x, sigma, n)[0]
    for i in range(9):
        p = norm.cdf(((i + 1) / 10 - value) / sigma)
        # A binomial share: beyond 5 deviations once in two million.
        assert abs(counts[: i + 1].sum() / n - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-9


def test_noise_is_centred_independent_and_of_deviation_sigma_in_every_pixel(x):
    recorder, n, sigma = Recorder(), 4000, 0.25
    sample_under_noise(recorder, x[:1], sigma, n)
    noise = ((torch.cat(recorder.seen) - x[:1]) / sigma).flatten(1).double()
    # 24 pixels; deviations 1/sqrt(n) of a mean or correlation, 1/sqrt(2n) of a deviation.
    assert noise.mean(0).abs().max() < 5 / n**0.5
    assert (noise.std(0) - 1).abs().max() < 5 / (2 * n) ** 0.5
    assert (torch.corrcoef(noise.T) - torch.eye(24)).abs().max() < 5 / n**0.5


def test_noisy_copies_are_the_image_the_right_way_round(x):
    recorder = Recorder()
    sample_under_noise(recorder, x, 1e-6, 100, batch_size=500)
    copies = torch.cat(recorder.seen)
    assert copies.shape == (500, 3, 2, 4)
    assert torch.allclose(copies, x.repeat_interleave(100, 0), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_noisy_copies_are_not_clipped(value):
    recorder = Recorder()
    sample_under_noise(recorder, torch.full((1, 3, 4, 4), value), 0.5, 1000)
    copies = torch.cat(recorder.seen)
    outside = copies < 0 if value == 0 else copies > 1
    # 48,000 pixels, half of them outside: 5 deviations of sqrt(1/4 / 48,000).
    assert abs(outside.double().mean() - 0.5) < 0.012
    assert (copies - value).abs().max() > 1.5  # 3 sigma


# --- the network is lent, not taken --------------------------------------------------------------


def test_the_network_votes_in_evaluation_mode_without_gradients(x):
    recorder = Recorder().train()
    sample_under_noise(recorder, x, 0.25, 100)
    assert not any(recorder.modes)
    assert not any(recorder.grads)
    assert recorder.training


def test_the_network_and_the_images_are_left_as_they_were(x):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(32, 3)
    ).train()
    model[1].eval().requires_grad_(False)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    pixels = x.clone().requires_grad_(True)
    counts = sample_under_noise(model, pixels, 0.25, 200)
    assert not counts.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(pixels.detach(), x)


def test_a_network_that_changes_its_input_in_place_counts_the_same(x):
    class InPlace(Buckets):
        def forward(self, x):
            answer = super().forward(x)
            x.zero_()
            return answer

    pixels = x.clone()
    counts = sample_under_noise(InPlace(), pixels, 0.25, 500, batch_size=200)
    assert torch.equal(counts, counts_of(x))
    assert torch.equal(pixels, x)


# --- what makes no sample ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0 must be positive"),
        ({"sigma": -0.25}, "sigma=-0.25 must be positive"),
        ({"sigma": math.nan}, "sigma=nan must be positive"),
        ({"n": 0}, "n=0, first=0"),
        ({"n": -100}, "n=-100 must be a whole number"),
        ({"n": 150}, "n=150, first=0"),
        ({"first": -100}, "first=-100 must be a whole number"),
        ({"first": 50}, "n=100, first=50"),
    ],
    ids=str,
)
def test_what_makes_no_sample_is_refused_in_one_line(x, options, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        sample_under_noise(Recorder(), x, **({"sigma": 0.25, "n": 100} | options))
    assert "\n" not in str(caught.value)


def test_what_is_not_images_is_refused(x):
    with pytest.raises(TypeError, match="not float"):
        counts_of((255 * x).to(torch.uint8))
    with pytest.raises(ValueError, match="not in"):
        counts_of(2 * x)
    with pytest.raises(ValueError, match=r"not \(B, C, H, W\)"):
        counts_of(x[0])


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_ids_may_be_a_list_an_array_or_a_tensor(kind):
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    ids = [5, 0, 7]
    expected = sample_under_noise(net, x, 0.25, 100, image_ids=ids)
    assert torch.equal(sample_under_noise(net, x, 0.25, 100, image_ids=kind(ids)), expected)
    found = [certify_at(net, x, 0.1, 0.25, image_ids=i, most=300) for i in (ids, kind(ids))]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
