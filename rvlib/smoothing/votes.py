"""Counting votes under noise: many images at once, on the device, without any statistics."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rvlib.checks import check_sigma, check_whole
from rvlib.frozen import check_network, check_precision, frozen, place_of, taking
from rvlib.grid_noise import GRID, grid_noise, to_grid
from rvlib.memory import images_at_once
from rvlib.noise import stream
from rvlib.smoothing.exact_stem import ExactStem, can_be_exact
from rvlib.stemmed import Stemmed, WholeNetwork, stemmed
from rvlib.types import Counts, Images, Logits, check_images, check_logits, refuse_nan

CHUNK = 100
"""Draws that share a random stream.  Fixed: changing it changes every count."""

Draw = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""Makes noise for images like the first argument, ``CHUNK`` draws from each stream."""


def default_batch_size(device: torch.device) -> int:
    """Noisy copies in one forward pass: few stay in a CPU's cache, many fill a GPU.

    On two CPU cores a LeNet votes on 128 images in 4 ms per 1000 copies, at 200 to 400 a batch.
    """
    return 200 if device.type == "cpu" else 10_000


def sample_under_noise(
    model: nn.Module,
    x: Images,
    sigma: float,
    n: int,
    *,
    first: int = 0,
    purpose: str = "estimation",
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    sound: bool = False,
    batch_size: int | None = None,
) -> Counts:
    r"""Classify `n` noisy copies of each image and count the answers.

    Row b of the result counts, over draws :math:`\delta_1, \dots, \delta_n`,

    .. math:: \#\{ i : \arg\max_k f(x_b + \delta_i)_k = c \},
        \qquad \delta_i \sim \mathcal{N}(0, \sigma^2 I)

    for every class c: ``SampleUnderNoise`` of Cohen et al. [1]_.  The draws are independent of one
    another; every image sees the same ones, or with `image_ids` its own.

    Parameters
    ----------
    model : nn.Module
        The base network, pixels to logits of shape (B, K); its device is where the work is done.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images; many at once are faster.  Their noisy copies are not clipped.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    n : int, > 0
        Copies of each image; a multiple of 100.
    first : int, default=0
        How many draws of the streams to leave out: counts of [0, 100) and of [100, 1000) add up
        to those of [0, 1000).  A multiple of 100.
    purpose : str, default="estimation"
        Part of the noise's address: draws for another purpose are independent.
    seed : int, default=0
        Part of the noise's address.
    image_ids : sequence of int, default=None
        One number an image: part of its noise's address, so that each has noise of its own and the
        images' errors are independent.  A LeNet takes two to three times as long.
    sound : bool, default=False
        Draw noise in whole steps of 1/255, so that every sum is exact and the certificate holds
        for what the computer computes (``rvlib.grid_noise``); the first layer is shared where its
        sums are exact, too (``rvlib.smoothing.exact_stem``).
    batch_size : int, default=``default_batch_size(device)``
        Noisy copies in one forward pass; more than 100 are rounded down to a multiple of 100.  The
        default is less where that many do not fit into memory (``rvlib.memory``).

    Returns
    -------
    Tensor of shape (B, K), int64, on the CPU
        Every row sums to `n`.  At another batch size or among other images the noise is the same
        and counts differ at most by rounding in the forward pass.

    Raises
    ------
    ValueError
        If `sigma`, `n` or `first` make no sample, there is not one id an image, the network gives
        NaN, or with `sound` a pixel is no multiple of 1/255.

    Notes
    -----
    Each image's votes are an independent sample, which is all that its answer and its certificate
    rest on: each fails with probability at most alpha, so the expected number of failures among
    many is as with noise of their own.  What sharing changes is that failures of similar images
    may come together.

    Shared noise is drawn once, and a ``rvlib.stemmed.Stemmed`` network applies its first layer
    once an image and once a draw.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.2.  arXiv:1902.02918.

    Examples
    --------
    >>> always_one = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = always_one[1].weight.zero_(), always_one[1].bias.copy_(torch.tensor([0.0, 1.0]))
    >>> sample_under_noise(always_one, torch.zeros(2, 3, 1, 1), sigma=0.25, n=200)
    tensor([[  0, 200],
            [  0, 200]])
    """
    check_network(model)
    check_images(x)
    check_precision(model, x)
    _check(sigma, n, first, batch_size, seed)
    ids = whole_ids(image_ids, len(x))
    pixels = x.detach().to(place_of(model, x)).contiguous(memory_format=torch.channels_last)
    network, draw = stemmed(model), partial(_draw, sigma=sigma)
    if sound:
        pixels, draw = to_grid(pixels), partial(_draw_on_grid, sigma=sigma)
        network = _on_grid(network, pixels, sigma)
    hundreds = range(first // CHUNK, (first + n) // CHUNK)
    count = partial(_count, network, draw=draw, hundreds=hundreds, batch_size=batch_size)
    with frozen(model), torch.no_grad(), taking(model, pixels):
        if ids is None:
            return count(pixels, address=(seed, purpose)).cpu()
        counts = [
            count(image, address=(seed, purpose, "image", i))
            for image, i in zip(pixels.split(1), ids, strict=True)
        ]
        return torch.cat(counts).cpu()


def _on_grid(network: Stemmed, steps: Images, sigma: float) -> Stemmed:
    """Make of a network of pixels one of steps that sees nothing but exact sums."""
    if can_be_exact(network, steps, sigma):
        return ExactStem(network, steps)
    return OnGrid(network.network if isinstance(network, WholeNetwork) else network)


class OnGrid(WholeNetwork):
    """A network of images in whole steps of 1/255: sums are exact, and it sees nothing but them."""

    def after_stem(self, z: Tensor) -> Logits:
        """Turn steps into pixels and apply the network."""
        return super().after_stem(z / GRID)


def _count(
    network: Stemmed,
    pixels: Images,
    draw: Draw,
    hundreds: range,
    address: tuple[int | str, ...],
    batch_size: int | None,
) -> Counts:
    """Count the answers to all images under the same draws, those of the given hundreds."""
    device = pixels.device
    of_image = network.stem(pixels) - network.stem(torch.zeros_like(pixels[:1]))  # (B, ...)
    if batch_size is None:
        rest, most = network.after_stem, default_batch_size(device)
        known = network.network if isinstance(network, WholeNetwork | ExactStem) else network
        batch_size = images_at_once(known, of_image, most, gradient=False, part=rest)
    images, chunks = _tile(len(pixels), len(hundreds), batch_size // CHUNK)
    counts, nan = torch.zeros(0), torch.tensor(False, device=device)
    for first in range(0, len(hundreds), chunks):
        streams = [stream(device, *address, k) for k in hundreds[first : first + chunks]]
        of_noise = network.stem(draw(pixels[0], streams))  # (D, ...)
        for image in range(0, len(pixels), images):
            # Pairs of image and draw (I, D, ...), in batches of I * D.
            pairs = of_image[image : image + images, None] + of_noise
            logits = _logits_of(network, pairs.flatten(0, 1), batch_size)
            answers = logits.argmax(1).view(len(pairs), -1)  # (I, D)
            if not len(counts):
                counts = answers.new_zeros(len(pixels), logits.shape[1])
            nan |= logits.isnan().any()  # looked at in the end: nothing waits for it here
            counts[image : image + images].scatter_add_(1, answers, torch.ones_like(answers))
    refuse_nan(nan)
    return counts


def _logits_of(network: Stemmed, copies: Images, batch_size: int) -> Logits:
    """Put noisy copies through the network: a hundred or more at once, unless told fewer."""
    parts = [copies] if batch_size >= CHUNK else copies.split(batch_size)
    logits = [network.after_stem(part) for part in parts]
    for part, found in zip(parts, logits, strict=True):
        check_logits(found, len(part), -1)
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def _tile(images: int, chunks: int, room: int) -> tuple[int, int]:
    """Say how many images meet how many chunks of draws in one batch with `room` for pairs."""
    together = max(1, min(images, room))
    return together, max(1, min(chunks, room // together))


def _draw(pixels: Tensor, streams: Sequence[torch.Generator], sigma: float) -> Tensor:
    """Draw ``CHUNK`` images of Gaussian noise from each stream, ``channels_last``."""
    # NHWC in memory: drawn straight into the layout that convolutions run fastest in.
    noise = pixels.new_empty(len(streams), CHUNK, *pixels.permute(1, 2, 0).shape)
    for hundred, generator in zip(noise, streams, strict=True):
        hundred.normal_(generator=generator)
    return noise.mul_(sigma).flatten(0, 1).permute(0, 3, 1, 2)


def _draw_on_grid(pixels: Tensor, streams: Sequence[torch.Generator], sigma: float) -> Tensor:
    """Draw ``CHUNK`` images of noise in whole steps of 1/255 from each stream."""
    shape = (CHUNK, *pixels.permute(1, 2, 0).shape)
    noise = torch.cat([grid_noise(shape, sigma, generator) for generator in streams])
    return noise.permute(0, 3, 1, 2).to(pixels.dtype)


def whole_ids(image_ids: Sequence[int] | None, images: int) -> list[int] | None:
    """Refuse ids of images that are not one whole number each; None stays None.

    Parameters
    ----------
    image_ids : sequence of int, array or tensor, or None
        The ids.
    images : int
        How many images there are.

    Returns
    -------
    list of int or None
        The same as plain numbers.

    Raises
    ------
    TypeError, ValueError
        If an id is no whole number >= 0, or there is not one an image.
    """
    if image_ids is None:
        return None
    given = image_ids.tolist() if isinstance(image_ids, np.ndarray | Tensor) else image_ids
    if not isinstance(given, Iterable):
        raise TypeError(
            f"image_ids={given!r} is {type(given).__name__}: give one whole number an image, "
            f"range({images}), say"
        )
    ids = list(given)
    if len(ids) != images:
        raise ValueError(f"{len(ids)} image_ids for {images} images: give one an image")
    for i in ids:
        check_whole("an id of image_ids", i, least=0)
    return [int(i) for i in ids]


def _check(sigma: float, n: int, first: int, batch_size: int | None, seed: int) -> None:
    check_sigma(sigma)
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    check_whole("seed", seed, least=0)
    check_whole("n", n, least=0)
    check_whole("first", first, least=0)
    if n < 1 or n % CHUNK or first % CHUNK:
        raise ValueError(f"n={n}, first={first}: draws come in whole hundreds, write e.g. n=1000")
