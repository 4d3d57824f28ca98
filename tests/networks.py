"""Networks small enough to test with."""

import torch
from torch import nn


class Wrapped(nn.Module):
    """The same function, of which nothing can be seen from outside."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


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
