"""rvlib.models.weights: what is loaded is what was saved, or one line says why not."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from rvlib.files import write_whole
from rvlib.models import load_weights, save_weights
from rvlib.models.weights import WeightsError, read_record, to_device

RECIPE = {"name": "toy", "lr": 0.1, "sigma": None, "attacks": [{"eps": 0.03}]}
RECORD = {"recipe": RECIPE, "seed": 3}


def same(model, other):
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models" / "toy" / "seed-3.safetensors"


@pytest.fixture
def saved(toy, path):
    """The toy's weights on disk."""
    save_weights(toy, path, RECORD)
    return path


@pytest.fixture
def empty(toys):
    """A network of the same kind with other weights."""
    empty = toys()
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.add_(1)
    return empty


def refused(model, path, words, recipe=RECIPE):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as refusal:
        load_weights(model, path, recipe)
    assert "\n" not in str(refusal.value)
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- round trip -----------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_saved(toy, saved, empty):
    assert not same(empty, toy)
    record = load_weights(empty, saved, RECIPE)
    assert same(empty, toy)  # parameters, running statistics, counters: bit for bit
    assert record == RECORD | {"sha256": hashlib.sha256(saved.read_bytes()).hexdigest()}


def test_a_path_may_be_text(toy, empty, path):
    save_weights(toy, str(path), {"recipe": RECIPE})
    load_weights(empty, str(path), RECIPE)
    assert same(empty, toy)


def test_weights_in_the_fast_layout_come_back_too(toys, path):
    original = to_device(toys(), "cpu")
    save_weights(original, path, RECORD)
    other = toys().double().float()
    load_weights(other, path, RECIPE)
    assert same(other, original)


def test_same_weights_make_the_same_file(toys, path):
    plain = save_weights(toys(), path, RECORD)
    content = path.read_bytes()
    assert save_weights(to_device(toys(), "cpu"), path, RECORD) == plain
    assert path.read_bytes() == content


def test_record_lies_beside_and_names_the_digest(toy, path):
    digest = save_weights(toy, path, RECORD)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "seed-3.json",
        "seed-3.safetensors",
    ]
    record = json.loads(path.with_suffix(".json").read_text())
    assert record == RECORD | {"sha256": digest} == read_record(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_saving_leaves_network_and_record_alone(toy, path):
    record = dict(RECORD)
    save_weights(toy, path, record)
    assert record == RECORD
    assert toy.training
    assert not toy[2][1].training


# ---- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_bit_is_refused(saved, empty, position):
    content = bytearray(saved.read_bytes())
    content[position] ^= 1
    saved.write_bytes(content)
    assert refused(empty, saved, "not the file its record describes")


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_cut_file_is_refused(saved, empty, content):
    saved.write_bytes(content)
    assert refused(empty, saved, "not the file its record describes")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (RECIPE | {"lr": 0.2}, r"another recipe.*lr"),
        (RECIPE | {"lr": 0.2, "name": "other"}, r"another recipe.*lr, name"),
        (RECIPE | {"sigma": 0.25}, r"another recipe.*sigma"),
        (RECIPE | {"attacks": [{"eps": 0.031}]}, r"another recipe.*attacks"),
        (RECIPE | {"epochs": 30}, r"another recipe.*epochs"),  # the record is silent
        (RECIPE | {"network": None}, r"another recipe.*network"),  # silence is not None
        ({"name": "toy"}, r"another recipe.*lr"),  # the record says more than was asked for
    ],
)
def test_another_recipe_is_refused_and_the_difference_named(saved, empty, recipe, words):
    assert refused(empty, saved, words, recipe)


def test_weights_of_another_network_are_refused(saved, toys):
    refused(toys(classes=4), saved, "another network")
    refused(torch.nn.Linear(2, 2), saved, "another network")


def test_a_file_that_holds_no_weights_is_refused(saved, empty):
    """Its digest is right, its content is not: a record made by hand."""
    saved.write_bytes(b"no weights")
    record = RECORD | {"sha256": hashlib.sha256(b"no weights").hexdigest()}
    saved.with_suffix(".json").write_text(json.dumps(record))
    assert refused(empty, saved, "seed-3.safetensors")


def test_a_missing_record_is_named(saved, empty):
    saved.with_suffix(".json").unlink()
    assert refused(empty, saved, r"seed-3\.json is missing")


def test_missing_weights_are_named(saved, empty):
    saved.unlink()
    assert refused(empty, saved, r"seed-3\.safetensors is missing")


def test_where_nothing_is_the_message_says_so(path, empty):
    assert refused(empty, path, "is missing: train")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        '{"sha256": "00"}',
        '{"recipe": {}}',
        '{"sha256": 7, "recipe": {}}',
        '{"sha256": "00", "recipe": []}',
    ],
)
def test_what_is_no_record_is_refused(saved, empty, text):
    saved.with_suffix(".json").write_text(text)
    assert refused(empty, saved, r"seed-3\.json is not a weights record")


def test_a_record_of_bytes_that_are_no_text_is_refused(saved, empty):
    saved.with_suffix(".json").write_bytes(b"\xff\xfe\x00")
    assert refused(empty, saved, r"seed-3\.json is not a weights record")


# ---- never half there -----------------------------------------------------------------------


def fail_on(monkeypatch, verb, name):
    """Let one verb of Path fail on files of a name, after half of its work."""
    original = getattr(Path, verb)

    def failing(self, *arguments):
        if name not in self.name:
            return original(self, *arguments)
        if verb == "write_bytes":
            original(self, arguments[0][: len(arguments[0]) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, verb, failing)


def listing(path):
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.mark.parametrize("verb", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, verb):
    path = tmp_path / "file"
    write_whole(path, b"old")
    fail_on(monkeypatch, verb, "file")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new content")
    assert listing(path) == {"file": b"old"}  # and nothing temporary


def test_files_appear_by_renaming(tmp_path, monkeypatch):
    """At no moment is a part of the content under the final name."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    seen = []
    original = Path.write_bytes

    def spy(self, content):
        done = original(self, content)
        seen.append((self.parent, path.read_bytes()))
        return done

    monkeypatch.setattr(Path, "write_bytes", spy)
    write_whole(path, b"new")
    assert seen == [(tmp_path, b"old")]  # written elsewhere, on the same file system
    assert listing(path) == {"file": b"new"}


@pytest.mark.parametrize("verb", ["write_bytes", "replace"])
def test_failing_to_write_weights_leaves_the_old_ones(saved, empty, monkeypatch, verb):
    before = listing(saved)
    fail_on(monkeypatch, verb, ".safetensors")
    with pytest.raises(OSError, match="No space left"):
        save_weights(empty, saved, RECORD)
    assert listing(saved) == before


@pytest.mark.parametrize("verb", ["write_bytes", "replace"])
def test_failing_to_write_the_record_is_noticed_on_loading(saved, empty, monkeypatch, verb):
    fail_on(monkeypatch, verb, ".json")
    with pytest.raises(OSError, match="No space left"):
        save_weights(empty, saved, RECORD)
    monkeypatch.undo()
    assert refused(empty, saved, "not the file its record describes")


def test_weights_without_a_record_are_not_yet_there(toy, empty, path, monkeypatch):
    fail_on(monkeypatch, "replace", ".json")
    with pytest.raises(OSError, match="No space left"):
        save_weights(toy, path, RECORD)
    monkeypatch.undo()
    assert refused(empty, path, r"seed-3\.json is missing")
