"""rvlib.attacks.square: random search that never makes a margin worse, and needs no gradient."""

import pytest
import torch
from torch import nn

from rvlib.attacks import Passes, square
from rvlib.attacks.square import bump, square_side
from rvlib.attacks.windows import halves, read, write
from rvlib.inference import MaxPool2, logits_of
from rvlib.threat_models import L2, Linf
from tests.networks import Wrapped, seeded

BALL = Linf(0.1)
LAST = torch.channels_last


def margins(model, x, y):
    logits = logits_of(model, x)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


class Recorder(nn.Module):
    """Keeps what it is shown, and whether gradients were on; its answer is class 0, always."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.seen.append(x.clone())
        return torch.tensor([[2.0, 0.0]]).repeat(len(x), 1)


def recorded(x, queries, ball=BALL, recorder=None):
    """Search with a network that nothing fools; return what it was shown, less the images."""
    recorder = recorder or Recorder()
    square(recorder, x, torch.zeros(len(x), dtype=torch.int64), ball, queries=queries)
    return [seen - x[: len(seen)] for seen in recorder.seen[1:]]  # first the check of one image


def test_no_margin_gets_worse_and_most_get_better(toys, batch):
    toy, x = toys().eval(), batch[0]
    for y in (toy(x).argmax(1), toy(x).argmin(1)):
        x_adv = square(toy, x, y, Linf(0.02), queries=30, generator=seeded())
        before, after = margins(toy, x, y), margins(toy, x_adv, y)
        assert (after >= before).all()
        assert (after[before < 0] > before[before < 0]).all()
        assert torch.equal(x_adv[before > 0], x[before > 0])  # fooled already: left alone


class Fragile(nn.Module):
    """Its answer hangs on the last bit of a pixel: rounding after the search would undo it."""

    def forward(self, x):
        pixel = x.double().flatten(1)[:, :1] * 2**24
        return torch.cat([0 * pixel, (pixel - pixel.detach().div(7).floor() * 7) - 3.5], 1)


def test_what_fooled_in_the_search_fools_in_the_end():
    x = torch.rand(64, 1, 1, 1, generator=seeded())
    y = (margins(Fragile(), x, torch.ones(64, dtype=torch.int64)) < 0).long()
    before = margins(Fragile(), x, y)
    assert (before <= 0).all()
    for eps in (8 / 255, 0.07, 0.3):
        after = margins(Fragile(), square(Fragile(), x, y, Linf(eps), queries=4), y)
        assert (after >= before).all()
        assert (after > 0).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_optimum_of_a_linear_network_is_found(linear, sign):
    model, normal = linear
    with torch.no_grad():
        model[1].bias[0] = 100.0  # out of reach: the search goes on to the end
        model[1].weight.mul_(sign)
    x = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
    ball = Linf(torch.tensor([0.1, 0.2], dtype=torch.float64))
    x_adv = square(model, x, torch.tensor([0, 0]), ball, queries=600, generator=seeded())
    optimum = x + ball.eps.view(2, 1, 1, 1) * sign * normal.sign()  # type: ignore[union-attr]
    torch.testing.assert_close(x_adv, optimum)


def test_a_network_without_gradients_is_fooled(toys, batch):
    x, model = batch[0], Wrapped(toys().eval(), lambda x: (50 * x).round() / 50)
    y = logits_of(model, x).argmax(1)
    x_adv = square(model, x, y, Linf(0.3), queries=100, generator=seeded())
    assert (logits_of(model, x_adv).argmax(1) != y).any()


def test_queries_are_counted_and_stop_when_all_are_fooled(toys, batch):
    assert [len(seen) for seen in recorded(torch.full((3, 3, 4, 4), 0.5), 17)] == [3] * (1 + 17)
    toy = toys().eval()
    counting = Passes(toy)
    square(counting, batch[0], toy(batch[0]).argmin(1), BALL, queries=50)
    assert counting.forwards == 1 + len(batch[0])  # of the check, and of the images


def test_proposals_are_stripes_and_then_squares():
    x = torch.full((2, 3, 8, 8), 0.5)
    clean, stripes, *squares = recorded(x, 300)
    assert not clean.any()
    torch.testing.assert_close(stripes.abs(), torch.full_like(x, 0.1))
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert stripes.std(3).min() > 0  # not all columns go one way
    places = set()
    for query, moved in enumerate(squares, 1):
        side = square_side(query, 300, 0.8, x)
        window = moved[0].abs().amax(0) > 0
        rows, columns = window.any(1).nonzero()[:, 0], window.any(0).nonzero()[:, 0]
        assert window.sum() == side**2 == len(rows) * len(columns)
        assert len(moved[0][:, window].round(decimals=3).unique(dim=1).T) == 1  # a side a channel
        if side == 1:
            places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 30  # of 64
    assert {place for pair in places for place in pair} == set(range(8))


def test_an_images_proposals_do_not_depend_on_who_else_stands(toys, batch):
    toy, x = toys().eval(), batch[0]
    y = toy(x).argmax(1)
    alone = y.clone()
    alone[:-1] = toy(x).argmin(1)[:-1]  # fooled from the start: only the last is searched for
    ball = Linf(0.005)  # nobody falls
    whole = square(toy, x, y, ball, queries=20, generator=seeded())
    part = square(toy, x, alone, ball, queries=20, generator=seeded())
    assert not torch.equal(whole[-1], x[-1])
    torch.testing.assert_close(part[-1], whole[-1])


def test_the_area_is_halved_where_the_paper_halves_it():
    x = torch.zeros(1, 1, 2000, 2000)
    sides = [square_side(query, 10_000, 0.8, x) for query in range(10_000)]
    assert [k - 1 for k in range(1, 10_000) if sides[k] < sides[k - 1]] == [
        *(10, 50, 200, 1000, 2000, 4000, 6000, 8000)
    ]
    assert sides[-1] == round((0.8 / 256) ** 0.5 * 2000)
    assert [square_side(query, 1000, 0.8, x) for query in (1, 2)] == [sides[10], sides[20]]


@pytest.mark.parametrize("ball", [BALL, L2(0.1)], ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 2, 9), (2, 2, 7, 4)])
def test_squares_fit_into_images_that_are_small_or_no_squares(shape, ball):
    x = torch.rand(shape, generator=seeded())
    moved = recorded(x, 30, ball, Rising())
    assert all((ball.norm(delta) <= 0.1).all() for delta in moved)
    assert moved[1].any()
    assert square_side(0, 10, 1.0, x) == min(shape[2:])


# ---- l2 -----------------------------------------------------------------------------------------


def eta_written_out(h):
    """Equation (2), entry by entry, with the paper's indices from 1."""
    k = h // 2

    def entry(r, s, h2):
        n = h // 2
        m = n - max(abs(r - h // 2 - 1), abs(s - h2 // 2 - 1))
        return sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))

    rows = range(1, h + 1)
    left = [[entry(r, s, k) for s in range(1, k + 1)] for r in rows]
    right = [[-entry(r, s, h - k) for s in range(1, h - k + 1)] for r in rows]
    return torch.tensor([a + b for a, b in zip(left, right, strict=True)])


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9, 20])
def test_bumps_are_the_papers(side):
    expected = eta_written_out(side)
    torch.testing.assert_close(bump(side), expected / expected.norm())


class Rising(Recorder):
    """Every image it is shown is better than all before, and none is good enough."""

    def forward(self, x):
        return super().forward(x) + torch.tensor([-1e-3 * len(self.seen), 0.0])


def test_in_l2_tiles_come_first_and_all_of_the_ball_is_used():
    x = torch.full((2, 3, 32, 32), 0.5)
    clean, tiles, *later = recorded(x, 120, L2(0.5), Rising())
    assert not clean.any()
    assert not tiles[:, :, 0].any()  # five tiles of six pixels, one pixel left at either side
    tile = tiles[:, :, 1:31, 1:31].unfold(2, 6, 6).unfold(3, 6, 6)
    torch.testing.assert_close(tile.abs(), (bump(6) * tile[..., :1, :1] / bump(6)[0, 0]).abs())
    assert {-1, 1} == set(tiles[:, :, 1:31:6, 1:31:6].sign().flatten().tolist())
    for moved in (tiles, *later):
        torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((2,), 0.5))
    assert not torch.equal(later[0][0], later[0][1])


def test_in_l2_a_bump_takes_over_what_a_second_square_has():
    """Algorithm 3: one square grows, one is emptied, and nothing else moves."""
    x = torch.full((1, 3, 32, 32), 0.5)
    _, before, *later = recorded(x, 150, L2(0.5), Rising())
    sides = set()
    for query, after in enumerate(later, 1):
        side = max(3, square_side(query, 150, 0.8, x))
        changed = ((after - before).abs() > 1e-6)[0].any(0)
        emptied = changed & (after[0].abs().amax(0) < 1e-7)
        grown = changed & ~emptied
        rows, columns = (grown.any(axis).nonzero()[:, 0] for axis in (1, 0))
        assert rows[-1] - rows[0] < side
        assert columns[-1] - columns[0] < side
        assert emptied.sum() <= side**2
        both = changed.expand(3, -1, -1)
        for channel in range(3):  # each channel's energy in the two squares stays its own
            energies = [d[0, channel][both[channel]].square().sum() for d in (before, after)]
            torch.testing.assert_close(energies[1], energies[0], rtol=1e-3, atol=1e-6)
        sides.add(side)
        before = after
    assert len(sides) > 4


def test_in_l2_bumps_lie_either_way():
    """Half of the new bumps change sign from left to right, half from top to bottom."""
    x = torch.full((16, 1, 5, 5), 0.5)
    _, _, moved = recorded(x, 2, L2(0.5))  # no tiles were taken: a single bump of three pixels
    across = moved.sum(2).abs().amax(2)[:, 0] > moved.sum(3).abs().amax(2)[:, 0]
    assert 0 < across.sum() < 16


def test_in_l2_the_energy_that_the_walls_cut_off_is_used_again():
    x = torch.full((1, 3, 32, 32), 0.02)
    lengths = [float(moved.norm()) for moved in recorded(x, 200, L2(2.0), Rising())[1:]]
    assert lengths[0] < 1.6  # tiles that go down are cut
    assert max(lengths) > lengths[0] + 0.2
    assert max(lengths) <= 2


# ---- first layers, computed anew in a window ----------------------------------------------------


def pooled(kernel, size, layout):
    """A network whose first convolution and pooling are seen; 29 pixels leave a row unpooled."""
    torch.manual_seed(kernel)
    side = ((size[0] - kernel + 1) // 2) * ((size[1] - kernel + 1) // 2)
    layers = (nn.Conv2d(3, 4, kernel), MaxPool2(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side, 5))
    return nn.Sequential(*layers).to(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
@pytest.mark.parametrize(
    ("kernel", "size", "ball"),
    [
        (5, (29, 20), Linf(0.003)),
        (2, (9, 12), Linf(0.003)),
        (1, (8, 8), Linf(0.003)),
        (3, (8, 9), L2(0.05)),
    ],
)
def test_a_network_seen_in_parts_is_attacked_like_the_same_one_wrapped(kernel, size, ball, layout):
    model = pooled(kernel, size, layout)
    x = torch.rand(6, 3, *size, generator=seeded()).contiguous(memory_format=layout)
    y = logits_of(model, x).argmax(1)
    found = []
    assert halves(model, layout, None).kernel == kernel
    counting, whole = Passes(Passes(model)), Passes(model)
    for network in (model, counting, Wrapped(whole)):
        found.append(square(network, x, y, ball, queries=60, generator=seeded()))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], x)
    assert counting.forwards == counting.model.forwards == whole.forwards


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_what_a_window_changes_is_computed_anew_to_the_bit(side):
    model = pooled(5, (20, 23), LAST)
    x = torch.rand(20 - side + 1, 3, 20, 23, generator=seeded())
    first = torch.arange(len(x))
    for corner in ((first, first), (first, 23 - side - first), (first * 0, first)):
        network = halves(model, LAST, 4)
        changed, seen = x.clone(), network.first(x)
        write(changed, corner, side, 1 - read(x, corner, side))
        assert ((changed != x).sum((1, 2, 3)) == 3 * side**2).all()
        for _ in range(2):  # the first time whole images are looked at, too
            assert torch.equal(network.again(seen, changed, corner, side), network.first(changed))
        assert all(network.same.values())
        assert torch.equal(seen, network.first(x))


def test_where_a_window_is_rounded_in_another_way_whole_images_are_looked_at():
    network = halves(pooled(5, (20, 20), LAST), LAST, None)
    x, corner = torch.rand(4, 3, 20, 20, generator=seeded()), (torch.arange(4), torch.arange(4))
    exact = network.first
    network.first = lambda images: exact(images) + (images.shape[2] < 20) * 1e-6
    for _ in range(2):
        assert torch.equal(network.again(exact(x), x, corner, 3), exact(x))


def test_what_cannot_be_seen_through_is_left_whole():
    def kernel(first, *rest):
        return halves(
            nn.Sequential(first, *(rest or (MaxPool2(), nn.Flatten()))), LAST, None
        ).kernel

    assert kernel(nn.Conv2d(3, 4, 3)) == 3
    for conv in (nn.Conv2d(3, 4, (3, 2)), nn.Conv2d(3, 4, 3, padding=1)):
        assert kernel(conv) == 0
    for options in ({"stride": 2}, {"dilation": 2}, {"padding": "same"}):
        assert kernel(nn.Conv2d(3, 4, 3, **options)) == 0
    assert kernel(nn.Conv2d(3, 4, 3), nn.ReLU()) == 0
    assert kernel(nn.Flatten()) == 0
    hooked = Passes(nn.Sequential(nn.Conv2d(3, 4, 3), MaxPool2(), nn.Flatten()))
    assert halves(hooked, LAST, None).kernel == 3
    hooked.register_forward_hook(lambda module, args, out: -out)
    assert halves(hooked, LAST, None).kernel == 0
