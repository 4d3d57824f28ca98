"""Adversarial training: learn the clean images and the ones attacked just now."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks.base import Attack, check_attack
from rvlib.checks import check_number
from rvlib.objectives.base import Loss, Objective
from rvlib.types import Images, Labels


def adversarial(attack: Attack, clean_weight: float = 0.5) -> Objective:
    r"""Make the weighted loss of clean and attacked images.

    .. math:: \tilde{J}(\theta, x, y) = \alpha J(\theta, x, y) + (1 - \alpha) J(\theta, \hat{x}, y)

    with :math:`\alpha` = `clean_weight` and :math:`\hat{x}` attacked against the current
    weights [1]_; with :math:`\alpha = 0` the adversarial training of Madry et al. [2]_.

    Parameters
    ----------
    attack : Attack
        Makes the attacked images, with the network in evaluation mode.
    clean_weight : float, in [0, 1], default=0.5
        Share of the clean loss.

    Returns
    -------
    Objective
        Its logits are those of the clean images.

    Raises
    ------
    TypeError, ValueError
        If `attack` is none, or `clean_weight` is outside [0, 1].

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples",
       ICLR 2015, section 6.  arXiv:1412.6572.
    .. [2] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
       ICLR 2018, section 2.1.  arXiv:1706.06083.
    """
    check_number("clean_weight", clean_weight, "clean_weight=0.5")
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight={clean_weight} must be in [0, 1]: 0.5, say")
    return weighted([clean_weight, 1 - clean_weight], [attack])


def mixed(attacks: Sequence[Attack]) -> Objective:
    r"""Make the loss split in equal parts between clean images and each attack's.

    .. math:: \tilde{J} = \frac{1}{1 + k} \Big( J(\theta, x, y)
        + \sum_{i=1}^{k} J(\theta, \hat{x}_i, y) \Big)

    With the attacks PGD-l-infinity and PGD-l2 this is the report's mixed adversarial training.

    Parameters
    ----------
    attacks : sequence of Attack
        One or more attacks, all against the current weights.

    Returns
    -------
    Objective
        Its logits are those of the clean images.

    Raises
    ------
    TypeError
        If they are no sequence of attacks.
    """
    if not isinstance(attacks, Iterable):
        raise TypeError(f"attacks is {type(attacks).__name__}: write [attack], or use adversarial")
    attacks = list(attacks)
    share = 1 / (1 + len(attacks))
    return weighted([share] * (1 + len(attacks)), attacks)


def weighted(weights: Sequence[float], attacks: Sequence[Attack]) -> Objective:
    r"""Make the weighted sum of the losses of the clean images and of each attack's.

    Parameters
    ----------
    weights : sequence of float
        Of the clean loss first, then of each attack's.
    attacks : sequence of Attack
        Make the attacked images.

    Returns
    -------
    Objective
        Its logits are those of the clean images.

    Raises
    ------
    TypeError
        If one of them is no attack.
    """
    for attack in attacks:
        check_attack(attack)

    def objective(model: nn.Module, x: Images, y: Labels, generator: torch.Generator) -> Loss:
        versions = [x, *(attack(model, x, y, generator) for attack in attacks)]
        # One pass over all versions: where there is batch normalisation it sees the same mixture
        # of clean and attacked images in training that the weights stand for.
        logits = model(torch.cat(versions)).chunk(len(versions))
        losses = [w * F.cross_entropy(z, y) for w, z in zip(weights, logits, strict=True)]
        return Loss(torch.stack(losses).sum(), logits[0].detach())

    return objective
