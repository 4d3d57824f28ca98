"""rvlib.smoothing.statistics: against SciPy's own tests, exact fractions and simulated truth."""

import math
from fractions import Fraction
from functools import partial

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
RUNS = 10_000


def exact_bound(k, n, alpha):
    return binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low


def at_most(alpha, runs=RUNS):
    """Most failures among the runs; more happen by chance in one of ten thousand seeds."""
    return int(binom.isf(1e-4, runs, alpha))


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


@many
@given(st.integers(1, 10**6), st.floats(1e-9, 0.999))
def test_bound_of_all_votes_and_of_none(n, alpha):
    # P(Bin(n, p) >= n) = p^n = alpha.
    assert float(lower_confidence_bound(n, n, alpha)) == pytest.approx(alpha ** (1 / n), rel=1e-9)
    assert float(lower_confidence_bound(0, n, alpha)) == 0


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), ([5, 11], [10, 10]), (math.nan, 10)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        lower_confidence_bound(k, n, 0.001)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        log_e_value(k, n, 0.5)


@pytest.mark.parametrize("alpha", [0, 1, -0.001, 1.5, math.nan])
def test_alpha_outside_the_unit_interval_is_refused_everywhere(alpha):
    calls = [
        lambda: lower_confidence_bound(5, 10, alpha),
        lambda: vote([[100, 0]], alpha),
        lambda: certificate([[100, 0]], [[100, 0]], alpha, 0.25),
        lambda: largest_radius(100, alpha, 0.25),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^alpha=[^\n]+$"):
            call()


def test_radius_of_a_half_space_is_its_distance():
    margins = np.linspace(0, 5, 51)  # in units of sigma
    for sigma in (0.12, 1.0):
        radius = certified_radius(norm.cdf(margins), sigma)
        assert radius == pytest.approx(sigma * margins, abs=1e-9)
    assert certified_radius([0.0, 0.3, 0.5], 0.25).tolist() == [0, 0, 0]
    for p, sigma in ((1.1, 0.25), (-0.1, 0.25), (math.nan, 0.25), (0.9, 0.0), (0.9, math.nan)):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            certified_radius(p, sigma)


@pytest.mark.parametrize(("n", "cap"), [(100, 1.50), (1000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_no_certificate_exceeds_the_cap(n, cap):
    assert largest_radius(n, 0.001, 1.0) == pytest.approx(cap, abs=0.005)
    assert largest_radius(n, 0.001, 0.25) == pytest.approx(cap * 0.25, abs=0.002)
    best = certificate([[100, 0]], [[n, 0]], 0.001, 1.0).radius[0]
    assert best == pytest.approx(largest_radius(n, 0.001, 1.0), rel=1e-12)


# --- the vote ------------------------------------------------------------------------------------

rows = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.integers(0, 3000), min_size=k, max_size=k).filter(lambda r: sum(r) > 10)
)
close = st.tuples(st.integers(100, 1000), st.integers(0, 200)).map(lambda t: [t[0], t[0] + t[1]])


@many
@given(st.one_of(rows, close), st.sampled_from([0.001, 0.05]))
def test_vote_is_the_two_sided_binomial_test_of_the_two_largest(counts, alpha):
    n_b, n_a = sorted(counts)[-2:]
    called = binomtest(n_a, n_a + n_b, 0.5).pvalue <= alpha
    assert vote([counts], alpha).tolist() == [int(np.argmax(counts)) if called else ABSTAIN]


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
    rng = np.random.default_rng(0)
    top = min(np.iinfo(kind).max, 30_000)
    counts = rng.integers(0, top, (500, 3)) + [[top // 2 - 60, 0, 0]] * 500
    counts = np.clip(counts, 20, top)
    small = counts.astype(kind)
    assert np.array_equal(vote(small, 0.001), vote(counts, 0.001))
    ours, exact = certificate(small, small, 0.05, 0.25), certificate(counts, counts, 0.05, 0.25)
    assert np.array_equal(np.array(ours), np.array(exact))
    assert np.array_equal(
        lower_confidence_bound(small[:, 0], small[:, 0], 0.05),
        lower_confidence_bound(counts[:, 0], counts[:, 0], 0.05),
    )
    assert vote(np.array([[30_000, 5_000]], np.int16), 0.001).tolist() == [0]


@pytest.mark.parametrize("p", [0.5, 0.52])
def test_the_vote_is_wrong_in_at_most_alpha(p):
    answers = vote(two_classes(np.random.default_rng(2).binomial(1000, p, RUNS), 1000), 0.05)
    # At one half there is no right answer: all that do not abstain are called by chance.
    wrong = (answers != ABSTAIN) if p == 0.5 else answers == 1
    assert wrong.sum() <= at_most(0.05)


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


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [100, 1000, 100_000])
@pytest.mark.parametrize("p", [0.5, 0.51, 0.7, 0.95, 0.999])
def test_at_most_alpha_of_the_certificates_are_false(p, n, alpha):
    # A half-space at distance m answers rightly with probability p = Phi(m / sigma).
    rng = np.random.default_rng(0)
    selection = two_classes(rng.binomial(100, p, RUNS), 100)
    found = certificate(selection, two_classes(rng.binomial(n, p, RUNS), n), alpha, 0.25)
    true_radius = 0.25 * norm.ppf(p)
    # Class 1 is the wrong answer: no radius of it is true.
    false = np.where(found.prediction == 0, found.radius > true_radius, found.radius > 0)
    assert false.sum() <= at_most(alpha)
    if n * (1 - p) > 100 and p > 0.5:
        assert false.sum() > 0.3 * alpha * RUNS - 5  # the bound is not idle


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


@pytest.mark.parametrize(
    "counts", [[100, 0], [[100]], [[90.0, 10.0]], [[[90, 10]]], [[-1, 100]], [[True, False]]]
)
def test_what_is_not_counts_is_refused(counts):
    for call in (
        lambda: vote(counts, 0.001),
        lambda: certificate([[90, 10]], counts, 0.001, 0.25),
        lambda: certificate(counts, [[90, 10]], 0.001, 0.25),
    ):
        with pytest.raises(ValueError, match=r"^counts"):
            call()


def test_certificates_need_a_selection_for_each_image():
    for selection in ([[0, 0]], [[9, 1], [9, 1]], [[9, 1, 0]]):
        with pytest.raises(ValueError, match=r"^counts0"):
            certificate(selection, [[90, 10]], 0.001, 0.25)


# --- the e-value ---------------------------------------------------------------------------------


priors = pytest.mark.parametrize("prior", [1.0, 0.5, 2.5])


@priors
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


def test_one_vote_under_jeffreys_weights_by_hand():
    # The mean of the arcsine law above one half is 1/2 + 1/pi.
    assert log_e_value(1, 1, 0.5, prior=0.5) == pytest.approx(math.log(1 + 2 / math.pi))
    assert log_e_value(0, 1, 0.5, prior=0.5) == pytest.approx(math.log(1 - 2 / math.pi))
    with pytest.raises(ValueError, match=r"^prior=0 must be"):
        log_e_value(1, 1, 0.5, prior=0)


@many
@given(st.floats(0.01, 0.99), st.integers(0, 200), st.sampled_from([1.0, 0.5]))
def test_its_expectation_is_one_at_p0_and_less_below(p0, n, prior):
    k = np.arange(n + 1)
    log_e = log_e_value(k, n, p0, prior=prior)
    assert np.exp(binom.logpmf(k, n, p0) + log_e).sum() == pytest.approx(1, abs=1e-8)
    assert np.exp(binom.logpmf(k, n, 0.9 * p0) + log_e).sum() <= 1 + 1e-8


def least(n, p0, alpha, log_e=log_e_value):
    """The least number of successes that is enough, by bisection."""
    low, high = np.zeros_like(n), n + 1  # not enough; enough, or impossible
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = log_e(np.minimum(middle, n), n, p0) >= math.log(1 / alpha)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


@pytest.mark.parametrize("prior", [1.0, 0.5])
@pytest.mark.parametrize("p0", [0.5, 0.84, 0.99])
def test_the_worst_stopping_rule_is_wrong_no_more_often_than_alpha(p0, prior):
    # Stop as soon as it looks good, looking after every vote, the truth at the very edge.
    alpha, rng, n = 0.05, np.random.default_rng(0), np.arange(1, 1001)
    enough = least(n, p0, alpha, partial(log_e_value, prior=prior))
    wrong = sum(
        int(((rng.random((1000, 1000)) < p0).cumsum(1) >= enough).any(1).sum()) for _ in range(10)
    )
    assert 0 < wrong <= at_most(alpha)


@pytest.mark.parametrize("p0", [0.0, 1.0, math.nan])
def test_p0_outside_is_refused(p0):
    with pytest.raises(ValueError, match=r"^p0="):
        log_e_value(1, 2, p0)


# --- shares and intervals ------------------------------------------------------------------------


def test_radii_of_right_answers_alone():
    found = Certificates(np.array([3, 1, ABSTAIN, 2]), np.array([0.5, 0.7, 0.0, 0.25]))
    radii = correct_radii(found, [3, 2, ABSTAIN, 2])
    assert radii.tolist() == [0.5, -1, -1, 0.25]
    assert certified_accuracy(radii, [0, 0.25, 0.3, 0.5, 0.6]).tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    assert certified_accuracy(radii, 0.5).tolist() == [0.25]
    assert average_certified_radius(radii) == 0.1875
    for call in (
        lambda: correct_radii(found, [1]),
        lambda: certified_accuracy(radii, -0.1),
        lambda: certified_accuracy(radii, math.nan),
        lambda: certified_accuracy([], 0.5),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            call()


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


@pytest.mark.parametrize(("p", "n"), [(0.02, 256), (0.5, 200)])
def test_wilson_covers_the_truth(p, n):
    k = np.arange(n + 1)
    k = k[binom.pmf(k, n, p) > 1e-6]
    inside = [low <= p <= high for low, high in (wilson(int(i), n) for i in k)]
    assert 0.93 < binom.pmf(k, n, p)[inside].sum() < 0.97


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_of_no_share_is_refused(k, n):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        wilson(k, n)


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


def test_prediction_interval_by_hand():
    # Seeds alone (n huge): 0.56 +- t_{2, 0.975} * 0.01 * sqrt(1 + 1/3).
    low, high = prediction_interval([0.55, 0.56, 0.57], 10**12)
    assert (high - low) / 2 == pytest.approx(4.302653 * 0.01 * math.sqrt(4 / 3), rel=1e-5)
    # At one half t_2 is 0.816497.
    low, high = prediction_interval([0.55, 0.56, 0.57], 10**12, confidence=0.5)
    assert (high - low) / 2 == pytest.approx(0.816497 * 0.01 * math.sqrt(4 / 3), rel=1e-5)
    low, high = prediction_interval([0.55, 0.56, 0.57], 10**12, confidence=0.2)
    assert (high - low) / 2 == pytest.approx(0.288675 * 0.01 * math.sqrt(4 / 3), rel=1e-5)
    # Images alone: no spread between seeds.
    low, high = prediction_interval([0.5, 0.5], 1000)
    assert (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(2 * 0.25 / 1000), rel=1e-5)
    for shares in ([0.5], [], [56, 57], [0.5, math.nan]):
        with pytest.raises(ValueError, match=r"^shares="):
            prediction_interval(shares, 100)


def test_a_prior_without_weight_above_the_probability_is_refused():
    with pytest.raises(ValueError, match="prior=100"):
        log_e_value(999_900, 1_000_000, 0.9999, prior=100.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: correct_radii(Certificates(*np.array([[1], [1]])), ["1"]), TypeError, "labels"),
        (lambda: average_certified_radius([]), ValueError, "no images"),
        (lambda: prediction_interval([0.5, 0.6], 0), ValueError, "n=0"),
        (lambda: prediction_interval([0.5, 0.6], 100, 1.5), ValueError, "confidence=1.5"),
        (lambda: log_e_value(3, 10, 1e-20, larger=False), ValueError, "p0=1e-20 must"),
    ],
)
def test_what_has_no_answer_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
