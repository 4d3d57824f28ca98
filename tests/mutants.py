"""Planted faults: each is put into a copy of the repository, where a test must fail.

``python -m tests.mutants`` runs all of ``tests/mutants/*.yaml``, with names only those, or those
of a file (its name without ``.yaml``), and records them in ``report/mutants.json``.  The faults are
such as move a number without a crash: a step without its projection, a bound of the wrong side,
votes that count twice.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

from rvlib.device import provenance

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "mutants"
RECORD = ROOT / "report" / "mutants.json"
AT_ONCE = 2
TIMEOUT = 180
"""Seconds; a mutant whose tests take longer is seen, too: they hang."""


@dataclass(frozen=True)
class Mutant:
    """One fault: a text that stands once in a file, what is put there, and who should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str]

    def change(self, source: str) -> str:
        """Plant the fault in the file's text."""
        if (times := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its text stands {times} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def planted() -> dict[str, tuple[str, Mutant]]:
    """Read every mutant, by its name, and the name of its file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
    files = {p.stem: yaml.load(p.read_text(), loader) for p in sorted(FOLDER.glob("*.yaml"))}
    found = {
        entry["name"]: (stem, Mutant(**entry)) for stem, all_ in files.items() for entry in all_
    }
    if len(found) != sum(map(len, files.values())):
        raise ValueError("two mutants have one name")
    return found


def mutants(names: list[str]) -> list[Mutant]:
    """Choose the mutants of these names or files, all if none is named; look at their texts."""
    found = planted()
    if unknown := {*names} - {*found} - {stem for stem, _ in found.values()}:
        raise ValueError(f"no such mutants: {', '.join(sorted(unknown))}")
    chosen = [m for stem, m in found.values() if not names or m.name in names or stem in names]
    for mutant in chosen:
        mutant.change((ROOT / mutant.file).read_text())
    return chosen


def copy_of(whole: Path, folder: str) -> Path:
    """Copy the repository's files, without environment, history and what was built."""
    ignore = shutil.ignore_patterns(".venv", ".git", "build", ".*_cache", "__pycache__")
    return shutil.copytree(whole, Path(folder) / "copy", ignore=ignore)


def run_tests(copy: Path, tests: list[str], timeout: float = TIMEOUT) -> tuple[int | None, str]:
    """Run tests to the first that fails; exit status (None if they hang) and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    settings = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate(timeout=timeout)
            return child.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # what the tests started, too
            return None, ""


def killer(status: int | None, output: str) -> str | None:
    """Name the test that failed; a file that cannot be imported says nothing about the fault."""
    failed = [line[7:].split(" - ")[0] for line in output.splitlines() if line[:7] == "FAILED "]
    if status is None:
        return "no end in time"
    return failed[0] if status == 1 and failed else None


def examine(mutant: Mutant, whole: Path) -> dict[str, object]:
    """Plant one mutant in a copy of its own and see who notices."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rvlib-mutant-") as folder:
        file = copy_of(whole, folder) / mutant.file
        file.write_text(mutant.change(file.read_text()))
        status, output = run_tests(Path(folder) / "copy", mutant.tests)
    killed_by, seconds = killer(status, output), round(time.monotonic() - started, 1)
    print(f"{mutant.name:45} {seconds:5.1f} s  {killed_by or f'SURVIVED ({status})'}", flush=True)
    found = {key: value for key, value in asdict(mutant).items() if key in ("name", "file")}
    return found | {"killed_by": killed_by, "seconds": seconds}


def record(found: list[dict[str, object]]) -> None:
    """Write what was found beside what was found of the other mutants before."""
    commit = provenance(torch.device("cpu"))["commit"]
    entries = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    entries |= {entry["name"]: entry | {"commit": commit} for entry in found}
    # Names alone: their texts may have been edited since the run began.
    entries = {name: entries[name] for name in sorted({*planted()} & {*entries})}
    RECORD.write_text(json.dumps(entries, indent=1) + "\n")


def main(names: list[str]) -> int:
    """Run the tests without a fault, then the mutants; 0 if a test killed every one of them."""
    chosen = mutants(names)
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="rvlib-whole-") as folder:
        whole = copy_of(ROOT, folder)  # what is edited meanwhile kills nobody
        status, output = run_tests(whole, tests, TIMEOUT * len(tests))
        if status != 0:
            raise ValueError(f"without a mutant the tests fail: {killer(status, output) or output}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda mutant: examine(mutant, whole), chosen))
    killed = sum(entry["killed_by"] is not None for entry in found)
    print(f"{killed} of {len(found)} mutants killed")
    record(found)
    return 0 if killed == len(found) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plant faults; a test must see each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants or files")
    try:
        sys.exit(main(parser.parse_args().names))
    except ValueError as error:
        sys.exit(f"error: {error}")
