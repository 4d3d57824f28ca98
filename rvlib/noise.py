"""Random streams addressed by what they are for, so that no result depends on batching."""

import hashlib

import torch


def stream(device: torch.device | str, *address: int | str) -> torch.Generator:
    """Open the random stream of an address.

    The same address always gives the same stream on the same kind of device; GPUs of another model
    may share out large draws otherwise.  Streams of different addresses have seeds from 63 bits of
    a SHA-256, of which torch's generator on a CPU uses 32: among m streams about m^2 / 2^33 pairs
    are alike.  None are among those that one seed's shared votes come from, selection and 100,000
    votes of each kind (tested for the first hundred seeds).

    Parameters
    ----------
    device : torch.device or str
        Where the numbers are drawn.
    *address : int or str
        What the stream is for: a seed, a purpose, an image's index, a chunk.

    Returns
    -------
    torch.Generator
        A fresh generator; the global random state is left alone.

    Examples
    --------
    >>> draws = [torch.rand(1, generator=stream("cpu", 0, "votes", image)) for image in (7, 8, 7)]
    >>> bool(draws[0] == draws[2]), bool(draws[0] == draws[1])
    (True, False)
    """
    for part in address:
        if not isinstance(part, int | str):
            raise TypeError(f"address {address}: {part!r} is {type(part).__name__}, not int or str")
    digest = hashlib.sha256(repr(address).encode()).digest()
    seed = int.from_bytes(digest[:8], "little") & (2**63 - 1)
    return torch.Generator(device).manual_seed(seed)
