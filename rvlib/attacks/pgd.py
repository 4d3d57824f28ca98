"""Projected gradient descent: the attack that the field trains and measures with."""

from functools import partial

import torch
from torch import Tensor, nn

from rvlib.attacks.gradient import (
    Loss,
    attack,
    check_targeted,
    fooled,
    kept_inside,
    log_odds,
    logits_and_gradient,
    step_length,
)
from rvlib.attacks.targets import choose
from rvlib.inference import in_batches, logits_of, select
from rvlib.threat_models import ThreatModel


@attack
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = log_odds,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
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
        evaluation mode; modes and ``.grad`` are left as they were.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius; ``threat.eps`` is in pixel units of [0, 1], one value or one per image.
    steps : int, default=10
        Number of gradient steps.
    step_size : float or Tensor of shape (B,), default=2.5 * threat.eps / steps
        Length of one step in the norm of `threat`, in pixel units.
    random_start : bool, default=True
        Start at a uniform point of the ball instead of at `x`.
    restarts : int, default=1
        Number of independent runs; needs `random_start`.  Only images that are not fooled yet
        go on to the next one, and each keeps the example of the highest loss until one fools.
    loss : callable, default=log_odds
        The loss to raise, ``loss(logits, y) -> (B,)``; the default has the cross-entropy's
        direction.
    targets : Tensor of shape (B,), int64, optional
        Classes to reach, for a targeted `loss(logits, y, targets)` such as ``towards``; an image
        then counts as fooled when the network gives its target.
    generator : torch.Generator, optional
        Source of the random start, on the device of `x`.
    batch_size : int, optional
        Images a forward pass; by default 256 on a CPU, all on a GPU.  Starts do not depend on it.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, with ``threat.norm(x_adv - x) <= threat.eps`` (``L2`` and
        ``PixelL2``: up to the rounding of the norm itself, a millionth of it; in half precision a
        thousandth).  An image that was fooled in any restart is fooled in the result, unless
        rounding at the edge of the ball takes it back.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels do not fit them, or the
        hyper-parameters make no attack.

    See Also
    --------
    fgsm : One step of size ``eps`` from `x` itself.
    robust_mask : Only which images withstand it, faster.
    smoothed_pgd : The same loop against a smoothed network.

    Notes
    -----
    The accuracy on ``x_adv`` is an upper bound on the true robust accuracy.  Clamping after the
    projection stays in the ball, because `x` is in the box; for the Euclidean ball the result is
    feasible, not the exact projection onto the intersection.

    References
    ----------
    .. [1] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
       ICLR 2018, section 2.1.  arXiv:1706.06083.

    Examples
    --------
    >>> import torch
    >>> from rvlib import Linf, pgd
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> x_adv = pgd(model, x, y, Linf(8 / 255), random_start=False)
    >>> (x_adv - x).abs().mul(255).round().flatten().tolist()
    [8.0, 8.0, 8.0]
    """
    if min(steps, restarts) < 1:
        raise ValueError(f"steps={steps}, restarts={restarts}: an attack takes at least one")
    if targets is not None:
        check_targeted(loss)
        if targets.dim() != 1:
            raise ValueError(f"targets have shape {tuple(targets.shape)}: give one per image")
        targets = targets.clone()  # of inference mode, perhaps
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} would all start at the image: use random_start=True")
    eta = step_length(step_size, threat, steps, x)
    # Drawn for all images each time: ranks of a training stay in step.
    starts = (
        (x + threat.sample(x, generator)).clamp(0, 1) if random_start else x
        for _ in range(restarts)
    )
    climb = partial(ascend, model, steps=steps, loss=loss)
    x_adv = in_batches(climb, batch_size, x, y, next(starts), threat, eta, targets)
    if restarts == 1:
        return x_adv
    # Restarts compare what will be returned; in half precision rounding may leave the ball.
    x_adv = kept_inside(x, x_adv, threat)
    worst = harm(logits_of(model, x_adv, batch_size), y, loss, targets)
    for start in starts:
        standing = (worst < torch.inf).nonzero()[:, 0]
        if not len(standing):
            continue
        parts = [select(part, standing) for part in (x, y, start, threat, eta, targets)]
        again = kept_inside(parts[0], in_batches(climb, batch_size, *parts), parts[3])
        value = harm(logits_of(model, again, batch_size), parts[1], loss, parts[5])
        better = value > worst[standing]
        x_adv[standing] = choose(better, again, x_adv[standing])
        worst[standing] = choose(better, value, worst[standing])
    return x_adv


def ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_t: Tensor,
    threat: ThreatModel,
    eta: float | Tensor,
    targets: Tensor | None,
    *,
    steps: int,
    loss: Loss,
) -> Tensor:
    """Climb from `x_t` in steps of length `eta`, each projected onto the ball and the box."""
    for _ in range(steps):
        _, gradient = logits_and_gradient(model, x_t, y, loss, targets)
        step = threat.steepest(gradient).mul_(eta)
        x_t = threat.project(step.add_(x_t).sub_(x)).add_(x).clamp_(0, 1)
    return x_t


def harm(logits: Tensor, y: Tensor, loss: Loss, targets: Tensor | None) -> Tensor:
    """How bad attacked images are, (B,): their loss, infinite where they fool."""
    if targets is None:
        return loss(logits, y).masked_fill(fooled(logits, y), torch.inf)
    return loss(logits, y, targets).masked_fill(logits.argmax(1) == targets, torch.inf)
