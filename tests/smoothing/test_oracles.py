"""Ten thousand certifications of half-spaces, for which p_A and the true radius are known.

A half-space at distance m answers rightly under noise with probability Phi(m / sigma): its votes
are binomial, and its true radius is m.  So the law of every method's certificates can be simulated
exactly, without a network.
"""

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import nn

from rvlib.smoothing import ABSTAIN, certificate, certify_at, sequential, vote
from rvlib.smoothing.certificate import lower_confidence_bound

RUNS = 10_000
SIGMA = 0.25


def at_most(alpha):
    """Most failures among the runs; more happen by chance in one of ten thousand seeds."""
    return int(binom.isf(1e-4, RUNS, alpha))


def two_classes(k, n):
    return np.stack([k, n - k], axis=1)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [100, 1000, 100_000])
@pytest.mark.parametrize("p", [0.5, 0.51, 0.7, 0.95, 0.999])
def test_fixed_n_certifies_beyond_the_true_radius_in_at_most_alpha(p, n, alpha):
    rng = np.random.default_rng(0)
    selection = two_classes(rng.binomial(100, p, RUNS), 100)
    votes = two_classes(rng.binomial(n, p, RUNS), n)
    found = certificate(selection, votes, alpha, SIGMA)
    true_radius = SIGMA * norm.ppf(p)
    # Class 1 is the wrong answer, at a half-space of 50 %: no radius of it is true.
    false = np.where(found.prediction == 0, found.radius > true_radius, found.radius > 0)
    assert false.sum() <= at_most(alpha)
    if n * (1 - p) > 100 and p > 0.5:
        assert false.sum() > 0.3 * alpha * RUNS - 5  # the bound is not idle


def test_votes_that_select_and_judge_certify_too_much():
    """The same runs see a planted fault: one sample for both."""
    rng = np.random.default_rng(0)
    votes = two_classes(rng.binomial(100, 0.5, RUNS), 100)
    found = certificate(votes, votes, 0.05, SIGMA)
    assert (found.radius > 0).sum() > at_most(0.05)


class Chances(nn.Module):
    """Stands for half-spaces: its parameter is where their images' chances are kept."""


@pytest.fixture
def simulated(monkeypatch):
    """Votes of images whose first pixel is the chance of class 0."""
    rng = np.random.default_rng(1)

    def sample(model, *, x, sigma, n, **options):
        k = torch.from_numpy(rng.binomial(n, x[:, 0, 0, 0].numpy()))
        return torch.stack([k, n - k], dim=1)

    monkeypatch.setattr(sequential, "sample_under_noise", sample)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.99])
def test_stopping_when_it_looks_good_certifies_falsely_in_at_most_alpha(simulated, p, alpha):
    # The radius is a hair beyond the true one, where being wrong is easiest.
    radius = SIGMA * norm.ppf(p) + 1e-9
    x = torch.full((RUNS, 1, 1, 1), p, dtype=torch.float64)
    found = certify_at(Chances(), x, radius, SIGMA, alpha=alpha, most=5000)
    # Whatever the class: the right one is not certain that far, and the wrong one nowhere.
    false = found.certified.sum()
    assert false <= at_most(alpha)
    # Giving up early leaves most of alpha unused, but some of ten thousand do slip through.
    assert alpha < 0.01 or false > 0


def test_well_inside_it_certifies_nearly_all(simulated):
    x = torch.full((RUNS, 1, 1, 1), 0.9, dtype=torch.float64)
    found = certify_at(Chances(), x, SIGMA * norm.ppf(0.7), SIGMA, most=5000)
    assert found.certified.mean() > 0.98
    assert found.votes.mean() < 600


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_bound_is_scipys_for_every_count(n, alpha):
    ours = lower_confidence_bound(np.arange(n + 1), n, alpha)
    for k in range(n + 1):
        exact = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
        assert abs(ours[k] - exact) < 1e-12


@pytest.mark.parametrize("k", [0, 1, 2, 50_000, 99_998, 99_999, 100_000])
def test_the_bound_is_scipys_at_the_ends(k):
    exact = binomtest(k, 100_000, alternative="greater").proportion_ci(0.999, "exact").low
    assert abs(lower_confidence_bound(k, 100_000, 0.001) - exact) < 1e-12


@pytest.mark.parametrize("n", [11, 100, 1000])
def test_abstention_is_scipys_binomtest(n):
    for k in range(n // 2 + 1, n + 1):
        wanted = 0 if binomtest(k, n, 0.5).pvalue <= 0.001 else ABSTAIN
        assert vote([[k, n - k]], 0.001)[0] == wanted


@pytest.mark.parametrize("p", [0.5, 0.52])
def test_the_vote_is_wrong_in_at_most_alpha(p):
    rng = np.random.default_rng(2)
    answers = vote(two_classes(rng.binomial(1000, p, RUNS), 1000), 0.05)
    # At one half there is no right answer: all that do not abstain are called by chance.
    wrong = answers != ABSTAIN if p == 0.5 else answers == 1
    assert wrong.sum() <= at_most(0.05)
