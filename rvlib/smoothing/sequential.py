"""Certify at one radius with as many votes as it takes: a bound that holds at every look."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import betaln
from scipy.stats import beta, norm
from torch import nn

from rvlib.checks import check_number, check_sigma, check_whole
from rvlib.smoothing.certificate import Floats, Integers, check_alpha, check_trials
from rvlib.smoothing.votes import CHUNK, sample_under_noise, whole_ids
from rvlib.types import Images, Labels, check_images, check_labels, check_logits

HOPELESS = 0.01
"""Error of giving up on an image that more votes would have certified."""


class Certified(NamedTuple):
    """What became of each image at one radius.

    Parameters
    ----------
    prediction : ndarray of int64, shape (B,)
        The selected class.
    certified : ndarray of bool, shape (B,)
        Whether the smoothed network is shown to give it everywhere within the radius.
    votes : ndarray of int64, shape (B,)
        Votes that the image took, those of the selection included.
    """

    prediction: Integers
    certified: np.ndarray
    votes: Integers


def evidence(k: ArrayLike, n: ArrayLike, p0: float, larger: bool = True) -> Floats:
    r"""Logarithm of the evidence that a probability is larger (or smaller) than `p0`.

    .. math:: M_n = \int_{p_0}^1 \Big(\frac{p}{p_0}\Big)^k \Big(\frac{1-p}{1-p_0}\Big)^{n-k}
        \frac{dp}{1 - p_0}

    a mixture of likelihood ratios over all larger p.  As long as the true probability is at most
    `p0`, each ratio's expectation after another vote is at most what it was, and so is the
    mixture's: it is a nonnegative supermartingale that starts at 1, and

    .. math:: P\big(\exists n: M_n \ge 1/\alpha\big) \le \alpha

    by Ville's inequality [1]_, *whenever* one looks and however one decides to stop [2]_.

    Parameters
    ----------
    k : array-like of int
        Votes for the class.
    n : array-like of int
        All votes.
    p0 : float, in (0, 1)
        The probability to exceed.
    larger : bool, default=True
        Otherwise evidence that the probability is smaller, the mixture over [0, p0].

    Returns
    -------
    ndarray of float64
        :math:`\log M_n`; -inf where the votes speak so strongly for the contrary that the
        integral vanishes in double precision, which decides nothing.

    References
    ----------
    .. [1] Ville, "Étude critique de la notion de collectif", 1939.
    .. [2] Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
       Mathematical Statistics 41, 1970; for smoothing: Voracek, "Treatment of statistical
       estimation problems in randomized smoothing for adversarial robustness", NeurIPS 2024.

    Examples
    --------
    >>> float(evidence(0, 0, 0.5))
    0.0
    >>> bool(evidence(95, 100, 0.5) > np.log(1000))
    True
    """
    check_number("p0", p0, "p0=0.5")
    if not 0 < p0 < 1:
        raise ValueError(f"p0={p0} must be in (0, 1): the probability to exceed")
    k, n = (v.astype(np.float64) for v in check_trials(k, n, least=0))
    if not larger:
        return evidence(n - k, n, 1 - p0)
    # The integral is an incomplete beta function: the mass of Beta(k + 1, n - k + 1) above p0.
    mass = betaln(k + 1, n - k + 1) + beta.logsf(p0, k + 1, n - k + 1)
    result: Floats = mass - k * math.log(p0) - (n - k) * math.log1p(-p0) - math.log1p(-p0)
    return np.where(n > 0, result, 0.0)


def certify_at(
    model: nn.Module,
    x: Images,
    radius: float,
    sigma: float,
    *,
    labels: Labels | None = None,
    n0: int = 100,
    most: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    sound: bool = False,
    batch_size: int | None = None,
) -> Certified:
    r"""Certify the smoothed network at one radius, each image with as few votes as it takes.

    The radius :math:`r` is certified where the class's probability is shown to exceed
    :math:`\Phi(r / \sigma)`.  `n0` votes select the class; then votes are drawn and looked at until
    the evidence for that (``evidence``) reaches :math:`1/\alpha`, the evidence against it reaches
    ``1 / HOPELESS``, or there are `most`.

    Parameters
    ----------
    model : nn.Module
        The base network, trained with the same noise.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    radius : float, >= 0
        Euclidean radius in pixel units.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    labels : Tensor of shape (B,), int64, default=None
        True labels: where the selected class is another one, nothing that could be certified is
        right at any radius, and no further vote is drawn.
    n0 : int, default=100
        Votes for the selection; a multiple of 100.
    most : int, default=100_000
        Largest number of votes for the test; a multiple of 100.
    alpha : float, default=0.001
        Failure probability of one image's certificate.
    seed : int, default=0
        Part of the noise's address.
    image_ids : sequence of int, default=None
        One number an image: each image then has noise of its own, and errors are independent.
    sound : bool, default=False
        Exact sums on the grid of 1/255, see ``sample_under_noise``.
    batch_size : int, default=``default_batch_size(device)``
        Noisy copies in one forward pass.

    Returns
    -------
    Certified
        A certificate is false with probability at most `alpha` an image.  Giving up is not
        guaranteed to be right: it costs accuracy, never soundness.

    Raises
    ------
    ValueError
        If `radius` or `alpha` make no sense, or so many votes can never certify the radius.

    See Also
    --------
    rvlib.smoothing.certify : The largest radius, from a number of votes fixed before.
    """
    check_images(x)
    check_alpha(alpha)
    check_sigma(sigma)
    check_number("radius", radius, "radius=0.5")
    if not radius >= 0:
        raise ValueError(f"radius={radius}: need radius >= 0, in pixel units of [0, 1]: 0.5, say")
    check_whole("most", most, CHUNK)
    if most % CHUNK:
        raise ValueError(f"most={most}: votes come in whole hundreds, write e.g. most=10_000")
    if isinstance(labels, torch.Tensor):
        labels = labels.to(x.device)
    largest_label = -1 if labels is None else check_labels(labels, x)
    p0 = float(norm.cdf(radius / sigma))
    if p0 == 1 or evidence(most, most, p0) < math.log(1 / alpha):
        raise ValueError(f"most={most} votes can never certify radius {radius} at sigma={sigma}")

    ids = whole_ids(image_ids, len(x))
    draw = partial(
        sample_under_noise, model, sigma=sigma, seed=seed, sound=sound, batch_size=batch_size
    )
    counts0 = draw(x=x, n=n0, purpose="selection", image_ids=image_ids)
    check_logits(counts0, len(x), largest_label)
    prediction = counts0.argmax(1)
    open_ = torch.ones(len(x), dtype=torch.bool) if labels is None else prediction == labels.cpu()
    successes, votes = np.zeros(len(x), dtype=np.int64), np.full(len(x), n0, dtype=np.int64)
    certified = np.zeros(len(x), dtype=bool)
    n = 0
    while open_.any() and n < most:
        more = min(_next_look(n), most) - n
        at = open_.nonzero()[:, 0]
        where = at.numpy()
        counts = draw(
            x=x[at.to(x.device)],
            n=more,
            first=n,
            purpose="sequential",
            image_ids=None if ids is None else [ids[i] for i in where],
        )
        n += more
        successes[where] += counts.gather(1, prediction[at, None])[:, 0].numpy()
        votes[where] += more
        certified[where] = evidence(successes[where], n, p0) >= math.log(1 / alpha)
        given_up = evidence(successes[where], n, p0, larger=False) >= math.log(1 / HOPELESS)
        open_[at] = torch.from_numpy(~certified[where] & ~given_up)
    return Certified(prediction.numpy(), certified, votes)


def _next_look(n: int) -> int:
    """Look after each hundred at first, then each time there are a quarter more votes."""
    return max(n + CHUNK, n * 5 // 4 // CHUNK * CHUNK)
