"""A Chromium, a watched page, a JupyterLab on copies of the notebooks, a place for screenshots."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import nbformat
import pytest
from playwright.sync_api import Page, sync_playwright

from rvlib.pipeline import repository
from tests.browser.chromium import find_chromium
from tests.browser.explorers import explorers

ARTEFACTS = repository() / "build" / "browser"

FLAGS = [
    "--no-sandbox",  # root has none
    *["--disable-gpu", "--disable-gpu-compositing", "--disable-software-rasterizer"],
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    # A camera that shows a test picture, lent without a question.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]

# No pop-up about news, a kernel without asking, all cells in the page and nothing after them.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker": {
        "autoStartDefaultKernel": True,
        "windowingMode": "none",
        "scrollPastEnd": False,
    },
}


@pytest.fixture(scope="module")
def browser():
    """Start a Chromium; ended with the module, as its event loop is in the way of other tests."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def artefacts():
    """Lend the folder of screenshots."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


@dataclass(frozen=True)
class Watched:
    """A page, with what it requested and what went wrong on it."""

    page: Page
    asked: list[str]
    wrong: list[str]

    def go(self, path):
        """Open a file; its explorers."""
        self.page.goto(path.as_uri())
        return explorers(self.page)

    def assert_quiet(self):
        assert self.wrong == []
        assert {url.partition(":")[0] for url in self.asked} <= {"file", "data", "blob"}


@pytest.fixture(scope="module")
def one_page(browser):
    """Open a page once: each new one starts processes, and compiles all scripts anew."""
    page = browser.new_page(reduced_motion="reduce")
    watched = Watched(page, [], [])
    page.on("request", lambda request: watched.asked.append(request.url))
    page.on("pageerror", lambda error: watched.wrong.append(str(error)))
    page.on("console", lambda m: watched.wrong.append(m.text) if m.type == "error" else None)
    yield watched
    page.close()


@pytest.fixture
def watched(one_page):
    """Lend the page, with nothing on it and of the usual size and colours."""
    one_page.page.goto("about:blank")
    one_page.page.set_viewport_size({"width": 1200, "height": 1000})
    one_page.page.emulate_media(media="screen", color_scheme="light")
    one_page.asked.clear()
    one_page.wrong.clear()
    return one_page


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start a JupyterLab as `make lab` does; opens a notebook there, or in Notebook 7."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "notebooks"
    work.mkdir()
    for name in ("report", "docs"):
        (home / name).symlink_to(repository() / name)
    (options,) = re.findall(r"jupyter lab \$.*\) (.*)", (repository() / "Makefile").read_text())
    with serve(home, options.split()) as (server, token):

        def address(path, notebook=None, page="lab/tree"):
            if notebook:
                nbformat.write(notebook, home / path)
            # reset: without the notebooks that an earlier page had open.
            return f"{server}/{page}/{path}?token={token}&reset"

        yield address


@contextmanager
def serve(home, options):
    """Start a JupyterLab in a folder; its address and token."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    command += ["--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True"]
    log = home / "lab.log"
    with log.open("w") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=home, env=environment(home), **output)
    try:
        told = wait_for(home / "runtime", process, log)
        yield told["url"].rstrip("/"), told["token"]
    finally:
        process.terminate()  # it ends its kernels, too
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def environment(home):
    """Leave out the user's own settings; one thread, as two cores serve all."""
    for name, value in SETTINGS.items():
        file = home / "config" / "lab" / "user-settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ip"}
    own = {name: str(home / folder) for name, folder in folders.items()}
    return os.environ | own | {"RVLIB_ROOT": str(home)}


def wait_for(runtime, process, log, seconds=120):
    """Wait until a server listens, and read where: it chooses a free port and a token."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with suppress(ValueError):  # half written
                return json.loads(file.read_text())
        time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}", pytrace=False)
