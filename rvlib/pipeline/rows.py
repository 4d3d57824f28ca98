"""What rows of images say: accuracies with their intervals, and certificates."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rvlib.experiments import ALPHA
from rvlib.results import Results, counts
from rvlib.smoothing import ABSTAIN, Certificates, certificate, vote, wilson
from rvlib.smoothing.statistics import Interval

interval = cache(wilson)
"""Wilson's intervals; tables ask for the same again, and SciPy computes a p-value each time."""


@dataclass(frozen=True)
class Accuracy:
    """How many of `n` images were answered rightly, and how many not at all."""

    n: int
    correct: int
    abstained: int
    threat: str

    @property
    def percent(self) -> float:
        """Share of right answers in percent; an abstention is an error."""
        return 100 * self.correct / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the share, in percent."""
        return Interval(*(100 * end for end in interval(self.correct, self.n)))

    @property
    def answered_only(self) -> float | None:
        """Share of right answers, in percent, among the answered images; None if none was."""
        answered = self.n - self.abstained
        return 100 * self.correct / answered if answered else None


def accuracy(results: Results, alpha: float = ALPHA) -> Accuracy:
    """Count right answers in rows of predictions or of votes."""
    frame, labels = results.frame, results.frame["label"].to_numpy()
    if "counts" in frame:
        answers = vote(counts(frame, "counts"), alpha)
    else:
        answers = frame["prediction"].to_numpy()
    correct, abstained = int((answers == labels).sum()), int((answers == ABSTAIN).sum())
    return Accuracy(len(labels), correct, abstained, results.meta["attack"]["threat"])


def certificates(results: Results, n: int, alpha: float = ALPHA) -> Certificates:
    """Certify images from their first `n` stored votes; ABSTAIN where they were not drawn to `n`.

    Images whose selected class was wrong have no votes beyond the smallest n: they are certified
    rightly at no radius.
    """
    frame, sigma = results.frame, results.meta["sigma"]
    selection, drawn = counts(frame, "selection"), counts(frame, f"counts_{n}")
    sampled = drawn.sum(1) > 0
    prediction, radius = np.full(len(frame), ABSTAIN), np.zeros(len(frame))
    if sampled.any():
        prediction[sampled], radius[sampled] = certificate(
            selection[sampled], drawn[sampled], alpha, sigma
        )
    return Certificates(prediction, radius)
