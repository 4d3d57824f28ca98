"""rvlib.attacks.autoattack: known robust accuracies, masked gradients, and what the stages say."""

import inspect
import itertools
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import rvlib as rv
from rvlib.attacks.gradient import fooled
from rvlib.inference import logits_of
from rvlib.sanity_checks import check_answers
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Tied, double, seeded

stages_of: Any = rv.autoattack_stages


module: Any = sys.modules["rvlib.attacks.autoattack"]  # its name is hidden by the function
STEPS, QUERIES, DRAWS = 12, 50, 2
"""Fewer than published: the tests are of who is attacked and judged, how, and by how many."""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Take fewer steps, search at random and ask a random network less often than published."""
    monkeypatch.setattr(module, "QUERIES", QUERIES)
    monkeypatch.setattr(module, "DRAWS", DRAWS)
    for name in ("apgd", "fab"):
        monkeypatch.setattr(module, name, partial(getattr(rv, name), steps=STEPS))


def linear_network(classes, pixels):
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(2 * double(classes, pixels, seed=classes) - 1)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def names(stages):
    return [stage.name for stage in stages]


def counts(stages):
    return [int(stage.stands.sum()) for stage in stages]


# ---- known robust accuracies --------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_robust_accuracy_of_a_linear_network_walls_and_all(classes):
    """A class wins somewhere in ball and box exactly if it wins in its own corner of both."""
    model, x = linear_network(classes, 12), double(40, 3, 2, 2, seed=7)
    z, w = logits_of(model, x), model[1].weight.detach()
    eps = 0.05 + 0.1 * double(40, seed=9)
    y = z.argmax(1)
    best = torch.full((40,), -torch.inf, dtype=torch.float64)
    for k in range(classes):
        normal = (w[k] - w[y]).view(-1, 3, 2, 2)
        corner = (x + eps[:, None, None, None] * normal.sign()).clamp(0, 1)
        ahead = (z[:, k] - z.gather(1, y[:, None])[:, 0]) + ((corner - x) * normal).sum((1, 2, 3))
        best = torch.where(y == k, best, torch.maximum(best, ahead))
    assert best.abs().min() > 1e-4  # nobody within rounding of the boundary
    x_adv, stages = stages_of(model, x, y, Linf(eps), version="standard", generator=seeded())
    assert torch.equal(stages[2].stands, best < 0)  # the first two attacks suffice
    assert torch.equal(stages[-1].stands, best < 0)
    assert torch.equal(fooled(logits_of(model, x_adv), y), best > 0)
    if classes == 2:  # the only other class needs no target
        _, stages = stages_of(model, x, y, Linf(eps), version="rand", generator=seeded())
        assert torch.equal(stages[-1].stands, best < 0)
    assert 0 < stages[-1].stands.sum() < 40


# ---- masked gradients ---------------------------------------------------------------------------


class Decoy(nn.Module):
    """Class 1 seems near and is out of reach; class 2 is reached on the other side, from afar."""

    def forward(self, x):
        m = x.mean((1, 2, 3)) - 0.5
        return torch.stack([0 * m, 5 * m - 1, -105 * m - 10, -9 + 0 * m], 1)


def test_a_decoy_deceives_the_cross_entropy_and_not_the_targets():
    x, y = torch.full((6, 3, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    assert counts(stages_of(Decoy(), x, y, Linf(0.1), generator=seeded())[1]) == [6, 6, 0]


@pytest.fixture
def many(toys):
    """A network of five classes, and thirty images that it reads right."""
    model = toys(5).eval().double()
    x = double(30, 3, 4, 4, seed=5)
    return model, x, logits_of(model, x).argmax(1)


# ---- what comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "threat"),
    [("standard", Linf(0.025)), ("standard", L2(0.125)), ("rand", PixelL2(0.0375))],
    ids=str,
)
def test_the_result_is_the_worst_case_in_ball_and_box(many, version, threat):
    model, x, y = many
    y = torch.where(torch.arange(30) < 5, (y + 1) % 5, y)  # five are misread as they are
    x_adv, stages = stages_of(model, x, y, threat, version=version, generator=seeded())
    assert torch.equal(fooled(model(x_adv), y), ~stages[-1].stands)
    assert torch.equal(x_adv[stages[-1].stands], x[stages[-1].stands])
    assert torch.equal(x_adv[:5], x[:5])
    assert (threat.norm(x_adv - x) <= threat.eps).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert counts(stages)[0] == 25
    for before, after in itertools.pairwise(stages):
        assert not (after.stands & ~before.stands).any()
        assert after.attacked == (0 if "left out" in after.note else before.stands.sum())


def test_a_tie_is_not_correct(batch):
    x, y = batch[0], torch.zeros(4, dtype=torch.int64)
    x_adv, stages = stages_of(Tied(), x, y, Linf(0.1))
    assert counts(stages) == [0, 0, 0]
    assert torch.equal(x_adv, x)


# ---- few classes --------------------------------------------------------------------------------


RATIO = ", on the difference of logits: the ratio needs 4 classes"


@pytest.mark.parametrize(
    ("attack", "classes", "note"),
    [
        ("apgd-t", 2, f"1 of 9 targets, as there are 2 classes{RATIO}"),
        ("apgd-t", 3, f"2 of 9 targets, as there are 3 classes{RATIO}"),
        ("apgd-t", 4, "3 of 9 targets, as there are 4 classes"),
        ("fab-t", 2, "1 of 9 targets, as there are 2 classes"),
        ("fab-t", 10, ""),
        ("apgd-dlr", 2, "margin: the ratio needs 3 classes"),
        *[("apgd-dlr", 3, ""), ("apgd-ce", 2, ""), ("square", 2, "")],
    ],
)
def test_what_few_classes_do_not_allow_is_said(attack, classes, note):
    assert module.shortcoming(attack, min(classes - 1, 9), Linf(0.1)) == note


def test_what_is_made_for_other_balls_is_left_out_and_said(many):
    _, stages = stages_of(*many, PixelL2(1e-4), version="standard")
    assert names(stages) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    for stage in stages[3:]:
        assert stage.note == "left out: it is for the balls Linf and L2"
        assert (stage.attacked, stage.forwards, stage.backwards) == (0, 0, 0)
        assert stage.stands.all()


# ---- passes -------------------------------------------------------------------------------------

PUBLISHED = {"apgd-ce": 202, "apgd-t": 1827, "fab-t": 2700, "square": 5001}
"""Worst case of the published code, forward and backward passes per image."""


def own_passes(steps, queries):
    """Forward and backward passes of each attack towards nine classes, beside what judges it."""
    return {
        "apgd-ce": (steps + 1, steps + 1),
        "apgd-t": (9 * (steps + 1), 9 * (steps + 1)),
        "fab-t": (9 * (2 * steps + 1), 9 * steps),
        "square": (queries + 1, 0),
    }


def test_passes_are_those_of_the_published_attacks(monkeypatch):
    model, x = linear_network(10, 12), double(2, 3, 2, 2)
    y = logits_of(model, x).argmax(1)
    _, stages = stages_of(model, x, y, Linf(1e-6), version="standard", generator=seeded())
    # Beside the attack's own: an image is judged after each part, one an attack checks the network.
    parts = {"apgd-ce": 1, "apgd-t": 2, "fab-t": 1, "square": 1}
    for stage in stages[1:]:
        extra = parts[stage.name] * (1 + 1 / len(x))
        own = own_passes(STEPS, QUERIES)[stage.name]
        assert (stage.forwards - extra, stage.backwards) == own
    assert (stages[0].forwards, stages[0].backwards) == (1, 0)
    _, stages = stages_of(model, x, y, Linf(1e-6), version="rand")
    assert [stage.backwards for stage in stages] == [0, *2 * [DRAWS * (STEPS + 1)]]
    monkeypatch.undo()  # as published
    assert module.DRAWS == 20
    steps, same = (inspect.signature(f).parameters["steps"].default for f in (rv.apgd, rv.fab))
    assert steps == same
    for name, passes in own_passes(steps, module.QUERIES).items():
        assert abs(sum(passes) / PUBLISHED[name] - 1) < 0.01


def test_nobody_works_on_the_fallen(many):
    model, x, y = many
    counting = rv.Passes(model)
    wrong = (y + 1) % 5
    x_adv, stages = stages_of(counting, x, wrong, Linf(0.1), version="standard")
    assert counting.forwards == 1 + len(x)  # the check of one image, and the first answers
    assert counts(stages) == [0] * 5
    assert torch.equal(x_adv, x)
    wrong[:3] = y[:3]
    counting.forwards = counting.backwards = 0
    _, stages = stages_of(counting, x, wrong, Linf(1e-6), version="fast")
    assert [stage.attacked for stage in stages] == [30, 3, 3]
    assert counting.backwards == 3 * 5 * (STEPS + 1)


# ---- random networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["fast", "standard"])
def test_classes_that_are_left_out_are_no_targets(version, batch):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))

    class Masked(nn.Module):
        def forward(self, x):
            return plain(x).index_fill(1, torch.tensor([4, 5]), -torch.inf)

    x, y = batch[0], Masked()(batch[0]).argmax(1)
    found = rv.autoattack(Masked(), x, y, Linf(0.3), version=version, generator=seeded())
    assert fooled(Masked()(found), y).any()
    check_answers(Masked().eval(), x)
