"""FAB: the nearest misclassified point, by steps to where the network would change its answer."""

from functools import partial

import torch
from torch import Tensor, nn

from rvlib.attacks.gradient import attack, fooled, kept_inside, logits_and_gradient, towards
from rvlib.attacks.targets import (
    best_row,
    by_rank,
    choose,
    images_a_batch,
    looks,
    rows_of,
    side_by_side,
)
from rvlib.inference import in_batches, logits_of, select
from rvlib.threat_models import L2, Linf, ThreatModel, per_image

OVERSHOOT, BACK, LARGEST_BIAS = 1.05, 0.9, 0.1
"""The paper's eta, beta and alpha_max."""

PASSES = 7
"""Most Newton steps to the plane: on CIFAR-10's images the seventh leaves 1e-6 of the way."""


@attack
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Look for the nearest misclassified points (FAB, targeted); keep those in the ball.

    With :math:`f = z_t - z_y` for a target :math:`t`, :math:`\pi` the plane
    :math:`f(x^i) + \langle \nabla f(x^i), z - x^i \rangle = 0` and :math:`\delta`,
    :math:`\delta_0` the shortest ways from :math:`x^i` and :math:`x` to :math:`\pi` within the box,
    a step is

    .. math::
        x^{i+1} = \operatorname{clamp}\big((1 - \alpha) (x^i + \eta \delta)
            + \alpha (x + \eta \delta_0)\big), \qquad
        \alpha = \min\Big(\frac{\|\delta\|}{\|\delta\| + \|\delta_0\|}, \alpha_\max\Big).

    Where it is misclassified it is remembered if nearer than all before, and the search goes on
    at :math:`x + \beta (x^{i+1} - x)` [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); left as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : Linf or L2
        Norm and radius, one value or one per image.
    steps : int, default=100
        Number of steps.
    targets : Tensor of shape (B,) or (B, T), int64, optional
        Classes to move towards, those of one image side by side; by default the nine wrong classes
        of the highest logits of `x`.
    batch_size : int, optional
        Images a forward pass, at least one with all its targets; by default 256 on a CPU, all on a
        GPU.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Detached: the first misclassified point, whatever the target, that lies in the ball, else
        `x`.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels or targets do not fit them, the ball is
        another one, or `steps` makes no attack.

    See Also
    --------
    apgd : The steepest way up a loss, in a given ball.

    Notes
    -----
    An image takes ``2 * steps + 1`` forward and ``steps`` backward passes a target, or fewer: it
    leaves with the first point in the ball.  Other than in the paper the search ends with the
    single question that decides, whether the nearest point found fools once it is pulled back into
    the ball, not with three of a bisection; and there are no random restarts.

    References
    ----------
    .. [1] Croce, Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary
       Attack", ICML 2020, algorithm 1.  arXiv:1907.02044.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> x, y = torch.full((1, 3, 1, 1), 0.1), torch.tensor([0])
    >>> fab(model, x, y, Linf(0.11)).flatten(), fab(model, x, y, Linf(0.09)).flatten()
    (tensor([0., 0., 0.]), tensor([0.1000, 0.1000, 0.1000]))
    """
    if not isinstance(threat, Linf | L2):
        raise TypeError(f"threat={threat!r}: FAB is for the balls Linf and L2")
    if steps < 1:
        raise ValueError(f"steps={steps}: an attack takes at least one")
    if targets is None:
        targets = by_rank(logits_of(model, x, batch_size), y)
    targets = side_by_side(targets)
    size = images_a_batch(batch_size, x, targets.shape[1])
    return in_batches(partial(_search, model, steps), size, x, y, threat, targets)


def _search(
    model: nn.Module, steps: int, x: Tensor, y: Tensor, threat: ThreatModel, targets: Tensor
) -> Tensor:
    """Search from each image, a row a target; return what lies in the ball, else the image."""
    per, found = targets.shape[1], x.clone()
    left = torch.arange(len(x), device=x.device)
    rows = left.repeat_interleave(per)
    x, y, threat, t = x[rows], y[rows], threat.at(rows), targets.flatten()
    wide = torch.promote_types(x.dtype, torch.float32)  # half precision is too coarse to judge by
    x_t, nearest, distance = x, x, torch.full_like(x[:, 0, 0, 0], torch.inf, dtype=wide)
    for step in range(1, steps + 1):
        x_t = _step(model, x, y, threat, t, x_t)
        wrong, delta = fooled(logits_of(model, x_t, len(x)), y), x_t - x
        length = threat.norm(delta if wide == x.dtype else x_t.to(wide) - x.to(wide))
        stands = ~(distance <= threat.eps).view(-1, per).any(1).repeat_interleave(per)
        nearer = wrong & ~(length >= distance) & stands  # NaN is nearer, too: it must be seen
        distance = torch.where(nearer, length, distance)
        nearest = choose(nearer, x_t, nearest)
        x_t = choose(wrong, delta.mul_(BACK).add_(x), x_t)
        if looks(step) or step == steps:
            inside = (distance <= threat.eps).view(-1, per)
            hit, keep = (images.nonzero()[:, 0] for images in (inside.any(1), ~inside.any(1)))
            found[left[hit]] = best_row(inside, nearest)[hit]
            if not len(keep):
                return found
            if len(hit):
                left, rows = left[keep], rows_of(keep, per)
                parts = (x, y, threat, t, x_t, nearest, distance)
                x, y, threat, t, x_t, nearest, distance = (select(part, rows) for part in parts)
    pulled_back = kept_inside(x, (x + threat.project(nearest - x)).clamp_(0, 1), threat)
    wrong = fooled(logits_of(model, pulled_back, len(x)), y).view(-1, per)
    hit = wrong.any(1).nonzero()[:, 0]
    found[left[hit]] = best_row(wrong, pulled_back)[hit]
    return found


def _step(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, targets: Tensor, x_t: Tensor
) -> Tensor:
    """Go to the plane where the linearised network changes its answer, with a bias to `x`."""
    logits, w = logits_and_gradient(model, x_t, y, towards, targets)
    f = towards(logits, y, targets).to(x)
    ahead = to_plane(x_t, w, f, threat)
    home = to_plane(x, w, f + (x - x_t).mul_(w).sum((1, 2, 3)), threat)
    length = threat.norm(ahead)
    share = length / (length + threat.norm(home)).clamp_min(torch.finfo(x.dtype).tiny)
    bias = per_image(share.clamp_max(LARGEST_BIAS))
    ahead, home = (way.mul_(OVERSHOOT).add_(start) for way, start in ((ahead, x_t), (home, x)))
    return ahead.lerp_(home, bias).clamp_(0, 1)


def to_plane(x: Tensor, w: Tensor, f: Tensor, threat: ThreatModel) -> Tensor:
    r"""Shortest way within the box from `x` to the plane :math:`f + \langle w, \delta \rangle = 0`.

    Every pixel moves against the sign of :math:`f w_i`, by :math:`\min(\lambda v_i, r_i)`, where
    :math:`r_i` is its room up to the wall and :math:`v_i = 1` in l-infinity, :math:`|w_i|` in l2.
    Both follow from the optimality conditions; the least :math:`\lambda` with

    .. math:: \sum_i |w_i| \min(\lambda v_i, r_i) = |f|

    is found by Newton's method from zero, exact once on the right linear piece.  Where the
    box does not reach the plane the way leads to the nearest corner.
    """
    tiny = torch.finfo(x.dtype).tiny
    x, w = x.permute(0, 2, 3, 1), w.permute(0, 2, 3, 1)  # as images mostly lie in memory
    size = w.abs()
    scale = size.amax((1, 2, 3), keepdim=True).clamp_min(tiny)  # or small squares would vanish
    size, gap = size.div_(scale), f.abs()[:, None] / scale[:, 0, 0]
    direction = w.sign().mul_(-per_image(f.sign()))
    # Comparisons written as numbers: on a CPU ten times as fast as booleans that are cast.
    room = torch.gt(direction, 0, out=torch.empty_like(x)).sub_(x).abs_()
    l2 = isinstance(threat, L2)
    wall = (room / size.clamp_min(tiny) if l2 else room).flatten(1)  # (B, d)
    both = x.new_empty(len(x), 2, wall.shape[1])
    gain = (size * size if l2 else size).flatten(1)
    both[:, 0] = gain
    torch.mul(size.flatten(1), room.flatten(1), out=both[:, 1])
    both, total, reached = both.transpose(1, 2), gain.sum(1)[:, None], torch.empty_like(wall)
    way = gap / total.clamp_min(tiny)  # the first step: no wall is reached yet
    for _ in range(PASSES - 1):
        torch.le(wall, way, out=reached)
        lost, spent = (reached[:, None] @ both)[:, 0].split(1, 1)
        before, way = way, torch.maximum(way, (gap - spent) / (total - lost).clamp_min(tiny))
        if x.device.type == "cpu" and torch.equal(way, before):  # waits for a GPU
            break
    way = way.clamp_max(torch.finfo(x.dtype).max)[:, :, None, None]  # infinite: no way to the plane
    return torch.minimum(way * size if l2 else way, room).mul_(direction).permute(0, 3, 1, 2)
