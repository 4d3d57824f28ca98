"""Small measurements that a lesson shows and the report does not print."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvlib.attacks import withstands_sweep
from rvlib.attacks.ascent import ascend, loss_gradient
from rvlib.frozen import frozen
from rvlib.report.tables import Table
from rvlib.threat_models import ThreatModel
from rvlib.types import Images, Labels


def sweep(
    model: nn.Module, y: Labels, attack: Callable[[float], Images], radii: Sequence[float]
) -> list[float]:
    """Accuracy in percent at each radius.

    Parameters
    ----------
    model : nn.Module
        The network.
    y : Tensor of shape (B,), int64
        True labels.
    attack : callable
        Makes the attacked images for a radius.
    radii : sequence of float
        Radii.

    Returns
    -------
    list of float
        One percentage a radius.
    """
    return [percent_right(model, attack(eps), y) for eps in radii]


def percent_right(model: nn.Module, x: Images, y: Labels) -> float:
    """Accuracy in percent.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    float
        Share of images that the network reads rightly, times 100.
    """
    return 100 * (answers(model, x) == y).double().mean().item()


def losses(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Cross-entropy of each image.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    Tensor of shape (B,)
        One loss an image.
    """
    with frozen(model), torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


def compare_directions(
    model: nn.Module, x: Images, y: Labels, radii: Sequence[float], generator: torch.Generator
) -> Table:
    r"""Step in three directions in which every channel moves by at most `eps`.

    On a straight line with gradient :math:`g` a step :math:`\epsilon v` gains
    :math:`\epsilon \, v^T g`, on the cube :math:`\lVert v \rVert_\infty \le 1` at most
    :math:`\epsilon \lVert g \rVert_1`, at the corner :math:`v = \mathrm{sign}(g)`.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    radii : sequence of float
        Values of `eps`, in pixel units.
    generator : torch.Generator
        Chooses the random corner.

    Returns
    -------
    Table
        A line a radius and direction: by how much the mean loss would rise if it were straight,
        and by how much it rises, clamping to [0, 1] included.
    """
    with frozen(model):
        gradient = loss_gradient(model, x, y)
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    directions = {
        "the corner of the gradient's signs": gradient.sign(),
        "the gradient itself": gradient / largest,
        "a random corner": torch.randn(x.shape, generator=generator, device=x.device).sign(),
    }
    before = losses(model, x, y).mean().item()
    return [
        {
            "ε": f"{eps:.4f}",
            "direction": name,
            "if straight": f"{eps * (v * gradient).sum().item() / len(x):+.2f}",
            "in fact": f"{losses(model, (x + eps * v).clamp(0, 1), y).mean().item() - before:+.2f}",
        }
        for eps in radii
        for name, v in directions.items()
    ]


def eight_bit(x: Images) -> Images:
    """Round to whole levels of 255: what a picture file keeps.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        Images of the 256 values k / 255.
    """
    return (255 * x).round() / 255


def iterates(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, steps: int, step_size: float
) -> list[Images]:
    """Every stop of PGD from the clean images on; the last one is what ``pgd`` returns.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    threat : ThreatModel
        The ball.
    steps : int
        Number of steps.
    step_size : float
        Length of one step.

    Returns
    -------
    list of Tensor of shape (B, C, H, W)
        ``steps + 1`` batches, the clean images first.
    """
    path = [x]
    with frozen(model):
        for _ in range(steps):
            path.append(
                ascend(lambda x_t: loss_gradient(model, x_t, y), x, path[-1], threat, 1, step_size)
            )
    return path


def naive_pgd(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, steps: int, step_size: float
) -> Images:
    """Run PGD on PyTorch's own cross-entropy, whose gradient dies where the network is sure.

    Parameters
    ----------
    model, x, y, threat, steps, step_size
        As for ``rvlib.attacks.pgd``.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images; no random start.
    """

    def gradient(x_t: Images) -> Tensor:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_(True)
            loss = F.cross_entropy(model(x_t), y, reduction="sum")
            return torch.autograd.grad(loss, x_t)[0]

    with frozen(model):
        return ascend(gradient, x, x, threat, steps, step_size)


def losses_by_step(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, steps: int, step_size: float
) -> list[float]:
    """Mean cross-entropy of the attacked images after 0, 1, ..., `steps` steps of PGD.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    threat : ThreatModel
        The ball.
    steps : int
        Number of steps.
    step_size : float
        Length of one step.

    Returns
    -------
    list of float
        ``steps + 1`` losses.
    """
    path = iterates(model, x, y, threat, steps, step_size)
    return [losses(model, x_t, y).mean().item() for x_t in path]


def robust_curve(
    model: nn.Module, x: Images, y: Labels, threats: Sequence[ThreatModel]
) -> list[float]:
    """Accuracy in percent under PGD in ever larger balls, each holding the ones before.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64
        True labels.
    threats : sequence of ThreatModel
        The balls, of rising radius.

    Returns
    -------
    list of float
        One percentage a ball; never rising.
    """
    stands = withstands_sweep(model, x, y, threats, random_start=False)
    return (100 * stands.double().mean(1)).tolist()


def readable(model: nn.Module, x: Images, y: Labels) -> tuple[Images, Labels]:
    """Keep the images that the network reads rightly.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Images.
    y : Tensor of shape (B,), int64
        True labels.

    Returns
    -------
    tuple of Tensor
        Those images and their labels.
    """
    right = answers(model, x) == y
    return x[right], y[right]


def answers(model: nn.Module, x: Images) -> Labels:
    """Classes that the network names.

    Parameters
    ----------
    model : nn.Module
        The network.
    x : Tensor of shape (B, C, H, W), float
        Images.

    Returns
    -------
    Tensor of shape (B,), int64
        One class an image.
    """
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)
