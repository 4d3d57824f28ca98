"""All that a run measures: a list to check, to count and to estimate from."""

from typing import Any, NamedTuple

from rvlib.profiles import DEFENCES, Profile
from rvlib.recipes import ATTACKS, REPORT_ATTACKS, SIGMA, SIGMAS, gaussian_name, smoothed_name
from rvlib.rows import rows_path
from rvlib.stages.measure import (
    attack_identity,
    certificates_identity,
    inside_identity,
    votes_identity,
)
from rvlib.stages.run import FURTHER, SMOOTHED_ATTACKS, Run

NOISE = {smoothed_name(sigma): sigma for sigma in SIGMAS}
"""Noise level of each smoothed network by its name."""


class Measurement(NamedTuple):
    """What a rows file is of.

    Parameters
    ----------
    split : str
        ``"heldout"`` or ``"test"``.
    defence : str
        A model or a smoothed network.
    seed : int
        Training seed.
    what : str
        An attack, ``certificates``, or ``inside``.
    """

    split: str
    defence: str
    seed: int
    what: str


def measurements(run: Run) -> dict[Measurement, int]:
    """List what the tables of a run are made of.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of Measurement to int
        How many images each is on.
    """
    profile = run.profile
    found: dict[Measurement, int] = {}

    def add(count: int, split: str, defence: str, what: str, seed: int = 0) -> None:
        measurement = Measurement(split, defence, seed, what)
        found[measurement] = max(count, found.get(measurement, 0))

    for split, count, models in (
        ("heldout", profile.heldout, (*DEFENCES, *FURTHER)),
        ("test", profile.test, DEFENCES),
    ):
        if not count:
            continue
        for model in models:
            for attack in profile.attacks:
                add(count, split, model, attack)
        for recipe in SMOOTHED_ATTACKS:
            add(count, split, smoothed_name(SIGMA), recipe.name)
    for sigma in SIGMAS:
        for attack in REPORT_ATTACKS:
            add(profile.heldout, "heldout", gaussian_name(sigma), attack)
            add(profile.certified, "heldout", smoothed_name(sigma), attack)
        for what in ("certificates", "inside"):
            add(profile.certified, "heldout", smoothed_name(sigma), what)
    for model in profile.seeds:
        for seed in run.seeds(model):
            for attack in REPORT_ATTACKS:
                add(profile.heldout, "heldout", model, attack, seed)
    return found


def identity(profile: Profile, measurement: Measurement) -> dict[str, Any]:
    """Say what the head of a rows file tells that a run measures, but for weights and images.

    Parameters
    ----------
    profile : Profile
        The run's.
    measurement : Measurement
        One of ``measurements``.

    Returns
    -------
    dict
        Model, attack, noise and numbers of votes.
    """
    _, defence, seed, what = measurement
    if defence not in NOISE:
        return attack_identity(defence, seed, ATTACKS[what])
    sigma = NOISE[defence]
    if what == "certificates":
        return certificates_identity(sigma, seed, profile.ns)
    if what == "inside":
        return inside_identity(sigma, seed, profile.ns, profile.votes)
    attacks = {attack.name: attack for attack in SMOOTHED_ATTACKS} | ATTACKS
    return votes_identity(sigma, seed, attacks[what], profile.votes)


def missing_rows(run: Run) -> dict[Measurement, int]:
    """Count the images that are still to be measured.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of Measurement to int
        How many images each lacks; what is complete is left out.
    """
    missing = {}
    for measurement, count in measurements(run).items():
        path = rows_path(run.place.rows, *measurement)
        # Whole lines, less head and columns; what the rows say is looked at when they are read.
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if (left := count - max(0, lines - 2)) > 0:
            missing[measurement] = left
    return missing
