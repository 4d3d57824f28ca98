"""The quickest way to a robust accuracy: an image leaves PGD with the first iterate that fools."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks.gradient import (
    GRADIENT_IS_NAN,
    Loss,
    attack,
    fooled,
    kept_inside,
    log_odds,
    logits_and_gradient,
    step_length,
)
from rvlib.checks import check_mask, passed
from rvlib.inference import in_batches, logits_of, select
from rvlib.threat_models import ThreatModel


@attack
def robust_mask(
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
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Find the images on which no iterate of PGD fools the network.

    The same iteration as ``pgd``, but each image leaves it with the first iterate

    .. math:: \max_{k \ne y} f_k(x^t) \ge f_y(x^t)

    so that the fewer images stand, the less there is to do.  Every iterate counts and not only the
    last: the accuracy is never higher than that on what ``pgd`` returns for the same starts.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); left as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius.
    steps, step_size, random_start : optional, default=10, None, True
        As for ``pgd``.
    restarts : int, default=1
        Runs, each from a random start of its own, on the images that still stand.
    loss : callable, optional
        As for ``pgd``.
    mask : Tensor of shape (B,), bool, optional
        Attack only these images; the others count as fallen.  A sweep over rising radii hands the
        result for one radius on to the next: what fools in a ball lies in all larger ones.
    generator, batch_size : optional
        As for ``pgd``.

    Returns
    -------
    Tensor of shape (B,), bool
        Whether the network classifies `x` and every iterate as `y`, a tie being wrong.  The mean is
        an upper bound on the robust accuracy.

    Raises
    ------
    TypeError, ValueError
        As for ``pgd``.

    See Also
    --------
    pgd : The attacked images themselves.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> x, y = torch.full((1, 3, 1, 1), 0.1), torch.tensor([0])
    >>> robust_mask(model, x, y, Linf(0.05)).item()
    True
    """
    if min(steps, restarts) < 1:
        raise ValueError(f"steps={steps}, restarts={restarts}: an attack takes at least one")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} would all start at the image: use random_start=True")
    if mask is not None:
        check_mask(mask, y, "mask")
    eta = step_length(step_size, threat, steps, x)
    nan = torch.zeros((), dtype=torch.bool, device=x.device)

    def stands(x_0: Tensor, y: Tensor, x_t: Tensor, ball: ThreatModel, eta: Tensor) -> Tensor:
        left, right = torch.arange(len(y), device=y.device), torch.ones_like(y, dtype=torch.bool)
        result = ~right
        for step in range(steps):
            logits, gradient = logits_and_gradient(model, x_t, y, loss)
            nan.logical_or_(logits.isnan().any())
            right = right & ~fooled(logits, y)
            if y.device.type == "cpu" or step & (step - 1) == 0:  # a look waits for a GPU
                keep = right.nonzero()[:, 0]
                if not len(keep):
                    return result
                if len(keep) < len(left):
                    parts = (left, right, x_0, y, x_t, gradient, ball, eta)
                    left, right, x_0, y, x_t, gradient, ball, eta = (select(p, keep) for p in parts)
            x_t = x_t + eta * ball.steepest(gradient)
            x_t = kept_inside(x_0, (x_0 + ball.project(x_t - x_0)).clamp_(0, 1), ball)
        logits = logits_of(model, x_t)
        nan.logical_or_(logits.isnan().any())
        result[left] = right & ~fooled(logits, y)
        return result

    every = torch.ones_like(y, dtype=torch.bool)
    standing = every if mask is None else mask.to(x.device, copy=True)

    def still(found: Callable[..., Tensor], *parts: Any) -> None:
        which = standing.nonzero()[:, 0]
        if len(which):  # some networks take no empty batch
            standing[which] = in_batches(found, batch_size, *(select(p, which) for p in parts))

    if mask is None or random_start:  # else the first iterate is the image
        still(lambda x, y: ~fooled(logits_of(model, x), y), x, y)
    for _ in range(restarts):
        start = (x + threat.sample(x, generator)).clamp(0, 1) if random_start else x
        start = kept_inside(x, start, threat)
        still(stands, x, y, start, threat, eta)
    if passed.get() is None and nan:  # waits for the device
        raise ValueError(GRADIENT_IS_NAN)
    return standing
