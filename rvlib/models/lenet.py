"""The report's network: a LeNet for colour images of 32 x 32 pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.stemmed import Stemmed
from rvlib.types import Images, Logits


class LeNet(Stemmed):
    """Two convolutions, three linear layers, 62,006 parameters.

    Convolution 3 -> 6 (5 x 5), max-pool 2, convolution 6 -> 16 (5 x 5), max-pool 2, then
    400 -> 120 -> 84 -> 10, with ReLU between.  Pixels in [0, 1] go in as they are: the report
    standardises nothing else.

    Parameters
    ----------
    classes : int, default=10
        Number of logits.

    References
    ----------
    .. [1] LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings
       of the IEEE 86(11), 1998, section II.B (LeNet-5, here with three input channels).

    Examples
    --------
    >>> sum(p.numel() for p in LeNet().parameters())
    62006
    """

    stem_is_one_layer = True

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Images) -> Logits:
        """Map images of shape (B, 3, 32, 32) to logits of shape (B, classes)."""
        # ReLU after pooling gives the same values (both are monotone) on a quarter of the pixels.
        x = F.relu(_max_pool(self.conv1(x)))  # (B, 6, 14, 14)
        return self._classify(self.conv2(x))

    def stem(self, x: Images) -> Tensor:
        """Map images to the first convolution's output, the pixels of a pool apart.

        Returns shape (B, 4, 6, 14, 14): in the second dimension the four that are pooled.
        """
        z = F.pixel_unshuffle(self.conv1(x), 2)  # (B, 6 * 4, 14, 14)
        return z.unflatten(1, (6, 4)).transpose(1, 2).contiguous()

    def after_stem(self, z: Tensor) -> Logits:
        """Map the stem's output to logits: ``forward`` in the layout that is fastest for votes."""
        x = F.relu(z.amax(1))  # (B, 6, 14, 14)
        # Its six input channels are too few for a CPU's channels_last kernels.
        return self._classify(F.conv2d(x, self.conv2.weight.contiguous(), self.conv2.bias))

    def _classify(self, x: Tensor) -> Logits:
        """Map the second convolution's output (B, 16, 10, 10) to logits."""
        x = F.relu(_max_pool(x)).flatten(1)  # (B, 400)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def _max_pool(x: Tensor) -> Tensor:
    """Max-pool 2 x 2; without gradients by pairwise maxima, the same values.

    On CPUs torch's max-pooling always records where each maximum was, which only a backward pass
    reads; the pairwise form is about four times faster (measured at batch 32, channels_last) and
    pooling is a third of this network's forward pass.
    """
    if torch.is_grad_enabled():
        return F.max_pool2d(x, 2)
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])
