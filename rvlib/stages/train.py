"""Make a model of the recipes and put its weights and record on disk."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rvlib.data import load_cifar10
from rvlib.device import provenance, repeatable
from rvlib.evaluation import predictions
from rvlib.files import OnlyWriter, sweep
from rvlib.models import load_weights, save_weights
from rvlib.models.weights import to_device
from rvlib.recipes import ATTACKS, Recipe, find_recipe
from rvlib.training import Fit, Monitor, Split, fit

Log = Callable[[str], None]

THREADS = 1
"""Of a training on a CPU: in another number of threads sums are rounded otherwise, and after some
epochs other weights come out, whether trainings go side by side or one is left to be ended."""


def weights_path(models: Path, name: str, seed: int) -> Path:
    """Say where the weights of a model and seed lie: ``models/name/seed-0.safetensors``."""
    return models / name / f"seed-{seed}.safetensors"


def load_model(models: Path, name: str, seed: int, device: torch.device) -> nn.Module:
    """Load a trained model after checking its digest and recipe.

    Parameters
    ----------
    models : Path
        Folder of the weights.
    name : str
        A key of ``rvlib.recipes.RECIPES``.
    seed : int
        Training seed.
    device : torch.device
        Where to put it.

    Returns
    -------
    nn.Module
        In evaluation mode, on `device`, in the fast memory layout.

    Raises
    ------
    rvlib.models.weights.WeightsError
        If the weights are missing, damaged or of another recipe.
    """
    recipe = find_recipe(name)
    network = recipe.build(seed)
    load_weights(network, weights_path(models, name, seed), recipe.record())
    return to_device(network, device).eval()


def train(
    name: str, seed: int, models: Path, work: Path, device: torch.device, log: Log = print
) -> Path:
    """Train a model of the recipes, or go on where a killed run stopped, or find it done.

    Parameters
    ----------
    name : str
        A key of ``rvlib.recipes.RECIPES``.
    seed : int
        Of initial weights, order, noise and attacks.
    models : Path
        Folder for the finished weights.
    work : Path
        Folder for the checkpoint, removed when the weights are written.
    device : torch.device
        Where to train.
    log : callable, default=print
        Takes one line an epoch.

    Returns
    -------
    Path
        The weights of the last epoch; beside them the record, with the history of every epoch.

    Raises
    ------
    rvlib.files.BusyError
        If another run is training this model into this folder.
    """
    recipe = find_recipe(name)
    path = weights_path(models, name, seed)
    checkpoint = checkpoint_path(work, name, seed)
    if not _written(path):
        with OnlyWriter(path), repeatable(device, THREADS):
            if not _written(path):  # again: another run may have ended just now
                _train(recipe, seed, path, checkpoint, device, log)
    load_weights(recipe.build(seed), path, recipe.record())
    checkpoint.unlink(missing_ok=True)
    for file in (path, path.with_suffix(".json"), checkpoint):
        sweep(file)
    return path


def checkpoint_path(work: Path, name: str, seed: int) -> Path:
    """Say where a training that is not finished lies: ``work/name/seed-0.checkpoint``."""
    return work / name / f"seed-{seed}.checkpoint"


def is_trained(models: Path, work: Path, name: str, seed: int) -> bool:
    """Say whether a training is finished, and nothing of it is left over to be removed.

    Parameters
    ----------
    name : str
        A key of ``rvlib.recipes.RECIPES``.
    seed : int
        Training seed.
    models, work
        As for ``train``.

    Returns
    -------
    bool
        If not, ``train`` does what is missing.
    """
    path = weights_path(models, name, seed)
    lock = path.with_name(f".{path.name}.lock")
    left_over = checkpoint_path(work, name, seed).exists() or lock.exists()
    return path.with_suffix(".json").exists() and not left_over


def _written(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()


def _train(
    recipe: Recipe, seed: int, path: Path, checkpoint: Path, device: torch.device, log: Log
) -> None:
    """Train a model and write its weights."""
    model = recipe.build(seed)
    started = time.monotonic()
    result = fit(
        model,
        recipe.make_objective(),
        load_cifar10("train"),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        momentum=recipe.momentum,
        seed=seed,
        monitor=_monitor(recipe, load_cifar10("heldout")),
        select=recipe.select,
        checkpoint=checkpoint,
        identity={"recipe": recipe.record(), "seed": seed},
        device=device,
        log=lambda line: log(f"{recipe.name} seed {seed}  {line}"),
    )
    seconds = round(time.monotonic() - started, 1)
    save_weights(model, path, _record(recipe, seed, result, device, seconds))


def _monitor(recipe: Recipe, heldout: Split) -> Monitor:
    """Accuracies on the held-out images, clean and under the recipe's probe."""
    images, labels = heldout

    def monitor(model: nn.Module) -> dict[str, float]:
        accuracies = {}
        for attack in ("natural", recipe.probe):
            answers = predictions(model, images, labels, ATTACKS[attack])
            accuracies[attack] = (answers == labels).double().mean().item()
        return accuracies

    return monitor


def _record(
    recipe: Recipe, seed: int, result: Fit, device: torch.device, seconds: float
) -> dict[str, Any]:
    return {
        "recipe": recipe.record(),
        "seed": seed,
        "epochs": len(result.history),
        "shipped": "last epoch",
        "last": result.history[-1],
        "best_epoch": result.best_epoch + 1,
        "best": result.history[result.best_epoch],
        # Of the last unbroken stretch: a resumed training counts from its resumption.
        "seconds": seconds,
        **provenance(device),
        "history": result.history,
    }


def train_all(
    pairs: Sequence[tuple[str, int]],
    models: Path,
    work: Path,
    device: torch.device,
    jobs: int | None = None,
) -> list[Path]:
    """Train several models, on CPUs several at once.

    A small network keeps one core busy and gains little from a second: two trainings side by side
    finish earlier than one after the other with two threads each.  So each has one (``THREADS``).

    Parameters
    ----------
    pairs : sequence of (str, int)
        Names of recipes and seeds, in the order to start them in.
    models, work, device
        As for ``train``.
    jobs : int, default=None
        Trainings at once; by default one a CPU core, and one on a GPU.

    Returns
    -------
    list of Path
        The weights, in the order of `pairs`.
    """
    for name, _ in pairs:
        find_recipe(name)
    jobs = jobs or ((os.cpu_count() or 1) if device.type == "cpu" else 1)
    if min(jobs, len(pairs)) <= 1:
        return [train(name, seed, models, work, device, _flush) for name, seed in pairs]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=end_with_parent) as pool:
        running = [
            pool.submit(train, name, seed, models, work, device, _flush) for name, seed in pairs
        ]
        return [future.result() for future in running]


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ended.

    Otherwise trainings would go on after a kill, and bar the same command from going on with them.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _flush(line: str) -> None:
    print(line, flush=True)
