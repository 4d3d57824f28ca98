"""Notebook 02's explorer: the path of PGD in the landscape of the loss, and in its ball."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from rvlib.attacks import input_gradient
from rvlib.course.explorer import Control, Explorer, animate
from rvlib.course.explorers.panels import HERE, Shot, new_figure, percent, place
from rvlib.course.figures import BLUE, CLASSES, draw_ball
from rvlib.course.lessons import classified_correctly, iterates, losses, probabilities
from rvlib.experiments import LINF, PGD_STEPS, PIXEL_L2, TRUE_L2
from rvlib.inference import eval_mode
from rvlib.pipeline import Run
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel

BALLS: dict[str, Callable[[float], ThreatModel]] = {"l∞": Linf, "per-pixel l2": PixelL2, "l2": L2}
"""The three balls by name."""
RADII = (0.01, LINF.eps, PIXEL_L2.eps, 0.1, TRUE_L2.eps)
"""Slider grid of epsilon."""
PORTIONS = (0.1, 0.25, 1.0)
"""Slider grid of the step size, in parts of epsilon."""
LEVELS = [2.0**k for k in range(-4, 7)]
"""Limits of the bands of equal loss."""
EDGE = 1.25
"""Half the side of both maps, in units of epsilon."""
GRID, SIDE = 21, 192
"""Points along a side of the landscape at which the loss is computed; pixels of the screen."""


@dataclass(frozen=True)
class Walk:
    """One run of PGD on one image.

    Parameters
    ----------
    stops : Tensor of shape (T + 1, C, H, W)
        The image and every iterate.
    losses : list of float
        Loss at each of them.
    answers : Tensor of shape (T + 1, K)
        Probabilities at each of them.
    leap : float
        Loss after one step to the edge of the ball (FGSM).
    path : ndarray of shape (T + 1, 2)
        The stops, projected onto the plane of the landscape.
    landscape : ndarray of shape (SIDE, SIDE)
        Loss in the plane through the image, the first step and the last stop.
    channels : ndarray of shape (T + 1, 2)
        Change of the red and the green channel of the pixel that changes most, over epsilon.
    """

    stops: Tensor
    losses: list[float]
    answers: Tensor
    leap: float
    path: np.ndarray
    landscape: np.ndarray
    channels: np.ndarray


def walk(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, step_size: float, points: int
) -> Walk:
    """Run PGD from one image and look at it from above.

    Parameters
    ----------
    model : nn.Module
        The network.
    x, y : Tensor of shape (1, C, H, W) and (1,)
        The image in [0, 1] and its label.
    threat : ThreatModel
        The ball.
    step_size : float
        Length of one step.
    points : int
        Points along a side at which the loss of the landscape is computed.

    Returns
    -------
    Walk
        What the explorer shows.
    """
    with eval_mode(model):
        along = threat.eps * threat.steepest(input_gradient(model, x, y))
    stops = torch.cat(iterates(model, x, y, threat, PGD_STEPS, step_size))
    axes = torch.cat([along, across(along, stops[-1:] - x)])
    delta = stops - x
    two = delta[:, :2].flatten(2)[:, :, int(delta[-1, :2].square().sum(0).argmax())]
    return Walk(
        stops,
        losses(model, stops, y.expand(len(stops))).tolist(),
        probabilities(model, stops),
        losses(model, (x + along).clamp(0, 1), y).item(),
        (delta.flatten(1) @ axes.flatten(1).T / along.square().sum()).cpu().numpy(),
        landscape(model, x, y, axes, points),
        (two / threat.eps).cpu().numpy(),
    )


def across(along: Tensor, towards: Tensor) -> Tensor:
    """Direction at a right angle to `along`, as long, in the plane of both."""
    rest = towards - along * (along * towards).sum() / along.square().sum()
    return rest * (along.norm() / rest.norm().clamp_min(1e-12))


def landscape(model: nn.Module, x: Tensor, y: Tensor, axes: Tensor, points: int) -> np.ndarray:
    """Loss on a square of a plane around the image, a value a pixel of the screen: (SIDE, SIDE)."""
    line = torch.linspace(-EDGE, EDGE, points, device=x.device)
    places = torch.cartesian_prod(line, line).flip(1)  # rows are the second axis, columns the first
    images = (x + torch.einsum("pk,kchw->pchw", places, axes)).clamp(0, 1)
    values = losses(model, images, y.expand(len(places)))
    # The bands are even in the logarithm: so is what lies between the points.
    logs = values.clamp_min(LEVELS[0] / 2).log().view(1, 1, points, points)
    smooth = F.interpolate(logs, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return smooth.exp()[0, 0].cpu().numpy()


def explore_pgd(run: Run, image: int = 0) -> Explorer:
    """Play through the steps of PGD in a ball of a chosen norm and radius.

    Parameters
    ----------
    run : Run
        Whose undefended network and images to use.
    image : int, default=0
        Which image, of those that the network classifies correctly.

    Returns
    -------
    Explorer
        Controls ``norm``, ``eps``, ``portion`` and ``step``.
    """
    model = run.model("standard")
    x, y = (p[image : image + 1] for p in classified_correctly(model, *run.images(32)))
    points, label = min(GRID, run.profile.live // 2), int(y)

    @cache
    def walks(norm: str, eps: float, portion: float) -> Walk:
        return walk(model, x, y, BALLS[norm](eps), portion * eps, points)

    with new_figure() as figure:
        plane, ball = _Map(figure), _Ball(figure)
        climb = _Climb(figure)
        shots = [Shot(figure, 582, bottom) for bottom in (246, 54)]

    def draw(norm: str, eps: float, portion: float, step: int) -> str:
        found = walks(norm, eps, portion)
        plane.show(found, step)
        ball.show(norm, found, step)
        climb.show(found, step)
        delta, scale = found.stops[step] - x[0], float((found.stops[-1] - x[0]).abs().max())
        answer, p = int(found.answers[step].argmax()), found.answers[step].max().item()
        shots[0].show(found.stops[step], f"{CLASSES[answer]} {'✓' if answer == label else '✗'}")
        shots[1].show(0.5 + delta / (2 * scale or 1), f"perturbation\n±{scale:.2g}")
        return (
            f"{norm} ball, ε = {eps:g}, after {step} steps of size {portion * eps:.3g}: loss "
            f"{found.losses[step]:.2f} (clean {found.losses[0]:.2f}, FGSM {found.leap:.2f}); "
            f"prediction {CLASSES[answer]} ({percent(p, 1)}), true class {CLASSES[label]}. "
            f"Euclidean norm of the perturbation: {delta.norm():.2f}."
        )

    controls = [
        Control("norm", "ball", list(BALLS), menu=True),
        Control("eps", "radius ε", RADII, 2, "{:g}".format, exported=(4,)),
        Control("portion", "step size η / ε", PORTIONS, 1, "{:g}".format, exported=(1,)),
        Control("step", "step", range(PGD_STEPS + 1), PGD_STEPS, exported=(0, 1, 2, 5), plays=True),
    ]
    return Explorer("pgd", controls, figure, draw)


class _Map:
    """The plane of the landscape: bands of equal loss and the path so far."""

    def __init__(self, figure: Figure) -> None:
        bands = BoundaryNorm(LEVELS, 256, extend="both")
        axes = place(figure, 60, 200, SIDE, SIDE)
        self.image = axes.imshow(
            np.ones((SIDE, SIDE)),
            norm=bands,
            cmap="viridis",
            interpolation="nearest",
            origin="lower",
            extent=(-EDGE, EDGE, -EDGE, EDGE),
        )
        (self.path,) = axes.plot([], [], "o-", color="white", markersize=4)
        (self.here,) = axes.plot([], [], **HERE)
        axes.grid(False)
        axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_xlabel("FGSM direction (1: full step)", labelpad=1)
        axes.set_ylabel("towards last iterate", labelpad=0)
        bar = figure.colorbar(
            ScalarMappable(bands, "viridis"), cax=place(figure, 260, 200, 12, 170)
        )
        bar.set_ticks(LEVELS[2::2], labels=[f"{level:.2g}" for level in LEVELS[2::2]])
        bar.ax.set_title("loss", pad=4)
        animate(self.image, self.path, self.here)

    def show(self, found: Walk, step: int) -> None:
        self.image.set_data(found.landscape)
        self.path.set_data(*found.path[: step + 1].T)
        self.here.set_data(*found.path[step : step + 1].T)


class _Ball:
    """The ball in two channels of one pixel, square or disc, and the path there."""

    def __init__(self, figure: Figure) -> None:
        axes = place(figure, 376, 200, SIDE, SIDE)
        self.square, self.disc = (draw_ball(axes, ball(1.0)) for ball in (Linf, L2))
        (self.path,) = axes.plot([], [], "o-", color=BLUE, markersize=4)
        (self.here,) = axes.plot([], [], **HERE)
        axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_xlabel("red / ε, in one pixel", labelpad=1)
        axes.set_ylabel("green / ε", labelpad=0)
        animate(self.square, self.disc, self.path, self.here)

    def show(self, norm: str, found: Walk, step: int) -> None:
        self.square.set_visible(norm == "l∞")
        self.disc.set_visible(norm != "l∞")
        self.path.set_data(*found.channels[: step + 1].T)
        self.here.set_data(*found.channels[step : step + 1].T)


class _Climb:
    """Loss against step, and the loss that FGSM reaches."""

    def __init__(self, figure: Figure) -> None:
        axes = place(figure, 60, 50, 508, 96)
        axes.set_yscale("log")
        axes.set(xlim=(-0.3, PGD_STEPS + 0.3), ylim=(0.02, 500), xticks=range(PGD_STEPS + 1))
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.set_xlabel("step", labelpad=0)
        axes.set_ylabel("loss", labelpad=0)
        (self.leap,) = axes.plot([], [], "--", color="0.3", label="FGSM")
        (self.line,) = axes.plot([], [], "o-", color=BLUE, label="PGD")
        (self.here,) = axes.plot([], [], **HERE)
        axes.legend(ncols=2, loc="lower right", borderaxespad=0, reverse=True)
        animate(self.leap, self.line, self.here)

    def show(self, found: Walk, step: int) -> None:
        self.line.set_data(range(PGD_STEPS + 1), found.losses)
        self.leap.set_data([0, PGD_STEPS], [found.leap, found.leap])
        self.here.set_data([step], [found.losses[step]])
