"""What does it cost beyond one machine?  ``python -m benchmarks.scale`` counts and says so.

Networks run on the device ``meta``, which computes nothing: PyTorch's counter adds up operations,
and every call that makes a tensor is counted with the bytes that it reads and writes (no fusion).
A time is a lower bound: a GPU at the peak of its data sheet, or of its memory, whichever is slower.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import markdown
from rvlib import certification, judge
from rvlib.arguments import WORST
from rvlib.attacks.autoattack import VERSIONS
from rvlib.models import resnet18
from rvlib.modern import MODERN

GPU = "H100 SXM"
PEAKS = {"tf32": (494.7e12, 4), "bfloat16": (989.4e12, 2)}
"""Operations a second of its dense products, and bytes of a number.  NVIDIA H100 data sheet."""
MEMORY, NVLINK, NETWORK = 3.35e12, 450e9, 50e9
"""Bytes a second: of its memory; to the other GPUs of a machine of 8, one way; between machines, by
an adapter of 400 Gbit/s for each GPU.  NVIDIA H100 and DGX H100 data sheets."""
COLLECTIVE = 20e-6
"""Seconds that adding up a few numbers over all GPUs takes at least; an assumption."""
GPUS = (1, 8, 64)
BATCH = 64
"""Images of a counted batch: weights are read once a batch."""


class Traffic(TorchDispatchMode):
    """Counts numbers that are read and written."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function and count its tensors, unless it only looks at one in another way."""
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = tree_leaves((args, kwargs, result))
            self.numbers += sum(t.numel() for t in tensors if isinstance(t, Tensor))
        return result


Cost = NDArray[np.float64]
"""Operations, and numbers read and written."""


def seconds(cost: Cost, arithmetic: str) -> tuple[float, str]:
    """Time on one GPU at least, and what bounds it."""
    (operations, numbers), (peak, size) = cost, PEAKS[arithmetic]
    return max((operations / peak, "operations"), (numbers * size / MEMORY, "memory"))


def counted(work: Callable[[], Any]) -> Cost:
    """Cost of some work on a batch, for one image."""
    with Traffic() as traffic, FlopCounterMode(display=False) as operations:
        work()
    return np.array([operations.get_total_flops(), traffic.numbers]) / BATCH


def passes(make: Callable[[], nn.Module], size: int) -> tuple[Cost, Cost, Cost]:
    """Cost of an image's forward pass, with the gradient at it, and of a step."""
    with torch.device("meta"):
        model, x = make(), torch.empty(BATCH, 3, size, size)
        attacked = torch.empty_like(x, requires_grad=True)
    with torch.no_grad():
        forward = counted(lambda: model.eval()(x))
    view = attacked.view_as(attacked)  # the counter takes no leaf
    attack = counted(lambda: torch.autograd.grad(model.eval()(view).sum(), view))
    return forward, attack, counted(lambda: model.train()(x).sum().backward())


@dataclass(frozen=True)
class Job:
    """Something to compute; `blocks` are its parts that go to one GPU each, None if it trains."""

    name: str
    cost: Cost
    blocks: int | None
    exchange: float = 0.0
    """Bytes that a training adds up over all GPUs."""
    collectives: float = 0.0
    """Times that it does so."""

    def seconds(self, gpus: int, arithmetic: str) -> tuple[float, str]:
        """Time at least, and what bounds it."""
        alone, bound = seconds(self.cost, arithmetic)
        if gpus == 1:
            return alone, bound
        if self.blocks is not None:
            rounds = math.ceil(self.blocks / gpus)
            return alone * rounds / self.blocks, bound
        link = NVLINK if gpus <= 8 else NETWORK
        talk = 2 * self.exchange / link + self.collectives * COLLECTIVE
        return alone / gpus + talk, bound if alone / gpus > talk else "exchange"


def jobs() -> Iterator[Job]:
    """Count what the planning table is about."""
    from torchvision.models import resnet50

    forward, _, _ = passes(resnet50, 224)
    blocks = math.ceil(500 / certification.SHARD)
    yield Job("certify ResNet-50, 500 images of 224 x 224", 500 * 100_100 * forward, blocks)
    forward, attack, step = passes(resnet18, 32)
    blocks = math.ceil(10_000 / judge.SHARD)
    for version in ("fast", "standard"):
        worst = {name: WORST[name] for name in VERSIONS[version]}
        queries = worst.pop("square", 0)
        ensemble = 10_000 * (queries * forward + sum(worst.values()) / 2 * attack)
        yield Job(f"AutoAttack `{version}`, ResNet-18, 10,000 images", ensemble, blocks)
    recipe = MODERN["resnet18-nuat"]
    with torch.device("meta"):
        network = resnet18()
    parameters = sum(p.numel() for p in network.parameters())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    for name, epochs, image in (
        (recipe.name, recipe.epochs, forward + attack + 2 * step),
        ("PGD-10 training, ResNet-18", 100, 10 * attack + step),
    ):
        steps = epochs * math.ceil(50_000 / recipe.batch_size)
        work = epochs * 50_000 * image
        talks = steps * (1 + 4 * norms)  # mean and variance, forward and backward
        yield Job(f"{name}, {epochs} epochs", work, None, steps * 4 * parameters, talks)


def words(seconds: float) -> str:
    """Write a time in seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def table() -> str:
    """Write the planning table as Markdown."""
    columns = [f"{n} GPU{'s' * (n > 1)}" for n in GPUS]
    head, rows = ["job", "operations", "numbers", "arithmetic", *columns, "bound by"], []
    for job in jobs():
        for arithmetic in PEAKS:
            found = [job.seconds(n, arithmetic) for n in GPUS]
            counts = [f"{count:.1e}" for count in job.cost]
            bounds = ", ".join(dict.fromkeys(bound for _, bound in found))
            times = [words(time) for time, _ in found]
            rows.append([job.name, *counts, arithmetic, *times, bounds])
    return markdown(head, rows)


if __name__ == "__main__":
    print(table())
