"""Faults drawn at random, by the operators of cosmic-ray: how many do the tests notice?

``python -m tests.random_mutants`` draws 200 places of the code, each package's share by its size,
changes each by an operator that fits there, and runs the tests of the package on each.  The seed,
and what was changed and noticed, go to ``report/random-mutants.json``.  Only this needs cosmic-ray:
``.venv/bin/uv pip install cosmic-ray``.
"""

import argparse
import ast
import difflib
import hashlib
import json
import random
import re
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
"""What was found so far: a killed run goes on from there."""
TIMEOUT = 400
"""Seconds; tests that take longer hang, which notices the fault, too."""
SHARED = ["tests/test_public.py", "tests/test_golden.py", "tests/test_cli.py"]
TESTS = {
    "rvlib": ["tests/test_*.py", "tests/smoothing"],
    "rvlib/attacks": ["tests/attacks", "tests/test_evaluation.py", "tests/test_mistakes.py"],
    "rvlib/smoothing": ["tests/smoothing", "tests/test_evaluation.py", "tests/test_pipeline.py"],
    "rvlib/models": ["tests/models", "tests/test_pipeline.py", "tests/test_training.py"],
    "rvlib/report": ["tests/report", "tests/test_notebooks.py"],
    "rvlib/course": ["tests/course", "tests/test_notebooks.py"],
    "rvlib/course/explorers": ["tests/course", "tests/test_notebooks.py"],
    "rvlib/course/exercises": ["tests/course", "tests/test_notebooks.py"],
    "benchmarks": ["tests/test_benchmarks.py"],
}
"""Tests that are run on a fault, by the folder of its file; ``SHARED`` on all but the last."""
SLOW = {"tests/test_mutants.py", "tests/test_packaging.py", "tests/test_gpu.py"}

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
    for folder in TESTS:
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


def examine(fault: tuple[str, str, str], whole: Path) -> dict[str, str | None]:
    """Run the tests of a fault's folder on it."""
    file, operator, changed = fault
    folder = str(Path(file).parent)
    tests = TESTS[folder] + (SHARED if folder != "benchmarks" else [])
    near = f"tests/test_{Path(file).stem}.py"
    with tempfile.TemporaryDirectory(prefix="rvlib-mutant-") as temporary:
        copy = copy_of(whole, temporary)
        source = (copy / file).read_text()
        (copy / file).write_text(changed)
        chosen = [str(p.relative_to(copy)) for pattern in tests for p in sorted(copy.glob(pattern))]
        chosen.sort(key=lambda path: path != near)
        chosen = [path for path in dict.fromkeys(chosen) if path not in SLOW]
        status, output = run_tests(copy, chosen, TIMEOUT)
    killed_by = killer(status, output)
    if killed_by is None and status not in (0, None):
        killed_by = "a file of tests cannot be imported"
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
    change = [line for line in lines if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    print(f"{file:35} {operator[:50]:50} {killed_by or f'SURVIVED {change}'}", flush=True)
    return {"file": file, "operator": operator, "change": "\n".join(change), "killed_by": killed_by}


def main(n: int, seed: int) -> None:
    """Draw faults, run the tests on each, write the record."""
    chosen = list(draw(n, seed))
    done = [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []
    known = {entry.pop("key"): entry for entry in done}
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
