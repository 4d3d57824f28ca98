"""Statistics of votes and of accuracies: NumPy and SciPy only, no network, no torch.

Symbols are those of Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized
Smoothing", ICML 2019 (arXiv:1902.02918).
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy  # scipy.stats takes a second to load: at its first use
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaln

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


class Interval(NamedTuple):
    """Two ends of a confidence interval."""

    low: float
    high: float


def check_sigma(sigma: float) -> None:
    """Refuse a noise level that is no standard deviation in pixel units."""
    if not 0 < sigma < 64:  # NaN fails this, too
        raise ValueError(f"sigma={sigma} is no noise level: give 0.25, in pixel units of [0, 1]")


def check_alpha(alpha: float) -> None:
    """Refuse a failure probability outside (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must lie in (0, 1): the chance of a false certificate")


def check_n(counts: NDArray[Any], needed: int, verb: str, alpha: float) -> None:
    """Refuse too few votes ever to answer, or to certify, at this alpha."""
    if counts.dtype.kind not in "iu":
        raise TypeError(f"n={counts} is no integer")
    n = int(counts.min(initial=needed))
    if n < needed:
        raise ValueError(f"n={n} votes can never {verb} at alpha={alpha}: give n >= {needed}")


def check_counts(counts: ArrayLike) -> Integers:
    """Read votes (B, K) as 64-bit integers: sums of small ones would overflow."""
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] < 2 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts have shape {counts.shape}, {counts.dtype}: give integers (B, K)")
    counts = counts.astype(np.int64)
    if (counts < 0).any():
        raise ValueError(f"counts hold {counts.min()} votes: numbers of votes are not negative")
    return counts


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
    k, n = _check_trials(k, n)
    # Beta(0, ...) has no quantiles; zero successes bound nothing.
    bound = scipy.stats.beta.ppf(alpha, np.maximum(k, 1), n - np.maximum(k, 1) + 1)
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
    p = np.asarray(p_lower, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_lower={p_lower!r} is no probability: give a share in [0, 1]")
    return sigma * scipy.stats.norm.ppf(np.maximum(p, 0.5))


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
    counts = check_counts(counts)
    check_n(counts.sum(1), smallest_n_to_predict(alpha), "answer", alpha)
    n_b, n_a = np.sort(counts, axis=1)[:, -2:].T
    # By symmetry at one half the two-sided p-value is twice the upper tail.
    p_value = np.minimum(1.0, 2 * scipy.stats.binom.sf(n_a - 1, n_a + n_b, 0.5))
    return np.where(p_value <= alpha, counts.argmax(1), ABSTAIN)


def certificate(counts0: ArrayLike, counts: ArrayLike, alpha: float, sigma: float) -> Certificates:
    r"""Certify from two independent samples of votes (``Certify`` of Cohen et al.).

    `counts0` selects the class :math:`\hat{c}_A`; the share of `counts` that agrees bounds its
    probability from below; if the bound exceeds one half, the answer holds within
    :math:`\sigma \Phi^{-1}(\underline{p_A})`.

    Parameters
    ----------
    counts0 : array-like of int, shape (B, K)
        Votes for the selection (n0 per image).  Never part of `counts`: a class chosen on the
        sample that then judges it would be judged too well.
    counts : array-like of int, shape (B, K)
        Votes for the estimation (n per image).
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
    counts0, counts = check_counts(counts0), check_counts(counts)
    if counts0.shape != counts.shape:
        raise ValueError(f"counts0 has shape {counts0.shape}, not {counts.shape} like counts")
    n = counts.sum(1)
    check_n(n, smallest_n_to_certify(alpha), "certify", alpha)
    if not counts0.any(1).all():
        raise ValueError("counts0 holds an image without votes: nothing selects its class")
    selected = counts0.argmax(1)
    k = np.take_along_axis(counts, selected[:, None], axis=1)[:, 0]
    radius = certified_radius(lower_confidence_bound(k, n, alpha), sigma)
    return Certificates(np.where(radius > 0, selected, ABSTAIN), radius)


def log_e_value(
    k: ArrayLike, n: ArrayLike, p0: float, larger: bool = True, prior: float = 1.0
) -> Floats:
    r"""Logarithm of the e-value for a probability larger (or smaller) than `p0`.

    .. math:: M_n = \int_{p_0}^1 \Big(\frac{p}{p_0}\Big)^k \Big(\frac{1-p}{1-p_0}\Big)^{n-k}
        w(p) \, dp, \qquad w(p) \propto \big(p (1 - p)\big)^{a - 1}, \quad \int_{p_0}^1 w = 1

    a mixture of likelihood ratios over all larger p, with weights of a Beta(a, a) distribution
    cut at `p0`.  Another vote of true probability :math:`q \le p_0` multiplies the expectation of
    the ratio at p by

    .. math:: q \frac{p}{p_0} + (1 - q) \frac{1-p}{1-p_0}
        = 1 + \frac{(q - p_0)(p - p_0)}{p_0 (1 - p_0)} \le 1,

    because :math:`p \ge p_0` where w is positive, whatever w is otherwise.  So the mixture is a
    nonnegative supermartingale that starts at 1, and

    .. math:: P\big(\exists n: M_n \ge 1/\alpha\big) \le \alpha

    by Ville's inequality [1]_, *whenever* one looks and however one decides to stop [2]_.

    Parameters
    ----------
    k : array-like of int
        Votes for the class.
    n : array-like of int
        All votes.
    p0 : float, in (0, 1)
        The probability to exceed.
    larger : bool, default=True
        Otherwise for a smaller one: the mixture over [0, p0].
    prior : float, > 0, default=1
        The weights' a: 1 is uniform; 1/2, Jeffreys', needs fewer votes where nearly all agree.

    Returns
    -------
    ndarray of float64
        :math:`\log M_n`; -inf where the votes speak so strongly for the contrary that the
        integral vanishes in double precision, which decides nothing.

    References
    ----------
    .. [1] Ville, "Étude critique de la notion de collectif", 1939.
    .. [2] Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
       Mathematical Statistics 41, 1970; for smoothing: Voracek, "Treatment of statistical
       estimation problems in randomized smoothing for adversarial robustness", NeurIPS 2024.

    Examples
    --------
    >>> float(log_e_value(0, 0, 0.5))
    0.0
    >>> bool(log_e_value(95, 100, 0.5) > np.log(1000))
    True
    """
    if not 0 < p0 < 1 or not (larger or 1 - p0 < 1):
        raise ValueError(f"p0={p0} must be in (0, 1), and so must 1 - p0 as computed")
    k, n = (v.astype(np.float64) for v in _check_trials(k, n))
    if not prior > 0:
        raise ValueError(f"prior={prior} must be > 0: 1 for uniform weights, 1/2 for Jeffreys'")
    if not larger:
        return log_e_value(n - k, n, 1 - p0, prior=prior)
    weights = _log_mass_above(p0, prior, prior)
    if weights == -np.inf:
        raise ValueError(f"prior={prior}: so large a prior has no weight above p0={p0}")
    gained = _log_mass_above(p0, k + prior, n - k + prior) - weights
    result: Floats = gained - k * math.log(p0) - (n - k) * math.log1p(-p0)
    return result


def _log_mass_above(p0: float, a: Any, b: Any) -> Any:
    r"""Compute :math:`\log \int_{p_0}^1 p^{a-1} (1-p)^{b-1} dp`."""
    with np.errstate(divide="ignore"):  # it may vanish in double precision
        return betaln(a, b) + np.log(betaincc(a, b, p0))


def correct_radii(certificates: Certificates, labels: ArrayLike) -> Floats:
    """Find the radius within which each image is certified to be answered *rightly*.

    Parameters
    ----------
    certificates : Certificates
        One per image.
    labels : array-like of int, shape (N,)
        True labels.

    Returns
    -------
    ndarray of float64, shape (N,)
        Radius in pixel units; -1, less than any radius, where the answer is wrong or abstains.

    Raises
    ------
    TypeError, ValueError
        If the labels are no numbers, or there is not one a certificate.
    """
    answers, radius = (np.asarray(part) for part in certificates)
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"labels are {labels.dtype}, no numbers of classes 0, ..., K-1")
    if labels.shape != answers.shape:
        raise ValueError(f"{labels.size} labels for {answers.size} certificates: give one each")
    right = (answers == labels) & (answers != ABSTAIN)
    return np.where(right, radius, -1.0)


def certified_accuracy(radii: ArrayLike, radius: float | Sequence[float]) -> NDArray[np.float64]:
    r"""Share of images certified to be answered rightly within a radius.

    .. math:: \frac{1}{N} \#\{ i : \hat{c}_i = y_i \text{ and } R_i \ge r \}

    Parameters
    ----------
    radii : array-like of float, shape (N,)
        From ``correct_radii``.
    radius : float or sequence of float, >= 0
        Radii r in pixel units; at 0 the share answered rightly and not abstained.

    Returns
    -------
    ndarray of float64, in [0, 1]
        One share a radius: a lower bound on the accuracy under *any* Euclidean attack of that
        length, each image with confidence 1 - alpha.

    Raises
    ------
    ValueError
        If a radius is negative or NaN, or there is no image.

    Examples
    --------
    >>> certified_accuracy(np.array([-1.0, 0.3, 0.6, 0.9]), [0, 0.5, 1]).tolist()
    [0.75, 0.5, 0.0]
    """
    at = np.atleast_1d(np.asarray(radius, dtype=np.float64))
    if not (at >= 0).all():
        raise ValueError(f"radius={radius} must be >= 0, in pixel units of [0, 1]")
    if not np.size(radii):
        raise ValueError("no images: there is no share of none")
    return (np.asarray(radii)[:, None] >= at).mean(0)


def average_certified_radius(radii: ArrayLike) -> float:
    """Mean over all images of the radius certified rightly, 0 where wrong or abstained (ACR).

    Parameters
    ----------
    radii : array-like of float, shape (N,)
        From ``correct_radii``.

    Returns
    -------
    float
        In pixel units.

    Raises
    ------
    ValueError
        If there is no image.

    Examples
    --------
    >>> average_certified_radius(np.array([-1.0, 0.5, 0.5, 1.0]))
    0.5
    """
    if not np.size(radii):
        raise ValueError("no images: there is no mean of none")
    return float(np.maximum(radii, 0).mean())


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Compute Wilson's score interval of a binomial share.

    All p that the observed share :math:`\hat{p} = k/n` lies within z standard errors of:

    .. math:: \frac{\hat{p} + z^2/2n \pm z \sqrt{\hat{p}(1 - \hat{p})/n + z^2/4n^2}}{1 + z^2/n}

    It stays inside [0, 1] and is sensible at 0 and at 1, where the plain one has length zero [1]_.

    Parameters
    ----------
    correct : int, in 0..n
        Successes k.
    n : int, >= 1
        Trials.
    confidence : float, in (0, 1), default=0.95
        Coverage, approximately.

    Returns
    -------
    Interval
        Both ends.

    Raises
    ------
    ValueError
        If `correct` is not in 0..n or `n` is below 1.

    References
    ----------
    .. [1] Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
       Journal of the American Statistical Association 22(158), 1927.

    Examples
    --------
    >>> tuple(round(end, 4) for end in wilson(596, 1024))
    (0.5516, 0.6119)
    """
    low, high = scipy.stats.binomtest(correct, n).proportion_ci(confidence, "wilson")
    return Interval(float(low), float(high))


def prediction_interval(shares: Sequence[float], n: int, confidence: float = 0.95) -> Interval:
    r"""Predict the accuracy of one more training run, tested on other images.

    With mean :math:`\bar p` and standard deviation :math:`s` of the accuracies of m training
    seeds, all on the same n images,

    .. math:: \bar p \pm \sqrt{ t^2 s^2 (1 + 1/m) + z^2 \, 2 \bar p (1 - \bar p) / n }

    The first part is the prediction interval of one more seed (Student's t with m - 1 degrees of
    freedom) [1]_, the second the difference of two samples of n images; they are independent, so
    their squares add.  In it :math:`\bar p` stays half an image away from 0 and 1: where all seeds
    agree on 0 of n, another run may still find one.  What lies outside is not explained by seeds
    and sampling.

    Parameters
    ----------
    shares : sequence of float, in [0, 1], at least two
        Accuracy of each training seed.
    n : int, >= 1
        Images that each was measured on, and the other run, too.
    confidence : float, in (0, 1), default=0.95
        Coverage, approximately.

    Returns
    -------
    Interval
        Both ends, cut to [0, 1].

    Raises
    ------
    ValueError
        If there are fewer than two shares, as one seed says nothing about their spread; or if one
        is no share, `n` is below 1 or `confidence` outside (0, 1).

    References
    ----------
    .. [1] Meeker, Hahn, Escobar, "Statistical Intervals", 2nd edition, Wiley 2017, section 4.7.

    Examples
    --------
    >>> tuple(round(end, 3) for end in prediction_interval([0.56, 0.57, 0.55], 1024))
    (0.494, 0.626)
    """
    if len(shares) < 2 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares={shares}: give at least two, each in [0, 1] (0.56, not 56)")
    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"n={n}, confidence={confidence}: give at least one image, and 0.95, say")
    mean, spread = statistics.mean(shares), statistics.stdev(shares)
    tail = (1 - confidence) / 2
    seeds = scipy.stats.t.isf(tail, len(shares) - 1) * spread * math.sqrt(1 + 1 / len(shares))
    p = min(max(mean, 0.5 / n), 1 - 0.5 / n)
    sampling = scipy.stats.norm.isf(tail) * math.sqrt(2 * p * (1 - p) / n)
    half = math.hypot(seeds, sampling)
    return Interval(float(max(0.0, mean - half)), float(min(1.0, mean + half)))


def _check_trials(k: ArrayLike, n: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Refuse anything but k successes of n trials."""
    k, n = np.asarray(k), np.asarray(n)
    if not ((k >= 0) & (k <= n)).all():
        raise ValueError(f"k={k} must lie in 0, ..., n={n}")
    return k, n
