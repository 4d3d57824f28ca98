"""A whole run, tiny but real: trainings, attacks, votes, certificates, checks, the printed report.

Everything that the library does between CIFAR-10 and Table 1, on 64 training and 8 held-out
images.  A ``Runner`` runs it in processes of their own, which can be killed at any moment.
"""

import contextlib
import dataclasses
import functools
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from rvlib import data, device, recipes
from rvlib.profiles import DEFENCES, PROFILES, Profile
from rvlib.recipes import ATTACKS, RECIPES, REPORT_ATTACKS, SIGMAS
from rvlib.report import document
from rvlib.report.build import write_tables
from rvlib.stages import measure, train
from rvlib.stages import run as run_stage
from rvlib.stages.check import check
from rvlib.stages.run import (
    FURTHER,
    SMOOTHED_ATTACKS,
    Run,
    measure_everything,
    measure_networks,
    measure_smoothing,
)

EPOCHS, BATCH, UNIT = 2, 32, 4
IMAGES = {"train": 64, "heldout": 8}
TINY = Profile(
    "tiny",
    trains=True,
    heldout=8,
    test=0,
    attacks=REPORT_ATTACKS,
    votes=100,
    certified=8,
    ns=(100, 1000),
    seeds={"standard": 2},
)


def make_tiny() -> None:
    """Make the library of this process work in small: short recipes, few images, small units."""
    torch.set_num_threads(1)
    for name, recipe in RECIPES.items():
        RECIPES[name] = dataclasses.replace(recipe, epochs=EPOCHS, batch_size=BATCH)
    for attack in (*ATTACKS.values(), *SMOOTHED_ATTACKS):
        object.__setattr__(attack, "steps", min(attack.steps, 2))  # the very ones in use
    PROFILES["tiny"] = TINY
    recipes.SMOOTHED_DRAWS = 2
    # Asking git for each of a hundred records would take longer than all the work.
    commit = device._commit()
    device._commit = lambda: commit
    # Printed in the report, whose bytes are compared.
    moment = datetime(2000, 1, 1, tzinfo=UTC)
    vars(device)["datetime"] = SimpleNamespace(now=lambda zone: moment)
    splits = {}
    for split, count in IMAGES.items():
        images, labels = data.load_cifar10(split)
        splits[split] = images[:count].clone(), labels[:count].clone()
    real = measure._measure

    def in_small_units(place, path, what, columns, split, count, unit, step):
        return real(place, path, what, columns, split, count, UNIT, step)

    train.load_cifar10 = measure.load_cifar10 = splits.__getitem__  # type: ignore[attr-defined,assignment]
    measure._measure = in_small_units
    # In this process: spawned ones would be neither tiny nor quick.
    run_stage.train_all = functools.partial(train.train_all, jobs=1)  # type: ignore[attr-defined]


def certify(run: Run) -> None:
    for sigma in SIGMAS:
        run.certificates(sigma)


def report(run: Run) -> None:
    measure_everything(run)  # what is there is found, what further rows there are is measured
    write_tables(run)
    document.build(run.out)


PHASES: dict[str, Callable[[Run], object]] = {
    "training": lambda run: run.train(),
    "attacks": lambda run: measure_networks(run, [*DEFENCES, *FURTHER]),
    "votes": measure_smoothing,
    "certificates": certify,
    "check": check,
    "report": report,
}


def open_run(root: Path) -> Run:
    return dataclasses.replace(Run.open("tiny", "cpu", root), log=lambda line: None)


class End(NamedTuple):
    """How a process ended: 0, 1 or -9; in which phase, after how long and how many file events."""

    status: int
    phase: str
    seconds: float
    events: int
    begun: dict[str, int]
    """By phase, how many file events there were before it."""


class Runner:
    """Starts runs by forking, so that only the first one waits for PyTorch."""

    def __init__(self) -> None:
        # The number of the phase, of file events, and of those before each phase.
        self._shared = mmap.mmap(-1, 4 * (2 + len(PHASES)))

    def run(self, root: Path, seconds: float | None = None, event: int | None = None) -> End:
        """Run in a folder; kill it after some time, or just before one of its file operations."""
        self._shared[:] = bytes(len(self._shared))
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            self._child(root, event)
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            took = time.monotonic() - started
            if ended:
                phase = ["start", *PHASES][self._number(0)]
                code = os.waitstatus_to_exitcode(status)
                begun = {name: self._number(2 + i) for i, name in enumerate(PHASES)}
                return End(code, phase, took, self._number(1), begun)
            # Not waited for yet, so the number is still that of the child.
            if seconds is not None and took >= seconds:
                os.killpg(child, signal.SIGKILL)
                seconds = None
            time.sleep(0.001)

    def _number(self, place: int) -> int:
        return int.from_bytes(self._shared[4 * place : 4 * place + 4], "little")

    def _tell(self, place: int, number: int) -> None:
        self._shared[4 * place : 4 * place + 4] = number.to_bytes(4, "little")

    def _child(self, root: Path, event: int | None) -> None:
        status = 1
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.addaudithook(self._counting(str(root), event))
            run = open_run(root)
            for number, work in enumerate(PHASES.values(), start=1):
                self._tell(0, number)
                self._tell(1 + number, self._number(1))
                work(run)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _counting(self, root: str, event: int | None) -> Callable[[str, tuple[object, ...]], None]:
        """Count what is done to files of the run; before a chosen one, die."""

        def hook(name: str, words: tuple[object, ...]) -> None:
            if name not in {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir"}:
                return
            reading = name == "open" and not _writes(words)
            if reading or not str(words[0]).startswith(root):
                return
            count = self._number(1) + 1
            self._tell(1, count)
            if count == event:
                os.killpg(os.getpgid(0), signal.SIGKILL)

        return hook


def _writes(words: tuple[object, ...]) -> bool:
    flags = words[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
