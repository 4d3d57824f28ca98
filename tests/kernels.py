"""Notebooks' kernels, forked from a process that has PyTorch: a new one loads it for seconds.

Those of the tests in JupyterLab are its own, and start Python as a user's do.
"""

import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

PRELOADED = ["ipykernel.kernelapp", "matplotlib.pyplot", "scipy.stats"]
PRELOADED += ["rvlib.course", "rvlib.report.build"]


class Forked:
    """A kernel, with what a manager of kernels asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        assert process.pid is not None
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def fork_kernel(command: list[str], env: dict[str, str], cwd: str, **_: object) -> Forked:
    """Start a kernel in place of ``jupyter_client.launcher.launch_kernel``."""
    # Matplotlib reads at its import what a kernel sets at its start.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    started, here = server.Pipe(duplex=False)
    command = [*command, f"--IPKernelApp.parent_handle={os.getpid()}"]  # so that it prints nothing
    process = server.Process(target=_serve, args=(command, dict(env), cwd, here))
    process.start()
    started.recv()
    return Forked(process)


def _serve(command: list[str], env: dict[str, str], cwd: str, started: Connection) -> None:
    os.setsid()  # interrupts go to a kernel's group
    started.send(None)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=command[command.index("-f") :])
