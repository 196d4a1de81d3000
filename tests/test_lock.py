"""Folders with one writer: real processes that hold, wait, die, and race."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edlm.lock import LockedError, locked

ROOT = Path(__file__).resolve().parents[1]
HOLD = "from edlm.lock import locked\nwith locked({!r}):\n    print('held', flush=True)\n    input()\n"


def holder(folder: Path) -> subprocess.Popen:
    """A process that asks for the lock, says so once it has it, and holds it until it reads a line."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", HOLD.format(str(folder))], cwd=ROOT, text=True, **pipes)


def test_a_second_writer_is_told_who_the_first_is_and_comes_after_it(tmp_path):
    first = holder(tmp_path / "new" / "folder")
    assert first.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"one writer, got a second: process {first.pid} on {socket.gethostname()} "):
        with locked(tmp_path / "new" / "folder"):
            pass
    assert "LockedError" in holder(tmp_path / "new" / "folder").communicate()[1]
    first.communicate("\n")
    with locked(tmp_path / "new" / "folder"):
        pass
    assert not (tmp_path / "new" / "folder").exists()


def test_locks_of_other_names_are_apart_and_a_used_folder_stays(tmp_path):
    with locked(tmp_path / "new"), locked(tmp_path / "new", ".other.lock"):
        (tmp_path / "new" / "rows.jsonl").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.jsonl"]


def test_a_process_cannot_hold_a_lock_twice(tmp_path):
    with locked(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on"), locked(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    first = holder(tmp_path)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert json.loads((tmp_path / ".lock").read_text()) == [first.pid, socket.gethostname()]
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text()) == [os.getpid(), socket.gethostname()]


@pytest.mark.parametrize("content", ["", "[12", "null", "{}"])
def test_a_lock_file_without_a_writer_is_taken_over(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())[0] == os.getpid()


def test_a_lock_that_another_host_left_is_not_taken(tmp_path):
    (tmp_path / ".lock").write_text('[12, "another.host"]')
    with pytest.raises(LockedError, match="process 12 on another.host wrote to it; if that is dead, remove .*lock"):
        with locked(tmp_path):
            pass
    (tmp_path / ".lock").unlink()
    with locked(tmp_path):
        pass


def test_a_stale_lock_that_many_want_goes_to_one_of_them(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps([2**22 + 1, socket.gethostname()]))  # above Linux's largest pid
    processes = [holder(tmp_path) for _ in range(8)]
    said = [process.stdout.readline() for process in processes]
    assert sorted(said) == [""] * 7 + ["held\n"]
    errors = [process.communicate("\n")[1] for process in processes]
    assert sum("LockedError" in error for error in errors) == 7


def test_without_locks_of_the_file_system_a_living_process_counts(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError("Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on"), locked(tmp_path):
        pass
    (tmp_path / ".lock").write_text(json.dumps([2**22 + 1, socket.gethostname()]))
    with locked(tmp_path):
        pass
