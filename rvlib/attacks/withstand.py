"""The quickest way to a robust accuracy: an image is done with as soon as an iterate fools."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rvlib.attacks.ascent import (
    Gradient,
    ascend,
    check_ball,
    check_restarts,
    logits_and_gradient,
    stride,
    tiles,
    under_attack,
)
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels, check_generator, refuse_nan


def withstands(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Say which images PGD does not fool the network on, in any iterate of any run.

    The same iteration as ``pgd``, but each image leaves it with the first iterate

    .. math:: \arg\max_k f_k(x^t) \ne y

    and is attacked no more: the fewer images stand, the less there is to do.  Every iterate counts
    and not only the last, so the accuracy is never higher than that on what ``pgd`` returns for the
    same starts.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); comes back as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : ThreatModel
        Norm and radius.
    steps : int, default=10
        Number of gradient steps of a run.
    step_size : float, default=2.5 * threat.eps / steps
        Length of one step, in pixel units.
    random_start : bool, default=True
        Start at a uniform point of the ball instead of at `x`.
    restarts : int, default=1
        Runs, each from a random start of its own; the second and later ones go on with the images
        that still stand.
    generator : torch.Generator, default=None
        Source of the random starts, on the device of `x`.

    Returns
    -------
    Tensor of shape (B,), bool
        Whether the network reads `x` and every iterate as `y`.  The mean is an upper bound on the
        robust accuracy.

    Raises
    ------
    TypeError, ValueError
        As for ``pgd``, or if the network gives NaN.

    See Also
    --------
    rvlib.attacks.pgd : The attacked images themselves.

    Examples
    --------
    >>> from rvlib.threat_models import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> x, y = torch.full((1, 3, 1, 1), 0.1), torch.tensor([0])
    >>> withstands(model, x, y, Linf(0.05)).item()
    True
    """
    return withstands_sweep(
        model,
        x,
        y,
        [threat],
        steps=steps,
        step_sizes=None if step_size is None else [step_size],
        random_start=random_start,
        restarts=restarts,
        generator=generator,
    )[0]


def withstands_sweep(
    model: nn.Module,
    x: Images,
    y: Labels,
    threats: Sequence[ThreatModel],
    *,
    steps: int = 10,
    step_sizes: Sequence[float] | None = None,
    random_start: bool = True,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Say which images withstand PGD in each of several balls, every one holding those before.

    What fools the network in a ball is in all larger ones: only images that still stand go on.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); comes back as it was.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threats : sequence of ThreatModel
        The balls, of one norm and of rising radius; a radius of 0 is the image itself.
    steps : int, default=10
        Number of gradient steps of a run.
    step_sizes : sequence of float, default=2.5 * eps / steps for each ball
        Length of one step in each.
    random_start : bool, default=True
        Start at a uniform point of the ball instead of at `x`.
    restarts : int, default=1
        Runs a ball, each from a random start of its own.
    generator : torch.Generator, default=None
        Source of the random starts, on the device of `x`.

    Returns
    -------
    Tensor of shape (len(threats), B), bool
        Whether each image stands in each ball; never again once it has fallen.

    Raises
    ------
    TypeError, ValueError
        As for ``pgd``; or if the network gives NaN, or the balls are not of one norm and of
        rising radius.
    """
    check_restarts(restarts, random_start)
    if not isinstance(threats, Sequence):
        raise TypeError(f"threats={threats!r} is one ball: write [{threats!r}], or use withstands")
    for threat in threats:
        check_ball(threat)
    radii = [threat.eps for threat in threats]
    if not threats or radii != sorted(radii) or len({type(threat) for threat in threats}) > 1:
        raise ValueError(f"balls of radius {radii}: need one norm, and radii that do not fall")
    asked = [None] * len(radii) if step_sizes is None else list(step_sizes)
    if len(asked) != len(radii):
        raise ValueError(f"{len(asked)} step_sizes for {len(radii)} balls: give one a ball")
    if any(isinstance(size, float | int) and size < 0 for size in asked):
        raise ValueError(f"step_sizes={asked}: a length is positive, 2.5 * eps / steps say")
    # Where the radius is zero no step is taken, whatever its length.
    strides = [
        stride(threat, steps, size if threat.eps else None)
        for threat, size in zip(threats, asked, strict=True)
    ]
    with under_attack(model, x, y):
        check_generator(generator, x)
        standing = torch.cat(
            [_reads(model, *part) for part in zip(*tiles(model, x, y), strict=True)]
        )
        result = torch.empty(len(threats), len(x), dtype=torch.bool, device=x.device)
        for k, (threat, step_size) in enumerate(zip(threats, strides, strict=True)):
            for _ in range(restarts if threat.eps else 0):
                # Drawn for the whole batch: an image's start does not depend on who else stands.
                delta = threat.sample(x, generator) if random_start else torch.zeros_like(x)
                at = standing.nonzero()[:, 0]
                cut = tiles(model, x[at], y[at], (x + delta).clamp(0, 1)[at])
                stands = [
                    _run(model, images, labels, start, threat, steps, step_size)
                    for images, labels, start in zip(*cut, strict=True)
                ]
                standing[at] = torch.cat(stands)
            result[k] = standing
    return result


@torch.no_grad()
def _reads(model: nn.Module, x: Images, y: Labels) -> Tensor:
    logits = model(x)
    refuse_nan(logits.isnan().any())
    return logits.argmax(1) == y


def _run(
    model: nn.Module,
    x: Images,
    y: Labels,
    start: Images,
    threat: ThreatModel,
    steps: int,
    step_size: float,
) -> Tensor:
    """Run PGD on images that stand; which of them still do after it."""
    alive, x_t = torch.arange(len(x), device=x.device), start
    for _ in range(steps):
        logits, gradient = logits_and_gradient(model, x_t, y)
        at = (logits.argmax(1) == y).nonzero()[:, 0]  # once: finding them waits for a GPU
        alive, x, y, x_t, gradient = (each[at] for each in (alive, x, y, x_t, gradient))
        if not len(alive):
            break
        x_t = ascend(_known(gradient), x, x_t, threat, 1, step_size)
    stands = torch.zeros(len(start), dtype=torch.bool, device=x.device)
    if len(alive):
        stands[alive[_reads(model, x_t, y)]] = True
    return stands


def _known(gradient: Tensor) -> Gradient:
    """Make a gradient that was worked out already a function, as `ascend` wants it."""
    return lambda _: gradient
