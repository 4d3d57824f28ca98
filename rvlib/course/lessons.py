"""Small measurements that a lesson shows and the report does not print."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import pgd
from rvlib.frozen import frozen
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels


def sweep(
    model: nn.Module, y: Labels, attack: Callable[[float], Images], radii: Sequence[float]
) -> list[float]:
    """Accuracy in percent at each radius.

    Parameters
    ----------
    model : nn.Module
        The network.
    y : Tensor of shape (B,), int64
        True labels.
    attack : callable
        Makes the attacked images for a radius.
    radii : sequence of float
        Radii.

    Returns
    -------
    list of float
        One percentage a radius.
    """
    accuracies = []
    for eps in radii:
        x_adv = attack(eps)
        with frozen(model), torch.no_grad():
            accuracies.append(100 * (model(x_adv).argmax(1) == y).double().mean().item())
    return accuracies


def losses_by_step(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, steps: int, step_size: float
) -> list[float]:
    """Mean cross-entropy of the attacked images after 0, 1, ..., `steps` steps of PGD.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    threat : ThreatModel
        The ball.
    steps : int
        Number of steps.
    step_size : float
        Length of one step.

    Returns
    -------
    list of float
        ``steps + 1`` losses.
    """
    losses = []
    for t in range(steps + 1):
        x_t = x
        if t:
            x_t = pgd(model, x, y, threat, steps=t, step_size=step_size, random_start=False)
        with frozen(model), torch.no_grad():
            losses.append(F.cross_entropy(model(x_t), y).item())
    return losses


def readable(model: nn.Module, x: Images, y: Labels) -> tuple[Images, Labels]:
    """Keep the images that the network reads rightly.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    tuple of Tensor
        Those images and their labels.
    """
    with frozen(model), torch.no_grad():
        right = model(x).argmax(1) == y
    return x[right], y[right]
