"""The only optimiser loop: any network, any objective, resumable after a kill."""

import copy
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rvlib.checks import check_images, check_labels, check_network
from rvlib.data import to_float
from rvlib.device import pick_device
from rvlib.models import WeightsError, to_device
from rvlib.objectives import Objective
from rvlib.progress import progress
from rvlib.results import atomic_write, plain
from rvlib.smoothing.noise import stream

Data = tuple[Tensor, Tensor] | DataLoader[Any]
"""Images (N, C, H, W), bytes or floats in [0, 1], and labels (N,); or batches of both."""

Monitor = Callable[[nn.Module], dict[str, float]]
"""Accuracies on held-out images, by name, measured after each epoch."""


@dataclass
class Fit:
    """What a training gave: the network holds the last epoch's weights.

    Parameters
    ----------
    history : list of dict
        Mean loss and accuracy of each epoch, and what the monitor measured after it.
    best_epoch : int
        Index of the epoch with the highest monitored accuracy; the last one without a monitor.
    best_state : dict
        Its weights, on the CPU; empty without a monitor.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_state: dict[str, Tensor] = field(default_factory=dict)


def fit(
    model: nn.Module,
    objective: Objective,
    train: Data,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    monitor: Monitor | None = None,
    select: str = "natural",
    checkpoint: Path | str | None = None,
    identity: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    log: Callable[[str], None] | None = None,
) -> Fit:
    r"""Train a network with stochastic gradient descent on an objective.

    Each step descends :math:`J(\theta, x, y)`, the `objective`, on one batch.

    Parameters
    ----------
    model : nn.Module
        The network; moved to `device`, trained in place, left in training mode.
    objective : Objective
        The loss of a batch: ``standard``, or what ``gaussian``, ``adversarial``, ... make.
    train : (images, labels) or DataLoader
        Images (N, C, H, W), uint8 or float in [0, 1], with labels (N,) int64, shuffled anew each
        epoch; or a loader of such batches.
    epochs : int
        Passes over the training images.
    batch_size : int, default=32
        Images a step; a loader has its own.
    lr, momentum, weight_decay : float, default=0.01, 0.9, 0
        Of SGD, the default optimiser.
    optimizer : callable, optional
        ``optimizer(parameters)`` makes another one.
    schedule : callable, optional
        ``schedule(optimizer, steps)`` makes a learning-rate scheduler of PyTorch for so many steps,
        stepped after every batch, as
        ``lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=n)``.
    augment : callable, optional
        ``augment(x, generator)`` returns a random version of the batch, on the device.
    autocast : torch.dtype, optional
        Run the objective under autocast in this type, as ``torch.bfloat16``.
    seed : int, default=0
        Of the order of the images and of all noise.
    monitor : callable, optional
        ``monitor(model)`` gives held-out accuracies by name after each epoch.
    select : str, default="natural"
        Which of them chooses the best epoch.
    checkpoint : Path or str, optional
        Written after each epoch, read at the start: a killed training continues, bit for bit.
    identity : dict, optional
        What the checkpoint must be of, beside the arguments above.
    device : torch.device or str, default="cpu"
        Where to train.
    log : callable, optional
        Given one line after each epoch.

    Returns
    -------
    Fit
        The history, and the best epoch with its weights.

    Raises
    ------
    TypeError, ValueError
        If images, labels and network do not fit each other; before the first step.
    FloatingPointError
        If the loss of an epoch is not finite.
    WeightsError
        If the checkpoint is damaged or another training's.

    Examples
    --------
    >>> from rvlib import standard
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> images = torch.cat([torch.zeros(32, 3, 2, 2), torch.ones(32, 3, 2, 2)])
    >>> labels = torch.arange(2).repeat_interleave(32)
    >>> fit(model, standard, (images, labels), epochs=5, lr=0.1).history[-1]["accuracy"]
    1.0
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs={epochs}, batch_size={batch_size}: give at least one of each")
    device = pick_device(str(device))
    model = to_device(model, device)
    batches = _batches(train, int(batch_size), device)
    _check_start(model, train, batch_size, device)
    make = optimizer or (
        lambda p: torch.optim.SGD(p, float(lr), float(momentum), weight_decay=float(weight_decay))
    )
    state = _State(model, make(model.parameters()), seed, device)
    if schedule is not None:
        state.scheduler = schedule(state.optimizer, epochs * len(batches))
    numbers = {"batch_size": batch_size, "lr": lr, "momentum": momentum, "seed": seed}
    recipe = {**numbers, "weight_decay": weight_decay, "select": select, "device": device.type}
    parts = [objective, state.optimizer, state.scheduler, augment]
    recipe |= {"parts": [*map(_name, parts), str(autocast)], "of": schedule and epochs}
    file = None if checkpoint is None else Path(checkpoint)
    if file is not None:
        state.identity = plain({**(identity or {}), "fit": recipe, "data": _digest(train)})
        state.load(file, epochs)
    for epoch in range(len(state.fit.history), epochs):
        title = f"epoch {epoch + 1}/{epochs}"
        with _seeded(device, seed, epoch):
            entry = _epoch(state, objective, batches, augment, autocast, title)
        state.remember(entry | _monitored(monitor, model, select), select)
        if log is not None:
            accuracies = "  ".join(
                f"{k} {v:.1%}" for k, v in state.fit.history[-1].items() if k != "loss"
            )
            log(f"{title}  loss {entry['loss']:.4f}  {accuracies}")
        if file is not None:
            state.save(file)
    return state.fit


@dataclass
class _State:
    """Everything that an unbroken training carries from one epoch to the next."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    device: torch.device
    scheduler: Any = None
    identity: dict[str, Any] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        self.order = stream("cpu", self.seed, "order")
        self.noise = stream(self.device, self.seed, "noise")

    def remember(self, entry: dict[str, float], select: str) -> None:
        """Append an epoch; keep its weights if its monitored accuracy is the highest so far."""
        fit = self.fit
        fit.history.append(entry)
        best = fit.history[fit.best_epoch].get(select, -1.0) if fit.best_state else -1.0
        if select in entry and entry[select] > best:
            fit.best_epoch = len(fit.history) - 1
            fit.best_state = {k: v.cpu().clone() for k, v in self.model.state_dict().items()}
        elif select not in entry:
            fit.best_epoch = len(fit.history) - 1

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "fit": vars(self.fit),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        atomic_write(path, buffer.getvalue())

    def load(self, path: Path, epochs: int) -> None:
        """Continue from a checkpoint of the same training, if there is one."""
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            identity, done = saved["identity"], len(saved["fit"]["history"])
        except FileNotFoundError:
            return
        except Exception as error:
            raise WeightsError(f"{path} cannot be read: delete it and train again") from error
        if identity != self.identity:
            raise WeightsError(f"{path} belongs to another training: delete it or move it away")
        if done > epochs:
            raise WeightsError(f"{path} has {done} epochs, not {epochs}: move it away")
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise WeightsError(f"{path} holds another network: delete it") from error
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        self.fit = Fit(**saved["fit"])


class _Shuffled:
    """Batches of tensors on the device, in an order drawn anew each epoch."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images as floats, and labels."""
        permutation = torch.randperm(len(self.images), generator=order).to(self.images.device)
        for batch in permutation.split(self.batch_size):
            yield self.images[batch], self.labels[batch]


class _Loaded:
    """Batches of a loader, moved to the device."""

    def __init__(self, loader: DataLoader[Any], device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loader's batches; their order is its own affair."""
        for x, y in self.loader:
            yield (
                x.to(self.device, non_blocking=True),
                torch.as_tensor(y).to(self.device, non_blocking=True),
            )


def _batches(train: Data, batch_size: int, device: torch.device) -> _Shuffled | _Loaded:
    if isinstance(train, DataLoader):
        return _Loaded(train, device)
    if not isinstance(train, Sequence) or len(train) != 2:
        raise TypeError(f"train is {type(train).__name__}: give (images, labels) or a DataLoader")
    images, labels = train
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
        raise TypeError("images and labels are no tensors: use torch.as_tensor")
    return _Shuffled(images.to(device), labels.to(device), batch_size)


def _floats(x: Tensor) -> Tensor:
    """Pixels in [0, 1], in the memory layout that convolutions are fastest in."""
    x = to_float(x) if x.dtype == torch.uint8 else x
    return x.contiguous(memory_format=torch.channels_last)


def _check_start(model: nn.Module, train: Data, batch_size: int, device: torch.device) -> None:
    """Refuse before the first step what would fail after an epoch's work."""
    if isinstance(train, DataLoader):
        with _seeded(device):  # a loader that shuffles draws its order
            images, labels = map(torch.as_tensor, next(iter(train)))
    else:
        images, labels = train
    x = _floats(images[:1]).to(device)
    check_images(images if images.is_floating_point() else x)
    check_network(model, x, check_labels(labels, images))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the network has no parameter to train: use model.requires_grad_(True)")
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError("gradients are switched off: call fit outside of torch.no_grad()")
    if _smallest(train, batch_size) == 1:
        _check_one_image(model, x)


def _smallest(train: Data, batch_size: int) -> int | None:
    """Images of the last batch; None where a loader keeps that to itself."""
    if not isinstance(train, DataLoader):
        return (len(train[0]) - 1) % batch_size + 1
    if train.batch_size is None or train.drop_last or not hasattr(train.dataset, "__len__"):
        return train.batch_size
    return (len(train.dataset) - 1) % train.batch_size + 1


def _check_one_image(model: nn.Module, x: Tensor) -> None:
    """Refuse a batch of one image where batch normalisation has no variance to divide by."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return
    try:
        with torch.no_grad(), _seeded(x.device):
            copy.deepcopy(model).train()(x)
    except ValueError as error:
        raise ValueError(
            "the last batch would hold one image, which batch normalisation cannot train on: "
            "choose another batch_size"
        ) from error


@contextmanager
def _seeded(device: torch.device, *address: int) -> Iterator[None]:
    """Seed PyTorch's own generators, which dropout and loaders draw from, and restore them."""
    seed = stream("cpu", "layers", *address).initial_seed()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def _epoch(
    state: _State,
    objective: Objective,
    batches: _Shuffled | _Loaded,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None,
    autocast: torch.dtype | None,
    title: str,
) -> dict[str, float]:
    """One pass over the training images; mean loss and accuracy as they passed."""
    model, device = state.model.train(), state.device
    seen, loss_sum, correct = 0, torch.zeros((), device=device), torch.zeros((), device=device)
    for x, y in progress(batches.epoch(state.order), title, len(batches)):
        x = _floats(x)
        if augment is not None:
            x = augment(x, state.noise)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            loss, logits = objective(model, x, y, state.noise)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        if state.scheduler is not None:
            state.scheduler.step()
        seen += len(x)
        loss_sum += loss.detach() * len(x)
        correct += (logits.detach().argmax(1) == y).sum()
    mean = loss_sum.item() / seen
    if not math.isfinite(mean):
        raise FloatingPointError(f"{title}: the loss is {mean}; lower the learning rate")
    return {"loss": mean, "accuracy": correct.item() / seen}


def _monitored(monitor: Monitor | None, model: nn.Module, select: str) -> dict[str, float]:
    if monitor is None:
        return {}
    found = {name: float(value) for name, value in monitor(model).items()}
    if select not in found:
        raise ValueError(f"select={select!r} is none of the monitor's {', '.join(found)}")
    return found


def _name(part: Any) -> str:
    """Name of a function, or of an object's class."""
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def _digest(train: Data) -> str:
    """Digest of training images and labels; a loader has none."""
    if isinstance(train, DataLoader):
        return "a loader"
    digest = hashlib.sha256()
    for tensor in train:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
