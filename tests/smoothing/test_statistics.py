"""rvlib.smoothing.statistics: against SciPy's own tests, exact fractions and simulated truth."""

import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest, norm

from rvlib.smoothing.statistics import (
    ABSTAIN,
    Certificates,
    average_certified_radius,
    certificate,
    certified_accuracy,
    certified_radius,
    correct_radii,
    largest_radius,
    log_e_value,
    lower_confidence_bound,
    prediction_interval,
    smallest_n_to_certify,
    smallest_n_to_predict,
    vote,
    wilson,
)

many = settings(max_examples=60, deadline=None, derandomize=True)
# Powers of two are the awkward ones: there the smallest n sits on the edge of an inequality.
ALPHAS = [2.0**-j for j in range(1, 41)] + [0.001, 0.05, 0.1, 0.3, 1 / 3, 0.7, 0.9, 0.999, 1e-12]


def exact_bound(k, n, alpha):
    return binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low


def two_classes(k, n):
    return np.stack([k, n - k], axis=1)


# --- bound and radius ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(
    ("n", "ks"),
    [
        (100, [*range(0, 101, 9), 100]),
        (1000, [*range(0, 1001, 199), 1000]),
        (100_000, [0, 1, 2, 50_000, 99_998, 99_999, 100_000]),
    ],
)
def test_bound_is_scipys_clopper_pearson(n, ks, alpha):
    ours = lower_confidence_bound(list(ks), n, alpha)
    assert np.abs(ours - [exact_bound(k, n, alpha) for k in ks]).max() < 1e-12


def test_radius_of_a_half_space_is_its_distance():
    margins = np.linspace(0, 5, 51)  # in units of sigma
    for sigma in (0.12, 1.0):
        radius = certified_radius(norm.cdf(margins), sigma)
        assert radius == pytest.approx(sigma * margins, abs=1e-9)
    assert certified_radius([0.0, 0.3, 0.5], 0.25).tolist() == [0, 0, 0]


# --- the vote ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [11, 100, 201])
def test_vote_is_scipys_at_every_count(n):
    k = np.arange(n // 2 + 1, n + 1)
    called = [binomtest(int(i), n, 0.5).pvalue <= 0.001 for i in k]
    assert (vote(two_classes(k, n), 0.001) == 0).tolist() == called


def test_votes_by_hand():
    assert vote([[400, 0]], 1e-100).tolist() == [0]  # 334 are the fewest
    assert ABSTAIN == -1
    # 66 of 100: P(Bin >= 66) = 0.0009 alone would pass at 0.001; twice that does not.
    counts = [[66, 34, 0], [67, 33, 0], [0, 33, 67], [50, 50, 0]]
    assert vote(counts, 0.001).tolist() == [ABSTAIN, 0, 2, ABSTAIN]
    assert vote([[50, 15, 15, 20]], 0.001).tolist() == [0]  # 50 of 70, not 50 of 100
    assert vote([[50, 50]], 0.999).tolist() == [ABSTAIN]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_small_integers_count_as_large_ones(kind):
    top = min(np.iinfo(kind).max, 30_000)
    counts = np.random.default_rng(0).integers(20, top, (500, 3))
    small = counts.astype(kind)
    assert np.array_equal(vote(small, 0.001), vote(counts, 0.001))
    found, exact = (certificate(votes, votes, 0.05, 0.25) for votes in (small, counts))
    assert np.array_equal(np.array(found), np.array(exact))
    one, other = (lower_confidence_bound(k, k, 0.05) for k in (small[:, 0], counts[:, 0]))
    assert np.array_equal(one, other)


# --- the certificate -----------------------------------------------------------------------------


def test_certificate_by_hand():
    counts0 = [[90, 10], [10, 90], [90, 10], [90, 10]]
    counts = [[990, 10], [10, 990], [10, 990], [520, 480]]
    answers, radius = certificate(counts0, counts, 0.001, 0.25)
    r = 0.25 * norm.ppf(exact_bound(990, 1000, 0.001))
    # The third: class 0 is selected, which the estimation does not confirm.
    assert answers.tolist() == [0, 1, ABSTAIN, ABSTAIN]
    assert answers.dtype == np.int64
    assert radius == pytest.approx([r, r, 0, 0], abs=1e-12)
    # The first sample alone selects; all other classes count as one.
    for selection, votes in (([0, 60, 40], [350, 300, 350]), ([50, 25, 25], [500, 250, 250])):
        answers, radius = certificate([selection], [votes], 0.05, 0.25)
        assert (answers.tolist(), radius.tolist()) == ([ABSTAIN], [0])


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_certificate_abstains_exactly_where_the_bound_is_one_half_or_less(alpha):
    k = np.arange(501)
    answers, radius = certificate([[100, 0]] * 501, two_classes(k, 500), alpha, 1.0)
    # The bound exceeds one half exactly if at one half so many votes are rarer than alpha.
    holds = binom.sf(k - 1, 500, 0.5) < alpha
    assert (answers == np.where(holds, 0, ABSTAIN)).all()
    assert ((radius > 0) == holds).all()


@pytest.mark.parametrize("alpha", ALPHAS, ids=str)
def test_the_fewest_votes_are_enough_and_one_less_never_is(alpha):
    exact = Fraction(alpha)
    # All n agree: p-value 2 / 2^n <= alpha; bound alpha^(1/n) > 1/2.
    n = smallest_n_to_predict(alpha)
    assert Fraction(2, 2**n) <= exact < Fraction(2, 2 ** (n - 1))
    assert vote([[n, 0]], alpha).tolist() == [0]
    with pytest.raises(ValueError, match=rf"^n={n - 1} .*n >= {n}$"):
        vote([[n, 0], [n - 1, 0]], alpha)
    n = smallest_n_to_certify(alpha)
    assert Fraction(1, 2**n) < exact
    assert n == 1 or exact <= Fraction(1, 2 ** (n - 1))
    answers, radius = certificate([[1, 0]], [[n, 0]], alpha, 1.0)
    assert answers.tolist() == [0]
    assert radius[0] > 1e-6  # not by rounding
    with pytest.raises(ValueError, match=rf"^n={n - 1} .*n >= {n}$"):
        certificate([[1, 0], [1, 0]], [[n, 0], [n - 1, 0]], alpha, 0.25)


# --- the e-value ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [1.0, 0.5, 2.5])
@pytest.mark.parametrize(("k", "n", "p0"), [(0, 3, 0.2), (7, 10, 0.5), (30, 31, 0.9), (5, 40, 0.7)])
def test_e_value_is_the_mixture(k, n, p0, prior):
    def weight(p):
        return (p * (1 - p)) ** (prior - 1)

    def ratio(p):
        return (p / p0) ** k * ((1 - p) / (1 - p0)) ** (n - k) * weight(p)

    for larger, ends in ((True, (p0, 1)), (False, (0, p0))):
        expected = math.log(quad(ratio, *ends)[0] / quad(weight, *ends)[0])
        assert log_e_value(k, n, p0, larger, prior) == pytest.approx(expected, abs=1e-6)
        if prior == 1:
            assert log_e_value(k, n, p0, larger) == pytest.approx(expected, abs=1e-9)


@many
@given(st.floats(0.05, 0.95), st.integers(0, 100), st.sampled_from([1.0, 0.5]), st.floats(0, 1))
def test_another_vote_raises_no_expectation(p0, n, prior, share):
    """It starts at 1 and is a martingale at p0, falling below: Ville's inequality does the rest."""
    log_e, k = partial(log_e_value, p0=p0, prior=prior), np.arange(n + 1)
    lost, won = (np.exp(log_e(k + vote, n + 1) - log_e(k, n)) for vote in (0, 1))
    assert log_e(0, 0) == 0
    np.testing.assert_allclose(p0 * won + (1 - p0) * lost, 1, rtol=1e-6)
    assert (share * p0 * won + (1 - share * p0) * lost <= 1 + 1e-6).all()


# --- shares and intervals ------------------------------------------------------------------------


def test_radii_of_right_answers_alone():
    found = Certificates(np.array([3, 1, ABSTAIN, 2]), np.array([0.5, 0.7, 0.0, 0.25]))
    radii = correct_radii(found, [3, 2, ABSTAIN, 2])
    assert radii.tolist() == [0.5, -1, -1, 0.25]
    assert certified_accuracy(radii, [0, 0.25, 0.3, 0.5, 0.6]).tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    assert certified_accuracy(radii, 0.5).tolist() == [0.25]
    assert average_certified_radius(radii) == 0.1875


@many
@given(st.integers(0, 500), st.integers(1, 500), st.floats(0.5, 0.999))
def test_wilson_is_where_the_share_lies_z_standard_errors_away(k, n, confidence):
    k = min(k, n)
    z = norm.isf((1 - confidence) / 2)
    for end in wilson(k, n, confidence):
        assert 0 <= end <= 1
        assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-6)
    low, high = wilson(k, n, confidence)
    assert low <= k / n <= high


@pytest.mark.parametrize("m", [2, 3, 5])
def test_prediction_interval_covers_another_run(m):
    # Seeds scatter by 1 %, images by the binomial law; the other run is on other images.
    rng, n, runs = np.random.default_rng(m), 1024, 600
    truth = rng.normal(0.56, 0.01, (runs, m + 1))
    ours = truth[:, :m] + rng.normal(0, math.sqrt(0.56 * 0.44 / n), runs)[:, None]
    other = rng.binomial(n, truth[:, m]) / n
    inside = 0
    for shares, o in zip(ours.tolist(), other, strict=True):
        low, high = prediction_interval(shares, n)
        inside += low <= o <= high
    assert 0.94 < inside / runs < 0.995
    # All seeds agree on none, or on all: another run may still find one or two.
    none, every = prediction_interval([0.0] * m, n), prediction_interval([1.0] * m, n)
    assert (none.low, every.high) == (0, 1)
    assert 1 / n < none.high < 4 / n
    assert 1 - 4 / n < every.low < 1 - 1 / n


@pytest.mark.parametrize(
    ("shares", "n", "confidence", "half"),
    [
        # Seeds alone (n huge): t_2 standard deviations of one more.
        ([0.55, 0.56, 0.57], 10**12, 0.95, 4.302653 * 0.01 * math.sqrt(4 / 3)),
        ([0.55, 0.56, 0.57], 10**12, 0.5, 0.816497 * 0.01 * math.sqrt(4 / 3)),
        ([0.55, 0.56, 0.57], 10**12, 0.2, 0.288675 * 0.01 * math.sqrt(4 / 3)),
        # Images alone: no spread between seeds.
        ([0.5, 0.5], 1000, 0.95, 1.959964 * math.sqrt(2 * 0.25 / 1000)),
    ],
)
def test_prediction_interval_by_hand(shares, n, confidence, half):
    low, high = prediction_interval(shares, n, confidence)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-5)


# --- what has no answer --------------------------------------------------------------------------

NO_COUNTS: Any = [[100, 0], [[100]], [[90.0, 9.0]], [[[90, 10]]], [[-1, 100]], [[True, False]]]
RIGHT: Any = Certificates(np.array([1]), np.array([1.0]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *[
            (partial(call, alpha=alpha), "alpha=")
            for alpha in (0, 1, -0.001, 1.5, math.nan)
            for call in (
                partial(lower_confidence_bound, 5, 10),
                partial(vote, [[100, 0]]),
                partial(certificate, [[100, 0]], [[100, 0]], sigma=0.25),
                partial(largest_radius, 100, sigma=0.25),
            )
        ],
        *[
            (partial(call, k, n), "k=")
            for k, n in ((-1, 10), (11, 10), ([5, 11], [10, 10]), (math.nan, 10))
            for call in (partial(lower_confidence_bound, alpha=0.1), partial(log_e_value, p0=0.5))
        ],
        *[
            (call, "counts")
            for counts in NO_COUNTS
            for call in (
                partial(vote, counts, 0.001),
                partial(certificate, [[90, 10]], counts, 0.001, 0.25),
                partial(certificate, counts, [[90, 10]], 0.001, 0.25),
            )
        ],
        *[
            (partial(certificate, selection, [[90, 10]], 0.001, 0.25), "counts0")
            for selection in ([[0, 0]], [[9, 1], [9, 1]], [[9, 1, 0]])
        ],
        *[(partial(certified_radius, p, 0.25), "p_lower=") for p in (1.1, -0.1, math.nan)],
        *[(partial(certified_radius, 0.9, sigma), "sigma=") for sigma in (0.0, math.nan)],
        *[(partial(log_e_value, 1, 2, p0), "p0=") for p0 in (0.0, 1.0, math.nan)],
        (partial(log_e_value, 3, 10, 1e-20, larger=False), "p0=1e-20 must"),
        (partial(log_e_value, 1, 1, 0.5, prior=0), "prior=0 must be"),
        (partial(log_e_value, 999_900, 1_000_000, 0.9999, prior=100.0), "prior=100"),
        (partial(correct_radii, RIGHT, [1, 1]), "2 labels"),
        (partial(correct_radii, RIGHT, ["1"]), "labels"),
        *[(partial(certified_accuracy, [1.0], r), "radius=") for r in (-0.1, math.nan)],
        (partial(certified_accuracy, [], 0.5), "no images"),
        (partial(average_certified_radius, []), "no images"),
        *[(partial(wilson, k, n), "") for k, n in ((-1, 10), (11, 10), (0, 0))],
        *[
            (partial(prediction_interval, shares, 100), "shares=")
            for shares in ([0.5], [], [56, 57], [0.5, math.nan])
        ],
        (partial(prediction_interval, [0.5, 0.6], 0), "n=0"),
        (partial(prediction_interval, [0.5, 0.6], 100, 1.5), "n=100, confidence=1.5"),
    ],
)
def test_what_has_no_answer_is_named_in_one_line(call, words):
    with pytest.raises((TypeError, ValueError), match=rf"^{words}[^\n]+$"):
        call()
