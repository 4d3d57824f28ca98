"""The process in which a student's function runs: it has nothing to judge the function with.

What it sends back is data: ``torch.load(weights_only=True)`` runs nothing that it may hold. The
answers lie beside it: Python refuses to import or open them there, and to run another program.
"""

import io
import linecache
import os
import pickle
import random
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rvlib.course
from rvlib.course.calls import Call, Failure, observe

Code = Sequence[tuple[int, str]]
"""Statements to run: the number of their cell and their text, on the lines that it has there."""
READY = b"ready"
GIGABYTES = 4
"""Memory that a student's code may ask for, beside what PyTorch has."""
LARGEST = 2**24
"""Bytes of a result."""
ANSWERS = str(Path(__file__).with_name("exercises"))
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
"""Events by which Python announces that it runs another program."""


def serve(connection: Connection, code: Code, name: str) -> None:
    """Define a function, then answer calls until the other side hangs up.

    Parameters
    ----------
    connection : Connection
        Receives the pickled arguments of one call after the other, sends what `pack` makes.
    code : sequence of tuple of int and str
        Defines the function.
    name : str
        The function.
    """
    sys.addaudithook(_refuse)
    # A student who imports it anew patches nothing that is used here.
    del sys.modules[observe.__module__], rvlib.course.calls
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    torch.set_num_threads(1)
    _limit_memory()
    connection.send_bytes(READY)
    failure, function = _define(code, name)
    while True:
        try:
            case = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        content = pack(failure or _in_memory(observe(function, case)))
        if len(content) > LARGEST:
            content = pack(Call(Failure(f"Your function returns more than {LARGEST >> 20} MB")))
        connection.send_bytes(content)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Keep Python from the answers; what reads files past Python's own functions is not seen."""
    if event in PROGRAMS:
        raise PermissionError("grading runs no other program")
    if event == "import" and arguments[0].startswith("rvlib.course.exercises"):
        raise ImportError("the answers are not there in grading")
    if event in ("open", "os.link", "os.rename") and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        # Nor a folder above them, which os.open would take as a place to open them from.
        if path.startswith(ANSWERS) or ANSWERS.startswith(path):
            raise PermissionError("the answers are not there in grading")


def _limit_memory() -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return  # not on Linux
    most = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _in_memory(call: Call) -> Call:
    """Say plainly that memory was refused."""
    words = call.result if isinstance(call.result, Failure) else ""
    if "MemoryError" in words or "can't allocate memory" in words:
        return Call(Failure(f"Your function asks for more than {GIGABYTES} GB of memory"))
    return call


def _define(code: Code, name: str) -> tuple[Call | None, Any]:
    scope: dict[str, Any] = {"__name__": "__main__"}
    for number, (cell, text) in enumerate(code):
        file = f"<cell {cell}, statement {number}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        try:
            exec(compile(text, file, "exec"), scope)
        except Exception as error:
            words = f"Cell {cell} stops with `{type(error).__name__}: {error}`"
            return Call(Failure(words.partition("\n")[0])), None
    return None, scope.get(name)


def pack(call: Call) -> bytes:
    """Write a call as data."""
    content = io.BytesIO()
    torch.save((_plain(call.result), *call[1:]), content)
    return content.getvalue()


def unpack(content: bytes) -> Call:
    """Read what `pack` wrote, running nothing of it.

    Raises
    ------
    pickle.UnpicklingError
        If it is anything else.
    """
    result, *rest = torch.load(io.BytesIO(content), weights_only=True)
    return Call(_restored(result), *rest)


def _plain(value: Any) -> Any:
    """Write as tensors and Python's own types; others keep only the name of their type."""
    if isinstance(value, Failure):
        return {"failure": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor).clone().cpu()  # without the storage that it may share
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {"array": torch.tensor(np.asarray(value, dtype=float)), "kind": value.dtype.kind}
    if isinstance(value, list | tuple):  # a named tuple as a plain one
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    return {"type": type(value).__name__}


def _restored(value: Any) -> Any:
    match value:
        case {"failure": words}:
            return Failure(words)
        case {"array": array, "kind": kind}:
            restored = array.numpy().astype(float if kind == "f" else int)
            return restored if restored.shape else restored.item()
        case {"type": name}:
            return type(str(name), (), {})()
        case list() | tuple():
            return type(value)(map(_restored, value))
    return value
