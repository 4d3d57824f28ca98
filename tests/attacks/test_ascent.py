"""rvlib.attacks.ascent: the loss that attacks climb, where the usual formula loses its gradient."""

import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm, pgd
from rvlib.attacks.ascent import cross_entropies, cross_entropy_gradients, loss_gradient
from rvlib.threat_models import Linf


def logits_of_margin(margin, dtype=torch.float32):
    """Three classes, of which the first is ahead of the second by `margin`."""
    return torch.tensor([[margin, 0.0, -1.0]], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("margin", [-200.0, -30.0, -1.0, 0.0, 1.0, 8.0])
def test_it_is_the_cross_entropy(margin):
    z, y = logits_of_margin(margin, torch.float64), torch.tensor([0])
    found = cross_entropies(z, y)
    (gradient,) = torch.autograd.grad(found.sum(), z)
    expected = F.cross_entropy(z, y, reduction="none")
    (usual,) = torch.autograd.grad(expected.sum(), z)
    assert torch.allclose(found, expected, rtol=1e-8, atol=0)
    assert torch.allclose(gradient, usual, rtol=1e-8, atol=1e-12)


def test_two_classes_and_a_batch():
    z = torch.tensor([[2.0, -1.0], [0.5, 0.5]])
    y = torch.tensor([0, 1])
    assert torch.allclose(cross_entropies(z, y), F.cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_written_out_is_that_of_autograd_to_the_last_bit(scale, dtype):
    generator = torch.Generator().manual_seed(0)
    z = scale * torch.randn(500, 10, generator=generator, dtype=dtype)
    y = torch.randint(10, (500,), generator=generator)
    z.requires_grad_(True)
    (expected,) = torch.autograd.grad(cross_entropies(z, y).sum(), z)
    assert torch.equal(cross_entropy_gradients(z.detach(), y), expected)


def test_the_derivative_of_two_classes_is_known():
    z, y = torch.tensor([[1.0, 0.0], [-90.0, 90.0]], dtype=torch.float64), torch.tensor([0, 0])
    s = 1 / (1 + torch.e)
    found = cross_entropy_gradients(z, y)
    assert torch.allclose(found, torch.tensor([[-s, s], [-1, 1]], dtype=torch.float64))


@pytest.mark.parametrize("margin", [20.0, 40.0, 80.0])
def test_a_sure_answer_keeps_its_gradient(margin):
    # p_y - 1 is minus the sum of the other probabilities; in single precision p_y is 1 from a
    # margin of 17 on, and the usual formula's first component 0.
    z, y = logits_of_margin(margin), torch.tensor([0])
    (gradient,) = torch.autograd.grad(cross_entropies(z, y).sum(), z)
    p = torch.softmax(logits_of_margin(margin, torch.float64).detach(), 1)[0]
    expected = torch.stack([-(p[1] + p[2]), p[1], p[2]]).float()
    assert torch.allclose(gradient[0], expected, rtol=1e-4, atol=0)
    (usual,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    assert usual[0, 0] == 0


def test_a_network_cannot_hide_behind_large_logits(batch_of_linear):
    network, x, y = batch_of_linear
    sure = torch.nn.Sequential(network, Scale(60.0)).float()
    assert F.cross_entropy(sure(x), y, reduction="none").min() == 0  # as sure as can be
    for attack in (
        lambda model: fgsm(model, x, y, Linf(0.2)),
        lambda model: pgd(model, x, y, Linf(0.2), random_start=False),
    ):
        assert torch.equal(attack(sure), attack(network))


class Scale(torch.nn.Module):
    """Logits times a factor: the same answers, surer."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return self.factor * z


@pytest.fixture
def batch_of_linear(linear):
    """The linear network in single precision, eight images, and its own answers as labels."""
    network = linear[0].float()
    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return network, x, network(x).argmax(1)


def test_the_gradient_leaves_the_images_as_they_are(batch_of_linear):
    network, x, y = batch_of_linear
    before = x.clone()
    assert loss_gradient(network, x, y).shape == x.shape
    assert torch.equal(x, before)
    assert not x.requires_grad
