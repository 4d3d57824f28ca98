"""rvlib.stages.train: two epochs on a few random images, finished, killed, gone on with."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from rvlib.evaluation import predictions
from rvlib.files import BusyError, OnlyWriter
from rvlib.models import save_weights
from rvlib.models.weights import WeightsError, read_record
from rvlib.recipes import ATTACKS, RECIPES, Recipe
from rvlib.stages import train as stage
from rvlib.stages.train import load_model, train, train_all, weights_path
from rvlib.training import Fit

CPU = torch.device("cpu")
NAMES = ["standard", "gaussian-0.25", "pgd-linf-at", "mixed-at"]
each = pytest.mark.parametrize("name", NAMES)


def random_split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator)


SPLITS = {"train": random_split(20, 0), "heldout": random_split(16, 1)}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Recipes of two short epochs; twenty random images instead of CIFAR-10."""
    for name in NAMES:
        recipe = dataclasses.replace(RECIPES[name], epochs=2, batch_size=8)
        monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setattr(stage, "load_cifar10", SPLITS.__getitem__)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "models", tmp_path / "work"


def quiet(line):
    pass


def run(folders, name, seed, log):
    models, work = folders
    return train(name, seed, models, work, CPU, log)


def run_all(folders, pairs, jobs=None):
    models, work = folders
    return train_all(pairs, models, work, CPU, jobs)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def never(*words, **options):
    raise AssertionError("done again")


def die_in(epoch):
    """Make a log that dies at the end of an epoch, before its checkpoint is written."""

    def log(line):
        if f"epoch {epoch}/" in line:
            raise KeyboardInterrupt

    return log


# --- a training ----------------------------------------------------------------------------------


@each
def test_weights_and_record_are_written(folders, name):
    models, work = folders
    path = train(name, 3, models, work, CPU, quiet)
    assert path == weights_path(models, name, 3) == models / name / "seed-3.safetensors"
    record = read_record(path)
    recipe = RECIPES[name]
    assert record["recipe"] == json.loads(json.dumps(recipe.record()))
    assert (record["seed"], record["epochs"], record["shipped"]) == (3, 2, "last epoch")
    assert record["sha256"] == digest(path)
    assert record["seconds"] >= 0
    assert {"rvlib", "commit", "torch", "python", "device", "date"} <= set(record)
    history = record["history"]
    assert len(history) == 2
    figures = {"loss", "accuracy", "natural", recipe.probe}
    assert all(set(entry) == figures for entry in history)
    assert record["last"] == history[1]
    assert record["best"] == history[record["best_epoch"] - 1]
    assert record["best"][recipe.select] == max(entry[recipe.select] for entry in history)
    # Nothing half-made or left over.
    assert sorted(file.name for file in models.rglob("*") if file.is_file()) == [
        "seed-3.json",
        "seed-3.safetensors",
    ]
    assert not [file for file in work.rglob("*") if file.is_file()]


@each
def test_the_record_tells_the_accuracies_of_the_weights(folders, name):
    path = run(folders, name, 0, quiet)
    network = load_model(folders[0], name, 0, CPU)
    assert not any(module.training for module in network.modules())
    images, labels = SPLITS["heldout"]
    last = read_record(path)["last"]
    for attack in ("natural", RECIPES[name].probe):
        answers = predictions(network, images, labels, ATTACKS[attack])
        assert last[attack] == (answers == labels).double().mean().item()


def test_training_moves_the_weights_and_seeds_differ(folders):
    paths = [run(folders, "standard", seed, quiet) for seed in (0, 1)]
    start = RECIPES["standard"].build(0).state_dict()
    trained = load_model(folders[0], "standard", 0, CPU).state_dict()
    assert all(not torch.equal(trained[key], start[key]) for key in start)
    assert digest(paths[0]) != digest(paths[1])


def test_the_seed_draws_the_initial_weights(folders, monkeypatch):
    still = dataclasses.replace(RECIPES["standard"], lr=0.0)
    monkeypatch.setitem(RECIPES, "standard", still)
    for seed in (0, 1):
        run(folders, "standard", seed, quiet)
        trained = load_model(folders[0], "standard", seed, CPU).state_dict()
        start = still.build(seed).state_dict()
        assert all(torch.equal(trained[key], start[key]) for key in start)


def test_the_seed_draws_the_order(folders, monkeypatch):
    build = Recipe.build
    monkeypatch.setattr(Recipe, "build", lambda recipe, seed: build(recipe, 0))
    paths = [run(folders, "standard", seed, quiet) for seed in (0, 1)]
    assert digest(paths[0]) != digest(paths[1])


def test_the_record_counts_the_best_epoch_from_one(folders, monkeypatch):
    history = [{"loss": 3.0 - i, "natural": share} for i, share in enumerate((0.2, 0.6, 0.5))]
    monkeypatch.setattr(stage, "fit", lambda *words, **options: Fit(history, best_epoch=1))
    record = read_record(run(folders, "standard", 0, quiet))
    assert record["epochs"] == 3
    assert (record["best_epoch"], record["best"]) == (2, history[1])
    assert record["last"] == history[2]


def test_the_log_names_model_seed_and_epoch(folders):
    lines: list[str] = []
    run(folders, "standard", 1, lines.append)
    assert [line.split("  ")[0] for line in lines] == ["standard seed 1"] * 2
    assert ["epoch 1/2" in lines[0], "epoch 2/2" in lines[1]] == [True, True]


# --- going on ------------------------------------------------------------------------------------


@each
def test_a_finished_training_is_not_done_again(folders, name, monkeypatch):
    path = run(folders, name, 0, quiet)
    before = digest(path), path.stat().st_mtime_ns, path.with_suffix(".json").read_bytes()
    monkeypatch.setattr(stage, "load_cifar10", never)
    monkeypatch.setattr(stage, "fit", never)
    assert run(folders, name, 0, quiet) == path
    after = digest(path), path.stat().st_mtime_ns, path.with_suffix(".json").read_bytes()
    assert after == before


@each
def test_killed_after_the_first_epoch_it_ends_with_the_same_weights(folders, name, tmp_path):
    unbroken = train(name, 0, tmp_path / "unbroken", tmp_path / "other", CPU, quiet)
    with pytest.raises(KeyboardInterrupt):
        run(folders, name, 0, die_in(2))
    assert not [file for file in folders[0].rglob("*") if file.is_file()]
    left = [file.name for file in folders[1].rglob("*") if file.is_file()]
    assert left == ["seed-0.checkpoint"]
    lines: list[str] = []
    path = run(folders, name, 0, lines.append)
    assert len(lines) == 1
    assert "epoch 2/2" in lines[0]
    assert digest(path) == digest(unbroken)
    one, other = read_record(path), read_record(unbroken)
    assert all(one[key] == other[key] for key in ("history", "best_epoch", "best", "last"))
    assert not list(folders[1].rglob("*.checkpoint"))


def test_killed_before_the_weights_were_written_only_they_are_missing(folders, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "save_weights", never)
        with pytest.raises(AssertionError):
            run(folders, "standard", 0, quiet)
    lines: list[str] = []
    path = run(folders, "standard", 0, lines.append)
    assert lines == []  # both epochs were in the checkpoint
    assert len(read_record(path)["history"]) == 2


def test_weights_without_a_record_are_trained_again(folders):
    path = run(folders, "standard", 0, quiet)
    before = digest(path)
    path.with_suffix(".json").unlink()
    assert digest(run(folders, "standard", 0, quiet)) == before
    assert read_record(path)["sha256"] == before


def test_models_and_seeds_have_checkpoints_of_their_own(folders):
    for name, seed in [("standard", 0), ("standard", 1), ("gaussian-0.25", 0)]:
        with pytest.raises(KeyboardInterrupt):
            run(folders, name, seed, die_in(2))
    assert len(list(folders[1].rglob("*.checkpoint"))) == 3
    lines: list[str] = []
    run(folders, "standard", 1, lines.append)
    assert len(lines) == 1
    assert len(list(folders[1].rglob("*.checkpoint"))) == 2


# --- what is refused -----------------------------------------------------------------------------


def test_an_unknown_model_is_refused(folders):
    with pytest.raises(ValueError, match=r"^unknown model 'vgg': choose from standard, "):
        run(folders, "vgg", 0, quiet)
    with pytest.raises(ValueError, match=r"^unknown model 'vgg': choose from standard, "):
        load_model(folders[0], "vgg", 0, CPU)
    assert not folders[0].exists()
    assert not folders[1].exists()


def test_damaged_weights_are_refused_not_overwritten(folders):
    path = run(folders, "standard", 0, quiet)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file its record describes") as caught:
        run(folders, "standard", 0, quiet)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_weights_of_another_recipe_are_refused(folders, monkeypatch):
    path = run(folders, "standard", 0, quiet)
    before = digest(path)
    longer = dataclasses.replace(RECIPES["standard"], epochs=3)
    monkeypatch.setitem(RECIPES, "standard", longer)
    with pytest.raises(WeightsError, match=r"another recipe \(differs in epochs\)"):
        run(folders, "standard", 0, quiet)
    with pytest.raises(WeightsError, match="another recipe"):
        load_model(folders[0], "standard", 0, CPU)
    assert digest(path) == before


def test_a_checkpoint_of_another_recipe_is_refused(folders, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(folders, "standard", 0, die_in(2))
    longer = dataclasses.replace(RECIPES["standard"], epochs=3)
    monkeypatch.setitem(RECIPES, "standard", longer)
    with pytest.raises(WeightsError, match="belongs to another training"):
        run(folders, "standard", 0, quiet)


def test_missing_weights_are_refused(folders):
    with pytest.raises(WeightsError, match="missing: train the model") as caught:
        load_model(folders[0], "standard", 0, CPU)
    assert "\n" not in str(caught.value)


# --- several trainings ---------------------------------------------------------------------------

PAIRS = [("mixed-at", 1), ("standard", 0), ("gaussian-0.25", 2)]


def test_one_at_a_time_they_are_trained_in_the_order_given(folders, monkeypatch):
    started = []

    def training(name, seed, models, work, device, *log):
        started.append((name, seed))
        assert (models, work, device) == (*folders, CPU)
        return weights_path(models, name, seed)

    monkeypatch.setattr(stage, "train", training)
    paths = run_all(folders, PAIRS, jobs=1)
    assert started == PAIRS
    assert paths == [weights_path(folders[0], name, seed) for name, seed in PAIRS]


def test_on_one_core_one_at_a_time_is_the_default(folders, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(stage, "ProcessPoolExecutor", never)
    paths = run_all(folders, PAIRS[1:])
    assert all(path.exists() for path in paths)


def test_an_unknown_model_is_refused_before_any_is_trained(folders, monkeypatch):
    monkeypatch.setattr(stage, "train", never)
    monkeypatch.setattr(stage, "ProcessPoolExecutor", never)
    for jobs in (1, 2):
        with pytest.raises(ValueError, match="unknown model 'vgg'"):
            run_all(folders, [("standard", 0), ("vgg", 0)], jobs)


def test_no_training_is_none(folders):
    assert run_all(folders, [], jobs=2) == []


@pytest.mark.slow
def test_side_by_side_they_come_back_in_the_order_given(folders, monkeypatch):
    # Spawned processes see no monkeypatch, so they get what they find finished: true recipes.
    monkeypatch.undo()
    pairs = [("standard", 1), ("gaussian-0.25", 0), ("standard", 0)]
    for name, seed in pairs:
        network, record = RECIPES[name].build(seed), {"recipe": RECIPES[name].record()}
        save_weights(network, weights_path(folders[0], name, seed), record)
    paths = run_all(folders, pairs, jobs=2)
    assert paths == [weights_path(folders[0], name, seed) for name, seed in pairs]


# --- threads and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [[("standard", 0)], [("standard", 0), ("gaussian-0.25", 0)]])
def test_in_this_process_a_training_has_one_thread(folders, monkeypatch, pairs):
    """As in a pool: which networks were left to a resumed run must not change any."""
    seen, before = [], torch.get_num_threads()
    real = stage._train

    def recording(*words):
        seen.append(torch.get_num_threads())
        real(*words)

    monkeypatch.setattr(stage, "_train", recording)
    torch.set_num_threads(2)
    try:
        run_all(folders, pairs, jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * len(pairs)


PROGRAM = """
import sys
from pathlib import Path
import torch
from rvlib.stages.train import train_all
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pairs = [("standard", 0), ("standard", 1)]
    train_all(pairs, folder / "models", folder / "work", torch.device("cpu"), jobs=2)
"""


@pytest.mark.slow
def test_trainings_side_by_side_end_with_the_process_that_was_killed(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    found = os.pathsep.join(sys.path)  # the children must find what this process finds
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env=os.environ | {"PYTHONPATH": found},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # its helper says what the killed one left
    )
    weights = [weights_path(tmp_path / "models", "standard", seed) for seed in (0, 1)]
    try:
        wait_until(lambda: all(beside(path).exists() for path in weights))
        time.sleep(0.5)
        assert parent.poll() is None  # at work, for minutes
        for path in weights:
            with pytest.raises(BusyError):
                OnlyWriter(path)
        parent.kill()  # it alone: what it started is on its own
        parent.wait()
        wait_until(lambda: all(is_free(path) for path in weights), 10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)  # should they live on after all
        parent.wait()


def beside(path):
    return path.with_name(f".{path.name}.lock")


def is_free(path):
    try:
        with OnlyWriter(path):
            return True
    except BusyError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
