"""The named experiments: every hyper-parameter of the report, in one place.

Radii, step sizes and noise levels are in pixel units of [0, 1].
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from rvlib.attacks import fgsm, pgd, smoothed_pgd
from rvlib.checks import check_sigma
from rvlib.data import CIFAR10_DIGEST
from rvlib.models import NETWORKS
from rvlib.objectives import Objective, adversarial, gaussian, mixed, standard
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel
from rvlib.types import Images, Labels

# --- The report's attacks (section 3). ---------------------------------------------------------
LINF = Linf(0.03)
LINF_STEP_SIZE = 0.02
PIXEL_L2 = PixelL2(0.045)
PIXEL_L2_STEP_SIZE = 0.03
PGD_STEPS = 10

# --- Beyond the report: the standard Euclidean ball. -------------------------------------------
TRUE_L2 = L2(0.5)
"""The field's usual Euclidean radius on CIFAR-10."""
REPORT_RADIUS_IN_TRUE_L2 = L2(0.045)
"""The report's number in the standard norm: shows that the two are not the same ball."""
TRUE_L2_STEP_SIZE = 2.5 * TRUE_L2.eps / PGD_STEPS

# --- The report's training (section 3; what it leaves unsaid was inferred, see docs). ----------
EPOCHS = 30
BATCH_SIZE = 32
LEARNING_RATE = 0.01
LOWER_LEARNING_RATE = 0.001
"""The report prints no learning rate: the undefended network is trained with this one, too."""
MOMENTUM = 0.9

# --- Randomized smoothing (Cohen et al. 2019, section 4). --------------------------------------
SIGMAS = (0.12, 0.25, 0.50, 1.00)
SIGMA = 0.25
ALPHA = 0.001
"""Failure probability of one image's prediction or certificate."""
N0 = 100
"""Noisy copies for the selection of the class."""
SMOOTHED_DRAWS = 16
"""Noisy copies a gradient of the attack on the vote is averaged over."""
SMOOTHED_STEPS = 20


@dataclass(frozen=True)
class AttackRecipe:
    """An attack with everything filled in; called, it makes the attacked images.

    Parameters
    ----------
    name : str
        What rows and tables call it.
    threat : ThreatModel or None
        The ball; None for ``natural``, which changes nothing.
    steps : int
        Gradient steps; 0 for ``natural`` and ``fgsm``.
    step_size : float
        Length of one step.
    random_start : bool
        Whether the steps start at a random point of the ball.
    restarts : int
        Independent runs, of which each image keeps its worst.
    sigma : float or None
        Noise level of the smoothed network whose vote is attacked; None attacks the network.
    """

    name: str
    threat: ThreatModel | None = None
    steps: int = 0
    step_size: float = 0.0
    random_start: bool = False
    restarts: int = 1
    sigma: float | None = None

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, generator: torch.Generator
    ) -> Images:
        """Return the attacked images; see ``rvlib.attacks`` for shapes and guarantees."""
        if self.threat is None:
            return x
        if self.steps == 0:
            return fgsm(model, x, y, self.threat)
        options: dict[str, Any] = {"steps": self.steps, "step_size": self.step_size}
        options["generator"] = generator
        if self.sigma is not None:
            return smoothed_pgd(
                model, x, y, self.threat, sigma=self.sigma, draws=SMOOTHED_DRAWS, **options
            )
        return pgd(
            model,
            x,
            y,
            self.threat,
            random_start=self.random_start,
            restarts=self.restarts,
            **options,
        )

    @property
    def threat_name(self) -> str:
        """The ball and its radius in words: ``linf 0.03``; ``-`` for ``natural``."""
        return self.threat.name if self.threat else "-"

    def record(self) -> dict[str, Any]:
        """Everything that defines the attack, as plain values for the head of its rows."""
        plain = asdict(self) | {"threat": self.threat_name}
        return plain | ({"draws": SMOOTHED_DRAWS} if self.sigma is not None else {})


def on_the_vote(attack: AttackRecipe, sigma: float) -> AttackRecipe:
    """Aim an attack at the smoothed network instead of the network: more steps, averaged gradients.

    Parameters
    ----------
    attack : AttackRecipe
        The attack whose ball is kept.
    sigma : float
        Noise level of the smoothed network.

    Returns
    -------
    AttackRecipe
        Its name starts with ``vote-``.
    """
    if attack.threat is None:
        raise ValueError(
            f"{attack.name} attacks nothing, so it cannot attack the vote: use pgd-linf, say"
        )
    check_sigma(sigma)
    step_size = 2.5 * attack.threat.eps / SMOOTHED_STEPS
    return AttackRecipe(
        f"vote-{attack.name}", attack.threat, SMOOTHED_STEPS, step_size, sigma=sigma
    )


ATTACKS = {
    attack.name: attack
    for attack in (
        AttackRecipe("natural"),
        AttackRecipe("fgsm", LINF),
        AttackRecipe("pgd-linf", LINF, PGD_STEPS, LINF_STEP_SIZE),
        AttackRecipe("pgd-pixel-l2", PIXEL_L2, PGD_STEPS, PIXEL_L2_STEP_SIZE),
        AttackRecipe(
            "pgd-l2-small",
            REPORT_RADIUS_IN_TRUE_L2,
            PGD_STEPS,
            2.5 * REPORT_RADIUS_IN_TRUE_L2.eps / PGD_STEPS,
        ),
        AttackRecipe("pgd-l2", TRUE_L2, PGD_STEPS, TRUE_L2_STEP_SIZE),
        AttackRecipe("pgd-linf-50x5", LINF, 50, 2.5 * LINF.eps / 50, True, 5),
    )
}
"""The attacks of Table 1 (the first four) and the further rows."""

REPORT_ATTACKS = ("natural", "fgsm", "pgd-linf", "pgd-pixel-l2")
FURTHER_ATTACKS = ("pgd-l2-small", "pgd-l2", "pgd-linf-50x5")


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Parameters
    ----------
    name : str
        Folder of its weights and its name in rows and tables.
    objective : str
        ``standard``, ``gaussian``, ``adversarial`` or ``mixed``.
    sigma : float or None
        Training noise of ``gaussian``.
    attacks : tuple of str
        Names of the attacks trained against.
    network : str
        A key of ``rvlib.models.NETWORKS``.
    epochs, batch_size, lr, momentum
        Of the optimiser loop.
    """

    name: str
    objective: str
    sigma: float | None = None
    attacks: tuple[str, ...] = ()
    network: str = "lenet"
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    lr: float = LEARNING_RATE
    momentum: float = MOMENTUM

    def build(self, seed: int) -> nn.Module:
        """Make the network with its initial weights, drawn from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds the GPUs, too
            network: nn.Module = NETWORKS[self.network]()
        return network

    def make_objective(self) -> Objective:
        """Make the loss that this model minimises."""
        makers: dict[str, Callable[[], Objective]] = {
            "standard": lambda: standard,
            "gaussian": lambda: gaussian(self.sigma or 0.0),
            "adversarial": lambda: adversarial(ATTACKS[self.attacks[0]]),
            "mixed": lambda: mixed([ATTACKS[name] for name in self.attacks]),
        }
        return makers[self.objective]()

    @property
    def probe(self) -> str:
        """The attack whose held-out accuracy is watched in training, and chooses the best epoch."""
        return self.attacks[0] if self.attacks else "pgd-linf"

    @property
    def select(self) -> str:
        """Which held-out accuracy decides the best epoch: under attack where that is trained."""
        return self.probe if self.attacks else "natural"

    def record(self) -> dict[str, Any]:
        """Everything that defines the weights but the seed, as plain values."""
        attacks = [ATTACKS[name].record() for name in self.attacks]
        return asdict(self) | {"attacks": attacks, "data": CIFAR10_DIGEST}


def gaussian_name(sigma: float) -> str:
    """Name of the model trained with noise `sigma`: ``gaussian-0.25``."""
    return f"gaussian-{sigma:.2f}"


def smoothed_name(sigma: float) -> str:
    """Name of the smoothed network in rows and tables: ``smoothed-0.25``."""
    return f"smoothed-{sigma:.2f}"


SLOWER = f"standard-lr-{LOWER_LEARNING_RATE}"
"""Name of the undefended network trained with the lower learning rate."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("standard", "standard"),
        *(Recipe(gaussian_name(sigma), "gaussian", sigma=sigma) for sigma in SIGMAS),
        Recipe("pgd-pixel-l2-at", "adversarial", attacks=("pgd-pixel-l2",)),
        Recipe("pgd-linf-at", "adversarial", attacks=("pgd-linf",)),
        Recipe("pgd-l2-at", "adversarial", attacks=("pgd-l2",)),
        Recipe("mixed-at", "mixed", attacks=("pgd-linf", "pgd-pixel-l2")),
        Recipe(SLOWER, "standard", lr=LOWER_LEARNING_RATE),
    )
}
"""The models whose weights are shipped."""


def find_recipe(name: str) -> Recipe:
    """Look a model up by name.

    Parameters
    ----------
    name : str
        A key of ``RECIPES``.

    Returns
    -------
    Recipe
        How that model is made.

    Raises
    ------
    ValueError
        If there is no such model; the message lists those there are.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(RECIPES)}")
    return RECIPES[name]


def find_attack(name: str) -> AttackRecipe:
    """Look an attack up by name.

    Parameters
    ----------
    name : str
        A key of ``ATTACKS``.

    Returns
    -------
    AttackRecipe
        The attack with everything filled in.

    Raises
    ------
    ValueError
        If there is no such attack; the message lists those there are.
    """
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}: choose from {', '.join(ATTACKS)}")
    return ATTACKS[name]
