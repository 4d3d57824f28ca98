"""Checks of the evaluation itself, on every network of Table 1: made once, then read."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from rvlib import experiments as ex
from rvlib.data import DATASETS
from rvlib.device import arithmetic, provenance
from rvlib.models import read_record
from rvlib.pipeline.run import USUAL, Run
from rvlib.results import atomic_write, plain
from rvlib.sanity_checks import sanity

CHECKED = {"images": 256, "steps": ex.PGD_STEPS, "step_size": ex.LINF_STEP_SIZE}
CHECKED |= {"restarts": 5, "queries": 1000}
"""What ``check`` runs ``sanity`` with, on every network of Table 1."""
COLUMNS = ["defence", "check", "images", "passed", "finding"]


def check(run: Run) -> pd.DataFrame:
    """Run ``sanity`` on every network of Table 1 with the report's PGD, or read what it found.

    Returns
    -------
    DataFrame
        Columns defence, check, images, passed, finding; also written to ``tables/sanity.csv``.
    """
    # Images are transferred from another training of the same recipe, seed 1.
    run.train(*itertools.product(ex.DEFENCES, (0, 1)))
    options = CHECKED | {"images": min(CHECKED["images"], run.profile.certified)}
    identity = _identity(run) | options
    table = _known(run.out, identity)
    if table is None and run.shows_published:
        table = _known(run.published.parent, identity | USUAL)
    if table is not None:
        return table
    lines, x, y = [], *run.images(int(options.pop("images")))
    for defence in ex.DEFENCES:
        how: dict[str, Any] = options | {"transfer_from": run.model(defence, 1), "seed": run.seed}
        for name, passed, found, expected in sanity(run.model(defence), x, y, ex.LINF, **how):
            words = found if passed else f"{found}; expected: {expected}"
            lines.append((defence, name, str(len(x)), "yes" if passed else "no", words))
        run.log(f"{defence}  checked")
    table = pd.DataFrame(lines, columns=COLUMNS)
    content = {"identity": identity, "provenance": provenance(run.device)}
    place = run.out / "tables" / "sanity.csv"
    atomic_write(place, table.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(place.with_suffix(".json"), (json.dumps(plain(content), indent=1) + "\n").encode())
    return table


def _identity(run: Run) -> dict[str, Any]:
    def digests(seed: int) -> dict[str, str]:
        return {name: read_record(run.weights(name, seed))["sha256"] for name in ex.DEFENCES}

    return {
        **{"columns": COLUMNS, "weights": digests(0), "transfer_from": digests(1)},
        **{"data": DATASETS[ex.DATASET].digest, "split": "heldout", "threat": ex.LINF.name},
        **{"device": run.device.type, "arithmetic": arithmetic(run.device), "seed": run.seed},
    }


def _known(folder: Path, identity: dict[str, Any]) -> pd.DataFrame | None:
    """Read the table of an identity; None if it is missing, damaged or another's."""
    record = folder / "tables" / "sanity.json"
    try:
        if json.loads(record.read_text(encoding="utf-8"))["identity"] == plain(identity):
            return pd.read_csv(record.with_suffix(".csv"), dtype=str)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None
