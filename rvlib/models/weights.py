"""Weights on disk: a safetensors file and, beside it, the record of how they came about."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rvlib.results import atomic_write, plain

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DDP and ``torch.compile`` put before a parameter's name."""


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or not those that were asked for."""


def save_weights(model: nn.Module, path: Path | str, record: dict[str, Any]) -> str:
    """Write ``path`` (.safetensors) and its record (.json).

    Parameters
    ----------
    model : nn.Module
        Whose parameters and buffers are written, under their names in the bare network.
    path : Path or str
        Ends in ``.safetensors``; folders are made.
    record : dict
        Must hold ``recipe``, a dict; NumPy numbers and tuples are written as JSON has them.

    Returns
    -------
    str
        SHA-256 of the weights file, also written into the record.

    Raises
    ------
    ValueError, TypeError
        If the record is no JSON or has no recipe: before anything is written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors")
    if not isinstance(record.get("recipe"), dict):
        raise ValueError("the record has no dict `recipe`: nothing would tell what was trained")
    # clone(): parameters that share memory (tied weights) are written twice.
    state = {k: v.detach().cpu().clone() for k, v in _bare(model.state_dict()).items()}
    content = save({k: v.contiguous() for k, v in state.items()})
    digest = hashlib.sha256(content).hexdigest()
    text = json.dumps({**plain(record), "sha256": digest}, indent=2) + "\n"
    atomic_write(path, content)
    atomic_write(path.with_suffix(".json"), text.encode())  # last: it says that both are there
    return digest


def load_weights(
    model: nn.Module, path: Path | str, recipe: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Load weights into `model` after checking that they are what their record claims.

    Parameters
    ----------
    model : nn.Module
        Network of the same architecture.
    path : Path or str
        The .safetensors file.
    recipe : dict, optional
        What the record must have as ``recipe``.

    Returns
    -------
    dict
        The record.

    Raises
    ------
    WeightsError
        If a file is missing, does not match its record, or is of another recipe or network; the
        network is then unchanged.
    """
    path = Path(path)
    record = read_record(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing: train it (rvlib train)") from None
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise WeightsError(f"{path} is not the file of its record: restore it or train it again")
    if recipe is not None and (differ := differences(record["recipe"], plain(recipe))):
        raise WeightsError(f"{path} is of another recipe (differs in {', '.join(differ)})")
    try:
        target = model.state_dict()
        state, wanted = _bare(load(content)), _bare(target)
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
            raise ValueError("other names or shapes of parameters")
    except (ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} holds the weights of another network ({error})") from error
    model.load_state_dict({k: state[bare] for k, bare in zip(target, wanted, strict=True)})
    return record


def read_record(path: Path | str) -> dict[str, Any]:
    """Read the record beside a weights file.

    Raises
    ------
    WeightsError
        If it is missing or no record.
    """
    beside = Path(path).with_suffix(".json")
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
        if isinstance(record["sha256"], str) and isinstance(record["recipe"], dict):
            return dict(record)
    except FileNotFoundError:
        raise WeightsError(f"{beside} is missing: train the network (rvlib train)") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise WeightsError(f"{beside} is no record of weights: restore it or train again")


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Keys in which two dictionaries differ."""
    missing = object()
    keys = found.keys() | wanted.keys()
    return sorted(k for k in keys if found.get(k, missing) != wanted.get(k, missing))


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name parameters as in the bare network: a wrapper puts its prefix before all of them."""
    for prefix in WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return _bare({name.removeprefix(prefix): value for name, value in state.items()})
    return state
