"""Weights on disk: a safetensors file and, beside it, the record of how they came about."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rvlib.files import write_whole


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or not what was asked for."""


def save_weights(model: nn.Module, path: Path | str, record: dict[str, Any]) -> str:
    """Write ``path`` (.safetensors) and its record (.json) so that neither is ever half there.

    Parameters
    ----------
    model : nn.Module
        The network whose parameters and buffers are written.
    path : Path or str
        Ends in ``.safetensors``; the record goes beside it as ``.json``.
    record : dict
        Recipe, epochs, seed, data digest, commit, versions, device, time, accuracies.  The
        digest of the weights is added under ``sha256``.

    Returns
    -------
    str
        SHA-256 of the weights file.

    Raises
    ------
    ValueError
        If `path` has another ending, or two parameters are one: nothing is written then.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} does not end in .safetensors, as weights do: their record goes beside them as "
            ".json"
        )
    _check_apart(model.state_dict())
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(state)
    digest = hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    text = json.dumps({**record, "sha256": digest}, indent=2) + "\n"
    # The record last: weights without a record count as not yet there.
    write_whole(path.with_suffix(".json"), text.encode())
    return digest


def _check_apart(state: dict[str, Tensor]) -> None:
    """Refuse parameters that share memory, which safetensors does not write."""
    names: dict[tuple[torch.device, int], str] = {}
    for name, value in state.items():
        first = names.setdefault((value.device, value.data_ptr()), name)
        if first != name and value.numel():
            raise ValueError(
                f"{first} and {name} share memory, which weights on disk cannot: give one of them "
                "a clone() of its own"
            )


def load_weights(model: nn.Module, path: Path | str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Load weights into `model` after checking that they are what they claim to be.

    Parameters
    ----------
    model : nn.Module
        The network to fill; its parameters are replaced in place.
    path : Path or str
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
    path = Path(path)
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
        raise WeightsError(
            f"{path} was made by another recipe (differs in {', '.join(different)}): "
            "restore it from git or train again"
        )
    try:
        fill(model, load(content))
    except (ValueError, SafetensorError) as error:
        raise WeightsError(
            f"{path} holds the weights of another network: restore it from git or train again"
        ) from error
    return record


def fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put parameters and buffers into a network, or leave it as it is where they do not fit.

    ``load_state_dict`` alone copies what fits before it complains of what does not.

    Parameters
    ----------
    model : nn.Module
        The network to fill.
    state : dict of str to Tensor
        As its ``state_dict`` gives them.

    Raises
    ------
    ValueError
        If names or shapes differ.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != shapes:
        raise ValueError("names or shapes of parameters differ")
    model.load_state_dict(state)


def read_record(path: Path | str) -> dict[str, Any]:
    """Read the record beside a weights file.

    Parameters
    ----------
    path : Path or str
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
    beside = Path(path).with_suffix(".json")
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


def pack(tree: Any) -> bytes:
    """Write nested values and tensors as bytes that can be trusted: no pickle, and a digest first.

    Parameters
    ----------
    tree : dict, list, Tensor, str, int, float, bool or None
        The values, nested as they like.

    Returns
    -------
    bytes
        A line with the SHA-256 of all that follows, a line of JSON, the tensors as safetensors.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            # A copy: safetensors refuses tensors that share memory.
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(value, Mapping):
            # Pairs, because the keys of JSON's own objects are text only.
            return {"pairs": [[key, plain(item)] for key, item in value.items()]}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    text = json.dumps(plain(tree)).encode()
    content = text + b"\n" + save(tensors)
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unpack(packed: bytes) -> Any:
    """Read what ``pack`` wrote, after comparing its digest.

    Parameters
    ----------
    packed : bytes
        All of it.

    Returns
    -------
    Any
        The values; tuples come back as lists, tensors on the CPU.

    Raises
    ------
    ValueError
        If the digest is not that of the content: nothing of it was parsed then.
    """
    digest, _, content = packed.partition(b"\n")
    if digest != hashlib.sha256(content).hexdigest().encode():
        raise ValueError("its digest is not that of its content")
    text, _, saved = content.partition(b"\n")
    tensors = load(saved)

    def full(value: Any) -> Any:
        if isinstance(value, list):
            return [full(item) for item in value]
        if isinstance(value, dict):
            pairs = value.get("pairs")
            return tensors[value["tensor"]] if pairs is None else {k: full(v) for k, v in pairs}
        return value

    return full(json.loads(text))


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
