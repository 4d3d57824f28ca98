r"""What may the adversary do?  Three balls of perturbations, each a radius and four verbs.

A ball is :math:`\mathcal{S} = \{\delta : \|\delta\| \le \epsilon\}` in pixel units of [0, 1].
A new norm is one more frozen dataclass; no attack changes.
"""

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, Self

import torch
from torch import Tensor

Radius = float | Tensor
"""One radius, or one per image: a tensor of shape (B,)."""


class ThreatModel(Protocol):
    """A ball of allowed perturbations: the interface that attacks are written against.

    Every verb takes and returns tensors of shape (B, C, H, W); images never influence each other.
    ``steepest`` and ``project`` return tensors of their own: attacks write into them.
    """

    @property
    def eps(self) -> Radius:
        """Radius in pixel units of [0, 1], a float or one value per image (B,)."""

    @property
    def name(self) -> str:
        """Norm and radius, as tables print them."""

    def at(self, index: Any) -> Self:
        """Return the ball for some of the images only: itself unless `eps` is one per image."""

    def norm(self, delta: Tensor) -> Tensor:
        """Length of each image's perturbation, shape (B,)."""

    def project(self, delta: Tensor) -> Tensor:
        """Nearest perturbation in the ball (Euclidean projection)."""

    def steepest(self, grad: Tensor) -> Tensor:
        """Direction of length one that raises a loss with this gradient most."""

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform perturbation from the ball, shaped like `x`."""


def per_image(value: Radius) -> Radius:
    """Shape a value per image for arithmetic with images: (B,) becomes (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1) if isinstance(value, Tensor) and value.dim() else value


def lengths(v: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Euclidean length along `dim`, which stays as dimensions of size one."""
    if dim == (1,):  # a CPU adds up neighbours in memory thirty times faster
        v = v.contiguous(memory_format=torch.channels_last)
    return torch.linalg.vector_norm(v, dim=dim, keepdim=True)


def _unit(v: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Divide vectors by their Euclidean length; a zero vector stays zero.

    First by the power of two below their largest entry, which is exact: squares of small gradients
    would underflow, and the length of a step would depend on the scale of the logits.
    """
    tiny = torch.finfo(v.dtype).tiny
    v = v * v.abs().amax(dim, keepdim=True).clamp_min(tiny).log2().floor().neg().exp2()
    return v / lengths(v, dim).clamp_min(tiny)


def _shrink(delta: Tensor, eps: Radius, dim: tuple[int, ...]) -> Tensor:
    """Scale vectors longer than `eps` down to that length."""
    length = lengths(delta, dim)
    return delta * (per_image(eps) / length.clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@dataclass(frozen=True)
class _Ball:
    """What the three balls share."""

    eps: Radius

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Tensor | Real):
            kind = type(self.eps).__name__
            raise TypeError(f"eps is {kind}: give a number, or a tensor of one per image")
        if not isinstance(self.eps, Tensor | int | float):  # a fraction, say
            object.__setattr__(self, "eps", float(self.eps))
        low, high = (
            (self.eps.min().item(), self.eps.max().item())
            if isinstance(self.eps, Tensor)
            else (self.eps, self.eps)
        )
        if not (low >= 0 and math.isfinite(high)):  # NaN fails this, too
            raise ValueError(f"eps={self.eps} is not a radius: give a finite number >= 0")
        if high > self._largest:
            raise ValueError(
                f"eps={high:g} is larger than any image in [0, 1]: write {high:g}/255, perhaps"
            )

    _largest = math.inf
    _norm = ""

    @property
    def name(self) -> str:
        """Norm and radius, as tables print them: ``linf 0.03``."""
        if isinstance(self.eps, Tensor):
            return f"{self._norm} {self.eps.min():.6g} to {self.eps.max():.6g}"
        return f"{self._norm} {self.eps:.6g}"

    def at(self, index: Any) -> Self:
        """Return the ball for some of the images only: itself unless `eps` is one per image."""
        return replace(self, eps=self.eps[index]) if isinstance(self.eps, Tensor) else self


@dataclass(frozen=True)
class Linf(_Ball):
    r"""Every channel of every pixel may move by `eps`: :math:`\max_i |\delta_i| \le \epsilon`.

    Parameters
    ----------
    eps : float or Tensor of shape (B,), in [0, 1]
        Radius in pixel units; 8/255 is the usual value on CIFAR-10.  One per image if a tensor.

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

    _largest = 1
    _norm = "linf"

    def norm(self, delta: Tensor) -> Tensor:
        """Largest absolute entry of each image's perturbation, shape (B,)."""
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor) -> Tensor:
        """Clamp every entry to [-eps, eps]."""
        eps = per_image(self.eps)
        return delta.clamp(-eps, eps)  # type: ignore[arg-type]

    def steepest(self, grad: Tensor) -> Tensor:
        """Sign of the gradient: the corner of the unit cube, value of the l1 (dual) norm."""
        return grad.sign().add_(grad, alpha=0)  # the sign of NaN is 0: an attack would stop unseen

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform on the cube: every entry independently uniform on [-eps, eps]."""
        uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (2 * uniform - 1) * per_image(self.eps)


@dataclass(frozen=True)
class L2(_Ball):
    r"""The standard Euclidean ball over the whole image: :math:`\|\delta\|_2 \le \epsilon`.

    Parameters
    ----------
    eps : float or Tensor of shape (B,), >= 0
        Radius in pixel units; 0.5 is the usual value on CIFAR-10.  One per image if a tensor.

    Raises
    ------
    ValueError
        If `eps` is negative or not finite.

    See Also
    --------
    PixelL2 : The report's "l2", the norm of each pixel's colour vector.

    Examples
    --------
    >>> delta = torch.tensor([[[[3.0, 4.0]]]])
    >>> L2(1.0).norm(delta), L2(1.0).project(delta)
    (tensor([5.]), tensor([[[[0.6000, 0.8000]]]]))
    """

    _norm = "l2"

    def norm(self, delta: Tensor) -> Tensor:
        """Euclidean length of each image's perturbation, shape (B,)."""
        return delta.flatten(1).norm(dim=1)

    def project(self, delta: Tensor) -> Tensor:
        """Shrink each image's perturbation to length at most eps."""
        return _shrink(delta, self.eps, (1, 2, 3))

    def steepest(self, grad: Tensor) -> Tensor:
        """Gradient over its length: value of the l2 norm (its own dual)."""
        return _unit(grad, (1, 2, 3))

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball: a uniform direction times a length r with (r/eps)^d uniform."""
        direction = self.steepest(_normal(x, generator))
        uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        return direction * per_image(self.eps * uniform ** (1 / x[0].numel()))


@dataclass(frozen=True)
class PixelL2(_Ball):
    r"""The colour vector of every pixel may move by `eps` in Euclidean length.

    .. math:: \max_{h,w} \Big( \sum_c \delta_{c,h,w}^2 \Big)^{1/2} \le \epsilon

    This is what the report calls "l2".  It is *not* the Euclidean norm of the image: its ball
    lies inside the l-infinity ball of the same radius and holds perturbations of Euclidean length
    up to :math:`\sqrt{HW}\,\epsilon`, 32 times `eps` on CIFAR-10.

    Parameters
    ----------
    eps : float or Tensor of shape (B,), in [0, 2]
        Radius of each pixel's colour vector in pixel units.  One per image if a tensor.

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

    _largest = 2
    _norm = "pixel-l2"

    def norm(self, delta: Tensor) -> Tensor:
        """Largest colour-vector length of each image's perturbation, shape (B,)."""
        return lengths(delta, (1,)).flatten(1).amax(1)

    def project(self, delta: Tensor) -> Tensor:
        """Shrink each pixel's colour vector to length at most eps."""
        return _shrink(delta, self.eps, (1,))

    def steepest(self, grad: Tensor) -> Tensor:
        """Each pixel's gradient over its length: value of the sum of those lengths (dual)."""
        return _unit(grad, (1,))

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform: every pixel's colour vector independently uniform in its small ball."""
        direction = self.steepest(_normal(x, generator))
        uniform = torch.rand(x[:, :1].shape, generator=generator, device=x.device, dtype=x.dtype)
        return direction * per_image(self.eps) * uniform ** (1 / x.shape[1])
