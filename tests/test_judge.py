"""rvlib.judge: a verdict whose numbers are known, from any network, in words and on a page."""

import functools
import importlib
import linecache
import logging
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from torch import nn
from torch.ao.quantization import quantize_dynamic

import rvlib as rv
from rvlib import judge
from rvlib.arguments import find_data, find_network, find_shard, parse_threat, seconds_at_most
from rvlib.cli import main
from rvlib.judge import is_random
from rvlib.results import Incomplete
from rvlib.sanity_checks import sanity
from rvlib.smoothing import certify
from rvlib.threat_models import L2, Linf, PixelL2
from tests.networks import Scaled, Wrapped, seeded

module = sys.modules["rvlib.attacks.autoattack"]  # its name is hidden by the function


def linear(seed=0):
    """A linear network, two classes: the distance of an image to the border is known."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(2, 12, generator=seeded(seed)))  # type: ignore[operator]
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)  # type: ignore[operator]
    return network


X = 0.25 + 0.5 * torch.rand(40, 3, 2, 2, generator=seeded(1))  # no wall within a quarter
Y = linear()(X).argmax(1)
Y[:4] = 1 - Y[:4]  # wrong to begin with


def exact(threat):
    """Share of the images whose margin is larger than the ball can bridge."""
    weights = linear()[1].weight.detach()
    difference = weights[0] - weights[1]
    logits = linear()(X).detach()
    margin = (logits[:, 0] - logits[:, 1]) * (1 - 2 * Y)
    dual = {Linf: difference.abs().sum(), L2: difference.norm()}[type(threat)]
    return 100 * (margin > threat.eps * dual).double().mean().item()


@pytest.fixture
def quick(monkeypatch):
    """Fewer steps and queries than published: enough for networks that are linear."""
    monkeypatch.setattr(module, "apgd", functools.partial(rv.apgd, steps=20))
    monkeypatch.setattr(judge, "sanity", functools.partial(sanity, queries=50, restarts=2))


@pytest.fixture
def unchecked(quick, monkeypatch):
    """Quick, and no sanity checks: they see whole evaluations, never one's rows or files."""
    monkeypatch.setattr(judge, "sanity", lambda *args, **options: [])


@pytest.mark.parametrize(
    ("attack", "threat"),
    [("fast", Linf(13 / 255)), ("standard", L2(0.15))],
    ids=["fast", "standard"],
)
def test_the_robust_accuracy_of_a_linear_network_is_found(threat, attack, quick, monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 100)
    monkeypatch.setattr(module, "fab", functools.partial(rv.fab, steps=20))
    network = linear().train()
    verdict = rv.evaluate(network, (X, Y), threat, attack=attack)
    assert network.training
    assert verdict.robust == pytest.approx(exact(threat))
    assert 10 < verdict.robust < 80
    lines = verdict.stages.set_index("attack")
    assert lines.loc["clean", "accuracy"] == 90
    assert verdict.rows["label"].tolist() == Y.tolist()
    assert len(verdict.rows) == 40
    assert all(check.passed for check in verdict.checks)
    text = verdict.text()
    assert "has accuracy 90.0 %" in text
    assert f"and {verdict.robust:.1f} % (" in text
    assert ("FAB, and Square" in text) == (attack == "fast")


def outside(x):
    """Round beyond PyTorch's sight."""
    return torch.from_numpy((4 * x.detach().numpy()).round() / 4)


@pytest.mark.parametrize("rounded", [lambda x: (4 * x).round() / 4, outside], ids=["zero", "none"])
def test_a_number_that_gradients_gave_where_there_are_none_is_not_to_be_relied_on(
    rounded, quick, monkeypatch
):
    monkeypatch.setattr(module, "QUERIES", 250)
    monkeypatch.setattr(module, "fab", functools.partial(rv.fab, steps=20))
    steps = Wrapped(linear(), rounded)
    verdict = rv.evaluate(steps, (X, Y), Linf(0.1), attack="fast")
    failed = {check.name for check in verdict.checks if not check.passed}
    assert {"no gradients", "zero gradients"} <= failed
    assert "Do not rely on it" in verdict.text()
    better = rv.evaluate(steps, (X, Y), Linf(0.1), attack="standard")
    assert better.robust < verdict.robust - 20


def noisy():
    return Wrapped(linear(), lambda x: x + 0.1 * torch.randn_like(x))


def test_a_random_network_is_recognised(quick, monkeypatch):
    assert is_random(noisy(), X)
    assert not is_random(nn.Sequential(nn.Dropout(0.5), linear()), X)  # not in evaluation mode
    monkeypatch.setattr(module, "DRAWS", 3)
    torch.manual_seed(0)
    verdict = rv.evaluate(noisy(), (X[:16], Y[:16]), Linf(0.05))
    assert verdict.version == "rand"
    assert list(verdict.stages["attack"]) == ["clean", "apgd-ce", "apgd-dlr", "worst case"]
    assert "random" in verdict.text()


def test_other_attacks_stand_beside_the_ensemble_and_count_in_the_worst_case(unchecked):
    near = shifted(0.01)

    def grey(model, x, y, generator):
        assert isinstance(generator, torch.Generator)
        return x

    verdict = rv.evaluate(linear(), (X, Y), Linf(0.05), others={"near": near, "nothing": grey})
    lines = verdict.stages.set_index("attack")
    assert lines.loc["nothing", "accuracy"] == lines.loc["clean", "accuracy"] == 90
    right = (linear()(X + 0.01).argmax(1) == Y).double().mean().item()
    assert lines.loc["near", "accuracy"] == pytest.approx(100 * right)
    assert verdict.robust == pytest.approx(exact(Linf(0.05)))
    for name, attack, words in (
        ("far", shifted(0.06), r"far: the attack left the ball linf 0\.05"),
        ("nan", lambda model, x, y: x / 0, "nan: the attack left the ball"),
        ("none", lambda model, x, y: None, "none: the attack returned NoneType"),
        ("clean", near, "'clean', as a column is"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            rv.evaluate(linear(), (X, Y), Linf(0.05), others={name: attack})
    with pytest.raises(ValueError, match="leave out others, or sigma"):
        rv.evaluate(linear(), (X, Y), Linf(0.05), others={"near": near}, sigma=0.25)


def test_an_attack_that_draws_is_repeated(unchecked):
    def corner(model, x, y):
        return x + 0.05 * torch.randn_like(x).sign()

    call = functools.partial(rv.evaluate, linear(), (X, Y), Linf(0.05), others={"corner": corner})
    assert call().rows.equals(call().rows)


@pytest.mark.usefixtures("unchecked")
def test_what_is_done_is_not_done_again_and_another_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "SHARD", 32)
    asked, dies = list[int](), [2]

    def attack(model, x, y, step=0.0):
        asked.append(len(x))
        if len(asked) in dies:
            raise KeyboardInterrupt
        return x + step

    with pytest.raises(KeyboardInterrupt):
        rv.evaluate(linear(), (X, Y), Linf(0.05), others={"mine": attack}, out=tmp_path)
    assert asked == [32, 8]
    asked.clear()
    dies.clear()
    found = rv.evaluate(linear(), (X, Y), Linf(0.05), others={"mine": attack}, out=tmp_path)
    assert asked == [8]
    whole = rv.evaluate(linear(), (X, Y), Linf(0.05), others={"mine": attack})
    assert found.rows.equals(whole.rows)
    assert (tmp_path / "verdict.txt").read_text() == found.text()
    page = (tmp_path / "verdict.html").read_text()
    assert "linf 0.05" in page
    assert "src=" not in page
    for model, data, threat in (
        (linear(1), (X, Y), Linf(0.05)),
        (linear(), (X.flip(0), Y), Linf(0.05)),
        (linear(), (X, Y), Linf(0.06)),
    ):
        with pytest.raises(ValueError, match="is of another measurement"):
            rv.evaluate(model, data, threat, others={"mine": attack}, out=tmp_path)

    def another(model, x, y):
        return x

    for changed in (another, functools.partial(attack, step=0.01)):
        with pytest.raises(ValueError, match="is of another measurement"):
            rv.evaluate(linear(), (X, Y), Linf(0.05), others={"mine": changed}, out=tmp_path)


def test_rows_do_not_depend_on_the_number_of_parts(tmp_path, unchecked, monkeypatch):
    monkeypatch.setattr(judge, "SHARD", 8)
    call = functools.partial(rv.evaluate, linear(), (X, Y), Linf(0.05))
    whole = call()
    for k in (3, 1):
        with pytest.raises(Incomplete, match="of 40 images"):
            call(out=tmp_path, shard=(k, 3))
    found = call(out=tmp_path, shard=(2, 3))
    assert found.rows.equals(whole.rows)
    assert found.text() == whole.text()
    assert len(list((tmp_path / "rows").glob("*.csv"))) == 5


NO_PARTS = ("", "0/4", "5/4", "1", "a/b", "1/2/3", "-1/2", "/")


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, (1, 1)),
        ("3/8", {"RANK": "0", "WORLD_SIZE": "2"}, (3, 8)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, (4, 4)),
        (None, {"ARRAY": (5, 2, 4)}, (4, 4)),
        (None, {"ARRAY": (1, 0, 3), "RANK": "1", "WORLD_SIZE": "2"}, (4, 6)),
        (None, {"RANK": "0"}, "WORLD_SIZE is not set to a number: give --shard"),
        (None, {"ARRAY": (9, 2, 4)}, "have gaps: give --shard K/N"),
        *((text, {}, "write K/N with 1 <= K <= N") for text in NO_PARTS),
    ],
)
def test_a_part_is_given_or_the_tasks(monkeypatch, given, environment, expected):
    array = environment.get("ARRAY", ())
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "COUNT")]
    for name in ("RANK", "WORLD_SIZE", *names):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**dict(zip(names, array, strict=bool(array))), **environment}.items():
        monkeypatch.setenv(name, str(value))
    if isinstance(expected, tuple):
        assert find_shard(given) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            find_shard(given)


def test_the_attacked_images_are_written_on_request(tmp_path, unchecked):
    verdict = rv.evaluate(linear(), (X, Y), Linf(0.05), out=tmp_path, keep_images=True)
    parts = [np.load(path)["images"] for path in sorted((tmp_path / "images").glob("*.npz"))]
    x_adv = torch.from_numpy(np.concatenate(parts))
    assert (x_adv - X).abs().max() <= 0.05
    right = (linear()(x_adv).argmax(1) == Y).long()
    assert right.tolist() == verdict.rows["apgd-t"].astype(int).tolist()
    (tmp_path / "rows").rename(tmp_path / "before")  # images of another ball are not kept as these
    with pytest.raises(ValueError, match=r"images is of another measurement"):
        rv.evaluate(linear(), (X, Y), Linf(0.06), out=tmp_path, keep_images=True)


def test_a_smoothed_network_is_certified_attacked_and_clean_in_this_order(monkeypatch):
    def briefly(*given, **options):
        return certify(*given, **options | {"n": 1000})

    monkeypatch.setattr(judge, "certify", briefly)
    lenet = find_network("gaussian-0.25")
    images, labels = (part[:6] for part in rv.load("cifar10", "heldout"))
    verdict = rv.evaluate(lenet, (images, labels), L2(0.25), sigma=0.25)
    found = verdict.rows[["certified", "vote-pgd", "clean"]].astype(int)
    assert (found["certified"] <= found["vote-pgd"]).all()
    assert (found["certified"] <= found["clean"]).all()
    assert 0 < found["certified"].sum() < found["vote-pgd"].sum()
    assert verdict.robust == pytest.approx(100 * (found["vote-pgd"] * found["clean"]).mean())
    assert "are certified" in verdict.text()
    assert "PGD on the vote" in verdict.html()
    assert verdict.html().count("<table") == 1  # no checks, no table of them
    plain = rv.evaluate(linear(), (X[:4], Y[:4]), Linf(0.03), sigma=0.25)
    assert "certified" not in plain.rows
    beyond = rv.evaluate(linear(), (X[:4], Y[:4]), L2(0.34), sigma=0.1).text()
    assert "10,000 votes at σ = 0.1 reach 0.32, not 0.34" in beyond
    assert "no attack can change" not in beyond


def test_a_network_that_returns_probabilities_is_named_once(unchecked):
    network = nn.Sequential(linear(), nn.Softmax(1)).eval()
    with pytest.warns(UserWarning, match="seems to return probabilities") as caught:
        verdict = rv.evaluate(network, (X[:8], Y[:8]), Linf(0.05))
    assert len(caught) == 1
    assert "Do not rely on it: the network seems to return probabilities" in verdict.text()


def test_a_warning_of_the_networks_own_code_is_no_doubt(unchecked):
    def old_call(x):
        warnings.warn("old_call is deprecated", DeprecationWarning, stacklevel=1)
        return x

    with pytest.warns(DeprecationWarning, match="old_call"):
        verdict = rv.evaluate(Wrapped(linear(), old_call).eval(), (X[:8], Y[:8]), Linf(0.05))
    assert "old_call" not in verdict.text()


@pytest.mark.parametrize(
    ("model", "data", "options", "words"),
    [
        (linear(), (X, Y), {"shard": (1, 2)}, "give out"),
        (linear(), (X, Y), {"keep_images": True}, "give out"),
        (linear(), (torch.cat([X, X + 1]), Y.repeat(2)), {}, r"not in \[0, 1\]"),
        ("standard", (X, Y), {}, "the network is str, not a torch"),
        (linear(), (X.numpy(), Y.numpy()), {}, r"no pair of tensors \(images, labels\)"),
        (linear(), (X, Y, ("a", "b")), {}, r"no pair of tensors \(images, labels\)"),
        (linear(), (X, Y), {"sigma": 0}, "is no noise level"),
        (linear(), (X, Y), {"attack": "best"}, "none of fast, standard, rand"),
        (linear(), (X, Y), {"attack": "standard", "sigma": 0.25}, "omit them, or sigma"),
        (linear(), (X, Y), {"keep_images": True, "sigma": 0.25}, "omit them, or sigma"),
        (linear(), (X, Y), {"others": {"w forwards": rv.fgsm}}, "'w forwards', as a column is"),
        (linear(), (X, Y), {"others": {"a\u2028b": rv.fgsm}}, "use letters and spaces"),
        (linear(), (X, Y), {"threat": Linf(0.0)}, "eps=0"),
        (Wrapped(linear(), lambda x: x - x.mean(0)), (X, Y), {}, "depend on the other images"),
        (linear(), (X, Y), {"threat": Linf(torch.full((40,), 0.1))}, "one for all"),
        (linear(), (X, torch.cat([Y[:39], torch.tensor([7])])), {}, "label 7 is no class"),
        (nn.Conv2d(1, 2, 1), (X, Y), {}, r"does not take images of shape \(3, 2, 2\)"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(model, data, options, words, monkeypatch):
    monkeypatch.setattr(judge, "autoattack_stages", None)  # found before the ensemble runs
    with pytest.raises((TypeError, ValueError), match=words):
        rv.evaluate(model, data, **{"threat": Linf(0.05)} | options)


def test_balls_are_read():
    balls: list[Any] = [Linf(8 / 255), L2(0.5), PixelL2(0.045)]
    assert [parse_threat(t) for t in ("linf:8/255", "l2:1/2", "pixel-l2:.045")] == balls


@pytest.mark.parametrize(
    "text", ["linf", "8/255", "linf:8/0", "linf:", "l1:3", "linf:x", "l2:0", "l2:1e400"]
)
def test_what_is_no_ball_is_one_line(text):
    with pytest.raises(ValueError, match=r"is no ball: write linf:8/255, l2:0\.5 or"):
        parse_threat(text)


OWN = """
import torch
from torch import nn
from rvlib import Normalize

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize([0.4], [0.2]), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )

def nothing():
    return 3

def needs(classes):
    return network()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A kind of network the project has never seen: grey, two classes, its own normalisation."""
    rng = np.random.default_rng(0)
    for name in ("day", "night"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(6):
            pixels = rng.integers(0, 128, (8, 8)) + 127 * (name == "day")
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{k}.png")
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_may_import_what_lies_beside_it_when_it_answers(own, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (own / "beside.py").write_text("FACTOR = 2\n")
    lazy = "class Lazy(nn.Module):\n    def forward(self, x):\n        import beside\n"
    lazy += "        return beside.FACTOR * x.flatten(1)\n"
    (own / "lazy.py").write_text(f"from torch import nn\n{lazy}")
    assert find_network("lazy:Lazy")(X[:1]).shape == (1, 12)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make():\n    return {}['model']", r"own:make: KeyError: 'model' \(own\.py, line 2\)"),
        ("def make(:", "'own:make' cannot be called"),
        ("make = lost", r"own:make: NameError: name 'lost' is not defined \(own\.py, line 1\)"),
    ],
)
def test_code_of_a_users_network_that_fails_is_one_line(code, words, own, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (own / "own.py").write_text(code)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    with pytest.raises(ValueError, match=words):
        find_network("own:make")


def test_a_new_user_gets_a_verdict_on_their_own_network(own, quick, capsys):
    command = ["evaluate", "mine:network", "--data", "photos", "--threat", "linf:2/255"]
    assert main([*command, "--images", "10"]) == 0
    printed = capsys.readouterr().out
    assert "On 10 images mine:network has accuracy" in printed
    few = "APGD, targeted, with 1 of 9 targets, as there are 2 classes"
    assert printed.count("Not tried, or not possible:") == printed.count(few) == 1
    assert Path("build/evaluate/mine.network/verdict.html").exists()
    labels = find_data("photos", find_network("mine:network"))[1]
    assert sorted(labels.tolist()) == [0] * 6 + [1] * 6
    assert labels.tolist() != sorted(labels.tolist())  # the first ones are of both classes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "mine:nowhere", "--data", "photos"], "write module:function"),
        (["evaluate", "nowhere:network", "--data", "photos"], "write module:function"),
        (["evaluate", "mine:nothing", "--data", "photos"], "returned int"),
        (["evaluate", "mine:needs", "--data", "photos"], "missing a required argument: 'classes'"),
        (["evaluate", "standard", "--data", "photos", "--size", "20"], "take images of shape"),
        (["evaluate", "nobody"], "unknown network 'nobody'"),
        (["evaluate", "mine:network", "--data", "elsewhere"], "neither a data set"),
        (["evaluate", "mine:network", "--data", "photos", "--attack", "best"], "none of fast"),
    ],
)
def test_a_wrong_word_is_one_line(own, capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_networks_identity_holds_no_address_and_no_count():
    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.change = lambda x: x

        def extra_repr(self):
            return str(self.change)

    one, two = (rv.Passes(nn.Sequential(Shown(), linear())) for _ in range(2))
    two.forwards += 1
    assert repr(one) != repr(two)
    assert judge.network_digest(one) == judge.network_digest(two)


@dataclass(frozen=True)
class Coloured:
    """A ball of one's own, whose name does not tell all of it."""

    eps: float
    shares: tuple[float, float, float]
    name = "coloured"

    def norm(self, delta):
        return (delta.abs() / self._sides(delta)).flatten(1).amax(1)

    def project(self, delta):
        return delta.clamp(-self.eps * self._sides(delta), self.eps * self._sides(delta))

    def steepest(self, grad):
        return grad.sign() * self._sides(grad)

    def sample(self, x, generator=None):
        return self.project(2 * torch.rand(x.shape, generator=generator) - 1)

    def at(self, index):
        return self

    def _sides(self, x):
        return torch.tensor(self.shares)[:, None, None]


def test_rows_of_another_ball_of_the_same_name_are_refused(unchecked, tmp_path):
    rv.evaluate(linear(), (X[:8], Y[:8]), Coloured(0.1, (1.0, 1.0, 1.0)), out=tmp_path)
    with pytest.raises(ValueError, match=r"ball is"):
        rv.evaluate(linear(), (X[:8], Y[:8]), Coloured(0.1, (0.1, 1.0, 1.0)), out=tmp_path)


def test_what_is_left_out_in_a_ball_of_ones_own_has_no_line(unchecked):
    for attack in ("fast", "standard"):
        verdict = rv.evaluate(linear(), (X, Y), Coloured(0.1, (1.0, 1.0, 1.0)), attack=attack)
        assert verdict.stages["attack"].tolist() == ["clean", "apgd-ce", "apgd-t", "worst case"]
        assert verdict.text().count("FAB and Square") == 1


def test_images_that_were_not_written_whole_are_not_there(unchecked, tmp_path, monkeypatch):
    def interrupted(file, images):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rv.evaluate(linear(), (X, Y), Linf(0.05), out=tmp_path, keep_images=True)
    assert not list(tmp_path.rglob("*.npz"))


def test_the_time_of_a_network_that_overwrites_its_images_is_estimated():
    overwrites = Wrapped(linear(), lambda x: x.mul_(1.0).sub_(0.0))
    assert seconds_at_most(overwrites, (X[:4], Y[:4]), "fast") > 0


def test_the_estimate_counts_the_passes_of_the_version(monkeypatch):
    monkeypatch.setattr("rvlib.arguments.seconds", lambda *a: 2.0)  # of both passes on 4 images
    data = X[:4], Y[:4]
    estimates = [seconds_at_most(linear(), data, v) for v in ("fast", "standard", "rand")]
    assert estimates == [3000, 11_600, 9000]
    assert seconds_at_most(noisy(), data, "fast") == 9000


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (3, 3), (None, 3)])
def test_a_folder_is_read_in_the_channels_of_the_first_convolution(tmp_path, channels, expected):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / name / "1.png")
    layer = nn.Flatten() if channels is None else nn.Conv2d(channels, 2, 3)
    assert find_data(str(tmp_path), nn.Sequential(layer))[0].shape[1] == expected


def test_images_are_kept_even_where_the_rows_are_there(unchecked, tmp_path):
    data = X[:8].bfloat16(), Y[:8]
    plain, kept = (
        rv.evaluate(linear().bfloat16(), data, Linf(0.05), out=tmp_path, keep_images=keep)
        for keep in (False, True)
    )
    assert plain.rows.equals(kept.rows)
    assert np.load(tmp_path / "images" / "00000.npz")["images"].shape == (8, 3, 2, 2)


def test_a_random_network_gives_the_same_rows_again(unchecked, monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 2)
    one, two = (rv.evaluate(noisy(), (X, Y), Linf(0.05)).rows for _ in range(2))
    assert one.equals(two)


def test_a_steady_network_that_is_judged_as_random_is_checked(quick):
    verdict = rv.evaluate(linear(), (X, Y), Linf(0.05), attack="rand")
    assert verdict.checks
    assert "the network is random" not in verdict.text()


class Holds(nn.Module):
    """The same weights, and something that no ``state_dict`` knows of."""

    def __init__(self, held):
        super().__init__()
        self.network, self.held = linear(), held

    def forward(self, x):
        return self.network(x)


class Buffered(Holds):
    def __init__(self, held):
        super().__init__(None)
        self.register_buffer("mean", torch.tensor(held), persistent=False)


class Extra(Holds):
    def get_extra_state(self):
        return {"held": self.held}


def hooked(scale):
    network = Holds(None)
    network.register_forward_hook(lambda module, given, answer: scale * answer)
    return network


def patched(scale):
    network = linear()
    network.forward = types.MethodType(lambda self, x: scale * x, network)
    return network


def inheriting(sign):
    class Base(nn.Module):
        def forward(self, x):
            return x + 1 if sign > 0 else x - 1

    class Other(nn.Module):
        def forward(self, x):
            return x - 1

    class Net(Base if sign > 0 else Other):  # type: ignore[misc]
        pass

    return Net()


@pytest.mark.parametrize(
    "make",
    [
        *[Buffered, Extra, hooked, patched, inheriting, lambda held: Scaled(linear(), held)],
        lambda held: torch.jit.trace(Scaled(linear(), held), X[:1]),
        lambda seed: quantize_dynamic(linear(int(seed)), {nn.Linear}, dtype=torch.qint8),
        *[lambda held: Holds((held,)), lambda held: Holds(torch.tensor(held))],
        *[lambda held: Holds(np.array(held)), lambda held: Holds([linear(int(held))])],
        lambda held: Holds(torch.tanh if held > 0 else torch.neg),
    ],
)
@pytest.mark.filterwarnings("ignore")  # what PyTorch says of tracing and quantising
def test_a_networks_identity_is_all_that_its_answers_rest_on(make):
    one, same, other = (judge.network_digest(make(held)) for held in (1.0, 1.0, -1.0))
    assert one == same != other


FILE = """
from torch import nn
LEVELS, CALLS = {}, 0
class Scale:
    def by(self, x):
        return {} * x
class Base:
    def shift(self, x):
        return x + {}
class Shift(Base):
    def __call__(self, x):
        return self.shift(x)
SHIFT = Shift()
def quantize(x):
    return [Scale().by(SHIFT(x) * LEVELS) for _ in range(1)][0]
class Net(nn.Module):
    def forward(self, x):
        global CALLS
        CALLS += 1
        return quantize(x)
"""


def test_what_the_code_of_a_network_uses_is_part_of_its_identity(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(levels, scale, shift=0, calls=0):
        (tmp_path / "defence_of_mine.py").write_text(FILE.format(levels, scale, shift))
        linecache.clearcache()
        sys.modules.pop("defence_of_mine", None)
        net = importlib.import_module("defence_of_mine").Net()
        for _ in range(calls):
            net(X)
        return judge.network_digest(net)

    assert digest(4, 1) == digest(4, 1, calls=3)
    assert len({digest(4, 1), digest(5, 1), digest(4, 2), digest(4, 1, 2)}) == 4


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        *[(range(9), range(9), range(2)), (torch.float32, torch.float32, torch.float16)],
        *[(b"a", b"a", b"b"), (Path("a"), Path("a"), Path("b"))],
        (logging.getLogger("a"), logging.getLogger("a"), logging.getLogger("b")),
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_a_network_holds_is_part_of_its_identity(one, same, other):
    before = judge.network_digest(Holds(one))
    logging.getLogger(f"new {one}").setLevel(10)  # of which other loggers know
    assert before == judge.network_digest(Holds(same)) != judge.network_digest(Holds(other))


def test_a_module_that_holds_itself_has_an_identity():
    one, other = Holds([]), Holds([])
    one.held, other.held = [one], [other]
    assert judge.network_digest(one) == judge.network_digest(other)


def test_a_compiled_network_keeps_its_identity():
    network = linear()
    one, other = list[Any](torch.compile(network, backend="eager") for _ in range(2))
    before = judge.network_digest(one)
    one(X[:3])
    assert judge.network_digest(one) == before == judge.network_digest(other)


NOTEBOOK = """
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        return {}x
"""


def test_in_a_notebook_the_code_of_a_class_counts():
    shell, found = InteractiveShell.instance(), []
    for sign in ("", "-", ""):
        assert shell.run_cell(NOTEBOOK.format(sign)).success
        found.append(judge.network_digest(shell.user_ns["Net"]()))
    assert found[0] == found[2] != found[1]


class Mine:
    """An attack that keeps its options."""

    def __init__(self, steps):
        self.steps, self.model = steps, None

    def __call__(self, model, x, y):
        return x

    def run(self, model, x, y):
        return x


def shifted(by):
    def attack(model, x, y):
        return x + by

    return attack


def transfer(model, x, y, source):
    return rv.pgd(source, x, y, Linf(0.05))


@pytest.mark.parametrize(
    "make",
    [
        *[shifted, Mine, lambda steps: Mine(steps).run],
        lambda steps: rv.from_torchattacks(Mine(steps), Linf(0.05)),
        lambda steps: rv.from_foolbox(Mine(steps), Linf(0.05)),
        lambda seed: functools.partial(transfer, source=linear(seed)),
    ],
)
def test_an_attacks_identity_is_its_options_and_networks(make):
    one, same, other = (judge._described(make(steps)) for steps in (1, 1, 2))
    assert one == same != other
