"""rvlib.stages.estimate: the work of a tiny profile, counted by hand."""

import pytest
import torch

from rvlib.profiles import Profile
from rvlib.rows import rows_path
from rvlib.stages import estimate
from rvlib.stages.estimate import TRAINING_IMAGES, Work, duration, missing_work, seconds
from rvlib.stages.measure import Place
from rvlib.stages.measurements import measurements
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
REPORT = 1 + 1 + 10 + 10  # passes of the report's attacks
PROFILE = 1 + 1 + 10 + 250
ASCENT = 20 * 16  # an attack on the vote: steps times draws
# Held out: seven networks under the profile's attacks; under the report's attacks three further
# noise levels and two further seeds. Tested: five networks. PGD-pixel-l2, which the profile lacks,
# on the noise-trained network and on the undefended one, whose seeds are compared.
ATTACKING = 3 * (7 * PROFILE + (3 + 2) * REPORT + 2 * 10) + 2 * 5 * PROFILE
# The smoothed network of Table 1: four attacks on the network, l2, and three on the vote.
ATTACKING += 5 * (REPORT + 10 + 3 * ASCENT)
VOTING = 5 * 8 * 100
# On 2 images three further noise levels under the report's attacks; all four are certified and
# attacked inside, half of the images for want of a right or certified answer not.
ATTACKING += 2 * 3 * REPORT + 4 * 2 * ASCENT // 2
VOTING += 2 * 3 * 4 * 100 + 4 * 2 * (1000 // 2 + 100 // 2)


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


def test_rows_that_are_there_are_subtracted(run):
    path = rows_path(run.place.rows, "test", "standard", 0, "pgd-linf-50x5")
    path.parent.mkdir(parents=True)
    path.write_text("# {}\nindex,label,prediction\n0,1,1\n1,2")  # one, and one cut off
    assert missing_work(run) == Work(TRAINING, ATTACKING - 250, VOTING)


def test_nothing_is_missing_where_all_is_there(run):
    for name, seed in run.profile.models():
        finish(run, name, seed)
    for measurement in measurements(run):
        path = rows_path(run.place.rows, *measurement)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# {}\nindex\n" + "0\n" * 3)
    assert missing_work(run) == Work(0, 0, 0)
    assert seconds(run, 2) == 0


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (0, "nothing"),
        (3, "less than a minute"),
        (61, "about 1 min"),
        (5400, "about 90 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_a_duration_is_said_as_roughly_as_it_is_known(length, said):
    assert duration(length) == said


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
