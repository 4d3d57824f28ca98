"""rvlib.evaluation.smoothed: votes under attack, and nested votes that lose no certificate."""

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm
from rvlib.data import to_float
from rvlib.evaluation import nested_votes, votes_under_attack
from rvlib.smoothing import ABSTAIN, certificate, sample_under_noise
from rvlib.threat_models import Linf

SIGMA = 0.25
NS = (100, 300, 1000)


class Tercile(nn.Module):
    """Tells dark, grey and bright first pixels apart by comparisons: no rounding, in any batch."""

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        bucket = torch.bucketize(x[:, 0, 0, 0].contiguous(), torch.tensor([1 / 3, 2 / 3]))
        return nn.functional.one_hot(bucket, 3).float()


def natural(model, x, y, generator):
    return x


def inverted(model, x, y, generator):
    return 1 - x


def at_random(model, x, y, generator):
    return torch.rand(x.shape, generator=generator)


@pytest.fixture
def images():
    """Twenty grey values, each a whole image."""
    values = torch.linspace(0, 255, 20).to(torch.uint8)
    return values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()


@pytest.fixture
def labels(images):
    """What the network answers without noise, but for every fifth image, which it gets wrong."""
    answers = Tercile()(to_float(images)).argmax(1)
    answers[::5] = (answers[::5] + 1) % 3
    return answers


# --- votes under attack --------------------------------------------------------------------------


def votes(images, labels, attack=natural, **options):
    return votes_under_attack(Tercile(), images, labels, attack, SIGMA, 200, **options)


def test_without_attack_the_votes_are_those_of_the_network(images, labels):
    counts = votes(images, labels)
    expected = sample_under_noise(Tercile(), to_float(images), SIGMA, 200, purpose="prediction")
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)
    assert counts.sum(1).tolist() == [200] * 20


def test_the_attacked_images_are_voted_on(images, labels):
    counts = votes(images, labels, inverted)
    expected = sample_under_noise(Tercile(), 1 - to_float(images), SIGMA, 200, purpose="prediction")
    assert torch.equal(counts, expected)


@pytest.mark.parametrize("attack", [natural, inverted])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_votes_do_not_depend_on_the_batch_size(images, labels, attack, batch_size):
    counts = votes(images, labels, attack, unit=batch_size)
    assert torch.equal(counts, votes(images, labels, attack))


def test_a_real_attack_does_not_depend_on_the_batch_size_either(images, labels):
    layer = nn.Linear(48, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 48, generator=torch.Generator().manual_seed(0)))
        layer.bias.zero_()
    model = nn.Sequential(nn.Flatten(), layer)

    def attack(model, x, y, generator):
        return fgsm(model, x, y, Linf(0.1))

    one, other = (
        votes_under_attack(model, images, labels, attack, SIGMA, 200, unit=size) for size in (3, 20)
    )
    # At most a vote or two an image lies so near the border that rounding decides.
    assert (one - other).abs().max() <= 2


@pytest.mark.parametrize("cut", [4, 12])
def test_parts_of_a_set_give_the_votes_of_the_whole(images, labels, cut):
    for attack in (natural, at_random):
        whole = votes(images, labels, attack, unit=4)
        head = votes(images[:cut], labels[:cut], attack, unit=4)
        tail = votes(images[cut:], labels[cut:], attack, unit=4, first_id=cut)
        assert torch.equal(torch.cat([head, tail]), whole)
    shifted = votes(images[cut:], labels[cut:], at_random, unit=4)
    assert not torch.equal(shifted, whole[cut:])


def test_another_seed_is_another_vote(images, labels):
    assert not torch.equal(votes(images, labels, seed=1), votes(images, labels))


# --- nested votes --------------------------------------------------------------------------------


def test_each_number_of_votes_is_the_head_of_one_stream(images):
    selection, counts = nested_votes(Tercile(), images, SIGMA, NS, n0=200)
    x = to_float(images)
    assert torch.equal(selection, sample_under_noise(Tercile(), x, SIGMA, 200, purpose="selection"))
    assert list(counts) == list(NS)
    for n in NS:
        assert torch.equal(counts[n], sample_under_noise(Tercile(), x, SIGMA, n))
    # Nested, hence each at least the one before.
    assert (counts[300] >= counts[100]).all()
    assert (counts[1000] >= counts[300]).all()


def test_the_selection_is_independent_of_the_estimation(images):
    selection, counts = nested_votes(Tercile(), images, SIGMA, (100,))
    assert (selection != counts[100]).any(1).sum() > 10


def test_images_selected_wrong_get_no_votes_beyond_the_smallest(images, labels):
    selection, counts = nested_votes(Tercile(), images, SIGMA, NS, labels=labels)
    everything = nested_votes(Tercile(), images, SIGMA, NS)[1]
    right = selection.argmax(1) == labels
    assert 0 < right.sum() < 20  # both are tried
    assert counts[100].sum(1).tolist() == [100] * 20
    for n in NS[1:]:
        assert torch.equal(counts[n][right], everything[n][right])
        assert (counts[n][~right] == 0).all()


def right_radii(selection, counts, labels):
    """Certified radius where the answer is right, else -1; what was not sampled is not right."""
    radii = torch.full((len(labels),), -1.0, dtype=torch.float64)
    sampled = counts.sum(1) > 0
    answers, radius = certificate(selection[sampled].numpy(), counts[sampled].numpy(), 0.05, SIGMA)
    right = (answers == labels[sampled].numpy()) & (answers != ABSTAIN)
    radii[sampled] = torch.where(torch.from_numpy(right), torch.from_numpy(radius), -1.0)
    return radii


@pytest.mark.parametrize("n", NS)
def test_skipping_leaves_certified_accuracy_as_it_is_at_every_radius(images, labels, n):
    whole = nested_votes(Tercile(), images, SIGMA, NS)
    skipping = nested_votes(Tercile(), images, SIGMA, NS, labels=labels)
    assert torch.equal(skipping[0], whole[0])
    radii = right_radii(whole[0], whole[1][n], labels)
    # Image by image the same, so the share above any radius is the same.
    assert torch.equal(right_radii(skipping[0], skipping[1][n], labels), radii)
    assert 3 < (radii > 0).sum() < 17


def test_no_image_right_and_every_image_right(images, labels):
    selection, whole = nested_votes(Tercile(), images, SIGMA, NS)
    chosen = selection.argmax(1)
    _, none = nested_votes(Tercile(), images, SIGMA, NS, labels=(chosen + 1) % 3)
    assert [int(none[n].sum()) for n in NS] == [2000, 0, 0]
    _, every = nested_votes(Tercile(), images, SIGMA, NS, labels=chosen)
    assert all(torch.equal(every[n], whole[n]) for n in NS)


@pytest.mark.parametrize("cut", [1, 8])
def test_parts_of_a_set_give_the_nested_votes_of_the_whole(images, labels, cut):
    selection, counts = nested_votes(Tercile(), images, SIGMA, NS, labels=labels)
    part = nested_votes(Tercile(), images[cut:], SIGMA, NS, labels=labels[cut:])
    assert torch.equal(part[0], selection[cut:])
    assert all(torch.equal(part[1][n], counts[n][cut:]) for n in NS)


def test_another_seed_is_another_sample(images):
    one = nested_votes(Tercile(), images, SIGMA, (100,))
    other = nested_votes(Tercile(), images, SIGMA, (100,), seed=1)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1][100], other[1][100])


@pytest.mark.parametrize("ns", [(1000, 100), (100, 100), (100, 150), (50,)], ids=str)
def test_numbers_that_do_not_ascend_in_hundreds_are_refused(images, ns):
    with pytest.raises(ValueError, match="whole hundreds") as caught:
        nested_votes(Tercile(), images, SIGMA, ns)
    assert "\n" not in str(caught.value)
