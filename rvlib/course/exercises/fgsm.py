"""Notebook 01's exercises: one step to a corner of the cube, and a picture of whole levels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks import fgsm
from rvlib.attacks.ascent import loss_gradient
from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.course.exercises.toys import toys
from rvlib.recipes import LINF
from rvlib.threat_models import L2, Linf
from rvlib.types import Images, Labels

# --- One step -------------------------------------------------------------------------------------


def _step(direction: Callable[[Tensor], Tensor], box: bool = True) -> Callable[..., Images]:
    """Make the attack that walks in another direction than the sign, or out of the box."""

    def attack(model: nn.Module, x: Images, y: Labels, eps: float) -> Images:
        moved = x + eps * direction(loss_gradient(model, x, y))
        return moved.clamp(0, 1) if box else moved

    return attack


def _either(direction: Callable[[Tensor], Tensor]) -> list[Callable[..., Images]]:
    return [_step(direction), _step(direction, box=False)]


def _with_radius(radius: Callable[[float], float]) -> list[Callable[..., Images]]:
    """Make the attacks with another radius than the one asked for."""
    return [
        lambda model, x, y, eps, attack=attack: attack(model, x, y, radius(eps))
        for attack in _either(torch.sign)
    ]


def _own_answers(model: nn.Module, x: Images, y: Labels, eps: float) -> Images:
    return fgsm(model, x, model(x).argmax(1), Linf(eps))


FGSM = Exercise(
    "my_fgsm(model, x, y, eps)",
    "return the pictures `x`, moved by `eps` along the sign of the loss's gradient and clamped to "
    "[0, 1].",
    lambda: [Case((*toys(), eps)) for eps in (0.03, 0.2)],
    [lambda model, x, y, eps: fgsm(model, x, y, Linf(eps))],
    {
        "These are the clean pictures: nothing has been added to them.": [
            lambda model, x, y, eps: x,
        ],
        "This walks *down* the loss and makes the network surer of the truth: an attack adds the "
        "sign of the gradient, it does not subtract it.": [
            *_either(lambda gradient: -gradient.sign()),
            *_either(lambda gradient: -gradient),
            *_either(lambda gradient: -gradient / len(gradient)),
        ],
        "This is only the perturbation: add it to `x`.": [
            lambda model, x, y, eps: eps * loss_gradient(model, x, y).sign(),
        ],
        "This moves along the gradient itself, so most channels move by much less than `eps`: "
        "within the cube every channel may go all the way, hence the *sign* of the gradient.": [
            *_either(lambda gradient: gradient),
            *_either(lambda gradient: gradient / len(gradient)),
        ],
        "This divides the gradient by its length: the steepest direction of the Euclidean ball. "
        "The ball of FGSM is a cube, whose steepest direction is the *sign*.": [
            *_either(L2(1).steepest),
            *_either(lambda gradient: gradient / gradient.norm()),
        ],
        "`eps` is multiplied in twice: the pictures move by eps², which is hardly anything.": (
            _with_radius(lambda eps: eps * eps)
        ),
        "`eps` is divided by 255, but it is in pixel units of [0, 1] already: these pictures move "
        "by 255 times too little.": _with_radius(lambda eps: eps / 255),
        "`eps` is multiplied by 255, but pixels lie in [0, 1]: every channel has gone to black or "
        "white.": _with_radius(lambda eps: 255 * eps),
        "The pictures leave [0, 1]: clamp them, for no picture has colours darker than black or "
        "brighter than white.": [_step(torch.sign, box=False)],
        "This takes the gradient at the network's own answers instead of the labels `y`. It is a "
        "way to attack without knowing the truth, but where the network errs already it leads "
        "away from that error.": [_own_answers],
    },
    "One pass there and back: no attack by gradient is cheaper. Were the loss a straight line, no "
    "attack in the cube would be stronger either, whatever it costs.",
)


def check_fgsm(student: Any) -> None:
    """Say what is wrong with a student's FGSM, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_fgsm(model, x, y, eps)`` returns the attacked pictures.
    """
    FGSM.check(student)


# --- Whole levels ---------------------------------------------------------------------------------


def _levels(rounded: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Images, Images], Images]:
    """Make the function that rounds levels, given those of the clean and the attacked picture."""
    return lambda x, x_adv: rounded(255 * x, 255 * x_adv) / 255


def _toward(clean: Tensor, attacked: Tensor) -> Tensor:
    return clean.round() + (attacked - clean).trunc()


def _attacked(eps: float) -> Case:
    """Make a picture of whole levels, moved by eps up or down; what is at a wall stays there."""
    clean = torch.tensor([0, 255, 40, 130, 200, 99]).view(1, 3, 1, 2) / 255
    signs = torch.tensor([-1, 1, 1, -1, 1, -1]).view_as(clean)
    return Case((clean, (clean + eps * signs).clamp(0, 1)))


LEVELS = Exercise(
    "my_eight_bit(x, x_adv)",
    "return `x_adv` with every channel on a whole level of 255, none of them further from `x` than "
    "before.",
    lambda: [_attacked(LINF.eps), _attacked(0.025)],
    [_levels(_toward)],
    {
        "These are the attacked pictures as they were: most of their channels lie between two "
        "levels, and a picture file cannot say so.": [lambda x, x_adv: x_adv],
        "Rounding to the *nearest* level carries some channels out of the ball: "
        f"{255 * LINF.eps:.2f} levels become {round(255 * LINF.eps)}. Round the perturbation "
        "towards zero.": [_levels(lambda clean, attacked: attacked.round())],
        "Rounding *down* is right where the attack made a channel brighter; where it made it "
        "darker, down is away from `x` and out of the ball.": [
            _levels(lambda clean, attacked: attacked.floor()),
            _levels(lambda clean, attacked: clean.round() + (attacked - clean).floor()),
        ],
        "Rounding *up* is right where the attack made a channel darker; where it made it brighter, "
        "up is away from `x` and out of the ball.": [
            _levels(lambda clean, attacked: attacked.ceil()),
            _levels(lambda clean, attacked: clean.round() + (attacked - clean).ceil()),
        ],
        "These are levels, 0 to 255: divide by 255 to come back to pixel units.": [
            lambda x, x_adv: 255 * _levels(_toward)(x, x_adv),
            lambda x, x_adv: (255 * x_adv).round(),
            lambda x, x_adv: (255 * x_adv).floor(),
        ],
        "There are 256 levels, but from 0 to 255: a step between two of them is 1/255.": [
            lambda x, x_adv: x + (256 * (x_adv - x)).trunc() / 256,
            lambda x, x_adv: (256 * x_adv).floor() / 256,
            lambda x, x_adv: (256 * x_adv).round() / 256,
        ],
        "This is only the perturbation: add it to `x`.": [
            lambda x, x_adv: (255 * (x_adv - x)).trunc() / 255,
        ],
        "These are the clean pictures: the perturbation was rounded in pixel units, where all of "
        "it is less than 1. Count in levels first: times 255.": [
            lambda x, x_adv: x,
        ],
    },
    f"A radius of {LINF.eps} is {255 * LINF.eps:.2f} levels, so a file holds an attack of "
    f"{int(255 * LINF.eps)}: robustness claimed for pictures that can be stored is robustness "
    "against these.",
)


def check_eight_bit(student: Any) -> None:
    """Say what is wrong with a student's rounding to 8 bits, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_eight_bit(x, x_adv)`` returns the attacked pictures on whole levels.
    """
    LEVELS.check(student)
