"""AutoAttack: several attacks in a row, each on the images that withstood those before."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks.apgd import apgd
from rvlib.attacks.fab import fab
from rvlib.attacks.gradient import dlr, fooled, margin, targeted_dlr, towards
from rvlib.attacks.passes import Passes
from rvlib.attacks.square import square
from rvlib.attacks.targets import by_rank, choose
from rvlib.checks import check_attack
from rvlib.inference import eval_mode, logits_of
from rvlib.threat_models import L2, Linf, ThreatModel

VERSIONS = {
    "fast": ("apgd-ce", "apgd-t"),
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""Attacks of each version, in their order."""

TARGETS, QUERIES, DRAWS = 9, 5000, 20
"""Classes of the targeted attacks, queries of Square, answers of a random network."""

TARGETED_PARTS = slice(0, 1), slice(1, None)
"""Most that fall do so to the first target; the others, side by side, make large batches.  The
fallen leave after each part."""

LEFT_OUT = "left out: it is for the balls Linf and L2"


@dataclass(frozen=True)
class Stage:
    """What one attack of the ensemble did.

    Parameters
    ----------
    name : str
        Of the attack, as in ``VERSIONS``; ``"clean"`` for the images as they are.
    stands : Tensor of shape (B,), bool
        Images that stand after it: the network is right on them and on all that was tried.
    attacked : int
        Images that stood before it, the only ones that it was given.
    forwards, backwards : float
        Passes an attacked image.
    note : str
        What it could not do as published, empty if nothing.
    """

    name: str
    stands: Tensor
    attacked: int
    forwards: float
    backwards: float
    note: str = ""


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    version: str = "fast",
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Attack a batch with AutoAttack's ensemble, the worst case of each image.

    - ``"standard"``: APGD on the cross-entropy, APGD on the targeted difference of logits ratio
      towards nine classes by rank, FAB towards the same nine, Square with 5,000 queries [1]_;
    - ``"fast"``: the first two of these, nearly always the whole effect;
    - ``"rand"``, for networks that are random on purpose: APGD on the cross-entropy and on the
      difference of logits ratio, every gradient a mean over 20 answers.

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
    version : {"fast", "standard", "rand"}, default="fast"
        The attacks.
    generator : torch.Generator, optional
        Source of all random draws, on the device of `x`.
    batch_size : int, optional
        Images a forward pass; by default 256 on a CPU, all on a GPU.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, in the ball; where no attack fooled the network, or none was
        needed, the clean ones.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels do not fit them, or the version is none.

    See Also
    --------
    autoattack_stages : The same, and what each attack did and cost.
    apgd, fab, square : The attacks.

    Notes
    -----
    The accuracy on the result is an upper bound on the true robust accuracy.  Each attack starts
    at the clean images, and only at those that still stand; whether one fell is judged by the
    network's own answer to the image as it is returned, of a random network by one answer.  A tie
    is not correct.  Square's squares shrink in its 5,000 queries as in the paper's 10,000; the
    published code, ``resc_schedule=False``, shrinks them as if there were 10,000.

    References
    ----------
    .. [1] Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
       Parameter-free Attacks", ICML 2020, section 5.  arXiv:2003.01690.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> x, y = torch.tensor([0.01, 0.5])[:, None, None, None].expand(2, 3, 1, 1), torch.zeros(2)
    >>> x_adv = autoattack(model, x, y.long(), Linf(8 / 255))
    >>> (x_adv != x).flatten(1).any(1)
    tensor([ True, False])
    """
    options = {"version": version, "generator": generator, "batch_size": batch_size}
    return autoattack_stages(model, x, y, threat, **options)[0]  # type: ignore[arg-type]


def autoattack_stages(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    version: str = "fast",
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, list[Stage]]:
    """Attack as ``autoattack`` does, and tell what each attack did.

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
    version : {"fast", "standard", "rand"}, default="fast"
        As for ``autoattack``.
    generator, batch_size : optional
        As for ``autoattack``.

    Returns
    -------
    tuple of Tensor and list of Stage
        The attacked images, and what happened in order: ``"clean"``, then the attacks.

    Raises
    ------
    TypeError, ValueError
        As for ``autoattack``.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> [stage.name for stage in autoattack_stages(model, x, y, Linf(8 / 255))[1]]
    ['clean', 'apgd-ce', 'apgd-t']
    """
    if version not in VERSIONS:
        raise ValueError(f"version={version!r} is none of {', '.join(VERSIONS)}")
    counting = Passes(check_attack(model, x, y, threat))
    if isinstance(threat.eps, Tensor):
        threat = replace(threat, eps=threat.eps.detach().to(x.device))  # type: ignore[type-var]
    options: dict[str, Any] = {"generator": generator, "batch_size": batch_size}
    options |= {"draws": DRAWS} if version == "rand" else {}
    with eval_mode(counting), torch.inference_mode(False):
        x, y = x.clone().detach(), y.clone()
        x_adv, logits = x.clone(), logits_of(counting, x, batch_size)
        ranks, stands = by_rank(logits, y, TARGETS), ~fooled(logits, y)
        stages = [_stage("clean", stands, len(x), counting)]
        for name in VERSIONS[version]:
            note = shortcoming(name, ranks.shape[1], threat)
            before = 0 if note == LEFT_OUT else int(stands.sum())
            parts = TARGETED_PARTS if name == "apgd-t" else TARGETED_PARTS[:1]
            for part in parts[: ranks.shape[1]] if before else ():  # of one target, one
                if len(left := stands.nonzero()[:, 0]):
                    given = counting, x[left], y[left], threat.at(left)
                    found = _attack(name, given, ranks[left], part, options)
                    wrong = fooled(logits_of(counting, found, batch_size), y[left])
                    x_adv[left] = choose(wrong, found, x_adv[left])
                    stands[left] = ~wrong
            stages.append(_stage(name, stands, before, counting, note))
    return x_adv, stages


def _stage(name: str, stands: Tensor, attacked: int, counting: Passes, note: str = "") -> Stage:
    """Take down who stands, and the passes since this was last asked."""
    forwards, backwards = (n / max(attacked, 1) for n in (counting.forwards, counting.backwards))
    counting.forwards = counting.backwards = 0
    return Stage(name, stands.clone(), attacked, forwards, backwards, note)


def shortcoming(name: str, targets: int, threat: ThreatModel) -> str:
    """Say what an attack cannot do in this ball, or with so few classes beside the true one."""
    if name in ("fab-t", "square") and not isinstance(threat, Linf | L2):
        return LEFT_OUT
    if name == "apgd-dlr" and targets < 2:
        return "margin: the ratio needs 3 classes"
    if name in ("apgd-t", "fab-t") and targets < TARGETS:
        few = f"{targets} of {TARGETS} targets, as there are {targets + 1} classes"
        ratio = ", on the difference of logits: the ratio needs 4 classes"
        return few + (ratio if name == "apgd-t" and targets < 3 else "")
    return ""


def _attack(
    name: str,
    given: tuple[nn.Module, Tensor, Tensor, ThreatModel],
    ranks: Tensor,
    part: slice,
    options: dict[str, Any],
) -> Tensor:
    """Run an attack of the ensemble, a targeted one towards a part of the classes by rank."""
    others = ranks.shape[1]
    if name == "apgd-ce":
        return apgd(*given, **options)
    if name == "apgd-dlr":
        return apgd(*given, loss=dlr if others >= 2 else margin, **options)
    if name == "fab-t":
        return fab(*given, targets=ranks, batch_size=options["batch_size"])
    if name == "square":
        return square(*given, queries=QUERIES, **options)
    loss = targeted_dlr if others >= 3 else towards
    return apgd(*given, loss=loss, targets=ranks[:, part], **options)
