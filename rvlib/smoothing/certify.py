"""The algorithms of Cohen et al., predict and certify, and a certificate at one radius."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from rvlib.checks import check_images, check_labels, checked_once
from rvlib.smoothing.statistics import (
    Certificates,
    Integers,
    certificate,
    check_alpha,
    check_n,
    check_sigma,
    log_e_value,
    smallest_n_to_certify,
    smallest_n_to_predict,
    vote,
)
from rvlib.smoothing.votes import CHUNK, SEQUENTIAL, Noise, check_ids, sample_under_noise

FUTILITY_ALPHA = 0.01
"""Error of giving up on an image that more votes would have certified."""

PRIOR = 0.5
"""Weights of the sequential test's mixture, Jeffreys': most images' votes nearly all agree."""


class Options(TypedDict, total=False):
    """How noise is drawn and batched: handed on to ``sample_under_noise``."""

    seed: int
    image_ids: Sequence[int] | None
    noise: Noise
    batch_size: int | None


class Certified(NamedTuple):
    """Answers at one radius."""

    prediction: Integers
    """Shape (B,): the selected class."""

    certified: np.ndarray
    """Shape (B,), bool: whether the smoothed network is shown to give it within the radius."""

    votes: Integers
    """Shape (B,): votes drawn, those of the selection included."""


def predict(
    model: nn.Module,
    x: Tensor,
    sigma: float,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    **options: Unpack[Options],
) -> Integers:
    r"""Answer with the smoothed network, or abstain.

    .. math:: g(x) = \arg\max_c \; P_{\delta \sim \mathcal{N}(0, \sigma^2 I)}(f(x + \delta) = c)

    estimated from `n` votes, called by the two-sided binomial test at level `alpha` [1]_.

    Parameters
    ----------
    model : nn.Module
        The base network :math:`f`, trained with the same noise.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    n : int, default=1000
        Votes per image; any number.
    alpha : float, default=0.001
        Failure probability of one image's answer.
    **options
        `seed`, `image_ids`, `noise`, `batch_size`: as for ``sample_under_noise``.

    Returns
    -------
    ndarray of int64, shape (B,)
        Classes or ``ABSTAIN``; wrong about the true smoothed network with probability at most
        `alpha` per image.

    Raises
    ------
    ValueError
        If `n` is too small ever to answer at this `alpha`; the message says how many it takes.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.2.1.  arXiv:1902.02918.
    """
    check_n(np.array(n), smallest_n_to_predict(alpha), "answer", alpha)
    counts = sample_under_noise(model, x, sigma, n, purpose="prediction", **options)
    return vote(counts, alpha)


def certify(
    model: nn.Module,
    x: Tensor,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    **options: Unpack[Options],
) -> Certificates:
    r"""Certify the smoothed network's answer within a Euclidean radius.

    `n0` votes select the class; `n` other votes bound its probability from below; the radius is
    :math:`\sigma \Phi^{-1}(\underline{p_A})` [1]_.

    Parameters
    ----------
    model : nn.Module
        The base network, trained with the same noise.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    n0 : int, default=100
        Votes for the selection; any number.
    n : int, default=100_000
        Votes for the estimation, fixed before looking; any number.
    alpha : float, default=0.001
        Failure probability of one image's certificate; n images give up to ``n * alpha`` false
        ones in expectation.
    **options
        `seed`, `image_ids`, `noise`, `batch_size`: as for ``sample_under_noise``.

    Returns
    -------
    Certificates
        ``prediction`` and ``radius``; see ``certificate`` for the guarantee.

    Raises
    ------
    ValueError
        If `n` is too small ever to certify at this `alpha`; the message says how many it takes.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.2.2.  arXiv:1902.02918.
    """
    check_n(np.array(n), smallest_n_to_certify(alpha), "certify", alpha)
    # Use f to select the class, then independent votes to bound its probability from below.
    counts0 = sample_under_noise(model, x, sigma, n0, purpose="selection", **options)
    counts = sample_under_noise(model, x, sigma, n, purpose="estimation", **options)
    return certificate(counts0, counts, alpha, sigma)


def certify_at(
    model: nn.Module,
    x: Tensor,
    radius: float,
    sigma: float,
    *,
    labels: Tensor | None = None,
    n0: int = 100,
    n_max: int = 100_000,
    alpha: float = 0.001,
    **options: Unpack[Options],
) -> Certified:
    r"""Certify the smoothed network at one radius, each image with as few votes as it takes.

    The radius :math:`r` is certified where the class's probability is shown to exceed
    :math:`\Phi(r / \sigma)`.  `n0` votes select the class; then each hundred votes are looked at,
    until the e-value for that (``log_e_value`` with Jeffreys' weights) reaches :math:`1/\alpha`,
    the one against it reaches ``1 / FUTILITY_ALPHA``, or there are `n_max`.

    Parameters
    ----------
    model : nn.Module
        The base network, trained with the same noise.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    radius : float, >= 0
        Euclidean radius in pixel units.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    labels : Tensor of shape (B,), int64, optional
        True labels: where the selected class is another one, nothing that could be certified is
        right at any radius, and no further vote is drawn.
    n0 : int, default=100
        Votes for the selection; any number.
    n_max : int, default=100_000
        Largest number of votes for the test; any number.
    alpha : float, default=0.001
        Failure probability of one image's certificate.
    **options
        `seed`, `image_ids`, `noise`, `batch_size`: as for ``sample_under_noise``.

    Returns
    -------
    Certified
        A certificate is false with probability at most `alpha` per image, however often one looks.
        Giving up is not guaranteed to be right: it costs accuracy, never soundness.

    Raises
    ------
    ValueError
        If `radius` or `alpha` make no sense, or so many votes can never certify the radius.

    See Also
    --------
    rvlib.smoothing.certify : The largest radius, from a number of votes fixed before.
    """
    check_images(x)
    check_alpha(alpha)
    check_sigma(sigma)
    if labels is not None:
        check_labels(labels, x)
    p0 = float(scipy.stats.norm.cdf(radius / sigma))
    evidence = partial(log_e_value, p0=p0, prior=PRIOR)
    if not radius >= 0 or p0 == 1 or evidence(n_max, n_max) < math.log(1 / alpha):
        raise ValueError(
            f"radius={radius} can never be certified by {n_max} votes at sigma={sigma}"
        )
    ids = options.pop("image_ids", None)
    check_ids(ids, x)

    def sample(which: Tensor, n: int, first: int, purpose: str) -> Integers:
        some = None if ids is None else [ids[int(i)] for i in which]
        own: Options = {**options, "image_ids": some}
        images = x[which.to(x.device)]
        counts = sample_under_noise(model, images, sigma, n, first=first, purpose=purpose, **own)
        return counts.numpy()

    everything = torch.arange(len(x))
    prediction = sample(everything, n0, 0, "selection").argmax(1)
    is_open = np.full(len(x), True) if labels is None else prediction == labels.cpu().numpy()
    successes, votes = np.zeros(len(x), dtype=np.int64), np.full(len(x), n0, dtype=np.int64)
    certified, n = np.full(len(x), False), 0
    with checked_once():
        while is_open.any() and n < n_max:
            at, more = np.flatnonzero(is_open), min(CHUNK, n_max - n)
            counts = sample(everything[at], more, n, SEQUENTIAL)
            n += more
            successes[at] += np.take_along_axis(counts, prediction[at, None], 1)[:, 0]
            votes[at] += more
            certified[at] = evidence(successes[at], n) >= math.log(1 / alpha)
            futile = evidence(successes[at], n, larger=False) >= math.log(1 / FUTILITY_ALPHA)
            is_open[at] = ~certified[at] & ~futile
    return Certified(prediction, certified, votes)
