"""What a machine gives to a run: cores, threads, a process for each piece of work, time."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rvlib.distributed import world
from rvlib.experiments import is_extended
from rvlib.processes import single_threaded
from rvlib.progress import progress

if TYPE_CHECKING:
    from rvlib.pipeline.run import Run

T = TypeVar("T")


def side_by_side(
    work: Callable[["Run", T], None], run: "Run", todo: Sequence[T], title: str
) -> None:
    """Do each piece of work of a run; on a CPU in a process a core, each of one thread.

    Networks this small leave more threads idle.  What was registered since the import another
    process cannot know.
    """
    jobs = min(cores(), len(todo)) if run.device.type == "cpu" and world() == 1 else 1
    if jobs <= 1 or is_extended():
        for each in todo:
            work(run, each)
        return
    with single_threaded(jobs) as pool:
        done = pool.map(work, itertools.repeat(replace(run, log=print)), todo)
        for _ in progress(done, title, len(todo)):
            pass


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Hold a CPU to one thread, so that weights do not depend on how many cores there are."""
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use: by its affinity, its container's limit, a batch system."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = [count or 1]
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        given.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no limit
    if os.environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        given.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(given)


def seconds(work: Callable[[], Any], device: torch.device, times: int = 3) -> float:
    """Time some work after a warm-up: mean seconds of a call."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times
