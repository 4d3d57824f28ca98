"""rvlib.report.curves: certified radii that are known give curves that are known."""

import json
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from scipy.stats import binomtest, norm

from rvlib.recipes import ALPHA, SIGMA
from rvlib.report.curves import (
    certified_table,
    curve,
    draw_figure1,
    figure1_table,
    inside_table,
    radii,
    save_figure,
)
from rvlib.rows import RowsError, read_rows, rows_path

NS = (100, 1000)
# Label, selection, counts_100, counts_1000.
ROWS = (
    "0,0,100 0,100 0,1000 0",  # right, all votes agree: certified up to the cap
    "1,1,10 90,10 90,100 900",  # right
    "2,1,80 20,90 10,",  # selected wrongly: not sampled any further
    "3,1,45 55,50 50,500 500",  # selected rightly, too close to call
)


def radius(k, n, alpha=ALPHA, sigma=SIGMA):
    """The certified radius by SciPy's own Clopper-Pearson bound."""
    low = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    return max(0.0, sigma * norm.ppf(low))


def write(folder, sigma=SIGMA, lines=ROWS):
    path = rows_path(folder, "heldout", f"smoothed-{sigma:.2f}", 0, "certificates")
    path.parent.mkdir(parents=True)
    head = "# " + json.dumps({"identity": {"sigma": sigma}, "provenance": {}})
    path.write_text("\n".join([head, "index,label,selection,counts_100,counts_1000", *lines, ""]))
    return path


@pytest.fixture
def rows(tmp_path):
    return read_rows(write(tmp_path))


@pytest.fixture(scope="module")
def figure1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for sigma in (SIGMA, 0.5):
        write(folder, sigma)
    return figure1_table(folder, SIGMA, (SIGMA, 0.5), NS, 4)


# --- radii ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", NS)
def test_radii_of_known_votes(rows, n):
    expected = [radius(n, n), radius(9 * n // 10, n), -1, -1]
    assert radii(rows, n).tolist() == pytest.approx(expected)
    assert 0 < expected[1] < expected[0]


def test_alpha_is_passed_on(rows):
    assert radii(rows, 100, alpha=0.1)[0] > radii(rows, 100)[0]


@pytest.mark.parametrize("n", NS)
def test_when_all_were_selected_wrongly_nothing_is_certified(tmp_path, n):
    rows = read_rows(write(tmp_path, lines=["0,1,80 20,90 10,", "1,1,70 30,75 25,"]))
    assert radii(rows, n).tolist() == [-1, -1]


# --- inside the balls ----------------------------------------------------------------------------


def write_inside(folder, lines):
    path = rows_path(folder, "heldout", "smoothed-0.25", 0, "inside")
    path.parent.mkdir(parents=True)
    identity = {"ns": [100, 10_000], "n": 1000, "alpha": 0.001, "share": 0.99}
    head = "# " + json.dumps({"identity": identity, "provenance": {}})
    path.write_text("\n".join([head, "index,label,certified,radius,counts", *lines, ""]))


def test_what_became_of_attacked_balls_is_counted(tmp_path):
    lines = [
        "0,0,0,0.5,900 100",
        "1,0,0,0.1,510 490",  # too close to call
        "2,1,0,0.1,100 900",  # changed, whatever the label
        "3,1,,,",  # not certified
    ]
    write_inside(tmp_path, lines)
    (line,) = inside_table(tmp_path, [SIGMA], 4)
    assert line == {
        "sigma": "0.25",
        "certified_n": "10000",
        "votes": "1000",
        "images": "4",
        "attacked": "3",
        "share": "0.99",
        "stands": "1",
        "too_close": "1",
        "changed": "1",
        "false_expected": "0.01",
        "plausible": "1",
    }


def test_nothing_certified_is_nothing_attacked(tmp_path):
    write_inside(tmp_path, ["0,0,,,", "1,0,,,"])
    (line,) = inside_table(tmp_path, [SIGMA], 2)
    assert (line["attacked"], line["changed"], line["false_expected"]) == ("0", "0", "0.00")
    assert line["plausible"] == "0"


# --- curves --------------------------------------------------------------------------------------


def share_at(table, at):
    return next(row["certified_accuracy"] for row in table if float(row["radius"]) >= at)


@pytest.mark.parametrize("n", NS)
def test_a_curve_known_by_heart(rows, n):
    table = curve("a", rows, n)
    near, far = radius(9 * n // 10, n), radius(n, n)
    assert {(row["panel"], row["sigma"], row["n"]) for row in table} == {("a", "0.25", str(n))}
    assert list(table[0].values())[3:] == ["0.0000", "50.00", "15.00", "85.00"]
    for row in table:
        expected = 50 if float(row["radius"]) < near - 1e-3 else 25
        if abs(float(row["radius"]) - near) > 1e-3 and row is not table[-1]:
            assert float(row["certified_accuracy"]) == expected, row
    # The last but one is the cap, which all votes together reach; beyond it is nothing.
    assert float(table[-2]["radius"]) == pytest.approx(far, abs=1e-4)
    assert table[-2]["certified_accuracy"] == "25.00"
    assert table[-1]["certified_accuracy"] == "0.00"
    assert float(table[-1]["radius"]) > far


@pytest.mark.parametrize("n", NS)
def test_a_printed_radius_is_never_above_the_true_one(rows, n):
    found = radii(rows, n)
    for row in curve("a", rows, n):
        printed, share = float(row["radius"]), float(row["certified_accuracy"])
        assert share <= 100 * (found >= printed).mean() + 1e-9, row
    assert float(curve("a", rows, n)[-2]["radius"]) <= radius(n, n)


def test_radii_are_printed_in_even_steps(rows):
    printed = [row["radius"] for row in curve("a", rows, 1000)]
    assert printed[:-2] == [f"{i / 100:.4f}" for i in range(len(printed) - 2)]


def test_skipped_images_count_as_wrong(tmp_path):
    rows = read_rows(write(tmp_path, lines=[*ROWS, "4,1,80 20,90 10,", "5,1,80 20,90 10,"]))
    table = curve("a", rows, 1000)
    assert table[0]["certified_accuracy"] == "33.33"  # two of six
    assert table[-2]["certified_accuracy"] == "16.67"


def test_a_curve_never_rises(rows):
    shares = [float(row["certified_accuracy"]) for row in curve("a", rows, 100)]
    assert shares == sorted(shares, reverse=True)


# --- tables --------------------------------------------------------------------------------------


def test_figure1_has_a_curve_a_number_and_a_curve_a_noise_level(figure1):
    curves = list(dict.fromkeys((row["panel"], row["sigma"], row["n"]) for row in figure1))
    assert curves == [
        ("a", "0.25", "100"),
        ("a", "0.25", "1000"),
        ("b", "0.25", "1000"),
        ("b", "0.50", "1000"),
    ]
    assert list(figure1[0]) == ("panel,sigma,n,radius,certified_accuracy,ci_low,ci_high".split(","))


def test_certified_table_known_by_heart(tmp_path):
    write(tmp_path)
    near, far = radius(900, 1000), radius(1000, 1000)  # 0.29 and 0.61
    line = certified_table(tmp_path, (SIGMA,), NS, (0.0, 0.25, 0.5, 1.0), 4)[1]
    assert line == {
        "sigma": "0.25",
        "n": "1000",
        "images": "4",
        "r=0": "50.00",
        "r=0.25": "50.00",
        "r=0.5": "25.00",
        "r=1": "0.00",
        "ACR": "0.223",  # 0.2236, rounded down
        "cap": "0.61",
        "false_expected": "0.004",
    }
    assert float(line["cap"]) <= far
    assert 0.2235 < (near + far) / 4 < 0.224


def test_jointly_the_certificates_are_those_of_alpha_by_n(tmp_path):
    write(tmp_path)
    line = certified_table(tmp_path, (SIGMA,), NS, (0.0, 0.6), 4, ALPHA / 4)[1]
    near, far = radius(900, 1000, ALPHA / 4), radius(1000, 1000, ALPHA / 4)
    assert line["ACR"] == f"{math.floor(250 * (near + far)) / 1000:.3f}"
    assert line["false_expected"] == f"{ALPHA:g}"
    assert float(line["cap"]) <= far < radius(1000, 1000)


@pytest.mark.parametrize("make", [figure1_table, certified_table])
def test_missing_or_short_rows_give_no_table(tmp_path, make):
    def call(count):
        if make is figure1_table:
            return figure1_table(tmp_path, SIGMA, (SIGMA,), NS, count)
        return certified_table(tmp_path, (SIGMA,), NS, (0.0,), count)

    with pytest.raises(RowsError, match="is missing"):
        call(4)
    write(tmp_path)
    with pytest.raises(RowsError, match="holds 4 of 5 rows"):
        call(5)
    assert call(4)


# --- the figure ----------------------------------------------------------------------------------


def test_the_figure_has_two_panels_with_their_caps(figure1):
    figure = draw_figure1(figure1)
    left, right = figure.axes
    assert "0.25" in left.get_title()
    assert "1 000" in right.get_title()
    caps = {
        left: [radius(n, n) for n in NS],
        right: [radius(1000, 1000, sigma=sigma) for sigma in (SIGMA, 0.5)],
    }
    for axes, expected in caps.items():
        lines = [line for line in axes.lines if np.size(line.get_xydata())]
        marks = [line for line in lines if line.get_marker() == "v"]
        x, y = np.concatenate([line.get_xydata() for line in marks]).T
        assert x == pytest.approx(expected, abs=1e-4)
        assert y.tolist() == [0, 0]
        assert len(lines) - len(marks) == len(axes.collections) == 2  # curves, their intervals
        assert axes.get_xlabel() == "l2 radius (pixel units)"
    legend = left.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["N = 100", "N = 1 000", "largest radius N allows"]


def test_a_curve_in_the_figure_is_its_table(figure1):
    left = draw_figure1(figure1).axes[0]
    rows = [row for row in figure1 if row["panel"] == "a" and row["n"] == "100"]
    columns = ("radius", "certified_accuracy")
    points = [[float(row[column]) for column in columns] for row in rows]
    assert np.asarray(left.lines[0].get_xydata()).tolist() == points


def test_figures_are_not_left_open(figure1):
    before = len(Gcf.figs)
    draw_figure1(figure1)
    assert len(Gcf.figs) == before


def test_the_same_data_give_the_same_bytes(figure1, tmp_path):
    figure = draw_figure1(figure1)
    save_figure(figure, tmp_path / "first" / "figure1")
    save_figure(figure, tmp_path / "again" / "figure1")
    save_figure(draw_figure1(figure1), tmp_path / "anew" / "figure1")
    names = {f"figure1.{suffix}" for suffix in ("pdf", "svg", "png")}
    assert {path.name for path in (tmp_path / "first").iterdir()} == names
    for name in names:
        content = (tmp_path / "first" / name).read_bytes()
        assert content == (tmp_path / "again" / name).read_bytes(), name
        assert content == (tmp_path / "anew" / name).read_bytes(), name
    picture = matplotlib.image.imread(tmp_path / "first" / "figure1.png")
    assert np.ptp(picture) > 0
