"""What training and evaluation ask of an attack whose hyper-parameters are filled in."""

from typing import Protocol

import torch
from torch import nn

from rvlib.types import Images, Labels


class Attack(Protocol):
    """Any callable of this form can be trained against and evaluated."""

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, generator: torch.Generator
    ) -> Images:
        """Return the attacked images; `generator` is the only source of randomness."""
