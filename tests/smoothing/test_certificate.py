"""rvlib.smoothing.certificate: the statistics against SciPy's own tests and exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from rvlib.smoothing import (
    ABSTAIN,
    certificate,
    certified_radius,
    largest_radius,
    lower_confidence_bound,
    vote,
)
from rvlib.smoothing.certificate import smallest_n_to_certify, smallest_n_to_predict

# Powers of two are the awkward ones: there the smallest n sits on the edge of an inequality.
ALPHAS = [2.0**-j for j in range(1, 41)] + [0.001, 0.05, 0.1, 0.3, 1 / 3, 0.7, 0.9, 0.999, 1e-12]


def exact_bound(k, n, alpha):
    test = binomtest(k, n, alternative="greater")
    return test.proportion_ci(1 - alpha, method="exact").low


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(
    ("n", "ks"),
    [
        (100, range(101)),
        (1000, [*range(0, 1001, 59), 999, 1000]),
        (100_000, [0, 1, 2, 50_000, 99_998, 99_999, 100_000]),
    ],
    ids=["100", "1000", "100000"],
)
def test_bound_is_that_of_clopper_and_pearson(n, ks, alpha):
    ours = lower_confidence_bound(list(ks), n, alpha)
    assert ours.shape == (len(ks),)
    assert np.abs(ours - [exact_bound(k, n, alpha) for k in ks]).max() < 1e-12


@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.05, 0.5])
@pytest.mark.parametrize("n", [1, 10, 100, 1000, 100_000])
def test_bound_of_all_votes_and_of_none(n, alpha):
    # P(Bin(n, p) >= n) = p^n = alpha.
    assert float(lower_confidence_bound(n, n, alpha)) == pytest.approx(alpha ** (1 / n), rel=1e-12)
    assert float(lower_confidence_bound(0, n, alpha)) == 0


@pytest.mark.parametrize("n", [7, 100, 1000])
def test_bound_rises_with_k_and_stays_below_the_share(n):
    k = np.arange(n + 1)
    bound = lower_confidence_bound(k, n, 0.05)
    assert (np.diff(bound) > 0).all()
    assert (bound[1:] < k[1:] / n).all()
    assert (lower_confidence_bound(k, n, 0.001)[1:] < bound[1:]).all()


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0), ([5, 11], [10, 10])])
def test_bound_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match=r"^k must lie in 0\.\.n") as caught:
        lower_confidence_bound(k, n, 0.001)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [0, 1, -0.001, 1.5, math.nan])
def test_alpha_outside_the_unit_interval_is_refused_everywhere(alpha):
    calls = [
        lambda: lower_confidence_bound(5, 10, alpha),
        lambda: vote([[100, 0]], alpha),
        lambda: certificate([[100, 0]], [[100, 0]], alpha, 0.25),
        lambda: largest_radius(100, alpha, 0.25),
        lambda: smallest_n_to_predict(alpha),
        lambda: smallest_n_to_certify(alpha),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^alpha=.* must be in \(0, 1\)") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_radius_is_sigma_times_the_normal_quantile():
    margins = np.linspace(0, 5, 51)  # distance to a plane, in units of sigma
    for sigma in (0.12, 1.0):
        radius = certified_radius(norm.cdf(margins), sigma)
        assert radius == pytest.approx(sigma * margins, abs=1e-9)
    assert certified_radius([0.0, 0.3, 0.5], 0.25).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("n", "cap"), [(100, 1.50), (1000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_largest_radius(n, cap):
    assert largest_radius(n, 0.001, 1.0) == pytest.approx(cap, abs=0.005)
    assert largest_radius(n, 0.001, 0.25) == pytest.approx(cap * 0.25, abs=0.005 * 0.25)
    best = certificate([[100, 0]], [[n, 0]], 0.001, 1.0).radius[0]
    assert best == pytest.approx(largest_radius(n, 0.001, 1.0), rel=1e-12)


# --- the vote ------------------------------------------------------------------------------------


def random_counts(rng):
    """Rows of counts: ties, narrow and wide margins, many classes."""
    classes, n = int(rng.integers(2, 11)), int(rng.integers(40, 2000))
    kind = rng.integers(3)
    if kind == 0:  # the two first tied
        half = n // 2
        return [half, half] + [0] * (classes - 2)
    if kind == 1:  # about 3 standard deviations apart, where the vote changes its mind
        n_b = int(n / 2 - rng.uniform(0.5, 2.5) * math.sqrt(n))
        return rng.permutation([n - n_b, max(n_b, 0)] + [0] * (classes - 2)).tolist()
    return rng.multinomial(n, rng.dirichlet([0.5] * classes)).tolist()


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_vote_is_the_two_sided_binomial_test_of_the_two_largest(alpha):
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(400):
        counts = random_counts(rng)
        n_b, n_a = sorted(counts)[-2:]
        called = binomtest(n_a, n_a + n_b, 0.5).pvalue <= alpha
        expected = int(np.argmax(counts)) if called else ABSTAIN
        assert vote([counts], alpha).tolist() == [expected], counts
        answered += called
    assert 100 < answered < 350  # both answers are tried


def test_vote_handles_a_batch_row_by_row():
    counts = [[90, 10, 0], [10, 0, 90], [50, 50, 0], [0, 55, 45], [0, 100, 0]]
    answers = vote(counts, 0.001)
    assert answers.dtype == np.int64
    assert answers.tolist() == [0, 2, -1, -1, 1]


def test_vote_is_two_sided():
    # 66 of 100: P(Bin >= 66) = 0.00090 alone would pass at 0.001; twice that does not.
    assert binomtest(66, 100, 0.5, alternative="greater").pvalue < 0.001
    assert vote([[66, 34]], 0.001).tolist() == [ABSTAIN]
    assert vote([[67, 33]], 0.001).tolist() == [0]


def test_vote_compares_with_the_runner_up_not_with_all_others():
    # 50 of 50 + 20 answers; 50 of 100 never would.
    assert vote([[50, 15, 15, 20]], 0.001).tolist() == [0]


def test_abstaining_is_no_class():
    assert ABSTAIN == -1


def test_a_tie_abstains_at_any_alpha():
    assert vote([[50, 50], [500, 500]], 0.999).tolist() == [ABSTAIN, ABSTAIN]


# --- the certificate -----------------------------------------------------------------------------


def test_certificate_by_hand():
    counts0 = [[90, 10], [10, 90], [90, 10], [90, 10]]
    counts = [[990, 10], [10, 990], [10, 990], [520, 480]]
    answers, radius = certificate(counts0, counts, 0.001, 0.25)
    r = 0.25 * norm.ppf(exact_bound(990, 1000, 0.001))
    # The third: selected class 0, which the estimation does not confirm.
    assert answers.tolist() == [0, 1, ABSTAIN, ABSTAIN]
    assert answers.dtype == np.int64
    assert radius == pytest.approx([r, r, 0, 0], abs=1e-12)


def test_certificate_selects_on_the_first_sample_alone():
    # A tie and a swing in the estimation change the radius, never the class.
    answers, radius = certificate([[0, 60, 40]], [[350, 300, 350]], 0.05, 0.25)
    assert (answers.tolist(), radius.tolist()) == ([ABSTAIN], [0])


def test_certificate_counts_the_other_classes_as_one():
    # 500 of 1000 is no majority, however the others split.
    answers, radius = certificate([[50, 25, 25]], [[500, 250, 250]], 0.001, 0.25)
    assert (answers.tolist(), radius.tolist()) == ([ABSTAIN], [0])


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_certificate_abstains_exactly_where_the_bound_is_one_half_or_less(alpha):
    k = np.arange(501)
    counts = np.stack([k, 500 - k], axis=1)
    answers, radius = certificate([[100, 0]] * 501, counts, alpha, 1.0)
    holds = np.array([exact_bound(i, 500, alpha) > 0.5 for i in k.tolist()])
    assert ((answers == 0) == holds).all()
    assert ((radius > 0) == holds).all()
    assert (answers[~holds] == ABSTAIN).all()


# --- the fewest votes ----------------------------------------------------------------------------


def test_the_fewest_votes_at_one_in_a_thousand():
    assert (smallest_n_to_predict(0.001), smallest_n_to_certify(0.001)) == (11, 10)


@pytest.mark.parametrize("alpha", ALPHAS, ids=str)
def test_the_fewest_votes_are_enough_and_one_less_never_is(alpha):
    exact = Fraction(alpha)
    # All n agree: p-value 2 / 2^n <= alpha; bound alpha^(1/n) > 1/2.
    n = smallest_n_to_predict(alpha)
    assert Fraction(2, 2**n) <= exact < Fraction(2, 2 ** (n - 1))
    assert vote([[n, 0]], alpha).tolist() == [0]
    n = smallest_n_to_certify(alpha)
    assert Fraction(1, 2**n) < exact
    assert n == 1 or exact <= Fraction(1, 2 ** (n - 1))
    answers, radius = certificate([[1, 0]], [[n, 0]], alpha, 1.0)
    assert answers.tolist() == [0]
    assert radius[0] > 1e-6  # not by rounding


@pytest.mark.parametrize("alpha", [0.001, 0.05, 2.0**-10])
def test_fewer_votes_are_refused_with_the_number_needed(alpha):
    n = smallest_n_to_predict(alpha)
    with pytest.raises(ValueError, match=rf"^n={n - 1} .*n >= {n}$") as caught:
        vote([[n, 0], [n - 1, 0]], alpha)
    assert "\n" not in str(caught.value)
    n = smallest_n_to_certify(alpha)
    with pytest.raises(ValueError, match=rf"^n={n - 1} .*n >= {n}$") as caught:
        certificate([[100, 0]] * 2, [[n, 0], [n - 1, 0]], alpha, 0.25)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "counts", [[100, 0], [[100]], [[90.0, 10.0]], [[[90, 10]]]], ids=["1-d", "K=1", "float", "3-d"]
)
def test_what_is_not_counts_is_refused(counts):
    with pytest.raises(ValueError, match=r"need \(B, K\) integers$"):
        vote(counts, 0.001)
    with pytest.raises(ValueError, match=r"need \(B, K\) integers$"):
        certificate([[90, 10]], counts, 0.001, 0.25)
