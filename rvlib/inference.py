"""Using a network without changing it: evaluation mode, and batches that fit into memory."""

import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as globally

from rvlib.device import arithmetic

CPU_BATCH = 256
"""Images attacked at once on a CPU: few enough for its caches, enough to keep it busy."""

_modes: "weakref.WeakKeyDictionary[nn.Module, list[Any]]" = weakref.WeakKeyDictionary()
_lock = threading.RLock()


class Wrapper(nn.Module):
    """A network around another one, whose mode it has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = getattr(model, "training", False)  # a frozen network has no modes


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a network in evaluation mode; afterwards every submodule is in the mode it had.

    Several threads may hold it at once, each in a wrapper of its own: the last one restores.
    """
    given = model
    while isinstance(model, Wrapper):
        model = model.model
    with _lock:
        held = _modes.setdefault(model, [0, None])
        if held[0] == 0:
            held[1] = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
            if any(training for _, training in held[1]):
                _set_mode(model, False)
        held[0] += 1
    try:
        yield given
    finally:
        with _lock:
            held[0] -= 1
            if held[0] == 0:
                for module, training in held[1]:  # parents first
                    if module.training != training:
                        _set_mode(module, training)
                for module, training in held[1]:
                    if module.training != training:  # a part that two parents share
                        module.training = training
                del _modes[model]


def _set_mode(model: nn.Module, training: bool) -> None:
    """Call ``train``, which may do more than set flags: adapters merge and split weights in it."""
    try:
        model.train(training)
    except NotImplementedError:  # exported programs have one mode, and flags without a meaning
        for module in model.modules():
            module.training = training


def in_batches(function: Callable[..., Tensor], size: int | None, *parts: Any) -> Tensor:
    """Concatenate ``function`` of batches of at most `size` images, fewer if memory runs out.

    Parameters
    ----------
    function : callable
        Maps one batch of every part to a tensor with one row per image.
    size : int or None
        Images a batch; None stands for 256 on a CPU and all of them on a GPU.
    *parts : Tensor or range or ThreatModel or anything
        The images first.  Tensors, ranges and balls are split, everything else is handed on.

    Returns
    -------
    Tensor of shape (B, ...)
        The results, in the order of the images.
    """
    images = len(parts[0])
    if size is not None and size < 1:
        raise ValueError(f"batch_size={size}: give at least one image")
    if size is None:
        size = CPU_BATCH if parts[0].device.type == "cpu" else max(images, 1)
    try:
        if images <= size:
            return function(*parts)
        slices = [slice(first, first + size) for first in range(0, images, size)]
        # Copies: a network may write each answer into the same memory.
        return torch.cat([function(*(select(part, s) for part in parts)).clone() for s in slices])
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not re.search("out of memory|allocate", str(error)) or min(size, images) == 1:
            raise
    return in_batches(function, min(size, images) // 2, *parts)


def select(part: Any, s: Any) -> Any:
    """Pick some images of a tensor, range or ball; anything else belongs to all of them."""
    if isinstance(part, range) or (isinstance(part, Tensor) and part.dim()):
        return part[s]
    return part.at(s) if hasattr(part, "at") else part


@torch.no_grad()
def logits_of(
    model: Callable[[Tensor], Tensor], x: Tensor, batch_size: int | None = None
) -> Tensor:
    """Logits (B, K) of a copy of the images, batch by batch; copies, as networks may reuse them."""
    return in_batches(lambda part: model(part.clone()).clone(), batch_size, x)


class MaxPool2(nn.Module):
    """Max-pooling of 2 x 2 pixels, and a faster way to the same values for votes on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or its ``planes``, to (B, C, H // 2, W // 2)."""
        if x.dim() == 5:
            return x.amax(1).permute(0, 3, 1, 2)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return F.max_pool2d(x, 2)
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        rows = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


class Planes(nn.Module):
    """Set the four pixels of each pool apart: (B, C, H, W) to (B, 4, H // 2, W // 2, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the pixels; an odd last row or column is left out, as pooling does."""
        x = x.permute(0, 2, 3, 1)[:, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        return torch.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def split_first_layer(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    r"""Split a network into an affine first layer and the rest, where that is provable.

    For affine :math:`a` the noisy copies' features need no pass each through it:
    :math:`a(x + \delta) = a(x) + a(\delta) - a(0)`.

    Returns
    -------
    first, rest : nn.Module
        ``model(x) == rest(first(x))``.  `first` is the identity unless the network is exactly an
        ``nn.Sequential`` that begins with exactly an ``nn.Conv2d`` in float32, nothing hooked in:
        any other class might do something else with its input.
    """
    if type(model) is nn.Sequential and len(model) > 1 and type(model[0]) is nn.Conv2d:
        weight = model[0].weight
        plain = type(weight) is nn.Parameter and weight.dtype == torch.float32
        exact = arithmetic(weight.device) == "float32"  # else both sums are rounded apart
        if plain and exact and not any(map(is_hooked, (model, model[0], model[1]))):
            # Reordering pixels is linear, too, and on a CPU maxima of whole planes are faster.
            pools = type(model[1]) is MaxPool2 and weight.device.type == "cpu"
            return nn.Sequential(model[0], Planes()) if pools else model[0], model[1:]
    return nn.Identity(), model


def is_hooked(module: nn.Module) -> bool:
    """Whether a call does anything but what the module's class does."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or globally._global_forward_hooks
        or globally._global_forward_pre_hooks
        or any(callable(getattr(type(module), name, None)) for name in vars(module))
    )
