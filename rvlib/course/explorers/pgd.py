"""Notebook 02's explorer: the path of PGD, in the landscape of the loss and in the ball."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from rvlib.attacks.ascent import loss_gradient
from rvlib.course.explorer import Explorer, Knob, Picture
from rvlib.course.explorers.fgsm import probabilities
from rvlib.course.figures import dress, pixels
from rvlib.course.lessons import iterates, losses, readable
from rvlib.data import CLASSES
from rvlib.frozen import frozen
from rvlib.noise import stream
from rvlib.recipes import LINF, PGD_STEPS, PIXEL_L2, TRUE_L2
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf, PixelL2, ThreatModel
from rvlib.types import Images

BALLS: dict[str, Callable[[float], ThreatModel]] = {"l∞": Linf, "per-pixel l2": PixelL2, "l2": L2}
"""The three balls by the name that the menu reads out."""
RADII = (0.01, LINF.eps, PIXEL_L2.eps, 0.1, TRUE_L2.eps)
"""Slider grid of epsilon."""
PORTIONS = (0.1, 0.25, 1.0)
"""Slider grid of the step size, in parts of epsilon."""
LEVELS = [2.0**k for k in range(-4, 7)]
"""Limits of the bands of equal loss."""
EDGE = 1.25
"""Half the side of a landscape; the ball reaches to 1."""
GRID = 25
"""At how many points along a side the loss of a landscape is worked out."""
SIDE = 260
"""Pixels of the screen along a side of a landscape."""
BLUE, ORANGE = sns.color_palette("colorblind")[:2]


@dataclass(frozen=True)
class Plane:
    """A plane through an image, with the lengths that a ball gives it.

    Parameters
    ----------
    x : Tensor of shape (1, C, H, W)
        The image: the point (0, 0).
    along : Tensor of shape (1, C, H, W)
        The point (1, 0), less the image: the steepest direction, to the edge of the ball.
    across : Tensor of shape (1, C, H, W)
        The point (0, 1), less the image: at a right angle and of the same Euclidean length.
    """

    x: Images
    along: Tensor
    across: Tensor

    @classmethod
    def through(cls, x: Images, along: Tensor, towards: Tensor) -> "Plane":
        """Lay the plane through an image and two directions, of which the second gives way."""
        across = towards - along * (along * towards).sum() / (along * along).sum()
        return cls(x, along, across * (along.norm() / across.norm().clamp_min(1e-12)))

    def places(self, images: Images) -> Tensor:
        """Coordinates of images, projected onto the plane: (B, 2)."""
        delta = (images - self.x).flatten(1)
        axes = torch.cat([self.along, self.across]).flatten(1)
        return delta @ axes.T / (self.along * self.along).sum()

    def images(self, places: Tensor) -> Images:
        """Pictures at coordinates (B, 2): colours that a picture cannot have are clamped."""
        a, b = places[:, :, None, None, None].unbind(1)
        return (self.x + a * self.along + b * self.across).clamp(0, 1)

    def rim(self, threat: ThreatModel, points: int = 240) -> Tensor:
        """Where the ball's surface cuts the plane: coordinates (`points` + 1, 2) of a ring."""
        angle = torch.linspace(0, 2 * torch.pi, points + 1, device=self.x.device)
        ring = torch.stack([angle.cos(), angle.sin()], 1)
        a, b = ring[:, :, None, None, None].unbind(1)
        # A norm is homogeneous: one value along a ray gives the length at which it is epsilon.
        return ring * (threat.eps / threat.norm(a * self.along + b * self.across))[:, None]

    def landscape(self, model: nn.Module, label: Tensor, points: int) -> np.ndarray:
        """Loss on a square around the image, one value a pixel of the screen: (SIDE, SIDE)."""
        line = torch.linspace(-EDGE, EDGE, points, device=self.x.device)
        places = torch.cartesian_prod(line, line).flip(1)  # rows are b, columns a
        values = losses(model, self.images(places), label.expand(len(places)))
        # The bands are even in the logarithm: so is what lies between the points.
        logs = values.clamp_min(LEVELS[0] / 2).log().view(1, 1, points, points)
        smooth = F.interpolate(logs, (SIDE, SIDE), mode="bicubic", align_corners=True)
        return smooth.exp()[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Walk:
    """One run of PGD on one image, and two planes that show it.

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
    rims, paths : list of ndarray of shape (N, 2)
        In each plane the ball's edge and the projected stops.
    landscapes : list of ndarray of shape (SIDE, SIDE)
        In each plane the loss.
    """

    stops: Images
    losses: list[float]
    answers: Tensor
    leap: float
    rims: list[np.ndarray]
    paths: list[np.ndarray]
    landscapes: list[np.ndarray]


def walk(
    model: nn.Module,
    x: Images,
    y: Tensor,
    threat: ThreatModel,
    step_size: float,
    noise: Tensor,
    points: int = GRID,
) -> Walk:
    """Run PGD from one image and look at it in a random plane and in the one where it ends.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (1, C, H, W), float, in [0, 1]
        The image.
    y : Tensor of shape (1,), int64
        Its label.
    threat : ThreatModel
        The ball.
    step_size : float
        Length of one step.
    noise : Tensor of shape (1, C, H, W)
        Gaussian: which random direction.
    points : int, default=25
        At how many points along a side the loss of a landscape is worked out.

    Returns
    -------
    Walk
        What the explorer shows.
    """
    with frozen(model):
        along = threat.eps * threat.steepest(loss_gradient(model, x, y))
    stops = torch.cat(iterates(model, x, y, threat, PGD_STEPS, step_size))
    ends = threat.steepest(noise), stops[-1:] - x
    planes = [Plane.through(x, along, towards) for towards in ends]
    return Walk(
        stops,
        losses(model, stops, y.expand(len(stops))).tolist(),
        probabilities(model, stops),
        losses(model, (x + along).clamp(0, 1), y).item(),
        [plane.rim(threat).cpu().numpy() for plane in planes],
        [plane.places(stops).cpu().numpy() for plane in planes],
        [plane.landscape(model, y, points) for plane in planes],
    )


def explore_pgd(run: Run, image: int = 0) -> Explorer:
    """Play through the steps of PGD in a ball of a chosen norm and radius.

    Parameters
    ----------
    run : Run
        Whose undefended network and images to use.
    image : int, default=0
        Which picture, of those that the network reads rightly.

    Returns
    -------
    Explorer
        Knobs ``norm``, ``eps``, ``portion`` and ``step``.
    """
    model = run.model("standard")
    x, y = (part[image : image + 1] for part in readable(model, *run.images(32)))
    device = run.place.device
    generator = stream(device, run.place.seed, "plane")
    noise = torch.randn(x.shape, generator=generator, device=device)
    points = min(GRID, run.profile.heldout // 2)
    walks = {
        (norm, eps, portion): walk(model, x, y, BALLS[norm](eps), portion * eps, noise, points)
        for norm, eps, portion in itertools.product(BALLS, RADII, PORTIONS)
    }

    figure = Figure(figsize=(9.6, 6.4), dpi=100)
    maps = [
        _Map(place(figure, 72, 330, SIDE, SIDE), "a random direction"),
        _Map(place(figure, 406, 330, SIDE, SIDE), "where the path ends"),
    ]
    _bands(figure, maps[0])
    climb = _Climb(place(figure, 72, 62, 594, 160))
    strip = [Shot(place(figure, 782, bottom, 160, 160)) for bottom in (430, 62)]
    label = int(y)

    def draw(norm: str, eps: float, portion: float, step: int) -> str:
        found = walks[norm, eps, portion]
        for k, panel in enumerate(maps):
            panel.show(found.landscapes[k], found.rims[k], found.paths[k], step)
        climb.show(found, step)
        delta, scale = found.stops[step] - x[0], float((found.stops[-1] - x[0]).abs().max())
        answer, p = int(found.answers[step].argmax()), found.answers[step].max().item()
        mark = "✓" if answer == label else "✗"
        strip[0].show(found.stops[step], f"{CLASSES[answer]} {p:.0%} {mark}")
        strip[1].show(0.5 + delta / (2 * scale), f"change, ±{scale:.2g}")
        return (
            f"{norm} ball, ε = {eps:g}, after {step} steps of {portion * eps:.3g}: loss "
            f"{found.losses[step]:.2f} (clean {found.losses[0]:.2f}, FGSM {found.leap:.2f}); the "
            f"network says {CLASSES[answer]} with {p:.1%}, the true class is {CLASSES[label]}. "
            f"Euclidean length of the change: {delta.norm():.2f}."
        )

    knobs = [
        Knob("norm", "ball", list(BALLS), menu=True),
        Knob("eps", "radius ε", RADII, 2, [f"{eps:g}" for eps in RADII], twin=(4,)),
        Knob("portion", "step size η / ε", PORTIONS, 1, [f"{p:g}" for p in PORTIONS], twin=(1,)),
        Knob("step", "step", range(PGD_STEPS + 1), PGD_STEPS, twin=(0, 1, 2, 5), plays=True),
    ]
    parts: list[_Map | _Climb | Shot] = [*maps, climb, *strip]
    moving = [artist for part in parts for artist in part.moving]
    return Explorer("pgd", knobs, Picture(figure, moving), draw)


def place(figure: Figure, left: int, bottom: int, width: int, height: int) -> Axes:
    """Add axes at pixels of the screen."""
    w, h = figure.bbox.size
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


class _Map:
    """A plane seen from above: bands of equal loss, the ball's edge, the path so far."""

    def __init__(self, axes: Axes, across: str) -> None:
        self.norm = BoundaryNorm(LEVELS, 256, extend="both")
        self.image = axes.imshow(
            np.ones((SIDE, SIDE)),
            norm=self.norm,
            cmap="viridis",
            interpolation="nearest",
            origin="lower",
            extent=(-EDGE, EDGE, -EDGE, EDGE),
        )
        (self.rim,) = axes.plot([], [], "--", color="white", linewidth=2)
        (self.path,) = axes.plot([], [], "o-", color="white", markersize=4, linewidth=1.5)
        (self.here,) = axes.plot([], [], "o", color=ORANGE, markeredgecolor="black", markersize=11)
        for line in (self.rim, self.path, self.here):
            line.set_antialiased(False)  # few colours: half the bytes of a twin
        dress(axes, "steepest direction", across)
        axes.grid(False)
        axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        self.moving: list[Artist] = [self.image, self.rim, self.path, self.here]

    def show(self, landscape: np.ndarray, rim: np.ndarray, path: np.ndarray, step: int) -> None:
        self.image.set_data(landscape)
        self.rim.set_data(*rim.T)
        self.path.set_data(*path[: step + 1].T)
        self.here.set_data(*path[step : step + 1].T)


def _bands(figure: Figure, panel: _Map) -> None:
    """Draw the key of the bands of equal loss."""
    bar = figure.colorbar(
        ScalarMappable(panel.norm, "viridis"), cax=place(figure, 684, 330, 16, SIDE)
    )
    bar.set_ticks(LEVELS[::2], labels=[f"{level:g}" for level in LEVELS[::2]])
    bar.ax.tick_params(labelsize=12)
    bar.ax.set_title("loss", fontsize=13)


class _Climb:
    """Loss against step, with a mark at the step shown and a line at what FGSM reaches."""

    def __init__(self, axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set(xlim=(-0.3, PGD_STEPS + 0.3), ylim=(0.02, 150), yticks=[0.1, 1, 10, 100])
        axes.set_xticks(range(PGD_STEPS + 1))
        (self.line,) = axes.plot([], [], "o-", color=BLUE, label="PGD")
        (self.leap,) = axes.plot([], [], "--", color="0.3", label="FGSM: one step to the edge")
        (self.here,) = axes.plot([], [], "o", color=ORANGE, markeredgecolor="black", markersize=11)
        dress(axes, "step", "loss")
        axes.set_yticklabels(["0.1", "1", "10", "100"])
        for line in (self.line, self.leap, self.here):
            line.set_antialiased(False)
        axes.legend(fontsize=12, frameon=False, ncols=2, loc="lower right", borderaxespad=0.2)
        self.moving: list[Artist] = [self.leap, self.line, self.here]

    def show(self, found: Walk, step: int) -> None:
        self.line.set_data(range(PGD_STEPS + 1), found.losses)
        self.leap.set_data([0, PGD_STEPS], [found.leap, found.leap])
        self.here.set_data([step], [found.losses[step]])


class Shot:
    """A picture under a title."""

    def __init__(self, axes: Axes) -> None:
        self.image = axes.imshow(np.zeros((32, 32, 3)))
        self.title = axes.set_title(" ", fontsize=14, pad=10)
        axes.set_axis_off()
        self.moving: list[Artist] = [self.image, self.title]

    def show(self, values: Tensor, title: str) -> None:
        """Show an image (C, H, W) under a title."""
        # 16 levels of each colour: no eye sees the difference, and a twin is half as large.
        self.image.set_data((15 * pixels(values)).round() / 15)
        self.title.set_text(title)
