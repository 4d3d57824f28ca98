"""rvlib.report.site: pages that load nothing, with everything that the notebooks show."""

import re
import shutil
from email.message import Message

import nbformat
import pytest
from bs4 import BeautifulSoup
from math_core import LatexError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rvlib.pipeline import Run, repository
from rvlib.report import site as module
from rvlib.report.playground import NETWORKS
from rvlib.report.site import build_site, latest, markdown

PIXEL = "iVBORw0KGgo="
TEXT = """# 01 · How far does one step carry?

*On Colab, once:* `git clone ADDRESS`

See [there](https://example.org/there),
then [next](02_b.ipynb), of $\\epsilon$

*Time: A quarter of a minute.*

## Then

$$\\hat{x} = \\Pi_{[0,1]}\\big(x + \\epsilon\\,\\mathrm{sign}(\\nabla_x L)\\big)$$
"""
EXPLORER = {  # what an explorer leaves in a headless run
    "application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2},
    "text/html": '<figure class="twin">static</figure><script>let a = "<b>"</script>',
    "image/png": PIXEL,
    "text/plain": "plain words",
}
FIGURE = {"image/png": PIXEL, "text/plain": "<IPython.core.display.Image object>"}


def parsed(text):
    return BeautifulSoup(text, "html.parser")


def links(tag):
    return [link["href"] for link in tag("a")]


def shown(data, **alt):
    return [new_output("display_data", data, metadata={"image/png": alt} if alt else {})]


def write(path, cells, **metadata):
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


def checkout(tmp_path):
    """Make a checkout of two notebooks, the first with outputs and widget state."""
    for folder in ("report/site", "docs"):
        shutil.copytree(repository() / folder, tmp_path / folder)
    for name in NETWORKS:
        shutil.copytree(repository() / "report/models" / name, tmp_path / "report/models" / name)
    hidden = {"jupyter": {"source_hidden": True}}
    cells = [
        new_markdown_cell(TEXT),
        new_code_cell("explore(run)", outputs=shown(EXPLORER, alt="plain words")),
        new_code_cell("tagged()", metadata={"tags": ["hide-input"]}),
        new_code_cell(
            "show()", outputs=shown(FIGURE, alt='Accuracy "falls" <fast>'), metadata=hidden
        ),
        new_code_cell("say()", outputs=shown({"text/markdown": "so $p_A$"})),
    ]
    state = {"state": {"a": {}}, "version_major": 2, "version_minor": 0}
    widgets = {"application/vnd.jupyter.widget-state+json": state}
    write(tmp_path / "notebooks" / "01_a.ipynb", cells, widgets=widgets)
    write(tmp_path / "notebooks" / "02_b.ipynb", [new_markdown_cell("# 02 · And then?")])
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def no_reference():
    # It takes seconds and needs no notebook: test_reference.py.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_reference", lambda *given: None)
        yield


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout to change."""
    checkout(tmp_path)
    monkeypatch.setenv("RVLIB_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(root):
    return Run.open("smoke", "cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory, no_reference):
    """Build the site of the unchanged checkout once, for all tests that only look at it."""
    root = checkout(tmp_path_factory.mktemp("checkout"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVLIB_ROOT", str(root))
        found = build_site(Run.open("smoke", "cpu")).parent
    assert found == root / "build" / "site"
    return found


def pages(site):
    return {path.name: path.read_text() for path in site.glob("*.html")}


def test_pages_load_nothing_and_link_each_other(site):
    menu = {"index.html", "playground.html", "01_a.html", "02_b.html", "bring-your-own.html"}
    docs = {"scale.html", "teaching.html", "places.html", "quiz.html", "playground-help.html"}
    assert pages(site).keys() == menu | docs
    for name, text in pages(site).items():
        page = parsed(text)
        assert not page("link"), name
        assert all(tag["src"].startswith("data:") for tag in page(src=True)), name
        style = "".join(re.findall(r"<style.*?</style>", text, flags=re.S))
        assert not re.search(r"@import|url\((?!data:|'data:|\"data:|#)", style), name
        inner = {link for link in links(page) if "://" not in link and not link.startswith("#")}
        linked = {"index.html"} if name == "playground.html" else menu | {"api/index.html"}
        assert linked <= inner <= linked | docs, name
    assert docs <= set(links(parsed(pages(site)["index.html"])))
    assert "https://example.org/there" in links(parsed(pages(site)["01_a.html"]))


def test_outputs_are_shown_for_readers_without_a_kernel(site):
    text = pages(site)["01_a.html"]
    assert '<figure class="twin">static</figure><script>let a = "<b>"</script>' in text
    assert "plain words" not in text  # the PNG and the words are for those who show no HTML
    assert "widget-view" not in text
    assert "unpkg" not in text
    (image,) = parsed(text)("img")
    assert image["alt"] == 'Accuracy "falls" <fast>'
    assert image["src"] == f"data:image/png;base64,{PIXEL}"


def test_collapsed_sources_are_left_out(site):
    words = parsed(pages(site)["01_a.html"]).text
    assert "explore(run)" in words
    assert "tagged()" not in words
    assert "ADDRESS" not in words  # the menu links Colab, where there is an address
    assert "show()" not in words


def test_equations_need_no_script(site):
    text = pages(site)["01_a.html"]
    assert len(parsed(text)("math")) == 3  # in a line, by itself, in an output
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert "$" not in body
    assert "\\" not in body
    assert "mathjax" not in text.lower()


def test_an_equation_that_cannot_be_shown_is_named(root, run):
    with pytest.raises(LatexError, match="wombat"):
        markdown(r"$x \wombat y$")
    write(root / "notebooks" / "02_b.ipynb", [new_markdown_cell(r"# $\wombat$")])
    with pytest.raises(ValueError, match=r"^02_b: .*wombat"):
        build_site(run)


def test_badges_links_and_equations_of_markdown():
    badge = markdown("[![Open in Colab](https://example.org/b.svg)](https://example.org/o.ipynb)")
    assert badge.strip() == '<p><a href="https://example.org/o.ipynb">Open in Colab</a></p>'
    assert 'href="02_b.html#so"' in markdown("[b](02_b.ipynb#so)")
    assert 'href="teaching.html#so"' in markdown("[b](../teaching/README.md#so)")
    assert 'href="#so"' in markdown("[b](#so)")
    assert markdown("[b](of_no_page.ipynb)").strip() == "<p>b</p>"
    assert 'src="data:image/png;base64,aa"' in markdown("![a](data:image/png;base64,aa)")
    assert 'display="block"' in markdown("$$x$$")
    assert 'display="block"' not in markdown("so $x$")
    assert markdown("\\begin{align}x &= y\\end{align}").count("<math") == 1


def test_titles_and_the_current_page(site):
    found = pages(site)
    assert "<title>02 · And then?</title>" in found["02_b.html"]
    current = re.findall(r'<a aria-current="page" href="(.*?)">(.*?)</a>', found["02_b.html"])
    assert current == [("02_b.html", "02 b")]
    assert 'lang="en"' in found["02_b.html"]
    assert ">02 · And then?</a>" in found["index.html"]


@pytest.mark.parametrize(("source", "from_run"), [("# 02 · And then?", True), ("# Older", False)])
def test_the_last_run_is_shown_if_it_is_of_these_cells(root, run, source, from_run):
    injected = new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    cells = [new_markdown_cell(source), injected]
    write(run.out / "notebooks" / "02_b.ipynb", cells, who="run")
    found = latest(root / "notebooks" / "02_b.ipynb", run.out)
    assert (found.metadata.get("who") == "run") == from_run
    assert [cell.source for cell in found.cells] == ["# 02 · And then?"]


@pytest.mark.parametrize("folder", ["build/smoke", "report"])
def test_the_report_is_one_of_the_pages(root, run, folder):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.pdf"):
        (root / folder / name).write_text(f"<body><p>{folder}</p></body>")
    found = pages(build_site(run).parent)
    assert f"<main><p>{folder}</p></main></body>" in re.sub(r"\s*\n\s*", "", found["report.html"])
    assert "01_a.html" in links(parsed(found["report.html"]))  # no dead end
    assert {"report.html", "report.pdf"} <= set(links(parsed(found["02_b.html"])))


def test_the_same_notebooks_give_the_same_pages_and_old_ones_go(root, run):
    site = build_site(run).parent
    before = pages(site)
    (site / "old.html").touch()
    build_site(run)
    assert pages(site) == before


def test_the_first_page_has_a_card_for_each_page(site):
    page = parsed(pages(site)["index.html"])
    assert '"title":"rv.pgd"' in str(page.find(id="index"))  # for the search
    cards = page(class_="card")
    assert [links(card)[0] for card in cards] == [
        *["playground.html", "01_a.html", "02_b.html", "api/index.html", "bring-your-own.html"],
        *["scale.html", "teaching.html", "places.html", "quiz.html", "playground-help.html"],
    ]
    playground, first, second, *_ = [[image.attrs for image in card("img")] for card in cards]
    assert playground[0]["alt"].startswith("The playground")
    assert first == [{"src": f"data:image/png;base64,{PIXEL}", "alt": "plain words"}]
    assert second == []  # was not run
    assert "A quarter of a minute" in cards[1].text


def test_addresses_elsewhere_come_from_the_metadata_if_they_are_set(root, run, site, monkeypatch):
    def menu(site, name):
        return [url for url in links(parsed((site / name).read_text()).nav) if "://" in url]

    assert menu(site, "01_a.html") == []
    urls = Message()
    for name in ("Repository", "Colab", "Issues"):
        urls["Project-URL"] = f"{name}, https://{name}.example/"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: urls)
    there = build_site(run).parent
    of_a_notebook = ["https://Repository.example/", "https://Colab.example/01_a.ipynb"]
    assert menu(there, "01_a.html") == of_a_notebook
    assert menu(there, "index.html") == ["https://Repository.example/"]
