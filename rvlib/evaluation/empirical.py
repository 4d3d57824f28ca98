"""What the network answers under attack, image by image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rvlib.attacks import Attack
from rvlib.attacks.ascent import logits_in_tiles
from rvlib.attacks.base import check_attack
from rvlib.checks import check_whole
from rvlib.data import to_float
from rvlib.frozen import answering, frozen, place_of, taking
from rvlib.noise import stream
from rvlib.types import Images, Labels, check_images, check_stored, refuse_nan


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

    Raises
    ------
    TypeError, ValueError
        If the images are not stored ones with a label each, `attack` is none, or what it returns
        is no batch of images like those that it was given.
    """
    check_attack(attack)
    check_whole("unit", unit)
    largest_label = check_stored(images, labels)
    device = place_of(model, images)
    for first in range(0, len(images), unit):
        x = to_float(images[first : first + unit]).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        y = labels[first : first + unit].to(device)
        with answering(model, largest_label), taking(model, x):
            x_adv = attack(model, x, y, stream(device, seed, "attack", first_id + first))
        _check_attacked(x_adv, x)
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
        As for ``attacked_batches``, or if the network gives NaN.
    """
    batches = attacked_batches(
        model, images, labels, attack, first_id=first_id, unit=unit, seed=seed
    )
    answers = []
    with frozen(model), answering(model, check_stored(images, labels)):
        # Gradients are off for the answer only: an attack of the user's own may need them.
        for x_adv, _ in batches:
            with torch.no_grad(), taking(model, x_adv):
                logits = logits_in_tiles(model, x_adv)
            refuse_nan(logits.isnan().any())
            answers.append(logits.argmax(1).cpu())
    return torch.cat(answers)


def _check_attacked(x_adv: object, x: Images) -> None:
    """Refuse what an attack returned unless it is a batch of images like those it was given."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        found = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(
            f"the attack returned {found} for images of shape {tuple(x.shape)}: return the "
            "attacked images"
        )
    try:
        check_images(x_adv)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the attack left the box: {error}") from None
