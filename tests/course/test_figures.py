"""rvlib.course.figures: pictures with everything in them, and words for who cannot see them."""

import io

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from PIL import Image as Picture

from rvlib.course import figures, show_attack, show_curves, show_history, show_votes
from rvlib.data import CLASSES

X = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
X_ADV = X + 0.03 * torch.tensor([1.0, -1.0, 0.0])[:, None, None, None]
Y, ANSWERS = torch.tensor([0, 1, 2]), torch.tensor([0, 5, 6])
HISTORIES = {
    "standard": [{"natural": 0.5, "fgsm": 0.1}, {"natural": 0.6, "fgsm": 0.05}],
    "robust": [{"natural": 0.4, "fgsm": 0.3}],
}
COUNTS = torch.tensor([10, 0, 60, 30, 0, 0, 0, 0, 0, 0])

SHOWN = {
    "attack": lambda: show_attack(X, X_ADV, Y, ANSWERS),
    "one attack without effect": lambda: show_attack(X[:1], X[:1], Y[:1], Y[:1]),
    "curves": lambda: show_curves([0, 1], {"a": [1, 2], "b": np.array([2, 3])}, "x", "y", "alt"),
    "marked": lambda: show_curves([1, 10], {"a": [1, 2]}, "x", "y", "alt", mark=3, log=True),
    "history": lambda: show_history(HISTORIES, "fgsm"),
    "votes": lambda: show_votes(COUNTS, 3),
}
ALT = {
    "attack": "3 images, their perturbations, attacked: 2 are misread.",
    "one attack without effect": "1 images, their perturbations, attacked: 0 are misread.",
    "curves": "alt",
    "marked": "alt",
    "history": "Accuracy by epoch of standard, robust; dashed under fgsm.",
    "votes": f"Votes by class; {CLASSES[2]} leads, the true class is {CLASSES[3]}.",
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures behind the pictures."""
    found = []
    monkeypatch.setattr(figures, "show_figure", lambda figure, alt: found.append(figure))
    return found


@pytest.mark.parametrize("what", SHOWN)
def test_a_picture_with_its_alt_text(what):
    before = len(Gcf.figs)
    image = SHOWN[what]()
    assert image.alt == ALT[what]
    bundle, metadata = image._repr_mimebundle_()
    assert bundle["image/png"]
    assert metadata["image/png"]["alt"] == ALT[what]
    with Picture.open(io.BytesIO(image.data)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 150
    assert len(Gcf.figs) == before  # not left open


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


def test_no_curve_is_left_out(drawn):
    curves = {name: [1.0, 2.0] for name in "abcdef"}
    try:
        show_curves([0, 1], curves, "x", "y", "")
    except ValueError:
        return  # refusing is as good
    assert [line.get_label() for line in drawn[0].axes[0].lines] == list(curves)


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
