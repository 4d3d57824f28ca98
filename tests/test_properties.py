"""Laws that hold for every shape and value: drawn at random, the same ones each time."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import nn

from rvlib.attacks import fgsm, pgd, smoothed_pgd, square, withstands, withstands_sweep
from rvlib.evaluation import average_certified_radius, certified_accuracy, correct_radii
from rvlib.intervals import another_run, wilson
from rvlib.noise import stream
from rvlib.smoothing import (
    ABSTAIN,
    certificate,
    certified_radius,
    evidence,
    largest_radius,
    lower_confidence_bound,
    sample_under_noise,
    vote,
)
from rvlib.smoothing.certificate import smallest_n_to_certify, smallest_n_to_predict
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.types import check_images, check_labels, check_logits, check_stored

torch.set_num_threads(1)
CLASSES = 3

often = settings(derandomize=True, deadline=None, max_examples=25, database=None)
seldom = settings(often, max_examples=10)

shapes = st.tuples(*(st.integers(1, most) for most in (4, 4, 6, 6)))
seeds = st.integers(0, 10**6)
alphas = st.floats(1e-6, 0.5)
sigmas = st.floats(0.01, 2)
balls: Any = st.one_of(
    st.floats(0, 0.5).map(Linf), st.floats(0, 3).map(L2), st.floats(0, 0.5).map(PixelL2)
)
counts = st.lists(st.integers(0, 400), min_size=2, max_size=5).filter(lambda row: sum(row) >= 40)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pixels(shape, seed):
    """Doubles, for rounding must not hide an error; a third of them on the walls of the box."""
    x = 1.5 * torch.rand(shape, generator=seeded(seed), dtype=torch.float64) - 0.25
    return x.clamp(0, 1)


def labels(shape, seed):
    return torch.randint(0, CLASSES, shape[:1], generator=seeded(seed))


def network(shape, seed):
    """Two layers, smooth, for images of any shape."""
    size = math.prod(shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
        return nn.Sequential(*layers).double()


def problem(shape, seed):
    return network(shape, seed), pixels(shape, seed), labels(shape, seed + 1)


ATTACKS: dict[str, Any] = {
    "fgsm": lambda model, x, y, ball, seed: fgsm(model, x, y, ball),
    "pgd": lambda model, x, y, ball, seed: pgd(model, x, y, ball, steps=3, generator=seeded(seed)),
    "pgd from x": lambda model, x, y, ball, seed: pgd(
        model, x, y, ball, steps=3, random_start=False
    ),
    "restarts": lambda model, x, y, ball, seed: pgd(
        model, x, y, ball, steps=2, restarts=3, generator=seeded(seed)
    ),
    "smoothed": lambda model, x, y, ball, seed: smoothed_pgd(
        model, x, y, ball, sigma=0.25, draws=3, steps=2, generator=seeded(seed)
    ),
    "square": lambda model, x, y, ball, seed: square(
        model, x, y, Linf(min(ball.eps, 1)), queries=5, generator=seeded(seed)
    ),
}
STILL = ("fgsm", "pgd from x")


# ---- balls ------------------------------------------------------------------------------------


@often
@given(balls, shapes, seeds, st.floats(0, 100))
def test_a_projection_is_in_the_ball_once_and_for_all(ball, shape, seed, scale):
    delta = scale * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    once = ball.project(delta)
    assert (ball.norm(once) <= ball.eps * (1 + 1e-12)).all()
    torch.testing.assert_close(ball.project(once), once, rtol=1e-12, atol=0)
    inside = ball.norm(delta) <= ball.eps
    assert torch.equal(once[inside], delta[inside])


@often
@given(balls, shapes, seeds)
def test_steepest_is_dual_and_of_length_one(ball, shape, seed):
    grad = torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    direction, unit = ball.steepest(grad), type(ball)(1.0)
    torch.testing.assert_close(ball.norm(direction), torch.ones(shape[0]).double())
    reached = (direction * grad).sum((1, 2, 3))
    other = unit.sample(grad, seeded(seed + 1))
    assert ((other * grad).sum((1, 2, 3)) <= reached + 1e-12).all()
    # Of the report's three balls Linf holds PixelL2's, whose reach is at least that of L2.
    reach = [(n(1.0).steepest(grad) * grad).sum((1, 2, 3)) for n in (Linf, PixelL2, L2)]
    assert (reach[0] >= reach[1] - 1e-9).all()
    assert (reach[1] >= reach[2] - 1e-9).all()


@often
@given(balls, shapes, seeds)
def test_norms_are_norms(ball, shape, seed):
    a, b = torch.randn((2, *shape), generator=seeded(seed), dtype=torch.float64)
    assert (ball.norm(a + b) <= ball.norm(a) + ball.norm(b) + 1e-12).all()
    torch.testing.assert_close(ball.norm(-2.5 * a), 2.5 * ball.norm(a))


@often
@given(balls, shapes, seeds)
def test_samples_are_in_the_ball(ball, shape, seed):
    delta = ball.sample(torch.zeros(shape, dtype=torch.float64), seeded(seed))
    assert delta.shape == shape
    assert (ball.norm(delta) <= ball.eps * (1 + 1e-12)).all()


# ---- attacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@seldom
@given(ball=balls, shape=shapes, seed=seeds)
def test_ball_and_box_are_kept(name, ball, shape, seed):
    model, x, y = problem(shape, seed)
    x_adv = ATTACKS[name](model, x, y, ball, seed)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert (ball.norm(x_adv - x) <= ball.eps + 1e-12).all() or name == "square"
    assert (x_adv - x).abs().max() <= ball.eps + 1e-12
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("name", STILL)
@seldom
@given(ball=balls, shape=shapes, seed=seeds)
def test_neither_company_nor_order_matters(name, ball, shape, seed):
    model, x, y = problem(shape, seed)
    whole = ATTACKS[name](model, x, y, ball, seed)
    order = torch.randperm(len(x), generator=seeded(seed))
    torch.testing.assert_close(ATTACKS[name](model, x[order], y[order], ball, seed), whole[order])
    torch.testing.assert_close(ATTACKS[name](model, x[:1], y[:1], ball, seed), whole[:1])


@seldom
@given(shape=shapes, seed=seeds, first=st.floats(0, 0.2), more=st.floats(0, 0.2))
def test_who_falls_in_a_ball_has_fallen_in_a_larger_one(shape, seed, first, more):
    model, x, y = problem(shape, seed)
    sweep = [Linf(0.0), Linf(first), Linf(first + more)]
    stands = withstands_sweep(model, x, y, sweep, steps=2, generator=seeded(seed))
    assert torch.equal(stands[0], model(x).argmax(1) == y)
    assert (stands[:-1] | ~stands[1:]).all()


@seldom
@given(ball=balls, shape=shapes, seed=seeds)
def test_every_iterate_counts_so_no_more_stand_than_at_the_end(ball, shape, seed):
    model, x, y = problem(shape, seed)
    stands = withstands(model, x, y, ball, steps=3, random_start=False)
    x_adv = pgd(model, x, y, ball, steps=3, random_start=False)
    assert (~stands | (model(x_adv).argmax(1) == y)).all()


# ---- votes ------------------------------------------------------------------------------------


@seldom
@given(shape=shapes, seed=seeds, sigma=sigmas, hundreds=st.integers(1, 4))
def test_votes_sum_to_n_and_are_each_images_own(shape, seed, sigma, hundreds):
    model, x, _ = problem(shape, seed)
    whole = sample_under_noise(model, x, sigma, 100 * hundreds, seed=seed)
    assert whole.shape == (len(x), CLASSES)
    assert (whole >= 0).all()
    assert whole.sum(1).tolist() == [100 * hundreds] * len(x)
    order = torch.randperm(len(x), generator=seeded(seed))
    assert torch.equal(
        sample_under_noise(model, x[order], sigma, 100 * hundreds, seed=seed), whole[order]
    )


# ---- certificates -----------------------------------------------------------------------------


@often
@given(st.integers(1, 10**5), st.data(), alphas)
def test_bounds_rise_with_successes_and_with_risk(n, data, alpha):
    k = data.draw(st.integers(0, n - 1))
    bound, more = lower_confidence_bound([k, k + 1], n, alpha)
    assert 0 <= bound < more <= 1
    assert bound <= k / n
    assert lower_confidence_bound(k, n, min(0.9, 2 * alpha)) >= bound
    if k:
        # What it says: k or more successes have this chance at the bound.
        assert binom.sf(k - 1, n, bound) == pytest.approx(alpha, rel=1e-6)
    # One more trial: a success never lowers the bound, a failure never raises it.
    assert (
        lower_confidence_bound(k + 1, n + 1, alpha)
        >= bound
        >= lower_confidence_bound(k, n + 1, alpha)
    )


@often
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), sigmas)
def test_radii_rise_with_the_probability_and_are_zero_up_to_one_half(p, sigma):
    radii = certified_radius(sorted(p), sigma)
    assert (radii[1:] >= radii[:-1]).all()
    assert ((radii > 0) == (np.array(sorted(p)) > 0.5)).all()
    assert certified_radius(p, 2 * sigma) == pytest.approx(2 * certified_radius(p, sigma))


@often
@given(st.lists(counts, min_size=1, max_size=1), counts, alphas, sigmas)
def test_a_certificate_abstains_exactly_where_the_bound_is_no_majority(one, other, alpha, sigma):
    classes = min(len(one[0]), len(other))
    first, second = [one[0][:classes]], [other[:classes]]
    n = sum(second[0])
    if n < smallest_n_to_certify(alpha):
        with pytest.raises(ValueError, match="can never certify"):
            certificate(first, second, alpha, sigma)
        return
    (answer,), (radius,) = certificate(first, second, alpha, sigma)
    selected = int(np.argmax(first[0]))
    bound = lower_confidence_bound(second[0][selected], n, alpha)
    assert answer == (selected if bound > 0.5 else ABSTAIN)
    assert (radius > 0) == (answer != ABSTAIN)
    assert radius <= largest_radius(n, alpha, sigma) * (1 + 1e-12)
    # A vote more for the selected class never lowers the radius.
    second[0][selected] += 1
    assert certificate(first, second, alpha, sigma).radius[0] >= radius


@often
@given(counts, alphas)
def test_a_vote_abstains_exactly_where_the_test_cannot_tell(row, alpha):
    if sum(row) < smallest_n_to_predict(alpha):
        with pytest.raises(ValueError, match="can never answer"):
            vote([row], alpha)
        return
    n_b, n_a = sorted(row)[-2:]
    p_value = min(1.0, 2 * binom.sf(n_a - 1, n_a + n_b, 0.5))
    (answer,) = vote([row], alpha)
    assert answer == (int(np.argmax(row)) if p_value <= alpha else ABSTAIN)
    # Classes by another name have the same votes; an answer stands at a larger risk.
    (mirrored,) = vote([row[::-1]], alpha)
    if answer != ABSTAIN:
        assert mirrored == len(row) - 1 - answer
        assert vote([row], min(0.9, 2 * alpha))[0] == answer


@often
@given(alphas, alphas)
def test_less_risk_takes_more_votes(a, b):
    low, high = sorted((a, b))
    for fewest in (smallest_n_to_certify, smallest_n_to_predict):
        assert fewest(low) >= fewest(high) >= 1


@often
@given(st.integers(1, 3000), st.data(), st.floats(0.05, 0.95))
def test_evidence_rises_with_successes_and_has_a_mirror(n, data, p0):
    k = data.draw(st.integers(0, n - 1))
    less, more = evidence([k, k + 1], n, p0)
    # Far below 0 SciPy's tail of the beta distribution is inexact; no decision is made there.
    if less > -2:
        assert more > less
    mirrored = evidence(n - k, n, 1 - p0, larger=False)
    assert mirrored == pytest.approx(float(less), abs=1e-6)


@often
@given(st.integers(1, 40), st.floats(0.1, 0.9))
def test_evidence_is_a_fair_game(n, p0):
    """At the border itself another vote is expected to change nothing: a martingale."""
    expected = sum(binom.pmf(k, n, p0) * math.exp(evidence(k, n, p0)) for k in range(n + 1))
    assert expected == pytest.approx(1, rel=1e-9)


# ---- what certificates say of a set -----------------------------------------------------------

answers = st.lists(
    st.tuples(st.integers(-1, 2), st.floats(0, 4), st.integers(0, 2)), min_size=1, max_size=20
)


@often
@given(answers, st.lists(st.floats(0, 5), min_size=2, max_size=6))
def test_certified_accuracy_is_a_share_that_falls(rows, at):
    prediction, radius, truth = (np.array(column) for column in zip(*rows, strict=True))
    from rvlib.smoothing.certificate import Certificates

    radii = correct_radii(Certificates(prediction, radius), truth)
    assert ((radii == -1) == (prediction != truth)).all()
    shares = certified_accuracy(radii, sorted(at))
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares[1:] <= shares[:-1]).all()
    assert certified_accuracy(radii, 0.0)[0] == (prediction == truth).mean()
    assert certified_accuracy(radii[::-1], sorted(at)).tolist() == shares.tolist()
    assert 0 <= average_certified_radius(radii) <= radius.max() + 1e-12


# ---- intervals --------------------------------------------------------------------------------


@often
@given(st.integers(1, 10**6), st.data(), st.floats(0.5, 0.999))
def test_intervals_hold_the_share_and_grow_with_confidence(n, data, confidence):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n, confidence)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    wider = wilson(k, n, (1 + confidence) / 2)
    assert wider.low <= low + 1e-12
    assert wider.high >= high - 1e-12
    other = wilson(n - k, n, confidence)
    assert (other.low, other.high) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@often
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(1, 10**5))
def test_another_run_is_expected_around_the_mean_of_those_before(shares, n):
    low, high = another_run(shares, n)
    mean = sum(shares) / len(shares)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    fewer = another_run(shares, max(1, n // 2))
    assert fewer.low <= low + 1e-12
    assert fewer.high >= high - 1e-12


@often
@given(shapes, seeds, st.floats(0, 1), st.integers(1, 40), st.floats(0.001, 1))
def test_squares_of_any_area_help_or_do_nothing(shape, seed, eps, queries, area):
    model, x, y = problem(shape, seed)
    found = square(model, x, y, Linf(eps), queries=queries, area=area, generator=seeded(seed))

    def margins(images):
        answers = model(images).detach()
        return answers.gather(1, y[:, None])[:, 0] - answers.scatter(1, y[:, None], -math.inf).amax(
            1
        )

    assert ((found - x).abs() <= eps + 1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert (margins(found) <= margins(x) + 1e-12).all()


# ---- streams and types ------------------------------------------------------------------------


@often
@given(st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), min_size=1, max_size=4))
def test_an_address_is_a_stream_and_every_part_of_it_counts(address):
    def draws(*words):
        return torch.rand(4, generator=stream("cpu", *words), dtype=torch.float64)

    assert torch.equal(draws(*address), draws(*address))
    others = [address[:-1], [*address, 0], [*address[:-1], repr(address[-1])]]
    for one, other in itertools.combinations([address, *others], 2):
        if [*map(repr, one)] != [*map(repr, other)]:
            assert not torch.equal(draws(*one), draws(*other))


@often
@given(shapes, seeds, st.sampled_from([torch.float32, torch.float64, torch.float16]))
def test_pixels_pass_and_one_wrong_value_anywhere_does_not(shape, seed, dtype):
    x = pixels(shape, seed).to(dtype)
    check_images(x)
    at = tuple(seed % size for size in shape)
    for wrong in (-0.01, 1.01, math.nan, math.inf, -math.inf):
        spoilt = x.clone()
        spoilt[at] = wrong
        with pytest.raises(ValueError, match="not in"):
            check_images(spoilt)


@often
@given(shapes, seeds)
def test_labels_give_their_largest_and_fit_networks_of_more_classes_only(shape, seed):
    x, y = pixels(shape, seed), labels(shape, seed)
    largest = check_labels(y, x)
    assert largest == y.max()
    assert check_stored((255 * x).byte(), y) == largest
    check_logits(torch.zeros(len(x), max(2, largest + 1)), len(x), largest)
    with pytest.raises(ValueError, match=f"label {largest} is no class|class apart"):
        check_logits(torch.zeros(len(x), largest), len(x), largest)
    with pytest.raises(ValueError, match="for"):
        check_labels(torch.cat([y, y]), x)
