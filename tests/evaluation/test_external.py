"""rvlib.evaluation.external: attacks from elsewhere, held to the ball that they claim."""

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm
from rvlib.data import to_float
from rvlib.evaluation import from_callable, from_torchattacks, predictions
from rvlib.threat_models import L2, Linf, PixelL2

BALL = Linf(8 / 255)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture
def images():
    return torch.randint(0, 256, (12, 3, 4, 4), generator=seeded(), dtype=torch.uint8)


@pytest.fixture
def labels():
    return torch.arange(12) % 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def called(attack, model, x, threat=BALL, seed=0, **options):
    y = torch.zeros(len(x), dtype=torch.int64)
    return from_callable(attack, threat, **options)(model, x, y, seeded(seed))


def refusal(*arguments, **options):
    with pytest.raises(ValueError, match=" ") as caught:
        called(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_callable_is_evaluated_as_ours(model, images, labels):
    external = from_callable(lambda model, x, y: fgsm(model, x, y, BALL), BALL)
    found = predictions(model, images, labels, external, unit=5)
    ours = predictions(model, images, labels, lambda m, x, y, g: fgsm(m, x, y, BALL), unit=5)
    clean = predictions(model, images, labels, lambda m, x, y, g: x)
    assert torch.equal(found, ours)
    assert not torch.equal(found, clean)


def test_the_answers_are_of_the_images_returned(model, images, labels):
    """An attack that claims success has not got it: nothing but its images is looked at."""
    external = from_callable(lambda model, x, y: x, BALL)
    clean = model.eval()(to_float(images)).argmax(1)
    assert torch.equal(predictions(model, images, labels, external), clean)


@pytest.mark.parametrize("threat", [BALL, L2(0.5), PixelL2(0.045)])
def test_the_edge_of_the_ball_is_inside(model, images, threat):
    x = to_float(images)
    delta = threat.steepest(torch.randn(x.shape, generator=seeded())) * threat.eps
    called(lambda model, x, y: x + threat.project(delta), model, 0.3 + 0.4 * x, threat)
    x_adv = called(lambda model, x, y: (x + delta).clamp(0, 1), model, x, threat)
    assert threat.norm(x_adv - x).max() > 0.9 * threat.eps


@pytest.mark.parametrize("threat", [BALL, L2(0.5), PixelL2(0.045)])
def test_an_attack_that_leaves_its_ball_is_refused(model, images, threat):
    x = 0.3 + 0.4 * to_float(images)
    delta = threat.steepest(torch.ones_like(x))
    delta = delta / threat.norm(delta)[:, None, None, None] * threat.eps

    def one_image_too_far(model, x, y):
        lengths = torch.ones(len(x), 1, 1, 1)
        lengths[-1] = 1.01
        return x + lengths * delta

    message = refusal(one_image_too_far, model, x, threat)
    too_far = f"{0.01 * threat.eps:.2g} too far"
    assert message.startswith(f"one_image_too_far left the ball {threat.name}: an image moved by ")
    assert message.endswith(too_far)


@pytest.mark.parametrize(("shift", "far"), [(0.02, "by 0.02"), (-0.02, "by 0.02")])
def test_an_attack_that_leaves_the_box_is_refused(model, images, shift, far):
    images[0, 0, 0, :2] = torch.tensor([0, 255])
    message = refusal(lambda model, x, y: x + shift, model, to_float(images), name="shift")
    assert message.startswith(f"shift left the box [0, 1] {far}: pixels in [")


def test_an_attack_on_images_that_it_changes_in_place_is_measured_all_the_same(model, images):
    x = to_float(images)
    before = x.clone()

    def in_place(model, x, y):
        y.zero_()
        return x.mul_(0)

    assert "left the ball" in refusal(in_place, model, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda m, x, y: x * float("nan"), "left the ball"),
        (lambda m, x, y: (255 * x).to(torch.uint8), "uint8"),
        (lambda m, x, y: x[:1], r"returned (1, 3, 4, 4)"),
        (lambda m, x, y: (x, y), "returned tuple"),
        (lambda m, x, y: None, "returned NoneType"),
    ],
    ids=["nan", "bytes", "one image", "two results", "none"],
)
def test_what_are_no_attacked_images_is_refused(model, images, attack, words):
    assert words in refusal(attack, model, to_float(images))


def test_the_attack_sees_the_network_in_evaluation_mode_and_may_take_gradients(model, images):
    seen = []

    def attack(model, x, y):
        seen.append((any(m.training for m in model.modules()), torch.is_grad_enabled()))
        model.train()  # as some do, and leave it so
        return x

    with torch.no_grad():
        called(attack, model.train(), to_float(images))
    called(attack, model.eval(), to_float(images))
    assert seen == [(False, True)] * 2
    assert not any(m.training for m in model.modules())


def test_an_attack_that_leaves_training_mode_on_does_not_change_the_answers(model, images, labels):
    def attack(model, x, y):
        model.train()
        return x

    clean = model.eval()(to_float(images)).argmax(1)
    answers = predictions(model, images, labels, from_callable(attack, BALL))
    assert torch.equal(answers, clean)


def test_randomness_is_the_generators(model, images):
    def attack(model, x, y):
        return (x + BALL.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    x, before = to_float(images), torch.get_rng_state()
    one, same, other = (called(attack, model, x, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_come_in_the_layout_that_others_expect(model, images):
    x = to_float(images).contiguous(memory_format=torch.channels_last)
    called(lambda model, x, y: x.view(len(x), -1).view(x.shape), model, x)


def test_what_cannot_be_called_is_refused(model):
    with pytest.raises(TypeError, match="str, not a callable"):
        from_callable("pgd", BALL)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Linf holds no network"):
        from_torchattacks(BALL, BALL)
