"""What attacks share: losses on logits, the gradient at the pixels, staying in the ball."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.checks import check_attack, passed
from rvlib.inference import eval_mode, in_batches
from rvlib.threat_models import ThreatModel, per_image

Loss = Callable[..., Tensor]
"""What an attack raises: ``loss(logits, y)``, one value per image (B,); with targets
``loss(logits, y, target)``."""


# --- losses: logits (B, K), labels (B,) -> (B,) ---------------------------------------------------


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""Logarithm of the odds that the network is wrong: the cross-entropy's own direction.

    .. math:: m = \log \frac{1 - p_y}{p_y} = \log \sum_{k \ne y} e^{z_k} - z_y,
        \qquad \mathrm{CE} = \log(1 + e^m)

    The cross-entropy rises with :math:`m`, so both have the same ascent direction.  But its slope
    :math:`1 - p_y` rounds to zero where the network is sure, in single precision from a margin of
    17 on, and images would survive an attack that has merely lost its direction.  That of
    :math:`m` never does.

    Parameters
    ----------
    logits : Tensor of shape (B, K), float
        The network's answers.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B,)
        One value per image, positive where :math:`p_y < 1/2`.

    References
    ----------
    .. [1] Carlini, Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017,
       section III: attacks that fail where gradients vanish in floating point.  arXiv:1608.04644.

    Examples
    --------
    >>> z = torch.tensor([[40.0, 0.0]], requires_grad=True)
    >>> torch.autograd.grad(log_odds(z, torch.tensor([0])).sum(), z)[0]
    tensor([[-1.,  1.]])
    >>> torch.autograd.grad(nn.functional.cross_entropy(z, torch.tensor([0])), z)[0]
    tensor([[0.0000e+00, 4.2484e-18]])
    """
    minus_true = F.nll_loss(logits, y, reduction="none")  # -z_y
    return others(logits, y).logsumexp(1) + minus_true


def _slope(logits: Tensor, y: Tensor) -> Tensor:
    r"""Gradient of the log odds, :math:`\partial m / \partial z`: the others' softmax, and -1."""
    z = others(logits, y)
    if z.device.type == "cpu":  # rounded as autograd does: the published rows rest on these bits
        largest = z.amax(1, keepdim=True)
        total = (z - largest).exp_().sum(1, keepdim=True)
        shares = z.sub_(total.log_().add_(largest)).exp_()
    else:
        shares = z.softmax(1)  # one kernel instead of eight
    return shares.scatter_(1, y.unsqueeze(1), -1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""Best other logit minus the true one: :math:`\max_{k \ne y} z_k - z_y`, shape (B,).

    Not negative where the network is wrong; a tie is not correct.
    """
    return others(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the network is wrong, shape (B,): a tie is not correct, nor is NaN."""
    return ~(margin(logits, y) < 0)


def others(logits: Tensor, y: Tensor) -> Tensor:
    """Logits (B, K) with minus infinity in the place of the true class."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio, which scaling and shifting the logits leave as it is.

    .. math:: \frac{\max_{k \ne y} z_k - z_y}{z_{(1)} - z_{(3)}}

    with :math:`z_{(i)}` the i-th largest logit; needs three classes.

    References
    ----------
    .. [1] Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
       Parameter-free Attacks", ICML 2020, section 4.1.  arXiv:2003.01690.
    """
    top = _largest(logits, 3)
    return margin(logits, y) / _positive(top[:, 0] - top[:, 2])


def towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    r"""Targeted loss: the target's logit minus the true one, :math:`z_t - z_y`, shape (B,)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    r"""Targeted difference of logits ratio; needs four classes.

    .. math:: \frac{z_t - z_y}{z_{(1)} - (z_{(3)} + z_{(4)}) / 2}

    References
    ----------
    .. [1] Croce, Hein, ICML 2020, section 4.2.  arXiv:2003.01690.
    """
    top = _largest(logits, 4)
    return towards(logits, y, target) / _positive(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def _largest(logits: Tensor, count: int) -> Tensor:
    """Return the largest logits (B, count), in order."""
    if logits.shape[1] < count:
        raise ValueError(f"this loss needs {count} classes: take rvlib.margin, or towards")
    return logits.topk(count, dim=1).values


def _positive(spread: Tensor) -> Tensor:
    """Replace a spread by one where logits tie, or are left out: their ratio has no meaning."""
    return torch.where((spread > 0) & spread.isfinite(), spread, 1)


# --- the gradient at the pixels -------------------------------------------------------------------


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss = log_odds, targets: Tensor | None = None
) -> Tensor:
    r"""Gradient of the loss with respect to the pixels, :math:`\nabla_x L(\theta, x, y)`.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K).
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Where to differentiate.
    y : Tensor of shape (B,), int64
        True labels.
    loss : callable, default=log_odds
        ``loss(logits, y) -> (B,)``.
    targets : Tensor of shape (B,), int64, optional
        If given, the loss is ``loss(logits, y, targets)``.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        One gradient per image, of a network in evaluation mode independent of the others in the
        batch; zero where the pixels reach no logit.  Parameters' ``.grad`` stay untouched.
    """
    with torch.inference_mode(False):  # which switches gradients on
        parts = (x, y) if targets is None else (x, y, targets)
        x, y, *more = (p.clone() if p.is_inference() else p for p in parts)  # or know no gradient
        return logits_and_gradient(model, x, y, loss, *more)[1]


def logits_and_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss = log_odds, targets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and ``input_gradient``, of one pass each way; where gradients are on."""
    x = x.detach().requires_grad_()
    logits = model(x)
    if not logits.requires_grad:  # quantised outside of PyTorch, say
        return logits, torch.zeros_like(x)
    found, slope = logits.detach(), None
    if loss is log_odds and targets is None:  # written out: a tenth faster on small networks
        value, slope = logits, _slope(found, y)
    else:
        value = loss(logits, y) if targets is None else loss(logits, y, targets)
        if value.shape != y.shape:
            told = f"the loss gave {tuple(value.shape)} for {len(y)} images"
            raise ValueError(f"{told}: one value per image, reduction='none'")
        # The sum, not the mean: a gradient must not depend on the size of its batch.
        value = value.sum()
    (gradient,) = torch.autograd.grad(value, x, slope, allow_unused=True)
    return found, torch.zeros_like(x) if gradient is None else gradient


# --- running an attack ----------------------------------------------------------------------------

GRADIENT_IS_NAN = "the network's gradient is NaN: its numbers overflow (half precision?)"
Attack = TypeVar("Attack", bound=Callable[..., Tensor])


def attack(function: Attack) -> Attack:
    """Make a function an attack: check its input, run it in evaluation mode, keep it in the ball.

    Images that it returns are detached and lie in the box and, as computed in float32 or wider, in
    the ball; a mask (bool) is left as it is.
    """

    @functools.wraps(function)
    def checked(
        model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: Any
    ) -> Tensor:
        model = check_attack(model, x, y, threat, options.get("targets"))
        if isinstance(threat.eps, Tensor):
            threat = replace(threat, eps=threat.eps.detach().to(x.device))  # type: ignore[type-var]
        with eval_mode(model), torch.inference_mode(False):
            x = x.clone() if x.is_inference() else x.detach()  # those know no gradient
            y = y.clone()
            ball = like(threat, x) if isinstance(threat.eps, Tensor) else threat
            found = function(model, x, y, ball, **options)
            if found.dtype == torch.bool:
                return found
            x_adv = in_batches(inside, None, x, found, threat)
            if passed.get() is None and x_adv.sum().isnan():  # waits for the device
                raise ValueError(GRADIENT_IS_NAN)
            return x_adv

    return checked  # type: ignore[return-value]


def step_length(
    step_size: float | Tensor | None, threat: ThreatModel, steps: int, x: Tensor
) -> float | Tensor:
    """Check a step size, one or one per image, and shape it; by default 2.5 eps / steps."""
    if step_size is None:
        return per_image(2.5 * threat.eps / steps)
    if isinstance(step_size, Tensor):
        if step_size.shape not in ((), x.shape[:1]):
            raise ValueError(f"step_size has shape {tuple(step_size.shape)} for {len(x)} images")
        step_size = step_size.detach().to(x)
    if not (step_size.min() if isinstance(step_size, Tensor) else step_size) >= 0:
        raise ValueError(f"step_size={step_size}: a step has a length")
    return per_image(step_size)


def like(threat: ThreatModel, x: Tensor) -> ThreatModel:
    """Give radii, one per image, the precision of the images, rounded down."""
    eps = threat.eps.to(x)  # type: ignore[union-attr]
    lower = torch.nextafter(eps, torch.zeros_like(eps))
    return replace(threat, eps=torch.where(eps > threat.eps, lower, eps))  # type: ignore[type-var]


def inside(x: Tensor, x_adv: Tensor, threat: ThreatModel) -> Tensor:
    """Round attacked images towards the clean ones where rounding left the ball."""
    wide = torch.promote_types(x.dtype, torch.float32)  # half precision is too coarse to judge by
    # The nearest float32 number may lie above eps: a ball smaller by rounding lies inside.
    eps = threat.eps * (1 - torch.finfo(wide).eps)
    ball: ThreatModel = replace(threat, eps=eps)  # type: ignore[type-var]
    clean = x.to(wide)
    delta = ball.project(x_adv.to(wide) - clean)
    near = (clean + delta).to(x.dtype)
    # 1 or 0, in place: numbers are faster than booleans.
    too_far = (near.to(wide) - clean).abs_().gt_(delta.abs_()).to(x.dtype)
    return near.lerp(torch.nextafter(near, x), too_far).clamp_(0, 1)


def kept_inside(x: Tensor, x_adv: Tensor, threat: ThreatModel) -> Tensor:
    """Round as ``inside`` does in half precision, where a step may end outside of the ball."""
    return inside(x, x_adv, threat) if x.element_size() < 4 else x_adv


def check_targeted(loss: Loss) -> None:
    """Refuse the default loss, which reaches for no target."""
    if loss is log_odds:
        raise ValueError("targets need a loss that reaches for them: give loss=rvlib.towards")


def configured(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn any ``attack(model, x, y)``, with or without `generator`, into one of four arguments."""
    if not callable(attack):
        raise TypeError(f"attack={attack!r}: give functools.partial(rvlib.pgd, threat=...), say")
    if "generator" in inspect.signature(attack).parameters:
        return lambda model, x, y, generator: attack(model, x, y, generator=generator)
    return lambda model, x, y, generator: attack(model, x, y)
