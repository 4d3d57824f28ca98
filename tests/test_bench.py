"""rvlib.bench: one repetition on a few images prints a line a job."""

import re
from types import SimpleNamespace

import pytest
import torch

from rvlib import bench
from rvlib.smoothing import sample_under_noise

JOBS = [
    "FGSM",
    "PGD-10 l-infinity",
    "PGD-10 pixel-l2",
    "votes under noise",
    "training, standard",
    "training, PGD-10",
]
BATCH = 20


@pytest.fixture
def small(monkeypatch):
    """Cut everything: 20 images, steps on 2, 100 votes of 2 images, 2 repetitions."""
    asked = []

    def few_votes(network, x, sigma, n):
        asked.append((len(x), n))
        return sample_under_noise(network, x[:2], sigma, 100)

    cut = {
        "rand": lambda count, *rest, **options: torch.rand(min(count, BATCH), *rest, **options),
        "arange": lambda count, **options: torch.arange(min(count, BATCH), **options),
    }
    monkeypatch.setattr(bench, "torch", SimpleNamespace(**(vars(torch) | cut)))
    monkeypatch.setattr(bench, "REPETITIONS", 2)
    monkeypatch.setattr(bench, "BATCH_SIZE", 2)
    monkeypatch.setattr(bench, "sample_under_noise", few_votes)
    return asked


def test_every_job_is_a_line_of_a_table(small, capsys):
    bench.bench(torch.device("cpu"))
    head, empty, *table = capsys.readouterr().out.splitlines()
    assert head.endswith(f"torch {torch.__version__}, 2 repetitions")
    assert empty == ""
    assert table[:2] == ["| job | images a second, median | slowest to fastest |", "|---|---|---|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [name for name, _, _ in cells] == JOBS
    for _, median, ends in cells:
        low, high = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", ends))
        assert 0 < low <= int(median.replace(",", "")) <= high
    assert small == [(BATCH, 1000)] * 3  # 64 of 1024, but here there are fewer


def test_the_first_repetition_is_not_counted(monkeypatch):
    ticks = iter([0.0, 100.0, 100.0, 101.0, 101.0, 103.0])
    monkeypatch.setattr(bench, "REPETITIONS", 2)
    monkeypatch.setattr("rvlib.bench.time.perf_counter", lambda: next(ticks))
    done = []
    assert bench._times(lambda: done.append(1), torch.device("cpu")) == [1, 2]
    assert len(done) == 3
