"""rvlib.attacks.withstand: who is fooled falls at once, and nobody falls who was not fooled."""

import pytest
import torch
from torch import nn

from rvlib.attacks import ascent, pgd, withstands, withstands_sweep
from rvlib.threat_models import L2, Linf, PixelL2

BALLS = [Linf, PixelL2, L2]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reads(model, x, y):
    was = [module.training for module in model.modules()]
    with torch.no_grad():
        found = model.eval()(x).argmax(1) == y
    for module, training in zip(model.modules(), was, strict=True):
        module.training = training
    return found


@pytest.fixture
def many():
    """Forty images (3, 4, 4) and labels."""
    x = torch.rand(40, 3, 4, 4, generator=seeded(5))
    return x, torch.randint(3, (40,), generator=seeded(6))


def every_iterate(model, x, y, threat, steps, step_size):
    """The plain way: all images to the last step, every iterate looked at."""
    stands = reads(model, x, y)
    for t in range(1, steps + 1):
        x_adv = pgd(model, x, y, threat, steps=t, step_size=step_size, random_start=False)
        stands &= reads(model, x_adv, y)
    return stands


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("tile", [7, 256])
def test_it_is_pgd_with_every_iterate_looked_at(toy, many, ball, tile, monkeypatch):
    monkeypatch.setattr(ascent, "TILE", tile)
    x, y = many
    threat = ball(0.05)
    found = withstands(toy, x, y, threat, steps=4, step_size=0.02, random_start=False)
    assert torch.equal(found, every_iterate(toy, x, y, threat, 4, 0.02))
    assert 0 < found.sum() < reads(toy, x, y).sum() < len(x)  # some fall, some stand


def test_the_random_start_counts_too(toy, many):
    x, y = many
    threat = Linf(0.1)
    found = withstands(toy, x, y, threat, steps=1, step_size=1e-9, generator=seeded())
    start = (x + threat.sample(x, seeded())).clamp(0, 1)
    assert torch.equal(found, reads(toy, x, y) & reads(toy, start, y))


def test_it_is_never_kinder_than_pgd(toys, many):
    x, y = many
    model = toys().eval()
    for threat in (Linf(0.03), L2(0.3), PixelL2(0.05)):
        for restarts in (1, 3):
            attacked = pgd(model, x, y, threat, restarts=restarts, generator=seeded(1))
            found = withstands(model, x, y, threat, restarts=restarts, generator=seeded(1))
            assert not (found & ~reads(model, attacked, y)).any()


def test_more_restarts_only_take_away(toys, many):
    x, y = many
    model = toys().eval()
    once, often = (
        withstands(model, x, y, Linf(0.1), steps=1, step_size=1e-3, restarts=n, generator=seeded(2))
        for n in (1, 20)
    )
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


def test_a_linear_network_falls_at_its_distance(linear):
    network, normal = linear
    x = 0.45 + 0.1 * torch.rand(30, 3, 2, 2, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        y = network(x).argmax(1)
        margin = (network(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).abs()
    for ball, dual in ((Linf, normal.abs().sum()), (L2, normal.norm())):
        distance = margin / dual
        radii = distance.quantile(torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)).tolist()
        found = withstands_sweep(
            network, x, y, [ball(eps) for eps in radii], steps=3, random_start=False
        )
        assert torch.equal(found, torch.stack([distance > eps for eps in radii]))


class Counting(nn.Module):
    """A network that counts the images it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shown = network, 0

    def forward(self, x):
        self.shown += len(x)
        return self.network(x)


def test_who_has_fallen_is_not_attacked_again(toys, many):
    x, y = many
    model = toys().eval()
    counting = Counting(model)
    found = withstands_sweep(counting, x, y, [Linf(e) for e in (0.0, 0.02, 0.1)], steps=5)
    # The images; a run on those that stand, at most; and in the larger ball on fewer.
    read, first = int(found[0].sum()), int(found[1].sum())
    assert first < read < len(x)
    assert counting.shown <= len(x) + 6 * read + 6 * first
    assert not (found[1:] & ~found[:-1]).any()


def test_everything_may_have_fallen(toys, many):
    x, _ = many
    model = toys().eval()
    wrong = (model(x).argmax(1) + 1) % 3
    assert not withstands(model, x, wrong, Linf(0.1)).any()


def test_the_sweep_is_one_ball_after_another(toys, many):
    x, y = many
    model = toys().eval()
    balls = [Linf(eps) for eps in (0.01, 0.03, 0.06)]
    found = withstands_sweep(model, x, y, balls, steps=3, random_start=False)
    stands = torch.ones(len(x), dtype=torch.bool)
    for k, ball in enumerate(balls):
        stands &= withstands(model, x, y, ball, steps=3, random_start=False)
        assert torch.equal(found[k], stands)


def test_the_network_comes_back_as_it_was(toy, batch):
    x, y = batch
    before = (
        [module.training for module in toy.modules()],
        [p.requires_grad for p in toy.parameters()],
    )
    withstands(toy, x, y, Linf(0.1), generator=seeded())
    after = (
        [module.training for module in toy.modules()],
        [p.requires_grad for p in toy.parameters()],
    )
    assert before == after
    assert all(p.grad is None for p in toy.parameters())


@pytest.mark.parametrize(
    "threats", [[], [Linf(0.2), Linf(0.1)], [Linf(0.1), L2(0.2)]], ids=["none", "falling", "mixed"]
)
def test_balls_that_are_no_sweep_are_refused(toy, batch, threats):
    with pytest.raises(ValueError, match="one norm, and radii that do not fall"):
        withstands_sweep(toy, batch[0], batch[1], threats)


@pytest.mark.parametrize("options", [{"restarts": 0}, {"restarts": 2, "random_start": False}])
def test_restarts_that_make_no_sense_are_refused(toy, batch, options):
    with pytest.raises(ValueError, match="restarts"):
        withstands(toy, batch[0], batch[1], Linf(0.1), **options)


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": -0.1}])
def test_attacks_that_go_nowhere_are_refused(toy, batch, options):
    with pytest.raises(ValueError, match=r"step"):
        withstands(toy, batch[0], batch[1], Linf(0.1), **options)
