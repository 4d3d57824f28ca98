"""rvlib.evaluation.empirical: the answers under attack, whatever the batches."""

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm, pgd
from rvlib.data import to_float
from rvlib.evaluation import attacked_batches, predictions
from rvlib.threat_models import L2, Linf

EPS = 8 / 255


def natural(model, x, y, generator):
    return x


def by_fgsm(model, x, y, generator):
    return fgsm(model, x, y, Linf(EPS))


def by_pgd(model, x, y, generator):
    return pgd(model, x, y, L2(0.2), steps=5, random_start=False)


def at_random(model, x, y, generator):
    """Change every image by its own draw from the generator."""
    return torch.rand(x.shape, generator=generator)


@pytest.fixture
def model():
    """Class 1 where the first of two pixels is the brighter one, else class 0."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def images():
    """Two pixels of 100 + d and 100, for d = -29, -27, ..., 29."""
    d = torch.arange(-29, 30, 2)
    pixels = torch.stack([100 + d, torch.full_like(d, 100)], dim=1)
    return pixels.to(torch.uint8).view(-1, 1, 1, 2)


@pytest.fixture
def labels(images):
    return (images[:, 0, 0, 0] > images[:, 0, 0, 1]).long()


def test_without_attack_the_answers_are_those_of_the_network(model, images, labels):
    answers = predictions(model, images, labels, natural)
    assert answers.dtype == torch.int64
    assert answers.tolist() == [0] * 15 + [1] * 15
    # The labels are no part of the answer.
    assert predictions(model, images, 1 - labels, natural).tolist() == answers.tolist()


def test_under_attack_those_within_reach_change(model, images, labels):
    # Both pixels move by 8 towards each other: differences below 16 change sign, 15 of 29 hold.
    answers = predictions(model, images, labels, by_fgsm)
    difference = images[:, 0, 0, 0].int() - images[:, 0, 0, 1].int()
    assert (answers == labels).tolist() == (difference.abs() > 16).tolist()
    assert 0 < (answers == labels).sum() < 30


@pytest.mark.parametrize("attack", [natural, by_fgsm, by_pgd])
@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_attacks_without_chance_do_not_depend_on_the_batch_size(
    model, images, labels, attack, batch_size
):
    answers = predictions(model, images, labels, attack, unit=batch_size)
    assert torch.equal(answers, predictions(model, images, labels, attack))
    batches = attacked_batches(model, images, labels, attack, unit=batch_size)
    x_adv = torch.cat([x for x, _ in batches])
    whole, _ = next(iter(attacked_batches(model, images, labels, attack)))
    assert torch.allclose(x_adv, whole, atol=1e-6)


@pytest.mark.parametrize("batch_size", [4, 30])
def test_batches_are_the_images_in_order(model, images, labels, batch_size):
    pairs = list(attacked_batches(model, images, labels, natural, unit=batch_size))
    assert max(len(x) for x, _ in pairs) == batch_size
    assert torch.equal(torch.cat([x for x, _ in pairs]), to_float(images))
    assert torch.equal(torch.cat([y for _, y in pairs]), labels)


def attacked(model, images, labels, **options):
    batches = attacked_batches(model, images, labels, at_random, unit=5, **options)
    return torch.cat([x for x, _ in batches])


def test_a_set_attacked_in_parts_is_attacked_as_in_the_whole(model, images, labels):
    whole = attacked(model, images, labels)
    for cut in (5, 10, 25):
        head = attacked(model, images[:cut], labels[:cut])
        tail = attacked(model, images[cut:], labels[cut:], first_id=cut)
        assert torch.equal(torch.cat([head, tail]), whole)
    assert not torch.equal(attacked(model, images[5:], labels[5:]), whole[5:])


def test_predictions_pass_first_id_and_seed_on(model, images, labels):
    def answers(images, labels, **options):
        return predictions(model, images, labels, at_random, unit=5, **options)

    whole = answers(images, labels)
    assert torch.equal(answers(images[10:], labels[10:], first_id=10), whole[10:])
    assert not torch.equal(answers(images[10:], labels[10:]), whole[10:])
    assert not torch.equal(answers(images, labels, seed=1), whole)


def test_batches_and_seeds_differ_and_come_again(model, images, labels):
    whole = attacked(model, images, labels)
    assert len(whole.unique(dim=0)) == 30
    assert torch.equal(attacked(model, images, labels), whole)
    assert not torch.equal(attacked(model, images, labels, seed=1), whole)


@pytest.mark.parametrize("attack", [natural, by_pgd])
def test_the_network_is_left_as_it_was(attack):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 2)
    ).train()
    model[1].eval().requires_grad_(False)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    images = torch.randint(0, 256, (6, 1, 1, 2), dtype=torch.uint8)
    answers = predictions(model, images, torch.zeros(6, dtype=torch.int64), attack, unit=4)
    assert not answers.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_network_answers_in_evaluation_mode(images, labels):
    class Mode(nn.Module):
        def __init__(self):
            super().__init__()
            self.parameter = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            answer = torch.zeros(len(x), 2)
            answer[:, int(self.training)] = 1
            return answer

    assert predictions(Mode().train(), images, labels, natural).tolist() == [0] * 30


def test_global_random_state_is_not_moved(model, images, labels):
    before = torch.get_rng_state()
    predictions(model, images, labels, at_random)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_without_parameters_is_evaluated():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.eye(3, 12))

        def forward(self, x):
            return x.flatten(1) @ self.weight.T

    images = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    found = predictions(Fixed(), images, labels, lambda model, x, y, generator: x)
    assert torch.equal(found, images.flatten(1)[:, :3].int().argmax(1))
