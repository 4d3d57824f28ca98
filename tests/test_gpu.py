"""The GPU gives what the CPU gives, within rounding."""

import pytest
import torch

from rvlib import certify, fgsm, fit, lenet, pgd, sample_under_noise
from rvlib.device import device_name, pick_device
from rvlib.experiments import RECIPES
from rvlib.models import to_device
from rvlib.threat_models import L2, Linf, PixelL2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X = torch.randint(256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255
Y = torch.arange(16) % 10


@pytest.fixture
def networks():
    """Two networks with the same weights, on the CPU and on the GPU."""
    pair = [RECIPES["standard"].build(0) for _ in range(2)]
    return to_device(pair[0], "cpu"), to_device(pair[1], "cuda")


def test_it_is_chosen_without_a_flag():
    assert pick_device().type == "cuda"
    assert "thread" not in device_name(pick_device())


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.5), PixelL2(0.045)], ids=lambda t: t.name)
def test_attacks_agree(networks, threat):
    one = fgsm(networks[0], X, Y, threat)
    other = fgsm(networks[1], X.cuda(), Y.cuda(), threat).cpu()
    # A gradient entry near zero may change its sign by rounding; few do.
    assert ((one - other).abs() > 1e-4).double().mean() < 0.01
    attacked = pgd(networks[1], X.cuda(), Y.cuda(), threat, random_start=False)
    assert (threat.norm(attacked - X.cuda()) <= threat.eps + 1e-5).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
def test_votes_have_the_same_law(networks, noise):
    counts = [
        sample_under_noise(network, x[:4], 0.25, 2000, noise=noise)
        for network, x in zip(networks, (X, X.cuda()), strict=True)
    ]
    assert all((c.sum(1) == 2000).all() for c in counts)
    # Different generators: the shares differ by sampling only, five standard deviations at most.
    assert (counts[0] - counts[1]).abs().max() < 5 * (2 * 2000 * 0.25) ** 0.5


def test_certificates_and_trainings_run_there(networks, tmp_path):
    assert certify(networks[1], X[:2].cuda(), 0.25, n=1000).radius.shape == (2,)
    results: list[object] = []
    for epochs in (2, 1, 2):
        torch.manual_seed(0)
        model = lenet()
        checkpoint = tmp_path / "c" if results else None
        objective = RECIPES["gaussian-0.25"].make_objective()
        found = fit(model, objective, (X, Y), epochs=epochs, device="cuda", checkpoint=checkpoint)
        results.append(found.history)
        assert next(model.parameters()).device.type == "cuda"
    assert results[2] == results[0]  # resumed from the checkpoint after one epoch
