"""Notebook 05's exercises: how probable at least, and how far at least."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.intervals import wilson
from rvlib.recipes import ALPHA
from rvlib.smoothing import certificate, largest_radius, lower_confidence_bound

# --- The bound ------------------------------------------------------------------------------------

Bound = Callable[[int, int, float], float]


def _bound(k: int, n: int, alpha: float) -> float:
    return float(lower_confidence_bound(k, n, alpha))


def _plain(k: int, n: int, alpha: float) -> float:
    """Wald's: the share minus so many standard errors."""
    share = k / n
    return float(share - norm.isf(alpha) * (share * (1 - share) / n) ** 0.5)


def _hoeffding(k: int, n: int, alpha: float) -> float:
    return float(k / n - (np.log(1 / alpha) / (2 * n)) ** 0.5)


def _quantile(level: Callable[[float], float], a: float, b: float) -> Bound:
    """Make the quantile of Beta(k + a, n - k + b)."""
    return lambda k, n, alpha: float(beta.ppf(level(alpha), k + a, n - k + b))


BOUND = Exercise(
    "my_lower_bound(k, n, alpha)",
    "return the `alpha` quantile of a Beta(k, n - k + 1) distribution.",
    lambda: [
        Case((8, 10, 0.05)),
        Case((95, 100, 0.001)),
        Case((60, 100, 0.01)),
        Case((100, 100, 0.001)),
        Case((0, 10, 0.05), "Where no vote agrees nothing is bounded, and Beta(0, ...) is none."),
    ],
    [_bound],
    {
        "This is the share k/n itself: the true probability lies below it in about half of all "
        "samples, and `alpha` asks for much less.": [lambda k, n, alpha: k / n],
        "This is the *two-sided* bound, with `alpha / 2`: valid, but the radius needs no upper "
        "end, so all of `alpha` may be spent on the lower one.": [
            lambda k, n, alpha: _bound(k, n, alpha / 2)
        ],
        "This is the *upper* bound: a promise needs the lower one.": [
            _quantile(lambda alpha: 1 - alpha, 1, 0),
            lambda k, n, alpha: 1 - _bound(n - k, n, alpha),
        ],
        "This is the quantile at 1 - `alpha`, above the share k/n: the lower bound is at "
        "`alpha`.": [_quantile(lambda alpha: 1 - alpha, 0, 1)],
        "This is the share minus some standard errors, an approximation that fails where it "
        "matters: at k = n it promises probability 1. Clopper-Pearson is exact.": [
            _plain,
            lambda k, n, alpha: _plain(k, n, alpha / 2),
        ],
        "This is Wilson's interval, an approximation: fine to show an accuracy, but no guarantee. "
        "Clopper-Pearson errs at most `alpha` of the time, for every p.": [
            lambda k, n, alpha: wilson(k, n, 1 - 2 * alpha).low,
            lambda k, n, alpha: wilson(k, n, 1 - alpha).low,
        ],
        "This is Hoeffding's bound: valid, but it knows nothing of the binomial distribution and "
        "gives much away. Of all valid bounds that grow with k Clopper-Pearson's is the largest.": [
            _hoeffding
        ],
        "This is a Bayesian's bound, from Beta(k + 1, n - k + 1) or with 1/2 for 1: it lies higher "
        "than Clopper-Pearson's, and for some p it errs more often than `alpha`.": [
            _quantile(lambda alpha: alpha, 1, 1),
            _quantile(lambda alpha: alpha, 0.5, 0.5),
        ],
        "The parameters are one off: Beta(k, n - k + 1) belongs to P(Bin(n, p) ≥ k) = alpha.": [
            _quantile(lambda alpha: alpha, 1, 0),
            lambda k, n, alpha: float(beta.ppf(alpha, k, max(n - k, 1e-9))),
        ],
    },
    f"If all n votes agree the bound is alpha^(1/n): with 100 votes and alpha = {ALPHA} that is "
    f"{_bound(100, 100, ALPHA):.3f}, and however good the network, 100 votes promise no more.",
)


def check_lower_bound(student: Any) -> None:
    """Say what is wrong with a student's Clopper-Pearson bound, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_lower_bound(k, n, alpha)`` returns the one-sided lower bound.
    """
    BOUND.check(student)


# --- The radius -----------------------------------------------------------------------------------

Votes = NDArray[np.int64]


def _radius(counts0: Votes, counts: Votes, alpha: float, sigma: float) -> float:
    return float(certificate(counts0[None], counts[None], alpha, sigma).radius[0])


def _far(
    counts0: Votes,
    counts: Votes,
    alpha: float,
    sigma: float,
    *,
    bound: Bound = _bound,
    radius: Callable[[float, float], float] = lambda p, sigma: sigma * norm.ppf(p),
) -> float:
    """Make the radius with another bound or another formula, and no care for one half."""
    k = int(counts[counts0.argmax()])
    return float(radius(bound(k, int(counts.sum()), alpha), sigma))


def _estimated_on(which: Callable[[Votes, Votes], Votes]) -> Callable[..., float]:
    """Make the radius that estimates on other votes than `counts`."""
    return lambda counts0, counts, alpha, sigma: _far(counts0, which(counts0, counts), alpha, sigma)


RADIUS = Exercise(
    "my_radius(counts0, counts, alpha, sigma)",
    "choose the class on `counts0`, bound its probability on `counts`, and return "
    "`sigma` · Φ⁻¹(bound), or 0 where the bound is not above one half.",
    lambda: [
        Case((np.array([10, 88, 2]), np.array([60, 920, 20]), 0.001, 0.25)),
        Case((np.array([70, 25, 5]), np.array([800, 100, 100]), 0.01, 0.5)),
        Case((np.array([0, 0, 100]), np.array([1, 0, 99]), 0.05, 0.12)),
        Case(
            (np.array([52, 40, 8]), np.array([505, 395, 100]), 0.001, 0.25),
            "Where the bound is not above one half nothing is certified: the radius is 0, never "
            "negative.",
        ),
        Case(
            (np.array([40, 45, 15]), np.array([700, 250, 50]), 0.001, 0.25),
            "The class was chosen on `counts`, the very votes that then judge it, and is judged "
            "too well: choose on `counts0`.",
        ),
    ],
    [_radius],
    {
        "This takes the share of votes for the probability. The share may lie above the truth; put "
        "the *lower bound* into the formula, or the promise is none.": [
            partial(_far, bound=lambda k, n, alpha: k / n),
        ],
        "This estimates on `counts0`, the votes that chose the class: a class that won a vote "
        "looks better in that vote than it is. Estimate on `counts`, which played no part.": [
            _estimated_on(lambda counts0, counts: counts0),
        ],
        "This pools `counts0` and `counts`: the votes that chose the class must not judge it.": [
            _estimated_on(lambda counts0, counts: counts0 + counts),
        ],
        "`sigma` is missing: the radius is measured in standard deviations of the noise.": [
            partial(_far, radius=lambda p, sigma: norm.ppf(p)),
        ],
        "The noise enters squared: the radius is proportional to `sigma` itself.": [
            partial(_far, radius=lambda p, sigma: sigma**2 * norm.ppf(p)),
        ],
        "This divides by `sigma`; the radius *grows* with the noise, in proportion.": [
            partial(_far, radius=lambda p, sigma: norm.ppf(p) / sigma),
        ],
        "This is Φ, `norm.cdf`, which turns a radius into a probability: the way back is Φ⁻¹, "
        "`norm.ppf`.": [partial(_far, radius=lambda p, sigma: sigma * norm.cdf(p))],
        "This is the density φ, `norm.pdf`: Φ⁻¹ is `norm.ppf`.": [
            partial(_far, radius=lambda p, sigma: sigma * norm.pdf(p)),
        ],
        "The sign is wrong: Φ⁻¹(1 - p) = -Φ⁻¹(p).": [
            partial(_far, radius=lambda p, sigma: -sigma * norm.ppf(p)),
        ],
        "This bound is *two-sided*, with `alpha / 2`: the radius needs no upper end, so all of "
        "`alpha` may be spent on the lower one.": [
            partial(_far, bound=lambda k, n, alpha: _bound(k, n, alpha / 2)),
        ],
        "This is the bound on the probability: the radius is `sigma` · Φ⁻¹ of it.": [
            partial(_far, radius=lambda p, sigma: p),
        ],
    },
    f"With 100,000 votes and alpha = {ALPHA} no radius is longer than "
    f"{largest_radius(100_000, ALPHA, 1.0):.2f} `sigma`: the number of votes limits "
    "the promise, not only the network.",
)


def check_radius(student: Any) -> None:
    """Say what is wrong with a student's certified radius, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_radius(counts0, counts, alpha, sigma)`` returns a radius, 0 where nothing is certified.
    """
    RADIUS.check(student)
