"""Notebook 03's short trainings, drawn as they go: mixing weights compared, and a collapse."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from IPython.display import display
from torch import Tensor, nn

from rvlib.attacks import fgsm
from rvlib.course.figures import show_progress
from rvlib.course.lessons import percent_right, sweep
from rvlib.data import load_cifar10
from rvlib.objectives import Objective, adversarial
from rvlib.recipes import ATTACKS, SIGMA, AttackRecipe, gaussian_name
from rvlib.stages.run import Run
from rvlib.threat_models import Linf
from rvlib.training import Monitor, fit
from rvlib.types import Images

ALPHAS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Weights of the clean loss, from no attack to nothing but attacks."""
START = gaussian_name(SIGMA)
"""Where they start: training under noise has left it a smooth loss, which a few steps can harden;
the undefended network's is so steep that the first ones would destroy it."""

COLLAPSE_BALL = Linf(12 / 255)
"""Large enough for a collapse within a few epochs."""
FILTERS = 16


class ShortTraining(NamedTuple):
    """A network after a short training.

    Parameters
    ----------
    name : str
        What its curves are called.
    model : nn.Module
        The trained network.
    history : list of dict of str to float
        Held-out accuracies by attack, in percent: before the first epoch and after each.
    """

    name: str
    model: nn.Module
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """Short trainings that differ in their loss only.

    Parameters
    ----------
    name : str
        Folder of their checkpoints.
    start : callable
        Makes the network that all start from.
    objectives : mapping of str to Objective
        Losses, by what their curves are called.
    watched : sequence of AttackRecipe
        Attacks measured before the first epoch and after each.
    images : int
        How many training images, at most.
    epochs, batch_size, lr
        Of the optimiser loop.
    """

    name: str
    start: Callable[[], nn.Module]
    objectives: Mapping[str, Objective]
    watched: tuple[AttackRecipe, ...]
    images: int
    epochs: int
    batch_size: int
    lr: float


def compare_alphas(run: Run) -> list[ShortTraining]:
    """Train one network further with PGD, once for every weight of the clean loss.

    Parameters
    ----------
    run : Run
        Whose noise-trained network to start from; the larger its profile, the more images.

    Returns
    -------
    list of ShortTraining
        In the order of ``ALPHAS``.  A training that was finished before is read from disk.
    """
    attack = ATTACKS["pgd-linf"]
    plan = Plan(
        "alpha",
        start=lambda: run.model(START),
        objectives={f"α = {alpha:g}": adversarial(attack, alpha) for alpha in ALPHAS},
        watched=(ATTACKS["natural"], attack),
        images=2 * run.profile.heldout,
        epochs=3,
        batch_size=32,
        lr=0.005,
    )
    return train_shortly(run, plan)


def train_to_collapse(run: Run) -> list[ShortTraining]:
    """Train one convolution against one step, which collapses, and against two, which does not.

    Parameters
    ----------
    run : Run
        The larger its profile, the more images.

    Returns
    -------
    list of ShortTraining
        Against FGSM first.  A training that was finished before is read from disk.

    References
    ----------
    .. [1] Andriushchenko, Flammarion, "Understanding and Improving Fast Adversarial Training",
       NeurIPS 2020, section 4: a single layer is enough for a collapse.  arXiv:2007.02617.
    """
    ball, eps = COLLAPSE_BALL, COLLAPSE_BALL.eps
    one = AttackRecipe("FGSM", ball)
    two = AttackRecipe("PGD, 2 steps", ball, 2, eps)
    probe = AttackRecipe("PGD, 10 steps", ball, 10, eps / 4)
    plan = Plan(
        "collapse",
        start=lambda: one_layer(run.images(run.profile.heldout)[0], run.place.seed),
        objectives={
            f"trained against {attack.name}": adversarial(attack, 0.0) for attack in (one, two)
        },
        watched=(one, probe),
        images=10 * run.profile.heldout,
        epochs=6,
        batch_size=64,
        lr=0.003,
    )
    return train_shortly(run, plan)


def along_the_step(
    run: Run, trainings: Sequence[ShortTraining]
) -> tuple[list[float], dict[str, list[float]]]:
    """Measure networks at points of the one step that some of them were trained against.

    Parameters
    ----------
    run : Run
        Whose held-out images to use.
    trainings : sequence of ShortTraining
        The networks, trained in ``COLLAPSE_BALL``.

    Returns
    -------
    radii : list of float
        Lengths of the step along the gradient's signs, from nothing to the ball's radius.
    curves : dict of str to list of float
        Accuracy in percent at each, by training.
    """
    x, y = run.images(min(512, run.profile.heldout))
    radii = [k / 8 * COLLAPSE_BALL.eps for k in range(9)]

    def curve(model: nn.Module) -> list[float]:
        return sweep(model, y, lambda eps: fgsm(model, x, y, Linf(eps)), radii)

    return radii, {training.name: curve(training.model) for training in trainings}


def one_layer(x: Images, seed: int) -> nn.Module:
    """Make a network of one convolution and a linear answer, for pixels spread like those of `x`.

    Parameters
    ----------
    x : Tensor of shape (B, 3, 32, 32), float, in [0, 1]
        Pictures, whose mean and standard deviation are taken out of every input.
    seed : int
        Of the initial weights.

    Returns
    -------
    nn.Module
        Maps pixels of shape (B, 3, 32, 32) to logits of shape (B, 10).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [nn.Conv2d(3, FILTERS, 3, padding=1), nn.ReLU(), nn.Flatten()]
        answer = nn.Linear(FILTERS * 32 * 32, 10)
    return nn.Sequential(_Standardise(x), *layers, answer).to(x.device)


class _Standardise(nn.Module):
    """Pixels with the mean and the standard deviation of some pictures taken out."""

    def __init__(self, x: Images) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", x.mean((0, 2, 3))[:, None, None])
        self.register_buffer("std", x.std((0, 2, 3))[:, None, None])

    def forward(self, x: Images) -> Tensor:
        return (x - self.mean) / self.std


def train_shortly(run: Run, plan: Plan) -> list[ShortTraining]:
    """Train, and draw the accuracies after every epoch.

    Parameters
    ----------
    run : Run
        Whose device, seed and folder to use.
    plan : Plan
        The trainings.

    Returns
    -------
    list of ShortTraining
        One an objective.  A training that was finished before is read from disk.
    """
    watch, trainings = _watch(run, plan), list[ShortTraining]()
    before = watch(plan.start())
    screen = display(show_progress({}, plan.epochs, list(before)), display_id=True)
    for name in plan.objectives:
        for epoch in _epochs(run, plan, name, watch):
            latest = epoch._replace(history=[before, *epoch.history])
            histories = {t.name: t.history for t in [*trainings, latest]}
            screen.update(show_progress(histories, plan.epochs, list(before)))
        trainings.append(latest)
    return trainings


def _epochs(run: Run, plan: Plan, name: str, watch: Monitor) -> Iterator[ShortTraining]:
    """Train epoch by epoch, from the checkpoint of the one before."""
    images, labels = (part[: plan.images] for part in load_cifar10("train"))
    model, options = plan.start(), {"batch_size": plan.batch_size, "lr": plan.lr}
    for epochs in range(1, plan.epochs + 1):
        found = fit(
            model,
            plan.objectives[name],
            (images, labels),
            epochs=epochs,
            batch_size=plan.batch_size,
            lr=plan.lr,
            seed=run.place.seed,
            monitor=watch,
            select=plan.watched[-1].name,
            checkpoint=run.out / "short" / plan.name / f"{name}.checkpoint",
            identity={"name": name, "seed": run.place.seed, "images": len(images), **options},
            device=run.place.device,
            log=lambda line: None,
        )
        yield ShortTraining(name, model.eval(), found.history)


def _watch(run: Run, plan: Plan) -> Monitor:
    """Measure accuracies, in percent, on the run's first held-out images."""
    x, y = run.images(min(512, run.profile.heldout))
    generator = torch.Generator(x.device)  # no attack here begins at random

    def watch(model: nn.Module) -> dict[str, float]:
        return {
            attack.name: percent_right(model, attack(model, x, y, generator), y)
            for attack in plan.watched
        }

    return watch
