"""rvlib.smoothing.certify: on half-spaces, where probability and distance are known."""

import math
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

from rvlib.smoothing import ABSTAIN, certify, certify_at, log_e_value, predict, sample_under_noise

SIGMA = 0.25
RNG = np.random.default_rng(0)
module = sys.modules["rvlib.smoothing.certify"]  # its name is hidden by the function


class HalfSpace(nn.Module):
    """Class 1 above the line x_1 + x_2 = 1 of two pixels, class 0 below.

    Under noise the margin m becomes m + N(0, sigma^2), so p_A = Phi(|m| / sigma), and the radius
    of the theorem is the true distance |m|: no certificate may exceed it.
    """

    calls = 0

    def forward(self, x):
        self.calls += 1
        margin = x.flatten(1).sum(1) - 1
        return torch.stack([-margin, margin], dim=1)


def images_at(margins):
    """Images (B, 1, 1, 2) at these signed distances from the line."""
    pixel = 0.5 + torch.as_tensor(margins, dtype=torch.float64) / math.sqrt(2)
    return pixel.view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous()


def apart(algorithm, margins, **options):
    """Run an algorithm on images under noise of their own."""
    ids = range(len(margins))
    return algorithm(HalfSpace(), images_at(margins), SIGMA, image_ids=ids, **options)


def at_most(alpha, runs):
    """Most failures among the runs; more happen by chance in one of ten thousand seeds."""
    return int(binom.isf(1e-4, runs, alpha))


def test_at_most_alpha_of_the_certificates_are_false():
    margins, alpha = RNG.uniform(-0.6, 0.6, 300), 0.05
    answers, radius = apart(certify, margins, n=500, alpha=alpha)
    false = (radius > np.abs(margins)) | ((radius > 0) & (answers != (margins > 0)))
    # Clopper-Pearson wastes little of alpha, so nearly 15 false ones are expected; a radius from
    # the share itself, without a bound, would give about 150.
    assert 5 <= false.sum() <= at_most(alpha, 300)
    assert ((radius > 0) == (answers != ABSTAIN)).all()


def test_the_sample_that_selects_does_not_judge():
    # On the line p_A = 1/2, and every certificate is false.  Clopper-Pearson lets 20 of 30 pass:
    # 4.9 % of independent samples.  A class selected on the very votes that then judge it could
    # pass on either side: 9.9 %, beyond the limit here.
    runs, alpha = 1600, 0.05
    limit = at_most(alpha, runs)
    assert limit < binom.ppf(1e-4, runs, 2 * binom.sf(19, 30, 0.5))
    answers, _ = apart(certify, np.full(runs, 1e-6), n0=30, n=30, alpha=alpha)
    assert (answers != ABSTAIN).sum() <= limit


def test_three_samples_are_drawn_for_three_purposes(monkeypatch):
    samples = []

    def recording(model, x, sigma, n, **options):
        samples.append((n, options["purpose"]))
        return sample_under_noise(model, x, sigma, min(n, 100), **options)

    monkeypatch.setattr(module, "sample_under_noise", recording)
    certify(HalfSpace(), images_at([0.1]), SIGMA)
    predict(HalfSpace(), images_at([0.1]), SIGMA)
    # The defaults are those of the paper.
    assert samples == [(100, "selection"), (100_000, "estimation"), (1000, "prediction")]


@pytest.mark.parametrize("algorithm", [predict, certify])
def test_options_reach_the_noise(algorithm):
    x = (images_at(RNG.uniform(-0.1, 0.1, 40)) * 255).round() / 255
    options = {"n": 150, "alpha": 0.05}

    def run(**more):
        return np.array(algorithm(HalfSpace(), x, SIGMA, **options, **more))

    plain = run()
    assert np.array_equal(run(batch_size=30), plain)
    assert np.array_equal(run(seed=0, noise="gaussian"), plain)
    for other in ({"seed": 1}, {"image_ids": range(40)}, {"noise": "grid"}):
        assert not np.array_equal(run(**other), plain)


@pytest.mark.parametrize("algorithm", [predict, certify])
def test_too_few_votes_are_refused_before_any_work(algorithm):
    model = HalfSpace()
    with pytest.raises(ValueError, match=r"^n=200 .*n >= 201$"):
        algorithm(model, images_at([0.1]), SIGMA, n=200, alpha=2.0**-200)
    assert model.calls == 0


# --- one radius, as few votes as it takes --------------------------------------------------------


def test_false_certificates_over_many_images():
    # At the very edge every certificate is false.
    runs, alpha = 400, 0.05
    found = certify_at(
        *(HalfSpace(), images_at(np.full(runs, 0.2)), 0.2, SIGMA),
        n_max=300,
        alpha=alpha,
        image_ids=range(runs),
    )
    assert 0 < found.certified.sum() <= at_most(alpha, runs)


@pytest.mark.parametrize(("radius", "n0"), [(0.0, 100), (0.2, 100), (0.0, 1)])
def test_the_votes_are_one_growing_sample(radius, n0):
    """The same, slowly: each image alone, each look at a sample drawn from the start."""
    # One vote selects the wrong class of some images, which leads no more after a hundred.
    x, n_max = images_at([0, 0.005, -0.005, 0.1, -0.1, 0.15, 0.25, 0.3, -0.28]), 650
    found = certify_at(HalfSpace(), x, radius, SIGMA, n0=n0, n_max=n_max, alpha=0.05)
    evidence = partial(log_e_value, p0=norm.cdf(radius / SIGMA), prior=0.5)
    looks = [100, 200, 300, 400, 500, 600, 650]
    selection = sample_under_noise(HalfSpace(), x, SIGMA, n0, purpose="selection").argmax(1)
    assert found.prediction.tolist() == selection.tolist()
    for i, chosen in enumerate(selection.tolist()):
        certified = False
        for n in looks:
            votes = sample_under_noise(HalfSpace(), x[i : i + 1], SIGMA, n, purpose="sequential")
            k = int(votes[0, chosen])
            certified = bool(evidence(k, n) >= math.log(1 / 0.05))
            if certified or evidence(k, n, larger=False) >= math.log(100):
                break
        assert (found.certified[i], found.votes[i]) == (certified, n0 + n)


def test_wrong_selections_take_no_votes():
    x = images_at([0.45, 0.45])
    found = certify_at(HalfSpace(), x, 0.1, SIGMA, labels=torch.tensor([1, 0]))
    assert found.certified.tolist() == [True, False]
    assert found.votes[1] == 100
    without = certify_at(HalfSpace(), x, 0.1, SIGMA)
    assert without.certified.tolist() == [True, True]
    assert without.votes[0] == found.votes[0]


@pytest.mark.parametrize("n_max", [250, 3000])
def test_company_does_not_matter(n_max):
    x = images_at([0.45, 0.25, 0.2, -0.3])
    kinds: list[dict[str, Any]] = [{}, {"image_ids": [5, 0, 3, 9]}]
    for options in kinds:
        together = certify_at(HalfSpace(), x, 0.2, SIGMA, n_max=n_max, **options)
        assert together.votes.max() <= n_max + 100
        for i in range(4):
            ids: dict[str, Any] = {k: [v[i]] for k, v in options.items()}
            alone = certify_at(HalfSpace(), x[i : i + 1], 0.2, SIGMA, n_max=n_max, **ids)
            assert [part[0] for part in alone] == [part[i] for part in together]


def test_the_network_is_checked_once_not_at_every_look():
    model, x = HalfSpace(), images_at([0.2])
    found = certify_at(model, x, 0.2, SIGMA, n_max=1000)
    assert found.votes[0] == 1100  # at the very edge: eleven samples, two checks
    assert model.calls == 11 + 2 + 5  # that votes are independent is checked once, in five passes


@pytest.mark.parametrize(
    "options",
    [
        {"radius": -0.1},
        {"radius": math.nan},
        {"sigma": 0.0},
        {"alpha": 1.5},
        {"radius": 1.0, "n_max": 100},
        {"radius": 1e9},
        {"n_max": 0},
        {"labels": torch.tensor([0, 1])},
        {"image_ids": range(9)},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        certify_at(HalfSpace(), images_at([0.1]), **({"radius": 0.1, "sigma": SIGMA} | options))
