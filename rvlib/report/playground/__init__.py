"""The playground: one page that attacks networks and counts votes in any browser, from disk."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from rvlib import data
from rvlib.experiments import ALPHA, DATASET
from rvlib.pipeline import Run

NETWORKS = {
    "standard": "undefended",
    "pgd-linf-at": "adversarially trained (PGD l∞)",
    "mixed-at": "trained on three attacks (mixed)",
    "gaussian-0.25": "trained under noise, σ = 0.25",
}
"""Networks of the page, the first two side by side, and what it calls them."""

A_CLASS = 2
"""Test images of each class."""

FOLDER = Path(__file__).parent
ENGINE = ("network", "random", "attacks", "statistics", "smoothing")
PAGE = ("charts", "pictures", "side", "page")


def playground(home: str = "") -> str:
    """Write the playground as one page that asks for nothing from anywhere.

    Parameters
    ----------
    home : str, default=""
        Address of a page to go back to.

    Returns
    -------
    str
        HTML, with the shipped networks in half precision.  It has CIFAR-10 test images if they lie
        in the reader's data folder.
    """
    run = Run.open("lesson", "cpu")
    networks = [{"name": name, "title": title} for name, title in NETWORKS.items()]
    content: dict[str, Any] = {
        "alpha": ALPHA,
        "classes": data.DATASETS[DATASET].classes,
        "networks": networks,
        "weights": {name: halves(run, name) for name in NETWORKS},
        "pictures": _pictures(),
    }
    side = _read("side.html")
    parts = {
        "<!-- home -->": f'<a href="{home}">All pages</a>' if home else "",
        "<!-- sides -->": "".join(
            side.replace("{name}", name).replace("{field}", field)
            for name, field in (("First", "network"), ("Second", "second"))
        ),
        "/* style */": _read("style.css"),
        "/* engine */": scripts(ENGINE),
        "/* worker */": scripts(["worker"]),
        "/* page */": scripts(PAGE),
        "/* data */": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = _read("page.html")
    for mark, part in parts.items():
        page = page.replace(mark, part, 1)
    return page


def halves(run: Run, name: str) -> str:
    """Encode a network's parameters, layer by layer, as base64 of little-endian half precision."""
    values = [p.detach().numpy().ravel() for p in run.model(name).parameters()]
    return _base64(np.concatenate(values).astype("<f2"))


def scripts(names: Any) -> str:
    """Join script files; none of them has a word that would end the script it stands in."""
    return "\n".join(_read(f"{name}.js") for name in names)


def _pictures() -> list[dict[str, Any]]:
    """Encode the first test images of each class, if the reader has the data."""
    if data.find(DATASET) is None:
        return []
    images, labels = (part.numpy() for part in data.load(DATASET, "test"))
    chosen = np.concatenate([np.flatnonzero(labels == k)[:A_CLASS] for k in np.unique(labels)])
    return [
        {"label": int(labels[i]), "bytes": _base64(np.ascontiguousarray(images[i]))} for i in chosen
    ]


def _base64(array: Any) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
