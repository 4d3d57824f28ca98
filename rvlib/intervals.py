"""Confidence intervals of a share: what an accuracy on n images says about all images."""

import math
from typing import NamedTuple

from scipy.stats import norm


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
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n}: need 0 <= correct <= n and n >= 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be in (0, 1); write 0.95, not 95")
    z = norm.isf((1 - confidence) / 2)
    share = correct / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula gives exactly 0 and 1, but not in floating point.
    low = (middle - half) / scale if correct > 0 else 0.0
    high = (middle + half) / scale if correct < n else 1.0
    return Interval(float(low), float(high))
