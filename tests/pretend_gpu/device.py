"""A pretend GPU, ``device.cpp``: built once, then the device ``"pretend"``.

A process that has loaded it keeps it, so tests load it in a process of their own.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

NAME = "pretend"
SOURCE = Path(__file__).with_name("device.cpp")
TORCH = Path(torch.__file__).parent


def compiler() -> str | None:
    """Find a C++ compiler: ``CXX``, or the system's."""
    return shutil.which(os.environ.get("CXX", "c++"))


def build() -> Path:
    """Compile the device for this PyTorch (half a minute), unless that was done before."""
    text = f"{torch.__version__} {compiler()} ".encode() + SOURCE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rvlib"
    library = cache / f"pretend-gpu-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [compiler() or "c++", "-std=c++20", "-O0", "-w", "-shared", "-fPIC", str(SOURCE)]
        headers = [TORCH / "include", TORCH / "include/torch/csrc/api/include"]
        command += [f"-I{folder}" for folder in headers]
        command += [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(unfinished)]
        subprocess.run(command, check=True)
        unfinished.replace(library)
    return library


def load(library: Path) -> None:
    """Make the device known to PyTorch."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    own, module = torch.ops.pretend_gpu, types.ModuleType(f"torch.{NAME}")
    functions = {
        **{"is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1},
        **{"current_device": lambda: 0, "_is_in_bad_fork": lambda: False},
        **{"manual_seed": own.seed, "manual_seed_all": own.seed},
        "get_rng_state": lambda device=None: own.get_state(),
        "set_rng_state": lambda state, device=None: own.set_state(state),
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "get_device_name": lambda device=None: "a pretend GPU",
        "synchronize": lambda device=None: None,
    }
    vars(module).update(functions)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()


@dataclass
class Cost:
    """What work cost: kernels by name, waits for a number, copies to and from the device."""

    by_name: dict[str, int] = field(default_factory=dict)
    waits: int = 0
    uploads: int = 0
    downloads: int = 0

    @property
    def kernels(self) -> int:
        """Kernels in all."""
        return sum(self.by_name.values())


@contextlib.contextmanager
def counted() -> Iterator[Cost]:
    """Count what the block costs."""
    cost, own = Cost(), torch.ops.pretend_gpu
    own.reset()
    try:
        yield cost
    finally:
        cost.by_name = dict(own.kernels())
        cost.waits, cost.uploads, cost.downloads = own.counts()
