"""Time implementations in turn, each in a process of its own.

In one process they would share its memory: blocks that one implementation has freed, another finds,
which changes its time by up to a factor of two.
"""

import functools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.jobs import BASELINE, FIXED, GAUSSIAN, OURS, SIGMA, Job


def measure(
    jobs: Sequence[Job], inputs: Path, device: str, rounds: int, baseline: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield the result of each job; an implementation keeps its process from job to job.

    Parameters
    ----------
    jobs : sequence of Job
        What to time.
    inputs : Path
        What ``prepare`` wrote.
    device : str
        As ``"cpu"`` or ``"cuda"``.
    rounds : int
        Times an implementation is timed; one more call, before, warms it up.  A job that is timed
        once has neither.
    baseline : str, optional
        Folder of another checkout, whose rvlib is timed, too.
    """
    spawn, pools = multiprocessing.get_context("spawn"), {}
    with ExitStack() as stack:
        for job in jobs:
            names = [OURS, *job.others, *([BASELINE] if baseline else [])]
            for name in (name for name in names if name not in pools):
                checkout = (baseline if name == BASELINE else "",)
                pool = ProcessPoolExecutor(1, spawn, _begin, checkout)
                pools[name] = stack.enter_context(pool)

            def timed(name: str, job: Job = job) -> dict[str, Any]:
                return pools[name].submit(run, job, name, inputs, device).result()

            results = {name: timed(name) for name in names}
            for result in results.values():
                result["seconds"] = [result["seconds"]] if job.once else []
            # Each round begins with another implementation.
            for k in range(0 if job.once else rounds):
                for name in names[k % len(names) :] + names[: k % len(names)]:
                    results[name]["seconds"].append(timed(name)["seconds"])
            yield summary(job, results)


def summary(job: Job, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put a job's times beside accuracies and shares of equal answers, both in percent."""
    ours = results[OURS]["answers"]
    for result in results.values():
        answers = result.pop("answers")
        result["same"] = round(100 * float((answers == ours).mean()), 2)
    return {"name": job.name, "on": job.on, "goal": job.goal, "implementations": results}


def _begin(checkout: str) -> None:
    """Start a process: choose the rvlib that it imports; end with the process that asked."""
    sys.path[:0] = [checkout] if checkout else []
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run(job: Job, implementation: str, inputs: Path, device: str) -> dict[str, Any]:
    """Do a job in this process: answers, accuracy, seconds a call (a GPU is waited for)."""
    import torch

    call, y = prepared(job, implementation, inputs, device)
    wait = torch.get_device_module(device).synchronize
    wait()
    start = time.perf_counter()
    for _ in range(job.repeats):
        found = call()
    wait()
    seconds = (time.perf_counter() - start) / job.repeats
    answers = (found.argmax(1) if found.dim() == 2 else found).cpu().numpy()
    right = answers if answers.dtype == bool else answers == y
    accuracy = round(100 * float(right.mean()), 2)
    result = {"answers": answers, "accuracy": accuracy, "seconds": round(seconds, 6)}
    network = call.args[1].network
    if job.once:  # passes an image
        result["passes"] = round((network.forwards + network.backwards) / job.images)
    return result


@functools.lru_cache(maxsize=1)
def prepared(job: Job, implementation: str, inputs: Path, device: str) -> Any:
    """Load what a job works on: a function that does it, and the labels."""
    import torch

    import rvlib as rv
    from benchmarks import others, ours

    saved = torch.load(inputs)
    own = implementation in (OURS, BASELINE, GAUSSIAN, FIXED)
    calls = ours.calls() if own else others.calls(implementation)
    # Other libraries get PyTorch's own memory layout, rvlib the one that it loads images in.
    layout = torch.channels_last if own and job.kind != "small" else torch.contiguous_format
    network = build(job.network)
    network.load_state_dict(saved["weights"][job.network])
    network = network.to(device, memory_format=layout).eval()
    if job.once:
        network = rv.Passes(network)
    images, y = (saved[key][: job.images].to(device) for key in ("images", "labels"))
    data = ours.Data(network, (images.float() / 255).to(memory_format=layout), y, images)
    torch.manual_seed(0)
    function = calls[implementation if implementation in (GAUSSIAN, FIXED) else job.kind]
    return functools.partial(function, job, data), y.cpu().numpy()


def build(name: str) -> Any:
    """Make the network that weights of this name belong to."""
    from torch import nn

    import rvlib as rv

    if name == "small":
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 10))
    return rv.resnet18() if name == "resnet18" else rv.lenet()


def prepare(path: Path, device: str, trained_on: int) -> Path:
    """Write images, labels and weights for all implementations; train what is not shipped."""
    import torch

    import rvlib as rv

    lenets, model = ("standard", "pgd-linf-at", "gaussian-0.25"), rv.Run.open("course").model
    weights = {name: model(name).state_dict() for name in lenets}
    train = tuple(tensor[:trained_on] for tensor in rv.load("cifar10", "train"))
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("resnet18", "small"):
        file = path.parent / f"{name}-{trained_on}.pt"
        if not file.exists():
            torch.manual_seed(0)
            network = build(name)
            rv.fit(network, rv.gaussian(SIGMA), train, epochs=1, device=device)
            torch.save(network.state_dict(), file)
        weights[name] = torch.load(file, map_location="cpu")
    images, labels = (tensor[:1024].clone() for tensor in rv.load("cifar10", "heldout"))
    torch.save({"images": images, "labels": labels, "weights": weights}, path)
    return path
