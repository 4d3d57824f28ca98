"""rvlib.attacks.autoattack: known robust accuracies, masked gradients, and what the stages say."""

import inspect
import itertools
import math
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
from tests.networks import Scaled, Tied, Wrapped, autoattack, double, seeded

stages_of: Any = rv.autoattack_stages


module: Any = sys.modules["rvlib.attacks.autoattack"]  # its name is hidden by the function
STEPS, QUERIES, DRAWS = 12, 50, 2
"""Fewer than published: the tests are of who is attacked and judged, how, and by how many."""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Take fewer steps, search at random and ask a random network less often than published."""
    shorten(monkeypatch, STEPS, QUERIES)
    monkeypatch.setattr(module, "DRAWS", DRAWS)


def shorten(monkeypatch, steps, queries):
    monkeypatch.setattr(module, "QUERIES", queries)
    for name in ("apgd", "fab"):
        monkeypatch.setattr(module, name, partial(getattr(rv, name), steps=steps))


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


@pytest.mark.parametrize("classes", [2, 4])
def test_the_robust_accuracy_of_a_linear_network_in_linf_walls_and_all(classes):
    """A class wins somewhere in ball and box exactly if it wins in its own corner of both."""
    model, x = linear_network(classes, 12), double(40, 3, 2, 2, seed=7)
    z, w, eps = logits_of(model, x), model[1].weight.detach(), 0.1
    y = z.argmax(1)
    best = torch.full((40,), -torch.inf, dtype=torch.float64)
    for k in range(classes):
        normal = (w[k] - w[y]).view(-1, 3, 2, 2)
        corner = (x + eps * normal.sign()).clamp(0, 1)
        ahead = (z[:, k] - z.gather(1, y[:, None])[:, 0]) + ((corner - x) * normal).sum((1, 2, 3))
        best = torch.where(y == k, best, torch.maximum(best, ahead))
    assert best.abs().min() > 1e-4  # nobody within rounding of the boundary
    x_adv, stages = stages_of(model, x, y, Linf(eps), version="standard", generator=seeded())
    assert torch.equal(stages[2].stands, best < 0)  # the first two attacks suffice
    assert torch.equal(stages[-1].stands, best < 0)
    assert torch.equal(fooled(logits_of(model, x_adv), y), best > 0)
    assert 0 < stages[-1].stands.sum() < 40


@pytest.mark.parametrize("classes", [3, 10])
def test_the_robust_accuracy_of_a_linear_network_in_l2(classes):
    model, x = linear_network(classes, 12), 0.4 + 0.2 * double(40, 3, 2, 2, seed=8)
    z, w = logits_of(model, x), model[1].weight.detach()
    y = z.argmax(1)
    lengths = (w[y][:, None] - w).norm(dim=2)
    distance = ((z.gather(1, y[:, None]) - z) / lengths).nan_to_num(9, posinf=9).amin(1)
    eps = float(distance.sort().values[19:21].mean())
    assert eps < 0.4  # out of the walls' reach
    _, stages = stages_of(model, x, y, L2(eps), version="standard", generator=seeded())
    assert torch.equal(stages[2].stands, distance > eps)
    assert torch.equal(stages[-1].stands, distance > eps)
    assert stages[-1].stands.sum() == 20


def test_radii_may_be_one_an_image():
    model, x = linear_network(2, 12), 0.4 + 0.2 * double(20, 3, 2, 2)
    z = logits_of(model, x)
    normal = (model[1].weight[1] - model[1].weight[0]).detach()
    factor = torch.tensor([0.99, 1.01] * 10, dtype=torch.float64)
    for ball, order in ((Linf, 1), (L2, 2), (PixelL2, None)):
        steps = normal.view(3, 4).norm(dim=0).sum() if order is None else normal.norm(p=order)
        distance = (z[:, 0] - z[:, 1]).abs() / steps
        _, stages = stages_of(model, x, z.argmax(1), ball(factor * distance), generator=seeded())
        assert torch.equal(stages[-1].stands, factor < 1)


# ---- masked gradients ---------------------------------------------------------------------------


class Decoy(nn.Module):
    """Class 1 seems near and is out of reach; class 2 is reached on the other side, from afar."""

    def forward(self, x):
        m = x.mean((1, 2, 3)) - 0.5
        return torch.stack([0 * m, 5 * m - 1, -105 * m - 10, -9 + 0 * m], 1)


class Steps(nn.Module):
    """A linear network of coarse pixels: no gradient anywhere."""

    def forward(self, x):
        m = (x * 20).round().mean((1, 2, 3)) / 20
        return torch.stack([0 * m, 10 * m - 5.35], 1) + 0 * x.sum()


def masked(network, threat, version):
    x, y = torch.full((6, 3, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    pgd = rv.pgd(network, x, y, threat, steps=50, restarts=5, generator=seeded())
    _, stages = stages_of(network, x, y, threat, version=version, generator=seeded())
    return int((~fooled(network(pgd), y)).sum()), dict(
        zip(names(stages), counts(stages), strict=True)
    )


def test_a_decoy_deceives_the_cross_entropy_and_not_the_targets():
    pgd, stand = masked(Decoy(), Linf(0.1), "fast")
    assert pgd == 6
    assert stand == {"clean": 6, "apgd-ce": 6, "apgd-t": 0}


def test_without_a_gradient_the_random_search_decides():
    pgd, stand = masked(Steps(), Linf(0.12), "standard")
    assert pgd == 6
    assert (stand["apgd-t"], stand["fab-t"], stand["square"]) == (6, 6, 0)


@pytest.fixture
def many(toys):
    """A network of five classes, and thirty images that it reads right."""
    model = toys(5).eval().double()
    x = double(30, 3, 4, 4, seed=5)
    return model, x, logits_of(model, x).argmax(1)


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.12), PixelL2(0.04)], ids=lambda t: t.name)
def test_the_scale_of_the_logits_changes_nothing(many, threat):
    model, x, y = many
    stands = [
        stages_of(Scaled(model, k), x, y, threat, generator=seeded())[1][-1].stands
        for k in (1, 1e-4, 1e6)
    ]
    assert 0 < stands[0].sum() < len(x)
    for other in stands[1:]:
        assert torch.equal(other, stands[0])


@pytest.mark.parametrize("ball", [Linf, L2])
def test_a_larger_ball_takes_more(many, ball):
    model, x, y = many
    before = torch.ones_like(y, dtype=torch.bool)
    seen = []
    for eps in (0.0, 0.02, 0.04, 0.08) if ball is Linf else (0.0, 0.08, 0.16, 0.4):
        stands = stages_of(model, x, y, ball(eps), generator=seeded())[1][-1].stands
        assert not (stands & ~before).any()
        before = stands
        seen.append(int(stands.sum()))
    assert seen[0] == 30
    assert len(set(seen)) == 4


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


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_results_depend_on_the_seed_and_not_on_the_batch_size(many, version):
    given = many[0], many[1][:6], many[2][:6], Linf(0.08)
    first, _ = stages_of(*given, version=version, generator=seeded(1))
    again = autoattack(*given, version=version, generator=seeded(1), batch_size=3)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-9)
    other = autoattack(*given, version=version, generator=seeded(2))
    assert not torch.equal(first, other)


def test_everything_else_is_left_as_it_was(toy, batch):
    x, y = (part.clone() for part in batch)
    modes = [module.training for module in toy.modules()]
    state = torch.get_rng_state()
    expected = autoattack(toy, x, y, Linf(0.02), generator=seeded())
    assert [module.training for module in toy.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        x, y = (part.clone() for part in batch)  # of inference mode
        assert torch.equal(autoattack(toy, x, y, Linf(0.02), generator=seeded()), expected)
    assert torch.equal(x, batch[0])
    assert torch.equal(y, batch[1])


def test_a_network_may_overwrite_its_images(many):
    model, x, _ = many
    darker = [Wrapped(model, lambda x: 0.5 * x), Wrapped(model, lambda x: x.mul_(0.5))]
    y = logits_of(darker[0], x).argmax(1)
    results = [autoattack(m, x.clone(), y, Linf(0.2), generator=seeded()) for m in darker]
    assert torch.equal(*results)
    assert not torch.equal(results[0], x)


def test_a_tie_is_not_correct(batch):
    x, y = batch[0], torch.zeros(4, dtype=torch.int64)
    x_adv, stages = stages_of(Tied(), x, y, Linf(0.1))
    assert counts(stages) == [0, 0, 0]
    assert torch.equal(x_adv, x)


def test_an_unknown_version_is_named(batch, toys):
    with pytest.raises(ValueError, match="version='plus' is none of fast, standard, rand"):
        autoattack(toys(), *batch, Linf(0.1), version="plus")


# ---- few classes --------------------------------------------------------------------------------


RATIO = "on the difference of logits: the ratio needs 4 classes"


@pytest.mark.parametrize(
    ("classes", "targeted", "ratio"),
    [
        (2, f"1 of 9 targets, as there are 2 classes, {RATIO}", True),
        (3, f"2 of 9 targets, as there are 3 classes, {RATIO}", False),
        (4, "3 of 9 targets, as there are 4 classes", False),
        (9, "8 of 9 targets, as there are 9 classes", False),
        (10, "", False),
    ],
)
def test_what_few_classes_do_not_allow_is_said(classes, targeted, ratio, monkeypatch):
    shorten(monkeypatch, steps=2, queries=2)
    model, x = linear_network(classes, 12), double(2, 3, 2, 2)
    y = logits_of(model, x).argmax(1)
    found = {}
    for version in ("standard", "rand"):
        for stage in stages_of(model, x, y, Linf(1e-6), version=version)[1]:
            assert stage.stands.all()
            found[stage.name] = stage.note
    assert found["apgd-t"] == targeted
    assert found["fab-t"] == targeted.removesuffix(f", {RATIO}")
    assert found["apgd-dlr"] == ("margin: the ratio needs 3 classes" if ratio else "")
    assert found["clean"] == found["apgd-ce"] == found["square"] == ""


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


class Noisy(nn.Module):
    """A linear network whose answers are random: sd 1 where the clean image leads by 3."""

    def forward(self, x):
        m = x.mean((1, 2, 3))
        noise = torch.randn(len(x))
        return torch.stack([0 * m, 30 * (m - 0.6) + noise, 0 * m - 50], 1)


def test_a_random_network_falls_by_the_mean_of_its_answers():
    """Six deviations on the wrong side all fall; three on the right one nearly all stand."""
    x, y = torch.full((40, 3, 4, 4), 0.5), torch.zeros(40, dtype=torch.int64)
    assert math.isclose(30 * (0.5 - 0.6), -3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        far, near = (
            stages_of(Noisy(), x, y, Linf(eps), version="rand", generator=seeded())
            for eps in (0.3, 0.001)
        )
        assert names(far[1]) == ["clean", "apgd-ce", "apgd-dlr"]
        assert counts(far[1])[-1] == 0
        assert fooled(Noisy()(far[0]), y).float().mean() > 0.9
        assert counts(near[1])[-1] > 30


def test_of_one_target_there_is_one_part():
    model, x = linear_network(2, 12), double(2, 3, 2, 2)
    y = logits_of(model, x).argmax(1)
    _, stages = stages_of(model, x, y, Linf(1e-6))
    (few,) = (s.forwards for s in stages if s.name == "apgd-t")
    assert few == own_passes(STEPS, QUERIES)["apgd-ce"][0] + 1 + 1 / len(x)


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
