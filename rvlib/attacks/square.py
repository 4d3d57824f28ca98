"""The Square attack: random search with the answers of the network alone, no gradient."""

import torch
from torch import Tensor, nn

from rvlib.attacks.gradient import attack, inside, margin
from rvlib.inference import logits_of
from rvlib.threat_models import Linf, ThreatModel, per_image

HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 after which the squares' area is halved; fewer queries shrink the list."""

LOOK = 10
"""Queries between two looks at which images have fallen: each look waits for the device."""


@attack
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 1000,
    area: float = 0.8,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Attack a batch by random search over squares, without gradients (Square attack, l-infinity).

    The first proposal moves every column of every channel to a random side of the ball; each later
    one moves a square of random place, one side :math:`\pm\epsilon` a channel.  An image takes a
    proposal only where it raises the margin

    .. math:: m(x') = \max_{k \ne y} f_k(x') - f_y(x')

    and stops as soon as the margin is positive [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); only its answers are used.
    x : Tensor of shape (B, C, H, W), float, in [0, 1]
        Clean images.
    y : Tensor of shape (B,), int64, in {0, ..., K-1}
        True labels.
    threat : Linf
        The ball; the search is made for this one alone.
    queries : int, default=1000
        Proposals an image, at most.
    area : float, in (0, 1], default=0.8
        Share of the image that the first squares cover; it is halved eight times on the way.
    generator : torch.Generator, optional
        Source of the proposals, on the device of `x`.
    batch_size : int, optional
        Images a forward pass; by default 256 on a CPU, all on a GPU.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, in the ball; no image's margin is below that of `x`.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels do not fit them, the ball is another
        one, or the hyper-parameters make no attack.

    See Also
    --------
    pgd : With gradients; where this attack beats it, the gradients mislead.

    Notes
    -----
    Unlike in the paper the first proposal, too, must raise the margin.  Proposals are drawn for the
    whole batch: an image's do not depend on which others still stand.

    References
    ----------
    .. [1] Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box
       adversarial attack via random search", ECCV 2020, algorithms 1 and 2, section 3.
       arXiv:1912.00049.

    Examples
    --------
    >>> from rvlib import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> x_adv = square(model, x, y, Linf(8 / 255), queries=20)
    >>> ((x_adv - x).abs() <= 8 / 255).all().item()
    True
    """
    if not isinstance(threat, Linf):
        raise TypeError(f"threat={threat!r}: the Square attack is for the ball Linf")
    if not 0 < area <= 1:
        raise ValueError(f"area={area} is no share of the image: give a number in (0, 1]")
    if queries < 1:
        raise ValueError(f"queries={queries}: an attack asks at least once")
    best, left = x.clone(), torch.arange(len(x), device=x.device)
    found = margin(logits_of(model, x, batch_size), y)
    low, high = (inside(x, x + side * per_image(threat.eps), threat) for side in (-1, 1))
    for query in range(queries):
        sides, window = _proposal(x, square_side(query, queries, area, x), query == 0, generator)
        if query % LOOK == 0:
            left = (found <= 0).nonzero()[:, 0]
            if not len(left):
                break
        moved = torch.where(sides[left] > 0, high[left], low[left])
        proposed = torch.where(window[left], moved, best[left])
        value = margin(logits_of(model, proposed, batch_size), y[left])
        takes = (value > found[left]) & (found[left] <= 0)
        best[left] = torch.where(takes[:, None, None, None], proposed, best[left])
        found[left] = torch.where(takes, value, found[left])
    return best


def square_side(query: int, queries: int, area: float, x: Tensor) -> int:
    """Width in pixels of a query's square: from the share `area` of the image down to one pixel."""
    height, width = x.shape[2:]
    halved = sum(query * 10_000 > after * queries for after in HALVINGS)
    side = round((area / 2**halved * height * width) ** 0.5)
    return max(1, min(side, height, width))


def _proposal(
    x: Tensor, side: int, stripes: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw the sides of the ball (-1 or 1) that pixels go to, and the window that they lie in."""
    images, channels, height, width = x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

    columns = width if stripes else 1
    sides = 2 * (draw(images, channels, 1, columns) < 0.5).to(x.dtype) - 1
    if stripes:
        return sides, torch.ones(images, 1, 1, 1, dtype=torch.bool, device=x.device)
    corners = draw(2, images)
    row = _inside(corners[0], side, height)[:, None, :, None]  # (B, 1, H, 1)
    column = _inside(corners[1], side, width)[:, None, None, :]  # (B, 1, 1, W)
    return sides, row & column


def _inside(uniform: Tensor, side: int, length: int) -> Tensor:
    """Put an interval at a random place of a line: which points lie in it, shape (B, length)."""
    first = (uniform * (length - side + 1)).long().clamp_max(length - side)[:, None]
    points = torch.arange(length, device=uniform.device)
    return (points >= first) & (points < first + side)
