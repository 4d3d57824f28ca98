"""Hostile and careless input: every mistake gets one line that says what is wrong, what to do.

The table below is also ``docs/messages.md``; ``python tests/test_bad_input.py`` writes it anew.
"""

# The mistakes of type are made on purpose.
# mypy: disable-error-code="arg-type,list-item"

import contextlib
import errno
import functools
import io
import json
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rvlib.data
from rvlib.attacks import fgsm, pgd, smoothed_pgd, square, withstands, withstands_sweep
from rvlib.cli import main
from rvlib.data import DataError, load_cifar10, to_float
from rvlib.device import pick_device
from rvlib.evaluation import (
    accuracy,
    certified_accuracy,
    correct_radii,
    from_callable,
    nested_votes,
    predictions,
    sanity,
    votes_inside,
)
from rvlib.evaluation import changed as changed_inside
from rvlib.grid_noise import grid_noise
from rvlib.intervals import another_run, wilson
from rvlib.models import LeNet
from rvlib.models.weights import WeightsError, load_weights, save_weights
from rvlib.noise import stream
from rvlib.objectives import adversarial, gaussian, mixed, standard
from rvlib.profiles import find_profile
from rvlib.recipes import ATTACKS, find_attack, find_recipe, on_the_vote
from rvlib.rows import RowFile, Rows, RowsError, read_rows
from rvlib.smoothing import (
    certificate,
    certified_radius,
    certify,
    certify_at,
    evidence,
    largest_radius,
    lower_confidence_bound,
    predict,
    sample_under_noise,
    vote,
)
from rvlib.smoothing.certificate import Certificates
from rvlib.stages.run import Run
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.training import fit

torch.set_num_threads(1)
PAGE = Path(__file__).parents[1] / "docs" / "messages.md"
NAN, INF = math.nan, math.inf
BALL = Linf(8 / 255)
X = torch.linspace(0.02, 0.95, 48).view(4, 3, 2, 2)
Y = torch.tensor([0, 1, 2, 1])
BYTES = (255 * X).byte()
FULL_GPU = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 3.10 GiB is free. Process 1 has 76.00 GiB memory in use. If reserved but unallocated "
    "memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True"
)


VAGUE = (
    r"(cannot be used here: |was made for )[^|]*",
    r"(sha256 |recorded )\w+",
    r"(epoch )\d/5",
    r"(loss is )\w+",
)
"""What comes before parts of messages that differ between machines."""


def network(classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


NET = network()
CONVOLUTION = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
WORDS = [["a long word of many letters", "another one, longer than it"]] * 4
HEAD = {"identity": {"attack": {"threat": "linf 0.03"}}}


class Case(NamedTuple):
    """A mistake, a call that makes it in an empty folder, and what it must be told."""

    mistake: str
    call: Callable[[Path], Any]
    error: type[Exception]
    words: str


# ---- calls that take some lines ---------------------------------------------------------------


class CommandFailed(Exception):
    """What a command said on stderr before it ended with status 2."""


def command(*words, raising=None):
    """Run a command, its work failing in a given way; what it says must be one line."""

    def work(*arguments):
        raise raising

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        if raising:
            patch.setattr(rvlib.data, "fetch_cifar10", work)
        assert main([*words]) == 2
    line = said.getvalue()
    assert line.startswith("rvlib: ")
    assert line.endswith("\n")
    raise CommandFailed(line.removeprefix("rvlib: ")[:-1])


def saved(folder, recipe=None):
    path = folder / "net.safetensors"
    save_weights(NET, path, {"recipe": recipe or {"name": "toy"}})
    return path


def loaded(path, net=None, recipe=None):
    load_weights(net or network(), path, recipe or {"name": "toy"})


def changed(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def tampered(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def other_net(folder):
    loaded(saved(folder), network(classes=4))


def record_lost(folder):
    path = saved(folder)
    path.with_suffix(".json").unlink()
    loaded(path)


def weights_lost(folder):
    path = saved(folder)
    path.unlink()
    loaded(path)


def record_damaged(folder):
    path = saved(folder)
    path.with_suffix(".json").write_text("{}")
    loaded(path)


def rows_file(folder, identity="a", count=4, **options):
    return RowFile(
        folder / "rows.csv", {"model": identity}, {}, ["index", "label"], count, **options
    )


def some_rows(folder):
    with rows_file(folder) as file:
        file.append([{"index": i, "label": i % 3} for i in range(4)])
    return folder / "rows.csv"


def read_changed_rows(folder, change):
    return read_rows(changed(some_rows(folder), change))


def data_file(folder, content):
    (folder / "cifar10.npz").write_bytes(content)
    return load_cifar10("test", folder)


def endless_field(folder):
    path = folder / "rows.csv"
    path.write_text("# {}\nindex\n" + "1" * 200_000 + "\n")
    return read_rows(path)


def no_source(folder):
    def refuse(scratch):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr(rvlib.data, "SOURCES", {"download": refuse})
        load_cifar10("test", folder)


def no_folder(folder):
    (folder / "file").touch()
    load_cifar10("test", folder / "file" / "data")


def train(images=BYTES, labels=Y, **options):
    settings: dict[str, Any] = {"epochs": 1, "log": lambda line: None} | options
    return fit(network(), settings.pop("objective", standard), (images, labels), **settings)


def checkpoint(folder, change=lambda content: content, **identity):
    path = folder / "net.checkpoint"
    train(checkpoint=path, identity={"seed": 0})
    changed(path, change)
    train(checkpoint=path, identity={"seed": 0} | identity)


def flatten_only():
    return nn.Flatten(0)


def broken():
    """Give a network of which one image in two gets NaN."""

    def half(net, seen, logits):
        return logits.where(torch.arange(len(logits))[:, None] % 2 == 0, NAN)

    net = network()
    net.register_forward_hook(half)
    return net


def answering_with(change):
    """Give a network whose answers are changed on their way out."""
    net = network().eval()
    net.register_forward_hook(lambda net, seen, logits: change(logits))
    return net


def cut_off(logits):
    """Go on from numbers that no gradient leads to, but from there one does."""
    return logits.detach().requires_grad_()


def tied():
    """Give a network two of whose layers are one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12))
    net[2].weight = net[1].weight
    return net


def diverged():
    """Give a network whose weights are NaN."""
    net = network()
    nn.init.constant_(net[1].weight, NAN)
    return net


def opened(folder, **options):
    return Run.open("course", "cpu", folder, **options)


def with_nan(x):
    x = x.clone()
    x[0, 0, 0, 0] = NAN
    return x


CASES = [
    # images and labels
    Case("uint8 images", lambda _: pgd(NET, BYTES, Y, BALL), TypeError, "uint8.*to_float"),
    Case("images in 0..255", lambda _: fgsm(NET, 255 * X, Y, BALL), ValueError, "divide by 255"),
    Case(
        "normalised images", lambda _: predict(NET, 4 * X - 2, 0.25), ValueError, "do not normalise"
    ),
    Case(
        "NaN in an image",
        lambda _: certify(NET, with_nan(X), 0.25),
        ValueError,
        r"nan.*not in \[0, 1\]",
    ),
    Case(
        "one image, not a batch",
        lambda _: pgd(NET, X[0], Y, BALL),
        ValueError,
        r"\(3, 2, 2\).*B >= 1",
    ),
    Case(
        "an empty batch",
        lambda _: sample_under_noise(NET, X[:0], 0.25, 100),
        ValueError,
        r"\(0, 3, 2, 2\).*B >= 1",
    ),
    Case("an array of NumPy", lambda _: predict(NET, X.numpy(), 0.25), TypeError, "as_tensor"),
    Case("labels as int32", lambda _: fgsm(NET, X, Y.int(), BALL), TypeError, r"int32.*y\.long"),
    Case("labels as a list", lambda _: pgd(NET, X, Y.tolist(), BALL), TypeError, "list.*as_tensor"),
    Case(
        "too few labels",
        lambda _: withstands(NET, X, Y[:2], BALL),
        ValueError,
        r"\(2,\) for 4 images",
    ),
    Case(
        "one-hot labels",
        lambda _: pgd(NET, X, nn.functional.one_hot(Y, 3), BALL),
        ValueError,
        "one an image",
    ),
    Case("a negative label", lambda _: fgsm(NET, X, -Y, BALL), ValueError, "label -2 is negative"),
    Case(
        "a label beyond the classes, attacked",
        lambda _: pgd(NET, X, Y + 8, BALL),
        ValueError,
        "label 10 is no class.* 3 classes",
    ),
    Case(
        "the same, one step", lambda _: fgsm(NET, X, Y + 1, BALL), ValueError, "label 3 is no class"
    ),
    Case(
        "the same, the vote attacked",
        lambda _: smoothed_pgd(NET, X, Y + 1, BALL, sigma=0.25),
        ValueError,
        "label 3 is no class",
    ),
    Case(
        "the same, asked who stands",
        lambda _: withstands(NET, X, Y + 1, BALL),
        ValueError,
        "label 3 is no class",
    ),
    Case(
        "the same, certified at a radius",
        lambda _: certify_at(NET, X, 0.1, 0.25, labels=Y + 1),
        ValueError,
        "label 3 is no class",
    ),
    Case("the same, trained", lambda _: train(labels=Y + 1), ValueError, "label 3 is no class"),
    Case(
        "the same, evaluated",
        lambda _: predictions(NET, BYTES, Y + 1, ATTACKS["natural"]),
        ValueError,
        "label 3 is no class",
    ),
    Case(
        "labels on another device",
        lambda _: pgd(NET, X, Y.to("meta"), BALL),
        ValueError,
        r"labels are on meta.*to\(x\.device\)",
    ),
    Case(
        "the network on another device",
        lambda _: pgd(network().to("meta"), X, Y, BALL),
        ValueError,
        r"network is on meta.*model\.to",
    ),
    Case(
        "images of another size",
        lambda _: pgd(NET, torch.rand(4, 3, 4, 4), Y, BALL),
        ValueError,
        r"no images of shape \(3, 4, 4\): give what it was made for",
    ),
    Case(
        "the same, certified",
        lambda _: certify(NET, torch.rand(4, 3, 4, 4), 0.25),
        ValueError,
        r"no images of shape \(3, 4, 4\)",
    ),
    Case(
        "the same, evaluated",
        lambda _: predictions(NET, torch.zeros(4, 3, 4, 4).byte(), Y, ATTACKS["natural"]),
        ValueError,
        r"no images of shape \(3, 4, 4\)",
    ),
    Case(
        "the same, trained",
        lambda _: fit(network(), standard, (torch.zeros(4, 3, 4, 4).byte(), Y), epochs=1),
        ValueError,
        r"no images of shape \(3, 4, 4\)",
    ),
    Case(
        "the same, their evaluation checked",
        lambda _: sanity(network().eval(), torch.rand(4, 3, 4, 4), Y),
        ValueError,
        r"no images of shape \(3, 4, 4\): give what it was made for",
    ),
    Case(
        "channels last",
        lambda _: fgsm(CONVOLUTION, torch.rand(4, 8, 8, 3), Y, BALL),
        ValueError,
        r"\(8, 8, 3\): use x\.permute\(0, 3, 1, 2\)",
    ),
    Case(
        "images without pixels",
        lambda _: pgd(NET, X[:, :, :0], Y, BALL),
        ValueError,
        r"have no pixels: need C, H, W >= 1",
    ),
    # networks
    Case(
        "a function for a network",
        lambda _: pgd(lambda x: x, X, Y, BALL),
        TypeError,
        "network is function, not a torch.nn.Module",
    ),
    Case(
        "the same, voting",
        lambda _: predict(lambda x: x, X, 0.25),
        TypeError,
        "network is function",
    ),
    Case(
        "a network that gives no logits",
        lambda _: pgd(flatten_only(), X, Y, BALL),
        ValueError,
        r"gave shape \(48,\).*\(B, K\)",
    ),
    Case(
        "the same, voting",
        lambda _: predict(nn.Identity(), X, 0.25),
        ValueError,
        r"gave shape .*\(B, K\)",
    ),
    Case(
        "a network that gives NaN, voting",
        lambda _: certify(broken(), X, 0.25, n=1000),
        ValueError,
        "gave NaN.*diverged",
    ),
    Case(
        "the same, asked who stands",
        lambda _: withstands(broken(), X, Y, BALL),
        ValueError,
        "gave NaN.*diverged",
    ),
    Case(
        "the same, evaluated",
        lambda _: predictions(broken(), BYTES, Y, lambda model, x, y, generator: x),
        ValueError,
        "gave NaN.*diverged",
    ),
    Case(
        "the same, attacked",
        lambda _: pgd(diverged(), X, Y, L2(0.5)),
        ValueError,
        "gave NaN.*diverged",
    ),
    Case(
        "images in double precision",
        lambda _: pgd(NET, X.double(), Y, BALL),
        TypeError,
        r"float64.*float32: use x\.float",
    ),
    Case(
        "the same, voting",
        lambda _: certify(NET, X.half(), 0.25),
        TypeError,
        r"float16.*float32: use x\.float",
    ),
    Case(
        "the same, their evaluation checked",
        lambda _: sanity(network().eval(), X.double(), Y),
        TypeError,
        r"float64.*float32: use x\.float",
    ),
    Case(
        "a network that detaches its answer",
        lambda _: pgd(answering_with(Tensor.detach), X, Y, BALL),
        ValueError,
        "answer does not depend on the pixels by a gradient.*use square",
    ),
    Case(
        "the same, one step",
        lambda _: fgsm(answering_with(cut_off), X, Y, BALL),
        ValueError,
        "answer does not depend on the pixels by a gradient.*use square",
    ),
    Case(
        "the same, the vote attacked",
        lambda _: smoothed_pgd(answering_with(cut_off), X, Y, BALL, sigma=0.25),
        ValueError,
        "does not depend on the pixels by a gradient",
    ),
    Case(
        "the same, asked who stands",
        lambda _: withstands(answering_with(Tensor.detach), X, Y, BALL),
        ValueError,
        "does not depend on the pixels by a gradient",
    ),
    Case(
        "the same, its evaluation checked",
        lambda _: sanity(answering_with(Tensor.detach), X, Y),
        ValueError,
        "does not depend on the pixels by a gradient",
    ),
    Case(
        "a network whose logits are integers",
        lambda _: pgd(answering_with(Tensor.long), X, Y, BALL),
        TypeError,
        r"logits are torch\.int64, not float: return",
    ),
    Case(
        "the same, one step",
        lambda _: fgsm(answering_with(Tensor.long), X, Y, BALL),
        TypeError,
        r"logits are torch\.int64, not float",
    ),
    Case(
        "the same, without gradients",
        lambda _: square(answering_with(Tensor.long), X, Y, BALL),
        TypeError,
        r"logits are torch\.int64, not float",
    ),
    Case(
        "a network of a single class, answering",
        lambda _: predict(network(classes=1), X, 0.25),
        ValueError,
        "tells 1 class apart: need 2 or more",
    ),
    Case(
        "the same, certified",
        lambda _: certify(network(classes=1), X, 0.25),
        ValueError,
        "tells 1 class apart",
    ),
    Case(
        "the same, certified at a radius",
        lambda _: certify_at(network(classes=1), X, 0.1, 0.25),
        ValueError,
        "tells 1 class apart",
    ),
    Case(
        "the same, attacked",
        lambda _: pgd(network(classes=1), X, 0 * Y, BALL),
        ValueError,
        "tells 1 class apart",
    ),
    # balls and steps
    Case(
        "eps in 0..255", lambda _: Linf(8), ValueError, "eps=8 looks like 0..255 units; write 8/255"
    ),
    Case("eps of colour vectors in 0..255", lambda _: PixelL2(11), ValueError, "write 11/255"),
    Case("an l2 eps in 0..255", lambda _: L2(128), ValueError, "write 128/255"),
    Case("eps NaN", lambda _: L2(NAN), ValueError, "eps=nan is not a radius.* >= 0"),
    Case("a negative eps", lambda _: Linf(-0.1), ValueError, "eps=-0.1 is not a radius"),
    Case(
        "eps as text",
        lambda _: Linf("8/255"),
        TypeError,
        "eps='8/255' is str, not a number: write eps=8/255",
    ),
    Case("eps as a tensor", lambda _: L2(torch.tensor(0.5)), TypeError, "Tensor, not a number"),
    Case(
        "a radius for a ball",
        lambda _: pgd(NET, X, Y, 0.03),
        TypeError,
        r"threat=0\.03 is float, not a ball: write Linf",
    ),
    Case(
        "no steps",
        lambda _: pgd(NET, X, Y, BALL, steps=0),
        ValueError,
        "steps=0 must be a whole number >= 1",
    ),
    Case(
        "half a step",
        lambda _: pgd(NET, X, Y, BALL, steps=2.5),
        TypeError,
        r"steps=2\.5 is float: give a whole number",
    ),
    Case(
        "a step of NaN",
        lambda _: pgd(NET, X, Y, BALL, step_size=NAN),
        ValueError,
        "step_size=nan must be finite",
    ),
    Case(
        "a step downhill",
        lambda _: smoothed_pgd(NET, X, Y, BALL, sigma=0.25, step_size=-1),
        ValueError,
        "step_size=-1 must be",
    ),
    Case(
        "a step as text",
        lambda _: sanity(network().eval(), X, Y, step_size="1"),
        TypeError,
        "step_size='1' is str, not a number: write step_size=2/255",
    ),
    Case(
        "restarts=1.5",
        lambda _: pgd(NET, X, Y, BALL, restarts=1.5),
        TypeError,
        r"restarts=1\.5 is float: give a whole number >= 1",
    ),
    Case(
        "no restart",
        lambda _: withstands(NET, X, Y, BALL, restarts=0),
        ValueError,
        "restarts=0 must be",
    ),
    Case(
        "restarts that would be alike",
        lambda _: pgd(NET, X, Y, BALL, restarts=2, random_start=False),
        ValueError,
        "set random_start=True",
    ),
    Case(
        "a seed for a generator",
        lambda _: pgd(NET, X, Y, BALL, generator=0),
        TypeError,
        "generator=0 is int.*manual_seed",
    ),
    Case(
        "no noisy copies",
        lambda _: smoothed_pgd(NET, X, Y, BALL, sigma=0.25, draws=0),
        ValueError,
        "draws=0 must be",
    ),
    Case(
        "one ball for several",
        lambda _: withstands_sweep(NET, X, Y, BALL),
        TypeError,
        "is one ball: write",
    ),
    Case(
        "balls that shrink",
        lambda _: withstands_sweep(NET, X, Y, [Linf(0.1), Linf(0.05)]),
        ValueError,
        "radii that do not fall",
    ),
    Case(
        "balls of two norms",
        lambda _: withstands_sweep(NET, X, Y, [Linf(0.1), L2(0.5)]),
        ValueError,
        "need one norm",
    ),
    Case(
        "a step size too few",
        lambda _: withstands_sweep(NET, X, Y, [BALL, Linf(0.1)], step_sizes=[0.1]),
        ValueError,
        "1 step_sizes for 2 balls: give one a ball",
    ),
    Case(
        "a step backwards",
        lambda _: withstands_sweep(NET, X, Y, [Linf(0.0), BALL], step_sizes=[-0.1, 0.1]),
        ValueError,
        r"step_sizes=\[-0\.1, 0\.1\]: a length is positive",
    ),
    Case(
        "the area of squares as text",
        lambda _: square(NET, X, Y, BALL, area="0.8"),
        TypeError,
        r"write area=0.8",
    ),
    # noise and votes
    Case("sigma = 0", lambda _: predict(NET, X, 0.0), ValueError, r"sigma=0\.0 must be positive"),
    Case("sigma NaN", lambda _: certify(NET, X, NAN), ValueError, "sigma=nan must be positive"),
    Case(
        "sigma infinite",
        lambda _: smoothed_pgd(NET, X, Y, BALL, sigma=INF),
        ValueError,
        "sigma=inf must be positive and finite",
    ),
    Case(
        "sigma in 0..255",
        lambda _: certify_at(NET, X, 0.1, 64),
        ValueError,
        "sigma=64 looks like 0..255 units; write 64/255",
    ),
    Case(
        "sigma of a training below 0",
        lambda _: gaussian(-0.25),
        ValueError,
        r"sigma=-0\.25 must be positive",
    ),
    Case(
        "sigma of a radius NaN",
        lambda _: certified_radius(0.9, NAN),
        ValueError,
        "sigma=nan must be",
    ),
    Case(
        "sigma as text",
        lambda _: largest_radius(100, 0.001, "1"),
        TypeError,
        "sigma='1' is str, not a number",
    ),
    Case(
        "too few votes to answer",
        lambda _: predict(NET, X, 0.25, n=10),
        ValueError,
        "n=10 can never answer.*n >= 11",
    ),
    Case(
        "too few votes to certify",
        lambda _: certify(NET, X, 0.25, n=100, alpha=1e-40),
        ValueError,
        "n=100 can never certify.*n >= 133",
    ),
    Case(
        "too few votes for a radius",
        lambda _: certify_at(NET, X, 2.0, 0.25),
        ValueError,
        r"can never certify radius 2\.0",
    ),
    Case(
        "votes that are no hundreds",
        lambda _: sample_under_noise(NET, X, 0.25, 150),
        ValueError,
        "whole hundreds, write e.g. n=1000",
    ),
    Case(
        "the most votes no hundreds",
        lambda _: certify_at(NET, X, 0.1, 0.25, most=150),
        ValueError,
        "most=150.*write e.g. most=10_000",
    ),
    Case(
        "n=True",
        lambda _: predict(NET, X, 0.25, n=True),
        TypeError,
        "n=True is bool: give a whole number",
    ),
    Case("n=1e3", lambda _: certify(NET, X, 0.25, n=1e3), TypeError, r"n=1000\.0 is float"),
    Case(
        "a batch of no copies",
        lambda _: sample_under_noise(NET, X, 0.25, 100, batch_size=0),
        ValueError,
        "batch_size=0 must be",
    ),
    Case(
        "a seed that is no whole number",
        lambda _: predict(NET, X, 0.25, seed=0.5),
        TypeError,
        r"seed=0\.5 is float: give a whole number",
    ),
    Case(
        "ids that are no whole numbers",
        lambda _: predict(NET, X, 0.25, image_ids=torch.linspace(0.1, 0.4, 4)),
        TypeError,
        r"0\.1.* is float: give a whole number",
    ),
    Case(
        "ids as text",
        lambda _: certify_at(NET, X, 0.1, 0.25, image_ids="0123"),
        TypeError,
        "is str: give a whole number",
    ),
    Case(
        "labels of a radius as a list",
        lambda _: certify_at(NET, X, 0.1, 0.25, labels=Y.tolist()),
        TypeError,
        "list.*as_tensor",
    ),
    Case(
        "ids of other images",
        lambda _: predict(NET, X, 0.25, image_ids=[1]),
        ValueError,
        "1 image_ids for 4 images: give one an image",
    ),
    Case(
        "alpha = 0",
        lambda _: certify(NET, X, 0.25, alpha=0),
        ValueError,
        r"alpha=0 must be in \(0, 1\)",
    ),
    Case(
        "alpha in percent",
        lambda _: vote([[90, 10]], 5),
        ValueError,
        r"alpha=5 must be in \(0, 1\)",
    ),
    Case(
        "alpha as text",
        lambda _: predict(NET, X, 0.25, alpha="0.1"),
        TypeError,
        "alpha='0.1' is str",
    ),
    Case(
        "a radius below 0",
        lambda _: certify_at(NET, X, -0.1, 0.25),
        ValueError,
        r"radius=-0\.1: need radius >= 0",
    ),
    Case(
        "numbers of votes that fall",
        lambda _: nested_votes(NET, BYTES, 0.25, [1000, 100]),
        ValueError,
        r"ns=\[1000, 100\] must rise",
    ),
    Case(
        "a label beyond the network's classes, for votes",
        lambda _: nested_votes(NET, BYTES, 0.25, [100], labels=torch.full((len(BYTES),), 99)),
        ValueError,
        "label 99, but the network tells",
    ),
    Case(
        "an attack beyond the certified radius",
        lambda _: votes_inside(NET, X, certify(NET, X, 0.25, n=100), 0.25, share=2.0),
        ValueError,
        r"share=2\.0 must lie in \[0, 1\]",
    ),
    Case(
        "certificates of other images",
        lambda _: votes_inside(NET, X[:1], certify(NET, X, 0.25, n=100), 0.25),
        ValueError,
        "certificates for 1 images: give one an image",
    ),
    Case(
        "a share of the radius as text",
        lambda _: votes_inside(NET, X, certify(NET, X, 0.25, n=100), 0.25, share="a"),
        TypeError,
        r"share='a' is str, not a number: write share=0\.99",
    ),
    Case(
        "one id for all images",
        lambda _: certify(NET, X, 0.25, image_ids=5),
        TypeError,
        r"image_ids=5 is int: give one whole number an image, range\(4\)",
    ),
    Case(
        "noise on the grid of sigma = 0",
        lambda _: grid_noise((2,), 0, torch.Generator()),
        ValueError,
        "sigma=0 must be positive",
    ),
    # statistics
    Case(
        "sums that are rounded, to be sound",
        lambda _: certify(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).bfloat16(),
            X.bfloat16(),
            0.25,
            n=100,
            sound=True,
        ),
        TypeError,
        "images are torch.bfloat16, whose sums are rounded: use x.float()",
    ),
    Case(
        "votes as text",
        lambda _: lower_confidence_bound("99", 100, 0.001),
        TypeError,
        r"k='99' holds no numbers",
    ),
    Case(
        "a probability as text",
        lambda _: certified_radius("0.9", 0.25),
        TypeError,
        r"p_lower='0.9' holds no numbers",
    ),
    Case(
        "votes in words",
        lambda _: evidence("k", 100, 0.5),
        TypeError,
        r"k='k' holds no numbers",
    ),
    Case(
        "shares for votes",
        lambda _: vote([[0.9, 0.1]], 0.001),
        ValueError,
        r"float64: need \(B, K\) integers",
    ),
    Case(
        "negative votes",
        lambda _: certificate([[90, 10]], [[110, -10]], 0.001, 0.25),
        ValueError,
        "counts hold -10 votes",
    ),
    Case(
        "no votes at all",
        lambda _: vote(np.zeros((0, 3), int), 0.001),
        ValueError,
        "no image: give one row an image",
    ),
    Case("votes of one image only", lambda _: vote([90, 10], 0.001), ValueError, r"shape \(2,\)"),
    Case(
        "selection and estimation of other images",
        lambda _: certificate([[90, 10]] * 2, [[90, 10]], 0.001, 0.25),
        ValueError,
        "not .* like counts",
    ),
    Case(
        "votes of several numbers of classes",
        lambda _: vote([[90, 10], [100]], 0.001),
        ValueError,
        "rows of counts differ in length: give each as many numbers",
    ),
    Case(
        "the same, certified",
        lambda _: certificate([[90, 10], [100]], [[90, 10], [100]], 0.001, 0.25),
        ValueError,
        "rows of counts0 differ in length",
    ),
    Case(
        "the same, of radii",
        lambda _: certified_radius([[0.9, 0.8], [0.7]], 0.25),
        ValueError,
        "rows of p_lower differ in length",
    ),
    Case(
        "successes of other trials",
        lambda _: lower_confidence_bound([1, 2], [10, 20, 30], 0.001),
        ValueError,
        r"k has shape \(2,\), n \(3,\): give one n for all k, or one each",
    ),
    Case(
        "evidence of other votes",
        lambda _: evidence([1, 2], [10, 20, 30], 0.5),
        ValueError,
        r"k has shape \(2,\), n \(3,\)",
    ),
    Case(
        "answers and votes of other images",
        lambda _: changed_inside(np.array([1, 2]), [[90, 10]] * 3, 0.001),
        ValueError,
        "2 predictions for the votes of 3 images: give one an image",
    ),
    Case(
        "more successes than trials",
        lambda _: lower_confidence_bound(11, 10, 0.001),
        ValueError,
        "k=11 of n=10",
    ),
    Case(
        "half a success",
        lambda _: lower_confidence_bound(5.5, 10, 0.001),
        ValueError,
        r"k=5\.5 of n=10",
    ),
    Case(
        "NaN successes", lambda _: lower_confidence_bound([1, NAN], 10, 0.001), ValueError, "k=nan"
    ),
    Case(
        "a probability above 1",
        lambda _: certified_radius([0.9, 1.1], 0.25),
        ValueError,
        r"p_lower=1\.1 is no probability",
    ),
    Case(
        "a probability NaN",
        lambda _: certified_radius(NAN, 0.25),
        ValueError,
        "p_lower=nan is no probability",
    ),
    Case(
        "evidence of more votes than there are",
        lambda _: evidence(5, 3, 0.5),
        ValueError,
        "k=5.* of n=3",
    ),
    Case("evidence of half a vote", lambda _: evidence(5.5, 10, 0.5), ValueError, "both whole"),
    Case(
        "a bound from no end of votes",
        lambda _: lower_confidence_bound(math.inf, math.inf, 0.001),
        ValueError,
        "both whole: not k=inf of n=inf",
    ),
    Case(
        "a certificate without a selection",
        lambda _: certificate([[0, 0]], [[99, 1]], 0.001, 0.25),
        ValueError,
        "counts0 holds an image without votes",
    ),
    Case(
        "hardly any risk",
        lambda _: certify(NET, X, 0.25, n=1000, alpha=1e-310),
        ValueError,
        "n=1000 can never certify at alpha=1e-310: needs n >= 1030",
    ),
    Case(
        "evidence against certainty",
        lambda _: evidence(5, 10, 1.0),
        ValueError,
        r"p0=1\.0 must be in \(0, 1\)",
    ),
    Case(
        "more right than images", lambda _: wilson(11, 10), ValueError, "correct=11 of n=10: need"
    ),
    Case(
        "half an image right", lambda _: wilson(5.5, 10), TypeError, r"correct=5\.5.* whole number"
    ),
    Case(
        "confidence in percent",
        lambda _: wilson(5, 10, 95),
        ValueError,
        r"confidence=95 .* write 0\.95",
    ),
    Case(
        "shares in percent",
        lambda _: another_run([56, 57], 1024),
        ValueError,
        r"share=56 .* write 0\.56",
    ),
    Case(
        "one seed for many", lambda _: another_run([0.56], 1024), ValueError, "takes at least two"
    ),
    Case(
        "labels of other certificates",
        lambda _: correct_radii(Certificates(np.array([1]), np.array([0.5])), [1, 2]),
        ValueError,
        "2 labels for 1 certificates",
    ),
    Case(
        "labels of certificates in words",
        lambda _: correct_radii(Certificates(np.array([1]), np.array([0.5])), ["cat"]),
        TypeError,
        r"labels=\['cat'\] holds no numbers",
    ),
    Case(
        "the same, as an array of several lines",
        lambda _: correct_radii(Certificates(Y.numpy(), X[:, 0, 0, 0].numpy()), np.array(WORDS)),
        TypeError,
        r"labels=array.* holds no numbers",
    ),
    Case(
        "a certified radius as text",
        lambda _: certified_accuracy([0.5], "a"),
        TypeError,
        "radius='a' holds no numbers",
    ),
    Case(
        "radii of several lengths",
        lambda _: certified_accuracy([[0.5, 0.1], [0.2]], 0.1),
        ValueError,
        "rows of radii differ in length",
    ),
    Case(
        "certified at a negative radius",
        lambda _: certified_accuracy(np.array([0.5]), -1),
        ValueError,
        "radius=-1.0 must be >= 0",
    ),
    Case(
        "certified of no images",
        lambda _: certified_accuracy(np.array([]), 0.5),
        ValueError,
        r"shape \(0,\)",
    ),
    # evaluation and training
    Case(
        "floats for stored images",
        lambda _: predictions(NET, X, Y, ATTACKS["natural"]),
        TypeError,
        "float32, not uint8",
    ),
    Case("floats for bytes", lambda _: to_float(X), TypeError, "uint8 images.*not torch.float32"),
    Case(
        "an array of NumPy for bytes",
        lambda _: to_float(BYTES.numpy()),
        TypeError,
        r"takes a tensor, not ndarray: use torch\.from_numpy",
    ),
    Case(
        "a batch of no images",
        lambda _: predictions(NET, BYTES, Y, ATTACKS["natural"], unit=0),
        ValueError,
        "unit=0 must be",
    ),
    Case("the accuracy of no rows", lambda _: accuracy(Rows({}, [])), ValueError, "no rows"),
    Case("no epochs", lambda _: train(epochs=0), ValueError, "epochs=0 must be"),
    Case("half an epoch", lambda _: train(epochs=0.5), TypeError, r"epochs=0\.5 is float"),
    Case(
        "a negative learning rate",
        lambda _: train(lr=-0.1),
        ValueError,
        r"lr=-0\.1 must be finite and >= 0",
    ),
    Case("training on floats", lambda _: train(images=X), TypeError, "float32, not uint8"),
    Case(
        "training on other labels",
        lambda _: train(labels=Y[:2]),
        ValueError,
        r"\(2,\) for 4 images",
    ),
    Case(
        "a learning rate far too high",
        lambda _: train(lr=1e38, epochs=5),
        FloatingPointError,
        "lower the learning rate",
    ),
    Case(
        "a share of the clean loss above 1",
        lambda _: adversarial(ATTACKS["fgsm"], 2),
        ValueError,
        r"clean_weight=2 must be in \[0, 1\]",
    ),
    Case(
        "training of nothing",
        lambda _: fit(network().requires_grad_(False), standard, (BYTES, Y), epochs=1),
        ValueError,
        r"no parameter to train: use model\.requires_grad_\(True\)",
    ),
    Case(
        "training of a class",
        lambda _: fit(LeNet, standard, (BYTES, Y), epochs=1),
        TypeError,
        r"network is the class LeNet: make one, LeNet\(\)",
    ),
    Case(
        "training on three things",
        lambda _: fit(network(), standard, (BYTES, Y, Y), epochs=1),
        TypeError,
        r"train is tuple of 3: give \(images, labels\)",
    ),
    Case(
        "training on images without labels",
        lambda _: fit(network(), standard, BYTES, epochs=1),
        TypeError,
        r"train is Tensor: give \(images, labels\)",
    ),
    Case(
        "training without an objective",
        lambda _: train(objective=None),
        TypeError,
        r"objective=None is NoneType, not a callable: give rvlib\.objectives\.standard",
    ),
    Case(
        "a maker of objectives for one",
        lambda _: train(objective=gaussian),
        TypeError,
        r"objective cannot be called with .*: .*gaussian\(0\.25\)",
    ),
    Case(
        "training on an unknown device",
        lambda _: train(device="gpu"),
        ValueError,
        "device 'gpu' cannot be used here",
    ),
    Case(
        "training against a name",
        lambda _: adversarial("pgd"),
        TypeError,
        r"'pgd' is str, not a callable: give a recipe",
    ),
    Case(
        "training against several names",
        lambda _: mixed(["pgd"]),
        TypeError,
        r"'pgd' is str, not a callable: give a recipe",
    ),
    Case(
        "one attack for several",
        lambda _: mixed(ATTACKS["fgsm"]),
        TypeError,
        r"attacks is AttackRecipe: write \[attack\]",
    ),
    Case(
        "a checkpoint of another training",
        lambda folder: checkpoint(folder, seed=1),
        WeightsError,
        "another training.*delete it or move it",
    ),
    Case(
        "a truncated checkpoint",
        lambda folder: checkpoint(folder, lambda c: c[:200]),
        WeightsError,
        "cannot be read: delete it",
    ),
    Case(
        "a tampered checkpoint",
        lambda folder: checkpoint(folder, tampered),
        WeightsError,
        "cannot be read: delete it",
    ),
    Case(
        "an attack of three arguments",
        lambda _: predictions(NET, BYTES, Y, lambda model, x, y: x),
        TypeError,
        r"with rvlib.evaluation.from_callable",
    ),
    Case(
        "an attack that is a name",
        lambda _: predictions(NET, BYTES, Y, "pgd"),
        TypeError,
        r"'pgd' is str, not a callable: give a recipe",
    ),
    Case(
        "an attack that returns nothing",
        lambda _: predictions(NET, BYTES, Y, lambda *words: None),
        ValueError,
        r"returned NoneType.*return the attacked images",
    ),
    Case(
        "an attack that returns one image",
        lambda _: predictions(NET, BYTES, Y, lambda model, x, y, g: x[:1]),
        ValueError,
        r"returned \(1, 3, 2, 2\) for images of shape \(4, 3, 2, 2\)",
    ),
    Case(
        "an attack that leaves the box",
        lambda _: predictions(NET, BYTES, Y, lambda model, x, y, g: x + 1),
        ValueError,
        r"left the box: .*not in \[0, 1\]",
    ),
    Case(
        "a callable without a ball",
        lambda _: from_callable(lambda model, x, y: x, 0.1),
        TypeError,
        r"write Linf\(0\.03\)",
    ),
    Case(
        "one number of votes where several go",
        lambda _: nested_votes(NET, BYTES, 0.25, 100),
        TypeError,
        r"write \[1000\]",
    ),
    Case(
        "votes that are not whole",
        lambda _: nested_votes(NET, BYTES, 0.25, [100, 200.0]),
        TypeError,
        r"give a whole number",
    ),
    Case(
        "the accuracy of one seed, not of several",
        lambda _: another_run(0.5, 10),
        TypeError,
        r"share of each training seed",
    ),
    Case(
        "an accuracy as text",
        lambda _: another_run(["0.5", "0.6"], 10),
        TypeError,
        r"is str, not a number: write 0.56",
    ),
    Case(
        "a count as text",
        lambda _: wilson("1", 2),
        TypeError,
        r"'1' is str: give a whole number",
    ),
    Case(
        "confidence as text",
        lambda _: wilson(1, 2, "95"),
        TypeError,
        r"write confidence=0.95",
    ),
    # weights
    Case("weights that are missing", weights_lost, WeightsError, r"is missing: train it"),
    Case("weights without a record", record_lost, WeightsError, "missing: train the model"),
    Case("a damaged record", record_damaged, WeightsError, "not a weights record: restore it"),
    Case(
        "truncated weights",
        lambda folder: loaded(changed(saved(folder), lambda c: c[:-100])),
        WeightsError,
        "not the file its record describes.*restore",
    ),
    Case(
        "tampered weights",
        lambda folder: loaded(changed(saved(folder), tampered)),
        WeightsError,
        "not the file its record describes.*restore",
    ),
    Case(
        "weights of another network", other_net, WeightsError, "weights of another network: restore"
    ),
    Case(
        "weights of another recipe",
        lambda folder: loaded(saved(folder), recipe={"name": "toy", "lr": 1}),
        WeightsError,
        "another recipe .*lr.*: restore",
    ),
    Case(
        "weights of which two are one",
        lambda folder: save_weights(tied(), folder / "net.safetensors", {}),
        ValueError,
        "1.weight and 2.weight share memory.*clone",
    ),
    Case(
        "weights in the place of their record",
        lambda folder: save_weights(NET, folder / "net.json", {}),
        ValueError,
        "net.json does not end in .safetensors",
    ),
    # rows
    Case(
        "rows that are missing",
        lambda folder: read_rows(folder / "rows.csv"),
        RowsError,
        "missing: measure it first",
    ),
    Case(
        "too few rows",
        lambda folder: read_rows(some_rows(folder), 9),
        RowsError,
        "holds 4 of 9 rows: run the same again",
    ),
    Case("a field without end", endless_field, RowsError, "is not a rows file .field larger"),
    Case(
        "truncated rows",
        lambda folder: read_changed_rows(folder, lambda c: c[:5]),
        RowsError,
        "not a rows file.*delete it",
    ),
    Case(
        "a row taken out",
        lambda folder: read_changed_rows(folder, lambda c: c.replace(b"1,1\n", b"")),
        RowsError,
        "taken out, put in or moved.*delete it",
    ),
    Case(
        "a label overwritten",
        lambda folder: read_changed_rows(folder, lambda c: c.replace(b"2,2", b"2,x")).integers(
            "label"
        ),
        RowsError,
        "'label' holds no whole numbers.*measure",
    ),
    Case(
        "a rows file of another run",
        lambda folder: rows_file(some_rows(folder).parent, identity="b"),
        RowsError,
        r"of another run \(differs in model\): move it away",
    ),
    Case(
        "a row without a column",
        lambda folder: rows_file(folder).append([{"index": 0}]),
        ValueError,
        "lacks label: give every column",
    ),
    Case(
        "units of no rows", lambda folder: rows_file(folder, unit=0), ValueError, "unit=0 must be"
    ),
    Case(
        "rows without an attack",
        lambda _: accuracy(Rows({}, [{"label": "1", "prediction": "1"}])),
        RowsError,
        r"names no attack: restore the rows",
    ),
    Case(
        "a vote beyond all numbers",
        lambda _: accuracy(Rows(HEAD, [{"label": "1", "counts": "1 " + 30 * "9"}])),
        RowsError,
        r"holds no votes.*restore the rows",
    ),
    Case(
        "a negative number of stored votes",
        lambda _: accuracy(Rows(HEAD, [{"label": "1", "counts": "110 -10"}])),
        RowsError,
        r"holds no votes \(a negative number\): restore the rows",
    ),
    # data
    Case(
        "an unknown split",
        lambda _: load_cifar10("validation"),
        ValueError,
        "'validation': choose one of train",
    ),
    Case(
        "damaged data",
        lambda folder: data_file(folder, b"no archive"),
        DataError,
        "damaged or unreadable.*delete it and run again",
    ),
    Case("no network", no_source, DataError, "Network is unreachable.*put cifar10.npz"),
    Case("a data folder that cannot be", no_folder, DataError, "cannot use .*set RVLIB_DATA"),
    # names and runs
    Case(
        "an unknown model",
        lambda _: find_recipe("standart"),
        ValueError,
        "'standart': choose from standard",
    ),
    Case(
        "an unknown attack", lambda _: find_attack("pgd"), ValueError, "'pgd': choose from natural"
    ),
    Case(
        "the vote attacked by nothing",
        lambda _: on_the_vote(ATTACKS["natural"], 0.25),
        ValueError,
        "natural attacks nothing.*use pgd-linf",
    ),
    Case(
        "an unknown profile",
        lambda _: find_profile("fulll"),
        ValueError,
        "'fulll': choose from smoke, course, full",
    ),
    Case(
        "an unknown device",
        lambda _: pick_device("gpu"),
        ValueError,
        "device 'gpu' cannot be used here",
    ),
    Case(
        "a run of a negative seed",
        lambda folder: opened(folder, seed=-1),
        ValueError,
        "seed=-1 must be",
    ),
    Case(
        "a run of an unknown model",
        lambda folder: opened(folder).attack("standart", "fgsm"),
        ValueError,
        "unknown model 'standart'",
    ),
    Case(
        "a noise level that no model has",
        lambda folder: opened(folder).votes(0.33, ATTACKS["fgsm"]),
        ValueError,
        "unknown model 'gaussian-0.33'",
    ),
    Case(
        "images that a profile does not measure",
        lambda folder: opened(folder).attack("standard", "fgsm", split="test"),
        ValueError,
        "split='test': choose heldout",
    ),
    Case(
        "an address of floats",
        lambda _: stream("cpu", 0.5),
        TypeError,
        r"0\.5 is float, not int or str",
    ),
    Case(
        "a device without numbers",
        lambda _: pick_device("meta"),
        ValueError,
        r"'meta' cannot be used here",
    ),
    # the command line
    Case(
        "command: an unknown profile",
        lambda _: command("report", "--profile", "fulll"),
        CommandFailed,
        "^unknown profile 'fulll': choose from",
    ),
    Case(
        "command: an unknown model",
        lambda _: command("train", "standart"),
        CommandFailed,
        "^unknown model 'standart': choose",
    ),
    Case(
        "command: a negative seed",
        lambda _: command("measure", "--seed", "-1"),
        CommandFailed,
        "^seed=-1 must be",
    ),
    Case(
        "command: no GPU memory",
        lambda _: command("data", raising=torch.OutOfMemoryError(FULL_GPU)),
        CommandFailed,
        r"allocate 20\.00 GiB: end .*RVLIB_MEMORY=2.*--device cpu",
    ),
    Case(
        "command: no memory",
        lambda _: command("data", raising=MemoryError()),
        CommandFailed,
        "^not enough memory: set RVLIB_MEMORY",
    ),
    Case(
        "command: no space",
        lambda _: command(
            "data", raising=OSError(errno.ENOSPC, "No space left on device", "rows.csv")
        ),
        CommandFailed,
        "rows.csv.*: free some space.*goes on$",
    ),
    Case(
        "command: a read-only disk",
        lambda _: command("data", raising=OSError(errno.EROFS, "Read-only file system", "build")),
        CommandFailed,
        "build.*set RVLIB_ROOT.*goes on$",
    ),
    Case(
        "command: a file of someone else",
        lambda _: command(
            "data", raising=PermissionError(errno.EACCES, "Permission denied", "build")
        ),
        CommandFailed,
        "build.*readable and writable",
    ),
    Case(
        "command: a loss that is no number",
        lambda _: command(
            "data",
            raising=FloatingPointError("epoch 1/4: the loss is nan; lower the learning rate"),
        ),
        CommandFailed,
        "^epoch 1/4: the loss is nan; lower",
    ),
]


@functools.cache
def message_of(case):
    """Make the mistake; return what it is told, the folder's name left out."""
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(case.error, match=case.words) as caught:
            case.call(Path(folder))
        return str(caught.value).replace(folder, "FOLDER")


def page():
    """Write the table as Markdown."""
    lines = [
        "# Mistakes and what they are told",
        "",
        "Every line is what the code says today: `tests/test_bad_input.py` makes each mistake and",
        "compares. `FOLDER` stands for a path, `...` for what differs between machines.",
        "",
        "| the mistake | the message |",
        "|---|---|",
    ]
    for case in CASES:
        message = message_of(case)
        for vague in VAGUE:
            message = re.sub(vague, r"\1...", message)
        lines.append(f"| {case.mistake} | {message.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_long_and_no_mistake_comes_twice():
    assert len(CASES) >= 50
    calls = [(case.mistake, case.words) for case in CASES]
    assert len(set(calls)) == len(calls)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.mistake)
def test_a_mistake_is_told_in_one_line(case):
    message = message_of(case)
    assert message
    assert "\n" not in message
    assert len(message) < 400


def test_the_page_says_what_the_code_says():
    assert PAGE.read_text() == page()


def test_what_is_refused_leaves_no_trace(tmp_path):
    """No hook stays on the network, no file in the folder, no mode or gradient changes."""
    net = network().train()
    for call in (
        lambda: pgd(net, X, Y + 8, BALL),
        lambda: predictions(net, BYTES, Y + 8, ATTACKS["natural"]),
        lambda: opened(tmp_path).attack("standart", "fgsm"),
        lambda: opened(tmp_path).attack("standard", "fgsm", split="test"),
        lambda: save_weights(net, tmp_path / "net.json", {}),
        lambda: save_weights(tied(), tmp_path / "net.safetensors", {}),
    ):
        with pytest.raises(ValueError, match=r"label|model|split|safetensors|share memory"):
            call()
    assert not net._forward_hooks
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not list(tmp_path.iterdir())


def test_a_label_beyond_the_classes_is_refused_before_it_is_looked_up():
    """On a GPU looking it up would end the process' device: the shape alone must do."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return torch.zeros(len(x), 3, device="meta", requires_grad=True)  # holds no values

    with pytest.raises(ValueError, match="label 3 is no class"):
        pgd(Spy(), X, Y + 1, BALL)
    assert seen == [4]


def test_the_largest_label_of_all_passes():
    assert pgd(NET, X, Y, BALL, steps=1).shape == X.shape
    assert predictions(NET, BYTES, Y, ATTACKS["natural"]).shape == Y.shape
    assert json.dumps(train().history)


if __name__ == "__main__":
    PAGE.write_text(page())
