r"""How were two columns of the report measured?  Every combination of the choices it leaves open.

The columns *noisy training* and *randomized smoothing* are answers under noise, of a kind that the
report does not describe.  For every combination, ``hypotheses`` gives the likelihood of the four
values that it prints, each taken for another run's:

.. math:: y_c \sim \mathcal{N}\big( \bar a_c,\;
    s_c^2 (1 + 1/m) + 2 \bar a_c (1 - \bar a_c) / n \big)

for attack c, with :math:`\bar a_c` the mean accuracy of m training seeds on n answered images and
:math:`s_c^2` their variance, pooled over the noise levels.  The second part is the difference of
two samples of n images; an answer drawn at random is part of such a sample.  The four are taken as
independent, which they are not quite (one network, the same images): ratios of likelihoods
overstate what the values tell.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats takes a second to load: at its first use

from rvlib import experiments as ex
from rvlib.experiments import REPORT_ATTACKS, REPORT_TABLE1
from rvlib.models import read_record
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
    gradients : str
        The attack's: ``plain``, at the image; ``noisy``, at a noisy copy, a fresh one each step.
    linf, pixel_l2 : str
        Which of ``GRID_ATTACKS`` the two PGD attacks were.
    """

    sigma: float
    answer: str
    abstentions: str
    noise: str
    gradients: str
    linf: str
    pixel_l2: str

    def attack(self, name: str) -> str:
        """Name what one of the report's attacks was."""
        name = {"pgd-linf": self.linf, "pgd-pixel-l2": self.pixel_l2}.get(name, name)
        return name + ex.THROUGH_NOISE if self.gradients == "noisy" and name != "natural" else name


def grid() -> Iterator[Hypothesis]:
    """Yield every combination."""
    votes = [f"vote of {n}" for n in ex.GRID_VOTES]
    how = [(PLAIN, "-", "once"), (DRAW, "-", "once")]
    how += itertools.product(votes, ("errors", "left out", "none"), ("once", "twice"))
    attacks = (ex.GRID_ATTACKS["pgd-linf"], ex.GRID_ATTACKS["pgd-pixel-l2"])
    for (answer, abstentions, noise), sigma, gradients, linf, pixel_l2 in itertools.product(
        how, ex.GRID_SIGMAS, (PLAIN, "noisy"), *attacks
    ):
        yield Hypothesis(sigma, answer, abstentions, noise, gradients, linf, pixel_l2)


def noise_table(run: Run) -> pd.DataFrame:
    """Count the right answers under noise of every network of the grid under every attack.

    Parameters
    ----------
    run : Run
        One that trains measures them; all others read the published table.

    Returns
    -------
    DataFrame
        One line a network, attack and noise: ``n`` images, right answers of the network itself
        (``plain``) and expected of one noisy copy (``one_draw``); for the first N votes ``right_N``
        and ``answered_N`` with abstentions, ``leads_N`` without.
    """
    if not run.profile.trains:
        return pd.read_csv(run.published.parent / "tables" / "noise.csv")
    lines = []
    for sigma, attack, seed, twice in ex.grid_cells():
        frame = run.under_noise(sigma, attack, seed, twice).frame.astype("int64")
        weights = read_record(run.weights(ex.gaussian_name(sigma), seed))["sha256"]
        line = {"sigma": sigma, "seed": seed, "attack": attack}
        line |= {"noise": "twice" if twice else "once"}
        lines.append(line | _right_answers(frame) | {"weights": weights[:12]})
    return pd.DataFrame(lines)


def _right_answers(frame: pd.DataFrame) -> dict[str, float]:
    """Count right answers in rows of ``Run.under_noise``."""
    label = frame["label"]
    found: dict[str, float] = {"n": len(frame)}
    found["plain"] = (frame["prediction"] == label).sum()
    found["one_draw"] = frame["hits"].sum() / max(ex.GRID_VOTES)
    for n in ex.GRID_VOTES:
        answer = frame[f"answer_{n}"]
        found[f"right_{n}"] = (answer == label).sum()
        found[f"answered_{n}"] = (answer != ABSTAIN).sum()
        found[f"leads_{n}"] = (frame[f"leader_{n}"] == label).sum()
    return found


class Counts:
    """Right answers, and how many answers there are, by hypothesis, attack and training seed.

    Parameters
    ----------
    table : DataFrame
        As ``noise_table`` makes it.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self._lines = table.set_index(["sigma", "seed", "attack", "noise"]).to_dict("index")

    def __call__(self, h: Hypothesis, attack: str) -> list[tuple[float, int]]:
        """Count under one of the report's attacks: one pair a training seed."""
        seeds = range(ex.GRID_SEEDS)
        return [self._pair(h, self._lines[h.sigma, s, h.attack(attack), h.noise]) for s in seeds]

    @staticmethod
    def _pair(h: Hypothesis, line: dict[str, Any]) -> tuple[float, int]:
        if h.answer in (PLAIN, DRAW):
            return line["plain" if h.answer == PLAIN else "one_draw"], line["n"]
        n = h.answer.removeprefix("vote of ")
        right = line[f"leads_{n}" if h.abstentions == "none" else f"right_{n}"]
        return right, line[f"answered_{n}" if h.abstentions == "left out" else "n"]


def hypotheses(table: pd.DataFrame) -> pd.DataFrame:
    """Compare every combination with the two columns.

    Parameters
    ----------
    table : DataFrame
        As ``noise_table`` makes it.

    Returns
    -------
    DataFrame
        One line a column and combination, the likeliest of a column first: ``column``, the choices,
        ``log_likelihood`` (natural logarithm, of percent), the mean accuracy under each attack in
        percent, and of the cell that fits worst its name, distance in points and in standard
        errors.
    """
    every, counts = list(grid()), Counts(table)
    counted = np.array([[counts(h, a) for a in REPORT_ATTACKS] for h in every])
    right, answered = counted[..., 0], counted[..., 1]  # by combination, attack and training seed
    shares = right / answered
    mean, images = shares.mean(2), answered.mean(2)
    cells = itertools.product(every, REPORT_ATTACKS)
    # Variances of training seeds are pooled over the noise levels.
    kinds = [(h.attack(a), h.answer, h.abstentions, h.noise) for h, a in cells]
    variances = pd.Series(shares.var(2, ddof=1).ravel())
    spread = variances.groupby(pd.Series(kinds)).transform("mean").to_numpy().reshape(mean.shape)
    share = mean.clip(0.5 / images, 1 - 0.5 / images)  # 0 of n is not certainty
    sampling = 2 * share * (1 - share) / images
    error = 100 * np.sqrt(spread * (1 + 1 / ex.GRID_SEEDS) + sampling)
    found = []
    for column in COLUMNS:
        off = 100 * mean - [REPORT_TABLE1[column][a] for a in REPORT_ATTACKS]
        worst = np.abs(off / error).argmax(1)
        lines = pd.DataFrame([{"column": column, **vars(h)} for h in every])
        lines["log_likelihood"] = scipy.stats.norm.logpdf(off, scale=error).sum(1)
        lines[list(REPORT_ATTACKS)] = 100 * mean
        lines["worst"] = np.array(REPORT_ATTACKS)[worst]
        for name, values in (("points", off), ("errors_off", off / error)):
            lines[name] = values[np.arange(len(every)), worst]
        found.append(lines)
    both = pd.concat(found)
    return both.sort_values(["column", "log_likelihood"], ascending=[True, False], kind="stable")


def likeliest(table: pd.DataFrame, column: str) -> Hypothesis:
    """Pick the likeliest combination of a column from the table of ``hypotheses``."""
    line = table[table["column"] == column].iloc[0]
    return Hypothesis(*(line[field.name] for field in fields(Hypothesis)))


LIKELY, PROPER = "likely", "proper"
"""Readings of Table 1: as the report most likely measured it, and as it should be measured."""


def readings(run: Run, noise: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Set Table 1 beside the report in two readings, ``likely`` and ``proper``.

    ``likely`` takes the likeliest combination of each of the two columns.  ``proper`` is how it
    should be measured: answers are deterministic, an abstention is an error, and the attack is on
    the deployed classifier, the network or its vote.  All other columns are the same in both.

    Parameters
    ----------
    run : Run
        The run.
    noise, found : DataFrame
        Of ``noise_table`` and ``hypotheses``.

    Returns
    -------
    DataFrame
        One line a reading, defence and attack: right answers of training seed 0 and how many there
        are; accuracy with Wilson's 95 % interval, and whether the report's value lies in it; how
        many seeds, and whether it lies in the interval of another run (``prediction_interval``;
        one seed has none).
    """
    lines, counts = [], Counts(noise)
    # The report prints one network that is trained in two ways here.
    reported = [(name, cells) for name, cells in REPORT_TABLE1.items() if name != ex.SLOWER]
    for reading, (defence, printed) in itertools.product((LIKELY, PROPER), reported):
        for attack, value in printed.items():
            if reading == LIKELY and defence in COLUMNS:
                seeds = counts(likeliest(found, defence), attack)
            else:
                seeds = _measured(run, defence, attack)
            right, n = seeds[0]
            shares = [k / m for k, m in seeds]
            wilson = [100 * end for end in st.wilson(round(right), n)]
            low, high = another_run(shares, n)
            line = {"reading": reading, "defence": defence, "attack": attack, "n": n}
            line |= {"report_value": value, "accuracy": 100 * right / n}
            line |= {"ci_low": wilson[0], "ci_high": wilson[1], "seeds": len(seeds)}
            lines.append(line | {"mean": 100 * np.mean(shares), "low": low, "high": high})
    table = pd.DataFrame(lines)
    value = table["report_value"]
    table["in_interval"] = inside(value, table["ci_low"], table["ci_high"])
    table["in_range"] = inside(value, table["low"], table["high"])
    return table


def another_run(shares: list[float], n: int) -> tuple[float, float]:
    """Interval of another training run, on other images, in percent; one seed has none."""
    low, high = st.prediction_interval(shares, n) if len(shares) > 1 else (np.nan, np.nan)
    return 100 * low, 100 * high


def inside(value: pd.Series, low: pd.Series, high: pd.Series) -> pd.Series:
    """Say yes or no where a value and an interval are there."""
    known = value.notna() & low.notna()
    return value.between(low, high).map({True: "yes", False: "no"}).where(known, "")


def _measured(run: Run, defence: str, attack: str) -> list[tuple[float, int]]:
    """Right answers and images of every training seed, attacked as deployed."""
    sigma = ex.NOISE_OF.get(defence)
    if sigma is not None:
        attack = dict(zip(REPORT_ATTACKS, ex.VOTE_READING, strict=True))[attack]
    seeds = run.seeds(defence if sigma is None else ex.gaussian_name(sigma))
    found = [run.accuracy(defence, attack, seed=seed) for seed in seeds]
    return [(cell.correct, cell.n) for cell in found]
