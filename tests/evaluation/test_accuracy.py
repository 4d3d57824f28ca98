"""rvlib.evaluation.accuracy: rows with a known answer give a known accuracy."""

import numpy as np
import pytest

from rvlib.evaluation import Accuracy, accuracy, votes
from rvlib.intervals import wilson
from rvlib.rows import Rows


def rows(threat="linf 0.03", **columns):
    """Rows as they are read: text by column."""
    lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    return Rows({"identity": {"attack": {"threat": threat}}}, lines)


def test_predictions_are_compared_with_labels():
    found = accuracy(rows(label="012345", prediction="012999"))
    assert found == Accuracy(n=6, correct=3, abstained=0, threat="linf 0.03")
    assert found.percent == 50
    assert found.answered_only == 50


@pytest.mark.parametrize(
    ("correct", "low", "high"), [(0, 0, 39.03), (3, 18.76, 81.24), (6, 60.97, 100)]
)
def test_the_interval_is_wilsons_in_percent(correct, low, high):
    interval = Accuracy(6, correct, 0, "-").interval
    assert interval == pytest.approx((low, high), abs=0.005)
    assert interval == pytest.approx(tuple(100 * end for end in wilson(correct, 6)))


VOTES = {
    "label": ["0", "0", "1", "0"],
    # Clearly right, clearly wrong, clearly right, leading but too close to call at 0.001.
    "counts": ["99 1 0", "0 0 100", "2 90 8", "62 38 0"],
}


def test_an_abstention_is_an_error():
    found = accuracy(rows(**VOTES))
    assert (found.n, found.correct, found.abstained) == (4, 2, 1)
    assert found.percent == 50
    assert found.answered_only == pytest.approx(200 / 3)


# The two-sided p-value of 62 of 100 is 0.02.
@pytest.mark.parametrize(("alpha", "correct", "abstained"), [(0.01, 2, 1), (0.03, 3, 0)])
def test_votes_are_called_at_alpha(alpha, correct, abstained):
    found = accuracy(rows(**VOTES), alpha)
    assert (found.correct, found.abstained) == (correct, abstained)


def test_who_never_answers_has_no_share_of_answers():
    found = accuracy(rows(label="00", counts=["50 50", "51 49"]))
    assert (found.correct, found.abstained) == (0, 2)
    assert found.percent == 0
    assert found.answered_only is None


def test_empty_cells_are_no_votes():
    read = votes(rows(label="012", counts=["", "3 0 4", ""]), "counts")
    assert read.dtype == np.int64
    assert read.tolist() == [[0, 0, 0], [3, 0, 4], [0, 0, 0]]
