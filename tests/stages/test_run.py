"""rvlib.stages.run: which work a profile asks for, and that the tables find all of it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rvlib.evaluation import Accuracy
from rvlib.profiles import DEFENCES, PROFILES
from rvlib.recipes import ATTACKS, RECIPES, REPORT_ATTACKS, SIGMA, SIGMAS, smoothed_name
from rvlib.report import build
from rvlib.report.build import write_tables
from rvlib.rows import rows_path
from rvlib.stages import run as module
from rvlib.stages.measure import Place
from rvlib.stages.measurements import measurements, missing_rows
from rvlib.stages.run import (
    SMOOTHED_ATTACKS,
    Run,
    measure_everything,
    measure_networks,
    measure_smoothing,
    repository,
    table1_cells,
)
from tests.report.heads import head_of

HELDOUT, TEST, CERTIFIED = 5, 4, 3


def few(name):
    """A profile as it is, on a few images."""
    profile = PROFILES[name]
    test = TEST if profile.test else 0
    return replace(profile, heldout=HELDOUT, test=test, certified=CERTIFIED)


class Fake:
    """Stands in for training and measuring: writes down what was asked, and plausible rows."""

    def __init__(self):
        self.asked, self.trained = [], []

    def train_all(self, pairs, models, work, device):
        self.trained.append(list(pairs))
        for name, seed in pairs:
            path = models / name / f"seed-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"sha256": "0" * 64, "recipe": RECIPES[name].record()}
            path.write_text(json.dumps(record))

    def attack(self, place, model, seed, attack, split, count):
        self.asked.append((split, model, seed, attack.name, count))
        path = rows_path(place.rows, split, model, seed, attack.name)
        lines = [f"{i},{i % 2},0" for i in range(count)]
        return self._write(path, "prediction", lines)

    def votes(self, place, sigma, seed, attack, split, count, n):
        self.asked.append((split, smoothed_name(sigma), seed, attack.name, count, n))
        path = rows_path(place.rows, split, smoothed_name(sigma), seed, attack.name)
        if path.exists():  # as the real one: more rows than asked for are kept
            return path
        lines = [f"{i},{i % 2},{n - 1} 1" for i in range(count)]
        return self._write(path, "counts", lines, votes=n)

    def certificates(self, place, sigma, seed, split, count, ns):
        self.asked.append((split, smoothed_name(sigma), seed, "certificates", count, ns))
        path = rows_path(place.rows, split, smoothed_name(sigma), seed, "certificates")
        lines = [f"0,0,100 0,{','.join(f'{n} 0' for n in ns)}"]
        for i in range(1, count):  # another class is selected
            other = "100 0" if i % 2 else "0 100"
            lines.append(f"{i},{i % 2},{other},{ns[0]} 0{',' * (len(ns) - 1)}")
        columns = ",".join(["selection", *(f"counts_{n}" for n in ns)])
        return self._write(path, columns, lines, ns=ns)

    def inside(self, place, sigma, seed, split, count, ns, n):
        self.asked.append((split, smoothed_name(sigma), seed, "inside", count, ns, n))
        path = rows_path(place.rows, split, smoothed_name(sigma), seed, "inside")
        lines = [f"0,0,0,0.1,{n} 0", *(f"{i},{i % 2},,," for i in range(1, count))]
        return self._write(path, "certified,radius,counts", lines, votes=n, ns=ns)

    def _write(self, path, columns, lines, **numbers):
        path.parent.mkdir(parents=True, exist_ok=True)
        head = head_of(replace(PROFILES["full"], **numbers), path, weights="0" * 64)
        path.write_text("\n".join([head, f"index,label,{columns}", *lines, ""]))
        return path


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    for name in ("measure_attack", "measure_votes", "measure_certificates", "measure_inside"):
        monkeypatch.setattr(module, name, getattr(fake, name.removeprefix("measure_")))
    monkeypatch.setattr(module, "train_all", fake.train_all)
    return fake


def make_run(folder, profile, log=lambda line: None):
    return Run(profile, Place(folder / "models", folder / "rows", torch.device("cpu")), folder, log)


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_a_run_works_in_the_folder_of_its_profile(tmp_path, name):
    run = Run.open(name, "cpu", tmp_path)
    assert run.profile is PROFILES[name]
    assert run.out == tmp_path / "build" / name
    assert run.place.rows == run.out / "rows"
    own = name == "full"  # the others read the shipped weights
    assert run.place.models == (run.out if own else tmp_path / "report") / "models"
    assert run.place.device == torch.device("cpu")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("profile", "device"), [("fulll", "cpu"), ("smoke", "tpu9")])
def test_what_is_unknown_is_refused_in_one_line(tmp_path, profile, device):
    with pytest.raises(ValueError, match=r"'(fulll|tpu9)'") as caught:
        Run.open(profile, device, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_checkout_is_found_or_named(monkeypatch, tmp_path):
    monkeypatch.delenv("RVLIB_ROOT", raising=False)
    assert repository() == Path(__file__).parents[2]
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    assert repository() == tmp_path
    assert Run.open("smoke", "cpu").out == tmp_path / "build" / "smoke"


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "course"])
def test_a_profile_of_shipped_weights_trains_nothing(tmp_path, fake, name):
    run = make_run(tmp_path, PROFILES[name])
    assert run.untrained() == run.untrained("standard") == []
    run.train()
    assert fake.trained == []


def test_untrained_is_what_the_profile_trains_less_what_is_there(tmp_path, fake):
    run = make_run(tmp_path, PROFILES["full"])
    assert run.untrained() == PROFILES["full"].models()
    assert run.untrained("pgd-linf-at") == [("pgd-linf-at", seed) for seed in range(3)]
    run.train("pgd-linf-at", "mixed-at")
    assert fake.trained == [[("pgd-linf-at", 0), ("mixed-at", 0), *run_pairs("pgd-linf-at", 1, 2)]]
    assert not {"pgd-linf-at", "mixed-at"} & {name for name, _ in run.untrained()}
    run.train("mixed-at")
    assert len(fake.trained) == 1
    run.train()
    assert run.untrained() == []
    pairs = fake.trained[0] + fake.trained[1]
    assert sorted(pairs) == sorted(PROFILES["full"].models())


def run_pairs(name, *seeds):
    return [(name, seed) for seed in seeds]


def test_a_network_is_trained_before_it_is_measured(tmp_path, fake):
    run = make_run(tmp_path, few("full"))
    run.attack("mixed-at", "fgsm")
    run.votes(0.5, ATTACKS["natural"])
    run.certificates(1.0)
    assert fake.trained == [[("mixed-at", 0)], [("gaussian-0.50", 0)], [("gaussian-1.00", 0)]]


# --- measuring -----------------------------------------------------------------------------------


def test_measurements_take_the_counts_of_the_profile(tmp_path, fake):
    run = make_run(tmp_path, few("smoke"))
    found = run.attack("standard", "fgsm", seed=1)
    assert found == Accuracy(HELDOUT, 3, 0, "linf 0.03")
    run.attack("standard", "fgsm", split="test")
    assert run.votes(0.5, ATTACKS["pgd-linf"], count=2).n == 2
    run.votes(0.25, ATTACKS["pgd-linf"], "test")
    assert len(run.certificates(SIGMA).rows) == CERTIFIED
    assert fake.asked == [
        ("heldout", "standard", 1, "fgsm", HELDOUT),
        ("test", "standard", 0, "fgsm", TEST),
        ("heldout", "smoothed-0.50", 0, "pgd-linf", 2, 100),
        ("test", "smoothed-0.25", 0, "pgd-linf", TEST, 100),
        ("heldout", "smoothed-0.25", 0, "certificates", CERTIFIED, (100, 1000)),
    ]


def test_balls_are_attacked_after_they_were_certified(tmp_path, fake):
    run = make_run(tmp_path, few("smoke"))
    assert len(run.inside(SIGMA).rows) == CERTIFIED
    assert [call[3] for call in fake.asked] == ["certificates", "inside"]
    assert fake.asked[1][4:] == (CERTIFIED, (100, 1000), 100)


def test_each_measurement_is_one_line_of_the_log(tmp_path, fake, monkeypatch):
    monkeypatch.setattr("rvlib.stages.run.time.monotonic", itertools.cycle([0.0, 1.25]).__next__)
    lines: list[str] = []
    run = make_run(tmp_path, few("smoke"), lines.append)
    run.attack("standard", "fgsm")
    run.votes(0.5, ATTACKS["natural"], "test")
    run.certificates(SIGMA)
    assert lines == [
        "heldout/standard/seed-0/fgsm  60.00 %  n = 5  (1.2 s)",
        "test/smoothed-0.50/seed-0/natural  50.00 %  n = 4  (1.2 s)",
        "heldout/smoothed-0.25/seed-0/certificates  n = 3  (1.2 s)",
    ]


def test_what_was_measured_before_is_not_logged_again(tmp_path, fake):
    lines: list[str] = []
    run = make_run(tmp_path, few("smoke"), lines.append)
    for _ in range(2):
        run.attack("standard", "fgsm")
        run.certificates(SIGMA)
    assert len(lines) == 2


@pytest.mark.parametrize("what", ["attack", "model"])
def test_an_unknown_attack_or_model_is_refused(tmp_path, what):
    run = make_run(tmp_path, few("smoke"))
    name, attack = ("standard", "fgsmm") if what == "attack" else ("standart", "fgsm")
    with pytest.raises((ValueError, RuntimeError), match=r"fgsmm|standart") as caught:
        run.attack(name, attack)
    assert "\n" not in str(caught.value)


def test_further_seeds_are_measured_under_the_reports_attacks_only(tmp_path, fake):
    run = make_run(tmp_path, replace(few("smoke"), seeds={"standard": 2}))
    measure_networks(run, ["standard", "mixed-at"])
    measure_networks(run, ["standard"], "test")
    asked = [call[:4] for call in fake.asked]
    attacks = run.profile.attacks
    assert asked == [
        *(("heldout", "standard", 0, attack) for attack in attacks),
        *(("heldout", "standard", 1, attack) for attack in REPORT_ATTACKS),
        *(("heldout", "mixed-at", 0, attack) for attack in attacks),
        *(("test", "standard", 0, attack) for attack in attacks),
    ]


def test_the_scan_over_sigma_is_on_the_reports_images_only(tmp_path, fake):
    run = make_run(tmp_path, few("smoke"))
    measure_smoothing(run, "test")
    assert [call[:4] for call in fake.asked] == [
        ("test", "smoothed-0.25", 0, attack.name) for attack in SMOOTHED_ATTACKS
    ]
    fake.asked.clear()
    measure_smoothing(run)
    for sigma in SIGMAS:
        for attack in REPORT_ATTACKS:
            call = ("heldout", smoothed_name(sigma), 0, attack, CERTIFIED, 100)
            assert call in fake.asked


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Every profile on a few images, all of its work done by the fake."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in PROFILES:
            fake = Fake()
            for what in ("attack", "votes", "certificates", "inside"):
                patch.setattr(module, f"measure_{what}", getattr(fake, what))
            patch.setattr(module, "train_all", fake.train_all)
            run = make_run(tmp_path_factory.mktemp(name), few(name))
            measure_everything(run)
            found[name] = (run, fake)
    return found


every_profile = pytest.mark.parametrize("name", PROFILES)


@every_profile
def test_after_everything_is_measured_all_tables_can_be_written(done, name, monkeypatch):
    monkeypatch.setattr(build, "save_figure", lambda figure, stem: None)
    # The fake's records of weights say nothing.
    monkeypatch.setattr(build, "facts", lambda run: {"profile": run.profile.name})
    run, _ = done[name]
    tables = write_tables(run)
    assert ("table2" in tables) == bool(run.profile.test)
    cells = [(line["defence"], line["attack"]) for line in tables["table1"]]
    assert cells == table1_cells(run)


@every_profile
def test_table_1_comes_first_and_the_test_images_last(done, name):
    run, fake = done[name]
    splits = [call[0] for call in fake.asked]
    assert splits == sorted(splits)  # heldout, then test
    assert ("test" in splits) == bool(run.profile.test)
    moments = [(call[1], call[3]) for call in fake.asked if call[2] == 0]
    first_certificate = next(i for i, (_, what) in enumerate(moments) if what == "certificates")
    assert set(table1_cells(run)) <= set(moments[:first_certificate])
    certified = [defence for defence, what in moments if what == "certificates"]
    assert certified[0] == smoothed_name(SIGMA)
    assert sorted(certified) == [smoothed_name(sigma) for sigma in SIGMAS]


@every_profile
def test_no_cell_is_measured_on_fewer_images_than_the_profile_says(done, name):
    run, fake = done[name]
    for split, defence, seed, what, count, *_ in fake.asked:
        path = rows_path(run.place.rows, split, defence, seed, what)
        assert path.read_text().count("\n") - 2 >= count, path


@every_profile
def test_the_list_of_measurements_says_what_is_measured(done, name):
    run, fake = done[name]
    assert set(measurements(run)) == {tuple(call[:4]) for call in fake.asked}
    assert missing_rows(run) == {}


def test_all_models_are_trained_before_anything_is_measured(done):
    _, fake = done["full"]
    assert fake.trained == [PROFILES["full"].models()]
    assert {name for name, _ in fake.trained[0]} == set(RECIPES)


def test_table1_has_every_defence_under_every_attack(tmp_path):
    cells = table1_cells(make_run(tmp_path, few("course")))
    assert cells[:7] == [("standard", attack) for attack in ATTACKS]
    assert len(cells) == len(DEFENCES) * 7 + 8
    assert cells[-1] == ("smoothed-0.25", "vote-pgd-l2")
