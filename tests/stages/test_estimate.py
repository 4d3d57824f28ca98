"""rvlib.stages.estimate: the work of a tiny profile, counted by hand."""

import pytest
import torch

from rvlib.profiles import Profile
from rvlib.stages import estimate
from rvlib.stages.estimate import TRAINING_IMAGES, Work, missing_work, seconds
from rvlib.stages.measure import Place
from rvlib.stages.run import Run

# 3 + 2 images; natural and FGSM are one pass each, PGD ten, 50 steps from 5 starts 250.
TINY = Profile(
    "tiny",
    trains=True,
    heldout=3,
    test=2,
    attacks=("natural", "fgsm", "pgd-linf", "pgd-linf-50x5"),
    votes=100,
    certified=2,
    ns=(100, 1000),
    seeds={"standard": 3},
)
# Passes an image and epoch: the undefended network, its two further seeds, its other learning
# rate and the four noise levels 1; three adversarial trainings clean + attacked + 10 steps; the
# mixed one 1 + 2 + 20.
TRAINING = 30 * 48_976 * (3 * 1 + 1 + 4 * 1 + 3 * 12 + 23)
# Ten networks and two further seeds; three attacks on the vote of 20 steps with 16 draws.
ATTACKING = 5 * (12 * (1 + 1 + 10 + 250) + 3 * 20 * 16)
# Eight attacks on the smoothed network; four noise levels under four attacks and certified.
VOTING = 5 * 8 * 100 + 4 * 2 * (4 * 100 + 1000 // 2)


@pytest.fixture
def run(tmp_path):
    return Run(TINY, Place(tmp_path / "models", tmp_path / "rows", torch.device("cpu")), tmp_path)


def finish(run, name, seed=0):
    record = run.place.models / name / f"seed-{seed}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}")


def test_work_counted_by_hand(run):
    assert missing_work(run) == Work(TRAINING, ATTACKING, VOTING)


def test_finished_trainings_are_subtracted(run):
    finish(run, "mixed-at")
    finish(run, "standard", seed=2)
    assert missing_work(run).training == TRAINING - 30 * 48_976 * 24
    assert missing_work(run).attacking == ATTACKING


def test_shipped_weights_are_not_trained(run):
    shipped = Run(Profile(**{**vars(TINY), "trains": False}), run.place, run.out)
    assert missing_work(shipped) == Work(0, ATTACKING, VOTING)


def test_the_training_images_are_those_of_the_report():
    assert TRAINING_IMAGES == 50_000 - 1024


def test_trainings_run_side_by_side_on_cores(run, monkeypatch):
    asked = []

    def a_pass(network, batch, device):
        asked.append(batch)
        return {32: 1e-3, 256: 1e-4}[batch]

    monkeypatch.setattr(estimate, "_seconds_a_pass", a_pass)
    monkeypatch.setattr(estimate, "_seconds_a_vote", lambda network, device: 1e-5)
    rest = ATTACKING * 1e-4 + VOTING * 1e-5
    assert seconds(run, 1) == pytest.approx(TRAINING * 1e-3 + rest)
    assert seconds(run, 4) == pytest.approx(TRAINING * 1e-3 / 4 + rest)
    assert asked == [32, 256] * 2


def test_times_are_really_taken(run):
    assert 0 < seconds(run, 2) < float("inf")


def test_a_time_is_that_of_one_of_many(monkeypatch):
    done: list[int] = []
    monkeypatch.setattr("rvlib.stages.estimate.time.perf_counter", lambda: 2.0 * len(done))
    assert estimate._timed(lambda: done.append(1), 10, torch.device("cpu")) == 2
    assert len(done) == 11  # the first one warms up and does not count
