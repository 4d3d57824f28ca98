"""rvlib.objectives: the losses, and what they do to images and networks."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.objectives import (
    Loss,
    adversarial,
    consistency,
    fgsm_rs,
    gaussian,
    mixed,
    n_fgsm,
    nuat,
    standard,
    trades,
    weighted,
)
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import seeded

X = (1.4 * torch.rand(4, 3, 4, 4, generator=seeded()) - 0.2).clamp(0, 1)
Y = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def net():
    """Smooth, without batch normalisation: the loss of an image does not depend on the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))


ATTACKS = {
    "fgsm": partial(fgsm, threat=Linf(0.1)),
    "pgd": partial(pgd, threat=PixelL2(0.15), steps=2),
    "l2": partial(pgd, threat=L2(0.5), steps=2),
}
OBJECTIVES = {
    "standard": standard,
    "gaussian": gaussian(0.2),
    "adversarial": adversarial(ATTACKS["pgd"]),
    "madry": adversarial(ATTACKS["fgsm"], clean_weight=0),
    "mixed": mixed([ATTACKS["fgsm"], ATTACKS["pgd"]]),
}


MODERN = {
    "trades": trades(Linf(0.1), 3.0, steps=3),
    "trades-l2": trades(L2(0.5), 3.0, steps=3),
    "fgsm-rs": fgsm_rs(Linf(0.1)),
    "n-fgsm": n_fgsm(Linf(0.1)),
    "nuat": nuat(Linf(0.1), 3.0),
    "consistency": consistency(0.2, 3.0),
}


@pytest.fixture(params=OBJECTIVES | MODERN)
def objective(request):
    return (OBJECTIVES | MODERN)[request.param]


def cross_entropy(model, x, y=Y):
    return F.cross_entropy(model(x), y)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def same_slopes(net, one, other):
    slopes = (torch.autograd.grad(value, list(net.parameters())) for value in (one, other))
    return all(close(a, b) for a, b in zip(*slopes, strict=True))


def becomes(value):
    """An attack that answers with a grey image, whose loss is known."""
    return lambda model, x, y: torch.full_like(x, value)


# ---- properties -----------------------------------------------------------------------------


def test_value_is_a_scalar_with_a_graph(objective, net):
    loss = objective(net, X, Y, seeded())
    assert isinstance(loss, Loss)
    assert loss.value.shape == ()
    assert loss.logits.shape == (4, 3)
    assert all(p.grad is None for p in net.parameters())
    loss.value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_generator_is_the_only_randomness(objective, net):
    before = torch.get_rng_state()
    one, other, third = (objective(net, X, Y, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.value, other.value)
    assert torch.equal(one.logits, other.logits)
    random = objective not in (OBJECTIVES["standard"], OBJECTIVES["madry"])
    assert torch.equal(one.value, third.value) != random


def test_values_are_the_same_without_gradients(objective, net):
    with torch.no_grad():
        found = objective(net, X, Y, seeded()).value
    assert torch.equal(found, objective(net, X, Y, seeded()).value.detach())


def test_modes_and_images_are_left_alone_and_one_batch_is_normalised(objective):
    toy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    toy.train()[2].eval()
    modes, x = [module.training for module in toy.modules()], X.clone()
    objective(toy, x, Y, seeded())
    assert [module.training for module in toy.modules()] == modes
    assert torch.equal(x, X)
    assert not x.requires_grad
    assert toy[1].num_batches_tracked == 1


def test_logits_are_those_of_the_clean_images(net):
    for name in ("standard", "adversarial", "mixed"):
        assert close(OBJECTIVES[name](net, X, Y, seeded()).logits, net(X))
    # Images of no weight are not shown to the network.
    spy = Spy(net)
    loss = adversarial(becomes(0.1), clean_weight=0)(spy, X, Y, seeded())
    assert [len(x) for _, x in spy.seen] == [len(X)]
    assert close(loss.logits, net(torch.full_like(X, 0.1)))


# ---- standard and gaussian ------------------------------------------------------------------


def test_standard_is_the_mean_cross_entropy(net):
    probability = net(X).softmax(1)[range(4), Y]
    assert close(standard(net, X, Y, seeded()).value, -probability.log().mean())


@pytest.mark.parametrize("sigma", [0.12, 1.0])
def test_noise_is_fresh_gaussian_of_the_right_variance_and_unclipped(sigma):
    x, y = torch.zeros(32, 3, 8, 8), torch.zeros(32, dtype=torch.int64)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, 3))
    spy, generator, objective = Spy(network), seeded(), gaussian(sigma)
    losses = [objective(spy, x, y, generator) for _ in range(3)]
    noise = torch.stack([x for _, x in spy.seen])  # (3, 32, 3, 8, 8)
    assert len(noise.flatten(0, 1).flatten(1).unique(dim=0)) == 96  # each image, each step
    n = noise.numel()
    # Five standard errors of the mean and of the variance of n normal deviates.
    assert abs(noise.mean()) < 5 * sigma / math.sqrt(n)
    assert abs(noise.var() / sigma**2 - 1) < 5 * math.sqrt(2 / n)
    assert noise.abs().max() > 3 * sigma
    assert close(losses[0].value, cross_entropy(network, noise[0], y))


# ---- adversarial, mixed, weighted -----------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_adversarial_weighs_clean_and_attacked_images(net, share):
    loss = adversarial(becomes(0.1), clean_weight=share)(net, X, Y, seeded()).value
    grey = torch.full_like(X, 0.1)
    assert close(loss, share * cross_entropy(net, X) + (1 - share) * cross_entropy(net, grey))
    half = adversarial(becomes(0.1))(net, X, Y, seeded()).value
    assert torch.equal(half, loss) == (share == 0.5)


def test_mixed_is_the_mean_over_clean_images_and_attacks(net):
    versions = [X, *(torch.full_like(X, v) for v in (0.1, 0.9, 0.4))]
    losses = torch.stack([cross_entropy(net, version) for version in versions])
    attacks = [becomes(0.1), becomes(0.9), becomes(0.4)]
    assert close(mixed(attacks)(net, X, Y, seeded()).value, losses.mean())
    weights = [0.1, 0.2, 0.3, 0.7]
    found = weighted(weights, attacks)(net, X, Y, seeded()).value
    assert close(found, (torch.tensor(weights) * losses).sum())
    with pytest.raises(ValueError, match="zip"):
        weighted([1.0], attacks)(net, X, Y, seeded())


HARMLESS = partial(pgd, threat=Linf(0.0), steps=2, step_size=0.1)


@pytest.mark.parametrize(
    "objective",
    [
        adversarial(ATTACKS["fgsm"], clean_weight=1),
        *(adversarial(HARMLESS, clean_weight=share) for share in (0.0, 0.3, 0.5)),
        *(mixed([HARMLESS] * k) for k in range(4)),
    ],
)
def test_without_an_effect_of_the_attack_it_is_standard(objective, net):
    one, other = (o(net, X, Y, seeded()).value for o in (objective, standard))
    assert close(one, other)
    assert same_slopes(net, one, other)


def test_attacks_see_current_weights_in_order_with_the_one_generator(net):
    calls = []

    def noted(*given):
        calls.append(tuple(map(id, given)))
        return X

    def without(model, x, y):
        return noted(model, x, y)

    given = net, X, Y, seeded()
    mixed([lambda model, x, y, generator: noted(model, x, y, generator), without])(*given)
    assert calls == [tuple(map(id, given)), tuple(map(id, given[:3]))]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacked_images_cost_more_and_are_constants(net, attack):
    """Danskin: the gradient at the attacked images, no second derivative."""
    objective = adversarial(ATTACKS[attack], clean_weight=0)
    value = objective(net, X, Y, seeded()).value
    assert value > standard(net, X, Y, seeded()).value
    options = {"generator": seeded()} if attack != "fgsm" else {}
    expected = cross_entropy(net, ATTACKS[attack](net, X, Y, **options))
    assert same_slopes(net, value, expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((partial(gaussian, sigma), "sigma=") for sigma in (0.0, -0.1, math.nan)),
        *((partial(adversarial, ATTACKS["fgsm"], s), "clean_") for s in (-0.1, 1.1, math.nan)),
        (partial(adversarial, Linf(0.03)), "attack="),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_objective_is_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=rf"^{words}[^\n]+$"):
        make()


# ---- after the report -------------------------------------------------------------------------


class Spy(nn.Module):
    """Remembers what the network was given, in training and in evaluation mode."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, list[tuple[bool, torch.Tensor]]()

    def forward(self, x):
        self.seen.append((self.training, x.detach().clone()))
        return self.network(x)


@pytest.mark.parametrize("name", MODERN)
def test_the_network_is_in_evaluation_mode_while_an_attack_is_made(name, net):
    spy = Spy(net.train())
    MODERN[name](spy, X, Y, seeded())
    *crafting, last = spy.seen
    assert last[0]
    assert not any(training for training, _ in crafting)


@pytest.mark.parametrize(("name", "ball"), [("trades", Linf(0.1)), ("trades-l2", L2(0.5))])
def test_trades_by_hand(name, ball, net):
    spy = Spy(net)
    loss = MODERN[name](spy, X, Y, seeded())
    x, x_adv = spy.seen[-1][1].chunk(2)
    assert torch.equal(x, X)
    assert (ball.norm(x_adv - x) <= ball.eps * (1 + 1e-5)).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    p, q = net(x).softmax(1), net(x_adv).softmax(1)
    moved = (p * (p / q).log()).sum(1)
    assert close(loss.value, cross_entropy(net, X) + 3 * moved.mean())
    near = (X + 0.001 * torch.empty_like(X).normal_(generator=seeded())).clamp(0, 1)
    assert torch.equal(spy.seen[1][1], near)  # where the attack begins
    start = (p * (p / net(near).softmax(1)).log()).sum(1)
    assert (moved > start).all()  # the attack raises what it is to raise


def test_fgsm_from_a_random_start_is_one_step_of_pgd(net):
    by_pgd = adversarial(partial(pgd, threat=Linf(0.1), steps=1, step_size=0.125), 0.0)
    one, other = (make(net, X, Y, seeded()).value for make in (fgsm_rs(Linf(0.1)), by_pgd))
    assert close(one, other)


def test_n_fgsm_by_hand(net):
    spy = Spy(net)
    loss = n_fgsm(Linf(0.1), noise=3.0)(spy, X, Y, seeded(5))
    start, x_adv = (x for _, x in spy.seen)
    inner = (X > 0.31) & (X < 0.69)  # no wall within three radii
    away = (start - X)[inner].abs()
    assert 0.25 < away.max() <= 0.3
    start.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(net, start), start)
    assert close(x_adv, (start.detach() + 0.1 * gradient.sign()).clamp(0, 1))
    assert (x_adv - X).abs().max() > 0.1  # no projection
    assert close(loss.value, cross_entropy(net, x_adv))


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_nuat_by_hand(progress, net):
    spy = Spy(net)
    objective: Any = nuat(Linf(0.1), 3.0)
    loss = objective(spy, X, Y, seeded(), progress=progress)
    x, x_adv = spy.seen[-1][1].chunk(2)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    singular = np.linalg.svd((net(x_adv) - net(x)).detach().numpy(), compute_uv=False)
    assert close(loss.value, cross_entropy(net, X) + progress * 3 * singular.sum() / len(X))
    start = spy.seen[1][1]
    inner = (X > 0.06) & (X < 0.94)
    assert close((start - X)[inner].abs(), torch.full_like(X[inner], 0.05))


def test_the_step_of_nuat_climbs_the_norm_for_one_side_of_the_coin(net):
    """Both losses are climbed, by chance: with only the norm to climb they differ."""
    found = set()
    for seed in range(12):
        spy = Spy(net)
        nuat(Linf(0.1), 1e6)(spy, X, Y, seeded(seed))
        start, x_adv = spy.seen[1][1].clone().requires_grad_(), spy.seen[-1][1].chunk(2)[1]
        for name, value in (
            ("norm", torch.linalg.matrix_norm(net(start) - net(X).detach(), "nuc")),
            ("loss", cross_entropy(net, start)),
        ):
            (gradient,) = torch.autograd.grad(value, start)
            moved = start.detach() + 0.1 * gradient.sign()
            if close((X + (moved - X).clamp(-0.1, 0.1)).clamp(0, 1), x_adv):
                found.add(name)
    assert found == {"norm", "loss"}


def test_consistency_by_hand(net):
    spy = Spy(net)
    loss = consistency(0.2, 3.0, copies=3, entropy=0.7)(spy, X, Y, seeded())
    copies = spy.seen[-1][1].chunk(3)
    noise = torch.stack(copies) - X
    assert 0.15 < noise.std() < 0.25
    assert len({round(float(n.sum()), 4) for n in noise}) == 3
    p = torch.stack([net(x).softmax(1) for x in copies])
    mean = p.mean(0)
    apart = sum((mean * (mean / q).log()).sum(1).mean() for q in p) / 3
    unsure = -(mean * mean.log()).sum(1).mean()
    fits = sum(cross_entropy(net, x) for x in copies) / 3
    assert close(loss.value, fits + 3 * apart + 0.7 * unsure)


def test_sure_answers_that_disagree_have_a_finite_loss(net):
    class Sure(nn.Module):
        def forward(self, x):
            return 1e4 * torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1) - 1e4 * 24

    loss = consistency(2.0, 3.0)(Sure(), X.requires_grad_(False), Y.clamp(max=1), seeded())
    assert torch.isfinite(loss.value)


@pytest.mark.parametrize("make", [n_fgsm, trades])
def test_label_smoothing_by_hand(make, net):
    plain, smooth = (make(Linf(0.1), label_smoothing=s)(net, X, Y, seeded()) for s in (0.0, 0.3))
    log_p = plain.logits.log_softmax(1)
    assert torch.equal(smooth.logits, plain.logits)
    change = 0.3 * (log_p.gather(1, Y[:, None]).mean() - log_p.mean())
    assert close(smooth.value - plain.value, change)


def test_label_smoothing_of_several_parts(net):
    loss = adversarial(becomes(0.5), 0.25, label_smoothing=0.3)(net, X, Y, seeded()).value
    smooth = partial(F.cross_entropy, target=Y, label_smoothing=0.3)
    grey = torch.full_like(X, 0.5)
    assert close(loss, 0.25 * smooth(net(X)) + 0.75 * smooth(net(grey)))
