"""Notebook 04's explorer: noisy copies vote, and a test decides whether the vote is clear."""

from functools import cache

import numpy as np
import scipy
import torch
from matplotlib.axes import Axes
from torch import Tensor

from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import SHOT, ClassBars, Shot, new_figure, place
from rvlib.course.figures import BLUE, CLASSES, ORANGE
from rvlib.course.lessons import answers
from rvlib.experiments import ALPHA, SIGMA, SIGMAS, gaussian_name
from rvlib.pipeline import Run
from rvlib.smoothing import ABSTAIN, sample_under_noise, stream, vote

COPIES = (100, 200, 500, 1000, 2000, 5000, 10_000)
"""Slider grid of the number of votes, as far as the profile's certificates go."""
SHOWN = 4
"""Noisy copies shown."""


def explore_smoothing(run: Run, images: int = 6) -> Explorer:
    """Move the noise level and the number of copies and see when a vote is clear.

    Parameters
    ----------
    run : Run
        Whose noise-trained networks and images to use.
    images : int, default=6
        How many images to choose from: the first held-out ones.

    Returns
    -------
    Explorer
        Controls ``image``, ``sigma`` and ``copies``.
    """
    x, y = run.images(images)
    copies = [n for n in COPIES if n <= max(run.profile.ns)]
    networks = {sigma: run.model(gaussian_name(sigma)) for sigma in SIGMAS}

    @cache
    def votes(image: int, sigma: float, n: int) -> Tensor:
        """Votes of the first n copies: what fewer have given, and the next ones."""
        seen = max((m for m in copies if m < n), default=0)
        network, one = networks[sigma], x[image : image + 1]
        more = sample_under_noise(network, one, sigma, n - seen, first=seen, seed=run.seed)[0]
        return votes(image, sigma, seen) + more if seen else more

    generator = stream(run.device, run.seed, "shown copies")
    noise = torch.randn((SHOWN, *x.shape[1:]), generator=generator, device=x.device)

    with new_figure() as figure:
        shots = [Shot(figure, 8 + k * (SHOT + 16), 244) for k in range(1 + SHOWN)]
        bars = ClassBars(place(figure, 98, 46, 170, 180), "share of the votes")
        test = _Test(place(figure, 400, 46, 310, 138))

    def draw(image: int, sigma: float, copies: int) -> str:
        label, counts = int(y[image]), votes(image, sigma, copies)
        noisy = x[image] + sigma * noise
        read = answers(networks[sigma], noisy)
        titles = ["clean", *(f"{CLASSES[a]} {'✓' if a == label else '✗'}" for a in read)]
        for shot, shown, title in zip(shots, (x[image], *noisy), titles, strict=True):
            shot.show(shown, title)
        bars.show(label, (counts / counts.sum()).tolist())
        answer = int(vote(counts[None].numpy(), ALPHA)[0])
        top = counts.argsort(descending=True, stable=True)[:2]
        (a, b), (n_a, n_b) = top.tolist(), counts[top].tolist()
        p = test.show(n_a, n_b)
        second = CLASSES[b] if n_b else "any other class"
        return (
            f"σ = {sigma}, {copies:,} noisy copies of an image of class {CLASSES[label]}: "
            f"{n_a:,} votes for {CLASSES[a]}, {n_b:,} for {second}. The two-sided p-value is {p}: "
            f"the smoothed network {_verdict(answer, label)}."
        )

    names = [f"{i}: {CLASSES[c]}" for i, c in enumerate(y.tolist(), 1)]
    controls = [
        Control("image", "image", range(images), 0, names.__getitem__, True, exported=(0, 1, 3)),
        Control("sigma", "noise level σ", SIGMAS, SIGMAS.index(SIGMA), "{:.2f}".format),
        Control("copies", "noisy copies n", copies, 0, "{:,}".format, exported=(0, 2, 3, 5)),
    ]
    return Explorer("smoothing", controls, figure, draw)


class _Test:
    """The binomial test: which share of the votes either of two equal leaders could have."""

    def __init__(self, axes: Axes) -> None:
        self.null = axes.stairs([1], [0, 1], fill=True, color=BLUE, alpha=0.45, label="if equal")
        self.tails = axes.stairs([1], [0, 1], fill=True, color=ORANGE, hatch="//", label="p-value")
        self.limits = [axes.plot([0.5, 0.5], [0, 1.1], "--", color="0.3")[0] for _ in range(2)]
        self.limits[0].set_label(f"α = {ALPHA}")
        (self.seen,) = axes.plot(
            [0.5, 0.5], [0, 1.1], "-D", color=ORANGE, markevery=[1], label="seen"
        )
        self.title = axes.text(1, 1.1, " ", transform=axes.transAxes, ha="right")
        axes.set(xlim=(0.2, 1.02), ylim=(0, 1.15), yticks=[0, 0.5, 1])
        axes.set(xlabel="share of one of the top two", ylabel="probability (peak = 1)")
        axes.grid(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1)
        animate(self.null, self.tails, *self.limits, self.seen, self.title)

    def show(self, n_a: int, n_b: int) -> str:
        n, width = n_a + n_b, 3 * np.sqrt(n_a + n_b)
        k = np.arange(max(0, int(n / 2 - width)), min(n, int(n / 2 + width)) + 1)
        height = scipy.stats.binom.pmf(k, n, 0.5) / scipy.stats.binom.pmf(n // 2, n, 0.5)
        edges = np.append(k - 0.5, k[-1] + 0.5) / n
        self.null.set_data(height, edges)
        self.tails.set_data(np.where(abs(k - n / 2) >= n_a - n / 2, height, 0), edges)
        # The smallest lead that is answered: isf gives the last one that is not.
        least = (scipy.stats.binom.isf(ALPHA / 2, n, 0.5) + 1) / n
        for line, at in zip(self.limits, (1 - least, least), strict=True):
            line.set_xdata([at, at])
        self.seen.set_xdata([n_a / n, n_a / n])
        p = float(scipy.stats.binomtest(n_a, n).pvalue)
        sign = "≤" if p <= ALPHA else ">"
        self.title.set_text(f"p {sign} α")
        return f"{_power(p)} {sign} α = {ALPHA}"


def _verdict(answer: int, label: int) -> str:
    if answer == ABSTAIN:
        return "abstains"
    return f"predicts {CLASSES[answer]}, {'correctly' if answer == label else 'wrongly'}"


def _power(p: float) -> str:
    """Print a p-value; a tiny one as a power of ten."""
    if p >= 1e-4:
        return f"{p:.2g}"
    exponent = "below 1e-99" if p < 1e-99 else f"{p:.0e}"
    return exponent.replace("e-0", "e-")
