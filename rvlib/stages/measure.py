"""Measure a defence and write one row an image; go on where an interrupted run stopped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rvlib.data import CIFAR10_DIGEST, load_cifar10, to_float
from rvlib.device import arithmetic, provenance, repeatable
from rvlib.evaluation import (
    ExternalAttack,
    nested_votes,
    predictions,
    votes,
    votes_inside,
    votes_under_attack,
)
from rvlib.evaluation.inside import SHARE
from rvlib.memory import budget, held_budget
from rvlib.models.weights import read_record
from rvlib.recipes import (
    ALPHA,
    N0,
    SMOOTHED_DRAWS,
    SMOOTHED_STEPS,
    AttackRecipe,
    gaussian_name,
    smoothed_name,
)
from rvlib.rows import RowFile, Rows, read_rows, rows_path
from rvlib.smoothing import ABSTAIN, certificate
from rvlib.smoothing.certificate import Certificates
from rvlib.stages.train import load_model, weights_path


@dataclass(frozen=True)
class Place:
    """Where a run reads weights and writes rows, what it computes on and with which randomness.

    Parameters
    ----------
    models : Path
        Folder of trained weights.
    rows : Path
        Folder of rows.
    device : torch.device
        What to compute on.
    seed : int, default=0
        Of attacks and votes; training seeds are the weights' own.
    """

    models: Path
    rows: Path
    device: torch.device
    seed: int = 0


Step = Callable[[nn.Module, Tensor, Tensor, int], list[dict[str, Any]]]
"""Measure a few images: (model, images, labels, index of the first) -> one row each."""


def measure_attack(
    place: Place,
    model: str,
    seed: int,
    attack: AttackRecipe | ExternalAttack,
    split: str,
    count: int,
) -> Path:
    """Classify the first `count` images of a split under an attack on the network itself.

    Parameters
    ----------
    place : Place
        Weights, rows, device.
    model : str
        A key of ``rvlib.recipes.RECIPES``.
    seed : int
        Its training seed.
    attack : AttackRecipe or ExternalAttack
        The library's, or one from elsewhere; its rows lie under its name.
    split : str
        ``"heldout"`` (the report's images) or ``"test"``.
    count : int
        How many images.

    Returns
    -------
    Path
        Rows ``index, label, prediction``.
    """

    def step(network: nn.Module, x: Tensor, y: Tensor, first: int) -> list[dict[str, Any]]:
        answers = predictions(network, x, y, attack, first_id=first, unit=len(x), seed=place.seed)
        return _rows(first, y, prediction=answers.tolist())

    return _measure(
        place,
        rows_path(place.rows, split, model, seed, attack.name),
        attack_identity(model, seed, attack),
        ["prediction"],
        split,
        count,
        256,
        step,
    )


def measure_votes(
    place: Place, sigma: float, seed: int, attack: AttackRecipe, split: str, count: int, n: int
) -> Path:
    """Let the smoothed network vote on the first `count` images of a split under an attack.

    Parameters
    ----------
    place : Place
        Weights, rows, device.
    sigma : float
        Noise level of the vote and of the base network's training.
    seed : int
        Training seed of the base network.
    attack : AttackRecipe
        Against the base network, or (``on_the_vote``) against the vote.
    split : str
        ``"heldout"`` or ``"test"``.
    count : int
        How many images.
    n : int
        Votes an image.

    Returns
    -------
    Path
        Rows ``index, label, counts``.
    """

    def step(network: nn.Module, x: Tensor, y: Tensor, first: int) -> list[dict[str, Any]]:
        counts = votes_under_attack(
            network, x, y, attack, sigma, n, first_id=first, seed=place.seed, unit=len(x)
        )
        return _rows(first, y, counts=_texts(counts))

    return _measure(
        place,
        rows_path(place.rows, split, smoothed_name(sigma), seed, attack.name),
        votes_identity(sigma, seed, attack, n),
        ["counts"],
        split,
        count,
        64,
        step,
    )


def measure_certificates(
    place: Place, sigma: float, seed: int, split: str, count: int, ns: Sequence[int]
) -> Path:
    """Draw the votes for certificates of the first `count` images of a split.

    Parameters
    ----------
    place : Place
        Weights, rows, device.
    sigma : float
        Noise level of the vote and of the base network's training.
    seed : int
        Training seed of the base network.
    split : str
        ``"heldout"`` or ``"test"``.
    count : int
        How many images.
    ns : sequence of int
        Numbers of votes, ascending.

    Returns
    -------
    Path
        Rows ``index, label, selection, counts_<n>...``; an image whose selected class is wrong
        has empty cells beyond the smallest n.
    """
    ns = list(ns)

    def step(network: nn.Module, x: Tensor, y: Tensor, first: int) -> list[dict[str, Any]]:
        selection, counts = nested_votes(network, x, sigma, ns, n0=N0, labels=y, seed=place.seed)
        columns = {f"counts_{n}": _texts(counts[n]) for n in ns}
        return _rows(first, y, selection=_texts(selection), **columns)

    return _measure(
        place,
        rows_path(place.rows, split, smoothed_name(sigma), seed, "certificates"),
        certificates_identity(sigma, seed, ns),
        ["selection", *(f"counts_{n}" for n in ns)],
        split,
        count,
        64,
        step,
    )


def measure_inside(
    place: Place, sigma: float, seed: int, split: str, count: int, ns: Sequence[int], n: int
) -> Path:
    """Attack the first `count` images of a split inside the balls that their votes certify.

    Parameters
    ----------
    place : Place
        Weights, rows, device.
    sigma : float
        Noise level of the vote and of the base network's training.
    seed : int
        Training seed of the base network.
    split : str
        ``"heldout"`` or ``"test"``.
    count : int
        How many images; their certificates must have been measured.
    ns : sequence of int
        Numbers of votes of the certificates; the largest is used.
    n : int
        Votes of an attacked image.

    Returns
    -------
    Path
        Rows ``index, label, certified, radius, counts``; empty cells where nothing is certified.
    """
    path = rows_path(place.rows, split, smoothed_name(sigma), seed, "certificates")
    certified = read_rows(path, count)

    def step(network: nn.Module, x: Tensor, y: Tensor, first: int) -> list[dict[str, Any]]:
        found = _certificates(certified, slice(first, first + len(x)), max(ns), sigma)
        counts = votes_inside(
            network,
            to_float(x),
            found,
            sigma,
            first_id=first,
            steps=SMOOTHED_STEPS,
            draws=SMOOTHED_DRAWS,
            n=n,
            seed=place.seed,
        )
        return _rows(
            first,
            y,
            certified=[int(c) if c != ABSTAIN else "" for c in found.prediction],
            # Nine decimals, rounded down: no more than was certified.
            radius=[f"{math.floor(r * 1e9) / 1e9:.9f}" if r > 0 else "" for r in found.radius],
            counts=_texts(counts),
        )

    return _measure(
        place,
        rows_path(place.rows, split, smoothed_name(sigma), seed, "inside"),
        inside_identity(sigma, seed, ns, n),
        ["certified", "radius", "counts"],
        split,
        count,
        64,
        step,
    )


def attack_identity(model: str, seed: int, attack: AttackRecipe | ExternalAttack) -> dict[str, Any]:
    """Say what ``measure_attack`` measures, but for weights, images and randomness."""
    return {"model": model, "training_seed": seed, "attack": attack.record()}


def votes_identity(sigma: float, seed: int, attack: AttackRecipe, n: int) -> dict[str, Any]:
    """Say the same of ``measure_votes``."""
    return attack_identity(gaussian_name(sigma), seed, attack) | {"sigma": sigma, "n": n}


def certificates_identity(sigma: float, seed: int, ns: Sequence[int]) -> dict[str, Any]:
    """Say the same of ``measure_certificates``."""
    model = {"model": gaussian_name(sigma), "training_seed": seed}
    return model | {"sigma": sigma, "n0": N0, "ns": list(ns)}


def inside_identity(sigma: float, seed: int, ns: Sequence[int], n: int) -> dict[str, Any]:
    """Say the same of ``measure_inside``."""
    attack = {"share": SHARE, "steps": SMOOTHED_STEPS, "draws": SMOOTHED_DRAWS}
    return certificates_identity(sigma, seed, ns) | {"n": n, "alpha": ALPHA} | attack


def _certificates(rows: Rows, chosen: slice, n: int, sigma: float) -> Certificates:
    """Certify images from their stored votes; ABSTAIN where they were not sampled to `n`."""
    selection, counts = (votes(rows, column)[chosen] for column in ("selection", f"counts_{n}"))
    sampled = counts.sum(1) > 0
    prediction, radius = np.full(len(counts), ABSTAIN), np.zeros(len(counts))
    if sampled.any():
        found = certificate(selection[sampled], counts[sampled], ALPHA, sigma)
        prediction[sampled], radius[sampled] = found
    return Certificates(prediction, radius)


def _measure(
    place: Place,
    path: Path,
    what: dict[str, Any],
    columns: list[str],
    split: str,
    count: int,
    unit: int,
    step: Step,
) -> Path:
    """Measure unit by unit, each appended as soon as it is there.

    Units are fixed parts of the split; the memory that they are cut to fit into and the number of
    threads are those that the rows' head tells, so a run taken up again puts the same images into
    the same batches, and adds up in the same order, as an unbroken one.
    """
    model, seed = what["model"], what["training_seed"]
    identity = what | {
        "weights": read_record(weights_path(place.models, model, seed))["sha256"],
        "data": CIFAR10_DIGEST,
        "split": split,
        "unit": unit,
        "seed": place.seed,
    }
    # Another function is measured, and other noise: rows of the two may not come into one file.
    if arithmetic(place.device) != "float32":
        identity["arithmetic"] = arithmetic(place.device)
    if place.device.type != "cpu":
        identity["device"] = place.device.type
    columns = ["index", "label", *columns]
    file = RowFile(path, identity, provenance(place.device), columns, count, unit)
    if file.done >= count:
        return path
    threads = _told(file, "threads", torch.get_num_threads())
    memory = _told(file, "memory", budget(place.device))
    with file, held_budget(memory), repeatable(place.device, threads):
        network = load_model(place.models, model, seed, place.device)
        images, labels = (tensor[:count] for tensor in load_cifar10(split))
        title = f"{'/'.join(path.parts[-4:-1])} {path.stem}"
        starts = range(file.done, count, unit)
        for first in tqdm(starts, desc=title, disable=None, leave=False):
            chosen = slice(first, min(first + unit, count))
            file.append(step(network, images[chosen], labels[chosen], first))
    return path


def _told(file: RowFile, what: str, now: int) -> int:
    """Say what the rows were begun with, or what is the case now where their head tells nothing."""
    told = file.provenance.get(what)
    return told if isinstance(told, int) and told > 0 else now


def _rows(first: int, labels: Tensor, **columns: list[Any]) -> list[dict[str, Any]]:
    """Put columns together, one row an image."""
    return [
        {"index": first + i, "label": int(label), **{k: v[i] for k, v in columns.items()}}
        for i, label in enumerate(labels)
    ]


def _texts(counts: Tensor) -> list[str]:
    """Write each image's votes as numbers with spaces between; nothing where it has none."""
    return [" ".join(map(str, row)) if any(row) else "" for row in counts.tolist()]
