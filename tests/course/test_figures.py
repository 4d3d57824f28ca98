"""rvlib.course.figures: pictures with everything in them, and words for who cannot see them."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from PIL import Image as Picture

from rvlib.course import figures
from rvlib.course.figures import CLASSES, show_curves
from rvlib.threat_models import L2, Linf, PixelL2
from tests.course.pictures import compare

X = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
X_ADV = X + 0.03 * torch.tensor([1.0, -1.0, 0.0])[:, None, None, None]
Y, ANSWERS = torch.tensor([0, 1, 2]), torch.tensor([0, 5, 6])
HISTORIES = {
    "standard": [{"natural": 0.5, "fgsm": 0.1}, {"natural": 0.6, "fgsm": 0.05}],
    "robust": [{"natural": 0.4, "fgsm": 0.3}],
}
PERCENT = {"a": [{"natural": 50.0, "pgd": 1.0}, {"natural": 48.0, "pgd": 9.0}]}
CURVE = {"n": 100, "radius": [0.0, 0.5, 1.0], "certified_accuracy": [60.0, 20.0, 0.0]}
CERTIFIED = pd.concat(
    pd.DataFrame(CURVE | {"panel": panel, "sigma": 0.25, "ci_low": 0.0, "ci_high": 70.0})
    for panel in "ab"
)
COUNTS = torch.tensor([10, 0, 60, 30, 0, 0, 0, 0, 0, 0])
BALLS: dict[str, Any] = {"l∞": Linf(0.045), "pixel": PixelL2(0.045), "l2": L2(0.045)}
ATTACKED = {name: ball.project(0.3 * (X[1:2] - 0.5))[0] + X[0] for name, ball in BALLS.items()}

SHOWN: dict[str, Any] = {
    "attack": lambda: figures.show_attack(X, X_ADV, Y, ANSWERS),
    "one attack without effect": lambda: figures.show_attack(X[:1], X[:1], Y[:1], Y[:1]),
    "balls": lambda: figures.show_balls(X[0], BALLS, ATTACKED, dict.fromkeys(BALLS, "cat")),
    "curves": lambda: show_curves([0, 1], {"a": [1, 2], "b": np.array([2, 3])}, "x", "y", "alt"),
    "marked": lambda: show_curves([1, 10], {"a": [1, 2]}, "x", "y", "alt", mark=3, log=True),
    "history": lambda: figures.show_history(HISTORIES, "fgsm"),
    "progress": lambda: figures.show_progress(PERCENT, 3, ["natural", "pgd"]),
    "nothing yet": lambda: figures.show_progress({}, 3, ["natural", "pgd"]),
    "votes": lambda: figures.show_votes(COUNTS, 3),
    "certified": lambda: figures.show_certified(CERTIFIED),
}
ALT = {
    "attack": ["3 images", "2 are misclassified", f"{CLASSES[1]} → {CLASSES[5]}"],
    "one attack without effect": ["1 images", "0 are misclassified"],
    "balls": ["l∞: largest change 0.045", f"norm {(ATTACKED['l2'] - X[0]).norm():.2f}", "cat"],
    "curves": ["alt"],
    "marked": ["alt"],
    "history": ["standard: clean 60.0 %, under fgsm 5.0 %", "robust: clean 40.0 %"],
    "progress": ["a: natural 48.0 %, pgd 9.0 %"],
    "nothing yet": ["Nothing is trained yet."],
    "votes": [f"{CLASSES[2]} 60, {CLASSES[3]} 30, {CLASSES[0]} 10", f"class is {CLASSES[3]}"],
    "certified": ["N = 100 votes", "60 % at radius 0 and none beyond 0.50 for σ = 0.25"],
}


@pytest.mark.parametrize("what", SHOWN)
def test_a_picture_with_its_alt_text(what, monkeypatch):
    image = SHOWN[what]()
    assert all(part in image.alt for part in ALT[what])
    bundles = {}
    for headless in "01":
        monkeypatch.setenv("RVLIB_STATIC", headless)
        bundles[headless], metadata = image._repr_mimebundle_()
        assert bundles[headless]["text/plain"] == metadata["image/png"]["alt"] == image.alt
    live, png = bundles["0"]["text/html"], bundles["1"]["image/png"]
    with Picture.open(io.BytesIO(base64.b64decode(png))) as picture:
        assert picture.format == "PNG"
        assert picture.width <= 720  # beside the side bar on a projector
        compare(what, np.asarray(picture.convert("RGB")))
    assert "text/html" not in bundles["1"]  # GitHub shows the PNG
    assert f'alt="{image.alt}"' in live  # JupyterLab reads the alternative text from HTML only
    assert bundles["0"]["image/png"] == png
    assert png in live
    assert not Gcf.figs  # nothing is left open


def test_the_attacked_image_stands_below_the_clean_one(monkeypatch):
    """Which the stored picture does not tell: they differ by less than a machine may."""
    monkeypatch.setattr(figures, "show_figure", lambda figure, alt: figure)
    axes = np.array(SHOWN["attack"]().axes).reshape(3, 3)
    for row, images in ((0, X), (2, X_ADV)):
        shown = np.asarray(axes[row, 1].images[0].get_array())
        assert shown == pytest.approx(images[1].permute(1, 2, 0).numpy())


def test_more_curves_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="6 curves"):
        show_curves([0, 1], {name: [1.0, 2.0] for name in "abcdef"}, "x", "y", "")
