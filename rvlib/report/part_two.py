"""Tables of Part II: modern training, from the rows in ``report/modern``.

A network that was not trained or not measured has a line without numbers: *not run*.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rvlib.attacks.passes import Passes
from rvlib.experiments import ALPHA, REPORT_TABLE1, network_of, title
from rvlib.models import MODELS, read_record
from rvlib.modern import MODERN, PROFILE, PUBLIC, RADII, SPLIT, Modern
from rvlib.pipeline import Accuracy, accuracy, repository
from rvlib.report.hypotheses import inside
from rvlib.report.tables import radii
from rvlib.results import Results, counts, missing, read
from rvlib.smoothing import largest_radius


def shipped(report: Path | None = None) -> Path:
    """Folder of the weights, rows and tables of Part II in ``report/``."""
    return (report or repository() / "report") / PROFILE.name


def shipped_tables(report: Path | None = None, **options: Any) -> dict[str, pd.DataFrame]:
    """Read the tables of ``all_tables`` as shipped; `options` are those of ``read_csv``."""
    folder = shipped(report) / "tables"
    return {name: pd.read_csv(folder / f"{name}.csv", **options) for name in TABLES}


def weights_of(folder: Path, name: str) -> Path:
    """Where the weights of a network of Part II lie."""
    return folder / "models" / name / "seed-0.safetensors"


def rows(folder: Path, split: str, name: str, what: str, count: int) -> Results | None:
    """Read a measurement of Part II; None if it was not made of the weights that are there."""
    place = folder / "rows" / split / name / "seed-0" / what
    weights = weights_of(folder, network_of(name))
    if missing(place, count, count) or not weights.with_suffix(".json").exists():
        return None
    found = read(place, count)
    return found if found.meta["weights"] == read_record(weights)["sha256"] else None


def measured(folder: Path) -> list[Path]:
    """List the measurements that are whole."""
    return [
        folder / "rows" / split / name / "seed-0" / what
        for split, name, what, count in PROFILE.places()
        if rows(folder, split, name, what, count) is not None
    ]


@lru_cache
def passes(recipe: Modern) -> tuple[int, int]:
    """Count forward and backward passes of an image in one step of a training.

    Rounded: what is asked once a batch, to check the network, is not counted.
    """
    network, objective = Passes(MODELS[recipe.network]()), recipe.make_objective()
    x = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = objective(network, x, torch.arange(10), torch.Generator().manual_seed(0)).value
    loss.backward()
    return round(network.forwards / len(x)), round(network.backwards / len(x))


def training_table(folder: Path) -> pd.DataFrame:
    """Say what each training cost, and how its last weights and their average do on ``selection``.

    Parameters
    ----------
    folder : Path
        As ``shipped`` gives it.

    Returns
    -------
    DataFrame
        One line a network: ``defence, network, objective, parameters, epochs`` (planned) and
        ``done``; ``forwards`` and ``backwards``, passes per image and epoch; ``device``;
        ``best_epoch``, the one shipped; in percent ``last`` and ``best``, the accuracy that
        chooses, and ``highest_last``, the highest that the weights themselves had.
    """
    lines = []
    for name, recipe in MODERN.items():
        forwards, backwards = passes(recipe)
        size = sum(p.numel() for p in MODELS[recipe.network]().parameters())
        line: dict[str, Any] = {"defence": name, "network": recipe.network}
        line |= {"objective": recipe.objective, "parameters": size, "epochs": recipe.epochs}
        line |= {"done": 0, "forwards": forwards, "backwards": backwards}
        line |= {"device": None, "best_epoch": None}
        weights = weights_of(folder, name)
        if weights.with_suffix(".json").exists():
            record, key = read_record(weights), recipe.select
            chosen = [entry.get(f"averaged {key}", entry[key]) for entry in record["history"]]
            own = [entry[key] for entry in record["history"]]
            line |= {"done": record["epochs"], "device": record["device"]}
            line |= {"best_epoch": record["best_epoch"], "last": 100 * own[-1]}
            line |= {"highest_last": 100 * max(own)}
            line |= {"best": 100 * chosen[record["best_epoch"] - 1]}
        lines.append(line)
    return pd.DataFrame(lines).astype({"best_epoch": "Int64"})


def accuracy_table(folder: Path) -> pd.DataFrame:
    """Count right answers on official test images, clean and under the standard protocol.

    Parameters
    ----------
    folder : Path
        As ``shipped`` gives it.

    Returns
    -------
    DataFrame
        Columns ``defence, attack, n, correct, accuracy, ci_low, ci_high``; n = 0 where not run.
    """
    return _counted(folder, PROFILE.cells())


def columns_table(folder: Path) -> pd.DataFrame:
    """Set the report's defences with modern training beside its own training and its values.

    Parameters
    ----------
    folder : Path
        As ``shipped`` gives it.

    Returns
    -------
    DataFrame
        Columns as those of ``accuracy_table``; the ``column`` of Table 1; ``before``, the accuracy
        of this defence with the report's training, of the same images and attack; the ``report``'s
        value where it has one, and whether it is ``reached``: not above ours.
    """
    cells = PROFILE.column_cells()
    table = _counted(folder, cells)
    table.insert(1, "column", table["defence"].str.removeprefix("lenet-"))
    keys = zip(table["column"], table["attack"], strict=True)
    same = [(name.removeprefix("lenet-"), attack, count) for name, attack, count in cells]
    table["before"] = _counted(folder.parent, same)["accuracy"]
    table["report"] = [REPORT_TABLE1[column].get(attack, np.nan) for column, attack in keys]
    table["reached"] = inside(table["accuracy"], table["report"], np.inf)
    return table


def _counted(folder: Path, cells: list[tuple[str, str, int]]) -> pd.DataFrame:
    """Count right answers by network and attack; n = 0 where not run."""
    lines = []
    for name, attack, count in cells:
        counted: tuple[Any, ...] = (0, None, None, None, None)
        if (found := rows(folder, "test", name, attack, count)) is not None:
            got = accuracy(found)
            counted = (got.n, got.correct, got.percent, *got.interval)
        lines.append((name, attack, *counted))
    names = ["defence", "attack", "n", "correct", "accuracy", "ci_low", "ci_high"]
    return pd.DataFrame(lines, columns=names).astype({"correct": "Int64", "accuracy": float})


def certified_table(folder: Path) -> pd.DataFrame:
    """Set certified accuracies beside public ones.

    Parameters
    ----------
    folder : Path
        As ``shipped`` gives it.

    Returns
    -------
    DataFrame
        One line a network and radius: ``n`` votes, ``cap``, the largest radius that they can
        certify, ``images``, ``certified`` in percent with Wilson's 95 % interval, the ``public``
        value, and whether it is ``reached``: not above the upper end of the interval.
    """
    lines, n = [], max(PROFILE.ns)
    for name, recipe in MODERN.items():
        if not recipe.sigma:
            continue
        certified = certified_radii(folder, name)
        cap = np.floor(100 * largest_radius(n, ALPHA, recipe.sigma)) / 100
        for radius in RADII:
            public = PUBLIC.get(name, {}).get(radius, np.nan)
            images, shares = 0, (np.nan, np.nan, np.nan)
            if certified is not None:
                found = Accuracy(len(certified), int((certified >= radius).sum()), 0, "-")
                images, shares = found.n, (found.percent, *found.interval)
            lines.append((name, recipe.sigma, radius, n, cap, images, public, *shares))
    names = "defence,sigma,radius,n,cap,images,public,certified,ci_low,ci_high"
    table = pd.DataFrame(lines, columns=names.split(","))
    table.insert(7, "reached", inside(table["ci_high"], table["public"], np.inf))
    return table


def certified_radii(folder: Path, name: str) -> NDArray[np.float64] | None:
    """Compute each image's certified radius; -1 where the answer is wrong or withheld."""
    found = rows(folder, SPLIT, name, "certificates", PROFILE.certified)
    return None if found is None else radii(found, max(PROFILE.ns))


def histories(folder: Path, *names: str, averaged: bool = False) -> dict[str, list[float]]:
    """Read by epoch the accuracy in percent that decides, of the weights or of their average.

    It is nan before the average begins.
    """
    found = {}
    for name in names:
        weights = weights_of(folder, name)
        if weights.with_suffix(".json").exists():
            key = "averaged " * averaged + MODERN[name].select
            history = read_record(weights)["history"]
            found[title(name)] = [100 * entry.get(key, np.nan) for entry in history]
    return found


def probabilities(folder: Path, name: str) -> NDArray[np.float64] | None:
    r"""Read the share of votes for the label, :math:`\hat{p}_y`, of each certified image.

    Images whose selected class was wrong have fewer votes; all that were drawn are counted.
    """
    found = rows(folder, SPLIT, name, "certificates", PROFILE.certified)
    if found is None:
        return None
    labels, images = found.frame["label"].to_numpy(), np.arange(len(found.frame))
    drawn = np.stack([counts(found.frame, f"counts_{n}") for n in PROFILE.ns])
    most = drawn.sum(2).argmax(0)  # the largest number of votes that was drawn
    votes = drawn[most, images]
    share: NDArray[np.float64] = votes[images, labels] / votes.sum(1)
    return share


TABLES = {
    "training": training_table,
    "accuracy": accuracy_table,
    "certified": certified_table,
    "columns": columns_table,
}
"""Every table of Part II, by the name of its file."""


def all_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Make every table of Part II, by the name of its file."""
    return {name: make(folder) for name, make in TABLES.items()}
