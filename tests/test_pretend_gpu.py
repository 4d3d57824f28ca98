"""What a GPU would refuse, compute and wait for, on a device that pretends to be one.

``tests/pretend_gpu`` has the device, and the work that both it and the CPU are given.  Both run in
a process of its own, because PyTorch cannot forget a device.
"""

import itertools
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from benchmarks.jobs import COHEN, FIXED, GAUSSIAN, LOOP, OURS, jobs
from benchmarks.measure import prepare
from tests.pretend_gpu import work
from tests.pretend_gpu.device import NAME, build, compiler

SPEED = Path(__file__).parents[1] / "docs" / "speed.md"
KINDS = ("pgd", "radii", "fast", "votes", "certify_at", "epoch")
QUICK = [replace(job, votes=job.votes // 5) for job in jobs("cuda", quick=True)]
JOBS = list({job.kind: job for job in reversed(QUICK) if job.kind in KINDS}.values())
OTHERS = {LOOP, COHEN, GAUSSIAN, FIXED}


@pytest.fixture(scope="module")
def gpu():
    """Do a piece of work in the process that has the device."""
    if compiler() is None:
        pytest.skip("the pretend GPU needs a C++ compiler: install g++, or name one in CXX")
    with ProcessPoolExecutor(1, get_context("spawn"), work.begin, (build(),)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def assert_same(found, expected):
    """Compare to the bit, whatever is nested."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


# --- the device itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        ("two devices", "at least two devices, pretend:0 and cpu"),
        ("numpy", "convert pretend:0"),
        ("images and network", r"the network is on cpu, images on pretend:0: use .to\(device\)"),
        ("images and labels", r"labels are on cpu, images on pretend:0"),
    ],
)
def test_it_refuses_what_a_gpu_refuses(gpu, attempt, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(gpu(work.refused, attempt))


def test_it_counts_kernels_waits_and_copies(gpu):
    assert gpu(work.small_work) == [
        (1, 0, 0, 0),  # x + 1
        (0, 0, 0, 0),  # views
        (2, 1, 0, 0),  # x.sum().item()
        (1, 1, 0, 0),  # mask.nonzero()
        (2, 1, 0, 0),  # x[mask], which calls nonzero
        (2, 1, 0, 0),  # bool(mask.any())
        (0, 0, 0, 1),  # x.cpu()
        (0, 0, 1, 0),  # torch.ones(2).to(device)
        (1, 0, 0, 0),  # x.clone()
    ]


# --- the same answers as on a CPU, to the bit -----------------------------------------------------

A_FEW = 25
"""Waits and copies of a call, whatever its size."""
MANY = {"autoattack": 150, "sanity": 250, "evaluate": 250, "evaluate smoothed": 100}
MANY |= {"certify_at": 60, "autoattack, eps on the CPU": 150, "sanity, fallen on the CPU": 250}
"""Those that make several calls, or look after each hundred votes."""


@pytest.mark.parametrize("name", work.CALLS)
def test_answers_are_the_cpus_and_waits_are_few(gpu, name):
    found, cost = gpu(work.answer, name)
    expected, _ = gpu(work.answer, name, "cpu")
    assert_same(found, expected)
    assert cost.kernels > 0
    assert cost.waits + cost.uploads + cost.downloads <= MANY.get(name, A_FEW), cost


def test_the_slope_of_the_log_odds_is_the_cpus_within_rounding(gpu):
    pairs = zip(gpu(work.slopes), gpu(work.slopes, "cpu"), (1, 10, 100), strict=True)
    for found, expected, scale in pairs:  # of the logits, whose rounding is that of exp(logit)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7 * scale)


# --- loops ----------------------------------------------------------------------------------------

LOOKS = {"apgd": 2, "square": 2, "square l2": 2, "robust_mask": 1}
"""Looks at who has fallen, in twenty steps (of ``robust_mask`` one each doubling)."""
KERNELS = {"pgd linf 0.03": "PGD step", "fit adversarial": "training", "votes": "batch of votes"}
"""Loops whose kernels a round docs/speed.md tells."""


@pytest.mark.parametrize("name", work.LOOPS)
def test_no_round_of_a_loop_waits_and_rounds_are_few_kernels(gpu, name):
    few, more = gpu(work.costs, name, (1, 2))
    assert more.waits - few.waits <= LOOKS.get(name, 0)
    assert (more.uploads, more.downloads) == (few.uploads, few.downloads)
    if name in KERNELS:
        (row,) = re.findall(rf"^\| {KERNELS[name]}.*\| (\d+) \|$", SPEED.read_text(), re.MULTILINE)
        assert more.kernels - few.kernels == int(row)


@pytest.mark.parametrize("first", [0, 5000])
@pytest.mark.parametrize("batch_size", [300, 10_000])
@pytest.mark.parametrize(("noise", "kernel"), [("gaussian", "normal_"), ("grid", "random_")])
def test_a_block_of_noise_is_one_call_of_the_hundreds_law(gpu, noise, kernel, batch_size, first):
    in_hundreds, in_blocks, cost = gpu(work.drawn, noise, batch_size, first)
    assert cost.by_name[f"aten::{kernel}"] == 3  # blocks of 4096 draws that 10,000 touch
    assert in_blocks != in_hundreds
    assert sum(in_blocks) == 10_000
    assert chi2_contingency([in_hundreds, in_blocks]).pvalue > 1e-4


# --- the pipeline and the benchmark ---------------------------------------------------------------


def test_measurements_are_the_cpus_and_say_where_they_are_from(gpu, tmp_path):
    found = gpu(work.measured, NAME, tmp_path)
    assert_same(found, gpu(work.measured, "cpu", tmp_path))
    metas = list((tmp_path / NAME).rglob("meta.json"))
    assert metas
    assert all(f'"device": "{NAME}"' in meta.read_text() for meta in metas)
    heads = [next(meta.parent.glob("*.csv")).read_text() for meta in metas]
    assert all("a pretend GPU" in head for head in heads)


def test_checks_of_the_evaluation_are_the_cpus(gpu, tmp_path):
    assert_same(gpu(work.checked, NAME, tmp_path), gpu(work.checked, "cpu", tmp_path))


def test_a_training_is_the_cpus_within_rounding_and_says_where_it_was(gpu, tmp_path):
    (weights, record), (expected, of_cpu) = (
        gpu(work.trained, device, tmp_path) for device in (NAME, "cpu")
    )
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # a GPU's optimiser is fused
    assert record["device"] == "a pretend GPU"
    assert record["last"] == pytest.approx(of_cpu["last"], abs=1e-4)


@pytest.mark.parametrize("name", ["pgd", "smoothing"])  # the notebook shows a third
def test_explorers_say_what_they_say_on_a_cpu(gpu, name, tmp_path):
    assert gpu(work.explored, name, NAME, tmp_path) == gpu(work.explored, name, "cpu", tmp_path)


def test_a_notebook_runs(gpu, tmp_path):
    assert gpu(work.notebook, "01_fgsm", NAME, tmp_path) > 10


@pytest.fixture(scope="module")
def inputs(gpu, tmp_path_factory):
    return gpu(prepare, tmp_path_factory.mktemp("bench") / "inputs.pt", "cpu", 8)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_job_of_the_benchmark_runs_and_agrees(gpu, inputs, job):
    names = [OURS, *(name for name in job.others if name in OTHERS)]
    results = [gpu(work.benchmarked, job, name, inputs) for name in names]
    results.append(gpu(work.benchmarked, job, OURS, inputs, "cpu"))
    for one, other in itertools.pairwise(results):
        # Up to two images: other noise, other arithmetic.
        assert (one["answers"] != other["answers"]).sum() <= 2 * len(job.balls)
