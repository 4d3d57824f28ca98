"""The process in which a student's function runs: it has nothing to judge the function with.

What it sends back is data: ``torch.load(weights_only=True)`` runs nothing that it may hold.
"""

import io
import linecache
import os
import pickle
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rvlib.course.calls import Call, Failure, observe

Code = Sequence[tuple[int, str]]
"""Statements to run: the number of their cell and their text, on the lines that it has there."""
READY = b"ready"


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
    sys.modules["rvlib.course.exercises"] = None  # type: ignore[assignment]  # holds the answers
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    torch.set_num_threads(1)
    connection.send_bytes(READY)
    failure, function = _define(code, name)
    while True:
        try:
            case = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(pack(failure or observe(function, case)))


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
    torch.save((_plain(call.result), call.changed, call.filled), content)
    return content.getvalue()


def unpack(content: bytes) -> Call:
    """Read what `pack` wrote, running nothing of it.

    Raises
    ------
    pickle.UnpicklingError
        If it is anything else.
    """
    result, changed, filled = torch.load(io.BytesIO(content), weights_only=True)
    return Call(_restored(result), changed, filled)


def _plain(value: Any) -> Any:
    """Write as tensors and Python's own types; others keep only the name of their type."""
    if isinstance(value, Failure):
        return {"failure": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor).cpu()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {"array": torch.tensor(np.asarray(value, dtype=float)), "kind": value.dtype.kind}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
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
