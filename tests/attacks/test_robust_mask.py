"""rvlib.attacks.robust_mask: who is fooled falls at once, and nobody falls who was not fooled."""

import pytest
import torch
from torch import nn

from rvlib.attacks import Passes
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Wrapped, fgsm, made_of, margin, pgd, robust_mask, seeded


@pytest.fixture
def model(toys):
    return toys().eval()


@pytest.fixture
def many():
    """Forty images (3, 4, 4) and labels."""
    return torch.rand(40, 3, 4, 4, generator=seeded(5)), torch.randint(
        3, (40,), generator=seeded(6)
    )


def right(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) == y


@pytest.mark.parametrize("ball", [Linf, PixelL2, L2])
@pytest.mark.parametrize("batch_size", [7, None])
def test_it_is_pgd_with_every_iterate_looked_at(model, many, ball, batch_size):
    x, y = many
    options = {"step_size": 0.02, "random_start": False}
    expected = right(model, x, y)
    for t in (1, 2, 3, 4):
        expected &= right(model, pgd(model, x, y, ball(0.05), steps=t, **options), y)
    found = robust_mask(model, x, y, ball(0.05), steps=4, batch_size=batch_size, **options)
    assert torch.equal(found, expected)
    assert 0 < found.sum() < right(model, x, y).sum() < len(x)  # some fall, some stand


class Band(nn.Module):
    """Class 1 where the pixel lies between 0.52 and 0.56 only, which a second step leaves."""

    def forward(self, x):
        pixel = x.flatten(1)
        return torch.cat([0 * pixel, ((pixel - 0.54).abs() < 0.02).float() - 1 + pixel / 10], 1)


def test_who_is_fooled_on_the_way_has_fallen():
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 0])
    options = {"step_size": 0.04, "random_start": False}
    assert right(Band(), pgd(Band(), x, y, Linf(0.2), steps=2, **options), y).all()
    assert not robust_mask(Band(), x, y, Linf(0.2), steps=2, **options).any()


def test_who_is_misread_without_an_attack_has_fallen():
    x, y = torch.full((16, 1, 1, 1), 0.54), torch.zeros(16, dtype=torch.int64)
    starts = (x + Linf(0.2).sample(x, seeded())).clamp(0, 1)
    assert right(Band(), starts, y).sum() > 8
    found = robust_mask(Band(), x, y, Linf(0.2), steps=1, step_size=1e-9, generator=seeded())
    assert not found.any()


def test_the_random_start_and_the_last_step_count_too(model, many):
    x, y = many
    found = robust_mask(model, x, y, Linf(0.1), steps=1, step_size=1e-9, generator=seeded())
    start = (x + Linf(0.1).sample(x, seeded())).clamp(0, 1)
    assert torch.equal(found, right(model, x, y) & right(model, start, y))
    found = robust_mask(model, x, y, Linf(0.1), steps=1, step_size=0.1, random_start=False)
    assert torch.equal(found, right(model, x, y) & right(model, fgsm(model, x, y, Linf(0.1)), y))


@pytest.mark.parametrize("loss", [None, margin])
def test_it_is_never_kinder_than_pgd(model, many, loss, threat):
    x, y = many
    options = {} if loss is None else {"loss": loss}
    for restarts in (1, 3):
        attacked = pgd(model, x, y, threat, restarts=restarts, generator=seeded(1), **options)
        found = robust_mask(model, x, y, threat, restarts=restarts, generator=seeded(1), **options)
        assert not (found & ~right(model, attacked, y)).any()


@pytest.mark.parametrize("ball", [Linf, L2])
def test_a_linear_network_falls_at_its_distance(linear, ball):
    """In a sweep over radii, and with all radii at once, one per image."""
    network, normal = linear
    x = 0.45 + 0.1 * torch.rand(30, 3, 2, 2, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        y = network(x).argmax(1)
        ahead = (network(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).abs()
    distance = ahead / (normal.abs().sum() if ball is Linf else normal.norm())
    mask = torch.ones(30, dtype=torch.bool)
    for eps in distance.quantile(torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)).tolist():
        given = mask.clone()
        found = robust_mask(network, x, y, ball(eps), steps=3, random_start=False, mask=given)
        assert torch.equal(given, mask)
        mask = found
        assert torch.equal(mask, distance > eps)
    factor = torch.tensor([0.99, 1.01] * 15, dtype=torch.float64)
    found = robust_mask(network, x, y, ball(factor * distance), steps=3, random_start=False)
    assert torch.equal(found, factor < 1)


def test_who_has_fallen_is_not_attacked_again(model, many):
    x, y = many
    counting = Passes(Wrapped(model, lambda x: x.view(len(x), -1).view_as(x)))  # no empty batch
    found = robust_mask(counting, x, y, Linf(0.03), steps=5, generator=seeded())
    once = counting.forwards
    again = robust_mask(counting, x, y, Linf(0.1), steps=5, mask=found, generator=seeded())
    stand, fall = int(found.sum()), int((~found & right(model, x, y)).sum())
    assert stand > 0
    assert fall > 0
    # One image of the check, all once, the right ones up to six times; then those that stood.
    assert once < 1 + len(x) + 6 * (stand + fall)
    assert counting.forwards - once <= 1 + 7 * stand
    assert not (again & ~found).any()
    assert not robust_mask(counting, x, y, Linf(0.1), mask=torch.zeros_like(found)).any()


def test_in_half_precision_only_what_lies_in_the_ball_counts():
    def above(x):
        far, rising = (x.flatten(1).amax(1) >= 187 / 256).to(x), 0.1 * x.mean((1, 2, 3))
        return torch.stack([0.5 - rising, far + rising], 1)

    x = torch.full((1, 1, 1, 1), 179 / 256, dtype=torch.bfloat16)
    x, y = x.expand(1, 3, 1, 1), torch.tensor([0])
    for restarts in (1, 3):
        assert robust_mask(made_of(above), x, y, Linf(0.03), restarts=restarts).all()


def beyond(threshold):
    """Two classes: the second where the pixel is larger."""
    line = torch.tensor([-1.0, 1.0])
    return made_of(lambda x: (x.flatten(1).float() - threshold) * line)


def test_in_half_precision_random_starts_lie_in_the_ball():
    x, y = torch.full((64, 1, 1, 1), 0.75).bfloat16(), torch.zeros(64, dtype=torch.int64)
    # The next number is 2^-8 away: the ball holds the image alone.
    ball, model = Linf(0.75 * 2**-8), beyond(0.75 + 2**-9)
    assert robust_mask(model, x, y, ball, steps=2, restarts=3, generator=seeded()).all()


def test_radii_per_image_are_rounded_down_in_half_precision():
    x, y = torch.zeros(1, 1, 1, 1).bfloat16(), torch.tensor([0])
    model = beyond(8 / 255 + 2**-16)  # in bfloat16, 8 / 255 rounds up
    for eps in (8 / 255, torch.tensor([8 / 255])):
        assert robust_mask(model, x, y, Linf(eps), random_start=False)
