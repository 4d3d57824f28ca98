"""PGD against the vote: the adversary who knows that the network is smoothed."""

import torch
from torch import Tensor, nn

from rvlib.attacks.ascent import ascend, cross_entropies, stride, under_attack, without_nan
from rvlib.checks import check_sigma, check_whole
from rvlib.memory import images_at_once
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels, check_generator


def smoothed_pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    sigma: float,
    draws: int = 16,
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Images:
    r"""Attack the smoothed network by ascent on its expected probability (SmoothAdv).

    The loss is the negative log of the *mean* probability over `draws` noisy copies,

    .. math:: L(x') = -\log \frac{1}{m} \sum_{i=1}^{m} F(x' + \delta_i)_y,
        \qquad \delta_i \sim \mathcal{N}(0, \sigma^2 I),

    with :math:`F` the softmax output and fresh :math:`\delta_i` at every step [1]_.

    Parameters
    ----------
    model : nn.Module
        The base network: maps images to logits of shape (B, K).
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    threat : ThreatModel
        Norm and radius.
    sigma : float, > 0
        Standard deviation of the smoothing noise, in pixel units.
    draws : int, default=16
        Noisy copies a gradient is averaged over (the paper's m).
    steps : int, default=10
        Number of gradient steps.
    step_size : float, default=2.5 * threat.eps / steps
        Length of one step in the norm of `threat`, in pixel units.
    generator : torch.Generator, default=None
        Source of the noise, on the device of `x`.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, in the ball.  Judge them with *independent* noise.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels, the labels do not fit, or a hyper-parameter makes no attack.

    Notes
    -----
    Noisy copies are not clipped to [0, 1], as in prediction and certification: the attacked
    function must be the defended one.

    References
    ----------
    .. [1] Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed
       Classifiers", NeurIPS 2019, section 2.2, equation (S).  arXiv:1906.04584.
    """
    step = stride(threat, steps, step_size)
    check_sigma(sigma)
    check_whole("draws", draws)

    def gradient(x_t: Images) -> Tensor:
        return vote_loss_gradient(model, x_t, y, sigma, draws, generator)

    with under_attack(model, x, y):
        check_generator(generator, x)
        return without_nan(ascend(gradient, x, x, threat, steps, step))


def vote_loss_gradient(
    model: nn.Module,
    x: Images,
    y: Labels,
    sigma: float,
    draws: int,
    generator: torch.Generator | None,
) -> Tensor:
    r"""Gradient of the loss that ``smoothed_pgd`` climbs, with fresh noise.

    Parameters
    ----------
    model, x, y, sigma, draws, generator
        As for ``smoothed_pgd``.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        Gradient of minus the log of the mean probability of `y` over `draws` noisy copies.
    """
    with torch.inference_mode(False):
        # NHWC in memory, the layout that convolutions run fastest in, for copies and noise alike.
        shape = (len(x), draws, *x.permute(0, 2, 3, 1).shape[1:])  # (B, m, H, W, C)
        noise = x.new_empty(shape).normal_(generator=generator)
        size = max(1, images_at_once(model, x, len(x) * draws, gradient=True) // draws)
        parts = zip(x.split(size), y.split(size), noise.split(size), strict=True)
        return torch.cat([_gradient_under(model, *part, sigma) for part in parts])


def _gradient_under(model: nn.Module, x: Images, y: Labels, noise: Tensor, sigma: float) -> Tensor:
    """Gradient of the loss of images under given noise (B, m, H, W, C)."""
    with torch.enable_grad():
        x, y = x.detach().clone().requires_grad_(True), y.clone()
        pixels = x.permute(0, 2, 3, 1)[:, None].expand(noise.shape)
        copies = (pixels + sigma * noise).flatten(0, 1).permute(0, 3, 1, 2)  # (B * m, C, H, W)
        log_probability = -cross_entropies(model(copies), y.repeat_interleave(noise.shape[1]))
        # Minus log of the mean, up to the constant log(m), which has no gradient.
        loss = -log_probability.view(noise.shape[:2]).logsumexp(1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return gradient
