"""AutoPGD: projected gradient ascent that chooses its own step size."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

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
)
from rvlib.attacks.targets import best_row, choose, images_a_batch, looks, rows_of, side_by_side
from rvlib.inference import in_batches, select
from rvlib.threat_models import ThreatModel, per_image

MOMENTUM = 0.75
"""The paper's alpha: share of a new step; the rest repeats the last one."""

RISES = 0.75
"""The paper's rho: a step size is kept if more than this share of its steps raised the loss."""


@attack
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: Loss = log_odds,
    targets: Tensor | None = None,
    draws: int = 1,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Attack a batch by gradient ascent with momentum and a step size that halves itself (APGD).

    From a random point of the ball, with :math:`\eta = 2 \epsilon` and :math:`\alpha = 3/4`,

    .. math::
        z^{t+1} &= \Pi\big(x^t + \eta \, v(\nabla_x L(x^t, y))\big) \\
        x^{t+1} &= \Pi\big(x^t + \alpha (z^{t+1} - x^t) + (1 - \alpha) (x^t - x^{t-1})\big)

    where :math:`\Pi` projects onto the ball and clamps to the box and :math:`v` is
    ``threat.steepest``.  At the ``checkpoints`` :math:`\eta` is halved and the run goes on from its
    best point if at most 3/4 of the steps since the last one raised the loss, or if neither
    :math:`\eta` nor the best loss has changed since then [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); left as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius, one value or one per image.
    steps : int, default=100
        Number of steps.
    restarts : int, default=1
        Runs, each from a random start of its own, on the images that still stand.
    loss : callable, optional
        The loss to raise, ``loss(logits, y) -> (B,)``, with `targets` ``loss(logits, y, target)``;
        the default has the cross-entropy's direction.
    targets : Tensor of shape (B,) or (B, T), int64, optional
        Classes to move towards; those of one image side by side, from one start.
    draws : int, default=1
        Answers of a randomised network that a gradient and a loss are means of (the paper's EOT).
    generator : torch.Generator, optional
        Source of the starts, on the device of `x`.
    batch_size : int, optional
        Images a forward pass, at least one with all its targets; by default 256 on a CPU, all on a
        GPU.  Starts do not depend on it.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, in the ball: the first misclassified iterate, whatever the
        target, else the one of the highest loss.  With several `draws` an iterate counts as
        misclassified when every answer is wrong.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels or targets do not fit them, or the
        hyper-parameters make no attack.

    See Also
    --------
    pgd : A constant step size.
    autoattack : The ensemble of which this is the first half.

    Notes
    -----
    An image takes ``steps + 1`` forward and backward passes a run, target and draw, or fewer: it
    leaves with the iterate that fools.  Where the published code has quirks, here:

    - the start is uniform in the ball, not on its surface; the targets of an image share it;
    - the first checkpoint compares losses with the start's, not with zero, and knows both rules;
    - the first step after a return to the best point has no momentum, not that of the leap;
    - the first iterate that fools is kept, not the last; a tie is not correct;
    - with several draws the loss is their mean, not the last one's, and all of them must be wrong;
    - clamping after the projection onto a Euclidean ball is feasible, no exact projection.

    References
    ----------
    .. [1] Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
       Parameter-free Attacks", ICML 2020, section 3, algorithm 1.  arXiv:2003.01690.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> x_adv = apgd(model, x, y, Linf(8 / 255))
    >>> ((x_adv - x).abs() <= 8 / 255).all().item()
    True
    """
    if min(steps, restarts, draws) < 1:
        raise ValueError(
            f"steps={steps}, restarts={restarts}, draws={draws}: an attack takes at least one"
        )
    if targets is not None:
        check_targeted(loss)
        targets = side_by_side(targets)
    starts = [
        kept_inside(x, (x + threat.sample(x, generator)).clamp(0, 1), threat)
        for _ in range(restarts)
    ]
    run = partial(_run, partial(_assess, model, loss=loss, draws=draws), steps)

    def runs(x: Tensor, y: Tensor, threat: ThreatModel, targets: Any, *starts: Tensor) -> Tensor:
        best, harm = x.clone(), torch.full_like(x[:, 0, 0, 0], -torch.inf)
        for start in starts:
            left = (harm < torch.inf).nonzero()[:, 0]
            if len(left):
                found, value = run(*(select(p, left) for p in (x, y, threat, targets, start)))
                better = value > harm[left]
                best[left] = choose(better, found, best[left])
                harm[left] = choose(better, value, harm[left])
        return best

    size = images_a_batch(batch_size, x, 1 if targets is None else targets.shape[1])
    return in_batches(runs, size, x, y, threat, targets, *starts)


def checkpoints(steps: int) -> list[int]:
    r"""After which steps the step size is looked at (section 3).

    .. math:: w_j = \lceil p_j N \rceil, \qquad p_0 = 0, \quad p_1 = 0.22, \quad
        p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, \, 0.06)

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    percent, interval, found = 22, 22, []
    while percent < 100:
        found.append(-(-percent * steps // 100))  # in whole numbers, which round up exactly
        interval = max(interval - 3, 6)
        percent += interval
    return sorted(set(found))


def _assess(
    model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None, loss: Loss, draws: int
) -> tuple[Tensor, Tensor]:
    """Mean loss, infinite where every answer is wrong, and the gradient of the sum."""

    def answer() -> tuple[Tensor, Tensor, Tensor]:
        logits, gradient = logits_and_gradient(model, x, y, loss, targets)
        value = loss(logits, y) if targets is None else loss(logits, y, targets)
        return value, gradient, fooled(logits, y)

    value, gradient, wrong = answer()
    for _ in range(draws - 1):
        more = answer()
        value, gradient, wrong = value + more[0], gradient + more[1], wrong & more[2]
    return torch.where(wrong, torch.inf, value.to(x) / draws), gradient


def _run(
    assess: Callable[..., tuple[Tensor, Tensor]],
    steps: int,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    targets: Tensor | None,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run once; return each image's iterate of the highest loss, and it: infinite where fooled."""
    per, checks, checked = 1 if targets is None else targets.shape[1], checkpoints(steps), 0
    left = torch.arange(len(x), device=x.device)
    best, harm = torch.empty_like(start), torch.empty_like(start[:, 0, 0, 0])
    rows = left.repeat_interleave(per)
    x, y, threat, start = x[rows], y[rows], threat.at(rows), start[rows]
    targets = None if targets is None else targets.flatten()
    point = Point(start, *assess(start, y, targets))
    run = _Ascent(
        *(per, x, y, threat, targets),
        eta=2 * torch.as_tensor(threat.eps).to(x).expand(len(x)),
        now=point,
        x_before=start,
        best=point,
        value_at_check=point.value,
        rises=torch.zeros_like(y),
        halved=torch.zeros_like(y, dtype=torch.bool),
    )
    for step in range(steps + 1):
        if step > 0:
            run.step(1 if step == 1 else MOMENTUM)
            run.see(*assess(run.now.x, run.y, run.targets))
        if step in checks:
            run.check(step - checked)
            checked = step
        if looks(step) or step == steps:
            scores = run.best.value.view(-1, per)
            best[left], harm[left] = best_row(scores, run.best.x), scores.amax(1)
            keep = (scores.amax(1) < torch.inf).nonzero()[:, 0]
            if not len(keep):
                break
            if len(keep) < len(left):
                left, run = left[keep], run.at(rows_of(keep, per))
    return best, harm


class Point(NamedTuple):
    """Images, one a row, with loss and gradient there."""

    x: Tensor
    value: Tensor
    gradient: Tensor

    def at(self, rows: Tensor) -> "Point":
        """Keep some rows only."""
        return Point(*(part[rows] for part in self))

    def where(self, mask: Tensor, other: "Point") -> "Point":
        """Take another point's rows where the mask does not say so."""
        return Point(*(choose(mask, *parts) for parts in zip(self, other, strict=True)))


@dataclass
class _Ascent:
    """Where the rows of a run are: one row per image and target."""

    per: int  # rows per image
    x: Tensor
    y: Tensor
    threat: ThreatModel
    targets: Tensor | None
    eta: Tensor
    now: Point
    x_before: Tensor
    best: Point
    value_at_check: Tensor
    rises: Tensor
    halved: Tensor

    def at(self, rows: Tensor) -> "_Ascent":
        """Keep some rows only."""
        return _Ascent(*(select(getattr(self, field.name), rows) for field in fields(self)))

    def step(self, alpha: float) -> None:
        """Go one step, with momentum unless `alpha` is one."""
        x_t, _, gradient = self.now
        z = self._project(x_t + per_image(self.eta) * self.threat.steepest(gradient))
        ahead = x_t.lerp(z, alpha).add_(x_t - self.x_before, alpha=1 - alpha)
        self.x_before, self.now = x_t, self.now._replace(x=self._project(ahead))

    def _project(self, x_t: Tensor) -> Tensor:
        x_t = self.threat.project(x_t - self.x).add_(self.x).clamp_(0, 1)
        return kept_inside(self.x, x_t, self.threat)

    def see(self, value: Tensor, gradient: Tensor) -> None:
        """Take note of the new point, perhaps as the best one: unless its image has fallen."""
        stands = self.best.value.view(-1, self.per).amax(1) < torch.inf
        self.rises = self.rises + (value > self.now.value)
        self.now = Point(self.now.x, value, gradient)
        better = (value > self.best.value) & stands.repeat_interleave(self.per)
        self.best = self.now.where(better, self.best)

    def check(self, interval: int) -> None:
        """Halve the step size where the last `interval` steps got nowhere; go back to the best."""
        idle = ~self.halved & (self.best.value <= self.value_at_check)
        self.halved = (self.rises <= RISES * interval) | idle
        self.eta = torch.where(self.halved, self.eta / 2, self.eta)
        self.now = self.best.where(self.halved, self.now)
        self.x_before = choose(self.halved, self.best.x, self.x_before)
        self.value_at_check, self.rises = self.best.value, torch.zeros_like(self.rises)
