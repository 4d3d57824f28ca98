r"""How were two columns of the report measured?  Every combination of the choices it leaves open.

The columns *noisy training* and *randomized smoothing* are answers under noise, of a kind that the
report does not describe.  For every combination, ``hypotheses`` gives the likelihood of the four
values that it prints, each taken for another run's:

.. math:: y_c \sim \mathcal{N}\big( \bar a_c,\;
    s_c^2 (1 + 1/m) + 2 \bar a_c (1 - \bar a_c) / n \big)

for attack c, with :math:`\bar a_c` the mean accuracy of m training seeds on n images and
:math:`s_c^2` their variance, pooled over the noise levels.  The second part is the difference of
two samples of n images; an answer drawn at random is part of such a sample.  The four are taken as
independent, which they are not quite (one network, the same images): ratios of likelihoods
overstate what the values tell.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from rvlib import experiments as ex
from rvlib.experiments import REPORT_ATTACKS, REPORT_TABLE1
from rvlib.pipeline import Run
from rvlib.smoothing import ABSTAIN
from rvlib.smoothing import statistics as st

COLUMNS = (ex.gaussian_name(ex.SIGMA), ex.smoothed_name(ex.SIGMA))
"""The columns in question, by their names in ``REPORT_TABLE1``."""

PLAIN, DRAW = "plain", "one draw"


@dataclass(frozen=True)
class Hypothesis:
    """One combination of choices.

    Parameters
    ----------
    sigma : float
        Noise of the training, and of the answers.
    answer : str
        ``plain``, the network itself; ``one draw``, on a single noisy copy; or ``vote of N``.
    abstentions : str
        ``errors``; ``left out`` of the accuracy; ``none``, as the plurality decides; or ``-``.
    noise : str
        ``once``, or ``twice``: the voting network adds noise of its own, sqrt(2) sigma in all.
    through : bool
        Whether the attack's gradients are those of noisy copies, a fresh draw at every step.
    linf, pixel_l2 : str
        Variants of the two PGD attacks, keys of ``GRID_ATTACKS``.
    """

    sigma: float
    answer: str
    abstentions: str
    noise: str
    through: bool
    linf: str
    pixel_l2: str

    def variant(self, attack: str) -> str:
        """Name the variant of one of the report's attacks."""
        return {"pgd-linf": self.linf, "pgd-pixel-l2": self.pixel_l2}.get(attack, "")


def grid() -> Iterator[Hypothesis]:
    """Yield every combination."""
    votes = [f"vote of {n}" for n in ex.GRID_VOTES]
    how = [(PLAIN, "-", "once"), (DRAW, "-", "once")]
    how += itertools.product(votes, ("errors", "left out", "none"), ("once", "twice"))
    linf, pixel_l2 = (tuple(ex.GRID_ATTACKS[name]) for name in ("pgd-linf", "pgd-pixel-l2"))
    for (answer, abstentions, noise), sigma, through, eps, step in itertools.product(
        how, ex.GRID_SIGMAS, (False, True), linf, pixel_l2
    ):
        yield Hypothesis(sigma, answer, abstentions, noise, through, eps, step)


def right_answers(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[float, int]]:
    """Count right answers, and answers, in rows of ``Run.under_noise``.

    Parameters
    ----------
    frame : DataFrame
        The rows.

    Returns
    -------
    dict of (str, str) to (float, int)
        By answer and treatment of abstentions; of ``one draw`` the expected number.
    """
    frame = frame.astype("int64")
    label, n = frame["label"], len(frame)
    found = {(PLAIN, "-"): (float((frame["prediction"] == label).sum()), n)}
    found[DRAW, "-"] = (frame["hits"].sum() / max(ex.GRID_VOTES), n)
    for votes in ex.GRID_VOTES:
        name, answer = f"vote of {votes}", frame[f"answer_{votes}"]
        right = float((answer == label).sum())
        found[name, "errors"] = (right, n)
        found[name, "left out"] = (right, int((answer != ABSTAIN).sum()))
        found[name, "none"] = (float((frame[f"leader_{votes}"] == label).sum()), n)
    return found


@cache
def _counted(run: Run, *where: Any) -> dict[tuple[str, str], tuple[float, int]]:
    return right_answers(run.under_noise(*where).frame)


def counted(run: Run, h: Hypothesis, attack: str) -> list[tuple[float, int]]:
    """Right answers, and answers, of every training seed under one of the report's attacks."""
    through = h.through and attack != "natural"
    where = (h.sigma, attack, h.variant(attack), through, h.noise == "twice")
    seeds = run.seeds(ex.gaussian_name(h.sigma))
    return [_counted(run, *where, seed)[h.answer, h.abstentions] for seed in seeds]


def hypotheses(run: Run) -> pd.DataFrame:
    """Compare every combination with the two columns.

    Parameters
    ----------
    run : Run
        Reads what is measured; measures what is not.

    Returns
    -------
    DataFrame
        One line a column and combination, the likeliest of a column first: ``column``, the choices,
        ``log_likelihood`` (natural logarithm, of percent), the mean accuracy under each attack in
        percent, and of the cell that fits worst its name, distance in points and in standard
        errors.
    """
    every = list(grid())
    shares = {(h, a): [k / n for k, n in counted(run, h, a)] for h in every for a in REPORT_ATTACKS}
    variances = defaultdict(list)
    for (h, attack), values in shares.items():
        variances[_kind(h, attack)].append(np.var(values, ddof=1))
    lines = []
    for column, h in itertools.product(COLUMNS, every):
        printed = np.array([REPORT_TABLE1[column][a] for a in REPORT_ATTACKS])
        mean = np.array([np.mean(shares[h, a]) for a in REPORT_ATTACKS])
        spread = np.array([np.mean(variances[_kind(h, a)]) for a in REPORT_ATTACKS])
        seeds, n = len(shares[h, REPORT_ATTACKS[0]]), run.profile.heldout
        error = 100 * np.sqrt(spread * (1 + 1 / seeds) + 2 * mean * (1 - mean) / n)
        off = 100 * mean - printed
        worst = int(np.abs(off / error).argmax())
        fit = {"log_likelihood": norm.logpdf(off, scale=error).sum()}
        fit |= dict(zip(REPORT_ATTACKS, 100 * mean, strict=True))
        fit |= {"worst": REPORT_ATTACKS[worst], "points": off[worst]}
        lines.append({"column": column, **vars(h), **fit, "errors_off": (off / error)[worst]})
    table = pd.DataFrame(lines)
    return table.sort_values(["column", "log_likelihood"], ascending=[True, False], kind="stable")


def likeliest(table: pd.DataFrame, column: str) -> Hypothesis:
    """Pick the likeliest combination of a column from the table of ``hypotheses``."""
    line = table[table["column"] == column].iloc[0]
    return Hypothesis(*(line[field.name] for field in fields(Hypothesis)))


LIKELY, PROPER = "as the report most likely measured", "as it should be measured"


def readings(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Set Table 1 beside the report in two readings: as it most likely measured, and as one should.

    As one should: the network's own answer is attacked, or the vote that answers, and an abstention
    is an error.

    Parameters
    ----------
    run : Run
        The run.
    table : DataFrame
        Of ``hypotheses``.

    Returns
    -------
    DataFrame
        One line a reading, defence and attack: right answers of training seed 0 and how many there
        are; accuracy with Wilson's 95 % interval, and whether the report's value lies in it; how
        many seeds, and whether it lies in the interval of another run (``prediction_interval``).
    """
    lines = []
    for reading, (defence, printed) in itertools.product((LIKELY, PROPER), _reported()):
        for attack, value in printed.items():
            if reading == LIKELY and defence in COLUMNS:
                seeds = counted(run, likeliest(table, defence), attack)
            else:
                seeds = _measured(run, defence, attack)
            right, n = seeds[0]
            wilson = [100 * end for end in st.wilson(round(right), n)]
            low, high = st.prediction_interval([k / m for k, m in seeds], n)
            line = {"reading": reading, "defence": defence, "attack": attack, "n": n}
            line |= {"report_value": value, "accuracy": 100 * right / n}
            line |= {"ci_low": wilson[0], "ci_high": wilson[1], "seeds": len(seeds)}
            line |= {"mean": 100 * np.mean([k / m for k, m in seeds])}
            lines.append(line | {"low": 100 * low, "high": 100 * high})
    found = pd.DataFrame(lines)
    value = found["report_value"]
    found["in_interval"] = value.between(found["ci_low"], found["ci_high"])
    return found.assign(in_range=value.between(found["low"], found["high"]))


def _reported() -> list[tuple[str, dict[str, float]]]:
    """List the columns that the report prints; one network is trained in two ways here."""
    return [(name, cells) for name, cells in REPORT_TABLE1.items() if name != ex.SLOWER]


def _measured(run: Run, defence: str, attack: str) -> list[tuple[float, int]]:
    """Right answers and images of every training seed, the attack being on what answers."""
    sigma = ex.NOISE_OF.get(defence)
    if sigma is not None and attack != "natural":
        attack = f"vote-{attack}"
    seeds = run.seeds(defence if sigma is None else ex.gaussian_name(sigma))
    found = [run.accuracy(defence, attack, seed=seed) for seed in seeds]
    return [(cell.correct, cell.n) for cell in found]


def _kind(h: Hypothesis, attack: str) -> tuple[Any, ...]:
    """Name what a variance of training seeds is pooled over: all but the noise level."""
    return (attack, h.variant(attack), h.answer, h.abstentions, h.noise, h.through)
