"""docs/bring-your-own.md: every example runs as it stands."""

import re

import pytest

from rvlib.models import MODELS
from rvlib.pipeline import repository

TEXT = (repository() / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## (.+?)\n(.*?)^```python\n(.*?)^```", TEXT, flags=re.M | re.S)


def test_there_is_one_for_each_extension():
    titles = [title for title, *_ in EXAMPLES]
    assert titles == ["An attack", "A norm", "A network", "A data set", "A defence"]
    assert TEXT.count("```") == 2 * len(EXAMPLES)


@pytest.mark.parametrize(("title", "before", "code"), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_an_example_runs(title, before, code, monkeypatch, capsys):
    monkeypatch.setattr("rvlib.models.MODELS", dict(MODELS))
    assert before.strip()
    exec(compile(code, title, "exec"), {"__name__": "example"})
    assert re.search(r"\d", capsys.readouterr().out)
