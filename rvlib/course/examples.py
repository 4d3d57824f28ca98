"""What the checks hand to a student's function: a tiny network, two images, a training step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.gradient import input_gradient


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy."""
    return input_gradient(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="none"))


def small_batch(seed: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """Make a network, two images and their labels, the same ones each time.

    Parameters
    ----------
    seed : int, default=1
        Of the network and the images.

    Returns
    -------
    tuple of nn.Module, Tensor of shape (2, 3, 2, 2), Tensor of shape (2,)
        Some channels lie at or near 0 and 1, where clamping matters; the network classifies the
        first image correctly and the second one not.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.rand(2, 3, 2, 2, generator=generator)
    x[:, 0] = torch.tensor([[0.0, 1.0], [0.04, 0.97]])
    with torch.no_grad():
        predictions = model(x).argmax(1)
    return model, x, (predictions + torch.tensor([0, 1])) % 3


class HalfDropped(nn.Module):
    """Dropout without randomness: in training mode the same half of the pixels is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop the second column in training mode."""
        return x * torch.tensor([2.0, 0.0]) if self.training else x


def training_step(seed: int = 1) -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
    """Make a network in training mode, an attack, two images and their labels."""
    model, x, y = small_batch(seed)
    return nn.Sequential(HalfDropped(), model).train(), _attack, x, y


def _attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.2 * gradient(model, x, y).sign()).clamp(0, 1)
