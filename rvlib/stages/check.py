"""Check every network's evaluation, and write what was found beside Table 1."""

import csv
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

from rvlib.data import CIFAR10_DIGEST
from rvlib.device import arithmetic, provenance
from rvlib.evaluation import Check, sanity
from rvlib.files import write_whole
from rvlib.models.weights import read_record
from rvlib.profiles import DEFENCES
from rvlib.recipes import LINF, LINF_STEP_SIZE, PGD_STEPS
from rvlib.stages.run import Run
from rvlib.stages.train import weights_path

IMAGES = 256
"""Of the report's images, how many are checked; fewer in a profile that measures fewer."""

RESTARTS = 5
QUERIES = 200

COLUMNS = ("defence", "check", "images", "passed", "finding")

SURROGATE = "pgd-linf-at"
"""Whose attacked images a network is shown that has no sister of another training seed."""


def check(run: Run) -> Path:
    """Run ``sanity`` for every network of Table 1 with the report's PGD, or find it done.

    Parameters
    ----------
    run : Run
        The run; weights that it trains are trained first.

    Returns
    -------
    Path
        ``tables/sanity.csv``: one line a defence and check, columns ``COLUMNS``.  Beside it
        ``sanity.md``, and ``sanity.json`` with what identifies the table (weights, images, seed,
        attack) and where it was made; where that is the same nothing is computed again.  A check
        that fails says in its finding what was expected.
    """
    run.train(*DEFENCES, SURROGATE)
    path = run.out / "tables" / "sanity.csv"
    count = min(IMAGES, run.profile.heldout)
    identity = _identity(run, count)
    if _found(path, identity):
        return path
    table = []
    for defence in DEFENCES:
        started = time.monotonic()
        checks = _checked(run, defence, count)
        failed = [found.name for found in checks if not found.passed]
        result = f"fails {', '.join(failed)}" if failed else f"passes {len(checks)} checks"
        run.log(f"{defence}  {result}  n = {count}  ({time.monotonic() - started:.1f} s)")
        table += [_row(defence, found, count) for found in checks]
    _write(path, table, {"identity": identity, "provenance": provenance(run.place.device)})
    return path


def surrogate(run: Run, defence: str) -> tuple[str, int]:
    """Choose the network whose attacked images another one is shown: its nearest relative.

    Parameters
    ----------
    run : Run
        The run.
    defence : str
        The network that is checked.

    Returns
    -------
    tuple of str and int
        Name and training seed: seed 1 of the same model where there is one, else ``SURROGATE``.
    """
    return (defence, 1) if len(run.seeds(defence)) > 1 else (SURROGATE, 0)


def _checked(run: Run, defence: str, count: int) -> list[Check]:
    x, y = run.images(count)
    return sanity(
        run.model(defence),
        x,
        y,
        LINF,
        steps=PGD_STEPS,
        step_size=LINF_STEP_SIZE,
        restarts=RESTARTS,
        queries=QUERIES,
        transfer_from=run.model(*surrogate(run, defence)),
        seed=run.place.seed,
    )


def _identity(run: Run, count: int) -> dict[str, Any]:
    """Collect everything that the table depends on, but for the code."""

    def digest(name: str, seed: int) -> str:
        return read_record(weights_path(run.place.models, name, seed))["sha256"]

    return {
        "columns": list(COLUMNS),
        "weights": {name: digest(name, 0) for name in DEFENCES},
        "transfer_from": {name: digest(*surrogate(run, name)) for name in DEFENCES},
        "data": CIFAR10_DIGEST,
        "device": run.place.device.type,
        "arithmetic": arithmetic(run.place.device),
        "split": "heldout",
        "images": count,
        "seed": run.place.seed,
        "threat": LINF.name,
        "steps": PGD_STEPS,
        "step_size": LINF_STEP_SIZE,
        "restarts": RESTARTS,
        "queries": QUERIES,
    }


def _found(path: Path, identity: dict[str, Any]) -> bool:
    """Say whether the table is there, whole, and of this identity."""
    try:
        head = json.loads(path.with_suffix(".json").read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole = head["sha256"] == digest and path.with_suffix(".md").exists()
        return whole and head["identity"] == identity
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _row(defence: str, found: Check, count: int) -> dict[str, str]:
    finding = found.finding if found.passed else f"{found.finding}; expected: {found.expectation}"
    values = (defence, found.name, str(count), "yes" if found.passed else "no", finding)
    return dict(zip(COLUMNS, values, strict=True))


def _write(path: Path, table: list[dict[str, str]], head: dict[str, Any]) -> None:
    """Write table and Markdown, and last the record without which they count as not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    content = text.getvalue().encode()
    lines = [COLUMNS, *(tuple(row.values()) for row in table)]
    shown = [f"| {' | '.join(line)} |\n" for line in lines]
    markdown = "".join([shown[0], "|---" * len(COLUMNS) + "|\n", *shown[1:]])
    head = head | {"sha256": hashlib.sha256(content).hexdigest()}
    write_whole(path, content)
    write_whole(path.with_suffix(".md"), markdown.encode())
    write_whole(path.with_suffix(".json"), (json.dumps(head, indent=1) + "\n").encode())
