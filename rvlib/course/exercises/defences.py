"""Tasks: break a defence on real images, to a threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from rvlib.attacks.pgd import pgd
from rvlib.course.calls import Ask, Failure
from rvlib.course.defences import Detector, Noisy, Rounded
from rvlib.course.exercises.exercise import Check, fits, kind
from rvlib.course.exercises.fgsm import in_box, in_cube
from rvlib.experiments import LINF, SIGMA, gaussian_name
from rvlib.pipeline import Run
from rvlib.smoothing.noise import stream

IMAGES, MORE = 64, 128
POOL = 512
"""Held-out images: the first ones are attacked in the notebook, more of the others in grading."""
ANSWERS = 20
"""Answers per image, over which the accuracy of a random defence is averaged."""


@cache
def _pool() -> tuple[Run, Tensor, Tensor]:
    run = Run.open("lesson", "cpu")
    x, y = run.images(POOL)
    return run, x.contiguous(), y


@torch.no_grad()
def share_standing(defence: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of images that are classified correctly, or rejected by a detector.

    Parameters
    ----------
    defence : nn.Module
        A random one answers several times.
    x : Tensor of shape (B, C, H, W)
        Images.
    y : Tensor of shape (B,)
        Labels.

    Returns
    -------
    float
        From 0 to 100.
    """
    times = ANSWERS if isinstance(defence, Noisy) else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        answers = torch.stack([defence(x).argmax(1) for _ in range(times)])
    rejected = answers == 10  # a class that only a detector has
    return 100 * ((answers == y) | rejected).double().mean().item()


@dataclass(frozen=True, repr=False)
class Task(Check):
    """A defence to break.

    Parameters
    ----------
    signature : str
        The attack to write.
    make : callable
        Makes the defence.
    at_most : float
        Percentage of images that may stand.
    hint : str
        For an attack that does.
    fact : str
        What a student who has broken it reads.
    """

    signature: str
    make: Callable[[], nn.Module]
    at_most: float
    hint: str
    fact: str

    def judge(self, ask: Ask) -> str:
        """Attack the first images, as `Check.verdict`."""
        return self._attack(ask, torch.arange(IMAGES))

    def judge_more(self, ask: Ask, seed: int) -> str:
        """Attack other images."""
        drawn = torch.randperm(POOL - IMAGES, generator=stream("cpu", seed, "images of a task"))
        return self._attack(ask, IMAGES + drawn[:MORE])

    def _attack(self, ask: Ask, which: Tensor) -> str:
        _, images, labels = _pool()
        defence, x, y, eps = self.make(), images[which], labels[which], float(LINF.eps)
        x_adv = ask((defence, x, y, eps)).result
        if isinstance(x_adv, Failure):
            return f"**Not yet.** {x_adv}."
        if x_adv is None:
            return f"**Not yet.** `{self.name}` returns None: is a `return` missing?"
        if not fits(x_adv, x):
            return f"**Not yet.** `{self.name}` returns {kind(x_adv)}, not {kind(x)}."
        if broken := in_box(x_adv) or in_cube(x_adv, defence, x, y, eps):
            return f"**Not yet.** In the l∞ ball of radius {eps}: {broken}."
        x_adv = x_adv.detach().to(x.dtype)
        # From the images: a random start would move them even where no gradient does.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plain = pgd(defence, x, y, LINF, random_start=False)
        stand, clean, less = (share_standing(defence, images, y) for images in (x_adv, x, plain))
        told = (
            f"{stand:.1f} % of {len(x)} images stand (without an attack "
            f"{clean:.1f} %, under plain PGD {less:.1f} %)"
        )
        if stand > self.at_most:
            return f"**Not yet.** {told}; at most {self.at_most} % may. {self.hint}"
        return f"**Right.** {told}. {self.fact}"


check_masked_attack = Task(
    signature="my_masked_attack(model, x, y, eps)",
    make=lambda: Rounded(_pool()[0].model("standard"), levels=15),
    at_most=3,  # one step of FGSM leaves 4 to 8
    hint="Rounding has no slope: what is the gradient of `model`, and which network is behind it? "
    "If only a few images stand, p_y may be rounded to 1 there: raise `rv.log_odds` instead of the "
    "cross-entropy (notebook 02).",
    fact="The defence hid the gradient and nothing else: gradients of the network behind it, or "
    "a good approximation of them, break it.",
)
check_noisy_attack = Task(
    signature="my_noisy_attack(model, x, y, eps)",
    make=lambda: Noisy(_pool()[0].model(gaussian_name(SIGMA)), SIGMA),
    at_most=16,
    hint="The answer is drawn over all noisy copies: a gradient of `model` is that of *one*, a "
    "gradient of `model.network` has no noise at all.",
    fact="The gradient of the expected loss, averaged over many noisy copies, sees through noise.",
)
check_detector_attack = Task(
    signature="my_detector_attack(model, x, y, eps)",
    make=lambda: Detector(_pool()[0].model("standard"), clean=_pool()[1]),
    at_most=10,
    hint="A wrong answer is not enough: the blurred image has to give the same one.",
    fact="What a detector measures can be attacked together with the network.",
)
