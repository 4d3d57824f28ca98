"""Small measurements and short trainings that a lesson shows and the report does not print."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy
import torch
import torch.nn.functional as F
from IPython.display import display
from numpy.typing import NDArray
from torch import Tensor, nn

from rvlib import experiments as ex
from rvlib.attacks import (
    apgd,
    autoattack,
    dlr,
    fgsm,
    input_gradient,
    log_odds,
    margin,
    pgd,
    robust_mask,
    smoothed_pgd,
)
from rvlib.attacks.passes import Passes
from rvlib.attacks.pgd import ascend
from rvlib.course.defences import Rounded as Rounded
from rvlib.course.figures import show_progress
from rvlib.data import DATASETS, load
from rvlib.device import provenance
from rvlib.inference import eval_mode, logits_of
from rvlib.models import Normalize, read_record
from rvlib.objectives import Objective, adversarial
from rvlib.pipeline import Accuracy, Run, one_thread
from rvlib.progress import progress
from rvlib.report.tables import radii as certified_radii
from rvlib.results import atomic_write, plain
from rvlib.smoothing import ABSTAIN, log_e_value, predict, sample_under_noise, stream, wilson
from rvlib.smoothing.certify import PRIOR
from rvlib.threat_models import L2, Linf, ThreatModel
from rvlib.training import fit

# --- accuracies and losses ------------------------------------------------------------------------


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """Classes that the network gives for images (B, C, H, W): (B,), int64."""
    with eval_mode(model):
        return logits_of(model, x).argmax(1)


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Softmax of the network's logits for images (B, C, H, W): (B, K), on the CPU."""
    with eval_mode(model):
        return logits_of(model, x).softmax(1).cpu()


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image: (B,)."""
    with eval_mode(model):
        return F.cross_entropy(logits_of(model, x), y, reduction="none")


def percent_correct(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy in percent on images (B, C, H, W) with labels (B,)."""
    return 100 * (answers(model, x) == y).double().mean().item()


def points(after: float, before: float, n: int) -> str:
    """Difference of two accuracies in percent on `n` images, in words.

    Parameters
    ----------
    after, before : float
        The accuracies, in percent.
    n : int
        Number of images.

    Returns
    -------
    str
        The difference, and a remark where the two 95 % intervals overlap.

    Examples
    --------
    >>> points(50.0, 60.0, 1024), points(60.0, 50.0, 100)
    ('−10.0 points', '+10.0 points (the 95 % intervals overlap)')
    """
    first, second = (wilson(round(n * share / 100), n) for share in (after, before))
    overlap = first.low <= second.high and second.low <= first.high
    remark = " (the 95 % intervals overlap)" if overlap else ""
    return f"{after - before:+.1f} points".replace("-", "−") + remark


def highest(percent: pd.Series, n: int) -> str:
    """Name the highest of some accuracies, and those that `n` images do not tell from it.

    Parameters
    ----------
    percent : Series of float
        Accuracies in percent, each on `n` images, by name.
    n : int
        Number of images.

    Returns
    -------
    str
        The highest; in brackets those whose 95 % intervals overlap its own.

    Examples
    --------
    >>> highest(pd.Series({0.12: 30.0, 0.25: 48.0, 0.5: 50.0}), 1024)
    '0.5 (not distinguishable from 0.25)'
    """
    best = percent.idxmax()
    intervals = {name: wilson(round(n * share / 100), n) for name, share in percent.items()}
    tied = [k for k, interval in intervals.items() if interval.high >= intervals[best].low]
    others = ", ".join(str(name) for name in tied if name != best)
    return f"{best} (not distinguishable from {others})" if others else str(best)


def classified_correctly(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the images, and their labels, that the network classifies correctly."""
    right = answers(model, x) == y
    return x[right], y[right]


def sweep(
    model: nn.Module, y: Tensor, attack: Callable[[float], Tensor], radii: Sequence[float]
) -> list[float]:
    """Accuracy in percent at each radius; ``attack(radius)`` makes the attacked images."""
    return [percent_correct(model, attack(eps), y) for eps in radii]


def robust_curve(
    model: nn.Module, x: Tensor, y: Tensor, threats: Sequence[ThreatModel]
) -> list[float]:
    """Accuracy in percent under PGD in balls of rising radius.

    An image that is fooled in one ball counts as fooled in all larger ones, which hold it.

    Parameters
    ----------
    model : nn.Module
        The network.
    x, y : Tensor of shape (B, C, H, W) and (B,)
        Clean images in [0, 1] and their labels.
    threats : sequence of ThreatModel
        The balls; one of radius 0 stands for no attack.

    Returns
    -------
    list of float
        One percentage for each ball; never rising.
    """
    stands, curve = answers(model, x) == y, []
    for threat in threats:
        if threat.eps:
            stands = robust_mask(model, x, y, threat, random_start=False, mask=stands)
        curve.append(100 * stands.double().mean().item())
    return curve


# --- notebooks 01 and 02: steps -------------------------------------------------------------------


def compare_directions(
    model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float], generator: torch.Generator
) -> pd.DataFrame:
    r"""Step in three directions in which every channel moves by at most `eps`.

    If the loss were linear with gradient :math:`g`, a step :math:`\epsilon v` would gain
    :math:`\epsilon \, v^T g`: at most :math:`\epsilon \lVert g \rVert_1` on the cube
    :math:`\lVert v \rVert_\infty \le 1`, at the corner :math:`v = \mathrm{sign}(g)`.

    Parameters
    ----------
    model : nn.Module
        The network.
    x, y : Tensor of shape (B, C, H, W) and (B,)
        Clean images in [0, 1] and their labels.
    radii : sequence of float
        Values of `eps`, in pixel units.
    generator : torch.Generator
        Chooses the random corner.

    Returns
    -------
    DataFrame
        By radius and direction: the gain of the mean cross-entropy ``if linear`` and as
        ``measured``, clamping to [0, 1] included.
    """
    with eval_mode(model):
        gradient = input_gradient(model, x, y, partial(F.cross_entropy, reduction="none"))
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    directions = {
        "sign of the gradient": gradient.sign(),
        "the gradient itself": gradient / largest,
        "a random corner": torch.randn(x.shape, generator=generator, device=x.device).sign(),
    }
    before = losses(model, x, y).mean().item()
    lines = [
        {
            "ε": eps,
            "direction": name,
            "if linear": eps * (v * gradient).sum().item() / len(x),
            "measured": losses(model, (x + eps * v).clamp(0, 1), y).mean().item() - before,
        }
        for eps in radii
        for name, v in directions.items()
    ]
    return pd.DataFrame(lines)


def count_moves(x: Tensor, x_adv: Tensor, eps: float) -> dict[str, int]:
    """Count the channels that an attack in the l-infinity ball moved by `eps`, less, not at all.

    Parameters
    ----------
    x, x_adv : Tensor of shape (B, C, H, W), float, in [0, 1]
        Before and after.
    eps : float
        Radius of the ball.

    Returns
    -------
    dict of str to int
        ``full``; ``less``; ``none``; and ``walls``, those of ``none`` that are at 0 or 1.
    """
    change = (x_adv - x).abs()
    full, none = change > 0.999 * eps, change == 0  # the difference is rounded
    walls = none & ((x == 0) | (x == 1))
    counts = {"full": full, "less": ~(full | none), "none": none, "walls": walls}
    return {name: int(part.sum()) for name, part in counts.items()}


def eight_bit(x: Tensor) -> Tensor:
    """Round images in [0, 1] to whole levels of 255, as an image file does."""
    return (255 * x).round() / 255


def iterates(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, step_size: float
) -> list[Tensor]:
    """Every iterate of PGD from the clean images on: ``steps + 1`` batches (B, C, H, W)."""
    path = [x]
    with eval_mode(model), torch.enable_grad():
        for _ in range(steps):
            at = path[-1]
            path.append(ascend(model, x, y, at, threat, step_size, None, steps=1, loss=log_odds))
    return path


def losses_by_step(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, step_size: float
) -> list[float]:
    """Mean cross-entropy of the attacked images after 0, 1, ..., `steps` steps of PGD."""
    path = iterates(model, x, y, threat, steps, step_size)
    return [losses(model, x_t, y).mean().item() for x_t in path]


def naive_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, step_size: float
) -> Tensor:
    """Run PGD on PyTorch's cross-entropy, which ignores the true logit of a sure answer."""
    loss = partial(F.cross_entropy, reduction="none")
    options: dict[str, Any] = {"steps": steps, "step_size": step_size, "loss": loss}
    return pgd(model, x, y, threat, random_start=False, **options)


# --- notebook 02: attacks at equal work -----------------------------------------------------------

COMPARED = ("standard", "pgd-linf-at", "mixed-at")
"""Networks on which attacks are compared."""
BUDGETS = (5, 10, 20, 50, 100)
"""Steps that an attack may take."""
ENSEMBLE = "AutoAttack, fast"
LONGER: dict[str, Callable[..., Tensor]] = {
    "PGD": pgd,
    "PGD on the margin": partial(pgd, loss=margin),
    "APGD": apgd,
    "APGD on the logit ratio": partial(apgd, loss=dlr),
}
"""Attacks that take a number of steps, from a random start."""


def compare_attacks(run: Run, images: int = 256) -> pd.DataFrame:
    """Attack networks with more and more steps, and with the ensemble.

    Parameters
    ----------
    run : Run
        Whose networks to attack, in the report's l-infinity ball.
    images : int, default=256
        Of the held-out images, at most as many as its profile certifies.

    Returns
    -------
    DataFrame
        One line a network, attack and budget: columns ``network``, ``attack``, ``steps``, the
        ``accuracy`` in percent and the mean ``passes``, forwards and backwards, per image.
    """
    count = min(images, run.profile.certified)
    run.train(*((name, 0) for name in COMPARED))
    about = {
        "weights": [read_record(run.weights(name))["sha256"] for name in COMPARED],
        "threat": ex.LINF.name,
        "budgets": BUDGETS,
        "attacks": [*LONGER, ENSEMBLE],
        "images": count,
    }

    return _table(run, "attacks", about, partial(_compared, run, count))


def _compared(run: Run, count: int) -> Iterator[dict[str, Any]]:
    """Measure every attack on every network."""
    x, y = run.images(count)
    calls: dict[tuple[str, int], Callable[..., Tensor]] = {
        (k, n): partial(attack, steps=n) for k, attack in LONGER.items() for n in BUDGETS
    }
    calls[ENSEMBLE, BUDGETS[-1]] = autoattack
    for name in progress(COMPARED, "attacks"):
        model = run.model(name)
        for (attack, steps), call in calls.items():
            counting = Passes(model)
            draws = stream(run.device, run.seed, "comparison", attack)
            accuracy = percent_correct(model, call(counting, x, y, ex.LINF, generator=draws), y)
            passes = (counting.forwards + counting.backwards) / len(x)
            line = {"network": name, "attack": attack, "steps": steps}
            yield line | {"accuracy": accuracy, "passes": passes}


# --- notebook 03: short trainings -----------------------------------------------------------------

CLEAN_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Weights of the clean loss, from no attack to nothing but attacks."""
START = ex.gaussian_name(ex.SIGMA)
"""Where they start: training under noise has left it a smooth loss, which a few steps can harden;
the undefended network's is so steep that the first ones would destroy it."""
COLLAPSE_BALL = Linf(12 / 255)
"""Large enough for a collapse within a few epochs."""
FILTERS = 16


TEST_RADII = (0.0, 0.01, 0.02, 0.03, 0.04)
"""Radii of the l-infinity ball in which the networks are attacked in the end."""
STEP_LENGTHS = tuple(k / 8 * 12 / 255 for k in range(9))
"""Lengths of a step along the signs of the gradient, from 0 to the radius of `COLLAPSE_BALL`."""
WATCHED = 256
"""Held-out images that are attacked after every epoch, at most."""


class ShortTraining(NamedTuple):
    """What was measured in and after a short training.

    Parameters
    ----------
    name : str
        Name of its curves.
    history : list of dict of str to float
        Held-out accuracies by attack, in percent: before the first epoch and after each.
    curve : list of float
        Held-out accuracies of the trained network, in percent, at the radii of its plan.
    """

    name: str
    history: list[dict[str, float]]
    curve: list[float]


@dataclass(frozen=True)
class Plan:
    """Short trainings that differ in their loss only.

    Parameters
    ----------
    name : str
        Name of their file.
    start : callable
        Makes the network that all start from.
    objectives : mapping of str to Objective
        Losses, by the name of the training.
    watched : mapping of str to callable or None
        Attacks measured before the first epoch and after each; None: the clean images.
    measure : callable
        ``measure(model, x, y)`` gives the accuracies in percent at `radii`, after the last epoch.
    radii : tuple of float
        The radii.
    images : int
        Training images, at most.
    epochs, batch_size, lr
        Of the optimiser.
    about : mapping
        What else defines the trainings, as plain values.
    """

    name: str
    start: Callable[[], nn.Module]
    objectives: Mapping[str, Objective]
    watched: Mapping[str, Callable[..., Tensor] | None]
    measure: Callable[[nn.Module, Tensor, Tensor], list[float]]
    radii: tuple[float, ...]
    images: int
    epochs: int
    batch_size: int
    lr: float
    about: Mapping[str, Any]

    def record(self, run: Run) -> dict[str, Any]:
        """Everything that defines the results, as plain values."""
        record = {k: getattr(self, k) for k in ("images", "epochs", "batch_size", "lr", "radii")}
        record |= {"trainings": list(self.objectives), "watched": list(self.watched)}
        record |= {"heldout": run.profile.heldout, "seed": run.seed, **self.about}
        return dict(plain(record | {"data": DATASETS[ex.DATASET].digest}))


def compare_clean_weights(run: Run) -> list[ShortTraining]:
    """Train one network further with PGD, once for every weight of the clean loss.

    Parameters
    ----------
    run : Run
        Whose noise-trained network to start from; the larger its profile, the more images.

    Returns
    -------
    list of ShortTraining
        In the order of ``CLEAN_WEIGHTS``; their curves are accuracies under PGD at ``TEST_RADII``.
    """
    attack = ex.ATTACKS["pgd-linf"]
    run.train((START, 0))
    plan = Plan(
        "clean-weight",
        start=lambda: run.model(START),
        objectives={f"α = {w:g}": adversarial(attack, w) for w in CLEAN_WEIGHTS},
        watched={"natural": None, "pgd-linf": attack},
        measure=partial(robust_curve, threats=[Linf(eps) for eps in TEST_RADII]),
        radii=TEST_RADII,
        images=2 * run.profile.heldout,
        epochs=3,
        batch_size=32,
        lr=0.005,
        about={
            "start": read_record(run.weights(START))["sha256"],
            "attack": ex.attack_record("pgd-linf", attack),
        },
    )
    return train_shortly(run, plan)


def train_to_collapse(run: Run) -> list[ShortTraining]:
    """Train one convolution against FGSM, which collapses, and against two steps of PGD.

    Parameters
    ----------
    run : Run
        The larger its profile, the more images.

    Returns
    -------
    list of ShortTraining
        Against FGSM first; their curves are accuracies after one step along the gradient's signs,
        of the lengths ``STEP_LENGTHS``.

    References
    ----------
    .. [1] Andriushchenko, Flammarion, "Understanding and Improving Fast Adversarial Training",
       NeurIPS 2020, section 4: a single layer is enough for a collapse.  arXiv:2007.02617.
    """
    ball, eps = COLLAPSE_BALL, float(COLLAPSE_BALL.eps)
    attacks: dict[str, Callable[..., Tensor]] = {
        "FGSM": partial(fgsm, threat=ball),
        "PGD, 2 steps": partial(pgd, threat=ball, steps=2, step_size=eps, random_start=False),
        "PGD, 10 steps": partial(pgd, threat=ball, step_size=eps / 4, random_start=False),
    }
    trained = ("FGSM", "PGD, 2 steps")

    def measure(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
        return sweep(model, y, lambda length: fgsm(model, x, y, Linf(length)), STEP_LENGTHS)

    plan = Plan(
        "collapse",
        start=lambda: one_layer(run.images(run.profile.heldout)[0], run.seed),
        objectives={f"trained against {name}": adversarial(attacks[name], 0.0) for name in trained},
        watched={name: attacks[name] for name in ("FGSM", "PGD, 10 steps")},
        measure=measure,
        radii=STEP_LENGTHS,
        images=10 * run.profile.heldout,
        epochs=6,
        batch_size=64,
        lr=0.003,
        about={"filters": FILTERS, "attacks": [ex.attack_record(k, a) for k, a in attacks.items()]},
    )
    return train_shortly(run, plan)


def last_and_best(records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Compare the last epoch of trainings with the best one.

    Parameters
    ----------
    records : mapping of str to mapping
        The records of networks, by name, as ``read_record`` gives them.

    Returns
    -------
    DataFrame
        By network: accuracies in percent, clean and under the attack that its training watched.
    """
    attacks = {k: next(a for a in r["last"] if a.startswith("pgd")) for k, r in records.items()}
    lines = [
        {
            "network": ex.title(name),
            "attack": ex.title(attacks[name]),
            "clean, last": 100 * record["last"]["natural"],
            "attacked, last": 100 * record["last"][attacks[name]],
            "attacked, best": 100 * record["best"][attacks[name]],
            "best epoch": record["best_epoch"],
        }
        for name, record in records.items()
    ]
    return pd.DataFrame(lines)


def one_layer(x: Tensor, seed: int) -> nn.Module:
    """Make a network of one convolution and one linear layer, for pixels distributed as in `x`.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images, by whose mean and standard deviation every input is normalised.
    seed : int
        Of the initial weights.

    Returns
    -------
    nn.Module
        Maps images like `x` to logits of shape (B, 10).
    """
    _, channels, height, width = x.shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [nn.Conv2d(channels, FILTERS, 3, padding=1), nn.ReLU(), nn.Flatten()]
        last = nn.Linear(FILTERS * height * width, 10)
    scale = Normalize(x.mean((0, 2, 3)).cpu(), x.std((0, 2, 3)).cpu())
    return nn.Sequential(scale, *layers, last).to(x.device)


def train_shortly(run: Run, plan: Plan) -> list[ShortTraining]:
    """Train and measure, or read what was measured; show the accuracies by epoch.

    Parameters
    ----------
    run : Run
        Whose device, seed and folder to use.
    plan : Plan
        The trainings.

    Returns
    -------
    list of ShortTraining
        One for each objective.  A killed training continues from its last epoch.
    """
    record = plan.record(run)
    stored = _stored(run, plan.name, record)
    if stored is None:
        found = _trained(run, plan)
        _store(run, plan.name, record, trainings=[training._asdict() for training in found])
        return found
    found = [ShortTraining(**training) for training in stored["trainings"]]
    histories = {training.name: training.history for training in found}
    display(show_progress(histories, plan.epochs, list(plan.watched)))
    return found


def _stored(run: Run, name: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what a lesson measured, here or as published, if it is what this record defines."""
    for folder in [run.out] if run.profile.trains else [run.out, run.published.parent]:
        path = folder / "lessons" / f"{name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing or damaged: measure again
            continue
        if content["record"] == record:
            return dict(content)
    return None


def _store(run: Run, name: str, record: Mapping[str, Any], **found: Any) -> None:
    """Write what a lesson measured, with what defines it and how it came about."""
    content = {"record": record, "provenance": provenance(run.device), **found}
    path = run.out / "lessons" / f"{name}.json"
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode())


def _table(
    run: Run, name: str, about: Mapping[str, Any], measure: Callable[[], Iterator[Any]]
) -> pd.DataFrame:
    """Read the lines that a lesson measured, or measure and write them; `about` defines them."""
    record = plain({**about, "seed": run.seed, "data": DATASETS[ex.DATASET].digest})
    if (stored := _stored(run, name, record)) is not None:
        return pd.DataFrame(stored["lines"])
    lines = list(measure())
    _store(run, name, record, lines=lines)
    return pd.DataFrame(lines)


def _trained(run: Run, plan: Plan) -> list[ShortTraining]:
    """Train, and redraw the accuracies after every epoch."""
    x, y = run.images(run.profile.heldout)
    some, labels = x[:WATCHED], y[:WATCHED]

    def watch(model: nn.Module) -> dict[str, float]:
        return {
            name: percent_correct(model, attack(model, some, labels) if attack else some, labels)
            for name, attack in plan.watched.items()
        }

    trainings, before = list[ShortTraining](), watch(plan.start())
    screen = display(show_progress({}, plan.epochs, list(before)), display_id=True)
    for name in plan.objectives:
        model = plan.start()
        for epochs in _epochs(run, plan, name, model, watch):
            latest = ShortTraining(name, [before, *epochs], [])
            histories = {t.name: t.history for t in [*trainings, latest]}
            if screen is not None:  # None: not in a notebook
                screen.update(show_progress(histories, plan.epochs, list(before)))
        trainings.append(latest._replace(curve=plan.measure(model, x, y)))
    return trainings


def _epochs(
    run: Run,
    plan: Plan,
    name: str,
    model: nn.Module,
    watch: Callable[[nn.Module], dict[str, float]],
) -> Iterator[list[dict[str, float]]]:
    """Train epoch by epoch, from the checkpoint of the one before; give the accuracies so far."""
    images, labels = (part[: plan.images] for part in load(ex.DATASET, "train"))
    for epochs in range(1, plan.epochs + 1):
        with one_thread(run.device):
            found = fit(
                model,
                plan.objectives[name],
                (images, labels),
                epochs=epochs,
                batch_size=plan.batch_size,
                lr=plan.lr,
                seed=run.seed,
                monitor=watch,
                select=list(plan.watched)[-1],
                checkpoint=run.out / "checkpoints" / plan.name / f"{name}.pt",
                identity={"name": name} | plan.record(run),
                device=run.device,
            )
        yield [{attack: entry[attack] for attack in plan.watched} for entry in found.history]


# --- notebook 05: certificates --------------------------------------------------------------------


def evidence_curves(
    shares: Sequence[float], ns: Sequence[int], radius: float, sigma: float
) -> dict[str, NDArray[np.float64]]:
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
        Powers of ten, by share; :math:`1 / \alpha` certifies.
    """
    p0 = float(scipy.stats.norm.cdf(radius / sigma))
    return {
        f"{100 * share:.0f} % of the votes": log_e_value(
            *([round(share * n) for n in ns], ns, p0), prior=PRIOR
        )
        / np.log(10)
        for share in shares
    }


class Outcome(NamedTuple):
    """Certified images after an attack: the answer is kept, withheld, or another one."""

    kept: int
    abstained: int
    changed: int


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
        How many: the first that are certified correctly.

    Returns
    -------
    dict of float to Outcome
        By length.  Up to length 1 an answer changes with probability `ALPHA` at most; beyond it
        nothing is promised.
    """
    radii = certified_radii(run.certificates(sigma), max(run.profile.ns))
    chosen = np.flatnonzero(radii > 0)[:images]
    model, (x, y) = run.model(ex.gaussian_name(sigma)), run.images(int(chosen[-1]) + 1)
    x, y = x[chosen], y[chosen]
    outcomes = {}
    for length in lengths:
        x_adv = smoothed_pgd(
            model,
            x,
            y,
            L2(torch.tensor(length * radii[chosen], dtype=x.dtype, device=x.device)),
            sigma=sigma,
            draws=ex.SMOOTHED_DRAWS,
            steps=ex.SMOOTHED_STEPS,
            generator=stream(run.device, run.seed, "attack on a certificate"),
        )
        # Its noise has another purpose, and so another address, than the certificate's.
        found = predict(model, x_adv, sigma, n=run.profile.votes, alpha=ex.ALPHA, seed=run.seed)
        kept, silent = int((found == y.cpu().numpy()).sum()), int((found == ABSTAIN).sum())
        outcomes[length] = Outcome(kept, silent, len(chosen) - kept - silent)
    return outcomes


# --- notebook 06: random answers ------------------------------------------------------------------

TEST_SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)
"""Noise that the network adds to every image before it answers."""
AVERAGED = (0, 1, 4, 16)
"""Noisy copies over which the attack averages its gradient; 0: it attacks the network itself."""
ANSWERS = 100
"""Random answers per image, over which an accuracy is averaged."""


def answer_at_random(run: Run) -> pd.DataFrame:
    """Let a network answer on one noisy copy, and attack it through more and more of the noise.

    Parameters
    ----------
    run : Run
        Whose noise-trained network of Table 1 to use, on as many images as its profile attacks.

    Returns
    -------
    DataFrame
        One line a noise level at test time and number of averaged gradients: columns ``sigma``,
        ``averaged`` and ``attacked``, the accuracy in percent of one random answer under PGD l∞;
        ``clean``, the same without an attack.
    """
    network = ex.gaussian_name(ex.SIGMA)
    run.train((network, 0))
    about = {
        "weights": read_record(run.weights(network))["sha256"],
        "attack": ex.attack_record("pgd-linf", ex.ATTACKS["pgd-linf"]),
        "sigmas": TEST_SIGMAS,
        "averaged": AVERAGED,
        "answers": ANSWERS,
        "heldout": run.profile.heldout,
    }

    return _table(run, "random-answers", about, partial(_random_answers, run, network))


def _random_answers(run: Run, network: str) -> Iterator[dict[str, float]]:
    """Accuracy of one random answer, clean and attacked through more and more noisy copies."""
    model, (x, y) = run.model(network), run.images(run.profile.heldout)
    options = dict(ex.ATTACKS["pgd-linf"].keywords)  # type: ignore[attr-defined]
    unaware = pgd(model, x, y, **options)
    del options["random_start"]

    def attack(sigma: float, averaged: int) -> Tensor:
        if not averaged or sigma == 0:
            return unaware
        generator = stream(run.device, run.seed, "attack on random answers")
        options.update(sigma=sigma, draws=averaged, generator=generator)
        return smoothed_pgd(model, x, y, **options)

    def accuracy(x: Tensor, sigma: float) -> float:
        if sigma == 0:
            return percent_correct(model, x, y)
        votes = sample_under_noise(model, x, sigma, ANSWERS, seed=run.seed, purpose="prediction")
        return 100 * votes.gather(1, y[:, None].cpu()).double().mean().item() / ANSWERS

    for sigma in progress(TEST_SIGMAS, "random answers"):
        clean = accuracy(x, sigma)
        for m in AVERAGED:
            attacked = accuracy(attack(sigma, m), sigma)
            yield {"sigma": sigma, "averaged": m, "clean": clean, "attacked": attacked}


# --- notebook 06: sanity of the results -----------------------------------------------------------

ORDERS = (
    ("attacked ≤ clean", "pgd-linf", "natural"),
    ("PGD ≤ FGSM", "pgd-linf", "fgsm"),
    ("PGD with 50 steps, 5 starts ≤ PGD", "pgd-linf-50x5", "pgd-linf"),
    ("attack on the vote ≤ attack on the network", "vote-fgsm", "fgsm"),
    ("attack on the vote ≤ attack on the network", "vote-pgd-linf", "pgd-linf"),
    ("attack on the vote ≤ attack on the network", "vote-pgd-pixel-l2", "pgd-pixel-l2"),
    ("attack on the vote ≤ attack on the network", "vote-pgd-l2", "pgd-l2"),
)
"""What must hold of every defence: the accuracy under the first attack is the lower one."""


class Ladder(NamedTuple):
    """Accuracy on the same images: certified in a Euclidean ball, attacked in it, clean.

    ``certified`` is None where there is no certificate.
    """

    certified: Accuracy | None
    attacked: Accuracy
    clean: Accuracy

    def sentence(self) -> str:
        """Give the accuracies in words."""
        words = [
            f"{name} {share.percent:.1f} %" if share else f"{name}: none"
            for name, share in self._asdict().items()
        ]
        return f"In the l2 ball of {ex.TRUE_L2.eps}, on {self.clean.n} images: {', '.join(words)}."


def ladder(run: Run, defence: str) -> Ladder:
    """Compare what is certified, attacked and clean in the Euclidean ball, image for image.

    Parameters
    ----------
    run : Run
        Whose results to read.
    defence : str
        A network, or the smoothed network of Table 1.

    Returns
    -------
    Ladder
        On the images that the profile certifies.
    """
    count, smoothed = run.profile.certified, defence == ex.smoothed_name(ex.SIGMA)
    certified = None
    if smoothed:
        radii = certified_radii(run.certificates(ex.SIGMA), max(run.profile.ns))
        promised = int((radii[:count] >= ex.TRUE_L2.eps).sum())
        certified = Accuracy(count, promised, count - promised, ex.TRUE_L2.name)
    attack = "vote-pgd-l2" if smoothed else "pgd-l2"
    attacked, clean = (run.accuracy(defence, name, count=count) for name in (attack, "natural"))
    return Ladder(certified, attacked, clean)


def sanity_table(run: Run) -> pd.DataFrame:
    """Check that Table 1 is in the order that a sound evaluation must have.

    Parameters
    ----------
    run : Run
        Whose results to read.

    Returns
    -------
    DataFrame
        By check and defence: both accuracies and a ``verdict``: ``pass``; ``within intervals``
        where only the intervals of the two overlap; or ``FAIL``.
    """
    cells = ex.table1_cells(run.profile)
    lines = []
    for claim, lower, higher in ORDERS:
        for defence in dict.fromkeys(defence for defence, _ in cells):
            if {(defence, lower), (defence, higher)} <= set(cells):
                low = run.accuracy(defence, lower)
                high = run.accuracy(defence, higher, count=low.n)  # of the same images
                lines.append(_check(claim, defence, {lower: low, higher: high}))
    smoothed = ex.smoothed_name(ex.SIGMA)
    certified, attacked, clean = ladder(run, smoothed)
    assert certified is not None
    proven = {f"certified at l2 {ex.TRUE_L2.eps}": certified}
    lines += [
        _check("certified ≤ attacked", smoothed, proven | {"vote-pgd-l2": attacked}),
        _check("attacked ≤ clean", smoothed, {"vote-pgd-l2": attacked, "natural": clean}),
    ]
    return pd.DataFrame(lines)


def _check(claim: str, defence: str, accuracies: Mapping[str, Accuracy]) -> dict[str, object]:
    """Compare two accuracies, named by their attacks: the first may not be the higher one."""
    (lower, low), (higher, high) = accuracies.items()
    verdict = "FAIL"
    if low.correct <= high.correct:
        verdict = "pass"
    elif low.interval.low <= high.interval.high:
        verdict = "within intervals"
    return {
        "check": claim,
        "defence": ex.title(defence),
        "lower, %": f"{ex.title(lower)}: {low.percent:.2f}",
        "higher, %": f"{ex.title(higher)}: {high.percent:.2f}",
        "n": low.n,
        "verdict": verdict,
    }
