"""An evaluation that distrusts itself: what a true robust accuracy cannot do, checked."""

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rvlib.attacks import autoattack, fgsm, input_gradient, pgd, square
from rvlib.attacks.gradient import fooled
from rvlib.checks import apart, check_attack, check_mask
from rvlib.device import fork_rng
from rvlib.inference import CPU_BATCH, Wrapper, eval_mode, in_batches, logits_of
from rvlib.smoothing.noise import stream
from rvlib.threat_models import L2, Linf, ThreatModel

USUAL = Linf(8 / 255)
"""The ball that CIFAR-10 is usually attacked in."""

LARGE = 0.5
"""A change of every channel by so much can make every image grey: nothing stands there."""

FEW = 20
"""With fewer images no exception is allowed: one would be more than one in twenty."""

SAME = 1e-4
"""Logits that differ by less than this share of the largest are the same."""

LEVELS = 255
"""Steps of a stored pixel between 0 and 1."""

SLACK = 1e-6
"""Float32 rounding when a perturbation is added to an image."""


class Check(NamedTuple):
    """What one check expected and what it found."""

    name: str
    passed: bool
    finding: str
    expectation: str


def sanity(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel = USUAL,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 5,
    queries: int = 1000,
    transfer_from: nn.Module | None = None,
    fallen: Tensor | None = None,
    seed: int = 0,
) -> list[Check]:
    r"""Check that PGD's accuracy on these images behaves as a robust accuracy must [1]_ [2]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K), in evaluation mode; left as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images; a few hundred suffice.
    y : Tensor of shape (B,), int64
        True labels.
    threat : ThreatModel, default=Linf(8 / 255)
        The ball.  Square, the attack without gradients, is for ``Linf`` and ``L2``.
    steps : int, default=10
        Of the PGD that is checked; it starts at random points.
    step_size : float, default=2.5 * threat.eps / steps
        Length of its steps.
    restarts : int, default=5
        Of the PGD that must not be weaker than it.
    queries : int, default=1000
        Of the attack without gradients.
    transfer_from : nn.Module, optional
        Another network on the same device, whose attacked images `model` must classify no worse
        than its own.
    fallen : Tensor of shape (B,), bool, optional
        Images that fell to attacks of yours, whose accuracy is then checked, and not PGD's alone;
        without it PGD is compared with AutoAttack's ensemble, too.
    seed : int, default=0
        Of all random draws.

    Returns
    -------
    list of Check
        In a fixed order; ``all(check.passed for check in checks)`` for a sound evaluation.  Two
        attacks are compared image by image: `b` counts as no weaker than `a` where at most one
        image in a hundred, rounded up, falls to `a` alone, which random starts and last iterates
        account for.  Noise, one step, queries and transfer are compared with the worst case per
        image of PGD, with more steps and more starts.

    Raises
    ------
    TypeError, ValueError
        If images, labels, ball or hyper-parameters make no attack; or if the network is in
        training mode, gives different answers to the same images, or answers that depend on the
        other images of the batch: it then has no one accuracy.

    References
    ----------
    .. [1] Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML
       2018, section 3.1.  arXiv:1802.00420.
    .. [2] Carlini et al., "On Evaluating Adversarial Robustness", 2019, sections 3 and 4.
       arXiv:1902.06705.
    """
    model = check_attack(model, x, y, threat)
    if isinstance(threat.eps, Tensor) or threat.eps == 0:
        raise ValueError(f"eps={threat.eps}: give one radius, as in Linf(8 / 255)")
    if steps < 1:
        raise ValueError(f"steps={steps}: an attack takes at least one")
    if fallen is not None:
        check_mask(fallen, y, "fallen")
        fallen = fallen.to(x.device)
    check_answers(model, x)
    step = 2.5 / steps if step_size is None else step_size / threat.eps
    with eval_mode(model):
        return _checks(
            _Base(model, x, y, threat, steps, step, seed),
            *(restarts, queries, transfer_from, fallen),
        )


def check_answers(model: nn.Module, x: Tensor) -> None:
    """Refuse a network that has no one answer to an image."""
    graphs = [m for m in model.modules() if isinstance(m, torch.fx.GraphModule)]
    silent = {part for graph in graphs for part in graph.modules()}  # whose flags say nothing
    silent |= {m for m in model.modules() if isinstance(m, Wrapper)}
    parts = (m for m in model.modules() if m not in silent and getattr(m, "training", False))
    training = dict.fromkeys(type(m).__name__ for m in parts)
    if training:
        raise ValueError(f"the network is in training mode ({', '.join(training)}): model.eval()")
    with fork_rng(x.device):
        once, again = logits_of(model, x), logits_of(model, x)
        halves = logits_of(model, x, max(1, min(len(x), CPU_BATCH) // 2))
    if once.isnan().any():
        raise ValueError("the network gave NaN: its training diverged, or it overflows")
    random = "gives different answers to the same images: attack its mean, as smoothed_pgd does"
    depends = "gives answers that depend on the other images of the batch"
    for other, reason in ((again, random), (halves, depends)):
        if apart(once, other, SAME):
            raise ValueError(f"the network {reason}")


def to_8_bits(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Round attacked images to the 255 levels of an image file without leaving the ball.

    Where no level lies between a pixel of `x` and the attacked one, it is that of `x`.  Where `x`
    lies between levels, up to a thousandth of one is left of the ball.
    """
    delta = threat.project((LEVELS * x_adv).round() / LEVELS - x)
    levels = LEVELS * (x + delta)
    towards_x = torch.where(delta > 0, (levels + 1e-3).floor(), (levels - 1e-3).ceil())
    rounded = (towards_x / LEVELS).clamp(0, 1)
    # Not past x itself, which may lie between two levels.
    return torch.where(delta > 0, rounded.maximum(x), rounded.minimum(x))


@dataclass(frozen=True)
class _Base:
    """The attack that is checked, and what all checks need of it."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    steps: int
    step: float  # length of a step in radii
    seed: int

    @property
    def allowed(self) -> int:
        """Images that may fall to the weaker of two attacks alone: one in each hundred."""
        return math.ceil(len(self.x) / 100) if len(self.x) >= FEW else 0

    def draws(self, purpose: str) -> torch.Generator:
        return stream(self.x.device, self.seed, "sanity", purpose)

    def ball(self, factor: float) -> ThreatModel:
        """Return the ball with a multiple of its radius, at most the largest there is."""
        largest = getattr(self.threat, "_largest", math.inf)
        return replace(self.threat, eps=min(largest, factor * self.threat.eps))  # type: ignore[type-var]

    def pgd(
        self, threat: ThreatModel, model: nn.Module | None = None, draws: str = "start", **more: Any
    ) -> Tensor:
        """Run the attack itself in a ball, from the same starts in all of them."""
        options = {"steps": self.steps, "step_size": self.step * threat.eps} | more
        generator = self.draws(draws)
        return pgd(model or self.model, self.x, self.y, threat, **options, generator=generator)

    def fooled(self, images: Tensor) -> Tensor:
        """Whether each image is misclassified, shape (B,): a tie is not correct."""
        return fooled(logits_of(self.model, images), self.y)

    def percent(self, fooled: Tensor) -> str:
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
    base: _Base, restarts: int, queries: int, transfer_from: nn.Module | None, fallen: Tensor | None
) -> list[Check]:
    model, x, y, threat, steps = base.model, base.x, base.y, base.threat, base.steps
    x_adv = base.pgd(threat)
    found = base.fooled(x_adv)
    more = base.fooled(base.pgd(threat, steps=4 * steps, step_size=None))
    again = base.fooled(base.pgd(threat, draws="restarts", restarts=restarts))
    white = "PGD", found | more | again  # the worst case per image of all gradient attacks
    if fallen is not None:
        white = "the attacks", white[1] | fallen
    one_step = base.fooled(fgsm(model, x, y, threat))
    noise = base.fooled((x + threat.sample(x, base.draws("noise"))).clamp(0, 1))
    few, many = f"{steps} steps", f"{4 * steps} steps"
    checks = [
        _inside(base, x_adv),
        base.compare("more steps", few, found, many, more),
        base.compare("more restarts", "one start", found, f"{restarts} starts", again),
        _larger(base, found),
        _chance(base),
        base.compare("one step", "FGSM", one_step, *white),
        base.compare("random noise", "noise", noise, *white),
    ]
    if fallen is None:
        ensemble = autoattack(model, x, y, threat, generator=base.draws("ensemble"))
        checks.append(base.compare("ensemble", "AutoAttack", base.fooled(ensemble), *white))
    if isinstance(threat, Linf | L2):
        blind = square(model, x, y, threat, queries=queries, generator=base.draws("square"))
        queried = f"{queries} queries of Square"
        checks.append(base.compare("no gradients", queried, base.fooled(blind), *white))
    if transfer_from is not None:
        transferred = base.fooled(base.pgd(threat, transfer_from))
        checks.append(base.compare("transfer", "another network's PGD", transferred, *white))
    checks.append(_gradients(base))
    if x.element_size() >= 4:  # half precision has no such levels
        checks.append(_stored(base, x_adv, found))
    return [*checks, *_leaking(base, one_step)]


def _inside(base: _Base, x_adv: Tensor) -> Check:
    """Check that the attack stays in the ball and the box."""
    beyond = max(
        (base.threat.norm(x_adv - base.x) - base.threat.eps).max().item(),
        -x_adv.min().item(),
        x_adv.max().item() - 1,
    )
    inside = beyond <= SLACK  # NaN does not pass
    far = "none" if inside else f"one by {beyond:.2g}"
    return Check(
        "ball and box",
        inside,
        f"of {len(x_adv)} attacked images {far} lies outside the ball or [0, 1]",
        f"none does, the ball being {base.threat.name}",
    )


def _larger(base: _Base, found: Tensor) -> Check:
    """Check that images misclassified in a ball are misclassified in a larger one."""
    balls = [base.ball(0.5), base.threat, base.ball(2)]
    fooled = [base.fooled(base.pgd(balls[0])), found, base.fooled(base.pgd(balls[2]))]
    stands = max(int((small & ~large).sum()) for small, large in itertools.pairwise(fooled))
    pairs = zip(fooled, balls, strict=True)
    right = ", ".join(f"{base.percent(f)} at {b.eps:.4g}" for f, b in pairs)
    return Check(
        "larger radius",
        stands <= base.allowed,
        f"{stands} of {len(found)} images are wrong in a ball and right in a larger one; "
        f"accuracies {right}",
        f"at most {base.allowed} wrong in a ball and right in one of twice its radius",
    )


def _chance(base: _Base) -> Check:
    """Check that nothing stands where every image can be made grey."""
    grey = torch.full_like(base.x[:1], LARGE)
    factor = float(base.threat.norm(grey).item() / base.threat.eps)
    ball = base.ball(max(2, factor))
    with warnings.catch_warnings(action="ignore"):  # of a radius that is meant
        fooled = base.fooled(base.pgd(ball))
    right = int((~fooled).sum())
    chance = int(base.y.bincount().max())  # a constant answer has the most frequent label
    return Check(
        "large radius",
        right <= chance,
        f"{right} of {len(fooled)} images are classified correctly at a radius of {ball.eps:.4g}",
        f"at most {chance}, as a constant answer would be",
    )


def _gradients(base: _Base) -> Check:
    """Check that there is a gradient to follow."""
    gradient = in_batches(partial(input_gradient, base.model), None, base.x, base.y).flatten(1)
    usable = gradient.isfinite().all(1) & (gradient != 0).any(1)
    without = int((~usable).sum())
    zeros = 100 * (gradient == 0).double().mean().item()
    return Check(
        "zero gradients",
        without <= base.allowed,
        f"{without} of {len(gradient)} images have no gradient; {zeros:.1f} % of all entries are 0",
        f"at most {base.allowed} without a gradient" if base.allowed else "a gradient everywhere",
    )


def _stored(base: _Base, x_adv: Tensor, found: Tensor) -> Check:
    """Check that the attack survives in an image file."""
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
    answers = logits_of(base.model, base.x).argmax(1)
    own = base.fooled(fgsm(base.model, base.x, answers, base.threat))
    weaker = [
        ("label leaking", "no attack", base.fooled(base.x)),
        ("own answer", "FGSM on the own answer", own),
    ]
    return [base.compare(*each, "FGSM on the true label", true) for each in weaker]
