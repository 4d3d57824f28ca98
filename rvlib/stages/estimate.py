"""How long will it take?  Count the passes that are missing, time a few, multiply."""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.models import LeNet
from rvlib.models.weights import to_device
from rvlib.profiles import Profile
from rvlib.recipes import ATTACKS, RECIPES, SMOOTHED_DRAWS, SMOOTHED_STEPS
from rvlib.smoothing import sample_under_noise
from rvlib.stages.measurements import NOISE, missing_rows
from rvlib.stages.run import Run

TRAINING_IMAGES = 48_976


@dataclass(frozen=True)
class Work:
    """What is to be done, in passes of one image through the network.

    Parameters
    ----------
    training : int
        Forward and backward passes in batches as small as training's.
    attacking : int
        Forward and backward passes in large batches.
    voting : int
        Forward passes of noisy copies.
    """

    training: int
    attacking: int
    voting: int


def missing_work(run: Run) -> Work:
    """Count the passes of the trainings and measurements that are missing.

    Parameters
    ----------
    run : Run
        The run; weights and rows that are there already do not count.

    Returns
    -------
    Work
        Passes.
    """
    training = attacking = voting = 0
    for name, _ in run.untrained():
        recipe = RECIPES[name]
        steps = sum(ATTACKS[a].steps for a in recipe.attacks)
        versions = 1 + len(recipe.attacks)
        training += recipe.epochs * TRAINING_IMAGES * (versions + steps)
    for (_, defence, _, what), images in missing_rows(run).items():
        attacks, votes = _passes_an_image(run.profile, defence in NOISE, what)
        attacking += int(images * attacks)
        voting += int(images * votes)
    return Work(training, attacking, voting)


def _passes_an_image(profile: Profile, smoothed: bool, what: str) -> tuple[float, float]:
    """Count the passes with gradients, and the votes, of one image of a measurement."""
    if what == "certificates":
        # About half of the images stop early: their selected class is wrong.
        return 0, max(profile.ns) / 2
    if what == "inside":
        # About half of the images are certified.
        return SMOOTHED_STEPS * SMOOTHED_DRAWS / 2, profile.votes / 2
    votes = profile.votes if smoothed else 0
    if what not in ATTACKS:  # an attack on the vote
        return SMOOTHED_STEPS * SMOOTHED_DRAWS, votes
    return max(1, ATTACKS[what].steps) * ATTACKS[what].restarts, votes


def seconds(run: Run, cores: int) -> float:
    """Estimate how long the trainings and measurements that a run lacks take on its device.

    Parameters
    ----------
    run : Run
        The run.
    cores : int
        CPU cores; on a CPU trainings run side by side, one a core.

    Returns
    -------
    float
        Seconds; right within a factor of two or so.
    """
    work, device = missing_work(run), run.place.device
    network = to_device(LeNet(), device)
    side_by_side = cores if device.type == "cpu" else 1
    training = work.training * _seconds_a_pass(network, 32, device) / side_by_side
    attacking = work.attacking * _seconds_a_pass(network, 256, device)
    return training + attacking + work.voting * _seconds_a_vote(network, device)


def duration(seconds: float) -> str:
    """Say a duration as precisely as an estimate is.

    Parameters
    ----------
    seconds : float
        At least 0.

    Returns
    -------
    str
        ``"about 2.5 h"``, ``"about 7 min"``, ``"less than a minute"``, or ``"nothing"`` at 0.
    """
    if seconds == 0:
        return "nothing"
    if seconds < 60:
        return "less than a minute"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 99.5 else f"about {minutes / 60:.1f} h"


def _seconds_a_pass(network: nn.Module, batch: int, device: torch.device) -> float:
    x = torch.rand(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64, device=device)

    def passes() -> None:
        F.cross_entropy(network(x.requires_grad_()), y).backward()

    return _timed(passes, 10, device) / batch


def _seconds_a_vote(network: nn.Module, device: torch.device) -> float:
    x = torch.rand(64, 3, 32, 32)
    return _timed(lambda: sample_under_noise(network, x, 0.25, 100), 2, device) / 6400


def _timed(work, times: int, device: torch.device) -> float:  # type: ignore[no-untyped-def]
    work()
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times
