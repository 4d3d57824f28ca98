"""How tests run, and what several rooms' tests share: the three balls, networks, a batch.

The process that hands out tests reads this, too: PyTorch is imported where a test needs it.
"""

import gc
import os
from pathlib import Path
from unittest import mock

import pytest
from jupyter_client.launcher import launch_kernel
from jupyter_client.provisioning import local_provisioner

from tests.kernels import fork_kernel

# The tests are many and tiny: threads would wait for each other, and for other jobs' threads.
os.environ["OMP_NUM_THREADS"] = "1"

# nbval's kernels draw an explorer's first frame, as JupyterLab does: all take 30 s of the tests.
os.environ["RVLIB_STATIC"] = "0"

# Looking for garbage after each 700 new objects takes a twentieth of the tests' time.
gc.set_threshold(50_000)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def start_kernel(command, cwd=None, **options):
    """Fork the kernels of the notebooks; others start as they do."""
    folder = cwd or str(Path.cwd())
    start = fork_kernel if Path(folder) == NOTEBOOKS else launch_kernel
    return start(command, cwd=folder, **options)


mock.patch.object(local_provisioner, "launch_kernel", start_kernel).start()

ONE_AFTER_THE_OTHER = ("tests/browser", "notebooks", "tests/test_pretend_gpu.py")
"""What takes longest; the files of a folder share a JupyterLab, or a place to write."""

GUESTS = {"tests/report/test_reference.py": "tests/browser", "tests/test_notebooks.py": "notebooks"}
"""Files that use what another room's tests have made or started, too."""


def pytest_collection_modifyitems(items):
    """Put what takes longest first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: room(item.nodeid) not in ONE_AFTER_THE_OTHER)


def pytest_runtest_setup(item):
    """Let attacks that are given no generator draw the same in every run of a test."""
    import torch

    torch.manual_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out tests by the room: where several processes test, one does all of a room's."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid):
            return room(nodeid)

    return Rooms(config, log)


def room(nodeid):
    """Name what must stay in one process: a file, or a folder."""
    file = nodeid.partition("::")[0]
    rooms = (name for name in ONE_AFTER_THE_OTHER if file.startswith(f"{name}/"))
    return GUESTS.get(file) or next(rooms, file)


@pytest.fixture(scope="session")
def site():
    """Build the site once, as `make site` does: it takes seconds, most of them for the API."""
    from rvlib.pipeline import Run
    from rvlib.report.site import build_site

    return build_site(Run.open("lesson", "cpu")).parent


@pytest.fixture(params=["linf", "l2", "pixel-l2"])
def threat(request):
    """Each ball in turn, of a radius that reaches the walls of the box."""
    from rvlib.threat_models import L2, Linf, PixelL2

    return {"linf": Linf(0.1), "l2": L2(0.5), "pixel-l2": PixelL2(0.15)}[request.param]


@pytest.fixture
def toy():
    """Lend a toy network in training mode, one batch normalisation frozen by hand."""
    from tests.networks import make_toy

    toy = make_toy().train()
    toy[2][1].eval()
    toy[2][1].requires_grad_(False)
    return toy


@pytest.fixture
def toys():
    """Lend the maker of toy networks, for tests that need several alike."""
    from tests.networks import make_toy

    return make_toy


@pytest.fixture
def batch():
    """Four images (3, 4, 4) with pixels at, near and far from the walls of the box; labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = (1.4 * torch.rand(4, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    return x, torch.tensor([0, 1, 2, 1])


@pytest.fixture
def linear():
    """Two classes told apart by a plane: the network (double) and w_1 - w_0, shape (1, 3, 2, 2)."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(12, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 12, generator=generator, dtype=torch.float64))
        layer.bias.zero_()
    normal = (layer.weight[1] - layer.weight[0]).detach().view(1, 3, 2, 2)
    return nn.Sequential(nn.Flatten(), layer), normal
