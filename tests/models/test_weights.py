"""rvlib.models.weights: what was saved comes back bit for bit, or not at all."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from rvlib import experiments as ex
from rvlib.data import load, to_float
from rvlib.models import WeightsError, load_weights, read_record, save_weights
from rvlib.pipeline import repository
from rvlib.results import read

RECIPE = {"name": "toy", "lr": 0.1}


def net(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten())


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refuse(path, model, recipe=RECIPE, match=""):
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match=rf"{match}[^\n]*$") as caught:
        load_weights(model, path, recipe)
    assert "\n" not in str(caught.value)
    assert same(model, before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "net.safetensors"


def test_round_trip(path):
    digest = save_weights(net(), path, {"recipe": RECIPE, "seed": 3})
    other = net(1)
    record = load_weights(other, str(path), dict(reversed(RECIPE.items())))
    assert record == {"recipe": RECIPE, "seed": 3, "sha256": digest} == read_record(path)
    assert same(other, net())
    assert load_weights(net(1), path) == record  # no recipe asked for
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.json", "net.safetensors"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_any_changed_or_missing_byte_is_noticed(tmp_path_factory, where, flip, cut):
    path = tmp_path_factory.mktemp("w") / "net.safetensors"
    save_weights(net(), path, {"recipe": RECIPE})
    content = bytearray(path.read_bytes())
    position = int(where * len(content))
    content[position] ^= flip
    path.write_bytes(content[:position] if cut else content)
    refuse(path, net(), match="restore")


def test_weights_of_another_network_or_recipe_are_refused(path):
    save_weights(net(), path, {"recipe": RECIPE})
    refuse(path, net(width=5), match="another network")
    refuse(path, nn.Sequential(*net()[:2], nn.ReLU(), nn.Linear(1, 1)), match="another network")
    refuse(path, nn.Sequential(net()[0]), match="another network")
    refuse(path, net(), {"name": "toy"}, match="lr")
    refuse(path, net(), RECIPE | {"more": None}, match="more")
    refuse(path, net(), RECIPE | {"name": "other"}, match="name")


def record_sum(path):
    """Write a record of whatever the file holds."""
    record = {"recipe": RECIPE, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record))


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"sha256": 1, "recipe": {}}', b"\x80"])
def test_what_is_damaged_or_missing_is_refused(path, record):
    save_weights(net(), path, {"recipe": RECIPE})
    path.with_suffix(".json").write_bytes(record)
    refuse(path, net(), match="json")
    path.with_suffix(".json").unlink()
    refuse(path, net(), match="json")
    path.write_bytes(b"nonsense")
    record_sum(path)
    refuse(path, net(), match="another network")
    path.unlink()
    refuse(path, net(), match="missing")


# --- records -------------------------------------------------------------------------------------


def test_numpy_numbers_and_tuples_come_back_as_they_went(path):
    recipe = {"betas": (0.9, 0.999), "lr": np.float32(0.5), "n": np.int64(3), "on": np.bool_(True)}
    save_weights(net(), path, {"recipe": recipe, "accuracy": np.float64(0.6), "by": np.arange(3)})
    record = load_weights(net(), path, recipe)
    assert record["recipe"] == {"betas": [0.9, 0.999], "lr": 0.5, "n": 3, "on": True}
    assert (record["accuracy"], record["by"]) == (0.6, [0, 1, 2])


@pytest.mark.parametrize(
    "record",
    [
        {"recipe": RECIPE, "made by": object()},
        {"recipe": RECIPE, ("a", "b"): 1},
        {"recipe": "toy"},
        {"sha256": "0"},
    ],
)
def test_a_failing_record_leaves_the_good_pair(path, record):
    save_weights(net(), path, {"recipe": RECIPE})
    with pytest.raises((TypeError, ValueError, AttributeError)):
        save_weights(net(1), path, record)
    other = net(2)
    load_weights(other, path, RECIPE)
    assert same(other, net())


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not end"):
        save_weights(net(), tmp_path / "net.pt", {"recipe": RECIPE})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [1, 2])
def test_a_full_disk_never_leaves_a_record_without_its_weights(path, monkeypatch, fails):
    calls, write = [], Path.write_bytes

    def full_disk(self, content):
        calls.append(self)
        if len(calls) == fails:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(net(), path, {"recipe": RECIPE})
    assert not path.with_suffix(".json").exists()
    assert [file.suffix for file in path.parent.iterdir()] == [".safetensors"][: fails - 1]


# --- wrappers ------------------------------------------------------------------------------------


def compiled(model):
    return torch.compile(model, backend="eager")


class Holder(nn.Module):
    """A network whose own parameters have a wrapper's name, among others or alone."""

    def __init__(self, more, seed):
        super().__init__()
        self.module = net(seed)
        if more:
            self.add_module("0", nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    "wrap",
    [
        *(nn.DataParallel, compiled),
        lambda model: nn.DataParallel(compiled(model)),
        lambda model: compiled(nn.DataParallel(model)),
    ],
)
def test_wrappers_leave_no_trace(path, wrap):
    save_weights(wrap(net()), path, {"recipe": RECIPE})
    bare, wrapped = net(1), wrap(net(1))
    load_weights(bare, path, RECIPE)
    load_weights(wrapped, path, RECIPE)
    assert same(bare, net())
    assert same(wrapped, wrap(net()))
    # Written by something else, with the prefixes.
    save_file(wrap(net()).state_dict(), path)
    record_sum(path)
    bare = net(1)
    load_weights(bare, path, RECIPE)
    assert same(bare, net())


@pytest.mark.parametrize("more", [True, False])
def test_a_networks_own_module_named_module_is_kept(path, more):
    holder, other = Holder(more, 0), Holder(more, 1)
    save_weights(holder, path, {"recipe": RECIPE})
    load_weights(other, path, RECIPE)
    assert same(holder, other)


def test_tied_and_transposed_weights_are_written(path):
    model = net()
    model[0].weight = nn.Parameter(model[0].weight.detach().transpose(2, 3))
    tied = nn.ModuleList([model, model[0]])
    save_weights(tied, path, {"recipe": RECIPE})
    other = nn.ModuleList([net(1), net(2)[0]])
    load_weights(other, path, RECIPE)
    assert same(other[0], model)
    assert same(other[1], model[0])


# --- the shipped ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ex.RECIPES)
def test_shipped_weights_give_the_answers_of_the_published_rows(name):
    root = repository() / "report"
    recipe = ex.find_recipe(name)
    rows = read(root / "rows" / "heldout" / name / "seed-0" / "natural", 64)
    model = recipe.build(0)
    record = load_weights(model, root / "models" / name / "seed-0.safetensors", recipe.record())
    assert record["sha256"] == rows.meta["weights"]
    images, labels = load("cifar10", "heldout")
    with torch.no_grad():
        answers = model.eval()(to_float(images[:64])).argmax(1)
    assert rows.frame["prediction"].tolist() == answers.tolist()
    assert rows.frame["label"].tolist() == labels[:64].tolist()
