"""PGD against the vote: the adversary who knows that the network is smoothed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.gradient import attack, input_gradient, log_odds, step_length
from rvlib.inference import in_batches
from rvlib.smoothing.statistics import check_sigma
from rvlib.threat_models import ThreatModel


@attack
def smoothed_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    sigma: float,
    draws: int = 16,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
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
        Norm and radius, one value or one per image.
    sigma : float, > 0
        Standard deviation of the smoothing noise, in pixel units.
    draws : int, default=16
        Noisy copies a gradient is averaged over (the paper's m).
    steps : int, default=10
        Number of gradient steps.
    step_size : float or Tensor of shape (B,), default=2.5 * threat.eps / steps
        Length of one step in the norm of `threat`, in pixel units.
    generator : torch.Generator, optional
        Source of the noise, on the device of `x`.
    batch_size : int, optional
        Images a forward pass, each with its `draws` copies.  The noise of a step is drawn for all
        images at once: B * draws images of memory.

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
    function must be the defended one.  As in ``pgd`` the ascent direction is that of the log-odds.

    References
    ----------
    .. [1] Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed
       Classifiers", NeurIPS 2019, section 2.2, equation (S).  arXiv:1906.04584.
    """
    check_sigma(sigma)
    if min(steps, draws) < 1:
        raise ValueError(f"steps={steps}, draws={draws}: an attack takes at least one")
    eta = step_length(step_size, threat, steps, x)
    size = batch_size
    if size is None:
        size = max(1, 512 // draws if x.device.type == "cpu" else len(x))
    x_t = x
    for _ in range(steps):
        gradient = noisy_gradient(model, x_t, y, sigma, draws, generator, size)
        x_t = x_t + eta * threat.steepest(gradient)
        x_t = (x + threat.project(x_t - x)).clamp_(0, 1)
    return x_t


def noisy_gradient(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    sigma: float,
    draws: int,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Ascent direction (B, C, H, W) of -log of the mean probability over fresh noisy copies."""
    # (B, draws, H, W, C): noise in the memory layout that convolutions are fastest in.
    noise = x.new_empty((len(x), draws, *x.shape[2:], x.shape[1])).normal_(generator=generator)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        m = log_odds(logits, y.repeat_interleave(draws)).view(-1, draws)
        # The mean of p = 1 / (1 + e^m) falls by the mean of p (1 - p) dm: with weights that sum
        # to one this direction survives sure answers, too.
        weights = (F.logsigmoid(m) + F.logsigmoid(-m)).detach().softmax(1)
        return (weights * m).sum(1)

    def gradient(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        def answers(x: Tensor) -> Tensor:
            copies = (x.permute(0, 2, 3, 1)[:, None] + sigma * noise).flatten(0, 1)
            logits: Tensor = model(copies.permute(0, 3, 1, 2))
            return logits

        return input_gradient(answers, x, y, loss)  # type: ignore[arg-type]

    return in_batches(gradient, batch_size, x, y, noise)
