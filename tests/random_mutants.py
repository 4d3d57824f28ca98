"""Faults drawn at random, by the operators of cosmic-ray: how many do the tests notice?

``python -m tests.random_mutants`` draws 200 places of the code, each package's share by its size,
changes each by an operator that fits there, and runs the tests that pass through the changed line,
as coverage has seen them.  What only a child process runs, as a notebook's kernel, counts as not
tested.  The seed, and what was changed and noticed, go to ``report/random-mutants.json``.  Only
this needs cosmic-ray and pytest-cov: ``.venv/bin/uv pip install cosmic-ray pytest-cov``.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from rvlib.device import provenance
from tests.mutants import AT_ONCE, ROOT, copy_of, killer, run_tests

RECORD = ROOT / "report" / "random-mutants.json"
DONE = ROOT / "build" / "random-mutants.jsonl"
"""What was killed so far: the next run goes on from there.  Delete both files to begin anew."""
COVERAGE = ROOT / "build" / "random-mutants.coverage"
TIMEOUT = 600
"""Seconds; tests that take longer hang, which notices the fault, too."""
FOLDERS = [
    *("benchmarks", "rvlib", "rvlib/attacks", "rvlib/course", "rvlib/course/exercises"),
    *("rvlib/course/explorers", "rvlib/models", "rvlib/pipeline", "rvlib/report"),
    "rvlib/smoothing",
]
LEFT_OUT = ["browser", "test_gpu.py", "test_mutants.py", "test_notebooks.py", "test_packaging.py"]
"""Tests that run code in other processes, or faults of their own."""

Place = tuple[str, int, int]
"""File, line and column."""


def draw(n: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield file, operator and changed source of `n` faults."""
    from cosmic_ray.plugins import get_operator

    random.seed(seed)
    places = positions()
    folders = defaultdict(list)
    for place in sorted(places):
        folders[str(Path(place[0]).parent)].append(place)
    sizes = {folder: len(found) for folder, found in folders.items()}
    for folder, found in sorted(folders.items()):
        random.shuffle(found)
        wanted = max(1, round(n * sizes[folder] / sum(sizes.values())))
        for place in found:
            if not wanted:
                break
            name, occurrence = random.choice(places[place])
            changed = mutated(place[0], get_operator(name)(), occurrence)
            if changed is not None:
                wanted -= 1
                yield place[0], name, changed


def positions() -> dict[Place, list[tuple[str, int]]]:
    """List operators and occurrences by the place that they change."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            file, tree = str(path.relative_to(ROOT)), get_ast(path.read_text())
            for name in operator_names():
                if not (operator := get_operator(name)).arguments():
                    at = (
                        p for node in ast_nodes(tree) for p in operator().mutation_positions(node)
                    )
                    for occurrence, (start, _) in enumerate(at):
                        found[file, *start].append((name, occurrence))
    return found


def mutated(file: str, operator: object, occurrence: int) -> str | None:
    """Source of a file with one change, None if only types or texts for people change."""
    from cosmic_ray.mutating import mutate_code

    source = (ROOT / file).read_text()
    changed = mutate_code(source, operator, occurrence)
    try:
        return changed if changed and meaning(changed) != meaning(source) else None
    except SyntaxError:
        return None


def meaning(source: str) -> str:
    """Dump the syntax tree without annotations, docstrings and bare names of types."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("annotation")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        if isinstance(node, ast.Assign) and re.match("[A-Z][a-z]+ = ", ast.unparse(node)):
            node.value = ast.Constant(None)  # an alias of a type
    return ast.dump(tree)


def cover(whole: Path) -> None:
    """Run the tests once without a fault, and keep which of them passes through which line."""
    path = f"{whole}:{os.environ.get('PYTHONPATH', '')}"
    settings = {"PYTHONPATH": path, "COVERAGE_FILE": str(COVERAGE)}
    options = ["-q", "-n", str(AT_ONCE), "--dist", "loadfile", "-p", "no:cacheprovider"]
    options += ["--cov=rvlib", "--cov=benchmarks", "--cov-report=", "--cov-context=test"]
    options += [f"--ignore=tests/{name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", *options]
    subprocess.run(command, cwd=whole, env=os.environ | settings, check=True)


def tests_of(file: str, lines: set[int]) -> list[str]:
    """Tests that pass through these lines.

    Of lines that run at the import, those that pass through any of the file, and those that mirror
    its package.
    """
    from coverage import CoverageData

    data = CoverageData(str(COVERAGE))
    data.read()
    (measured,) = (name for name in data.measured_files() if name.endswith(f"/copy/{file}"))
    by_line = data.contexts_by_lineno(measured)
    found = {context for line in lines for context in by_line.get(line, []) if context}
    tests = {"tests/test_public.py"}  # looks at every signature, and runs none of the lines
    if not found:
        found = {context for every in by_line.values() for context in every if context}
        mirror = ROOT / "tests" / Path(file).parts[1]
        tests |= {str(path.relative_to(ROOT)) for path in mirror.glob("test_*.py")}
    for context in found:
        test, phase = context.rsplit("|", 1)
        name = test.split("::")[0]
        # What a fixture runs, or keeps for a whole file, is seen by other tests of the file, too.
        shared = phase == "setup" or 'scope="module"' in (ROOT / name).read_text()
        tests.add(name if shared else test)
    tests = {test for test in tests if "::" not in test or test.split("::")[0] not in tests}
    # Doctests last: their import of a module hides the function of the same name.
    near = Path(file).stem
    return sorted(
        tests, key=lambda test: (test[:6] != "tests/", near not in test.split("::")[0], test)
    )


def examine(fault: tuple[str, str, str], whole: Path) -> dict[str, str | None]:
    """Run the tests of the changed line on a fault."""
    file, operator, changed = fault
    with tempfile.TemporaryDirectory(prefix="rvlib-mutant-") as temporary:
        copy = copy_of(whole, temporary)
        source = (copy / file).read_text()
        (copy / file).write_text(changed)
        matcher = difflib.SequenceMatcher(None, source.splitlines(), changed.splitlines(), False)
        blocks = [block for block in matcher.get_opcodes() if block[0] != "equal"]
        lines = {line for _, first, last, *_ in blocks for line in range(first + 1, last + 1)}
        tests = tests_of(file, lines)
        status, output = run_tests(copy, tests, TIMEOUT)
    killed_by = killer(status, output)
    if killed_by is None and status not in (0, None):
        killed_by = "an error before the first test"
    text = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
    change = [line for line in text if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    print(f"{file:35} {operator[:50]:50} {killed_by or f'SURVIVED {change}'}", flush=True)
    return {"file": file, "operator": operator, "change": "\n".join(change), "killed_by": killed_by}


def main(n: int, seed: int) -> None:
    """Draw faults, run the tests on each, write the record."""
    chosen = list(draw(n, seed))
    done = [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []
    known = {entry.pop("key"): entry for entry in done if entry["killed_by"]}
    DONE.parent.mkdir(exist_ok=True)

    def found_or(fault: tuple[str, str, str], whole: Path) -> dict[str, str | None]:
        key = hashlib.sha256("".join(fault).encode()).hexdigest()
        if key not in known:
            known[key] = examine(fault, whole)
            with DONE.open("a") as file:
                file.write(json.dumps(known[key] | {"key": key}) + "\n")
        return known[key]

    with tempfile.TemporaryDirectory(prefix="rvlib-whole-") as folder:
        whole = copy_of(ROOT, folder)  # what is edited meanwhile changes nothing
        if not COVERAGE.exists():
            cover(whole)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda fault: found_or(fault, whole), chosen))
    killed = sum(entry["killed_by"] is not None for entry in found)
    print(f"{killed} of {len(found)} killed")
    by_file = sorted(found, key=lambda entry: (str(entry["file"]), str(entry["change"])))
    about = {"provenance": provenance(torch.device("cpu")), "seed": seed, "killed": killed}
    RECORD.write_text(json.dumps(about | {"mutants": by_file}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.n, arguments.seed)
