"""The only optimiser loop: any network, any objective, resumable after a kill."""

import copy
import inspect
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from rvlib.checks import (
    OnCopies,
    check_batch,
    check_images,
    check_labels,
    check_network,
    checked_once,
)
from rvlib.data import to_float
from rvlib.device import described, digest_of, pick_device
from rvlib.distributed import add_over_ranks, agreed, check_in_step, rank, whole_batch, world
from rvlib.inference import eval_mode
from rvlib.models import WeightsError, to_device
from rvlib.objectives import Loss, Objective
from rvlib.progress import progress
from rvlib.results import atomic_write, plain
from rvlib.smoothing.noise import seeded, stream

EVERY = 300
"""Seconds between two checkpoints within an epoch."""
STATISTICS = 64
"""Batches on which the batch normalisation of averaged weights is estimated."""

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
        Mean loss and accuracy of each epoch, and what the monitor measured after it; of averaged
        weights under names that begin with ``averaged``.
    best_epoch : int
        Index of the epoch with the highest monitored accuracy; the last one without a monitor.
    best_state : dict
        Its weights, averaged if they are; on the CPU; empty without a monitor.
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
    average: float | None = None,
    average_from: int = 0,
    seed: int = 0,
    monitor: Monitor | None = None,
    select: str = "natural",
    stop_below: float = 0.0,
    checkpoint: Path | str | None = None,
    identity: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    log: Callable[[str], None] | None = None,
) -> Fit:
    r"""Train a network with stochastic gradient descent on an objective.

    Each step descends :math:`J(\theta, x, y)`, the `objective`, on one batch.  In a process group
    (``torch.distributed.init_process_group``, under torchrun) each rank computes on its part of
    every batch, and all train the network that one process would, up to rounding; rank 0 monitors,
    logs and writes the checkpoint (``rvlib.distributed``).  Three things are each rank's own: the
    nuclear norm of ``nuat``; the masks of dropout, which are alike on all; and the windows of
    ``square``, where it attacks.

    Parameters
    ----------
    model : nn.Module
        The network; moved to `device`, trained in place, left in training mode.
    objective : Objective
        The loss of a batch: ``standard``, or what ``gaussian``, ``adversarial``, ... make.
    train : (images, labels) or DataLoader
        Images (N, C, H, W), uint8 or float in [0, 1], with labels (N,) int64, shuffled anew each
        epoch; or a loader of such batches, the same on every rank.
    epochs : int
        Passes over the training images.
    batch_size : int, default=32
        Images a step, of all ranks together; a loader has its own.
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
    average : float, in (0, 1), optional
        Decay :math:`\tau` of an average of the weights,
        :math:`\bar\theta \leftarrow \tau \bar\theta + (1 - \tau) \theta` after every step, whose
        batch normalisation is re-estimated after each epoch.  It is monitored, too, and what
        ``best_state`` holds.
    average_from : int, default=0
        Epoch in which the average begins.
    seed : int, default=0
        Of the order of the images and of all noise.
    monitor : callable, optional
        ``monitor(model)`` gives held-out accuracies by name, after each epoch, and once before the
        first one, to see that it can.
    select : str, default="natural"
        Which of them chooses the best epoch.
    stop_below : float, in [0, 1), default=0
        Stop after an epoch in which this accuracy collapses: to less than this share of the best.
    checkpoint : Path or str, optional
        Written after each epoch and every 5 minutes, read at the start: a killed training
        continues, bit for bit; that of a loader from the end of an epoch, if its order comes from
        PyTorch's generator, its own or its sampler's, and its workers do not persist.
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
    if average is not None and average_from >= epochs:
        raise ValueError(f"average_from={average_from} of {epochs} epochs: nothing is averaged")
    device = pick_device(str(device))
    model = to_device(model, device)
    batches = _Batches(train, int(batch_size), device)
    overwrites = _check_start(model, batches) is not model
    if world() > 1:
        model.load_state_dict(agreed(_on_cpu(model)))
    fused = None if device.type == "cpu" else True  # one kernel for all parameters
    sgd = partial(torch.optim.SGD, weight_decay=float(weight_decay), fused=fused)
    make = optimizer or partial(sgd, lr=float(lr), momentum=float(momentum))
    state = _State(model.train(), make(model.parameters()), seed, device, average_from)
    state.order = batches.order() or state.order
    run = _Epochs(state, objective, batches, augment, autocast, epochs, overwrites)
    numbers = {"batch_size": batch_size, "lr": lr, "momentum": momentum, "seed": seed}
    recipe = {**numbers, "weight_decay": weight_decay, "select": select, "device": device.type}
    if average is not None:
        state.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average))
        recipe["average"] = [average, average_from]
    recipe |= {"parts": run.parts(schedule), "of": epochs if schedule or run.asks else None}
    if schedule is not None:
        state.scheduler = schedule(state.optimizer, epochs * len(batches))
    if checkpoint is not None:
        state.identity = plain({**(identity or {}), "fit": recipe, "data": batches.identity()})
        state.resume(Path(checkpoint), epochs)
    if not state.fit.history:
        _monitored(monitor, model, None, select)  # whether it can, before an epoch's work
    for epoch in range(len(state.fit.history), epochs):
        if state.collapsed(select, stop_below):
            break
        with seeded(device, "layers", seed, epoch), checked_once():
            entry = run.train(epoch)
        measured = agreed(_monitored(monitor, model, state.average(epoch), select))
        state.remember(entry | measured, select)
        if log is not None and rank() == 0:
            log(_line(epoch, epochs, state.fit.history[-1]))
        state.save()
    return state.fit


def _line(epoch: int, epochs: int, entry: dict[str, float]) -> str:
    accuracies = "  ".join(f"{k} {v:.1%}" for k, v in entry.items() if k != "loss")
    return f"epoch {epoch + 1}/{epochs}  loss {entry['loss']:.4f}  {accuracies}"


@dataclass
class _State:
    """Everything that an unbroken training carries from one epoch to the next."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    device: torch.device
    average_from: int = 0
    scheduler: Any = None
    averaged: Any = None
    file: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    halfway: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = stream("cpu", self.seed, "order")
        self.noise = stream(self.device, self.seed, "noise")

    def remember(self, entry: dict[str, float], select: str) -> None:
        """Append an epoch; keep its weights if its monitored accuracy is the highest so far."""
        fit, self.halfway, model = self.fit, {}, self.model
        fit.history.append(entry)
        if f"averaged {select}" in entry:
            select, model = f"averaged {select}", self.averaged.module
        best = fit.history[fit.best_epoch].get(select, -math.inf) if fit.best_state else -math.inf
        if select in entry and entry[select] > best:
            fit.best_epoch = len(fit.history) - 1
            fit.best_state = copy.deepcopy(_on_cpu(model))
        elif select not in entry:
            fit.best_epoch = len(fit.history) - 1

    def collapsed(self, select: str, share: float) -> bool:
        """Whether the last epoch's accuracy is less than this share of the best one's."""
        values = [entry.get(select, 1.0) for entry in self.fit.history]
        return share > 0 and bool(values) and values[-1] < share * max(values)

    def average(self, epoch: int) -> nn.Module | None:
        """Return the network of averaged weights, from the epoch in which it begins."""
        begun = self.averaged is not None and epoch >= self.average_from
        return self.averaged.module if begun else None

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; rank 0 does."""
        if self.file is not None and rank() == 0:
            atomic_write(self.file, self.packed())

    def packed(self) -> bytes:
        """Return the content of a checkpoint."""
        content = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": _own_numbers(self.optimizer.state_dict()),
            "scheduler": _own_numbers(self.scheduler.state_dict()) if self.scheduler else None,
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "halfway": self.halfway,
            "order": self.halfway.get("order", self.order.get_state()),
            "noise": self.noise.get_state(),
            "fit": vars(self.fit),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def resume(self, path: Path, epochs: int) -> None:
        """Continue from rank 0's checkpoint of the same training, if there is one.

        Finds out before the first step whether checkpoints can be written, and be read again.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"{path.parent} cannot be written: choose another checkpoint")
        self.file = path
        self.load(path, epochs)
        try:
            torch.load(io.BytesIO(self.packed()), map_location="cpu", weights_only=True)
        except Exception as error:
            raise TypeError(
                "the state of the optimiser or of the schedule is more than plain numbers and "
                "tensors, and a checkpoint could not be read again: change it, or give no "
                "checkpoint"
            ) from error

    def load(self, path: Path, epochs: int) -> None:
        """Take over what rank 0's checkpoint holds, if there is one."""
        saved = agreed(_read_checkpoint(path) if rank() == 0 else {})
        if not saved:
            return
        identity, done = saved["identity"], len(saved["fit"]["history"])
        done += bool(saved.get("halfway"))  # in the middle of one more
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
        if self.averaged:
            self.averaged.load_state_dict(saved["averaged"])
        self.halfway = saved.get("halfway", {})
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        self.fit = Fit(**saved["fit"])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing where there is none."""
    try:
        content = path.read_bytes()  # a disk that does not answer is no damaged file
    except FileNotFoundError:
        return {}
    try:
        file = io.BytesIO(content)
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        _ = saved["identity"], saved["fit"]["history"]
    except Exception as error:
        raise WeightsError(f"{path} cannot be read: delete it and train again") from error
    return saved


def _on_cpu(model: nn.Module) -> dict[str, Any]:
    """Everything that a network keeps; a module may add what is no tensor."""
    return tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, dict(model.state_dict()))


def _own_numbers(state: Any) -> Any:
    """Replace NumPy's numbers, which a checkpoint that runs nothing cannot hold, by Python's."""
    return tree_map(lambda value: value.item() if isinstance(value, np.generic) else value, state)


class _Batches:
    """Batches on the device: of tensors, in an order drawn anew each epoch, or of a loader."""

    def __init__(self, train: Data, size: int, device: torch.device) -> None:
        self.train, self.size, self.device = train, size, device
        # In the middle of a loader's epoch nobody knows which batches it has given.
        self.resumes = not isinstance(train, DataLoader)
        if isinstance(train, DataLoader):
            try:
                len(train)
            except TypeError:
                told = "the loader does not know its length: its data set needs __len__"
                raise TypeError(told) from None
            return
        if not isinstance(train, Sequence) or len(train) != 2:
            kind = type(train).__name__
            raise TypeError(f"train is {kind}: give (images, labels) or a DataLoader")
        if not all(isinstance(part, Tensor) for part in train):
            raise TypeError("images and labels are no tensors: use torch.as_tensor")
        self.images, self.labels = (part.to(device) for part in train)

    def __len__(self) -> int:
        if isinstance(self.train, DataLoader):
            return len(self.train)
        return -(-len(self.images) // self.size)

    def epoch(self, order: torch.Generator, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels, from a batch on; a loader all of its own."""
        if isinstance(self.train, DataLoader):
            for loaded in self.train:
                x, y = (torch.as_tensor(part) for part in loaded)  # NumPy arrays, perhaps
                yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            return
        permutation = torch.randperm(len(self.images), generator=order).to(self.device)
        for batch in permutation.split(self.size)[start:]:
            yield self.images[batch], self.labels[batch]

    def order(self) -> torch.Generator | None:
        """Find the generator of a loader's order, whose state a checkpoint holds."""
        if not isinstance(self.train, DataLoader):
            return None
        sampler = getattr(self.train.batch_sampler, "sampler", self.train.sampler)
        return getattr(sampler, "generator", None) or self.train.generator

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return all images and labels, or a loader's first batch."""
        if not isinstance(self.train, DataLoader):
            return self.train
        with seeded(self.device, "layers"):  # a loader that shuffles draws its order
            images, labels = check_batch(next(iter(self.train), None))
        return torch.as_tensor(images), torch.as_tensor(labels)

    def smallest(self) -> int | None:
        """Count the images of the last batch; None where a loader keeps that to itself."""
        if not isinstance(self.train, DataLoader):
            return (len(self.images) - 1) % self.size + 1
        sampler: Any = self.train.sampler
        size = self.train.batch_size
        if size is None or self.train.drop_last or not hasattr(sampler, "__len__"):
            return size
        return int(len(sampler) - 1) % size + 1

    def identity(self) -> str:
        """Tell training data from others; a loader by the number and the size of its batches."""
        if isinstance(self.train, DataLoader):
            return f"a loader of {len(self.train)} batches of {self.train.batch_size}"
        return digest_of(self.train)


def _floats(x: Tensor) -> Tensor:
    """Pixels in [0, 1], in the memory layout that convolutions are fastest in."""
    x = to_float(x) if x.dtype == torch.uint8 else x
    return x.contiguous(memory_format=torch.channels_last)


def _check_start(model: nn.Module, batches: _Batches) -> nn.Module:
    """Refuse before the first step what would fail after an epoch's work.

    Returns what ``check_network`` does.
    """
    images, labels = batches.sample()
    x = _floats(images[:1]).to(batches.device)
    check_images(images if images.is_floating_point() else x)
    checked = check_network(model, x, check_labels(labels, images))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the network has no parameter to train: use model.requires_grad_(True)")
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError("gradients are switched off: call fit outside of torch.no_grad()")
    smallest = batches.smallest()
    if smallest is not None and smallest < world():
        told = f"the last batch would hold {smallest} images for {world()} ranks"
        raise ValueError(f"{told}: choose another batch_size")
    if smallest == 1:
        _check_one_image(model, x)
    return checked


def _check_one_image(model: nn.Module, x: Tensor) -> None:
    """Refuse a batch of one image where batch normalisation has no variance to divide by."""
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    try:
        with torch.no_grad(), seeded(x.device, "layers"):
            copy.deepcopy(model).train()(x)
    except ValueError as error:
        raise ValueError(
            "the last batch would hold one image, which batch normalisation cannot train on: "
            "choose another batch_size"
        ) from error


@dataclass
class _Epochs:
    """Passes over the training images."""

    state: _State
    objective: Callable[..., Loss]
    batches: _Batches
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    autocast: torch.dtype | None
    epochs: int
    overwrites: bool

    def __post_init__(self) -> None:  # what it asks for: the share of the training that is done
        self.asks = "progress" in inspect.signature(self.objective).parameters

    def parts(self, schedule: Any) -> list[Any]:
        """Describe what makes the steps, before a schedule sets the optimiser's numbers."""
        made = self.state.optimizer
        groups = [{k: v for k, v in g.items() if k != "params"} for g in made.param_groups]
        parts = [self.objective, [type(made).__name__, *groups], schedule, self.augment]
        return [*described(parts), str(self.autocast)]

    def loss(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: torch.Generator, done: float
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch after the share `done` of the training, and its right answers.

        Of several ranks each gives its images' terms of the sum.
        """
        device, count = self.state.device, len(x)
        with whole_batch(count, noise) as part:
            x, y = _floats(x[part]), y[part]
            if self.augment is not None:
                x = self.augment(x, noise)
            with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
                network = OnCopies(model) if self.overwrites else model
                share = {"progress": done} if self.asks else {}
                found = self.objective(network, x, y, noise, **share)
            if isinstance(found, Tensor):
                raise TypeError("the objective returned a tensor, not Loss(loss, logits)")
            loss, logits = found
        if len(x) < count:
            loss = loss * (len(x) / count)
        return loss, (logits.detach().argmax(1) == y).sum()

    def gradient(self, model: nn.Module, x: Tensor, y: Tensor, done: float) -> Tensor:
        """Leave the gradient of a batch's loss in ``.grad``; its summed loss and right answers.

        All of a step but the optimiser's part, without a wait.
        """
        loss, right = self.loss(model, x, y, self.state.noise, done)
        loss.backward()
        return torch.stack([loss.detach() * len(x), right])

    def step(self, x: Tensor, y: Tensor, done: float, averages: bool) -> Tensor:
        """Learn a batch; its summed loss and right answers."""
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        of_batch = self.gradient(state.model, x, y, done)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        add_over_ranks([*gradients, of_batch])
        state.optimizer.step()
        if state.scheduler is not None:
            state.scheduler.step()
        if averages:
            state.averaged.update_parameters(state.model)
        return of_batch

    def train(self, epoch: int) -> dict[str, float]:
        """Take the steps of one epoch; mean loss and accuracy as the images passed."""
        state, title, steps = self.state, f"epoch {epoch + 1}/{self.epochs}", len(self.batches)
        state.model.train()
        before, saved, average = state.order.get_state(), time.monotonic(), state.average(epoch)
        start, seen = state.halfway.get("batch", 0), state.halfway.get("seen", 0)
        sums = torch.zeros(2, device=state.device)  # of the losses and of the right answers
        if state.halfway:
            sums.copy_(state.halfway["sums"])
            _set_random_states(state.halfway["random"], state.device)
        batches: Iterable[tuple[Tensor, Tensor]] = self.batches.epoch(state.order, start)
        if rank() == 0:
            batches = progress(batches, title, steps - start)
        for batch, (x, y) in enumerate(batches, start):
            done = (epoch + batch / steps) / self.epochs
            sums += self.step(x, y, done, average is not None)
            seen += len(x)
            if state.file and self.batches.resumes and time.monotonic() - saved > EVERY:
                state.halfway = {"batch": batch + 1, "seen": seen, "sums": sums, "order": before}
                state.halfway["random"] = _random_states(state.device)
                state.save()
                saved = time.monotonic()
        mean = sums[0].item() / seen
        if not math.isfinite(mean):
            raise FloatingPointError(f"{title}: the loss is {mean}; lower the learning rate")
        check_in_step(state.noise)
        if average is not None:
            self.estimate_statistics(average, epoch)
        return {"loss": mean, "accuracy": sums[1].item() / seen}

    def estimate_statistics(self, model: nn.Module, epoch: int) -> None:
        """Give averaged weights batch statistics of their own, on what the objective shows."""
        model.train()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        # Some networks keep theirs as they are.
        momenta = {norm: norm.momentum for norm in norms if norm.training}
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        trained = dict(self.state.model.named_buffers())
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):  # an attack on the first batch sees
                buffer.copy_(trained[name])
        order = stream("cpu", self.state.seed, "statistics", epoch)
        noise = stream(self.state.device, self.state.seed, "noise of statistics", epoch)
        for x, y in itertools.islice(self.batches.epoch(order), STATISTICS if momenta else 0):
            self.loss(model, x, y, noise, (epoch + 1) / self.epochs)
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def _random_states(device: torch.device) -> list[Tensor]:
    """State of PyTorch's own generators, which layers such as dropout draw from."""
    states = [torch.get_rng_state()]
    own = torch.get_device_module(device)
    return states + ([own.get_rng_state(device)] if device.type != "cpu" else [])


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)


def crop_and_flip(x: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image by up to `padding` pixels, black at the edge, and mirror every second.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
        Images.
    generator : torch.Generator
        Of the shifts, on the device of `x`.
    padding : int, default=4
        Pixels.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        For ``fit(..., augment=crop_and_flip)``.
    """
    padded, images = F.pad(x, [padding] * 4).permute(0, 2, 3, 1), len(x)

    def draw(count: int) -> Tensor:
        return torch.randint(0, count, (images, 1), generator=generator, device=x.device)

    rows = draw(2 * padding + 1) + torch.arange(x.shape[2], device=x.device)
    columns = draw(2 * padding + 1) + torch.arange(x.shape[3], device=x.device)
    columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    which = torch.arange(images, device=x.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _monitored(
    monitor: Monitor | None, model: nn.Module, averaged: nn.Module | None, select: str
) -> dict[str, float]:
    """Measure the network, and its average; rank 0 does."""
    if monitor is None or rank() > 0:
        return {}
    with eval_mode(model):
        found = {name: float(value) for name, value in monitor(model).items()}
    if select not in found:
        raise ValueError(f"select={select!r} is none of the monitor's {', '.join(found)}")
    if averaged is None:
        return found
    with eval_mode(averaged):
        return found | {f"averaged {k}": float(v) for k, v in monitor(averaged).items()}
