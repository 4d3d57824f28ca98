"""rvlib.smoothing.noise: streams by address; the grid's law is that of a rounded Gaussian."""

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvlib.smoothing import sample_under_noise, stream
from rvlib.smoothing.noise import BITS, GUIDE_BITS, UNSURE, _tables, grid_noise, to_grid
from tests.networks import Seen, seeded

CPU = torch.device("cpu")


# --- streams -------------------------------------------------------------------------------------


def test_addresses_do_not_run_together():
    parts: list[int | str] = [0, 1, 12, -1, 2**70, "1", "12", "a", "", "1, 2"]
    addresses = [a for n in (0, 1, 2, 3) for a in itertools.product(parts, repeat=n)]
    seeds = {stream("cpu", *address).initial_seed() for address in addresses}
    assert len(seeds) == len(addresses)
    assert max(seeds) < 2**63  # an int64, which every generator takes


@given(st.lists(st.integers(-(2**62), 2**62) | st.text("01, a-", max_size=3), max_size=4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_stream_is_its_address(address):
    one, other = stream("cpu", *address), stream(torch.device("cpu"), *address)
    assert torch.equal(torch.randn(9, generator=one), torch.randn(9, generator=other))
    kinds: Any = [np.int64(a) if isinstance(a, int) else a for a in address]
    assert stream("cpu", *kinds).initial_seed() == stream("cpu", *address).initial_seed()


# --- the law -------------------------------------------------------------------------------------


def test_the_thresholds_are_exact():
    thresholds, _ = _tables(0.25, CPU)
    reach = len(thresholds) // 2
    for k in (-reach, -64, -1, 0, 63, 200, reach - 1):
        with mpmath.workdps(60):
            p = mpmath.quad(
                lambda t: mpmath.exp(-(t**2) / 2) / mpmath.sqrt(2 * mpmath.pi),
                [0, mpmath.mpf(2 * k + 1) / (2 * 255 * mpmath.mpf("0.25"))],
            )
            exact = int(mpmath.floor((p + mpmath.mpf(1) / 2) * 2**BITS))
        assert abs(int(thresholds[k + reach]) - exact) <= 1, k


@pytest.mark.parametrize("sigma", [1e-300, 1e-4, 0.01, 0.12, 0.25, 1.0])
def test_the_table_gives_what_a_slow_comparison_gives(sigma):
    thresholds, guide = _tables(sigma, CPU)
    assert thresholds.diff().min() >= 0
    uniform = torch.empty(100_000, dtype=torch.int64).random_(generator=seeded())
    compared = np.searchsorted(thresholds.numpy(), uniform.numpy(), side="right")
    noise = grid_noise((100_000,), sigma, seeded())
    assert np.array_equal(noise.numpy(), compared - len(thresholds) // 2)
    assert noise.any() == (sigma > 1e-3)
    # All bits decide where the leading ones do not, and there alone.
    unsure = guide[uniform >> (BITS - GUIDE_BITS)] == UNSURE
    assert unsure.double().mean() < 0.1


@pytest.mark.parametrize("end", [0, 2**BITS - 1])
def test_the_ends_are_in_reach(end, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, generator=None: self.fill_(end))
    noise = grid_noise((3,), 0.25, seeded())
    assert noise.abs().min() == len(_tables(0.25, CPU)[0]) // 2 >= 9 * 0.25 * 255


# --- the grid ------------------------------------------------------------------------------------


def test_stored_images_are_on_the_grid_and_others_are_refused():
    stored = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(to_grid(stored.to(kind) / 255), stored.to(kind))
    for off in (0.3001, 0.3, 1e-4):
        with pytest.raises(ValueError, match=r"off the grid[^\n]+$"):
            to_grid(torch.full((1, 1, 2, 2), off))
    for short in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=r"^images are [^\n]+$"):
            to_grid(torch.zeros(1, 1, 2, 2, dtype=short))


STORED = torch.randint(256, (3, 3, 4, 4), generator=seeded()).float() / 255


def test_votes_on_the_grid_are_those_of_a_slow_exact_computation():
    """Whole numbers, added one by one: the network sees a function of their sum alone."""
    seen, n = Seen(), 250
    counts = sample_under_noise(seen, STORED, 0.25, n, noise="grid", seed=4, batch_size=100)
    whole = (STORED.double() * 255).round().long()
    expected = torch.zeros(3, 3, dtype=torch.int64)
    shown = torch.cat(seen.seen[1:])  # [0] is the check's one image
    for chunk in range(3):
        noise = grid_noise((100, 4, 4, 3), 0.25, stream("cpu", 4, "estimation", chunk)).long()
        for draw in noise[: n - 100 * chunk].permute(0, 3, 1, 2):
            for i in range(3):
                copy = (whole[i] + draw).float() / 255
                expected[i, copy.flatten()[:3].argmax()] += 1
                assert (shown == copy).flatten(1).all(1).any() or i > 0
    assert torch.equal(counts, expected)
    assert torch.equal(shown, (shown.double() * 255).round().float() / 255)
