"""The notebooks stay thin, and what they show is not older than their code; nothing is run here."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rvlib.course.notebook import PARAMETERS
from rvlib.report.runner import source_digest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LONGEST, MEDIAN, LARGEST = 12, 4, 1_000_000  # lines of a cell, lines of most, bytes
ALLOWED = {"rvlib", "torch", "matplotlib", "pandas", *sys.stdlib_module_names}
PERCENTAGE = re.compile(r"\d+\.\d+ ?%")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, 4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def trees(path):
    """Every code cell, parsed: magics such as !pip are no Python and fail here."""
    return [ast.parse(cell.source) for cell in code_cells(path)]


def is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def test_one_parameters_cell_of_literals(path):
    (cell,) = [cell for cell in read(path).cells if is_parameters(cell)]
    assignments = ast.parse(cell.source).body
    names = []
    for node in assignments:
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)
        names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    assert names == list(PARAMETERS)
    assert is_parameters(code_cells(path)[0])


def test_it_is_formatted(path):
    command = [sys.executable, "-m", "ruff", "format", "--check", "--quiet", str(path)]
    assert subprocess.run(command, check=False).returncode == 0


def test_code_cells_are_short(path):
    lines = {cell.source: len(cell.source.splitlines()) for cell in code_cells(path)}
    too_long = {source: count for source, count in lines.items() if count > LONGEST}
    assert not too_long


def test_most_code_cells_are_very_short(path):
    # Exercises apart: they are for students to fill in.
    cells = [cell.source for cell in code_cells(path) if "\ncheck_" not in cell.source]
    assert statistics.median(len(source.splitlines()) for source in cells) <= MEDIAN


def test_no_library_within_the_notebook(path):
    nodes = [node for tree in trees(path) for node in ast.walk(tree)]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    # Those named my_... are the exercises, for students to fill in.
    assert len([f for f in functions if not f.name.startswith("my_")]) <= 1
    assert not [node for node in nodes if isinstance(node, ast.ClassDef | ast.Try | ast.TryStar)]


def test_no_installation_and_no_paths(path):
    for cell in code_cells(path):
        assert not re.search(r"^\s*[!%]|sys\.path|get_ipython", cell.source, flags=re.MULTILINE)


def is_import(node):
    return isinstance(node, ast.Import | ast.ImportFrom)


def is_source(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "source"
    )


def test_imports_are_in_the_first_cell(path):
    _, first, *later = trees(path)
    kinds = [is_import(node) for node in first.body]
    assert kinds[0]
    assert kinds == sorted(kinds, reverse=True)  # imports, then the start
    for tree in later:
        if any(is_import(node) for node in ast.walk(tree)):
            # The exception: one import right before the source it shows.
            assert [is_import(node) for node in tree.body] == [True, False]
            assert is_source(tree.body[1])


def test_only_the_library_torch_and_the_standard_library_are_imported(path):
    for tree in trees(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    modules = [str(node.module)]
                assert {name.partition(".")[0] for name in modules} <= ALLOWED


def test_it_starts_and_finishes_under_its_own_name(path):
    second, last = code_cells(path)[1], read(path).cells[-1]
    assert second.source.splitlines()[-1] == "run = start(profile, seed, device)"
    assert (last.cell_type, last.source) == ("code", f'finish(run, "{path.stem}")')


def typed(tree):
    """Literal texts of a syntax tree; of an f-string what stands outside the braces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = node.values
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_measured_number_is_typed_in_code(path):
    texts = [text for tree in trees(path) for text in typed(tree)]
    assert not [text for text in texts if PERCENTAGE.search(text)]


def test_typed_percentages_in_the_text_are_the_reports(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for paragraph in re.split(r"\n\s*\n", cell.source):
                assert "report" in paragraph or not PERCENTAGE.search(paragraph), paragraph


def test_it_can_be_read_on_a_code_host(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert not [cell for cell in notebook.cells if "widgets" in cell.metadata]
    assert path.stat().st_size <= LARGEST


def test_outputs_are_not_older_than_the_code(path):
    notebook = read(path)
    if "rvlib" in notebook.metadata:
        assert notebook.metadata.rvlib.source == source_digest(notebook)
    else:
        assert not [cell for cell in code_cells(path) if cell.outputs]
