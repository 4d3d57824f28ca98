"""Each way of the benchmark in a process of its own, as its users have it.

Ways that share a process share its memory, too: what one has freed another one finds, and is twice
as fast or as slow for it.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from rvlib.bench.compare import Job, Once, once
from rvlib.bench.jobs import jobs
from rvlib.stages.run import Run
from rvlib.stages.train import end_with_parent


class Apart:
    """Does ways in other processes, one for each name of a way, kept from job to job.

    Parameters
    ----------
    run : Run
        What the ways work on.
    make : callable, default=``rvlib.bench.jobs.jobs``
        Lists the jobs of a run, in the other processes, too.
    """

    def __init__(self, run: Run, make: Callable[[Run], Iterable[Job]] = jobs) -> None:
        self._run, self._make = replace(run, log=_nothing), make
        self._pipes: dict[str, Connection] = {}

    def __call__(self, job: Job, way: str) -> Once:
        """Let a way's own process do it once.

        Parameters
        ----------
        job : Job
            One of the run's; none that comes before one that was asked for earlier.
        way : str
            One of its ways.

        Returns
        -------
        Once
            What was found, and in how many seconds there.

        Raises
        ------
        Exception
            What the way raised.
        """
        if way not in self._pipes:
            self._pipes[way], theirs = multiprocessing.Pipe()
            spawn = multiprocessing.get_context("spawn")
            words = theirs, self._run, self._make, way
            spawn.Process(target=_work, args=words, daemon=True).start()
            theirs.close()
        self._pipes[way].send(job.name)
        answer: Any = self._pipes[way].recv()
        if isinstance(answer, Exception):
            raise answer
        found, seconds = answer
        return Once(torch.from_numpy(found), seconds)

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self._pipes.values():
            pipe.close()


@contextmanager
def apart(run: Run, make: Callable[[Run], Iterable[Job]] = jobs) -> Iterator[Apart]:
    """Lend processes that do ways, and let them end.

    Parameters
    ----------
    run, make
        As for ``Apart``.

    Yields
    ------
    Apart
        Called with a job and the name of a way.
    """
    found = Apart(run, make)
    try:
        yield found
    finally:
        found.close()


def _work(pipe: Connection, run: Run, make: Callable[[Run], Iterable[Job]], way: str) -> None:
    """Do one way of the jobs that are asked for, in their order, until nobody asks."""
    end_with_parent()
    try:
        asked = pipe.recv()
        for job in make(run):
            while asked == job.name:
                found, seconds = once(job.ways[way], run.place.device)
                pipe.send((found.numpy(), seconds))
                asked = pipe.recv()
    except EOFError:
        return
    except Exception as error:
        pipe.send(error)


def _nothing(line: str) -> None:
    """Take a line of the log that the asking process has written already."""
