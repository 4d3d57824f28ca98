"""Notebook 04's explorer: noisy copies vote, and a test says whether the vote can be called."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom, binomtest
from torch import Tensor, nn

from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.figures import dress, pixels
from rvlib.data import CLASSES
from rvlib.frozen import frozen
from rvlib.noise import stream
from rvlib.recipes import ALPHA, SIGMA, SIGMAS, gaussian_name
from rvlib.smoothing import ABSTAIN, sample_under_noise, vote
from rvlib.stages.run import Run
from rvlib.types import Counts, Images

COPIES = (100, 200, 500, 1000, 2000, 5000, 10_000)
"""Slider grid of the number of votes, as far as the profile's certificates go."""
SHOWN = 4
"""Noisy copies that the eye sees."""

BLUE, ORANGE = sns.color_palette("colorblind")[:2]


def explore_smoothing(run: Run, images: int = 6) -> Explorer:
    """Move the noise level and the number of copies and see a vote become callable.

    Parameters
    ----------
    run : Run
        Whose noise-trained networks and images to use.
    images : int, default=6
        How many pictures to choose from: the first of the report's.

    Returns
    -------
    Explorer
        Knobs ``picture``, ``sigma`` and ``copies``.
    """
    x, y = run.images(images)
    copies = [n for n in COPIES if n <= max(run.profile.ns)]
    networks = {sigma: run.model(gaussian_name(sigma)) for sigma in SIGMAS}
    counts = {
        sigma: _nested(network, x, sigma, copies, run.place.seed)
        for sigma, network in networks.items()
    }
    shape, device = (SHOWN, *x.shape[1:]), run.place.device
    generator = stream(device, run.place.seed, "shown copies")
    noise = torch.randn(shape, generator=generator, device=device)

    figure = Figure(figsize=(9.6, 6.4), dpi=100)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.68))
    strip = _Strip(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    bars, test = _Bars(left), _Test(right)

    def draw(picture: int, sigma: float, copies: int) -> str:
        label, votes = int(y[picture]), counts[sigma][copies][picture]
        strip.show(networks[sigma], x[picture], sigma * noise, label)
        bars.show(votes, label)
        answer = int(vote(votes[None].numpy(), ALPHA)[0])
        a, b = votes.argsort(descending=True, stable=True)[:2].tolist()
        (n_a, n_b), second = votes[[a, b]].tolist(), CLASSES[b] if votes[b] else "any other"
        p = test.show(n_a, n_b, answer, label)
        return (
            f"σ = {sigma}, {copies:,} noisy copies of a picture of class {CLASSES[label]}: "
            f"{n_a:,} votes for {CLASSES[a]}, {n_b:,} for {second}. Were both equally likely, "
            f"such a lead would have probability {p}: the vote {_verdict(answer, label)}."
        )

    knobs = [
        Knob(
            "picture",
            "picture",
            range(images),
            words=[f"{i + 1}: {CLASSES[c]}" for i, c in enumerate(y.tolist())],
            twin=[i for i in (0, 1, 3) if i < images],
        ),
        Knob("sigma", "noise level σ", SIGMAS, SIGMAS.index(SIGMA), [f"{s:.2f}" for s in SIGMAS]),
        Knob(
            "copies",
            "noisy copies n",
            copies,
            words=[f"{n:,}" for n in copies],
            twin=range(0, len(copies), 2),
        ),
    ]
    moving = [*strip.moving, *bars.moving, *test.moving]
    return Explorer("smoothing", knobs, Picture(figure, moving), draw)


def _nested(
    network: nn.Module, x: Images, sigma: float, ns: Sequence[int], seed: int
) -> dict[int, Counts]:
    """Count votes for every number of copies, the smaller numbers' among the larger ones'."""
    counts = {0: torch.zeros(1, dtype=torch.int64)}
    for smaller, n in pairwise((0, *ns)):
        more = sample_under_noise(network, x, sigma, n - smaller, first=smaller, seed=seed)
        counts[n] = counts[smaller] + more
    return counts


class _Strip:
    """The clean picture and a few noisy copies, each under the network's answer."""

    def __init__(self, figure: Figure) -> None:
        # Each pixel is 5 x 5 of the screen's: sharp, and small in the static twin.
        width, height, side = *figure.bbox.size, 5 * 32
        gap = (width - (1 + SHOWN) * side) / (2 + SHOWN)
        places = [(gap + i * (side + gap), height - side - 34) for i in range(1 + SHOWN)]
        axes = [
            figure.add_axes((left // 1 / width, bottom / height, side / width, side / height))
            for left, bottom in places
        ]
        self.images = [ax.imshow(np.zeros((32, 32, 3))) for ax in axes]
        self.titles = [ax.set_title(" ", fontsize=14, pad=10) for ax in axes]
        for ax in axes:
            ax.set_axis_off()
        self.moving: list[Artist] = [*self.images, *self.titles]

    def show(self, network: nn.Module, x: Tensor, noise: Images, label: int) -> None:
        copies = x + noise
        with frozen(network), torch.no_grad():
            answers = network(copies).argmax(1).tolist()
        for image, values in zip(self.images, (x, *copies), strict=True):
            # 16 levels of each colour: no eye sees the difference, and a twin is half as large.
            image.set_data((15 * pixels(values)).round() / 15)
        words = [f"{CLASSES[a]} {'✓' if a == label else '✗'}" for a in answers]
        for title, text in zip(self.titles, (f"clean: {CLASSES[label]}", *words), strict=True):
            title.set_text(text)


class _Bars:
    """Votes of each class as bars, the true class hatched."""

    def __init__(self, axes: Axes) -> None:
        self.bars = axes.barh(CLASSES, 1, color=BLUE)
        self.numbers = [axes.text(0, k, "", va="center", fontsize=12) for k in range(len(CLASSES))]
        axes.set_xlim(0, 1.24)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.invert_yaxis()
        dress(axes, "share of the votes", "class (true one hatched)")
        self.moving: list[Artist] = [*self.bars, *self.numbers]

    def show(self, votes: Tensor, label: int) -> None:
        for k, count in enumerate(votes.tolist()):
            share = count / int(votes.sum())
            self.bars[k].set_width(share)
            self.bars[k].set_hatch("//" if k == label else "")
            self.numbers[k].set_text(f"{count:,}")
            self.numbers[k].set_x(share + 0.02)


class _Test:
    """The binomial test: what the leader's share could be if the two leaders were equal."""

    def __init__(self, axes: Axes) -> None:
        self.null = axes.stairs([1], [0, 1], fill=True, color=BLUE, alpha=0.45)
        self.tails = axes.stairs([1], [0, 1], fill=True, color=ORANGE, hatch="//")
        self.limits = [axes.plot([0.5, 0.5], [0, 1.1], "--", color="0.3")[0] for _ in range(2)]
        (self.seen,) = axes.plot([0.5, 0.5], [0, 1.1], "-D", color=ORANGE, markevery=[1])
        self.title = axes.set_title(" ", fontsize=13)
        for artist, label in zip(
            (self.null, self.tails, self.seen, self.limits[0]),
            ("both equally likely", "this far out: the p-value", "seen", f"α = {ALPHA}"),
            strict=True,
        ):
            artist.set_label(label)
        axes.set(xlim=(0.2, 1.02), ylim=(0, 1.75), yticks=[0, 0.5, 1])
        dress(axes, "leader's share of the two leaders' votes", "probability (peak = 1)")
        axes.grid(False)
        axes.legend(
            fontsize=12,
            frameon=False,
            loc="upper right",
            ncols=2,
            columnspacing=1,
            handlelength=1.5,
        )
        self.moving: list[Artist] = [self.null, self.tails, *self.limits, self.seen, self.title]

    def show(self, n_a: int, n_b: int, answer: int, label: int) -> str:
        n, width = n_a + n_b, 3 * np.sqrt(n_a + n_b)
        k = np.arange(max(0, int(n / 2 - width)), min(n, int(n / 2 + width)) + 1)
        height = binom.pmf(k, n, 0.5) / binom.pmf(n // 2, n, 0.5)
        edges = np.append(k - 0.5, k[-1] + 0.5) / n
        self.null.set_data(height, edges)
        self.tails.set_data(np.where(abs(k - n / 2) >= n_a - n / 2, height, 0), edges)
        # The smallest lead that is called: isf gives the last one that is not.
        least = (binom.isf(ALPHA / 2, n, 0.5) + 1) / n
        for line, at in zip(self.limits, (1 - least, least), strict=True):
            line.set_xdata([at, at])
        self.seen.set_xdata([n_a / n, n_a / n])
        p = float(binomtest(n_a, n).pvalue)
        sign = "≤" if p <= ALPHA else ">"
        self.title.set_text(f"p-value {sign} α: {_verdict(answer, label)}")
        return f"{_power(p)} {sign} α = {ALPHA}"


def _verdict(answer: int, label: int) -> str:
    if answer == ABSTAIN:
        return "abstains"
    return f"answers {CLASSES[answer]}, {'rightly' if answer == label else 'wrongly'}"


def _power(p: float) -> str:
    """Print a p-value; one that no one can imagine as a power of ten."""
    if p >= 1e-4:
        return f"{p:.2g}"
    exponent = "below 1e-99" if p < 1e-99 else f"{p:.0e}"
    return exponent.replace("e-0", "e-")
