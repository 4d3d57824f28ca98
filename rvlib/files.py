"""Files that are there whole or not at all, and that one run at a time writes.

What a killed run leaves behind are hidden files beside the one it wrote: ``.NAME.*.tmp`` and
``.NAME.lock``.  A living run holds a lock on its own, which the system takes back when the run
ends, however it ends: so the next run knows which to remove.  Where there are no such locks (some
network folders, Windows) nothing is removed and nothing is refused.
"""

import contextlib
import errno
import os
import secrets
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# A run that looks for what dead ones left holds a file for microseconds; a run that writes, for
# longer than this many seconds.
A_SWEEP = 0.2


class BusyError(RuntimeError):
    """A file that another run is writing."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: readers see all of it or the old one.

    Parameters
    ----------
    path : Path
        The file to write.
    content : bytes
        All of it.

    Raises
    ------
    OSError
        If it cannot be written, on a full disk for one; it names `path`, which is as it was.
    """
    sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _held(temporary) as descriptor:
            try:
                temporary.write_bytes(content)
                if descriptor is not None:
                    os.fsync(descriptor)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sweep(path: Path) -> None:
    """Remove what killed runs left beside a file that they were writing.

    Parameters
    ----------
    path : Path
        The file.  It is not touched, nor is what a living run holds.
    """
    if fcntl is None or not path.parent.is_dir():
        return
    lock, start = f".{path.name}.lock", f".{path.name}."
    for name in os.listdir(path.parent):  # noqa: PTH208 (names are all that is needed)
        if name == lock or (name.startswith(start) and name.endswith(".tmp")):
            # In a folder that cannot be written they stay.
            with contextlib.suppress(OSError):
                _remove_if_free(path.with_name(name))


def _remove_if_free(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        # Before this lock another sweep may have removed it, and a run made its own by that name.
        if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()
    finally:
        os.close(descriptor)


class OnlyWriter:
    """Be the only run that writes a file, until released or until the process ends.

    Parameters
    ----------
    path : Path
        The file; its folder is made.  ``.NAME.lock`` is beside it for as long.

    Raises
    ------
    BusyError
        If another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.lock")
        try:
            descriptor = _take(beside)
        except BlockingIOError:
            raise BusyError(
                f"{path} is being written by another run: wait for it or use another folder"
            ) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        # Also when the object is forgotten.
        self._release = weakref.finalize(self, _let_go, beside, descriptor)

    def release(self) -> None:
        """Let others write it; once is enough."""
        self._release()

    def __enter__(self) -> "OnlyWriter":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it."""
        self.release()


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[int | None]:
    """Make a temporary file that no sweep takes for a dead run's."""
    descriptor = _take(temporary)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(path: Path) -> int | None:
    """Make and lock a file; None where there are no locks.  ``BlockingIOError`` if it is held."""
    if fcntl is None:
        return None
    patience = time.monotonic() + A_SWEEP
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(descriptor) is False:
            os.close(descriptor)
            if time.monotonic() > patience:
                raise BlockingIOError(errno.EWOULDBLOCK, "held by another run", str(path))
            time.sleep(A_SWEEP / 100)
            continue
        with contextlib.suppress(FileNotFoundError):
            # Between open and lock it may have been swept away, and another made by that name.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _let_go(path: Path, descriptor: int | None) -> None:
    if descriptor is not None:
        path.unlink(missing_ok=True)  # while it is held: nobody else can hold this file
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file: True if that worked, False if another has it, None without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
