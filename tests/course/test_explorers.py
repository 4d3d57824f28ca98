"""The explorers: one law for all, and for each that its numbers are the library's."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from PIL import Image
from scipy.stats import binomtest

import rvlib as rv
from rvlib import course
from rvlib.course import lessons
from rvlib.course.explorer import MAX_EXPORTED
from rvlib.course.explorers import certification, pgd, smoothing, training
from rvlib.course.figures import CLASSES
from rvlib.course.lessons import ShortTraining
from rvlib.data import DataError
from rvlib.experiments import ALPHA, PGD_STEPS, REPORT_TABLE1, gaussian_name
from rvlib.pipeline import Run
from rvlib.report import part_two
from rvlib.smoothing import correct_radii, lower_confidence_bound, sample_under_noise
from tests.course.pictures import compare

NAMES = "fgsm,pgd,attacks,training,mixing,smoothing,certification,results,noise,modern".split(",")
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
RANDOM = pd.DataFrame(
    [
        {"sigma": s, "averaged": m, "clean": 60 - 40 * s, "attacked": 5 + 40 * s - 2 * s * m**0.5}
        for s in lessons.TEST_SIGMAS
        for m in lessons.AVERAGED
    ]
)
COMPARED = pd.DataFrame(
    [
        {"network": network, "attack": attack, "steps": n, "accuracy": 31 - j / 2 - 5 * k - n / 10}
        for j, network in enumerate(lessons.COMPARED)
        for k, attack in enumerate([*lessons.LONGER, lessons.ENSEMBLE])
        for n in lessons.BUDGETS
    ]
)
TRAININGS = [
    ShortTraining("α = 1", [], [60.0, 40.0, 20.0, 10.0, 5.0]),
    ShortTraining("α = 0", [], [50.0, 45.0, 40.0, 35.0, 30.0]),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVLIB_BUILD", str(tmp_path_factory.mktemp("build")))
        yield Run.open("smoke", "cpu", root=Path(__file__).parents[2])


@pytest.fixture(scope="module")
def all_of_them(run):
    made = {}

    def get(name):
        if name not in made:
            given = {"mixing": (run, TRAININGS), "noise": (run, RANDOM), "attacks": (COMPARED, 256)}
            made[name] = getattr(course, f"explore_{name}")(*given.get(name, (run,)))
        return made[name]

    return get


def controls(explorer):
    return {control.name: control for control in explorer._controls}


def at(explorer, **values):
    """Positions of some values; of the other controls the start."""
    return [c.values.index(values.get(c.name, c.values[c.start])) for c in explorer._controls]


@pytest.fixture
def say(all_of_them):
    """The sentence of an explorer at some values, and at the start of its other controls."""

    def say(name, /, **values):
        explorer = all_of_them(name)
        return explorer.draw(at(explorer, **values))[1]

    return say


# --- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_control_moves_the_picture_and_back(name, all_of_them):
    explorer = all_of_them(name)
    start = at(explorer)
    first = explorer.draw(start)
    assert first[0].shape == (400, 720, 3)  # seen whole on a projector, beside the side bar
    assert 4 <= math.prod(len(c.kept) for c in explorer._controls) <= MAX_EXPORTED
    for k, control in enumerate(explorer._controls):
        last = len(control.values) - 1
        for other in {(control.start + 1) % (last + 1), last} - {control.start}:
            pixels, text = explorer.draw([*start[:k], other, *start[k + 1 :]])
            assert (pixels != first[0]).any(), f"{control.name} moves nothing"
            assert text != first[1]
    again = explorer.draw(start)
    assert again[1] == first[1]
    assert (again[0] == first[0]).all()
    assert not Gcf.figs  # pyplot knows of none


@pytest.mark.parametrize("name", sorted({*NAMES} - {"mixing", "noise", "results"}))
def test_the_notebooks_pages_have_todays_controls(name, all_of_them):
    pages = "".join(path.read_text() for path in NOTEBOOKS.glob("*.ipynb"))
    pattern = rf'still\(\\"[^{{]*({{\\"name\\":\\"{name}\\".*?}}), \['
    (spec,) = re.findall(pattern, pages)
    for shown, control in zip(
        json.loads(json.loads(f'"{spec}"'))["controls"], all_of_them(name)._controls, strict=True
    ):
        if control.name not in {"image", "copies"}:  # which depend on the profile
            expected = control.spec(control.kept)
            assert {key: shown[key] for key in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_pictures_look_as_they_did(name, all_of_them):
    explorer = all_of_them(name)
    start = at(explorer)
    for what, positions in {
        "start": start,
        "end": [-1] * len(start),
        "zero": [0] * len(start),
    }.items():
        compare(f"{name}-{what}", explorer.draw(positions)[0])


def test_the_explorers_that_the_teaching_guide_names_blink_and_play(all_of_them):
    blink, play = (
        [name for name in NAMES if any(getattr(c, flag) for c in all_of_them(name)._controls)]
        for flag in ("blinks", "plays")
    )
    assert (blink, play) == (["fgsm", "training"], ["pgd"])


def test_a_picture_of_your_own_is_attacked_first(run, tmp_path):
    with pytest.raises(DataError, match="no readable image"):
        course.explore_fgsm(run, picture=tmp_path / "missing.png")
    wide = np.full((64, 200, 3), (200, 30, 30), np.uint8)
    wide[:, :60] = 0  # cut off: only the middle square is shown
    Image.fromarray(wide).save(tmp_path / "mine.png")
    explorer = course.explore_fgsm(run, picture=str(tmp_path / "mine.png"))
    other = course.explore_fgsm(run)
    assert len(controls(explorer)["image"].values) == len(controls(other)["image"].values) + 1
    red = torch.tensor([200, 30, 30]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    seen = lessons.probabilities(run.model("standard"), red)[0]
    _, text = explorer.draw(at(explorer, image=0, level=0.0))
    assert f"the true class, {CLASSES[int(seen.argmax())]}," in text
    assert f"(clean {100 * float(seen.max()):.1f} %)" in text


def test_images_that_fall_are_shown_first_from_the_clearest_on(say):
    texts = [say("fgsm", image=k) for k in range(6)]
    clean = [float(re.findall(r"clean ([\d.]+) %", text)[0]) for text in texts]
    named = [re.findall(r"class, (\w+),.* prediction is (\w+)", text)[0] for text in texts]
    stands = [true == answer for true, answer in named]
    assert stands == sorted(stands)
    assert not stands[0]
    fallen = clean[: stands.count(False)]
    assert fallen == sorted(fallen, reverse=True)


def test_some_numbers_of_copies_are_exported(all_of_them):
    copies = controls(all_of_them("smoothing"))["copies"]
    assert [copies.values[k] for k in copies.kept] == [100, 500, 1000]


@pytest.mark.parametrize("name", NAMES)
def test_the_sentence_says_where_every_control_stands(name, all_of_them):
    explorer = all_of_them(name)
    for positions in (at(explorer), [-1] * len(explorer._controls)):
        text = explorer.draw(positions)[1]
        for control, position in zip(explorer._controls, positions, strict=True):
            word = control.texts[position].removeprefix("the ").removesuffix(" ball")
            if control.name == "portion":
                continue  # said as the length of a step
            if control.name == "sigma":
                word = str(control.values[position])
            assert re.sub(r"^\d+: ", "", word) in text


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 3.0, 8.0])
def test_fgsm(level, say, run):
    text = say("fgsm", image=1, level=level)
    model, (x, y) = run.model("standard"), run.images(run.profile.live)
    ball = rv.Linf(level / 255)
    attacked = rv.fgsm(model, x, y, ball) if level else x
    assert f"{lessons.percent_correct(model, attacked, y):.0f} %." in text
    right = (lessons.answers(model, x) == y).nonzero()[:6, 0]
    clean = [
        f"(clean {100 * float(p.max()):.1f} %)" in text
        for p in lessons.probabilities(model, x[right])
    ]
    second = right[clean.index(True)]
    p = lessons.probabilities(model, attacked[second : second + 1])[0]
    assert f"has probability {100 * float(p[y[second]]):.1f} %" in text
    assert f"the prediction is {CLASSES[int(p.argmax())]}" in text


@pytest.mark.parametrize("norm", pgd.BALLS)
def test_pgd(norm, say, run):
    model, eps = run.model("standard"), 0.1
    x, y = (part[:1] for part in lessons.classified_correctly(model, *run.images(32)))
    ball = pgd.BALLS[norm](eps)
    found = pgd.walk(model, x, y, ball, 0.25 * eps, points=5)
    expected = rv.pgd(model, x, y, ball, step_size=0.25 * eps, random_start=False)
    torch.testing.assert_close(found.stops[-1:], expected, atol=1e-6, rtol=0)
    assert len(found.stops) == PGD_STEPS + 1
    torch.testing.assert_close(found.stops[:1], x)
    text = say("pgd", norm=norm, eps=eps, step=PGD_STEPS)
    assert f"loss {lessons.losses(model, expected, y).item():.2f}" in text
    assert f"norm of the perturbation: {(expected - x).norm():.2f}" in text
    # Both maps begin at the image; the plane holds the path's end, at its true distance.
    np.testing.assert_allclose([found.path[0], found.channels[0]], 0, atol=1e-6)
    with rv.eval_mode(model):
        step = eps * ball.steepest(rv.input_gradient(model, x, y))
    length = float((found.stops[-1] - x[0]).norm() / step.norm())
    assert np.linalg.norm(found.path[-1]) == pytest.approx(length, rel=1e-3)
    inside = abs(found.channels).max(1) if norm == "l∞" else np.linalg.norm(found.channels, axis=1)
    assert inside.max() <= 1 + 1e-5


def test_training(say, run):
    x, y = run.images(run.profile.live)
    for multiple in (0.0, 1.0):
        text = say("training", trained="mixed-at", norm="l2", multiple=multiple)
        balls = [rv.L2(0.5 * m) for m in training.MULTIPLES if m <= multiple]
        expected = lessons.robust_curve(run.model("mixed-at"), x, y, balls)[-1]
        assert f"accuracy {expected:.0f} % on {len(y)} images" in text


@pytest.mark.parametrize(
    ("name", "chosen", "said"),
    [
        ("mixing", {"name": "α = 0", "eps": 0.02}, "50.0 %; .* is 40.0 %. .* 20.0 % and .* 40.0 %"),
        (
            "noise",
            {"sigma": 0.25, "averaged": 16},
            " 5.0 % without .* 15.0 % with .* leaves 13.0 %",
        ),
        ("noise", {"sigma": 0.5, "averaged": 0}, "of 25.0 % with it; .* averages over: none"),
        ("attacks", {"network": "mixed-at", "steps": 50}, "25.0 %, .*ratio. 10.0 %, the .* 0.0 %"),
    ],
)
def test_the_sentence_tells_what_was_measured(name, chosen, said, say, run):
    text = say(name, **chosen)
    assert re.search(said, text)
    assert f"{256 if name == 'attacks' else run.profile.heldout} images" in text


def test_smoothing(say, run):
    x, y = run.images(2)
    counts = sample_under_noise(run.model(gaussian_name(0.5)), x[1:], 0.5, 1000)[0]
    text = say("smoothing", image=1, sigma=0.5, copies=1000)
    a, b = counts.argsort(descending=True)[:2]
    assert f"class {CLASSES[y[1]]}: {counts[a]} votes for {CLASSES[a]}, {counts[b]} for" in text
    clear = binomtest(int(counts[a]), int(counts[a] + counts[b])).pvalue <= ALPHA
    assert ("abstains" in text) == (not clear)


def test_verdicts_and_powers():
    assert smoothing._verdict(-1, 3) == "abstains"
    assert smoothing._verdict(3, 3) == "predicts cat, correctly"
    assert smoothing._verdict(4, 3) == "predicts deer, wrongly"
    assert [smoothing._power(p) for p in (0.5, 1.23e-5, 1e-200)] == ["0.5", "1e-5", "below 1e-99"]


def test_certification(say, run):
    text = say("certification", share=0.9, alpha=0.01, sigma=0.5, n=1000)
    p = float(lower_confidence_bound(900, 1000, 0.01))
    assert f"p ≥ {int(p * 1e4) / 1e4:.4f}" in text
    assert f"R = {int(1000 * rv.certified_radius(p, 0.5)) / 1000:.3f}" in text
    assert f"possible R is {int(1000 * rv.largest_radius(1000, 0.01, 0.5)) / 1000:.3f}" in text
    x, y = run.images(run.profile.certified)
    found = rv.certify(run.model(gaussian_name(0.5)), x, 0.5, n=1000, alpha=0.01)
    share = (correct_radii(found, y.numpy()) >= certification.QUOTED).mean()
    assert f"{100 * share:.1f} % of {run.profile.certified} images" in text
    assert "nothing is certified" in say("certification", share=0.55, n=100)
    assert certification._down(0.12399) == "0.123"


def test_results(say, run):
    text = say("results", defence="standard", attack="pgd-linf")
    cell = run.accuracy("standard", "pgd-linf")
    low, high = cell.interval
    printed = REPORT_TABLE1["standard"]["pgd-linf"]
    assert f"{cell.percent:.2f} % on {cell.n} images ({low:.2f} to {high:.2f})" in text
    assert ("inside" in text) == (low <= printed <= high)
    assert "certified: none" in text
    assert "has no value" in say("results", defence="standard", attack="pgd-l2")
    assert "not measured" in say("results", defence="smoothed-0.25", attack="pgd-l2-small")


def test_with_more_networks_an_export_has_fewer_radii(run, monkeypatch):
    tables = part_two.shipped_tables(run.published.parent)
    accuracy = tables["accuracy"].assign(n=10, accuracy=50.0, ci_low=20.0, ci_high=80.0)
    certified = tables["certified"].assign(images=10, certified=50.0)
    tables |= {"accuracy": accuracy, "certified": certified}
    monkeypatch.setattr(part_two, "shipped_tables", lambda report: tables)
    explorer = course.explore_modern(run)
    assert "not measured" not in explorer.draw(at(explorer, network="resnet20-standard"))[1]
    alone = at(explorer, network="resnet20-standard", attack="autoattack-linf-8")  # ResNet-18's
    text = explorer.draw(alone)[1]
    assert "ResNet-20, undefended, AutoAttack, l∞ 8/255: not measured" in text
    kept = {name: len(c.kept) for name, c in controls(explorer).items()}
    assert kept["smoothed"] == 4
    assert 0.5 * MAX_EXPORTED < math.prod(kept.values()) <= MAX_EXPORTED
