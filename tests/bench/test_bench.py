"""rvlib.bench: ways of one job are timed in turn, compared image by image, and written down."""

import contextlib
import copy
import dataclasses
import json
import multiprocessing
import os

import pytest
import torch
from torch import nn

from rvlib.attacks import pgd
from rvlib.bench import bench, compare, jobs, networks, peers, plan, publish_bench, run, whole
from rvlib.bench.apart import apart
from rvlib.bench.compare import Job
from rvlib.bench.compare import compare as compare_job
from rvlib.bench.table import markdown_tables
from rvlib.models import LeNet
from rvlib.objectives import adversarial
from rvlib.profiles import PROFILES
from rvlib.recipes import ATTACKS, LINF, LINF_STEP_SIZE, RECIPES, SIGMA
from rvlib.smoothing import certify, sample_under_noise
from rvlib.stages import train as stages_train
from rvlib.stages.measure import Place
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf
from tests.bench.toys import toy_jobs

CPU = torch.device("cpu")


def here(job, way):
    """Do a way of a job in this process."""
    return compare.once(job.ways[way], CPU)


@contextlib.contextmanager
def lend_here(run):
    yield here


def job(clock, seconds, answers):
    """Make a job whose ways take known times, and the list of who was called when."""
    calls = []

    def way(name):
        def do():
            calls.append(name)
            clock.now += seconds[name][min(calls.count(name) - 1, len(seconds[name]) - 1)]
            return torch.tensor(answers[name])

        return do

    ways = {name: way(name) for name in seconds}
    return Job(plan.SWEEP, "2 images", ways, lambda a: 100 * a.double().mean().item()), calls


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(compare, "time", found)
    return found


def test_ratios_are_those_of_each_round_and_the_warm_up_is_not_counted(clock):
    seconds = {"rvlib": [50, 1, 2, 1], "slow": [9, 8, 8, 8], "fast": [7, 3, 4, 5]}  # by call
    answers = {"rvlib": [1, 0, 1, 1], "slow": [1, 0, 1, 1], "fast": [1, 1, 1, 1]}
    toy, calls = job(clock, seconds, answers)
    found = compare_job(toy, 3, here)
    order = ["rvlib", "slow", "fast"]
    # After the warm-up in turn, beginning with another one each round.
    assert calls == order + order + order[1:] + order[:1] + order[2:] + order[:2]
    assert found["fastest"] == "fast"
    assert (found["low"], found["median"], found["high"]) == (2, 3, 5)
    assert found["ways"]["rvlib"] == {"seconds": [1, 2, 1], "score": 75.0, "agrees": 1.0}
    assert found["ways"]["fast"]["agrees"] == 0.75


def test_the_table_is_beside_the_fastest_and_says_what_was_not_measured(clock):
    seconds = {"rvlib": [1], "a": [4], "b": [0.03]}
    toy, _ = job(clock, seconds, {name: [1, 0] for name in seconds})
    table = markdown_tables({"jobs": [compare_job(toy, 2, here)], "wholes": []}, "cpu")
    lines = table.splitlines()[2:]
    (line,) = [line for line in lines if "not measured" not in line]
    assert line == (
        "| eight radii, robust LeNet | 2 images | 3 | **0.03** (0.03 to 0.03) | b "
        "| 1.00 s, 50.0 % | 30.0 ms, 50.0 % | 100.0 % |"
    )
    assert [line.split(" | ")[0][2:] for line in lines] == list(plan.GOALS)


def test_a_long_job_is_the_sum_of_its_parts(clock):
    def part(seconds, score):
        def do():
            clock.now += seconds
            return score

        return do

    long = whole.Whole(plan.MODELS, "2 networks", {"a": part(2, 50.0), "b": part(3, 60.0)})
    half, full = whole.measure_whole(long, CPU)
    record = {"jobs": [], "wholes": [half]}
    assert markdown_tables(record, "cuda").splitlines()[-2] == (
        f"| {plan.MODELS} | 2 networks | 120 s | not finished | a 2.00 s, 50.0 % |"
    )
    record["wholes"] = [full]
    lines = markdown_tables(record, "cuda").splitlines()
    assert lines[-2:] == [
        f"| {plan.MODELS} | 2 networks | 120 s | **5.00 s** | a 2.00 s, 50.0 %; b 3.00 s, 60.0 % |",
        f"| {plan.TEST_SET} | - | 60 s | not measured | - |",
    ]


def test_votes_of_one_law_are_told_from_votes_of_another():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(50, 10, generator=generator).softmax(1)
    drawn = (p.multinomial(1000, True, generator=generator) for _ in range(2))
    one, other = (torch.stack([row.bincount(minlength=10) for row in rows]) for rows in drawn)
    assert compare.same_law(one, other) > 0.01
    assert compare.same_law(one, one) == 1
    # The planted fault: of one image a few votes in a hundred go elsewhere.
    other[7, 0], other[7, 1] = other[7, 0] - 60, other[7, 1] + 60
    assert compare.same_law(one, other) < 0.01


def test_an_image_of_one_answer_says_nothing_against_the_law():
    one, other = torch.tensor([[100, 0], [99, 1]]), torch.tensor([[100, 0], [98, 2]])
    assert compare.same_law(one, other) == 1


# --- the plain ways ------------------------------------------------------------------------------


def test_the_plain_loop_counts_votes():
    torch.manual_seed(0)
    linear = nn.Linear(12, 10)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(-9)
        linear.weight[3, 0], linear.bias[3], linear.bias[5] = 1, 0, 0.5
    half = nn.Sequential(nn.Flatten(), linear)
    x = torch.full((2, 3, 2, 2), 0.5)
    x[1, 0, 0, 0] += 0.25  # one standard deviation beyond the plane
    counts = peers.plain_certification(half, x, 0.25, 4000, 1000)
    assert counts.sum(1).tolist() == [4000, 4000]
    expected = torch.tensor([0.5, 0.8413])
    # Five standard errors of a share of 4000.
    assert ((counts[:, 3] / 4000 - expected).abs() < 0.04).all()


@pytest.fixture
def lenet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet()


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 32, 32, generator=generator)
    return x, torch.randint(10, (64,), generator=generator)


def test_the_plain_epoch_is_ours(lenet, pictures):
    x, y = pictures
    batches = list(zip(x.split(16), y.split(16), strict=True))
    plain = peers.plain_adversarial_epoch(
        copy.deepcopy(lenet), batches, LINF, 10, LINF_STEP_SIZE, 0.01, 0.9
    )
    objective, generator = adversarial(ATTACKS["pgd-linf"]), torch.Generator()
    optimizer = torch.optim.SGD(lenet.parameters(), lr=0.01, momentum=0.9)
    for images, labels in batches:
        optimizer.zero_grad()
        objective(lenet.train(), images, labels, generator).value.backward()
        optimizer.step()
    for one, other in zip(plain.parameters(), lenet.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of theirs
@pytest.mark.parametrize("name", ["torchattacks", "foolbox", "art"])
@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.5)])
def test_peers_do_the_same(name, threat, lenet, pictures):
    pytest.importorskip(name, reason=f"{name} is optional: make bench installs it")
    x, y = pictures
    step = threat.eps / 4
    found = peers.peer_attacks(threat, 3, step)[name](lenet.eval(), x, y)
    ours = pgd(lenet, x, y, threat, steps=3, step_size=step, random_start=False)
    assert ((found - ours).abs() < 1e-4).double().mean() > 0.99


# --- the whole -----------------------------------------------------------------------------------


class Small(Run):
    def model(self, name, seed=0):
        torch.manual_seed(sum(map(ord, name)))
        return LeNet().eval()


SMALL = plan.Sizes(
    resnet_attacked=2,
    resnet_trained=2,
    swept=6,
    voted=(3, 100),
    certificates=(2, 500),
    resnet_voted=(2, 100),
    at_radius=(2, 500),
    test_set=None,
)


@pytest.fixture
def small(monkeypatch, pictures, tmp_path):
    """Six images, ten votes, one peer that does as we do."""
    x, y = pictures
    monkeypatch.setattr(jobs, "load_cifar10", lambda split: ((255 * x).to(torch.uint8), y))
    monkeypatch.setattr(networks, "load_cifar10", lambda split: ((255 * x).to(torch.uint8), y))
    monkeypatch.setattr(networks, "resnet18", LeNet)
    monkeypatch.setitem(plan.SIZES, "cpu", SMALL)
    monkeypatch.setattr(run, "REPETITIONS", 2)

    def attack(threat, steps, step_size):
        options = {"steps": steps, "step_size": step_size, "random_start": False}
        return {"peer": lambda model, x, y: pgd(model, x, y, threat, **options)}

    monkeypatch.setattr(jobs, "peer_attacks", attack)
    profile = PROFILES["smoke"].__class__(**{**vars(PROFILES["smoke"]), "heldout": 6})
    lines: list[str] = []
    return Small(profile, Place(tmp_path, tmp_path, CPU), tmp_path, lines.append), lines


def test_every_job_is_measured_and_written(small, capsys):
    found, lines = small
    path = bench(found, lend_here)
    record = json.loads(path.read_text())
    assert path.name == "cpu.json"
    assert record["repetitions"] == 2
    assert set(record["peers"]) == set(run.PEERS)
    assert [result["job"] for result in record["jobs"]] == list(plan.GOALS)
    assert len(lines) - 1 == len(plan.GOALS)  # and one of the ResNet-18's training
    assert record["wholes"] == []
    table = path.with_suffix(".md").read_text()
    assert table == markdown_tables(record, "cpu") + "\n" == capsys.readouterr().out
    assert "not measured" not in table
    for result in record["jobs"]:
        for way in result["ways"].values():
            assert len(way["seconds"]) == 2
        # Our own attack as the peer gives the same answers; votes have other noise.
        if not any(word in result["job"] for word in ("votes", "certif", "bfloat16")):
            assert {way["agrees"] for way in result["ways"].values()} == {1.0}, result["job"]


def test_what_stands_is_never_more_than_the_peers(small):
    found, _ = small
    for each in jobs.jobs(found):
        if each.name.startswith(("robust", "eight")):
            assert not (each.ways["rvlib"]() & ~each.ways["peer"]()).any()


def test_every_job_is_on_what_it_says(small, monkeypatch):
    found, _ = small
    asked = []

    def few(model, x, sigma, n, **options):
        asked.append((len(x), n))
        return sample_under_noise(model, x, sigma, n, **options)

    monkeypatch.setattr(jobs, "sample_under_noise", few)
    for each in jobs.jobs(found):
        if each.name != plan.SWEEP:  # eight answers an image
            assert len(each.ways["rvlib"]()) == int(each.on.split()[0])
    assert asked == [(3, 100)] * 3 + [(2, 100)] * 2


def test_the_long_jobs_are_for_a_gpu(small):
    found, _ = small
    assert not list(whole.wholes(found))
    assert plan.SIZES["cuda"].test_set == (10_000, 100_000)


def test_the_test_set_is_certified_as_image_by_image(small, monkeypatch, pictures):
    found, _ = small
    x, _ = pictures
    stored = (255 * x).to(torch.uint8)
    network, generator = found.model("gaussian-0.25"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.fc3.weight.mul_(100)  # sure of itself
        y = network(stored / 255).argmax(1)
    wrong = torch.rand(len(y), generator=generator) < 0.5
    y[wrong] = (y[wrong] + 1) % 10
    monkeypatch.setattr(Small, "model", lambda self, name: network)
    monkeypatch.setattr(whole, "load_cifar10", lambda split: (stored, y))
    (result,) = whole.measure_whole(whole.test_set_job(found, 32, 1000), CPU)
    one_by_one = certify(network, stored[:32] / 255, SIGMA, n=1000)
    right = (one_by_one.prediction == y[:32].numpy()) & (one_by_one.radius >= 0.25)
    assert 0 < right.mean() < 1
    assert result["parts"]["votes"]["score"] == round(100 * right.mean(), 2)
    assert result["on"] == "32 images, 1,000 votes each"


def test_models_are_trained_from_nothing_and_measured(small, monkeypatch, pictures):
    found, lines = small
    x, y = pictures
    split = (255 * x).to(torch.uint8), y
    monkeypatch.setattr(whole, "load_cifar10", lambda split_name: split)
    monkeypatch.setattr(stages_train, "load_cifar10", lambda split_name: split)
    names = ("standard", "pgd-linf-at")
    monkeypatch.setattr(whole, "DEFENCES", names)
    for name in names:
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(RECIPES[name], epochs=2))
    *_, result = whole.measure_whole(whole.models_job(found), CPU)
    assert tuple(result["parts"]) == names
    assert [line.split()[0] for line in lines] == ["standard"] * 2 + ["pgd-linf-at"] * 2
    assert all(0 <= part["score"] <= 100 for part in result["parts"].values())
    assert not list(found.out.rglob("*.safetensors"))  # the shipped ones are not touched


def test_what_was_measured_before_an_interruption_is_kept(small, monkeypatch):
    found, _ = small

    def interrupted(run):
        yield next(jobs.jobs(run))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "jobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(found, lend_here)
    record = json.loads((found.out / "bench" / "cpu.json").read_text())
    assert len(record["jobs"]) == 1
    assert "not measured" in (found.out / "bench" / "cpu.md").read_text()


def test_certificates_of_both_ways_are_those_of_the_network():
    linear = nn.Linear(12, 10)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(-9)
        linear.weight[3, 0], linear.bias[3], linear.bias[5] = 1, 0, 0.5
    half = nn.Sequential(nn.Flatten(), linear).eval()  # class 3 where the first value exceeds 0.5
    images = torch.full((4, 3, 2, 2), 0.5).mul(255).to(torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([255, 140, 255, 0])
    labels = torch.tensor([3, 3, 5, 5])
    job = jobs.certificate_job("certificates", half, images, labels, 10_000)
    for way in job.ways.values():
        # Two standard deviations within; too near to the plane; of another class; within.
        assert way().tolist() == [True, False, False, True]


def test_the_resnet_is_trained_once(small, monkeypatch):
    found, lines = small
    first = networks.short_resnet18(found)
    monkeypatch.setattr(networks, "fit", None)  # to be called no more
    again = networks.short_resnet18(found)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(lines) == 1


@pytest.mark.slow
def test_each_way_has_a_process_of_its_own():
    first, second, third = toy_jobs(None)
    with apart(Run.open("smoke", "cpu"), toy_jobs) as do:
        ours, theirs = (do(first, way).found.tolist() for way in first.ways)
        assert len({os.getpid(), ours[0], theirs[0]}) == 3
        assert do(first, "rvlib").found.tolist() == [ours[0], 2]
        assert do(second, "rvlib").found.tolist() == [ours[0], 3]
        assert do(second, "rvlib").seconds > 0
        with pytest.raises(ValueError, match="it cannot be done"):
            do(third, "rvlib")
        children = multiprocessing.active_children()
    for child in children:
        child.join(20)
        assert not child.is_alive()


# --- into the report -----------------------------------------------------------------------------

README = (
    "before\n<!-- bench: cpu -->\nold\n<!-- /bench -->\nbetween\n"
    "<!-- bench: cuda -->\n<!-- /bench -->\nafter\n"
)


def test_the_table_goes_where_the_readme_wants_it(small, tmp_path):
    found, _ = small
    root = tmp_path / "root"
    root.mkdir()
    (root / "README.md").write_text(README)
    measured = bench(found, lend_here)
    path = publish_bench(found, root)
    assert path.read_bytes() == measured.read_bytes()
    again = publish_bench(found, root)
    assert again == path
    table = path.with_suffix(".md").read_text()
    assert table == measured.with_suffix(".md").read_text()
    readme = (root / "README.md").read_text()
    assert table in readme
    assert "\n<!-- /bench -->\nbetween\n<!-- bench: cuda -->\nGPU: not measured.\n" in readme
    assert "old" not in readme
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")


def test_what_was_not_measured_is_not_published(small, tmp_path):
    found, _ = small
    with pytest.raises(FileNotFoundError, match="make bench"):
        publish_bench(found, tmp_path)


def test_a_readme_without_a_place_is_left_alone(small, tmp_path):
    found, _ = small
    (tmp_path / "README.md").write_text("no place")
    bench(found, lend_here)
    with pytest.raises(ValueError, match="no place for the table"):
        publish_bench(found, tmp_path)
    assert (tmp_path / "README.md").read_text() == "no place"
    assert not (tmp_path / "report").exists()


def test_without_a_peer_it_says_how_to_get_one_and_does_the_rest(small, monkeypatch):
    found, lines = small
    monkeypatch.setattr(jobs, "peer_attacks", lambda threat, steps, step_size: {})
    record = json.loads(bench(found, lend_here).read_text())
    theirs = [name for name in plan.GOALS if name.startswith(("PGD", "robust", "eight"))]
    assert [result["job"] for result in record["jobs"]] == [
        name for name in plan.GOALS if name not in theirs
    ]
    left_out = "left out, as no peer is installed (make bench installs them)"
    assert [line for line in lines if "peer" in line] == [f"{name}: {left_out}" for name in theirs]
