"""Exercises of notebook 06: the interval of an accuracy, and the certified accuracy."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from rvlib.course.calls import Solution
from rvlib.course.exercises.exercise import Exercise, Part, within
from rvlib.course.exercises.solutions import my_certified_accuracy, my_wilson
from rvlib.smoothing.statistics import ABSTAIN

# --- The interval ---------------------------------------------------------------------------------

Ends = tuple[float, float]
Z = float(norm.isf(0.025))


def _wald(k: float, n: float) -> Ends:
    half = Z * sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


def _agresti_coull(k: int, n: int) -> Ends:
    """Wald's interval around the middle of Wilson's."""
    return _wald(k + Z * Z / 2, n + Z * Z)


def _clipped(interval: Callable[[int, int], Ends]) -> Solution:
    return lambda k, n: np.clip(interval(k, n), 0, 1)


def _score(z: float = Z, divide: bool = True, bend: bool = True) -> Callable[[int, int], Ends]:
    """Make Wilson's interval, possibly without its denominator or z²/4n² under the root."""

    def interval(k: int, n: int) -> Ends:
        p, below = k / n, 1 + z * z / n if divide else 1
        half = z * sqrt(p * (1 - p) / n + (z * z / (4 * n * n) if bend else 0))
        return (p + z * z / (2 * n) - half) / below, (p + z * z / (2 * n) + half) / below

    return interval


def _around_share(result: Any, k: int, n: int) -> str:
    low, high = (float(end) for end in result)
    if -1e-9 <= low <= k / n + 1e-9 and k / n - 1e-9 <= high <= 1 + 1e-9:  # up to rounding
        return ""
    return (
        f"yours goes from {low:.4g} to {high:.4g}, but it must hold the share {k / n:.4g} in [0, 1]"
    )


check_wilson = Exercise(
    signature="my_wilson(k, n)",
    task="both ends of Wilson's 95 % interval, as shares between 0 and 1.",
    cases=[(596, 1024), (3, 1024), (0, 50), (6, 6)],
    mistakes=[
        "This is the Wald interval, the share plus and minus standard errors: at k = 0 it has "
        "length zero, as if a few images could prove an accuracy of 0 %.",
        _wald,
        _clipped(_wald),
        "This is the Clopper-Pearson interval: valid, but wider than Wilson's.",
        lambda k, n: tuple(binomtest(k, n).proportion_ci(0.95)),
        "This is the interval of Agresti and Coull, which has Wilson's middle but extends below 0.",
        _agresti_coull,
        _clipped(_agresti_coull),
        "These are percentages: return shares between 0 and 1.",
        lambda k, n: tuple(100 * end for end in my_wilson(k, n)),
        "This z leaves 5 % on *each* side, an interval of 90 %: z = Φ⁻¹(0.975).",
        Part("This z leaves 5 % on *each* side.", z=float(norm.isf(0.05))),
        "This z is rounded to 2, an interval of more than 95 %: z = Φ⁻¹(0.975).",
        Part("This z is rounded to 2.", z=2.0),
        "This z is a probability: z is Φ⁻¹(0.975), the quantile.",
        _score(0.975),
        _score(0.95),
        "The denominator 1 + z²/n is missing: divide both ends by it.",
        Part("The denominator 1 + z²/n is missing.", divide=False),
        "z²/4n² is missing under the root: the interval is too short where k is near 0 or n.",
        Part("z²/4n² is missing under the root.", bend=False, divide=True),
        _score(divide=False, bend=False),
        "The ends are in the wrong order: return the lower one first.",
        lambda k, n: my_wilson(k, n)[::-1],
        "These are the middle and half the length: return the two ends.",
        lambda k, n: (sum(my_wilson(k, n)) / 2, (my_wilson(k, n)[1] - my_wilson(k, n)[0]) / 2),
    ],
    make=lambda **parts: [_score(**parts)],
    laws=[_around_share],
    more=lambda rng: [(int(rng.integers(0, n + 1)), int(n)) for n in rng.integers(5, 2000, 9)],
    fact="If none of 1024 images is classified correctly, the accuracy may still be as high "
    f"as {100 * my_wilson(0, 1024)[1]:.2f} %. Near one half, the interval extends "
    f"{100 * (my_wilson(512, 1024)[1] - 0.5):.1f} points to either side.",
    tolerance=1e-4,  # z = 1.96 is right
)

# --- The certified accuracy -----------------------------------------------------------------------

Mask = NDArray[np.bool_]
Counted = Callable[[NDArray[np.float64], Mask, Mask, float], Mask]
"""Which images count, by their radii, whether they are correct, whether abstained, and r."""


def _share(
    counted: Counted = lambda radii, correct, abstained, r: correct & (radii >= r),
    among: Callable[[Mask, Mask], Mask] | None = None,
) -> Solution:
    """Return the share of images that count, of all images or among others."""

    def share(
        radii: NDArray[np.float64], answers: NDArray[np.int64], labels: NDArray[np.int64], r: float
    ) -> float:
        correct, abstained = answers == labels, answers == ABSTAIN
        chosen = slice(None) if among is None else among(correct, abstained)
        return float(counted(radii, correct, abstained, r)[chosen].mean())

    return share


RADII = np.array([0.9, 0.3, 0.0, 0.6, 1.2, 0.0, 0.7, 0.2, 0.45, 0.8])
ANSWERS = np.array([3, 1, ABSTAIN, 0, 2, ABSTAIN, 1, 2, 0, 3])
LABELS = np.array([3, 1, 0, 0, 1, 2, 1, 2, 1, 3])
IMAGES = RADII, ANSWERS, LABELS


def _at_most_clean(result: float, *case: Any) -> str:
    _, answers, labels, _ = case
    clean = float((answers == labels).mean())
    return within(result, clean, f"it lies between 0 and the clean accuracy {clean:.4g}")


def _more_images(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    for r in rng.uniform(0, 1, 4):
        answers, labels = rng.integers(ABSTAIN, 4, 40), rng.integers(0, 4, 40)
        cases.append((rng.uniform(0, 1, 40) * (answers >= 0), answers, labels, float(r)))
    return cases


check_certified_accuracy = Exercise(
    signature="my_certified_accuracy(radii, answers, labels, r)",
    task="the share of *all* images that are classified correctly with a radius of at least `r`.",
    cases=[(*IMAGES, r) for r in (0.0, 0.25, 0.5)],
    mistakes=[
        "Abstentions are left out of the denominator: divide by the number of *all* images.",
        Part("Abstentions are left out of the denominator.", among=lambda correct, none: ~none),
        "This divides by the number of *correct* images: divide by the number of all images.",
        _share(among=lambda correct, abstained: correct),
        "This divides by the number of images with such a *radius*: divide by that of all images.",
        lambda radii, answers, labels, r: float((answers == labels)[radii >= r].mean()),
        "Abstentions count as correct: the literature counts them as errors.",
        _share(lambda radii, correct, abstained, r: abstained | (correct & (radii >= r))),
        _share(lambda radii, correct, abstained, r: (abstained | correct) & (radii >= r)),
        "Wrong predictions count, too: a certified radius does not make a prediction correct.",
        _share(lambda radii, correct, abstained, r: radii >= r),
        Part(
            "Wrong predictions count, too.",
            counted=lambda radii, correct, none, r: (radii >= r) & ~none,
        ),
        "The radius is ignored: this is the clean accuracy.",
        _share(lambda radii, correct, abstained, r: correct),
        "This is the share of images with a radius *below* `r`.",
        Part(
            "This is the share with a radius *below* `r`.",
            counted=lambda radii, correct, abstained, r: correct & (radii < r),
        ),
        "This is the *number* of images: divide by how many there are.",
        lambda *case: len(LABELS) * my_certified_accuracy(*case),
        "This is a percentage: return a share between 0 and 1.",
        lambda *case: 100 * my_certified_accuracy(*case),
    ],
    make=lambda **parts: [_share(**parts)],
    laws=[_at_most_clean],
    more=_more_images,
    special={"By convention certified accuracy at `r` counts every radius ≥ r.": (*IMAGES, 0.6)},
    fact="It is a lower bound on the accuracy under *every* attack of l2 length `r`, while the "
    "accuracy under one attack is an upper bound: the truth lies between them.",
)
