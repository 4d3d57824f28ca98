"""What the checks attack: two tiny pictures and a tiny network with a bend in it."""

import copy
from functools import cache

import torch
from torch import nn

from rvlib.noise import stream
from rvlib.types import Images, Labels


@cache
def _made() -> tuple[nn.Module, Images, Labels]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    generator = stream("cpu", "exercises", "weights")
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.rand(2, 3, 2, 2, generator=stream("cpu", "exercises", "pictures"))
    x[:, 0] = torch.tensor([[0.0, 1.0], [0.04, 0.97]])
    with torch.no_grad():
        answers = network(x).argmax(1)
    return network, x, (answers + torch.tensor([0, 1])) % 3


def toys() -> tuple[nn.Module, Images, Labels]:
    """Hand out a network for pictures (3, 2, 2) and three classes, two pictures, their labels.

    Returns
    -------
    tuple of nn.Module, Tensor of shape (2, 3, 2, 2), Tensor of shape (2,)
        Fresh copies, always the same: the pictures have channels at and near the walls of [0, 1];
        the network reads the first one rightly and the second one not.
    """
    return copy.deepcopy(_made())
