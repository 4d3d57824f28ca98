"""rvlib.noise: streams that have an address and nothing to do with each other."""

import itertools

import numpy as np
import pytest
import torch

from rvlib.noise import stream

ADDRESSES = [
    (),
    (0,),
    ("0",),
    ("",),
    (0, 0),
    (1, 2),
    (2, 1),
    (12,),
    ("12",),
    ("1, 2",),
    ("1", "2"),
    ("a", "b"),
    ("ab",),
    ("a', 'b",),
    ('a", "b',),
    ("a\\', 'b",),
    (-1,),
    (2**63,),
    (2**64,),
    (0, "votes", 7),
    (0, "votes", 8),
    (1, "votes", 7),
    (0, "attack", 7),
]


def draw(*address, n=4):
    return torch.rand(n, generator=stream("cpu", *address), dtype=torch.float64)


def test_the_same_address_gives_the_same_bits():
    for address in ADDRESSES:
        assert torch.equal(draw(*address), draw(*address))
    assert torch.equal(
        draw(3), torch.rand(4, generator=stream(torch.device("cpu"), 3), dtype=torch.float64)
    )


def test_addresses_that_are_spelt_alike_give_different_streams():
    for a, b in itertools.combinations(ADDRESSES, 2):
        assert not torch.equal(draw(*a), draw(*b)), (a, b)


def test_neighbouring_addresses_are_uncorrelated():
    n = 4096
    draws = torch.stack([draw(seed, n=n) for seed in range(20)]) - 0.5
    correlation = torch.corrcoef(draws) - torch.eye(20)
    # 190 pairs, each normal with deviation 1/sqrt(n): beyond 5 of them once in 9000 seeds.
    assert correlation.abs().max() < 5 / n**0.5


def test_a_long_stream_goes_on_where_it_stopped():
    generator = stream("cpu", 5)
    pieces = [torch.rand(2, generator=generator, dtype=torch.float64) for _ in range(2)]
    assert torch.equal(torch.cat(pieces), draw(5))


def test_global_random_state_is_neither_used_nor_moved():
    before = torch.get_rng_state()
    first = draw(0)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(draw(0), first)


def test_streams_do_not_change_between_versions():
    # Stored counts and rows are continued by address: these bits are part of the file format.
    assert stream("cpu", 0, "votes", 7).initial_seed() == 3958363444757839516


@pytest.mark.parametrize("index", [np.int64(7), np.int32(7), torch.tensor(7)])
def test_an_index_counted_by_another_library_is_the_same_address_or_refused(index):
    try:
        other = draw(index)
    except TypeError:
        return
    assert torch.equal(other, draw(7))


@pytest.mark.parametrize("seed", range(100))
def test_no_two_streams_of_shared_votes_are_alike(seed):
    # A CPU's generator is started by the last 32 bits: votes that select and votes that judge
    # must not be the same draws.
    hundreds = {"selection": 1, "estimation": 1000, "sequential": 1000, "prediction": 10}
    starts = [
        stream("cpu", seed, purpose, k).initial_seed() % 2**32
        for purpose, count in hundreds.items()
        for k in range(count)
    ]
    assert len(set(starts)) == len(starts)
