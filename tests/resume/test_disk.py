"""A full disk and a folder that cannot be written: one line, and nothing that was done is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rvlib.files import write_whole
from rvlib.rows import RowFile, read_rows
from tests.resume.soak import hidden

ROOT = Path(__file__).parents[2]

# A process of its own, which imports the library once, and a child a command: limits and mounts
# end with the child.
TYPIST = """
import ctypes, json, os, resource, subprocess, sys, tempfile, traceback
from pathlib import Path
from tests.resume.worker import make_tiny
import rvlib.cli
from rvlib.stages import run as stage
# Two trainings and eight files of rows are enough here, and no estimate of the time.
stage.measure_everything = lambda run: stage.measure_networks(run, ["standard"])
rvlib.cli._announce = lambda run: None
make_tiny()

def hinder(how, root, room):
    run = Path(root) / "build" / "tiny"
    if how == "no room":  # no file may grow beyond so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if how == "a file in the way":
        run.parent.mkdir()
        run.write_text("")
    if how == "read-only":
        run.mkdir(parents=True)
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # mounts of its own
        for words in ("--make-rprivate /", f"--bind {run} {run}", f"-o remount,ro,bind {run}"):
            subprocess.run(["mount", *words.split()], check=True)

for line in sys.stdin:
    how, root, room = json.loads(line)
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                hinder(how, root, room)
                os.dup2(said.fileno(), 2)
                os.environ["RVLIB_ROOT"] = root
                status = rvlib.cli.main(["measure", "--profile", "tiny", "--device", "cpu"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(json.dumps([status, said.read()]), flush=True)
"""


@pytest.fixture(scope="module")
def measure():
    """Type `rvlib measure` in a process; lend a function to status and what was said on stderr."""
    typist = subprocess.Popen(
        [sys.executable, "-c", TYPIST],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert typist.stdin is not None
    assert typist.stdout is not None
    with typist, typist.stdin as words, typist.stdout as answers:

        def type_it(root, how="as it should be", room=0):
            words.write(json.dumps([how, str(root), room]) + "\n")
            words.flush()
            return json.loads(answers.readline())

        yield type_it
        words.close()


def may_mount():
    words = ["unshare", "--mount", "true"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def one_line(outcome, *parts):
    status, said = outcome
    assert status == 2, said
    assert said.startswith("rvlib: "), said
    assert said.count("\n") == 1, said
    for part in parts:
        assert part in said


def whole(root):
    """Bytes of every file, hidden ones too."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_without_room_it_is_one_line_and_goes_on_from_what_was_done(tmp_path, measure):
    one_line(measure(tmp_path, "no room", 20_000), "seed-0.checkpoint", "File too large")
    assert whole(tmp_path) == {}  # neither a half nor a temporary file
    assert measure(tmp_path)[0] == 0
    expected = whole(tmp_path)
    path = tmp_path / "build/tiny/rows/heldout/standard/seed-0/pgd-pixel-l2.csv"
    head = b"".join(expected[path].splitlines(keepends=True)[:2])
    path.write_bytes(head)
    # Room for the first four rows ("0,3,3") and a part of the others.
    one_line(measure(tmp_path, "no room", len(head) + 30), path.name, "File too large")
    kept = head + b"".join(expected[path].splitlines(keepends=True)[2:6])
    assert whole(tmp_path) == expected | {path: kept}
    assert measure(tmp_path)[0] == 0
    assert whole(tmp_path) == expected


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, measure):
    one_line(measure(tmp_path, "a file in the way"), str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="mounting takes rights that this user has not")
def test_a_read_only_folder_is_one_line(tmp_path, measure):
    one_line(measure(tmp_path, "read-only"), str(tmp_path), "Read-only file system")
    assert whole(tmp_path) == {}


# --- the pieces, on a disk that is truly full ----------------------------------------------------

FULL = """
import subprocess, sys
from pathlib import Path
from rvlib.rows import RowFile, read_rows
from rvlib.files import write_whole
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
path, other = disk / "rows.csv", disk / "whole"
write_whole(other, b"old")
row = lambda i: {"index": i, "text": "x" * 2500}
file = RowFile(path, {}, {}, ["index", "text"], 100)
for i in range(100):
    before = path.read_bytes()
    try:
        file.append([row(i)])
    except OSError as error:
        assert error.errno == 28 and str(path) in str(error), error
        break
assert 10 < i < 99, i
assert path.read_bytes() == before and file.done == i
try:
    write_whole(other, b"new" * 3000)
except OSError as error:
    assert error.errno == 28 and str(other) in str(error), error
assert other.read_bytes() == b"old"
names = sorted(p.name for p in disk.iterdir())
assert names == [".rows.csv.lock", "rows.csv", "whole"], names
subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)  # room is made
for k in range(i, 100):  # by the same object, as in a notebook
    file.append([row(k)])
assert read_rows(path).integers("index") == list(range(100))
print("gone on")
"""


@pytest.mark.skipif(not may_mount(), reason="mounting takes rights that this user has not")
def test_on_a_full_disk_nothing_is_half_there(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "gone on\n"), done.stderr


@pytest.mark.parametrize("keep", [0, 5, 11])
def test_where_even_cutting_fails_the_next_run_cuts(tmp_path, monkeypatch, keep):
    path = tmp_path / "rows.csv"

    def opened():
        return RowFile(path, {}, {}, ["index", "text"], 4, 2)

    def rows(first):
        return [{"index": i, "text": "x" * 10} for i in (first, first + 1)]

    file = opened()
    file.append(rows(0))
    before = path.read_bytes()
    with monkeypatch.context() as patch:

        def full(descriptor):
            os.ftruncate(descriptor, len(before) + keep)
            raise OSError(28, "No space left on device")

        def fails(*words):
            raise OSError(5, "Input/output error")

        patch.setattr("rvlib.rows.os.fsync", full)
        patch.setattr("rvlib.rows.os.truncate", fails)
        with pytest.raises(OSError, match=r"No space left on device: .*rows\.csv"):
            file.append(rows(2))
    assert len(path.read_bytes()) == len(before) + keep
    file.close()
    again = opened()
    assert (again.done, path.read_bytes()) == (2, before)
    again.append(rows(2))
    assert read_rows(path).integers("index") == [0, 1, 2, 3]


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "whole"
    write_whole(path, b"old")

    def fails(self, content):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match=r"Read-only file system: '.*/whole'"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert hidden(tmp_path) == []
