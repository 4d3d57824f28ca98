"""rvlib.threat_models: norm, projection, direction and samples of each ball."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from rvlib.threat_models import L2, Linf, PixelL2

SHAPE = (6, 3, 4, 5)
D = 3 * 4 * 5
BALLS: list[Any] = [Linf, L2, PixelL2]


def normal(seed=0, shape=SHAPE):
    """Deviates in double precision: rounding must not hide an error."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def dual_norm(threat, grad):
    """Largest <v, grad> over the unit ball, image by image, written without steepest."""
    if isinstance(threat, Linf):
        return grad.abs().sum((1, 2, 3))
    if isinstance(threat, L2):
        return grad.square().sum((1, 2, 3)).sqrt()
    return grad.square().sum(1).sqrt().sum((1, 2))


def inner(a, b):
    return (a * b).sum((1, 2, 3))


# ---- properties -----------------------------------------------------------------------------


def test_norm_is_one_an_image_and_homogeneous(threat):
    delta = normal()
    norm = threat.norm(delta)
    assert norm.shape == (6,)
    torch.testing.assert_close(threat.norm(-3 * delta), 3 * norm)
    assert torch.equal(threat.norm(torch.zeros_like(delta)), torch.zeros(6, dtype=torch.float64))


def test_projection_lands_in_the_ball_and_is_idempotent(threat):
    delta = threat.project(normal())
    torch.testing.assert_close(threat.norm(delta), torch.full((6,), threat.eps).double())
    torch.testing.assert_close(threat.project(delta), delta)
    inside = 1e-3 * normal()
    assert torch.equal(threat.project(inside), inside)
    point = dataclasses.replace(threat, eps=0.0)
    assert not point.project(delta).any()
    assert not threat.steepest(torch.zeros(SHAPE)).any()


def test_projection_finds_the_nearest_point(threat):
    """Nearest point p of a convex set: <delta - p, q - p> <= 0 for every q of the set."""
    delta = normal()
    p = threat.project(delta)
    for seed in range(20):
        q = threat.sample(delta, torch.Generator().manual_seed(seed))
        assert (inner(delta - p, q - p) <= 1e-12).all()


def test_images_do_not_influence_each_other(threat):
    delta = normal() * torch.tensor([1e-3, 1, 1e3, 0, 1, 1]).double()[:, None, None, None]
    for verb in (threat.norm, threat.project, threat.steepest):
        alone = torch.cat([verb(delta[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(verb(delta), alone, rtol=1e-14, atol=0)


def test_verbs_keep_shape_type_and_argument(threat):
    for dtype in (torch.float32, torch.float64):
        delta = normal().to(dtype)
        before = delta.clone()
        for verb in (threat.project, threat.steepest, threat.sample):
            assert verb(delta).shape == SHAPE
            assert verb(delta).dtype == dtype
        assert torch.equal(delta, before)


def test_sample_has_one_source_of_randomness(threat):
    x = torch.zeros(SHAPE)

    def draw(seed):
        return threat.sample(x, torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(draw(0), draw(1), strict=True):
        assert not torch.equal(one, other)
    assert len(draw(0).flatten(1).unique(dim=0)) == 6  # not one draw for the whole batch
    assert (threat.norm(draw(0)) <= threat.eps * (1 + 1e-6)).all()


def test_a_radius_an_image_is_one_ball_an_image(threat):
    kind, radii = type(threat), torch.tensor([0.0, 0.01, 0.1, 0.2, 0.3, 0.5])
    several, delta = kind(radii), normal()
    alone = torch.cat([kind(eps.item()).project(delta[i : i + 1]) for i, eps in enumerate(radii)])
    torch.testing.assert_close(several.project(delta), alone, rtol=1e-7, atol=0)
    assert torch.equal(several.steepest(delta), threat.steepest(delta))
    drawn = several.sample(delta, torch.Generator().manual_seed(0))
    unit = kind(1.0).sample(delta, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, unit * radii.double()[:, None, None, None])
    assert torch.equal(several.at(slice(2, 4)).eps, radii[2:4])
    assert torch.equal(several.at(torch.tensor([5, 0])).eps, radii[[5, 0]])
    assert threat.at(slice(2, 4)) == threat
    assert several.name == f"{threat.name.split()[0]} 0 to 0.5"


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize(
    ("eps", "words"),
    [
        *[(eps, "not a radius") for eps in (-0.1, math.nan, math.inf, torch.tensor([0.1, -0.1]))],
        *[(eps, "8/255") for eps in (8, torch.tensor([0.1, 8.0]))],
    ],
)
def test_what_is_no_radius_is_refused(ball, eps, words):
    if ball is L2 and words == "8/255":  # an image of 224 x 224 has a diagonal of 388
        assert ball(eps).eps is eps
    else:
        with pytest.raises(ValueError, match=words):
            ball(eps)


def test_radii_may_be_whole_numbers_up_to_the_largest_and_fractions():
    assert (Linf(1).eps, PixelL2(2).eps) == (1, 2)
    assert Linf(Fraction(8, 255)) == Linf(8 / 255)  # type: ignore[arg-type]


def test_names_tell_norm_and_radius():
    names = [ball(eps).name for ball in BALLS for eps in (0.03, 0.045, 8 / 255)]
    assert len(set(names)) == 9
    assert names[0] == "linf 0.03"
    assert L2(0.5).name == "l2 0.5"
    assert PixelL2(0.045).name == "pixel-l2 0.045"


# ---- oracles --------------------------------------------------------------------------------


def test_norms_of_a_perturbation_known_by_heart():
    delta = torch.zeros(1, 3, 1, 2)
    delta[0, :, 0, 0] = torch.tensor([3.0, 0.0, 4.0])
    delta[0, :, 0, 1] = torch.tensor([0.0, -12.0, 0.0])
    assert Linf(1).norm(delta) == 12
    assert L2(1).norm(delta) == 13
    assert PixelL2(1).norm(delta) == 12
    assert PixelL2(1).norm(delta[..., :1]) == 5


def test_steepest_reaches_the_dual_norm_on_the_unit_ball(threat):
    grad = normal()
    direction = threat.steepest(grad)
    torch.testing.assert_close(threat.norm(direction), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(inner(direction, grad), dual_norm(threat, grad))
    unit = dataclasses.replace(threat, eps=1.0)
    for seed in range(20):  # and nothing else in the ball does better
        other = unit.sample(grad, torch.Generator().manual_seed(seed))
        assert (inner(other, grad) < dual_norm(threat, grad)).all()


@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [
        (torch.float16, range(-6, 12)),
        (torch.bfloat16, range(-120, 120, 7)),
        (torch.float32, range(-120, 120, 7)),
        (torch.float64, range(-1000, 1000, 71)),
    ],
    ids=str,
)
def test_steepest_does_not_depend_on_the_scale_of_the_loss(threat, dtype, exponents):
    """Bit for bit: powers of two are exact, and neither squares nor lengths under- or overflow."""
    grad = normal().round(decimals=2).to(dtype)
    expected = threat.steepest(grad)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        threat.norm(expected), torch.ones(6).to(dtype), atol=0, rtol=rounding
    )
    for exponent in exponents:
        assert torch.equal(threat.steepest(torch.ldexp(grad, torch.tensor(exponent))), expected)


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_gradients_that_are_no_numbers_are_no_direction(threat, entry):
    grad = normal()
    grad[2, 1, 0, 0] = entry
    found = threat.steepest(grad).isnan().flatten(1).any(1)
    assert found.tolist() == [False, False, True, False, False, False]


def test_pixels_with_small_gradients_go_as_far_as_the_others():
    grad = torch.ones(1, 3, 1, 2)
    grad[..., 1] = 1e-30
    torch.testing.assert_close(PixelL2(1.0).steepest(grad).norm(dim=1), torch.ones(1, 1, 2))


def assert_uniform(u):
    """First two moments within five standard errors: wrong by chance once in 10^6 seeds."""
    u = u.double()
    assert u.min() >= -1e-6
    assert u.max() <= 1 + 1e-6
    n = u.numel()
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)


@pytest.mark.parametrize(
    ("ball", "vectors"),
    [
        (Linf, lambda delta: delta.reshape(-1, 1)),
        (L2, lambda delta: delta.flatten(1)),
        (PixelL2, lambda delta: delta.permute(0, 2, 3, 1).reshape(-1, 3)),
    ],
)
def test_samples_are_uniform_in_each_ball(ball, vectors):
    """In a ball of d dimensions: r^d is uniform, no direction is preferred, no ball the other's."""
    delta = ball(0.3).sample(torch.zeros(4000, 3, 2, 2), torch.Generator().manual_seed(0))
    vectors = vectors(delta) / 0.3
    length, d = vectors.norm(dim=1), vectors.shape[1]
    assert_uniform(length**d)
    together = torch.corrcoef(length.view(4000, -1).T) - torch.eye(len(length) // 4000)
    assert together.abs().max() < 5 / math.sqrt(4000)
    unit = vectors / length[:, None]
    n = len(unit)
    # Each coordinate of a uniform direction has mean 0 and variance 1/d.
    assert unit.mean(0).abs().max() < 5 * math.sqrt(1 / d / n)
    second = unit.T @ unit / n - torch.eye(d) / d
    assert second.abs().max() < 5 * math.sqrt(1 / d / n)
