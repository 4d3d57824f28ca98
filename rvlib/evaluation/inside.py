"""Attack inside certified balls, where no attack can succeed."""

import torch
from numpy.typing import ArrayLike
from torch import nn

from rvlib.attacks import smoothed_pgd
from rvlib.checks import check_number
from rvlib.frozen import place_of
from rvlib.noise import stream
from rvlib.smoothing import ABSTAIN, sample_under_noise, vote
from rvlib.smoothing.certificate import Certificates, Integers
from rvlib.threat_models import L2
from rvlib.types import Counts, Images

SHARE = 0.99
"""Share of the certified radius that the attack may use."""


def votes_inside(
    model: nn.Module,
    x: Images,
    certificates: Certificates,
    sigma: float,
    *,
    first_id: int = 0,
    share: float = SHARE,
    steps: int = 20,
    draws: int = 16,
    n: int = 1000,
    seed: int = 0,
) -> Counts:
    r"""Attack each certified image just inside its ball, and let the smoothed network vote.

    The attack climbs the loss of the certified class in the ball of radius `share` times
    :math:`R` around the image; where the certificate is true, the smoothed network's answer cannot
    change there.

    Parameters
    ----------
    model : nn.Module
        The base network; its device is where the work is done.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    certificates : Certificates
        What was certified of them.
    sigma : float, > 0
        Noise level, in pixel units.
    first_id : int, default=0
        Index of the first image: part of the attack's randomness.
    share : float, in [0, 1], default=0.99
        Of the certified radius.
    steps, draws : int, default=20, 16
        Of the attack on the vote (``rvlib.attacks.smoothed_pgd``).
    n : int, default=1000
        Votes an image, from noise that neither certificate nor attack has seen.
    seed : int, default=0
        Of attack and votes.

    Returns
    -------
    Tensor of shape (B, K), int64
        Votes; rows of zeros where nothing was certified.

    Raises
    ------
    TypeError, ValueError
        If `share` is no number or lies outside [0, 1], or there is not one certificate an image.
    """
    check_number("share", share, f"share={SHARE}")
    if not 0 <= share <= 1:  # NaN is refused, too
        raise ValueError(
            f"share={share} must lie in [0, 1]: beyond the radius nothing is certified"
        )
    if len(certificates.prediction) != len(x):
        raise ValueError(
            f"{len(certificates.prediction)} certificates for {len(x)} images: give one an image"
        )
    device = place_of(model, x)
    found = torch.from_numpy((certificates.prediction != ABSTAIN) & (certificates.radius > 0))
    attacked = x.to(device).contiguous(memory_format=torch.channels_last).clone()
    for i in found.nonzero()[:, 0].tolist():
        # One image at a time: each has a radius of its own.
        attacked[i : i + 1] = smoothed_pgd(
            model,
            attacked[i : i + 1],
            torch.tensor([int(certificates.prediction[i])], device=device),
            L2(share * float(certificates.radius[i])),
            sigma=sigma,
            draws=draws,
            steps=steps,
            generator=stream(device, seed, "inside", first_id + i),
        )
    counts = sample_under_noise(model, attacked, sigma, n, purpose="prediction", seed=seed)
    counts[~found] = 0
    return counts


def changed(prediction: Integers, counts: ArrayLike, alpha: float) -> Integers:
    """Say what became of certified answers under an attack inside their balls.

    Parameters
    ----------
    prediction : ndarray of int64, shape (B,)
        The certified classes, none of them ABSTAIN.
    counts : array-like of int, shape (B, K)
        Votes at the attacked images.
    alpha : float, in (0, 1)
        Failure probability of one answer.

    Returns
    -------
    ndarray of int64, shape (B,)
        0 where the answer stands, 1 where the vote is too close to call, 2 where it changed: for
        a true certificate that happens with probability at most `alpha`.

    Raises
    ------
    ValueError
        If there is not one class for the votes of each image.
    """
    answers = vote(counts, alpha)
    if len(prediction) != len(answers):
        raise ValueError(
            f"{len(prediction)} predictions for the votes of {len(answers)} images: give one an "
            "image"
        )
    result: Integers = (answers == ABSTAIN) + 2 * ((answers != ABSTAIN) & (answers != prediction))
    return result
