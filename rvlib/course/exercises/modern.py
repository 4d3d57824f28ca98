"""Exercises of notebook 07: a step of N-FGSM, and the average certified radius."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from rvlib.course.calls import Solution
from rvlib.course.examples import gradient, small_batch
from rvlib.course.exercises.exercise import Exercise, Part, within
from rvlib.course.exercises.fgsm import in_box
from rvlib.course.exercises.solutions import my_n_fgsm

# --- N-FGSM ---------------------------------------------------------------------------------------


def _start(x: Tensor, noise: Tensor, eps: float) -> Tensor:
    return (x + noise).clamp(0, 1)


def _step(
    start: Callable[[Tensor, Tensor, float], Tensor] = _start,
    at: Callable[[Tensor, Tensor], Tensor] = lambda x, start: start,
    begin: Callable[[Tensor, Tensor], Tensor] = lambda x, start: start,
    direction: Callable[[Tensor], Tensor] = torch.sign,
    project: bool = False,
    clamp: bool = True,
) -> Solution:
    """Step from another start, with the gradient at another place, or into another set."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, noise: Tensor) -> Tensor:
        first = start(x, noise, eps)
        x_adv = begin(x, first) + eps * direction(gradient(model, at(x, first), y))
        if project:
            x_adv = x + (x_adv - x).clamp(-eps, eps)
        return x_adv.clamp(0, 1) if clamp else x_adv

    return attack


def _one_step(x_adv: Tensor, *case: Any) -> str:
    """Name a channel that is further from the start than one step."""
    _, x, _, eps, noise = case
    furthest = (x_adv.detach() - _start(x, noise, eps)).abs().max().item()
    if furthest <= eps + 1e-5:
        return ""
    told = "your start is not `clamp(x + noise)`, or your step is too long"
    return f"{told}: a channel is {furthest:.4g} from that start, allowed {eps}"


def _with_noise(seed: int, eps: float) -> tuple[Any, ...]:
    model, x, y = small_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    return model, x, y, eps, 2 * eps * (2 * torch.rand(x.shape, generator=generator) - 1)


check_n_fgsm = Exercise(
    signature="my_n_fgsm(model, x, y, eps, noise)",
    task="the images after one step of `eps` along the sign of the loss gradient, taken at "
    "`x + noise` clamped to [0, 1], and clamped again. N-FGSM does not project into the ball.",
    cases=[_with_noise(1, eps) for eps in (0.05, 0.15)],
    mistakes=[
        "This is FGSM: the noise is missing.",
        _step(start=lambda x, noise, eps: x),
        "This is only the start: the step of `eps` is missing.",
        lambda model, x, y, eps, noise: _start(x, noise, eps),
        "The gradient is taken at `x`: take it at the start, where the step begins.",
        Part("The gradient is taken at `x`.", at=lambda x, start: x),
        "The step begins at `x`: the noise is part of the result, not only of the gradient.",
        _step(begin=lambda x, start: x),
        "This is projected into the ball, as FGSM-RS does: N-FGSM leaves it on purpose.",
        Part("This is projected into the ball.", project=True),
        "The images leave [0, 1]: clamp them after the step, too.",
        Part("The images leave [0, 1].", clamp=False),
        "The start leaves [0, 1]: clamp it before the gradient is taken.",
        _step(start=lambda x, noise, eps: x + noise),
        "`noise` is already in pixel units: do not multiply it by `eps`.",
        _step(start=lambda x, noise, eps: (x + eps * noise).clamp(0, 1)),
        "This *descends* the loss: an attack adds the sign of the gradient.",
        Part("This *descends* the loss.", direction=lambda g: -g.sign()),
        "This moves along the gradient itself, most channels by much less than `eps`.",
        _step(direction=lambda g: g),
        _step(direction=lambda g: g / len(g)),
        "There is one softmax too many: `cross_entropy` expects logits.",
        lambda model, *rest: my_n_fgsm(nn.Sequential(model, nn.Softmax(1)), *rest),
        "The gradient is taken at the network's predictions instead of the labels `y`.",
        lambda model, x, y, *rest: my_n_fgsm(model, x, model(x).argmax(1), *rest),
    ],
    make=lambda **parts: [_step(**parts)],
    laws=[in_box, _one_step],
    more=lambda rng: [
        _with_noise(int(rng.integers(2**31)), eps) for eps in rng.uniform(0.02, 0.2, 4).tolist()
    ],
    fact="With noise of up to twice the radius a channel may end three radii from `x`. The step "
    "costs as much as FGSM, a tenth of PGD-10. In our one run at 8/255 neither it nor FGSM-RS "
    "collapsed.",
)

# --- The average certified radius -----------------------------------------------------------------

Shares = NDArray[np.float64]


def _average(
    radius: Callable[[Shares], Shares] = norm.ppf,
    counted: Callable[[Shares], Shares] = lambda radii: radii.clip(min=0),
    mean: Callable[[Shares], float] = np.mean,
    scale: Callable[[float], float] = lambda sigma: sigma,
) -> Solution:
    """Average other radii, of other images, in another way."""
    return lambda p, sigma: float(mean(counted(scale(sigma) * radius(p))))


def _no_more_than_the_largest(result: float, p: Shares, sigma: float) -> str:
    largest = max(0.0, float(sigma * norm.ppf(p.max())))
    words = f"an average of the radii lies between 0 and the largest, {largest:.4g}"
    return within(result, largest, words)


check_average_radius = Exercise(
    signature="my_average_radius(p, sigma)",
    task="the mean over *all* images of the certified radius, `sigma` times Φ⁻¹ of `p` where the "
    "label's lower bound `p` is above one half, and 0 elsewhere.",
    cases=[
        (np.array([0.999, 0.8, 0.55, 0.4, 0.02]), 0.5),
        (np.array([0.6, 0.3, 0.97, 0.9]), 0.25),
        (np.array([0.7, 0.2, 0.1]), 1.0),
    ],
    mistakes=[
        "This is the mean over the certified images alone: the others count with radius 0.",
        Part("This is the mean over the certified images alone.", counted=lambda r: r[r > 0]),
        "Radii below zero enter: where `p` is at most one half, the radius is 0.",
        _average(counted=lambda radii: radii),
        lambda p, sigma: max(0.0, float(sigma * norm.ppf(p).mean())),
        "Radii below zero are turned around: where `p` is at most one half, the radius is 0.",
        _average(counted=np.abs),
        "This is the radius of the average `p`: take the radius of each image, then the mean.",
        lambda p, sigma: max(0.0, float(sigma * norm.ppf(p.mean()))),
        lambda p, sigma: float(sigma * norm.ppf(p.mean())),
        "This is the sum: divide by the number of images.",
        Part("This is the sum.", mean=np.sum),
        "This is the median: the *average* certified radius is a mean.",
        _average(mean=np.median),
        "`sigma` is missing: the radius is `sigma` times Φ⁻¹ of `p`.",
        Part("`sigma` is missing.", scale=lambda sigma: 1.0),
        "`sigma` is *squared*: the radius is `sigma` times Φ⁻¹ of `p`.",
        _average(scale=lambda sigma: sigma**2),
        "This *divides* by `sigma`: the radius is `sigma` times Φ⁻¹ of `p`.",
        _average(scale=lambda sigma: 1 / sigma),
        "This halves the radius: with `p` for one class alone there is no division by 2.",
        _average(scale=lambda sigma: sigma / 2),
        "This is Φ, not its inverse: `norm.ppf`, not `norm.cdf`.",
        _average(radius=norm.cdf),
    ],
    make=lambda **parts: [_average(**parts)],
    laws=[_no_more_than_the_largest],
    more=lambda rng: [
        (rng.uniform(0.01, 0.999, 30), float(sigma)) for sigma in rng.uniform(0.1, 1, 4)
    ],
    fact="An image with p = 0.999 and three that are given up have the average radius of four "
    f"images with p = {norm.cdf(norm.ppf(0.999) / 4):.2f}: the average alone does not show which "
    "of the two a network does.",
)
