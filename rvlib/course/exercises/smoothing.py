"""Exercises of notebook 04: the noisy copies that vote, and the vote that may abstain."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from rvlib.course.calls import Solution
from rvlib.course.exercises.exercise import Exercise, Part
from rvlib.course.exercises.solutions import my_vote
from rvlib.experiments import ALPHA
from rvlib.smoothing.statistics import ABSTAIN, smallest_n_to_predict

# --- The copies -----------------------------------------------------------------------------------

SIGMA, COPIES = 0.4, 250
IMAGE = torch.linspace(0.2, 0.8, 3 * 6 * 6).view(3, 6, 6)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _describe(results: list[Any]) -> dict[str, float]:
    """Describe three draws, the first two of which have generators with the same seed."""
    first, again, other = (result.detach().double() for result in results)
    noise = first - IMAGE
    alike = torch.nn.functional.normalize(noise.flatten(1))
    alike = (alike @ alike.T).triu(1).abs()
    return {
        "The mean of the noise": float(noise.mean()),
        "The standard deviation of the noise": float(noise.std()),
        "The standard deviation of the noise across copies": float(noise.std(0).mean()),
        "The standard deviation of the noise across channels": float(noise.std(1).mean()),
        "The standard deviation of the noise within a copy": float(noise.flatten(1).std(1).mean()),
        "The standard deviation of the noise within a column": float(noise.std(2).mean()),
        "The standard deviation of the noise within a row": float(noise.std(3).mean()),
        "Whether two copies have the same noise, or its negative": float((alike > 0.9).any()),
        "The number of copies without noise": float((noise == 0).flatten(1).all(1).sum()),
        "The standard deviation of the noise where `x` is bright": float(noise[:, 2].std()),
        "The share of values outside [0, 1]": float(((first < 0) | (first > 1)).double().mean()),
        "The share of noise beyond 2 sigma": float((noise.abs() > 2 * SIGMA).double().mean()),
        "The number of equal draws with equal seeds": float(torch.equal(first, again)),
        "The number of equal draws with different seeds": float(torch.equal(first, other)),
    }


Noise = Callable[[tuple[int, ...], torch.Generator], Tensor]


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _copies(
    scale: Callable[[float], float] = lambda sigma: sigma,
    shape: Callable[[int, int, int, int], tuple[int, ...]] = lambda *shape: shape,
    noise: Noise = _normal,
) -> list[Solution]:
    """Add noise of another scale, shape (it is then repeated) or kind; unclipped and clipped."""

    def copies(x: Tensor, sigma: float, n: int, generator: torch.Generator) -> Tensor:
        drawn = scale(sigma) * noise(shape(n, *x.shape), generator)
        return x + drawn.expand(n, *x.shape)

    return [copies, lambda *arguments: copies(*arguments).clamp(0, 1)]


def _accumulated(x: Tensor, sigma: float, n: int, generator: torch.Generator) -> Tensor:
    steps = [sigma * torch.randn(x.shape, generator=generator) for _ in range(n)]
    return x + torch.stack(steps).cumsum(0)


def _uniform(low: float, width: float) -> Noise:
    return lambda shape, generator: low + width * torch.rand(shape, generator=generator)


def _more_copies(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    first, other = (int(seed) for seed in rng.choice(2**31, 2, replace=False))
    return [(IMAGE, SIGMA, COPIES, _seeded(seed)) for seed in (first, first, other)]


check_noisy_copies = Exercise(
    signature="my_noisy_copies(x, sigma, n, generator)",
    task="`n` copies of the image `x`, shape `(n, *x.shape)`, each with its own Gaussian noise of "
    "standard deviation `sigma` from `generator`.",
    cases=[(IMAGE, SIGMA, COPIES, _seeded(seed)) for seed in (0, 0, 1)],
    mistakes=[
        "These are copies without noise.",
        lambda x, sigma, n, generator: x.expand(n, *x.shape),
        "This is only the noise: add it to `x`.",
        lambda x, sigma, n, generator: sigma * _normal((n, *x.shape), generator),
        "All copies have the *same* noise and vote alike: draw noise of shape `(n, *x.shape)`.",
        Part("All copies have the *same* noise.", shape=lambda n, c, h, w: (c, h, w)),
        "Each copy has *one* random number for all pixels: draw noise of shape `(n, *x.shape)`.",
        Part("Each copy has *one* random number for all pixels.", shape=lambda n, *_: (n, 1, 1, 1)),
        "The three *channels* of a pixel share their noise: draw noise of shape `(n, *x.shape)`.",
        *_copies(shape=lambda n, c, h, w: (n, 1, h, w)),
        "The first copy has no noise: every copy that votes needs its own.",
        lambda x, *rest: torch.cat([x[None], _copies()[0](x, *rest)[1:]]),
        "The noise *multiplies* the image, and dark pixels get less of it: add it to `x`.",
        lambda x, *rest: x + x * (_copies()[0](x, *rest) - x),
        "The noise *accumulates* from copy to copy: add that of each copy to `x` itself.",
        _accumulated,
        "The noise has standard deviation sigma²: `sigma` itself is the standard deviation.",
        Part("The noise has standard deviation sigma².", scale=lambda sigma: sigma**2),
        "The noise has *variance* `sigma`: use `sigma` without a root, the standard deviation.",
        *_copies(lambda sigma: sigma**0.5),
        "The noise has standard deviation 1 whatever `sigma` is: multiply by `sigma`.",
        Part("The noise has standard deviation 1.", scale=lambda sigma: 1.0),
        "The copies are clipped to [0, 1]. A certificate would still hold, of a network that clips "
        "first; but this network was trained on unclipped copies, and votes worse on these.",
        _copies()[1],
        _copies(noise=lambda shape, generator: torch.randn(shape))[1],
        "This noise is *uniform* (`torch.rand`): use `torch.randn` for Gaussian noise.",
        Part("This noise is *uniform*.", noise=_uniform(0, 1)),
        _copies(noise=_uniform(-1, 2))[0],
        _copies(noise=_uniform(-0.5, 1))[0],
        "The noise is from the global random state: use `torch.randn(..., generator=generator)`.",
        _copies(noise=lambda shape, generator: torch.randn(shape))[0],
        "The noise is the same for every `generator`: do not fix a seed inside the function.",
        _copies(noise=lambda shape, generator: _normal(shape, _seeded(2)))[0],
    ],
    make=_copies,
    more=_more_copies,
    fact="Nearly every copy leaves [0, 1] somewhere, as it should: the network is trained on such "
    "copies.",
    describe=_describe,
    tolerance=0.02,  # the standard errors of these estimates are at most 0.005
)

# --- The vote -------------------------------------------------------------------------------------

Votes = NDArray[np.int64]


def _tail(k: int, n: int) -> float:
    """P(Bin(n, 1/2) ≥ k)."""
    return float(binom.sf(k - 1, n, 0.5))


def _vote(
    p_value: Callable[[int, int, int], float] = lambda a, b, n: 2 * _tail(a, a + b),
    abstain: int | None = ABSTAIN,
) -> Solution:
    """Vote with another p-value of the leader's, the runner-up's and all votes."""

    def answer(counts: Votes, alpha: float) -> int | None:
        second, first = np.sort(counts)[-2:]
        return int(counts.argmax()) if p_value(first, second, sum(counts)) <= alpha else abstain

    return answer


def _is_answer(result: Any, counts: Votes, alpha: float) -> str:
    classes = len(counts)
    right = result in range(-1, classes)
    return "" if right else f"yours is {result}, no class from 0 to {classes - 1} nor -1"


def _more_counts(rng: np.random.Generator) -> list[tuple[Votes, float]]:
    """Close votes between two of five classes."""
    shares = [0.38, 0.3, 0.16, 0.1, 0.06]
    return [(rng.multinomial(n, rng.permutation(shares)), 0.05) for n in (40, 80, 160, 320) * 3]


check_vote = Exercise(
    signature="my_vote(counts, alpha)",
    task="the class with most votes, or -1 if the two-sided binomial test of the leader against "
    "the runner-up has a p-value above `alpha`.",
    cases=[
        (np.array([10, 85, 5]), 0.001),
        (np.array([34, 36, 30]), 0.001),
        (np.array([12, 43, 45]), 0.05),
        (np.array([70, 40, 390]), 0.001),
        (np.array([45, 10, 45]), 0.001),
        (np.array([40, 20, 40, 100]), 0.05),
        (np.array([48, 22, 30]), 0.05),
        (np.array([46, 26, 28]), 0.05),
        (np.array([59, 41]), 0.05),
        (np.array([16, 9, 4]), 0.05),
        (np.array([61, 39]), 0.05),
        (np.array([5050, 4950]), 0.05),
        (np.array([52, 48]), 0.1),
        (np.array([0, 11, 0]), 0.001),  # where a normal approximation still abstains
    ],
    mistakes=[
        "This never abstains: return -1 if the test cannot tell the leader from the runner-up.",
        _vote(lambda a, b, n: 0),
        "This always abstains. Is p above 1? `binom.cdf` is the *lower* tail: use `binom.sf`. And "
        "n_A is the largest count, no index and not the smallest.",
        lambda counts, alpha: ABSTAIN,
        "To abstain return -1: it equals no label, and so counts as an error.",
        Part("To abstain return -1.", abstain=None),
        _vote(abstain=0),
        "This is the *number* of votes: return the class, the index of the largest count.",
        lambda counts, alpha: max(counts),
        lambda counts, alpha: ABSTAIN if my_vote(counts, alpha) == ABSTAIN else max(counts),
        "This is always the *last* class: where the votes are sorted, `argmax` is their end. Take "
        "it of `counts` as they were.",
        lambda counts, alpha: ABSTAIN if my_vote(counts, alpha) == ABSTAIN else len(counts) - 1,
        "The decision is reversed: a *small* p-value means that the lead is no accident.",
        lambda counts, alpha: ABSTAIN if my_vote(counts, alpha) >= 0 else int(counts.argmax()),
        "This tests the leader against *all* votes: test n_A out of n_A + n_B only.",
        Part("This tests the leader against *all* votes.", p_value=lambda a, b, n: 2 * _tail(a, n)),
        _vote(lambda a, b, n: _tail(a, n)),
        "This answers if more than *half* of the votes agree: a lead of one vote is often luck.",
        _vote(lambda a, b, n: float(2 * a <= n)),
        "This p-value is *one-sided*, but either class could have led by chance: double it.",
        Part("This p-value is *one-sided*.", p_value=lambda a, b, n: _tail(a, a + b)),
        "`binom.pmf` is the probability of *exactly* n_A votes: a p-value adds those of all larger "
        "counts, `binom.sf(n_A - 1, ...)`.",
        _vote(lambda a, b, n: 2 * binom.pmf(a, a + b, 0.5)),
        _vote(lambda a, b, n: binom.pmf(a, a + b, 0.5)),
        "The tail starts one vote too late: P(X ≥ n_A) is `binom.sf(n_A - 1, ...)`. A normal "
        "approximation errs in the same way: use the binomial tail.",
        _vote(lambda a, b, n: 2 * _tail(a + 1, a + b)),
        "`alpha` is halved although the p-value is already two-sided: do only one of the two.",
        _vote(lambda a, b, n: 4 * _tail(a, a + b)),
    ],
    make=lambda **parts: [_vote(**parts)],
    laws=[_is_answer],
    more=_more_counts,
    special={"A p-value that equals `alpha` is not above it: answer.": (np.array([0, 2, 0]), 0.5)},
    fact=f"With `alpha` = {ALPHA}, fewer than {smallest_n_to_predict(ALPHA)} votes always lead to "
    "an abstention, even if all of them agree.",
)
