"""The two algorithms of Cohen et al.: predict and certify, for many images at once."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from rvlib.checks import check_whole
from rvlib.smoothing.certificate import (
    Certificates,
    Integers,
    certificate,
    smallest_n_to_certify,
    smallest_n_to_predict,
    vote,
)
from rvlib.smoothing.votes import sample_under_noise
from rvlib.types import Images


def predict(
    model: nn.Module,
    x: Images,
    sigma: float,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    sound: bool = False,
    batch_size: int | None = None,
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
        Votes an image; a multiple of 100.
    alpha : float, default=0.001
        Failure probability of one image's answer.
    seed : int, default=0
        Part of the noise's address.
    image_ids : sequence of int, default=None
        One number an image: each image then has noise of its own, and errors are independent.
    sound : bool, default=False
        Exact sums on the grid of 1/255, see ``sample_under_noise``.
    batch_size : int, default=``default_batch_size(device)``
        Noisy copies in one forward pass.

    Returns
    -------
    ndarray of int64, shape (B,)
        Classes or ``ABSTAIN``; wrong about the true smoothed network with probability at most
        `alpha` an image.

    Raises
    ------
    ValueError
        If `n` is too small ever to answer at this `alpha`; the message says how many it takes.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.2.1.  arXiv:1902.02918.
    """
    _check_enough(n, smallest_n_to_predict(alpha), "answer", alpha)
    draw = partial(
        sample_under_noise, seed=seed, image_ids=image_ids, sound=sound, batch_size=batch_size
    )
    counts = draw(model, x, sigma, n, purpose="prediction")
    return vote(counts.numpy(), alpha)


def certify(
    model: nn.Module,
    x: Images,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    sound: bool = False,
    batch_size: int | None = None,
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
        Votes for the selection; a multiple of 100.
    n : int, default=100_000
        Votes for the estimation, fixed before looking; a multiple of 100.
    alpha : float, default=0.001
        Failure probability of one image's certificate; n images give up to ``n * alpha`` false
        ones in expectation.
    seed : int, default=0
        Part of the noise's address.
    image_ids : sequence of int, default=None
        One number an image: each image then has noise of its own, and errors are independent.
    sound : bool, default=False
        Exact sums on the grid of 1/255, see ``sample_under_noise``.
    batch_size : int, default=``default_batch_size(device)``
        Noisy copies in one forward pass.

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
    _check_enough(n, smallest_n_to_certify(alpha), "certify", alpha)
    draw = partial(
        sample_under_noise, seed=seed, image_ids=image_ids, sound=sound, batch_size=batch_size
    )
    counts0 = draw(model, x, sigma, n0, purpose="selection")
    counts = draw(model, x, sigma, n, purpose="estimation")
    return certificate(counts0.numpy(), counts.numpy(), alpha, sigma)


def _check_enough(n: int, needed: int, verb: str, alpha: float) -> None:
    check_whole("n", n)
    if n < needed:
        raise ValueError(f"n={n} can never {verb} at alpha={alpha}: needs n >= {needed}")
