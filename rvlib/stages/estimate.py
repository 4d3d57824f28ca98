"""How long will it take?  Count the passes that are missing, time a few, multiply."""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.models import LeNet
from rvlib.models.weights import to_device
from rvlib.recipes import ATTACKS, RECIPES, SIGMAS, SMOOTHED_DRAWS, SMOOTHED_STEPS
from rvlib.smoothing import sample_under_noise
from rvlib.stages.run import SMOOTHED_ATTACKS, Run

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
    """Count the passes of trainings that are missing, and of all measurements.

    Parameters
    ----------
    run : Run
        The run; rows that are there already are not subtracted, so this is an upper bound.

    Returns
    -------
    Work
        Passes.
    """
    profile = run.profile
    training = 0
    for name, _ in run.untrained():
        recipe = RECIPES[name]
        steps = sum(ATTACKS[a].steps for a in recipe.attacks)
        versions = 1 + len(recipe.attacks)
        training += recipe.epochs * TRAINING_IMAGES * (versions + steps)
    images = profile.heldout + profile.test
    networks = len(RECIPES) + sum(profile.seeds.values()) - len(profile.seeds)
    per_image = sum(max(1, ATTACKS[a].steps) * ATTACKS[a].restarts for a in profile.attacks)
    vote_attacks = sum(attack.sigma is not None for attack in SMOOTHED_ATTACKS)
    attacking = images * (networks * per_image + vote_attacks * SMOOTHED_STEPS * SMOOTHED_DRAWS)
    voting = images * len(SMOOTHED_ATTACKS) * profile.votes
    # About half of the certified images stop early: their selected class is wrong.
    voting += len(SIGMAS) * profile.certified * (4 * profile.votes + max(profile.ns) // 2)
    return Work(training, attacking, voting)


def seconds(run: Run, cores: int) -> float:
    """Estimate the duration of a run on its device.

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
