"""Time several ways of doing the same job, in turn, and say whether they did the same."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import chi2_contingency
from torch import Tensor

Way = Callable[[], Tensor]
"""Does the job; returns one answer an image, by which ways are compared, or votes (B, K)."""

OURS = "rvlib"


class Once(NamedTuple):
    """What a way found when it did its job once, and in how many seconds."""

    found: Tensor
    seconds: float


Do = Callable[["Job", str], Once]
"""Does a way of a job, by its name, once."""


@dataclass(frozen=True)
class Job:
    """One job and the ways to do it.

    Parameters
    ----------
    name : str
        A key of ``rvlib.bench.plan.GOALS``.
    on : str
        What it is done on: how many images and votes.
    ways : mapping of str to Way
        By name, ``rvlib`` among them.
    score : callable
        Makes of the answers a number to print beside the time: an accuracy in percent.
    note : str, default=""
        What a reader must know of the comparison.
    """

    name: str
    on: str
    ways: Mapping[str, Way]
    score: Callable[[Tensor], float]
    note: str = ""


def once(way: Way, device: torch.device) -> Once:
    """Do a job once and time it.

    Parameters
    ----------
    way : Way
        The way to do it.
    device : torch.device
        Where it runs: a GPU is waited for.

    Returns
    -------
    Once
        What it found, on the CPU, and how long it took.
    """
    found: list[Tensor] = []
    seconds = seconds_of(lambda: found.append(way()), device)
    return Once(found[0].cpu(), seconds)


def compare(job: Job, repetitions: int, do: Do) -> dict[str, Any]:
    """Time the ways of a job in turn, after one round to warm up; each round begins with another.

    Parameters
    ----------
    job : Job
        The job.
    repetitions : int
        Rounds; in each every way runs once.
    do : callable
        Does a way once, here (``once``) or in a process of its own (``rvlib.bench.apart``).

    Returns
    -------
    dict
        ``job, on, note``; by way ``seconds`` (one a round), ``score`` and ``agrees`` (share of
        images with our answer), for votes also ``same_law``; ``fastest`` other way; ``ratio`` of
        its time to ours by round, ``median, low, high``.
    """
    found = {name: do(job, name).found for name in job.ways}
    answers = {name: given.argmax(1) if given.ndim == 2 else given for name, given in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in job.ways}
    names = list(job.ways)
    for turn in range(repetitions):
        first = turn % len(names)  # whoever comes first finds the memory that the last one left
        for name in names[first:] + names[:first]:
            seconds[name].append(do(job, name).seconds)
    ours = answers[OURS]
    others = [name for name in job.ways if name != OURS]
    fastest = min(others, key=lambda name: statistics.median(seconds[name]))
    ratios = [b / a for a, b in zip(seconds[OURS], seconds[fastest], strict=True)]
    return {
        "job": job.name,
        "on": job.on,
        "note": job.note,
        "ways": {
            name: {
                "seconds": [round(s, 4) for s in seconds[name]],
                "score": round(job.score(answers[name]), 2),
                "agrees": round((answers[name] == ours).double().mean().item(), 4),
                **_law(found[name], found[OURS]),
            }
            for name in job.ways
        },
        "fastest": fastest,
        "median": round(statistics.median(ratios), 2),
        "low": round(min(ratios), 2),
        "high": round(max(ratios), 2),
    }


def _law(votes: Tensor, ours: Tensor) -> dict[str, float]:
    if votes is ours or votes.ndim < 2:
        return {}
    return {"same_law": round(same_law(votes, ours), 4)}


def same_law(votes: Tensor, others: Tensor) -> float:
    """Test whether two lots of votes are of the same law, image by image.

    Parameters
    ----------
    votes, others : Tensor of shape (B, K), int64
        Votes of each class, of independent noise.

    Returns
    -------
    float
        The smallest p-value of a chi-square test of homogeneity among the images, times their
        number (Bonferroni): small where the laws differ.  Classes with fewer than ten votes in the
        two together count as one.
    """
    smallest = 1.0
    for one, other in zip(votes.tolist(), others.tolist(), strict=True):
        table = np.array([one, other])
        rare = table.sum(0) < 10
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
        table = table[:, table.sum(0) > 0]
        if table.shape[1] > 1:
            smallest = min(smallest, chi2_contingency(table, correction=False).pvalue)
    return float(min(1.0, smallest * len(votes)))


def seconds_of(way: Callable[[], object], device: torch.device) -> float:
    """Say how long a call takes; on a GPU by its own clock, from idle to idle.

    Parameters
    ----------
    way : callable
        What is called, once.
    device : torch.device
        Where it runs.

    Returns
    -------
    float
        Seconds.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            way()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1000
    started = time.perf_counter()
    way()
    return time.perf_counter() - started
