"""rvlib.course.lessons: on a linear network every number is known."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rvlib.attacks import fgsm, pgd
from rvlib.course import lessons
from rvlib.experiments import ATTACKS, LINF, SIGMA, table1_cells
from rvlib.objectives import standard
from rvlib.pipeline import Accuracy, Run
from rvlib.smoothing import log_e_value, sample_under_noise, stream
from rvlib.threat_models import L2, Linf, PixelL2

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lesson(linear):
    """Network, images in the middle of the box, labels as answered, and each image's distance."""
    network, normal = linear
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 3, 2, 2, generator=generator, dtype=torch.float64)
    x = 0.45 + 0.1 * noise
    with torch.no_grad():
        y = network(x).argmax(1)
        margin = (network(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).abs()
    return network, x, y, margin / normal.abs().sum()


def test_an_image_falls_at_its_distance(lesson):
    network, x, y, distance = lesson
    ends = distance.sort().values
    radii = [0.0, *((ends[1:] + ends[:-1]) / 2).tolist(), 0.4]
    found = lessons.sweep(network, y, lambda eps: fgsm(network, x, y, Linf(eps)), radii)
    assert ends[-1] < 0.4  # so the walls of the box are not reached
    expected = [100.0, *(100 * (8 - i) / 8 for i in range(1, 8)), 0.0]
    assert found == pytest.approx(expected)


def test_a_sweep_leaves_the_network_as_it_was(toy, batch):
    x, y = batch
    before = [module.training for module in toy.modules()]
    found = lessons.sweep(toy, y, lambda eps: x, [0.0, 0.1])
    assert found[0] == found[1]  # in evaluation mode, without dropout
    assert [module.training for module in toy.modules()] == before


def test_losses_known_by_heart(lesson):
    # Every step moves all pixels by step_size against the answer: the margin falls by that much
    # times the sum of |w| and stays where the ball ends.
    network, x, y, distance = lesson
    found = lessons.losses_by_step(network, x, y, Linf(0.1), steps=3, step_size=0.04)
    scale = (network[1].weight[1] - network[1].weight[0]).abs().sum().item()
    for t, loss in enumerate(found):
        margin = scale * (distance - min(0.04 * t, 0.1))
        assert loss == pytest.approx(F.softplus(-margin).mean().item())
    assert found == sorted(found)
    assert len(found) == 4


def test_of_all_directions_the_corner_gains_most_and_no_more_than_the_gradients_length(lesson):
    network, x, y, distance = lesson
    table = lessons.compare_directions(network, x, y, (1e-4, 0.1), torch.Generator().manual_seed(0))
    with torch.enable_grad():
        z = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(z), y, reduction="sum"), z)
    length = gradient.abs().flatten(1).sum(1).mean().item()
    corner, itself, random = table["if linear"][3:]
    assert corner == pytest.approx(0.1 * length)
    assert corner > itself > abs(random)
    # So short a step that no loss bends.
    np.testing.assert_allclose(table["measured"][:3], table["if linear"][:3], atol=1e-5)
    # After the corner's step of 0.1 all margins have lost 0.1 times the sum of |w|.
    scale = (network[1].weight[1] - network[1].weight[0]).abs().sum().item()
    before, after = (F.softplus(-scale * (distance - moved)).mean() for moved in (0, 0.1))
    assert table["measured"][3] == pytest.approx((after - before).item())


def test_a_file_keeps_the_nearest_level():
    levels = torch.arange(256) / 255
    assert torch.equal(lessons.eight_bit(levels), levels)
    assert torch.equal(lessons.eight_bit(levels[:-1] + 0.4 / 255), levels[:-1])
    assert torch.equal(lessons.eight_bit(levels[:-1] + 0.6 / 255), levels[1:])


@pytest.mark.parametrize("ball", [Linf, PixelL2, L2])
def test_the_last_iterate_is_what_pgd_returns(lesson, ball):
    network, x, y, _ = lesson
    path = lessons.iterates(network, x, y, ball(0.1), steps=4, step_size=0.03)
    assert len(path) == 5
    assert torch.equal(path[0], x)
    for steps, stop in enumerate(path[1:], start=1):
        found = pgd(network, x, y, ball(0.1), steps=steps, step_size=0.03, random_start=False)
        torch.testing.assert_close(stop, found)


def test_a_curve_over_growing_balls(lesson):
    network, x, y, distance = lesson
    y = y.clone()
    y[0] = 1 - y[0]  # an image that is misread without any attack
    radii = [0.0, distance[1:].median().item() + 1e-9, 0.4]
    found = lessons.robust_curve(network, x, y, [Linf(eps) for eps in radii])
    standing = (distance[1:] > radii[1]).sum().item()
    assert found == pytest.approx([100 * 7 / 8, 100 * standing / 8, 0])


def test_naive_pgd_is_pgd_until_the_network_is_sure(lesson):
    network, x, y, _ = lesson
    found = lessons.naive_pgd(network, x, y, Linf(0.1), steps=3, step_size=0.04)
    expected = pgd(network, x, y, Linf(0.1), steps=3, step_size=0.04, random_start=False)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e5)
    stays = lessons.naive_pgd(network, x, y, Linf(0.1), steps=3, step_size=0.04)
    torch.testing.assert_close(stays, x)


# --- with a run -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    return Run.open("smoke", "cpu", root=ROOT)


def test_within_its_certificate_no_answer_changes_and_far_outside_some_do(run):
    outcomes = lessons.attack_certified(run, SIGMA, (0.99, 4.0), images=4)
    assert {sum(outcome) for outcome in outcomes.values()} == {4}
    assert outcomes[0.99].changed == 0
    assert outcomes[4.0].kept < outcomes[0.99].kept


def test_evidence_in_powers_of_ten():
    curves = lessons.evidence_curves((0.9, 0.5), (100, 100_000), 0.25, 0.5)
    clear, tie = curves.values()
    expected = log_e_value([90, 90_000], [100, 100_000], 0.691462461274013, prior=0.5)
    assert clear == pytest.approx(expected / np.log(10))
    assert tie[1] < -3


def test_a_short_training_is_measured_once(run, monkeypatch):
    plan = lessons.Plan(
        "tiny",
        start=lambda: lessons.one_layer(run.images(32)[0], seed=0),
        objectives={"a": standard, "b": standard},
        watched={"natural": None},
        measure=lambda model, x, y: [lessons.percent_correct(model, x, y)],
        radii=(0.0,),
        images=256,
        epochs=2,
        batch_size=32,
        lr=0.02,
        about={},
    )
    found = lessons.train_shortly(run, plan)
    assert [training.name for training in found] == ["a", "b"]
    for training in found:
        assert [len(training.history), len(training.curve)] == [3, 1]
        # The curve is measured on the held-out images, as is the history of so few.
        assert training.curve[0] == pytest.approx(training.history[-1]["natural"])
        assert training.history[-1]["natural"] > training.history[0]["natural"]
    monkeypatch.setattr(lessons, "fit", None)
    assert lessons.train_shortly(run, plan) == found
    # Shipped results are read where the recipe is the same, in profiles that do not train.
    shipped = replace(run, out=run.out / "elsewhere", published=run.out / "rows")
    assert lessons.train_shortly(shipped, plan) == found
    trains = replace(run.profile, trains=True)
    for another in (replace(shipped, profile=trains), replace(shipped, seed=run.seed + 1)):
        with pytest.raises(TypeError):
            lessons.train_shortly(another, plan)


MEASURED_BY = {
    "compare_clean_weights": "fit",
    "train_to_collapse": "fit",
    "compare_attacks": "Passes",
    "answer_at_random": "pgd",
}


@pytest.mark.parametrize(("lesson", "needed"), MEASURED_BY.items())
def test_a_lesson_reads_what_was_published(lesson, needed, tmp_path, monkeypatch):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    monkeypatch.setattr(lessons, needed, None)
    run = Run.open("lesson", "cpu", root=ROOT)
    found = getattr(lessons, lesson)(run)
    assert len(found) >= 2
    if lesson == "answer_at_random":  # without noise: the cell of Table 1
        assert found["attacked"][0] == pytest.approx(
            run.accuracy(lessons.START, "pgd-linf").percent
        )


def test_attacks_at_equal_work(run, monkeypatch):
    monkeypatch.setattr(lessons, "COMPARED", ("pgd-linf-at",))
    monkeypatch.setattr(lessons, "BUDGETS", (2, 6))
    table = lessons.compare_attacks(run)
    at = table.set_index(["attack", "steps"])
    model, (x, y) = run.model("pgd-linf-at"), run.images(run.profile.certified)
    draws = stream(run.device, run.seed, "comparison", "PGD")
    x_adv = pgd(model, x, y, LINF, steps=6, generator=draws)
    assert at.loc[("PGD", 6), "accuracy"] == lessons.percent_correct(model, x_adv, y)
    # Forwards and backwards, and one image of the checks.
    assert at.loc[("PGD", 6), "passes"] == (2 * 6 * len(x) + 1) / len(x)
    assert at.loc[(lessons.ENSEMBLE, 6), "accuracy"] == at["accuracy"].min()
    assert at["passes"].idxmax() == (lessons.ENSEMBLE, 6)
    monkeypatch.setattr(lessons, "Passes", None)  # it is measured once
    assert lessons.compare_attacks(run).equals(table)


def test_random_answers(run, monkeypatch):
    monkeypatch.setattr(lessons, "TEST_SIGMAS", (0.0, 0.25))
    monkeypatch.setattr(lessons, "AVERAGED", (0, 1, 8))
    table = lessons.answer_at_random(run).set_index(["sigma", "averaged"])
    model, (x, y) = run.model(lessons.START), run.images(run.profile.heldout)
    x_adv = ATTACKS["pgd-linf"](model, x, y)
    # Without noise the answers are the network's, whatever the attack averages over.
    for m in (0, 1, 8):
        assert table.loc[(0.0, m), "clean"] == lessons.percent_correct(model, x, y)
        assert table.loc[(0.0, m), "attacked"] == lessons.percent_correct(model, x_adv, y)
    for column, images in (("clean", x), ("attacked", x_adv)):
        votes = sample_under_noise(model, images, 0.25, 100, purpose="prediction")
        right = votes.gather(1, y[:, None]).double().mean().item()
        assert table.loc[(0.25, 0), column] == pytest.approx(right)
    # Averaging over the noise makes the attack stronger, and random answers only look robust.
    attacked = table["attacked"]
    assert attacked[0.25, 8] < attacked[0.25, 1] < attacked[0.25, 0]
    assert attacked[0.25, 0] > attacked[0.0, 0] + 5
    monkeypatch.setattr(lessons, "pgd", None)  # it is measured once
    assert lessons.answer_at_random(run).equals(table.reset_index())


def test_the_last_epoch_beside_the_best():
    last, best = ({"natural": 0.5, "pgd-l2": share} for share in (0.2, 0.3))
    table = lessons.last_and_best({"mine": {"last": last, "best": best, "best_epoch": 4}})
    assert table.iloc[0].tolist() == ["mine", "PGD l2, ε = 0.5", 50, 20, 30, 4]


def test_channels_at_the_walls_do_not_move():
    x = torch.tensor([0, 1, 0, 0.99, 0.5, 0.5]).view(1, 3, 1, 2)
    steps = torch.tensor([-1, 1, 1, 1, 0, -1]).view(1, 3, 1, 2)
    found = lessons.count_moves(x, (x + 0.1 * steps).clamp(0, 1), 0.1)
    assert found == {"full": 2, "less": 1, "none": 3, "walls": 2}


def test_one_layer_is_made_for_its_images():
    x = 0.3 + 0.1 * torch.rand(16, 1, 6, 5)
    with torch.random.fork_rng():
        network = lessons.one_layer(x, seed=3)
    assert network(x).shape == (16, 10)
    scale, *_ = network.children()
    scaled = scale(x)
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std().item() == pytest.approx(1, abs=1e-4)
    again = lessons.one_layer(x, seed=3).state_dict()["1.weight"]
    assert torch.equal(network.state_dict()["1.weight"], again)


CORRECT = {"natural": 600, "fgsm": 300, "pgd-linf": 200, "pgd-linf-50x5": 190, "certified": 150}
SURPRISES = {"pass": 200, "within intervals": 310, "FAIL": 400}


@pytest.mark.parametrize(("verdict", "steps"), SURPRISES.items())
def test_orders_of_a_sound_evaluation(verdict, steps, monkeypatch):
    correct, asked = CORRECT | {"pgd-linf": steps, "pgd-linf-50x5": min(steps, 190)}, {}

    def accuracy(defence, attack, count=None):
        asked[defence, attack] = count
        n = count or (100 if attack.startswith("vote") else 1000)  # votes are attacked on fewer
        return Accuracy(n, correct.get(attack, 180) * n // 1000, 0, "-")

    attacks = ("natural", "fgsm", "pgd-linf", "pgd-linf-50x5")
    profile = SimpleNamespace(ns=(100,), certified=1000, attacks=attacks)
    run: Any = SimpleNamespace(accuracy=accuracy, certificates=lambda sigma: None, profile=profile)
    radii = np.array([1.0] * CORRECT["certified"] + [0.1] * 850)
    monkeypatch.setattr(lessons, "certified_radii", lambda results, n: radii)
    table = lessons.sanity_table(run)
    basic = table[table["defence"] == "Basic classifier"].set_index("check")["verdict"]
    assert basic["PGD ≤ FGSM"] == verdict
    assert basic["attacked ≤ clean"] == "pass"
    kept = table[table["check"] == "certified ≤ attacked"].iloc[0]
    assert (kept["verdict"], kept["n"]) == ("pass", 1000)
    assert kept["lower, %"] == "certified at l2 0.5: 15.00"
    votes = table[table["check"] == "attack on the vote ≤ attack on the network"]
    assert set(votes["n"]) == {100}
    assert asked["smoothed-0.25", "fgsm"] == 100  # the same images
    assert len(table) > len({defence for defence, _ in table1_cells(run.profile)})
    rungs = lessons.ladder(run, "smoothed-0.25")
    assert [part.correct for part in rungs if part] == [150, 180, 600]
    assert "certified 15.0 %, attacked 18.0 %, clean 60.0 %" in rungs.sentence()
    assert lessons.ladder(run, "standard").certified is None
