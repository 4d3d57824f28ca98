"""How large is the project?  ``python -m benchmarks.size``: lines of code, functions, hops.

A line of code is one that is neither blank nor comment nor docstring.
"""

import ast
import collections
import cProfile
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "rvlib"


@functools.cache
def code_lines(text: str) -> set[int]:
    """Find the lines of code of a file, by number."""
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    found = {i for i, line in lines if line and line[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            found -= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return found


def sources(*folders: str) -> list[Path]:
    """Python files of the repository's folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def longest_functions(files: list[Path], count: int = 10) -> list[tuple[int, str]]:
    """Functions with the most lines of code, the longest first."""
    found = []
    for file in files:
        text = file.read_text()
        lines = code_lines(text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = lines.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
                found.append((len(inside), f"{file.relative_to(ROOT)}: {node.name}"))
    return sorted(found, reverse=True)[:count]


def functions_in_pgd() -> set[str]:
    """Functions of rvlib that a second call of ``pgd`` runs through."""
    import torch

    from rvlib import Linf, pgd

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x, y, ball = torch.rand(4, 3, 2, 2), torch.arange(4) % 3, Linf(8 / 255)
    pgd(model, x, y, ball)
    profile = cProfile.Profile()
    profile.runcall(pgd, model, x, y, ball)
    codes = [entry.code for entry in profile.getstats() if not isinstance(entry.code, str)]
    own = [code for code in codes if Path(code.co_filename).is_relative_to(LIBRARY)]
    return {f"{Path(c.co_filename).name}:{c.co_name}" for c in own if c.co_name[0] != "<"}


def main() -> None:
    """Print the table."""
    sizes: dict[str, int] = collections.Counter()
    for file in sources("benchmarks", "rvlib", "tests"):
        parts = file.relative_to(ROOT).parts
        folder = "/".join(parts[:2]) if parts[0] == "rvlib" and len(parts) > 2 else parts[0]
        sizes[folder if folder != "rvlib" else "rvlib/*.py"] += len(code_lines(file.read_text()))
    for folder, lines in sorted(sizes.items()):
        print(f"{folder:24} {lines:6,}")
    library = sum(lines for folder, lines in sizes.items() if folder.startswith("rvlib"))
    print(f"{'rvlib in all':24} {library:6,}, with benchmarks {library + sizes['benchmarks']:,}")
    tests = sum(len(file.read_text().splitlines()) for file in sources("tests"))
    print(f"{'tests, all lines':24} {tests:6,}")
    print("\nlongest functions, lines of code")
    for lines, name in longest_functions(sources("rvlib", "benchmarks")):
        print(f"{lines:4}  {name}")
    seen = functions_in_pgd()
    print(f"\n{len(seen)} functions in a warm call of pgd: {', '.join(sorted(seen))}")


if __name__ == "__main__":
    main()
