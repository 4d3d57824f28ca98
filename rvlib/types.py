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
        If `x` has not four dimensions, is empty, has no pixels, holds NaN or leaves [0, 1].

    Examples
    --------
    >>> import torch
    >>> check_images(torch.zeros(1, 3, 32, 32))
    >>> check_images(torch.full((1, 3, 32, 32), 8.0))
    Traceback (most recent call last):
    ValueError: images lie in [8, 8], not in [0, 1]: divide by 255, do not normalise
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"images are {type(x).__name__}, not a tensor: use torch.as_tensor")
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}, not float: use rvlib.data.to_float on uint8 images")
    if x.dim() != 4 or len(x) == 0:
        raise ValueError(f"images have shape {tuple(x.shape)}, not (B, C, H, W) with B >= 1")
    _check_pixels(x)
    low, high = (v.item() for v in x.detach().aminmax())
    # Written so that NaN, which fails every comparison, is refused too.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f"images lie in [{low:.3g}, {high:.3g}], not in [0, 1]: divide by 255, do not normalise"
        )


def _check_pixels(x: Tensor) -> None:
    if 0 in x.shape:
        raise ValueError(f"images of shape {tuple(x.shape)} have no pixels: need C, H, W >= 1")


def check_labels(y: Labels, x: Images) -> int:
    """Refuse labels that are not one class index an image.

    Parameters
    ----------
    y : Tensor of shape (B,), int64
        The labels to check.
    x : Tensor of shape (B, C, H, W)
        The images they belong to.

    Returns
    -------
    int
        The largest label: whether it is a class the network's first answer tells, see
        ``rvlib.frozen.answering``.

    Raises
    ------
    TypeError
        If `y` is not an int64 tensor.
    ValueError
        If there is not one label an image, they are on another device, or a label is negative.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"labels are {type(y).__name__}, not a tensor: use torch.as_tensor")
    if y.dtype != torch.int64:
        raise TypeError(f"labels are {y.dtype}, not int64: use y.long()")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels have shape {tuple(y.shape)} for {len(x)} images: one an image")
    if y.device != x.device:
        raise ValueError(f"labels are on {y.device}, images on {x.device}: use y.to(x.device)")
    low, high = torch.stack(y.aminmax()).tolist()
    if low < 0:
        raise ValueError(f"label {low} is negative: classes are 0, ..., K-1")
    return int(high)


def check_stored(images: Tensor, labels: Labels) -> int:
    """Refuse what is not a set of stored images with a label each.

    Parameters
    ----------
    images : Tensor of shape (N, C, H, W), uint8
        The images to check.
    labels : Tensor of shape (N,), int64
        Their labels.

    Returns
    -------
    int
        The largest label.

    Raises
    ------
    TypeError, ValueError
        If the images are not bytes or none, or the labels do not fit them.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"stored images are {kind}, not uint8: give them as load_cifar10 does")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, not (N, C, H, W) with N >= 1")
    _check_pixels(images)
    return check_labels(labels, images)


def check_generator(generator: torch.Generator | None, x: Images) -> None:
    """Refuse a source of randomness that cannot be used where the images are.

    Parameters
    ----------
    generator : torch.Generator or None
        The source to check; None is torch's global one.
    x : Tensor
        The images.

    Raises
    ------
    TypeError
        If it is something else: a seed, say.
    ValueError
        If it is on another kind of device.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator={generator!r} is {type(generator).__name__}, not a torch.Generator: "
            "use torch.Generator(x.device).manual_seed(0)"
        )
    if generator.device.type != x.device.type:
        raise ValueError(
            f"generator is on {generator.device}, images on {x.device}: use "
            "torch.Generator(x.device)"
        )


def check_logits(logits: object, images: int, largest_label: int) -> None:
    """Refuse a network's answer that is no logits, or has no class for a label.

    Only shapes are looked at, so that nothing waits for a GPU.

    Parameters
    ----------
    logits : object
        What the network gave.
    images : int
        How many images it was shown.
    largest_label : int
        As ``check_labels`` found it; -1 where there are no labels.

    Raises
    ------
    TypeError, ValueError
        If the answer is not a tensor of shape (images, K) with K >= 2 and K > `largest_label`.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"the network gave {type(logits).__name__}, not a tensor: return logits")
    if logits.dim() != 2 or len(logits) != images:
        raise ValueError(
            f"the network gave shape {tuple(logits.shape)} for {images} images: "
            "logits are of shape (B, K)"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"the network tells {logits.shape[1]} class apart: need 2 or more")
    if largest_label >= logits.shape[1]:
        raise ValueError(
            f"label {largest_label} is no class of this network, whose {logits.shape[1]} classes "
            f"are 0, ..., {logits.shape[1] - 1}: use other labels or another network"
        )


def refuse_nan(found: Tensor) -> None:
    """Refuse logits with NaN among them: the largest of them is no class.

    Waits for the device, so it stands where answers are fetched anyway.

    Parameters
    ----------
    found : Tensor of shape (), bool
        Whether there was NaN.

    Raises
    ------
    ValueError
        If there was.
    """
    if found:
        raise ValueError(
            "the network gave NaN, which is no answer: its training diverged, or its numbers "
            "overflow (half precision?)"
        )
