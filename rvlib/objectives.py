"""What does the defender minimise?  Functions ``objective(model, x, y, generator) -> Loss``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks import pgd
from rvlib.attacks.gradient import configured, input_gradient
from rvlib.attacks.pgd import ascend
from rvlib.inference import eval_mode
from rvlib.smoothing.statistics import check_sigma
from rvlib.threat_models import Linf, ThreatModel, per_image


class Loss(NamedTuple):
    """A loss to descend, and logits of its first images, clean ones if it has any, for the log."""

    value: Tensor
    logits: Tensor


class Objective(Protocol):
    """The loss of one batch; `generator` is the only source of randomness.

    An objective that has a parameter `progress` is given the share of the training that is done.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        """Return the loss of a batch of images (B, C, H, W) with labels (B,)."""


def standard(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
    r"""Cross-entropy on the clean images: :math:`J(\theta, x, y)`."""
    logits = logits_of(model, x)
    return Loss(F.cross_entropy(logits, y), logits)


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits for a loss: in single precision at least, whatever autocast computes in."""
    logits: Tensor = model(x)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def gaussian(sigma: float) -> Objective:
    r"""Make the cross-entropy on images with Gaussian noise, drawn afresh at every step.

    .. math:: J(\theta, x + \delta, y), \qquad \delta \sim \mathcal{N}(0, \sigma^2 I)

    Parameters
    ----------
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.  Noisy images are not clipped.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.3.  arXiv:1902.02918.
    """
    check_sigma(sigma)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        noise = torch.empty_like(x).normal_(generator=generator)
        logits = logits_of(model, x + sigma * noise)
        return Loss(F.cross_entropy(logits, y), logits)

    return objective


def adversarial(
    attack: Callable[..., Tensor], clean_weight: float = 0.5, label_smoothing: float = 0.0
) -> Objective:
    r"""Make the weighted loss of clean and attacked images.

    .. math:: \alpha \, J(\theta, x, y) + (1 - \alpha) \, J(\theta, \hat{x}, y)

    Parameters
    ----------
    attack : callable
        ``attack(model, x, y) -> x_adv``, usually ``functools.partial(rvlib.pgd, threat=...)``; it
        is given `generator` if it has such a parameter.
    clean_weight : float, in [0, 1], default=0.5
        The weight :math:`\alpha`; 0 trains on attacked images alone [2]_.
    label_smoothing : float, in [0, 1), default=0
        Share of the target that all classes get alike.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples",
       ICLR 2015, section 6.  arXiv:1412.6572.
    .. [2] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks",
       ICLR 2018, section 2.1.  arXiv:1706.06083.
    """
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight={clean_weight} must lie in [0, 1]")
    return weighted([clean_weight, 1 - clean_weight], [attack], label_smoothing)


def mixed(attacks: Sequence[Callable[..., Tensor]]) -> Objective:
    r"""Make the loss split in equal parts between clean images and each attack's.

    .. math:: \frac{1}{1 + m} \Big( J(\theta, x, y) + \sum_{j=1}^m J(\theta, \hat{x}_j, y) \Big)
    """
    return weighted([1 / (1 + len(attacks))] * (1 + len(attacks)), attacks)


def weighted(
    weights: Sequence[float], attacks: Sequence[Callable[..., Tensor]], label_smoothing: float = 0.0
) -> Objective:
    r"""Make the weighted sum of the losses of the clean images and of each attack's.

    .. math:: w_0 J(\theta, x, y) + \sum_j w_j J(\theta, \hat{x}_j, y)

    Images of weight 0 are not shown to the network.
    """
    calls = [configured(attack) for attack in (_clean, *attacks)]
    pairs = tuple((w, attack) for w, attack in zip(weights, calls, strict=True) if w)
    cross_entropy = partial(F.cross_entropy, label_smoothing=label_smoothing)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        versions = [attack(model, x, y, generator) for _, attack in pairs]
        # One forward pass: batch normalisation takes its statistics over all versions together.
        logits = logits_of(model, torch.cat(versions)).chunk(len(versions))
        losses = [w * cross_entropy(z, y) for (w, _), z in zip(pairs, logits, strict=True)]
        return Loss(torch.stack(losses).sum(), logits[0])

    return objective


def _clean(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x


# --- After the report: regularised, in one step, or for smoothing. --------------------------------


def trades(
    threat: ThreatModel, beta: float = 6.0, *, steps: int = 10, label_smoothing: float = 0.0
) -> Objective:
    r"""Make TRADES: the clean loss, and how far an attack can move the answer.

    .. math:: J(\theta, x, y) + \beta \, \mathrm{KL}\big(F(x) \,\|\, F(\hat{x})\big), \qquad
        \hat{x} = \arg\max_{x' \in x + \mathcal{S}} \mathrm{KL}\big(F(x) \,\|\, F(x')\big)

    with :math:`F` the softmax output.  The inner problem is PGD, from a point close to `x`: at `x`
    itself the divergence has no slope.

    Parameters
    ----------
    threat : ThreatModel
        The ball :math:`\mathcal{S}`.
    beta : float, default=6
        Weight of the divergence (the paper's :math:`1/\lambda`).
    steps : int, default=10
        Steps of PGD, of length ``2.5 * eps / steps``, with the network in evaluation mode.
    label_smoothing : float, in [0, 1), default=0
        Of the clean loss.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy",
       ICML 2019, equation (5) and algorithm 1.  arXiv:1901.08573.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: an attack takes at least one")
    eta = per_image(2.5 * threat.eps / steps)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        with eval_mode(model), torch.enable_grad():
            with torch.no_grad():
                clean = logits_of(model, x).softmax(1)

            def divergence(z: Tensor, y: Tensor) -> Tensor:
                return F.kl_div(z.log_softmax(1), clean, reduction="none").sum(1)

            start = (x + 0.001 * torch.empty_like(x).normal_(generator=generator)).clamp(0, 1)
            x_adv = ascend(model, x, y, start, threat, eta, None, steps=steps, loss=divergence)
        z, z_adv = logits_of(model, torch.cat([x, x_adv])).chunk(2)
        moved = F.kl_div(z_adv.log_softmax(1), z.softmax(1), reduction="batchmean")
        return Loss(F.cross_entropy(z, y, label_smoothing=label_smoothing) + beta * moved, z)

    return objective


def fgsm_rs(threat: Linf, *, step: float = 1.25, label_smoothing: float = 0.0) -> Objective:
    r"""Make the loss of images attacked in one step from a random start (FGSM-RS).

    .. math:: J(\theta, \hat{x}, y), \qquad
        \hat{x} = \Pi\big(x + \eta + 1.25 \epsilon \, \mathrm{sign}
        \nabla_x J(\theta, x + \eta, y)\big), \quad \eta \sim U[-\epsilon, \epsilon]^d

    A training may collapse: within an epoch PGD's accuracy falls to nothing while that of the
    single step rises [2]_.

    Parameters
    ----------
    threat : Linf
        The ball.
    step : float, default=1.25
        Length of the step in radii.
    label_smoothing : float, in [0, 1), default=0
        Of the cross-entropy.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Wong, Rice, Kolter, "Fast is Better than Free: Revisiting Adversarial Training",
       ICLR 2020, algorithm 3.  arXiv:2001.03994.
    .. [2] Andriushchenko, Flammarion, "Understanding and Improving Fast Adversarial Training",
       NeurIPS 2020, section 3.  arXiv:2007.02617.
    """
    attack = partial(pgd, threat=threat, steps=1, step_size=step * threat.eps)
    return adversarial(attack, clean_weight=0.0, label_smoothing=label_smoothing)


def n_fgsm(threat: Linf, *, noise: float = 2.0, label_smoothing: float = 0.0) -> Objective:
    r"""Make the loss of images attacked in one step from far noise, without projection (N-FGSM).

    .. math:: J(\theta, \hat{x}, y), \qquad
        \hat{x} = x + \eta + \epsilon \, \mathrm{sign} \nabla_x J(\theta, x + \eta, y), \quad
        \eta \sim U[-k \epsilon, k \epsilon]^d

    Images may leave the ball, up to :math:`(k + 1) \epsilon`; they are clamped to [0, 1].

    Parameters
    ----------
    threat : Linf
        The ball.
    noise : float, default=2
        The paper's k, in radii.
    label_smoothing : float, in [0, 1), default=0
        Of the cross-entropy.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] de Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step Adversarial
       Training", NeurIPS 2022, section 4.  arXiv:2202.01181.
    """
    far = replace(threat, eps=noise * threat.eps)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        start = (x + far.sample(x, generator)).clamp(0, 1)
        with eval_mode(model):
            gradient = input_gradient(model, start, y)
        logits = logits_of(model, (start + per_image(threat.eps) * gradient.sign()).clamp(0, 1))
        return Loss(F.cross_entropy(logits, y, label_smoothing=label_smoothing), logits)

    return objective


def nuat(threat: Linf, weight: float = 4.0, *, label_smoothing: float = 0.0) -> Objective:
    r"""Make the clean loss with a nuclear norm that keeps attacked logits near the clean ones.

    .. math:: J(\theta, x, y) + \frac{\lambda_t}{B} \big\lVert Z(\hat{x}) - Z(x) \big\rVert_*

    where :math:`Z` are the logits of a batch of B images, a matrix (B, K), and
    :math:`\lVert \cdot \rVert_*` is the sum of its singular values [1]_.  One step makes

    .. math:: \hat{x} = \Pi\big(x + \eta + \epsilon \, \mathrm{sign} \nabla_x L(x + \eta)\big),
        \quad L = J + c \frac{\lambda_t}{B} \lVert Z(x + \eta) - Z(x) \rVert_*, \quad
        \eta \in \{-\epsilon / 2, \epsilon / 2\}^d

    with a coin :math:`c \in \{0, 1\}` for each batch (published code alternates).  The norm links
    the images of a batch: a single step cannot make all of its rows small by bending the loss.

    Parameters
    ----------
    threat : Linf
        The ball.
    weight : float, default=4
        :math:`\lambda_t` at the end; it rises from 0 in proportion to the training's progress.
    label_smoothing : float, in [0, 1), default=0
        Of the cross-entropy.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Sriramanan et al., "Towards Efficient and Effective Adversarial Training",
       NeurIPS 2021, algorithm 1.
    """
    eps = per_image(threat.eps)
    cross_entropy = partial(F.cross_entropy, label_smoothing=label_smoothing)

    @torch.enable_grad()
    def step(
        model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, w: float
    ) -> Tensor:
        draw = partial(torch.randint, 0, 2, generator=generator, device=x.device)
        signs, coin = draw(x.shape), draw(())
        start = (x + eps * (signs.to(x) - 0.5)).clamp(0, 1).requires_grad_()
        with torch.no_grad():
            clean = logits_of(model, x)
        z = logits_of(model, start)
        loss = len(x) * cross_entropy(z, y) + w * coin * nuclear_norm(z - clean)
        (gradient,) = torch.autograd.grad(loss, start)
        moved = start.detach() + eps * gradient.sign()
        return (x + threat.project(moved - x)).clamp(0, 1)

    def objective(
        model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, progress: float = 1.0
    ) -> Loss:
        w = weight * progress
        with eval_mode(model):
            x_adv = step(model, x, y, generator, w)
        z, z_adv = logits_of(model, torch.cat([x, x_adv])).chunk(2)
        return Loss(cross_entropy(z, y) + w * nuclear_norm(z_adv - z) / len(x), z)

    return objective


def nuclear_norm(matrix: Tensor) -> Tensor:
    r"""Sum of the singular values of a matrix (B, K): the trace of :math:`\sqrt{A^T A}`."""
    return torch.linalg.matrix_norm(matrix, "nuc")


def consistency(
    sigma: float, weight: float = 10.0, *, copies: int = 2, entropy: float = 0.5
) -> Objective:
    r"""Make the loss on noisy copies that also asks them for one answer.

    .. math:: \frac{1}{m} \sum_{i=1}^m \Big( J(\theta, x + \delta_i, y)
        + \lambda \, \mathrm{KL}\big(\bar{F} \,\|\, F(x + \delta_i)\big) \Big)
        + \eta \, H(\bar{F}), \qquad \delta_i \sim \mathcal{N}(0, \sigma^2 I)

    with :math:`\bar{F}` the mean of the m softmax outputs and :math:`H` the entropy [1]_.

    Parameters
    ----------
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    weight : float, default=10
        :math:`\lambda`.
    copies : int, default=2
        The paper's m.
    entropy : float, default=0.5
        :math:`\eta`.

    Returns
    -------
    Objective
        For ``fit``.

    References
    ----------
    .. [1] Jeong, Shin, "Consistency Regularization for Certified Robustness of Smoothed
       Classifiers", NeurIPS 2020, section 3.  arXiv:2006.04062.
    """
    check_sigma(sigma)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Loss:
        noisy = [
            x + sigma * torch.empty_like(x).normal_(generator=generator) for _ in range(copies)
        ]
        logits = logits_of(model, torch.cat(noisy)).chunk(copies)
        log_p = torch.stack([z.log_softmax(1) for z in logits])
        mean = log_p.exp().mean(0)
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        fits = torch.stack([F.nll_loss(p, y) for p in log_p]).mean()
        apart = (mean * (log_mean - log_p)).sum(2).mean()
        unsure = -(mean * log_mean).sum(1).mean()
        return Loss(fits + weight * apart + entropy * unsure, logits[0])

    return objective
