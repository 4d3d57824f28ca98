"""rvlib.sanity_checks: a sound evaluation passes, and every planted fault is found."""

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from rvlib.attacks import pgd
from rvlib.checks import OnCopies
from rvlib.inference import eval_mode
from rvlib.sanity_checks import to_8_bits
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Scaled, Tied, Wrapped, held_out, shipped

module = importlib.import_module("rvlib.sanity_checks")
sanity: Any = module.sanity  # called with ``*images``, which mypy cannot count
BALL = Linf(0.03)
COUNT = 24
NONE = torch.zeros(COUNT, dtype=torch.bool)
QUICK: dict[str, Any] = {"steps": 5, "restarts": 2, "queries": 50, "fallen": NONE}
"""Few steps, and no ensemble."""
NAMES = [
    *["ball and box", "more steps", "more restarts", "larger radius", "large radius"],
    *["one step", "random noise", "no gradients", "zero gradients", "8 bits"],
    *["label leaking", "own answer"],
]


@pytest.fixture(scope="module")
def images():
    """Held-out images, of which one may go astray; no class has more than seven of them."""
    return held_out(COUNT, 100)


@pytest.fixture
def robust():
    return shipped("pgd-linf-at")


@pytest.fixture
def standard():
    return shipped("standard")


def failed(model, images, threat=BALL, **options):
    return {c.name for c in sanity(model, *images, threat, **(QUICK | options)) if not c.passed}


@pytest.mark.parametrize("threat", [BALL, L2(0.5), PixelL2(0.045)], ids=lambda t: t.name)
def test_sound_evaluations_pass(standard, robust, images, threat):
    state = torch.get_rng_state()
    checks = sanity(robust, *images, threat, **QUICK, transfer_from=standard)
    expected = [*NAMES[:8], "transfer", *NAMES[8:]]
    if isinstance(threat, PixelL2):
        expected.remove("no gradients")
    assert [check.name for check in checks] == expected
    assert [check for check in checks if not check.passed] == []
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in robust.modules())
    clean = 100 * (robust(images[0]).argmax(1) == images[1]).double().mean().item()
    finding = {check.name: check.finding for check in checks}
    assert f"accuracies {clean:.1f} % and " in finding["label leaking"]
    if threat is BALL:
        assert sanity(robust, *images, threat, **QUICK, transfer_from=standard) == checks


def test_the_ensemble_beats_an_attack_that_is_too_weak(robust):
    assert "ensemble" in failed(robust, held_out(2, 44), fallen=None)  # they fall to it alone


# --- planted faults: networks --------------------------------------------------------------------


def rounded(x):
    """Round to 64 levels: the answers are much as before, the gradient is zero everywhere."""
    return (63 * x).round() / 63


def reversed_gradient(x):
    """Give `x`, with a gradient that points downhill."""
    return 2 * x.detach() - x


def stored(x):
    return ((255 * x).round() - 255 * x).abs().flatten(1).amax(1)[:, None, None, None] < 1e-3


def one_step_only(x):
    """Give the true gradient at stored images alone, elsewhere the reverse of it."""
    return torch.where(stored(x), x, reversed_gradient(x))


def grey_between_levels(x):
    """Give the image where it could be in a file, else an image that says nothing."""
    return torch.where(stored(x), x, 0 * x)


@pytest.mark.parametrize("threat", [BALL, L2(0.5), PixelL2(0.045)], ids=lambda t: t.name)
def test_networks_without_gradients_are_found(standard, threat):
    options: dict[str, Any] = {"fallen": torch.zeros(40, dtype=torch.bool)}
    options["transfer_from"] = standard
    found = failed(Wrapped(standard, rounded).eval(), held_out(40, 100), threat, **options)
    assert {"zero gradients", "large radius", "transfer"} <= found
    assert ("no gradients" in found) == (not isinstance(threat, PixelL2))


def test_what_fell_to_attacks_of_your_own_counts(standard, images):
    spoilt = Wrapped(standard, rounded).eval()
    found = failed(spoilt, images, transfer_from=standard, fallen=~NONE)
    assert "zero gradients" in found
    assert not {"no gradients", "transfer"} & found


def test_a_reversed_gradient_is_found(standard, images):
    found = failed(Wrapped(standard, reversed_gradient).eval(), images)
    assert {"label leaking", "own answer", "random noise", "large radius"} <= found
    assert "zero gradients" not in found


def test_gradients_for_one_step_alone_are_found(standard, images):
    found = failed(Wrapped(standard, one_step_only).eval(), images)
    assert "one step" in found
    assert "label leaking" not in found


def test_an_attack_between_the_levels_of_a_file_is_found(robust, images):
    assert "8 bits" in failed(Wrapped(robust, grey_between_levels).eval(), images)


# --- planted faults: attacks ---------------------------------------------------------------------

FAULTS: list[Any] = [
    ("ball and box", lambda m, x, y, t, o: x + 1.1 * t.eps),
    ("ball and box", lambda m, x, y, t, o: x * torch.nan),
    ("more steps", lambda m, x, y, t, o: x if o["steps"] > 5 else pgd(m, x, y, t, **o)),
    ("more restarts", lambda m, x, y, t, o: x if "restarts" in o else pgd(m, x, y, t, **o)),
    ("larger radius", lambda m, x, y, t, o: x if t.eps == 0.06 else pgd(m, x, y, t, **o)),
    ("large radius", lambda m, x, y, t, o: x if t.eps == 0.5 else pgd(m, x, y, t, **o)),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_spoilt_attack_is_found(name, fault, standard, images, monkeypatch):
    monkeypatch.setattr(module, "pgd", lambda *args, **options: fault(*args, options))
    found = failed(standard, images)
    assert found == {name} if name != "ball and box" else name in found


# --- what has no accuracy ------------------------------------------------------------------------


class OfTheBatch(Wrapped):
    def forward(self, x):
        logits = self.network(x)
        return logits - logits.mean(0) if len(x) > 1 else logits


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.train(), "training mode"),
        (lambda m: m[:-1].eval().append(m[-1].train()), r"training mode \(Linear\)"),
        (lambda m: Wrapped(m, lambda x: x + torch.randn_like(x) / 99).eval(), "different answers"),
        (lambda m: OfTheBatch(m).eval(), "other images of the batch"),
        (lambda m: Scaled(m, torch.nan).eval(), "NaN"),
        (lambda m: Scaled(m, torch.inf).eval(), "NaN|different"),
    ],
)
def test_a_network_that_has_no_accuracy_is_refused(standard, images, spoil, words):
    with pytest.raises(ValueError, match=words):
        failed(spoil(standard), images)


def test_a_network_of_whole_batches_is_refused_at_their_size():
    model = OfTheBatch(nn.Sequential(nn.Flatten(), nn.Linear(12, 3))).eval()
    x = torch.rand(512, 3, 2, 2)
    with pytest.raises(ValueError, match="other images of the batch"):
        sanity(model, x, torch.zeros(512, dtype=torch.long), BALL)


# --- the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [Linf(0.03), Linf(1 / 255), L2(0.5), PixelL2(0.045), Linf(0.5)])
def test_images_of_8_bits_are_whole_levels_in_the_ball(images, ball):
    x = images[0][:10]
    x_adv = (x + ball.sample(x, torch.Generator().manual_seed(0))).clamp(0, 1)
    for moved in (x_adv, (x + 0.01).clamp(0, 1), (x - 0.01).clamp(0, 1)):
        found = to_8_bits(moved, x, ball)
        assert (255 * found - (255 * found).round()).abs().max() < 1e-4
        assert (ball.norm(found - x) <= ball.eps * (1 + 1e-4)).all()
        assert found.min() >= 0
        assert found.max() <= 1
    # Where the image itself lies between levels, none of them is passed.
    between = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    small = L2(0.1)
    x_adv = (between + small.sample(between)).clamp(0, 1)
    assert (small.norm(to_8_bits(x_adv, between, small) - between) <= 0.1 * (1 + 1e-4)).all()
    # The whole of the radius that levels have is used.
    grey = torch.full((1, 1, 1, 1), 128 / 255)
    assert (255 * (to_8_bits(grey + 0.03, grey, Linf(0.03)) - grey)).round().item() == 7


@pytest.mark.parametrize(("count", "excused"), [(1, 0), (19, 0), (20, 1), (100, 1), (101, 2)])
def test_of_few_images_none_is_excused(standard, count, excused):
    x, y = torch.rand(count, 3, 2, 2), torch.zeros(count, dtype=torch.int64)
    base = module._Base(standard, x, y, Linf(0.1), 1, 1.0, 0)
    weak, strong = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    weak[:excused] = True
    assert base.compare("one", "weak", weak, "strong", strong).passed
    if excused < count:
        weak[excused] = True
        assert not base.compare("one", "weak", weak, "strong", strong).passed
        assert base.compare("one", "strong", strong, "weak", weak).passed


@pytest.mark.parametrize("wrap", [lambda model: model.eval(), OnCopies], ids=["by us", "before"])
def test_a_network_that_overwrites_its_images_is_checked(wrap, images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model = wrap(Wrapped(network, lambda x: x.sub_(0.5)))
    with eval_mode(model):
        assert sanity(model, *images, **QUICK)


def test_a_tie_is_not_correct():
    x, y = torch.rand(24, 3, 4, 4), torch.zeros(24, dtype=torch.int64)
    found = {check.name: check.finding for check in sanity(Tied().eval(), x, y, **QUICK)}
    assert "accuracies 0.0 % and 0.0 %" in found["more steps"]
    assert "accuracies 0.0 % and 0.0 %" in found["label leaking"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        *[({"threat": Linf(eps)}, "one radius") for eps in (0.0, torch.full((COUNT,), 0.03))],
        ({"fallen": torch.zeros(1, dtype=torch.bool)}, "one bool per image"),
        ({"fallen": torch.zeros(COUNT)}, "one bool per image"),
    ],
)
def test_options_that_make_no_check_are_named(standard, images, options, words):
    with pytest.raises(ValueError, match=words):
        failed(standard, images, **options)


def test_half_precision_has_no_levels_of_8_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).bfloat16().eval()
    x, y = torch.rand(24, 3, 4, 4).bfloat16(), torch.zeros(24, dtype=torch.int64)
    assert "8 bits" not in [check.name for check in sanity(model, x, y, **QUICK)]
