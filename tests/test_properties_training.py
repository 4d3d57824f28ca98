"""Laws of training and of weights on disk: drawn settings, the same ones each time."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from rvlib.models import load_weights, save_weights
from rvlib.models.weights import WeightsError
from rvlib.objectives import adversarial, gaussian, standard
from rvlib.recipes import AttackRecipe
from rvlib.threat_models import Linf
from rvlib.training import Fit, fit

CLASSES = 3
RECIPE = {"name": "drawn"}
OBJECTIVES = (standard, gaussian(0.25), adversarial(AttackRecipe("weak", Linf(0.1), 2, 0.05)))

often = settings(derandomize=True, deadline=None, max_examples=20, database=None)
seldom = settings(often, max_examples=10)

shapes = st.tuples(*(st.integers(1, most) for most in (9, 3, 4, 4)))
seeds = st.integers(0, 10**6)
objectives = st.sampled_from(OBJECTIVES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(shape, seed, width=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(math.prod(shape[1:]), width), nn.BatchNorm1d(width)]
        return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def data(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, CLASSES, shape[:1], generator=generator)


def trained(shape, seed, objective, log=None, **options) -> tuple[nn.Module, Fit]:
    model = network(shape, seed)
    log = log or (lambda line: None)
    return model, fit(model, objective, data(shape, seed), seed=seed, log=log, **options)


# --- training ------------------------------------------------------------------------------------


@seldom
@given(shapes, seeds, objectives, st.integers(2, 4), st.integers(1, 3), st.data())
def test_stopped_after_any_epoch_it_ends_with_the_same_weights(
    shape, seed, objective, batch_size, epochs, drawn
):
    # Batch normalisation refuses one image alone.
    assume(shape[0] > 1 and shape[0] % batch_size != 1)
    settings_ = {"batch_size": batch_size, "lr": drawn.draw(st.floats(0.001, 0.1))}
    model, unbroken = trained(shape, seed, objective, epochs=epochs, **settings_)
    assert [entry.keys() for entry in unbroken.history] == epochs * [{"loss", "accuracy"}]
    assert all(0 <= entry["accuracy"] <= 1 <= 1 + entry["loss"] for entry in unbroken.history)
    with tempfile.TemporaryDirectory() as folder:
        settings_["checkpoint"] = Path(folder) / "checkpoint"
        stop = drawn.draw(st.integers(1, epochs))
        trained(shape, seed, objective, epochs=stop, **settings_)
        said: list[str] = []
        other, resumed = trained(
            shape, seed, objective, epochs=epochs, log=said.append, **settings_
        )
    assert same(model, other)
    assert resumed.history == unbroken.history
    assert len(said) == epochs - stop


@seldom
@given(shapes, seeds, objectives)
def test_steps_of_length_zero_leave_the_parameters(shape, seed, objective):
    assume(shape[0] > 1)
    before = dict(network(shape, seed).named_parameters())
    model, _ = trained(shape, seed, objective, epochs=1, batch_size=shape[0], lr=0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


# --- weights -------------------------------------------------------------------------------------


@often
@given(shapes, seeds, st.integers(1, 9))
def test_weights_come_back_bit_for_bit_into_a_network_of_the_kind_alone(shape, seed, width):
    model, empty = network(shape, seed, width), network(shape, seed + 1, width)
    wider = network(shape, seed, width + 1)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        digest = save_weights(model, path, {"recipe": RECIPE})
        assert load_weights(empty, path, RECIPE) == {"recipe": RECIPE, "sha256": digest}
        with pytest.raises(WeightsError, match="another network"):
            load_weights(wider, path, RECIPE)
    assert same(empty, model)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())


@often
@given(shapes, seeds, st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_any_changed_or_missing_byte_is_noticed(shape, seed, where, flip, cut):
    model, empty = network(shape, seed), network(shape, seed + 1)
    before = network(shape, seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_weights(model, path, {"recipe": RECIPE})
        content = bytearray(path.read_bytes())
        position = int(where * len(content))
        content[position] ^= flip
        path.write_bytes(content[:position] if cut else content)
        with pytest.raises(WeightsError) as caught:
            load_weights(empty, path, RECIPE)
    assert "\n" not in str(caught.value)
    assert same(empty, before)
