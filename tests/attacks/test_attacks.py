"""rvlib.attacks: what every attack owes every caller, in every ball."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm, pgd, smoothed_pgd
from rvlib.threat_models import Linf, PixelL2


def without_generator(attack):
    """Give an attack that draws nothing the signature of the others."""

    def call(model, x, y, threat, generator=None):
        return attack(model, x, y, threat)

    return call


DETERMINISTIC = {
    "fgsm": without_generator(fgsm),
    "pgd": without_generator(functools.partial(pgd, random_start=False, steps=5)),
}
RANDOM = {
    "pgd-random": functools.partial(pgd, steps=5),
    "pgd-restarts": functools.partial(pgd, steps=3, restarts=3),
    "smoothed": functools.partial(smoothed_pgd, sigma=0.1, draws=4, steps=3),
}
ALL = DETERMINISTIC | RANDOM


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=ALL)
def attack(request):
    return ALL[request.param]


@pytest.fixture(params=RANDOM)
def random_attack(request):
    return RANDOM[request.param]


def losses(model, x, y):
    was_training = [module.training for module in model.modules()]
    with torch.no_grad():
        losses = F.cross_entropy(model.eval()(x), y, reduction="none")
    for module, training in zip(model.modules(), was_training, strict=True):
        module.training = training
    return losses


# ---- what comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 4])
def test_result_is_in_the_ball_and_in_the_box(attack, threat, toy, batch, scale):
    x, y = batch
    threat = dataclasses.replace(threat, eps=scale * threat.eps)
    x_adv = attack(toy, x, y, threat, generator=seeded())
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert (threat.norm(x_adv - x) <= threat.eps + 1e-6).all()  # float32 rounding of x + delta
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_every_image_is_moved_uphill(attack, threat, toy, batch):
    x, y = batch
    x_adv = attack(toy, x, y, threat, generator=seeded())
    assert (threat.norm(x_adv - x) > threat.eps / 2).all()
    assert (losses(toy, x_adv, y) > losses(toy, x, y)).all()


def test_radius_zero_is_the_identity_bit_for_bit(attack, threat, toy, batch):
    x, y = batch
    point = dataclasses.replace(threat, eps=0.0)
    assert torch.equal(attack(toy, x, y, point, generator=seeded()), x)


def test_radius_zero_is_the_identity_whatever_the_step_size(threat, toy, batch):
    x, y = batch
    point = dataclasses.replace(threat, eps=0.0)
    assert torch.equal(pgd(toy, x, y, point, step_size=0.1), x)


def test_same_seed_gives_the_same_bits(attack, threat, toy, batch):
    one, other = (attack(toy, *batch, threat, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_another_seed_gives_another_result(random_attack, threat, toy, batch):
    # Short steps: long ones end in the same corner of the ball from any start.
    one, other = (
        random_attack(toy, *batch, threat, step_size=0.01, generator=seeded(s)) for s in (3, 4)
    )
    assert not torch.equal(one, other)


def test_generator_is_the_only_randomness(attack, threat, toy, batch):
    before = torch.get_rng_state()
    first = attack(toy, *batch, threat, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(attack(toy, *batch, threat, generator=seeded()), first)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_batch_of_n_equals_n_batches_of_one(name, threat, toy, batch):
    attack, toy, (x, y) = ALL[name], toy.double(), batch
    # One image far up its loss: a batch-wide norm or mean would show on the others.
    x = x.double() * torch.tensor([1, 0.01, 1, 0.5])[:, None, None, None]
    together = attack(toy, x, y, threat)
    alone = torch.cat([attack(toy, x[i : i + 1], y[i : i + 1], threat) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_memory_format_changes_nothing_but_rounding(attack, threat, toy, batch):
    x, y = batch[0].double(), batch[1]
    toy = toy.double()
    plain = attack(toy, x, y, threat, generator=seeded())
    last = x.contiguous(memory_format=torch.channels_last)
    x_adv = attack(toy, last, y, threat, generator=seeded())
    torch.testing.assert_close(x_adv, plain, rtol=0, atol=1e-9)


# ---- what stays as it was -------------------------------------------------------------------


def test_images_and_labels_are_unchanged(attack, threat, toy, batch):
    x, y = batch
    copies = x.clone(), y.clone()
    x_adv = attack(toy, x, y, threat, generator=seeded())
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert not x.requires_grad
    assert x_adv.data_ptr() != x.data_ptr()


def test_images_that_track_gradients_get_none(attack, threat, toy, batch):
    x, y = batch
    expected = attack(toy, x, y, threat, generator=seeded())
    x = x.clone().requires_grad_(True)
    x_adv = attack(toy, x, y, threat, generator=seeded())
    assert torch.equal(x_adv, expected)
    assert not x_adv.requires_grad
    assert x.grad is None


def test_network_is_unchanged(attack, threat, toy, batch):
    """Modes of every submodule, weights, running statistics, requires_grad, gradients."""
    assert len({module.training for module in toy.modules()}) == 2
    assert len({parameter.requires_grad for parameter in toy.parameters()}) == 2
    toy[4].bias.grad = torch.ones(3)  # a training that accumulates gradients

    def everything():
        modes = [module.training for module in toy.modules()]
        wanted = [parameter.requires_grad for parameter in toy.parameters()]
        return modes, wanted

    before = everything()
    state = {name: value.clone() for name, value in toy.state_dict().items()}
    attack(toy, *batch, threat, generator=seeded())
    assert everything() == before
    assert all(torch.equal(value, state[name]) for name, value in toy.state_dict().items())
    for name, parameter in toy.named_parameters():
        if name == "4.bias":
            assert torch.equal(parameter.grad, torch.ones(3))
        else:
            assert parameter.grad is None


def test_network_is_attacked_in_evaluation_mode(attack, threat, toy, batch):
    in_training = attack(toy, *batch, threat, generator=seeded())
    in_evaluation = attack(toy.eval(), *batch, threat, generator=seeded())
    assert torch.equal(in_training, in_evaluation)


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_gradients_off(attack, threat, toy, batch, caller):
    expected = attack(toy, *batch, threat, generator=seeded())
    with caller():
        x_adv = attack(toy, *batch, threat, generator=seeded())
        assert torch.is_inference_mode_enabled() == (caller is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert torch.equal(x_adv, expected)


# ---- what is refused ------------------------------------------------------------------------


def bad_images(x):
    nan = x.clone()
    nan[0, 0, 0, 0] = float("nan")
    return {
        "in bytes": (255 * x, ValueError, "divide by 255"),
        "normalised": (x - 0.5, ValueError, "not normalise"),
        "uint8": ((255 * x).byte(), TypeError, "uint8"),
        "nan": (nan, ValueError, "nan"),
        "single": (x[0], ValueError, r"not \(B, C, H, W\)"),
        "none": (x[:0], ValueError, "B >= 1"),
    }


@pytest.mark.parametrize("kind", ["in bytes", "normalised", "uint8", "nan", "single", "none"])
def test_images_that_are_no_pixels_are_refused(attack, toy, batch, kind):
    x, error, words = bad_images(batch[0])[kind]
    with pytest.raises(error, match=words) as refusal:
        attack(toy, x, batch[1][: len(x)], Linf(0.1), generator=seeded())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda y: y[:2], ValueError),
        (lambda y: y[:, None], ValueError),
        (lambda y: F.one_hot(y, 3), ValueError),
        (lambda y: -y, ValueError),
        (lambda y: y.int(), TypeError),
        (lambda y: y.float(), TypeError),
        (lambda y: y.tolist(), TypeError),
    ],
)
def test_labels_that_do_not_fit_are_refused(attack, toy, batch, change, error):
    with pytest.raises(error, match="label") as refusal:
        attack(toy, batch[0], change(batch[1]), Linf(0.1), generator=seeded())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("ball", [Linf, PixelL2])
def test_radius_in_bytes_is_refused(attack, toy, batch, ball):
    with pytest.raises(ValueError, match="write 8/255"):
        attack(toy, *batch, ball(8), generator=seeded())


@pytest.mark.parametrize("attack", [pgd, functools.partial(smoothed_pgd, sigma=0.1)])
@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -1}, {"step_size": -0.1}])
def test_hyper_parameters_that_make_no_attack_are_refused(attack, toy, batch, options):
    with pytest.raises(ValueError, match=next(iter(options))) as refusal:
        attack(toy, *batch, Linf(0.1), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("attack", [pgd, functools.partial(smoothed_pgd, sigma=0.1)])
@pytest.mark.parametrize("step_size", [float("nan"), float("inf")])
def test_a_step_that_is_no_length_is_refused(attack, toy, batch, step_size):
    with pytest.raises(ValueError, match="step_size"):
        attack(toy, *batch, Linf(0.1), step_size=step_size)


# ---- oracles that hold for all of them ------------------------------------------------------


def test_optimum_of_a_linear_network_is_found(attack, threat, linear):
    """Two classes: the loss of class 0 rises along w_1 - w_0, so the optimum is one step."""
    model, normal = linear
    x = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)  # the box is out of reach
    threat = dataclasses.replace(threat, eps=0.1)
    y = torch.tensor([0, 1])
    optimum = x + threat.eps * threat.steepest(normal) * torch.tensor([1, -1])[:, None, None, None]
    reached = attack(model, x, y, threat, generator=seeded())
    best, found, clean = (losses(model, z, y) for z in (optimum, reached, x))
    assert (found <= best + 1e-12).all()
    # From a random start inside the ball the end is near the optimum, from x it is the optimum.
    assert (found - clean > 0.9 * (best - clean)).all()


def test_optimum_of_a_linear_network_in_a_corner_of_the_box(attack, linear):
    model, normal = linear
    x = torch.rand(8, 3, 2, 2, generator=seeded(), dtype=torch.float64)
    y = torch.zeros(8, dtype=torch.int64)
    optimum = (x + 0.4 * normal.sign()).clamp(0, 1)
    assert (optimum == 0).any()
    assert (optimum == 1).any()
    x_adv = attack(model, x, y, Linf(0.4), generator=seeded())
    torch.testing.assert_close(x_adv, optimum)
