"""rvlib.models: the networks, from pixels to logits, by name."""

from typing import Any

import pytest
import torch
from torch import nn

from rvlib.inference import MaxPool2
from rvlib.models import MODELS, Normalize, lenet, register_model, resnet18, to_device
from tests.networks import seeded


def pixels(n=3, size=32, channels=3):
    return torch.rand(n, channels, size, size, generator=seeded())


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["lenet", "resnet18"])
def network(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[request.param]().eval()


def test_images_do_not_influence_each_other(network):
    x = pixels(2)
    with torch.no_grad():
        logits = network(x)
        assert close(logits, torch.cat([network(image) for image in x.split(1)]))
    assert logits.shape == (2, 10)
    assert (logits.std(0) > 0).all()  # the image matters


def test_gradients_and_memory_layout_change_nothing_but_rounding(network):
    x = pixels(2)
    with torch.no_grad():
        plain = network(x)
        assert to_device(network, "cpu") is network
        weight = next(p for p in network.parameters() if p.dim() == 4)
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert close(network(x.contiguous(memory_format=torch.channels_last)), plain)
    assert close(network(x), plain)


def test_lenet_has_the_reports_layers():
    shapes = [tuple(p.shape) for name, p in lenet().named_parameters() if "weight" in name]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert sum(p.numel() for p in lenet().parameters()) == 62_006
    assert not list(lenet().buffers())  # no normalisation: nothing but pixels goes in


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (28, 1), (33, 2)])
@pytest.mark.parametrize("gradients", [True, False])
def test_lenet_is_the_tutorials_network(size, channels, gradients):
    """ReLU before pooling, as it is usually written, gives the same logits."""
    net: Any = lenet(7, channels, size)
    tutorial = nn.Sequential(
        *(net.conv1, nn.ReLU(), nn.MaxPool2d(2)),
        *(net.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), net.fc3),
    )
    x = pixels(5, size, channels)
    with torch.set_grad_enabled(gradients):
        assert net(x).shape == (5, 7)
        assert close(net(x), tutorial(x))


def test_of_four_equal_pixels_one_gets_the_gradient():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(MaxPool2()(x).sum(), x)
    assert sorted(grad.unique().tolist()) == [0, 1]
    assert grad.sum() == 4


def test_resnet_has_the_small_stem():
    net: Any = resnet18(classes=7, channels=1)
    assert sum(p.numel() for p in resnet18().parameters()) == 11_173_962
    sizes = []
    net.layer1.register_forward_hook(lambda _, inputs, output: sizes.append(inputs[0].shape))
    net.layer4.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape))
    with torch.no_grad():
        assert net.eval()(pixels(1, channels=1)).shape == (1, 7)
    assert sizes == [(1, 64, 32, 32), (1, 512, 4, 4)]


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_normalize_standardises_every_channel_and_moves_with_the_network(kind):
    mean, std, x = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5], pixels()
    layer = Normalize(kind(mean), kind(std))
    for c in range(3):
        assert close(layer(x)[:, c], (x[:, c] - mean[c]) / std[c])
    assert set(layer.state_dict()) == {"mean", "std"}
    assert nn.Sequential(layer).double()(x.double()).dtype == torch.float64


def test_a_network_is_registered_under_its_own_name():
    def mine():
        return nn.Flatten()

    try:
        assert register_model(mine) is register_model(mine) is mine
        assert MODELS["mine"] is mine
        mine.__name__ = "lenet"
        with pytest.raises(ValueError, match=r"lenet is a network of rvlib\.models"):
            register_model(mine)
    finally:
        del MODELS["mine"]
