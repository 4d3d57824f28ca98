"""rvlib.report.reference: every public name described once, by pages that load nothing."""

import re

import pytest

import rvlib
from rvlib.pipeline import repository
from rvlib.report.front import Page
from rvlib.report.reference import write_reference

TEMPLATES = repository() / "report" / "site"
FRONT = Page("index.html", "Overview", "Front")
CONTEXT = {"resources": {"pages": [FRONT], "elsewhere": {}}, "up": "../"}


@pytest.fixture(scope="module")
def api(site):
    """Read the reference of the site: to make another one takes seconds."""
    return {path.name: path.read_text() for path in (site / "api").iterdir()}


def test_each_group_has_a_page_and_each_name_one_place(api):
    assert api.keys() == {f"{group}.html" for group in ("index", *rvlib._PUBLIC)}
    for group, names in rvlib._PUBLIC.items():
        for name in names:
            places = [file for file, text in api.items() if f'id="rvlib.{name}"' in text]
            assert places == [f"{group}.html"], name
            assert f'href="{group}.html#rvlib.{name}"' in api["index.html"], name


def test_pages_load_nothing_and_every_link_arrives(api, site):
    for name, text in api.items():
        assert '<a href="../index.html">Overview</a>' in text
        assert not re.search(r"<(link|script|img)\b|@import|url\(", text), name
        for link in re.findall(r'href="(.*?)"', text):
            file, _, anchor = link.partition("#")
            if file.startswith("../"):
                assert (site / "api" / file).exists(), f"{name}: {link}"
            else:
                assert not anchor or f'id="{anchor}"' in api[file or name], f"{name}: {link}"


def test_equations_are_mathml_and_defaults_are_shown_as_written(api):
    words = {
        name: re.sub("<(style|code).*?</\\1>|<.*?>", "", text, flags=re.S)
        for name, text in api.items()
    }
    for name, text in words.items():
        assert not re.search(r"\\[a-z]|:math:|\$", text), name
    assert api["threat_models.html"].count('<math display="block"') == 1  # of PixelL2
    assert "<mtr" in api["attacks.html"]  # APGD's two lines
    assert "loss=log_odds" in words["attacks.html"].replace("\n", "")


def test_methods_are_described_but_not_those_of_torch(api):
    assert 'id="rvlib.Linf.at"' in api["threat_models.html"]  # inherited
    assert 'id="rvlib.Run.accuracy"' in api["pipeline.html"]
    assert "state_dict" not in api["models.html"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Attack.\n\nParameters\n----------\nx : `int\n    Broken.", "Inline"),
        ("Attack.\n\nWith :math:`\\wombat`.", "wombat"),
    ],
)
def test_a_docstring_that_cannot_be_shown_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(rvlib, "_PUBLIC", {"training": ["fit"]})
    monkeypatch.setattr(rvlib.fit, "__doc__", text)
    with pytest.raises(ValueError, match=f"training.fit.*{message}"):
        write_reference(tmp_path, TEMPLATES, CONTEXT)
    assert list(tmp_path.iterdir()) == []
