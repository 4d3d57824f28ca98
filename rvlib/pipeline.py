"""A run of the experiments: train, measure, read; what is on disk is not computed again."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from rvlib.experiments import ALPHA, N0, SIGMA, Profile
from rvlib.inference import logits_of
from rvlib.models import MODELS, WeightsError, load_weights, read_record, save_weights, to_device
from rvlib.modern import MODERN, ModernProfile
from rvlib.processes import single_threaded
from rvlib.progress import progress
from rvlib.results import (
    Results,
    ResultsError,
    atomic_write,
    check_identity,
    counts,
    missing,
    open_results,
    plain,
    read,
    texts,
    write_shard,
)
from rvlib.sanity_checks import sanity
from rvlib.smoothing import ABSTAIN, Certificates, certificate, sample_under_noise, vote, wilson
from rvlib.smoothing.statistics import Interval
from rvlib.training import Fit, fit

Step = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Any]]
"""Measure a few images: (network, images, labels, index of the first) -> columns."""


USUAL = {"arithmetic": "float32", "device": "cpu"}
"""What identities of rows leave out, and what is shipped was measured with."""

interval = cache(wilson)
"""Wilson's intervals; tables ask for the same again, and SciPy computes a p-value each time."""


@dataclass(frozen=True)
class Accuracy:
    """How many of `n` images were answered rightly, and how many not at all."""

    n: int
    correct: int
    abstained: int
    threat: str

    @property
    def percent(self) -> float:
        """Share of right answers in percent; an abstention is an error."""
        return 100 * self.correct / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the share, in percent."""
        return Interval(*(100 * end for end in interval(self.correct, self.n)))

    @property
    def answered_only(self) -> float | None:
        """Share of right answers, in percent, among the answered images; None if none was."""
        answered = self.n - self.abstained
        return 100 * self.correct / answered if answered else None


def accuracy(results: Results, alpha: float = ALPHA) -> Accuracy:
    """Count right answers in rows of predictions or of votes."""
    frame, labels = results.frame, results.frame["label"].to_numpy()
    if "counts" in frame:
        answers = vote(counts(frame, "counts"), alpha)
    else:
        answers = frame["prediction"].to_numpy()
    correct, abstained = int((answers == labels).sum()), int((answers == ABSTAIN).sum())
    return Accuracy(len(labels), correct, abstained, results.meta["attack"]["threat"])


def certificates(results: Results, n: int, alpha: float = ALPHA) -> Certificates:
    """Certify images from their first `n` stored votes; ABSTAIN where they were not drawn to `n`.

    Images whose selected class was wrong have no votes beyond the smallest n: they are certified
    rightly at no radius.
    """
    frame, sigma = results.frame, results.meta["sigma"]
    selection, drawn = counts(frame, "selection"), counts(frame, f"counts_{n}")
    sampled = drawn.sum(1) > 0
    prediction, radius = np.full(len(frame), ABSTAIN), np.zeros(len(frame))
    if sampled.any():
        prediction[sampled], radius[sampled] = certificate(
            selection[sampled], drawn[sampled], alpha, sigma
        )
    return Certificates(prediction, radius)


INSTALLED = Path(__file__).with_name("weights")
"""Weights of the shipped networks in an installed wheel; a checkout has them in ``report/``."""


def repository() -> Path:
    """Folder with notebooks and report: ``RVLIB_ROOT``, or the checkout that rvlib lies in."""
    root = Path(os.environ.get("RVLIB_ROOT") or Path(__file__).parents[1])
    if not (root / "report").is_dir():
        raise ValueError(f"{root} is no checkout of rvlib: name one in RVLIB_ROOT")
    return root


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
        todo = agreed(self.untrained(*pairs))
        jobs = min(cores(), len(todo)) if self.device.type == "cpu" and world() == 1 else 1
        if jobs <= 1 or ex.is_extended() or not {*todo} <= {*self.profile.trained()}:
            for name, seed in todo:
                self.train_one(name, seed)
            return
        # A process each: one thread is enough for a small network, and the weights then do not
        # depend on how many cores there are.
        command = [sys.executable, "-m", "rvlib", "train", "--profile", self.profile.name]
        root, build = self.published.parents[1], self.models.parents[1]
        places = {"RVLIB_ROOT": str(root.resolve()), "RVLIB_BUILD": str(build.resolve())}
        places["RVLIB_PARENT"] = "stdin"
        stdin, held = os.pipe()  # closes with this process: its children then end, too

        def start(pair: tuple[str, int]) -> None:
            words = [pair[0], "--training-seed", str(pair[1]), "--device", str(self.device)]
            done = subprocess.run([*command, *words], env=os.environ | places, stdin=stdin)
            if done.returncode:
                raise WeightsError(f"{pair[0]} seed {pair[1]} was not trained: see above")

        with ThreadPoolExecutor(jobs) as pool, os.fdopen(stdin), os.fdopen(held, "wb"):
            list(pool.map(start, todo))

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
        size = 256 if sigma is None else 64
        return self._measured(split, defence, seed, attack, what, count, size, classify)

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
        name, count = ex.noisy_name(sigma, twice), self.profile.heldout
        return self._measured("heldout", name, seed, attack, what, count, 256, answer)

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
        return self._measured(split, defence, 0, "certificates", what, count, 64, draw)

    def inside(self, sigma: float) -> Results:
        """Attack inside the balls that are certified at a noise level, or read the outcome."""
        certified = certificates(self.certificates(sigma), max(self.profile.ns))
        n, name = self.profile.votes, ex.smoothed_name(sigma)

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
        count = self.profile.certified
        return self._measured("heldout", name, 0, "inside", what, count, 64, attack)

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
        self,
        split: str,
        defence: str,
        seed: int,
        name: str,
        what: dict[str, Any],
        count: int,
        size: int,
        step: Step,
    ) -> Results:
        """Read a measurement, after measuring what is missing of it, shard by shard."""
        place = Path(split) / defence / f"seed-{seed}" / name
        make = MODELS[ex.find_recipe(what["model"]).network]
        self.train((what["model"], seed))
        identity = what | {
            "weights": read_record(self.weights(what["model"], seed))["sha256"],
            "data": DATASETS[ex.DATASET].digest,
            "split": split,
            "seed": self.seed,
        }
        if is_own(make):  # whose weights may mean another function tomorrow
            identity["network"] = digest_of([], code_of(make))
        if self.shows_published and self._is_published(place, identity, count):
            return read(self.published / place, count)
        # Another arithmetic is another function, and another device has other noise.
        if arithmetic(self.device) != "float32":
            identity["arithmetic"] = arithmetic(self.device)
        if self.device.type != "cpu":
            identity["device"] = self.device.type
        folder = self.rows / place
        open_results(folder, identity)
        todo = missing(folder, count, size)
        if todo:
            started = time.monotonic()
            network = self.model(what["model"], seed)
            images, labels = load(ex.DATASET, split)
            if count > len(images):
                raise ValueError(f"{split} has {len(images)} images, not {count}")
            about = provenance(self.device)
            for r in progress(todo, f"{defence} {name}"):
                x, y = images[r.start : r.stop], labels[r.start : r.stop]
                columns = {"label": y.tolist()} | step(network, x, y, r.start)
                write_shard(folder, r.start, columns, about)
            self.log(f"{place}  n = {count}  ({time.monotonic() - started:.1f} s)")
        return read(folder, count)

    def _is_published(self, place: Path, identity: dict[str, Any], count: int) -> bool:
        """Whether the shipped rows are this very measurement, on at least as many images."""
        try:
            check_identity(self.published / place, identity)
            return not missing(self.published / place, count, count)
        except ResultsError:
            return False


# --- all of it ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run: what it is of, how many images, and how to make it."""

    place: tuple[str, str, int, str]
    count: int
    make: Callable[[], Results]


def measurements(run: Run) -> list[Measurement]:
    """List what the tables of a run are made of, Table 1 and Figure 1 first."""
    return (_modern if isinstance(run.profile, ModernProfile) else _reported)(run)


def _modern(run: Run) -> list[Measurement]:
    """List the measurements of Part II: attacked networks, and certified ones."""
    found = []
    for split, name, what, count in run.profile.places():  # type: ignore[attr-defined]
        if what == "certificates":
            make = partial(run.certifying_votes, split, name, name, MODERN[name].sigma or 0.0)
        else:
            make = partial(run.answers, name, what, split=split, count=count)
        found.append(Measurement((split, name, 0, what), count, make))
    return found


def _reported(run: Run) -> list[Measurement]:
    """List the measurements of the report's networks."""
    found: dict[tuple[str, str, int, str], Measurement] = {}

    def add(split: str, defence: str, seed: int, attack: str, count: int) -> None:
        make = partial(run.answers, defence, attack, seed=seed, split=split, count=count)
        place = (split, defence, seed, attack)
        if place not in found or found[place].count < count:
            found[place] = Measurement(place, count, make)

    profile, table1 = run.profile, ex.table1_cells(run.profile)
    for defence, attack in table1:
        add("heldout", defence, 0, attack, run.count("heldout", attack))
    for sigma in sorted(ex.SIGMAS, key=lambda s: s != ex.SIGMA):
        for what, make in (("certificates", run.certificates), ("inside", run.inside)):
            place = ("heldout", ex.smoothed_name(sigma), 0, what)
            found[place] = Measurement(place, profile.certified, partial(make, sigma))
        for attack in ex.REPORT_ATTACKS:
            add("heldout", ex.gaussian_name(sigma), 0, attack, profile.heldout)
            add("heldout", ex.smoothed_name(sigma), 0, attack, profile.certified)
    for model in ex.FURTHER:
        for attack in profile.attacks:
            add("heldout", model, 0, attack, profile.heldout)
    for model in profile.seeds:
        for seed in run.seeds(model):
            for attack in ex.REPORT_ATTACKS:
                add("heldout", model, seed, attack, profile.heldout)
    for seed, attack in itertools.product(run.seeds(ex.gaussian_name(SIGMA)), ex.VOTE_READING):
        defence = ex.smoothed_name(SIGMA)
        add("heldout", defence, seed, attack, run.count("heldout", attack))
    for defence, attack in table1 if profile.test else ():
        add("test", defence, 0, attack, run.count("test", attack))
    for defence, attack in ex.standard_cells():
        add("test", defence, 0, attack, profile.standard)
    for sigma, attack, seed, twice in ex.grid_cells() if profile.trains else ():
        place = ("heldout", ex.noisy_name(sigma, twice), seed, attack)
        make = partial(run.under_noise, sigma, attack, seed, twice)
        found[place] = Measurement(place, profile.heldout, make)
    return list(found.values())


def measure_everything(run: Run, *names: str) -> None:
    """Train and measure all that the notebooks and the report show, or of some networks only.

    On a CPU in a process a core, each of one thread: networks this small leave more threads idle.
    """
    measured = {measurement.place[1] for measurement in measurements(run)}
    if unknown := sorted({*names} - measured):
        raise ValueError(f"profile {run.profile.name!r} measures nothing of {unknown[0]!r}")
    wanted = {ex.network_of(name) for name in names}
    if pairs := [pair for pair in run.profile.trained() if pair[0] in wanted or not names]:
        run.train(*pairs)
    # Attacks inside certified radii come last: they read the certificates.
    todo = sorted(missing_images(run), key=lambda place: place[3] == "inside")
    todo = [place for place in todo if not names or place[1] in names]
    jobs = min(cores(), len(todo)) if run.device.type == "cpu" else 1
    if jobs <= 1 or ex.is_extended():
        for place in todo:
            _measure(run, place)
        return
    with single_threaded(jobs) as pool:
        made = pool.map(_measure, itertools.repeat(replace(run, log=print)), todo)
        for _ in progress(made, "measurements", len(todo)):
            pass


def _measure(run: Run, place: tuple[str, str, int, str]) -> None:
    """Make the measurement of a place."""
    next(m for m in measurements(run) if m.place == place).make()


def missing_images(run: Run) -> dict[tuple[str, str, int, str], int]:
    """Count the images that each measurement of a run still lacks."""
    left = {}
    for m in measurements(run):
        split, defence, seed, what = m.place
        published = run.profile.reads_published and run.seed == 0
        folders = [run.rows, *([run.published] if published else [])]
        place = Path(split, defence, f"seed-{seed}", what)
        count = min(sum(map(len, missing(f / place, m.count, m.count))) for f in folders)
        if count:
            left[m.place] = count
    return left


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Hold a CPU to one thread, so that weights do not depend on how many cores there are."""
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use: by its affinity, its container's limit, a batch system."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = [count or 1]
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        given.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no limit
    if os.environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        given.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(given)


TIMED = {"lenet": 256}
"""Images of a timed pass; of larger networks 32."""


def estimate(run: Run, *names: str) -> float:
    """Seconds that the missing trainings and measurements take: passes counted, a few timed.

    Of some networks only, if they are named.  One pass is an image once forward and backward, one
    vote an image once forward.
    """
    attacking, voting = (defaultdict[str, float](float) for _ in range(2))
    training = measuring = 0.0
    wanted = {ex.network_of(name) for name in names}
    for name, _ in run.untrained():
        if names and name not in wanted:
            continue
        recipe = ex.find_recipe(name)
        images = len(load(ex.DATASET, recipe.split)[0])
        training += recipe.epochs * images * _of_training(recipe, run)
    grid = {ex.noisy_name(sigma, twice) for sigma, _, _, twice in ex.grid_cells()}
    for (_, defence, _, what), images in missing_images(run).items():
        if names and defence not in names:
            continue
        network = ex.find_recipe(ex.network_of(defence)).network
        votes = run.profile.votes if defence in ex.NOISE_OF else 0
        if what == "certificates":
            # About half stop: their class is wrong.
            voting[network] += images * max(run.profile.ns) / 2
        elif what == "inside":
            attacking[network] += images * ex.SMOOTHED_STEPS * ex.SMOOTHED_DRAWS / 2
            voting[network] += images * votes / 2
        elif defence in grid:
            attacking[network] += images * _steps(ex.grid_attack(what, ex.SIGMA))
            voting[network] += images * max(ex.GRID_VOTES)
        else:
            attacking[network] += images * _steps(ex.find_attack(what))
            voting[network] += images * votes
    for name in attacking | voting:
        model = to_device(MODELS[name](), run.device)
        x, y = run.images(TIMED.get(name, 32))
        passes = partial(_passes, model, x, y)
        hundred = partial(vote_counts, model, x, y, ex.natural, 0.25, 100)
        measuring += attacking[name] * seconds(passes, run.device) / len(x)
        if voting[name]:
            measuring += voting[name] * seconds(hundred, run.device) / (100 * len(x))
    return training / (cores() if run.device.type == "cpu" else 1) + measuring


def _of_training(recipe: ex.Recipe, run: Run) -> float:
    """Seconds an image of a step of training."""
    network, objective = to_device(recipe.build(0), run.device), recipe.make_objective()
    x, y = run.images(32)
    draws = torch.Generator(run.device).manual_seed(0)
    step = lambda: objective(network, x, y, draws).value.backward()  # noqa: E731
    return seconds(step, run.device, times=1) / len(x)


def _steps(attack: ex.Attack) -> int:
    options = getattr(attack, "keywords", {})
    if "version" in options:  # of AutoAttack; about a third of the images stand
        return {"fast": 1000, "standard": 4500}[options["version"]] // 3
    steps = options.get("steps", 1) * options.get("restarts", 1) * options.get("draws", 1)
    return int(steps)


def _passes(network: nn.Module, x: Tensor, y: Tensor) -> None:
    nn.functional.cross_entropy(network(x), y).backward()


def seconds(work: Callable[[], Any], device: torch.device, times: int = 3) -> float:
    """Time some work after a warm-up: mean seconds of a call."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times


# --- checks of the evaluation itself --------------------------------------------------------------

CHECKED = {"images": 256, "steps": ex.PGD_STEPS, "step_size": ex.LINF_STEP_SIZE}
CHECKED |= {"restarts": 5, "queries": 1000}
"""What ``check`` runs ``sanity`` with, on every network of Table 1."""


def check(run: Run) -> pd.DataFrame:
    """Run ``sanity`` on every network of Table 1 with the report's PGD, or read what it found.

    Returns
    -------
    DataFrame
        Columns defence, check, images, passed, finding; also written to ``tables/sanity.csv``.
    """

    def digest(name: str, seed: int) -> str:
        return str(read_record(run.weights(name, seed))["sha256"])

    options = CHECKED | {"images": min(CHECKED["images"], run.profile.certified)}
    # Images are transferred from another training of the same recipe, seed 1.
    run.train(*itertools.product(ex.DEFENCES, (0, 1)))
    identity = {
        "columns": ["defence", "check", "images", "passed", "finding"],
        "weights": {name: digest(name, 0) for name in ex.DEFENCES},
        "transfer_from": {name: digest(name, 1) for name in ex.DEFENCES},
        "data": DATASETS[ex.DATASET].digest,
        "device": run.device.type,
        "arithmetic": arithmetic(run.device),
        "split": "heldout",
        "seed": run.seed,
        "threat": ex.LINF.name,
    } | options
    known = {run.out: identity}
    if run.shows_published:
        known[run.published.parent] = identity | USUAL
    for folder, wanted in known.items():
        record = folder / "tables" / "sanity.json"
        try:
            if json.loads(record.read_text(encoding="utf-8"))["identity"] == plain(wanted):
                return pd.read_csv(record.with_suffix(".csv"), dtype=str)
        except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: check again
            continue
    lines, x, y = [], *run.images(int(options.pop("images")))
    for defence in ex.DEFENCES:
        how: dict[str, Any] = options | {"transfer_from": run.model(defence, 1), "seed": run.seed}
        for name, passed, found, expected in sanity(run.model(defence), x, y, ex.LINF, **how):
            words = found if passed else f"{found}; expected: {expected}"
            lines.append((defence, name, str(len(x)), "yes" if passed else "no", words))
        run.log(f"{defence}  checked")
    table = pd.DataFrame(lines, columns=identity["columns"])
    content = {"identity": identity, "provenance": provenance(run.device)}
    place = run.out / "tables" / "sanity.csv"
    atomic_write(place, table.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(place.with_suffix(".json"), (json.dumps(plain(content), indent=1) + "\n").encode())
    return table
