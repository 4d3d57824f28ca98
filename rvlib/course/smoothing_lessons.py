"""Small measurements of notebooks 05 and 06: certificates under attack, sanity of the results."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from rvlib.attacks import smoothed_pgd
from rvlib.evaluation import Accuracy, accuracy
from rvlib.noise import stream
from rvlib.recipes import (
    ALPHA,
    SIGMA,
    SMOOTHED_DRAWS,
    SMOOTHED_STEPS,
    TRUE_L2,
    gaussian_name,
    smoothed_name,
)
from rvlib.report.curves import certificate_rows, radii
from rvlib.report.reference import TITLES
from rvlib.report.tables import Table, read_csv
from rvlib.rows import read_rows, rows_path
from rvlib.smoothing import ABSTAIN, evidence, predict
from rvlib.smoothing.certificate import Floats
from rvlib.stages.check import check
from rvlib.stages.run import Run, table1_cells
from rvlib.threat_models import L2

ORDERS = (
    ("an attack does harm", "pgd-linf", "natural"),
    ("many steps beat one", "pgd-linf", "fgsm"),
    ("more steps and restarts beat few", "pgd-linf-50x5", "pgd-linf"),
    ("aim at the vote", "vote-pgd-linf", "pgd-linf"),
    ("aim at the vote", "vote-pgd-pixel-l2", "pgd-pixel-l2"),
    ("aim at the vote", "vote-pgd-l2", "pgd-l2"),
)
"""What must hold of every defence: the accuracy under the first attack is the lower one."""


def evidence_curves(
    shares: Sequence[float], ns: Sequence[int], radius: float, sigma: float
) -> dict[str, Floats]:
    r"""Follow the evidence that a class is probable enough for a radius, as its votes come in.

    Parameters
    ----------
    shares : sequence of float, in [0, 1]
        Shares of the votes that the class keeps to.
    ns : sequence of int
        Numbers of votes.
    radius : float, >= 0
        Euclidean radius in pixel units; it needs the probability :math:`\Phi(r / \sigma)`.
    sigma : float, > 0
        Noise level, in pixel units.

    Returns
    -------
    dict of str to ndarray of float64
        Powers of ten, cut at -3 and 5, by a name for each share; and what is to be reached,
        :math:`1 / \alpha`.
    """
    p0 = float(norm.cdf(radius / sigma))
    curves = {}
    for share in shares:
        powers = evidence([round(share * n) for n in ns], ns, p0) / np.log(10)
        curves[f"{share:.0%} of the votes"] = powers.clip(-3, 5)
    return curves | {"certified from here": np.full(len(ns), -np.log10(ALPHA))}


class Outcome(NamedTuple):
    """What became of certified answers under attack.

    Parameters
    ----------
    kept, abstained, changed : int
        Images with the certified answer, with none, with another one.
    """

    kept: int
    abstained: int
    changed: int


class Ladder(NamedTuple):
    """Accuracy on the same images: promised in a Euclidean ball, attacked in it, clean.

    Parameters
    ----------
    certified : Accuracy or None
        Certified at that radius; None where there is no certificate.
    attacked : Accuracy
        Under the attack that knows the defence.
    clean : Accuracy
        Without attack.
    """

    certified: Accuracy | None
    attacked: Accuracy
    clean: Accuracy

    def words(self) -> str:
        """Say the three accuracies in a sentence."""
        certified = f"certified {self.certified.percent:.1f} %" if self.certified else "no promise"
        return (
            f"In the l2 ball of {TRUE_L2.eps}, on {self.clean.n} images: {certified}, "
            f"attacked {self.attacked.percent:.1f} %, clean {self.clean.percent:.1f} %."
        )


def attack_certified(
    run: Run, sigma: float, lengths: Sequence[float], images: int = 8
) -> dict[float, Outcome]:
    """Attack the vote on certified images, each in a ball measured by its own certificate.

    Parameters
    ----------
    run : Run
        Whose certificates and network to use.
    sigma : float
        Noise level of the vote.
    lengths : sequence of float
        Radii of the attack's ball as multiples of the certified radius.
    images : int, default=8
        How many: the first that are rightly certified.

    Returns
    -------
    dict of float to Outcome
        By length.  Up to length 1 nothing may be changed, except with probability `ALPHA` an
        image; beyond it anything may.
    """
    n, device, seed = max(run.profile.ns), run.place.device, run.place.seed
    found = radii(run.certificates(sigma), n)
    chosen = np.flatnonzero(found > 0)[:images].tolist()
    model = run.model(gaussian_name(sigma))
    x, y = run.images(run.profile.certified)
    outcomes = {}
    for length in lengths:
        attacked = [
            smoothed_pgd(
                model,
                x[i : i + 1],
                y[i : i + 1],
                L2(length * found[i]),
                sigma=sigma,
                draws=SMOOTHED_DRAWS,
                steps=SMOOTHED_STEPS,
                generator=stream(device, seed, "attack on a certificate", i),
            )
            for i in chosen
        ]
        # Noise for another purpose than the certificate's: an independent judge.
        answers = predict(model, torch.cat(attacked), sigma, n=n, alpha=ALPHA, seed=seed)
        kept = int((answers == y[chosen].cpu().numpy()).sum())
        abstained = int((answers == ABSTAIN).sum())
        outcomes[length] = Outcome(kept, abstained, len(chosen) - kept - abstained)
    return outcomes


def ladder(run: Run, defence: str) -> Ladder:
    """Compare what is certified, attacked and clean in the Euclidean ball, image for image.

    Parameters
    ----------
    run : Run
        Whose rows to read.
    defence : str
        A model, or the smoothed network of Table 1.

    Returns
    -------
    Ladder
        On the images that the profile certifies.
    """
    count = run.profile.certified
    clean, attack = _cell(run, defence, "natural", count), "pgd-l2"
    certified = None
    if defence == smoothed_name(SIGMA):
        attack = "vote-pgd-l2"
        found = radii(certificate_rows(run.place.rows, SIGMA, count), max(run.profile.ns))
        promised = int((found >= TRUE_L2.eps).sum())
        certified = Accuracy(count, promised, count - promised, TRUE_L2.name)
    return Ladder(certified, _cell(run, defence, attack, count), clean)


def sanity_table(run: Run) -> Table:
    """Check that Table 1 is in the order that a sound evaluation must have.

    Parameters
    ----------
    run : Run
        Whose rows to read; all of Table 1's must be there.

    Returns
    -------
    Table
        One line a check and defence.  ``verdict`` is ``pass``; ``within intervals`` where only
        the lower accuracy's 95 % interval reaches below the other's upper end; or ``FAIL``.
    """
    cells = table1_cells(run)
    table = [
        _check(
            claim, defence, lower, _cell(run, defence, lower), higher, _cell(run, defence, higher)
        )
        for claim, lower, higher in ORDERS
        for defence in dict.fromkeys(defence for defence, _ in cells)
        if {(defence, lower), (defence, higher)} <= set(cells)
    ]
    smoothed = smoothed_name(SIGMA)
    certified, attacked, clean = ladder(run, smoothed)
    assert certified is not None
    name = f"certified at l2 {TRUE_L2.eps}"
    table.append(_check("a promise is kept", smoothed, name, certified, "vote-pgd-l2", attacked))
    table.append(_check("an attack does harm", smoothed, "vote-pgd-l2", attacked, "natural", clean))
    return table


def attack_checks(run: Run) -> Table:
    """Check every network's accuracy under PGD in itself, or find it done: ``rvlib check``.

    Parameters
    ----------
    run : Run
        Its weights and first images are used.

    Returns
    -------
    Table
        One line a defence and check: ``defence, check, images, passed, finding``.
    """
    return read_csv(check(run))


def is_share(percent: float, n: int) -> bool:
    """Say whether a percentage printed with two digits can be a share of `n` images.

    Parameters
    ----------
    percent : float
        As printed.
    n : int
        How many images.

    Returns
    -------
    bool
        Whether rounding some k / n, or cutting it off, gives that percentage.

    Examples
    --------
    >>> is_share(58.2, 1024), is_share(54.78, 1024), is_share(59.71, 1024)
    (True, True, False)
    """
    nearest = 100 * round(percent * n / 100) / n
    return abs(percent - nearest) < 0.01


def _cell(run: Run, defence: str, attack: str, count: int | None = None) -> Accuracy:
    path = rows_path(run.place.rows, "heldout", defence, 0, attack)
    return accuracy(read_rows(path, count or run.profile.heldout))


def _check(
    claim: str, defence: str, lower: str, low: Accuracy, higher: str, high: Accuracy
) -> dict[str, str]:
    verdict = "FAIL"
    if low.correct <= high.correct:
        verdict = "pass"
    elif low.interval.low <= high.interval.high:
        verdict = "within intervals"
    return {
        "check": claim,
        "defence": TITLES.get(defence, defence),
        "lower, %": f"{TITLES.get(lower, lower)}: {low.percent:.2f}",
        "higher, %": f"{TITLES.get(higher, higher)}: {high.percent:.2f}",
        "n": str(low.n),
        "verdict": verdict,
    }
