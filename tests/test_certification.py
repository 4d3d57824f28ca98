"""rvlib.certification: votes in parts are the votes of one run, and certificates read from them."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import rvlib as rv
from rvlib import certification
from rvlib.certification import certify_images, summary
from rvlib.cli import main
from rvlib.results import Incomplete, counts, read
from tests.networks import Wrapped

SIGMA, N = 0.25, 400


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


X = torch.randint(0, 256, (21, 3, 4, 4), generator=torch.Generator().manual_seed(1)) / 255
Y = network()(X).argmax(1)


def certify(out, **options):
    return certify_images(network(), (X, Y), SIGMA, out=out, **{"n": N} | options)


def rows(out):
    return {path.name: path.read_text().partition("\n")[2] for path in (out / "rows").glob("*.csv")}


def test_they_are_what_certify_gives(tmp_path):
    table = certify(tmp_path)
    expected = rv.certify(network(), X, SIGMA, n=N, image_ids=range(21))
    assert (table["prediction"] == expected.prediction).all()
    assert np.array_equal(table["radius"], expected.radius)
    assert (table["radius"] > 0).any()
    drawn = rv.sample_under_noise(
        *(network(), X, SIGMA, 100), purpose="selection", image_ids=range(21)
    )
    assert counts(read(tmp_path / "rows").frame, "selection").tolist() == drawn.tolist()
    assert table["label"].tolist() == Y.tolist()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_rows_do_not_depend_on_the_number_of_parts(tmp_path, n):
    whole = certify(tmp_path / "one")
    for k in range(2, n + 1):
        with pytest.raises(Incomplete, match=r"of 21 images|no rows"):
            certify(tmp_path / "parts", shard=(k, n))
    table = certify(tmp_path / "parts", shard=(1, n))  # the last one to come joins
    assert table.equals(whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "one")
    assert len(rows(tmp_path / "one")) == 3


def test_rows_of_a_random_network_do_not_depend_on_the_number_of_parts(tmp_path):
    noisy = Wrapped(network(), lambda x: x + 0.1 * torch.randn_like(x))
    for shard, out in (((2, 2), "parts"), ((1, 2), "parts"), ((1, 1), "one")):
        with contextlib.suppress(Incomplete):
            certify_images(noisy, (X, Y), SIGMA, out=tmp_path / out, n=N, shard=shard)
    assert rows(tmp_path / "parts") == rows(tmp_path / "one")


def test_another_alpha_draws_nothing_and_other_noise_is_refused(tmp_path, monkeypatch):
    strict = certify(tmp_path)
    monkeypatch.setattr(certification, "sample_under_noise", lambda *a, **o: pytest.fail("draws"))
    loose = certify(tmp_path, alpha=0.05)
    assert (loose["radius"] >= strict["radius"]).all()
    assert (loose["radius"] > strict["radius"]).any()
    with pytest.raises(ValueError, match="network is"):  # of the same weights
        certify_images(Wrapped(network(), torch.neg), (X, Y), SIGMA, n=N, out=tmp_path)
    for other in ({"seed": 1}, {"n": 500}, {"n0": 50}, {"noise": "grid"}):
        with pytest.raises(ValueError, match="is of another measurement"):
            certify(tmp_path, **other)


def test_the_summary_counts_what_is_certified_rightly(tmp_path):
    table = certify(tmp_path)
    table.loc[0, "label"] = (table.loc[0, "label"] + 1) % 3
    lines = summary(table, SIGMA, N, 0.001).splitlines()
    right = (table["prediction"] == table["label"]) & (table["radius"] >= 0.25)
    assert f"l2 0.25  certified {100 * right.mean():5.1f} %" in lines[2]
    radius = table["radius"].where(table["prediction"] == table["label"], 0).mean()
    assert lines[-1] == f"mean certified radius {radius:.3f}"


def test_an_array_of_two_tasks_certifies_a_shipped_network(tmp_path, monkeypatch, capsys):
    words = ["certify", "gaussian-0.25", "--sigma", "0.25", "--images", "9", "--votes", "100"]
    for name, value in (("MIN", 4), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task, message in ((4, "holds 8 of 9 images"), (5, "9 images, noise 0.25, 100 votes")):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert main([*words, "--device", "cpu", "--out", str(tmp_path)]) == 0
        assert message in capsys.readouterr().out
    assert sorted(rows(tmp_path)) == ["00000-00008.csv", "00008-00009.csv"]
    head = (tmp_path / "certificates.csv").read_text().splitlines()[0]
    assert head == "index,label,prediction,radius"


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"n0": 0}, "at least one vote"),
        ({"n": 5}, "certify"),
        ({"data": (torch.cat([X, X[:1] + 1]), Y.repeat(2)[:22])}, r"not in \[0, 1\]"),
        ({"data": (X.numpy(), Y.numpy())}, "no pair of tensors"),
        ({"noise": "Grid"}, "gaussian or grid"),
        ({"noise": "grid", "data": (0.999 * X, Y)}, "off the grid"),
        ({"sigma": -0.25}, "no noise level"),
        ({"shard": (0, 2)}, "1 <= k <= n"),
        ({"shard": (3, 2)}, "1 <= k <= n"),
    ],
)
def test_a_mistake_spoils_no_folder(tmp_path, mistake, words):
    given = {"data": (X, Y), "sigma": SIGMA, "n": N} | mistake
    with pytest.raises((TypeError, ValueError), match=words):
        certify_images(network(), out=tmp_path, **given)
    certify(tmp_path)
