"""The notebooks stay thin, run in every profile, and show what their code gives."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rvlib.course.notebook import PARAMETERS
from rvlib.report.notebooks import check_parameters, execute, profile_parameters, source_digest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST, MEDIAN, LARGEST = 12, 4, 1_000_000  # lines of a cell, lines of most, bytes
ALLOWED = {"rvlib", "torch", "matplotlib", "numpy", "pandas", *sys.stdlib_module_names}
LOG_LINE = re.compile(r"heldout/|n = \d+  \(|epoch \d+/\d+|\d+%\|")


def pytest_generate_tests(metafunc):
    """Test every notebook; the slow test only the quickest, as nbval runs all."""
    slow = any(mark.name == "slow" for mark in metafunc.definition.iter_markers())
    chosen = [path for path in NOTEBOOKS if not slow or path.stem.startswith("07")]
    metafunc.parametrize("path", chosen, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def is_hidden(cell):
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)


def trees(path):
    """Every code cell, parsed: magics such as !pip are no Python and fail here."""
    return [ast.parse(cell.source) for cell in code_cells(path)]


def test_it_begins_with_question_parameters_and_start(path):
    first, parameters, start, *_ = nbformat.read(path, 4).cells
    assert re.match(r"# \d\d · .+\?\n", first.source)
    assert tags(parameters) == ["parameters"]
    assert not is_hidden(parameters)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in trees(path)[0].body}
    assert list(values) == list(PARAMETERS)
    assert values == {"profile": "lesson", "seed": 0, "device": None}
    *imports, last = start.source.splitlines()
    assert last == "run = course.start(profile, seed, device)"
    assert len(imports) <= 8


def test_the_explorer_comes_before_everything_else(path):
    assert re.fullmatch(r"course\.explore_\w+\(run\)", code_cells(path)[2].source)


def test_profiles_fit_the_parameters_and_others_are_refused(path):
    for name in ("smoke", "lesson", "course", "full"):
        parameters = profile_parameters(name, ROOT)
        assert parameters["profile"] == name
        check_parameters(path, parameters)
    with pytest.raises(ValueError, match="no parameter epsilon"):
        check_parameters(path, {"epsilon": 0.1})


def test_cells_are_short(path):
    # Exercises apart: they are for students to fill in.
    lines = {c.source: len(c.source.splitlines()) for c in code_cells(path)}
    mine = {s: n for s, n in lines.items() if "check_" not in s and "say(" not in s}
    assert not {source: n for source, n in mine.items() if n > LONGEST}
    assert statistics.median(mine.values()) <= MEDIAN


def test_it_is_formatted_python_without_a_library_in_it(path):
    for command in (["format", "--check", "--quiet"], ["check", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(path)], check=True)
    nodes = [node for tree in trees(path) for node in ast.walk(tree)]
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    assert len([name for name in functions if not name.startswith("my_")]) <= 1
    assert not [node for node in nodes if isinstance(node, ast.ClassDef | ast.Try | ast.Assert)]
    imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or node.names[0].name for node in imports]
    assert {name.partition(".")[0] for name in names} <= ALLOWED


def test_prose_with_numbers_is_hidden(path):
    for cell in code_cells(path):
        assert is_hidden(cell) == (tags(cell) == ["hide-input"])  # JupyterLab, exported pages
        assert is_hidden(cell) or 'say(f"""' not in cell.source


def test_no_measured_percentage_is_typed(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    assert not re.findall(r"\d+\.\d+ ?%", text)


def test_outputs_are_of_this_code_and_can_be_read_anywhere(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.rvlib.source == source_digest(notebook)
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size <= LARGEST
    assert_quiet(notebook)


def assert_quiet(notebook):
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        assert output.output_type in ("display_data", "execute_result")  # nothing printed
        assert not LOG_LINE.search(output.data.get("text/plain", "") + str(output.metadata))


@pytest.mark.slow
def test_it_runs_in_the_smallest_profile_and_keeps_its_tags(path, tmp_path, monkeypatch):
    monkeypatch.setenv("RVLIB_BUILD", str(tmp_path))
    found = nbformat.read(execute(path, tmp_path / path.name, profile_parameters("smoke", ROOT)), 4)
    assert_quiet(found)
    kept = [cell for cell in found.cells if "injected-parameters" not in tags(cell)]
    cells = nbformat.read(path, 4).cells
    assert [(tags(c), is_hidden(c)) for c in kept] == [(tags(c), is_hidden(c)) for c in cells]
