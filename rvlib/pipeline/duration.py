"""How long will it take?  Passes and votes are counted, a few are timed."""

import math
from collections import defaultdict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rvlib import experiments as ex
from rvlib.data import load
from rvlib.evaluation import vote_counts
from rvlib.models import MODELS, to_device
from rvlib.pipeline.everything import missing_images
from rvlib.pipeline.machine import cores, seconds
from rvlib.pipeline.run import Run

TIMED = {"lenet": 256}
"""Images of a timed pass; of larger networks 32."""


def estimate(run: Run, *names: str) -> float:
    """Seconds that the missing trainings and measurements take, of some networks only if named.

    One pass is an image once forward and backward, one vote an image once forward.
    """
    training = measuring = 0.0
    wanted = {ex.network_of(name) for name in names}
    for name, _ in run.untrained():
        if not names or name in wanted:
            recipe = ex.find_recipe(name)
            images = len(load(ex.DATASET, recipe.split)[0])
            training += recipe.epochs * images * _of_training(recipe, run)
    counted: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    for (_, defence, _, what), images in missing_images(run).items():
        if not names or defence in names:
            network = ex.find_recipe(ex.network_of(defence)).network
            counted[network] += images * np.array(_of_an_image(run, defence, what))
    for name, (passes, votes) in counted.items():
        model = to_device(MODELS[name](), run.device)
        x, y = run.images(TIMED.get(name, 32))
        measuring += passes * seconds(partial(_one_pass, model, x, y), run.device) / len(x)
        if votes:
            hundred = partial(vote_counts, model, x, y, ex.natural, 0.25, 100)
            measuring += votes * seconds(hundred, run.device) / (100 * len(x))
    return training / (cores() if run.device.type == "cpu" else 1) + measuring


def _of_training(recipe: ex.Recipe, run: Run) -> float:
    """Seconds an image of a step of training."""
    network, objective = to_device(recipe.build(0), run.device), recipe.make_objective()
    x, y = run.images(32)
    draws = torch.Generator(run.device).manual_seed(0)
    step = lambda: objective(network, x, y, draws).value.backward()  # noqa: E731
    return seconds(step, run.device, times=1) / len(x)


def _of_an_image(run: Run, defence: str, what: str) -> tuple[float, float]:
    """Count passes and votes of an image of a measurement."""
    if what == "certificates":
        return 0, max(run.profile.ns) / 2  # about half stop: their class is wrong
    votes = run.profile.votes if defence in ex.NOISE_OF else 0
    if what == "inside":
        return ex.SMOOTHED_STEPS * ex.SMOOTHED_DRAWS / 2, votes / 2
    if defence.startswith("noisy-"):
        return _steps(ex.grid_attack(what, ex.SIGMA)), max(ex.GRID_VOTES)
    return _steps(ex.find_attack(what)), votes


def _steps(attack: ex.Attack) -> int:
    options = getattr(attack, "keywords", {})
    if "version" in options:  # of AutoAttack; about a third of the images stand
        return {"fast": 1000, "standard": 4500}[options["version"]] // 3
    return math.prod(int(options.get(k, 1)) for k in ("steps", "restarts", "draws"))


def _one_pass(network: nn.Module, x: Tensor, y: Tensor) -> None:
    nn.functional.cross_entropy(network(x), y).backward()
