"""Accuracy from rows: right, wrong, or no answer, with its interval."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rvlib.intervals import Interval, wilson
from rvlib.rows import Rows, RowsError
from rvlib.smoothing import ABSTAIN, vote
from rvlib.smoothing.certificate import Integers


@dataclass(frozen=True)
class Accuracy:
    """How many images were answered rightly, wrongly, not at all.

    Parameters
    ----------
    n : int
        Images.
    correct : int
        Right answers.
    abstained : int
        Abstentions, which count as errors.
    threat : str
        The ball and its radius, ``-`` where there was no attack.
    """

    n: int
    correct: int
    abstained: int
    threat: str

    @property
    def percent(self) -> float:
        """Share of right answers in percent."""
        return 100 * self.correct / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the share, in percent."""
        return Interval(*(100 * end for end in wilson(self.correct, self.n)))

    @property
    def answered_only(self) -> float | None:
        """Share of right answers among the images that were answered; None if none was.

        What the report's smoothing row seems to show; not an accuracy under attack, because an
        adversary who makes the network abstain has won.
        """
        answered = self.n - self.abstained
        return 100 * self.correct / answered if answered else None


def accuracy(rows: Rows, alpha: float = 0.001) -> Accuracy:
    """Count right answers in rows of predictions or of votes.

    Parameters
    ----------
    rows : Rows
        With a column ``prediction`` or ``counts``.
    alpha : float, default=0.001
        Failure probability at which a vote is called.

    Returns
    -------
    Accuracy
        An abstention is an error.

    Raises
    ------
    ValueError
        If there are no rows.
    RowsError
        If a column holds something else, or the head names no attack.
    """
    if not rows.rows:
        raise ValueError("no rows, so no accuracy: measure at least one image")
    labels = np.array(rows.integers("label"))
    if "counts" in rows.rows[0]:
        answers = vote(votes(rows, "counts"), alpha)
    else:
        answers = np.array(rows.integers("prediction"))
    threat = _threat(rows.head)
    correct, abstained = int((answers == labels).sum()), int((answers == ABSTAIN).sum())
    return Accuracy(len(labels), correct, abstained, threat)


def _threat(head: dict[str, Any]) -> str:
    try:
        return str(head["identity"]["attack"]["threat"])
    except (KeyError, TypeError):
        raise RowsError(
            "the rows' head names no attack: restore the rows, or measure them again"
        ) from None


def votes(rows: Rows, column: str) -> Integers:
    """Read a column of votes.

    Parameters
    ----------
    rows : Rows
        With that column.
    column : str
        Its name: ``counts``, ``selection``, ``counts_1000``.

    Returns
    -------
    ndarray of int64, shape (N, K)
        Votes of each class; zeros where a cell is empty.

    Raises
    ------
    RowsError
        If there is no such column, or something else in it.
    """
    try:
        read = [[int(v) for v in row[column].split()] for row in rows.rows]
        classes = max(map(len, read))
        if any(v < 0 for row in read for v in row):
            raise ValueError("a negative number")
        return np.array([row or [0] * classes for row in read], dtype=np.int64)
    except (KeyError, ValueError, OverflowError) as error:
        raise RowsError(
            f"column {column!r} holds no votes ({error}): restore the rows, or measure them again"
        ) from None
