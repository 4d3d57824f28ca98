"""Weights on disk: a safetensors file and, beside it, the record of how they came about."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from rvlib.files import write_whole


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or not what was asked for."""


def save_weights(model: nn.Module, path: Path, record: dict[str, Any]) -> str:
    """Write ``path`` (.safetensors) and its record (.json) so that neither is ever half there.

    Parameters
    ----------
    model : nn.Module
        The network whose parameters and buffers are written.
    path : Path
        Ends in ``.safetensors``; the record goes beside it as ``.json``.
    record : dict
        Recipe, epochs, seed, data digest, commit, versions, device, time, accuracies.  The
        digest of the weights is added under ``sha256``.

    Returns
    -------
    str
        SHA-256 of the weights file.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(state)
    digest = hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    text = json.dumps({**record, "sha256": digest}, indent=2) + "\n"
    # The record last: weights without a record count as not yet there.
    write_whole(path.with_suffix(".json"), text.encode())
    return digest


def load_weights(model: nn.Module, path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Load weights into `model` after checking that they are what they claim to be.

    Parameters
    ----------
    model : nn.Module
        The network to fill; its parameters are replaced in place.
    path : Path
        The ``.safetensors`` file.
    recipe : dict
        The recipe the weights must have been made by (``rvlib.recipes``).

    Returns
    -------
    dict
        The record.

    Raises
    ------
    WeightsError
        If the file or its record is missing, its digest is not the recorded one, it was made by
        another recipe, or it does not fit the network.
    """
    record = read_record(path)
    if not path.exists():
        raise WeightsError(f"{path} is missing: train it (`rvlib train`) or restore it from git")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != record["sha256"]:
        raise WeightsError(
            f"{path} is not the file its record describes (sha256 {digest[:12]}, recorded "
            f"{record['sha256'][:12]}): restore it from git or train again"
        )
    recorded = record["recipe"]
    different = sorted(
        k
        for k in recipe.keys() | recorded.keys()
        if k not in recipe or k not in recorded or recipe[k] != recorded[k]
    )
    if different:
        raise WeightsError(f"{path} was made by another recipe (differs in {', '.join(different)})")
    try:
        model.load_state_dict(load(content))
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{path} holds the weights of another network") from error
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Read the record beside a weights file.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file.

    Returns
    -------
    dict
        The record, with at least ``sha256`` and ``recipe``.

    Raises
    ------
    WeightsError
        If there is none, or it cannot be read.
    """
    beside = path.with_suffix(".json")
    try:
        record = json.loads(beside.read_text())
        if not isinstance(record["sha256"], str) or not isinstance(record["recipe"], dict):
            raise KeyError("sha256, recipe")
    except FileNotFoundError:
        raise WeightsError(
            f"{beside} is missing: train the model (`rvlib train`) or restore it from git"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{beside} is not a weights record: restore it from git") from None
    return dict(record)


def to_device(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to a device in the memory layout that convolutions run fastest in.

    Parameters
    ----------
    model : nn.Module
        The network.
    device : torch.device or str
        Where to.

    Returns
    -------
    nn.Module
        The same network, its convolution weights in ``channels_last``.
    """
    # mypy does not know this overload of Module.to.
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
