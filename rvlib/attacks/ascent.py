"""The loop that gradient attacks share: a step uphill, back into the ball, into the box."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.checks import check_number, check_whole
from rvlib.frozen import answering, check_fits, frozen, taking
from rvlib.memory import images_at_once
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels, Logits, check_images, check_labels, refuse_nan

TILE = 256
"""Images attacked at once on a CPU: few enough for its caches, enough to keep it busy."""

Gradient = Callable[[Images], Tensor]
"""Gradient of the attacked loss at a batch of images, same shape."""


def loss_gradient(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Gradient of the cross-entropy with respect to the pixels.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K).
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Where to differentiate.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        One gradient an image; parameters' ``.grad`` stay untouched.
    """
    return logits_and_gradient(model, x, y)[1]


def logits_and_gradient(model: nn.Module, x: Images, y: Labels) -> tuple[Tensor, Tensor]:
    """Gradient of the cross-entropy, and the logits that were worked out on the way.

    Parameters
    ----------
    model, x, y
        As for ``loss_gradient``.

    Returns
    -------
    logits : Tensor of shape (B, K)
        What the network says of `x`.
    gradient : Tensor of shape (B, C, H, W)
        One gradient an image.
    """
    # enable_grad: callers (slider callbacks, evaluation) may run with gradients off.
    # Tensors of inference mode cannot be differentiated: their copies made outside of it can.
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.detach().clone().requires_grad_(True), y.clone()
        logits = model(x)
        # Of the sum, not the mean: an image's gradient must not depend on the size of its batch.
        (gradient,) = torch.autograd.grad(logits, x, cross_entropy_gradients(logits.detach(), y))
    return logits.detach(), gradient


def cross_entropies(logits: Tensor, y: Labels) -> Tensor:
    r"""Cross-entropy of each image, with a gradient that is right for sure answers, too.

    .. math:: L = \log\big(1 + e^m\big), \quad m = \log \sum_{k \ne y} e^{z_k} - z_y

    The usual formula's derivative by :math:`z_y` is :math:`p_y - 1`: where the network is so sure
    that :math:`p_y` rounds to 1 it is zero, and the direction of the gradient is lost.  Such images
    would survive an attack that has merely failed.

    Parameters
    ----------
    logits : Tensor of shape (B, K), float
        The network's answers.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B,)
        One loss an image.

    References
    ----------
    .. [1] Carlini, Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017,
       section III: attacks that fail where gradients vanish in floating point.  arXiv:1608.04644.
    """
    label = y[:, None]
    others = logits.scatter(1, label, float("-inf")).logsumexp(1)
    return F.softplus(others - logits.gather(1, label)[:, 0])


def cross_entropy_gradients(logits: Tensor, y: Labels) -> Tensor:
    r"""Differentiate ``cross_entropies`` by the logits: written out, in fewer steps than autograd.

    .. math:: \frac{\partial L}{\partial z_y} = -s, \qquad
        \frac{\partial L}{\partial z_k} = s \, e^{z_k - m - z_y}
        \quad (k \ne y), \qquad s = \frac{e^m}{e^m + 1}

    Parameters
    ----------
    logits : Tensor of shape (B, K), float
        The network's answers.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B, K)
        On a CPU what autograd finds, to the last bit.
    """
    label = y[:, None]
    others = logits.scatter(1, label, float("-inf"))
    log_sum = others.logsumexp(1, keepdim=True)
    margin = log_sum - logits.gather(1, label)
    # As autograd computes it: to the last bit, and 1 where e^m would overflow.
    slope = torch.ops.aten.softplus_backward(torch.ones_like(margin), margin, 1, 20)
    return ((others - log_sum).exp() * slope).scatter(1, label, -slope)


def ascend(
    gradient: Gradient, x: Images, start: Images, threat: ThreatModel, steps: int, step_size: float
) -> Images:
    r"""Projected gradient ascent inside the ball around `x` and the box [0, 1].

    Repeats ``steps`` times

    .. math:: x^{t+1} = \Pi_{[0,1]} \big( x + \Pi_{\mathcal{S}}
        ( x^t + \eta \, v(\nabla L(x^t)) - x ) \big)

    where :math:`v` is ``threat.steepest`` and :math:`\eta` is `step_size`.

    Parameters
    ----------
    gradient : callable
        Gradient of the loss to raise.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Centre of the ball: the clean images.
    start : Tensor of shape (B, C, H, W)
        First iterate, in the ball and the box.
    threat : ThreatModel
        The ball.
    steps : int, >= 1
        Number of gradient steps.
    step_size : float, > 0
        Length of one step in the norm of `threat`, in pixel units.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The last iterate, detached, in the ball and in the box.

    Notes
    -----
    Clamping after projecting stays in the ball, because `x` is in the box and clamping only
    shortens every entry of the perturbation.  For the Euclidean ball the result is feasible, not
    the exact projection onto the intersection.
    """
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv + step_size * threat.steepest(gradient(x_adv))
        x_adv = (x + threat.project(x_adv - x)).clamp(0, 1)
    return x_adv.detach()


@contextmanager
def under_attack(model: nn.Module, x: Images, y: Labels) -> Iterator[nn.Module]:
    """Lend a network out to an attack, once images, labels and network are seen to fit.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.

    Yields
    ------
    nn.Module
        The same network, ``frozen``; its first answer is refused if a label is no class of it.
    """
    check_images(x)
    largest_label = check_labels(y, x)
    with frozen(model), answering(model, largest_label):
        check_fits(model, x)
        with taking(model, x, gradient=True):
            yield model


def tiles(model: nn.Module, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors alike into pieces that are attacked at once.

    Parameters
    ----------
    model : nn.Module
        The network under attack.
    *tensors : Tensor of shape (B, ...)
        One row an image, the images first.

    Returns
    -------
    list of tuple of Tensor
        The pieces of each: on a CPU of ``TILE`` images, on a GPU of all of them, and of fewer where
        that many do not fit into memory (``rvlib.memory``).
    """
    x = tensors[0]
    most = TILE if x.device.type == "cpu" else max(len(x), 1)
    size = images_at_once(model, x, min(most, max(len(x), 1)), gradient=True) if len(x) else 1
    return [tensor.split(size) for tensor in tensors]


def logits_in_tiles(model: nn.Module, x: Images) -> Logits:
    """Logits of a batch, of as many images at once as are attacked at once (``tiles``).

    Parameters
    ----------
    model : nn.Module
        Pixels to logits of shape (B, K).
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.

    Returns
    -------
    Tensor of shape (B, K)
        What the network gives for the whole batch, but for rounding.
    """
    (parts,) = tiles(model, x)
    return torch.cat([model(part) for part in parts])


def without_nan(x_adv: Images) -> Images:
    """Refuse attacked images with NaN in them: the gradient was none; one look at the end."""
    refuse_nan(x_adv.isnan().any())
    return x_adv


def check_ball(threat: ThreatModel) -> None:
    """Refuse a bare radius where a ball is asked for."""
    if not hasattr(threat, "eps"):
        kind = type(threat).__name__
        raise TypeError(f"threat={threat!r} is {kind}, not a ball: write Linf(0.03), say")


def stride(threat: ThreatModel, steps: int, step_size: float | None) -> float:
    """Say how long a step is; refuse one that goes nowhere or downhill, and less than one step.

    Parameters
    ----------
    threat : ThreatModel
        The ball.
    steps : int
        How many steps there are.
    step_size : float or None
        What the caller asked for.

    Returns
    -------
    float
        `step_size`, or ``2.5 * threat.eps / steps`` where nothing was asked for.
    """
    check_ball(threat)
    check_whole("steps", steps)
    if step_size is None:
        return 2.5 * threat.eps / steps
    check_number("step_size", step_size, "step_size=2/255")
    if not 0 <= step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be finite and >= 0, in pixel units of [0, 1]: 2/255, say"
        )
    return step_size


def check_restarts(restarts: int, random_start: bool) -> None:
    """Refuse no run at all, and several that would all start at the image."""
    check_whole("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} would all start at the image: set random_start=True")
