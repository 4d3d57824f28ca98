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
    live = "ipykernel" in sys.modules and not os.environ.get("RVLIB_STATIC")
    if not (live or sys.stderr.isatty()):
        return items
    if live:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm(items, title, total, leave=False)
