"""Noisy training: the base network of randomized smoothing."""

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.checks import check_sigma
from rvlib.objectives.base import Loss, Objective
from rvlib.types import Images, Labels


def gaussian(sigma: float) -> Objective:
    r"""Make the cross-entropy on images with Gaussian noise, drawn afresh at every step.

    .. math:: \mathbb{E}_{\delta \sim \mathcal{N}(0, \sigma^2 I)} \, J(\theta, x + \delta, y)

    estimated with one draw an image [1]_.

    Parameters
    ----------
    sigma : float, > 0
        Standard deviation in pixel units of [0, 1].  Noisy pixels are not clipped, here as in
        certification.

    Returns
    -------
    Objective
        Its logits are those of the noisy images.

    Raises
    ------
    ValueError
        If `sigma` is not positive.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.3.  arXiv:1902.02918.
    """
    check_sigma(sigma)

    def objective(model: nn.Module, x: Images, y: Labels, generator: torch.Generator) -> Loss:
        noise = torch.empty_like(x).normal_(generator=generator)
        logits = model(x + sigma * noise)
        return Loss(F.cross_entropy(logits, y), logits.detach())

    return objective
