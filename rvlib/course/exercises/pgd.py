"""Notebook 02's exercises: back into the Euclidean ball, and many steps within it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks import pgd
from rvlib.attacks.ascent import loss_gradient
from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.course.exercises.toys import toys
from rvlib.noise import stream
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.types import Images, Labels

Steepest = Callable[[Tensor], Tensor]
Ball = Callable[[float], L2 | Linf | PixelL2]
NORMALISED = L2(1).steepest

# --- Back into the ball ---------------------------------------------------------------------------


def _shrunk(length: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Make the projection that measures a perturbation in another way."""
    return lambda delta, eps: delta * (eps / length(delta)).clamp_max(1)


def _stretched(delta: Tensor, eps: float) -> Tensor:
    return eps * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _perturbations() -> list[Case]:
    """Three perturbations, of which the last lies in the ball; and one that is zero."""
    delta = torch.randn(3, 3, 2, 2, generator=stream("cpu", "exercises", "perturbations"))
    delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    sizes = torch.tensor([2.0, 0.9, 0.3]).view(-1, 1, 1, 1)
    zero = "Where there is no perturbation there is nothing to shrink, and no length to divide by."
    return [
        Case((sizes * delta, 0.5)),
        Case((sizes * delta, 0.8)),
        Case((torch.zeros(1, 3, 1, 2), 0.5), zero),
    ]


PROJECTION = Exercise(
    "my_l2_projection(delta, eps)",
    "return the perturbations, those longer than `eps` shrunk to the length `eps`.",
    _perturbations,
    [lambda delta, eps: L2(eps).project(delta)],
    {
        "Nothing has been shrunk: perturbations longer than `eps` must be.": [
            lambda delta, eps: delta,
        ],
        "This measures the length of the whole *batch*, so a picture's perturbation depends on its "
        "neighbours: take the norm of each picture, over all dimensions but the first.": [
            _shrunk(torch.norm),
            lambda delta, eps: eps * delta / delta.norm(),
        ],
        "This measures each *pixel's* colour vector: the ball that the report calls l2. The "
        "Euclidean ball has one length for a whole picture, over channels, rows and columns.": [
            lambda delta, eps: PixelL2(eps).project(delta),
            lambda delta, eps: eps * PixelL2(1).steepest(delta),
        ],
        "This measures each colour channel by itself, but the Euclidean ball has one length for a "
        "whole picture.": [_shrunk(lambda delta: delta.norm(dim=(2, 3), keepdim=True))],
        "This clamps every channel of every pixel: the projection onto the cube of `Linf`. The "
        "Euclidean ball keeps the direction of a perturbation and shrinks its length.": [
            lambda delta, eps: delta.clamp(-eps, eps),
        ],
        "This gives every perturbation the length `eps`, also those that were shorter: what lies "
        "in the ball must stay where it is.": [_stretched],
        "This divides by the *squared* length: a square root is missing.": [
            _shrunk(lambda delta: delta.square().sum((1, 2, 3), keepdim=True)),
        ],
        "This measures the root of the *mean* square: the Euclidean norm is the root of the "
        "*sum*.": [_shrunk(lambda delta: delta.square().mean((1, 2, 3), keepdim=True).sqrt())],
        "This measures the sum of the absolute values, the l1 norm: the Euclidean norm is the root "
        "of the sum of squares.": [_shrunk(lambda delta: delta.abs().sum((1, 2, 3), keepdim=True))],
        "This divides by the length and leaves perturbations of length one: multiply by `eps`, "
        "and only those that are longer.": [lambda delta, eps: NORMALISED(delta)],
    },
    "In 3072 dimensions the shape of the ball is everything: a corner of the cube of radius eps is "
    f"{3072**0.5:.0f} times as far from the centre as this ball reaches.",
)


def check_l2_projection(student: Any) -> None:
    """Say what is wrong with a student's projection onto the Euclidean ball, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_l2_projection(delta, eps)`` returns the perturbations, shrunk into the ball.
    """
    PROJECTION.check(student)


# --- Many steps -----------------------------------------------------------------------------------


def _walk(
    model: nn.Module,
    x: Images,
    y: Labels,
    eps: float,
    step: float,
    steps: int,
    *,
    steepest: Steepest = NORMALISED,
    ball: Ball = L2,
    box: bool = True,
    stay: bool = False,
    pile: bool = False,
) -> Images:
    """PGD with parts exchanged: `stay` looks only from `x`, `pile` adds up all gradients."""
    x_t, piled = x, torch.zeros_like(x)
    for _ in range(steps):
        gradient = loss_gradient(model, x if stay else x_t, y)
        piled = piled + gradient if pile else gradient
        x_t = x + ball(eps).project(x_t + step * steepest(piled) - x)
        x_t = x_t.clamp(0, 1) if box else x_t
    return x_t


def _everywhere(eps: float) -> L2:
    """Make a ball that holds everything."""
    return L2(64)


def _box_first(
    model: nn.Module, x: Images, y: Labels, eps: float, step: float, steps: int
) -> Images:
    """Clamp, then project: as right, because shrinking towards `x` stays in the box."""
    x_t = x
    for _ in range(steps):
        x_t = (x_t + step * NORMALISED(loss_gradient(model, x_t, y))).clamp(0, 1)
        x_t = x + L2(eps).project(x_t - x)
    return x_t


def _around_iterate(
    model: nn.Module, x: Images, y: Labels, eps: float, step: float, steps: int
) -> Images:
    for _ in range(steps):
        move = step * NORMALISED(loss_gradient(model, x, y))
        x = (x + L2(eps).project(move)).clamp(0, 1)
    return x


def _at_the_end(box: bool) -> Callable[..., Images]:
    def attack(
        model: nn.Module, x: Images, y: Labels, eps: float, step: float, steps: int
    ) -> Images:
        far = _walk(model, x, y, eps, step, steps, ball=_everywhere, box=box)
        return (x + L2(eps).project(far - x)).clamp(0, 1)

    return attack


def _own_answers(
    model: nn.Module, x: Images, y: Labels, eps: float, step: float, steps: int
) -> Images:
    return _walk(model, x, model(x).argmax(1), eps, step, steps)


PGD = Exercise(
    "my_pgd(model, x, y, eps, step, steps)",
    "start at `x` and, `steps` times, walk `step` along the normalised gradient, come back into "
    "the Euclidean ball around `x`, and clamp to [0, 1].",
    lambda: [
        Case((*toys(), eps, step, steps)) for eps, step, steps in ((0.5, 0.2, 5), (0.3, 0.5, 3))
    ],
    [
        lambda model, x, y, eps, step, steps: pgd(
            model, x, y, L2(eps), steps=steps, step_size=step, random_start=False
        ),
        _box_first,
    ],
    {
        "These are the clean pictures: no step has been taken.": [
            lambda model, x, y, eps, step, steps: x,
        ],
        "This walks *down* the loss: add the step, do not subtract it.": [
            partial(_walk, steepest=lambda gradient: -NORMALISED(gradient)),
            partial(_walk, steepest=lambda gradient: -NORMALISED(gradient), box=False),
        ],
        "There is no projection: after several steps the pictures are further than `eps` from "
        "`x`.": [partial(_walk, ball=_everywhere), partial(_walk, ball=_everywhere, box=False)],
        "This projects each *step* around the picture it started from, so the walk drifts away: "
        "the ball is always around the clean `x`.": [_around_iterate],
        "This comes back into the ball only after the last step, so the gradients were taken "
        "outside of it: project after every step.": [_at_the_end(True), _at_the_end(False)],
        "The pictures leave [0, 1]: clamp them after every step.": [
            partial(_walk, box=False),
        ],
        "This clamps to [0, 1] only after the last step: gradients were taken at pictures that do "
        "not exist.": [
            lambda *arguments: _walk(*arguments, box=False).clamp(0, 1),
        ],
        "This step is as long as the gradient itself, which tells the slope and not how far to "
        "go: divide by the gradient's norm, then multiply by `step`.": [
            partial(_walk, steepest=lambda gradient: gradient),
            partial(_walk, steepest=lambda gradient: gradient / len(gradient)),
        ],
        "This divides by the norm of the gradient of the whole *batch*: with many pictures each "
        "one would hardly move. Take the norm of each picture's gradient.": [
            partial(_walk, steepest=lambda gradient: gradient / gradient.norm()),
        ],
        "This divides by the norm of each *pixel's* gradient: the step of the ball that the report "
        "calls l2. The Euclidean ball has one length for a whole picture.": [
            partial(_walk, steepest=PixelL2(1).steepest),
            partial(_walk, steepest=PixelL2(1).steepest, ball=PixelL2),
        ],
        "This steps along the *sign*, the steepest direction of the cube; in the Euclidean ball it "
        "is the gradient over its length.": [
            partial(_walk, steepest=torch.sign),
            partial(_walk, steepest=torch.sign, ball=Linf),
        ],
        "This comes back into the cube of `Linf`, not into the Euclidean ball: shrink the length "
        "of each picture's perturbation.": [partial(_walk, ball=Linf)],
        "This comes back into the ball of each *pixel's* colour vector, not into the Euclidean "
        "ball of the picture.": [partial(_walk, ball=PixelL2)],
        "The gradient is always taken at the clean `x`: what PGD gains over FGSM comes from "
        "looking again where the last step led.": [partial(_walk, stay=True)],
        "The gradients of all steps pile up in `.grad`: `torch.autograd.grad` returns the new one "
        "alone (or set `.grad` to None before each `backward`).": [partial(_walk, pile=True)],
        "This takes one step only: is the `return` inside the loop?": [
            lambda model, x, y, eps, step, steps: _walk(model, x, y, eps, step, 1),
        ],
        "This takes one step too few or too many: `range(steps)` counts them.": [
            lambda model, x, y, eps, step, steps: _walk(model, x, y, eps, step, steps - 1),
            lambda model, x, y, eps, step, steps: _walk(model, x, y, eps, step, steps + 1),
        ],
        "Each step here is `eps` long: its length is `step`.": [
            lambda model, x, y, eps, step, steps: _walk(model, x, y, eps, eps, steps),
        ],
        "This takes the gradient at the network's own answers instead of the labels `y`.": [
            _own_answers,
        ],
        "This is only the perturbation: add it to `x`.": [
            lambda model, x, *rest: _walk(model, x, *rest) - x,
        ],
    },
    "Projecting and then clamping stays in the ball, because clamping only moves a picture closer "
    "to `x`. Accuracy under PGD is still an upper bound: the next attack may be stronger.",
)


def check_pgd(student: Any) -> None:
    """Say what is wrong with a student's PGD in the Euclidean ball, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_pgd(model, x, y, eps, step, steps)`` returns the attacked pictures.
    """
    PGD.check(student)
