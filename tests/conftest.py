"""What several rooms' tests share: the three balls, and networks small enough to test with."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rvlib.threat_models import L2, Linf, PixelL2

# The tests are many and tiny: threads would wait for each other, and for other jobs' threads.
torch.set_num_threads(1)

TESTS = Path(__file__).parent
LONGEST = ("browser", "notebooks")
"""What would come last by name, and take as long as all the rest: each goes first, in one piece."""


def pytest_collection_modifyitems(items):
    """Say which tests must follow each other in one process: a file's, the browser's, notebooks'.

    The notebooks write into one folder, and one run at a time may.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(room(item.path)))
    items.sort(key=lambda item: room(item.path) not in LONGEST)


def room(path):
    """Name what a test belongs to."""
    if path.suffix == ".ipynb":
        return "notebooks"
    return "browser" if path.parent == TESTS / "browser" else str(path)


@pytest.fixture(params=[Linf(0.1), L2(0.5), PixelL2(0.15)], ids=["linf", "l2", "pixel-l2"])
def threat(request):
    """Each ball in turn, of a radius that reaches the walls of the box."""
    return request.param


def make_toy(classes=3):
    """Make a network with all that an attack or a training could disturb; images (3, 4, 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        toy = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
            nn.Dropout(0.5),
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
            nn.Flatten(),
            nn.Linear(64, classes),
        )
        for module in toy.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
    return toy


@pytest.fixture
def toy():
    """Lend a toy network in training mode, one batch normalisation frozen by hand."""
    toy = make_toy().train()
    toy[2][1].eval()
    toy[2][1].requires_grad_(False)
    return toy


@pytest.fixture
def toys():
    """Lend the maker of toy networks, for tests that need several alike."""
    return make_toy


@pytest.fixture
def batch():
    """Four images (3, 4, 4) with pixels at, near and far from the walls of the box; labels."""
    generator = torch.Generator().manual_seed(0)
    x = (1.4 * torch.rand(4, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    return x, torch.tensor([0, 1, 2, 1])


@pytest.fixture
def linear():
    """Two classes told apart by a plane: the network (double) and w_1 - w_0, shape (1, 3, 2, 2)."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(12, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 12, generator=generator, dtype=torch.float64))
        layer.bias.zero_()
    normal = (layer.weight[1] - layer.weight[0]).detach().view(1, 3, 2, 2)
    return nn.Sequential(nn.Flatten(), layer), normal
