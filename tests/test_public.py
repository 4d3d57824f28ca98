"""What users import: every public name, its docstring, and rooms that only look downwards."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

import rvlib as rv

PACKAGE = Path(rv.__file__).parent

# --- the public API ------------------------------------------------------------------------------


def test_importing_loads_no_torch():
    code = "import sys, rvlib; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    # A process that drives a notebook has these, and a kernel beside it that has PyTorch.
    code = "import sys, rvlib.processes, rvlib.report.notebooks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_is_no_module():
    for file in PACKAGE.glob("*.py"):  # whatever was imported before
        if file.name != "__main__.py":
            importlib.import_module(f"rvlib.{file.stem}")
    assert {"pgd", "certify", "fit", "Run", "load", "sanity"} <= set(rv.__all__)
    for name in rv.__all__:
        value = getattr(rv, name)
        assert not isinstance(value, ModuleType), f"rvlib.{name} is hidden by a file of its name"
        assert name in dir(rv)
    assert len(rv.__all__) == len(set(rv.__all__))
    with pytest.raises(AttributeError, match="nothing"):
        _ = rv.nothing


# Sections that a short function may leave out; everything else is an error, without exceptions.
OPTIONAL = {"SA01", "EX01", "ES01"}
FULL = [
    *["rvlib.device.pick_device", "rvlib.smoothing.noise.stream", "rvlib.smoothing.noise.to_grid"],
    *["rvlib.smoothing.noise.grid_noise", "rvlib.evaluation.attacked_batches"],
    *["rvlib.smoothing.statistics.correct_radii", "rvlib.inference.in_batches"],
    *["rvlib.smoothing.statistics.smallest_n_to_predict", "rvlib.results.write_shard"],
]


def documented():
    """Functions and classes that the package hands out, by the name of their home."""
    for name in rv.__all__:
        value = getattr(rv, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            if not getattr(value, "_is_protocol", False):
                yield f"{value.__module__}.{value.__name__}"
    yield from FULL


@pytest.mark.parametrize("name", sorted(set(documented())))
def test_docstring_is_whole(name):
    found = validate(name)
    summary = {"PR01", "RT01", "YD01", "GL08", "RT03"} if not _sections(found) else set()
    errors = [f"{c}: {t}" for c, t in found["errors"] if c not in OPTIONAL | summary]
    assert not errors, f"{name}: {errors}"
    assert found["docstring"]


def _sections(found):
    """Whether a docstring has sections; one or two plain sentences need none."""
    return "Parameters\n" in found["docstring"]


def documented_defaults(function):
    """Defaults by parameter, as the docstring has them; text that is no value is left out."""
    for entry in get_doc_object(function, "function")["Parameters"]:
        if found := re.search("default=([^{]*)$", entry.type):  # {} is made anew each time
            names = entry.name.split(", ")
            values = found[1].split(", ") if len(names) > 1 else [found[1]]
            for name, value in zip(names, values * (len(names) // len(values)), strict=True):
                with suppress(ValueError, SyntaxError):
                    yield name, ast.literal_eval(value)


def functions():
    """All functions and classes of the package, by where they are."""
    for info in pkgutil.walk_packages([str(PACKAGE)], "rvlib."):
        if not info.name.endswith("__main__"):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if getattr(value, "__module__", "") == info.name and callable(value):
                    yield f"{info.name}.{name}", value


def test_defaults_are_the_documented_ones():
    checked, public = 0, set(documented())
    for name, function in functions():
        said = dict(documented_defaults(function)) if function.__doc__ else {}
        if not said and name not in public:
            continue  # errors, for one, have no signature
        found = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        assert said == {k: found[k] for k in said}, name
        if name in public:
            numbers = {k for k, v in found.items() if isinstance(v, int | float | str)}
            assert numbers <= set(said), f"{name}: a default is not documented"
        checked += len(said)
    assert checked > 50


# --- the rooms -----------------------------------------------------------------------------------

FLOORS = [
    {"threat_models", "data", "progress", "device", "results", "inference", "distributed"},
    {"checks", "smoothing", "attacks", "models"},
    {"objectives", "evaluation"},
    {"training", "sanity_checks", "experiments", "modern"},
    {"verdict"},
    {"judge"},
    {"pipeline", "certification"},
    {"report", "arguments"},
    {"course"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
CORE = {"mpmath", "torch", "torchvision", "numpy", "scipy", "safetensors", "tqdm", "pandas", "PIL"}


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(name, source):
    """Say which imports of a file look upwards, or beyond what a bare machine has."""
    room = name.split("/")[0].removesuffix(".py")
    for imported in imports(source):
        top, *rest = imported.split(".")
        if top == "rvlib" and rest and rest[0] in FLOOR:
            if FLOOR[rest[0]] > FLOOR[room] or (name == "smoothing/statistics.py"):
                yield f"{name}: imports {rest[0]}"
        elif top not in CORE | sys.stdlib_module_names | {"rvlib"}:
            if room not in ("report", "course") and top != "foolbox":
                yield f"{name}: imports {top}"
        elif top == "torch" and name in ("smoothing/statistics.py", "results.py"):
            yield f"{name}: imports torch"


def test_rooms_look_downwards():
    files = [f for f in sorted(PACKAGE.rglob("*.py")) if f != PACKAGE / "__init__.py"]
    named = {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in files}
    assert len(named) > 20
    assert [o for name, source in named.items() for o in offences(name, source)] == []
