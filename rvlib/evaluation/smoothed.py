"""What the smoothed network answers under attack, and what its votes certify, image by image."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rvlib.attacks import Attack
from rvlib.checks import check_whole
from rvlib.data import to_float
from rvlib.evaluation.empirical import attacked_batches
from rvlib.smoothing import sample_under_noise
from rvlib.types import Counts, Labels, check_stored


def votes_under_attack(
    model: nn.Module,
    images: Tensor,
    labels: Labels,
    attack: Attack,
    sigma: float,
    n: int,
    *,
    first_id: int = 0,
    seed: int = 0,
    unit: int = 256,
) -> Counts:
    """Attack images, then let the smoothed network vote on them with noise of its own.

    Parameters
    ----------
    model : nn.Module
        The base network, trained with noise.
    images : Tensor of shape (N, C, H, W), uint8
        Stored images.
    labels : Tensor of shape (N,), int64
        True labels.
    attack : Attack
        Against the base network (``pgd``) or against the vote (``smoothed_pgd``).
    sigma : float, > 0
        Noise level of the vote, in pixel units.
    n : int
        Votes an image.
    first_id : int, default=0
        Index of the first image, so that a set evaluated in parts is attacked as in the whole.
    seed : int, default=0
        Of the attack's randomness and, independently, of the vote's.
    unit : int, default=256
        Images that share a stream of the attack's randomness, see ``attacked_batches``.

    Returns
    -------
    Tensor of shape (N, K), int64
        Votes; ``rvlib.smoothing.vote`` calls them.
    """
    batches = attacked_batches(
        model, images, labels, attack, first_id=first_id, unit=unit, seed=seed
    )
    counts = [
        sample_under_noise(model, x_adv, sigma, n, purpose="prediction", seed=seed)
        for x_adv, _ in batches
    ]
    return torch.cat(counts)


def nested_votes(
    model: nn.Module,
    images: Tensor,
    sigma: float,
    ns: Sequence[int],
    *,
    n0: int = 100,
    labels: Labels | None = None,
    seed: int = 0,
) -> tuple[Counts, dict[int, Counts]]:
    """Draw the votes that certificates are made of, for every number of votes from one stream.

    The first 100 draws are the sample for n = 100, the first 1000 the one for n = 1000, and so
    on: each certificate uses one fixed n, so each holds; curves for different n come from one run.

    Parameters
    ----------
    model : nn.Module
        The base network, trained with noise `sigma`.
    images : Tensor of shape (N, C, H, W), uint8
        Stored images.
    sigma : float, > 0
        Noise level, in pixel units.
    ns : sequence of int
        Numbers of votes, ascending multiples of 100.
    n0 : int, default=100
        Votes for the selection, independent of all others.
    labels : Tensor of shape (N,), int64, default=None
        With labels, an image whose selected class is wrong gets no votes beyond the smallest n:
        it is not certified *correctly* at any radius, so certified accuracy loses nothing.
    seed : int, default=0
        Part of the noise's address.

    Returns
    -------
    selection : Tensor of shape (N, K), int64
        Votes of the selection.
    counts : dict of int to Tensor of shape (N, K)
        Votes of the estimation by n; rows of zeros where an image was not sampled.
    """
    if not isinstance(ns, Iterable):
        raise TypeError(f"ns={ns!r} is one number: write [1000]")
    ns = list(ns)
    for n in ns:
        check_whole("a number of ns", n)
    if not ns or ns != sorted(set(ns)):
        raise ValueError(f"ns={ns} must rise in whole hundreds: [100, 1000], say")
    largest = -1 if labels is None else check_stored(images, labels)
    x = to_float(images)

    def sample(which: Tensor, n: int, first: int, purpose: str) -> Counts:
        return sample_under_noise(
            model, x[which], sigma, n, first=first, purpose=purpose, seed=seed
        )

    everything = torch.ones(len(x), dtype=torch.bool)
    selection = sample(everything, n0, 0, "selection")
    if largest >= selection.shape[1]:
        raise ValueError(
            f"label {largest}, but the network tells {selection.shape[1]} classes apart, 0 to "
            f"{selection.shape[1] - 1}"
        )
    going_on = everything if labels is None else selection.argmax(1) == labels.cpu()
    counts = {ns[0]: sample(everything, ns[0], 0, "estimation")}
    for smaller, n in pairwise(ns):
        counts[n] = torch.zeros_like(selection)
        if going_on.any():
            more = sample(going_on, n - smaller, smaller, "estimation")
            counts[n][going_on] = counts[smaller][going_on] + more
    return selection, counts
