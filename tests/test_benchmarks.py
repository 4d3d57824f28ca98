"""The benchmark: every job runs, implementations agree, the table is that of the record."""

import functools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import scale, size
from benchmarks.jobs import BASELINE, LOOP, OURS, SIGMA, jobs
from benchmarks.measure import prepare, run
from benchmarks.table import table
from rvlib import experiments as ex

ROOT = Path(__file__).parents[1]
JOBS = [replace(job, votes=job.votes // 5) for job in jobs(quick=True)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("bench") / "inputs.pt", "cpu", trained_on=8)


def kinds(jobs):
    """One job of each kind, norm and network: others differ in batches alone.

    In bfloat16 we stand beside the same others, so that those jobs stand for both arithmetics.  And
    ResNet-18 is attacked in one ball: what differs in the other, LeNet's jobs show for less.
    """
    found = {(job.kind, job.norm, job.network): job for job in jobs}
    return [job for key, job in found.items() if key[1:] != ("l2", "resnet18")]


@pytest.mark.filterwarnings("ignore")  # other libraries' own
@pytest.mark.parametrize("job", kinds(JOBS), ids=lambda job: job.name)
def test_implementations_of_a_job_agree(job, inputs, monkeypatch):
    # What another library does, LeNet shows for less, and its attack once in each ball.
    others = job.others if job.kind == "pgd" and job.network != "resnet18" else job.others[:1]
    if job.network == "resnet18":  # slow, in bfloat16 above all, and its loops are LeNet's
        monkeypatch.setattr("benchmarks.jobs.STEPS", 1)
    results = {name: run(job, name, inputs, "cpu") for name in [OURS, *others]}
    ours = results[OURS]
    for name, result in results.items():
        assert result["answers"].shape == (job.images * len(job.balls),), name
        # Up to two images: other noise, other arithmetic.
        assert (result["answers"] != ours["answers"]).sum() <= 2 * len(job.balls), name
        assert abs(result["accuracy"] - ours["accuracy"]) <= 200 / job.images, name
        if job.kind in ("robust", "radii"):
            assert ours["accuracy"] <= result["accuracy"], name


def test_an_epoch_of_the_loop_takes_our_steps(inputs, monkeypatch):
    (job, _) = (job for job in JOBS if job.kind == "epoch")
    for name, value in (("LR", 0.05), ("BATCH", 4)):  # steps that change the answers
        monkeypatch.setattr(f"benchmarks.jobs.{name}", value)
    results = [run(job, name, inputs, "cpu")["answers"] for name in (OURS, LOOP)]
    assert (results[0] == results[1]).all()


def test_rows_are_those_of_a_gpu_and_attacks_those_of_the_report():
    assert [row.name for row in jobs("cuda")] == [row.name for row in jobs("cpu")]
    balls = {row.norm: row.balls[0][1:] for row in JOBS}
    assert balls["linf"] == (ex.LINF.eps, ex.LINF_STEP_SIZE)
    assert balls["l2"] == (ex.TRUE_L2.eps, ex.attack_record("", ex.ATTACKS["pgd-l2"])["step_size"])
    assert SIGMA == ex.SIGMA
    assert all((row.images == 1) == (row.network == "resnet18") for row in JOBS)  # quick ones


def test_a_run_is_recorded_and_its_table_goes_into_the_readme(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "prepare", lambda *arguments: inputs)
    # Three processes, forked from one that has PyTorch; the benchmark itself starts Python thrice.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rvlib.pipeline", "benchmarks.others"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: cpu -->\nold\n<!-- /bench -->\nafter\n")
    options = ["--quick", "--only", "small network", "--rounds", "2", "--baseline", str(ROOT)]
    command.main(options)
    record = json.loads((tmp_path / "build/bench/cpu.json").read_text())
    (job,) = record["jobs"]
    assert list(job["implementations"]) == [OURS, LOOP, BASELINE]
    assert all(len(r["seconds"]) == record["rounds"] == 2 for r in job["implementations"].values())
    command.main([*options, "--readme"])
    shown = f"<!-- bench: cpu -->\n{table(record)}\n<!-- /bench -->"
    assert readme.read_text() == f"before\n{shown}\nafter\n"


RESULT = {"seconds": [1.0], "accuracy": 50.0, "same": 100.0}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder for records of jobs that take no time."""

    def measure(chosen, *arguments):
        job = {"on": "-", "goal": None, "implementations": {OURS: RESULT}}
        return [job | {"name": chosen_job.name} for chosen_job in chosen]

    for name, value in (("ROOT", tmp_path), ("prepare", lambda *_: None), ("measure", measure)):
        monkeypatch.setattr(command, name, value)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        *[([], "report"), (["--quick"], "build"), (["--only", "votes"], "build")],
        (["--baseline", "elsewhere"], "build"),
    ],
)
def test_only_the_whole_benchmark_replaces_the_record(words, folder, root):
    command.main(words)
    assert [path.parts[-3] for path in root.rglob("cpu.json")] == [folder]


def test_some_jobs_are_put_into_the_record_each_under_its_machine(root):
    command.main([])
    path, update = root / "report/bench/cpu.json", ["--only", "AutoAttack", "--update"]
    whole = json.loads(path.read_text())
    for job in whole["jobs"]:
        job |= {"commit": "before", "device": "another CPU"}
    path.write_text(json.dumps(whole))
    command.main(update)
    found = json.loads(path.read_text())
    assert [job["name"] for job in found["jobs"]] == [job.name for job in jobs()]
    fresh = {job["name"] for job in found["jobs"] if job["commit"] != "before"}
    assert fresh == {job.name for job in jobs() if "AutoAttack" in job.name}
    _, elsewhere, _, here = table(found).split("\n\n")
    assert "AutoAttack" not in elsewhere
    assert here.count("AutoAttack") == 5
    path.write_text(json.dumps(whole | {"torch": "1.0"}))
    with pytest.raises(SystemExit, match=r"torch is 1\.0"):
        command.main(update)


def test_the_protocol_says_what_the_comparison_of_ensembles_found():
    rows = json.loads((ROOT / "report/bench/parity.json").read_text())["rows"].values()
    assert len(rows) == 2 * len(list((ROOT / "report/models").iterdir()))
    fast, ours, theirs = (sum(row[name] for row in rows) for name in ("fast", "ours", "theirs"))
    apart = [abs(row["ours"] - row["theirs"]) for row in rows]
    words = (
        f"{ours} images survive ours and {theirs} theirs ({fast} `fast`); "
        f"{apart.count(0)} of {len(apart)} rows are equal, and none is more than {max(apart)} apart"
    )
    assert words in " ".join((ROOT / "docs/protocol.md").read_text().split())


def test_a_missing_library_is_recorded():
    assert command._version("no such package") == "not installed"


def test_ratios_are_medians_over_rounds_to_the_fastest_other_implementation():
    def result(*seconds):
        return {"seconds": seconds, "accuracy": 50.0, "same": 75.0}

    found = {OURS: result(1, 1, 2), "slow": result(9, 9, 9), "fast": result(3, 2, 2)}
    job = {"name": "votes", "on": "2 images", "goal": None, "implementations": found}
    record = {"device": "a CPU", "torch": "2", "rounds": 3, "jobs": [job]}
    cells = "**2.00** (1.00 to 3.00) | fast | 1.00 s, 50.0 % | 2.00 s, 50.0 % | 75.0 % |"
    assert table(record).endswith(f"| votes | 2 images | - | {cells}")
    found[BASELINE] = result(2, 1, 2)
    assert table(record).endswith(f"{cells} **1.00** (0.50 to 1.00) |")


def test_the_readme_has_the_table_of_the_published_record():
    record = json.loads((ROOT / "report/bench/cpu.json").read_text())
    assert (
        f"<!-- bench: cpu -->\n{table(record)}\n<!-- /bench -->" in (ROOT / "README.md").read_text()
    )
    planned = {(job.name, job.on, job.goal) for job in jobs()}
    assert {(job["name"], job["on"], job["goal"]) for job in record["jobs"]} <= planned
    assert {len(job.balls) for job in JOBS} == {1, 8}  # "eight radii"
    assert "not installed" not in record["versions"].values()


TEXT = '''"""What it is."""

# why
A = 1
"""Of A."""


def f():
    """Do.

    So.
    """
    return A
'''


def test_lines_of_code_are_neither_blank_nor_comments_nor_docstrings():
    assert size.code_lines(TEXT) == {4, 8, 13}


def test_the_table_of_sizes(capsys, monkeypatch):
    every, some = size.sources, {"rvlib", "attacks"}  # all files take seconds
    monkeypatch.setattr(
        size, "sources", lambda *folders: [p for p in every(*folders) if p.parent.name in some]
    )
    size.main()
    counted, functions, hops = capsys.readouterr().out.replace(",", "").split("\n\n")
    sizes = {line[:24].strip(): int(line[24:31]) for line in counted.splitlines()}
    parts = [sizes["rvlib/*.py"], sizes["rvlib/attacks"]]
    assert sizes["rvlib in all"] == sum(parts) > min(parts) > 0
    lengths = [int(line.split()[0]) for line in functions.splitlines()[1:]]
    assert lengths == sorted(lengths, reverse=True)
    names = hops.split(":", 1)[1].split()
    assert {"pgd.py:pgd", "threat_models.py:project"} <= set(names)
    assert len(names) == int(hops.split()[0])


@pytest.fixture(scope="module")
def counted_once():
    """Let networks be counted once for all tests: a ResNet-50 takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "passes", functools.cache(scale.passes))
        yield


@pytest.mark.usefixtures("counted_once")
def test_counted_operations_are_those_of_the_papers():
    """He et al. give ResNet-50 3.8 billion multiply-adds, without its later change of strides."""
    from torchvision.models import resnet50

    forward, attack, step = scale.passes(resnet50, 224)
    assert 3.8e9 < forward[0] / 2 < 4.2e9
    assert 1.95 < attack[0] / forward[0] < 2.05  # one gradient of each layer
    assert 2.9 < step[0] / forward[0] < 3  # two, but none at the image


@pytest.mark.usefixtures("counted_once")
def test_the_planning_table_is_the_counted_one():
    assert scale.table() in (ROOT / "docs" / "scale.md").read_text()


def test_more_gpus_divide_the_work_and_talk():
    training = scale.Job("", np.array([8e15, 0]), None, exchange=1e12, collectives=1000)
    alone, bound = training.seconds(1, "bfloat16")
    assert (alone, bound) == (8e15 / 989.4e12, "operations")
    together, bound = training.seconds(8, "bfloat16")
    assert together == pytest.approx(alone / 8 + 2e12 / 450e9 + 0.02)
    assert bound == "exchange"
    blocks = scale.Job("", np.array([0, 3.35e12]), 5)
    assert blocks.seconds(1, "tf32")[1] == "memory"
    assert blocks.seconds(1, "tf32")[0] == pytest.approx(4)
    assert blocks.seconds(4, "tf32")[0] == pytest.approx(4 * 2 / 5)  # one GPU has two blocks
