"""Explorers of notebooks 04 to 06, on a network whose smoothed answers are known by heart."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from scipy.stats import binomtest, norm
from torch import nn

from rvlib.course.explorer import MOST_FRAMES
from rvlib.course.explorers import explore_certification, explore_results, explore_smoothing
from rvlib.course.explorers.certification import ALPHAS, NS, QUOTED, SHARES
from rvlib.course.smoothing_lessons import (
    ORDERS,
    Outcome,
    attack_certified,
    evidence_curves,
    is_share,
    ladder,
    sanity_table,
)
from rvlib.data import CLASSES
from rvlib.evaluation import certified_accuracy
from rvlib.profiles import DEFENCES, PROFILES
from rvlib.recipes import ALPHA, SIGMA, SIGMAS, smoothed_name
from rvlib.report.curves import radii
from rvlib.report.reference import REPORT_TABLE1, TITLES
from rvlib.report.tables import table1
from rvlib.rows import Rows, rows_path
from rvlib.smoothing import (
    ABSTAIN,
    largest_radius,
    lower_confidence_bound,
    sample_under_noise,
    vote,
)
from rvlib.stages.measure import Place
from rvlib.stages.run import Run, table1_cells

MARGINS = (0.0, 0.02, 0.1, 0.3, -0.1)
"""How far each image lies on deer's side of the plane that parts deer from frog."""
DEER, FROG = CLASSES.index("deer"), CLASSES.index("frog")
LABELS = (DEER, DEER, DEER, DEER, DEER)
STORED = (100, 1000)
COUNT = len(MARGINS)


class HalfSpace(Run):
    """A run whose networks answer deer where the first number of the image exceeds one half."""

    def model(self, name, seed=0):
        linear = nn.Linear(3072, 10)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.fill_(-100)
            # Steep, so that probabilities under noise are nearly votes.
            linear.weight[DEER, 0], linear.bias[DEER], linear.bias[FROG] = 50, -25, 0
        return nn.Sequential(nn.Flatten(), linear)

    def images(self, count, split="heldout"):
        x = torch.full((COUNT, 3, 32, 32), 0.5)
        x[:, 0, 0, 0] += torch.tensor(MARGINS)
        return x[:count], torch.tensor(LABELS)[:count]

    def certificates(self, sigma):
        x, _ = self.images(COUNT)
        lines = [
            {"index": str(i), "label": str(label), "selection": texts[0]}
            | {f"counts_{n}": text for n, text in zip(STORED, texts[1:], strict=True)}
            for i, (label, *texts) in enumerate(
                zip(
                    LABELS,
                    *(
                        [" ".join(map(str, row)) for row in counts.tolist()]
                        for counts in (
                            sample_under_noise(self.model(""), x, sigma, 100, purpose="selection"),
                            *(sample_under_noise(self.model(""), x, sigma, n) for n in STORED),
                        )
                    ),
                    strict=True,
                )
            )
        ]
        return Rows({"identity": {"sigma": sigma}}, lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    profile = replace(PROFILES["smoke"], heldout=COUNT, certified=COUNT, ns=STORED, test=0)
    return HalfSpace(profile, Place(folder, folder / "rows", torch.device("cpu")), folder)


def said(explorer, **values):
    """The sentence of one frame; knobs that are not named stand at their start."""
    starts = {knob.name: knob.values[knob.start] for knob in explorer._knobs}
    assert values.keys() <= starts.keys()
    return explorer._draw(**starts | values)


def shown(explorer, label):
    """What moves in the picture under that name."""
    return next(a for a in explorer._picture.moving if a.get_label() == label)


def number(before, sentence):
    """The number that follows some words."""
    found = re.search(before + r"([\d.,]*\d(?:e-\d+)?)", sentence)
    assert found, (before, sentence)
    return float(found[1].replace(",", ""))


def assert_every_knob_moves_the_picture(explorer):
    first = explorer._frame([knob.start for knob in explorer._knobs])
    for k, knob in enumerate(explorer._knobs):
        at = [other.start for other in explorer._knobs]
        at[k] = next(i for i in range(len(knob.values)) if i != knob.start)
        pixels, words = explorer._frame(at)
        assert (pixels != first[0]).any(), knob.name
        assert words != first[1], knob.name
    pixels, words = explorer._frame([knob.start for knob in explorer._knobs])
    assert (pixels == first[0]).all()
    assert words == first[1]


def assert_the_twin_is_small(explorer):
    assert np.prod([len(knob.shown) for knob in explorer._knobs]) <= MOST_FRAMES
    assert all(max(knob.shown) < len(knob.values) for knob in explorer._knobs)


# --- 04: the vote --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoothing(run):
    return explore_smoothing(run, images=COUNT)


def test_the_vote_is_told_as_it_was_counted(run, smoothing):
    x, _ = run.images(COUNT)
    for sigma in SIGMAS:
        for n in (100, 500, 1000):
            counts = sample_under_noise(run.model(""), x, sigma, n).numpy()
            for picture, (votes, answer) in enumerate(
                zip(counts, vote(counts, ALPHA), strict=True)
            ):
                words = said(smoothing, picture=picture, sigma=sigma, copies=n)
                n_b, n_a = sorted(votes)[-2:]
                leader, other = np.argsort(-votes, kind="stable")[:2]  # as argmax breaks ties
                assert f"{n_a:,} votes for {CLASSES[leader]}" in words
                assert f"{n_b:,} for {CLASSES[other] if n_b else 'any other'}." in words
                verdict = "abstains"
                if answer != ABSTAIN:
                    verdict = f"answers {CLASSES[answer]}, "
                    verdict += "rightly" if answer == LABELS[picture] else "wrongly"
                assert words.endswith(f"the vote {verdict}.")


def test_the_p_value_is_the_binomial_tests(smoothing):
    words = said(smoothing, picture=1, sigma=0.25, copies=1000)
    n_a, n_b = number("class deer: ", words), number("deer, ", words)
    p = binomtest(int(n_a), int(n_a + n_b)).pvalue
    assert number("probability ", words) == pytest.approx(p, rel=0.06)
    assert f"{'≤' if p <= ALPHA else '>'} α = {ALPHA}" in words


def test_the_bars_are_shares_of_the_votes(run, smoothing):
    said(smoothing, picture=3, sigma=0.5, copies=500)
    x, _ = run.images(COUNT)
    (counts,) = sample_under_noise(run.model(""), x[3:4], 0.5, 500)
    bars = [artist for artist in smoothing._picture.moving if isinstance(artist, Rectangle)]
    assert [bar.get_width() for bar in bars] == pytest.approx((counts / 500).tolist())
    assert [CLASSES[k] for k, bar in enumerate(bars) if bar.get_hatch()] == ["deer"]


def test_the_orange_part_of_the_hill_is_the_p_value(smoothing):
    for picture, sigma in ((0, 0.25), (1, 0.25), (2, 0.5)):
        words = said(smoothing, picture=picture, sigma=sigma, copies=200)
        hill = shown(smoothing, "both equally likely").get_data().values
        tails = shown(smoothing, "this far out: the p-value").get_data().values
        assert tails.sum() / hill.sum() == pytest.approx(number("probability ", words), rel=0.06)
        n_a = number("class deer: ", words)
        assert shown(smoothing, "seen").get_xdata() == pytest.approx([n_a / 200] * 2)


def test_the_least_lead_that_is_called(smoothing):
    for copies in (100, 1000):
        said(smoothing, copies=copies)
        lower = shown(smoothing, f"α = {ALPHA}").get_xdata()[0]
        least = round(copies * (1 - lower))  # all votes go to one of two classes
        assert binomtest(least, copies).pvalue <= ALPHA < binomtest(least - 1, copies).pvalue


def test_the_same_lead_is_called_with_more_copies(smoothing):
    # 0.1 from the plane at noise 0.25: 66 % of the votes.
    few, many = (said(smoothing, picture=2, sigma=0.25, copies=n) for n in (100, 1000))
    assert number("probability ", few) > ALPHA > number("probability ", many)
    assert few.endswith("abstains.")
    assert many.endswith("answers deer, rightly.")
    # A picture beyond the plane: more copies make the vote surer, not truer.
    wrong = said(smoothing, picture=4, sigma=0.25, copies=1000)
    assert wrong.endswith("answers frog, wrongly.")


def test_no_more_copies_than_the_profile_has(smoothing):
    assert list(smoothing._knobs[-1].values) == [100, 200, 500, 1000]


def test_the_smoothing_explorer_moves(smoothing):
    assert_every_knob_moves_the_picture(smoothing)
    assert_the_twin_is_small(smoothing)


# --- 05: the certificate -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bounds(run):
    return explore_certification(run)


def test_more_votes_raise_the_bound_and_the_radius(bounds):
    for share in SHARES:
        found = [said(bounds, share=share, n=n) for n in NS]
        p = [number("p is at least ", words) for words in found]
        assert p == sorted(set(p)), share
        assert [words for words in found if "nothing is promised" in words] == [
            words for words, bound in zip(found, p, strict=True) if bound < 0.5
        ]
        radii = [number("R = ", words) for words in found if "R = " in words]
        assert radii == sorted(radii)
        assert radii


def test_more_risk_raises_the_bound(bounds):
    p = [number("p is at least ", said(bounds, alpha=alpha)) for alpha in ALPHAS]
    assert p == sorted(set(p), reverse=True)


def test_a_bound_is_never_printed_too_large(bounds):
    for share in SHARES:
        for n in NS:
            words = said(bounds, share=share, sigma=0.5, n=n)
            p = float(lower_confidence_bound(round(share * n), n, ALPHA))
            assert 0 <= p - number("p is at least ", words) < 1e-4
            if p > 0.5:
                assert 0 <= 0.5 * norm.ppf(p) - number("R = ", words) < 1e-3
            cap = largest_radius(n, ALPHA, 0.5)
            assert 0 <= cap - number("no R exceeds ", words) < 1e-3


def test_when_all_agree_the_radius_is_the_cap(bounds):
    for n in NS:
        words = said(bounds, share=1.0, n=n)
        assert number("R = ", words) == number("no R exceeds ", words)


def test_the_picture_shows_the_bound_and_the_radius(bounds):
    for sigma in SIGMAS:
        words = said(bounds, share=0.9, sigma=sigma, n=2000)
        p = shown(bounds, "lower bound on p").get_ydata()
        assert p == pytest.approx(lower_confidence_bound([0.9 * n for n in NS], NS, ALPHA))
        assert set(shown(bounds, "share seen").get_ydata()) == {0.9}
        cap = shown(bounds, "cap of N").get_xydata()[0]
        assert cap[0] == pytest.approx(ALPHA ** (1 / 2000))
        assert cap[1] == pytest.approx(norm.ppf(cap[0]))
        radius = shown(bounds, "R of the vote above").get_xdata()[0]
        assert radius == pytest.approx(sigma * norm.ppf(p[NS.index(2000)]))
        assert number("R = ", words) == pytest.approx(radius, abs=1e-3)


def test_the_curves_are_of_stored_votes(run, bounds):
    for sigma in SIGMAS:
        rows = run.certificates(sigma)
        for n, stored in ((100, 100), (500, 100), (1000, 1000), (100_000, 1000)):
            for alpha in ALPHAS:
                words = said(bounds, sigma=sigma, n=n, alpha=alpha)
                at = certified_accuracy(radii(rows, stored, alpha), QUOTED)[0]
                assert number("radius 0.25 from ", words) == stored
                assert number("votes: ", words) == pytest.approx(100 * at)
    # One image of five lies 0.3 from the plane: a thousand votes are enough to promise 0.25.
    assert number("votes: ", said(bounds, sigma=0.25, n=1000)) == 20
    assert number("votes: ", said(bounds, sigma=0.25, n=100)) == 0


def test_the_certification_explorer_moves(bounds):
    assert_every_knob_moves_the_picture(bounds)
    assert_the_twin_is_small(bounds)


def test_no_attack_succeeds_within_a_certificate_but_beyond(run):
    # Rightly certified at noise 0.25 are the images 0.1 and 0.3 from the plane.
    outcomes = attack_certified(run, 0.25, (0.99, 3.0))
    assert list(outcomes) == [0.99, 3.0]
    assert outcomes[0.99].changed == 0
    assert outcomes[0.99].kept + outcomes[0.99].abstained == 2
    assert outcomes[3.0] == Outcome(kept=0, abstained=0, changed=2)
    assert sum(attack_certified(run, 0.25, (0.5,), images=1)[0.5]) == 1


def test_the_evidence_of_a_clear_vote_is_enough_and_of_one_at_the_boundary_never():
    ns = [100, 1000, 100_000]
    curves = evidence_curves((0.99, 0.5), ns, radius=0.0, sigma=0.25)
    assert list(curves) == ["99% of the votes", "50% of the votes", "certified from here"]
    clear, boundary, needed = curves.values()
    assert needed.tolist() == pytest.approx([3, 3, 3])  # powers of ten: 1 / 0.001
    assert (clear >= 3).all()
    assert clear.max() == 5
    assert (boundary < 0).all()
    assert boundary.min() >= -3
    # Where all votes agree the mixture over [1/2, 1] has a closed form: (2^(n+1) - 1) / (n + 1).
    (all_agree, _) = evidence_curves((1.0,), [12], radius=0.0, sigma=0.25).values()
    assert all_agree[0] == pytest.approx(np.log10((2**13 - 1) / 13), abs=1e-6)


# --- 06: the tables ------------------------------------------------------------------------------

RIGHT = {
    "natural": 4, "fgsm": 3, "pgd-linf": 3, "pgd-pixel-l2": 2, "pgd-l2-small": 4, "pgd-l2": 2,
    "vote-pgd-linf": 1, "vote-pgd-pixel-l2": 1, "vote-pgd-l2": 1,
}  # fmt: skip
"""Right answers of four images, in the order of a sound evaluation."""


def write_rows(run, right):
    """Table 1's rows with so many right answers, and votes that certify the first image."""
    smoothed = smoothed_name(SIGMA)
    for defence, attack in table1_cells(run):
        column, answers = "prediction", ("1", "2")
        if defence == smoothed:
            column, answers = "counts", ("0 100", "100 0")
        lines = [f"{i},1,{answers[i >= right[attack]]}" for i in range(4)]
        write(run, defence, attack, column, lines)
    lines = [f"{i},1,{'0 100' if i < 1 else '100 0'},0 100,{'0 1000'}" for i in range(4)]
    columns = "selection,counts_100,counts_1000"
    write(run, smoothed, "certificates", columns, lines)
    return run


def write(run, defence, what, columns, lines):
    path = rows_path(run.place.rows, "heldout", defence, 0, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = {"attack": {"threat": "linf 0.03"}, "sigma": SIGMA}
    head = "# " + json.dumps({"identity": identity, "provenance": {}})
    path.write_text("\n".join([head, f"index,label,{columns}", *lines, ""]))


def four_images(folder, right):
    profile = replace(PROFILES["smoke"], heldout=4, certified=4, ns=STORED, test=0)
    return write_rows(Run(profile, Place(folder, folder, torch.device("cpu")), folder), right)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return four_images(tmp_path_factory.mktemp("rows"), RIGHT)


@pytest.fixture(scope="module")
def results(written):
    return explore_results(written)


def test_a_cell_is_told_as_it_stands_in_table_1(written, results):
    lines = table1(written.place.rows, "heldout", table1_cells(written), 4)
    for line in lines:
        words = said(results, defence=line["defence"], attack=line["attack"])
        assert words.startswith(f"{TITLES[line['defence']]}, {TITLES[line['attack']]}: ")
        assert f"{line['accuracy']} % of 4 images ({line['ci_low']} to {line['ci_high']})" in words
        reported = REPORT_TABLE1[line["defence"]].get(line["attack"])
        if reported is None:
            assert "the report has no such cell" in words
        else:
            where = {"yes": "inside", "no": "outside"}[line["report_in_interval"]]
            assert f"the report's {reported:.2f} % lies {where} that interval" in words


def test_the_picture_shows_the_interval_and_the_reports_value(written, results):
    lines = table1(written.place.rows, "heldout", table1_cells(written), 4)
    for line in lines:
        if line["attack"] == "natural":
            said(results, defence=line["defence"])
            ends = [float(line["ci_low"]), float(line["ci_high"])]
            assert shown(results, "ours, 95 % interval").get_xdata() == ends
            assert shown(results, "the report").get_xdata() == [float(line["report_value"])]


def test_what_was_not_measured_is_said_so(results):
    assert "not measured" in said(results, defence="standard", attack="vote-pgd-l2")
    assert "not measured" not in said(results, defence="standard", attack="pgd-l2")


def test_only_the_vote_has_a_promise(written, results):
    for defence in DEFENCES:
        assert ladder(written, defence).certified is None
        assert "no promise, attacked 50.0 %, clean 100.0 %" in said(results, defence=defence)
    steps = ladder(written, smoothed_name(SIGMA))
    assert steps.certified is not None
    assert [step.correct for step in steps if step] == [1, 1, 4]
    words = said(results, defence=smoothed_name(SIGMA))
    assert "certified 25.0 %, attacked 25.0 %, clean 100.0 %" in words


def test_the_results_explorer_moves(results):
    assert_every_knob_moves_the_picture(results)
    assert_the_twin_is_small(results)


def test_a_sound_evaluation_passes(written):
    checks = sanity_table(written)
    assert {line["verdict"] for line in checks} == {"pass"}
    # Two orders of every defence, three of the vote, two of its certificate.
    assert len(checks) == 2 * 6 + 3 + 2
    assert {line["check"] for line in checks} >= {claim for claim, *_ in ORDERS[:2]}


@pytest.mark.parametrize(
    ("attack", "right", "verdict"),
    [
        ("fgsm", 2, "within intervals"),
        ("natural", 0, "FAIL"),
        ("pgd-l2", 0, "within intervals"),
        ("vote-pgd-l2", 0, "within intervals"),
    ],
)
def test_an_order_upside_down_is_seen(tmp_path, attack, right, verdict):
    run = four_images(
        tmp_path, RIGHT | {"pgd-linf": 4 if attack == "natural" else 3, attack: right}
    )
    assert verdict in {line["verdict"] for line in sanity_table(run)}


def test_shares_of_1024():
    for k in range(1025):
        percent = 100 * k / 1024
        assert is_share(round(percent, 2), 1024)
        assert is_share(int(100 * percent) / 100, 1024)
        assert not is_share(round(percent + 0.05, 2), 1024)
