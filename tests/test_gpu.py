"""The GPU gives what the CPU gives, within rounding."""

import pytest
import torch

from rvlib.attacks import fgsm, pgd
from rvlib.device import device_name, pick_device
from rvlib.models import LeNet
from rvlib.models.weights import to_device
from rvlib.recipes import RECIPES
from rvlib.smoothing import certify, sample_under_noise
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.training import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def networks():
    """Two networks with the same weights, on the CPU and on the GPU."""
    pair = [RECIPES["standard"].build(0) for _ in range(2)]
    return to_device(pair[0], "cpu"), to_device(pair[1], "cuda")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 32, 32, generator=generator)
    return x, torch.arange(16) % 10


def test_it_is_chosen_without_a_flag():
    assert pick_device().type == "cuda"
    assert "thread" not in device_name(pick_device())


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.5), PixelL2(0.045)], ids=lambda t: t.name)
def test_attacks_agree(networks, batch, threat):
    on_cpu, on_gpu = networks
    x, y = batch
    one = fgsm(on_cpu, x, y, threat)
    other = fgsm(on_gpu, x.cuda(), y.cuda(), threat).cpu()
    # A gradient entry near zero may change its sign by rounding; few do.
    assert ((one - other).abs() > 1e-4).double().mean() < 0.01
    attacked = pgd(on_gpu, x.cuda(), y.cuda(), threat, random_start=False)
    assert (threat.norm(attacked - x.cuda()) <= threat.eps + 1e-5).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_votes_have_the_same_law(networks, batch):
    on_cpu, on_gpu = networks
    x, _ = batch
    counts = [sample_under_noise(network, x[:4], 0.25, 2000) for network in (on_cpu, on_gpu)]
    assert all((c.sum(1) == 2000).all() for c in counts)
    # Different generators: the shares differ by sampling only, five standard deviations at most.
    assert (counts[0] - counts[1]).abs().max() < 5 * (2 * 2000 * 0.25) ** 0.5


def test_certificates_come_back(networks, batch):
    found = certify(networks[1], batch[0][:2], 0.25, n=1000)
    assert found.radius.shape == (2,)


def test_training_runs_there():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(64) % 10
    model = LeNet()
    fit(model, RECIPES["gaussian-0.25"].make_objective(), (images, labels), epochs=1, device="cuda")
    assert next(model.parameters()).device.type == "cuda"
