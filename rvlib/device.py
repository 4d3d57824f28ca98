"""Where to compute, and what to say about it in a record."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import rvlib
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
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from None
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
        the point, as it may by default: a network is then another function, and so is what its
        votes certify.
    """
    rounds = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return "tf32" if device.type == "cuda" and rounds else "float32"


def provenance(device: torch.device) -> dict[str, Any]:
    """Say which code, on what, when: part of every record.

    Parameters
    ----------
    device : torch.device
        What was computed on.

    Returns
    -------
    dict
        ``rvlib, commit, torch, python, device, memory, date``; the commit ends in ``+`` where the
        package had uncommitted changes, and is ``"unknown"`` outside a checkout; `memory` is the
        budget in bytes that batch sizes follow from (``rvlib.memory``).
    """
    return {
        "rvlib": rvlib.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": device_name(device),
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
