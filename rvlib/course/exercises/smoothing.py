"""Notebook 04's exercises: the vote that may abstain, and the copies that vote."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from rvlib.course.exercises.exercise import Case, Exercise
from rvlib.noise import stream
from rvlib.recipes import ALPHA
from rvlib.smoothing import ABSTAIN, vote
from rvlib.smoothing.certificate import smallest_n_to_predict
from rvlib.types import Images

# --- The vote -------------------------------------------------------------------------------------

Votes = NDArray[np.int64]


def _vote(counts: Votes, alpha: float) -> int:
    return int(vote(counts[None], alpha)[0])


def _called(
    p_value: Callable[[int, int, int], float], abstain: int | None = ABSTAIN
) -> Callable[[Votes, float], int | None]:
    """Make the vote with another p-value: of the leader, the runner-up and all votes."""

    def answer(counts: Votes, alpha: float) -> int | None:
        runner_up, leader = (int(n) for n in np.sort(counts)[-2:])
        called = p_value(leader, runner_up, int(counts.sum())) <= alpha
        return int(counts.argmax()) if called else abstain

    return answer


def _tail(k: int, n: int) -> float:
    """Chance of k or more out of n at one half."""
    return float(binom.sf(k - 1, n, 0.5))


def _two_sided(leader: int, runner_up: int, n: int) -> float:
    return 2 * _tail(leader, leader + runner_up)


def _upside_down(counts: Votes, alpha: float) -> int:
    return ABSTAIN if _vote(counts, alpha) != ABSTAIN else int(counts.argmax())


VOTE = Exercise(
    "my_vote(counts, alpha)",
    "return the class with most votes, or -1 where the two-sided binomial test of the leader "
    "against the runner-up has a p-value above `alpha`.",
    lambda: [
        Case((np.array(counts), alpha))
        for counts, alpha in (
            ([10, 85, 5], 0.001),
            ([34, 36, 30], 0.001),
            ([12, 43, 45], 0.05),
            ([70, 40, 390], 0.001),
            ([45, 10, 45], 0.001),
            ([40, 20, 40, 100], 0.05),
            ([48, 22, 30], 0.05),
            ([46, 26, 28], 0.05),
            ([59, 41], 0.05),
            ([16, 9, 4], 0.05),
            ([61, 39], 0.05),
        )
    ],
    [_vote],
    {
        "This always answers, however close the vote: where the test cannot tell the leader from "
        "the runner-up the answer is -1.": [_called(lambda leader, runner_up, n: 0)],
        "This always abstains.": [lambda counts, alpha: ABSTAIN],
        "Abstaining is written as -1, a class that no label ever equals: it then counts as an "
        "error by itself.": [_called(_two_sided, None), _called(_two_sided, 0)],
        "This is the number of votes: the answer is the class, the *place* of the largest count.": [
            lambda counts, alpha: max(counts),
            lambda counts, alpha: max(counts) if _vote(counts, alpha) != ABSTAIN else ABSTAIN,
        ],
        "The decision is upside down: a *small* p-value means that the lead is no accident, and "
        "that the vote can be called.": [_upside_down],
        "This compares the leader with *all* votes, as if it needed a majority: the question is "
        "only whether it beats the runner-up, so test n_A out of n_A + n_B.": [
            _called(lambda leader, runner_up, n: 2 * _tail(leader, n)),
            _called(lambda leader, runner_up, n: _tail(leader, n)),
        ],
        "This answers once more than half of the votes agree: that is no test, for a lead of one "
        "vote is often an accident.": [
            _called(lambda leader, runner_up, n: float(2 * leader <= n)),
        ],
        "This is the *one-sided* p-value. Which class leads was seen in these same votes, and each "
        "of the two could have led by accident: twice the tail.": [
            _called(lambda leader, runner_up, n: _tail(leader, leader + runner_up)),
        ],
        "The tail begins one vote too late: the p-value is the chance of n_A *or more*, "
        "`binom.sf(n_A - 1, ...)`.": [
            _called(lambda leader, runner_up, n: 2 * _tail(leader + 1, leader + runner_up)),
        ],
        "`alpha` is halved although the p-value is two-sided already: halve the one or double the "
        "other, not both.": [_called(lambda *votes: 2 * _two_sided(*votes))],
    },
    f"With `alpha` = {ALPHA} at least {smallest_n_to_predict(ALPHA)} votes are needed before "
    "anything can be answered, even if all of them agree.",
)


def check_vote(student: Any) -> None:
    """Say what is wrong with a student's vote, or that it is right.

    Parameters
    ----------
    student : callable
        ``my_vote(counts, alpha)`` returns a class, or -1.
    """
    VOTE.check(student)


# --- The copies -----------------------------------------------------------------------------------

SIGMA, COPIES = 0.5, 250


def _picture() -> Images:
    return torch.linspace(0.2, 0.8, 3 * 6 * 6).view(3, 6, 6)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _copies(x: Images, sigma: float, n: int, generator: torch.Generator) -> Images:
    return x + sigma * _normal((n, *x.shape), generator)


def _spread(noise: Tensor, dim: int) -> float:
    return float(noise.std(dim).mean())


def _look(results: list[Any]) -> Mapping[str, float]:
    """Describe three draws, of which the first two had generators with the same seed."""
    one, again, other = results
    noise = (one - _picture()).detach()
    return {
        "The mean of the noise:": float(noise.mean()),
        "The standard deviation of the noise:": float(noise.std()),
        "The standard deviation between the copies:": _spread(noise, 0),
        "The standard deviation between the channels of a pixel:": _spread(noise, 1),
        "The standard deviation between the pixels of a copy:": _spread(noise.flatten(1), 1),
        "The share of values outside [0, 1]:": float(((one < 0) | (one > 1)).double().mean()),
        "The share of noise beyond 2 sigma:": float((noise.abs() > 2 * SIGMA).double().mean()),
        "Is a draw with the same seed another one (1: yes)?": float(not torch.equal(one, again)),
        "Is a draw with another seed the same one (1: yes)?": float(torch.equal(one, other)),
    }


def _scaled(scale: Callable[[float], float]) -> list[Callable[..., Images]]:
    """Make the copies with another standard deviation, unclipped and clipped."""
    return [
        lambda x, sigma, n, generator: _copies(x, scale(sigma), n, generator),
        lambda x, sigma, n, generator: _copies(x, scale(sigma), n, generator).clamp(0, 1),
    ]


def _one_noise(shape: Callable[[Images, int], tuple[int, ...]]) -> list[Callable[..., Images]]:
    """Make the copies whose noise has a smaller shape and is repeated."""

    def copies(x: Images, sigma: float, n: int, generator: torch.Generator) -> Images:
        return x + (sigma * _normal(shape(x, n), generator)).expand(n, *x.shape)

    return [copies, lambda *arguments: copies(*arguments).clamp(0, 1)]


def _global(x: Images, sigma: float, n: int, generator: torch.Generator) -> Images:
    return _copies(x, sigma, n, torch.default_generator)


NOISY_COPIES = Exercise(
    "my_noisy_copies(x, sigma, n, generator)",
    "return `n` copies of the picture `x`, shape `(n, *x.shape)`, each with its own Gaussian noise "
    "of standard deviation `sigma` from `generator`.",
    lambda: [
        Case((_picture(), SIGMA, COPIES, stream("cpu", "exercises", "noise", seed)))
        for seed in (0, 0, 1)
    ],
    [_copies],
    {
        "These are copies without noise.": [
            lambda x, sigma, n, generator: x.expand(n, *x.shape),
        ],
        "This is only the noise: add it to `x`.": [
            lambda x, sigma, n, generator: sigma * _normal((n, *x.shape), generator),
        ],
        "All copies have the *same* noise, so all votes are one vote: draw noise of shape "
        "`(n, *x.shape)`.": _one_noise(lambda x, n: tuple(x.shape)),
        "Each copy has one random number, the same for all its pixels: it grows brighter or darker "
        "as a whole. Draw noise of shape `(n, *x.shape)`.": _one_noise(lambda x, n: (n, 1, 1, 1)),
        "The three channels of a pixel have the same noise, grey noise: draw noise of shape "
        "`(n, *x.shape)`.": _one_noise(lambda x, n: (n, 1, *x.shape[1:])),
        "The noise has standard deviation sigma²: `sigma` *is* the standard deviation, and the "
        "variance its square.": _scaled(lambda sigma: sigma**2),
        "The noise has *variance* `sigma`: the standard deviation is meant, without a root.": (
            _scaled(lambda sigma: sigma**0.5)
        ),
        "The noise has standard deviation 1 whatever `sigma` is: multiply by it.": (
            _scaled(lambda sigma: 1.0)
        ),
        "The copies are clipped to [0, 1], and clipped noise is not Gaussian any more: the promise "
        "of the next notebook is about the unclipped kind.": [
            lambda *arguments: _copies(*arguments).clamp(0, 1),
            lambda *arguments: _global(*arguments).clamp(0, 1),
        ],
        "This noise is *uniform* (`torch.rand`): `torch.randn` is the Gaussian one.": [
            lambda x, sigma, n, g: x + sigma * torch.rand(n, *x.shape, generator=g),
            lambda x, sigma, n, g: x + sigma * (2 * torch.rand(n, *x.shape, generator=g) - 1),
            lambda x, sigma, n, g: x + sigma * (torch.rand(n, *x.shape, generator=g) - 0.5),
        ],
        "The noise does not come from `generator` but from PyTorch's global random state, so "
        "nobody can draw it again: `torch.randn(..., generator=generator)`.": [_global],
        "The noise is the same whatever the `generator`: a seed is fixed inside the function, so "
        "a second sample would tell nothing new.": [
            lambda x, sigma, n, generator: _copies(x, sigma, n, stream("cpu", "fixed")),
        ],
    },
    "Nearly every copy leaves [0, 1] somewhere, and that is as it should be: the network was "
    "trained on such copies, and the certificate needs noise that is Gaussian to the end.",
    _look,
    # Sampling: standard errors of these figures are at most a few thousandths.
    tolerance=0.02,
)


def check_noisy_copies(student: Any) -> None:
    """Say what is wrong with a student's noisy copies, or that they are right.

    Parameters
    ----------
    student : callable
        ``my_noisy_copies(x, sigma, n, generator)`` returns the copies of one picture.
    """
    NOISY_COPIES.check(student)
