"""The packaging files agree: one version a package, said once, in requirements.lock."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import rvlib

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CORE = {*"mpmath numpy pandas pillow safetensors scipy torch torchvision tqdm".split()}

LOCKED = [Requirement(line) for line in LOCK.splitlines() if re.match(r"\w", line)]
PINS = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in LOCKED}
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [
    *PROJECT["dependencies"],
    *(need for name, extra in EXTRAS.items() if name != "peers" for need in extra),
    *PYPROJECT["build-system"]["requires"],
]
PEERS = (ROOT / "requirements-peers.lock").read_text()
PEER_PINS = dict(re.findall(r"^([\w-]+)==(.+)$", PEERS, flags=re.MULTILINE))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
# What conda installs itself, {"python": "3.12", "pip": "", ...}, and the lines it hands to pip.
CONDA_PACKAGES = {
    name: version
    for name, _, version in (d.partition("=") for d in CONDA["dependencies"] if isinstance(d, str))
}
CONDA_PIP = next(d["pip"] for d in CONDA["dependencies"] if isinstance(d, dict))


def test_each_line_of_the_lock_pins_another_package():
    assert len(PINS) == len(LOCKED) > 100
    for pin in PINS.values():
        Version(pin)  # one exact version: no range, no wildcard
    assert "://" not in LOCK  # no address, and no folder
    assert not re.search(r"^(-|/|\.|.* @ )", LOCK, flags=re.MULTILINE)


@pytest.mark.parametrize("need", NEEDED)
def test_lock_satisfies_the_lower_bounds_of_pyproject(need):
    requirement = Requirement(need)
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])
    assert {s.operator for s in requirement.specifier} <= {">="}


@pytest.mark.parametrize("need", EXTRAS["peers"])
def test_peers_have_a_lock_of_their_own(need):
    requirement = Requirement(need)
    assert requirement.specifier.contains(PEER_PINS[requirement.name])
    assert not PEER_PINS.keys() & PINS.keys()  # nothing of the environment is changed by them
    assert "://" not in PEERS


def test_core_is_small():
    assert {Requirement(need).name for need in PROJECT["dependencies"]} == CORE


def test_conda_leaves_every_python_package_to_the_lock():
    assert CONDA["name"] == PROJECT["name"]
    assert CONDA_PIP == ["-r requirements.lock", "-e ."]
    assert not CONDA_PACKAGES.keys() & PINS.keys()


def test_python_versions_agree():
    minimum = str(SpecifierSet(PROJECT["requires-python"])).removeprefix(">=")
    conda = CONDA_PACKAGES["python"]
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python ::" in c]
    assert Version(conda) >= Version(minimum)
    assert {minimum, conda} <= set(supported)
    assert PYPROJECT["tool"]["mypy"]["python_version"] == minimum


def test_ci_runs_make_test_and_nothing_else():
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert run.read_text().splitlines()[1:] == ["set -eu", 'cd "$(dirname "$0")/.."', "make test"]


def test_each_make_target_says_what_it_does():
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(
        re.findall(r"^([\w-]+):.*## \w", MAKEFILE, flags=re.MULTILINE)
    )


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rvlib.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_a_wheel_can_be_built_from_the_sources():
    targets = PYPROJECT["tool"]["hatch"]["build"]["targets"]
    assert {*targets["wheel"]["force-include"]} <= {*targets["sdist"]["only-include"]}
