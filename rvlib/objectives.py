"""What does the defender minimise?  Functions ``objective(model, x, y, generator) -> Loss``."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.gradient import configured
from rvlib.smoothing.statistics import check_sigma


class Loss(NamedTuple):
    """A loss to descend, and the logits of the clean or noisy images that a progress bar reads."""

    value: Tensor
    logits: Tensor


class Objective(Protocol):
    """The loss of one batch; `generator` is the only source of randomness."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        """Return the loss of a batch of images (B, C, H, W) with labels (B,)."""


def standard(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
    r"""Cross-entropy on the clean images: :math:`J(\theta, x, y)`."""
    logits = model(x)
    return Loss(F.cross_entropy(logits, y), logits)


def gaussian(sigma: float) -> Objective:
    r"""Make the cross-entropy on images with Gaussian noise, drawn afresh at every step.

    .. math:: J(\theta, x + \delta, y), \qquad \delta \sim \mathcal{N}(0, \sigma^2 I)

    Parameters
    ----------
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.  Noisy images are not clipped.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.3.  arXiv:1902.02918.
    """
    check_sigma(sigma)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        noise = torch.empty_like(x).normal_(generator=generator)
        logits = model(x + sigma * noise)
        return Loss(F.cross_entropy(logits, y), logits)

    return objective


def adversarial(attack: Callable[..., Tensor], clean_weight: float = 0.5) -> Objective:
    r"""Make the weighted loss of clean and attacked images.

    .. math:: \alpha \, J(\theta, x, y) + (1 - \alpha) \, J(\theta, \hat{x}, y)

    Parameters
    ----------
    attack : callable
        ``attack(model, x, y) -> x_adv``, usually ``functools.partial(rvlib.pgd, threat=...)``; it
        is given `generator` if it has such a parameter.
    clean_weight : float, in [0, 1], default=0.5
        The weight :math:`\alpha`; 0 trains on attacked images alone [2]_.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples",
       ICLR 2015, section 6.  arXiv:1412.6572.
    .. [2] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
       ICLR 2018, section 2.1.  arXiv:1706.06083.
    """
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight={clean_weight} must lie in [0, 1]")
    return weighted([clean_weight, 1 - clean_weight], [attack])


def mixed(attacks: Sequence[Callable[..., Tensor]]) -> Objective:
    r"""Make the loss split in equal parts between clean images and each attack's.

    .. math:: \frac{1}{1 + m} \Big( J(\theta, x, y) + \sum_{j=1}^m J(\theta, \hat{x}_j, y) \Big)
    """
    return weighted([1 / (1 + len(attacks))] * (1 + len(attacks)), attacks)


def weighted(weights: Sequence[float], attacks: Sequence[Callable[..., Tensor]]) -> Objective:
    r"""Make the weighted sum of the losses of the clean images and of each attack's.

    .. math:: w_0 J(\theta, x, y) + \sum_j w_j J(\theta, \hat{x}_j, y)
    """
    calls = [configured(attack) for attack in attacks]

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        versions = [x, *(attack(model, x, y, generator) for attack in calls)]
        # One forward pass: batch normalisation takes its statistics over all versions together.
        logits = model(torch.cat(versions)).chunk(len(versions))
        losses = [w * F.cross_entropy(z, y) for w, z in zip(weights, logits, strict=True)]
        return Loss(torch.stack(losses).sum(), logits[0])

    return objective
