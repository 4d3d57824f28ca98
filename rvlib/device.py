"""Where to compute, and what a record says about it."""

import dataclasses
import dis
import functools
import hashlib
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

import rvlib


def pick_device(name: str | None = None) -> torch.device:
    """Choose the device: the named one, else the GPU where torch sees one, else the CPU.

    Parameters
    ----------
    name : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

    Returns
    -------
    torch.device
        It can compute.

    Raises
    ------
    ValueError
        If the device cannot be used here.
    """
    if not name or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device "meta" has tensors, but no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from None
    return device


def choose_algorithms(deterministic: bool = False) -> None:
    """Let a GPU time its convolutions and keep the fastest, or take those that repeat their bits.

    It holds for the process and those that it starts, notebooks' kernels for instance
    (``RVLIB_DETERMINISTIC=1``).  On a CPU the same work gives the same bits either way.

    Parameters
    ----------
    deterministic : bool, default=False
        Whether the same work on the same GPU must give the same bits; so it is also where PyTorch
        was asked for deterministic algorithms before.
    """
    asked = torch.are_deterministic_algorithms_enabled()
    deterministic |= asked or os.environ.get("RVLIB_DETERMINISTIC") == "1"
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ["RVLIB_DETERMINISTIC"] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read with the first product
    if deterministic and not asked:  # perhaps with warnings for errors
        torch.use_deterministic_algorithms(True)


def arithmetic(device: torch.device) -> str:
    """Name the type that a network's float32 convolutions and products are computed in.

    Returns
    -------
    str
        ``"float32"``, or ``"tf32"``, ``"bf16"``, or the type of an active autocast.
    """
    if torch.is_autocast_enabled(device.type):
        return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
    backends: Any = torch.backends  # the precision settings are not in PyTorch's type stubs
    gpu, cpu = (backends.cudnn, backends.cuda), (backends.mkldnn, backends.mkldnn)
    conv, product = gpu if device.type == "cuda" else cpu
    for settings in ((conv.conv, conv, backends), (product.matmul, product, backends)):
        # What is not set for an operation is inherited from its library, or from all of them.
        said = [getattr(place, "fp32_precision", "none") for place in settings]
        decided = next((precision for precision in said if precision != "none"), "ieee")
        if decided != "ieee":
            return str(decided)
    return "float32"


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Restore PyTorch's own generators afterwards, the CPU's and the device's."""
    devices = [] if device.type == "cpu" else [device]
    return torch.random.fork_rng(devices, device_type=device.type)


def digest_of(tensors: Iterable[torch.Tensor], text: str = "") -> str:
    """Digest of the values, shapes and types of tensors, and of a text."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().view(-1)
        digest.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
    return digest.hexdigest()[:16]


def fields(part: Any) -> Any:
    """Options of an object: those attributes that are values or functions; of a network none."""
    if isinstance(part, type | ModuleType | torch.nn.Module) or inspect.isroutine(part):
        return {}
    values = bool | int | float | str | np.generic | np.ndarray | torch.Tensor
    own = getattr(part, "__dict__", {}).items()
    whole = dataclasses.is_dataclass(part)
    return {k: v for k, v in own if whole or isinstance(v, values) or callable(v)}


def described(
    part: Any, options: Callable[[Any], Any] = fields, seen: frozenset[int] = frozenset()
) -> Any:
    """Describe a function or an object by its name and options, a lambda by what is written in it.

    Parameters
    ----------
    part : Any
        A function (with what it closes over), a ``functools.partial``, an object.
    options : callable, default=fields
        Gives the options of an object, or of that which a method is bound to; of a network by
        default none.

    Returns
    -------
    Any
        Plain values: two that differ are two different recipes.
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, np.ndarray):
        return digest_of([], f"{part.dtype} {part.shape} {part.tobytes()!r}")
    if id(part) in seen:
        return "itself"
    again = functools.partial(described, options=options, seen=seen | {id(part)})
    if isinstance(part, Mapping):
        return {str(key): again(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [again(value) for value in part]
    if isinstance(part, set | frozenset):  # of no order of their own
        return sorted(str(again(value)) for value in part)
    if isinstance(part, torch.Tensor):
        return digest_of([part])
    if isinstance(part, functools.partial):
        return [again(each) for each in (part.func, part.args, part.keywords)]
    name = getattr(part, "__qualname__", type(part).__qualname__)
    if inspect.isfunction(part):
        if "<" not in name:  # found by its name: its code may be tidied between two runs
            return name
        closed = inspect.getclosurevars(part).nonlocals
        # What it closes over and can fill may change while it runs: a list of what it has seen.
        closed = {k: v for k, v in closed.items() if not isinstance(v, list | dict | set)}
        written = _written(part.__code__) if name.endswith("<lambda>") else []
        return [name, *map(again, (part.__defaults__, part.__kwdefaults__, written, closed))]
    if inspect.ismethod(part):  # whose options are those of what it is bound to
        name, part = again(part.__func__), part.__self__
    own = options(part)
    return [name, again(own)] if own else name


def _written(code: CodeType) -> list[Any]:
    """List operations, numbers, texts and names of a function and of those inside it."""
    inner = [_written(const) for const in code.co_consts if isinstance(const, CodeType)]
    own = [const for const in code.co_consts if isinstance(const, int | float | str)]
    return [digest_of([], code.co_code.hex()), *own, *code.co_names, *inner]


def source_of(thing: Any) -> str:
    """Source of a function or class; of a class typed into a notebook that of its methods."""
    thing = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        parts = [str(getattr(thing, "__qualname__", type(thing).__qualname__))]
        for name, value in vars(thing).items() if inspect.isclass(thing) else ():
            if isinstance(value, FunctionType | staticmethod | classmethod):
                parts.append(source_of(value))
            elif name[:2] != "__":
                parts.append(f"{name} {described(value)}")
        return "\n".join(parts)


def code_of(thing: Any) -> str:
    """Source of a function, class or callable object, of what it inherits and of what it uses.

    Of what is installed only the name counts.  What is reached through the name of a module, and
    lists, dictionaries and sets, which may change while the code runs, are left out.
    """
    told: dict[int, str] = {}
    todo = [thing]
    while todo:
        part = todo.pop()
        part = part if inspect.isclass(part) or inspect.isroutine(part) else type(part)
        if id(part) in told:
            continue
        told[id(part)] = source_of(part)
        if not is_own(part):
            continue
        todo += filter(is_own, getattr(part, "__mro__", ()))
        for name, value in _used(part):
            if isinstance(value, ModuleType | list | dict | set):
                continue
            code = inspect.isfunction(value) or inspect.isclass(value)
            if not code:
                told[id(part)] += f"\n{name} = {described(value)}"
            if is_own(value if code else type(value)):
                todo.append(value)
    return "\n".join(told.values())


def is_own(thing: Any) -> bool:
    """Whether a function or class is the user's: of a notebook, or of a file not installed."""
    name = getattr(thing, "__module__", None) or ""
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__":
        return True
    root = name.partition(".")[0]
    installed = file is None or "site-packages" in file or root in sys.stdlib_module_names
    return not installed and root != "rvlib"


def _used(part: Any) -> list[tuple[str, Any]]:
    """Names of its module that a function, or a method of a class, reads and does not write."""
    members = vars(part).values() if inspect.isclass(part) else [part]
    found: dict[str, Any] = {}
    for member in members:
        function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
        if inspect.isfunction(function):
            written = {i.argval for i in dis.get_instructions(function) if "STORE_" in i.opname}
            names = sorted(_names(function.__code__) - written)
            found |= {n: function.__globals__[n] for n in names if n in function.__globals__}
    return list(found.items())


def _names(code: CodeType) -> set[str]:
    """Names in a function, and in those inside it."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def provenance(device: torch.device) -> dict[str, Any]:
    """Which code, on what, when: part of every record.

    Returns
    -------
    dict
        Versions, the commit of rvlib's own checkout, device, threads, arithmetic, date; the set of
        instructions of a CPU, and of a GPU whether the same work gives the same bits.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    cpu = {"instructions": torch.backends.cpu.get_cpu_capability()}  # others round differently
    return {
        "rvlib": rvlib.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "arithmetic": arithmetic(device),
        **(cpu if device.type == "cpu" else {"deterministic": deterministic}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """Name of the hardware: the GPU's, or the processor's with the number of threads."""
    if hasattr(own := torch.get_device_module(device), "get_device_name"):
        return str(own.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        return model.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    """Commit of this package's own checkout, not of a project that it is installed into."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        quiet = subprocess.DEVNULL
        return subprocess.check_output(["git", *words], cwd=root, stderr=quiet, text=True).strip()

    try:
        changed = git("status", "--porcelain", "--", "rvlib")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
