"""Plain training: the cross-entropy of the images as they are."""

import torch
import torch.nn.functional as F
from torch import nn

from rvlib.objectives.base import Loss
from rvlib.types import Images, Labels


def standard(model: nn.Module, x: Images, y: Labels, generator: torch.Generator) -> Loss:
    r"""Cross-entropy on the clean images: :math:`J(\theta, x, y)`.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    y : Tensor of shape (B,), int64
        Labels.
    generator : torch.Generator
        Unused: nothing here is random.

    Returns
    -------
    Loss
        Mean over the batch, and the logits.
    """
    logits = model(x)
    return Loss(F.cross_entropy(logits, y), logits.detach())
