"""Attacks on several classes of an image, side by side: which classes, and rows of a batch."""

import torch
from torch import Tensor

from rvlib.attacks.gradient import others
from rvlib.inference import CPU_BATCH

LOOK = 10
"""From this step on, steps between two looks at who has fallen: each look waits for the device."""


def looks(step: int) -> bool:
    """Whether the fallen leave after this step: most fall in the first ones."""
    return step < LOOK or step % LOOK == 0


def by_rank(logits: Tensor, y: Tensor, count: int = 9) -> Tensor:
    """Wrong classes of the highest logits, the highest first, shape (B, at most `count`)."""
    values, ranks = others(logits, y).topk(min(count, logits.shape[1] - 1), dim=1)
    # No attack reaches a class that is left out: the first one takes its place.
    return torch.where(values.isfinite(), ranks, ranks[:, :1])


def side_by_side(targets: Tensor) -> Tensor:
    """Copy the targets (B,) or (B, T) as (B, T)."""
    return (targets[:, None] if targets.dim() == 1 else targets).clone()


def images_a_batch(batch_size: int | None, x: Tensor, per: int) -> int:
    """How many images, of `per` rows each, make a forward pass of `batch_size` rows."""
    if batch_size is None:
        batch_size = CPU_BATCH if x.device.type == "cpu" else len(x) * per
    return min(batch_size, max(1, batch_size // per))  # what is no size is left to be refused


def rows_of(images: Tensor, per: int) -> Tensor:
    """Row numbers of images that have `per` neighbouring rows each."""
    return (images[:, None] * per + torch.arange(per, device=images.device)).flatten()


def best_row(scores: Tensor, rows: Tensor) -> Tensor:
    """Of each image's rows (N * T, ...) the first one of the highest score (N, T)."""
    first = scores.shape[1] * torch.arange(len(scores), device=scores.device)
    return rows[first + scores.max(1).indices]


def choose(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Take whole rows from `yes` where the mask (B,) says so, else from `no`."""
    return torch.where(mask.view(-1, *(1,) * (yes.dim() - 1)), yes, no)
