"""All measurements of a run: what they are, which are missing, and how they are made."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rvlib import experiments as ex
from rvlib.experiments import SIGMA
from rvlib.modern import MODERN, ModernProfile
from rvlib.pipeline.machine import side_by_side
from rvlib.pipeline.run import Place, Run, folder_of
from rvlib.results import Results, missing


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run: what it is of, how many images, and how to make it."""

    place: Place
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
    found: dict[Place, Measurement] = {}

    def add(split: str, defence: str, attack: str, seed: int = 0, count: int = 0) -> None:
        place, count = (split, defence, seed, attack), count or run.count(split, attack)
        if place not in found or found[place].count < count:
            make = partial(run.answers, defence, attack, seed=seed, split=split, count=count)
            found[place] = Measurement(place, count, make)

    profile, table1 = run.profile, ex.table1_cells(run.profile)
    for defence, attack in table1:
        add("heldout", defence, attack)
    for sigma in sorted(ex.SIGMAS, key=lambda s: s != SIGMA):
        for what, make in (("certificates", run.certificates), ("inside", run.inside)):
            place = ("heldout", ex.smoothed_name(sigma), 0, what)
            found[place] = Measurement(place, profile.certified, partial(make, sigma))
        for attack in ex.REPORT_ATTACKS:
            add("heldout", ex.gaussian_name(sigma), attack)
            add("heldout", ex.smoothed_name(sigma), attack, count=profile.certified)
    for model, attack in itertools.product(ex.FURTHER, profile.attacks):
        add("heldout", model, attack)
    for model, seeds in profile.seeds.items():
        for seed, attack in itertools.product(seeds, ex.REPORT_ATTACKS):
            add("heldout", model, attack, seed)
    for seed, attack in itertools.product(run.seeds(ex.gaussian_name(SIGMA)), ex.VOTE_READING):
        add("heldout", ex.smoothed_name(SIGMA), attack, seed)
    for defence, attack in table1 if profile.test else ():
        add("test", defence, attack)
    for defence, attack in ex.standard_cells():
        add("test", defence, attack, count=profile.standard)
    for sigma, attack, seed, twice in ex.grid_cells() if profile.trains else ():
        place = ("heldout", ex.noisy_name(sigma, twice), seed, attack)
        make = partial(run.under_noise, sigma, attack, seed, twice)
        found[place] = Measurement(place, profile.heldout, make)
    return list(found.values())


def measure_everything(run: Run, *names: str) -> None:
    """Train and measure all that the notebooks and the report show, or of some networks only."""
    measured = {measurement.place[1] for measurement in measurements(run)}
    if unknown := sorted({*names} - measured):
        raise ValueError(f"profile {run.profile.name!r} measures nothing of {unknown[0]!r}")
    wanted = {ex.network_of(name) for name in names}
    if pairs := [pair for pair in run.profile.trained() if pair[0] in wanted or not names]:
        run.train(*pairs)
    todo = [place for place in missing_images(run) if not names or place[1] in names]
    # Attacks inside certified radii come last: they read the certificates.
    todo.sort(key=lambda place: place[3] == "inside")
    side_by_side(_measure, run, todo, "measurements")


def _measure(run: Run, place: Place) -> None:
    """Make the measurement of a place."""
    next(m for m in measurements(run) if m.place == place).make()


def missing_images(run: Run) -> dict[Place, int]:
    """Count the images that each measurement of a run still lacks."""
    published = run.profile.reads_published and run.seed == 0
    folders = [run.rows, *([run.published] if published else [])]
    left = {}
    for m in measurements(run):
        places = [folder / folder_of(m.place) for folder in folders]
        count = min(sum(map(len, missing(place, m.count, m.count))) for place in places)
        if count:
            left[m.place] = count
    return left
