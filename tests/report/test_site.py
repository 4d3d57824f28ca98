"""rvlib.report.site: pages that ask for nothing, with everything that the notebooks show."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from math_core import LatexError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rvlib.report.site import build_site, latest, markdown
from rvlib.stages.run import Run

REPORT = Path(__file__).parents[2] / "report"
PIXEL = "iVBORw0KGgo="
TEXT = """# 01 · How far does one step carry?

[![Open in Colab](https://example.org/badge.svg)](https://example.org/open)
then [next](02_b.ipynb), of $\\epsilon$

$$\\hat{x} = \\Pi_{[0,1]}\\big(x + \\epsilon\\,\\mathrm{sign}(\\nabla_x L)\\big)$$
"""


class Links(HTMLParser):
    """What a page loads, what it links, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.images, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.loads += [found["src"]] if "src" in found else []
        self.loads += [found["href"]] if tag == "link" else []
        self.links += [found["href"]] if tag == "a" else []
        self.images += [found] if tag == "img" else []


def explorer_output():
    """All faces of an explorer, as a headless run leaves them."""
    data = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2},
        "text/html": '<figure class="twin">twin</figure><script>let a = "<b>"</script>',
        "image/png": PIXEL,
        "text/plain": "plain words",
    }
    return new_output("display_data", data, metadata={"image/png": {"alt": "plain words"}})


def figure_output():
    data = {"image/png": PIXEL, "text/plain": "<IPython.core.display.Image object>"}
    metadata = {"image/png": {"alt": 'Accuracy "falls" <fast>'}}
    return new_output("execute_result", data, metadata=metadata, execution_count=1)


@pytest.fixture
def root(tmp_path):
    """A checkout of two notebooks, the first with outputs."""
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(REPORT / "site", tmp_path / "report" / "site")
    first = [
        new_markdown_cell(TEXT),
        new_code_cell("explore(run)", outputs=[explorer_output()]),
        new_code_cell("show()", outputs=[figure_output()]),
        new_code_cell("say()", outputs=[new_output("display_data", {"text/markdown": "so $p_A$"})]),
    ]
    write(tmp_path / "notebooks" / "01_a.ipynb", first)
    write(tmp_path / "notebooks" / "02_b.ipynb", [new_markdown_cell("# 02 · And then?")])
    return tmp_path


def write(path, cells):
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture
def run(root):
    return replace(Run.open("smoke", "cpu", root), log=lambda line: None)


def pages(site):
    return {path.name: Links(path.read_text()) for path in site.glob("*.html")}


def test_no_page_loads_anything(root, run):
    site = build_site(run, root).parent
    assert site == root / "build" / "site"
    assert pages(site).keys() == {"index.html", "01_a.html", "02_b.html"}
    for name, page in pages(site).items():
        assert [address for address in page.loads if not address.startswith("data:")] == [], name
        style = "".join(re.findall(r"<style.*?</style>", (site / name).read_text(), flags=re.S))
        assert not re.search(r"@import|url\((?!data:|'data:|\"data:|#)", style), name


def test_every_link_within_the_site_leads_somewhere(root, run):
    site = build_site(run, root).parent
    for name, page in pages(site).items():
        inner = {link for link in page.links if "://" not in link and not link.startswith("#")}
        assert {"index.html", "01_a.html", "02_b.html"} <= inner, name
        assert [link for link in inner if not (site / link).exists()] == [], name
    assert "https://example.org/open" in pages(site)["01_a.html"].links


def test_outputs_show_the_face_for_readers_without_a_kernel(root, run):
    text = (build_site(run, root).parent / "01_a.html").read_text()
    assert '<figure class="twin">twin</figure>' in text
    assert '<script>let a = "<b>"</script>' in text
    assert "widget-view" not in text
    assert "plain words" not in text  # the PNG and the words are for those who show no HTML
    (image,) = Links(text).images
    assert image["alt"] == 'Accuracy "falls" <fast>'
    assert image["src"] == f"data:image/png;base64,{PIXEL}"


def test_equations_need_no_script(root, run):
    text = (build_site(run, root).parent / "01_a.html").read_text()
    assert Links(text).tags.count("math") == 3  # in a line, by itself, in an output
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert "$" not in body
    assert "\\" not in body
    assert "mathjax" not in text.lower()


def test_an_unknown_command_is_refused_by_name(root, run):
    with pytest.raises(LatexError, match="wombat"):
        markdown(r"$x \wombat y$")
    write(root / "notebooks" / "02_b.ipynb", [new_markdown_cell(r"# $\wombat$")])
    with pytest.raises(ValueError, match=r"^02_b: .*wombat") as error:
        build_site(run, root)
    assert "\n" not in str(error.value)


def test_badges_and_links_of_markdown():
    badge = markdown("[![Open in Colab](https://example.org/b.svg)](https://example.org/o.ipynb)")
    assert badge.strip() == '<p><a href="https://example.org/o.ipynb">Open in Colab</a></p>'
    assert 'href="02_b.html#so"' in markdown("[b](02_b.ipynb#so)")
    assert 'src="data:image/png;base64,aa"' in markdown("![a](data:image/png;base64,aa)")
    assert markdown("$$x < y$$").count("<math") == 1
    assert markdown("\\begin{align}x &= y\\end{align}").count("<math") == 1


def test_titles_and_where_one_is(root, run):
    site = build_site(run, root).parent
    text = (site / "02_b.html").read_text()
    assert "<title>02 · And then?</title>" in text
    assert re.findall(r'<a aria-current="page" href="(.*?)">(.*?)</a>', text) == [
        ("02_b.html", "02 b")
    ]
    assert 'lang="en"' in text
    assert ">02 · And then?</a>" in (site / "index.html").read_text()


# --- what is shown: the last run, or what is shipped ----------------------------------------------


def executed(root, run, *, finished=True, source="# 02 · And then?"):
    """Leave a run of the second notebook behind."""
    path = run.out / "notebooks" / "02_b.ipynb"
    path.parent.mkdir(parents=True)
    write(
        path,
        [
            new_markdown_cell(source),
            new_code_cell('profile = "course"', metadata={"tags": ["injected-parameters"]}),
        ],
    )
    marked = nbformat.read(path, 4)
    marked.metadata["who"] = "run"
    nbformat.write(marked, path)
    if finished:
        (run.out / "finished").mkdir()
        (run.out / "finished" / "02_b.json").write_text("{}")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, True),
        ({"finished": False}, False),
        ({"source": "# 02 · An older question?"}, False),
    ],
    ids=["finished", "not finished", "of other cells"],
)
def test_the_last_run_is_shown_if_it_is_of_these_cells(root, run, options, shown):
    executed(root, run, **options)
    found = latest(root / "notebooks" / "02_b.ipynb", run.out)
    assert (found.metadata.get("who") == "run") == shown
    assert [cell.source for cell in found.cells] == ["# 02 · And then?"]


@pytest.mark.parametrize("folder", ["build/smoke", "report"])
def test_the_report_is_one_of_the_pages(root, run, folder):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.pdf"):
        (root / folder / name).write_text(f"<p>{folder}</p>")
    site = build_site(run, root).parent
    assert (site / "report.html").read_text() == f"<p>{folder}</p>"
    assert {"report.html", "report.pdf"} <= set(pages(site)["02_b.html"].links)


def test_what_an_earlier_site_had_is_gone_and_the_same_notebooks_give_the_same_pages(root, run):
    site = build_site(run, root).parent
    before = {path.name: path.read_bytes() for path in site.iterdir()}
    (site / "old.html").touch()
    build_site(run, root)
    assert {path.name: path.read_bytes() for path in site.iterdir()} == before


def test_no_live_widget_is_asked_for_even_where_its_state_was_kept(root, run):
    path = root / "notebooks" / "01_a.ipynb"
    notebook = json.loads(path.read_text())
    state = {"state": {"a": {}}, "version_major": 2, "version_minor": 0}
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    path.write_text(json.dumps(notebook))
    text = (build_site(run, root).parent / "01_a.html").read_text()
    assert '<figure class="twin">twin</figure>' in text
    assert "unpkg" not in text
