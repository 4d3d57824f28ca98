"""A progress bar where a person watches, that goes away when the work is done."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a bar in a terminal or a live notebook, without one in logs and exports.

    Parameters
    ----------
    items : iterable
        The work.
    title : str
        What it is.
    total : int, optional
        How many there are, where `items` has no length.

    Returns
    -------
    iterable
        The same items.
    """
    kernel = sys.modules.get("ipykernel.kernelapp")  # may be loaded without one that runs
    running = kernel is not None and kernel.IPKernelApp.initialized()
    live = running and os.environ.get("RVLIB_STATIC") != "1"
    if not (live or sys.stderr.isatty()):
        return items
    if live:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm  # type: ignore[assignment]
    return tqdm(items, title, total, leave=False)
