"""rvlib.course.figures: pictures with everything in them, and words for who cannot see them."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from PIL import Image as Picture

from rvlib.course import figures
from rvlib.course.figures import (
    CLASSES,
    show_attack,
    show_balls,
    show_certified,
    show_curves,
    show_history,
    show_progress,
    show_votes,
)
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
BALLS: dict[str, Linf | PixelL2 | L2] = {
    "l∞": Linf(0.045),
    "pixel": PixelL2(0.045),
    "l2": L2(0.045),
}
ATTACKED = {name: ball.project(0.3 * (X[1:2] - 0.5))[0] + X[0] for name, ball in BALLS.items()}

SHOWN = {
    "attack": lambda: show_attack(X, X_ADV, Y, ANSWERS),
    "one attack without effect": lambda: show_attack(X[:1], X[:1], Y[:1], Y[:1]),
    "balls": lambda: show_balls(X[0], BALLS, ATTACKED, dict.fromkeys(BALLS, "cat")),
    "curves": lambda: show_curves([0, 1], {"a": [1, 2], "b": np.array([2, 3])}, "x", "y", "alt"),
    "marked": lambda: show_curves([1, 10], {"a": [1, 2]}, "x", "y", "alt", mark=3, log=True),
    "history": lambda: show_history(HISTORIES, "fgsm"),
    "progress": lambda: show_progress(PERCENT, 3, ["natural", "pgd"]),
    "nothing yet": lambda: show_progress({}, 3, ["natural", "pgd"]),
    "votes": lambda: show_votes(COUNTS, 3),
    "certified": lambda: show_certified(CERTIFIED),
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


@pytest.fixture
def drawn(monkeypatch):
    """The figures behind the pictures."""
    found = []
    monkeypatch.setattr(figures, "show_figure", lambda figure, alt: found.append(figure))
    return found


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


@pytest.mark.parametrize("what", SHOWN)
def test_text_can_be_read_from_the_back_row(what, drawn):
    SHOWN[what]()
    texts = drawn[0].findobj(lambda artist: hasattr(artist, "get_fontsize"))
    width = drawn[0].get_figwidth()
    assert width <= 8
    assert min(text.get_fontsize() for text in texts if text.get_text().strip()) >= 13


def test_what_a_ball_looks_like_in_two_channels(drawn):
    SHOWN["balls"]()
    top = np.array(drawn[0].axes).reshape(3, 3)[0]
    for axes, (name, ball) in zip(top, BALLS.items(), strict=True):
        (shape,), (dots,) = axes.patches, axes.lines
        assert type(shape).__name__ == ("Rectangle" if name == "l∞" else "Circle")
        assert shape.get_width() == pytest.approx(2 * 0.045)
        change = (ATTACKED[name] - X[0])[:2].flatten(1)
        np.testing.assert_allclose(np.array(dots.get_data()), change, atol=1e-6)
        assert ball.norm((ATTACKED[name] - X[0])[None]).item() <= 0.0451


def test_an_attack_has_three_rows(drawn):
    SHOWN["attack"]()
    axes = np.array(drawn[0].axes).reshape(3, 3)
    assert [ax.get_title() for ax in axes[0]] == [CLASSES[i] for i in (0, 1, 2)]
    assert [ax.get_title() for ax in axes[2]] == [CLASSES[i] for i in (0, 5, 6)]
    pixels = np.array([[np.asarray(ax.images[0].get_array()) for ax in row] for row in axes])
    # Up by the largest change is white, down is black, nothing is grey.
    for image, value in zip(pixels[1], (1, 0, 0.5), strict=True):
        assert image == pytest.approx(value, abs=1e-5)
    assert pixels[0, 1] == pytest.approx(X[1].permute(1, 2, 0).numpy())
    assert pixels[2, 1] == pytest.approx(X_ADV[1].permute(1, 2, 0).numpy())
    assert "0.030" in axes[1, 0].get_ylabel()


def test_curves_are_told_apart_without_colour(drawn):
    curves = {name: [1.0, 2.0] for name in "abcde"}
    show_curves([0, 1], curves, "radius", "accuracy, %", "")
    (axes,) = drawn[0].axes
    assert [line.get_label() for line in axes.lines] == list(curves)
    looks = {(str(line.get_linestyle()), line.get_marker()) for line in axes.lines}
    assert len({marker for _, marker in looks}) == len(curves)
    assert len({line.get_color() for line in axes.lines}) == len(curves)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("radius", "accuracy, %")


def test_more_curves_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="6 curves"):
        show_curves([0, 1], {name: [1.0, 2.0] for name in "abcdef"}, "x", "y", "")


def test_a_value_can_be_marked_on_a_logarithmic_axis(drawn):
    SHOWN["marked"]()
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert list(axes.lines[-1].get_xdata()) == [3, 3]


def test_history_in_percent_and_dashed_under_the_probe(drawn):
    SHOWN["history"]()
    lines = drawn[0].axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[1, 2], [1, 2], [1], [1]]
    assert [list(line.get_ydata()) for line in lines] == [[50, 60], [10, 5], [40], [30]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()


def test_votes_are_bars_and_the_true_class_is_hatched(drawn):
    SHOWN["votes"]()
    bars = drawn[0].axes[0].patches
    assert [bar.get_height() for bar in bars] == COUNTS.tolist()
    assert [i for i, bar in enumerate(bars) if bar.get_hatch()] == [3]
