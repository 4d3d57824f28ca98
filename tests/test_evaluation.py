"""rvlib.evaluation: answers, votes and certificates under attack, whatever the batches."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

import rvlib as rv
from rvlib.evaluation import attacked_batches, checked_attack, counts_inside, nested_counts
from rvlib.smoothing import Certificates
from tests.networks import Scaled, Wrapped

SIGMA = 0.25


def natural(model, x, y):
    return x


def at_random(model, x, y, generator):
    """Change every image by its own draw from the generator."""
    return torch.rand(x.shape, generator=generator)


FGSM = partial(rv.fgsm, threat=rv.Linf(8 / 255))
PGD = partial(rv.pgd, threat=rv.L2(0.1), steps=5, random_start=False)


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
    return torch.stack([100 + d, torch.full_like(d, 100)], 1).to(torch.uint8).view(-1, 1, 1, 2)


@pytest.fixture
def labels(images):
    return (images[:, 0, 0, 0] > images[:, 0, 0, 1]).long()


# ---- answers ------------------------------------------------------------------------------------


def test_answers_are_those_of_the_network_to_attacked_images(model, images, labels):
    answers = rv.predictions(model, images, labels, natural)
    assert answers.dtype == torch.int64
    assert answers.tolist() == [0] * 15 + [1] * 15
    # The labels are no part of the answer.
    assert rv.predictions(model, images, 1 - labels, natural).tolist() == answers.tolist()
    # Both pixels move by 8 towards each other: differences below 16 change sign, 15 of 29 hold.
    answers = rv.predictions(model, images, labels, FGSM)
    difference = images[:, 0, 0, 0].int() - images[:, 0, 0, 1].int()
    assert (answers == labels).tolist() == (difference.abs() > 16).tolist()


@pytest.mark.parametrize("attack", [natural, FGSM, PGD])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_attacks_without_chance_do_not_depend_on_the_batch_size(
    model, images, labels, attack, batch_size
):
    pairs = [*attacked_batches(model, images, labels, attack, batch_size=batch_size)]
    assert max(len(x) for x, _ in pairs) == min(batch_size, 30)
    assert torch.equal(torch.cat([y for _, y in pairs]), labels)
    whole, _ = next(iter(attacked_batches(model, images, labels, attack)))
    torch.testing.assert_close(torch.cat([x for x, _ in pairs]), whole, rtol=0, atol=1e-6)
    answers = rv.predictions(model, images, labels, attack, batch_size=batch_size)
    assert torch.equal(answers, rv.predictions(model, images, labels, attack))


def attacked(model, images, labels, **options):
    pairs = attacked_batches(model, images, labels, at_random, batch_size=5, **options)
    return torch.cat([x for x, _ in pairs])


def test_randomness_is_addressed_by_seed_and_image(model, images, labels):
    state = torch.get_rng_state()
    whole = attacked(model, images, labels)
    assert len(whole.unique(dim=0)) == 30
    for cut in (5, 10, 25):
        head = attacked(model, images[:cut], labels[:cut])
        tail = attacked(model, images[cut:], labels[cut:], first_id=cut)
        assert torch.equal(torch.cat([head, tail]), whole)
    assert not torch.equal(attacked(model, images[5:], labels[5:]), whole[5:])
    assert not torch.equal(attacked(model, images, labels, seed=1), whole)
    assert torch.equal(torch.get_rng_state(), state)
    answers = partial(rv.predictions, model, attack=at_random, batch_size=5)
    tail = answers(images[10:], labels[10:], first_id=10)
    assert torch.equal(tail, answers(images, labels)[10:])


def test_float_images_and_loaders_give_the_same_answers(model, images, labels):
    expected = attacked(model, images, labels)
    assert torch.equal(attacked(model, rv.to_float(images), labels), expected)
    pairs = torch.utils.data.TensorDataset(rv.to_float(images), labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=5)
    found = torch.cat([x for x, _ in attacked_batches(model, loader, None, at_random)])
    assert torch.equal(found, expected)


def test_the_attack_meets_evaluation_mode_true_labels_and_copies(toy, batch):
    x, labels = batch
    told = []

    def attack(model, x, y):
        told.append((y.tolist(), model.training))
        x_adv = 1 - x
        x.zero_()
        y.zero_()
        model.train()  # as some do, and leave it so
        return x_adv

    before = [module.training for module in toy.modules()]
    state = {name: value.clone() for name, value in toy.state_dict().items()}
    for wrong in (labels, (toy.eval()(x).argmax(1) + 1) % 3):
        kept = wrong.clone()
        toy.train()
        toy[2][1].eval()
        answers = rv.predictions(toy, x, wrong, attack)
        assert told.pop() == (kept.tolist(), False)
        assert torch.equal(wrong, kept)
        assert torch.equal(x, batch[0])
        assert [module.training for module in toy.modules()] == before
        assert torch.equal(answers, toy.eval()(1 - x).argmax(1))
        counts = rv.vote_counts(toy.train(), x, wrong, attack, SIGMA, 100)
        assert told.pop() == (kept.tolist(), False)
        assert counts.sum(1).tolist() == [100] * 4
    assert all(torch.equal(value, state[name]) for name, value in toy.state_dict().items())


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda m, x, y: x + 0.1, "not in"),
        (lambda m, x, y: x * torch.nan, "not in"),
        (lambda m, x, y: x[:1], "no images of shape"),
        (lambda m, x, y: None, "no images of shape"),
    ],
)
def test_what_are_no_attacked_images_is_refused(model, images, labels, attack, words):
    images[0, 0, 0, 0] = 255
    with pytest.raises(ValueError, match=words):
        rv.predictions(model, images, labels, attack)


# ---- votes --------------------------------------------------------------------------------------


class Tercile(nn.Module):
    """Tells dark, grey and bright first pixels apart by comparisons: no rounding, in any batch."""

    def forward(self, x):
        bucket = torch.bucketize(x[:, 0, 0, 0].contiguous(), torch.tensor([1 / 3, 2 / 3]))
        return 5 * nn.functional.one_hot(bucket, 3).float()


@pytest.fixture
def greys():
    """Twenty grey values, each a whole image, and labels of which every fifth is wrong."""
    x = torch.linspace(0, 1, 20).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    y = Tercile()(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    return x, y


def inverted(model, x, y):
    return 1 - x


@pytest.mark.parametrize("batch_size", [3, 20])
def test_votes_are_on_attacked_images_whatever_the_batches(greys, batch_size):
    x, y = greys
    expected = rv.sample_under_noise(Tercile(), 1 - x, SIGMA, 200, purpose="prediction")
    found = rv.vote_counts(Tercile(), x, y, inverted, SIGMA, 200, batch_size=batch_size)
    assert torch.equal(found, expected)
    votes = partial(rv.vote_counts, Tercile(), attack=at_random, sigma=SIGMA, n=200, batch_size=4)
    whole = votes(x, y)
    assert torch.equal(votes(x[8:], y[8:], first_id=8), whole[8:])
    assert not torch.equal(votes(x, y, seed=1), whole)


NS = (100, 300, 1000)


def test_each_number_of_votes_is_the_head_of_one_stream(greys):
    x, _ = greys
    selection, counts = nested_counts(Tercile(), x, SIGMA, NS, n0=200, seed=2)
    sample = partial(rv.sample_under_noise, Tercile(), x, SIGMA, seed=2)
    assert torch.equal(selection, sample(200, purpose="selection"))
    assert list(counts) == list(NS)
    for n in NS:
        assert torch.equal(counts[n], sample(n))
    assert (counts[300] >= counts[100]).all()
    assert (nested_counts(Tercile(), x, SIGMA, (100,))[0] != counts[100]).any(1).sum() > 10


def test_images_selected_wrong_get_no_votes_beyond_the_smallest(greys):
    x, y = greys
    selection, counts = nested_counts(Tercile(), x, SIGMA, NS, labels=y)
    everything = nested_counts(Tercile(), x, SIGMA, NS)[1]
    right = selection.argmax(1) == y
    assert 0 < right.sum() < 20
    assert counts[100].sum(1).tolist() == [100] * 20
    for n in NS[1:]:
        assert torch.equal(counts[n][right], everything[n][right])
        assert not counts[n][~right].any()
    wrong = nested_counts(Tercile(), x, SIGMA, NS, labels=(selection.argmax(1) + 1) % 3)[1]
    assert [int(wrong[n].sum()) for n in NS] == [2000, 0, 0]


# ---- inside a certified ball --------------------------------------------------------------------


class HalfSpace(nn.Module):
    """Class 1 where the mean of the pixels exceeds one half; an image's distance is known."""

    def forward(self, x):
        margin = 20 * (x.flatten(1).mean(1) - 0.5) * x[0].numel() ** 0.5
        return torch.stack([-margin, margin], 1)


DISTANCES = torch.tensor([0.1, 0.2, 0.3, 0.4])
HALF_SPACE = (0.5 + DISTANCES / 192**0.5).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()


def inside(factor, **options):
    """Votes for class 1 just inside certificates of that many times the true radius."""
    found = Certificates(np.ones(4, dtype=np.int64), factor * DISTANCES.double().numpy())
    found.prediction[options.pop("without", [])] = rv.ABSTAIN
    return counts_inside(HalfSpace(), HALF_SPACE, found, SIGMA, **({"n": 2000} | options))


@pytest.mark.parametrize(("factor", "share"), [(1, 0.5), (1, 0.99), (1.5, 0.99), (0.5, 1)])
def test_the_attack_goes_as_far_as_it_may(factor, share):
    for row, distance in zip(inside(factor, share=share), DISTANCES.tolist(), strict=True):
        p = norm.cdf((1 - factor * share) * distance / SIGMA)  # what is left of the distance
        assert abs(row[1] / 2000 - p) < 5 * (p * (1 - p) / 2000) ** 0.5


def test_what_is_not_certified_gets_no_votes_and_no_one_elses_attack():
    whole, part = inside(0.9), inside(0.9, without=[1])
    assert part.sum(1).tolist() == [2000, 0, 2000, 2000]
    assert torch.equal(part[[0, 2, 3]], whole[[0, 2, 3]])
    certificates = Certificates(np.ones(2, dtype=np.int64), 0.9 * DISTANCES[2:].double().numpy())
    tail = counts_inside(HalfSpace(), HALF_SPACE[2:], certificates, SIGMA, first_id=2, n=2000)
    assert torch.equal(tail, whole[2:])


# ---- attacks from elsewhere ---------------------------------------------------------------------

BALLS = [rv.Linf(8 / 255), rv.L2(0.2), rv.PixelL2(0.045)]


def called(attack, threat, x, seed=0):
    checked = checked_attack(attack, threat)
    generator = torch.Generator().manual_seed(seed)
    return checked(nn.Flatten(), x, torch.zeros(len(x), dtype=torch.int64), generator)


@pytest.mark.parametrize("threat", BALLS, ids=lambda t: t.name)
def test_the_edge_of_the_ball_is_inside_and_what_is_beyond_is_refused(threat, batch):
    x = 0.3 + 0.4 * batch[0]
    delta = threat.eps * threat.steepest(torch.ones_like(x))
    torch.testing.assert_close(called(lambda m, x, y: x + delta, threat, x), x + delta)
    lengths = torch.tensor([1, 1, 1.01, 1]).view(4, 1, 1, 1)
    with pytest.raises(ValueError, match=f"left the ball {threat.name}"):
        called(lambda m, x, y: x + lengths * delta, threat, x)
    with pytest.raises(ValueError, match="left the ball"):
        called(lambda m, x, y: x.mul_(0), threat, x)  # in place, on a copy
    assert torch.equal(x, 0.3 + 0.4 * batch[0])


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda m, x, y: x + 0.02, "left the box"),
        (lambda m, x, y: x - 0.02, "left the box"),
        (lambda m, x, y: x * torch.nan, "left the ball"),
        (lambda m, x, y: x[:1], "returned"),
    ],
)
def test_attacks_from_elsewhere_are_not_trusted(attack, words, batch):
    with pytest.raises(ValueError, match=words):
        called(attack, rv.Linf(0.1), batch[0])


def test_attacks_from_elsewhere_leave_other_devices_generators_alone(batch, monkeypatch):
    seeded = list[int]()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    called(lambda m, x, y: x, rv.Linf(0.1), batch[0])
    assert not seeded


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_attacks_from_elsewhere_may_take_gradients_and_views(off, batch):
    def attack(model, x, y):
        x = x.view(len(x), -1).requires_grad_()
        (gradient,) = torch.autograd.grad(x.square().sum(), x)
        return (x + 0.1 * gradient.sign()).clamp(0, 1).view(4, 3, 4, 4)

    with off():
        x = batch[0].contiguous(memory_format=torch.channels_last).clone()
        found = called(attack, rv.Linf(0.1), x)
    torch.testing.assert_close(found, (batch[0] + 0.1 * batch[0].sign()).clamp(0, 1))


def test_their_randomness_is_the_generators(batch):
    def attack(model, x, y):
        return (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    state = torch.get_rng_state()
    one, same, other = (called(attack, rv.Linf(0.1), batch[0], seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def voted(m, x, y, ns, labels=None):
    return nested_counts(m, rv.to_float(x), SIGMA, ns, labels=labels)


def certified(m, x, y, count):
    found = Certificates(np.zeros(count, np.int64), np.full(count, 0.1))
    return counts_inside(m, rv.to_float(x[:4]), found, SIGMA, steps=1, n=100)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x, y: rv.predictions(m, x, None, natural), "images without labels"),
        (lambda m, x, y: rv.predictions(m, x[:0], y[:0], natural), "0 images"),
        (lambda m, x, y: rv.predictions(m, x, y + 6 * (y == y[-1]), natural), "label 7 is no"),
        (lambda m, x, y: rv.predictions(Scaled(m, torch.nan), x, y, natural), "NaN"),
        (lambda m, x, y: rv.predictions(m, x, y, natural, batch_size=0), "batch_size=0: give"),
        *[(partial(voted, ns=ns), "rise") for ns in ((1000, 100), (100, 100), (150, 300), ())],
        (lambda m, x, y: voted(m, x, y, [100], y[:3]), "labels have shape"),
        *[(partial(certified, count=n), f"{n} certificates for 4 images") for n in (3, 5)],
        (lambda m, x, y: inside(1, share=1.1), "share="),
    ],
)
def test_what_does_not_fit_is_named(model, images, labels, call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(model, images, labels)


class Object:
    """An attack of torchattacks' kind, made for a network."""

    def __init__(self, network):
        self.model = network

    def __call__(self, x, y):
        return x + 0 * torch.autograd.grad(self.model(x.requires_grad_()).sum(), x)[0]


def test_an_attack_made_for_a_network_that_overwrites_its_images_is_one_for_it(images, labels):
    model = Wrapped(nn.Flatten(), lambda x: x.sub_(0.5))
    made = Object(model)
    attack = rv.from_torchattacks(made, rv.Linf(0.1))
    expected = rv.predictions(model, images, labels, natural)
    assert torch.equal(rv.predictions(model, images, labels, attack), expected)
    assert made.model is model


class Straight(torch.autograd.Function):
    """Rounding that gives no gradient at all."""

    @staticmethod
    def forward(ctx, x):
        return (255 * x).round() / 255

    @staticmethod
    def backward(ctx, gradient):
        return None


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda model: Wrapped(model, Straight.apply)], ids=["script", "none"]
)
def test_attacks_on_networks_without_hooks_or_gradients(make, batch):
    x, y = batch
    checked = checked_attack(partial(rv.pgd, threat=rv.Linf(0.1)), rv.Linf(0.1))
    model = make(nn.Sequential(nn.Flatten(), nn.Linear(48, 3))).eval()
    found = checked(model, x, y, torch.Generator().manual_seed(0))
    assert found.shape == x.shape
