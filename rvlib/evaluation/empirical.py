"""What the network answers under attack, image by image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rvlib.attacks import Attack
from rvlib.attacks.ascent import logits_in_tiles
from rvlib.checks import check_whole
from rvlib.data import to_float
from rvlib.frozen import answering, frozen, place_of
from rvlib.noise import stream
from rvlib.types import Images, Labels, check_stored, refuse_nan


def attacked_batches(
    model: nn.Module,
    images: Tensor,
    labels: Labels,
    attack: Attack,
    *,
    first_id: int = 0,
    unit: int = 256,
    seed: int = 0,
) -> Iterator[tuple[Images, Labels]]:
    """Attack stored images batch by batch.

    Parameters
    ----------
    model : nn.Module
        The network under attack; its device is where the work is done.
    images : Tensor of shape (N, C, H, W), uint8
        Stored images.
    labels : Tensor of shape (N,), int64
        True labels.
    attack : Attack
        Called once a batch.
    first_id : int, default=0
        Index of the first image, so that a set evaluated in parts is attacked as in the whole.
    unit : int, default=256
        Images that share a stream of randomness: part of the seed.  How many of them go through
        the network at once is for ``rvlib.memory`` to say, and changes no start and no noise.
    seed : int, default=0
        Of the attack's randomness; each batch has a stream addressed by its first image's index.

    Yields
    ------
    x_adv : Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, ``channels_last``.
    y : Tensor of shape (B,), int64
        Their labels, on the same device.
    """
    check_whole("unit", unit)
    largest_label = check_stored(images, labels)
    device = place_of(model, images)
    for first in range(0, len(images), unit):
        x = to_float(images[first : first + unit]).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        y = labels[first : first + unit].to(device)
        with answering(model, largest_label):
            x_adv = attack(model, x, y, stream(device, seed, "attack", first_id + first))
        yield x_adv, y


def predictions(
    model: nn.Module,
    images: Tensor,
    labels: Labels,
    attack: Attack,
    *,
    first_id: int = 0,
    unit: int = 256,
    seed: int = 0,
) -> Labels:
    """Classify each image as the attack left it.

    Parameters
    ----------
    model : nn.Module
        The network under attack; its device is where the work is done.
    images : Tensor of shape (N, C, H, W), uint8
        Stored images.
    labels : Tensor of shape (N,), int64
        True labels.
    attack : Attack
        Called once a batch.
    first_id : int, default=0
        Index of the first image.
    unit : int, default=256
        Images that share a stream of randomness: part of the seed.  How many of them go through
        the network at once is for ``rvlib.memory`` to say, and changes no start and no noise.
    seed : int, default=0
        Of the attack's randomness.

    Returns
    -------
    Tensor of shape (N,), int64, on the CPU
        The network's answers; comparing them with the labels gives the accuracy under this
        attack, an upper bound on the robust accuracy.

    Raises
    ------
    TypeError, ValueError
        If the images are not stored ones with a label each, or the network gives NaN.
    """
    batches = attacked_batches(
        model, images, labels, attack, first_id=first_id, unit=unit, seed=seed
    )
    answers = []
    with frozen(model), answering(model, check_stored(images, labels)):
        # Gradients are off for the answer only: an attack of the user's own may need them.
        for x_adv, _ in batches:
            with torch.no_grad():
                logits = logits_in_tiles(model, x_adv)
            refuse_nan(logits.isnan().any())
            answers.append(logits.argmax(1).cpu())
    return torch.cat(answers)
