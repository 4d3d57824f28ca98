"""rvlib.attacks.square: random search that never makes a margin worse, and needs no gradient."""

import dataclasses

import pytest
import torch
from torch import nn

from rvlib.attacks import square
from rvlib.attacks.square import side_of
from rvlib.threat_models import L2, Linf

BALL = Linf(0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def margins(model, x, y):
    with torch.no_grad():
        logits = model.eval()(x)
    others = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return logits.gather(1, y[:, None])[:, 0] - others


class Recorder(nn.Module):
    """Keeps what it is shown, and whether gradients were on; its answer is class 0, always."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.grads = []

    def forward(self, x):
        self.seen.append(x.clone())
        self.grads.append(torch.is_grad_enabled())
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.1, 0.6])
def test_result_is_in_the_ball_and_in_the_box(toy, batch, eps):
    x, y = batch
    x_adv = square(toy, x, y, Linf(eps), queries=40, generator=seeded())
    assert x_adv.shape == x.shape
    assert (x_adv - x).abs().max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_no_margin_gets_worse_and_most_get_lower(toys, batch):
    toy = toys().eval()
    x = batch[0]
    for y in (toy(x).argmax(1), toy(x).argmin(1)):
        x_adv = square(toy, x, y, Linf(0.02), queries=30, generator=seeded())
        before, after = margins(toy, x, y), margins(toy, x_adv, y)
        assert (after <= before).all()
        assert (after[before >= 0] < before[before >= 0]).all()


def test_what_is_fooled_already_is_left_alone(toys, batch):
    toy = toys().eval()
    x = batch[0]
    y = toy(x).argmin(1)
    assert torch.equal(square(toy, x, y, BALL, queries=5), x)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_optimum_of_a_linear_network_is_found(linear, sign):
    model, normal = linear
    with torch.no_grad():
        model[1].bias[0] = 100.0  # out of reach: the search goes on to the end
    x = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.mul_(sign)
    x_adv = square(model, x, torch.tensor([0, 0]), BALL, queries=600, generator=seeded())
    torch.testing.assert_close(x_adv, x + 0.1 * sign * normal.sign().expand_as(x))


def test_no_gradient_is_needed_or_taken(toys, batch):
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.toy = toys().eval()

        def forward(self, x):
            assert not torch.is_grad_enabled()
            return self.toy((50 * x).round() / 50)

    x, model = batch[0], Rounded()
    with torch.no_grad():
        y = model(x).argmax(1)
    x_adv = square(model, x, y, Linf(0.3), queries=100, generator=seeded())
    with torch.no_grad():
        assert (model(x_adv).argmax(1) != y).any()


def test_queries_are_counted():
    recorder, x = Recorder(), torch.full((3, 3, 4, 4), 0.5)
    square(recorder, x, torch.zeros(3, dtype=torch.int64), BALL, queries=17, generator=seeded())
    assert [len(seen) for seen in recorder.seen] == [3] * (1 + 17)  # the clean images come first
    assert not any(recorder.grads)


def test_proposals_are_stripes_and_then_squares():
    recorder, x = Recorder(), torch.full((2, 3, 8, 8), 0.5)
    square(recorder, x, torch.zeros(2, dtype=torch.int64), BALL, queries=300, generator=seeded())
    clean, stripes, *squares = (seen - x for seen in recorder.seen)
    assert not clean.any()
    assert torch.allclose(stripes.abs(), torch.tensor(0.1))
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert stripes.std(3).min() > 0  # not all columns go one way
    places = set()
    for query, moved in enumerate(squares, 1):
        side = side_of(query, 300, 0.8, x)
        inside = moved[0].abs().amax(0) > 0
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        assert inside.sum() == side**2 == len(rows) * len(columns)
        assert len(moved[0][:, inside].round(decimals=3).unique(dim=1).T) == 1  # one side a channel
        if side == 1:
            places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 30  # of 64


@pytest.mark.parametrize(
    ("query", "queries", "side"),
    [(0, 10_000, 29), (10, 10_000, 29), (11, 10_000, 20), (9999, 10_000, 2), (2, 1000, 20)],
)
def test_the_schedule_is_the_papers(query, queries, side):
    # sqrt(0.8 * 32 * 32) = 28.6; after 10 of 10,000 queries half the area: 20.2; at the end 1.8.
    assert side_of(query, queries, 0.8, torch.zeros(1, 3, 32, 32)) == side


def test_squares_fit_into_images_that_are_no_squares(toys):
    x = torch.rand(2, 3, 2, 9, generator=seeded())
    assert side_of(0, 10, 1.0, x) == 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(54, 3))
    square(model, x, torch.tensor([0, 1]), BALL, queries=10)


def test_the_seed_says_everything(toys, batch):
    toy = toys().eval()
    x, y = batch[0], toy(batch[0]).argmax(1)
    state = torch.get_rng_state()
    one, same, other = (
        square(toy, x, y, Linf(0.02), queries=20, generator=seeded(s)) for s in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_images_proposals_do_not_depend_on_who_else_stands(toys, batch):
    toy = toys().eval()
    x, y = batch[0], toy(batch[0]).argmax(1)
    alone = y.clone()
    alone[:-1] = toy(x).argmin(1)[:-1]  # fooled from the start: only the last is searched for
    ball = Linf(0.005)  # nobody falls
    whole = square(toy, x, y, ball, queries=20, generator=seeded())
    part = square(toy, x, alone, ball, queries=20, generator=seeded())
    assert not torch.equal(whole[-1], x[-1])
    assert torch.allclose(part[-1], whole[-1])


def test_the_network_and_the_images_are_left_as_they_were(toy, batch):
    x, y = batch
    modes = [module.training for module in toy.modules()]
    state = {name: value.clone() for name, value in toy.state_dict().items()}
    pixels = x.clone().requires_grad_(True)
    x_adv = square(toy, pixels, y, BALL, queries=10)
    assert not x_adv.requires_grad
    assert torch.equal(pixels, x)
    assert [module.training for module in toy.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in toy.state_dict().items())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threat": L2(0.5)}, TypeError, "is L2: the Square attack is for the ball Linf"),
        ({"queries": 0}, ValueError, "queries=0"),
        ({"queries": 1.5}, TypeError, "queries=1.5"),
        ({"area": 0.0}, ValueError, "area=0.0"),
        ({"area": 1.1}, ValueError, "area=1.1"),
        ({"area": float("nan")}, ValueError, "area=nan"),
    ],
    ids=str,
)
def test_what_makes_no_attack_is_refused_in_one_line(toy, batch, change, error, words):
    with pytest.raises(error, match=words) as caught:
        square(toy, *batch, **({"threat": BALL} | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [2, -1])
def test_images_that_are_no_pixels_are_refused(toy, batch, scale):
    with pytest.raises(ValueError, match="not in"):
        square(toy, scale * batch[0], batch[1], dataclasses.replace(BALL))
