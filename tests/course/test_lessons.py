"""rvlib.course.lessons: on a linear network every number is known."""

import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm, pgd
from rvlib.course.lessons import (
    compare_directions,
    eight_bit,
    iterates,
    losses_by_step,
    naive_pgd,
    robust_curve,
    sweep,
)
from rvlib.threat_models import L2, Linf, PixelL2


@pytest.fixture
def lesson(linear):
    """Network, images in the middle of the box, labels as answered, and each image's distance."""
    network, normal = linear
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 3, 2, 2, generator=generator, dtype=torch.float64)
    x = 0.45 + 0.1 * noise
    with torch.no_grad():
        y = network(x).argmax(1)
        margin = (network(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).abs()
    return network, x, y, margin / normal.abs().sum()


def test_an_image_falls_at_its_distance(lesson):
    network, x, y, distance = lesson
    ends = distance.sort().values
    radii = [0.0, *((ends[1:] + ends[:-1]) / 2).tolist(), 0.4]
    found = sweep(network, y, lambda eps: fgsm(network, x, y, Linf(eps)), radii)
    assert ends[-1] < 0.4  # so the walls of the box are not reached
    expected = [100.0, *(100 * (8 - i) / 8 for i in range(1, 8)), 0.0]
    assert found == pytest.approx(expected)


def test_a_sweep_leaves_the_network_as_it_was(toy, batch):
    x, y = batch
    before = [module.training for module in toy.modules()]
    found = sweep(toy, y, lambda eps: x, [0.0, 0.1])
    assert found[0] == found[1]  # in evaluation mode, without dropout
    assert [module.training for module in toy.modules()] == before


def test_losses_known_by_heart(lesson):
    # Every step moves all pixels by step_size against the answer: the margin falls by that much
    # times the sum of |w| and stays where the ball ends.
    network, x, y, distance = lesson
    found = losses_by_step(network, x, y, Linf(0.1), steps=3, step_size=0.04)
    scale = (network[1].weight[1] - network[1].weight[0]).abs().sum().item()
    for t, loss in enumerate(found):
        margin = scale * (distance - min(0.04 * t, 0.1))
        assert loss == pytest.approx(F.softplus(-margin).mean().item())
    assert found == sorted(found)
    assert len(found) == 4


def test_of_all_directions_the_corner_gains_most_and_no_more_than_the_gradients_length(lesson):
    network, x, y, _ = lesson
    table = compare_directions(network, x, y, (1e-4, 0.1), torch.Generator().manual_seed(0))
    with torch.enable_grad():
        z = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(z), y, reduction="sum"), z)
    length = gradient.abs().flatten(1).sum(1).mean().item()
    corner, itself, random = (float(line["if straight"]) for line in table[3:])
    assert corner == pytest.approx(0.1 * length, abs=0.005)
    assert corner > itself > abs(random)
    for line in table[:3]:  # so short a step that no loss bends, in two digits
        assert line["in fact"] == line["if straight"]


def test_a_corner_moves_every_channel_alike(lesson):
    # On the linear network the loss depends on the margin alone: after the corner's step all
    # images have lost 0.1 times the sum of |w|.
    network, x, y, distance = lesson
    (line, *_) = compare_directions(network, x, y, (0.1,), torch.Generator().manual_seed(0))
    scale = (network[1].weight[1] - network[1].weight[0]).abs().sum().item()
    after = F.softplus(-scale * (distance - 0.1)).mean()
    before = F.softplus(-scale * distance).mean()
    assert float(line["in fact"]) == pytest.approx((after - before).item(), abs=0.0051)


def test_a_file_keeps_the_nearest_level():
    levels = torch.arange(256) / 255
    assert torch.equal(eight_bit(levels), levels)
    assert torch.equal(eight_bit(levels[:-1] + 0.4 / 255), levels[:-1])
    assert torch.equal(eight_bit(levels[:-1] + 0.6 / 255), levels[1:])


@pytest.mark.parametrize("ball", [Linf, PixelL2, L2])
def test_the_last_iterate_is_what_pgd_returns(lesson, ball):
    network, x, y, _ = lesson
    path = iterates(network, x, y, ball(0.1), steps=4, step_size=0.03)
    assert len(path) == 5
    assert torch.equal(path[0], x)
    for steps, stop in enumerate(path[1:], start=1):
        found = pgd(network, x, y, ball(0.1), steps=steps, step_size=0.03, random_start=False)
        assert torch.equal(stop, found)


def test_a_curve_over_growing_balls(lesson):
    network, x, y, distance = lesson
    y = y.clone()
    y[0] = 1 - y[0]  # an image that is misread without any attack
    radii = [0.0, distance[1:].median().item() + 1e-9, 0.4]
    found = robust_curve(network, x, y, [Linf(eps) for eps in radii])
    standing = (distance[1:] > radii[1]).sum().item()
    assert found == pytest.approx([100 * 7 / 8, 100 * standing / 8, 0])


def test_naive_pgd_is_pgd_until_the_network_is_sure(lesson):
    network, x, y, _ = lesson
    found = naive_pgd(network, x, y, Linf(0.1), steps=3, step_size=0.04)
    expected = pgd(network, x, y, Linf(0.1), steps=3, step_size=0.04, random_start=False)
    assert torch.equal(found, expected)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e5)
    assert torch.equal(naive_pgd(network, x, y, Linf(0.1), 3, 0.04), x)  # it does not move
