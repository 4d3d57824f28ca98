"""rvlib.intervals: Wilson's interval against SciPy's."""

import pytest
from scipy.stats import binomtest

from rvlib.intervals import wilson


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


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0), (0, -5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match=rf"^{k} of {n}: need 0 <= correct <= n") as caught:
        wilson(k, n)
    assert "\n" not in str(caught.value)
