"""Pictures as they were when somebody looked at them: layout and labels count, too.

After a change that is meant, ``RVLIB_PICTURES=write pytest tests/course`` draws them anew: look at
each before you commit it.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "golden" / "pictures"
FEW = 100
"""Pixels that may differ: another machine's rounding may move a line or turn a last digit."""


def compare(name, pixels):
    """Compare a picture (height, width, 3), uint8, with the stored one of its name."""
    path = FOLDER / f"{name}.webp"
    if os.environ.get("RVLIB_PICTURES") == "write":
        Image.fromarray(pixels).save(path, "WEBP", lossless=True, method=6)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape == expected.shape
    differ = (np.abs(pixels.astype(int) - expected) > 20).any(2).sum()
    assert differ <= FEW, f"{differ} pixels differ from {path}"
