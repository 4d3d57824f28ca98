"""rvlib.pipeline: a whole run in small, killed anywhere, twice at once, beside the shipped one."""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rvlib as rv
from rvlib import experiments as ex
from rvlib.arguments import find_network
from rvlib.data import load
from rvlib.device import device_name
from rvlib.evaluation import vote_counts
from rvlib.models import WeightsError, read_record
from rvlib.modern import COLUMNS, MODERN, SMOOTHED_COLUMN
from rvlib.pipeline import (
    Accuracy,
    Run,
    accuracy,
    certificates,
    check,
    duration,
    everything,
    machine,
    measurements,
    one_thread,
    repository,
    sanity_table,
)
from rvlib.pipeline import run as pipeline
from rvlib.pipeline.duration import estimate
from rvlib.pipeline.everything import measure_everything, missing_images
from rvlib.pipeline.machine import cores
from rvlib.results import Results, ResultsError, counts, open_results, read, write_shard

ROOT = Path(__file__).parents[1]

IMAGES = {"train": 48, "heldout": 8, "test": 8}
TINY = ex.Profile(
    "tiny",
    trains=True,
    heldout=8,
    test=4,
    standard=4,
    attacks=("natural", "pgd-linf"),
    votes=100,
    certified=6,
    ns=(100, 300),
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The library in small: three networks of one epoch, few images, one noise level."""
    names = ("standard", "gaussian-0.25", "pgd-linf-at")
    small = {n: dataclasses.replace(ex.RECIPES[n], epochs=2) for n in names}
    quick = {n: ex.ATTACKS[n] for n in ex.REPORT_ATTACKS} | {
        "pgd-linf": partial(rv.pgd, threat=ex.LINF, steps=2, random_start=True)
    }
    for name, value in {
        **{"RECIPES": small, "ATTACKS": quick, "DEFENCES": names, "FURTHER": (), "SIGMAS": (0.25,)},
        **{"SEEDS": {"standard": (0, 1)}, "REPORT_ATTACKS": ("natural", "pgd-linf")},
        **{"SMOOTHED_ATTACKS": ("natural", "vote-pgd-linf"), "SMOOTHED_STEPS": 2},
        **{"STANDARD_ATTACKS": {"pgd-20": quick["pgd-linf"]}},
        **{"VOTE_READING": ("natural",), "GRID_ATTACKS": {"natural": ("natural",)}},
        **{"GRID_SIGMAS": (0.25,), "GRID_SEEDS": 1, "GRID_VOTES": (100, 200)},
        "GRID_RECIPES": {"gaussian-0.25": small["gaussian-0.25"]},
        "PROFILES": ex.PROFILES | {"tiny": TINY},
    }.items():
        monkeypatch.setattr(ex, name, value)
    splits = {s: tuple(t[:n].clone() for t in load("cifar10", s)) for s, n in IMAGES.items()}
    for module in (pipeline, duration):
        monkeypatch.setattr(module, "load", lambda name, split: splits[split])
    monkeypatch.setattr(pipeline, "provenance", lambda where: {"device": where.type})
    monkeypatch.delenv("RVLIB_BUILD", raising=False)

    def open_run(folder, **options):
        run = Run.open("tiny", "cpu", tmp_path / folder, **options)
        return dataclasses.replace(run, log=lambda line: None)

    return open_run


def contents(run):
    """Every file of a run; how long a training took is another time each time."""
    found = {}
    for path in sorted(run.out.rglob("*")):
        if path.is_file():
            text: Any = path.read_bytes()
            if path.parent.parent.name == "models" and path.suffix == ".json":
                text = json.loads(text) | {"seconds": 0}
            found[path.relative_to(run.out).as_posix()] = text
    return found


def forked(work, root, die_at=None):
    """Do some work in a process of its own, which is killed at one of its file events."""
    child = os.fork()
    if child == 0:
        events = 0

        def hook(name, words):
            nonlocal events
            writes = name == "open" and isinstance(words[2], int) and words[2] & os.O_CREAT
            if (writes or name in ("os.rename", "os.link")) and str(words[0]).startswith(str(root)):
                events += 1
                if events == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_anywhere_or_doubled_a_run_ends_like_an_unbroken_one(tiny, tmp_path):
    torch.optim.SGD([torch.zeros(1)]).step()  # loads what each child would load anew
    runs = [tiny(name) for name in ("unbroken", "killed", "doubled")]
    assert status(forked(lambda: measure_everything(runs[0]), tmp_path)) == 0
    expected = contents(runs[0])
    # Four trainings; rows and identities of all measurements; no checkpoint, no temporary file.
    assert sum(name.endswith(".safetensors") for name in expected) == 4
    kinds = {Path(name).name for name in expected}
    assert kinds == {"seed-0.json", "seed-0.safetensors", "seed-1.json", "seed-1.safetensors"} | {
        *("meta.json", "00000-00008.csv", "00000-00006.csv", "00000-00004.csv")
    }
    rng, killed, everything_of = np.random.default_rng(0), 0, partial(measure_everything, runs[1])
    while ended := status(forked(everything_of, tmp_path, int(rng.integers(2, 40)))):
        assert ended == -signal.SIGKILL
        killed += 1
    assert killed >= 3
    left = [path for path in runs[1].out.rglob("*") if path.suffix == ".tmp"]
    for path in left:  # they are swept when they are an hour old
        os.utime(path, (0, 0))
    two = [forked(lambda: measure_everything(runs[2]), tmp_path) for _ in range(2)]
    assert [status(child) for child in two] == [0, 0]
    for run in runs[1:]:
        found = {n: c for n, c in contents(run).items() if not n.endswith(".tmp")}
        assert found == expected


def test_a_run_measures_what_is_missing_and_reads_the_rest(tiny, tmp_path):
    run = tiny("a")
    seen: list[str] = []
    run = dataclasses.replace(run, log=seen.append)
    found = run.accuracy("standard", "pgd-linf")
    assert (found.n, found.threat) == (8, "linf 0.03")
    assert sum("epoch" in line for line in seen) == 2
    seen.clear()
    assert run.accuracy("standard", "pgd-linf") == found
    assert not seen
    first = run.accuracy("standard", "pgd-linf", count=3)
    assert first.n == 3
    # Rows of three images, then of all: those that are there are kept.
    other = tiny("b")
    assert other.accuracy("standard", "natural", count=3).n == 3
    assert other.accuracy("standard", "natural").n == 8
    folder = other.rows / "heldout" / "standard" / "seed-0" / "natural"
    assert sorted(p.name for p in folder.glob("*.csv")) == ["00000-00003.csv", "00003-00008.csv"]
    assert (tmp_path / "a" / "build" / "tiny").is_dir()


def test_an_estimate_counts_passes_and_votes(tiny, monkeypatch):
    run = tiny("a")
    assert 0 < estimate(run) < math.inf
    monkeypatch.setattr(duration, "seconds", lambda work, device, times=3: 1.0)
    monkeypatch.setattr(duration, "cores", lambda: 2)
    assert estimate(run, "standard") < estimate(run)
    # Two epochs of 48 images in four networks: a step of all eight images is a second.
    with monkeypatch.context() as patch:
        patch.setattr(duration, "missing_images", lambda run: {})
        assert estimate(run) == pytest.approx(2 * 48 * 4 / 8 / 2)
    measure_everything(run)
    assert missing_images(run) == {}
    assert run.untrained() == []
    assert estimate(run) == 0
    for place, images, seconds in [
        (("heldout", "standard", 0, "natural"), 8, 8 / 8),
        (("heldout", "standard", 0, "pgd-linf"), 8, 8 * 2 / 8),
        (("test", "smoothed-0.25", 0, "natural"), 4, 4 / 8 + 4 * 100 / 800),
        (("heldout", "noisy-twice-0.25", 0, "natural"), 8, 8 / 8 + 8 * 200 / 800),
        (("heldout", "smoothed-0.25", 0, "certificates"), 6, 6 * 300 / 2 / 800),
        (("heldout", "smoothed-0.25", 0, "inside"), 6, 6 * (32 / 8 + 100 / 800) / 2),
    ]:
        monkeypatch.setattr(duration, "missing_images", lambda run, at=(place, images): dict([at]))
        assert estimate(run) == pytest.approx(seconds), place


def test_part_two_attacks_and_certifies_its_own_networks(tmp_path, monkeypatch):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    run = Run.open("modern", "cpu")
    listed = measurements(run)
    made = {m.place: m.count for m in listed}
    assert len(made) == len(listed)
    networks = {*MODERN, *COLUMNS}
    assert {n for n, _ in run.untrained()} == networks
    assert {name for _, name, _, _ in made} == networks | {SMOOTHED_COLUMN}
    assert made["test", SMOOTHED_COLUMN, 0, "pgd-linf"] == 10_000
    assert made["test", "lenet-nuat", 0, "ensemble-linf-8"] == 10_000
    assert made["test", "resnet18-nuat", 0, "ensemble-linf-8"] == 1000
    assert made["test", "resnet18-nuat", 0, "autoattack-linf-8"] == 200
    place = ("test-every-20th", "resnet20-gaussian-0.50", 0, "certificates")
    assert made[place] == len(load("cifar10", place[0])[1]) == 500
    drawn = [name for _, name, _, what in made if what == "certificates"]
    assert drawn == [name for name, recipe in MODERN.items() if recipe.sigma]


def test_only_the_named_networks_are_trained_and_measured(tiny, monkeypatch):
    run, order = tiny("a"), list[Any]()
    measure_everything(run, "standard")
    assert {path.name for path in (run.rows / "heldout").iterdir()} == {"standard"}
    assert {name for name, _ in run.untrained()} == {"gaussian-0.25", "pgd-linf-at"}
    monkeypatch.setattr(Run, "train", lambda run, *pairs: order.append(pairs))
    monkeypatch.setattr(everything, "missing_images", lambda run: {})
    measure_everything(run, "smoothed-0.25")  # once, and before its measurements
    assert order == [(("gaussian-0.25", 0),)]
    with pytest.raises(ValueError, match="measures nothing of 'nonsense'"):
        measure_everything(run, "nonsense")


def test_large_networks_are_shipped_in_16_bits(tiny, monkeypatch):
    run = tiny("a")
    monkeypatch.setattr(ex.Recipe, "ships_half", True)
    monkeypatch.setattr(ex.Recipe, "ships_best", True)
    model = run.model("standard")
    assert {v.dtype for v in load_file(run.weights("standard")).values()} == {torch.float16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert read_record(run.weights("standard"))["shipped"] == "best epoch"


def test_a_check_is_written_and_read_again(tiny, monkeypatch):
    few = {"images": 6, "steps": 2, "step_size": 0.02, "restarts": 2, "queries": 5}
    monkeypatch.setattr(sanity_table, "CHECKED", few)
    run = tiny("a")
    monkeypatch.setattr(ex, "SEEDS", dict.fromkeys(ex.DEFENCES, (0, 1)))
    table = check(run)
    assert list(table) == ["defence", "check", "images", "passed", "finding"]
    assert set(table["defence"]) == set(ex.DEFENCES)
    assert set(table["images"]) == {"6"}
    written = run.out / "tables" / "sanity.csv"
    assert json.loads(written.with_suffix(".json").read_text())["identity"]["images"] == 6
    monkeypatch.setattr(sanity_table, "sanity", None)
    assert check(run).equals(table)  # it is not made again
    record = written.with_suffix(".json")
    for path, damaged in ((written, b""), (record, b""), (record, record.read_bytes()[:20])):
        whole = path.read_bytes()
        path.write_bytes(damaged)
        with pytest.raises(TypeError):  # but where a file is cut off, or gone
            check(run)
        path.unlink()
        with pytest.raises(TypeError):
            check(run)
        path.write_bytes(whole)
    # What is published is read by a lesson, and by no run that measures all by itself.
    run.published.parent.mkdir(exist_ok=True)
    (run.out / "tables").rename(run.published.parent / "tables")
    with pytest.raises(TypeError):
        check(run)
    lesson = dataclasses.replace(run.profile, reads_published=True)
    assert check(dataclasses.replace(run, profile=lesson)).equals(table)
    monkeypatch.setattr(sanity_table, "CHECKED", few | {"queries": 6})
    with pytest.raises(TypeError):
        check(dataclasses.replace(run, profile=lesson))


def rows_of(run):
    """Lines of the shards, without the one on when and where they were made."""
    files = {path.relative_to(run.rows): path.read_text() for path in run.rows.rglob("*.csv")}
    return {path: text.splitlines()[1:] for path, text in files.items()}


def test_processes_measure_and_train_what_one_process_does(tmp_path, monkeypatch):
    # Processes are forked from one that has PyTorch; a user's processes start Python each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rvlib.pipeline"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    run = dataclasses.replace(Run.open("smoke", "cpu"), out=tmp_path / "many")
    places = [("heldout", name, 0, "pgd-linf") for name in ("standard", "pgd-linf-at")]
    assert set(places) < set(missing_images(run))
    monkeypatch.setattr(everything, "missing_images", lambda run: dict.fromkeys(places, 32))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    before = dict(os.environ)
    measure_everything(run)
    assert dict(os.environ) == before
    found = rows_of(run)
    assert [str(path.parent) for path in sorted(found)] == [
        f"heldout/{name}/seed-0/pgd-linf" for name in ("pgd-linf-at", "standard")
    ]
    one = dataclasses.replace(run, out=tmp_path / "one", log=lambda line: None)
    for _, defence, _, attack in places:
        one.accuracy(defence, attack)
    assert rows_of(one) == found
    monkeypatch.setattr(Run, "untrained", lambda run, *pairs: list(pairs))
    one.train(("standard", 0), ("standard", 1))  # which the processes find trained
    with pytest.raises(ValueError, match="unknown network 'nobody'"):
        one.train(("standard", 0), ("nobody", 0))


def test_published_rows_are_missing_only_where_all_is_measured_anew(tmp_path):
    lesson = dataclasses.replace(Run.open("lesson"), out=tmp_path)
    assert ("heldout", "standard", 0, "pgd-linf") not in missing_images(lesson)
    another = dataclasses.replace(lesson, seed=1)  # whose attacks nobody has shipped
    assert missing_images(another)["heldout", "standard", 0, "pgd-linf"] == 1024
    course = dataclasses.replace(Run.open("course"), out=tmp_path)
    assert missing_images(course)["heldout", "standard", 0, "pgd-linf"] == 1024


def test_the_course_attacks_fewer_votes_than_networks():
    course, full = Run.open("course"), Run.open("full")
    for attack, images in (("pgd-linf", 1024), ("vote-pgd-linf", 128)):
        assert course.count("heldout", attack) == images
        place = ("heldout", "smoothed-0.25", 0, attack)
        assert [m.count for m in measurements(course) if m.place == place] == [images]
    assert full.count("test", "vote-pgd-linf") == 10_000


def test_weights_of_another_training_are_not_measured(tiny):
    run = tiny("a")
    run.accuracy("standard", "natural")
    path = run.weights("standard")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["name"] == "standard"
    assert record["epochs"] == 2
    assert record["last"] == record["history"][-1]
    assert record["best"]["natural"] == max(e["natural"] for e in record["history"])
    path.with_suffix(".json").write_text(json.dumps(record | {"sha256": "0" * 64}))
    with pytest.raises(ResultsError, match=r"weights is [^\n]*$"):
        run.accuracy("standard", "natural")
    with pytest.raises(WeightsError, match=r"^[^\n]+$"):
        run.model("standard")


def test_the_seed_of_a_run_is_that_of_its_attacks_alone(tiny, monkeypatch):
    votes = mock.Mock(wraps=vote_counts)
    monkeypatch.setattr(pipeline, "vote_counts", votes)
    zero, one = tiny("a"), tiny("a", seed=1)
    assert zero.models == one.models
    assert zero.rows != one.rows
    meta = [run.answers("smoothed-0.25", "natural").meta for run in (zero, one)]
    assert [m.pop("seed") for m in meta] == [0, 1]
    assert meta[0] == meta[1]
    assert [call.kwargs["seed"] for call in votes.mock_calls] == [0, 1]


def test_every_training_seed_is_another_training_beside_another_run(tiny, monkeypatch):
    seeds = list[int]()

    def fit_beside_another(*arguments, checkpoint, **options):
        found = rv.fit(*arguments, checkpoint=checkpoint, **options)
        seeds.append(options["seed"])
        checkpoint.unlink()  # as a run does that ended just now
        return found

    monkeypatch.setattr(pipeline, "fit", fit_beside_another)
    run = tiny("a")
    run.train(("standard", 0), ("standard", 1))
    assert seeds == [0, 1]
    one, other = (run.model("standard", seed).state_dict() for seed in (0, 1))
    assert not any(torch.equal(one[name], other[name]) for name in one)


# --- what is registered at run time --------------------------------------------------------------


def mine(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))


class Halved(nn.Flatten):
    def forward(self, input):
        return super().forward(input) / 2


def shift(model, x, y):
    return (x + 0.1).clamp(0, 1)


def test_own_networks_attacks_and_recipes_work_in_several_trainings(tiny, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setitem(rv.MODELS, "mine", mine)
    monkeypatch.setitem(ex.ATTACKS, "shift", shift)
    marginal = partial(rv.pgd, threat=ex.LINF, steps=np.int64(2), loss=rv.margin)
    monkeypatch.setitem(ex.ATTACKS, "marginal", marginal)
    for name, attacks in (("a", ("shift",)), ("b", ("marginal",)), ("c", ("shift", "marginal"))):
        kind = "mixed" if len(attacks) > 1 else "adversarial"
        recipe = ex.Recipe(name, kind, attacks=attacks, network="mine", epochs=1)
        monkeypatch.setitem(ex.RECIPES, name, recipe)
    run = tiny("own")
    run.train()
    assert run.untrained() == []
    for name in "abc":
        assert run.accuracy(name, "shift").n == 8
        assert run.accuracy(name, "marginal").n == 8
        assert type(run.model(name)[1]) is nn.Linear
    meta = run.answers("a", "marginal").meta["attack"]
    assert (meta["loss"], meta["steps"], meta["threat"]) == ("margin", 2, "linf 0.03")
    monkeypatch.setitem(ex.ATTACKS, "marginal", partial(marginal, loss=rv.dlr))
    with pytest.raises(ResultsError, match=r"attack\.loss is margin, not dlr"):
        run.answers("a", "marginal")
    monkeypatch.setitem(rv.MODELS, "mine", lambda: nn.Sequential(Halved(), nn.Linear(3072, 10)))
    with pytest.raises(ResultsError, match=r"network is \w+, not \w+"):
        run.answers("a", "shift")


def test_trainings_of_shipped_recipes_get_a_process_each(monkeypatch, tmp_path):
    trained, pools = list[Any](), mock.MagicMock()
    pools().__enter__.return_value = mock.Mock(map=map)
    pools.reset_mock()
    monkeypatch.setattr(machine, "single_threaded", pools)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(Run, "train_one", lambda run, *pair: trained.append(pair))
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    run, pairs = Run.open("full", "cpu", ROOT), [("standard", 0), ("standard", 7)]
    run.train(*pairs)
    pools.assert_called_once_with(2)
    for registry in (ex.RECIPES, ex.ATTACKS, ex.PROFILES, rv.MODELS):
        with mock.patch.dict(registry, {next(iter(registry)): object()}):
            run.train(*pairs)
    monkeypatch.setattr(machine, "world", lambda: 2)
    run.train(*pairs)
    assert trained == 6 * pairs
    pools.assert_called_once_with(2)


# --- beside what is shipped ----------------------------------------------------------------------


def shipped(monkeypatch, tmp_path, profile, **options):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    return dataclasses.replace(Run.open(profile, "cpu", **options), log=lambda line: None)


def test_smoke_from_end_to_end_gives_the_published_rows(monkeypatch, tmp_path):
    run = shipped(monkeypatch, tmp_path, "smoke")
    assert run.out == tmp_path / "smoke"
    for attack in ("natural", "fgsm"):
        found = run.answers("standard", attack, count=8)
        published = read(run.published / "heldout" / "standard" / "seed-0" / attack, 8)
        assert found.meta == published.meta
        assert found.frame.equals(published.frame)
    drawn = run.certificates(0.25, count=3)
    published = read(run.published / "heldout/smoothed-0.25/seed-0/certificates", 3)
    for column in ("selection", "counts_100", "counts_1000"):
        assert drawn.frame[column].tolist() == published.frame[column].tolist()
    assert run.model("standard").training is False
    x, y = run.images(5)
    assert (x.shape, y.shape, x.dtype) == ((5, 3, 32, 32), (5,), torch.float32)


def test_attacks_inside_the_certified_balls(monkeypatch, tmp_path):
    run = shipped(monkeypatch, tmp_path, "smoke")
    monkeypatch.setattr(ex, "SMOOTHED_STEPS", 2)
    found = run.inside(0.25)
    certified = certificates(run.certificates(0.25), 1000)
    assert found.frame["certified"].tolist() == certified.prediction.tolist()
    assert (found.frame["radius"] <= certified.radius).all()
    assert np.allclose(found.frame["radius"], certified.radius, atol=2e-9)
    voted = counts(found.frame, "counts").sum(1)
    assert voted.tolist() == np.where(certified.radius > 0, 100, 0).tolist()


def test_an_installed_wheel_has_the_weights_and_works_in_the_current_folder(monkeypatch, tmp_path):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for source, place in wheel["targets"]["wheel"]["force-include"].items():
        installed = tmp_path / place
        installed.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / source, installed)
    monkeypatch.setattr(pipeline, "INSTALLED", tmp_path / "rvlib/weights")
    for name in ("RVLIB_ROOT", "RVLIB_BUILD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    run = dataclasses.replace(Run.open("lesson", "cpu"), log=lambda line: None)
    assert run.accuracy("standard", "natural", count=4).n == 4
    assert [str(path.parent) for path in tmp_path.rglob("meta.json")] == [
        str(tmp_path / "build/lesson/rows/heldout/standard/seed-0/natural")
    ]
    assert find_network("lenet-nuat")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)  # of Part II
    monkeypatch.setenv("RVLIB_ROOT", str(ROOT))
    assert Run.open("lesson", "cpu").out == ROOT / "build" / "lesson"


def test_a_lesson_reads_published_rows_where_they_are_the_same_measurement(monkeypatch, tmp_path):
    run = shipped(monkeypatch, tmp_path, "lesson")
    found = run.accuracy("standard", "pgd-linf")
    assert (found.n, run.accuracy("smoothed-0.25", "natural").n) == (1024, 1024)
    assert run.certificates(0.5).frame.shape[0] == 1024
    on_a_gpu = dataclasses.replace(run, device=torch.device("cuda"))
    assert on_a_gpu.accuracy("standard", "pgd-linf") == found
    assert not list(tmp_path.iterdir())
    other = shipped(monkeypatch, tmp_path, "lesson", seed=1)
    assert other.accuracy("standard", "fgsm", count=4).n == 4
    assert [path.name for path in tmp_path.iterdir()] == ["lesson-seed-1"]
    monkeypatch.setitem(ex.ATTACKS, "fgsm", partial(rv.fgsm, threat=rv.Linf(0.5)))
    run.accuracy("standard", "fgsm", count=4)
    with torch.autocast("cpu", torch.bfloat16):
        run.accuracy("standard", "natural", count=4)
    metas = {
        p.parent.name: json.loads(p.read_text()) for p in tmp_path.rglob("lesson/**/meta.json")
    }
    assert metas.keys() == {"fgsm", "natural"}
    assert metas["natural"]["arithmetic"] == "bfloat16"
    # Another profile measures anew.
    shipped(monkeypatch, tmp_path, "course").accuracy("standard", "natural", count=4)
    assert (tmp_path / "course").is_dir()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda run: run.accuracy("nothing", "fgsm"), "unknown network 'nothing'"),
        (lambda run: run.accuracy("standard", "nothing"), "unknown attack 'nothing'"),
        (lambda run: run.accuracy("standard", "natural", split="train"), "no images of 'train'"),
        (lambda run: run.accuracy("standard", "natural", count=1025), "1024 images, not 1025"),
        (lambda run: run.certificates(0.33), "unknown network 'gaussian-0.33'"),
        (lambda run: run.model("standard", 99), "missing"),
        (lambda run: Run.open("nothing"), "unknown profile 'nothing'"),
        (lambda run: Run.open("smoke", "nowhere"), "nowhere"),
        (lambda run: Run.open("smoke", seed=-1), "seed=-1"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(monkeypatch, tmp_path, call, match):
    run = shipped(monkeypatch, tmp_path, "smoke")
    with pytest.raises((ValueError, WeightsError), match=rf"{match}[^\n]*$"):
        call(run)
    assert not list(tmp_path.rglob("*.csv"))


# --- numbers -------------------------------------------------------------------------------------


def results(columns, **meta):
    import pandas as pd

    return Results({"attack": {"threat": "-"}, **meta}, [], pd.DataFrame(columns))


def test_accuracy_by_hand():
    found = accuracy(results({"label": [3, 1, 4, 1], "prediction": [3, 1, 1, 1]}))
    assert found == Accuracy(4, 3, 0, "-")
    assert (found.percent, found.answered_only) == (75, 75)
    votes = results({"label": [0, 0, 0, 1], "counts": ["90 10", "10 90", "52 48", "0 100"]})
    found = accuracy(votes)
    assert found == Accuracy(4, 2, 1, "-")
    assert found.percent == 50
    assert found.answered_only == pytest.approx(200 / 3)
    assert found.interval == pytest.approx([100 * end for end in rv.wilson(2, 4)])
    assert Accuracy(3, 0, 3, "-").answered_only is None


def test_certificates_by_hand():
    rows = {
        "label": [0, 0, 1, 1],
        "selection": ["90 10", "10 90", "10 90", "10 90"],
        "counts_1000": ["990 10", "", "400 600", "600 400"],
    }
    found = certificates(results(rows, sigma=0.25), 1000)
    expected = rv.certificate([[90, 10], [10, 90]], [[990, 10], [400, 600]], 0.001, 0.25)
    assert found.prediction.tolist() == [0, rv.ABSTAIN, 1, rv.ABSTAIN]
    assert found.radius.tolist() == [expected.radius[0], 0, expected.radius[1], 0]


# --- the machine ---------------------------------------------------------------------------------


def test_cores_are_those_that_the_job_was_given(monkeypatch):
    files: dict[str, str] = {}
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a: files.get(str(self)) or (_ for _ in ()).throw(OSError())
    )
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores() == 8
    for limit, expected in (("300000 100000", 3), ("50000 100000", 1), ("max 100000", 8)):
        files["/sys/fs/cgroup/cpu.max"] = limit
        assert cores() == expected
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert cores() == 2
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64
    assert "thread" in device_name(torch.device("cpu"))  # without /proc, as on Windows


def test_threads_are_held_and_given_back():
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    try:
        for device, inside in (("cuda", 2), ("cpu", 1)):
            with suppress(KeyError), one_thread(torch.device(device)):
                assert torch.get_num_threads() == inside
                raise KeyError
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_outside_a_checkout_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("RVLIB_ROOT", raising=False)
    elsewhere = str(tmp_path / "site-packages/rvlib/pipeline/run.py")
    monkeypatch.setattr(pipeline, "__file__", elsewhere)
    with pytest.raises(ValueError, match=r"no checkout of rvlib[^\n]*RVLIB_ROOT$"):
        Run.open("smoke")
    (tmp_path / "other" / "report").mkdir(parents=True)
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path / "other"))
    assert repository() == tmp_path / "other"


# --- another data set, from images to results -----------------------------------------------------


def test_mnist_from_images_to_results(tmp_path):
    assert rv.DATASETS["mnist"].shape == (1, 28, 28)
    images, labels = rv.load("mnist", "train")
    model = rv.lenet(10, 1, 28)
    history = rv.fit(model, rv.gaussian(0.1), (images[:64], labels[:64]), epochs=3, lr=0.05).history
    assert history[-1]["loss"] < history[0]["loss"]
    held, y = (part[:4] for part in rv.load("mnist", "heldout"))
    answers = rv.predictions(model, held, y, partial(rv.pgd, threat=rv.Linf(0.1), steps=3))
    found = rv.certify(model, rv.to_float(held), 0.25, n=200)
    open_results(tmp_path, {"data": rv.DATASETS["mnist"].digest})
    columns = {"label": y.tolist(), "prediction": answers.tolist()}
    write_shard(tmp_path, 0, columns | {"radius": found.radius}, {})
    again = read(tmp_path, 4)
    assert again.frame["prediction"].tolist() == answers.tolist()
    assert again.frame["radius"].tolist() == found.radius.tolist()


def test_records_of_shipped_weights_are_those_of_their_recipes():
    root = repository() / "report" / "models"
    for name, seed in ex.find_profile("full").models():
        record = read_record(root / name / f"seed-{seed}.safetensors")
        assert record["recipe"] == json.loads(json.dumps(ex.RECIPES[name].record()))


FOLLOWING = """
import os, time
from rvlib.processes import single_threaded
if __name__ == "__main__":
    with single_threaded(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(FOLLOWING)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = partial(subprocess.Popen, env=environment, stdout=subprocess.PIPE)
    with start([sys.executable, script]) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    pytest.fail(f"process {worker} is still there")
