"""Exercises of notebook 03: the loss of adversarial training, and the epoch of its collapse."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.course.exercises.examples import gradient, small_batch
from rvlib.course.exercises.exercise import Exercise, Solution

# --- The loss -------------------------------------------------------------------------------------


class HalfDropped(nn.Module):
    """Dropout without randomness: in training mode the same half of the pixels is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop the second column in training mode."""
        return x * torch.tensor([2.0, 0.0]) if self.training else x


def _attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.2 * gradient(model, x, y).sign()).clamp(0, 1)


def _batch() -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
    model, x, y = small_batch()
    return nn.Sequential(HalfDropped(), model).train(), _attack, x, y


Weigh = Callable[[Tensor, Tensor, float], Tensor]


def _weighted(clean: Tensor, attacked: Tensor, alpha: float) -> Tensor:
    return alpha * clean + (1 - alpha) * attacked


def _loss(
    weigh: Weigh = _weighted,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    attack_in_training: bool = False,
    loss_in_training: bool = True,
) -> Solution:
    """Combine the losses by other weights, in other modes of the network."""

    def solution(model: nn.Module, attack: Solution, x: Tensor, y: Tensor, alpha: float) -> Tensor:
        x_adv = attack(model.train(attack_in_training), x, y)
        model.train(loss_in_training)
        value = weigh(loss(model(x), y), loss(model(x_adv), y), alpha)
        model.train()
        return value

    return solution


def _any_mode(
    weigh: Weigh = _weighted, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> list[Solution]:
    return [_loss(weigh, loss, *modes) for modes in ((False, True), (True, True), (False, False))]


check_training_loss = Exercise(
    signature="my_training_loss(model, attack, x, y, alpha)",
    task="`alpha` times the loss on `x` plus `1 - alpha` times the loss on the attacked images: "
    "attack the network in evaluation mode, and take both losses in training mode.",
    cases=[(*_batch(), alpha) for alpha in (0.3, 0.75)],
    answers=[_loss()],
    mistakes=[
        "The weights are swapped: `alpha` is the weight of the *clean* loss.",
        *_any_mode(lambda clean, attacked, alpha: (1 - alpha) * clean + alpha * attacked),
        "Only the clean images enter the loss: the attacked ones are missing.",
        *_any_mode(lambda clean, attacked, alpha: clean)[1:],
        *_any_mode(lambda clean, attacked, alpha: alpha * clean)[1:],
        "Only the attacked images enter the loss: the clean ones are missing.",
        *_any_mode(lambda clean, attacked, alpha: attacked),
        *_any_mode(lambda clean, attacked, alpha: (1 - alpha) * attacked),
        "The two losses are added without their weights, `alpha` and `1 - alpha`.",
        *_any_mode(lambda clean, attacked, alpha: clean + attacked),
        "The two losses have equal weights, whatever `alpha` is.",
        *_any_mode(lambda clean, attacked, alpha: (clean + attacked) / 2),
        "The attack runs in *training* mode, where dropout hides pixels: `model.eval()` first.",
        _loss(attack_in_training=True),
        "The loss is taken in *evaluation* mode: call `model.train()` after the attack.",
        _loss(loss_in_training=False),
        "The modes are swapped: evaluation mode for the attack, training mode for the loss.",
        _loss(attack_in_training=True, loss_in_training=False),
        "This is the *sum* over the batch: take the mean, or steps grow with the batch size.",
        *_any_mode(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")),
        "There is one softmax too many: `cross_entropy` expects logits.",
        *_any_mode(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)),
        "This is a plain number: an optimiser needs the tensor with its graph.",
        lambda *arguments: _loss()(*arguments).item(),
    ],
    fact="With `alpha` = 0 this is the adversarial training of Madry et al., with `alpha` = 1/2 "
    "that of the report. It costs as many forward and backward passes as the attack has steps, "
    "and two more.",
)

# --- The collapse ---------------------------------------------------------------------------------

DROP = 20
"""Points of accuracy under PGD whose loss from one epoch to the next is a collapse."""

Sign = Callable[[Sequence[float], Sequence[float], int], bool]
"""Whether the accuracies under FGSM and PGD show a collapse at this epoch, counted from 0."""


def _epochs(sign: Sign) -> Callable[..., list[int]]:
    return lambda f, p: [t + 1 for t in range(1, len(p)) if sign(f, p, t)]


def _first(sign: Sign) -> Solution:
    return lambda f, p: next(iter(_epochs(sign)(f, p)), None)


def _alone(sign: Sign) -> Sign:
    """Require that the accuracy under FGSM does not fall."""
    return lambda f, p, t: sign(f, p, t) and f[t] >= f[t - 1]


def _falls(f: Sequence[float], p: Sequence[float], t: int) -> bool:
    return p[t - 1] - p[t] > DROP


def _largest(f: Sequence[float], p: Sequence[float]) -> int | None:
    falls = [before - after for before, after in pairwise(p)]
    return falls.index(max(falls)) + 2 if max(falls) > DROP else None


_collapse = _first(_alone(_falls))

check_collapse_epoch = Exercise(
    signature="my_collapse_epoch(fgsm_acc, pgd_acc)",
    task="the first epoch, counted from 1, in which the accuracy under PGD is more than "
    f"{DROP} points below that of the epoch before while the accuracy under FGSM has not fallen; "
    "None if there is none.",
    cases=[
        ([31.0, 36.0, 39.0, 85.0, 97.0], [25.0, 28.0, 30.0, 2.0, 0.0]),
        ([35.0, 62.0, 71.0, 78.0, 85.0, 90.0], [60.0, 38.0, 45.0, 3.0, 30.0, 4.0]),
        ([30.0, 38.0, 11.0, 34.0, 40.0, 88.0], [25.0, 31.0, 5.0, 27.0, 33.0, 1.0]),
        ([45.0, 50.0, 55.0, 60.0], [42.0, 33.0, 24.0, 15.0]),
        ([33.0, 37.0, 40.0], [26.0, 25.0, 31.0]),
    ],
    answers=[_collapse],
    mistakes=[
        "This is one too small: count epochs from 1, and return the epoch of the fall.",
        lambda f, p: (_collapse(f, p) or 1) - 1 or None,
        lambda f, p: (_collapse(f, p) or 0) - 1,
        "Without a collapse return None: 0 and -1 are valid indices and would be used as such.",
        lambda f, p: _collapse(f, p) or 0,
        lambda f, p: _collapse(f, p) or -1,
        lambda f, p: _collapse(f, p) or len(p),
        "This looks at the accuracy under FGSM, which *rises* in a collapse: only PGD reveals it.",
        _first(lambda f, p, t: f[t - 1] - f[t] > DROP),
        _first(lambda f, p, t: f[t] - f[t - 1] > DROP),
        "This is the *last* such epoch: return the first.",
        lambda f, p: max(_epochs(_alone(_falls))(f, p), default=None),
        "This is the epoch of the *largest* fall: return the first one.",
        _largest,
        "This also counts a fall that FGSM's accuracy shares: in a collapse only PGD's falls.",
        _first(_falls),
        f"This finds an accuracy *below* {DROP} %, not a fall by more than {DROP} points.",
        _first(lambda f, p, t: p[t] < DROP),
        _first(_alone(lambda f, p, t: p[t] < DROP)),
        "This compares with the *best* epoch so far: compare with the epoch before.",
        _first(lambda f, p, t: max(p[:t]) - p[t] > DROP),
        _first(_alone(lambda f, p, t: max(p[:t]) - p[t] > DROP)),
        f"This finds a fall by {DROP} *percent* of the value before: subtract percentages instead.",
        _first(lambda f, p, t: p[t] < (1 - DROP / 100) * p[t - 1]),
        _first(_alone(lambda f, p, t: p[t] < (1 - DROP / 100) * p[t - 1])),
        f"The accuracies are in percent: {DROP} points are {DROP}, not {DROP / 100}.",
        _first(lambda f, p, t: p[t - 1] - p[t] > DROP / 100),
        _first(_alone(lambda f, p, t: p[t - 1] - p[t] > DROP / 100)),
        f"This finds a *rise* by more than {DROP} points: the difference has the wrong sign.",
        _first(lambda f, p, t: p[t] - p[t - 1] > DROP),
    ],
    special={
        f"A fall by exactly {DROP} points is not *more* than {DROP}.": (
            [40.0, 50.0, 60.0],
            [40.0, 20.0, 19.0],
        ),
        "A single epoch has none before it to compare with: return None.": ([40.0], [30.0]),
    },
    fact="Training that watches for a collapse stops and keeps the weights of the epoch before. "
    "Without PGD, the accuracy under its own attack would look better than ever.",
)
