"""The statistics of the vote: NumPy and SciPy only, no network, no torch.

Symbols are those of Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized
Smoothing", ICML 2019 (arXiv:1902.02918).
"""

import itertools
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom, norm

from rvlib.checks import check_number, check_sigma, shown

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

ABSTAIN = -1
"""The answer of a vote that is too close to call.  It never equals a label: an error."""


class Certificates(NamedTuple):
    """Answers with the radius that each holds in."""

    prediction: Integers
    """Shape (B,): class, or ABSTAIN."""

    radius: Floats
    """Shape (B,): certified Euclidean radius in pixel units; 0 where abstained."""


def check_alpha(alpha: float) -> None:
    """Refuse a failure probability outside (0, 1)."""
    check_number("alpha", alpha, "alpha=0.001")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must be in (0, 1): the chance of a false certificate")


def numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    """Turn numbers into an array; refuse text, truth values and anything else."""
    found = rectangular(name, values)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{name}={shown(values)} holds no numbers: write 3 or [1, 2]")
    return found


def rectangular(name: str, values: ArrayLike) -> NDArray[Any]:
    """Turn nested lists into an array; refuse rows of several lengths."""
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"rows of {name} differ in length: give each as many numbers") from None


def check_trials(k: ArrayLike, n: ArrayLike, least: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Refuse what is not k successes of n trials, both whole, n being `least` or more."""
    k, n = numbers("k", k), numbers("n", n)
    try:
        shape = np.broadcast_shapes(k.shape, n.shape)
    except ValueError:
        raise ValueError(
            f"k has shape {k.shape}, n {n.shape}: give one n for all k, or one each"
        ) from None
    # Written so that NaN, which fails every comparison, is refused too.
    right = (k >= 0) & (k <= n) & (n >= least) & (k == np.floor(k)) & (n == np.floor(n))
    right &= np.isfinite(n)
    if not right.all():
        bad_k, bad_n = (np.broadcast_to(v, shape)[~right][0] for v in (k, n))
        raise ValueError(
            f"k must lie in 0..n, and n be at least {least}, both whole: not k={bad_k} of n={bad_n}"
        )
    return k, n


def smallest_n_to_predict(alpha: float) -> int:
    r"""Smallest number of votes with which a vote can ever be called.

    All n votes agree with two-sided p-value :math:`2 \cdot 2^{-n} \le \alpha`.

    Parameters
    ----------
    alpha : float, in (0, 1)
        Failure probability.

    Returns
    -------
    int
        The smallest such n.

    Examples
    --------
    >>> smallest_n_to_predict(0.001)
    11
    """
    check_alpha(alpha)
    # Powers of two are exact in floating point, logarithms are not.
    return next(n for n in itertools.count(1) if 2 * 0.5**n <= alpha)


def smallest_n_to_certify(alpha: float) -> int:
    r"""Smallest number of votes with which anything can be certified.

    All n votes agree and the bound :math:`\alpha^{1/n}` exceeds one half.

    Parameters
    ----------
    alpha : float, in (0, 1)
        Failure probability.

    Returns
    -------
    int
        The smallest such n.

    Examples
    --------
    >>> smallest_n_to_certify(0.001)
    10
    """
    check_alpha(alpha)
    return math.floor(-math.log2(alpha)) + 1


def lower_confidence_bound(k: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    r"""Lower confidence bound on a binomial probability (Clopper-Pearson, one-sided).

    The largest p that k successes in n trials still speak against at level `alpha`:

    .. math:: P(\mathrm{Bin}(n, \underline{p}) \ge k) = \alpha

    the `alpha` quantile of a Beta(k, n - k + 1) distribution [1]_.

    Parameters
    ----------
    k : array-like of int, in 0..n
        Successes.
    n : array-like of int, >= 1
        Trials.
    alpha : float, in (0, 1)
        Failure probability.

    Returns
    -------
    ndarray of float64
        Bounds that lie above the true probability in at most a share `alpha` of samples.  0
        where k = 0.

    Raises
    ------
    ValueError
        If `alpha` is outside (0, 1) or `k` outside 0..n.

    References
    ----------
    .. [1] Clopper, Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of
       the Binomial", Biometrika 26(4), 1934.

    Examples
    --------
    >>> float(lower_confidence_bound(100, 100, alpha=0.001).round(4))  # 0.001 ** (1 / 100)
    0.9333
    """
    check_alpha(alpha)
    k, n = check_trials(k, n, least=1)
    # Beta(0, ...) has no quantiles; zero successes bound nothing.
    bound = beta.ppf(alpha, np.maximum(k, 1), n - np.maximum(k, 1) + 1)
    return np.where(k > 0, bound, 0.0)


def certified_radius(p_lower: ArrayLike, sigma: float) -> Floats:
    r"""Euclidean radius within which the smoothed network cannot change its answer.

    .. math:: R = \sigma \, \Phi^{-1}(\underline{p_A})

    (theorem 1 with the runner-up bounded by :math:`1 - \underline{p_A}`).

    Parameters
    ----------
    p_lower : array-like of float, in [0, 1]
        Lower bound on the probability of the answer under noise.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.

    Returns
    -------
    ndarray of float64
        Radii in pixel units; 0 where `p_lower` does not exceed one half.

    Raises
    ------
    ValueError
        If `p_lower` is no probability, or `sigma` no noise level.

    Examples
    --------
    >>> certified_radius([0.4, 0.5, 0.8413447460685429], sigma=0.25).round(6).tolist()
    [0.0, 0.0, 0.25]
    """
    check_sigma(sigma)
    p = numbers("p_lower", p_lower).astype(np.float64)
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise ValueError(f"p_lower={p[wrong][0]} is no probability: give a share in [0, 1]")
    return sigma * norm.ppf(np.maximum(p, 0.5))


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """Find the radius that `n` agreeing votes certify: `n` votes certify no larger one.

    Parameters
    ----------
    n : int, >= 1
        Number of votes.
    alpha : float, in (0, 1)
        Failure probability.
    sigma : float, > 0
        Standard deviation of the noise.

    Returns
    -------
    float
        The cap, in pixel units.

    Examples
    --------
    >>> [round(largest_radius(n, 0.001, sigma=1.0), 2) for n in (100, 1000, 10_000, 100_000)]
    [1.5, 2.46, 3.2, 3.81]
    """
    return float(certified_radius(lower_confidence_bound(n, n, alpha), sigma))


def vote(counts: ArrayLike, alpha: float) -> Integers:
    r"""Call the vote, or abstain where it is too close (``Predict`` of Cohen et al.).

    With :math:`n_A \ge n_B` the two largest counts, answer the first class if the two-sided
    binomial test of :math:`n_A` out of :math:`n_A + n_B` against one half has p-value at most
    `alpha`.

    Parameters
    ----------
    counts : array-like of int, shape (B, K)
        Votes of each class.
    alpha : float, in (0, 1)
        Failure probability.

    Returns
    -------
    ndarray of int64, shape (B,)
        Classes or ABSTAIN.  With probability at least 1 - `alpha` an image's answer is ABSTAIN
        or the class that the smoothed network truly prefers (proposition 1 of the paper).

    Raises
    ------
    ValueError
        If there are too few votes ever to answer at this `alpha`.

    Examples
    --------
    >>> vote([[90, 10], [55, 45]], alpha=0.001).tolist()
    [0, -1]
    """
    counts = _check_counts("counts", counts)
    needed = smallest_n_to_predict(alpha)
    if counts.sum(1).min() < needed:
        raise ValueError(f"n={counts.sum(1).min()} votes can never answer: needs n >= {needed}")
    n_b, n_a = np.sort(counts, axis=1)[:, -2:].T
    # By symmetry at one half the two-sided p-value is twice the upper tail.
    p_value = np.minimum(1.0, 2 * binom.sf(n_a - 1, n_a + n_b, 0.5))
    return np.where(p_value <= alpha, counts.argmax(1), ABSTAIN)


def certificate(counts0: ArrayLike, counts: ArrayLike, alpha: float, sigma: float) -> Certificates:
    r"""Certify from two independent samples of votes (``Certify`` of Cohen et al.).

    `counts0` selects the class :math:`\hat{c}_A`; the share of `counts` that agrees bounds its
    probability from below; if the bound exceeds one half, the answer holds within
    :math:`\sigma \Phi^{-1}(\underline{p_A})`.

    Parameters
    ----------
    counts0 : array-like of int, shape (B, K)
        Votes for the selection (n0 an image).  Never part of `counts`: a class chosen on the
        sample that then judges it would be judged too well.
    counts : array-like of int, shape (B, K)
        Votes for the estimation (n an image).
    alpha : float, in (0, 1)
        Failure probability of one image's certificate.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.

    Returns
    -------
    Certificates
        With probability at least 1 - `alpha` per image, the smoothed network answers
        ``prediction`` everywhere within Euclidean distance ``radius``, or the result is ABSTAIN
        with radius 0 (proposition 2 of the paper).

    Raises
    ------
    ValueError
        If there are too few votes ever to certify at this `alpha`.

    Examples
    --------
    >>> certificate([[100, 0]], [[999, 1]], alpha=0.001, sigma=0.25).radius.round(3).tolist()
    [0.589]
    """
    counts0, counts = _check_counts("counts0", counts0), _check_counts("counts", counts)
    if counts0.shape != counts.shape:
        raise ValueError(f"counts0 has shape {counts0.shape}, not {counts.shape} like counts")
    needed = smallest_n_to_certify(alpha)
    n = counts.sum(1)
    if n.min() < needed:
        raise ValueError(f"n={n.min()} votes can never certify: needs n >= {needed}")
    if not counts0.any(1).all():
        raise ValueError("counts0 holds an image without votes: nothing selects its class")
    selected = counts0.argmax(1)
    k = np.take_along_axis(counts, selected[:, None], axis=1)[:, 0]
    radius = certified_radius(lower_confidence_bound(k, n, alpha), sigma)
    return Certificates(np.where(radius > 0, selected, ABSTAIN), radius)


def _check_counts(name: str, counts: ArrayLike) -> NDArray[Any]:
    counts = rectangular(name, counts)
    if counts.ndim != 2 or counts.shape[1] < 2 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"{name} have shape {counts.shape}, {counts.dtype}: need (B, K) integers")
    if counts.size == 0 or counts.min() < 0:
        what = "no image" if counts.size == 0 else f"{counts.min()} votes"
        raise ValueError(f"{name} hold {what}: give one row an image, votes from 0 on")
    return counts
