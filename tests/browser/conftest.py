"""A Chromium, a JupyterLab on copies of the notebooks, and a place for what they showed."""

import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from rvlib.stages.run import repository
from tests.browser.chromium import find_chromium

ARTEFACTS = repository() / "build" / "browser"

FLAGS = [
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
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
    try:
        path = find_chromium()
    except FileNotFoundError as error:
        pytest.fail(str(error), pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def artefacts():
    """Lend the folder of screenshots."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


@pytest.fixture(scope="module")
def latencies(artefacts, request):
    """Collect milliseconds by explorer, knob and kind of move; written down, never judged."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    yield found
    file = artefacts / "latency.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[request.module.FACE] = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "ms": {name: {k: summary(v) for k, v in kinds.items()} for name, kinds in found.items()},
    }
    file.write_text(json.dumps(known, indent=1) + "\n")


def summary(times):
    """Say of some milliseconds what is usual and what is rare."""
    return {
        "n": len(times),
        "median": round(statistics.median(times)),
        "p95": round(float(np.percentile(times, 95))),
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start a JupyterLab, as a new user has it; lends the address of a notebook, there or in 7."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "notebooks"
    # Copies: Lab saves what it shows.  And a build folder of their own: one run at a time writes.
    work.mkdir()
    (home / "report").symlink_to(repository() / "report")
    for notebook in (repository() / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, work)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True"]
    command += [f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}"]
    log = home / "lab.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment(home),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api", process, log)
        # reset: without the notebooks that an earlier page had open.
        yield (
            lambda name, page="lab/tree": (
                f"http://127.0.0.1:{port}/{page}/{name}?token={token}&reset"
            )
        )
    finally:
        stop(process)


def environment(home):
    """Nothing of the user's own settings, and one thread: there are two cores for all."""
    for name, value in SETTINGS.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "IPYTHONDIR": "ipython",
    }
    own = {name: str(home / folder) for name, folder in folders.items()}
    return os.environ | own | {"RVLIB_ROOT": str(home)}


def wait_for(url, process, log, seconds=120):
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    text = Path(log).read_text()
    pytest.fail(f"JupyterLab does not answer:\n{text[-3000:]}", pytrace=False)


def stop(process):
    """End a server and its kernels: the group that was started, nothing else."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
