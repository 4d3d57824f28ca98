"""An evaluation that distrusts itself: what a true robust accuracy cannot do, checked."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rvlib.attacks import fgsm, pgd, square
from rvlib.attacks.ascent import loss_gradient, stride, tiles
from rvlib.frozen import check_fits, check_network, frozen, taking
from rvlib.noise import stream
from rvlib.threat_models import Linf
from rvlib.types import Images, Labels, check_images, check_labels, refuse_nan

USUAL = Linf(8 / 255)
"""The ball that CIFAR-10 is usually attacked in."""

LARGE = 0.5
"""A radius at which every image can be made grey: nothing stands there."""

FEW = 20
"""Of fewer images none is excused: one of them would be more than one in twenty."""

SAME = 1e-4
"""Two answers that differ by less than this share of the largest logit are one."""

LEVELS = 255
"""Steps of a stored pixel between 0 and 1."""

SLACK = 1e-6
"""What float32 rounds by when a perturbation is added to an image."""


class Check(NamedTuple):
    """What one check expected and what it found.

    Parameters
    ----------
    name : str
        Of the check, two or three words.
    passed : bool
        Whether the expectation holds.
    finding : str
        One sentence with the numbers.
    expectation : str
        What holds wherever an evaluation is sound.
    """

    name: str
    passed: bool
    finding: str
    expectation: str


def sanity(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Linf = USUAL,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 5,
    queries: int = 200,
    transfer_from: nn.Module | None = None,
    seed: int = 0,
) -> list[Check]:
    r"""Check that PGD's accuracy on these images behaves as a robust accuracy must.

    A low accuracy under attack is proof, a high one is not: the attack may have failed.  Where it
    has, most often because gradients are masked, one of these checks nearly always fails [1]_ [2]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K), in evaluation mode; comes back as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images; a few hundred say enough.
    y : Tensor of shape (B,), int64
        True labels.
    threat : Linf, default=Linf(8 / 255)
        The ball.
    steps : int, default=10
        Of the PGD that is checked; it starts at random points.
    step_size : float, default=2.5 * threat.eps / steps
        Length of its steps.
    restarts : int, default=5
        Of the PGD that must not be weaker than it.
    queries : int, default=200
        Of the attack without gradients.
    transfer_from : nn.Module, default=None
        Another network on the same device, whose attacked images `model` is shown; without it
        that check is left out.
    seed : int, default=0
        Of all random draws.

    Returns
    -------
    list of Check
        In a fixed order, never empty; ``all(check.passed for check in checks)`` is what a sound
        evaluation gives.  Two attacks are compared image by image: `b` counts as no weaker than
        `a` where at most one image in a hundred, rounded up, falls to `a` alone, which is what
        random starts and last iterates account for; what must not be beaten by noise, one step,
        queries or transfer is the worst case per image of PGD, with more steps and more starts.

    Raises
    ------
    TypeError, ValueError
        If images, labels, ball or hyper-parameters make no attack; or if the network is in
        training mode or answers the same images differently when asked twice: neither has *an*
        accuracy.

    See Also
    --------
    rvlib.smoothing.predict : What to ask of a network that is random on purpose.

    Notes
    -----
    Attacks themselves lend any network out in evaluation mode (``rvlib.frozen``), as training
    wants it.  Here a training mode is refused, because the accuracy that a user would compare with
    is then that of another function.

    References
    ----------
    .. [1] Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML
       2018, section 3.1.  arXiv:1802.00420.
    .. [2] Carlini et al., "On Evaluating Adversarial Robustness", 2019, sections 3 and 4.
       arXiv:1902.06705.
    """
    _check_ball(threat)
    stride(threat, steps, step_size)
    check_images(x)
    check_labels(y, x)
    check_answers(model, x)
    base = _Base(
        model,
        x,
        y,
        threat,
        steps,
        2.5 / steps if step_size is None else step_size / threat.eps,
        seed,
    )
    with frozen(model):
        return _checks(base, restarts, queries, transfer_from)


def check_answers(model: nn.Module, x: Images) -> None:
    """Refuse a network that has no one answer to an image.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        The images that it is asked about, twice.

    Raises
    ------
    TypeError, ValueError
        If it does not fit the images, a part of it is in training mode, or the second answers are
        not the first.

    Examples
    --------
    >>> check_answers(nn.Sequential(nn.Flatten(), nn.Dropout()), torch.ones(1, 1, 2, 2))
    Traceback (most recent call last):
    ValueError: the network is in training mode (Sequential, Flatten, Dropout): call model.eval()
    """
    check_network(model)
    check_fits(model, x)
    training = dict.fromkeys(type(m).__name__ for m in model.modules() if m.training)
    if training:
        names = ", ".join([*list(training)[:3], *(["..."] if len(training) > 3 else [])])
        raise ValueError(f"the network is in training mode ({names}): call model.eval()")
    devices = [x.device] if x.device.type == "cuda" else []
    # The caller's random state comes back; between the two askings it goes on.
    with torch.random.fork_rng(devices), taking(model, x):
        one, other = _logits(model, x), _logits(model, x)
    refuse_nan((one.isnan() | other.isnan()).any())
    apart = (one - other).abs().max().item()
    # Written so that infinite logits are refused, too: their difference is NaN.
    if not apart <= SAME * one.abs().max().item():
        changed = int((one.argmax(1) != other.argmax(1)).sum())
        raise ValueError(
            f"the network answers twice differently (logits up to {apart:.2g} apart, {changed} of "
            f"{len(x)} classes changed): attack its expectation, as smoothed_pgd does"
        )


def to_8_bits(x_adv: Images, x: Images, threat: Linf) -> Images:
    """Round attacked images to what a file can hold, without leaving the ball.

    Parameters
    ----------
    x_adv : Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images, multiples of 1/255.
    threat : Linf
        The ball.

    Returns
    -------
    Tensor of shape (B, C, H, W), float
        Multiples of 1/255 in the box, at most `threat.eps` from `x`.

    Examples
    --------
    >>> x = torch.full((1, 1, 1, 1), 100 / 255)
    >>> (255 * to_8_bits(x + 0.03, x, Linf(0.03))).round().item()  # 0.03 is 7.65 levels
    107.0
    """
    reach = LEVELS * threat.eps + SLACK
    clean = LEVELS * x
    low, high = (clean - reach).ceil().clamp_min(0), (clean + reach).floor().clamp_max(LEVELS)
    return (LEVELS * x_adv).round().clamp(low, high) / LEVELS


@dataclass(frozen=True)
class _Base:
    """The attack that is checked, and what all checks need of it."""

    model: nn.Module
    x: Images
    y: Labels
    threat: Linf
    steps: int
    step: float  # length of a step in radii
    seed: int

    @property
    def allowed(self) -> int:
        """So many images may fall to the weaker of two attacks alone: one in each hundred."""
        return math.ceil(len(self.x) / 100) if len(self.x) >= FEW else 0

    def draws(self, purpose: str) -> torch.Generator:
        return stream(self.x.device, self.seed, "sanity", purpose)

    def pgd(self, eps: float, model: nn.Module | None = None) -> Images:
        """Run the attack itself in a ball, from the same starts in all of them."""
        return pgd(
            model or self.model,
            self.x,
            self.y,
            Linf(eps),
            steps=self.steps,
            step_size=self.step * eps,
            generator=self.draws("start"),
        )

    def fooled(self, images: Images) -> Tensor:
        """Say which images are not answered with their label, shape (B,)."""
        return _logits(self.model, images).argmax(1) != self.y

    def percent(self, fooled: Tensor) -> str:
        """Write the accuracy."""
        return f"{100 * (1 - fooled.double().mean().item()):.1f} %"

    def compare(self, name: str, weaker: str, weak: Tensor, stronger: str, strong: Tensor) -> Check:
        """Check that hardly an image falls to the weaker attack alone."""
        alone = int((weak & ~strong).sum())
        return Check(
            name,
            alone <= self.allowed,
            f"{alone} of {len(weak)} images are wrong under {weaker} and right under {stronger}; "
            f"accuracies {self.percent(weak)} and {self.percent(strong)}",
            f"at most {self.allowed} wrong under {weaker} and right under {stronger}",
        )


def _checks(
    base: _Base, restarts: int, queries: int, transfer_from: nn.Module | None
) -> list[Check]:
    model, x, y, threat = base.model, base.x, base.y, base.threat
    x_adv = base.pgd(threat.eps)
    found = base.fooled(x_adv)
    longer = pgd(model, x, y, threat, steps=4 * base.steps, generator=base.draws("start"))
    again = pgd(
        model,
        x,
        y,
        threat,
        steps=base.steps,
        step_size=base.step * threat.eps,
        restarts=restarts,
        generator=base.draws("restarts"),
    )
    more, often = base.fooled(longer), base.fooled(again)
    # What gradients reach: per image the worst of the three.
    white = "PGD", found | more | often
    one_step = base.fooled(fgsm(model, x, y, threat))
    noise = base.fooled((x + threat.sample(x, base.draws("noise"))).clamp(0, 1))
    blind = square(model, x, y, threat, queries=queries, generator=base.draws("square"))
    steps, quadruple = f"{base.steps} steps", f"{4 * base.steps} steps"
    checks = [
        _inside(base, x_adv),
        base.compare("more steps", steps, found, quadruple, more),
        base.compare("more restarts", "one start", found, f"{restarts} starts", often),
        _larger(base, found),
        _chance(base),
        base.compare("one step", "FGSM", one_step, *white),
        base.compare("random noise", "noise", noise, *white),
        base.compare("no gradients", f"{queries} queries of Square", base.fooled(blind), *white),
    ]
    if transfer_from is not None:
        transferred = base.fooled(base.pgd(threat.eps, transfer_from))
        checks.append(base.compare("transfer", "another network's PGD", transferred, *white))
    return [*checks, _gradients(base), _stored(base, x_adv, found), *_leaking(base, one_step)]


def _inside(base: _Base, x_adv: Images) -> Check:
    """Check that the attack did what was allowed, and no more."""
    beyond = max(
        (base.threat.norm(x_adv - base.x) - base.threat.eps).max().item(),
        -x_adv.min().item(),
        x_adv.max().item() - 1,
    )
    # Written so that NaN does not pass.
    inside = beyond <= SLACK
    far = "none" if inside else f"one by {beyond:.2g}"
    return Check(
        "ball and box",
        inside,
        f"of {len(x_adv)} attacked images {far} lies outside the ball or [0, 1]",
        f"none does, the ball being {base.threat.name}",
    )


def _larger(base: _Base, found: Tensor) -> Check:
    """Check that what falls in a ball falls in a larger one."""
    eps = base.threat.eps
    radii = [eps / 2, eps, min(1.0, 2 * eps)]
    fooled = [base.fooled(base.pgd(radii[0])), found, base.fooled(base.pgd(radii[2]))]
    stands = max(int((small & ~large).sum()) for small, large in itertools.pairwise(fooled))
    right = ", ".join(f"{base.percent(f)} at {r:.4g}" for f, r in zip(fooled, radii, strict=True))
    return Check(
        "larger radius",
        stands <= base.allowed,
        f"{stands} of {len(found)} images are wrong in a ball and right in a larger one; "
        f"accuracies {right}",
        f"at most {base.allowed} wrong in a ball and right in one of twice its radius",
    )


def _chance(base: _Base) -> Check:
    """Check that nothing stands where every image can be made grey."""
    eps = min(1.0, max(LARGE, 2 * base.threat.eps))
    fooled = base.fooled(base.pgd(eps))
    right = int((~fooled).sum())
    # A constant answer is right as often as the most frequent label.
    chance = int(base.y.bincount().max())
    return Check(
        "large radius",
        right <= chance,
        f"{right} of {len(fooled)} images are right at a radius of {eps:.4g}",
        f"at most {chance}, as under a constant answer",
    )


def _gradients(base: _Base) -> Check:
    """Check that there is a gradient to follow."""
    parts = zip(*tiles(base.model, base.x, base.y), strict=True)
    gradient = torch.cat([loss_gradient(base.model, *part) for part in parts]).flatten(1)
    usable = gradient.isfinite().all(1) & (gradient != 0).any(1)
    without = int((~usable).sum())
    zeros = 100 * (gradient == 0).double().mean().item()
    return Check(
        "zero gradients",
        without <= base.allowed,
        f"{without} of {len(gradient)} images have no gradient; {zeros:.1f} % of all entries are 0",
        f"at most {base.allowed} without one",
    )


def _stored(base: _Base, x_adv: Images, found: Tensor) -> Check:
    """Check that the attack is not one of digits that no image file holds."""
    rounded = base.fooled(to_8_bits(x_adv, base.x, base.threat))
    stands, allowed = int((found & ~rounded).sum()), max(1, int(found.sum()) // 20)
    return Check(
        "8 bits",
        stands <= allowed,
        f"{stands} of {int(found.sum())} wrong answers are right once the images are rounded to 8 "
        f"bits in the ball; accuracies {base.percent(found)} and {base.percent(rounded)}",
        f"at most one in twenty, {allowed}",
    )


def _leaking(base: _Base, true: Tensor) -> list[Check]:
    """Check that knowing the label does not make the one-step attack weaker."""
    logits = _logits(base.model, base.x)
    clean = logits.argmax(1) != base.y
    own = base.fooled(fgsm(base.model, base.x, logits.argmax(1), base.threat))
    names = ("label leaking", "no attack", clean), ("own answer", "FGSM on the own answer", own)
    return [base.compare(*name, "FGSM on the true label", true) for name in names]


@torch.no_grad()
def _logits(model: nn.Module, x: Images) -> Tensor:
    return torch.cat([model(part) for (part,) in tiles(model, x)])


def _check_ball(threat: Linf) -> None:
    if not isinstance(threat, Linf):
        kind = type(threat).__name__
        raise TypeError(f"threat={threat!r} is {kind}: these checks are for the ball Linf")
    if threat.eps == 0:
        raise ValueError("eps=0 leaves no attack to check: write Linf(8/255)")
