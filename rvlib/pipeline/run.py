"""A run of the experiments: train, measure, read; what is on disk is not computed again."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rvlib import experiments as ex
from rvlib.data import DATASETS, load, to_float
from rvlib.device import arithmetic, code_of, digest_of, is_own, pick_device, provenance
from rvlib.distributed import agreed, rank, world
from rvlib.evaluation import (
    SHARE,
    attacked_batches,
    counts_inside,
    nested_counts,
    predictions,
    vote_counts,
)
from rvlib.experiments import ALPHA, N0, Profile
from rvlib.inference import logits_of
from rvlib.models import MODELS, load_weights, read_record, save_weights, to_device
from rvlib.pipeline.machine import one_thread, side_by_side
from rvlib.pipeline.rows import Accuracy, accuracy, certificates
from rvlib.progress import progress
from rvlib.results import (
    Results,
    ResultsError,
    check_identity,
    missing,
    open_results,
    read,
    texts,
    write_shard,
)
from rvlib.smoothing import ABSTAIN, Certificates, sample_under_noise, vote
from rvlib.training import Fit, fit

Place = tuple[str, str, int, str]
"""Split, defence, training seed, and attack or what else is measured."""
Step = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Any]]
"""Measure a few images: (network, images, labels, index of the first) -> columns."""

USUAL = {"arithmetic": "float32", "device": "cpu"}
"""What identities of rows leave out, and what is shipped was measured with."""

INSTALLED = Path(__file__).parents[1] / "weights"
"""Weights of the shipped networks in an installed wheel; a checkout has them in ``report/``."""


def repository() -> Path:
    """Folder with notebooks and report: ``RVLIB_ROOT``, or the checkout that rvlib lies in."""
    root = Path(os.environ.get("RVLIB_ROOT") or Path(__file__).parents[2])
    if not (root / "report").is_dir():
        raise ValueError(f"{root} is no checkout of rvlib: name one in RVLIB_ROOT")
    return root


def folder_of(place: Place) -> Path:
    """Where the rows of a measurement lie, in a folder of rows."""
    split, defence, seed, what = place
    return Path(split, defence, f"seed-{seed}", what)


@dataclass(frozen=True)
class Run:
    """A profile with a place to work in.

    Parameters
    ----------
    profile : Profile
        How much to compute.
    device : torch.device
        Where to compute.
    seed : int
        Of attacks and votes.
    out : Path
        Folder for everything that the run makes.
    models : Path
        Folder of the weights.
    published : Path
        Folder of the rows that are shipped.
    log : callable
        Given one line after each piece of work.
    """

    profile: Profile
    device: torch.device
    seed: int
    out: Path
    models: Path
    published: Path
    log: Callable[[str], None] = print

    @classmethod
    def open(
        cls, profile: str, device: str | None = None, root: Path | None = None, seed: int = 0
    ) -> "Run":
        """Open a run by the name of its profile; ``RVLIB_BUILD`` moves its folder elsewhere.

        Without a checkout (a wheel was installed) it works in the current folder.
        """
        found, shipped, published = ex.find_profile(profile), INSTALLED, INSTALLED / "no rows"
        if root or "RVLIB_ROOT" in os.environ or not INSTALLED.is_dir():
            root = root or repository()
            shipped, published = root / "report" / "models", root / "report" / "rows"
        if seed < 0:
            raise ValueError(f"seed={seed} must be >= 0")
        build = Path(os.environ.get("RVLIB_BUILD") or (root or Path()) / "build").expanduser()
        out = build / (found.name if seed == 0 else f"{found.name}-seed-{seed}")
        # Weights do not depend on the seed of attacks and votes.
        models = build / found.name / "models" if found.trains else shipped
        return cls(found, pick_device(device), seed, out, models, published)

    @property
    def rows(self) -> Path:
        """Folder of the rows that this run measures."""
        return self.out / "rows"

    @property
    def shows_published(self) -> bool:
        """Whether shipped results stand for its own: on any device, in the usual arithmetic."""
        return self.profile.reads_published and not torch.is_autocast_enabled(self.device.type)

    # --- networks and images ----------------------------------------------------------------------

    def weights(self, name: str, seed: int = 0) -> Path:
        """Where the weights of a network lie."""
        return self.models / name / f"seed-{seed}.safetensors"

    def model(self, name: str, seed: int = 0) -> nn.Module:
        """Load a trained network, checked, in evaluation mode, on the run's device."""
        recipe = ex.find_recipe(name)
        self.train((name, seed))
        network = recipe.build(seed)
        load_weights(network, self.weights(name, seed), recipe.record())
        return to_device(network, self.device).eval()

    def images(self, count: int, split: str = "heldout") -> tuple[Tensor, Tensor]:
        """Load the first images of a split as floats in [0, 1], on the run's device."""
        images, labels = load(ex.DATASET, split)
        x = to_float(images[:count]).to(self.device)
        return x.contiguous(memory_format=torch.channels_last), labels[:count].to(self.device)

    def seeds(self, name: str) -> tuple[int, ...]:
        """Training seeds of a network."""
        return self.profile.seeds.get(name, (0,))

    # --- training ---------------------------------------------------------------------------------

    def untrained(self, *pairs: tuple[str, int]) -> list[tuple[str, int]]:
        """Networks and seeds, all of the profile's by default, that it still has to train."""
        wanted = (pairs or self.profile.trained()) if self.profile.trains else []
        return [pair for pair in wanted if not self.weights(*pair).with_suffix(".json").exists()]

    def train(self, *pairs: tuple[str, int]) -> None:
        """Train the networks and seeds that are missing, all of the profile's by default."""
        side_by_side(_train, self, agreed(self.untrained(*pairs)), "trainings")

    def train_one(self, name: str, seed: int) -> None:
        """Train one network, from its checkpoint where there is one, and write its weights.

        In a process group all ranks train it together, and rank 0 writes.
        """
        recipe, path = ex.find_recipe(name), self.weights(name, seed)
        if path.with_suffix(".json").exists():
            return
        checkpoint = self.models.parent / "checkpoints" / name / f"seed-{seed}.pt"
        model, started = recipe.build(seed), time.monotonic()
        with one_thread(self.device):
            result = fit(
                model,
                recipe.make_objective(),
                load(ex.DATASET, recipe.split),
                **recipe.fit_options(),
                seed=seed,
                monitor=partial(self._monitor, recipe, *load(ex.DATASET, recipe.selection)),
                select=recipe.select,
                checkpoint=checkpoint,
                identity={"recipe": recipe.record()},
                device=self.device,
                log=lambda line: self.log(f"{name} seed {seed}  {line}"),
            )
            record = self._record(recipe, seed, result, time.monotonic() - started)
        if recipe.ships_best:
            model.load_state_dict(result.best_state)
        if recipe.ships_half:
            model.half()
        if rank() == 0:
            save_weights(model, path, record)
            checkpoint.unlink(missing_ok=True)
        agreed(None)  # nobody reads the weights before they are there

    def _monitor(
        self, recipe: ex.Recipe, images: Tensor, labels: Tensor, model: nn.Module
    ) -> dict[str, float]:
        """Shares of right answers, under each probe and, if they decide, under noise."""
        found = {}
        for name, probe in recipe.probes.items():
            answers = predictions(model, images, labels, probe)
            found[name] = (answers == labels).double().mean().item()
        if recipe.select == "noisy":
            x, copies = to_float(images).to(self.device), 4
            votes = sample_under_noise(model, x, recipe.sigma or 0.0, copies, purpose="prediction")
            found["noisy"] = votes.gather(1, labels[:, None]).double().mean().item() / copies
        return found

    def _record(self, recipe: ex.Recipe, seed: int, result: Fit, seconds: float) -> dict[str, Any]:
        return {
            "recipe": recipe.record(),
            "seed": seed,
            "epochs": len(result.history),
            "shipped": "best epoch" if recipe.ships_best else "last epoch",
            "last": result.history[-1],
            "best_epoch": result.best_epoch + 1,
            "best": result.history[result.best_epoch],
            "seconds": round(seconds, 1),  # since the last start: a resumed training has more
            **({"ranks": world()} if world() > 1 else {}),
            **provenance(self.device),
            "history": result.history,
        }

    # --- measuring --------------------------------------------------------------------------------

    def accuracy(
        self,
        defence: str,
        attack: str,
        *,
        seed: int = 0,
        split: str = "heldout",
        count: int | None = None,
    ) -> Accuracy:
        """Accuracy of a network, or of a smoothed one as ``"smoothed-0.25"``, under an attack.

        Parameters
        ----------
        defence : str
            Name of a network in ``RECIPES``, or of its smoothed version.
        attack : str
            Name in ``ATTACKS``, ``STANDARD_ATTACKS`` or ``VOTE_ATTACKS``.
        seed : int, default=0
            Training seed.
        split : str, default="heldout"
            ``heldout``, the report's images, or ``test``.
        count : int, optional
            Images; the profile's number by default.
        """
        return accuracy(self.answers(defence, attack, seed=seed, split=split, count=count))

    def answers(
        self,
        defence: str,
        attack: str,
        *,
        seed: int = 0,
        split: str = "heldout",
        count: int | None = None,
    ) -> Results:
        """Measure or read the rows that ``accuracy`` counts."""
        call, n = ex.find_attack(attack), self.profile.votes
        count = count or self.count(split, attack)
        sigma = ex.NOISE_OF.get(defence)
        model = ex.network_of(defence)
        what = {"model": model, "training_seed": seed, "attack": ex.attack_record(attack, call)}

        def classify(network: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
            options = {"first_id": first, "batch_size": len(x), "seed": self.seed}
            if sigma is None:
                return {"prediction": predictions(network, x, y, call, **options).tolist()}
            return {"counts": texts(vote_counts(network, x, y, call, sigma, n, **options))}

        if sigma is not None:
            what |= {"sigma": sigma, "n": n}
        place, size = (split, defence, seed, attack), 256 if sigma is None else 64
        return self._measured(place, what, count, size, classify)

    def under_noise(self, sigma: float, attack: str, seed: int = 0, twice: bool = False) -> Results:
        """Measure how a network answers under noise, or read it.

        Parameters
        ----------
        sigma : float
            Noise of its training and of its answers.
        attack : str
            Name of a ``grid_attack``.
        seed : int, default=0
            Training seed.
        twice : bool, default=False
            Whether the answers are under sqrt(2) sigma, as those of a vote over a network that adds
            noise of its own.

        Returns
        -------
        Results
            Columns ``prediction`` (of the network itself), ``hits`` (votes for the label), and of
            the first N votes ``leader_N`` and ``answer_N`` (-1: abstains).
        """
        level = sigma * 2**0.5 if twice else sigma
        call, model = ex.grid_attack(attack, sigma), ex.gaussian_name(sigma)

        def answer(network: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
            options = {"first_id": first, "batch_size": len(x), "seed": self.seed}
            (x_adv, _) = next(attacked_batches(network, x, y, call, **options))
            draw = partial(sample_under_noise, network, x_adv, level, seed=self.seed)
            ends = itertools.pairwise((0, *ex.GRID_VOTES))
            parts = [draw(b - a, first=a, purpose="prediction") for a, b in ends]
            drawn = torch.stack(parts).cumsum(0)
            columns = {"prediction": logits_of(network, x_adv).argmax(1).tolist()}
            columns["hits"] = drawn[-1].gather(1, y[:, None].cpu())[:, 0].tolist()
            for n, votes in zip(ex.GRID_VOTES, drawn, strict=True):
                columns[f"leader_{n}"] = votes.argmax(1).tolist()
                columns[f"answer_{n}"] = vote(votes.numpy(), ALPHA).tolist()
            return columns

        what = {"model": model, "training_seed": seed, "attack": ex.attack_record(attack, call)}
        what |= {"sigma": level, "alpha": ALPHA, "ns": list(ex.GRID_VOTES)}
        place = ("heldout", ex.noisy_name(sigma, twice), seed, attack)
        return self._measured(place, what, self.profile.heldout, 256, answer)

    def certificates(self, sigma: float, count: int | None = None) -> Results:
        """Draw the votes that certify the report's images at a noise level, or read them."""
        return self.certifying_votes(
            *("heldout", ex.smoothed_name(sigma), ex.gaussian_name(sigma), sigma), count
        )

    def certifying_votes(
        self, split: str, defence: str, model: str, sigma: float, count: int | None = None
    ) -> Results:
        """Draw the votes that certify images of a split, or read them.

        Parameters
        ----------
        split : str
            Of the images.
        defence : str
            Name of the smoothed network in rows.
        model : str
            Name of the network that votes.
        sigma : float
            Noise.
        count : int, optional
            Images; the profile's ``certified`` by default.
        """
        ns, count = self.profile.ns, count or self.profile.certified

        def draw(network: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
            x = to_float(x).to(self.device)
            selection, drawn = nested_counts(network, x, sigma, ns, n0=N0, labels=y, seed=self.seed)
            return {"selection": texts(selection)} | {f"counts_{n}": texts(drawn[n]) for n in ns}

        what = self._certificates_identity(model, sigma)
        return self._measured((split, defence, 0, "certificates"), what, count, 64, draw)

    def inside(self, sigma: float) -> Results:
        """Attack inside the balls that are certified at a noise level, or read the outcome."""
        certified = certificates(self.certificates(sigma), max(self.profile.ns))
        n = self.profile.votes

        def attack(network: nn.Module, x: Tensor, y: Tensor, first: int) -> dict[str, Any]:
            chosen = slice(first, first + len(x))
            some = Certificates(certified.prediction[chosen], certified.radius[chosen])
            drawn = counts_inside(
                *(network, to_float(x).to(self.device), some, sigma),
                first_id=first,
                steps=ex.SMOOTHED_STEPS,
                draws=ex.SMOOTHED_DRAWS,
                n=n,
                seed=self.seed,
            )
            # Nine decimals, rounded down: no more than was certified.
            radius = [f"{np.floor(r * 1e9) / 1e9:.9f}" if r > 0 else "" for r in some.radius]
            answers = [int(c) if c != ABSTAIN else "" for c in some.prediction]
            return {"certified": answers, "radius": radius, "counts": texts(drawn)}

        what = self._certificates_identity(ex.gaussian_name(sigma), sigma)
        what |= {"n": n, "alpha": ALPHA, "share": SHARE}
        what |= {"steps": ex.SMOOTHED_STEPS, "draws": ex.SMOOTHED_DRAWS}
        place = ("heldout", ex.smoothed_name(sigma), 0, "inside")
        return self._measured(place, what, self.profile.certified, 64, attack)

    def _certificates_identity(self, model: str, sigma: float) -> dict[str, Any]:
        votes = {"n0": N0, "ns": list(self.profile.ns)}
        return {"model": model, "training_seed": 0, "sigma": sigma} | votes

    def count(self, split: str, attack: str) -> int:
        """How many images of a split the profile attacks."""
        profile = self.profile
        count = {"heldout": profile.heldout, "test": profile.test}.get(split, 0)
        if not count:
            raise ValueError(f"profile {profile.name!r} measures no images of {split!r}")
        return min(count, profile.vote_attacked) if attack in ex.VOTE_ATTACKS else count

    def _measured(
        self, place: Place, what: dict[str, Any], count: int, size: int, step: Step
    ) -> Results:
        """Read a measurement, after measuring what is missing of it, `size` images a shard."""
        split, defence, seed, name = place
        pair = what["model"], seed
        make = MODELS[ex.find_recipe(what["model"]).network]
        self.train(pair)
        identity = what | {
            "weights": read_record(self.weights(*pair))["sha256"],
            "data": DATASETS[ex.DATASET].digest,
            "split": split,
            "seed": self.seed,
        }
        if is_own(make):  # whose weights may mean another function tomorrow
            identity["network"] = digest_of([], code_of(make))
        if self.shows_published and self._is_published(place, identity, count):
            return read(self.published / folder_of(place), count)
        # Another arithmetic is another function, and another device has other noise.
        if arithmetic(self.device) != "float32":
            identity["arithmetic"] = arithmetic(self.device)
        if self.device.type != "cpu":
            identity["device"] = self.device.type
        folder = self.rows / folder_of(place)
        open_results(folder, identity)
        if todo := missing(folder, count, size):
            started = time.monotonic()
            network = self.model(*pair)
            images, labels = load(ex.DATASET, split)
            if count > len(images):
                raise ValueError(f"{split} has {len(images)} images, not {count}")
            about = provenance(self.device)
            for r in progress(todo, f"{defence} {name}"):
                x, y = images[r.start : r.stop], labels[r.start : r.stop]
                columns = {"label": y.tolist()} | step(network, x, y, r.start)
                write_shard(folder, r.start, columns, about)
            self.log(f"{folder_of(place)}  n = {count}  ({time.monotonic() - started:.1f} s)")
        return read(folder, count)

    def _is_published(self, place: Place, identity: dict[str, Any], count: int) -> bool:
        """Whether the shipped rows are this very measurement, on at least as many images."""
        folder = self.published / folder_of(place)
        try:
            check_identity(folder, identity)
            return not missing(folder, count, count)
        except ResultsError:
            return False


def _train(run: Run, pair: tuple[str, int]) -> None:
    """Train a network, perhaps in another process."""
    run.train_one(*pair)
