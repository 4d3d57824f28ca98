"""Processes that work side by side, and end with the one that started them.

Each imports this, but PyTorch only where its work needs it: driving a notebook does not.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from unittest import mock


@contextmanager
def single_threaded(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes of one thread each, without progress bars.

    Ctrl-C ends them at once; what they have written is kept.
    """
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", RVLIB_STATIC="1"):
        with ProcessPoolExecutor(jobs, spawn, _follow_parent) as pool:
            yield pool


def _follow_parent() -> None:
    """End at Ctrl-C, and with the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
