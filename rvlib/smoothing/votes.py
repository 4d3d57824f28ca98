"""Counting votes under noise: many images at once, on the device, without any statistics."""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rvlib.checks import check_voters
from rvlib.inference import eval_mode, in_batches, split_first_layer
from rvlib.smoothing.noise import GRID, grid_noise, stream, to_grid
from rvlib.smoothing.statistics import check_sigma

CHUNK = 100
"""Draws that share a random stream on a CPU.  Fixed: changing it changes every count."""

BLOCK = 2**26
"""Random numbers of a stream on a GPU, drawn in one call, at most 256 MiB: 16,384 draws for
CIFAR-10, 192 MiB, on the grid for a moment five times that.  Fixed, too."""

SEQUENTIAL = "sequential"
"""Purpose of votes that are looked at after each hundred: drawn in hundreds on a GPU, too."""

Noise = Literal["gaussian", "grid"]


def sample_under_noise(
    model: nn.Module,
    x: Tensor,
    sigma: float,
    n: int,
    *,
    first: int = 0,
    purpose: str = "estimation",
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    noise: Noise = "gaussian",
    batch_size: int | None = None,
) -> Tensor:
    r"""Classify `n` noisy copies of each image and count the answers.

    Row b of the result counts, over draws :math:`\delta_1, \dots, \delta_n`,

    .. math:: \#\{ i : \arg\max_k f(x_b + \delta_i)_k = c \},
        \qquad \delta_i \sim \mathcal{N}(0, \sigma^2 I)

    for every class c: ``SampleUnderNoise`` of Cohen et al. [1]_.  The draws are independent of one
    another; every image sees the same ones, or with `image_ids` its own.

    Parameters
    ----------
    model : nn.Module
        The base network, pixels to logits of shape (B, K).
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images, on the network's device; many at once are faster.  Noisy copies are not clipped.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    n : int, > 0
        Copies of each image.
    first : int, default=0
        Draws of the stream to skip, a multiple of 100: counts of [0, 100) and of [100, 1000) add up
        to those of [0, 1000).
    purpose : str, default="estimation"
        Part of the noise's address: draws for another purpose are independent.
    seed : int, default=0
        Part of the noise's address.
    image_ids : sequence of int, optional
        One number per image: part of its noise's address, so that each has noise of its own and the
        images' errors are independent.
    noise : {"gaussian", "grid"}, default="gaussian"
        ``"grid"`` rounds the noise to whole steps of 1/255, exactly: every sum is exact, and the
        certificate holds for what the computer computes (``rvlib.smoothing.noise``).  Images must
        be multiples of 1/255.
    batch_size : int, optional
        Noisy copies a forward pass; by default 200 on a CPU, 10,000 on a GPU.

    Returns
    -------
    Tensor of shape (B, K), int64, on the CPU
        Every row sums to `n`.  At another batch size or among other images the noise is the same
        and counts differ at most by rounding in the forward pass.  CPUs and each model of GPU have
        noise of their own, of the same law.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels, `sigma`, `n` or `first` make no sample, there is not one id an
        image, the network gives NaN, or a pixel is off the grid.

    Notes
    -----
    Each image's votes are an independent sample, which is all that its answer and its certificate
    rest on.  Sharing noise changes only that failures of similar images may come together.  Where
    the first layer is a plain convolution it is applied once per image and once per draw
    (``split_first_layer``).

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
       ICML 2019, section 3.2.  arXiv:1902.02918.

    Examples
    --------
    >>> always_one = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = always_one[1].weight.zero_(), always_one[1].bias.copy_(torch.tensor([0.0, 2.0]))
    >>> sample_under_noise(always_one, torch.zeros(2, 3, 1, 1), sigma=0.25, n=200)
    tensor([[  0, 200],
            [  0, 200]])
    """
    check_voters(model, x)
    check_ids(image_ids, x)
    check_sigma(sigma)
    if noise not in get_args(Noise):
        raise ValueError(f"unknown noise {noise!r}: choose from {', '.join(get_args(Noise))}")
    if not isinstance(n, Integral):
        raise TypeError(f"n={n} is no integer")
    if n < 1 or first < 0 or first % CHUNK:
        raise ValueError(f"n={n}, first={first}: need n >= 1 draws after a multiple of {CHUNK}")
    pixels = to_grid(x) if noise == "grid" else x
    pixels = pixels.detach().contiguous(memory_format=torch.channels_last)
    size = (200 if x.device.type == "cpu" else 10_000) if batch_size is None else batch_size
    parts: list[tuple[Tensor, tuple[int | str, ...]]] = [(pixels, (seed, purpose))]
    if image_ids is not None:
        images = zip(pixels.split(1), image_ids, strict=True)
        parts = [(image, (seed, purpose, "image", int(i))) for image, i in images]
    counts = []
    with eval_mode(model), torch.no_grad():
        for part, address in parts:
            draws = _draws(part, sigma, noise, n, first, size // len(part), address)
            counts.append(_count(model, part, draws, noise, size))
    return torch.cat(counts).cpu()


def check_ids(image_ids: Sequence[int] | None, x: Tensor) -> None:
    """Refuse anything but one number per image."""
    if image_ids is not None and len(image_ids) != len(x):
        raise ValueError(f"{len(image_ids)} image_ids for {len(x)} images: give one per image")


def _block(pixels: Tensor, address: tuple[int | str, ...]) -> tuple[int, tuple[int | str, ...]]:
    """Draws that share a random stream, a power of two on a GPU, and the address of the streams."""
    if pixels.device.type == "cpu" or SEQUENTIAL in address:
        return CHUNK, address
    draws = 1 << (max(1, BLOCK // pixels[0].numel()).bit_length() - 1)
    # GPUs of another model put a large call's numbers elsewhere: two that divide a block between
    # them would use some twice, so theirs are different streams.
    own = torch.get_device_module(pixels.device)
    return draws, (*address, getattr(own, "get_device_name", str)(pixels.device))


def _draws(
    pixels: Tensor,
    sigma: float,
    noise: Noise,
    n: int,
    first: int,
    at_once: int,
    address: tuple[int | str, ...],
) -> Iterator[Tensor]:
    """Yield the draws (D, C, H, W) of an address, whole blocks or equal parts of one."""
    block, address = _block(pixels, address)
    shape = (block, *pixels.shape[2:], pixels.shape[1])  # NHWC: convolutions' fastest layout
    blocks, step = range(first // block, -(-(first + n) // block)), max(1, at_once // block)
    for k in blocks[::step]:
        streams = [stream(pixels.device, *address, i) for i in range(k, min(k + step, blocks.stop))]
        if noise == "grid":
            drawn = torch.cat([grid_noise(shape, sigma, s) for s in streams]).to(pixels.dtype)
        else:
            drawn = pixels.new_empty((len(streams), *shape))
            for part, s in zip(drawn, streams, strict=True):
                part.normal_(std=sigma, generator=s)
            drawn = drawn.flatten(0, 1)
        drawn = drawn[max(0, first - k * block) : first + n - k * block].permute(0, 3, 1, 2)
        yield from drawn.chunk(-(-len(drawn) // max(at_once, CHUNK)))


def _count(
    model: nn.Module, pixels: Tensor, draws: Iterator[Tensor], noise: Noise, batch_size: int
) -> Tensor:
    """Count the answers (B, K) to all images under the same draws."""
    # Sums on the grid must be exact before any layer, and for one image nothing is shared.
    shares = noise == "gaussian" and len(pixels) > 1
    first, rest = split_first_layer(model) if shares else (nn.Identity(), model)
    scale = GRID if noise == "grid" else 1
    of_image = first(pixels) - first(torch.zeros_like(pixels[:1]))
    counts, checksum = torch.zeros(0), pixels.new_zeros(())

    def answers(copies: Tensor) -> Tensor:
        return rest(copies / scale if scale != 1 else copies)

    for drawn in draws:
        of_draw = first(drawn)
        for image in range(0, len(pixels), max(1, batch_size // len(drawn))):
            some = of_image[image : image + max(1, batch_size // len(drawn))]
            votes, total = tally(answers, some, of_draw, batch_size)
            if not len(counts):
                counts = votes.new_zeros((len(pixels), votes.shape[1]))
            counts[image : image + len(some)].add_(votes)
            checksum += total  # read at the end: nothing waits here
    if checksum.isnan():
        raise ValueError("the network gave NaN under noise: its training diverged, or it overflows")
    return counts


def tally(
    network: Callable[[Tensor], Tensor], of_image: Tensor, of_draw: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Count the answers (I, K) to I images under D draws without a wait.

    The second result is the sum of the winning logits: NaN where one is.
    """

    def logits_of(rows: range) -> Tensor:
        # Made anew where memory ran out: the network may have overwritten the first ones.
        pairs = (of_image[:, None] + of_draw).flatten(0, 1)  # (I * D, C, H, W)
        return network(pairs[rows.start : rows.stop])

    logits = in_batches(logits_of, batch_size, range(len(of_image) * len(of_draw)))
    largest, answers = logits.max(1)
    answers = answers.view(len(of_image), -1)  # (I, D)
    counts = answers.new_zeros((len(of_image), logits.shape[1]))
    return counts.scatter_(1, answers, 1, reduce="add"), largest.sum()
