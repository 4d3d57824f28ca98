"""rvlib.evaluation.sanity: a sound evaluation passes, and every planted fault is found."""

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from rvlib.attacks import pgd
from rvlib.evaluation import sanity
from rvlib.evaluation.sanity import check_answers, to_8_bits
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf

# The function of the same name stands before the module.
module = importlib.import_module("rvlib.evaluation.sanity")

BALL = Linf(0.03)
QUICK: dict[str, Any] = {"steps": 5, "restarts": 2, "queries": 100}
NAMES = [
    "ball and box",
    "more steps",
    "more restarts",
    "larger radius",
    "large radius",
    "one step",
    "random noise",
    "no gradients",
    "zero gradients",
    "8 bits",
    "label leaking",
    "own answer",
]


@pytest.fixture(scope="module")
def run():
    return Run.open("course", "cpu")


@pytest.fixture(scope="module")
def images(run):
    """The report's first 100 images: one of them may go astray."""
    return run.images(100)


@pytest.fixture
def robust(run):
    return run.model("pgd-linf-at")


@pytest.fixture
def standard(run):
    return run.model("standard")


def failed(model, images, **options):
    checks = sanity(model, images[0], images[1], BALL, **(QUICK | options))
    return {check.name for check in checks if not check.passed}


def test_sound_evaluations_pass(standard, robust, images):
    for model, other in ((standard, robust), (robust, standard)):
        checks = sanity(model, images[0], images[1], BALL, **QUICK, transfer_from=other)
        assert [check.name for check in checks] == [*NAMES[:8], "transfer", *NAMES[8:]]
        assert [check for check in checks if not check.passed] == []
        assert all("\n" not in check.finding + check.expectation for check in checks)


def test_findings_are_the_counts(robust, images):
    x, y = images
    checks = {check.name: check for check in sanity(robust, x, y, BALL, **QUICK)}
    clean = 100 * (robust(x).argmax(1) == y).double().mean().item()
    assert f"accuracies {clean:.1f} % and " in checks["label leaking"].finding
    assert checks["larger radius"].finding.count("% at 0.0") == 3
    assert "at most 1 wrong" in checks["more steps"].expectation


# --- planted faults: networks --------------------------------------------------------------------


class Wrapped(nn.Module):
    """A network behind a layer that spoils its gradients, or its answers."""

    def __init__(self, model, layer=lambda x: x, scale=1.0):
        super().__init__()
        self.model, self.layer, self.scale = model, layer, scale
        self.eval()

    def forward(self, x):
        return self.scale * self.model(self.layer(x))


def rounded(x):
    """Round to 64 levels: the answers are much as before, the gradient is zero everywhere."""
    return (63 * x).round() / 63


def reversed_gradient(x):
    """Give `x`, with a gradient that points downhill."""
    return 2 * x.detach() - x


def one_step_only(x):
    """Give the true gradient at stored images alone, elsewhere the reverse of it."""
    stored = ((255 * x).round() - 255 * x).abs().flatten(1).amax(1) < 1e-3
    return torch.where(stored[:, None, None, None], x, reversed_gradient(x))


def grey_between_levels(x):
    """Give the image where it could be in a file, else an image that says nothing."""
    stored = ((255 * x).round() - 255 * x).abs().flatten(1).amax(1) < 1e-3
    return torch.where(stored[:, None, None, None], x, 0 * x)


def test_a_rounding_layer_is_found(standard, images):
    found = failed(Wrapped(standard, rounded), images, transfer_from=standard)
    assert {"zero gradients", "no gradients", "large radius", "transfer"} <= found


def test_saturated_answers_are_found(standard, images):
    found = failed(Wrapped(standard, scale=1e4), images)
    assert {"zero gradients", "no gradients"} <= found


def test_a_reversed_gradient_is_found(standard, images):
    found = failed(Wrapped(standard, reversed_gradient), images)
    faults = {"label leaking", "own answer", "random noise", "large radius", "larger radius"}
    assert faults | {"no gradients"} <= found
    assert "zero gradients" not in found


def test_gradients_for_one_step_alone_are_found(standard, images):
    found = failed(Wrapped(standard, one_step_only), images)
    assert "one step" in found
    assert "label leaking" not in found


def test_an_attack_between_the_levels_of_a_file_is_found(robust, images):
    assert "8 bits" in failed(Wrapped(robust, grey_between_levels), images)
    assert "8 bits" not in failed(robust, images)


# --- planted faults: attacks ---------------------------------------------------------------------


def spoilt(monkeypatch, fault):
    """Put another PGD in the place of the one that is checked."""

    def attack(model, x, y, threat, **options):
        return fault(model, x, y, threat, options)

    monkeypatch.setattr(module, "pgd", attack)


def test_an_attack_that_leaves_the_ball_is_found(standard, images, monkeypatch):
    spoilt(monkeypatch, lambda m, x, y, threat, o: pgd(m, x, y, Linf(1.01 * threat.eps), **o))
    assert failed(standard, images) == {"ball and box"}


def test_an_attack_that_leaves_the_box_is_found(standard, images, monkeypatch):
    spoilt(monkeypatch, lambda m, x, y, threat, o: x + threat.eps)
    checks = {check.name: check for check in sanity(standard, images[0], images[1], BALL, **QUICK)}
    assert not checks["ball and box"].passed
    assert "one by 0.03 lies outside" in checks["ball and box"].finding


def test_nan_is_no_attack(standard, images, monkeypatch):
    spoilt(monkeypatch, lambda m, x, y, threat, o: x * float("nan"))
    assert "ball and box" in failed(standard, images)


def test_steps_that_cancel_are_found(standard, images, monkeypatch):
    def fault(model, x, y, threat, options):
        stays = options["steps"] > QUICK["steps"]
        return x if stays else pgd(model, x, y, threat, **options)

    spoilt(monkeypatch, fault)
    assert failed(standard, images) == {"more steps"}


def test_restarts_that_forget_the_worst_are_found(standard, images, monkeypatch):
    def fault(model, x, y, threat, options):
        again = options.get("restarts", 1) > 1
        return x if again else pgd(model, x, y, threat, **options)

    spoilt(monkeypatch, fault)
    assert failed(standard, images) == {"more restarts"}


@pytest.mark.parametrize(("eps", "name"), [(0.06, "larger radius"), (0.5, "large radius")])
def test_a_radius_at_which_the_attack_fails_is_found(standard, images, monkeypatch, eps, name):
    def fault(model, x, y, threat, options):
        return x if threat.eps == eps else pgd(model, x, y, threat, **options)

    spoilt(monkeypatch, fault)
    assert failed(standard, images) == {name}


# --- what has no accuracy ------------------------------------------------------------------------


def refusal(model, images):
    with pytest.raises(ValueError, match="the network") as caught:
        sanity(model, images[0], images[1], BALL, **QUICK)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_in_training_mode_is_refused(standard, images):
    assert "in training mode" in refusal(standard.train(), images)
    standard.eval()
    last = next(reversed(list(standard.modules())))
    last.train()  # one part is enough
    assert f"({type(last).__name__}): call model.eval()" in refusal(standard, images)


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_a_network_that_answers_twice_differently_is_refused(standard, images, sigma):
    state = torch.get_rng_state()
    noisy = Wrapped(standard, lambda x: x + sigma * torch.randn_like(x))
    assert "answers twice differently" in refusal(noisy, images)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_numbers_are_no_answers(standard, images):
    assert "NaN" in refusal(Wrapped(standard, scale=float("nan")), images)
    assert "answers twice differently" in refusal(Wrapped(standard, scale=float("inf")), images)


def test_a_network_of_one_answer_is_taken(standard, images):
    check_answers(standard, images[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threat": Linf(0)}, ValueError, "eps=0 leaves no attack"),
        ({"threat": L2(0.5)}, TypeError, "these checks are for the ball Linf"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"queries": 0}, ValueError, "queries=0"),
        ({"restarts": 0}, ValueError, "restarts=0"),
    ],
    ids=str,
)
def test_what_makes_no_check_is_refused(standard, images, change, error, words):
    with pytest.raises(error, match=words):
        sanity(standard, *(t[:2] for t in images), **({"threat": BALL} | change))


# --- the rest ------------------------------------------------------------------------------------


def test_the_seed_says_everything_and_nothing_is_left_changed(robust, images):
    x, y = images[0][:20], images[1][:20]
    state = {name: value.clone() for name, value in robust.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in robust.parameters()]
    before = torch.get_rng_state()
    one, same = (sanity(robust, x, y, BALL, **QUICK, seed=2) for _ in range(2))
    assert one == same
    assert torch.equal(torch.get_rng_state(), before)
    assert [parameter.requires_grad for parameter in robust.parameters()] == wanted
    assert all(torch.equal(value, state[name]) for name, value in robust.state_dict().items())


@pytest.mark.parametrize("eps", [0.03, 8 / 255, 1 / 255, 0.5])
def test_images_of_8_bits_are_whole_levels_in_the_ball(images, eps):
    x = images[0][:10]
    ball = Linf(eps)
    x_adv = (x + ball.sample(x, torch.Generator().manual_seed(0))).clamp(0, 1)
    for moved in (x_adv, (x + eps).clamp(0, 1), (x - eps).clamp(0, 1)):
        stored = to_8_bits(moved, x, ball)
        assert (255 * stored - (255 * stored).round()).abs().max() < 1e-4
        assert ball.norm(stored - x).max() <= eps + 1e-6
        assert (stored - moved).abs().max() < 1 / 255
        assert stored.min() >= 0
        assert stored.max() <= 1
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
