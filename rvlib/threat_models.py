r"""What may the adversary do?  Three balls of perturbations, each a radius and five verbs.

Every ball :math:`\mathcal{S} = \{\delta : \|\delta\| \le \epsilon\}` lives in pixel units of
[0, 1].  A new norm is one more frozen dataclass; no attack changes.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rvlib.checks import check_number
from rvlib.types import Images

TINY = 1e-12
"""Guard against division by zero where a direction or a perturbation vanishes."""


class ThreatModel(Protocol):
    """A ball of allowed perturbations: the interface that attacks are written against.

    Every verb takes and returns tensors of shape (B, C, H, W); images never influence each other.
    """

    @property
    def eps(self) -> float:
        """Radius in pixel units of [0, 1]."""

    @property
    def name(self) -> str:
        """What rows and tables call it."""

    def norm(self, delta: Tensor) -> Tensor:
        """Length of each image's perturbation, shape (B,)."""

    def project(self, delta: Tensor) -> Tensor:
        """Nearest perturbation in the ball (Euclidean projection)."""

    def steepest(self, grad: Tensor) -> Tensor:
        """Direction of length one that raises a loss with this gradient most."""

    def sample(self, x: Images, generator: torch.Generator | None = None) -> Tensor:
        """Uniform perturbation from the ball, shaped like `x`."""


def _check_eps(eps: float, largest: float) -> None:
    check_number("eps", eps, "eps=8/255")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps} is not a radius: write a finite number >= 0")
    if eps > largest:
        raise ValueError(f"eps={eps} looks like 0..255 units; write {eps}/255")


def _normal(x: Images, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@dataclass(frozen=True)
class Linf:
    r"""Every channel of every pixel may move by `eps`: :math:`\max_i |\delta_i| \le \epsilon`.

    Parameters
    ----------
    eps : float, in [0, 1]
        Radius in pixel units; 8/255 is the field's usual value on CIFAR-10.

    Raises
    ------
    ValueError
        If `eps` is negative, not finite, or above 1 (0..255 units).

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples",
       ICLR 2015, section 4: the sign of the gradient solves the linear problem on this ball.

    Examples
    --------
    >>> Linf(0.1).project(torch.tensor([[[[0.3, -0.05]]]]))
    tensor([[[[ 0.1000, -0.0500]]]])
    """

    eps: float

    def __post_init__(self) -> None:
        """Check the radius."""
        _check_eps(self.eps, largest=1)

    @property
    def name(self) -> str:
        """What rows and tables call it."""
        return f"linf {self.eps:.6g}"

    def norm(self, delta: Tensor) -> Tensor:
        """Largest absolute entry of each image's perturbation, shape (B,)."""
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor) -> Tensor:
        """Clamp every entry to [-eps, eps]."""
        return delta.clamp(-self.eps, self.eps)

    def steepest(self, grad: Tensor) -> Tensor:
        """Sign of the gradient: the corner of the unit cube, value of the l1 (dual) norm."""
        return grad.sign()

    def sample(self, x: Images, generator: torch.Generator | None = None) -> Tensor:
        """Uniform on the cube: every entry independently uniform on [-eps, eps]."""
        uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (2 * uniform - 1) * self.eps


@dataclass(frozen=True)
class L2:
    r"""The standard Euclidean ball over the whole image: :math:`\|\delta\|_2 \le \epsilon`.

    Parameters
    ----------
    eps : float, >= 0
        Radius in pixel units; 0.5 is the field's usual value on CIFAR-10.

    Raises
    ------
    ValueError
        If `eps` is negative, not finite, or above 64, which no [0, 1] image of 3 x 32 x 32 allows.

    See Also
    --------
    PixelL2 : The report's "l2", the norm of each pixel's colour vector.

    Examples
    --------
    >>> delta = torch.tensor([[[[3.0, 4.0]]]])
    >>> L2(1.0).norm(delta), L2(1.0).project(delta)
    (tensor([5.]), tensor([[[[0.6000, 0.8000]]]]))
    """

    eps: float

    def __post_init__(self) -> None:
        """Check the radius."""
        _check_eps(self.eps, largest=64)

    @property
    def name(self) -> str:
        """What rows and tables call it."""
        return f"l2 {self.eps:.6g}"

    def norm(self, delta: Tensor) -> Tensor:
        """Euclidean length of each image's perturbation, shape (B,)."""
        return delta.flatten(1).norm(dim=1)

    def project(self, delta: Tensor) -> Tensor:
        """Shrink each image's perturbation to length at most eps."""
        length = self.norm(delta)[:, None, None, None]
        return delta * (self.eps / length.clamp_min(TINY)).clamp_max(1)

    def steepest(self, grad: Tensor) -> Tensor:
        """Gradient over its length: value of the l2 norm (its own dual)."""
        return grad / self.norm(grad).clamp_min(TINY)[:, None, None, None]

    def sample(self, x: Images, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball: a uniform direction times a length r with (r/eps)^d uniform."""
        direction = self.steepest(_normal(x, generator))
        uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        length = self.eps * uniform ** (1 / x[0].numel())
        return direction * length[:, None, None, None]


@dataclass(frozen=True)
class PixelL2:
    r"""The colour vector of every pixel may move by `eps` in Euclidean length.

    .. math:: \max_{h,w} \Big( \sum_c \delta_{c,h,w}^2 \Big)^{1/2} \le \epsilon

    This is what the report calls "l2".  It is *not* the Euclidean norm of the image: its ball
    lies inside the l-infinity ball of the same radius and holds perturbations of Euclidean length
    up to :math:`\sqrt{HW}\,\epsilon`, 32 times `eps` on CIFAR-10.

    Parameters
    ----------
    eps : float, in [0, 2]
        Radius of each pixel's colour vector in pixel units.

    Raises
    ------
    ValueError
        If `eps` is negative, not finite, or above 2 (0..255 units).

    See Also
    --------
    L2 : The standard norm, over the whole image.

    Examples
    --------
    >>> grey_step = torch.full((1, 3, 1, 2), 1.0)
    >>> PixelL2(1.0).norm(grey_step), L2(1.0).norm(grey_step)
    (tensor([1.7321]), tensor([2.4495]))
    """

    eps: float

    def __post_init__(self) -> None:
        """Check the radius."""
        _check_eps(self.eps, largest=2)

    @property
    def name(self) -> str:
        """What rows and tables call it."""
        return f"pixel-l2 {self.eps:.6g}"

    def norm(self, delta: Tensor) -> Tensor:
        """Largest colour-vector length of each image's perturbation, shape (B,)."""
        return delta.norm(dim=1).flatten(1).amax(1)

    def project(self, delta: Tensor) -> Tensor:
        """Shrink each pixel's colour vector to length at most eps."""
        length = delta.norm(dim=1, keepdim=True)
        return delta * (self.eps / length.clamp_min(TINY)).clamp_max(1)

    def steepest(self, grad: Tensor) -> Tensor:
        """Each pixel's gradient over its length: value of the sum of those lengths (dual)."""
        return grad / grad.norm(dim=1, keepdim=True).clamp_min(TINY)

    def sample(self, x: Images, generator: torch.Generator | None = None) -> Tensor:
        """Uniform: every pixel's colour vector independently uniform in its small ball."""
        direction = self.steepest(_normal(x, generator))
        uniform = torch.rand(x[:, :1].shape, generator=generator, device=x.device, dtype=x.dtype)
        return direction * self.eps * uniform ** (1 / x.shape[1])
