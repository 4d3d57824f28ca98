"""The Square attack: random search with the answers of the network alone, no gradient."""

import torch
from torch import Tensor, nn

from rvlib.attacks.ascent import tiles, under_attack
from rvlib.checks import check_number, check_whole
from rvlib.threat_models import Linf
from rvlib.types import Images, Labels, check_generator

HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 after which the squares' area is halved; fewer queries shrink the list."""


def square(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Linf,
    *,
    queries: int = 1000,
    area: float = 0.8,
    generator: torch.Generator | None = None,
) -> Images:
    r"""Attack a batch by random search over squares, without gradients (Square attack, l-infinity).

    The first proposal moves every column of every channel to a random side of the ball; each later
    one moves a square of random place, one side :math:`\pm\epsilon` a channel.  An image takes a
    proposal only where it lowers the margin

    .. math:: m(x') = f_y(x') - \max_{k \ne y} f_k(x')

    and is done with as soon as the margin is negative [1]_.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits of shape (B, K); only its answers are used.  Runs in evaluation mode;
        modes, ``requires_grad`` and ``.grad`` come back as they were.
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
    generator : torch.Generator, default=None
        Source of the proposals, on the device of `x`.

    Returns
    -------
    Tensor of shape (B, C, H, W), float, in [0, 1]
        Attacked images, detached, in the ball; no image's margin is above that of `x`.

    Raises
    ------
    TypeError, ValueError
        If the images are not pixels in [0, 1], the labels do not fit them, the ball is another
        one, or the hyper-parameters make no attack.

    See Also
    --------
    rvlib.attacks.pgd : With gradients; where this attack beats it, the gradients mislead.

    Notes
    -----
    Unlike in the paper the first proposal, too, must lower the margin, so that nothing gets worse.
    The search goes by the whole batch's draws: an image's proposals do not depend on who else
    still stands.

    References
    ----------
    .. [1] Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box
       adversarial attack via random search", ECCV 2020, algorithms 1 and 2, section 3.
       arXiv:1912.00049.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> x_adv = square(model, x, y, Linf(8 / 255), queries=20)
    >>> ((x_adv - x).abs() <= 8 / 255 + 1e-6).all().item()
    True
    """
    if not isinstance(threat, Linf):
        kind = type(threat).__name__
        raise TypeError(f"threat={threat!r} is {kind}: the Square attack is for the ball Linf")
    check_whole("queries", queries)
    check_number("area", area, "area=0.8")
    if not 0 < area <= 1:
        raise ValueError(f"area={area} is no share of the image: write a number in (0, 1]")
    with under_attack(model, x, y), torch.no_grad():
        check_generator(generator, x)
        best = x.detach().clone()
        margin = _margins(model, best, y)
        for query in range(queries):
            sides, window = _proposal(x, side_of(query, queries, area, x), query == 0, generator)
            at = (margin >= 0).nonzero()[:, 0]
            if not len(at):
                break
            moved = (x[at] + threat.eps * sides[at]).clamp(0, 1)
            proposed = torch.where(window[at], moved, best[at])
            found = _margins(model, proposed, y[at])
            lower = found < margin[at]
            best[at[lower]], margin[at[lower]] = proposed[lower], found[lower]
    return best


def side_of(query: int, queries: int, area: float, x: Images) -> int:
    """Say how many pixels wide the square of a query is.

    Parameters
    ----------
    query : int
        Its number, from 0.
    queries : int
        How many there are in all.
    area : float
        Share of the image that the first squares cover.
    x : Tensor of shape (B, C, H, W)
        The images.

    Returns
    -------
    int
        At least 1, at most the shorter side of the image.
    """
    height, width = x.shape[2:]
    halved = sum(query * 10_000 > after * queries for after in HALVINGS)
    side = round((area / 2**halved * height * width) ** 0.5)
    return max(1, min(side, height, width))


def _proposal(
    x: Images, side: int, stripes: bool, generator: torch.Generator | None
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
    """Put a stretch at a random place of a line: which points lie in it, shape (B, length)."""
    first = (uniform * (length - side + 1)).long().clamp_max(length - side)[:, None]
    points = torch.arange(length, device=uniform.device)
    return (points >= first) & (points < first + side)


def _margins(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """How far each true class is ahead of the best other one, shape (B,)."""
    parts = []
    for images, labels in zip(*tiles(model, x, y), strict=True):
        logits, label = model(images), labels[:, None]
        others = logits.scatter(1, label, float("-inf")).amax(1)
        parts.append(logits.gather(1, label)[:, 0] - others)
    return torch.cat(parts)
