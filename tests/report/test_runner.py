"""rvlib.report.runner: what fails is named, what is done stays, what is published is clean."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rvlib.report import runner
from rvlib.report.runner import (
    NotebookError,
    check_parameters,
    profile_parameters,
    publish_notebooks,
    run_notebooks,
    source_digest,
)
from rvlib.stages.run import Run

PARAMETERS = 'profile = "course"  # smoke, course or full\nseed = 0\ndevice = None'
# What rvlib.course.finish does, without waiting for torch in every kernel.
FINISH = """\
from pathlib import Path
path = Path("../build/smoke/finished/NAME.json")
path.parent.mkdir(parents=True, exist_ok=True)
_ = path.write_text('{"notebook": "NAME"}')"""


def write_notebook(root, name, *sources, parameters=PARAMETERS):
    """A notebook of a parameters cell and a few more."""
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def finishing(name):
    return FINISH.replace("NAME", name)


def write_profile(root, name="smoke", text="profile: smoke\n"):
    path = root / "report" / "profiles" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_run(root, lines):
    run = Run.open("smoke", "cpu", root)
    return Run(run.profile, run.place, run.out, lines.append)


def refusal(call, *arguments, **options):
    """Let a call be refused; return the message, which must be one line."""
    with pytest.raises((NotebookError, ValueError)) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """A package of one file, so that editing rvlib does not disturb these tests."""
    package = tmp_path_factory.mktemp("package")
    (package / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "rvlib", SimpleNamespace(__file__=str(package / "__init__.py")))
        yield package


# --- with real kernels: five starts, one story ---------------------------------------------------


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Three calls: the second notebook fails, then the third does not finish, then it dies."""
    root = tmp_path_factory.mktemp("root")
    lines: list[str] = []
    write_profile(root)
    write_notebook(root, "01_first", 'print(f"{profile} {device}")\n' + finishing("01_first"))
    needs = 'open("ready.txt").close()\n' + finishing("02_second")
    write_notebook(root, "02_second", needs)
    write_notebook(root, "03_third", "1 + 1")
    run = make_run(root, lines)
    messages, logs = [], []
    for change in (
        lambda: None,
        lambda: (root / "notebooks" / "ready.txt").touch(),
        lambda: write_notebook(root, "03_third", "import os\nos._exit(1)"),
    ):
        change()
        lines.clear()
        try:
            run_notebooks(run, "cpu", root)
            messages.append("")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
        logs.append([line.split("  ")[:2] for line in lines])
        if len(logs) == 1:
            first = run.out / "notebooks" / "01_first.ipynb"
            before = first.read_bytes()
    return SimpleNamespace(
        root=root, run=run, messages=messages, logs=logs, first=first, before=before
    )


def test_parameters_reach_the_notebook(story):
    notebook = nbformat.read(story.first, 4)
    (output,) = notebook.cells[-1].outputs
    assert output.text == "smoke cpu\n"  # not the defaults: course and None


def test_the_first_failure_names_notebook_cell_and_error(story):
    target = story.run.out / "notebooks" / "02_second.ipynb"
    assert story.messages[0] == (
        "NotebookError: 02_second.ipynb, cell 2: FileNotFoundError: "
        f"[Errno 2] No such file or directory: 'ready.txt' (see {target})"
    )
    assert story.logs[0] == [["notebook 1/3", "01_first.ipynb"]]


def test_the_next_call_goes_on_with_the_failed_notebook(story):
    assert story.logs[1] == [
        ["notebook 1/3", "01_first.ipynb"],
        ["notebook 2/3", "02_second.ipynb"],
    ]
    assert story.first.read_bytes() == story.before
    assert (story.run.out / "finished" / "02_second.json").exists()


def test_a_notebook_that_does_not_reach_its_last_cell_is_an_error(story):
    target = story.run.out / "notebooks" / "03_third.ipynb"
    assert target.exists()  # papermill was content
    message = f"NotebookError: 03_third.ipynb did not reach its last cell; see {target}"
    assert story.messages[1] == message


def test_a_kernel_that_dies_is_a_failure_of_its_notebook(story):
    assert story.messages[2].startswith("NotebookError: 03_third.ipynb")


def test_what_ran_is_published_clean(story):
    source = story.root / "notebooks" / "01_first.ipynb"
    before = nbformat.read(source, 4)
    executed = nbformat.read(story.first, 4)
    assert "papermill" in executed.metadata
    publish_notebooks([story.first], story.root)
    published = nbformat.read(source, 4)
    nbformat.validate(published)
    assert [cell.source for cell in published.cells] == [cell.source for cell in before.cells]
    assert published.cells[0].metadata == {"tags": ["parameters"]}
    assert published.cells[1].outputs[0].text == "smoke cpu\n"
    assert "papermill" not in source.read_text()
    assert published.metadata.rvlib.source == source_digest(before)


# --- without kernels -----------------------------------------------------------------------------


class FakePapermill:
    """Writes what papermill would write; which notebooks it was given is in `ran`."""

    def __init__(self, root):
        self.root, self.ran, self.parameters = root, [], []
        self.error = None
        self.finishes = True

    def execute_notebook(self, source, target, parameters, **options):
        name = Path(source).stem
        self.ran.append(name)
        self.parameters.append(parameters)
        Path(target).write_bytes(Path(source).read_bytes())
        if self.error:
            raise self.error
        if self.finishes:
            manifest = self.root / "build" / "smoke" / "finished" / f"{name}.json"
            manifest.parent.mkdir(parents=True, exist_ok=True)
            manifest.write_text("{}")


@pytest.fixture
def root(tmp_path):
    write_profile(tmp_path)
    for name in ("01_first", "02_second"):
        write_notebook(tmp_path, name, "1 + 1")
    (tmp_path / "notebooks" / "draft.ipynb").write_text("not numbered, not run")
    return tmp_path


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(root, lines):
    return make_run(root, lines)


@pytest.fixture
def fake(root, monkeypatch):
    fake = FakePapermill(root)
    monkeypatch.setattr(papermill, "execute_notebook", fake.execute_notebook)
    return fake


def test_notebooks_run_in_order_and_once(root, run, fake, lines):
    done = run_notebooks(run, root=root)
    assert done == [run.out / "notebooks" / f"{name}.ipynb" for name in ("01_first", "02_second")]
    assert fake.ran == ["01_first", "02_second"]
    assert fake.parameters == [{"profile": "smoke", "seed": 0}] * 2
    assert lines == [
        "notebook 1/2  01_first.ipynb  0 s",
        "notebook 2/2  02_second.ipynb  0 s",
    ]
    assert run_notebooks(run, root=root) == done
    assert fake.ran == ["01_first", "02_second"]
    assert lines[2:] == [
        "notebook 1/2  01_first.ipynb  done before",
        "notebook 2/2  02_second.ipynb  done before",
    ]


def test_a_device_is_handed_over(root, run, fake):
    run_notebooks(run, "cuda:1", root)
    assert fake.parameters[0] == {"profile": "smoke", "seed": 0, "device": "cuda:1"}


def test_the_seed_of_the_run_is_handed_over_whatever_the_profile_says(root, run, fake):
    write_profile(root, text="{profile: smoke, seed: 5}")
    other = replace(run, place=replace(run.place, seed=3))
    run_notebooks(other, root=root)
    assert fake.parameters[0] == {"profile": "smoke", "seed": 3}


CHANGES = {
    "notebook": lambda root, package: write_notebook(root, "01_first", "1 + 2"),
    "parameters": lambda root, package: write_profile(root, text="{profile: smoke, device: cpu}"),
    "package": lambda root, package: (package / "__init__.py").write_text("new = 1\n"),
    "weights": lambda root, package: write_weights(root),
    "executed notebook": lambda root, package: (
        root / "build" / "smoke" / "notebooks" / "01_first.ipynb"
    ).unlink(),
    "manifest": lambda root, package: (
        root / "build" / "smoke" / "finished" / "01_first.json"
    ).unlink(),
}


def write_weights(root):
    path = root / "report" / "models" / "standard" / "seed-0.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")


def write_rows(run, name, text):
    path = run.place.rows / "heldout" / "standard" / "seed-0" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("change", ["other rows", "more rows", "removed"])
def test_rows_that_a_notebook_found_have_changed_so_it_runs_again(root, run, fake, change):
    path = write_rows(run, "fgsm", "a\n")
    run_notebooks(run, root=root)
    fake.ran.clear()
    {
        "other rows": lambda: path.write_text("b\n"),
        "more rows": lambda: path.write_text("a\na\n"),
        "removed": path.unlink,
    }[change]()
    run_notebooks(run, root=root)
    assert fake.ran == ["01_first", "02_second"]


def test_rows_of_a_later_notebook_do_not_concern_the_earlier_ones(root, run, fake):
    run_notebooks(run, root=root)
    fake.ran.clear()
    write_rows(run, "pgd-linf", "a\n")
    run_notebooks(run, root=root)
    assert fake.ran == []


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_notebook_depends_on_has_changed_so_it_runs_again(root, run, fake, package, what):
    run_notebooks(run, root=root)
    fake.ran.clear()
    CHANGES[what](root, package)
    run_notebooks(run, root=root)
    both = what in ("parameters", "package", "weights")
    assert fake.ran == (["01_first", "02_second"] if both else ["01_first"])
    (package / "__init__.py").write_text("")


def test_an_old_manifest_is_no_witness_of_a_new_run(root, run, fake):
    run_notebooks(run, root=root)
    write_notebook(root, "01_first", "1 + 2")
    fake.finishes = False
    message = refusal(run_notebooks, run, root=root)
    assert message.startswith("01_first.ipynb did not reach its last cell")


@pytest.mark.parametrize(
    ("value", "shown"), [("no\nsecond line", "no"), ("", ""), (None, ""), ("\nlate", "")]
)
def test_the_message_of_a_failure_is_one_line(root, run, fake, value, shown):
    fake.error = papermill.PapermillExecutionError(2, 1, "1 + 1", "ValueError", value, [])
    message = refusal(run_notebooks, run, root=root)
    target = run.out / "notebooks" / "01_first.ipynb"
    assert message == f"01_first.ipynb, cell 2: ValueError: {shown} (see {target})"
    assert fake.ran == ["01_first"]


def test_an_unknown_parameter_is_refused_before_anything_runs(root, run, fake):
    write_notebook(root, "02_second", "1 + 1", parameters='profile = "course"\nseed = 0')
    message = refusal(run_notebooks, run, "cpu", root)
    assert message == "02_second.ipynb has no parameter device: it has profile, seed"
    assert fake.ran == []
    assert not run.out.exists()


def test_checking_parameters_prints_nothing(root, capsys):
    path = root / "notebooks" / "01_first.ipynb"
    check_parameters(path, {"profile": "smoke", "device": None})
    message = refusal(check_parameters, path, {"steps": 1, "epochs": 2})
    assert message == "01_first.ipynb has no parameter epochs, steps: it has device, profile, seed"
    assert capsys.readouterr() == ("", "")


def test_an_unknown_profile_is_refused(root):
    write_profile(root, "full", "profile: full\n")
    assert profile_parameters("full", root) == {"profile": "full"}
    message = refusal(profile_parameters, "fulll", root)
    assert message == "unknown profile 'fulll': choose from full, smoke"


# --- publishing ----------------------------------------------------------------------------------


@pytest.fixture
def executed(tmp_path):
    """An executed notebook with all that must not be published."""
    noise = {"papermill": {"duration": 1.0}, "execution": {"iopub.busy": "now"}}
    cells = [
        new_markdown_cell("# Title", metadata=noise),
        new_code_cell("x = 1", metadata={"tags": ["parameters"], **noise}, execution_count=1),
        new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]}, execution_count=2),
        new_code_cell("x", metadata={"tags": ["hide-input"], **noise}, execution_count=3),
        new_code_cell("", metadata=noise, execution_count=4),
    ]
    cells[3].outputs = [
        new_output("stream", text="said\n"),
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
    path = tmp_path / "out" / "01_first.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    (tmp_path / "notebooks").mkdir()
    return path


def test_published_notebooks_are_clean(executed, tmp_path):
    publish_notebooks([executed], tmp_path)
    target = tmp_path / "notebooks" / "01_first.ipynb"
    published = nbformat.read(target, 4)
    nbformat.validate(published)
    assert [cell.source for cell in published.cells] == ["# Title", "x = 1", "x", ""]
    assert [cell.metadata for cell in published.cells] == [
        {},
        {"tags": ["parameters"]},
        {"tags": ["hide-input"]},
        {},
    ]
    assert [cell.id for cell in published.cells] == ["cell-00", "cell-01", "cell-02", "cell-03"]
    counts = [cell.execution_count for cell in published.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3]  # without a number nbval takes a cell for one that never ran
    stream, result, shown = published.cells[2].outputs
    assert stream.text == "said\n"
    assert (result.data, result.execution_count) == ({"text/plain": "2"}, 2)
    assert shown.metadata == {"image/png": {"alt": "a"}}  # alt texts stay
    assert published.metadata.keys() == {"kernelspec", "language_info", "rvlib"}
    text = target.read_text()
    assert text.endswith("}\n")
    for gone in ("papermill", "widget", "somewhere", "of this machine", "3.99", "iopub"):
        assert gone not in text


def test_publishing_twice_gives_the_same_bytes(executed, tmp_path):
    publish_notebooks([executed], tmp_path)
    target = tmp_path / "notebooks" / "01_first.ipynb"
    first = target.read_bytes()
    executed.write_bytes(first)
    publish_notebooks([executed], tmp_path)
    assert target.read_bytes() == first


def test_the_digest_is_that_of_the_sources_alone(executed, tmp_path):
    notebook = nbformat.read(executed, 4)
    publish_notebooks([executed], tmp_path)
    published = nbformat.read(tmp_path / "notebooks" / "01_first.ipynb", 4)
    assert json.loads(json.dumps(published.metadata.rvlib)) == {"source": source_digest(published)}
    assert source_digest(published) != source_digest(notebook)  # the injected cell
    published.cells[2].outputs = []
    assert source_digest(published) == published.metadata.rvlib.source
    for change in ("x + 1", "x "):
        published.cells[2].source = change
        assert source_digest(published) != published.metadata.rvlib.source
