"""Projected gradient descent: the attack that the field trains and measures with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.ascent import (
    ascend,
    check_restarts,
    logits_in_tiles,
    loss_gradient,
    stride,
    tiles,
    under_attack,
    without_nan,
)
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels, check_generator


def pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Images:
    r"""Attack a batch by projected gradient ascent on the loss (PGD).

    Runs ``steps`` times

    .. math:: x^{t+1} = \Pi_{(x + \mathcal{S}) \cap [0,1]^d}
        \big( x^t + \eta \, v(\nabla_x L(\theta, x^t, y)) \big)

    where :math:`\mathcal{S}` is the ball of `threat`, :math:`\eta` is `step_size` and :math:`v`
    is ``threat.steepest`` (the sign of the gradient for l-infinity) [1]_.

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
    steps : int, default=10
        Number of gradient steps.
    step_size : float, default=2.5 * threat.eps / steps
        Length of one step in the norm of `threat`, in pixel units.
    random_start : bool, default=True
        Start at a uniform point of the ball instead of at `x`.
    restarts : int, default=1
        Number of independent runs; needs `random_start`.  Only images that are not fooled yet
        go on to the next one, and each keeps the example of the highest loss until one fools.
    generator : torch.Generator, default=None
        Source of the random start, on the device of `x`.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, with ``threat.norm(x_adv - x) <= threat.eps``: an image that
        was fooled in any restart is fooled in the result.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels do not fit them, or the
        hyper-parameters make no attack.

    See Also
    --------
    rvlib.attacks.fgsm : One step of size ``eps`` from `x` itself.
    rvlib.attacks.smoothed_pgd : The same loop against a smoothed network.

    Notes
    -----
    The accuracy on ``x_adv`` is an upper bound on the true robust accuracy.

    References
    ----------
    .. [1] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
       ICLR 2018, section 2.1.  arXiv:1706.06083.

    Examples
    --------
    >>> import torch
    >>> from rvlib.threat_models import Linf
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> x_adv = pgd(model, x, y, Linf(8 / 255), random_start=False)
    >>> (x_adv - x).abs().mul(255).round().flatten().tolist()
    [8.0, 8.0, 8.0]
    """
    step = stride(threat, steps, step_size)
    check_restarts(restarts, random_start)
    with under_attack(model, x, y):
        check_generator(generator, x)

        def run(chosen: Tensor | slice) -> Images:
            # Drawn for the whole batch: an image's start does not depend on who else goes on.
            delta = threat.sample(x, generator) if random_start else torch.zeros_like(x)
            cut = tiles(model, x[chosen], y[chosen], (x + delta).clamp(0, 1)[chosen])
            return torch.cat([walk(*part) for part in zip(*cut, strict=True)])

        def walk(images: Images, labels: Labels, start: Images) -> Images:
            def gradient(x_t: Images) -> Tensor:
                return loss_gradient(model, x_t, labels)

            return ascend(gradient, images, start, threat, steps, step)

        x_adv = run(slice(None))
        for _ in range(restarts - 1):
            again = _loss_if_standing(model, x_adv, y) < torch.inf
            if not again.any():
                break
            x_adv[again] = _worse(model, y[again], x_adv[again], run(again))
        return without_nan(x_adv)


@torch.no_grad()
def _loss_if_standing(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Loss of each image (B,), infinite where the network is fooled.

    By loss alone a success could be overwritten by a failure of higher loss.
    """
    logits = logits_in_tiles(model, x)
    loss = F.cross_entropy(logits.double(), y, reduction="none")
    return torch.where(logits.argmax(1) == y, loss, torch.inf)


def _worse(model: nn.Module, y: Labels, a: Images, b: Images) -> Images:
    """Keep, per image, what fools the network, else the higher loss."""
    take_b = _loss_if_standing(model, b, y) > _loss_if_standing(model, a, y)
    return torch.where(take_b[:, None, None, None], b, a)
