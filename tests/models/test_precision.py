"""rvlib.models.precision: a rounded network, and the one it was made of untouched."""

import copy

import torch
from torch import nn

from rvlib.attacks import pgd
from rvlib.models import Bfloat16, LeNet
from rvlib.threat_models import Linf


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LeNet()


def test_it_is_nearly_the_network_and_not_the_network():
    model, x = network(), torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, rounded = model(x), Bfloat16(model)(x)
    assert rounded.dtype == torch.float32
    off = (rounded - exact).abs().max() / exact.abs().max()
    # bfloat16 keeps 8 significant bits.
    assert 1e-5 < off < 0.05


def test_the_network_is_left_as_it_is():
    model = network().eval()
    before = copy.deepcopy(model.state_dict())
    rounded = Bfloat16(model)
    assert not rounded.training
    assert all(p.dtype == torch.bfloat16 for p in rounded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_is_attacked_like_any_network():
    x = torch.full((2, 3, 1, 1), 0.5)
    linear = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1, 1], [0, 0, 0]]))
    model = Bfloat16(nn.Sequential(nn.Flatten(), linear))
    x_adv = pgd(model, x, torch.zeros(2, dtype=torch.int64), Linf(0.125), random_start=False)
    assert x_adv.dtype == torch.float32
    assert (x_adv - x)[0].flatten().tolist() == [-0.125, 0.125, -0.125]


def test_a_part_that_was_set_apart_stays_so():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).train()
    network[1].eval()  # its statistics are not to move
    rounded = Bfloat16(network)
    assert rounded.training
    assert [module.training for module in rounded.network.modules()] == [True, True, False, True]
