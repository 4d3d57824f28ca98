"""The fast gradient sign method: one step to the edge of the ball."""

import torch
from torch import nn

from rvlib.attacks.ascent import ascend, check_ball, loss_gradient, tiles, under_attack, without_nan
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels


def fgsm(model: nn.Module, x: Images, y: Labels, threat: ThreatModel) -> Images:
    r"""Attack a batch with one gradient step of full length (FGSM).

    .. math:: \hat{x} = \Pi_{[0,1]} \big( x + \epsilon \, v(\nabla_x L(\theta, x, y)) \big)

    where :math:`v` is ``threat.steepest``: the sign for the l-infinity ball of the paper, the
    normalised gradient for the others [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K).  Takes pixels, not normalised inputs.  Runs in
        evaluation mode; modes, ``requires_grad`` and ``.grad`` come back as they were.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius; ``threat.eps`` is in pixel units of [0, 1].

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, with ``threat.norm(x_adv - x) <= threat.eps``.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1] or the labels do not fit them.

    See Also
    --------
    rvlib.attacks.pgd : Several smaller steps, a stronger attack.

    Notes
    -----
    The accuracy on ``x_adv`` is an upper bound on the true robust accuracy, usually a loose one.

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples",
       ICLR 2015, section 4.  arXiv:1412.6572.

    Examples
    --------
    >>> import torch
    >>> from rvlib.threat_models import Linf
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> (fgsm(model, x, y, Linf(8 / 255)) - x).abs().mul(255).round().flatten().tolist()
    [8.0, 8.0, 8.0]
    """
    check_ball(threat)
    with under_attack(model, x, y):
        parts = zip(*tiles(model, x, y), strict=True)
        gradient = torch.cat([loss_gradient(model, *part) for part in parts])
    x_adv = ascend(lambda _: gradient, x, x, threat, steps=1, step_size=threat.eps)
    return without_nan(x_adv)
