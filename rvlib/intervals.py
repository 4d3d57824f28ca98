"""Intervals of a share: what n images say about all images, and seeds about another one."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy.stats import norm, t

from rvlib.checks import check_number, check_whole


class Interval(NamedTuple):
    """Two ends of a confidence interval.

    Parameters
    ----------
    low : float
        Lower end.
    high : float
        Upper end.
    """

    low: float
    high: float


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
    check_whole("correct", correct, least=0)
    check_whole("n", n)
    if correct > n:
        raise ValueError(f"correct={correct} of n={n}: need 0 <= correct <= n")
    _check_confidence(confidence)
    z = norm.isf((1 - confidence) / 2)
    share = correct / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula gives exactly 0 and 1, but not in floating point.
    low = (middle - half) / scale if correct > 0 else 0.0
    high = (middle + half) / scale if correct < n else 1.0
    return Interval(float(low), float(high))


def another_run(shares: Sequence[float], n: int, confidence: float = 0.95) -> Interval:
    r"""Predict the accuracy of one more training run, tested on other images.

    With mean :math:`\bar p` and standard deviation :math:`s` of the accuracies of m training
    seeds, all on the same n images,

    .. math:: \bar p \pm \sqrt{ t^2 s^2 (1 + 1/m) + z^2 \, 2 \bar p (1 - \bar p) / n }

    The first part is the prediction interval of one more seed (Student's t with m - 1 degrees of
    freedom) [1]_, the second the difference of two samples of n images; they are independent, so
    their squares add.  What lies outside is not explained by seeds and sampling.

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
        is no share.

    References
    ----------
    .. [1] Meeker, Hahn, Escobar, "Statistical Intervals", 2nd edition, Wiley 2017, section 4.7.

    Examples
    --------
    >>> tuple(round(end, 3) for end in another_run([0.56, 0.57, 0.55], 1024))
    (0.494, 0.626)
    """
    if not isinstance(shares, Iterable):
        raise TypeError(f"shares={shares!r} is one number: give the share of each training seed")
    shares = list(shares)
    if len(shares) < 2:
        raise ValueError(f"{len(shares)} training seed: the spread of seeds takes at least two")
    for share in shares:
        check_number("share", share, "0.56")
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} must be in [0, 1]; write 0.56, not 56")
    check_whole("n", n)
    _check_confidence(confidence)
    mean, spread = statistics.mean(shares), statistics.stdev(shares)
    tail = (1 - confidence) / 2
    seeds = t.isf(tail, len(shares) - 1) * spread * math.sqrt(1 + 1 / len(shares))
    sampling = norm.isf(tail) * math.sqrt(2 * mean * (1 - mean) / n)
    half = math.hypot(seeds, sampling)
    return Interval(float(max(0.0, mean - half)), float(min(1.0, mean + half)))


def _check_confidence(confidence: float) -> None:
    check_number("confidence", confidence, "confidence=0.95")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be in (0, 1); write 0.95, not 95")
