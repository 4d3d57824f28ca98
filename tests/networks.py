"""Networks small enough to test with."""

from typing import Any

import torch
from torch import nn

import rvlib as rv
from rvlib import attacks, checks
from rvlib.models import to_device
from rvlib.pipeline import repository

# Called with ``*batch``, which mypy cannot count.
apgd: Any = attacks.apgd
autoattack: Any = attacks.autoattack
fab: Any = attacks.fab
fgsm: Any = attacks.fgsm
margin: Any = attacks.margin
pgd: Any = attacks.pgd
robust_mask: Any = attacks.robust_mask
smoothed_pgd: Any = attacks.smoothed_pgd
square: Any = attacks.square
targeted_dlr: Any = attacks.targeted_dlr
towards: Any = attacks.towards


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64)


def shipped(name, device="cpu"):
    """Load a network of the report."""
    model = rv.lenet()
    rv.load_weights(model, repository() / "report" / "models" / name / "seed-0.safetensors")
    return to_device(model, device).eval()


def held_out(count, first=0):
    """Load held-out images as floats, and their labels."""
    x, y = (part[first : first + count] for part in rv.load("cifar10", "heldout"))
    return rv.to_float(x).contiguous(memory_format=torch.channels_last), y


class Wrapped(nn.Module):
    """A network of which nothing can be seen from outside, and which may see its images changed."""

    def __init__(self, network, change=lambda x: x):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.network(self.change(x))


def made_of(function):
    """Make a network of a function."""
    return Wrapped(nn.Identity(), function)


class Recorder(nn.Module):
    """A network that keeps the images at which a gradient was taken."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        if x.requires_grad:
            self.seen.append(x.detach().clone())
        return self.model(x)


class Seen(nn.Module):
    """Keeps what it is shown, and how; votes by the first three numbers."""

    def __init__(self):
        super().__init__()
        self.seen, self.states = [], []
        checks._independent.add(self)  # or it would see the images of that check, too

    def forward(self, x):
        self.seen.append(x.clone())
        self.states.append((self.training, torch.is_grad_enabled()))
        return x.flatten(1)[:, :3]


class Scaled(nn.Module):
    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


class Tied(nn.Module):
    """Two classes that are equal everywhere; the first is the largest logit."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True).expand(-1, 2)


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
