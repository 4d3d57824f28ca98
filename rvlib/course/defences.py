"""Three defences to break: each looks robust to plain PGD, and is not."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rounded(nn.Module):
    """A network that sees few levels of each channel: it has no gradient to follow.

    Parameters
    ----------
    network : nn.Module
        The network behind.
    levels : int
        Steps between 0 and 1.
    """

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the rounded images."""
        return self.network((x * self.levels).round() / self.levels)


class Noisy(nn.Module):
    """A network that answers on a noisy copy, another one each time.

    Parameters
    ----------
    network : nn.Module
        The network behind.
    sigma : float
        Standard deviation of the noise.
    """

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.network, self.sigma = network, sigma

    def forward(self, x: Tensor) -> Tensor:
        """Logits of noisy copies."""
        return self.network(x + self.sigma * torch.randn_like(x))


class Detector(nn.Module):
    """A network with one class more, for images that it takes for attacked ones.

    An image is rejected where blurring it changes the probabilities by more than a limit: the idea
    of feature squeezing (Xu, Evans, Qi, NDSS 2018).

    Parameters
    ----------
    network : nn.Module
        The network behind.
    clean : Tensor of shape (B, C, H, W)
        Images to set the limit by.
    rejected : float, default=0.05
        Share of them that is rejected.
    """

    def __init__(self, network: nn.Module, clean: Tensor, rejected: float = 0.05) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            self.limit = self.distance(clean).quantile(1 - rejected).item()

    def blur(self, x: Tensor) -> Tensor:
        """Average each pixel with its neighbours."""
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)

    def distance(self, x: Tensor) -> Tensor:
        """Sum of the absolute differences of the probabilities of `x` and of `x` blurred."""
        sharp, blurred = (self.network(image).softmax(1) for image in (x, self.blur(x)))
        return (sharp - blurred).abs().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; the last class, "rejected", leads where the distance is above the limit."""
        logits = self.network(x)
        lead = self.distance(x) - self.limit
        return torch.cat([logits, (logits.amax(1) + lead)[:, None]], 1)
