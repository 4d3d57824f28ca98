"""rvlib.stemmed: a network in two parts is the same network, and never another one."""

import pytest
import torch
from torch import nn

from rvlib.models import LeNet, resnet18
from rvlib.smoothing import sample_under_noise
from rvlib.stemmed import WholeNetwork, stemmed


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LeNet().eval()


@pytest.fixture
def x():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_two_parts_are_the_network(model, x):
    assert stemmed(model) is model
    with torch.no_grad():
        assert torch.allclose(model.after_stem(model.stem(x)), model(x), atol=1e-6)


def test_the_stem_sets_apart_what_is_pooled(model, x):
    with torch.no_grad():
        pooled = nn.functional.max_pool2d(model.conv1(x), 2)
        assert torch.allclose(model.stem(x).amax(1), pooled, atol=1e-6)


def test_the_stem_is_affine(model, x):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = model.stem(x) + model.stem(noise) - model.stem(torch.zeros_like(x))
        assert torch.allclose(apart, model.stem(x + noise), atol=1e-5)
        assert model.stem(torch.zeros_like(x)).abs().max() > 0.01  # a bias to be lost or doubled


@pytest.mark.parametrize("network", [nn.Flatten(), resnet18()], ids=["flatten", "resnet18"])
def test_any_other_network_is_all_rest(network, x):
    whole = stemmed(network.eval())
    assert isinstance(whole, WholeNetwork)
    assert torch.equal(whole.stem(x), x.permute(0, 2, 3, 1))
    assert whole.stem(x).is_contiguous()
    with torch.no_grad():
        assert torch.allclose(whole(x), network(x), atol=1e-5)


class Standardised(LeNet):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.25)


def standardised_by_a_hook():
    model = LeNet()
    model.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.5) / 0.25,))
    return model


def upside_down():
    model = LeNet()
    model.register_forward_hook(lambda module, inputs, logits: -logits)
    return model


class OtherRest(LeNet):
    def after_stem(self, z):
        return -super().after_stem(z)


def hooked_inside():
    model = LeNet()
    model.conv2.register_forward_hook(lambda module, inputs, features: features.flip(1))
    return model


class OtherStem(LeNet):
    def stem(self, x):
        return super().stem(1 - x)


def replaced():
    model = LeNet()
    vars(model)["forward"] = lambda x: x.flatten(1)[:, :10]
    return model


MAKERS = [
    Standardised,
    standardised_by_a_hook,
    upside_down,
    OtherRest,
    hooked_inside,
    OtherStem,
    replaced,
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_network_does_besides_its_parts_is_not_bypassed(make, x):
    model = make().eval()
    assert stemmed(model) is not model
    with torch.no_grad():
        assert torch.equal(stemmed(model)(x), model(x))


def test_votes_of_the_parts_are_votes_of_the_whole(model, x):
    parts, whole = (
        sample_under_noise(network, x, 3.0, 1000) for network in (model, WholeNetwork(model))
    )
    assert (parts > 20).sum() > 12  # no network that always says the same
    # A draw or two an image lies so near a border that rounding decides.
    assert (parts - whole).abs().max() <= 2
