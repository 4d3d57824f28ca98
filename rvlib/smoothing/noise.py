r"""Random numbers addressed by their purpose, and Gaussian noise on the grid of pixel values.

Certificates are about real numbers, computers add floating-point ones.  An image plus a normal
deviate, rounded, keeps low bits of the image, so a network could tell from the noisy image which
one it was, and the law of the noise is not quite Gaussian [1]_.  With pixels that are multiples of
1/255 and noise rounded to such multiples every sum is exact, and the noisy image

.. math:: x + \operatorname{round}_{1/255}(\delta) = \operatorname{round}_{1/255}(x + \delta),
    \qquad \delta \sim \mathcal{N}(0, \sigma^2 I)

is what rounding makes of the real noisy image.  The certificate is that of the network after
rounding, and holds for it as the theorem says.  Such noise reaches to nine standard deviations;
plain Gaussian noise on a CPU, made of 24-bit uniform numbers, ends at 5.77 of them.

References
----------
.. [1] Jin, Ohrimenko, Rubinstein, "Getting a-Round Guarantees: Floating-Point Attacks on Certified
   Robustness", 2022, arXiv:2205.10159; Voracek, Hein, "Sound Randomized Smoothing in
   Floating-Point Arithmetics", ICLR 2023, arXiv:2207.07209.
"""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import mpmath
import torch
from torch import Tensor

from rvlib.device import fork_rng
from rvlib.smoothing.statistics import check_sigma

GRID = 255
"""Steps of the grid from black to white."""

BITS = 63
"""Random bits that a deviate is made of."""

GUIDE_BITS = 16
"""Of these, how many find the deviate in a table; where they do not suffice, all are compared."""

UNSURE = -1
"""Table entry where the leading bits do not suffice."""

REACH = 9
"""Standard deviations that the grid reaches to: beyond lies less than 2^-62, drawn as its end."""


def stream(device: torch.device | str, *address: int | str) -> torch.Generator:
    """Open the random stream of an address.

    A stream depends on its address alone, not on what was drawn before: results do not depend on
    batches, order or processes.

    Parameters
    ----------
    device : torch.device or str
        Where the numbers are drawn.
    *address : int or str
        What they are for: seed, purpose, number of a block, ...

    Returns
    -------
    torch.Generator
        On a CPU and on each model of GPU different numbers, always the same there.

    Notes
    -----
    PyTorch's generator on a CPU reads 32 bits of the seed: of many streams two may coincide, among
    10,000 images of 1,000 blocks each about 11,600 pairs of ten million.  Hardly ever do two of one
    image, whose certificate therefore stays what it is.

    Examples
    --------
    >>> a, b = stream("cpu", 0, "noise", 7), stream("cpu", 0, "noise", 7)
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in address)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    seed = int.from_bytes(digest[:8], "little") & (2**63 - 1)
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def seeded(device: torch.device, *address: int | str) -> Iterator[None]:
    """Seed PyTorch's own generators, which layers and loaders draw from, and restore them."""
    seed = stream("cpu", *address).initial_seed()
    with fork_rng(device):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield


def to_grid(x: Tensor) -> Tensor:
    """Turn pixels into steps of the grid.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images whose pixels are multiples of 1/255, as stored images are.

    Returns
    -------
    Tensor of the same shape, float
        Whole numbers in 0..255.

    Raises
    ------
    TypeError, ValueError
        If a pixel lies off the grid, or the type of the pixels is too short for exact sums.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"images are {x.dtype}, whose sums are rounded: use x.float()")
    steps = (x * GRID).round()
    off = (x * GRID - steps).abs().max().item()
    if off > 1e-3:
        raise ValueError(
            f"a pixel lies {off:.3g} of a step of 1/255 off the grid: round images to 8 bits first"
        )
    return steps


def grid_noise(shape: tuple[int, ...], sigma: float, generator: torch.Generator) -> Tensor:
    r"""Draw Gaussian noise rounded to whole steps of the grid.

    .. math:: P(k) = \Phi\Big(\frac{k + 1/2}{255 \sigma}\Big)
        - \Phi\Big(\frac{k - 1/2}{255 \sigma}\Big)

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    sigma : float, > 0
        Standard deviation before rounding, in pixel units.
    generator : torch.Generator
        Source of the random bits; its device is where the noise is made.

    Returns
    -------
    Tensor of shape `shape`, float32
        Whole numbers: steps of 1/255.

    Raises
    ------
    TypeError, ValueError
        If `sigma` is no noise level.

    Notes
    -----
    A uniform whole number below :math:`2^{63}` is compared with the distribution function in the
    same unit, rounded down: every probability is right to :math:`2^{-63}`, so that 100,000 draws of
    a CIFAR-10 image are off by less than :math:`10^{-7}` in total variation.
    """
    check_sigma(sigma)
    device = generator.device
    uniform = torch.empty(shape, dtype=torch.int64, device=device).random_(generator=generator)
    thresholds, guide = _tables(float(sigma), device)
    if device.type == "cpu":
        k = guide.take(uniform >> (BITS - GUIDE_BITS))
        # A few cells in a hundred hold a threshold: there all bits decide.
        where = (k == UNSURE).nonzero(as_tuple=True)
        k[where] = torch.bucketize(uniform[where], thresholds, right=True, out_int32=True)
    else:  # finding those cells would wait for the device
        k = torch.bucketize(uniform, thresholds, right=True, out_int32=True)
    return (k - len(thresholds) // 2).float()


@functools.lru_cache(maxsize=16)
def _tables(sigma: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Thresholds of the uniform number, and what its leading bits say of the result."""
    reach = int(REACH * sigma * GRID) + 1
    with mpmath.workdps(40):
        unit, scale = mpmath.mpf(2) ** BITS, GRID * mpmath.mpf(sigma)
        # Between the whole numbers -reach, ..., reach: the result is how many are not exceeded.
        # Ends are cut where both table and precision end: noise far below a step is no noise.
        ends = (max(-40, min(40, (k + mpmath.mpf(1) / 2) / scale)) for k in range(-reach, reach))
        exact = [min(int(mpmath.floor(unit * mpmath.ncdf(z))), 2**BITS - 1) for z in ends]
    thresholds = torch.tensor(exact, dtype=torch.int64)
    first = torch.arange(2**GUIDE_BITS, dtype=torch.int64) << (BITS - GUIDE_BITS)
    last = first + ((1 << (BITS - GUIDE_BITS)) - 1)
    low, high = (
        torch.bucketize(end, thresholds, right=True, out_int32=True) for end in (first, last)
    )
    return thresholds.to(device), torch.where(low == high, low, UNSURE).to(device)
