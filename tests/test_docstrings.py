"""Every public function says what it takes, what it gives and with which guarantee."""

import importlib
import inspect

import pytest
from numpydoc.validate import validate

ROOMS = [
    "attacks",
    "data",
    "device",
    "evaluation",
    "frozen",
    "intervals",
    "models",
    "noise",
    "objectives",
    "profiles",
    "rows",
    "smoothing",
    "threat_models",
    "training",
]

# Sections that a short function may leave out; everything else is an error, without exceptions.
OPTIONAL = {"SA01", "EX01", "ES01"}


def public_names():
    """Functions and classes that a room hands out, by the name a user imports."""
    for room in ROOMS:
        module = importlib.import_module(f"rvlib.{room}")
        for name, value in vars(module).items():
            home = getattr(value, "__module__", "") or ""
            if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            if getattr(value, "_is_protocol", False):
                continue  # its verbs are documented one by one
            if home == module.__name__ or home.startswith(f"{module.__name__}."):
                yield f"rvlib.{room}.{name}"


def test_the_list_is_not_empty():
    names = list(public_names())
    assert "rvlib.attacks.pgd" in names
    assert len(names) > 50


@pytest.mark.parametrize("name", list(public_names()))
def test_docstring_is_whole(name):
    errors = [f"{code}: {text}" for code, text in validate(name)["errors"] if code not in OPTIONAL]
    assert not errors, f"{name}: {errors}"
