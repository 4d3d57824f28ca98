"""One run of the experiments: which profile, which weights, where to; done work is found again."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rvlib.checks import check_whole
from rvlib.data import load_cifar10, to_float
from rvlib.device import pick_device
from rvlib.evaluation import Accuracy, accuracy
from rvlib.profiles import DEFENCES, Profile, find_profile
from rvlib.recipes import (
    ATTACKS,
    REPORT_ATTACKS,
    SIGMA,
    SIGMAS,
    SLOWER,
    AttackRecipe,
    find_attack,
    find_recipe,
    gaussian_name,
    on_the_vote,
    smoothed_name,
)
from rvlib.rows import Rows, read_rows, rows_path
from rvlib.stages.measure import (
    Place,
    measure_attack,
    measure_certificates,
    measure_inside,
    measure_votes,
)
from rvlib.stages.train import is_trained, load_model, train_all
from rvlib.types import Images, Labels

VOTE_ATTACKS = tuple(on_the_vote(ATTACKS[name], SIGMA) for name in ("pgd-linf", "pgd-pixel-l2"))
"""Attacks on the vote in the report's balls; the further one is in the Euclidean ball."""
VOTE_ATTACK_L2 = on_the_vote(ATTACKS["pgd-l2"], SIGMA)

SMOOTHED_ATTACKS: tuple[AttackRecipe, ...] = (
    *(ATTACKS[name] for name in REPORT_ATTACKS),
    ATTACKS["pgd-l2"],
    *VOTE_ATTACKS,
    VOTE_ATTACK_L2,
)
"""What the smoothed network of Table 1 is attacked with: first the network, then its vote."""


NO_ACCURACY = ("certificates", "inside")
"""Rows that no accuracy is made of."""

FURTHER = ("pgd-l2-at", SLOWER)
"""Networks that the report has not: the Euclidean ball, and another learning rate."""


def repository() -> Path:
    """Find the folder with the notebooks and the report: ``RVLIB_ROOT``, or the checkout."""
    return Path(os.environ.get("RVLIB_ROOT", Path(__file__).parents[2]))


@dataclass(frozen=True)
class Run:
    """A profile with a place to work in.

    Parameters
    ----------
    profile : Profile
        How much to run.
    place : Place
        Weights, rows, device.
    out : Path
        Folder for everything that the run makes.
    log : callable
        Takes one line a measurement.
    """

    profile: Profile
    place: Place
    out: Path
    log: Callable[[str], None] = print

    @classmethod
    def open(
        cls, profile: str, device: str | None = None, root: Path | None = None, seed: int = 0
    ) -> "Run":
        """Open a run by the name of its profile.

        Parameters
        ----------
        profile : str
            ``smoke``, ``course`` or ``full``.
        device : str, default=None
            As for ``rvlib.device.pick_device``.
        root : Path, default=``repository()``
            The folder that holds ``report/``.
        seed : int, default=0
            Of attacks and votes.

        Returns
        -------
        Run
            Working in ``build/<profile>``, or ``build/<profile>-seed-<seed>`` for another seed
            than 0.  A profile that trains has its weights in ``build/<profile>/models``, the
            others read the shipped ones in ``report/models``.

        Raises
        ------
        ValueError
            If the profile or the device is unknown, or the seed negative.
        """
        found = find_profile(profile)
        root = root or repository()
        check_whole("seed", seed, least=0)
        build = root / "build" / found.name
        out = build if seed == 0 else build.with_name(f"{found.name}-seed-{seed}")
        models = build / "models" if found.trains else root / "report" / "models"
        return cls(found, Place(models, out / "rows", pick_device(device), seed), out)

    def model(self, name: str, seed: int = 0) -> nn.Module:
        """Load a trained network, checked, in evaluation mode, on the run's device."""
        self.train(name)
        return load_model(self.place.models, name, seed, self.place.device)

    def images(self, count: int, split: str = "heldout") -> tuple[Images, Labels]:
        """Load the first images of a split as floats in [0, 1], on the run's device."""
        images, labels = load_cifar10(split)
        x = to_float(images[:count]).to(self.place.device)
        return x.contiguous(memory_format=torch.channels_last), labels[:count].to(x.device)

    def train(self, *names: str) -> None:
        """Make sure of the weights of the named models, all their seeds; all models by default."""
        for name in names:
            find_recipe(name)
        pairs = self.untrained(*names)
        if pairs:
            train_all(pairs, self.place.models, self._checkpoints, self.place.device)

    def untrained(self, *names: str) -> list[tuple[str, int]]:
        """List the models and seeds that this profile trains and whose weights are not there."""
        if not self.profile.trains:
            return []
        return [
            (name, seed)
            for name, seed in self.profile.models()
            if (not names or name in names)
            and not is_trained(self.place.models, self._checkpoints, name, seed)
        ]

    @property
    def _checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def seeds(self, model: str) -> range:
        """Training seeds of a model that this profile measures."""
        return range(self.profile.seeds.get(model, 1))

    def attack(self, model: str, attack: str, seed: int = 0, split: str = "heldout") -> Accuracy:
        """Measure a network under an attack, or read what was measured.

        Parameters
        ----------
        model : str
            A key of ``rvlib.recipes.RECIPES``.
        attack : str
            A key of ``rvlib.recipes.ATTACKS``.
        seed : int, default=0
            Training seed.
        split : str, default="heldout"
            ``"heldout"`` (the report's images) or ``"test"``.

        Returns
        -------
        Accuracy
            On as many images as the profile says.
        """
        self.train(model)
        recipe, count = find_attack(attack), self._count(split)
        rows = self._measured(
            lambda: measure_attack(self.place, model, seed, recipe, split, count),
            rows_path(self.place.rows, split, model, seed, attack),
            count,
        )
        return accuracy(rows)

    def votes(
        self, sigma: float, attack: AttackRecipe, split: str = "heldout", count: int | None = None
    ) -> Accuracy:
        """Measure the smoothed network under an attack, or read what was measured.

        Parameters
        ----------
        sigma : float
            Noise level of the vote and of the base network's training.
        attack : AttackRecipe
            Against the base network or the vote.
        split : str, default="heldout"
            ``"heldout"`` (the report's images) or ``"test"``.
        count : int, default=None
            How many images; as many as the profile says by default.

        Returns
        -------
        Accuracy
            Abstentions are errors.
        """
        self.train(gaussian_name(sigma))
        images, n = count or self._count(split), self.profile.votes
        rows = self._measured(
            lambda: measure_votes(self.place, sigma, 0, attack, split, images, n),
            rows_path(self.place.rows, split, smoothed_name(sigma), 0, attack.name),
            images,
        )
        return accuracy(rows)

    def certificates(self, sigma: float) -> Rows:
        """Draw the votes that certify the report's images at a noise level, or read them.

        Parameters
        ----------
        sigma : float
            Noise level of the vote and of the base network's training.

        Returns
        -------
        Rows
            See ``rvlib.stages.measure.measure_certificates``.
        """
        self.train(gaussian_name(sigma))
        count, ns = self.profile.certified, self.profile.ns
        return self._measured(
            lambda: measure_certificates(self.place, sigma, 0, "heldout", count, ns),
            rows_path(self.place.rows, "heldout", smoothed_name(sigma), 0, "certificates"),
            count,
        )

    def inside(self, sigma: float) -> Rows:
        """Attack inside the balls that were certified at a noise level, or read what came of it.

        Parameters
        ----------
        sigma : float
            Noise level of the vote and of the base network's training.

        Returns
        -------
        Rows
            See ``rvlib.stages.measure.measure_inside``.
        """
        self.certificates(sigma)
        count, ns, n = self.profile.certified, self.profile.ns, self.profile.votes
        return self._measured(
            lambda: measure_inside(self.place, sigma, 0, "heldout", count, ns, n),
            rows_path(self.place.rows, "heldout", smoothed_name(sigma), 0, "inside"),
            count,
        )

    def _count(self, split: str) -> int:
        counts = {"heldout": self.profile.heldout, "test": self.profile.test}
        if not counts.get(split):
            measured = " or ".join(name for name, count in counts.items() if count)
            raise ValueError(
                f"profile {self.profile.name!r} measures no images of split={split!r}: "
                f"choose {measured}"
            )
        return counts[split]

    def _measured(self, measure: Callable[[], Path], path: Path, count: int) -> Rows:
        """Measure into rows and read them; a line in the log where there was work to do."""
        started, before = time.monotonic(), path.stat().st_size if path.exists() else 0
        rows = read_rows(measure(), count)
        if path.stat().st_size > before:
            result = f"{accuracy(rows).percent:.2f} %  " if path.stem not in NO_ACCURACY else ""
            seconds = time.monotonic() - started
            title = path.relative_to(self.place.rows).with_suffix("")
            self.log(f"{title}  {result}n = {count}  ({seconds:.1f} s)")
        return rows


def measure_networks(run: Run, models: Sequence[str], split: str = "heldout") -> None:
    """Measure networks under every attack of the profile, and their further seeds under four.

    Parameters
    ----------
    run : Run
        The run.
    models : sequence of str
        Names of models.
    split : str, default="heldout"
        On the test set only seed 0 is measured.
    """
    for model in models:
        for attack in run.profile.attacks:
            run.attack(model, attack, split=split)
        for seed in run.seeds(model)[1:] if split == "heldout" else ():
            for attack in REPORT_ATTACKS:
                run.attack(model, attack, seed)


def measure_smoothing(run: Run, split: str = "heldout") -> None:
    """Measure the smoothed network of Table 1, and on the report's images the scan over sigma.

    Parameters
    ----------
    run : Run
        The run.
    split : str, default="heldout"
        ``"heldout"`` or ``"test"``.
    """
    for attack in SMOOTHED_ATTACKS:
        run.votes(SIGMA, attack, split)
    if split == "heldout":
        for sigma in SIGMAS:
            for name in REPORT_ATTACKS:
                run.attack(gaussian_name(sigma), name)
                run.votes(sigma, ATTACKS[name], count=run.profile.certified)


def table1_cells(run: Run) -> list[tuple[str, str]]:
    """List defence and attack of every line of Table 1, in its order."""
    networks = [(model, attack) for model in DEFENCES for attack in run.profile.attacks]
    return networks + [(smoothed_name(SIGMA), attack.name) for attack in SMOOTHED_ATTACKS]


def measure_everything(run: Run) -> None:
    """Do all the work of the six notebooks, in an order that gives Table 1 and Figure 1 first.

    Parameters
    ----------
    run : Run
        The run; what is on disk already is not done again.
    """
    run.train()
    measure_networks(run, [*DEFENCES, *FURTHER])
    measure_smoothing(run)
    for sigma in sorted(SIGMAS, key=lambda s: s != SIGMA):
        run.inside(sigma)  # its certificates first
    if run.profile.test:
        measure_networks(run, DEFENCES, "test")
        measure_smoothing(run, "test")
