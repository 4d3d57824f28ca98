"""rvlib.inference: evaluation mode that is given back, batches that fit, pooling."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvlib.attacks.passes import Passes
from rvlib.checks import OnCopies
from rvlib.inference import MaxPool2, Planes, eval_mode, in_batches, logits_of
from rvlib.threat_models import Linf


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_is_held_and_given_back(toy: Any, training):
    toy.train(training)
    toy[0][1].train(not training)
    before = modes(toy)
    with eval_mode(toy):
        assert not any(modes(toy))
        with eval_mode(toy), eval_mode(toy[0]):
            pass
        assert not any(modes(toy))
        toy.train()  # as attacks of others do
    assert modes(toy) == before
    with pytest.raises(KeyError), eval_mode(toy):
        raise KeyError
    assert modes(toy) == before


def test_a_layer_that_two_parents_share_is_as_it_was():
    shared = nn.Linear(1, 1)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared))
    model.train()
    model[1].training = False
    with eval_mode(model):
        pass
    assert modes(model) == [True, True, True, False]


# ---- batches ----------------------------------------------------------------------------------


def test_batches_are_slices_of_every_part():
    x, eps = torch.arange(10.0), torch.arange(10) / 10
    seen = []

    def function(x, ball, eta, scalar, nothing):
        seen.append((x.tolist(), ball.eps.tolist(), eta.tolist(), scalar.item(), nothing))
        return 2 * x

    found = in_batches(function, 4, x, Linf(eps), x + 1, torch.tensor(7.0), None)
    assert torch.equal(found, 2 * x)
    assert [len(entry[0]) for entry in seen] == [4, 4, 2]
    assert seen[1][0] == [4, 5, 6, 7]
    assert seen[1][1] == eps[4:8].tolist()
    assert seen[2][2:] == ([9, 10], 7, None)
    assert in_batches(lambda x: torch.full((len(x),), len(x)), None, torch.zeros(600))[0] == 256


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_batches_are_halved_until_they_fit(error):
    sizes = []

    def function(x):
        sizes.append(len(x))
        if len(x) > 3:
            raise error
        return x

    assert in_batches(function, 10, torch.arange(20)).tolist() == list(range(20))
    assert sizes == [10, 5, *[2] * 10]
    with pytest.raises(RuntimeError, match="memory"):  # one image is too much
        in_batches(lambda x: function(torch.zeros(4)), None, torch.arange(9))


@pytest.mark.parametrize("error", [RuntimeError("Unsupported memory format"), KeyError("memory")])
def test_other_errors_are_raised_at_once(error):
    calls = []

    def function(x):
        calls.append(x)
        raise error

    with pytest.raises(type(error)):
        in_batches(function, None, torch.zeros(8))
    assert len(calls) == 1


def test_logits_are_of_a_copy_without_a_gradient(batch):
    x = batch[0].clone().requires_grad_()
    found = logits_of(nn.Sequential(nn.Flatten(), nn.Hardtanh(0, 0.5, inplace=True)), x, 3)
    assert torch.equal(x, batch[0])
    assert torch.equal(found, batch[0].flatten(1).clamp(0, 0.5))
    assert not found.requires_grad


def test_logits_are_kept_from_a_network_that_reuses_them(batch):
    x = batch[0]
    answers = torch.empty(len(x), 3)

    def network(x):
        return torch.add(x[:, :3, 0, 0], 1, out=answers[: len(x)])

    for size in (2, len(x)):
        found = logits_of(network, x, size)
        logits_of(network, 0 * x, size)
        assert torch.equal(found, x[:, :3, 0, 0] + 1)


# ---- pooling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 5, 7), (3, 1, 2, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_way_to_pool_is_that_of_pytorch(shape, layout):
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).round()  # with ties
    x = x.contiguous(memory_format=layout)
    x[0, 0, 0, 1] = torch.nan
    expected = F.max_pool2d(x, 2)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(MaxPool2()(x), expected, rtol=0, atol=0, equal_nan=True)
    planes = Planes()(x)
    assert planes.shape == (shape[0], 4, shape[2] // 2, shape[3] // 2, shape[1])
    torch.testing.assert_close(MaxPool2()(planes), expected, rtol=0, atol=0, equal_nan=True)


def test_a_network_in_two_wrappers_is_held_until_both_are_done():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    one, two = Passes(model), OnCopies(Passes(model))
    with eval_mode(one) as given:
        assert given is one
        second = eval_mode(two)
        second.__enter__()
    assert modes(model) == [False] * 3
    second.__exit__(None, None, None)
    assert modes(model) == [True] * 3
