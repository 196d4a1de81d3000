"""A disk that is full, read-only or beyond a quota: one line, what was there stays, and the command works again."""

import errno
import os

import pytest

from edlm.files import check_writable, filling, replacing, replacing_text, write_atomically
from tests.faults.cases import contents
from tests.faults.disk import WRITERS, can_mount
from tests.faults.table import DISK_KINDS, disk_row


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", DISK_KINDS)
def test_a_bad_disk_leaves_what_was_there(tried, kind, name):
    if kind == "mounted" and not can_mount():
        pytest.skip("needs the right to mount a disk")
    assert disk_row(tried[1], kind, [name]).wrong == []


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", [replacing, replacing_text])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch, write):
    path = tmp_path / "a.txt"
    write_atomically(path, "old\n")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt"), write(path) as file:
        file.write("new" if write is replacing_text else b"new")
    assert contents(tmp_path) == {"a.txt": b"old\n"}


@pytest.mark.parametrize("number", range(1, 6))
def test_files_of_a_folder_change_all_or_none(tmp_path, monkeypatch, number):
    for name in ("a", "b/c"):
        write_atomically(tmp_path / name, f"old {name}")
    before, calls, real = contents(tmp_path), 0, os.replace

    def replace(*names):
        nonlocal calls
        calls += 1
        if calls == number:
            full()
        real(*names)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"), filling(tmp_path) as folder:
        monkeypatch.setattr(os, "replace", real)
        for name in ("a", "b/c", "d"):
            write_atomically(folder / name, f"new {name}")
        monkeypatch.setattr(os, "replace", replace)
    assert contents(tmp_path) == before


def test_what_is_no_file_is_written_to_and_links_stay_links(tmp_path):
    write_atomically(os.devnull, "x")
    assert not os.path.isfile(os.devnull)
    write_atomically(tmp_path / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_text() == "new"


def test_a_file_is_tried_without_a_trace(tmp_path):
    check_writable(None, tmp_path / "a" / "b.txt", os.devnull)
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "b.txt"):
        with pytest.raises(OSError, match=str(path)):
            check_writable(path)
