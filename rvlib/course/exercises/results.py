"""Notebook 06's exercises: how sure an accuracy is, and how much of it is promised."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.evaluation import certified_accuracy, correct_radii
from rvlib.intervals import wilson
from rvlib.smoothing import ABSTAIN
from rvlib.smoothing.certificate import Certificates

# --- The interval ---------------------------------------------------------------------------------

Ends = tuple[float, float]
Z = float(norm.isf(0.025))


def _plain(k: int, n: int) -> Ends:
    """Wald's: the share plus and minus so many standard errors."""
    share = k / n
    half = Z * math.sqrt(share * (1 - share) / n)
    return share - half, share + half


def _clipped(k: int, n: int) -> Ends:
    low, high = _plain(k, n)
    return max(low, 0), min(high, 1)


def _exact(k: int, n: int) -> Ends:
    """Clopper and Pearson's."""
    low = beta.ppf(0.025, k, n - k + 1) if k else 0
    high = beta.isf(0.025, k + 1, n - k) if k < n else 1
    return float(low), float(high)


def _agresti(k: int, n: int) -> Ends:
    """Agresti and Coull's: Wald's about Wilson's middle."""
    n_more = n + Z * Z
    share = (k + Z * Z / 2) / n_more
    half = Z * math.sqrt(share * (1 - share) / n_more)
    return share - half, share + half


def _score(z: float = Z, scale: bool = True, bend: bool = True) -> Callable[[int, int], Ends]:
    """Make Wilson's formula without its denominator, or without z²/4n² under the root."""

    def interval(k: int, n: int) -> Ends:
        share, below = k / n, 1 + z * z / n if scale else 1
        root = math.sqrt(share * (1 - share) / n + (z * z / (4 * n * n) if bend else 0))
        middle = share + z * z / (2 * n)
        return (middle - z * root) / below, (middle + z * root) / below

    return interval


WILSON = Exercise(
    "my_wilson(k, n)",
    "return both ends of Wilson's 95 % interval, as shares between 0 and 1.",
    lambda: [Case(counts) for counts in ((596, 1024), (3, 1024), (0, 50), (6, 6))],
    [wilson],
    {
        "This is the plain (Wald) interval, the share plus and minus its standard errors: at k = 0 "
        "it has length zero, as if a few images could prove that no image is ever read rightly.": [
            _plain,
            _clipped,
        ],
        "This is the Clopper-Pearson interval: valid, and wider than 95 % needs. Wilson's covers "
        "95 % on average.": [_exact],
        "This is Agresti and Coull's interval, with Wilson's middle but a simpler length: it "
        "reaches below 0.": [_agresti, lambda k, n: (max(_agresti(k, n)[0], 0), _agresti(k, n)[1])],
        "These are the ends in percent: give shares between 0 and 1.": [
            lambda k, n: tuple(100 * end for end in wilson(k, n)),
        ],
        "This z leaves 5 % on *each* side, an interval of 90 %: z = Φ⁻¹(0.975).": [
            _score(float(norm.isf(0.05))),
        ],
        "This is z rounded to 2, an interval of a little more than 95 %: z = Φ⁻¹(0.975).": [
            _score(2.0),
        ],
        "The denominator 1 + z²/n is missing: both ends are divided by it.": [_score(scale=False)],
        "Under the root z²/4n² is missing: without it the interval is too short where k is near "
        "0 or n.": [_score(bend=False), _score(scale=False, bend=False)],
        "The ends are in the wrong order: the lower one first.": [
            lambda k, n: wilson(k, n)[::-1],
        ],
        "These are the middle and half the length: return the two ends.": [
            lambda k, n: (sum(wilson(k, n)) / 2, (wilson(k, n).high - wilson(k, n).low) / 2),
        ],
    },
    f"0 of 1024 images right does not mean 0 %: up to {100 * wilson(0, 1024).high:.2f} % may be. "
    f"And near one half, 1024 images leave {100 * (wilson(512, 1024).high - 0.5):.1f} points on "
    "either side: a smaller difference in Table 1 needs a comparison image by image.",
    # Whoever writes 1.96 for z is right.
    tolerance=1e-4,
)


def check_wilson(student: Any) -> None:
    """Say what is wrong with a student's Wilson interval, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_wilson(k, n)`` returns both ends of the 95 % interval.
    """
    WILSON.check(student)


# --- The certified accuracy -----------------------------------------------------------------------

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def _accuracy(radii: Floats, answers: Integers, labels: Integers, r: float) -> float:
    return float(certified_accuracy(correct_radii(Certificates(answers, radii), labels), r)[0])


def _share(
    counted: Callable[[Floats, Integers, Integers, float], NDArray[np.bool_]],
    among: Callable[[Integers, Integers], NDArray[np.bool_]] = lambda answers, labels: np.full(
        len(answers), True
    ),
) -> Callable[..., float]:
    """Make the share that counts other images, or among other images."""

    def share(radii: Floats, answers: Integers, labels: Integers, r: float) -> float:
        chosen = among(answers, labels)
        return float(counted(radii, answers, labels, r)[chosen].mean())

    return share


def _right(radii: Floats, answers: Integers, labels: Integers, r: float) -> NDArray[np.bool_]:
    return (answers == labels) & (radii >= r)


def _certificates(r: float, trap: str = "") -> Case:
    """Make ten images: six right, two wrong, two abstentions."""
    radii = np.array([0.9, 0.3, 0.0, 0.6, 1.2, 0.0, 0.7, 0.2, 0.45, 0.8])
    answers = np.array([3, 1, ABSTAIN, 0, 2, ABSTAIN, 1, 2, 0, 3])
    labels = np.array([3, 1, 0, 0, 1, 2, 1, 2, 1, 3])
    return Case((radii, answers, labels, r), trap)


CERTIFIED = Exercise(
    "my_certified_accuracy(radii, answers, labels, r)",
    "return the share of *all* images that are answered rightly with a radius of at least `r`.",
    lambda: [
        *(_certificates(r) for r in (0.0, 0.25, 0.5)),
        _certificates(
            0.6, "An image with radius R is safe within distance R, the end included: radius ≥ r."
        ),
    ],
    [_accuracy],
    {
        "Abstentions are left out of the denominator, and a network that abstains on all hard "
        "images would look perfect: divide by the number of *all* images.": [
            _share(_right, lambda answers, labels: answers != ABSTAIN),
        ],
        "This divides by the images that are answered rightly: divide by *all* of them, or the "
        "curve begins at 1 for every network.": [
            _share(_right, lambda answers, labels: answers == labels),
        ],
        "An abstention is counted as right. It may be honest, but it answers nothing: the "
        "literature counts it as an error.": [
            _share(
                lambda radii, answers, labels, r: (
                    (answers == ABSTAIN) | _right(radii, answers, labels, r)
                )
            ),
            _share(
                lambda radii, answers, labels, r: (
                    ((answers == ABSTAIN) | (answers == labels)) & (radii >= r)
                )
            ),
        ],
        "Wrong answers are counted, too: a certificate only promises that the answer does not "
        "*change*, so compare `answers` with `labels`.": [
            _share(lambda radii, answers, labels, r: radii >= r),
            _share(lambda radii, answers, labels, r: (radii >= r) & (answers != ABSTAIN)),
        ],
        "The radius plays no part: this is the accuracy without an adversary.": [
            _share(lambda radii, answers, labels, r: answers == labels),
        ],
        "This is the share of images with a radius *below* `r`.": [
            _share(lambda radii, answers, labels, r: (answers == labels) & (radii < r)),
            _share(lambda radii, answers, labels, r: (answers == labels) & (radii <= r)),
        ],
        "This is the number of images: divide by how many there are.": [
            lambda *arguments: int(_right(*arguments).sum()),
        ],
        "This is a percentage: give a share between 0 and 1.": [
            lambda *arguments: 100 * _accuracy(*arguments),
        ],
    },
    "It bounds the accuracy under *every* attack of Euclidean length `r` from below, while an "
    "accuracy under one attack bounds it from above: the truth lies between the two.",
)


def check_certified_accuracy(student: Any) -> None:
    """Say what is wrong with a student's certified accuracy, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_certified_accuracy(radii, answers, labels, r)`` returns a share.
    """
    CERTIFIED.check(student)
