"""What an objective is: a loss to descend, and the logits that a progress bar reads."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rvlib.checks import check_callable
from rvlib.types import Images, Labels, Logits


class Loss(NamedTuple):
    """A loss with its by-product.

    Parameters
    ----------
    value : Tensor
        Scalar, with a graph to the network's parameters.
    logits : Tensor of shape (B, K)
        Detached logits of the images as the objective showed them (clean, or with noise).
    """

    value: Tensor
    logits: Logits


class Objective(Protocol):
    """The loss of one batch, from whatever the objective makes of its images."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, generator: torch.Generator) -> Loss:
        """Return the loss of a batch; `generator` is the only source of randomness."""


def check_objective(objective: object) -> None:
    """Refuse what cannot be called with network, images, labels and generator.

    Parameters
    ----------
    objective : object
        The thing to check.

    Raises
    ------
    TypeError
        If it is no callable, or one of other arguments: ``gaussian``, which makes objectives.
    """
    check_callable(
        "objective",
        objective,
        "rvlib.objectives.standard, say",
        "give standard, or what gaussian(0.25) or adversarial(attack) makes",
    )
