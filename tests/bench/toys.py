"""Jobs that say which process does them; where a spawned process can import them."""

import os

import torch

from rvlib.bench.compare import Job

CALLS = [0]


def toy_jobs(run):
    yield Job("first", "a process", {"rvlib": whoami, "peer": whoami}, len)
    yield Job("second", "a process", {"rvlib": whoami}, len)
    yield Job("third", "a process", {"rvlib": fails}, len)


def whoami():
    CALLS[0] += 1
    return torch.tensor([os.getpid(), CALLS[0]])


def fails():
    raise ValueError("it cannot be done")
