"""Notebook 03's exercises: the loss of adversarial training, and the epoch of its collapse."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks.ascent import loss_gradient
from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.course.exercises.toys import toys
from rvlib.types import Images, Labels

# --- The loss -------------------------------------------------------------------------------------


class Dropper(nn.Module):
    """Dropout without chance: in training mode the same half of the channels is always gone."""

    def forward(self, x: Images) -> Tensor:
        """Return the pictures, in training mode without their second column."""
        return x * torch.tensor([2.0, 0.0]) if self.training else x


def _attack(model: nn.Module, x: Images, y: Labels) -> Images:
    """Take one step against the network in the mode that it is in."""
    return (x + 0.2 * loss_gradient(model, x, y).sign()).clamp(0, 1)


def _batch(alpha: float) -> Case:
    network, x, y = toys()
    return Case((nn.Sequential(Dropper(), network).train(), _attack, x, y, alpha))


Weigh = Callable[[Tensor, Tensor, float], Tensor]
Loss = Callable[[Tensor, Labels], Tensor]


def _loss(
    weigh: Weigh, loss: Loss = F.cross_entropy, modes: tuple[bool, bool] = (False, True)
) -> Callable[..., Tensor]:
    """Make the loss with other weights, or other modes of the network: in the attack, after it."""

    def mixed(
        model: nn.Module, attack: Callable[..., Images], x: Images, y: Labels, alpha: float
    ) -> Tensor:
        model.train(modes[0])
        x_adv = attack(model, x, y)
        model.train(modes[1])
        return weigh(loss(model(x), y), loss(model(x_adv), y), alpha)

    return mixed


def _right(clean: Tensor, attacked: Tensor, alpha: float) -> Tensor:
    return alpha * clean + (1 - alpha) * attacked


def _any_mode(weigh: Weigh, loss: Loss = F.cross_entropy) -> list[Callable[..., Tensor]]:
    modes = [(False, True), (True, True), (False, False)]
    return [_loss(weigh, loss, mode) for mode in modes]


TRAINING = Exercise(
    "my_training_loss(model, attack, x, y, alpha)",
    "attack `x` with the network in evaluation mode, then return, in training mode, `alpha` times "
    "the clean loss plus `1 - alpha` times the attacked one.",
    lambda: [_batch(alpha) for alpha in (0.3, 0.75)],
    [_loss(_right)],
    {
        "The weights are swapped: `alpha` is the share of the *clean* loss.": _any_mode(
            lambda clean, attacked, alpha: (1 - alpha) * clean + alpha * attacked
        ),
        "Only the clean pictures are learned: the attacked ones do not enter the loss.": [
            *_any_mode(lambda clean, attacked, alpha: clean),
            *_any_mode(lambda clean, attacked, alpha: alpha * clean),
        ],
        "Only the attacked pictures are learned: the clean ones do not enter the loss.": [
            *_any_mode(lambda clean, attacked, alpha: attacked),
            *_any_mode(lambda clean, attacked, alpha: (1 - alpha) * attacked),
        ],
        "The two losses are added without their weights, `alpha` and `1 - alpha`.": _any_mode(
            lambda clean, attacked, alpha: clean + attacked
        ),
        "The two losses have equal weights whatever `alpha` is.": _any_mode(
            lambda clean, attacked, alpha: (clean + attacked) / 2
        ),
        "The attack meets the network in *training* mode, where dropout hides half of the pixels "
        "from its gradient: `model.eval()` before it, `model.train()` after it.": [
            _loss(_right, modes=(True, True)),
        ],
        "The loss, too, is taken in evaluation mode: `model.train()` again after the attack.": [
            _loss(_right, modes=(False, False)),
        ],
        "The attack meets the network in training mode and the loss in evaluation mode: it is the "
        "other way round.": [_loss(_right, modes=(True, False))],
        "This is the *sum* over the pictures: with the mean, the learning rate means the same for "
        "every batch size.": _any_mode(_right, lambda z, y: F.cross_entropy(z, y, reduction="sum")),
        "There is a softmax too many: `cross_entropy` takes logits and applies its own.": _any_mode(
            _right, lambda z, y: F.cross_entropy(z.softmax(1), y)
        ),
        "This is a bare number: an optimiser needs the tensor, with its graph.": [
            lambda *arguments: _loss(_right)(*arguments).item(),
        ],
    },
    "With `alpha` = 0 this is the adversarial training of Madry et al., with `alpha` = 1/2 the "
    "report's; a batch costs as many passes there and back as the attack has steps, and two more.",
)


def check_training_loss(student: Any) -> None:
    """Say what is wrong with a student's loss of adversarial training, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_training_loss(model, attack, x, y, alpha)`` returns the loss of one batch.
    """
    TRAINING.check(student)


# --- The collapse ---------------------------------------------------------------------------------

Percentages = Sequence[float]
DROP = 20
"""Points of accuracy under the PGD probe, from one epoch to the next, that make a collapse."""


def _epochs(fgsm: Percentages, pgd: Percentages, drop: float = DROP) -> list[int]:
    """List the epochs, counted from 1, in which PGD's accuracy falls and FGSM's does not."""
    return [
        epoch + 1
        for epoch in range(1, len(pgd))
        if pgd[epoch - 1] - pgd[epoch] > drop and fgsm[epoch] >= fgsm[epoch - 1]
    ]


def _first(epochs: Sequence[int]) -> int | None:
    return epochs[0] if epochs else None


def _collapse(fgsm: Percentages, pgd: Percentages) -> int | None:
    return _first(_epochs(fgsm, pgd))


def _instead_of_none(value: Callable[[Percentages], int]) -> Callable[..., int]:
    return lambda fgsm, pgd: _collapse(fgsm, pgd) or value(pgd)


def _where(fallen: Callable[[Percentages, Percentages, int], bool]) -> Callable[..., int | None]:
    """Make the function that goes by another sign of collapse, looked up by epoch from 0."""
    return lambda fgsm, pgd: _first(
        [epoch + 1 for epoch in range(1, len(pgd)) if fallen(fgsm, pgd, epoch)]
    )


def _biggest(fgsm: Percentages, pgd: Percentages) -> int | None:
    falls = [pgd[epoch - 1] - pgd[epoch] for epoch in range(1, len(pgd))]
    return falls.index(max(falls)) + 2 if max(falls) > DROP else None


COLLAPSE = Exercise(
    "my_collapse_epoch(fgsm_acc, pgd_acc)",
    "return the first epoch, counted from 1, in which the accuracy under PGD is more than "
    f"{DROP} points below the epoch before while the accuracy under FGSM has not fallen; None if "
    "there is none.",
    lambda: [
        Case(([31.0, 36.0, 39.0, 85.0, 97.0], [25.0, 28.0, 30.0, 2.0, 0.0])),
        Case(([35.0, 62.0, 71.0, 78.0, 85.0, 90.0], [60.0, 38.0, 45.0, 3.0, 30.0, 4.0])),
        Case(([30.0, 38.0, 11.0, 34.0, 40.0, 88.0], [25.0, 31.0, 5.0, 27.0, 33.0, 1.0])),
        Case(([45.0, 50.0, 55.0, 60.0], [42.0, 33.0, 24.0, 15.0])),
        Case(([33.0, 37.0, 40.0], [26.0, 25.0, 31.0])),
        Case(
            ([40.0, 50.0, 60.0], [40.0, 20.0, 19.0]),
            f"A fall by exactly {DROP} points is not *more* than {DROP}.",
        ),
        Case(([40.0], [30.0]), "After a single epoch there is nothing to compare it with: None."),
    ],
    [_collapse],
    {
        "This is one too small: epochs are counted from 1, and the one with the fall is meant, not "
        "the last good one before it.": [
            lambda fgsm, pgd: (_collapse(fgsm, pgd) or 1) - 1 or None,
            lambda fgsm, pgd: (_collapse(fgsm, pgd) or 0) - 1,
        ],
        "Where nothing collapses the answer is None, no number: 0 and -1 are good indices, and "
        "somebody would use them.": [
            _instead_of_none(lambda pgd: 0),
            _instead_of_none(lambda pgd: -1),
            _instead_of_none(len),
        ],
        "This goes by the accuracy under FGSM, which *rises* in a collapse: the network has "
        "learned to fool the very attack it is trained with, and only the PGD probe shows it.": [
            _where(lambda fgsm, pgd, t: fgsm[t - 1] - fgsm[t] > DROP),
            _where(lambda fgsm, pgd, t: fgsm[t] - fgsm[t - 1] > DROP),
        ],
        "This is the *last* such epoch: the weights to go back to are those before the first.": [
            lambda fgsm, pgd: _first(_epochs(fgsm, pgd)[::-1]),
        ],
        "This is the epoch of the *biggest* fall; asked for is the first one.": [_biggest],
        "This also reports a fall that FGSM's accuracy shares: there the whole training has "
        "stumbled. Overfitting to the attack is PGD falling while FGSM does not.": [
            _where(lambda fgsm, pgd, t: pgd[t - 1] - pgd[t] > DROP),
        ],
        f"This finds an accuracy *below* {DROP} %; asked for is a fall by more than {DROP} points "
        "from one epoch to the next.": [
            _where(lambda fgsm, pgd, t: pgd[t] < DROP),
            _where(lambda fgsm, pgd, t: pgd[t] < DROP and fgsm[t] >= fgsm[t - 1]),
        ],
        "This compares with the *best* epoch so far; asked for is the fall from one epoch to the "
        "next: a slow decline is overfitting too, but no collapse.": [
            _where(lambda fgsm, pgd, t: max(pgd[:t]) - pgd[t] > DROP),
            _where(
                lambda fgsm, pgd, t: max(pgd[:t]) - pgd[t] > DROP and fgsm[t] >= fgsm[t - 1],
            ),
        ],
        f"This finds a fall by {DROP} *percent* of what it was; points are differences of "
        "percentages.": [
            _where(
                lambda fgsm, pgd, t: (
                    pgd[t] < (1 - DROP / 100) * pgd[t - 1] and fgsm[t] >= fgsm[t - 1]
                )
            ),
            _where(lambda fgsm, pgd, t: pgd[t] < (1 - DROP / 100) * pgd[t - 1]),
        ],
        f"The accuracies are percentages: {DROP} points are {DROP}, not {DROP / 100}.": [
            lambda fgsm, pgd: _first(_epochs(fgsm, pgd, DROP / 100)),
            _where(lambda fgsm, pgd, t: pgd[t - 1] - pgd[t] > DROP / 100),
        ],
        f"This finds the first *rise* by more than {DROP} points: the order of the difference is "
        "turned round.": [_where(lambda fgsm, pgd, t: pgd[t] - pgd[t - 1] > DROP)],
    },
    "A training that watches for it keeps the weights of the epoch before and stops; without the "
    "probe the curve of its own attack would look better than ever.",
)


def check_collapse_epoch(student: Any) -> None:
    """Say what is wrong with a student's detector of a collapse, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_collapse_epoch(fgsm_acc, pgd_acc)`` returns an epoch, counted from 1, or None.
    """
    COLLAPSE.check(student)
