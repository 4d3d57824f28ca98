"""No pickle is loaded, and what is loaded was compared with its digest first."""

import ast
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import rvlib
from rvlib.models import weights
from rvlib.models.weights import WeightsError, load_weights, pack, save_weights, unpack

PACKAGE = Path(rvlib.__file__).parent
FORBIDDEN = {
    "pickle": "import",
    "marshal": "import",
    "shelve": "import",
    "dill": "import",
    "joblib": "import",
    "cloudpickle": "import",
    "torch.load": "call",
    "torch.save": "call",
    "torch.jit.load": "call",
    "torch.hub.load": "call",
    "np.load": "call",
    "numpy.load": "call",
    "pd.read_pickle": "call",
    "yaml.load": "call",
    "eval": "call",
}


def offences(source):
    """Say what a source text uses to run what stands in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            names = {ast.unparse(node.func)}
            if any(
                k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
            ):
                yield "allow_pickle"
        else:
            continue
        yield from sorted(names & FORBIDDEN.keys())


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.name))
def test_no_file_of_the_package_loads_a_pickle(file):
    assert not list(offences(file.read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle.x",
        "x = torch.load(path, weights_only=True)",
        "from torch import load",
        "x = np.load(path)",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "eval('1')",
    ],
)
def test_each_way_is_seen(line):
    assert len(list(offences(line))) == 1


# ---- what training carries from one epoch to the next ---------------------------------------

TREE = {
    "text": "ünï\nline",
    "numbers": [1, 0.1 + 0.2, -1e-300, True, None],
    "by number": {0: {"buffer": torch.arange(6.0).view(2, 3).T}, 1: None},
    "nothing": {},
    "scalar": torch.tensor(7),
    "state": torch.Generator().manual_seed(3).get_state(),
}


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_what_was_packed_comes_back_bit_for_bit():
    assert_same(unpack(pack(TREE)), TREE)
    shared = torch.ones(3)
    assert_same(unpack(pack([shared, shared])), [shared, shared])
    assert unpack(pack((1, (2,)))) == [1, [2]]


def test_the_head_is_the_digest_of_the_rest():
    digest, _, content = pack(TREE).partition(b"\n")
    assert digest.decode() == hashlib.sha256(content).hexdigest()


def test_any_flipped_byte_is_refused_before_anything_is_parsed(monkeypatch):
    packed = pack({"a": torch.ones(2), "b": 1})

    def parse(*arguments):
        pytest.fail("it was parsed")

    monkeypatch.setattr(weights, "load", parse)
    monkeypatch.setattr(json, "loads", parse)
    for position in range(len(packed)):
        changed = bytearray(packed)
        changed[position] ^= 1
        with pytest.raises(ValueError, match="digest"):
            unpack(bytes(changed))
    for size in range(len(packed)):
        with pytest.raises(ValueError, match="digest"):
            unpack(packed[:size])


def test_weights_are_parsed_after_their_digest_was_compared(tmp_path, monkeypatch):
    net, path = nn.Linear(2, 2), tmp_path / "net.safetensors"
    save_weights(net, path, {"recipe": {}})
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(weights, "load", lambda content: pytest.fail("it was parsed"))
    with pytest.raises(WeightsError, match="not the file its record describes"):
        load_weights(net, path, {})
