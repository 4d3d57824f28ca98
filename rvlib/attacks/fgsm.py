"""The fast gradient sign method: one step to the edge of the ball."""

from torch import Tensor, nn

from rvlib.attacks.gradient import Loss, attack, input_gradient, log_odds
from rvlib.inference import in_batches
from rvlib.threat_models import ThreatModel, per_image


@attack
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    loss: Loss = log_odds,
    batch_size: int | None = None,
) -> Tensor:
    r"""Attack a batch with one gradient step of full length (FGSM).

    .. math:: \hat{x} = \Pi_{[0,1]} \big( x + \epsilon \, v(\nabla_x L(\theta, x, y)) \big)

    where :math:`v` is ``threat.steepest``: the sign for the l-infinity ball of the paper, the
    normalised gradient for the others [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K).  Takes pixels, not normalised inputs.  Runs in
        evaluation mode; modes and ``.grad`` are left as they were.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius; ``threat.eps`` is in pixel units of [0, 1].
    loss : callable, default=log_odds
        The loss to raise, ``loss(logits, y) -> (B,)``; the default has the cross-entropy's
        direction.
    batch_size : int, optional
        Images a forward pass; by default 256 on a CPU, all on a GPU.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, with ``threat.norm(x_adv - x) <= threat.eps`` (``L2`` and
        ``PixelL2``: up to the rounding of the norm itself, a millionth of it; in half precision a
        thousandth).

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1] or the labels do not fit them.

    See Also
    --------
    pgd : Several smaller steps, a stronger attack.

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
    >>> from rvlib import Linf, fgsm
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> (fgsm(model, x, y, Linf(8 / 255)) - x).abs().mul(255).round().flatten().tolist()
    [8.0, 8.0, 8.0]
    """
    gradient = in_batches(lambda x, y: input_gradient(model, x, y, loss), batch_size, x, y)
    return (x + per_image(threat.eps) * threat.steepest(gradient)).clamp(0, 1)
