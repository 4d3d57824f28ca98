"""rvlib.attacks.apgd: the paper's iteration, known optima, who leaves, targets and draws."""

import dataclasses
import itertools
import math
import sys
from fractions import Fraction

import pytest
import torch
from torch import nn

import rvlib as rv
from rvlib.attacks.apgd import checkpoints
from rvlib.attacks.gradient import fooled
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Recorder, apgd, seeded


@pytest.fixture
def model(toys):
    return toys().eval().double()


@pytest.fixture
def many():
    """Twenty images (3, 4, 4) and labels."""
    x = torch.rand(20, 3, 4, 4, generator=seeded(5), dtype=torch.float64)
    return x, torch.randint(3, (20,), generator=seeded(6))


# ---- the iteration ------------------------------------------------------------------------------


def test_the_checkpoints_are_the_papers():
    for steps in (1, 2, 5, 10, 33, 100, 1000):
        p = [Fraction(0), Fraction(22, 100)]
        while p[-1] < 1:
            p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
        expected = sorted({math.ceil(share * steps) for share in p[1:-1]})
        assert checkpoints(steps) == expected
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def written_out(model, x, y, threat, start, steps, loss):
    """Algorithm 1 of one image, step by step; what it returns and how often the step was halved."""

    def project(z):
        return (x + threat.project(z - x)).clamp(0, 1)

    def assess(z):
        z = z.clone().requires_grad_()
        logits = model(z)
        value = loss(logits, y)
        gradient = torch.autograd.grad(value.sum(), z)[0]
        return float(value.detach()), gradient, int(logits.argmax(1)) != y[0]

    eta, halvings, halved, rises, last = 2 * threat.eps, 0, False, 0, 0
    value, gradient, wrong = assess(start)
    before, here, best = start, start, (value, start, gradient)
    at_check = value
    for t in range(1, steps + 1):
        if wrong:
            return here, halvings
        alpha = 1 if t == 1 else 0.75
        z = project(here + eta * threat.steepest(gradient))
        here, before = project(here + alpha * (z - here) + (1 - alpha) * (here - before)), here
        last_value = value
        value, gradient, wrong = assess(here)
        rises += value > last_value
        if wrong:
            return here, halvings
        if value > best[0]:
            best = value, here, gradient
        if t in checkpoints(steps):
            if rises <= 0.75 * (t - last) or (not halved and best[0] == at_check):
                eta, halvings, halved = eta / 2, halvings + 1, True
                value, here, gradient = best
                before = here
            else:
                halved = False
            at_check, rises, last = best[0], 0, t
    return best[1], halvings


@pytest.mark.parametrize(
    ("loss", "threat"),
    [(rv.margin, Linf(0.0125)), (rv.log_odds, L2(0.0625)), (rv.dlr, PixelL2(0.01875))],
)
def test_the_iteration_is_the_papers(model, many, loss, threat):
    x, y = (part[:12] for part in many)
    y[:8] = model(x[:8]).argmax(1)  # some stand for long
    start = (x + threat.sample(x, seeded())).clamp(0, 1)
    each = [
        written_out(model, image, label, threat, begin, 40, loss)
        for image, label, begin in zip(*(part.split(1) for part in (x, y, start)), strict=True)
    ]
    expected, halvings = torch.cat([found for found, _ in each]), [n for _, n in each]
    found = apgd(model, x, y, threat, steps=40, loss=loss, generator=seeded())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert 0 < fooled(model(found), y).sum() < len(x)
    assert max(halvings) >= 3  # the rule was asked


class Scripted(nn.Module):
    """Its loss falls with the first step and rises ever after, wherever the pixel goes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if x.requires_grad:
            self.seen.append(x.detach()[0].item())
        t, pixel = len(self.seen) - 1, x.flatten(1)
        value = -1.0 if t <= 0 else -30 + 0.1 * t
        return torch.cat([0 * pixel, value + pixel - pixel.detach()], 1)


def test_a_run_that_rises_without_a_new_best_is_idle():
    """Not twice in a row: an interval whose step size is new is given time."""
    network, (x, y) = Scripted(), (torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]))
    apgd(network, x, y, Linf(0.1), loss=rv.margin, generator=seeded(2))
    assert network.seen[0] < 0.55
    falls = [t for t, (a, b) in enumerate(itertools.pairwise(network.seen), 1) if b < a - 1e-6]
    assert falls == [23, 58, 81, 94]  # back from the face of the ball to the start


# ---- known optima -------------------------------------------------------------------------------


def test_the_optimum_of_a_linear_network(linear, threat):
    model, normal = linear
    with torch.no_grad():
        model[1].bias[0] = 100.0  # out of reach: the run goes on to the end
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    threat = dataclasses.replace(threat, eps=0.05)
    x_adv = apgd(model, x, torch.tensor([0]), threat, steps=60, generator=seeded())
    torch.testing.assert_close(x_adv, x + 0.05 * threat.steepest(normal), rtol=0, atol=1e-6)


# ---- who leaves ---------------------------------------------------------------------------------


class Late(nn.Module):
    """Class 2 wins to the left from the third answer on, class 1 to the right from the fifth on."""

    asked = 0

    def forward(self, x):
        self.asked += x.requires_grad
        pixel = x.flatten(1)
        rise = pixel - pixel.detach()
        right = rise + 9.0 * (self.asked >= 5) * (pixel > 0.5)
        left = 9.0 * (self.asked >= 3) * (pixel < 0.5) - rise
        return torch.cat([2 + 0 * rise, right, left], 1)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_fallen_image_keeps_the_first_that_fooled(leaves, monkeypatch):
    monkeypatch.setattr(sys.modules["rvlib.attacks.apgd"], "looks", lambda step: leaves)
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    options = {"loss": rv.towards, "targets": torch.tensor([[1, 2]]), "steps": 9}
    assert apgd(Late(), x, y, Linf(0.1), **options).item() == pytest.approx(0.4)


class Waves(nn.Module):
    """Many small hills, so that the start decides."""

    def forward(self, z):
        return z + 0.05 * (200 * z).sin()


def test_more_restarts_are_never_weaker(model, many, threat):
    x, y = many
    threat = dataclasses.replace(threat, eps=threat.eps / 8)
    model = nn.Sequential(model, Waves())
    results = [
        apgd(model, x, y, threat, steps=1, restarts=n, generator=seeded(5)) for n in (1, 3, 9)
    ]
    for weaker, stronger in itertools.pairwise(results):
        losses = [rv.log_odds(model(z), y) for z in (weaker, stronger)]
        wrong = [fooled(model(z), y) for z in (weaker, stronger)]
        assert (wrong[1] >= wrong[0]).all()
        assert ((losses[1] >= losses[0]) | wrong[1]).all()
    assert not torch.equal(results[0], results[-1])


# ---- targets and draws --------------------------------------------------------------------------


def test_targets_side_by_side_are_as_strong_as_one_after_the_other(toys, many):
    model, x = toys(5).eval().double(), many[0]
    y = model(x).argmax(1)
    targets = torch.stack([(y + k) % 5 for k in (1, 2, 3, 4)], 1)

    def attacked(targets):
        options = {"steps": 15, "loss": rv.targeted_dlr, "targets": targets}
        return apgd(model, x, y, Linf(0.02), generator=seeded(), **options)

    together, alone = attacked(targets), [attacked(column) for column in targets.unbind(1)]
    wrong = torch.stack([fooled(model(found), y) for found in alone], 1)
    assert torch.equal(fooled(model(together), y), wrong.any(1))
    assert not wrong.all(1)[wrong.any(1)].all()  # some fall to one target only
    for image in wrong.any(1).nonzero()[:, 0]:  # with the point of a target that fools
        assert any(torch.equal(together[image], found[image]) for found in alone)
    stands = ~wrong.any(1)
    best = torch.stack(
        [rv.targeted_dlr(model(f), y, t) for f, t in zip(alone, targets.unbind(1), strict=True)], 1
    )
    for image in stands.nonzero()[:, 0]:  # else with the point of the highest loss
        torch.testing.assert_close(together[image], alone[int(best[image].argmax())][image])


class Coin(nn.Module):
    """A network of two faces: even and odd answers pull the two pixels apart by unlike forces."""

    asked = 0

    def forward(self, x):
        self.asked += 1
        force = torch.tensor([3.0, -1.0]) if self.asked % 2 else torch.tensor([-1.0, -1.0])
        return torch.stack([torch.full((len(x),), 10.0), x.flatten(1) @ force], 1)


def test_several_draws_climb_the_mean_of_the_gradients():
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    x_adv = apgd(Coin(), x, y, Linf(0.1), steps=20, draws=2, generator=seeded())
    torch.testing.assert_close(x_adv.flatten(), torch.tensor([0.6, 0.4]), rtol=0, atol=1e-6)


class Faces(nn.Module):
    """Class 1 on every answer right of 0.8, on every second one right of 0.6."""

    asked = 0

    def forward(self, x):
        self.asked += 1
        return torch.cat([x.flatten(1) * 0, x.flatten(1) - (0.6, 0.8)[self.asked % 2]], 1)


def test_of_several_draws_every_one_must_be_wrong():
    x, y = torch.full((4, 1, 1, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    found = apgd(Faces(), x, y, Linf(0.25), steps=20, draws=2)
    torch.testing.assert_close(found, torch.full_like(x, 0.75))  # on to the end
    found = apgd(Faces(), x, y, Linf(0.45), steps=20, draws=2)
    assert ((found > 0.8) & (found <= 0.95)).all()


class Cliff(nn.Module):
    """Its gradient is NaN."""

    def forward(self, x):
        pixel = x.flatten(1)
        return torch.cat([1 + 0 * pixel, pixel + 0 * (pixel - pixel.detach()).sqrt()], 1)


@pytest.mark.parametrize("attack", [rv.fgsm, rv.pgd, apgd, rv.fab])
def test_a_gradient_that_is_no_number_is_no_silent_failure(attack):
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="NaN"):
        attack(Cliff(), x, y, Linf(0.1))


@pytest.mark.parametrize("ball", [Linf(0.012), L2(0.3)], ids=str)
def test_in_half_precision_every_iterate_lies_in_the_ball(ball, toys):
    model, x = Recorder(toys().eval().bfloat16()), torch.rand(16, 3, 4, 4, generator=seeded(1))
    x = x.bfloat16()
    apgd(model, x, model(x).argmax(1), ball, steps=10, restarts=2, generator=seeded())
    # Images leave when they are fooled: each iterate is near the image that it belongs to.
    apart = [ball.norm((x[:, None].float() - x_t).flatten(0, 1)).view(16, -1) for x_t in model.seen]
    assert len(apart) > 10
    assert max(a.amin(0).max().item() for a in apart) <= ball.eps * (1 + 1e-6)
