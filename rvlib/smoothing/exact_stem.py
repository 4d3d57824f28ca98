r"""A first layer whose sums are exact: sound votes that share the work on their noise.

Images and noise in whole steps of 1/255 add up exactly.  The first layer of a network, worked out
apart for the image and for the noise (``rvlib.stemmed``), would spoil that: single precision rounds
both, so that the sum of the two tells a little more than the noisy image.  It need not round.  With
weights that are whole multiples of :math:`2^{-24}`, written in three digits of eight bits,

.. math:: a(k) = \sum_i w_i k_i = \sum_{j=1}^{3} 2^{-8j} \sum_i d_{ij} k_i,

each inner sum is of whole numbers, the digits :math:`d` and the steps :math:`k`, and single
precision holds them all as long as they stay below :math:`2^{24}`.  Double precision holds the
outer sum.  So :math:`a(x) + a(\delta) = a(x + \delta)` to the last bit, in whatever order it is
added up, and the rest of the network is given nothing but the noisy image.

The certified network is thus the one whose first layer has its weights rounded to :math:`2^{-24}`,
about what single precision rounds of the sum.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rvlib.grid_noise import GRID, REACH
from rvlib.stemmed import Stemmed
from rvlib.types import Images, Logits

DIGITS = 3
BASE = 2.0**8

LARGEST = 2.0**24
"""Whole numbers up to it are exact in single precision."""


class ExactStem(Stemmed):
    """A network of images in whole steps of 1/255, its first layer in exact sums.

    Parameters
    ----------
    network : Stemmed
        A network of pixels in single precision, for which ``can_be_exact`` is true.
    x : Tensor of shape (B, C, H, W), float32
        Images like those that come, in steps.

    Examples
    --------
    >>> from rvlib.models import LeNet
    >>> x, noise = torch.randint(0, 256, (2, 1, 3, 32, 32)).float()
    >>> network = ExactStem(LeNet(), x)
    >>> torch.equal(network.stem(x) + network.stem(noise), network.stem(x + noise))
    True
    """

    def __init__(self, network: Stemmed, x: Images) -> None:
        super().__init__()
        self.network = network
        self._digits = _digits(network)
        self._bias = network.stem(torch.zeros_like(x[:1])).detach()

    def stem(self, x: Images) -> Tensor:
        """Apply the first layer to steps, without its bias; double precision."""
        no_steps = torch.zeros_like(x[:1])
        places = enumerate(self._digits, start=1)
        return sum(
            ((digit.stem(x) - digit.stem(no_steps)).double() / BASE**j for j, digit in places),
            start=torch.zeros((), dtype=torch.float64),
        )

    def after_stem(self, z: Tensor) -> Logits:
        """Round the exact sums, turn steps into pixels, add the bias, and apply the rest."""
        return self.network.after_stem(torch.add(self._bias, z.float(), alpha=1 / GRID))


def can_be_exact(network: nn.Module, x: Images, sigma: float) -> bool:
    """Say whether the first layer's sums are exact for images and noise of a kind.

    Parameters
    ----------
    network : nn.Module
        Any network.
    x : Tensor of shape (B, C, H, W), float
        Images like those that come.
    sigma : float
        Noise level, in pixel units.

    Returns
    -------
    bool
        True for a ``Stemmed`` network that says its stem is one layer, in single precision, on a
        CPU (a GPU's library may compute convolutions other than by sums), with weights and noise
        that are not enormous.
    """
    if not isinstance(network, Stemmed) or not network.stem_is_one_layer:
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    steps = torch.full_like(x[:1], 2 * GRID + REACH * sigma * GRID)
    # The largest sums that there can be, of a digit's absolute values.
    return all(
        bool(_changed(digit, torch.abs).stem(steps).max() < LARGEST) for digit in _digits(network)
    )


def _digits(network: Stemmed) -> list[Stemmed]:
    """Split a network into such as have one digit of each weight, the leading one first."""

    def digit(j: int) -> Stemmed:
        def of(weight: Tensor) -> Tensor:
            rest = (weight.double() * BASE**DIGITS).round()
            for place in range(1, j + 1):
                unit = BASE ** (DIGITS - place)
                found = (rest / unit).round()
                rest -= found * unit
            return found

        return _changed(network, of)

    return [digit(j) for j in range(1, DIGITS + 1)]


@torch.no_grad()
def _changed(network: Stemmed, change: Callable[[Tensor], Tensor]) -> Stemmed:
    """Copy a network and change each of its weights."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for parameter in copied.parameters():
        parameter.copy_(change(parameter))
    return copied
