"""Small measurements that a lesson shows and the report does not print."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.ascent import ascend, loss_gradient
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
        accuracies.append(100 * (answers(model, attack(eps)) == y).double().mean().item())
    return accuracies


def losses(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Cross-entropy of each image.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B,)
        One loss an image.
    """
    with frozen(model), torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


def iterates(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, steps: int, step_size: float
) -> list[Images]:
    """Every stop of PGD from the clean images on; the last one is what ``pgd`` returns.

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
    list of Tensor of shape (B, C, H, W)
        ``steps + 1`` batches, the clean images first.
    """
    path = [x]
    with frozen(model):
        for _ in range(steps):
            path.append(
                ascend(lambda x_t: loss_gradient(model, x_t, y), x, path[-1], threat, 1, step_size)
            )
    return path


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
    path = iterates(model, x, y, threat, steps, step_size)
    return [losses(model, x_t, y).mean().item() for x_t in path]


def robust_curve(
    model: nn.Module,
    x: Images,
    y: Labels,
    attack: Callable[[Images, Labels, float], Images],
    radii: Sequence[float],
) -> list[float]:
    """Accuracy in percent under attacks in ever larger balls, each holding the ones before.

    What fools the network in a ball is in every larger one: only images that still stand are
    attacked again.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    attack : callable
        Makes attacked images from images, labels and a radius; a radius of 0 is not asked for.
    radii : sequence of float
        Radii, ascending.

    Returns
    -------
    list of float
        One percentage a radius; never rising.
    """
    total, accuracies = len(x), []
    x, y = readable(model, x, y)
    for eps in radii:
        if eps and len(x):
            stands = answers(model, attack(x, y, eps)) == y
            x, y = x[stands], y[stands]
        accuracies.append(100 * len(x) / total)
    return accuracies


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
    right = answers(model, x) == y
    return x[right], y[right]


def answers(model: nn.Module, x: Images) -> Labels:
    """Classes that the network names.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images.

    Returns
    -------
    Tensor of shape (B,), int64
        One class an image.
    """
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)
