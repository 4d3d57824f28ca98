"""The Square attack: random search with the answers of the network alone, no gradient."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rvlib.attacks.gradient import attack, inside, margin
from rvlib.attacks.windows import Corner, halves, read, write
from rvlib.inference import logits_of
from rvlib.threat_models import L2, Linf, ThreatModel, lengths, per_image

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
    r"""Attack a batch by random search over squares, without gradients (Square attack).

    In l-infinity the first proposal moves every column of every channel to a random side of the
    ball; each later one moves a square of random place, one side :math:`\pm\epsilon` a channel.
    In l2 the first proposal covers the image with tiles, a steep bump and its negative each; a
    later one takes what a second square has of the perturbation, and what of :math:`\epsilon` is
    left, to a bump in the first.  An image takes a proposal only where it raises the margin

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
    threat : Linf or L2
        The ball; the search is made for these two alone.
    queries : int, default=1000
        Proposals per image, at most.
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
    whole batch: an image's do not depend on which others still stand.  The squares shrink by the
    share of the queries that is done, which AutoAttack's call of Square (``resc_schedule=False``)
    does not: there they shrink by their number, as in 10,000 queries.

    References
    ----------
    .. [1] Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box
       adversarial attack via random search", ECCV 2020, algorithms 1 to 3, section 3.
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
    if not isinstance(threat, Linf | L2):
        raise TypeError(f"threat={threat!r}: the Square attack is for the balls Linf and L2")
    if not 0 < area <= 1:
        raise ValueError(f"area={area} is no share of the image: give a number in (0, 1]")
    if queries < 1:
        raise ValueError(f"queries={queries}: an attack asks at least once")
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    network = halves(model, layout, batch_size)

    def ask(seen: Tensor, label: Tensor) -> Tensor:
        return margin(logits_of(network.rest, seen, batch_size), label)

    if isinstance(threat, Linf):
        x = x.contiguous(memory_format=layout)
        proposals = _corners(x, threat, generator)
    else:
        x = x.contiguous()  # channel by channel, in which lengths are added up fastest
        proposals = _bumps(x, threat, generator)
    best, left, label = x.clone(), torch.arange(len(x), device=x.device), y
    now, seen = x, network.first(x)
    ahead = ask(seen, y)
    for query in range(queries):
        if query % LOOK == 0:
            best[left] = now
            keep = (ahead <= 0).nonzero()[:, 0]
            if not len(keep):
                break
            left, label, now, seen, ahead = (part[keep] for part in (left, label, now, seen, ahead))
            propose = proposals(left)
        side = square_side(query, queries, area, x)
        proposed, corner = propose(now, side, query == 0)
        sees = network.again(seen, proposed, corner, side) if corner else network.first(proposed)
        value = ask(sees, label)
        takes = (value > ahead) & (ahead <= 0)
        rows = takes[:, None, None, None]
        now, seen = pick(rows, proposed, now), pick(rows, sees, seen)
        ahead = torch.where(takes, value, ahead)
    best[left] = now
    return best


def pick(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose as ``torch.where`` does between finite numbers: on a CPU ten times as fast."""
    return no.lerp(yes, mask.to(no.dtype))


def square_side(query: int, queries: int, area: float, x: Tensor) -> int:
    """Width in pixels of a query's square: from the share `area` of the image down to one pixel."""
    height, width = x.shape[2:]
    halved = sum(query * 10_000 > after * queries for after in HALVINGS)
    side = round((area / 2**halved * height * width) ** 0.5)
    return max(1, min(side, height, width))


# --- proposals: for those that are left, ``propose(now, side, first)`` gives new images -----------

Proposal = tuple[Tensor, Corner | None]
"""Images, and where they have changed if that is a single square."""
Propose = Callable[[Tensor, int, bool], Proposal]
Proposals = Callable[[Tensor], Propose]


def _corners(x: Tensor, threat: ThreatModel, generator: torch.Generator | None) -> Proposals:
    """Squares of one side of the ball a channel, the first time stripes (algorithm 2)."""
    low, high = (inside(x, x + side * per_image(threat.eps), threat) for side in (-1, 1))

    def proposals(left: Tensor) -> Propose:
        below, above = low[left], high[left]

        def propose(now: Tensor, side: int, first: bool) -> Proposal:
            sides = _signs(x, generator, 1, x.shape[3] if first else 1)[left]
            if first:
                return pick(sides > 0, above, below), None
            row, column = _corner(x, side, generator)
            corner = row[left], column[left]
            edges = (read(edge, corner, side) for edge in (above, below))
            moved = now.clone()
            write(moved, corner, side, pick(sides > 0, *edges))
            return moved, corner

        return propose

    return proposals


def _bumps(x: Tensor, threat: ThreatModel, generator: torch.Generator | None) -> Proposals:
    """Bumps that take over what a second square has, the first time tiles (algorithm 3)."""
    channels, height, width = x.shape[1:]

    def proposals(left: Tensor) -> Propose:
        ball, clean = threat.at(left), x[left]
        eps = per_image(ball.eps)

        def propose(now: Tensor, side: int, first: bool) -> Proposal:
            if first:
                tiles = eps * ball.steepest(_tiles(x, generator)[left])
                return inside(clean, clean + tiles, ball), None
            side = max(side, min(3, height, width))
            rho, turned = (_signs(x, generator, 1, 1)[left] for _ in range(2))
            (here, place), (there, _) = (_window(x, side, generator) for _ in range(2))
            here, there, row, column = (part[left] for part in (here, there, *place))
            nu, eta = now - clean, _bump_on(x.device, x.dtype, side)
            eta = torch.where(turned[:, :1] > 0, eta[row, column], eta[column, row])
            unused = (eps**2 - lengths(nu, (1, 2, 3)) ** 2).clamp_min(0)
            available = (lengths(nu * (here | there), (2, 3)) ** 2 + unused / channels).sqrt()
            moved = available * _unit(rho * eta * here + _unit(nu * here))
            nu = pick(here, moved, nu * ~there)
            return inside(clean, clean + nu, ball), None

        return propose

    return proposals


def bump(side: int) -> Tensor:
    """Make a peak in one half of a square, its negative in the other: length one (equation 2)."""
    half = side // 2

    def peak(columns: int) -> Tensor:
        row, column = (torch.arange(n) - n // 2 for n in (side, columns))
        height = half - torch.maximum(row.abs()[:, None], column.abs())  # the paper's M(r, s)
        return (1 / torch.arange(half + 1, 0, -1.0) ** 2).cumsum(0)[height]

    eta = torch.cat([peak(half), -peak(side - half)], 1)
    return eta / eta.norm()


@functools.lru_cache(maxsize=16)
def _bump_on(device: torch.device, dtype: torch.dtype, side: int) -> Tensor:
    """Put a peak on a device once, not at every query."""
    return bump(side).to(device, dtype)


def _tiles(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cover images with five times five bumps, each of a random sign a channel."""
    size = max(1, min(x.shape[2:]) // 5)
    rows, columns = (length // size for length in x.shape[2:])
    signs = _signs(x, generator, rows, columns)
    tiles = torch.zeros_like(x)
    top, start = ((n - n // size * size) // 2 for n in x.shape[2:])
    tiles[:, :, top : top + rows * size, start : start + columns * size] = torch.kron(
        signs, _bump_on(x.device, x.dtype, size)
    )
    return tiles


def _draw(x: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)


def _signs(x: Tensor, generator: torch.Generator | None, rows: int, columns: int) -> Tensor:
    """Draw -1 or 1 for each image and channel."""
    drawn = _draw(x, generator, *x.shape[:2], rows, columns)
    return 2 * (drawn < 0.5).to(x.dtype) - 1


def _window(
    x: Tensor, side: int, generator: torch.Generator | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Put a square at a random place: which pixels lie in it, and every pixel's place in it."""
    row, column = (
        torch.arange(n, device=x.device) - first[:, None]
        for n, first in zip(x.shape[2:], _corner(x, side, generator), strict=True)
    )
    row, column = row[:, None, :, None], column[:, None, None, :]  # (B, 1, H, 1), (B, 1, 1, W)
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return inside, (row.clamp(0, side - 1), column.clamp(0, side - 1))


def _corner(x: Tensor, side: int, generator: torch.Generator | None) -> list[Tensor]:
    """Draw the first row and the first column of a square, (B,) each."""
    return [
        (uniform * (length - side + 1)).long().clamp_max(length - side)
        for uniform, length in zip(_draw(x, generator, 2, len(x)), x.shape[2:], strict=True)
    ]


def _unit(v: Tensor) -> Tensor:
    """Divide every channel by its length; a channel of zeros stays."""
    return v / lengths(v, (2, 3)).clamp_min(torch.finfo(v.dtype).tiny)
