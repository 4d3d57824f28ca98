"""Exercises of notebook 02: the projection onto the l2 ball, and PGD in it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.course.calls import Solution
from rvlib.course.examples import gradient, small_batch
from rvlib.course.exercises.exercise import Exercise, Part
from rvlib.course.exercises.fgsm import in_box
from rvlib.course.exercises.solutions import my_pgd
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel

UNIT, PIXEL_UNIT = L2(1).steepest, PixelL2(1).steepest

# --- The projection -------------------------------------------------------------------------------


def _length(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _shrunk(
    length: Callable[[Tensor], Tensor] = _length,
    limit: Callable[[Tensor], Tensor] = lambda factor: factor.clamp_max(1),
) -> Solution:
    """Project with another measure of length, or another limit of the factor."""
    return lambda delta, eps: delta * limit(eps / length(delta))


def _perturbations() -> Tensor:
    """Three perturbations, the last one inside the balls of all cases."""
    delta = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return torch.tensor([2.0, 0.9, 0.3]).view(-1, 1, 1, 1) * UNIT(delta)


def _longest(delta: Tensor) -> tuple[int, float]:
    lengths = _length(delta.detach()).flatten()
    return int(lengths.argmax()), lengths.max().item()


def _in_ball(result: Tensor, delta: Tensor, eps: float) -> str:
    """Name a projection that is longer than eps."""
    at, after = _longest(result)
    before = _length(delta)[at].item()
    told = f"`delta[{at}]` has length {before:.4g}, yours has {after:.4g}, allowed {eps:.4g}"
    return told * (after > eps + 1e-5)


def _same_direction(result: Tensor, delta: Tensor, eps: float) -> str:
    cosines = torch.cosine_similarity(result.detach().flatten(1), delta.flatten(1))
    at = int(cosines.argmin())
    told = f"your result points elsewhere than `delta[{at}]`: change only its length"
    return told * bool(cosines[at] < 1 - 1e-4)


check_l2_projection = Exercise(
    signature="my_l2_projection(delta, eps)",
    task="the perturbations `delta`, those longer than `eps` shrunk to length `eps`.",
    cases=[(_perturbations(), eps) for eps in (0.5, 0.8)],
    mistakes=[
        "Nothing is shrunk: perturbations longer than `eps` must be.",
        lambda delta, eps: delta,
        "This takes the norm of the whole *batch*: take one per image, over all other dimensions.",
        lambda delta, eps: eps * delta / delta.norm(),
        "This takes the norm of each *pixel*, as `PixelL2` does: the l2 ball has one per image.",
        Part("This takes the norm of each *pixel*.", length=lambda d: d.norm(dim=1, keepdim=True)),
        lambda delta, eps: eps * PIXEL_UNIT(delta),
        "This takes the norm of each colour *channel*: the l2 ball has one per image.",
        _shrunk(lambda delta: delta.norm(dim=(2, 3), keepdim=True)),
        "This clamps every entry, as in the l∞ ball: shrink the l2 norm of each image instead.",
        lambda delta, eps: delta.clamp(-eps, eps),
        "This gives *every* perturbation the length `eps`: keep those inside the ball as they are.",
        Part("This gives *every* perturbation the length `eps`.", limit=lambda factor: factor),
        "This divides by the *squared* norm: a square root is missing.",
        Part("This divides by the *squared* norm.", length=lambda delta: _length(delta) ** 2),
        "This takes the root of the *mean* square: the l2 norm is the root of the *sum*.",
        _shrunk(lambda delta: delta.square().mean((1, 2, 3), keepdim=True).sqrt()),
        "This takes the sum of absolute values, the l1 norm.",
        _shrunk(lambda delta: delta.abs().sum((1, 2, 3), keepdim=True)),
        "This *lengthens* the short ones and shrinks none: the factor is at most 1.",
        Part("This *lengthens* the short ones and shrinks none.", limit=lambda f: f.clamp_min(1)),
        "This compares the length with 1, not with `eps`.",
        lambda delta, eps: eps * delta / _length(delta).clamp_min(1),
        lambda delta, eps: delta / _length(delta).clamp_min(1),
        "These perturbations have length 1: shrink to `eps`, and only those that are longer.",
        lambda delta, eps: UNIT(delta),
    ],
    make=lambda **parts: [_shrunk(**parts)],
    laws=[_in_ball, _same_direction],
    more=lambda rng: [
        (torch.from_numpy(rng.normal(0, 0.2, (4, 3, 2, 3))).float(), eps)
        for eps in rng.uniform(0.3, 1.2, 4).tolist()
    ],
    special={"Zero stays zero: do not divide by its length.": (torch.zeros(1, 3, 1, 2), 0.5)},
    fact="In the 3072 dimensions of a CIFAR-10 image, a corner of the l∞ ball of radius eps is "
    f"{3072**0.5:.0f} times as far from its centre as the surface of this ball.",
)

# --- PGD ------------------------------------------------------------------------------------------

Back = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Returns the next iterate to the ball, given the clean images, the last iterate and the next."""


def _into(ball: Callable[[float], ThreatModel], low: float = 0, high: float = 1) -> Back:
    return lambda x, x_t, x_next, eps: (x + ball(eps).project(x_next - x)).clamp(low, high)


BALL_AND_BOX, BALL = _into(L2), _into(L2, -9, 10)
BOX, NEITHER = (_into(lambda eps: L2(1e6), *box) for box in ((0, 1), (-9, 10)))


def _pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    step: float,
    steps: int,
    direction: Callable[[Tensor], Tensor] = UNIT,
    back: Back = BALL_AND_BOX,
    fixed: bool = False,
    accumulate: bool = False,
) -> Tensor:
    """PGD with its parts exchanged; `fixed` takes every gradient at `x`, `accumulate` sums them."""
    x_t, total = x, torch.zeros_like(x)
    for _ in range(steps):
        total = gradient(model, x if fixed else x_t, y) + accumulate * total
        x_t = back(x, x_t, x_t + step * direction(total), eps)
    return x_t


def _projected_last(back: Back) -> Solution:
    attack: Solution = partial(_pgd, back=back)
    return lambda model, x, y, eps, *rest: BALL_AND_BOX(x, x, attack(model, x, y, eps, *rest), eps)


def _around_zero(x: Tensor, x_t: Tensor, x_next: Tensor, eps: float) -> Tensor:
    return L2(eps).project(x_next).clamp(0, 1)


def _all_as_soon_as_one(x: Tensor, x_t: Tensor, x_next: Tensor, eps: float) -> Tensor:
    delta = x_next - x
    outside = bool((_length(delta) > eps).any())
    return (x + (eps * UNIT(delta) if outside else delta)).clamp(0, 1)


def _in_euclidean_ball(x_adv: Tensor, *case: Any) -> str:
    _, x, _, eps, *_ = case
    at, length = _longest(x_adv - x)
    told = f"your perturbation of image {at} has length {length:.4g}, allowed {eps:.4g}"
    return told * (length > eps + 1e-5)


check_pgd = Exercise(
    signature="my_pgd(model, x, y, eps, step, steps)",
    task="the images after `steps` iterations from `x`: each moves them by `step` along the "
    "normalised gradient, projects onto the l2 ball around `x`, then clamps to [0, 1].",
    cases=[
        (*small_batch(), 0.5, 0.2, 5),
        (*small_batch(), 0.3, 0.5, 3),
        (*small_batch(2), 1.0, 0.25, 5),  # the clamp keeps one image inside the ball
    ],
    also_right=[
        # Clamping first: shrinking towards `x` does not leave [0, 1].
        partial(_pgd, back=lambda x, x_t, x_next, eps: BALL(x, x_t, x_next.clamp(0, 1), eps)),
    ],
    mistakes=[
        "These are the clean images: no step has moved them.",
        lambda model, x, *rest: x,
        "This *descends* the loss: an attack adds the gradient.",
        Part("This *descends* the loss.", direction=lambda g: -UNIT(g)),
        partial(_pgd, direction=lambda g: -UNIT(g), back=BALL),
        "There is no projection: after several steps the images are further than `eps` from `x`.",
        Part("There is no projection.", back=BOX),
        partial(_pgd, back=NEITHER),
        "This projects around the last *iterate* and drifts away: project around the clean `x`.",
        partial(_pgd, back=lambda x, x_t, x_next, eps: BALL_AND_BOX(x_t, x_t, x_next, eps)),
        "This projects the *image* onto the ball around zero: project `x_adv - x`, then add `x`.",
        Part("This projects the *image* onto the ball around zero.", back=_around_zero),
        "This adds the projected *image* to `x`: project `x_adv - x`, the perturbation.",
        partial(_pgd, back=lambda x, x_t, x_next, eps: (x + L2(eps).project(x_next)).clamp(0, 1)),
        "The projected perturbation has to be added to `x` again: `x + delta`, after every step.",
        partial(_pgd, back=lambda x, x_t, x_next, eps: L2(eps).project(x_next - x).clamp(0, 1)),
        "This gives *every* perturbation the length `eps`: shrink only those that are longer.",
        partial(_pgd, back=lambda x, x_t, x_next, eps: (x + eps * UNIT(x_next - x)).clamp(0, 1)),
        "As soon as *one* image is outside, this sets the length of all: decide image by image.",
        partial(_pgd, back=_all_as_soon_as_one),
        "This projects only after the last step: project after every step.",
        _projected_last(BOX),
        _projected_last(NEITHER),
        "The images leave [0, 1]: clamp them after every step.",
        partial(_pgd, back=BALL),
        "This clamps only after the last step: clamp after every step.",
        lambda *arguments: partial(_pgd, back=BALL)(*arguments).clamp(0, 1),
        "The step is as long as the gradient: divide it by its norm, then multiply by `step`.",
        Part("The step is as long as the gradient.", direction=lambda g: g),
        partial(_pgd, direction=lambda g: g / len(g)),
        "This divides by the gradient norm of the whole *batch*: take one norm per image.",
        Part(
            "This divides by the gradient norm of the whole *batch*.",
            direction=lambda g: g / g.norm(),
        ),
        "This divides by the gradient norm of each *pixel*: the l2 ball has one norm per image.",
        partial(_pgd, direction=PIXEL_UNIT),
        partial(_pgd, direction=PIXEL_UNIT, back=_into(PixelL2)),
        "This steps along the *sign*, as in the l∞ ball: divide the gradient by its norm instead.",
        Part("This steps along the *sign*.", direction=torch.sign),
        partial(_pgd, direction=torch.sign, back=_into(Linf)),
        "This projects onto the l∞ ball: shrink the l2 norm of each image's perturbation instead.",
        Part("This projects onto the l∞ ball.", back=_into(Linf)),
        "This projects *pixel* by pixel onto `PixelL2`: the l2 ball has one norm per image.",
        partial(_pgd, back=_into(PixelL2)),
        "The gradient is always taken at the clean `x`: PGD takes it anew at each iterate.",
        Part("The gradient is always taken at the clean `x`.", fixed=True),
        "The gradients of all steps accumulate in `.grad`: use `torch.autograd.grad`.",
        Part("The gradients of all steps accumulate.", accumulate=True, fixed=False),
        "This takes only one step: is the `return` inside the loop?",
        lambda model, x, y, eps, step, steps: my_pgd(model, x, y, eps, step, 1),
        "This takes one step too few or too many: loop over `range(steps)`.",
        lambda model, x, y, eps, step, steps: my_pgd(model, x, y, eps, step, steps - 1),
        lambda model, x, y, eps, step, steps: my_pgd(model, x, y, eps, step, steps + 1),
        "The steps have length `eps`: make them `step` long.",
        lambda model, x, y, eps, step, steps: my_pgd(model, x, y, eps, eps, steps),
        "The steps have length `step * eps`: `step` is in pixel units already.",
        lambda model, x, y, eps, step, steps: my_pgd(model, x, y, eps, step * eps, steps),
        "The gradient is taken at the network's predictions instead of the labels `y`.",
        lambda model, x, y, *rest: my_pgd(model, x, model(x).argmax(1), *rest),
        "There is one softmax too many: `cross_entropy` expects logits.",
        lambda model, *rest: my_pgd(nn.Sequential(model, nn.Softmax(1)), *rest),
        "This is only the perturbation: add it to `x`.",
        lambda model, x, *rest: my_pgd(model, x, *rest) - x,
    ],
    make=lambda **parts: [partial(_pgd, **parts)],
    laws=[in_box, _in_euclidean_ball],
    more=lambda rng: [
        (*small_batch(int(rng.integers(2**31))), eps, eps * float(rng.uniform(0.4, 0.9)), 4)
        for eps in rng.uniform(0.2, 0.6, 3).tolist()
    ],
    fact="Clamping after the projection stays in the ball, because it only moves an image closer "
    "to `x`. Accuracy under PGD is an upper bound: the next attack may be stronger.",
)
