"""rvlib.smoothing.exact_stem: sums are exact, so votes tell nothing but the noisy image."""

import pytest
import torch
from torch import nn

from rvlib.grid_noise import GRID, grid_noise
from rvlib.models import LeNet, resnet18
from rvlib.smoothing import sample_under_noise, votes
from rvlib.smoothing.exact_stem import LARGEST, ExactStem, can_be_exact
from rvlib.stages.run import Run
from rvlib.stemmed import Stemmed, stemmed

SIGMA = 0.5


@pytest.fixture(scope="module")
def model():
    """The shipped network that is trained with noise: real weights."""
    return Run.open("smoke", "cpu").model("gaussian-0.50")


@pytest.fixture
def steps():
    return torch.randint(0, 256, (4, 3, 32, 32), generator=seeded(0)).float()


@pytest.fixture
def noise():
    return grid_noise((5, 3, 32, 32), SIGMA, seeded(1))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def together(network, x, noise):
    """What votes are counted from: every pair, worked out apart."""
    of_image = network.stem(x) - network.stem(torch.zeros_like(x[:1]))
    pairs = of_image[:, None] + network.stem(noise)
    return pairs, network.after_stem(pairs.flatten(0, 1))


def test_apart_and_together_are_the_same_to_the_last_bit(model, steps, noise):
    network = ExactStem(model, steps)
    pairs, _ = together(network, steps, noise)
    for image, row in zip(steps, pairs, strict=True):
        assert torch.equal(row, network.stem(image + noise))


def test_single_precision_would_not_do(model, steps, noise):
    """The planted fault: what the exact sums are for."""
    pairs, _ = together(model, steps / GRID, noise / GRID)
    with torch.no_grad():
        whole = model.stem((steps[0] + noise) / GRID)
    assert torch.allclose(pairs[0], whole, atol=1e-4)
    assert not torch.equal(pairs[0], whole)


def test_two_images_that_noise_makes_one_get_one_answer(model, steps, noise):
    network, other = ExactStem(model, steps), steps.flip(0)
    for draw in noise:
        for one, two in zip(steps.split(1), other.split(1), strict=True):
            found = together(network, one, draw[None])
            same = together(network, two, one + draw - two)
            assert all(map(torch.equal, found, same))


def test_any_order_of_adding_gives_the_same(model, steps):
    """As whole numbers in double precision, one pixel after another."""
    network = ExactStem(model, steps)
    with torch.no_grad():
        found = network.stem(steps[:1])[0]
        weight = (model.conv1.weight.double() * 2**24).round()  # (6, 3, 5, 5)
    picked = steps[0].double().unfold(1, 5, 1).unfold(2, 5, 1)  # (3, 28, 28, 5, 5)
    sums = torch.zeros(6, 28, 28, dtype=torch.float64)
    for channel, row, column in reversed(list(torch.cartesian_prod(*map(torch.arange, (3, 5, 5))))):
        sums += weight[:, channel, row, column, None, None] * picked[channel, :, :, row, column]
    # The pixels of a pool apart, as the stem has them.
    expected = nn.functional.pixel_unshuffle(sums, 2).unflatten(0, (6, 4)).transpose(0, 1)
    assert torch.equal(found * 2**24, expected)


def test_it_is_the_network(model, steps, noise):
    network = ExactStem(model, steps)
    _, logits = together(network, steps, noise)
    with torch.no_grad():
        pixels = (steps[:, None] + noise).flatten(0, 1) / GRID
        assert torch.allclose(logits, model(pixels), atol=2e-4)


def test_votes_are_those_of_the_network_as_a_whole(model, steps, monkeypatch):
    x = steps / GRID
    shared = sample_under_noise(model, x, SIGMA, 1000, sound=True)
    monkeypatch.setattr(votes, "can_be_exact", lambda *words: False)
    whole = sample_under_noise(model, x, SIGMA, 1000, sound=True)
    assert (shared - whole).abs().max() <= 1  # a draw so near a border that rounding decides


def test_the_network_is_left_as_it_was(model, steps):
    before = [parameter.clone() for parameter in model.parameters()]
    assert can_be_exact(model, steps, SIGMA)
    sample_under_noise(model, steps / GRID, SIGMA, 100, sound=True)
    assert all(map(torch.equal, before, model.parameters()))


class TwoLayers(Stemmed):
    """Affine, but the products of its weights are no multiples of the unit."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Linear(4, 2))

    def stem(self, x):
        return self.layers(x)

    def after_stem(self, z):
        return z


def enormous():
    network = LeNet()
    with torch.no_grad():
        network.conv1.weight.mul_(1e5)
    return network


@pytest.mark.parametrize("make", [TwoLayers, enormous, resnet18, lambda: LeNet().double()])
def test_where_sums_might_be_rounded_the_whole_network_votes(make, steps):
    network = make().eval()
    assert not can_be_exact(stemmed(network), steps.to(next(network.parameters()).dtype), SIGMA)


def test_a_gpu_is_not_trusted_to_add(model):
    assert not can_be_exact(model, torch.zeros(1, 3, 32, 32, device="meta"), SIGMA)


def test_the_largest_sums_are_bounded_not_tried(steps):
    network = LeNet()
    with torch.no_grad():
        for parameter in network.conv1.parameters():
            parameter.zero_()
        # Of two signs: they take each other away on an even image, and not on another.
        network.conv1.weight[0, 0, 0, 0], network.conv1.weight[0, 0, 0, 1] = 300.0, -300.0
        assert 300 * 2**8 * (2 * GRID + 9 * SIGMA * GRID) > LARGEST
    assert not can_be_exact(network, steps, SIGMA)
