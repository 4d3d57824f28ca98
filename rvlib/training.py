"""The only optimiser loop: any network, any objective, resumable after a kill."""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rvlib.checks import check_number, check_whole
from rvlib.data import to_float
from rvlib.device import pick_device
from rvlib.files import write_whole
from rvlib.frozen import answering, check_network, taking
from rvlib.models.weights import WeightsError, fill, pack, to_device, unpack
from rvlib.noise import stream
from rvlib.objectives import Objective
from rvlib.objectives.base import check_objective
from rvlib.types import check_stored

Split = tuple[Tensor, Tensor]
"""Images (N, 3, 32, 32) uint8 and labels (N,) int64."""

Monitor = Callable[[nn.Module], dict[str, float]]
"""Accuracies on held-out images, by name, measured after each epoch."""


@dataclass
class Fit:
    """What a training gave: the network holds the last epoch's weights.

    Parameters
    ----------
    history : list of dict
        One entry an epoch: ``loss, accuracy`` (on the training images as they passed) and
        the monitor's accuracies.
    best_epoch : int
        The epoch that the monitor's chosen figure was highest in.
    best_state : dict
        That epoch's weights.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_state: dict[str, Tensor] = field(default_factory=dict)


def fit(
    model: nn.Module,
    objective: Objective,
    train: Split,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 0.01,
    momentum: float = 0.9,
    seed: int = 0,
    monitor: Monitor | None = None,
    select: str = "natural",
    checkpoint: Path | str | None = None,
    identity: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    log: Callable[[str], None] = print,
) -> Fit:
    """Train a network with stochastic gradient descent.

    Parameters
    ----------
    model : nn.Module
        The network, initialised; trained in place and moved to `device`.
    objective : Objective
        The loss of a batch (``rvlib.objectives``).
    train : pair of Tensor
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.
    epochs : int, >= 1
        Passes over the training images, each in a fresh order; the last batch may be smaller.
    batch_size : int, default=32
        Images a step.
    lr, momentum : float, default=0.01, 0.9
        Of SGD; constant, as in the report.
    seed : int, default=0
        Of the order and of the objective's randomness; initial weights are the caller's.
    monitor : callable, default=None
        Measures accuracies on held-out images after each epoch.
    select : str, default="natural"
        Which of the monitor's figures decides the best epoch.
    checkpoint : Path or str, default=None
        Rewritten after each epoch with weights, optimiser and random state; if it is there, the
        training goes on from it and ends with the same weights as an unbroken one.
    identity : dict, default=None
        What the checkpoint belongs to beyond images, labels, `batch_size`, `lr`, `momentum`,
        `seed`, `select` and the kind of device, which it always tells; another one's is refused.
    device : torch.device or str, default="cpu"
        Where to train.
    log : callable, default=print
        Takes one line an epoch.

    Returns
    -------
    Fit
        The history and the best epoch; `model` holds the last epoch.

    Raises
    ------
    TypeError, ValueError
        If network or objective are none, no parameter may change, the images are not stored ones,
        the labels do not fit them or the network, or a number or the device makes no training.
    WeightsError
        If the checkpoint is unreadable or belongs to another training.
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size)
    for name, value in (("lr", lr), ("momentum", momentum)):
        check_number(name, value, f"{name}=0.01" if name == "lr" else f"{name}=0.9")
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be finite and >= 0")
    _check_parts(model, objective, train)
    largest_label = check_stored(*train)
    device = pick_device(str(device))
    model = to_device(model, device)
    images, labels = (tensor.to(device) for tensor in train)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    order = stream("cpu", seed, "order")
    noise = stream(device, seed, "noise")
    checkpoint = None if checkpoint is None else Path(checkpoint)
    state = _State(model, optimizer, order, noise, Fit(), dict(identity or {}))
    if checkpoint is not None:
        numbers = {"batch_size": batch_size, "lr": lr, "momentum": momentum, "seed": seed}
        kind = torch.device(device).type  # another kind of device has other generators
        state.identity |= {
            "fit": {**numbers, "select": select, "device": kind, "data": _sum(train)}
        }
        if checkpoint.exists():
            state.load(checkpoint)
    for epoch in range(len(state.fit.history), epochs):
        title = f"epoch {epoch + 1}/{epochs}"
        with answering(model, largest_label), taking(model, to_float(images[:1])):
            entry = _epoch(state, objective, images, labels, batch_size, title)
        if monitor:
            entry |= monitor(model)
            if select not in entry:
                raise ValueError(f"select={select!r} is none of {', '.join(entry)}")
        _remember(state.fit, entry, model, select)
        log(_line(epoch + 1, epochs, entry))
        if checkpoint is not None:
            state.save(checkpoint)
    return state.fit


def _check_parts(model: nn.Module, objective: Objective, train: object) -> None:
    """Refuse what is no network with something to learn, no objective, no pair of tensors."""
    check_network(model)
    check_objective(objective)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the network has no parameter to train: use model.requires_grad_(True)")
    if not isinstance(train, tuple | list) or len(train) != 2:
        many = f" of {len(train)}" if isinstance(train, tuple | list) else ""
        raise TypeError(f"train is {type(train).__name__}{many}: give (images, labels)")


@dataclass
class _State:
    """Everything that an unbroken training would carry from one epoch to the next."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    noise: torch.Generator
    fit: Fit
    identity: dict[str, Any]

    def _content(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "history": self.fit.history,
            "best_epoch": self.fit.best_epoch,
            "best_state": self.fit.best_state,
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, pack(self._content()))

    def load(self, path: Path) -> None:
        try:
            saved = unpack(path.read_bytes())
            if saved.keys() != self._content().keys():
                raise KeyError("another file's content")
        except Exception as error:
            raise WeightsError(f"{path} cannot be read: delete it and train again") from error
        # As it comes back from a file: with lists for tuples.
        if saved["identity"] != unpack(pack(self.identity)):
            raise WeightsError(f"{path} belongs to another training: delete it or move it away")
        try:
            fill(self.model, saved["model"])
        except (ValueError, AttributeError) as error:
            raise WeightsError(f"{path} holds another network: delete it") from error
        self.optimizer.load_state_dict(saved["optimizer"])
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # In the parameter's layout again, which the file does not keep.
                    state[name] = torch.empty_like(parameter).copy_(value)
        try:
            self.order.set_state(saved["order"])
            self.noise.set_state(saved["noise"])
        except (RuntimeError, TypeError) as error:
            raise WeightsError(f"{path} cannot be read: delete it and train again") from error
        self.fit = Fit(saved["history"], saved["best_epoch"], saved["best_state"])


def _sum(train: Split) -> str:
    """Make a digest of training images and labels."""
    digest = hashlib.sha256()
    for tensor in train:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _epoch(
    state: _State,
    objective: Objective,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    title: str,
) -> dict[str, float]:
    """One pass over the training images; returns mean loss and accuracy as they passed."""
    state.model.train()
    order = torch.randperm(len(images), generator=state.order).to(images.device)
    loss_sum = torch.zeros((), device=images.device, dtype=torch.float64)
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    # disable=None: a bar where a person watches a terminal, nothing in logs and notebooks.
    bar = tqdm(order.split(batch_size), desc=title, disable=None, leave=False, mininterval=0.5)
    for step, batch in enumerate(bar, start=1):
        x = to_float(images[batch]).contiguous(memory_format=torch.channels_last)
        y = labels[batch]
        loss, logits = objective(state.model, x, y, state.noise)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        loss_sum += loss.detach() * len(batch)
        correct += (logits.argmax(1) == y).sum()
        if step % 100 == 0 and not bar.disable:  # reading the figures waits for the device
            seen = step * batch_size
            bar.set_postfix(loss=f"{loss_sum / seen:.3f}", accuracy=f"{correct / seen:.1%}")
    mean = loss_sum.item() / len(images)
    if not abs(mean) < float("inf"):
        raise FloatingPointError(f"{title}: the loss is {mean}; lower the learning rate")
    return {"loss": mean, "accuracy": correct.item() / len(images)}


def _remember(fit: Fit, entry: dict[str, float], model: nn.Module, select: str) -> None:
    """Append an epoch, and keep its weights if its held-out figure is the highest so far."""
    fit.history.append(entry)
    best = fit.history[fit.best_epoch].get(select, 0.0) if fit.best_state else -1.0
    if entry.get(select, 0.0) > best:
        fit.best_epoch = len(fit.history) - 1
        fit.best_state = copy.deepcopy(model.state_dict())


def _line(epoch: int, epochs: int, entry: dict[str, float]) -> str:
    accuracies = "  ".join(f"{k} {v:.1%}" for k, v in entry.items() if k != "loss")
    return f"epoch {epoch}/{epochs}  loss {entry['loss']:.4f}  {accuracies}"
