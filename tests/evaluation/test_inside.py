"""rvlib.evaluation.inside: within a true radius nothing changes; beyond it, it does."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from rvlib.evaluation import changed, votes_inside
from rvlib.smoothing import ABSTAIN
from rvlib.smoothing.certificate import Certificates

SIGMA = 0.25


class HalfSpace(nn.Module):
    """Class 1 where the mean of the pixels exceeds one half; an image's distance is known."""

    def __init__(self):
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        margin = self.steepness * (x.flatten(1).mean(1) - 0.5) * x[0].numel() ** 0.5
        return torch.stack([-margin, margin], dim=1)


def at(distances):
    """Images of 12 pixels at these Euclidean distances above the plane."""
    return torch.stack([torch.full((3, 2, 2), 0.5 + d / 12**0.5) for d in distances])


DISTANCES = [0.1, 0.2, 0.3, 0.4]


def certified(factor):
    """Certificates of that many times the true radius."""
    return Certificates(np.ones(4, dtype=np.int64), factor * np.array(DISTANCES))


def votes_with(factor, **options):
    return votes_inside(HalfSpace(), at(DISTANCES), certified(factor), SIGMA, n=2000, **options)


def test_inside_a_true_ball_the_answer_stands():
    answers = certified(1).prediction
    assert (changed(answers, votes_with(0.5), 0.001) == 0).all()
    # Near the edge votes become too close to call, and never more than that.
    assert changed(answers, votes_with(0.99), 0.001).max() <= 1


def test_the_attack_goes_as_far_as_it_may():
    counts = votes_with(1.0, share=0.5)
    # Half of the distance is left: the chance there is known.
    for row, distance in zip(counts, DISTANCES, strict=True):
        p = norm.cdf(0.5 * distance / SIGMA)
        assert abs(row[1] / 2000 - p) < 5 * (p * (1 - p) / 2000) ** 0.5


def test_a_radius_that_is_too_large_is_found_out():
    """The planted fault: radii half as large again as the true ones."""
    counts = votes_with(1.5)
    assert (changed(certified(1).prediction, counts, 0.001) == 2).sum() >= 3


def test_what_is_not_certified_is_not_attacked():
    found = certified(0.9)
    found.prediction[1], found.radius[1] = ABSTAIN, 0
    counts = votes_inside(HalfSpace(), at(DISTANCES), found, SIGMA, n=200)
    assert counts.sum(1).tolist() == [200, 0, 200, 200]


def test_an_image_is_attacked_alike_in_any_company():
    whole = votes_with(0.9)
    part = votes_inside(
        HalfSpace(),
        at(DISTANCES[2:]),
        Certificates(*(np.array(values)[2:] for values in certified(0.9))),
        SIGMA,
        n=2000,
        first_id=2,
    )
    assert torch.equal(part, whole[2:])


@pytest.mark.parametrize(
    ("counts", "expected"), [([0, 1000], 0), ([510, 490], 1), ([490, 510], 1), ([1000, 0], 2)]
)
def test_three_things_can_have_become_of_an_answer(counts, expected):
    assert changed(np.array([1]), torch.tensor([counts]), 0.001).tolist() == [expected]
