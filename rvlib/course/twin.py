"""The static twin of an explorer: HTML with all its frames in it, for pages without a kernel."""

import base64
import hashlib
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Frame = tuple[np.ndarray, str]
"""Pixels (height, width, 3), uint8, and the sentence that says what they show."""

GAP = 6
"""Still rows or columns that separate two patches."""


class Control(NamedTuple):
    """What the hand moves.

    Parameters
    ----------
    label : str
        What stands beside it.
    words : list of str
        How each position is read out; where there is only one, it cannot be moved.
    menu : bool
        A menu; otherwise a slider.
    """

    label: str
    words: list[str]
    menu: bool


class Box(NamedTuple):
    """A rectangle of pixels; the ends are outside."""

    top: int
    bottom: int
    left: int
    right: int


# One script a twin: an output of a notebook stands alone.
SCRIPT = """
(() => {
  // A page may hold the same twin twice: each script takes one that none has taken.
  const root = document.querySelector("[id=ROOT]:not([data-moves])");
  const {boxes, patches, frames} = DATA;
  root.dataset.moves = "";
  root.querySelector(".still").remove();
  const inputs = [...root.querySelectorAll("input, select")];
  const image = root.querySelector("img"), status = root.querySelector("[role=status]");
  const parts = boxes.map(([top, bottom, left, right]) => {
    const part = Object.assign(new Image(right - left, bottom - top), {alt: ""});
    part.style.cssText = `position:absolute;max-width:none;margin:0;left:${left}px;top:${top}px`;
    return image.parentNode.appendChild(part);
  });
  const show = () => {
    const [which, words] = frames[inputs.map(input => input.value).join()];
    parts.forEach((part, i) => { part.src = patches[which[i]]; });
    image.alt = status.textContent = words;
    inputs.forEach(input => {
      const text = JSON.parse(input.dataset.words)[input.value];
      input.setAttribute("aria-valuetext", text);
      if (input.nextElementSibling) input.nextElementSibling.textContent = text;
    });
  };
  inputs.forEach(input => { input.disabled = false; input.addEventListener("input", show); });
  show();
})();
"""

STILL = "This picture moves under its sliders where scripts may run."


def twin(
    name: str,
    controls: Sequence[Control],
    frames: Mapping[tuple[int, ...], Frame],
    start: tuple[int, ...],
) -> str:
    """Write the twin: a self-contained piece of HTML that asks for nothing from anywhere.

    Only what moves is stored for each frame, cut into patches, and equal patches once.

    Parameters
    ----------
    name : str
        Name of the explorer: class of the twin.
    controls : sequence of Control
        What the hand moves.
    frames : mapping of tuple of int to Frame
        By the position of every control.
    start : tuple of int
        The first frame: where scripts are stripped it stays.

    Returns
    -------
    str
        HTML.
    """
    first, words = frames[start]
    boxes = patch_boxes(np.stack([pixels for pixels, _ in frames.values()]))
    patches: dict[bytes, int] = {}
    images: list[str] = []

    def number(pixels: np.ndarray) -> int:
        key = pixels.tobytes()
        if key not in patches:
            patches[key] = len(images)
            images.append(data_uri(pixels, "WEBP", lossless=True, quality=30, method=1))
        return patches[key]

    keyed = {
        ",".join(map(str, key)): [
            [number(pixels[b.top : b.bottom, b.left : b.right]) for b in boxes],
            text,
        ]
        for key, (pixels, text) in frames.items()
    }
    data = _embed({"boxes": boxes, "patches": images, "frames": keyed})
    # By content, so that a notebook run again does not change.
    root = f"twin-{hashlib.sha256(data.encode()).hexdigest()[:12]}"
    script = SCRIPT.replace("ROOT", root).replace("DATA", data)
    height, width = first.shape[:2]
    source = data_uri(first, "WEBP", lossless=True, quality=30, method=1)
    rows = "".join(_row(control, at) for control, at in zip(controls, start, strict=True))
    text = html.escape(words)
    return (
        f'<figure id="{root}" class="twin twin-{name}" style="margin:0;font-size:16px">{rows}'
        '<div style="position:relative;overflow-x:auto">'
        f'<img src="{source}" alt="{text}" width="{width}" height="{height}" '
        'style="max-width:none;margin:0;display:block"></div>'
        f'<figcaption role="status" style="max-width:{width}px">{text}</figcaption>'
        f'<small class="still">{STILL}</small></figure><script>{script}</script>'
    )


def patch_boxes(frames: np.ndarray) -> list[Box]:
    """Find the rectangles outside of which all frames are the same.

    Parameters
    ----------
    frames : ndarray of shape (F, height, width, 3), uint8
        The frames.

    Returns
    -------
    list of Box
        Apart from one another by at least ``GAP`` still rows or columns.
    """
    moves = np.zeros(frames.shape[1:3], dtype=bool)
    for frame in frames[1:]:
        moves |= (frame != frames[0]).any(2)
    return list(_cut(moves, 0, 0))


def _cut(moves: np.ndarray, top: int, left: int) -> Iterator[Box]:
    """Cut a mask at its gaps, along rows and columns in turn, until there are none."""
    parts = [
        (rows, columns) for rows in _runs(moves.any(1)) for columns in _runs(moves[rows].any(0))
    ]
    for rows, columns in parts:
        y, x = top + rows.start, left + columns.start
        if len(parts) == 1:
            yield Box(y, top + rows.stop, x, left + columns.stop)
        else:
            yield from _cut(moves[rows, columns], y, x)


def _runs(moves: Any) -> list[slice]:
    """Stretches of a line in which something moves, apart by at least ``GAP``."""
    at = np.flatnonzero(moves)
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > GAP)
    starts, ends = [at[0], *at[breaks + 1]], [*at[breaks], at[-1]]
    return [slice(int(a), int(b) + 1) for a, b in zip(starts, ends, strict=True)]


def data_uri(pixels: np.ndarray, kind: str, **options: Any) -> str:
    """Encode an image as a data URI.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), uint8
        The image.
    kind : str
        ``PNG`` or ``WEBP``.
    **options
        Pillow's for that format.

    Returns
    -------
    str
        ``data:image/png;base64,...``
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _embed(value: object) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _row(control: Control, at: int) -> str:
    words = [html.escape(word) for word in control.words]
    data = f"data-words='{html.escape(json.dumps(control.words, ensure_ascii=False))}' disabled"
    if len(words) == 1:
        # Nothing to choose: only said.
        field = f'<input type="hidden" value="0" {data}><output>{words[0]}</output>'
    elif control.menu:
        options = "".join(
            f'<option value="{i}"{" selected" if i == at else ""}>{word}</option>'
            for i, word in enumerate(words)
        )
        field = f"<select {data}>{options}</select>"
    else:
        field = (
            f'<input type="range" min="0" max="{len(words) - 1}" value="{at}" {data} '
            f'aria-valuetext="{words[at]}" style="width:20em;vertical-align:middle"> '
            f"<output>{words[at]}</output>"
        )
    label = html.escape(control.label)
    return (
        '<label style="display:block;margin:0.2em 0">'
        f'<span style="display:inline-block;width:11em">{label}</span>{field}</label>'
    )
