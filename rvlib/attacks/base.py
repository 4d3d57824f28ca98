"""What training and evaluation ask of an attack whose hyper-parameters are filled in."""

from typing import Protocol

import torch
from torch import nn

from rvlib.checks import check_callable
from rvlib.types import Images, Labels


class Attack(Protocol):
    """Any callable of this form can be trained against and evaluated."""

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, generator: torch.Generator
    ) -> Images:
        """Return the attacked images; `generator` is the only source of randomness."""


def check_attack(attack: object) -> None:
    """Refuse what cannot be called with network, images, labels and generator.

    Parameters
    ----------
    attack : object
        The thing to check.

    Raises
    ------
    TypeError
        If it is no callable, or one of other arguments.
    """
    check_callable(
        "attack",
        attack,
        'a recipe, as rvlib.recipes.ATTACKS["pgd-linf"]',
        "make one of (model, x, y) fit with rvlib.evaluation.from_callable(attack, Linf(8 / 255))",
    )
