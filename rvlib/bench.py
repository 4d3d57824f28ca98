"""Measure how fast attacks, training steps and votes are on this machine."""

import time
from collections.abc import Callable

import torch

from rvlib.attacks import fgsm, pgd
from rvlib.device import device_name
from rvlib.models import LeNet
from rvlib.models.weights import to_device
from rvlib.objectives import Objective, adversarial, standard
from rvlib.recipes import ATTACKS, BATCH_SIZE, LEARNING_RATE, LINF, MOMENTUM, PIXEL_L2, SIGMA
from rvlib.smoothing import sample_under_noise

REPETITIONS = 5


def bench(device: torch.device) -> None:
    """Time the library's jobs on LeNet and print images a second, median and range.

    Parameters
    ----------
    device : torch.device
        What to measure.
    """
    network = to_device(LeNet(), device)
    x = torch.rand(1024, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(1024, device=device) % 10
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "FGSM": (lambda: fgsm(network, x, y, LINF), len(x)),
        "PGD-10 l-infinity": (lambda: pgd(network, x, y, LINF, random_start=False), len(x)),
        "PGD-10 pixel-l2": (lambda: pgd(network, x, y, PIXEL_L2, random_start=False), len(x)),
        "votes under noise": (
            lambda: sample_under_noise(network, x[:64].cpu(), SIGMA, 1000),
            64_000,
        ),
        "training, standard": (_training(standard, x, y, device), 32 * 10),
        "training, PGD-10": (_training(adversarial(ATTACKS["pgd-linf"]), x, y, device), 32 * 10),
    }
    print(f"{device_name(device)}, torch {torch.__version__}, {REPETITIONS} repetitions\n")
    print("| job | images a second, median | slowest to fastest |\n|---|---|---|")
    for name, (job, images) in jobs.items():
        speeds = sorted(images / seconds for seconds in _times(job, device))
        middle, low, high = speeds[len(speeds) // 2], speeds[0], speeds[-1]
        print(f"| {name} | {middle:,.0f} | {low:,.0f} to {high:,.0f} |", flush=True)


def _training(
    objective: Objective, x: torch.Tensor, y: torch.Tensor, device: torch.device
) -> Callable[[], object]:
    """Ten optimiser steps at the report's batch size."""
    network = to_device(LeNet(), device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    generator = torch.Generator(device)

    def steps() -> None:
        for i in range(10):
            batch = slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)
            optimizer.zero_grad()
            objective(network, x[batch], y[batch], generator).value.backward()
            optimizer.step()

    return steps


def _times(job: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each repetition, after one to warm up."""
    times = []
    for _ in range(1 + REPETITIONS):
        started = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return times[1:]
