"""Two runs at once on one folder: one writes, the other is told so; a kill lets go."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import rvlib
from rvlib import files
from rvlib.files import A_SWEEP, BusyError, OnlyWriter, sweep, write_whole
from rvlib.models import save_weights
from rvlib.recipes import find_recipe
from rvlib.rows import RowFile, RowsError, read_rows
from rvlib.stages import train as stage
from rvlib.stages.train import checkpoint_path, is_trained, train, weights_path
from tests.resume.soak import hidden

CPU = torch.device("cpu")
COUNT, UNIT = 400, 4


def opened(path, count=COUNT):
    return RowFile(path, {"model": "standard"}, {}, ["index"], count, UNIT)


def fill(file, until=COUNT):
    for first in range(file.done, until, UNIT):
        file.append([{"index": i} for i in range(first, first + UNIT)])


PROGRAM = f"""
import sys, time
from pathlib import Path
from rvlib.rows import RowFile, RowsError
from rvlib.files import OnlyWriter, write_whole
path, what = Path(sys.argv[1]), sys.argv[2]
if what == "hold":
    only = OnlyWriter(path)
    print("ready", flush=True)
    time.sleep(60)
if what == "whole":
    for turn in range(300):
        write_whole(path, bytes([int(sys.argv[3])]) * 100_000)
if what == "rows":
    tried = 0
    print("ready", flush=True)
    sys.stdin.readline()  # until all four are
    while True:
        try:
            file = RowFile(path, {{"model": "standard"}}, {{}}, ["index"], {COUNT}, {UNIT})
        except RowsError as error:
            assert "is being written by another run" in str(error), error
            tried += 1
            time.sleep(0.002)
            continue
        if file.done == {COUNT}:
            break
        with file:  # a little, then the other may
            for first in range(file.done, min(file.done + 40, {COUNT}), {UNIT}):
                file.append([{{"index": i}} for i in range(first, first + {UNIT})])
                time.sleep({2 * A_SWEEP / 10})  # ten a turn: longer than another is patient
        time.sleep(0.002)
    print(tried)
"""


def start(path, *words):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(rvlib.__file__).parents[1])},
    )


@pytest.fixture
def holder(tmp_path):
    """Lend a process that is writing ``rows.csv``."""
    child = start(tmp_path / "rows.csv", "hold")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()
    child.stdin.close()


# --- rows ----------------------------------------------------------------------------------------


def test_rows_that_another_process_writes_are_refused_in_one_line(tmp_path, holder):
    path = tmp_path / "rows.csv"
    with pytest.raises(RowsError, match="is being written by another run: wait for it") as caught:
        opened(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_a_kill_lets_go(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -9
    assert [file.name for file in hidden(tmp_path)] == [".rows.csv.lock"]
    fill(opened(tmp_path / "rows.csv"))
    assert hidden(tmp_path) == []


def test_four_processes_that_take_turns_write_each_row_once(tmp_path):
    path = tmp_path / "rows.csv"
    children = [start(path, "rows") for _ in range(4)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 4
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    ends = [(child.communicate()[0], child.returncode) for child in children]
    assert [code for _, code in ends] == [0] * 4
    assert sum(int(tried) for tried, _ in ends) > 0  # they did meet
    assert read_rows(path).integers("index") == list(range(COUNT))
    assert hidden(tmp_path) == []


def test_finished_rows_are_everybodys(tmp_path):
    first = opened(tmp_path / "rows.csv")
    fill(first)
    assert hidden(tmp_path) == []
    assert opened(tmp_path / "rows.csv").done == opened(tmp_path / "rows.csv").done == COUNT
    with pytest.raises(RowsError, match="is closed"):
        first.append([{"index": COUNT}])


def test_a_longer_run_that_is_at_work_does_not_bar_a_shorter_one(tmp_path):
    longer = opened(tmp_path / "rows.csv")
    fill(longer, 40)
    assert opened(tmp_path / "rows.csv", count=40).done == 40
    fill(longer)
    assert read_rows(tmp_path / "rows.csv").integers("index") == list(range(COUNT))


@pytest.mark.parametrize("how", ["close", "with", "forget", "error"])
def test_it_is_let_go(tmp_path, how):
    path = tmp_path / "rows.csv"
    file = opened(path)
    with pytest.raises(RowsError):
        opened(path)
    if how == "close":
        file.close()
    elif how == "with":
        with file:
            pass
    elif how == "error":
        with pytest.raises(KeyboardInterrupt), file:
            raise KeyboardInterrupt
    del file
    fill(opened(path))


# --- weights -------------------------------------------------------------------------------------


def test_a_model_that_another_run_trains_is_refused_in_one_line(tmp_path, monkeypatch):
    models, work = tmp_path / "models", tmp_path / "work"
    monkeypatch.setattr(stage, "load_cifar10", lambda split: pytest.fail("trained"))
    path = weights_path(models, "standard", 0)
    with OnlyWriter(path), pytest.raises(BusyError, match="is being written by another run"):
        train("standard", 0, models, work, CPU)
    assert hidden(tmp_path) == []


def test_what_is_left_over_counts_as_not_finished(tmp_path):
    models, work = tmp_path / "models", tmp_path / "work"
    path = weights_path(models, "standard", 0)
    recipe = find_recipe("standard")
    assert not is_trained(models, work, "standard", 0)
    save_weights(recipe.build(0), path, {"recipe": recipe.record()})
    assert is_trained(models, work, "standard", 0)
    left_over = checkpoint_path(work, "standard", 0), path.with_name(f".{path.name}.lock")
    for file in left_over:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert not is_trained(models, work, "standard", 0)
        train("standard", 0, models, work, CPU)
        assert is_trained(models, work, "standard", 0)
        assert not file.exists()


# --- temporary files -----------------------------------------------------------------------------


def test_two_processes_that_write_one_file_leave_one_of_the_two(tmp_path):
    path = tmp_path / "whole"
    children = [start(path, "whole", text) for text in ("1", "2")]
    seen = set()
    while any(child.poll() is None for child in children):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 100_000
            seen |= set(content)
        time.sleep(0.001)
    assert [child.wait() for child in children] == [0, 0]
    assert seen <= {1, 2}
    assert hidden(tmp_path) == []
    for child in children:
        child.communicate()


def test_what_the_dead_left_is_removed_and_what_the_living_hold_is_not(tmp_path, holder):
    for name in (
        ".rows.csv.0123abcd.tmp",
        ".rows.csv.4711.tmp",
        ".other.csv.12.tmp",
        "rows.csv.tmp",
    ):
        (tmp_path / name).write_text("half")
    write_whole(tmp_path / "rows.csv", b"whole")
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"rows.csv", ".rows.csv.lock", ".other.csv.12.tmp", "rows.csv.tmp"}


def test_a_sweep_in_the_middle_of_a_write_takes_nothing(tmp_path, monkeypatch):
    path, original = tmp_path / "whole", Path.write_bytes

    def swept(self, content):
        sweep(path)
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", swept)
    write_whole(path, b"all of it")
    assert path.read_bytes() == b"all of it"


def test_a_sweep_that_holds_a_file_for_a_moment_stops_no_write(tmp_path, monkeypatch):
    lock, held = files._lock, [True]  # by a sweep, between the making of the file and its lock

    def after_a_moment(descriptor):
        return False if held and held.pop() else lock(descriptor)

    monkeypatch.setattr(files, "_lock", after_a_moment)
    write_whole(tmp_path / "whole", b"all of it")
    assert (tmp_path / "whole").read_bytes() == b"all of it"
    assert held == []


def test_a_file_that_is_held_for_good_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda descriptor: False)
    with pytest.raises(BlockingIOError, match="held by another run") as caught:
        write_whole(tmp_path / "whole", b"all of it")
    assert caught.value.filename == str(tmp_path / "whole")


def test_a_late_sweep_leaves_the_lock_of_the_next_run(tmp_path, monkeypatch):
    path, lock = tmp_path / "rows.csv", files._lock
    beside = tmp_path / ".rows.csv.lock"
    beside.touch()  # a dead run's
    begun = []

    def late(descriptor):
        # Another sweep was faster, and a run has begun since.
        monkeypatch.setattr(files, "_lock", lock)
        beside.unlink()
        begun.append(OnlyWriter(path))
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    sweep(path)
    with begun[0], pytest.raises(BusyError):
        OnlyWriter(path)


def test_threads_do_not_disturb_each_other(tmp_path):
    path, wrong = tmp_path / "whole", []

    def write(text):
        try:
            for _ in range(50):
                write_whole(path, text * 1000)
        except OSError as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert path.read_bytes() in {b"a" * 1000, b"b" * 1000, b"c" * 1000}
    assert hidden(tmp_path) == []
