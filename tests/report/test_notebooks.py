"""rvlib.report.notebooks: what runs, what stops a run, and what is written back."""

import os
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rvlib.pipeline import Run
from rvlib.report import notebooks as nb

PARAMETERS = 'profile = "lesson"\nseed = 0\ndevice = None'
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write_notebook(root, name, *sources, parameters=PARAMETERS):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout of a profile and two notebooks."""
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    (tmp_path / "report" / "profiles").mkdir(parents=True)
    (tmp_path / "report" / "profiles" / "smoke.yaml").write_text("{profile: smoke, seed: 5}")
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path, name, "1 + 1")
    (tmp_path / "notebooks" / "draft.ipynb").write_text("not numbered, not run")
    return tmp_path


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(root, lines):
    return replace(Run.open("smoke", "cpu"), log=lines.append, seed=3)


@pytest.fixture
def fake(monkeypatch):
    """Papermill without kernels; `fake` is the list of what it was given."""
    given: list[tuple[str, dict[str, object]]] = []

    def execute_notebook(source, target, parameters, **options):
        given.append((Path(source).name, parameters))
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    return given


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- with real kernels ---------------------------------------------------------------------------

SHOW = """
import os
print(profile, seed, os.environ["RVLIB_STATIC"], os.environ["RVLIB_DETERMINISTIC"])
"""


def test_parameters_reach_the_notebook_and_explorers_are_static(root, monkeypatch):
    monkeypatch.delenv("RVLIB_STATIC", raising=False)
    monkeypatch.setenv("RVLIB_DETERMINISTIC", "1")  # by choose_algorithms
    path = write_notebook(root, "01_first", SHOW)
    target = nb.execute(path, root / "out" / path.name, {"profile": "smoke", "seed": 3})
    assert nbformat.read(target, 4).cells[-1].outputs[0].text == "smoke 3 1 1\n"
    assert "RVLIB_STATIC" not in os.environ
    assert files(root / "out") == [path.name]


def test_a_failure_is_one_line_and_the_next_run_goes_on(root, run, lines):
    write_notebook(root, "02_second", 'raise ValueError("no\\nsecond line")')
    with pytest.raises(nb.NotebookError) as error:
        nb.run_notebooks(run)
    failed = run.out / "notebooks" / "failed-02_second.ipynb"
    assert str(error.value) == f"02_second.ipynb, cell 2: ValueError: no (see {failed})"
    assert [line.split("  ")[:2] for line in lines] == [["notebook 1/2", "01_first.ipynb"]]
    assert nbformat.read(failed, 4).cells
    write_notebook(root, "02_second", "1")
    (root / "notebooks" / "01_first.ipynb").unlink()  # a kernel less to wait for
    assert [path.name for path in nb.run_notebooks(run)] == ["02_second.ipynb"]
    assert files(run.out / "notebooks") == ["01_first.ipynb", "02_second.ipynb"]


MEET = """
import os, pathlib, time
pathlib.Path(f"{me}.started").touch()
while len(list(pathlib.Path().glob("*.started"))) < 2:
    time.sleep(0.05)
print(os.environ["OMP_NUM_THREADS"], *sorted(path.name for path in pathlib.Path().iterdir()))
"""  # neither ends before the other has begun


def test_notebooks_whose_rows_are_there_run_side_by_side(root, run, lines):
    for name in ("01_first", "02_second"):
        write_notebook(root, name, f"me = {name!r}" + MEET)
    done = nb.run_notebooks(run, at_once=2)
    assert [path.name for path in done] == ["01_first.ipynb", "02_second.ipynb"]
    there = "01_first.ipynb 01_first.started 02_second.ipynb 02_second.started draft.ipynb"
    for path in done:
        # One thread each, and no socket lies where the other's could.
        assert nbformat.read(path, 4).cells[-1].outputs[0].text == f"1 {there}\n"
    assert files(run.out) == [f"notebooks/{path.name}" for path in done]
    assert files(root / "notebooks") == there.split()
    assert [line.split("  ")[0] for line in lines] == ["notebook 1/2", "notebook 2/2"]
    write_notebook(root, "01_first", 'raise ValueError("no")')
    (root / "notebooks" / "02_second.ipynb").unlink()  # a kernel less to wait for
    with pytest.raises(nb.NotebookError, match=r"^01_first\.ipynb, cell 2: ValueError: no"):
        nb.run_notebooks(run, at_once=2)


# --- without kernels -----------------------------------------------------------------------------


def test_notebooks_run_in_order_with_the_seed_of_the_run(root, run, fake, lines):
    done = nb.run_notebooks(run, "cuda:1")
    assert done == [run.out / "notebooks" / f"{name}.ipynb" for name in ("01_first", "02_second")]
    given = {"profile": "smoke", "seed": 3, "device": "cuda:1"}
    assert fake == [("01_first.ipynb", given), ("02_second.ipynb", given)]
    assert lines == ["notebook 1/2  01_first.ipynb  0 s", "notebook 2/2  02_second.ipynb  0 s"]
    nb.run_notebooks(run)
    assert fake[2:] == [(name, {"profile": "smoke", "seed": 3}) for name, _ in fake[:2]]


def test_a_kernel_that_dies_is_one_line(root, run, monkeypatch):
    def execute_notebook(source, target, *arguments, **options):
        Path(target).write_bytes(Path(source).read_bytes())
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    with pytest.raises(nb.NotebookError, match=r"^01_first\.ipynb: its kernel died, perhaps"):
        nb.run_notebooks(run)
    assert files(run.out) == ["notebooks/failed-01_first.ipynb"]


def test_an_unknown_parameter_is_refused_before_anything_runs(root, run, fake, capsys):
    write_notebook(root, "02_second", parameters='profile = "lesson"\nseed = 0')
    message = r"^02_second\.ipynb has no parameter device: it has profile, seed$"
    with pytest.raises(ValueError, match=message):
        nb.run_notebooks(run, "cpu")
    assert fake == []
    nb.check_parameters(root / "notebooks" / "01_first.ipynb", {"device": None})
    assert capsys.readouterr() == ("", "")


def test_an_unknown_profile_is_refused(root):
    assert nb.profile_parameters("smoke", root) == {"profile": "smoke", "seed": 5}
    with pytest.raises(ValueError, match="unknown profile 'fulll': choose from smoke"):
        nb.profile_parameters("fulll", root)


# --- publishing ----------------------------------------------------------------------------------

NOISE = {"papermill": {"duration": 1.0}, "execution": {"iopub.busy": "now"}}


@pytest.fixture
def executed(root):
    """An executed notebook with all that must not be published, and all that must."""
    cells = [
        new_markdown_cell("# Title", metadata=NOISE),
        new_code_cell("x = 1", metadata={"tags": ["parameters"], **NOISE}, execution_count=1),
        new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]}, execution_count=2),
        new_code_cell("x", metadata={"tags": ["hide-input"], **NOISE}, execution_count=3),
        new_code_cell(
            "", metadata={"jupyter": {"source_hidden": True}, **NOISE}, execution_count=4
        ),
    ]
    cells[3].outputs = [
        new_output("stream", text="printed\n"),
        new_output("execute_result", {"text/plain": "2"}, execution_count=3),
        new_output("display_data", {"text/plain": "shown"}, metadata={"image/png": {"alt": "a"}}),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "of this machine"},
            "language_info": {"name": "python", "version": "3.99"},
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"a": 1}}},
            "papermill": {"output_path": "/somewhere"},
        }
    )
    path = root / "out" / "01_first.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    return path


def test_published_notebooks_are_clean(executed, tmp_path):
    nb.publish_notebooks([executed])
    target = tmp_path / "notebooks" / "01_first.ipynb"
    published = nbformat.read(target, 4)
    nbformat.validate(published)
    assert [(cell.source, cell.id, cell.metadata) for cell in published.cells] == [
        ("# Title", "cell-00", {}),
        ("x = 1", "cell-01", {"tags": ["parameters"]}),
        ("x", "cell-02", {"tags": ["hide-input"]}),
        ("", "cell-03", {"jupyter": {"source_hidden": True}}),
    ]
    counts = [cell.execution_count for cell in published.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3]  # without a number nbval takes a cell for one that never ran
    stream, result, shown = published.cells[2].outputs
    assert stream.text == "printed\n"
    assert (result.data, result.execution_count) == ({"text/plain": "2"}, 2)
    assert shown.metadata == {"image/png": {"alt": "a"}}  # alt texts stay
    assert published.metadata.keys() == {"kernelspec", "language_info", "rvlib"}
    digest = published.metadata.rvlib["source"]
    published.cells[2].outputs = []
    assert nb.source_digest(published) == digest  # of the sources alone
    published.cells[2].source = "x "
    assert nb.source_digest(published) != digest
    text = target.read_text()
    assert text.endswith("}\n")
    for gone in ("papermill", "widget", "somewhere", "of this machine", "3.99", "iopub"):
        assert gone not in text
    executed.write_bytes(target.read_bytes())
    nb.publish_notebooks([executed])
    assert target.read_text() == text
