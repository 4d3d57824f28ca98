"""rvlib.objectives: the losses, and what they do to images and networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.objectives import Loss, adversarial, gaussian, mixed, standard
from rvlib.threat_models import L2, Linf, PixelL2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    """Smooth, without batch normalisation: the loss of an image does not depend on the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))


def harmless(model, x, y, generator):
    """An attack of radius zero."""
    return pgd(model, x, y, Linf(0.0), steps=2, generator=generator)


def attack_fgsm(model, x, y, generator):
    return fgsm(model, x, y, Linf(0.1))


def attack_pgd(model, x, y, generator):
    return pgd(model, x, y, PixelL2(0.15), steps=2, generator=generator)


def attack_l2(model, x, y, generator):
    return pgd(model, x, y, L2(0.5), steps=2, generator=generator)


OBJECTIVES = {
    "standard": standard,
    "gaussian": gaussian(0.2),
    "adversarial": adversarial(attack_pgd),
    "madry": adversarial(attack_fgsm, clean_weight=0),
    "mixed": mixed([attack_fgsm, attack_pgd]),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


# ---- properties -----------------------------------------------------------------------------


def test_value_is_a_scalar_with_a_graph_and_logits_have_none(objective, net, batch):
    x, y = batch
    loss = objective(net, x, y, seeded())
    assert isinstance(loss, Loss)
    assert loss.value.shape == ()
    assert loss.logits.shape == (4, 3)
    assert not loss.logits.requires_grad
    assert all(p.grad is None for p in net.parameters())
    loss.value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_generator_is_the_only_randomness(objective, net, batch):
    x, y = batch
    before = torch.get_rng_state()
    one, other = (objective(net, x, y, seeded()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.value, other.value)
    assert torch.equal(one.logits, other.logits)


def test_mode_and_images_are_left_alone(objective, toy, batch):
    x, y = batch
    copy = x.clone()
    modes = [module.training for module in toy.modules()]
    objective(toy, x, y, seeded())
    assert [module.training for module in toy.modules()] == modes
    assert torch.equal(x, copy)
    assert not x.requires_grad


def test_network_learns_in_its_own_mode_once_a_step(objective, toy, batch):
    """One forward pass in training mode: batch normalisation counts one batch."""
    x, y = batch
    before = toy[0][1].num_batches_tracked.item()
    objective(toy, x, y, seeded())
    assert toy[0][1].num_batches_tracked == before + 1


def test_logits_are_those_of_the_images_shown_first(net, batch):
    x, y = batch
    for name in ("standard", "adversarial", "madry", "mixed"):
        logits = OBJECTIVES[name](net, x, y, seeded()).logits
        torch.testing.assert_close(logits, net(x).detach())


# ---- standard -------------------------------------------------------------------------------


def test_standard_is_the_mean_cross_entropy(net, batch):
    x, y = batch
    probability = net(x).softmax(1)[range(4), y]
    torch.testing.assert_close(standard(net, x, y, seeded()).value, -probability.log().mean())


# ---- gaussian -------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A network that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layer(x.mean((2, 3)))


@pytest.mark.parametrize("sigma", [0.12, 1.0])
def test_noise_is_fresh_gaussian_of_the_right_variance_and_unclipped(sigma):
    x, y = torch.zeros(32, 3, 8, 8), torch.zeros(32, dtype=torch.int64)
    recorder, generator, objective = Recorder(), seeded(), gaussian(sigma)
    for _ in range(3):
        objective(recorder, x, y, generator)
    noise = torch.stack(recorder.seen)  # (3, 32, 3, 8, 8)
    assert len(noise.flatten(0, 1).flatten(1).unique(dim=0)) == 96  # each image, each step
    n = noise.numel()
    # Five standard errors of the mean and of the variance of n normal deviates.
    assert abs(noise.mean()) < 5 * sigma / math.sqrt(n)
    assert abs(noise.var() / sigma**2 - 1) < 5 * math.sqrt(2 / n)
    assert noise.min() < -3 * sigma
    assert noise.max() > 3 * sigma


def test_gaussian_is_the_cross_entropy_of_the_noisy_images(batch):
    x, y = batch
    recorder = Recorder()
    loss = gaussian(0.3)(recorder, x, y, seeded())
    logits = recorder.layer(recorder.seen[0].mean((2, 3)))
    torch.testing.assert_close(loss.value, F.cross_entropy(logits, y))
    assert torch.equal(loss.logits, logits.detach())


def test_gaussian_of_hardly_any_noise_is_standard(net, batch):
    x, y = batch
    expected = standard(net, x, y, seeded()).value
    torch.testing.assert_close(gaussian(1e-7)(net, x, y, seeded()).value, expected)


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan])
def test_noise_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match=r"sigma=.* must be positive") as refusal:
        gaussian(sigma)
    assert "\n" not in str(refusal.value)


# ---- adversarial and mixed ------------------------------------------------------------------


def becomes(value):
    """An attack that answers with a grey image, whose loss is known."""

    def attack(model, x, y, generator):
        return torch.full_like(x, value)

    return attack


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_adversarial_weighs_clean_and_attacked_images(net, batch, share):
    x, y = batch
    loss = adversarial(becomes(0.1), clean_weight=share)(net, x, y, seeded()).value
    grey = torch.full_like(x, 0.1)
    expected = share * cross_entropy(net, x, y) + (1 - share) * cross_entropy(net, grey, y)
    torch.testing.assert_close(loss, expected)


def test_adversarial_weighs_both_the_same_unless_told(net, batch):
    x, y = batch
    one, other = (
        objective(net, x, y, seeded()).value
        for objective in (adversarial(becomes(0.1)), adversarial(becomes(0.1), clean_weight=0.5))
    )
    assert torch.equal(one, other)


def test_mixed_is_the_mean_over_clean_images_and_attacks(net, batch):
    x, y = batch
    versions = [x, *(torch.full_like(x, v) for v in (0.1, 0.9, 0.4))]
    loss = mixed([becomes(0.1), becomes(0.9), becomes(0.4)])(net, x, y, seeded()).value
    expected = torch.stack([cross_entropy(net, version, y) for version in versions]).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    "objective",
    [
        adversarial(attack_fgsm, clean_weight=1),
        *(adversarial(harmless, clean_weight=share) for share in (0.0, 0.3, 0.5)),
        *(mixed([harmless] * k) for k in range(4)),
    ],
)
def test_weights_sum_to_one(objective, net, batch):
    """Without an effect of the attack, value and gradient are those of the standard loss."""
    x, y = batch
    one, other = (
        torch.autograd.grad(o(net, x, y, seeded()).value, list(net.parameters()))
        for o in (objective, standard)
    )
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(
        objective(net, x, y, seeded()).value, standard(net, x, y, seeded()).value
    )


def test_attacks_see_current_weights_in_order_with_the_one_generator(net, batch):
    x, y = batch
    generator, calls = seeded(), []

    def spy(name):
        def attack(*arguments):
            calls.append((name, *map(id, arguments)))
            return x

        return attack

    mixed([spy("first"), spy("second")])(net, x, y, generator)
    arguments = tuple(map(id, (net, x, y, generator)))
    assert calls == [("first", *arguments), ("second", *arguments)]


def test_attacked_images_cost_more_than_clean_ones(net, batch):
    x, y = batch
    clean = standard(net, x, y, seeded()).value
    for attack in (attack_fgsm, attack_pgd, attack_l2):
        assert adversarial(attack)(net, x, y, seeded()).value > clean


def test_no_gradient_flows_through_the_attack(net, batch):
    """The attacked images are constants: Danskin, not a second derivative."""
    x, y = batch
    x_adv = attack_fgsm(net, x, y, seeded())
    objective = adversarial(attack_fgsm, clean_weight=0)
    parameters = list(net.parameters())
    got = torch.autograd.grad(objective(net, x, y, seeded()).value, parameters)
    torch.testing.assert_close(got, torch.autograd.grad(cross_entropy(net, x_adv, y), parameters))


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"clean_weight=.* must be in \[0, 1\]") as refusal:
        adversarial(attack_fgsm, clean_weight=share)
    assert "\n" not in str(refusal.value)
