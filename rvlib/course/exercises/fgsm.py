"""Exercises of notebook 01: one FGSM step, and rounding to 8 bits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rvlib.course.exercises.examples import gradient, small_batch
from rvlib.course.exercises.exercise import Exercise, Solution
from rvlib.experiments import LINF
from rvlib.threat_models import L2

# --- FGSM -----------------------------------------------------------------------------------------


def _step(
    direction: Callable[[Tensor], Tensor] = torch.sign, scale: float = 1, power: int = 1
) -> list[Solution]:
    """Step in another direction or by another radius, clamped to [0, 1] and not."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return x + scale * eps**power * direction(gradient(model, x, y))

    return [lambda *arguments: attack(*arguments).clamp(0, 1), attack]


check_fgsm = Exercise(
    signature="my_fgsm(model, x, y, eps)",
    task="the images, moved by `eps` along the sign of the loss gradient and clamped to [0, 1].",
    cases=[(*small_batch(), eps) for eps in (0.03, 0.2)],
    answers=[_step()[0]],
    mistakes=[
        "These are the clean images: nothing has been added.",
        lambda model, x, y, eps: x,
        "This *descends* the loss: an attack adds the sign of the gradient.",
        *_step(lambda g: -g.sign()),
        *_step(lambda g: -g),
        *_step(lambda g: -g / len(g)),
        "This is only the perturbation: add it to `x`.",
        lambda model, x, y, eps: eps * gradient(model, x, y).sign(),
        "This moves along the gradient itself, most channels by much less than `eps`. In the l∞ "
        "ball every channel may move by all of `eps`, hence the *sign*.",
        *_step(lambda g: g),
        *_step(lambda g: g / len(g)),
        "This divides the gradient by its norm, the steepest direction in the l2 ball. In the l∞ "
        "ball it is the *sign* of the gradient.",
        *_step(L2(1).steepest),
        *_step(lambda g: g / g.norm()),
        "`eps` is multiplied in twice: the images move by only eps².",
        *_step(power=2),
        "`eps` is already in pixel units of [0, 1]: do not divide it by 255.",
        *_step(scale=1 / 255),
        "Pixels lie in [0, 1]: a step of 255 times `eps` turns every channel black or white.",
        *_step(scale=255),
        "The images leave [0, 1]: clamp them.",
        _step()[1],
        "The gradient is taken at the network's predictions instead of the labels `y`. Such an "
        "attack needs no labels, but it leads a misclassified image away from its error.",
        lambda model, x, y, eps: _step()[0](model, x, model(x).argmax(1), eps),
    ],
    fact="FGSM needs one forward and one backward pass, the least that a gradient attack can cost. "
    "If the loss were linear in `x`, no attack in the l∞ ball would be stronger.",
)

# --- Rounding -------------------------------------------------------------------------------------

EPS = float(LINF.eps)


def _rounded(levels: Callable[[Tensor, Tensor], Tensor], count: int = 255) -> Solution:
    """Round by a function of the levels of the clean and the attacked images."""
    return lambda x, x_adv: levels(count * x, count * x_adv) / count


def _toward_clean(clean: Tensor, attacked: Tensor) -> Tensor:
    return clean + (attacked - clean).trunc()


def _attacked(eps: float) -> tuple[Tensor, Tensor]:
    """Move an image of whole levels up or down by eps, as far as [0, 1] allows."""
    clean = torch.tensor([0, 255, 40, 130, 200, 99]).view(1, 3, 1, 2) / 255
    signs = torch.tensor([-1, 1, 1, -1, 1, -1]).view_as(clean)
    return clean, (clean + eps * signs).clamp(0, 1)


check_eight_bit = Exercise(
    signature="my_eight_bit(x, x_adv)",
    task="`x_adv` with every channel at a whole level of 255, no further from `x` than before.",
    cases=[_attacked(EPS), _attacked(0.025)],
    answers=[_rounded(_toward_clean)],
    mistakes=[
        "Nothing is rounded: most channels lie between two levels, and 8 bits cannot store that.",
        lambda x, x_adv: x_adv,
        "Rounding to the *nearest* level leaves the ball: "
        f"{255 * EPS:.2f} levels become {round(255 * EPS)}. Round towards zero.",
        _rounded(lambda clean, attacked: attacked.round()),
        "Rounding *down* leaves the ball where the attack made a channel darker.",
        _rounded(lambda clean, attacked: attacked.floor()),
        "Rounding *up* leaves the ball where the attack made a channel brighter.",
        _rounded(lambda clean, attacked: attacked.ceil()),
        "These are levels from 0 to 255: divide by 255 to return to pixel units.",
        lambda x, x_adv: _toward_clean(255 * x, 255 * x_adv),
        lambda x, x_adv: (255 * x_adv).round(),
        lambda x, x_adv: (255 * x_adv).floor(),
        "The 256 levels run from 0 to 255: neighbours differ by 1/255, not by 1/256.",
        _rounded(_toward_clean, 256),
        _rounded(lambda clean, attacked: attacked.floor(), 256),
        _rounded(lambda clean, attacked: attacked.round(), 256),
        "This is only the perturbation: add it to `x`.",
        _rounded(lambda clean, attacked: (attacked - clean).trunc()),
        "These are the clean images: multiply by 255 before rounding, or no perturbation remains.",
        lambda x, x_adv: x,
    ],
    fact=f"A radius of {EPS} is {255 * EPS:.2f} levels, so an attack stored in 8 bits "
    f"has at most {int(255 * EPS)}.",
)
