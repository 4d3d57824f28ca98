"""Exercises of notebook 05: the bound on a probability, and the certified radius."""

from collections.abc import Callable
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from rvlib.course.exercises.exercise import Exercise, Solution
from rvlib.experiments import ALPHA
from rvlib.smoothing.statistics import largest_radius, lower_confidence_bound, wilson

# --- The bound ------------------------------------------------------------------------------------

Bound = Callable[[int, int, float], float]


def _bound(k: int, n: int, alpha: float) -> float:
    return float(lower_confidence_bound(k, n, alpha))


def _wald(k: int, n: int, alpha: float) -> float:
    return float(k / n - norm.isf(alpha) * sqrt(k / n * (1 - k / n) / n))


def _quantile(a: float, b: float) -> Bound:
    """Make the quantile of Beta(k + a, n - k + b)."""
    return lambda k, n, alpha: float(beta.ppf(alpha, k + a, n - k + b))


check_lower_bound = Exercise(
    signature="my_lower_bound(k, n, alpha)",
    task="the `alpha` quantile of a Beta(k, n - k + 1) distribution.",
    cases=[(8, 10, 0.05), (95, 100, 0.001), (60, 100, 0.01), (100, 100, 0.001)],
    answers=[_bound],
    mistakes=[
        "This is the *share* k/n: the true probability lies below it in about half of all samples.",
        lambda k, n, alpha: k / n,
        "This is the *two-sided* bound, with `alpha / 2`: the radius needs only the lower one.",
        lambda k, n, alpha: _bound(k, n, alpha / 2),
        "This is the *upper* bound: a certificate needs the lower one.",
        lambda k, n, alpha: _quantile(1, 0)(k, n, 1 - alpha),
        lambda k, n, alpha: 1 - _bound(n - k, n, alpha),
        "This is the quantile at 1 - `alpha`: the lower bound is the one at `alpha`.",
        lambda k, n, alpha: _quantile(0, 1)(k, n, 1 - alpha),
        "This is the share minus standard errors (Wald), an approximation that fails where it "
        "matters: at k = n it claims probability 1. Clopper-Pearson is exact.",
        _wald,
        lambda k, n, alpha: _wald(k, n, alpha / 2),
        "This is Wilson's bound, an approximation: that of Clopper-Pearson holds for every p.",
        lambda k, n, alpha: wilson(k, n, 1 - 2 * alpha).low,
        lambda k, n, alpha: wilson(k, n, 1 - alpha).low,
        "This is Hoeffding's bound: valid, but lower than the exact one of Clopper-Pearson.",
        lambda k, n, alpha: k / n - sqrt(log(1 / alpha) / (2 * n)),
        "This is a Bayesian bound: it is higher, and for some p wrong more often than `alpha`.",
        _quantile(1, 1),
        _quantile(0.5, 0.5),
        "A parameter is off by one: use Beta(k, n - k + 1).",
        _quantile(1, 0),
        _quantile(0, 0),
    ],
    special={"Without a vote for the class (k = 0) the bound is 0.": (0, 10, 0.05)},
    fact=f"If all n votes agree, the bound is alpha^(1/n): with 100 votes and alpha = {ALPHA} it "
    f"is {_bound(100, 100, ALPHA):.3f}, however good the network.",
)

# --- The radius -----------------------------------------------------------------------------------

Votes = NDArray[np.int64]


def _radius(
    formula: Callable[[float, float], float] = lambda p, sigma: sigma * norm.ppf(p),
    bound: Bound = _bound,
    sample: Callable[[Votes, Votes], Votes] = lambda counts0, counts: counts,
) -> Solution:
    """Certify with another formula, bound or sample, where the bound is above one half."""

    def radius(counts0: Votes, counts: Votes, alpha: float, sigma: float) -> float:
        votes = sample(counts0, counts)
        p = bound(int(votes[counts0.argmax()]), int(votes.sum()), alpha)
        return float(formula(p, sigma)) if p > 0.5 else 0.0

    return radius


def _votes(counts0: list[int], counts: list[int], *rest: float) -> tuple[Votes | float, ...]:
    return np.array(counts0), np.array(counts), *rest


check_radius = Exercise(
    signature="my_radius(counts0, counts, alpha, sigma)",
    task="`sigma` · Φ⁻¹(p), or 0 if p is not above one half: p is the lower bound from `counts` on "
    "the probability of the class that leads in `counts0`.",
    cases=[
        _votes([10, 88, 2], [60, 920, 20], 0.001, 0.25),
        _votes([70, 25, 5], [800, 100, 100], 0.01, 0.5),
        _votes([0, 0, 100], [1, 0, 99], 0.05, 0.12),
    ],
    answers=[_radius()],
    mistakes=[
        "This takes the share of votes, which may exceed the probability: use the *lower bound*.",
        _radius(bound=lambda k, n, alpha: k / n),
        "The bound comes from `counts0`, which chose the class and so favours it: use `counts`.",
        _radius(sample=lambda counts0, counts: counts0),
        "This pools `counts0` and `counts`: votes that chose the class must not bound it.",
        _radius(sample=lambda counts0, counts: counts0 + counts),
        "`sigma` is missing: this radius is in standard deviations of the noise.",
        _radius(lambda p, sigma: norm.ppf(p)),
        "`sigma` is *squared*: the radius is proportional to `sigma`.",
        _radius(lambda p, sigma: sigma**2 * norm.ppf(p)),
        "This *divides* by `sigma`: the radius is proportional to `sigma`.",
        _radius(lambda p, sigma: norm.ppf(p) / sigma),
        "This is Φ, `norm.cdf`, which maps a radius to a probability: use Φ⁻¹, `norm.ppf`.",
        _radius(lambda p, sigma: sigma * norm.cdf(p)),
        "This is the density φ, `norm.pdf`: use Φ⁻¹, `norm.ppf`.",
        _radius(lambda p, sigma: sigma * norm.pdf(p)),
        "The sign is wrong: Φ⁻¹(1 - p) = -Φ⁻¹(p).",
        _radius(lambda p, sigma: -sigma * norm.ppf(p)),
        "This bound is *two-sided*, with `alpha / 2`: the radius needs only the lower one.",
        _radius(bound=lambda k, n, alpha: _bound(k, n, alpha / 2)),
        "This is the bound on the *probability*: the radius is `sigma` · Φ⁻¹ of it.",
        _radius(lambda p, sigma: p),
    ],
    special={
        "Where the bound is not above one half nothing is certified: return 0.": _votes(
            [52, 40, 8], [505, 395, 100], 0.001, 0.25
        ),
        "The class was chosen by `counts`, the votes that then bound it: choose by `counts0`.": (
            _votes([40, 45, 15], [700, 250, 50], 0.001, 0.25)
        ),
    },
    fact=f"With 100,000 votes and alpha = {ALPHA} no radius exceeds "
    f"{largest_radius(100_000, ALPHA, 1.0):.2f} `sigma`: not only the network limits the radius, "
    "but also the number of votes.",
)
