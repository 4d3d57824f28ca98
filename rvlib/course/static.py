"""The static export of an explorer: HTML with all its frames in it, for pages without a kernel."""

import base64
import hashlib
import html
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from IPython import get_ipython
from PIL import Image

Frame = tuple[np.ndarray, str]
"""Pixels (height, width, 3), uint8, and the sentence with the numbers that they show."""

TILES = 5
"""Tiles along either side of a picture; ``explorer.js`` knows this number, too."""
SCRIPT = Path(__file__).with_name("explorer.js")


def export(spec: Mapping[str, Any], frames: Mapping[tuple[int, ...], Frame]) -> str:
    """Write a self-contained piece of HTML that asks for nothing from anywhere.

    Parameters
    ----------
    spec : mapping
        Name, size and controls, as ``explorer.js`` reads them.
    frames : mapping of tuple of int to Frame
        By the position of every control.  That of their starts is a whole image, and stays where
        scripts are stripped.

    Returns
    -------
    str
        HTML.
    """
    first, text = frames[tuple(control["start"] for control in spec["controls"])]
    images = dict[str, int]()

    def parts(pixels: np.ndarray) -> list[list[int]]:
        differing = [
            (place, data_uri(tile))
            for place, tile in enumerate(tiles(difference(pixels, first)))
            if tile[..., 3].any()
        ]
        return [[place, images.setdefault(uri, len(images))] for place, uri in differing]

    keyed = {
        ",".join(map(str, key)): [parts(pixels), sentence]
        for key, (pixels, sentence) in frames.items()
    }
    data = ", ".join(map(_embed, (spec, list(images), keyed)))
    # By content, so that a notebook run again does not change.
    root = f"explorer-{hashlib.sha256(data.encode()).hexdigest()[:12]}"
    script = SCRIPT.read_text(encoding="utf-8").replace("</", "<\\/")
    alt = html.escape(text)
    return (
        f'<figure id="{root}" style="margin:0"><img src="{data_uri(first)}" alt="{alt}" '
        f'width="{spec["width"]}" height="{spec["height"]}"><figcaption>{alt}</figcaption>'
        f'</figure><script type="module">{script}\nstill("{root}", {data});</script>'
    )


def tiles(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a picture into 5 x 5 tiles, row by row: many frames have most of them in common."""
    for row in np.split(pixels, TILES):
        yield from np.split(row, TILES, axis=1)


def difference(pixels: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Keep the pixels that differ from the first frame's; the others become transparent black.

    Parameters
    ----------
    pixels, first : ndarray of shape (height, width, 3), uint8
        Two frames.

    Returns
    -------
    ndarray of shape (height, width, 4), uint8
        Laid over `first` it shows `pixels`, in a fraction of the bytes.
    """
    differs = (pixels != first).any(2, keepdims=True)
    return np.concatenate([pixels * differs, 255 * differs.astype(np.uint8)], 2)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image (height, width, 3 or 4), uint8, with Pillow's `options`."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **(options or {"compress_level": 1}))
    return content.getvalue()


def data_uri(pixels: np.ndarray) -> str:
    """Encode an image as a data URI."""
    content = encode(pixels, "WEBP", lossless=True, quality=30, method=1)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _embed(value: object) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def is_headless() -> bool:
    """Whether this notebook runs without a front end, to be saved as a page.

    ``RVLIB_STATIC`` (1 or 0) decides where it is set.  Otherwise the request that runs the cell
    does: only a front end, at which somebody sits, lets a cell ask for input.
    """
    if "RVLIB_STATIC" in os.environ:
        return os.environ["RVLIB_STATIC"] == "1"
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent().get("content", {}) if kernel else {}
    return request.get("allow_stdin") is False
