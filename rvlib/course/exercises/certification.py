"""Exercises of notebook 05: the bound on a probability, and the certified radius."""

from collections.abc import Callable
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from rvlib.course.calls import Solution
from rvlib.course.exercises.exercise import Exercise, Part, within
from rvlib.course.exercises.solutions import my_lower_bound
from rvlib.experiments import ALPHA
from rvlib.smoothing.statistics import largest_radius, wilson

# --- The bound ------------------------------------------------------------------------------------

Bound = Callable[[int, int, float], float]


def _wald(k: int, n: int, alpha: float) -> float:
    return float(k / n - norm.isf(alpha) * sqrt(k / n * (1 - k / n) / n))


def _quantile(
    a: float = 0, b: float = 1, level: Callable[[float], float] = lambda alpha: alpha
) -> Bound:
    """Make a quantile of Beta(k + a, n - k + b)."""
    return lambda k, n, alpha: float(beta.ppf(level(alpha), k + a, n - k + b))


def _below_share(result: float, k: int, n: int, alpha: float) -> str:
    return within(result, k / n, f"a lower bound lies between 0 and the share {k / n:.4g}")


def _more_votes(rng: np.random.Generator) -> list[tuple[int, int, float]]:
    pairs = [(int(rng.integers(10, 500)), float(alpha)) for alpha in rng.uniform(0.001, 0.1, 8)]
    return [(int(rng.integers(1, n)), n, alpha) for n, alpha in pairs] + [(0, 20, 0.01)]


check_lower_bound = Exercise(
    signature="my_lower_bound(k, n, alpha)",
    task="the `alpha` quantile of a Beta(k, n - k + 1) distribution.",
    cases=[(8, 10, 0.05), (95, 100, 0.001), (60, 100, 0.01), (100, 100, 0.001)],
    mistakes=[
        "This is the *share* k/n: the true probability lies below it in about half of all samples.",
        lambda k, n, alpha: k / n,
        "This is the *two-sided* bound, with `alpha / 2`: the radius needs only the lower one.",
        Part("This is the *two-sided* bound, with `alpha / 2`.", level=lambda alpha: alpha / 2),
        "This is the *upper* bound: a certificate needs the lower one.",
        _quantile(1, 0, lambda alpha: 1 - alpha),
        lambda k, n, alpha: 1 - my_lower_bound(n - k, n, alpha),
        "This is the quantile at 1 - `alpha`: the lower bound is the one at `alpha`.",
        Part("This is the quantile at 1 - `alpha`.", level=lambda alpha: 1 - alpha),
        "This is 0, or nearly: `beta.pdf` and `beta.cdf` are something else, the quantile is "
        "`beta.ppf`.",
        lambda k, n, alpha: float(beta.cdf(alpha, k, n - k + 1)),
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
        "The parameters are *swapped*: this bounds the share of the other n - k votes. Use "
        "Beta(k, n - k + 1).",
        lambda k, n, alpha: float(beta.ppf(alpha, n - k + 1, k)),
        lambda k, n, alpha: float(beta.ppf(alpha, n - k, k + 1)),
        "A parameter is off by one: use Beta(k, n - k + 1).",
        _quantile(1, 0),
        Part("The second parameter is off by one: use Beta(k, n - k + 1).", b=0),
    ],
    make=lambda **parts: [_quantile(**parts)],
    laws=[_below_share],
    more=_more_votes,
    special={"Without a vote for the class (k = 0) the bound is 0.": (0, 10, 0.05)},
    fact=f"If all n votes agree, the bound is alpha^(1/n): with 100 votes and alpha = {ALPHA} it "
    f"is {my_lower_bound(100, 100, ALPHA):.3f}, however good the network.",
)

# --- The radius -----------------------------------------------------------------------------------

Votes = NDArray[np.int64]


def _radius(
    formula: Callable[[float, float], float] = lambda p, sigma: sigma * norm.ppf(p),
    bound: Bound = my_lower_bound,
    sample: Callable[[Votes, Votes], tuple[Votes, Votes]] = lambda counts0, counts: (
        counts,
        counts,
    ),
) -> Solution:
    """Certify with another formula, bound or samples of k and n, where it is above one half."""

    def radius(counts0: Votes, counts: Votes, alpha: float, sigma: float) -> float:
        ks, ns = sample(counts0, counts)
        p = bound(int(ks[counts0.argmax()]), int(ns.sum()), alpha)
        return float(formula(p, sigma)) if p > 0.5 else 0.0

    return radius


def _upper(k: int, n: int, alpha: float) -> float:
    return 1 - my_lower_bound(n - k, n, alpha)


def _two_classes(
    bound: Bound = my_lower_bound, upper: Bound = _upper
) -> Callable[[Votes, Votes, float, float], float]:
    """Take the half difference of the quantiles of the leader and the runner-up."""

    def radius(counts0: Votes, counts: Votes, alpha: float, sigma: float) -> float:
        leader = counts0.argmax()
        second = np.delete(counts, leader).max()
        n = int(counts.sum())
        low, high = bound(int(counts[leader]), n, alpha), upper(int(second), n, alpha)
        return max(0.0, float(sigma / 2 * (norm.ppf(low) - norm.ppf(high))))

    return radius


TWO_SIDED = _quantile(level=lambda alpha: alpha / 2)


def _share(k: int, n: int, alpha: float) -> float:
    return k / n


def _at_most_of_shares(result: float, *case: Any) -> str:
    counts0, counts, _, sigma = case
    share = counts[counts0.argmax()] / counts.sum()
    most = max(0.0, float(sigma * norm.ppf(share)))
    words = f"a radius lies between 0 and {most:.4g}, that of the share of votes itself"
    return within(result, most, words)


def _more_samples(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    cases = []
    for p in rng.uniform(0.45, 0.99, 8):
        shares = rng.permutation([p, 0.7 * (1 - p), 0.3 * (1 - p)])
        counts0, counts = rng.multinomial(100, shares), rng.multinomial(2000, shares)
        cases.append((counts0, counts, float(rng.uniform(0.001, 0.05)), float(rng.uniform(0.1, 1))))
    return cases


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
    mistakes=[
        "This takes the share of votes, which may exceed the probability: use the *lower bound*.",
        Part("This takes the share of votes, not its *lower bound*.", bound=_share),
        "The bound comes from `counts0`, which chose the class and so favours it: use `counts`.",
        Part(
            "The bound comes from `counts0`, which chose the class.", sample=lambda c0, c: (c0, c0)
        ),
        "This pools `counts0` and `counts`: votes that chose the class must not bound it.",
        Part(
            "This pools `counts0` and `counts`.",
            sample=lambda c0, c: (c0 + c, c0 + c),
        ),
        "`sigma` is missing: this radius is in standard deviations of the noise.",
        Part("`sigma` is missing.", formula=lambda p, sigma: norm.ppf(p)),
        "`sigma` is *squared*: the radius is proportional to `sigma`.",
        Part("`sigma` is *squared*.", formula=lambda p, sigma: sigma**2 * norm.ppf(p)),
        "This *divides* by `sigma`: the radius is proportional to `sigma`.",
        Part("This *divides* by `sigma`.", formula=lambda p, sigma: norm.ppf(p) / sigma),
        "This is Φ, `norm.cdf`, which maps a radius to a probability: use Φ⁻¹, `norm.ppf`.",
        Part("This is Φ, `norm.cdf`.", formula=lambda p, sigma: sigma * norm.cdf(p)),
        "This is the density φ, `norm.pdf`: use Φ⁻¹, `norm.ppf`.",
        _radius(lambda p, sigma: sigma * norm.pdf(p)),
        "The sign is wrong: Φ⁻¹(1 - p) = -Φ⁻¹(p).",
        _radius(lambda p, sigma: -sigma * norm.ppf(p)),
        "This bound is *two-sided*, with `alpha / 2`: the radius needs only the lower one.",
        Part("This bound is *two-sided*.", bound=TWO_SIDED),
        "This is the radius with *two* classes: both bounds must hold at once, which costs alpha "
        "twice. Bound the leader alone, Φ⁻¹(p), and the runner-up by 1 - p.",
        _two_classes(),
        _two_classes(TWO_SIDED, lambda k, n, alpha: _upper(k, n, alpha / 2)),
        _two_classes(bound=_share, upper=_share),
        _two_classes(upper=_share),
        "This bound is the quantile at 1 - `alpha`: the lower bound is the one at `alpha`.",
        _radius(bound=_quantile(level=lambda alpha: 1 - alpha)),
        "k and n come from different votes: take both from `counts`.",
        _radius(bound=_quantile(), sample=lambda c0, c: (c0, c)),
        _radius(bound=_quantile(), sample=lambda c0, c: (c, c0)),
        "No radius is certified. Is it Beta(k, n - k + 1), in this order?",
        lambda counts0, counts, alpha, sigma: 0.0,
        "This is *half* the radius: where p_B is bounded by 1 - p_A the two halves are equal.",
        _radius(lambda p, sigma: sigma * norm.ppf(p) / 2),
        "This is the bound on the *probability*: the radius is `sigma` · Φ⁻¹ of it.",
        _radius(lambda p, sigma: p),
    ],
    make=lambda **parts: [_radius(**parts)],
    laws=[_at_most_of_shares],
    more=_more_samples,
    special={
        "Where the bound is not above one half nothing is certified: return 0.": _votes(
            [52, 40, 8], [505, 395, 100], 0.001, 0.25
        ),
        "The class was chosen by `counts`, the votes that then bound it: choose by `counts0`.": (
            _votes([40, 45, 15], [700, 250, 50], 0.001, 0.25)
        ),
        "Without a vote for the class in `counts` (k = 0) its bound is 0, and so is the radius.": (
            _votes([40, 35, 25], [0, 700, 300], 0.001, 0.25)
        ),
    },
    fact=f"With 100,000 votes and alpha = {ALPHA} no radius exceeds "
    f"{largest_radius(100_000, ALPHA, 1.0):.2f} `sigma`: not only the network limits the radius, "
    "but also the number of votes.",
)
