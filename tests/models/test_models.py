"""rvlib.models: the two networks, from pixels to logits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.models import NETWORKS, LeNet, resnet18
from rvlib.models.weights import to_device


def pixels(n=3, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[request.param]().eval()


def test_names_of_the_networks():
    assert NETWORKS == {"lenet": LeNet, "resnet18": resnet18}


def test_logits_have_one_row_an_image(network):
    with torch.no_grad():
        logits = network(pixels())
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    assert (logits.std(0) > 0).all()  # the image matters


def test_images_do_not_influence_each_other(network):
    x = pixels()
    with torch.no_grad():
        alone = torch.cat([network(image) for image in x.split(1)])
        torch.testing.assert_close(network(x), alone, rtol=1e-4, atol=1e-5)


def test_gradients_on_or_off_give_the_same_logits(network):
    x = pixels()
    with_gradients = network(x)
    assert with_gradients.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(network(x), with_gradients, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), with_gradients, rtol=1e-5, atol=1e-6)


def test_memory_layout_changes_nothing_but_rounding(network):
    x = pixels(2)
    with torch.no_grad():
        plain = network(x)
        fast = to_device(network, "cpu")
        assert fast is network
        weight = next(p for p in network.parameters() if p.dim() == 4)
        assert weight.is_contiguous(memory_format=torch.channels_last)
        logits = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_number_of_classes_is_an_argument(make):
    last = [module for module in make(classes=7).modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == 7


# ---- LeNet ----------------------------------------------------------------------------------


def test_lenet_has_the_reports_layers():
    shapes = {name: tuple(p.shape) for name, p in LeNet().named_parameters() if "weight" in name}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }
    assert sum(p.numel() for p in LeNet().parameters()) == 62_006
    assert not list(LeNet().buffers())  # no normalisation: nothing but pixels goes in


@pytest.mark.parametrize("gradients", [True, False])
def test_lenet_is_the_tutorials_network(gradients):
    """ReLU before pooling, as it is usually written, gives the same logits."""
    net = LeNet()
    tutorial = nn.Sequential(
        *(net.conv1, nn.ReLU(), nn.MaxPool2d(2)),
        *(net.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), net.fc3),
    )
    x = pixels(5)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(net(x), tutorial(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_twin_gives_the_same_values_bit_for_bit(layout, monkeypatch):
    """Activations after each pooling, with ties and negative values among them."""
    from rvlib.models import lenet

    x = (pixels(4)[:, :, :28, :28] * 8).round() - 4
    x = x.contiguous(memory_format=layout)
    with torch.no_grad():
        pairwise = lenet._max_pool(x)
        monkeypatch.setattr(F, "max_pool2d", None)  # without gradients it is not called
        assert torch.equal(lenet._max_pool(x), pairwise)
    monkeypatch.undo()
    with torch.enable_grad():
        pooled = lenet._max_pool(x)
    assert pooled.shape == (4, 3, 14, 14)
    assert torch.equal(pairwise, pooled)


def test_where_gradients_follow_they_are_those_of_max_pooling():
    """Of four equal pixels one gets the gradient; the pairwise form would share it out."""
    from rvlib.models import lenet

    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(lenet._max_pool(x).sum(), x)
    assert grad.unique().tolist() == [0, 1]
    assert grad.sum() == 4


# ---- ResNet-18 ------------------------------------------------------------------------------


def test_resnet_has_the_small_stem():
    net: Any = resnet18()
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    sizes = []
    net.layer1.register_forward_hook(lambda _, inputs, output: sizes.append(inputs[0].shape))
    net.layer4.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape))
    with torch.no_grad():
        net.eval()(pixels(1))
    assert sizes == [(1, 64, 32, 32), (1, 512, 4, 4)]
