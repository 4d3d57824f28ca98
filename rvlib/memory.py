"""How many images go through a network at once, so that they fit into memory."""

import functools
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHARE = 0.5
"""Share of the free memory that one call may fill; the rest is for libraries' work space."""

FEW = 32
"""So many images are counted only where a budget is set: half of what is free holds them."""

SETTING = "RVLIB_MEMORY"
"""Environment variable: the budget in GB (10^9 bytes) instead of a share of what is free."""

_HELD: ContextVar[int | None] = ContextVar("held", default=None)


@contextmanager
def held_budget(size: int) -> Iterator[None]:
    """Hold the budget at a number of bytes, whatever is free and whatever is set.

    Batch sizes follow from network, device and budget, and rounding follows from batch sizes: a
    measurement taken up again with the budget that it was begun with puts the same images through
    the network together.

    Parameters
    ----------
    size : int
        Bytes, as ``budget`` gave them.
    """
    before = _HELD.set(size)
    try:
        yield
    finally:
        _HELD.reset(before)


def budget(device: torch.device) -> int:
    """Say how many bytes a call may fill on a device.

    Parameters
    ----------
    device : torch.device
        Where the work is done.

    Returns
    -------
    int
        Bytes: what ``held_budget`` or else ``RVLIB_MEMORY`` (in GB) says, or half of what is free.

    Raises
    ------
    ValueError
        If ``RVLIB_MEMORY`` is not a positive number.
    """
    held = _HELD.get()
    if held is not None:
        return held
    said = os.environ.get(SETTING)
    if said:
        try:
            gigabytes = float(said)
        except ValueError:
            gigabytes = 0.0
        if not 0 < gigabytes * 1e9 < float("inf"):
            raise ValueError(f"{SETTING}={said!r} must be a positive number of GB, as in 2")
        return int(gigabytes * 1e9)
    return int(SHARE * (_free_on_gpu(device) if device.type == "cuda" else _free_on_host()))


def images_at_once(
    model: nn.Module,
    x: Tensor,
    most: int,
    *,
    gradient: bool,
    part: Callable[[Tensor], Tensor] | None = None,
) -> int:
    """Say how many images of a kind a network takes at once within the budget.

    Parameters
    ----------
    model : nn.Module
        The network, in the mode it will work in.
    x : Tensor of shape (B, ...)
        What goes in.  The first time such a shape is seen its first two rows are put through, to
        count what they take; the answer is remembered as long as the network lives.
    most : int
        How many are wanted; where that many fit, as they nearly always do, the answer is `most`.
    gradient : bool
        Whether a gradient with respect to the input is taken, which keeps all activations.
    part : callable, default=model
        The part of the network that `x` goes into.

    Returns
    -------
    int
        Between 1 and `most`; `most` itself if that is no more than ``FEW`` and no budget is set or
        held.

    Notes
    -----
    Counted is every tensor that is alive at the worst moment.  A library's work space is not, which
    is why only a share of the free memory is given out.
    """
    keep_freed()
    if most <= FEW and _HELD.get() is None and not os.environ.get(SETTING):
        return max(1, most)
    known = _KNOWN.setdefault(model, {})
    kind = (tuple(x.shape[1:]), x.dtype, x.device, gradient)
    if kind not in known:
        known[kind] = _bytes_an_image(part or model, x[:2], gradient)
    return max(1, min(most, budget(x.device) // max(1, known[kind])))


_KNOWN: "weakref.WeakKeyDictionary[nn.Module, dict[Any, int]]" = weakref.WeakKeyDictionary()


def _bytes_an_image(part: Callable[[Tensor], Tensor], x: Tensor, gradient: bool) -> int:
    """Put a few images through and count the bytes that are alive at once."""
    devices = [x.device] if x.device.type == "cuda" else []
    # The random state comes back: a network that draws noise must not draw more for this.
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradient),
        _Meter() as meter,
    ):
        x = x.detach().clone().requires_grad_(gradient)
        out = part(x)
        if gradient:
            torch.autograd.grad(out.sum(), x, allow_unused=True)
    return meter.peak // len(x)


class _Meter(TorchDispatchMode):
    """Adds up the storages that operations make, from when they appear to when they go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What goes in and was not made here is the network's: weights, of which there may be views.
        for storage in _storages((args, kwargs)):
            self._appears(storage, 0)
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            self._appears(storage, storage.nbytes())
        return out

    def _appears(self, storage: torch.UntypedStorage, size: int) -> None:
        address = storage.data_ptr()
        if address not in self._seen:
            self._seen.add(address)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            # Once it is gone, another one may have its address.
            weakref.finalize(storage, self._goes, address, size)

    def _goes(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.alive -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _free_on_gpu(device: torch.device) -> int:
    """Free bytes of a GPU, those that PyTorch holds but does not use among them."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_on_host() -> int:
    """Free bytes of the machine, or of the container where that is less."""
    return min(_available(), _left_in_container())


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not Linux: half of what is built in is a fair guess.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_in_container() -> int:
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return 2**62  # no limit


@functools.cache
def keep_freed() -> None:
    """Let the process keep memory that it frees, on Linux, instead of giving it back each time.

    The C library gives larger blocks back to the system as soon as they are free, and gets them
    again page by page: votes of a LeNet on a CPU took twice as long where it did.  From the first
    large block that is freed it learns to keep blocks of up to that size (glibc's dynamic
    threshold, at most 32 MB).  The block is never written to, so it costs nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
