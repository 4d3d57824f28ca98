"""rvlib.evaluation.certified: what certificates promise about the whole set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvlib.evaluation import average_certified_radius, certified_accuracy, correct_radii
from rvlib.smoothing import ABSTAIN
from rvlib.smoothing.certificate import Certificates

# Right, wrong, abstained, right with another radius.
CERTIFICATES = Certificates(np.array([3, 4, ABSTAIN, 0]), np.array([0.5, 0.9, 0.0, 0.2]))
LABELS = [3, 5, 1, 0]
some_radii = st.lists(st.just(-1.0) | st.floats(0, 4), min_size=1, max_size=20).map(np.array)
certified = settings(max_examples=50, deadline=None)


def test_only_right_answers_have_a_radius():
    assert correct_radii(CERTIFICATES, LABELS).tolist() == [0.5, -1, -1, 0.2]


def test_an_abstention_is_never_right():
    radii = correct_radii(CERTIFICATES, [ABSTAIN] * 4)
    assert radii.tolist() == [-1] * 4


def test_shares_known_by_heart():
    radii = correct_radii(CERTIFICATES, LABELS)
    shares = certified_accuracy(radii, [0, 0.2, np.nextafter(0.2, 1), 0.5, 0.51])
    assert shares.tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    assert certified_accuracy(radii, 0.5).tolist() == [0.25]


@certified
@given(some_radii)
def test_certified_accuracy_never_rises_with_the_radius(radii):
    shares = certified_accuracy(radii, np.linspace(0, 4.1, 42).tolist())
    assert np.all(np.diff(shares) <= 0)
    assert shares[0] == (radii >= 0).mean()
    assert shares[-1] == 0


@certified
@given(some_radii)
def test_the_average_radius_is_the_area_under_the_curve(radii):
    ends = np.unique([0, *radii[radii > 0]])
    area = sum(np.diff(ends) * certified_accuracy(radii, ends[1:].tolist()))
    assert average_certified_radius(radii) == pytest.approx(area, abs=1e-12)


def test_average_radius_known_by_heart():
    radii = correct_radii(CERTIFICATES, LABELS)
    assert average_certified_radius(radii) == pytest.approx(0.175)  # (0.5 + 0 + 0 + 0.2) / 4
