"""Faults that other tests would let pass: each of these was written because a mutant survived."""

import os

import pytest
import torch
from torch import nn

from rvlib.attacks import fgsm, smoothed_pgd, withstands
from rvlib.attacks.ascent import loss_gradient
from rvlib.evaluation import attacked_batches
from rvlib.report.curves import radii
from rvlib.rows import RowFile, Rows, read_rows
from rvlib.smoothing import certify_at
from rvlib.threat_models import Linf


def test_an_images_gradient_is_the_same_in_any_batch(toys, batch):
    # Steps go by the direction alone, so only the gradient itself shows a mean over the batch.
    x, y = batch[0].double(), batch[1]
    toy = toys().double().eval()
    alone = [loss_gradient(toy, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(loss_gradient(toy, x, y), torch.cat(alone))
    assert min(gradient.abs().max() for gradient in alone) > 1e-3


def test_who_falls_at_the_very_last_step_has_fallen(toys):
    x = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    toy, threat = toys().eval(), Linf(0.1)
    with torch.no_grad():
        y = toy(x).argmax(1)
        reached = toy(fgsm(toy, x, y, threat)).argmax(1)
    found = withstands(toy, x, y, threat, steps=1, step_size=0.1, random_start=False)
    assert torch.equal(found, reached == y)
    assert 0 < found.sum() < len(x)


def test_the_attack_on_the_vote_draws_other_noise_at_every_step(toys, batch):
    # Not only other bits: the images move a little between steps, and their copies with them.
    (x, y), toy, seen = batch, toys().eval(), []
    hook = toy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    generator = torch.Generator().manual_seed(0)
    smoothed_pgd(toy, x, y, Linf(1e-6), sigma=0.25, draws=8, steps=3, generator=generator)
    hook.remove()
    draws = torch.stack([copies - x.repeat_interleave(8, 0) for copies in seen[-3:]])
    assert draws.shape == (3, 32, 3, 4, 4)
    distances = torch.pdist(draws.flatten(2).flatten(0, 1))
    # Two draws of 48 pixels lie sqrt(2 * 48) sigma apart, by far more than half of that.
    assert distances.min() > 0.5 * 0.25 * 96**0.5


@pytest.mark.parametrize("right", [True, False])
def test_the_attack_is_told_the_labels_not_the_answers(toys, right):
    images = torch.randint(256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    images, toy, told = images.to(torch.uint8), toys().eval(), []
    answers = toy(images / 255).argmax(1)
    labels = answers if right else (answers + 1) % 3

    def attack(model, x, y, generator):
        told.append(y)
        return x

    batches = list(attacked_batches(toy, images, labels, attack, unit=4))
    assert torch.equal(torch.cat(told), labels)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_a_class_wrongly_selected_is_not_certified_by_the_votes_of_another():
    # Class 1 has 42 % of the votes: of a hundred it wins about one selection in twenty.
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.bias.copy_(torch.tensor([0.0, -0.5 - 0.25 * 0.2019]))
    x = torch.full((100, 1, 1, 1), 0.5)
    found = certify_at(
        nn.Sequential(nn.Flatten(), layer), x, 0.0, 0.25, most=5000, image_ids=range(100)
    )
    assert 1 <= (found.prediction == 1).sum() <= 15
    assert not found.certified[found.prediction == 1].any()
    assert found.certified[found.prediction == 0].mean() > 0.9


def test_the_figures_radii_are_of_the_class_that_the_selection_chose():
    # Most of the thousand votes are for the label, but the hundred before them chose another class.
    rows = [
        {"label": "0", "selection": selection, "counts_1000": "900 100"}
        for selection in ("60 40", "40 60")
    ]
    chosen, other = radii(Rows({"identity": {"sigma": 0.25}}, rows), 1000)
    assert chosen > 0.25
    assert other == -1


def test_rows_are_synced_to_the_disk_whole_before_append_returns(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    synced: list[int] = []
    file = RowFile(path, {}, {}, ["index"], 4)

    def fsync(descriptor):
        if os.path.sameopenfile(descriptor, at):
            synced.append(len(read_rows(path).rows))

    at = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(os, "fsync", fsync)
    for done in (2, 4):
        file.append([{"index": i} for i in range(done - 2, done)])
        assert synced[-1:] == [done]
    os.close(at)
