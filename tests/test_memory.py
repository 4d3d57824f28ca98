"""rvlib.memory: what a pass takes is counted, not guessed, and no batch takes more than allowed."""

import gc
import subprocess
import sys

import pytest
import torch
from torch import nn

from rvlib import memory
from rvlib.attacks import fgsm, pgd, smoothed_pgd, withstands
from rvlib.memory import budget, held_budget, images_at_once
from rvlib.models import LeNet
from rvlib.smoothing import sample_under_noise
from rvlib.threat_models import Linf

CPU = torch.device("cpu")


class Widths(nn.Module):
    """Says how many images came at once; sums each image's pixels a given number of times wider."""

    def __init__(self, times=1):
        super().__init__()
        self.times = times
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        wide = torch.cat([x.flatten(1) * k for k in range(1, self.times + 1)], dim=1)
        return torch.stack([wide.sum(1), wide.square().sum(1)], dim=1)


@pytest.fixture
def x():
    return torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small(monkeypatch):
    """Leave room for a few images only: a gradient of `Widths(20)` takes some 100 kB each."""
    monkeypatch.setenv("RVLIB_MEMORY", "0.001")


def test_the_budget_is_half_of_what_is_free(monkeypatch):
    monkeypatch.delenv("RVLIB_MEMORY", raising=False)
    monkeypatch.setattr(memory, "_free_on_host", lambda: 1000)
    assert budget(CPU) == 500


def test_the_budget_can_be_set(monkeypatch):
    monkeypatch.setenv("RVLIB_MEMORY", "1.5")
    assert budget(CPU) == 1_500_000_000


@pytest.mark.parametrize("said", ["two", "0", "-1", "nan", "inf", "1e300"])
def test_a_budget_that_is_none_is_refused(monkeypatch, said):
    monkeypatch.setenv("RVLIB_MEMORY", said)
    with pytest.raises(ValueError, match=r"RVLIB_MEMORY.*positive number of GB"):
        budget(CPU)


def test_a_container_may_have_less_than_the_machine(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 4000)
    monkeypatch.setattr(memory, "_left_in_container", lambda: 3000)
    assert memory._free_on_host() == 3000


def test_this_machine_has_memory():
    assert 10**7 < memory._free_on_host() < 10**14


def test_a_linear_layer_takes_its_input_and_output():
    layer = nn.Linear(1000, 500).requires_grad_(False)
    counted = memory._bytes_an_image(layer, torch.rand(2, 1000), gradient=False)
    assert counted == 4 * (1000 + 500)


def test_what_has_gone_is_not_counted():
    chain = nn.Sequential(*[nn.Tanh() for _ in range(10)])
    x = torch.rand(2, 1000)
    inference = memory._bytes_an_image(chain, x, gradient=False)
    # The input and two neighbours at a time, not eleven.
    assert inference == 3 * 4000
    # For a gradient every output is kept.
    assert memory._bytes_an_image(chain, x, gradient=True) >= 11 * 4000


def test_the_count_is_of_one_image(x):
    model = LeNet()
    images = torch.rand(8, 3, 32, 32)
    one = memory._bytes_an_image(model, images[:1], gradient=True)
    eight = memory._bytes_an_image(model, images, gradient=True)
    # What does not grow with the batch, such as copies of weights, weighs more on one image.
    assert eight <= one <= 3 * eight


def test_it_is_found_once_for_a_kind_of_image(x):
    model = Widths()
    for _ in range(3):
        images_at_once(model, x, 40, gradient=False)
    assert model.seen == [2]
    images_at_once(model, x, 40, gradient=True)
    images_at_once(model, x[:, :1], 40, gradient=False)
    assert model.seen == [2, 2, 2]


def test_it_is_forgotten_with_the_network(x):
    gc.collect()
    before = len(memory._KNOWN)
    model = Widths()
    images_at_once(model, x, 40, gradient=False)
    assert len(memory._KNOWN) == before + 1
    del model
    gc.collect()
    assert len(memory._KNOWN) == before


def test_nearly_always_as_many_as_are_wanted(x):
    assert images_at_once(Widths(), x, 40, gradient=True) == 40


def test_a_few_are_not_counted_unless_a_budget_is_set(x, monkeypatch):
    monkeypatch.delenv("RVLIB_MEMORY", raising=False)
    model = Widths()
    assert images_at_once(model, x, 32, gradient=True) == 32
    assert model.seen == []
    monkeypatch.setenv("RVLIB_MEMORY", "1e-9")
    assert images_at_once(model, x, 32, gradient=True) == 1


def test_a_held_budget_stands_above_what_is_set_and_what_is_free(x, monkeypatch):
    monkeypatch.setenv("RVLIB_MEMORY", "2")
    with held_budget(1_000_000):
        assert budget(CPU) == 1_000_000
        assert 1 <= images_at_once(Widths(20), x, 30, gradient=True) < 30  # few are counted, too
        with held_budget(7):
            assert budget(CPU) == 7
        assert budget(CPU) == 1_000_000
    assert budget(CPU) == 2_000_000_000


def test_never_less_than_one(x, monkeypatch):
    monkeypatch.setenv("RVLIB_MEMORY", "1e-9")
    assert images_at_once(Widths(), x, 40, gradient=True) == 1


def test_the_random_state_is_left_as_it_was(x):
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
    before = torch.get_rng_state()
    images_at_once(noisy, x, 40, gradient=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "attack",
    [
        lambda model, x, y: fgsm(model, x, y, Linf(0.1)),
        lambda model, x, y: pgd(model, x, y, Linf(0.1), steps=3, random_start=False),
        lambda model, x, y: withstands(model, x, y, Linf(0.1), steps=3, random_start=False),
        lambda model, x, y: smoothed_pgd(
            model,
            x,
            y,
            Linf(0.1),
            sigma=0.25,
            draws=4,
            steps=2,
            generator=torch.Generator().manual_seed(0),
        ),
    ],
    ids=["fgsm", "pgd", "withstands", "smoothed_pgd"],
)
def test_attacks_stay_within_the_budget_and_find_the_same(attack, x, small, monkeypatch):
    y = torch.arange(40) % 2
    model = Widths(20)
    in_parts = attack(model, x, y)
    assert max(model.seen) < 40
    monkeypatch.delenv("RVLIB_MEMORY")
    roomy = Widths(20)
    at_once = attack(roomy, x, y)
    assert max(roomy.seen) >= 40
    assert torch.allclose(in_parts.float(), at_once.float(), atol=1e-6)


@pytest.mark.parametrize(("room", "most"), [("0.005", 100), ("0.001", 31), ("1e-9", 1)])
def test_votes_stay_within_the_budget(x, monkeypatch, room, most):
    monkeypatch.setenv("RVLIB_MEMORY", room)
    model = Widths(20)
    in_parts = sample_under_noise(model, x[:4], 0.25, 200)
    assert max(model.seen[1:]) == most  # the first call was to count
    monkeypatch.delenv("RVLIB_MEMORY")
    roomy = Widths(20)
    assert torch.equal(sample_under_noise(roomy, x[:4], 0.25, 200), in_parts)
    assert max(roomy.seen) == 200


def test_more_votes_are_no_larger_batches(x):
    few, many = Widths(20), Widths(20)
    sample_under_noise(few, x[:2], 0.25, 300)
    sample_under_noise(many, x[:2], 0.25, 3000)
    assert max(many.seen) == max(few.seen)


# The peak of this process alone: ru_maxrss would start from that of the process that started it.
RESNET = """
import re, torch
from rvlib.models import resnet18
from rvlib.smoothing import certify
torch.set_num_threads(1)
certify(resnet18(), torch.rand(2, 3, 32, 32), 0.25, n0=100, n=300)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_certifying_a_resnet18_takes_less_than_two_gigabytes():
    # The draws come in hundreds one after another: N = 100,000 takes no more than N = 300.
    done = subprocess.run([sys.executable, "-c", RESNET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2e9
