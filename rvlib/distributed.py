"""Several processes train one network: each learns its part of every batch, and all agree.

Under ``torchrun`` every process (a rank) holds the whole network.  Of each batch it takes its part;
what depends on the batch as a whole is made for the whole of it (``whole_batch``), and the
gradients are added up before the step (``add_over_ranks``).  So a recipe trains the same network on
1, 2 or 8 ranks, up to the order in which numbers are added.

Gradients are added by one call a step instead of by ``DistributedDataParallel``: an attack takes
ten passes and more between two steps, so there is little that communication could hide behind;
attacks, averages and checkpoints get the network itself instead of a wrapper whose hooks fail where
one step has several forward passes; and parts of different sizes are weighted exactly.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


def pick_own_gpu() -> None:
    """Make the GPU of this process's number on its machine the one that ``cuda`` means."""
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: by NCCL on GPUs, by gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or _joined():
        yield
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"the ranks do not reach each other ({error}): start them with torchrun; set "
            "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME to the network's name (lo on one machine) "
            "and, for restarts, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
        ) from error
    yield
    dist.destroy_process_group()  # not after an error: others may wait there for this rank


def rank() -> int:
    """Return the number of this process; 0 where there is only one."""
    return dist.get_rank() if _joined() else 0


def world() -> int:
    """Count the processes that train together."""
    return dist.get_world_size() if _joined() else 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def agreed(value: T) -> T:
    """Give every rank the value of rank 0; wait for it."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def add_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over all ranks; every rank gets the same bits."""
    if world() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def check_in_step(generator: torch.Generator) -> None:
    """Refuse a training of whose ranks some have drawn other numbers than rank 0."""
    state = generator.get_state()
    if not torch.equal(agreed(state), state):
        raise ValueError(
            "the ranks have drawn different numbers: objective and augmentation must draw one "
            "entry per image, or the same on every rank"
        )


@contextmanager
def whole_batch(count: int, generator: torch.Generator) -> Iterator[slice]:
    """Compute on this rank's images of a batch as one process would compute on all of them.

    Inside, two kinds of PyTorch's functions are about the whole batch:

    - Numbers drawn from `generator`, one entry per image, are drawn for all images alike on every
      rank, of which each keeps its own: noise is addressed by an image's place in the batch.
    - Batch normalisation in training mode takes mean and variance over all ranks' images, in the
      forward and the backward pass, as ``torch.nn.SyncBatchNorm`` does on GPUs alone.

    Parameters
    ----------
    count : int
        Images of the batch, at least one a rank.
    generator : torch.Generator
        Of the noise, in the same state on every rank.

    Yields
    ------
    slice
        This rank's images; all of them where there is one rank, and then nothing is changed.

    Notes
    -----
    What layers draw from PyTorch's own generator (dropout) is alike on every rank.
    """
    if world() == 1:
        yield slice(None)
        return
    part = slice(rank() * count // world(), (rank() + 1) * count // world())
    if count < world():
        raise ValueError(f"a batch of {count} images for {world()} ranks: each needs one")
    with _WholeBatch(count, part, generator):
        yield part


class _WholeBatch(TorchFunctionMode):
    """See ``whole_batch``."""

    def __init__(self, count: int, part: slice, generator: torch.Generator) -> None:
        super().__init__()
        self.count, self.part, self.generator = count, part, generator
        self.local = part.stop - part.start

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace draws and batch normalisation; PyTorch calls this for each of its functions."""
        kwargs = kwargs or {}
        if kwargs.get("generator") is self.generator:
            return self.draw(function, args, kwargs)
        if function is F.batch_norm:
            return self.batch_norm(*args, **kwargs)
        return function(*args, **kwargs)

    def draw(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Draw for all images, keep this rank's; draws that are not one per image are alike."""
        of_images = [a for a in args if isinstance(a, Tensor) and a.shape[:1] == (self.local,)]
        if function in (torch.randperm, torch.multinomial):
            raise ValueError(f"{function.__name__} draws for one rank's images: use torch.rand")
        if of_images:
            return self.draw_like(function, of_images[0], args, kwargs)
        if function in (torch.rand, torch.randn) and args and isinstance(args[0], int):
            args = (args,)

        def whole(size: Any) -> Any:
            mine = isinstance(size, tuple | list) and tuple(size[:1]) == (self.local,)
            return (self.count, *size[1:]) if mine else size

        sizes, named = tuple(map(whole, args)), {name: whole(v) for name, v in kwargs.items()}
        drawn = function(*sizes, **named)
        return drawn if (sizes, named) == (args, kwargs) else drawn[self.part]

    def draw_like(self, function: Any, x: Tensor, args: Any, kwargs: Any) -> Tensor:
        """Draw into this rank's images, or like them, in their memory layout."""
        name = function.__name__
        if x is not args[0] or not name.endswith(("_", "_like")):
            raise ValueError(
                f"{name} draws from the values of one rank's images: draw uniform numbers of their "
                "shape, torch.rand, and compute from these"
            )
        whole = x.new_empty_strided((self.count, *x.shape[1:]), (x[0].numel(), *x.stride()[1:]))
        drawn: Tensor = function(whole, *args[1:], **kwargs)[self.part]
        return x.copy_(drawn) if name.endswith("_") else drawn

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise by the mean and the variance over all ranks."""
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        others, shape = [d for d in range(x.dim()) if d != 1], [1, -1, *[1] * (x.dim() - 2)]
        n = x.numel() // x.shape[1] * self.count / self.local
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Sum.apply(z.sum(others)) / n
        z = z - mean.view(shape)
        var = _Sum.apply(z.square().sum(others)) / n
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.detach(), momentum)
            running_var.lerp_(var.detach() * n / (n - 1), momentum)
        z = z * (var + eps).rsqrt().view(shape)
        if weight is not None:
            z = z * weight.view(shape)
        if bias is not None:
            z = z + bias.view(shape)
        return z.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
