"""Exercises of notebook 01: one FGSM step, and rounding to 8 bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rvlib.course.calls import Solution
from rvlib.course.examples import gradient, small_batch
from rvlib.course.exercises.exercise import Exercise, Part
from rvlib.course.exercises.solutions import my_eight_bit, my_fgsm
from rvlib.experiments import LINF
from rvlib.threat_models import L2

EPS = float(LINF.eps)

# --- FGSM -----------------------------------------------------------------------------------------


def _step(
    direction: Callable[[Tensor], Tensor] = torch.sign, scale: float = 1, power: int = 1
) -> list[Solution]:
    """Step in another direction or by another radius, clamped to [0, 1] and not."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return x + scale * eps**power * direction(gradient(model, x, y))

    return [lambda *arguments: attack(*arguments).clamp(0, 1), attack]


def in_box(x_adv: Tensor, *case: Any) -> str:
    """Name a channel outside [0, 1]."""
    values = x_adv.detach().flatten()
    worst = values[(values - 0.5).abs().argmax()].item()
    return "" if 0 <= worst <= 1 else f"a channel of your images is {worst:.4g}, allowed 0 to 1"


def in_cube(x_adv: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> str:
    """Name a channel that moves too far."""
    furthest = (x_adv.detach() - x).abs().max().item()
    return f"you move a channel by {furthest:.4g}, allowed {eps}" if furthest > eps + 1e-5 else ""


check_fgsm = Exercise(
    signature="my_fgsm(model, x, y, eps)",
    task="the images, moved by `eps` along the sign of the loss gradient and clamped to [0, 1].",
    cases=[(*small_batch(), eps) for eps in (0.03, 0.2)],
    mistakes=[
        "These are the clean images: nothing has been added.",
        lambda model, x, y, eps: x,
        "This *descends* the loss: an attack adds the sign of the gradient.",
        Part("This *descends* the loss.", direction=lambda g: -g.sign()),
        *_step(lambda g: -g),
        *_step(lambda g: -g / len(g)),
        "This is only the perturbation: add it to `x`.",
        lambda model, x, y, eps: eps * gradient(model, x, y).sign(),
        "This moves along the gradient itself, most channels by much less than `eps`. In the l∞ "
        "ball every channel may move by all of `eps`, hence the *sign*.",
        Part("This moves along the gradient itself, not its sign.", direction=lambda g: g),
        *_step(lambda g: g / len(g)),
        "This divides the gradient by its norm, the steepest direction in the l2 ball. In the l∞ "
        "ball it is the *sign* of the gradient.",
        *_step(L2(1).steepest),
        *_step(lambda g: g / g.norm()),
        "`eps` is multiplied in twice: the images move by only eps².",
        Part("`eps` is multiplied in twice.", power=2),
        "`eps` is already in pixel units of [0, 1]: do not divide it by 255.",
        Part("`eps` is divided by 255.", scale=1 / 255),
        "Pixels lie in [0, 1]: a step of 1 (is `eps` missing?), of 8, or of 255 times `eps` turns "
        "every channel black or white. Use `eps` as it is given.",
        Part("`eps` is multiplied by 255.", scale=255),
        "This does not depend on `eps`: use the argument instead of a number.",
        lambda model, x, y, eps: my_fgsm(model, x, y, 8 / 255),
        lambda model, x, y, eps: my_fgsm(model, x, y, EPS),
        "This clamps to [0, 1] what is added: clamp the images, after it is added.",
        lambda model, x, y, eps: x + (eps * gradient(model, x, y).sign()).clamp(0, 1),
        "This clamps the images to ±`eps`: the sign is within `eps` as it is, clamp to [0, 1].",
        lambda *case: _step()[1](*case).clamp(-case[-1], case[-1]),
        "There is one softmax too many: `cross_entropy` expects logits.",
        lambda model, *rest: my_fgsm(nn.Sequential(model, nn.Softmax(1)), *rest),
        "The images leave [0, 1]: clamp them.",
        _step()[1],
        "The gradient is taken at the network's predictions instead of the labels `y`. Such an "
        "attack needs no labels, but it leads a misclassified image away from its error.",
        lambda model, x, y, eps: my_fgsm(model, x, model(x).argmax(1), eps),
    ],
    make=_step,
    laws=[in_box, in_cube],
    more=lambda rng: [
        (*small_batch(int(rng.integers(2**31))), eps) for eps in rng.uniform(0.01, 0.3, 4).tolist()
    ],
    fact="FGSM needs one forward and one backward pass, the least that a gradient attack can cost. "
    "If the loss were linear in `x`, no attack in the l∞ ball would be stronger.",
)

# --- Rounding -------------------------------------------------------------------------------------


def _rounded(levels: Callable[[Tensor, Tensor], Tensor], count: int = 255) -> Solution:
    """Round by a function of the levels of the clean and the attacked images."""
    return lambda x, x_adv: levels(count * x, count * x_adv) / count


def _attacked(eps: float) -> tuple[Tensor, Tensor]:
    """Move an image of whole levels up or down by eps, as far as [0, 1] allows."""
    clean = torch.tensor([0, 255, 40, 130, 200, 99]).view(1, 3, 1, 2) / 255
    signs = torch.tensor([-1, 1, 1, -1, 1, -1]).view_as(clean)
    return clean, (clean + eps * signs).clamp(0, 1)


def _whole_levels(result: Tensor, x: Tensor, x_adv: Tensor) -> str:
    levels = 255 * result.detach().double()
    off = (levels - levels.round()).abs().flatten()
    at = int(off.argmax())
    return f"a channel is at level {levels.flatten()[at]:.4g}, not whole" if off[at] > 1e-3 else ""


def _no_further(result: Tensor, x: Tensor, x_adv: Tensor) -> str:
    mine, before = ((255 * (image.detach() - x)).abs().flatten() for image in (result, x_adv))
    at = int((mine - before).argmax())
    further = bool(mine[at] > before[at] + 1e-3)
    return f"a channel is {mine[at]:.4g} levels from `x`, allowed {before[at]:.4g}" * further


def _more_attacks(rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """Images of random levels, moved by parts of levels, but not onto 0 or 1."""
    cases = []
    for _ in range(4):
        levels = torch.from_numpy(rng.integers(10, 245, (2, 3, 2, 2))).float()
        moved = levels + torch.from_numpy(rng.uniform(-9, 9, levels.shape)).float()
        cases.append((levels / 255, moved / 255))
    return cases


check_eight_bit = Exercise(
    signature="my_eight_bit(x, x_adv)",
    task="`x_adv` with every channel at a whole level of 255, no further from `x` than before.",
    cases=[_attacked(EPS), _attacked(0.025), _attacked(6.99 / 255)],
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
        lambda x, x_adv: 255 * my_eight_bit(x, x_adv),
        lambda x, x_adv: (255 * x_adv).round(),
        lambda x, x_adv: (255 * x_adv).floor(),
        "The 256 levels run from 0 to 255: neighbours differ by 1/255, not by 1/256.",
        _rounded(lambda clean, attacked: clean + (attacked - clean).trunc(), 256),
        _rounded(lambda clean, attacked: attacked.floor(), 256),
        _rounded(lambda clean, attacked: attacked.round(), 256),
        lambda x, x_adv: x + (256 * (x_adv - x)).trunc() / 255,
        "The perturbation is turned around: it is `x_adv - x`.",
        _rounded(lambda clean, attacked: clean + (clean - attacked).trunc()),
        "This is only the perturbation: add it to `x`.",
        _rounded(lambda clean, attacked: (attacked - clean).trunc()),
        "These are the clean images: multiply by 255 before rounding, or no perturbation remains.",
        lambda x, x_adv: x,
    ],
    laws=[in_box, _whole_levels, _no_further],
    more=_more_attacks,
    fact=f"A radius of {EPS} is {255 * EPS:.2f} levels, so an attack stored in 8 bits "
    f"has at most {int(255 * EPS)}.",
)
