"""Kill a run many times at random moments: is every file readable, is the end that of no kill?

``make soak`` runs it with 200 kills and writes ``report/soak.json``.
"""

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image

from rvlib.device import provenance
from rvlib.files import write_whole
from rvlib.models import load_weights
from rvlib.models.weights import fill, unpack
from rvlib.recipes import find_recipe
from rvlib.report.tables import read_csv
from rvlib.rows import read_rows
from tests.resume.worker import PHASES, End, Runner, make_tiny

CHANGING = {"date", "seconds", "commit", "memory"}
"""When, how fast, in how much free memory.  The commit may change under a running test."""
KILLS_A_ROUND = 30


# --- reading whatever lies there -----------------------------------------------------------------


def unreadable(root: Path) -> list[str]:
    """Read every file with the library's own reader of its kind; name those that cannot be."""
    found = []
    for path in files(root):
        try:
            read(path)
        except Exception as error:
            found.append(f"{path.relative_to(root)}: {type(error).__name__}: {error}")
    return found


def files(root: Path) -> list[Path]:
    """List what is no hidden temporary file or lock."""
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))


def hidden(root: Path) -> list[Path]:
    """List temporary files and locks."""
    return sorted(p for p in root.rglob(".*") if p.is_file())


def read(path: Path) -> None:
    content = path.read_bytes()
    if path.suffix == ".csv":
        assert read_rows(path).head["identity"] if "rows" in path.parts else read_csv(path)
    elif path.suffix == ".safetensors":
        recipe = find_recipe(path.parent.name)
        if path.with_suffix(".json").exists():  # without a record they do not count as there
            load_weights(recipe.build(0), path, recipe.record())
    elif path.suffix == ".checkpoint":
        read_checkpoint(path)
    elif path.suffix == ".json":
        assert json.loads(content)
    elif path.suffix == ".svg":
        ElementTree.fromstring(content)
    elif path.suffix == ".png":
        Image.open(io.BytesIO(content)).verify()
    elif path.suffix == ".pdf":
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
    elif path.suffix == ".html":
        assert content.rstrip().endswith(b"</html>")
    else:
        assert path.suffix == ".md", "a file of no known kind"
        assert content.endswith(b"\n")


def read_checkpoint(path: Path) -> None:
    """Read it as a training does; its weights fit the network of its recipe."""
    name, seed = path.parent.name, int(path.stem.removeprefix("seed-"))
    saved = unpack(path.read_bytes())
    assert saved["history"]
    fill(find_recipe(name).build(seed), saved["model"])


# --- comparing -----------------------------------------------------------------------------------


def contents(root: Path) -> dict[str, Any]:
    """Read all files by name: bytes, and of records everything but what changes from run to run."""
    return {str(path.relative_to(root)): content(path) for path in files(root)}


def content(path: Path) -> Any:
    if path.suffix == ".json":
        return without_dates(json.loads(path.read_text()))
    if path.suffix == ".csv" and "rows" in path.parts:
        head, _, rows = path.read_bytes().partition(b"\n")
        return without_dates(json.loads(head.removeprefix(b"# "))), rows
    return path.read_bytes()


def without_dates(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_dates(v) for key, v in value.items() if key not in CHANGING}
    return value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the files that are not the same in both."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


# --- killing -------------------------------------------------------------------------------------


def soak(kills: int, work: Path, seed: int = 0) -> dict[str, Any]:
    """Kill runs until so many kills have hit one alive.

    Half of the kills come after a random time, half just before a random file operation: a
    rename, a truncation, a removal, an opening to write.  Each round starts with an empty folder
    and ends when the run comes to its end by itself.  Phases that no kill has hit by then are hit
    on purpose, each in a round of its own.

    Parameters
    ----------
    kills : int
        How many kills at least.
    work : Path
        An empty folder.
    seed : int
        Of the moments.

    Returns
    -------
    dict
        Kills, where they hit, files read between them, and all that was wrong.
    """
    moments, runner = random.Random(seed), Runner()
    unbroken = runner.run(work / "unbroken")
    assert unbroken.status == 0, "the unbroken run failed"
    expected = contents(work / "unbroken")
    phases: Counter[str] = Counter()
    hit = {"time": 0, "file operation": 0}
    wrong, read, rounds = [], 0, 0
    a_round = min(1.5 * kills, KILLS_A_ROUND)  # 1.5: one round for few
    while sum(hit.values()) < kills or not all(phases[phase] for phase in PHASES):
        root = work / "killed"
        rounds += 1
        aimed = None
        if sum(hit.values()) >= kills:
            aimed = _moment_in(next(p for p in PHASES if not phases[p]), unbroken, moments)
        # A kill loses what is not yet on disk: a little more than the mean share of an unbroken
        # run; less where a round was over too soon.
        spread = 2.0 / a_round * moments.uniform(0.6, 1.2)
        for turn in range(100_000):
            # The report is written in one go: given ever longer, it comes to its end.
            share = moments.uniform(0, spread * 1.1 ** max(0, turn - a_round))
            if aimed is not None:
                end = runner.run(root, event=aimed if turn == 0 else None)
            elif turn % 2:
                end = runner.run(root, seconds=share * unbroken.seconds)
            else:
                end = runner.run(root, event=1 + int(share * unbroken.events))
            if end.status == 0:
                break
            if end.status != -9:
                wrong.append(f"ended with {end.status} in {end.phase}")
                break
            phases[end.phase] += 1
            hit["time" if turn % 2 else "file operation"] += 1
            read += len(files(root))
            wrong += unreadable(root)
        wrong += [
            f"{name} differs from the unbroken run"
            for name in differences(contents(root), expected)
        ]
        wrong += [f"{path.name} was left over" for path in hidden(root)]
        shutil.rmtree(root, ignore_errors=True)
    return {
        "kills": sum(hit.values()),
        "by": hit,
        "phases": {phase: phases[phase] for phase in ("start", *PHASES)},
        "rounds": rounds,
        "files_of_a_run": len(expected),
        "files_read_after_kills": read,
        "unbroken_seconds": round(unbroken.seconds, 1),
        "file_operations_of_a_run": unbroken.events,
        "wrong": wrong,
        "result": "as an unbroken run" if not wrong else "NOT as an unbroken run",
    }


def _moment_in(phase: str, unbroken: End, moments: random.Random) -> int:
    """Choose a file operation of a phase of an unbroken run."""
    later = [count for count in unbroken.begun.values() if count > unbroken.begun[phase]]
    return moments.randint(unbroken.begun[phase] + 1, min(later, default=unbroken.events))


def main() -> int:
    """Soak; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="where the record goes")
    words = parser.parse_args()
    make_tiny()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(words.kills, Path(folder), words.seed)
    result["seconds"] = round(time.monotonic() - started, 1)
    result |= provenance(torch.device("cpu"))
    if words.out:
        write_whole(words.out, (json.dumps(result, indent=2) + "\n").encode())
    where = ", ".join(f"{phase} {count}" for phase, count in result["phases"].items())
    print(f"{result['kills']} kills ({where}) in {result['seconds']} s: {result['result']}")
    for line in result["wrong"][:20]:
        print(f"  {line}", file=sys.stderr)
    return bool(result["wrong"])


if __name__ == "__main__":
    sys.exit(main())
