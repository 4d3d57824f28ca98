"""Certified accuracy: what an image-by-image list of certificates promises about the set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rvlib.smoothing import ABSTAIN
from rvlib.smoothing.certificate import Certificates, Floats, numbers


def correct_radii(certificates: Certificates, labels: ArrayLike) -> Floats:
    """Find the radius within which each image is certified to be answered *rightly*.

    Parameters
    ----------
    certificates : Certificates
        One an image.
    labels : array-like of int, shape (N,)
        True labels.

    Returns
    -------
    ndarray of float64, shape (N,)
        Radius in pixel units; -1, less than any radius, where the answer is wrong or abstains.

    Raises
    ------
    TypeError, ValueError
        If the labels are no numbers, or there is not one a certificate.
    """
    answers, radius = (np.asarray(part) for part in certificates)
    labels = numbers("labels", labels)
    if labels.shape != answers.shape:
        raise ValueError(f"{labels.size} labels for {answers.size} certificates: give one each")
    right = (answers == labels) & (answers != ABSTAIN)
    return np.where(right, radius, -1.0)


def certified_accuracy(radii: ArrayLike, radius: float | Sequence[float]) -> NDArray[np.float64]:
    r"""Share of images certified to be answered rightly within a radius.

    .. math:: \frac{1}{N} \#\{ i : \hat{c}_i = y_i \text{ and } R_i \ge r \}

    Parameters
    ----------
    radii : array-like of float, shape (N,)
        From ``correct_radii``.
    radius : float or sequence of float, >= 0
        Radii r in pixel units; at 0 the share answered rightly and not abstained.

    Returns
    -------
    ndarray of float64, in [0, 1]
        One share a radius: a lower bound on the accuracy under *any* Euclidean attack of that
        length, each image with confidence 1 - alpha.

    Raises
    ------
    ValueError
        If a radius is negative or NaN, or there is no image.

    Examples
    --------
    >>> certified_accuracy(np.array([-1.0, 0.3, 0.6, 0.9]), [0, 0.5, 1]).tolist()
    [0.75, 0.5, 0.0]
    """
    radii = _check_radii(radii)
    at = np.atleast_1d(numbers("radius", radius).astype(np.float64))
    if not (at >= 0).all():
        raise ValueError(f"radius={at[~(at >= 0)][0]} must be >= 0: an image counts from 0 on")
    return (radii[:, None] >= at).mean(0)


def average_certified_radius(radii: ArrayLike) -> float:
    """Mean over all images of the radius certified rightly, 0 where wrong or abstained (ACR).

    Parameters
    ----------
    radii : array-like of float, shape (N,)
        From ``correct_radii``.

    Returns
    -------
    float
        In pixel units.

    Examples
    --------
    >>> average_certified_radius(np.array([-1.0, 0.5, 0.5, 1.0]))
    0.5
    """
    radii = _check_radii(radii)
    return float(np.maximum(radii, 0).mean())


def _check_radii(radii: ArrayLike) -> Floats:
    radii = numbers("radii", radii).astype(np.float64)
    if radii.ndim != 1 or not len(radii) or np.isnan(radii).any():
        what = "NaN" if radii.size and np.isnan(radii).any() else f"shape {radii.shape}"
        raise ValueError(f"radii are of {what}: give one number an image, as correct_radii does")
    return radii
