"""Modern training: the networks of the report's Part II, and how they are trained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rvlib import experiments as ex
from rvlib.objectives import Objective, adversarial, consistency, fgsm_rs, n_fgsm, nuat, trades
from rvlib.training import crop_and_flip


def _sgd(recipe: "Modern") -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(
        parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Learning rate up to its maximum in 30 % of the steps, and down to nothing."""
    highest = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, highest, total_steps=steps, cycle_momentum=False
    )


def three_steps(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Learning rate divided by ten after one and after two thirds of the steps."""
    thirds = [steps // 3, 2 * steps // 3]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, thirds)


NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20", "resnet18": "ResNet-18"}
OBJECTIVES = {
    **{"standard": "undefended", "pgd-at": "PGD-10", "trades": "TRADES", "fgsm-rs": "FGSM-RS"},
    **{"n-fgsm": "N-FGSM", "nuat": "NuAT", "gaussian": "Gaussian", "consistency": "consistency"},
}
"""Names in print of networks and objectives."""


@dataclass(frozen=True)
class Modern(ex.Recipe):
    """How a network of Part II is trained; chosen on ``selection``, images of no table.

    Parameters
    ----------
    objective : str
        ``standard``, ``gaussian``, or a key of ``MODERN_LOSSES``.
    weight : float
        Of the regularisation, where the objective has one.
    schedule : str
        ``one-cycle`` or ``three-steps``.
    average : float, optional
        Decay of the averaged weights, from a third of the training on.
    stop_below : float
        As for ``fit``.
    bfloat16 : bool
        Whether it trains under autocast.
    """

    weight: float = 0.0
    label_smoothing: float = 0.0
    weight_decay: float = 5e-4
    schedule: str = "one-cycle"
    average: float | None = None
    stop_below: float = 0.0
    bfloat16: bool = False

    split, selection = "train-rest", "selection"
    ships_best = True

    @property
    def title(self) -> str:
        """Name in print."""
        noise = f", σ = {self.sigma:.2f}" if self.sigma else ""
        return f"{NETWORKS[self.network]}, {OBJECTIVES[self.objective]}{noise}"

    @property
    def probes(self) -> dict[str, ex.Attack]:
        """PGD in the ball of 8/255; a network for votes is monitored under noise instead."""
        pgd_8 = {} if self.sigma else {"pgd-8": ex.make_pgd(ex.EPS_8, 2 / 255)}
        return {"natural": ex.natural} | pgd_8

    @property
    def select(self) -> str:
        """Decide by the accuracy that the network is trained for."""
        if self.objective == "standard":
            return "natural"
        return "noisy" if self.sigma else "pgd-8"

    def fit_options(self) -> dict[str, Any]:
        """Arguments of ``fit`` that differ between recipes, but the objective."""
        return super().fit_options() | {
            "weight_decay": self.weight_decay,
            "optimizer": _sgd(self),
            "schedule": {"one-cycle": one_cycle, "three-steps": three_steps}[self.schedule],
            "augment": crop_and_flip,
            "autocast": torch.bfloat16 if self.bfloat16 else None,
            "average": self.average,
            "average_from": self.epochs // 3,
            "stop_below": self.stop_below,
        }


@dataclass(frozen=True)
class Column(Modern):
    """A defence of the report's Table 1, with modern training: schedule, crops, averages."""

    @property
    def title(self) -> str:
        """Name in print."""
        return f"{ex.TITLES[self.name.removeprefix('lenet-')]}, modern training"

    probes, select = ex.Recipe.probes, ex.Recipe.select  # those of its column


MODERN_LOSSES: dict[str, Callable[[Modern], Objective]] = {
    "pgd-at": lambda r: adversarial(ex.make_pgd(ex.EPS_8, 2 / 255), 0.0, r.label_smoothing),
    "trades": lambda r: trades(ex.EPS_8, r.weight, label_smoothing=r.label_smoothing),
    "fgsm-rs": lambda r: fgsm_rs(ex.EPS_8, label_smoothing=r.label_smoothing),
    "n-fgsm": lambda r: n_fgsm(ex.EPS_8, label_smoothing=r.label_smoothing),
    "nuat": lambda r: nuat(ex.EPS_8, r.weight, label_smoothing=r.label_smoothing),
    "consistency": lambda r: consistency(r.sigma or 0.0, r.weight),
}
"""Losses of ``Modern`` recipes alone."""
ex.LOSSES |= MODERN_LOSSES


LENET: dict[str, Any] = {"batch_size": 128, "lr": 0.05, "weight_decay": 1e-4, "average": 0.999}


def _today() -> Iterator[Modern]:
    small: dict[str, Any] = {"network": "resnet20", "batch_size": 256, "lr": 0.1}
    small |= {"weight_decay": 1e-4, "schedule": "three-steps"}
    # The public trainings are three and five times as long, 90 and 150 epochs.
    small["epochs"] = 30
    yield Modern("resnet20-gaussian-0.50", "gaussian", 0.5, **small)
    for sigma, weight in ((0.5, 10.0), (0.25, 20.0)):
        name = f"resnet20-consistency-{sigma:.2f}"
        yield Modern(name, "consistency", sigma, weight=weight, **small)
    yield Modern("resnet20-standard", "standard", **(small | {"epochs": 20}))
    large: dict[str, Any] = {"batch_size": 128, "lr": 0.1, "average": 0.999, "bfloat16": True}
    large |= {"label_smoothing": 0.4, "stop_below": 0.5}
    yield Modern("resnet18-nuat", "nuat", network="resnet18", epochs=40, weight=4.0, **large)
    for objective, weight in (
        ("pgd-at", 0),
        ("trades", 6),
        ("fgsm-rs", 0),
        ("n-fgsm", 0),
        ("nuat", 4),
    ):
        yield Modern(f"lenet-{objective}", objective, weight=float(weight), **LENET)
    yield Modern("lenet-consistency-0.25", "consistency", 0.25, weight=20.0, **LENET)


def _columns() -> Iterator[Column]:
    for name in ex.DEFENCES:
        same = {k: getattr(ex.RECIPES[name], k) for k in ("objective", "sigma", "attacks")}
        yield Column(f"lenet-{name}", **same, **LENET)


MODERN: dict[str, Modern] = {recipe.name: recipe for recipe in _today()}
"""Networks of Part II of the report, by name."""
COLUMNS: dict[str, Modern] = {recipe.name: recipe for recipe in _columns()}
"""The report's own defences with modern training."""
TODAY = MODERN | COLUMNS
"""All networks that Part II trains."""
SMOOTHED_COLUMN = f"lenet-{ex.smoothed_name(ex.SIGMA)}"
"""The vote over the one that is trained with noise."""
ex.NOISE_OF[SMOOTHED_COLUMN] = ex.SIGMA
ex.TITLES[SMOOTHED_COLUMN] = f"{ex.TITLES[ex.smoothed_name(ex.SIGMA)]}, modern training"

SPLIT = "test-every-20th"
"""Images that the smoothed networks are certified on."""
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Radii of the certified accuracies, in pixel units."""
PUBLIC: dict[str, dict[float, float]] = {
    "resnet20-gaussian-0.50": dict(
        zip(RADII, (67.0, 55.4, 42.8, 31.4, 22.0, 13.9, 8.1), strict=True)
    ),
    "resnet20-consistency-0.50": dict(
        zip(RADII, (60.5, 54.4, 47.7, 40.9, 34.4, 28.0, 22.2), strict=True)
    ),
    "resnet20-consistency-0.25": {0.25: 60.0, 0.5: 43.0, 0.75: 27.0},
}
"""Certified accuracies in percent that others have published, by radius: of the same recipe in
90 epochs (Gaussian) and 150 (consistency), from the per-image logs in SmoothMix's repository
(10,000 images, N = 100,000, alpha = 0.001); for consistency at 0.25, where there is none, of a
ResNet-110 with Gaussian noise (Cohen et al. 2019, 500 images), which it should exceed."""


PUBLISHED = {"PGD-10": 50.5, "NuAT": 50.1, "N-FGSM": 47.8, "FGSM-RS": 43.1}
"""Published accuracies under AutoAttack at l-infinity 8/255, in percent: of a ResNet-18, 100
epochs, averaged weights, means of three seeds (FastAT Benchmark, arXiv:2604.22853)."""


@dataclass(frozen=True)
class ModernProfile(ex.Profile):
    """The networks of Part II: how many images each is attacked and certified on."""

    def models(self) -> list[tuple[str, int]]:
        """List the networks with their training seed."""
        return [(name, 0) for name in TODAY]

    def trained(self) -> list[tuple[str, int]]:
        """List the networks that a run trains itself: all."""
        return self.models()

    def cells(self) -> list[tuple[str, str, int]]:
        """List network, attack and number of test images of every accuracy."""
        cells = []
        for name, recipe in MODERN.items():
            small = recipe.network == "lenet"
            for attack in ("natural", "pgd-20-linf-8", "ensemble-linf-8"):
                cells.append((name, attack, self.standard if small else self.standard // 10))
            if recipe.network == "resnet18":
                cells.append((name, "autoattack-linf-8", self.standard // 50))
        return cells

    def column_cells(self) -> list[tuple[str, str, int]]:
        """List the same of the report's columns: Table 1's attacks, and the ensemble."""
        cells = []
        for name in (*COLUMNS, SMOOTHED_COLUMN):
            more = () if name in ex.NOISE_OF else ("ensemble-linf-8",)
            cells += [(name, attack, self.standard) for attack in (*ex.REPORT_ATTACKS, *more)]
        return cells

    def places(self) -> list[tuple[str, str, str, int]]:
        """List split, network, attack or ``certificates``, and images of every measurement."""
        smoothed = [name for name, recipe in MODERN.items() if recipe.sigma]
        found = [("test", *cell) for cell in (*self.cells(), *self.column_cells())]
        return found + [(SPLIT, name, "certificates", self.certified) for name in smoothed]


PROFILE = ModernProfile("modern", trains=True, certified=500, ns=(100, 1000, 10_000))
"""``rvlib train --profile modern`` and ``rvlib measure --profile modern`` make Part II."""
