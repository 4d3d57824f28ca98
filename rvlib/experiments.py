"""The named experiments: attacks, networks, profiles and printed values of the report, by number.

The report's numbers stand in its section 3; what it leaves unsaid was inferred, see
``docs/protocol.md``.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.attacks import autoattack, fgsm, pgd, smoothed_pgd
from rvlib.data import DATASETS
from rvlib.device import code_of, described, digest_of
from rvlib.models import MODELS
from rvlib.objectives import Objective, adversarial, gaussian, mixed, standard
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel

DATASET = "cifar10"

# --- The report's attacks (section 3), and the standard Euclidean ball. ---------------------------

LINF, LINF_STEP_SIZE = Linf(0.03), 0.02
PIXEL_L2, PIXEL_L2_STEP_SIZE = PixelL2(0.045), 0.03
TRUE_L2 = L2(0.5)
"""The usual Euclidean radius on CIFAR-10."""
REPORT_RADIUS_IN_TRUE_L2 = L2(0.045)
"""The report's number in the standard norm: shows that the two are not the same ball."""
PGD_STEPS = 10

Attack = Callable[..., Tensor]


def natural(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No attack: the images as they are."""
    return x


def make_pgd(
    threat: ThreatModel, step_size: float, steps: int = PGD_STEPS, **options: Any
) -> Attack:
    """Make PGD from the image itself, unless `options` say otherwise."""
    options = {"random_start": False, **options}
    return partial(pgd, threat=threat, steps=steps, step_size=step_size, **options)


ATTACKS: dict[str, Attack] = {
    "natural": natural,
    "fgsm": partial(fgsm, threat=LINF),
    "pgd-linf": make_pgd(LINF, LINF_STEP_SIZE),
    "pgd-pixel-l2": make_pgd(PIXEL_L2, PIXEL_L2_STEP_SIZE),
    "pgd-l2-small": make_pgd(REPORT_RADIUS_IN_TRUE_L2, 2.5 * 0.045 / PGD_STEPS),
    "pgd-l2": make_pgd(TRUE_L2, 2.5 * 0.5 / PGD_STEPS),
    "pgd-linf-50x5": make_pgd(LINF, 2.5 * 0.03 / 50, 50, random_start=True, restarts=5),
}
"""Attacks by name: the first four are those of Table 1.  Add your own: any callable
``attack(model, x, y) -> x_adv``."""
OWN_ATTACKS = dict(ATTACKS)

EPS_8 = Linf(8 / 255)
"""The l-infinity ball in which the field compares; its l2 ball is ``TRUE_L2``."""
STANDARD_STEPS = 20
STANDARD_ATTACKS: dict[str, Attack] = {
    f"{name}-{norm}": attack
    for norm, ball, eps in (("linf-8", EPS_8, 8 / 255), ("l2", TRUE_L2, 0.5))
    for name, attack in (
        ("pgd-20", make_pgd(ball, 2.5 * eps / STANDARD_STEPS, STANDARD_STEPS, random_start=True)),
        ("ensemble", partial(autoattack, threat=ball, version="fast")),
    )
}
"""Attacks of the standard protocol, on official test images."""

WHOLE_ENSEMBLE = {"autoattack-linf-8": partial(autoattack, threat=EPS_8, version="standard")}
"""All four attacks of AutoAttack: for few images of larger networks."""

REPORT_ATTACKS = ("natural", "fgsm", "pgd-linf", "pgd-pixel-l2")
FURTHER_ATTACKS = ("pgd-l2-small", "pgd-l2", "pgd-linf-50x5")

# --- Randomized smoothing (Cohen et al. 2019, section 4). -----------------------------------------

SIGMAS = (0.12, 0.25, 0.50, 1.00)
SIGMA = 0.25
ALPHA = 0.001
"""Failure probability of one image's prediction or certificate."""
N0 = 100
"""Noisy copies for the selection of the class."""
SMOOTHED_DRAWS = 16
"""Noisy copies over which the attack on the vote averages a gradient."""
SMOOTHED_STEPS = 20


def on_the_vote(attack: Attack, sigma: float) -> Attack:
    """Aim an attack at the smoothed network, in the same ball; FGSM takes one step, PGD many."""
    options = attack.keywords  # type: ignore[attr-defined]
    threat, once = options["threat"], "steps" not in options
    return partial(
        smoothed_pgd,
        threat=threat,
        sigma=sigma,
        draws=SMOOTHED_DRAWS,
        steps=1 if once else SMOOTHED_STEPS,
        step_size=threat.eps if once else 2.5 * threat.eps / SMOOTHED_STEPS,
    )


VOTE_ATTACKS = {
    f"vote-{name}": on_the_vote(ATTACKS[name], SIGMA)
    for name in ("fgsm", "pgd-linf", "pgd-pixel-l2", "pgd-l2")
}
VOTE_READING = ("natural", "vote-fgsm", "vote-pgd-linf", "vote-pgd-pixel-l2")
"""The attacks of Table 1, aimed at the vote that answers."""
SMOOTHED_ATTACKS = (*REPORT_ATTACKS, "pgd-l2", *VOTE_ATTACKS)
"""Attacks on the smoothed network of Table 1: first on the network, then on its vote."""


def find_attack(name: str) -> Attack:
    """Look an attack up by name."""
    return _find("attack", name, ATTACKS | STANDARD_ATTACKS | WHOLE_ENSEMBLE | VOTE_ATTACKS)


def attack_record(name: str, attack: Attack) -> dict[str, Any]:
    """Everything that defines an attack, as plain values for the identity of its rows."""
    options = getattr(attack, "keywords", {})
    defaults = {"steps": 0, "step_size": 0.0, "random_start": False, "restarts": 1, "sigma": None}
    threat = options.get("threat")
    record = {"name": name, "threat": "-" if threat is None else threat.name} | defaults
    named = {k: _named(v) for k, v in options.items()}
    if name in ATTACKS and attack is not OWN_ATTACKS.get(name):  # yours may be another tomorrow
        source = code_of(getattr(attack, "func", attack))
        named["function"] = [described(attack), digest_of([], source)]
    return record | {k: v for k, v in named.items() if k != "threat"}


def _named(option: Any) -> Any:
    if isinstance(option, nn.Module):
        return str(option)
    # A loss among the options is a function: its name stands for it.
    return getattr(option, "__name__", None) or described(option)


# --- Two columns of the report are answers under noise: how may they have been measured? ----------

GRID_SIGMAS = (0.20, 0.25, 0.35, 0.45, 0.50)
"""Noise levels of the training; the report prints none."""
GRID_SEEDS = 3
"""Training seeds at each of them."""
GRID_VOTES = (100, 400, 1000)
"""Noisy copies of a vote."""
GRID_ATTACKS: dict[str, tuple[str, ...]] = {
    "natural": ("natural",),
    "fgsm": ("fgsm",),
    "pgd-linf": ("pgd-linf", "pgd-linf-0.031"),
    "pgd-pixel-l2": ("pgd-pixel-l2", "pgd-pixel-l2-step-0.02"),
}
"""Attacks that each attack of Table 1 may have been: radius and step of the report, or of public
code that is most likely an earlier or later state of the report's (``docs/protocol.md``)."""
THROUGH_NOISE = "-through-noise"


def grid_attack(name: str, sigma: float) -> Attack:
    """Look up an attack of the grid; ``-through-noise``: on a noisy copy, a fresh one each step."""
    others = {
        "pgd-linf-0.031": make_pgd(Linf(0.031), LINF_STEP_SIZE),
        "pgd-pixel-l2-step-0.02": make_pgd(PIXEL_L2, 0.02),
    }
    plain = name.removesuffix(THROUGH_NOISE)
    attack = _find("attack", plain, ATTACKS | others)
    if plain == name:
        return attack
    options = {"steps": 1, "step_size": LINF.eps} | attack.keywords
    options.pop("random_start", None)
    return partial(smoothed_pgd, sigma=sigma, draws=1, **options)


def noisy_name(sigma: float, twice: bool = False) -> str:
    """Name of answers under noise in rows: ``noisy-0.25``, ``noisy-twice-0.25``."""
    return f"noisy-{'twice-' if twice else ''}{sigma:.2f}"


def grid_cells() -> Iterator[tuple[float, str, int, bool]]:
    """Yield noise, attack, training seed, and whether the noise is twice, of every measurement."""
    attacks = [name for names in GRID_ATTACKS.values() for name in names]
    attacks += [name + THROUGH_NOISE for name in attacks if name != "natural"]
    return itertools.product(GRID_SIGMAS, attacks, range(GRID_SEEDS), (False, True))


# --- The report's training. -----------------------------------------------------------------------

LOWER_LEARNING_RATE = 0.001
"""The report prints no learning rate: the undefended network is trained with this one, too."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    name: str
    objective: str
    sigma: float | None = None
    attacks: tuple[str, ...] = ()
    network: str = "lenet"
    epochs: int = 30
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9

    def build(self, seed: int) -> nn.Module:
        """Make the network with its initial weights, drawn from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds the GPUs, too
            return MODELS[self.network]()

    def make_objective(self) -> Objective:
        """Make the loss that this network minimises."""
        make: Callable[[Recipe], Objective] = _find("objective", self.objective, LOSSES)
        return make(self)

    @property
    def probes(self) -> dict[str, Attack]:
        """Attacks under which the accuracy is monitored during training, by name."""
        name = self.attacks[0] if self.attacks else "pgd-linf"
        return {"natural": natural, name: ATTACKS[name]}

    @property
    def select(self) -> str:
        """Which held-out accuracy decides the best epoch: under attack where that is trained."""
        return self.attacks[0] if self.attacks else "natural"

    def fit_options(self) -> dict[str, Any]:
        """Arguments of ``fit`` that differ between recipes, but the objective."""
        return {k: getattr(self, k) for k in ("epochs", "batch_size", "lr", "momentum")}

    split, selection = "train", "heldout"  # images to train on, and to monitor on
    ships_best = False

    @property
    def ships_half(self) -> bool:
        """Whether the weights are shipped, and measured, in 16 bits."""
        return self.network == "resnet18"

    def record(self) -> dict[str, Any]:
        """Everything that defines the weights but the seed, as plain values."""
        attacks = [attack_record(name, ATTACKS[name]) for name in self.attacks]
        return asdict(self) | {"attacks": attacks, "data": DATASETS[DATASET].digest}


LOSSES: dict[str, Callable[[Any], Objective]] = {
    "standard": lambda recipe: standard,
    "gaussian": lambda recipe: gaussian(recipe.sigma or 0.0),
    "adversarial": lambda recipe: adversarial(ATTACKS[recipe.attacks[0]]),
    "mixed": lambda recipe: mixed([ATTACKS[name] for name in recipe.attacks]),
}
"""Losses of recipes, by the name of the objective."""


def gaussian_name(sigma: float) -> str:
    """Name of the network trained with noise `sigma`: ``gaussian-0.25``."""
    return f"gaussian-{sigma:.2f}"


def smoothed_name(sigma: float) -> str:
    """Name of the smoothed network in rows and tables: ``smoothed-0.25``."""
    return f"smoothed-{sigma:.2f}"


def network_of(defence: str) -> str:
    """Name of the network that is measured under this name: of a smoothed one its base."""
    kinds = r"^(lenet-|)(smoothed|noisy|noisy-twice)-(?=\d\.\d\d$)"
    return re.sub(kinds, r"\1gaussian-", defence)


NOISE_OF = {smoothed_name(sigma): sigma for sigma in SIGMAS}
"""Noise level of each smoothed network."""

SLOWER = f"standard-lr-{LOWER_LEARNING_RATE}"
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
"""The networks whose weights are shipped, by name; add your own."""
GRID_RECIPES = {
    gaussian_name(s): Recipe(gaussian_name(s), "gaussian", sigma=s) for s in GRID_SIGMAS
}
"""Networks of the grid: the full profile trains them for their answers, which alone are shipped."""


DEFENCES = ("standard", gaussian_name(SIGMA), "pgd-pixel-l2-at", "pgd-linf-at", "mixed-at")
"""The networks of the report's Table 1, in its order; the smoothed one comes after them."""
FURTHER = ("pgd-l2-at", SLOWER)
"""Networks that are not in the report: the Euclidean ball, and another learning rate."""


def find_recipe(name: str) -> Recipe:
    """Look a network up by name."""
    from rvlib.modern import TODAY  # it imports this module

    return _find("network", name, TODAY | GRID_RECIPES | RECIPES)


# --- How much of it to run. -----------------------------------------------------------------------

SEEDS: dict[str, tuple[int, ...]] = {
    "standard": (0, 1, 2, 3, 4),
    SLOWER: (0, 1, 2, 3, 4),
    gaussian_name(SIGMA): (0, 1, 2),
    "pgd-linf-at": (0, 1, 2),
    "pgd-pixel-l2-at": (0, 1, 2),
    "mixed-at": (0, 1, 3),
}
"""Training seeds of the networks that have more than one.  Seed 2 of ``mixed-at`` stayed at chance,
a loss of ln 10 in all of six epochs, and was stopped: another seed stands for it."""


@dataclass(frozen=True)
class Profile:
    """The numbers that make a run longer or shorter; what is computed is the same.

    Parameters
    ----------
    name : str
        Its name.
    trains : bool
        Whether the run trains its own weights instead of using the shipped ones.
    reads_published : bool
        Whether it reads the rows in ``report/rows`` that are the same measurement.
    heldout, test : int
        Images of the two splits that are attacked.
    standard : int
        Test images that are attacked by the standard protocol.
    live : int
        Images of what a notebook measures on the spot.
    attacks : tuple of str
        Attacks on every network.
    votes : int
        Votes of a prediction.
    vote_attacked : int
        Images at most whose vote is attacked.
    certified : int
        Images that are certified; at most as many pass the checks of the evaluation.
    ns : tuple of int
        Votes of a certificate.
    """

    name: str
    trains: bool = False
    reads_published: bool = False
    heldout: int = 1024
    test: int = 0
    standard: int = 10_000
    live: int = 256
    attacks: tuple[str, ...] = REPORT_ATTACKS + FURTHER_ATTACKS
    votes: int = 1000
    vote_attacked: int = 10_000
    certified: int = 1024
    ns: tuple[int, ...] = (100, 1000, 10_000, 100_000)

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """Training seeds of the networks that have more than one."""
        return SEEDS

    def models(self) -> list[tuple[str, int]]:
        """List the shipped networks with their training seeds, in the order to train them in."""
        firsts = [(name, 0) for name in RECIPES]
        return firsts + [(name, seed) for name, seeds in SEEDS.items() for seed in seeds[1:]]

    def trained(self) -> list[tuple[str, int]]:
        """List the networks that a run trains itself: the shipped ones and those of the grid."""
        grid = [(name, seed) for name in GRID_RECIPES for seed in range(GRID_SEEDS)]
        return list(dict.fromkeys([*self.models(), *grid])) if self.trains else []

    def check_networks(self, names: Iterable[str]) -> None:
        """Refuse networks that a run of this profile does not train."""
        own = {name for name, _ in self.trained()}
        for name in names:
            if find_recipe(name).name not in own:
                other = "full" if self.name == "modern" else "modern"
                raise ValueError(f"profile {self.name!r} has no {name}: try --profile {other}")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "smoke",
            heldout=8,
            test=4,
            standard=2,
            live=32,
            votes=100,
            vote_attacked=4,
            certified=8,
            ns=(100, 1000),
            attacks=REPORT_ATTACKS + FURTHER_ATTACKS[:2],
        ),
        Profile("lesson", reads_published=True),
        Profile(
            "course",
            live=512,
            standard=64,
            votes=500,
            vote_attacked=128,
            certified=64,
            ns=(100, 1000, 10_000),
            attacks=REPORT_ATTACKS + FURTHER_ATTACKS[:2],  # 50 steps from 5 starts take minutes
        ),
        Profile("full", trains=True, test=10_000, live=1024),
    )
}
"""``smoke`` is for tests, ``lesson`` for the notebooks, ``course`` measures every row anew from the
shipped weights, ``full`` trains them, too."""


_SHIPPED = [dict(registry) for registry in (MODELS, ATTACKS, RECIPES, PROFILES)]


def is_extended() -> bool:
    """Whether something was registered since the import, which another process cannot know."""
    return [MODELS, ATTACKS, RECIPES, PROFILES] != _SHIPPED


def find_profile(name: str) -> Profile:
    """Look a profile up by name."""
    from rvlib.modern import PROFILE  # it imports this module

    return _find("profile", name, PROFILES | {PROFILE.name: PROFILE})


def _find(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: choose from {', '.join(known)}")
    return known[name]


# --- What the report prints. ----------------------------------------------------------------------

REPORT_TABLE1: dict[str, dict[str, float]] = {
    "standard": {"natural": 58.2, "fgsm": 3.81, "pgd-linf": 0.29, "pgd-pixel-l2": 0.29},
    "gaussian-0.25": {"natural": 62.16, "fgsm": 26.17, "pgd-linf": 21.77, "pgd-pixel-l2": 25.16},
    "pgd-pixel-l2-at": {"natural": 54.78, "fgsm": 25.0, "pgd-linf": 20.99, "pgd-pixel-l2": 23.82},
    "pgd-linf-at": {"natural": 54.41, "fgsm": 28.32, "pgd-linf": 25.58, "pgd-pixel-l2": 19.33},
    "mixed-at": {"natural": 51.76, "fgsm": 28.41, "pgd-linf": 26.46, "pgd-pixel-l2": 27.15},
    "smoothed-0.25": {"natural": 59.71, "fgsm": 38.1, "pgd-linf": 37.68, "pgd-pixel-l2": 39.8},
}
"""Accuracy in percent by defence and attack (the report's Table 1; its "PGD l-2" is per pixel)."""
REPORT_TABLE1[SLOWER] = REPORT_TABLE1["standard"]  # the report prints no learning rate

TITLES = {
    "standard": "Basic classifier",
    "gaussian-0.25": "Basic classifier + noisy training",
    "pgd-pixel-l2-at": "Adversarial training (PGD pixel-l2)",
    "pgd-linf-at": "Adversarial training (PGD l∞)",
    "mixed-at": "Mixed adversarial training",
    SLOWER: f"Basic classifier, learning rate {LOWER_LEARNING_RATE}",
    "pgd-l2-at": "Adversarial training (PGD l2)",
    "smoothed-0.25": "Randomized smoothing",
    "natural": "Natural",
    "fgsm": "FGSM",
    "pgd-linf": "PGD l∞",
    "pgd-pixel-l2": "PGD pixel-l2 (the report's “l2”)",
    "pgd-l2-small": "PGD l2, ε = 0.045 (the report's radius)",
    "pgd-l2": "PGD l2, ε = 0.5",
    "pgd-linf-50x5": "PGD l∞, 50 steps, 5 random starts",
    "pgd-20-linf-8": "PGD-20, l∞ 8/255",
    "ensemble-linf-8": "AutoAttack fast, l∞ 8/255",
    "autoattack-linf-8": "AutoAttack, l∞ 8/255",
    "pgd-20-l2": "PGD-20, l2 0.5",
    "ensemble-l2": "AutoAttack fast, l2 0.5",
    "vote-fgsm": "Attack on the vote, one step",
    "vote-pgd-linf": "Attack on the vote, l∞",
    "vote-pgd-pixel-l2": "Attack on the vote, pixel-l2",
    "vote-pgd-l2": "Attack on the vote, l2",
}
"""Names in print of defences and attacks; a name without one is printed as it is."""


def title(name: str) -> str:
    """Name in print of a defence or an attack."""
    from rvlib.modern import TODAY  # it imports this module

    return TODAY[name].title if name in TODAY else TITLES.get(name, name)


def table1_cells(profile: Profile) -> list[tuple[str, str]]:
    """List defence and attack of every line of Table 1, in its order."""
    networks = [(model, attack) for model in DEFENCES for attack in profile.attacks]
    return networks + [(smoothed_name(SIGMA), attack) for attack in SMOOTHED_ATTACKS]


def standard_cells() -> list[tuple[str, str]]:
    """List defence and attack of every line of the table by the standard protocol."""
    attacks = ("natural", *STANDARD_ATTACKS)
    return [(model, attack) for model in (*DEFENCES, *FURTHER[:1]) for attack in attacks]
