"""The shapes of the field, said once, and the checks that hold callers to them.

Everything that takes images takes *pixels*: float tensors in [0, 1].  Normalisation, where a
network wants it, is the network's first layer, so radii and noise levels mean the same everywhere.
"""

from typing import TypeAlias

import torch
from torch import Tensor

Images: TypeAlias = Tensor
"""Shape (B, C, H, W), floating, in [0, 1]."""

Labels: TypeAlias = Tensor
"""Shape (B,), int64, in {0, ..., K-1}."""

Logits: TypeAlias = Tensor
"""Shape (B, K), floating."""

Counts: TypeAlias = Tensor
"""Shape (B, K), int64: how many noisy copies of each image were given each class."""

ROUNDING = 1e-6
"""How far a pixel may lie outside [0, 1] before it is refused: float32 rounding, no more."""


def check_images(x: Images) -> None:
    """Refuse what is not a batch of pixels in [0, 1].

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        The batch to check.

    Raises
    ------
    TypeError
        If `x` is not a floating tensor (uint8 images must be divided by 255 first).
    ValueError
        If `x` has not four dimensions, is empty, holds NaN or leaves [0, 1].

    Examples
    --------
    >>> import torch
    >>> check_images(torch.zeros(1, 3, 32, 32))
    >>> check_images(torch.full((1, 3, 32, 32), 8.0))
    Traceback (most recent call last):
    ValueError: images lie in [8, 8], not in [0, 1]: divide by 255, do not normalise
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"images are {kind}, not float: use rvlib.data.to_float on uint8 images")
    if x.dim() != 4 or len(x) == 0:
        raise ValueError(f"images have shape {tuple(x.shape)}, not (B, C, H, W) with B >= 1")
    low, high = (v.item() for v in x.detach().aminmax())
    # Written so that NaN, which fails every comparison, is refused too.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f"images lie in [{low:.3g}, {high:.3g}], not in [0, 1]: divide by 255, do not normalise"
        )


def check_labels(y: Labels, x: Images) -> None:
    """Refuse labels that are not one class index an image.

    Parameters
    ----------
    y : Tensor of shape (B,), int64
        The labels to check.
    x : Tensor of shape (B, C, H, W)
        The images they belong to.

    Raises
    ------
    TypeError
        If `y` is not an int64 tensor.
    ValueError
        If there is not one label an image, or a label is negative.
    """
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"labels are {kind}, not int64: use y.long()")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels have shape {tuple(y.shape)} for {len(x)} images: one an image")
    if y.min() < 0:
        raise ValueError(f"label {int(y.min())} is negative: classes are 0, ..., K-1")
