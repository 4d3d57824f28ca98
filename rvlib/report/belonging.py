"""Whether the rows of a run belong together: to these weights, data, attacks, noise and seed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rvlib.data import CIFAR10_DIGEST
from rvlib.evaluation import votes
from rvlib.models.weights import WeightsError, read_record
from rvlib.recipes import find_recipe, gaussian_name
from rvlib.report.digests import check_sums
from rvlib.rows import Rows, RowsError, read_rows, rows_path
from rvlib.stages.measurements import NOISE, identity, measurements
from rvlib.stages.run import Run
from rvlib.stages.train import weights_path


def check_belonging(run: Run) -> None:
    """Refuse rows that the tables of a run would mix although they are of another run.

    Stages compare this before they go on with a file; here it holds for files, too, that were put
    into the folder by hand, and for weights that were replaced after the rows were measured.

    Parameters
    ----------
    run : Run
        Rows that are missing are left out: the tables refuse them.

    Raises
    ------
    RowsError
        If the head of a rows file names other weights, data, images, attack, noise or numbers of
        votes, or another seed; if some were computed otherwise than the others; if votes are not as
        many as the head says, or two files do not agree on a label; or if shipped rows are not
        those that were shipped.
    WeightsError
        If weights in place were made by another recipe than the library's.
    """
    check_sums(run.place.rows)
    digests: dict[tuple[str, int], str | None] = {}
    computed: dict[str, Any] = {}
    labels: dict[str, list[str]] = {}
    for measured in sorted(measurements(run)):
        split, defence, seed, _ = measured
        path = rows_path(run.place.rows, *measured)
        if not path.exists():
            continue
        model = gaussian_name(NOISE[defence]) if defence in NOISE else defence
        if (model, seed) not in digests:
            digests[model, seed] = _digest_in_place(run, model, seed)
        rows = read_rows(path)
        found = rows.head["identity"]
        wanted = {
            "weights": digests[model, seed],
            "data": CIFAR10_DIGEST,
            "split": split,
            "seed": run.place.seed,
            **identity(run.profile, measured),
        }
        _compare(path, found, wanted)
        # One function and one kind of noise for all: those of the first file.
        function = _function(found)
        computed = computed or function
        _compare(path, function, computed)
        _check_votes(path, rows)
        _check_labels(path, rows, labels.setdefault(split, []))


def rows_function(run: Run) -> dict[str, Any]:
    """Say what the rows of a run were computed in and put through a network together.

    Parameters
    ----------
    run : Run
        The run; its rows belong together (``check_belonging``).

    Returns
    -------
    dict
        ``arithmetic`` and kind of ``device``, of all; ``attacked`` and ``voted``, images a unit.
    """
    units: dict[str, int] = {}
    function: dict[str, Any] = {}
    for measured in measurements(run):
        path = rows_path(run.place.rows, *measured)
        if path.exists():
            found = read_rows(path, 0).head["identity"]
            function = _function(found)
            units["voted" if measured.defence in NOISE else "attacked"] = found.get("unit", 0)
    return function | units


def _function(identity: dict[str, Any]) -> dict[str, Any]:
    """Say which function of the weights rows are of; they tell only what is not usual."""
    return {
        "arithmetic": identity.get("arithmetic", "float32"),
        "device": identity.get("device", "cpu"),
    }


def row_commits(run: Run) -> dict[str, int]:
    """Count, by the commit of the code that measured them, the rows files of a run's tables.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    dict of str to int
        Number of files by commit, most files first: more than one commit is no error, as a long
        run goes on after a correction elsewhere, but the report says so.  A file that several
        commits have worked on counts for each.
    """
    paths = {rows_path(run.place.rows, *measured) for measured in measurements(run)}
    heads = [read_rows(path).head for path in sorted(paths) if path.exists()]
    commits = [
        {told.get("commit", "unknown") for told in [head["provenance"], *head.get("further", [])]}
        for head in heads
    ]
    return dict(Counter(commit for found in commits for commit in sorted(found)).most_common())


def _digest_in_place(run: Run, model: str, seed: int) -> str | None:
    """Digest of the weights in place; None where there are none to compare with."""
    path = weights_path(run.place.models, model, seed)
    if not path.with_suffix(".json").exists():
        return None
    record = read_record(path)
    if record["recipe"] != json.loads(json.dumps(find_recipe(model).record())):
        raise WeightsError(
            f"{path} was made by another recipe than {model}'s: restore it from git or train again"
        )
    return str(record["sha256"])


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a head that says something else, or nothing.  None is not known: not compared."""
    for key, value in wanted.items():
        said = found.get(key)
        if value is not None and said != value:
            raise RowsError(
                f"{path} is of {key} {_short(said)}, not {_short(value)} as this run: "
                "move it away and measure again"
            )


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)


def _check_votes(path: Path, rows: Rows) -> None:
    """Refuse votes that are not as many as the head says; an image may have been left out."""
    found = rows.head["identity"]
    columns = {f"counts_{n}": n for n in found.get("ns", [])}
    columns |= {"counts": found.get("n"), "selection": found.get("n0")}
    for column in columns.keys() & set(rows.rows[0] if rows.rows else ()):
        sums = votes(rows, column).sum(1)
        wrong = np.flatnonzero((sums != columns[column]) & (sums != 0))
        if len(wrong):
            raise RowsError(
                f"{path} has {sums[wrong[0]]} votes of image {wrong[0]} in {column!r}, not "
                f"{columns[column]}: move it away and measure again"
            )


def _check_labels(path: Path, rows: Rows, known: list[str]) -> None:
    """Refuse labels that other files of the split do not have; learn what they did not say."""
    labels = [row["label"] for row in rows.rows]
    for i, (label, other) in enumerate(zip(labels, known, strict=False)):
        if label != other:
            raise RowsError(
                f"{path} says that image {i} is of class {label}, other rows say {other}: restore "
                "the rows, or measure them again"
            )
    known += labels[len(known) :]
