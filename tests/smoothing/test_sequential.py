"""rvlib.smoothing.sequential: no stopping rule fools the evidence; half-spaces know the truth."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import binom, norm
from torch import nn

from rvlib.smoothing import certify_at, evidence, sequential
from rvlib.smoothing.certificate import lower_confidence_bound

SIGMA = 0.5


@pytest.mark.parametrize(("k", "n", "p0"), [(0, 3, 0.2), (7, 10, 0.5), (30, 31, 0.9), (5, 40, 0.7)])
def test_it_is_the_mixture(k, n, p0):
    def ratio(p):
        return (p / p0) ** k * ((1 - p) / (1 - p0)) ** (n - k)

    for larger, ends in ((True, (p0, 1)), (False, (0, p0))):
        integral, _ = quad(ratio, *ends)
        expected = math.log(integral / (ends[1] - ends[0]))
        assert evidence(k, n, p0, larger) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("p0", [0.5, 0.69, 0.9772])
def test_its_expectation_is_one_at_p0(p0):
    n = 60
    k = np.arange(n + 1)
    mean = (binom.pmf(k, n, p0) * np.exp(evidence(k, n, p0))).sum()
    assert mean == pytest.approx(1, abs=1e-9)
    below = (binom.pmf(k, n, p0 - 0.05) * np.exp(evidence(k, n, p0))).sum()
    assert below < 1


@pytest.mark.parametrize("p0", [0.5, 0.84, 0.99])
def test_the_worst_stopping_rule_is_wrong_no_more_often_than_alpha(p0):
    # Stop as soon as it looks good, looking after every single vote, with the truth at the very
    # edge: 10,000 runs of 2,000 votes.  Six standard errors of a share of 10,000 on top of alpha.
    alpha, runs, most = 0.05, 10_000, 2_000
    rng = np.random.default_rng(0)
    n = np.arange(1, most + 1)
    wrong = 0
    for _ in range(10):
        k = (rng.random((runs // 10, most)) < p0).cumsum(1)
        # Evidence rises with k: the least k that is enough at each n is all there is to know.
        wrong += (k >= least(n, p0, alpha)).any(1).sum()
    assert wrong / runs <= alpha + 6 * math.sqrt(alpha / runs)
    assert wrong > 0


def least(n, p0, alpha):
    """The least number of successes that is enough, by bisection."""
    low, high = np.zeros_like(n), n + 1  # not enough; enough, or impossible
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = evidence(np.minimum(middle, n), n, p0) >= math.log(1 / alpha)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def test_a_fixed_bound_would_be_wrong_more_often():
    # The planted fault that the test above must be able to see: Clopper and Pearson's bound,
    # looked at again and again.
    alpha, p0, most = 0.05, 0.84, 2_000
    rng = np.random.default_rng(0)
    n = np.arange(1, most + 1)
    k = (rng.random((300, most)) < p0).cumsum(1)
    wrong = (lower_confidence_bound(k, n[None], alpha) > p0).any(1).mean()
    assert wrong > 3 * alpha


def half_space(margins):
    """A network that answers 1 where the first pixel exceeds one half, and images that far in."""
    layer = nn.Linear(12, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1, 0], layer.bias[1] = 1, -0.5
        layer.bias[0] = 0
    x = torch.full((len(margins), 3, 2, 2), 0.5)
    x[:, 0, 0, 0] += torch.tensor(margins)
    return nn.Sequential(nn.Flatten(), layer), x


def test_half_spaces_are_certified_up_to_their_distance():
    # The certified radius of a point is its distance to the plane.
    model, x = half_space([0.45, 0.3, 0.1, -0.2])
    found = certify_at(model, x, 0.2, SIGMA, most=20_000)
    assert found.certified.tolist() == [True, True, False, False]
    # The last one's class is the other side: it lies at distance 0.2 there, at the very edge.
    assert found.prediction.tolist()[:3] == [1, 1, 1]
    assert found.prediction.tolist()[3] == 0
    # Clear cases are cheap, those near the edge are not.
    assert found.votes[0] < found.votes[1] < 20_000
    assert found.votes[2] < 20_000  # given up early


def test_false_certificates_over_many_seeds():
    # At the very edge every certificate is false: 400 images' worth of seeds at alpha 5 %.
    model, x = half_space([0.2])
    alpha, runs = 0.05, 400
    false = sum(
        int(certify_at(model, x, 0.2, SIGMA, most=2_000, alpha=alpha, seed=s).certified[0])
        for s in range(runs)
    )
    assert false <= binom.isf(1e-4, runs, alpha)


def test_wrong_selections_take_no_votes():
    model, x = half_space([0.45, 0.45])
    found = certify_at(model, x, 0.1, SIGMA, labels=torch.tensor([1, 0]))
    assert found.certified.tolist() == [True, False]
    assert found.votes[1] == 100
    without = certify_at(model, x, 0.1, SIGMA)
    assert without.certified.tolist() == [True, True]
    assert without.votes[0] == found.votes[0]


def test_company_does_not_matter():
    model, x = half_space([0.45, 0.25, 0.2])
    together = certify_at(model, x, 0.2, SIGMA, most=3_000)
    for i in range(3):
        alone = certify_at(model, x[i : i + 1], 0.2, SIGMA, most=3_000)
        assert alone.certified[0] == together.certified[i]
        assert alone.votes[0] == together.votes[i]


def test_looks_come_in_hundreds_and_grow():
    n, looks = 0, []
    while n < 100_000:
        n = sequential._next_look(n)
        looks.append(n)
    assert all(look % 100 == 0 for look in looks)
    assert looks[:4] == [100, 200, 300, 400]
    assert len(looks) < 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": -0.1}, "radius >= 0"),
        ({"radius": float("nan")}, "radius >= 0"),
        ({"sigma": 0.0}, "sigma=0.0 must be positive"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"radius": 2.0, "most": 100}, "can never certify"),
        ({"radius": 1e9}, "can never certify"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    model, x = half_space([0.1])
    arguments = {"radius": 0.1, "sigma": SIGMA, **options}
    with pytest.raises(ValueError, match=words):
        certify_at(model, x, **arguments)


def test_p0_outside_is_refused():
    with pytest.raises(ValueError, match=r"p0=1\.0"):
        evidence(1, 2, 1.0)


def test_the_edge_is_the_probability_of_the_radius():
    # At radius r the class must be more probable than Phi(r / sigma).
    model, x = half_space([0.3])
    p = norm.cdf(0.3 / SIGMA)
    assert evidence(round(p * 10**6), 10**6, float(norm.cdf(0.29 / SIGMA))) > 10
    assert certify_at(model, x, 0.25, SIGMA).certified[0]
