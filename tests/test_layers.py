"""The rooms of rvlib stand on floors: a room imports only from lower ones."""

import ast
import sys
from pathlib import Path

import pytest

import rvlib

FLOORS = [
    {"types", "files", "checks", "memory"},
    {
        "data",
        "rows",
        "threat_models",
        "frozen",
        "noise",
        "grid_noise",
        "stemmed",
        "device",
        "intervals",
    },
    {"models", "attacks", "smoothing"},
    {"objectives", "evaluation"},
    {"training", "recipes"},
    {"profiles"},
    {"stages"},
    {"bench"},
    {"report"},
    {"course"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# What a bare GPU machine has: all rooms but these import nothing else.
CORE = {"mpmath", "torch", "torchvision", "numpy", "scipy", "safetensors", "tqdm"}
BEYOND_THE_CORE = {"course", "report"}
EXCEPTIONS = {
    # Pillow reads npm's PNG files; torchvision needs it, so it is there.
    ("data.py", "PIL"),
    # Measured where they are installed, imported nowhere else.
    *(("bench/peers.py", peer) for peer in ("art", "foolbox", "torchattacks")),
    # Only where the user hands over one of its attacks.
    ("evaluation/external.py", "foolbox"),
}

# Files that plain statistics and tables are made with, where loading torch would be a burden.
WITHOUT_TORCH = {"smoothing/certificate.py", "rows.py", "intervals.py"}

PACKAGE = Path(rvlib.__file__).parent


def modules(package):
    return {file.relative_to(package).as_posix(): file for file in sorted(package.rglob("*.py"))}


def room_of(name):
    """Name the room of a file: its folder, or for a file at the top its own name."""
    return name.split("/")[0].removesuffix(".py")


def imports(file):
    """List what a file imports, inside functions too, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which room they go to"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(package):
    """Say which file breaks which rule."""
    found = []
    for name, file in modules(package).items():
        room = room_of(name)
        if name != "__init__.py" and room not in FLOOR:
            found.append(f"{name}: room {room!r} stands on no floor")
            continue
        for imported in imports(file):
            top, _, rest = imported.partition(".")
            other = rest.split(".")[0]
            if top == "rvlib":
                # Without a room: the package itself, which holds its version and imports nothing.
                if other in ("", "__version__") or other == room:
                    continue
                if name == "__init__.py" or FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
                    found.append(f"{name}: {room} imports {other}")
            elif top == "torch" and name in WITHOUT_TORCH:
                found.append(f"{name}: imports torch")
            elif top not in CORE | sys.stdlib_module_names | {"__future__"}:
                if room not in BEYOND_THE_CORE and (name, top) not in EXCEPTIONS:
                    found.append(f"{name}: core imports {top}")
    return found


def test_arrows_go_one_way():
    assert len(modules(PACKAGE)) > 20
    assert not offences(PACKAGE)


def test_exceptions_are_needed():
    files = modules(PACKAGE)
    for name, top in EXCEPTIONS:
        assert top in {imported.split(".")[0] for imported in imports(files[name])}


@pytest.mark.parametrize(
    ("name", "line", "offence"),
    [
        ("types.py", "import rvlib.frozen", "types.py: types imports frozen"),
        ("noise.py", "from rvlib import training", "noise.py: noise imports training"),
        ("noise.py", "from rvlib.frozen import frozen", "noise.py: noise imports frozen"),
        (
            "models/lenet.py",
            "from rvlib.attacks import pgd",
            "models/lenet.py: models imports attacks",
        ),
        ("training.py", "def f():\n    import rvlib.cli", "training.py: training imports cli"),
        ("stages/train.py", "import rvlib.report.tables", "stages/train.py: stages imports report"),
        ("noise.py", "from rvlib.cellar import wine", "noise.py: noise imports cellar"),
        ("attic.py", "", "attic.py: room 'attic' stands on no floor"),
        ("__init__.py", "import rvlib.types", "__init__.py: __init__ imports types"),
        ("recipes.py", "import pandas as pd", "recipes.py: core imports pandas"),
        ("cli.py", "import PIL.Image", "cli.py: core imports PIL"),
        ("rows.py", "import torch", "rows.py: imports torch"),
        (
            "smoothing/certificate.py",
            "from torch import nn",
            "smoothing/certificate.py: imports torch",
        ),
    ],
)
def test_each_offence_is_seen(tmp_path, name, line, offence):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(line)
    assert offences(tmp_path) == [offence]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("training.py", "from rvlib.models.weights import to_device"),
        ("models/lenet.py", "from rvlib.models.weights import to_device"),
        ("device.py", "import rvlib"),
        ("device.py", "from rvlib import __version__"),
        ("report/tables.py", "import pandas\nfrom rvlib import rows"),
        ("data.py", "from PIL import Image"),
        ("cli.py", "def f():\n    from rvlib.report import tables"),
        ("__init__.py", "__version__ = '1'"),
    ],
)
def test_arrows_downwards_are_allowed(tmp_path, name, line):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(line)
    assert offences(tmp_path) == []
