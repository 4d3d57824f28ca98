"""Whether the rows of a run belong together: to these weights, these data, this noise and seed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rvlib.data import CIFAR10_DIGEST
from rvlib.models.weights import WeightsError, read_record
from rvlib.recipes import find_recipe, gaussian_name
from rvlib.report.digests import check_sums
from rvlib.rows import RowsError, read_rows, rows_path
from rvlib.stages.measurements import NOISE, measurements
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
        If the head of a rows file names other weights, data, images or noise, or another seed; or
        if shipped rows are not those that were shipped.
    WeightsError
        If weights in place were made by another recipe than the library's.
    """
    check_sums(run.place.rows)
    digests: dict[tuple[str, int], str | None] = {}
    for measured in sorted(measurements(run)):
        split, defence, seed, what = measured
        path = rows_path(run.place.rows, split, defence, seed, what)
        if not path.exists():
            continue
        sigma = NOISE.get(defence)
        model = defence if sigma is None else gaussian_name(sigma)
        if (model, seed) not in digests:
            digests[model, seed] = _digest_in_place(run, model, seed)
        wanted = {
            "weights": digests[model, seed],
            "model": model,
            "training_seed": seed,
            "sigma": sigma,
            "data": CIFAR10_DIGEST,
            "split": split,
            "seed": run.place.seed,
        }
        _compare(path, read_rows(path).head.get("identity", {}), wanted)


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
        run goes on after a correction elsewhere, but the report says so.
    """
    paths = {rows_path(run.place.rows, *measured) for measured in measurements(run)}
    heads = [read_rows(path).head for path in sorted(paths) if path.exists()]
    return dict(
        Counter(head["provenance"].get("commit", "unknown") for head in heads).most_common()
    )


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
    return str(value)[:12]
