"""Exercises of notebook 03: the loss of adversarial training, and the epoch of its collapse."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.course.calls import Solution
from rvlib.course.examples import training_step
from rvlib.course.exercises.exercise import Exercise, Part
from rvlib.course.exercises.solutions import my_collapse_epoch, my_training_loss

# --- The loss -------------------------------------------------------------------------------------

Weigh = Callable[[Tensor, Tensor, float], Tensor]


def _weighted(clean: Tensor, attacked: Tensor, alpha: float) -> Tensor:
    return alpha * clean + (1 - alpha) * attacked


def _loss(
    weigh: Weigh = _weighted,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    attack_in_training: bool = False,
    loss_in_training: bool = True,
    clean_in_training: bool | None = None,
) -> Solution:
    """Combine the losses by other weights, in other modes of the network."""

    def solution(model: nn.Module, attack: Solution, x: Tensor, y: Tensor, alpha: float) -> Tensor:
        x_adv = attack(model.train(attack_in_training), x, y)
        model.train(loss_in_training if clean_in_training is None else clean_in_training)
        clean = loss(model(x), y)
        value = weigh(clean, loss(model.train(loss_in_training)(x_adv), y), alpha)
        model.train()
        return value

    return solution


def _any_mode(
    weigh: Weigh = _weighted, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> list[Solution]:
    return [_loss(weigh, loss, *modes) for modes in ((False, True), (True, True), (False, False))]


SUM, EACH = (partial(F.cross_entropy, reduction=reduction) for reduction in ("sum", "none"))


def _between(result: Tensor, *case: Any) -> str:
    """Name a loss that is no mean of the two, which lies between them."""
    model, attack, x, y, _ = case
    clean, attacked = (my_training_loss(model, attack, x, y, alpha).item() for alpha in (1, 0))
    if min(clean, attacked) - 1e-5 <= result.item() <= max(clean, attacked) + 1e-5:
        return ""
    return (
        f"your loss is {result.item():.4g}, but that of `x` is {clean:.4g} and that of the "
        f"attacked images {attacked:.4g}: a mean lies between them"
    )


check_training_loss = Exercise(
    signature="my_training_loss(model, attack, x, y, alpha)",
    task="`alpha` times the loss on `x` plus `1 - alpha` times the loss on the attacked images: "
    "attack the network in evaluation mode, and take both losses in training mode.",
    cases=[(*training_step(), alpha) for alpha in (0.3, 0.75)],
    mistakes=[
        "The weights are swapped: `alpha` is the weight of the *clean* loss.",
        Part("The weights are swapped.", weigh=lambda c, a, alpha: (1 - alpha) * c + alpha * a),
        "Only the clean images enter the loss: the attacked ones are missing.",
        *_any_mode(lambda clean, attacked, alpha: clean)[1:],
        *_any_mode(lambda clean, attacked, alpha: alpha * clean)[1:],
        "Only the attacked images enter the loss: the clean ones are missing.",
        *_any_mode(lambda clean, attacked, alpha: attacked),
        *_any_mode(lambda clean, attacked, alpha: (1 - alpha) * attacked),
        "The two losses are added without their weights, `alpha` and `1 - alpha`.",
        Part("The two losses are added without their weights.", weigh=lambda c, a, alpha: c + a),
        "The two losses have equal weights, whatever `alpha` is.",
        *_any_mode(lambda clean, attacked, alpha: (clean + attacked) / 2),
        "The attack runs in *training* mode, where dropout hides pixels: `model.eval()` first.",
        _loss(attack_in_training=True),
        "The loss is taken in *evaluation* mode: call `model.train()` after the attack.",
        _loss(loss_in_training=False),
        "The loss on `x` is taken in *evaluation* mode: call `model.train()` before it, too.",
        _loss(clean_in_training=False),
        "Only the loss on `x` is taken in training mode: call `model.train()` after the attack.",
        _loss(clean_in_training=True, loss_in_training=False),
        "Both losses have the weight `alpha`: that of the attacked images is `1 - alpha`.",
        *_any_mode(lambda clean, attacked, alpha: alpha * (clean + attacked)),
        "There is a loss for each image: take their mean, without `reduction='none'`.",
        *_any_mode(loss=EACH),
        "The modes are swapped: evaluation mode for the attack, training mode for the loss.",
        _loss(attack_in_training=True, loss_in_training=False),
        "This is the *sum* over the batch: take the mean, or steps grow with the batch size.",
        Part("This is the *sum* over the batch: take the mean.", loss=SUM),
        "There is one softmax too many: `cross_entropy` expects logits.",
        Part("There is one softmax too many.", loss=lambda z, y: F.cross_entropy(z.softmax(1), y)),
        "This is a plain number: an optimiser needs the tensor with its graph.",
        lambda *case: my_training_loss(*case).item(),
    ],
    make=_any_mode,
    laws=[_between],
    more=lambda rng: [
        (*training_step(int(rng.integers(2**31))), alpha) for alpha in rng.uniform(0, 1, 4).tolist()
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


def _either(sign: Sign) -> list[Solution]:
    return [_first(sign), _first(_alone(sign))]


def _falls(f: Sequence[float], p: Sequence[float], t: int) -> bool:
    return p[t - 1] - p[t] > DROP


def _largest(f: Sequence[float], p: Sequence[float]) -> int | None:
    falls = [before - after for before, after in pairwise(p)]
    return falls.index(max(falls)) + 2 if max(falls) > DROP else None


def _is_epoch(result: object, fgsm_acc: Sequence[float], pgd_acc: Sequence[float]) -> str:
    epochs = len(pgd_acc)
    if isinstance(result, str):
        return "yours is a text: return a number, or None without quotes"
    right = result in (None, *range(1, epochs + 1))
    return "" if right else f"yours is {result}, no epoch from 1 to {epochs}"


check_collapse_epoch = Exercise(
    signature="my_collapse_epoch(fgsm_acc, pgd_acc)",
    task="the first epoch, counted from 1, in which the accuracy under PGD is more than "
    f"{DROP} points below that of the epoch before while the accuracy under FGSM has not fallen; "
    "None if there is none.",
    cases=[
        ([31.0, 36.0, 39.0, 85.0, 97.0], [25.0, 28.0, 30.0, 2.0, 0.0]),
        ([35.0, 62.0, 71.0, 78.0, 85.0, 90.0], [60.0, 38.0, 45.0, 3.0, 30.0, 4.0]),
        ([30.0, 38.0, 11.0, 34.0, 40.0, 88.0], [26.0, 31.0, 5.0, 27.0, 33.0, 1.0]),
        ([45.0, 50.0, 55.0, 60.0], [42.0, 33.0, 24.0, 15.0]),
        ([33.0, 37.0, 40.0], [26.0, 25.0, 31.0]),
        ([60.0, 30.0, 31.0, 32.0, 33.0], [30.0, 31.0, 40.0, 5.0, 30.0]),
        ([33.0, 37.0, 40.0], [20.0, 26.0, 31.0]),
        ([50.0, 55.0, 60.0, 65.0], [20.0, 45.0, 40.0, 22.0]),
    ],
    mistakes=[
        "This is one too small: count epochs from 1, and return the epoch of the fall.",
        lambda f, p: (my_collapse_epoch(f, p) or 1) - 1 or None,
        lambda f, p: (my_collapse_epoch(f, p) or 0) - 1,
        "Without a collapse return None: 0 and -1 are valid indices and would be used as such.",
        lambda f, p: my_collapse_epoch(f, p) or 0,
        lambda f, p: my_collapse_epoch(f, p) or -1,
        lambda f, p: my_collapse_epoch(f, p) or len(p),
        "Without a collapse return None: `argmax` of a mask that is False everywhere is 0.",
        lambda f, p: my_collapse_epoch(f, p) or 1,
        lambda f, p: my_collapse_epoch(f, p) or 2,
        "This looks at the accuracy under FGSM, which *rises* in a collapse: only PGD reveals it.",
        _first(lambda f, p, t: f[t - 1] - f[t] > DROP),
        _first(lambda f, p, t: f[t] - f[t - 1] > DROP),
        "This is the *last* such epoch: return the first.",
        lambda f, p: max(_epochs(_alone(_falls))(f, p), default=None),
        "This is the epoch of the *largest* fall: return the first one.",
        _largest,
        "The two lists are swapped: PGD's accuracy has to fall, and FGSM's not.",
        _first(lambda f, p, t: f[t - 1] - f[t] > DROP and p[t] >= p[t - 1]),
        "This asks for a *high* accuracy under FGSM: it only must not have fallen.",
        _first(lambda f, p, t: _falls(f, p, t) and f[t] > 80),
        "This also counts a *rise* of PGD's accuracy: do not take the absolute difference.",
        _first(_alone(lambda f, p, t: abs(p[t] - p[t - 1]) > DROP)),
        "This also counts a fall that FGSM's accuracy shares: in a collapse only PGD's falls.",
        _first(_falls),
        f"This finds an accuracy *below* {DROP} %, not a fall by more than {DROP} points.",
        *_either(lambda f, p, t: p[t] < DROP),
        "This compares with the *first* epoch: compare with the epoch before.",
        *_either(lambda f, p, t: p[0] - p[t] > DROP),
        "This compares with the *best* epoch so far: compare with the epoch before.",
        *_either(lambda f, p, t: max(p[:t]) - p[t] > DROP),
        f"This finds a fall by {DROP} *percent* of the value before: subtract percentages instead.",
        *_either(lambda f, p, t: p[t] < (1 - DROP / 100) * p[t - 1]),
        f"The accuracies are in percent: {DROP} points are {DROP}, not {DROP / 100}.",
        *_either(lambda f, p, t: p[t - 1] - p[t] > DROP / 100),
        f"This finds a *rise* by more than {DROP} points: the difference has the wrong sign.",
        _first(lambda f, p, t: p[t] - p[t - 1] > DROP),
    ],
    laws=[_is_epoch],
    more=lambda rng: [
        (rng.uniform(0, 100, 8).tolist(), rng.uniform(0, 100, 8).tolist()) for _ in range(9)
    ],
    special={
        f"A fall by exactly {DROP} points is not *more* than {DROP}.": (
            [40.0, 50.0, 60.0],
            [40.0, 20.0, 19.0],
        ),
        "Where FGSM's accuracy stays the same it has not *fallen*.": ([30.0, 30.0], [40.0, 5.0]),
        "Epoch 1 has none before it to compare with: index -1 is that of the *last* epoch.": (
            [50.0, 45.0, 40.0],
            [10.0, 20.0, 40.0],
        ),
        "A single epoch has none before it to compare with: return None.": ([40.0], [30.0]),
    },
    fact="Training that watches for a collapse stops and keeps the weights of the epoch before. "
    "Without PGD, the accuracy under its own attack would look better than ever.",
)
