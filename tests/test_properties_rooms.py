"""Laws of the smaller rooms: what they lend comes back, what they refuse they refuse in a line."""

import functools
import inspect
import json
import math
import os
import string
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from rvlib.attacks import fgsm, pgd, smoothed_pgd
from rvlib.attacks.ascent import (
    cross_entropies,
    logits_and_gradient,
    logits_in_tiles,
    loss_gradient,
    tiles,
)
from rvlib.attacks.base import check_attack
from rvlib.attacks.square import side_of
from rvlib.checks import check_number, check_sigma, check_whole
from rvlib.data import to_float
from rvlib.device import pick_device
from rvlib.evaluation import from_callable, from_foolbox, from_torchattacks, predictions, votes
from rvlib.evaluation.sanity import check_answers, to_8_bits
from rvlib.files import BusyError, OnlyWriter, sweep, write_whole
from rvlib.frozen import answering, check_precision, frozen, taking
from rvlib.memory import budget, held_budget, images_at_once
from rvlib.models import Bfloat16, LeNet, resnet18
from rvlib.noise import stream
from rvlib.objectives import adversarial, mixed, standard
from rvlib.objectives.adversarial import weighted
from rvlib.profiles import PROFILES, find_profile
from rvlib.recipes import (
    ATTACKS,
    RECIPES,
    SMOOTHED_DRAWS,
    AttackRecipe,
    find_attack,
    find_recipe,
    on_the_vote,
)
from rvlib.rows import Rows, RowsError, rows_path
from rvlib.smoothing.certificate import check_alpha
from rvlib.smoothing.votes import whole_ids
from rvlib.stages.estimate import duration
from rvlib.stemmed import Stemmed, WholeNetwork, stemmed
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.types import check_generator, check_images, check_logits, check_stored, refuse_nan

CLASSES = 3
CPU = torch.device("cpu")

often = settings(derandomize=True, deadline=None, max_examples=25, database=None)
seldom = settings(often, max_examples=8)

shapes = st.tuples(*(st.integers(1, most) for most in (5, 3, 5, 5)))
seeds = st.integers(0, 10**6)
radii = st.floats(0.01, 0.3)
balls: Any = st.one_of(radii.map(Linf), st.floats(0.01, 2).map(L2), radii.map(PixelL2))

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def built(make, seed=0):
    """What is built from a seed, the global random state left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def linear(shape, seed):
    size = math.prod(shape[1:])
    return built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES)), seed).eval()


def problem(shape, seed):
    """A linear network, stored images of the shape as pixels, and labels."""
    images = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, shape[:1], generator=seeded(seed + 1))
    return linear(shape, seed), to_float(images), labels


def refusal(kinds, call) -> str | None:
    """What a call is refused with, in one line; None where it is not."""
    try:
        call()
    except kinds as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        return said
    return None


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- checks --------------------------------------------------------------------------------------


@often
@given(values | st.integers(-3, 3), st.integers(-2, 2))
@example(True, 0)
@example(2.0, 0)
@example(np.int64(2), 2)
@example(np.int64(1), 2)
@example(torch.ones(2, 2), 0)
def test_whole_numbers_from_the_least_on_pass_and_nothing_else(value, least):
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    said = refusal(ValueError if whole else TypeError, lambda: check_whole("n", value, least))
    assert (said is None) == (whole and value >= least)
    assert said is None or (said.startswith("n=") and f">= {least}" in said)


@often
@given(values)
@example(False)
@example(np.float32(1))
@example(np.ones((2, 2)))
def test_numbers_pass_and_nothing_else(value):
    said = refusal(TypeError, lambda: check_number("x", value, "x=0.5"))
    assert (said is None) == (is_number(value) or isinstance(value, np.floating))
    assert said is None or said.endswith("write x=0.5")


@often
@given(values | st.floats(-1, 11))
@example(10)
@example(math.nextafter(10, 11))
@example(0.0)
@example(math.inf)
@example(math.nan)
@example(True)
def test_noise_levels_are_above_0_and_at_most_10(sigma):
    # Whole numbers beyond the largest double are no noise level and no JSON that others read.
    assume(not isinstance(sigma, int) or abs(sigma) < 10**300)
    number = is_number(sigma)
    said = refusal(ValueError if number else TypeError, lambda: check_sigma(sigma))
    assert (said is None) == (number and 0 < sigma <= 10)
    assert said is None or said.startswith("sigma=")


@often
@given(values | st.floats(-0.5, 1.5))
@example(0)
@example(1)
def test_failure_probabilities_are_between_0_and_1(alpha):
    number = is_number(alpha)
    said = refusal(ValueError if number else TypeError, lambda: check_alpha(alpha))
    assert (said is None) == (number and 0 < alpha < 1)


@often
@given(st.lists(st.integers(-1, 9), max_size=4) | st.lists(plain, max_size=4), st.integers(0, 4))
def test_ids_come_back_whole_or_are_refused(ids, images):
    def whole(i):
        return isinstance(i, int) and not isinstance(i, bool) and i >= 0

    said = refusal((TypeError, ValueError), lambda: whole_ids(ids, images))
    assert (said is None) == (len(ids) == images and all(map(whole, ids)))
    if said is None:
        assert whole_ids(ids, images) == ids
        if all(i < 2**63 for i in ids):
            tensor: Any = torch.tensor(ids, dtype=torch.int64)
            assert whole_ids(tensor, images) == ids
    assert whole_ids(None, images) is None


# --- types ---------------------------------------------------------------------------------------

sizes = st.lists(st.integers(0, 3), max_size=5) | st.tuples(*4 * [st.integers(1, 3)])
kinds = st.sampled_from([torch.uint8, torch.float32, torch.int64, torch.int8, torch.bool])


@settings(often, max_examples=60)
@given(sizes, kinds, st.sampled_from([0, 0, 0, 1]), st.booleans(), st.integers(-1, 5))
@example((2, 1, 1, 1), torch.uint8, 0, True, 3)
@example((2, 1, 1, 1), torch.uint8, 0, True, -1)
@example((2, 1, 1, 1), torch.uint8, 0, False, 0)
@example((2, 1, 1, 1), torch.uint8, 1, True, 0)
@example((2, 1, 1, 1), torch.float32, 0, True, 0)
@example((0, 1, 1, 1), torch.uint8, 0, True, 0)
def test_stored_images_pass_with_a_label_each_and_nothing_else(shape, kind, more, whole, label):
    images = torch.zeros(tuple(shape), dtype=kind)
    count = (shape[0] if shape else 0) + more
    labels = torch.zeros(count, dtype=torch.int64 if whole else torch.int32)
    labels[-1:] = label
    fit = len(shape) == 4 and 0 not in shape and kind == torch.uint8
    said = refusal((TypeError, ValueError), lambda: check_stored(images, labels))
    assert (said is None) == (fit and not more and whole and label >= 0)
    if said is None:
        assert check_stored(images, labels) == label
    pixels = kind == torch.float32 and len(shape) == 4 and 0 not in shape
    assert (refusal((TypeError, ValueError), lambda: check_images(images)) is None) == pixels


@often
@given(st.lists(st.integers(0, 4), max_size=3) | shapes.map(lambda s: s[:2]), st.integers(0, 4))
def test_logits_pass_with_a_row_an_image_and_a_class_a_label(shape, images):
    fit = len(shape) == 2 and shape[0] == images and shape[1] >= 2
    for largest in range(-1, 4):
        call = functools.partial(check_logits, torch.zeros(tuple(shape)), images, largest)
        said = refusal(ValueError, call)
        assert (said is None) == (fit and largest < shape[1])
    assert refusal(TypeError, lambda: check_logits(shape, images, -1)) is not None


@often
@given(values)
def test_a_source_of_randomness_is_a_generator_or_none(value):
    x = torch.zeros(1, 1, 1, 1)
    check_generator(seeded(0), x)
    said = refusal(TypeError, lambda: check_generator(value, x))
    assert (said is None) == (value is None)


@often
@given(shapes, seeds, st.booleans())
def test_one_nan_anywhere_is_refused(shape, seed, spoilt):
    logits = torch.randn(shape, generator=seeded(seed))
    if spoilt:
        logits.view(-1)[seed % logits.numel()] = math.nan
    assert (refusal(ValueError, lambda: refuse_nan(logits.isnan().any())) is not None) == spoilt


@often
@given(st.lists(plain, min_size=1, max_size=3))
def test_addresses_are_of_whole_numbers_and_text_and_nothing_global_moves(address):
    before = torch.get_rng_state()
    said = refusal(TypeError, lambda: stream("cpu", *address))
    assert (said is None) == all(isinstance(part, int | str) for part in address)
    if said is None:
        torch.rand(3, generator=stream("cpu", *address))
    assert torch.equal(torch.get_rng_state(), before)


# --- data ----------------------------------------------------------------------------------------


@often
@given(st.lists(st.integers(1, 4), max_size=5), seeds, kinds)
def test_bytes_become_pixels_and_come_back(shape, seed, kind):
    images = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    if len(shape) == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    kept = images.clone()
    x = to_float(images)
    assert x.dtype == torch.float32
    assert x.shape == images.shape
    assert x.stride() == images.stride()
    assert torch.equal((255 * x).round().byte(), kept)
    assert torch.equal(x, images / 255)
    x.zero_()
    assert torch.equal(images, kept)  # a new tensor
    other = images.to(kind)
    said = refusal(TypeError, lambda: to_float(other))
    assert (said is None) == (kind == torch.uint8)


# --- rows ----------------------------------------------------------------------------------------

SIGNS = string.ascii_letters + string.digits
names = (
    st.text(SIGNS + "._-", min_size=1, max_size=6)
    | st.text("a.-_/\\ ~\n\0é٣", max_size=5)
    | st.text(max_size=6)
)


@settings(often, max_examples=100)
@given(names, names, names, st.integers(-(2**40), 2**40))
@example("..", "a", "a", 0)
@example("a", "a\n", "a", 0)
@example("a", "a", "", 0)
@example("/", "a", "a", 0)
def test_rows_lie_below_their_folder_or_a_name_is_refused(split, defence, what, seed):
    folder = Path("/somewhere/rows")
    given_ = (split, defence, what)
    said = refusal(ValueError, lambda: rows_path(folder, split, defence, seed, what))
    safe = [
        name != "" and name[0] in SIGNS and all(sign in SIGNS + "._-" for sign in name)
        for name in given_
    ]
    assert (said is None) == all(safe)
    if said is None:
        path = rows_path(folder, split, defence, seed, what)
        below = Path(os.path.normpath(path)).relative_to(folder)
        assert below.parts == (split, defence, f"seed-{seed}", f"{what}.csv")
    else:
        assert repr(given_[safe.index(False)]) in said


rows_of_votes = st.lists(st.lists(st.integers(0, 2**40), max_size=4), min_size=1, max_size=6)


@often
@given(rows_of_votes, st.integers(1, 4), st.booleans())
def test_votes_are_read_as_written_and_empty_cells_are_zeros(table, classes, same_length):
    if same_length:
        table = [(row + classes * [7])[:classes] if row else row for row in table]
    rows = Rows({}, [{"counts": " ".join(map(str, row))} for row in table])
    lengths = {len(row) for row in table if row}
    said = refusal(RowsError, lambda: votes(rows, "counts"))
    assert (said is None) == (len(lengths) <= 1)
    if said is None:
        found = votes(rows, "counts")
        assert found.dtype == np.int64
        assert found.tolist() == [row or max(lengths, default=0) * [0] for row in table]
    assert refusal(RowsError, lambda: votes(rows, "selection")) is not None


@often
@given(st.lists(st.integers().map(str) | st.text(max_size=4), max_size=4))
def test_a_column_is_whole_numbers_or_refused(cells):
    def whole(cell):
        try:
            int(cell)
        except ValueError:
            return False
        return True

    rows = Rows({}, [{"label": cell} for cell in cells])
    said = refusal(RowsError, lambda: rows.integers("label"))
    assert (said is None) == all(map(whole, cells))
    if said is None:
        assert rows.integers("label") == [int(cell) for cell in cells]
    assert (refusal(RowsError, lambda: rows.integers("index")) is None) == (not cells)


# --- files ---------------------------------------------------------------------------------------

file_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) <= 240)
contents = st.binary(max_size=200)


@often
@given(file_names, contents, contents)
@example("a" * 240, b"1", b"2")
@example(".hidden", b"1", b"")
@example("~", b"", b"2")
def test_what_is_written_whole_is_there_alone(name, first, second):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        for content in (first, second):
            write_whole(path, content)
            assert path.read_bytes() == content
            assert len(os.listdir(folder)) == 1  # noqa: PTH208 (nothing hidden is left)


@often
@given(file_names, contents)
def test_what_cannot_be_written_leaves_nothing_behind(name, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        (path / "full").mkdir(parents=True)
        with pytest.raises(OSError, match=r".") as caught:
            write_whole(path, content)
        assert caught.value.filename == str(path)
        assert [file.name for file in Path(folder).rglob("*")] == [path.name, "full"]


@often
@given(file_names.filter(lambda name: len(os.fsencode(name)) < 200), contents)
def test_a_sweep_takes_what_dead_runs_left_and_nothing_else(name, content):
    pytest.importorskip("fcntl")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        others = [path, *(path.with_name(f"{name}.{end}") for end in ("tmp", "lock", "0.tmp"))]
        others.append(path.with_name(f".{name}x.tmp"))
        for file in others:
            file.write_bytes(content)
        for dead in (f".{name}.lock", f".{name}.0a1b.tmp"):
            path.with_name(dead).write_bytes(b"")
        sweep(path)
        assert set(Path(folder).iterdir()) == set(others)
        assert {file.read_bytes() for file in others} == {content}


@settings(often, max_examples=4)
@given(file_names.filter(lambda name: len(os.fsencode(name)) < 200 and name.isprintable()))
def test_one_writes_a_file_at_a_time_and_each_file_has_its_own(name):
    pytest.importorskip("fcntl")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "below" / name
        with OnlyWriter(path), OnlyWriter(path.with_name(f"{name}x")):
            said = refusal(BusyError, lambda: OnlyWriter(path))
            assert said is not None
            write_whole(path, b"mine")
        with OnlyWriter(path) as writer:
            writer.release()
        assert [file.read_bytes() for file in path.parent.iterdir()] == [b"mine"]


# --- names ---------------------------------------------------------------------------------------

LISTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": (find_recipe, RECIPES),
    "attack": (find_attack, ATTACKS),
    "profile": (find_profile, PROFILES),
}


@pytest.mark.parametrize("kind", LISTS)
@often
@given(data=st.data())
def test_names_are_found_and_others_are_told_the_choices(kind, data):
    find, choices = LISTS[kind]
    known = st.sampled_from(sorted(choices))
    near = known.map(str.upper) | known.map(lambda name: name[:-1]) | known.map("{}\n".format)
    name = data.draw(known | near | st.text(max_size=8))
    said = refusal(ValueError, lambda: find(name))
    if name in choices:
        assert said is None
        assert find(name) is choices[name]
        assert find(name).name == name
    else:
        assert said is not None
        assert f"unknown {kind} {name!r}" in said
        assert said.endswith(", ".join(choices))


DEVICES = ("cpu", "cuda", "meta", "gpu", "CPU", "auto")
almost = st.tuples(st.sampled_from(DEVICES), st.text(":0123456789 -\n", max_size=3)).map("".join)


@settings(often, max_examples=60)
@given(almost | st.text(max_size=8))
@example("")
@example("auto")
@example("meta")
def test_a_device_can_be_used_or_is_refused(name):
    said = refusal(ValueError, lambda: pick_device(name))
    if said is None:
        found = pick_device(name)
        assert torch.ones(1, device=found).item() == 1
        assert name in ("", "auto") or name.partition(":")[0] == found.type
    else:
        assert name not in ("", "auto", "cpu", "cpu:0")
        assert said.startswith(f"device {name!r} cannot be used here: ")


@often
@given(st.floats(0, 10**6))
@example(59.99)
@example(60.0)
@example(99.5 * 60)
@example(0.0)
def test_a_duration_is_told_as_precisely_as_it_says(seconds):
    said = duration(seconds)
    if not said.startswith("about"):
        assert said == ("nothing" if seconds == 0 else "less than a minute")
        assert seconds < 60
        return
    _, number, unit = said.split()
    in_units = seconds / {"min": 60, "h": 3600}[unit]
    assert abs(float(number) - in_units) <= {"min": 0.5, "h": 0.05}[unit] + 1e-9
    assert seconds >= 60
    assert (unit == "h") == (seconds >= 99.5 * 60)


# --- a network lent out --------------------------------------------------------------------------

LEAVES = {
    "linear": lambda: nn.Linear(2, 2),
    "convolution": lambda: nn.Conv2d(1, 2, 1),
    "normalisation": lambda: nn.BatchNorm2d(2),
    "dropout": nn.Dropout,
}
outlines = st.recursive(
    st.sampled_from(sorted(LEAVES)), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


def grown(outline):
    if isinstance(outline, str):
        return LEAVES[outline]()
    parts = [grown(part) for part in outline]
    return nn.Sequential(*parts, nn.Sequential(*parts[:1]))  # the first one has two places


def tree(outline, seed):
    """A random tree of modules, each in a mode of its own, each parameter wanted or not."""
    model = built(lambda: grown(outline))
    generator = seeded(seed)

    def coin():
        return bool(torch.rand(1, generator=generator) < 0.5)

    for module in model.modules():
        module.training = coin()
    for parameter in model.parameters():
        parameter.requires_grad_(coin())
    return model


def state(model):
    modes = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return modes, [p.requires_grad for p in model.parameters()], hooks


class Mishap(Exception):
    pass


def lent(model, context, body, mishap):
    """Use a context, and let its body fail or not."""
    try:
        with context as inside:
            assert inside in (model, None)
            body()
            if mishap:
                raise Mishap
    except Mishap:
        assert mishap
    else:
        assert not mishap


@often
@given(outlines, seeds, st.booleans(), st.booleans())
def test_any_network_comes_back_as_it_was(outline, seed, mishap, meddle):
    model = tree(outline, seed)
    before = state(model)

    def body():
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        if meddle:
            model.train()
            model.requires_grad_()

    lent(model, frozen(model), body, mishap)
    assert state(model) == before
    x = torch.zeros(1, 1, 2, 2)
    lent(model, taking(model, x), lambda: None, mishap)
    assert state(model) == before
    lent(model, answering(model, 0), lambda: None, mishap)
    assert state(model) == before
    with frozen(model), frozen(model):
        pass
    assert state(model) == before


@often
@given(shapes, st.integers(1, 3), seeds, st.booleans())
def test_images_that_do_not_fit_are_refused_and_other_failures_pass(shape, channels, seed, other):
    model = built(lambda: nn.Sequential(nn.Conv2d(channels, 2, 1), nn.BatchNorm2d(2)))
    model[1].train(other)  # asked for one image, it must not learn from it
    model[0].bias.requires_grad_(False)
    before, mean = state(model), model[1].running_mean.clone()
    x = torch.rand(shape, generator=seeded(seed))
    failure = RuntimeError("another\nreason") if other else None

    def use():
        with taking(model, x):
            if failure is not None:
                raise failure
            model(x)

    if shape[1] != channels:
        said = refusal(ValueError, use)
        assert said is not None
        assert str(tuple(shape[1:])) in said
    elif other:
        with pytest.raises(RuntimeError) as caught:
            use()
        assert caught.value is failure
    else:
        use()
    assert state(model) == before
    assert torch.equal(model[1].running_mean, mean)


@often
@given(shapes, seeds, st.integers(-1, 5))
def test_labels_beyond_the_classes_are_refused_at_the_first_answer(shape, seed, label):
    model, x, _ = problem(shape, seed)
    before = state(model)

    def ask():
        with answering(model, label):
            model(x)

    assert (refusal(ValueError, ask) is None) == (label < CLASSES)
    assert state(model) == before
    assert model(x).shape == (len(x), CLASSES)


@often
@given(shapes, st.sampled_from([torch.float16, torch.float32, torch.float64]), st.data())
def test_images_are_of_the_networks_precision(shape, kind, data):
    mine = data.draw(st.sampled_from([None, torch.float32, torch.float64, torch.bfloat16]))
    layers = [nn.Flatten()] if mine is None else [nn.Flatten(), nn.Linear(1, 1).to(mine)]
    said = refusal(
        TypeError, lambda: check_precision(nn.Sequential(*layers), torch.zeros(shape, dtype=kind))
    )
    free = mine in (None, torch.bfloat16)
    assert (said is None) == (free or mine == kind)


class Restless(nn.Module):
    """Answers differently each time, by a share of its largest logit."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        x = x.flatten(1)[:, :1]
        return torch.cat([x, x + 1], 1) + self.share * torch.rand(1)


@often
@given(outlines, seeds, st.sampled_from([0.0, 0.0, 0.5]))
def test_an_answer_is_of_a_network_at_rest(outline, seed, share):
    # A part that is not used counts, too.
    model = Restless(share)
    model.part = tree(outline, seed)
    x = torch.rand(3, 1, 2, 2, generator=seeded(seed))
    before, random = state(model), torch.get_rng_state()
    restless = any(module.training for module in model.modules())
    said = refusal(ValueError, lambda: check_answers(model, x))
    assert (said is None) == (not restless and share == 0)
    assert said is None or ("call model.eval()" in said) == restless
    model.eval()
    twice = refusal(ValueError, lambda: check_answers(model, x))
    assert (twice is None) == (share == 0)
    assert twice is None or "answers twice differently" in twice
    assert torch.equal(torch.get_rng_state(), random)
    assert before[1:] == state(model)[1:]


# --- memory --------------------------------------------------------------------------------------


def small(seed, dropout=0.5):
    """Takes 3 channels; draws at random, which counting must not show."""
    layers = (nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Dropout(dropout), nn.Flatten())
    return built(lambda: nn.Sequential(*layers), seed)


@often
@given(seeds, st.integers(1, 5), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 500))
def test_more_memory_never_takes_fewer_images(seed, side, one, more, most):
    model = small(seed)
    x = torch.rand(4, 3, side, side, generator=seeded(seed))
    random = torch.get_rng_state()

    def at_once(size, most=most, gradient=False):
        with held_budget(size):
            assert budget(CPU) == size
            return images_at_once(model, x, most, gradient=gradient)

    fewer, many = at_once(one), at_once(one + more)
    assert 1 <= fewer <= many <= most
    assert at_once(0) == 1
    assert at_once(10**12) == most
    assert at_once(one, most + 1) - fewer in (0, 1)
    assert fewer == 1 or at_once(2 * one, 10**9) >= 2 * fewer
    # An image takes at least its own pixels, and they are not counted more than a few times.
    pixels = 4 * 3 * side * side
    assert at_once(one, 10**9) <= max(1, one // pixels)
    assert at_once(one, 10**9) >= one // (20 * pixels)
    assert at_once(one, gradient=True) <= fewer
    assert torch.equal(torch.get_rng_state(), random)


@often
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=4))
def test_budgets_are_held_one_in_another_and_given_back(sizes):
    def within(outer, rest):
        if rest:
            with held_budget(rest[0]):
                assert budget(CPU) == rest[0]
                try:
                    within(rest[0], rest[1:])
                except Mishap:
                    assert budget(CPU) == rest[0]
                raise Mishap
        assert budget(CPU) == outer

    with held_budget(1):
        with pytest.raises(Mishap):
            within(1, sizes)
        assert budget(CPU) == 1


printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
sayings = printable | st.floats(-1, 10**9).map(repr) | st.integers(-1, 10**6).map(str)


@often
@given(sayings)
@example("0")
@example("nan")
@example("inf")
@example("1e-6")
def test_a_budget_is_a_positive_number_of_gigabytes(said):
    try:
        gigabytes = float(said)
    except ValueError:
        gigabytes = -1.0
    with mock.patch.dict(os.environ, {"RVLIB_MEMORY": said}):
        refused = refusal(ValueError, lambda: budget(CPU))
        positive = 0 < gigabytes < math.inf
        assert (refused is None) == (positive or said == "")
        if positive:
            assert budget(CPU) == int(1e9 * gigabytes)
        if refused is not None:
            assert refused.startswith(f"RVLIB_MEMORY={said!r}")


# --- pieces of attacks ---------------------------------------------------------------------------


@often
@given(shapes, seeds, st.integers(0, 3000))
def test_tiles_of_any_size_are_the_batch(shape, seed, size):
    model, x, y = problem(shape, seed)
    with held_budget(size):
        pieces = list(zip(*tiles(model, x, y), strict=True))
        logits = logits_in_tiles(model, x)
    assert all(len(images) == len(labels) >= 1 for images, labels in pieces)
    assert torch.equal(torch.cat([images for images, _ in pieces]), x)
    assert torch.equal(torch.cat([labels for _, labels in pieces]), y)
    torch.testing.assert_close(logits, model(x))


@often
@given(st.integers(1, 6), st.integers(2, 6), seeds, st.floats(0.1, 200))
def test_cross_entropies_are_torchs_and_their_gradients_never_vanish(n, classes, seed, scale):
    z = scale * torch.randn(n, classes, generator=seeded(seed), dtype=torch.float64)
    y = torch.randint(0, classes, (n,), generator=seeded(seed))
    losses = cross_entropies(z, y)
    torch.testing.assert_close(losses, F.cross_entropy(z, y, reduction="none"), atol=1e-8, rtol=0)
    single = z.float().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropies(single, y).sum(), single)
    at_label = gradient.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -math.inf).amax(1)
    assert (at_label[z.gather(1, y[:, None])[:, 0] - others < 80] < 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(n), atol=1e-5, rtol=0)


@often
@given(shapes, seeds)
def test_a_gradient_is_the_images_own_and_no_parameters(shape, seed):
    model, x, y = problem(shape, seed)
    logits, gradient = logits_and_gradient(model, x, y)
    assert torch.equal(logits, model(x))
    assert torch.equal(loss_gradient(model, x, y), gradient)
    alone = torch.cat([loss_gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, gradient)
    (other,) = torch.autograd.grad(
        F.cross_entropy(model(given_ := x.clone().requires_grad_()), y, reduction="sum"), given_
    )
    torch.testing.assert_close(gradient, other)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


@often
@given(shapes, st.floats(0.001, 1), st.integers(1, 10**4))
def test_squares_fit_into_the_image_and_shrink(shape, area, queries):
    x = torch.zeros(shape)
    at = sorted({0, queries // 200, queries // 10, queries // 2, queries - 1})
    sides = [side_of(query, queries, area, x) for query in at]
    assert sides == sorted(sides, reverse=True)
    assert all(1 <= side <= min(shape[2:]) for side in sides)
    if sides[0] not in (1, min(shape[2:])):
        assert abs(sides[0] - math.sqrt(area * math.prod(shape[2:]))) <= 0.5


SIGNATURES = (
    lambda m, x, y, g: x,
    lambda m, x, y, g=None: x,
    lambda *of: x if (x := of[1]) is not None else of,
    lambda m, x, y: x,
    lambda m, x, y, g, more: x,
    lambda m, x, y, *, g: x,
)


@often
@given(st.sampled_from([*SIGNATURES, *ATTACKS.values(), Linf(0.1), print]) | values)
def test_attacks_are_called_with_four_things(attack):
    said = refusal(TypeError, lambda: check_attack(attack))
    fits = callable(attack)
    if fits:
        try:
            inspect.signature(attack).bind(1, 2, 3, 4)
        except TypeError:
            fits = False
    assert (said is None) == fits


# --- recipes -------------------------------------------------------------------------------------


@often
@given(balls, st.integers(0, 5), st.booleans(), st.floats(0, 12))
def test_an_attack_on_the_vote_keeps_the_ball(ball, steps, start, sigma):
    attack = AttackRecipe("drawn", ball, steps, 0.1, start)
    said = refusal(ValueError, lambda: on_the_vote(attack, sigma))
    assert said == refusal(ValueError, lambda: check_sigma(sigma))
    if said is None:
        found = on_the_vote(attack, sigma)
        assert found.threat == ball
        assert found.name == "vote-drawn"
        assert found.sigma == sigma
        # The steps reach everywhere in the ball, and as far again.
        assert found.steps * found.step_size >= 2 * ball.eps
        assert found.step_size <= ball.eps
        record = json.loads(json.dumps(found.record()))
        assert record["threat"] == ball.name
        assert record["draws"] == SMOOTHED_DRAWS
        assert record != json.loads(json.dumps(attack.record()))
    assert refusal(ValueError, lambda: on_the_vote(AttackRecipe("none"), 0.25)) is not None


@seldom
@given(shapes, seeds, balls, st.integers(0, 3), st.integers(1, 2), st.booleans())
def test_a_recipe_is_the_attack_that_it_names(shape, seed, ball, steps, restarts, vote):
    model, x, y = problem(shape, seed)
    start = restarts > 1
    sigma = 0.25 if vote and steps else None
    recipe = AttackRecipe("drawn", ball, steps, 0.05, start, restarts, sigma)
    found = recipe(model, x, y, seeded(seed))
    options = {"steps": steps, "step_size": 0.05, "generator": seeded(seed)}
    if steps == 0:
        expected = fgsm(model, x, y, ball)
    elif sigma:
        expected = smoothed_pgd(model, x, y, ball, sigma=sigma, draws=SMOOTHED_DRAWS, **options)
    else:
        expected = pgd(model, x, y, ball, random_start=start, restarts=restarts, **options)
    assert torch.equal(found, expected)
    assert AttackRecipe("natural")(model, x, y, seeded(seed)) is x


@seldom
@given(st.sampled_from(sorted(RECIPES)), seeds)
def test_a_seed_is_a_network_and_nothing_global_moves(name, seed):
    before = torch.get_rng_state()
    one, same, other = (find_recipe(name).build(s).state_dict() for s in (seed, seed, seed + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


# --- objectives ----------------------------------------------------------------------------------


def gradients(value, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, [*model.parameters()])])


@often
@given(shapes, seeds, st.lists(balls, max_size=3))
def test_the_mixed_loss_is_the_mean_over_clean_and_attacked_images(shape, seed, drawn):
    model, x, y = problem(shape, seed)
    attacks = [AttackRecipe("drawn", ball) for ball in drawn]

    def loss(objective):
        return objective(model, x, y, seeded(seed))

    found = loss(mixed(attacks))
    versions = [x, *(fgsm(model, x, y, ball) for ball in drawn)]
    expected = sum(F.cross_entropy(model(version), y) for version in versions) / len(versions)
    torch.testing.assert_close(found.value, expected)
    torch.testing.assert_close(gradients(found.value, model), gradients(expected, model))
    torch.testing.assert_close(found.logits, model(x).detach())
    assert not found.logits.requires_grad
    torch.testing.assert_close(loss(mixed(attacks[::-1])).value.detach(), found.value.detach())
    other = {0: standard, 1: adversarial(attacks[0]) if attacks else None}.get(len(attacks))
    if other is not None:
        torch.testing.assert_close(loss(other).value, found.value)


@often
@given(shapes, seeds, st.lists(balls, min_size=1, max_size=2), st.floats(0.1, 10))
def test_a_weighted_loss_is_linear_in_its_weights(shape, seed, drawn, scale):
    model, x, y = problem(shape, seed)
    attacks = [AttackRecipe("drawn", ball) for ball in drawn]
    one, other = torch.rand(2, 1 + len(attacks), generator=seeded(seed)).tolist()

    def loss(weights):
        return weighted(weights, attacks)(model, x, y, seeded(seed)).value.detach()

    both = [a + scale * b for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(loss(both), loss(one) + scale * loss(other))


# --- networks ------------------------------------------------------------------------------------


@functools.cache
def network(kind, classes, seed):
    """A network in evaluation mode: drawn for a few seeds, so kept."""
    make = {"lenet": LeNet, "resnet18": resnet18}[kind]
    return built(lambda: make(classes), seed % 4).eval()


def lenet_images(n, seed):
    return torch.rand(n, 3, 32, 32, generator=seeded(seed))


def check_batch(model, x, classes, share):
    """Shape, kind, and that a batch is its images one by one up to a share of the largest logit."""
    with torch.no_grad():
        whole = model(x)
        alone = torch.cat([model(x[i : i + 1]) for i in range(len(x))])
        again = model(x.contiguous(memory_format=torch.channels_last))
    with torch.enable_grad():
        graph = model(x)
    assert whole.shape == (len(x), classes)
    assert whole.dtype == torch.float32
    assert whole.isfinite().all()
    for other in (alone, again, graph):
        assert (whole - other).abs().max() <= share * whole.abs().max()
    return whole


@seldom
@given(st.integers(1, 5), st.integers(1, 12), seeds)
def test_a_lenet_answers_image_by_image(n, classes, seed):
    model, x = network("lenet", classes, seed), lenet_images(n, seed)
    whole = check_batch(model, x, classes, 1e-4)
    if n > 1 and classes > 1:
        assert not torch.equal(whole[0], whole[1])  # it looks at its images


@settings(often, max_examples=5)
@given(st.integers(1, 3), st.sampled_from([1, 10]), st.integers(1, 9), st.integers(1, 9), seeds)
def test_a_resnet_answers_image_by_image_of_any_size(n, classes, height, width, seed):
    x = torch.rand(n, 3, height, width, generator=seeded(seed))
    check_batch(network("resnet18", classes, 0), x, classes, 1e-4)


@seldom
@given(st.integers(1, 4), st.integers(2, 12), seeds, st.sampled_from([torch.float32, torch.double]))
def test_a_rounded_network_answers_nearly_the_same_in_float32(n, classes, seed, kind):
    model = built(lambda: LeNet(classes), seed).to(kind).eval()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = Bfloat16(model)
    x = lenet_images(n, seed)
    whole = check_batch(rounded, x, classes, 0.05)
    # A double comes in as well, and the answer is of float32 again.
    assert rounded(x.double()).dtype == torch.float32
    assert torch.equal(whole.bfloat16().float(), whole)
    with torch.no_grad():
        expected = model(x.to(kind)).float()
    assert (whole - expected).abs().max() <= 0.05 * expected.abs().max()
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    for name, value in model.state_dict().items():
        assert value.dtype == kind
        assert torch.equal(value, kept[name])
    assert Bfloat16(model.train()).training


# --- a network in two parts ----------------------------------------------------------------------


@seldom
@given(st.integers(1, 5), st.integers(1, 12), seeds)
def test_the_two_parts_of_a_lenet_are_the_lenet(n, classes, seed):
    model, x = network("lenet", classes, seed), lenet_images(n, seed)
    assert stemmed(model) is model
    noise = torch.randn(x.shape, generator=seeded(seed + 1))
    with torch.no_grad():
        z, zero = model.stem(x), model.stem(torch.zeros_like(x))
        assert z.is_contiguous()
        assert len(z) == n
        torch.testing.assert_close(model.after_stem(z), model(x), atol=1e-5, rtol=1e-4)
        apart = z + model.stem(noise) - zero
        torch.testing.assert_close(apart, model.stem(x + noise), atol=1e-5, rtol=1e-4)


class Doubled(LeNet):
    def forward(self, x):
        return 2 * super().forward(x)


HOOKS: dict[str, Any] = {
    "before": lambda m: m.register_forward_pre_hook(lambda _, seen: (1 - seen[0],)),
    "after": lambda m: m.register_forward_hook(lambda _, seen, logits: -logits),
}


@seldom
@given(st.integers(1, 3), seeds, st.lists(st.sampled_from(sorted(HOOKS)), max_size=3))
@example(1, 0, [])
@example(1, 0, ["before"])
@example(1, 0, ["after"])
def test_hooks_make_a_lenet_one_whole(n, seed, drawn):
    model, x = network("lenet", 10, seed), lenet_images(n, seed)
    hooks = [HOOKS[name](model) for name in drawn]
    try:
        seen = stemmed(model)
        assert isinstance(seen, Stemmed)
        assert isinstance(seen, WholeNetwork) == bool(drawn)
        with torch.no_grad():
            parts = seen.after_stem(seen.stem(x))
            torch.testing.assert_close(parts, model(x), atol=1e-5, rtol=1e-4)
    finally:
        for hook in hooks:
            hook.remove()
    assert stemmed(model) is model


@often
@given(shapes, seeds)
def test_any_other_network_is_one_whole(shape, seed):
    model, x, _ = problem(shape, seed)
    whole = stemmed(model)
    assert isinstance(whole, WholeNetwork)
    z = whole.stem(x)
    assert z.shape == (shape[0], *shape[2:], shape[1])
    assert z.is_contiguous()
    torch.testing.assert_close(whole.after_stem(z), model(x))
    torch.testing.assert_close(whole(x), model(x))
    assert isinstance(stemmed(built(Doubled, seed % 4)), WholeNetwork)
    assert stemmed(whole) is whole


# --- what a file can hold ------------------------------------------------------------------------


@settings(often, max_examples=60)
@given(shapes, seeds, st.floats(0, 0.3) | st.integers(0, 80).map(lambda k: k / 255))
def test_attacked_images_are_rounded_to_the_nearest_that_the_ball_has(shape, seed, eps):
    _, x, _ = problem(shape, seed)
    noise = 3 * torch.rand(shape, generator=seeded(seed + 2)) - 1.5
    x_adv = (x + eps * noise.clamp(-1, 1)).clamp(0, 1)
    found = to_8_bits(x_adv, x, Linf(eps))
    levels = 255 * found
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert (levels - levels.round()).abs().max() <= 1e-4
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert (found - x).abs().max() <= eps + 1e-6
    # Of all stored pixels in ball and box none is nearer.
    stored = torch.arange(256) / 255
    allowed = (stored - x[..., None]).abs() <= eps - 1e-7
    apart = (stored - x_adv[..., None]).abs().where(allowed, torch.inf).amin(-1)
    assert ((found - x_adv).abs() <= apart + 1e-6).all()
    assert torch.equal(to_8_bits(found, x, Linf(eps)), found)
    assert torch.equal(to_8_bits(x, x, Linf(eps)), x)


# --- other libraries' attacks --------------------------------------------------------------------

of_theirs = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def torchattacks():
    return pytest.importorskip("torchattacks", reason="optional: make test has it")


@pytest.fixture(scope="module")
def foolbox():
    return pytest.importorskip("foolbox", reason="optional: make test has it")


def check_external(external, ours, shape, seed, ball):
    """It is our attack of that kind, in ball and box, and leaves network and randomness alone."""
    model, x, y = problem(shape, seed)
    model.train()
    before, random, kept = state(model), torch.get_rng_state(), x.clone()
    found = external(model, x, y, seeded(seed))
    torch.testing.assert_close(found, ours(model, x, y), atol=1e-6, rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1
    assert ball.norm(found - x).max() <= ball.eps + 1e-5
    assert not found.requires_grad
    assert state(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


def check_random(external, model, x, y, ball, seed):
    """Its randomness is the generator's: the same twice, another with another seed."""
    random = torch.get_rng_state()
    one, same, other = (external(model, x, y, seeded(s)) for s in (seed, seed, seed + 1))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    for found in (one, other):
        assert ball.norm(found - x).max() <= ball.eps + 1e-5


@of_theirs
@seldom
@given(shape=shapes, seed=seeds, eps=radii)
def test_attacks_of_torchattacks_are_evaluated_as_they_are(torchattacks, shape, seed, eps):
    ball = Linf(eps)
    external = from_torchattacks(lambda model: torchattacks.FGSM(model, eps=eps), ball, name="f")
    check_external(external, lambda m, x, y: fgsm(m, x, y, ball), shape, seed, ball)
    record = external.record()
    assert (record["name"], record["threat"]) == ("f", ball.name)
    assert record["origin"].startswith("torchattacks ")
    model, x, y = problem(shape, seed)
    bound = from_torchattacks(torchattacks.PGD(model, eps=eps, alpha=eps / 10, steps=2), ball)
    assert bound.name == "PGD"
    check_random(bound, model, x, y, ball, seed)
    said = refusal(ValueError, lambda: bound(linear(shape, seed), x, y, seeded(0)))
    assert said is not None
    assert "another network" in said


@of_theirs
@seldom
@given(shape=shapes, seed=seeds, eps=radii, claimed=radii)
def test_a_ball_that_is_left_is_noticed(torchattacks, foolbox, shape, seed, eps, claimed):
    model, x, y = problem(shape, seed)
    theirs = torchattacks.FGSM(model, eps=eps)
    moved = (fgsm(model, x, y, Linf(eps)) - x).abs().max().item()
    assume(abs(moved - claimed) > 1e-4)
    wrong = foolbox.attacks.L2FastGradientAttack()
    for external, length in (
        (from_torchattacks(theirs, Linf(claimed)), moved),
        (from_callable(lambda m, x, y: fgsm(m, x, y, Linf(eps)), Linf(claimed)), moved),
        # At the radius that is claimed, but of another norm: in Linf's ball, too.
        (from_foolbox(wrong, Linf(claimed)), 0),
    ):
        call = functools.partial(external, model, x, y, seeded(seed))
        said = refusal(ValueError, call)
        assert (said is not None) == (length > claimed)
        assert said is None or f"left the ball linf {claimed:.6g}" in said


@of_theirs
@seldom
@given(shape=shapes, seed=seeds, eps=radii, euclidean=st.booleans())
def test_attacks_of_foolbox_are_evaluated_as_they_are(foolbox, shape, seed, eps, euclidean):
    ball = L2(eps) if euclidean else Linf(eps)
    kind = "L2FastGradientAttack" if euclidean else "LinfFastGradientAttack"
    external = from_foolbox(getattr(foolbox.attacks, kind)(), ball)
    assert external.name == kind
    assert external.record()["origin"].startswith("foolbox ")
    check_external(external, lambda m, x, y: fgsm(m, x, y, ball), shape, seed, ball)
    model, x, y = problem(shape, seed)
    start = from_foolbox(foolbox.attacks.LinfPGD(steps=1, abs_stepsize=eps / 10), Linf(eps))
    check_random(start, model, x, y, Linf(eps), seed)
    images = (255 * x).round().byte()
    answers = predictions(model, images, y, external)
    ours = predictions(model, images, y, lambda m, x, y, g: fgsm(m, x, y, ball))
    assert torch.equal(answers, ours)
