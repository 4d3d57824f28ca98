"""rvlib.report.playground: what is in the page."""

import base64
import json
import re

import numpy as np
import pytest

from rvlib.data import find, load
from rvlib.pipeline import Run
from rvlib.report.playground import A_CLASS, NETWORKS, playground


@pytest.fixture(scope="module")
def page():
    return playground(home="index.html")


def content(page):
    return json.loads(
        re.findall(r'<script type="application/json" id="data">(.*)</script>', page)[0]
    )


def test_networks_are_the_shipped_ones_in_half_precision(page):
    run = Run.open("lesson", "cpu")
    for name in NETWORKS:
        halves = np.frombuffer(base64.b64decode(content(page)["weights"][name]), "<f2")
        state = run.model(name).state_dict()
        expected = np.concatenate([value.numpy().ravel() for value in state.values()])
        assert np.array_equal(halves, expected.astype(np.float16))


def test_pictures_are_test_images_of_every_class(page):
    images, labels = load("cifar10", "test")
    pictures = content(page)["pictures"]
    assert [picture["label"] for picture in pictures] == sorted(list(range(10)) * A_CLASS)
    pixels = np.frombuffer(base64.b64decode(pictures[-1]["bytes"]), np.uint8).reshape(3, 32, 32)
    trucks = images[labels == 9].numpy()
    assert np.array_equal(pixels, trucks[A_CLASS - 1])


def test_without_data_the_page_has_our_drawings_alone(page, monkeypatch, tmp_path):
    monkeypatch.setenv("RVLIB_DATA", str(tmp_path))
    assert find("cifar10") is None
    alone = playground()
    assert content(alone)["pictures"] == []
    assert list(tmp_path.iterdir()) == []  # nothing was fetched
    assert 'href="index.html"' in page
    assert 'href="index.html"' not in alone


def test_every_mark_is_filled_and_no_script_is_cut_short(page):
    assert not re.search(r"/\* (style|engine|worker|page|data) \*/|<!--", page)
    assert page.count("<script") == page.count("</script>") == 4
