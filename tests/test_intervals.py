"""rvlib.intervals: Wilson's interval against SciPy's, and the range of another run."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rvlib.intervals import another_run, wilson


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize("n", [1, 20, 1024])
def test_it_is_scipys_interval_for_every_count(n, confidence):
    for k in range(n + 1):
        expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
        low, high = wilson(k, n, confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 3, 20, 1024, 10_000])
def test_it_holds_the_share_and_stays_within_the_unit_interval(n):
    for k in range(0, n + 1, max(1, n // 20)):
        interval = wilson(k, n)
        assert 0 <= interval.low <= k / n + 1e-15
        assert k / n - 1e-15 <= interval.high <= 1
        assert interval.low < interval.high


@pytest.mark.parametrize("n", [1, 3, 7, 20, 64, 128, 1000, 1024, 10_000])
def test_none_and_all_reach_the_ends_exactly(n):
    assert wilson(0, n).low == 0
    assert wilson(n, n).high == 1


def test_none_and_all_mirror_each_other():
    none, every = wilson(0, 20), wilson(20, 20)
    assert none.high == pytest.approx(1 - every.low)
    assert 0.1 < none.high < 0.2


def test_a_share_seen_more_often_is_known_better():
    widths = [(i := wilson(n // 2, n)).high - i.low for n in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    # 1.96 * sqrt(0.25 / 10^4) on either side.
    assert widths[-1] == pytest.approx(2 * 0.0098, rel=1e-3)


@pytest.mark.parametrize(
    ("k", "n", "words"),
    [
        (-1, 10, "^correct=-1 must be a whole number >= 0$"),
        (11, 10, "^correct=11 of n=10: need 0 <= correct <= n$"),
        (0, 0, "^n=0 must be a whole number >= 1$"),
        (0, -5, "^n=-5 must be"),
    ],
)
def test_impossible_counts_are_refused(k, n, words):
    with pytest.raises(ValueError, match=words) as caught:
        wilson(k, n)
    assert "\n" not in str(caught.value)


# --- another run ----------------------------------------------------------------------------------


def run_of(rng, n, p, spread):
    """Accuracy of a training run: its own probability, then a sample of images."""
    return rng.binomial(n, np.clip(rng.normal(p, spread), 0, 1)) / n


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.05])
@pytest.mark.parametrize(("seeds", "p"), [(3, 0.5), (5, 0.5), (5, 0.05)])
def test_another_run_falls_into_its_range(seeds, p, spread):
    rng, times, n = np.random.default_rng(0), 2000, 1024
    inside = 0
    for _ in range(times):
        # The seeds of one experiment share their images: one sampling error for all of them.
        shift = run_of(rng, n, p, 0) - p
        shares = np.clip(rng.normal(p, spread, seeds) + shift, 0, 1)
        low, high = another_run(shares, n)
        inside += low <= run_of(rng, n, p, spread) <= high
    # 95 % with a deviation of 0.5 % from 2000 repetitions; a little more where both parts count.
    assert 0.93 <= inside / times <= 0.995


def test_without_spread_it_is_the_difference_of_two_samples():
    low, high = another_run([0.5, 0.5], 1024)
    assert high - 0.5 == pytest.approx(1.959964 * (2 * 0.25 / 1024) ** 0.5)
    assert (low + high) / 2 == pytest.approx(0.5)


def test_with_very_many_images_it_is_students_prediction_interval():
    shares = [0.50, 0.52, 0.51]
    low, high = another_run(shares, 10**12)
    assert high - 0.51 == pytest.approx(4.302653 * 0.01 * (4 / 3) ** 0.5)
    assert (low + high) / 2 == pytest.approx(0.51)


def test_its_ends_stay_in_the_unit_interval():
    assert another_run([0.0, 0.01], 100).low == 0
    assert another_run([1.0, 0.99], 100).high == 1


@pytest.mark.parametrize("shares", [[], [0.5]])
def test_one_seed_says_nothing_about_another(shares):
    with pytest.raises(ValueError, match=f"^{len(shares)} training seed: .* at least two$"):
        another_run(shares, 1024)
