"""Explorers in a real JupyterLab, on the projector's screen, while other cells run."""

import nbformat
import pytest

from rvlib.pipeline import repository
from tests.browser.explorers import explorers

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROJECTOR = {"width": 1280, "height": 720}
LEFT = (848, 599)
"""Pixels that JupyterLab leaves to a notebook there, with the side bar open."""

READY = """() => window.jupyterapp?.shell.currentWidget
  ?.sessionContext?.session?.kernel?.status === "idle" """

# The notebook's own model says whether it ran: the page shows warnings and errors alike.
RAN = """last => {
  const cells = jupyterapp.shell.currentWidget.content.model.toJSON().cells
    .filter(cell => cell.cell_type === "code" && [cell.source].flat().join("").trim());
  const error = cells.flatMap(cell => cell.outputs).find(o => o.output_type === "error");
  if (error) return `${error.ename}: ${error.evalue}`;
  return cells.slice(0, last).every(cell => cell.execution_count) && "ran";
}"""

CELLS = [
    "import time\nfrom rvlib import course\nrun = course.start('smoke', device='cpu')",
    *(
        f"course.explore_{name}(run)"
        for name in ("fgsm", "pgd", "training", "smoothing", "certification", "results")
    ),
    "for _ in range(6000):\n    time.sleep(0.1)",  # Run All ends with the kernel's restart
]


FILE = "notebooks/explorers.ipynb"
"""One for both pages, which so share a kernel: each loads PyTorch for seconds."""

POLLING = 200
"""Milliseconds between two looks at a page: by default it is asked, and drawn, with each frame."""


def run_all(page, last):
    """Run all cells of the notebook that is open, until so many have run."""
    page.wait_for_function(READY, polling=POLLING)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    assert page.wait_for_function(RAN, arg=last, polling=POLLING).json_value() == "ran"


def open_in_lab(page, path):
    page.evaluate("path => jupyterapp.commands.execute('docmanager:open', {path})", path)


@pytest.fixture(scope="module")
def front(browser, lab):
    """Open the page that `make lab` opens."""
    page = browser.new_page(viewport=PROJECTOR, reduced_motion="reduce")
    page.set_default_timeout(120_000)
    page.goto(lab("").replace("/lab/tree/", "/").removesuffix("&reset"))
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)", polling=POLLING)
    page.wait_for_url("**/lab/tree/notebooks*")
    yield page
    page.close()


def test_a_notebook_in_notebook_7(browser, lab, artefacts):
    notebook = nbformat.read(repository() / "notebooks" / "02_pgd.ipynb", 4)
    notebook.cells = notebook.cells[:5]  # to the explorer
    page = browser.new_page(viewport=PROJECTOR, reduced_motion="reduce")
    page.set_default_timeout(120_000)
    page.goto(lab(FILE, notebook, "notebooks"))
    run_all(page, 99)
    explorer = explorers(page)[0]
    explorer.root.scroll_into_view_if_needed()
    page.screenshot(path=artefacts / "notebook-7.png")
    explorer.walk(explorer.controls[-1])
    explorer.root.get_by_role("button", name="Play").click()  # plays through the steps
    before = explorer.look()
    explorer.wait(lambda now: now != before)
    page.close()


def test_make_lab_opens_at_the_notebooks_and_reaches_the_task_of_the_lab(front):
    open_in_lab(front, "docs/teaching/break_a_defence.ipynb")
    front.locator(".jp-RenderedMarkdown h1").first.wait_for()


@pytest.fixture(scope="module")
def page(front, lab):
    """Run a notebook with every explorer, whose last cell is busy for long."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    lab(FILE, notebook)
    open_in_lab(front, FILE)
    front.wait_for_url(f"**/{FILE}*")
    run_all(front, len(CELLS) - 1)
    yield front
    front.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def test_explorers_answer_while_a_cell_runs(page):
    found = explorers(page)
    assert len(found) == len(CELLS) - 2
    for explorer in (found[0], found[-1]):
        explorer.root.scroll_into_view_if_needed()
        # The exported pages' tests walk all controls: here the way to the kernel is tried.
        explorer.walk(explorer.controls[-1])
    assert not page.evaluate(RAN, len(CELLS))  # the last cell is still running


def test_every_explorer_is_seen_whole_on_a_projector(page, artefacts):
    for explorer in explorers(page):
        explorer.root.scroll_into_view_if_needed()
        box = explorer.root.bounding_box()
        assert box is not None
        assert (box["width"], box["height"]) <= LEFT
        assert box["height"] <= LEFT[1]
        explorer.root.screenshot(path=artefacts / f"{explorer.name}.png")
        picture = explorer.root.locator("img.frame")
        assert picture.get_attribute("alt") == explorer.look()[2]


def test_a_restarted_kernel_is_named(page):
    explorer = explorers(page)[0]
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_function(READY, polling=POLLING)
    explorer.controls[-1].press("Home")
    explorer.controls[-1].press("End")
    explorer.wait(lambda now: "kernel" in now[2])
