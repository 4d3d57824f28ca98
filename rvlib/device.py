"""Where to compute, and what to say about it in a record."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import rvlib
from rvlib.checks import first_line
from rvlib.memory import budget


def pick_device(name: str | None = None) -> torch.device:
    """Choose the device: the named one, else the GPU where torch sees one, else the CPU.

    Parameters
    ----------
    name : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` chooses.

    Returns
    -------
    torch.device
        A device that can be used.

    Raises
    ------
    ValueError
        If the named device is not one that torch can use here.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name in (None, "auto", ""):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device "meta" has tensors, but no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {first_line(error)}") from None
    return device


def device_name(device: torch.device) -> str:
    """Name the hardware.

    Parameters
    ----------
    device : torch.device
        What is computed on.

    Returns
    -------
    str
        The GPU's model, or the CPU's with the number of threads used.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def arithmetic(device: torch.device) -> str:
    """Say what a network's convolutions and products of ``float32`` are really computed in.

    Parameters
    ----------
    device : torch.device
        What is computed on.

    Returns
    -------
    str
        ``"float32"``; ``"tf32"`` on a GPU where PyTorch may round their factors to 10 bits after
        the point, as it may by default; ``"bf16"`` or ``"tf32"`` on a CPU that was told to round
        them; the type of ``torch.autocast`` inside of one.  A network is then another function,
        and so is what its votes certify.
    """
    if torch.is_autocast_enabled(device.type):
        return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
    if device.type == "cuda":
        rounds = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        return "tf32" if rounds else "float32"
    return _onednn_rounds_to() or "float32"


def _onednn_rounds_to() -> str | None:
    """Say what a CPU's library of convolutions and products was told to round ``float32`` to."""
    libraries: Any = torch.backends
    onednn, everything = libraries.mkldnn, libraries.fp32_precision
    for kind in (onednn.conv, onednn.matmul):
        # What is not said of a kind is said of the library, or of all libraries.
        said = (kind.fp32_precision, onednn.fp32_precision, everything)
        decided = next((precision for precision in said if precision != "none"), "ieee")
        if decided != "ieee":
            return str(decided)
    return None


@contextmanager
def repeatable(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Compute so that the same work, done again on the same machine, gives the same bits.

    How many threads share a sum, and which algorithm a GPU's library picks, decide in which order
    it is added up and so how it is rounded.

    Parameters
    ----------
    device : torch.device
        What is computed on.
    threads : int, default=None
        On a CPU, how many threads compute inside; as many as before by default.

    Yields
    ------
    None
        On a CPU the threads are held; on a GPU cuDNN may only use algorithms that repeat.
    """
    before = torch.get_num_threads()
    fixed, tried = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        if device.type == "cuda":
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        elif threads is not None and threads != before:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = fixed, tried
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def provenance(device: torch.device) -> dict[str, Any]:
    """Say which code, on what, when: part of every record.

    Parameters
    ----------
    device : torch.device
        What was computed on.

    Returns
    -------
    dict
        ``rvlib, commit, torch, python, device, threads, arithmetic, memory, date``; the commit ends
        in ``+`` where the package had uncommitted changes, and is ``"unknown"`` outside a checkout;
        `threads` are those of the CPU; `memory` is the budget in bytes that batch sizes follow from
        (``rvlib.memory``).
    """
    return {
        "rvlib": rvlib.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "arithmetic": arithmetic(device),
        "memory": budget(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    package = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=package, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
