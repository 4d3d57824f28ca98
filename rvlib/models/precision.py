"""A network in bfloat16: half the bytes, and on processors that have it twice the arithmetic."""

import copy

import torch
from torch import nn

from rvlib.types import Images, Logits


class Bfloat16(nn.Module):
    """A network whose weights and activations are rounded to bfloat16, from float32 to float32.

    It is another function than the network it was made of: numbers have 8 significant bits.  An
    attack may climb its gradients and be judged on the network itself; a certificate that its
    votes make is *its* certificate.

    Parameters
    ----------
    network : nn.Module
        Maps pixels to logits; a copy of it is rounded, it stays as it is.

    Examples
    --------
    >>> rounded = Bfloat16(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    >>> rounded(torch.rand(1, 3, 1, 1)).dtype
    torch.float32
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        # Not by train(): a part that was set apart, a batch normalisation say, stays so.
        self.training = network.training

    def forward(self, x: Images) -> Logits:
        """Map pixels to logits, with bfloat16 in between."""
        return self.network(x.to(torch.bfloat16)).float()
