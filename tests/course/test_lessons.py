"""rvlib.course.lessons: on a linear network every number is known."""

import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm
from rvlib.course.lessons import losses_by_step, sweep
from rvlib.threat_models import Linf


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
