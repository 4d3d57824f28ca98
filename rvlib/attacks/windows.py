"""Square windows of images, and a network's first layers computed anew in them alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from rvlib.attacks.passes import Passes
from rvlib.inference import MaxPool2, in_batches, is_hooked, split_first_layer

Corner = tuple[Tensor, Tensor]
"""First row and first column of a window, (B,) each."""


def read(images: Tensor, corner: Corner, side: int) -> Tensor:
    """Copy a window of each image: (B, C, side, side)."""
    row, column = corner
    every = torch.arange(len(row), device=row.device)
    return images.unfold(2, side, 1).unfold(3, side, 1)[every, :, row, column]


def write(images: Tensor, corner: Corner, side: int, values: Tensor) -> None:
    """Put values (B, C, side, side) into a window of each image."""
    # Not into a view by ``unfold``, in which a pixel lies many times: a device may copy it back.
    line = torch.arange(side, device=images.device)
    row, column = (start[:, None, None] for start in corner)
    pixels = (row + line[:, None]) * images.shape[3] + column + line  # (B, side, side)
    pixels = pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    images.view(*images.shape[:2], -1).scatter_(2, pixels, values.flatten(2))


@dataclass
class Halves:
    """A network in two parts: ``model(x) == rest(first(x))``.

    Parameters
    ----------
    first : callable
        The identity, or a convolution and max-pooling of 2 x 2 pixels.
    rest : callable
        What comes then.
    kernel : int
        Width of the convolution, 0 where `first` is the identity.
    same : dict, optional
        Whether windows of so many pools were found to give the same bits as whole images.
    """

    first: Callable[[Tensor], Tensor]
    rest: Callable[[Tensor], Tensor]
    kernel: int = 0
    same: dict[int, bool] = field(default_factory=dict)

    def again(self, seen: Tensor, images: Tensor, corner: Corner, side: int) -> Tensor:
        r"""Compute ``first(images)`` from what it `seen` before a window of each image changed.

        A window of s pixels reaches at most :math:`\lfloor (s + k - 1) / 2 \rfloor + 1` pools a
        line, which are computed from the pixels they hang on.  Libraries may round small
        convolutions in another way: each size is compared with whole images the first time.
        """
        reach = (side + self.kernel - 1) // 2 + 1
        if not self.kernel or reach >= min(seen.shape[2:]) or not self.same.get(reach, True):
            return self.first(images)
        row, column = (
            ((start - self.kernel + 1) // 2).clamp(0, pools - reach)
            for start, pools in zip(corner, seen.shape[2:], strict=True)
        )
        pixels = read(images, (2 * row, 2 * column), 2 * reach + self.kernel - 1)
        seen = seen.clone()
        write(seen, (row, column), reach, self.first(pixels))
        if reach not in self.same:
            whole = self.first(images)
            self.same[reach], seen = torch.equal(seen, whole), whole
        return seen


def halves(model: nn.Module, layout: torch.memory_format, batch_size: int | None) -> Halves:
    """Split a network after its first pooling where that is provable (``split_first_layer``).

    The network sees images in their own `layout`, however the search keeps them.
    """
    if type(model) is Passes and not is_hooked(model):
        inner = halves(model.model, layout, batch_size)
        return Halves(inner.first, lambda seen: model.count(inner.rest(seen)), inner.kernel)

    def in_layout(images: Tensor) -> Tensor:
        return images.contiguous(memory_format=layout)

    first, rest = split_first_layer(model)
    conv = next(first.children(), None)  # of a convolution that pooling follows, on a CPU
    if isinstance(conv, nn.Conv2d) and isinstance(rest, nn.Sequential) and _slides(conv):
        pooled = torch.no_grad()(nn.Sequential(conv, MaxPool2()))
        see = partial(in_batches, lambda images: pooled(in_layout(images)), batch_size)
        return Halves(see, rest[1:], conv.kernel_size[0])
    return Halves(in_layout, model)


def _slides(conv: nn.Conv2d) -> bool:
    """Whether a square kernel looks at each square of pixels alike, and at nothing else."""
    rows, columns = conv.kernel_size
    return (rows, conv.padding, conv.stride, conv.dilation) == (columns, (0, 0), (1, 1), (1, 1))
