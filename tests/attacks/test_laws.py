"""rvlib.attacks: what every attack owes every caller, in every ball."""

import contextlib
import copy
import dataclasses
import sys
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from rvlib import attacks
from rvlib.attacks.gradient import fooled
from rvlib.attacks.targets import by_rank
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import (
    Wrapped,
    apgd,
    autoattack,
    double,
    fab,
    fgsm,
    pgd,
    robust_mask,
    seeded,
    smoothed_pgd,
    square,
)


def ignoring(attack):
    """Give an attack that draws nothing the signature of the others."""
    return lambda *args, generator=None, **options: attack(*args, **options)


def with_targets(model, x, y, threat, **options):
    """Attack towards both other classes of three, side by side."""
    targets = torch.stack([(y + 1) % 3, (y + 2) % 3], 1)
    return apgd(model, x, y, threat, steps=3, loss=attacks.towards, targets=targets, **options)


def with_a_target(model, x, y, threat, **options):
    """Attack towards the next class."""
    return pgd(model, x, y, threat, steps=3, loss=attacks.towards, targets=(y + 1) % 3, **options)


def where_all_are_right(model, x, y, threat, **options):
    """Attack the toy's answers in few steps, class 0 for all four images: one of them falls."""
    module = sys.modules["rvlib.attacks.autoattack"]  # its name is hidden by the function
    with mock.patch.object(module, "apgd", partial(apgd, steps=8)):
        return autoattack(model, x, 0 * y, threat, **options)


SURE: dict[str, Any] = {
    "fgsm": ignoring(fgsm),
    "pgd": ignoring(partial(pgd, steps=4, random_start=False)),
    "mask": ignoring(partial(robust_mask, steps=3, random_start=False)),
    "fab": ignoring(partial(fab, steps=3)),
}
RANDOM: dict[str, Any] = {
    "pgd-random": partial(pgd, steps=4),
    "pgd-restarts": partial(pgd, steps=2, restarts=3),
    "mask-restarts": partial(robust_mask, steps=2, restarts=2),
    "smoothed": partial(smoothed_pgd, sigma=0.1, draws=4, steps=3),
    "square": partial(square, queries=25),
    "apgd": partial(apgd, steps=4),
    "apgd-restarts": partial(apgd, steps=2, restarts=2, draws=2),
    "apgd-targets": with_targets,
    "autoattack": where_all_are_right,
    "pgd-target": with_a_target,
}
ALL = SURE | RANDOM
BALLS: dict[str, Any] = {"linf": Linf(0.1), "l2": L2(0.3), "pixel-l2": PixelL2(0.15)}
WITHOUT_PIXEL_L2 = {"square", "fab"}
PAIRS = [(a, b) for a in ALL for b in BALLS if a not in WITHOUT_PIXEL_L2 or b != "pixel-l2"]
EACH = [0.0, 0.07, 0.3, 8 / 255]

# Each attack in one ball, each ball with several; FAB and Square have code of their own for two.
once = pytest.mark.parametrize(
    ("attack", "ball"),
    [
        (a, b)
        for i, a in enumerate(ALL)
        for j, b in enumerate(BALLS)
        if (b != "pixel-l2" if a in WITHOUT_PIXEL_L2 else j == i % 3)
    ],
)


def run(attack, ball, model, x, y, *, seed=0, **options):
    threat = BALLS[ball] if isinstance(ball, str) else ball
    return ALL[attack](model, x, y, threat, generator=seeded(seed), **options)


def fresh(toys, dtype=torch.float32):
    return toys().eval().to(dtype)


# ---- what comes out -------------------------------------------------------------------------


def assert_inside(threat, x_adv, x):
    """In the box, and in the ball: exactly as computed from the images, in single or double."""
    wide = torch.promote_types(x.dtype, torch.float32)
    radius = torch.as_tensor(threat.eps, dtype=torch.float64)
    rounding = 0 if isinstance(threat, Linf) else 1e-6  # of the norm itself
    length = threat.norm(x_adv.to(wide) - x.to(wide)).double()
    assert (length <= radius * (1 + rounding)).all()
    if isinstance(threat, Linf):  # and as computed in half precision
        assert ((x_adv - x).abs().flatten(1).amax(1) <= radius.to(x.dtype)).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize(
    ("eps", "dtype"),
    [
        *[(8 / 255, torch.float32), (torch.tensor(EACH).double(), torch.float32)],
        *[(8 / 255, torch.bfloat16), (torch.tensor(EACH), torch.float64)],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("attack", "ball"), [(a, b) for a, b in PAIRS if "mask" not in a and "restarts" not in a]
)
def test_results_lie_in_the_ball_and_the_box(attack, ball, eps, dtype, toys, batch):
    x, y = batch[0].to(dtype), batch[1]
    threat = dataclasses.replace(BALLS[ball], eps=eps)
    x_adv = run(attack, threat, fresh(toys, dtype), x, y)
    assert (x_adv.shape, x_adv.dtype) == (x.shape, dtype)
    assert not x_adv.requires_grad
    assert_inside(threat, x_adv, x)
    moved = threat.norm(x_adv.double() - x.double()) / torch.as_tensor(eps).clamp_min(1e-9)
    # Half precision is too coarse for a small Euclidean ball; some stop at the first that fools.
    stays = dtype == torch.bfloat16 or attack.startswith(("square", "fab", "apgd", "auto"))
    assert stays or (moved > 0.5).sum() >= 2


@once
def test_radius_zero_is_the_identity(attack, ball, toys, batch):
    x, y = batch
    model = fresh(toys)
    found = run(attack, dataclasses.replace(BALLS[ball], eps=0.0), model, x, y)
    assert torch.equal(found, model(x).argmax(1) == y if found.dtype == torch.bool else x)


def test_radius_zero_is_the_identity_whatever_the_step(toys, batch, threat):
    point = dataclasses.replace(threat, eps=0.0)
    assert torch.equal(pgd(toys(), *batch, point, step_size=0.1), batch[0])


@once
def test_the_generator_is_the_only_randomness(attack, ball, toys, batch):
    state, model = torch.get_rng_state(), fresh(toys)
    one, same = (run(attack, ball, model, *batch, seed=3) for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", ["pgd-random", "smoothed", "square", "apgd"])
def test_another_seed_is_another_attack(attack, toys, batch):
    # Short steps: long ones end in the same corner of the ball from any start.
    options = {"step_size": 0.01} if attack in ("pgd-random", "smoothed") else {}
    one, other = (run(attack, "linf", fresh(toys), *batch, seed=seed, **options) for seed in (3, 4))
    assert not torch.equal(one, other)


# ---- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(("attack", "ball"), [pair for pair in PAIRS if pair[0] in SURE])
def test_a_batch_is_its_images_one_by_one(attack, ball, toys, batch):
    # One image far up its loss: a norm or mean over the batch would show on the others.
    x = batch[0].double() * torch.tensor([1, 0.01, 1, 0.5])[:, None, None, None]
    eps = torch.tensor(EACH)
    threat, model = dataclasses.replace(BALLS[ball], eps=eps), fresh(toys, torch.float64)
    together = run(attack, threat, model, x, batch[1])
    alone = [
        run(attack, dataclasses.replace(threat, eps=float(e)), model, x[i : i + 1], y[None])
        for i, (e, y) in enumerate(zip(eps, batch[1], strict=True))
    ]
    # A float32 radius and its double differ by 1.5e-9.
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-8)


@once
def test_results_do_not_depend_on_the_batch_size(attack, ball, toys, batch):
    x, y = batch[0].double(), batch[1]
    threat = dataclasses.replace(BALLS[ball], eps=torch.tensor(EACH))
    model = fresh(toys, torch.float64)
    found = run(attack, threat, model, x, y, batch_size=3)
    torch.testing.assert_close(found, run(attack, threat, model, x, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("attack", "options", "threat"),
    [
        (apgd, {"restarts": 2, "generator": 0}, L2(0.25)),
        (apgd, {"loss": attacks.towards, "generator": 0}, Linf(0.05)),
        *[(fab, {}, Linf(0.04)), (fab, {}, L2(0.2))],
    ],
)
def test_leaving_early_changes_nothing(attack, options, threat, toys, monkeypatch):
    model, x = toys(5).eval().double(), double(20, 3, 4, 4, seed=5)
    y, seen = model(x).argmax(1), []
    if "loss" in options:  # the nearest last, so that others fall after it
        options = options | {"targets": by_rank(model(x), y).flip(1)}
    for looks in (lambda step: True, lambda step: step % 4 == 0, lambda step: False):
        monkeypatch.setattr(sys.modules[f"rvlib.attacks.{attack.__name__}"], "looks", looks)
        given = options | ({"generator": seeded()} if "generator" in options else {})
        counting = attacks.Passes(model)
        seen.append((attack(counting, x, y, threat, steps=20, **given), counting.forwards))
    (found, passes), *later = seen
    for other, more in later:
        torch.testing.assert_close(other, found, rtol=0, atol=1e-9)
        assert more > passes
    assert 0 < fooled(model(found), y).sum() < len(x)


class Small(nn.Module):
    """A network that runs out of memory above a number of images."""

    def __init__(self, network, images):
        super().__init__()
        self.network, self.images = network, images

    def forward(self, x):
        if len(x) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.network(x)


@once
def test_results_do_not_depend_on_how_much_fits_into_memory(attack, ball, toys, batch):
    x, y = batch[0].double(), batch[1]
    model = fresh(toys, torch.float64)
    # Two images of four noisy copies, or one image towards two targets.
    images = {"smoothed": 8, "fab": 2, "apgd-targets": 2}.get(attack, 1)
    found = run(attack, ball, Small(model, images), x, y)
    torch.testing.assert_close(found, run(attack, ball, model, x, y), rtol=0, atol=1e-9)


@once
def test_the_memory_format_changes_nothing(attack, ball, toys, batch):
    x, y = batch[0].double(), batch[1]
    model = fresh(toys, torch.float64)
    last = run(attack, ball, model, x.contiguous(memory_format=torch.channels_last), y)
    torch.testing.assert_close(last, run(attack, ball, model, x, y), rtol=0, atol=1e-9)


def test_steps_may_have_a_length_an_image_or_one_in_a_tensor(toys, batch, threat):
    attack = partial(pgd, fresh(toys), *batch, threat, random_start=False, batch_size=2)
    expected = attack(step_size=0.02)
    assert torch.equal(attack(step_size=torch.tensor(0.02)), expected)
    assert torch.equal(attack(step_size=torch.full((4,), 0.02)), expected)
    lengths = attack(step_size=torch.tensor([0.02, 0.0, 0.02, 0.02]))
    assert torch.equal(lengths[1], batch[0][1])
    assert torch.equal(lengths[2:], expected[2:])


# ---- what stays as it was -------------------------------------------------------------------


def state_of(model):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        {name: value.tolist() for name, value in model.state_dict().items()},
    )


@once
def test_the_network_is_left_as_it_was(attack, ball, toy, batch):
    """Modes of every submodule, weights, running statistics, requires_grad, gradients."""
    toy[4].bias.grad = torch.ones(3)  # a training that accumulates gradients
    before = state_of(toy)
    assert len(set(before[0])) == len(set(before[1])) == 2
    in_training = run(attack, ball, toy, *batch)
    assert state_of(toy) == before
    assert torch.equal(in_training, run(attack, ball, copy.deepcopy(toy).eval(), *batch))


def in_place(x):
    """Overwrite what a first layer is given."""
    return x.sub_(0.5).mul_(4)


@torch.no_grad()
def unseen(x):
    """The same, where autograd does not look: four times the gradient is missing."""
    return in_place(x)


def data(x):
    """The same, where no version of the tensor counts it."""
    in_place(x.data)
    return x


@once
@pytest.mark.parametrize(("overwrite", "grad"), [(in_place, False), (unseen, True), (data, False)])
def test_the_callers_tensors_are_never_touched(attack, ball, grad, overwrite, toys, batch):
    x, y = (part.clone() for part in batch)
    threat: Any = dataclasses.replace(BALLS[ball], eps=torch.tensor(EACH))
    x.requires_grad_(grad)
    found = run(attack, threat, Wrapped(fresh(toys), overwrite), x, y)
    assert torch.equal(x, batch[0])
    assert torch.equal(y, batch[1])
    assert torch.equal(threat.eps, torch.tensor(EACH))
    assert x.grad is None
    assert x.requires_grad == grad
    assert not found.requires_grad
    if attack != "fab" or overwrite is in_place:  # FAB goes by the gradient's length, too
        same = Wrapped(fresh(toys), lambda x: (x - 0.5) * 4)
        assert torch.equal(found, run(attack, threat, same, *batch))
    if found.dtype != torch.bool:
        assert_inside(threat, found, batch[0])


@once
def test_callers_may_have_gradients_off(attack, ball, toys, batch):
    model = fresh(toys)
    expected = run(attack, ball, model, *batch)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            x, y = (part.clone() for part in batch)  # of inference mode
            found = run(attack, ball, model, x, y)
            assert torch.is_inference_mode_enabled() == (off is torch.inference_mode)
            assert not torch.is_grad_enabled()
        assert torch.equal(found, expected)


# ---- any module is a network ----------------------------------------------------------------


class Quantised(nn.Module):
    def forward(self, x):
        return x + ((16 * x).round() / 16 - x).detach()


@st.composite
def networks(draw):
    """Networks with hooks, replaced layers, parametrisations, in any mode."""
    torch.manual_seed(draw(st.integers(0, 99)))
    first: nn.Module = nn.Conv2d(3, 4, 3, padding=1)
    if draw(st.booleans()):
        parametrizations.weight_norm(first)
    if draw(st.booleans()):
        first = nn.Sequential(Quantised(), first)
    between = draw(st.sampled_from([nn.BatchNorm2d(4), nn.Dropout(), nn.GroupNorm(2, 4)]))
    model = nn.Sequential(first, between, nn.ReLU(inplace=draw(st.booleans())), nn.Flatten())
    model.append(nn.Linear(64, 3))
    if draw(st.booleans()):
        model[draw(st.integers(0, 2))].register_forward_hook(lambda m, args, out: out * 1.5)
    if draw(st.booleans()):
        model.register_forward_pre_hook(lambda m, args: (1 - args[0],))
    model.train(draw(st.booleans()))
    between.train(draw(st.booleans()))
    return model


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(pair=st.sampled_from(PAIRS), model=networks(), autocast=st.booleans())
def test_a_module_is_attacked_like_the_same_one_wrapped(pair, model, autocast):
    x, y = torch.rand(4, 3, 4, 4, generator=seeded()), torch.tensor([0, 1, 2, 1])
    (attack, ball), before = pair, state_of(model)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        found = run(attack, ball, model, x, y)
        assert torch.equal(found, run(attack, ball, Wrapped(model), x, y))
        assert state_of(model) == before
        assert torch.equal(found, run(attack, ball, model.eval(), x, y))
    assert found.dtype in (torch.bool, torch.float32)


def compiled_in_some_way(kind, plain, x):
    if kind == "exported":
        batches = {0: torch.export.Dim("b")}
        return torch.export.export(plain, (x,), dynamic_shapes=(batches,)).module()
    scripted = torch.jit.script(plain) if kind != "traced" else torch.jit.trace(plain, x)
    return torch.jit.freeze(scripted) if kind == "frozen" else scripted


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "inside"),
    [("scripted", False), ("traced", False), ("frozen", False), ("frozen", True), ("exported", 1)],
)
def test_compiled_networks_are_attacked_like_any_other(kind, inside, batch):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    model = compiled_in_some_way(kind, plain, batch[0])
    model = nn.Sequential(nn.Identity(), model) if inside else model
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    for attack in ALL:
        expected = run(attack, "linf", plain, *batch)
        torch.testing.assert_close(run(attack, "linf", model, *batch), expected)
    assert all(module.training == training for module, training in modes)


class Adapter(nn.Module):
    """As adapters of large models do: merges for evaluation, and comes apart for training."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.update = nn.Parameter(torch.full((48,), 0.5))
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += -self.update.data if mode else self.update.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        x = x.flatten(1)
        return x * self.weight if self.merged else x * (self.weight + self.update)


@pytest.mark.parametrize("outside", [False, True])
def test_a_train_that_does_more_than_set_a_flag_is_called_again(outside, batch):
    model: Any = nn.Sequential(Adapter(), nn.Linear(48, 3))
    model.training = outside  # one that was set to evaluation by hand, its parts in training
    pgd(model, *batch, Linf(0.1), steps=2)
    assert [module.training for module in model.modules()] == [outside, True, True]
    assert not model[0].merged
    assert model[0].weight.eq(1).all()
