"""The jobs that are done once, on a GPU: train all models, certify the whole test set."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rvlib.bench.compare import seconds_of
from rvlib.bench.plan import MODELS, RADIUS, SIZES, TEST_SET
from rvlib.data import load_cifar10
from rvlib.evaluation import nested_votes, predictions
from rvlib.profiles import DEFENCES
from rvlib.recipes import ALPHA, ATTACKS, N0, SIGMA, gaussian_name
from rvlib.smoothing import certificate
from rvlib.stages.run import Run
from rvlib.stages.train import load_model, train

Part = Callable[[], float]
"""Does a part of the job; returns an accuracy in percent."""


@dataclass(frozen=True)
class Whole:
    """One long job, its parts one after another.

    Parameters
    ----------
    name : str
        A key of ``rvlib.bench.plan.SECONDS``.
    on : str
        What it is done on.
    parts : mapping of str to callable
        By name; each returns an accuracy in percent.
    note : str, default=""
        What a reader must know of it.
    """

    name: str
    on: str
    parts: Mapping[str, Part]
    note: str = ""


def measure_whole(whole: Whole, device: torch.device) -> Iterator[dict[str, Any]]:
    """Time the parts of a job, each once.

    Parameters
    ----------
    whole : Whole
        The job.
    device : torch.device
        Where it runs: a GPU is waited for.

    Yields
    ------
    dict
        After each part ``job, on, note``; by part ``seconds`` and ``score``; ``seconds`` of all,
        None until the last one.
    """
    parts: dict[str, dict[str, float]] = {}
    for name, part in whole.parts.items():
        scores: list[float] = []
        seconds = seconds_of(lambda part=part, into=scores: into.append(part()), device)  # type: ignore[misc]
        parts[name] = {"seconds": round(seconds, 2), "score": round(scores[0], 2)}
        total = round(sum(part["seconds"] for part in parts.values()), 2)
        yield {
            "job": whole.name,
            "on": whole.on,
            "note": whole.note,
            "parts": dict(parts),
            "seconds": total if len(parts) == len(whole.parts) else None,
        }


def wholes(run: Run) -> Iterator[Whole]:
    """List the long jobs that the device of a run is up to.

    Parameters
    ----------
    run : Run
        Whose networks, images and device to use.

    Yields
    ------
    Whole
        None on a CPU, which would take days.
    """
    size = SIZES[run.place.device.type].test_set
    if size:
        yield test_set_job(run, *size)
        yield models_job(run)


def test_set_job(run: Run, images: int, votes: int) -> Whole:
    """Certified accuracy at a fixed number of votes, from stored images to radii."""

    def certified() -> float:
        model = run.model(gaussian_name(SIGMA))
        stored, y = (tensor[:images] for tensor in load_cifar10("test"))
        selection, counts = nested_votes(model, stored, SIGMA, [N0, votes], n0=N0, labels=y)
        sampled = counts[votes].sum(1, keepdim=True) > 0
        found = certificate(
            selection, torch.where(sampled, counts[votes], counts[N0]), ALPHA, SIGMA
        )
        right = (found.prediction == y.numpy()) & (found.radius >= RADIUS)
        return 100 * float(right.mean())

    note = f"certified at {RADIUS}; no votes beyond {N0} where the selected class is wrong"
    return Whole(TEST_SET, f"{images:,} images, {votes:,} votes each", {"votes": certified}, note)


def models_job(run: Run) -> Whole:
    """Every network of Table 1, trained by its recipe into a folder that is thrown away."""
    count, device = run.profile.heldout, run.place.device
    images, labels = (tensor[:count] for tensor in load_cifar10("heldout"))

    def part(name: str) -> Part:
        def trained() -> float:
            with tempfile.TemporaryDirectory() as folder:
                train(name, 0, Path(folder), Path(folder), device, run.log)
                model = load_model(Path(folder), name, 0, device)
                answers = predictions(model, images, labels, ATTACKS["natural"])
                return 100 * (answers == labels).double().mean().item()

        return trained

    parts = {name: part(name) for name in DEFENCES}
    return Whole(MODELS, f"{len(parts)} networks", parts, f"natural accuracy on {count} images")
