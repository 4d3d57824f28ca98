"""rvlib.checks: the mistakes that people make, one line each; a user's own errors pass through."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import rvlib as rv
from rvlib.checks import check_network
from rvlib.evaluation import predictions
from rvlib.experiments import natural
from tests.networks import (
    apgd,
    autoattack,
    fab,
    fgsm,
    made_of,
    pgd,
    robust_mask,
    seeded,
    smoothed_pgd,
    square,
)

ATTACKS = {
    "fgsm": fgsm,
    "pgd": pgd,
    "mask": robust_mask,
    "smoothed": partial(smoothed_pgd, sigma=0.1),
    "square": square,
    "apgd": apgd,
    "fab": fab,
    "autoattack": autoattack,
}
CLASSES = 3


class Network(nn.Module):
    def __init__(self, change=lambda z: z):
        super().__init__()
        self.layer, self.change = nn.Linear(48, CLASSES), change

    def forward(self, x):
        return self.change(self.layer(x.flatten(1)))


def nan(x):
    return x.index_fill(3, torch.tensor([1]), torch.nan)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv(model):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, CLASSES))


MISTAKES = [
    ("uint8", {"x": lambda x: (255 * x).byte()}, TypeError, "to_float"),
    ("0..255", {"x": lambda x: 255 * x}, ValueError, "divide by 255"),
    ("normalised", {"x": lambda x: (x - 0.5) / 0.25}, ValueError, "rvlib.Normalize"),
    ("centred", {"x": lambda x: x - 0.5}, ValueError, "rvlib.Normalize"),
    ("nan", {"x": nan}, ValueError, r"not in \[0, 1\]"),
    ("numpy", {"x": lambda x: x.numpy()}, TypeError, "as_tensor"),
    ("one image", {"x": lambda x: x[0]}, ValueError, r"x\[None\]"),
    ("no image", {"x": lambda x: x[:0], "y": lambda y: y[:0]}, ValueError, "without zeros"),
    ("precision", {"x": lambda x: x.double()}, ValueError, r"x.to\(dtype\)"),
    ("int labels", {"y": lambda y: y.int()}, TypeError, r"long\(\)"),
    ("list of labels", {"y": lambda y: y.tolist()}, TypeError, r"long\(\)"),
    ("labels of others", {"y": lambda y: y[:2]}, ValueError, "one per image"),
    ("channels last", {"x": nhwc, "model": conv}, ValueError, r"permute\(0, 3, 1, 2\)"),
    ("one-hot labels", {"y": lambda y: nn.functional.one_hot(y)}, ValueError, "one per image"),
    ("labels from 1", {"y": lambda y: y + 1}, ValueError, "label 3 is no class"),
    ("negative labels", {"y": lambda y: -y}, ValueError, "negative"),
    ("bare radius", {"threat": lambda threat: 8 / 255}, TypeError, "rvlib.Linf"),
    ("class for ball", {"threat": lambda threat: rv.Linf}, TypeError, "is no ball"),
    ("radii of others", {"threat": lambda t: rv.Linf(torch.ones(3))}, ValueError, "4 images"),
    ("class for object", {"model": lambda model: Network}, TypeError, "not an instance"),
    ("one logit", {"model": lambda m: Network(lambda z: z[:, :1])}, ValueError, "torch.cat"),
    ("no logits", {"model": lambda m: Network(lambda z: z[0])}, ValueError, r"\(B, K\)"),
    ("tuple", {"model": lambda m: Network(lambda z: (z, z))}, ValueError, r"\(B, K\)"),
    ("diverged", {"model": lambda m: Network(lambda z: z * torch.nan)}, ValueError, "NaN"),
    ("meta", {"y": lambda y: y.to("meta")}, ValueError, r"y.to\(x.device\)"),
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("name", "change", "error", "words"), MISTAKES, ids=lambda v: str(v)[:12])
def test_a_mistake_is_named_in_one_line(attack, name, change, error, words, batch):
    right = {"model": Network(), "x": batch[0], "y": batch[1], "threat": rv.Linf(0.1)}
    wrong = {key: change.get(key, lambda v: v)(value) for key, value in right.items()}
    with pytest.raises(error, match=words) as caught:
        ATTACKS[attack](*wrong.values())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_without_a_mistake_nothing_is_said(attack, batch):
    assert len(attack(Network(), *batch, rv.Linf(0.1))) == 4


@pytest.mark.parametrize(
    ("attack", "options", "words"),
    [
        (pgd, {"steps": 0}, "steps=0"),
        (robust_mask, {"steps": 0}, "steps=0"),
        (autoattack, {"version": "plus"}, "version='plus' is none of fast, standard, rand"),
        *((attack, {"threat": rv.PixelL2(0.1)}, "Linf and L2") for attack in (square, fab)),
        (pgd, {"restarts": 0}, "restarts=0"),
        (robust_mask, {"restarts": 0}, "restarts=0"),
        (pgd, {"restarts": 2, "random_start": False}, "random_start=True"),
        (square, {"queries": 0}, "queries=0"),
        (square, {"area": 1.1}, "area=1.1"),
        (smoothed_pgd, {"sigma": -0.1}, "sigma"),
        (smoothed_pgd, {"sigma": 0.1, "draws": 0}, "draws=0"),
        (robust_mask, {"restarts": 2, "random_start": False}, "random_start=True"),
        (robust_mask, {"mask": torch.ones(3, dtype=torch.bool)}, "one bool per image"),
        (pgd, {"loss": rv.towards, "targets": torch.tensor([1])}, "one per image"),
        (pgd, {"targets": torch.ones(4).long()}, "loss=rvlib.towards"),
        (apgd, {"targets": torch.ones(4).long()}, "loss=rvlib.towards"),
        (pgd, {"loss": rv.towards, "targets": torch.full((4,), 3)}, "label 3 is no class"),
        (pgd, {"loss": rv.towards, "targets": torch.ones(4, 2, dtype=torch.long)}, "one per image"),
        (apgd, {"loss": rv.towards, "targets": [1, 1, 1, 1]}, "no tensor of class indices"),
        (apgd, {"loss": rv.towards, "targets": torch.ones(4, 0)}, "no tensor of class indices"),
        (fab, {"targets": torch.full((4,), 9)}, "label 9 is no class"),
        (pgd, {"step_size": -0.01}, "step_size=-0.01"),
        (robust_mask, {"step_size": torch.ones(3)}, r"shape \(3,\) for 4 images"),
        *((attack, {"batch_size": 0}, "batch_size=0: give at least one") for attack in (pgd, apgd)),
        (smoothed_pgd, {"sigma": 0.1, "batch_size": -1}, "batch_size=-1: give at least one"),
        (apgd, {"loss": rv.targeted_dlr, "targets": torch.ones(4).long()}, "needs 4 classes"),
        *((attack, {"loss": nn.functional.cross_entropy}, "reduction") for attack in (pgd, apgd)),
    ],
)
def test_hyper_parameters_that_make_no_attack_are_refused(attack, options, words, batch):
    with pytest.raises((TypeError, ValueError), match=words):
        attack(Network(), *batch, **{"threat": rv.Linf(0.1)} | options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y: rv.certify(Network(), x, 0.25, n=1e3), TypeError, "n=1000.0 is no integer"),
        (lambda x, y: rv.certify(Network(), x, 0.25, n0=99.0), TypeError, "n=99.0 is no integer"),
        (lambda x, y: rv.trades(rv.Linf(0.1), steps=0), ValueError, "steps=0"),
        (lambda x, y: rv.Linf(np.array([0.1, 0.2])), TypeError, "eps is ndarray"),
        (lambda x, y: rv.register_model(partial(rv.lenet, 100)), TypeError, "has no name"),
        (lambda x, y: predictions(Network(), [], None, natural), ValueError, "no batch"),  # type: ignore[arg-type]
        (lambda x, y: predictions(Network(), [(x, y, y)], None, natural), TypeError, "labels"),  # type: ignore[arg-type]
    ],
)
def test_what_would_fail_later_or_darkly_is_named(call, error, words, batch):
    with pytest.raises(error, match=rf"{words}[^\n]*$"):
        call(*batch)


@pytest.mark.parametrize("error", [IndexError, KeyError, RuntimeError, ValueError, MemoryError])
def test_an_error_of_the_users_own_network_passes_through(error, batch):
    def fail(z):
        raise error("my own fault: shape [-1, 3, 4]")

    for attack in ATTACKS.values():
        with pytest.raises(error, match="my own fault") as caught:
            attack(Network(fail), *batch, rv.Linf(0.1))
        assert type(caught.value) is error


def ten(z):
    return torch.cat([z, z.new_zeros(len(z), 7)], 1)


@pytest.mark.parametrize("change", [lambda z: z.softmax(1), lambda z: ten(z).sigmoid()])
def test_probabilities_are_warned_of(change, batch):
    with pytest.warns(UserWarning, match="probabilities") as caught:
        fgsm(Network(change), *batch, rv.Linf(0.1))
    assert caught[0].filename == __file__  # where the caller can mend it
    fgsm(Network(lambda z: 2.1 * ten(z).sigmoid()), *batch, rv.Linf(0.1))


def test_a_euclidean_radius_without_its_255_is_warned_of():
    x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    with pytest.warns(UserWarning, match="255") as caught:
        fgsm(network, x, y, rv.L2(8))
    assert caught[0].filename == __file__
    fgsm(network, x, y, rv.L2(5))


def test_float32_rounding_of_pixels_is_no_mistake(batch):
    x = batch[0].clamp(0, 1)
    x[0, 0, 0] = 1 + 1e-7
    x[0, 1, 0] = -1e-7
    assert fgsm(Network(), x, batch[1], rv.Linf(0.1)).max() <= 1


def test_steps_and_radii_in_other_precision_are_taken(batch):
    x, y = batch
    radii = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
    x_adv = pgd(Network(), x, y, rv.Linf(radii), step_size=torch.full((4,), 0.1).double())
    assert not x_adv.requires_grad
    assert ((x_adv - x).abs() <= 0.1).all()


@pytest.mark.parametrize("label", [0, 1])
def test_no_mask_is_made_of_nan(label):
    def off_grey(x):
        z = nn.functional.one_hot(torch.full((len(x),), label), 2).to(x) * 3
        return torch.where(x.mean((1, 2, 3)) == 0.5, 0, torch.nan)[:, None] + z

    x, y = torch.full((4, 3, 2, 2), 0.5), torch.full((4,), label)
    with pytest.raises(ValueError, match="NaN"):
        robust_mask(made_of(off_grey), x, y, rv.Linf(0.1))


def test_the_look_at_a_network_draws_nothing():
    before = torch.get_rng_state()
    check_network(
        made_of(lambda x: torch.rand(len(x), 3)), torch.rand(2, 3, 4, 4, generator=seeded())
    )
    assert torch.equal(torch.get_rng_state(), before)
