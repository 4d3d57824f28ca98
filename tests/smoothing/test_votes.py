"""rvlib.smoothing.votes: any module votes like itself wrapped opaquely; only the address counts."""

import copy
import math
from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from rvlib.inference import MaxPool2, split_first_layer
from rvlib.smoothing import certify, certify_at, sample_under_noise, stream, votes
from rvlib.smoothing.noise import grid_noise
from tests.networks import Seen, Wrapped, made_of

few = settings(max_examples=12, deadline=None, derandomize=True)


class Absolute(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.abs())


class Mine(nn.Sequential):
    def forward(self, x):
        return super().forward(x.round())


class Buckets(nn.Module):
    """Tells ten grey values of one pixel apart by comparisons alone: equal noise, equal counts."""

    def forward(self, x):
        grey = torch.bucketize(x[:, 0, 0, 0].contiguous(), torch.arange(0.1, 0.95, 0.1))
        return nn.functional.one_hot(grey, 10) * 2.0


def net(pool=True):
    torch.manual_seed(0)
    layers: Any = OrderedDict(
        first=nn.Conv2d(3, 4, 3, padding=1),
        pool=MaxPool2() if pool else nn.MaxPool2d(2),
        norm=nn.BatchNorm2d(4),
        drop=nn.Dropout(0.3),
        act=nn.ReLU(inplace=True),
        flat=nn.Flatten(),
        fc=nn.Linear(36, 4),
    )
    made = nn.Sequential(layers)
    layers["norm"].running_mean.uniform_(-0.3, 0.3)
    return made.eval()


def images(n=4, seed=0):
    return torch.rand(n, 3, 7, 7, generator=torch.Generator().manual_seed(seed))


def counts_of(x, n=500, sigma=0.25, model=None, **options):
    return sample_under_noise(model or Buckets(), x, sigma, n, **options)


# --- the law: a module votes like itself, wrapped ------------------------------------------------


def of_the_instance(name, method="forward"):
    """Take absolute values before a method of a layer, or of the whole, that is set by hand."""

    def change(model):
        part = getattr(model, name) if name else model
        plain = getattr(part, method)
        setattr(part, method, lambda x, *rest: plain(x.abs(), *rest))

    return change


def quantised(x):
    return (x.clamp(0, 1) * 3).round() / 3


def squared(module, args, output):
    return output.square()


def rounded(module, args):
    return (args[0].round(),)


CIRCULAR: Any = {"padding": 1, "padding_mode": "circular"}
CHANGES: dict[str, Any] = {
    "nothing": lambda m: None,
    "quantised input": lambda m: setattr(m, "first", Wrapped(m.first, quantised)),
    "padding that goes round": lambda m: setattr(m, "first", nn.Conv2d(3, 4, 3, **CIRCULAR)),
    "subclass of the convolution": lambda m: setattr(m.first, "__class__", Absolute),
    "subclass of Sequential": lambda m: setattr(m, "__class__", Mine),
    "hook": lambda m: m.first.register_forward_hook(squared),
    "pre-hook": lambda m: m.first.register_forward_pre_hook(rounded),
    "hook on the whole": lambda m: m.register_forward_pre_hook(rounded),
    "hook on the pool": lambda m: m.pool.register_forward_hook(squared),
    "forward of the instance": of_the_instance("first"),
    "convolution of the instance": of_the_instance("first", "_conv_forward"),
    "pool of the instance": lambda m: setattr(m.pool, "forward", lambda x: x[:, :, :6:2, :6:2]),
    "whole of the instance": of_the_instance(""),
    "parametrised": lambda m: parametrize.register_parametrization(
        m.first, "weight", nn.Hardtanh(-0.1, 0.1)
    ),
    "weight norm": lambda m: parametrizations.weight_norm(m.first),
    "spectral norm": lambda m: nn.utils.spectral_norm(m.first),
    "pruned": lambda m: prune.l1_unstructured(m.first, "weight", 0.5),
    "no bias": lambda m: setattr(m.first, "bias", None),
    "training mode": lambda m: m.train(),
}


def same_votes(model, x, context: Any = nullcontext, **options):
    with context():
        counts = counts_of(x, 300, model=model, **options)
        wrapped = counts_of(x, 300, model=Wrapped(model), **options)
    # A few in a hundred thousand votes may be decided by the rounding of a sum.
    assert (counts - wrapped).abs().sum() <= 2
    assert counts.sum(1).tolist() == [300] * len(x)


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("pool", [True, False])
def test_every_change_is_seen(change, pool):
    model = net(pool)
    CHANGES[change](model)
    same_votes(model, images())


def test_global_hooks_are_seen():
    def hook(module, args):
        return (args[0].abs(),) if isinstance(module, nn.Conv2d) else None

    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        same_votes(net(), images())
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_precisions_vote_like_themselves(kind):
    same_votes(net().to(kind), images().to(kind))


@pytest.mark.parametrize("kind", ["conv", "matmul"])
def test_lower_precision_votes_like_itself(kind):
    settings = getattr(torch.backends.mkldnn, kind)
    settings.fp32_precision = "bf16"
    try:
        assert not isinstance(split_first_layer(net())[0], nn.Conv2d | nn.Sequential)
        same_votes(net(), images())
    finally:
        settings.fp32_precision = "none"


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
def test_under_autocast_it_votes_like_itself(noise):
    x = (images() * 255).round() / 255
    same_votes(net(), x, lambda: torch.autocast("cpu", torch.bfloat16), noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(split_first_layer(net())[0], nn.Identity)


@pytest.mark.parametrize("pool", [True, False])
def test_a_plain_first_convolution_is_shared(pool):
    model, x = net(pool), images()
    first, rest = split_first_layer(model)
    assert not isinstance(first, nn.Identity)
    assert torch.allclose(rest(first(x)), model(x), atol=1e-5)
    for other in (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), nn.Conv2d(3, 2, 3), Buckets()):
        assert isinstance(split_first_layer(other)[0], nn.Identity)


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [0, 2])
@pytest.mark.parametrize("n", [1, 99, 100, 250])
def test_a_constant_classifier_gets_every_vote(answer, n):
    layer = nn.Linear(147, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(2 * torch.eye(3)[answer])
    counts = counts_of(images(5), n, model=nn.Sequential(nn.Flatten(), layer))
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[n * (k == answer) for k in range(3)]] * 5


def test_each_image_gets_its_own_votes():
    x = torch.tensor([0.05, 0.95, 0.45]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    counts = counts_of(x, 200, sigma=1e-4, batch_size=200)  # two images, then one
    assert counts.argmax(1).tolist() == [0, 9, 4]
    assert counts.amax(1).tolist() == [200] * 3


# --- the address ---------------------------------------------------------------------------------

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "noise": st.just("grid"),
        "seed": st.integers(0, 2**40),
        "image_ids": st.just([4, 0, 9, 2, 7]),
    },
)
GREY = (images(5) * 255).round() / 255


@few
@given(OPTIONS, st.sampled_from([1, 30, 100, 250, 10**6]), st.sampled_from([100, 130, 350]))
def test_counts_do_not_depend_on_the_batch_size(options, batch_size, n):
    whole = counts_of(GREY, n, **options)
    assert torch.equal(counts_of(GREY, n, batch_size=batch_size, **options), whole)


@few
@given(OPTIONS, st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_counts_do_not_depend_on_company_or_order(options, chosen):
    whole, some = counts_of(GREY, 150, **options), dict(options)
    if "image_ids" in options:
        some["image_ids"] = [options["image_ids"][i] for i in chosen]
    assert torch.equal(counts_of(GREY[chosen], 150, **some), whole[chosen])


@few
@given(OPTIONS, st.sampled_from([100, 300]), st.integers(301, 450))
def test_parts_of_a_stream_add_up(options, cut, n):
    parts = counts_of(GREY, cut, **options) + counts_of(GREY, n - cut, first=cut, **options)
    assert torch.equal(parts, counts_of(GREY, n, **options))


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
@pytest.mark.parametrize("ids", [None, range(3)])
def test_no_draw_comes_twice_and_shared_ones_come_to_all(noise, ids):
    recorder = Seen()
    options: dict[str, Any] = {"noise": noise, "image_ids": ids, "batch_size": 300}
    counts_of(torch.zeros(3, 1, 4, 4), 500, 1.0, recorder, **options)
    draws, times = torch.cat(recorder.seen[1:]).flatten(1).unique(dim=0, return_counts=True)
    assert len(draws) == (500 if ids is None else 1500)
    assert set(times.tolist()) == ({3} if ids is None else {1})


@pytest.mark.parametrize(("ids", "image"), [(None, ()), ([7], ("image", 7))])
def test_the_address_is_seed_purpose_image_and_hundred(ids, image):
    # Rows on disk are continued by address: it is part of their format.
    x, recorder = images(1), Seen()
    options = {"purpose": "votes", "seed": 3, "image_ids": ids, "batch_size": 200}
    counts_of(x, 200, 0.25, recorder, first=100, **options)
    streams = [stream("cpu", 3, "votes", *image, hundred) for hundred in (1, 2)]
    noise = torch.cat([torch.empty(100, 7, 7, 3).normal_(generator=s) for s in streams])
    copies = x + 0.25 * noise.permute(0, 3, 1, 2)
    assert torch.allclose(
        torch.cat(recorder.seen[1:]), copies, atol=1e-6
    )  # [0] is the check's image


@pytest.fixture
def blocks(monkeypatch):
    """Let as many draws share a stream as a GPU would."""

    def of(draws):
        monkeypatch.setattr(votes, "_block", lambda pixels, address: (draws, address))

    return of


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
@pytest.mark.parametrize("batch_size", [1, 130, 300, 10**6])
@pytest.mark.parametrize("block", [64, 256, 1024])
def test_any_part_of_a_block_is_that_part_of_its_stream(blocks, block, batch_size, noise):
    blocks(block)
    recorder, shape = Seen(), (block, 4, 4, 1)
    options: dict[str, Any] = {"noise": noise, "batch_size": batch_size}
    counts_of(torch.zeros(1, 1, 4, 4), 350, 0.25, recorder, first=300, **options)
    streams = [stream("cpu", 0, "estimation", k) for k in range(-(-650 // block))]
    if noise == "grid":
        drawn = [grid_noise(shape, 0.25, s) / 255 for s in streams]
    else:
        drawn = [torch.empty(shape).normal_(std=0.25, generator=s) for s in streams]
    assert torch.equal(
        torch.cat(recorder.seen[1:]), torch.cat(drawn)[300:650].permute(0, 3, 1, 2)
    )  # [0] is the check's image


def test_a_block_is_divided_into_equal_parts(blocks):
    """Of one shape: what a compiled network, or a CUDA graph, is made for."""
    blocks(1024)
    recorder = Seen()
    counts_of(torch.zeros(1, 1, 4, 4), 2048, 0.25, recorder, batch_size=300)
    assert [len(copies) for copies in recorder.seen[1:]] == [256] * 8


@pytest.mark.parametrize("options", [{}, {"noise": "grid"}, {"image_ids": range(3)}], ids=str)
def test_counts_do_not_depend_on_how_a_block_is_divided(blocks, options):
    blocks(256)
    whole = counts_of(GREY[:3], 700, **options)
    for batch_size in (30, 250, 10**6):
        assert torch.equal(counts_of(GREY[:3], 700, batch_size=batch_size, **options), whole)
    parts = [(0, 300), (300, 100), (400, 300)]
    assert torch.equal(sum(counts_of(GREY[:3], n, first=k, **options) for k, n in parts), whole)


def test_a_block_fills_one_call_and_depends_on_the_images_shape_alone(monkeypatch):
    def block_of(model, *shape, purpose="estimation", device="meta"):
        own = SimpleNamespace(get_device_name=lambda device: model)
        monkeypatch.setattr(torch, "get_device_module", lambda device: own)
        return votes._block(torch.empty(shape, device=device), (0, purpose))

    cifar = block_of("H100", 2, 3, 32, 32)
    assert cifar == (16_384, (0, "estimation", "H100"))
    assert block_of("H100", 64, 3, 32, 32) == cifar
    assert block_of("H100", 2, 3, 224, 224)[0] == 256
    assert block_of("H100", 1, 3, 9000, 9000)[0] == 1
    # Another model draws other numbers in another order: never a part of the same ones.
    assert block_of("A100", 2, 3, 32, 32)[1] != cifar[1]
    hundreds = [{"device": "cpu"}, {"purpose": "sequential"}]
    assert [block_of("", 2, 3, 32, 32, **one)[0] for one in hundreds] == [100, 100]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_ids_and_seeds_of_any_kind(kind):
    x, ids = images(3), [5, 0, 7]
    found = counts_of(x, image_ids=kind(ids), seed=np.int64(2))
    assert torch.equal(found, counts_of(x, image_ids=ids, seed=2))
    attempt = partial(certify_at, Buckets(), x, 0.0, 0.25, n_max=300)
    for one, other in zip(attempt(image_ids=kind(ids)), attempt(image_ids=ids), strict=True):
        assert np.array_equal(one, other)


# --- the network is lent -------------------------------------------------------------------------


def test_the_network_votes_in_evaluation_mode_without_gradients():
    recorder = Seen().train()
    counts_of(images(), 100, model=recorder)
    assert set(recorder.states) == {(False, False)}
    assert recorder.training


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
def test_network_images_and_global_randomness_are_left_alone(noise):
    model, x = net().train(), GREY.clone().requires_grad_()
    model.norm.eval()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    counts = counts_of(x, 200, model=model, noise=noise)
    assert torch.equal(torch.get_rng_state(), random)
    assert not counts.requires_grad
    assert torch.equal(x, GREY)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for value, was in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(value, was)


def test_a_network_that_works_in_place_counts_the_same():
    class InPlace(Buckets):
        def forward(self, x):
            answer = super().forward(x)
            x.zero_()
            return answer

    x = images()
    assert torch.equal(counts_of(x, model=InPlace(), batch_size=200), counts_of(images()))
    assert torch.equal(x, images())


@pytest.mark.parametrize(
    "options",
    [
        *({"sigma": sigma} for sigma in (0.0, -0.25, math.nan, 64.0)),
        *({"n": n} for n in (0, -100)),
        *({"first": first} for first in (-100, 50)),
        {"noise": "Grid"},
        *({"noise": noise} for noise in ("laplace", "grid")),  # images() lie off the grid
        {"image_ids": range(3)},
        *({"batch_size": size} for size in (0, -3)),
    ],
    ids=str,
)
def test_what_makes_no_sample_is_refused_in_one_line(options):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        counts_of(images(), **({"n": 100} | options))


def test_votes_of_nan_are_refused():
    sometimes = made_of(lambda x: Buckets()(x) / (x[:, :1, 0, 0] < 0.9))  # infinity, and 0 / 0
    with pytest.raises(ValueError, match="NaN"):
        counts_of(torch.zeros(1, 3, 4, 4), 100, sigma=1.0, model=sometimes)


class Full(nn.Module):
    """Memory that is too small for more than `limit` images."""

    limit = 10**9

    def forward(self, x):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return x


@pytest.mark.parametrize(
    "first",
    [[made_of(lambda x: x.sub_(0.5))], [nn.Conv2d(3, 3, 1), nn.SiLU(inplace=True)]],
    ids=["images", "features"],
)
def test_votes_that_did_not_fit_into_memory_are_cast_on_fresh_copies(first):
    torch.manual_seed(0)
    full = Full()
    for layer in first[:-1]:
        nn.init.normal_(layer.weight, std=5)
    model = nn.Sequential(*first, full, nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(4, 3, 4, 4)
    expected = sample_under_noise(model, x, 0.25, 200)
    full.limit = 100
    assert torch.equal(sample_under_noise(model, x, 0.25, 200), expected)


def test_a_network_may_write_its_answers_into_the_same_memory():
    torch.manual_seed(2)
    plain, memory = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.empty(256, 2)

    reused = made_of(lambda x: memory[: len(x)].copy_(plain(x)))
    x = torch.rand(1, 3, 2, 2)
    expected = sample_under_noise(plain, x, 0.25, 300)
    assert 0 < expected[0, 0] < 300
    for size in (8, 64, None):
        assert torch.equal(sample_under_noise(reused, x, 0.25, 300, batch_size=size), expected)


def left_out(logits):
    return logits.index_fill(1, torch.tensor([2]), -torch.inf)


@pytest.mark.parametrize("last", [lambda z: z, left_out, lambda z: z + 100])
def test_a_network_whose_votes_depend_on_one_another_is_refused(last):
    """Nor does it hide behind classes that it leaves out, or what all its logits have in common."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Flatten(), nn.Linear(64, 3)).eval()
    model = nn.Sequential(model, made_of(last)).eval()
    calls: list[Any] = [
        lambda x: sample_under_noise(model, x, 0.25, 100),
        lambda x: certify(model, x, 0.25),
        lambda x: certify_at(model, x, 0.1, 0.25),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="its votes are not independent"):
            call(torch.rand(3, 3, 4, 4))


def test_a_network_that_draws_once_a_batch_has_no_independent_votes():
    together = made_of(lambda x: torch.randn(1, 2) + 0 * x.flatten(1)[:, :2])
    for call in (certify, sample_under_noise):
        with pytest.raises(ValueError, match="draws once for all images"):
            call(together, torch.rand(3, 3, 4, 4), 0.25, n=1000)


def test_a_random_network_votes():
    dropout = made_of(lambda x: nn.functional.dropout(x, 0.5, training=True))
    model = nn.Sequential(nn.Flatten(), dropout, nn.Linear(48, 3)).eval()
    assert sample_under_noise(model, torch.rand(1, 3, 4, 4), 0.25, 100).sum() == 100
