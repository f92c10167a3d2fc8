"""Outputs appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from stat import S_ISDIR

import pytest

from landcover.errors import DataError, OutputError
from landcover.io.files import atomic_path, check_output, walk, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_whole_and_makes_folders(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ä"
    assert names(tmp_path / "a") == ["b.txt"]


def test_refuses_to_replace_unless_forced(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "first")
    with pytest.raises(OutputError, match="--force"):
        write_text(path, "second")
    assert path.read_text() == "first"
    write_text(path, "second", force=True)
    assert path.read_text() == "second"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace open files")
def test_a_file_is_renamed_and_not_copied(tmp_path):
    """Who has opened the old file reads all of it; who opens the new one, too."""
    path = tmp_path / "a.txt"
    write_text(path, "first")
    with path.open() as reader:
        with atomic_path(path, force=True) as temporary:
            temporary.write_text("second")
            inode = temporary.stat().st_ino
        assert reader.read() == "first"
    assert (path.stat().st_ino, path.read_text()) == (inode, "second")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_what_replaces_a_file_takes_over_its_mode(tmp_path):
    path = tmp_path / "shared.bin"
    path.write_bytes(b"old")
    path.chmod(0o664)
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o664)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "first")
    with pytest.raises(error), atomic_path(path, force=True) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        flushed.append(("folder" if S_ISDIR(status.st_mode) else status.st_size, names(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
    assert flushed == [(4, [temporary.parent.name]), ("folder", [temporary.parent.name, "a.txt"])]


KILLED = """
import os, signal, sys
from pathlib import Path
from landcover.io.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks")
def test_leftovers_of_killed_processes_go_when_the_file_is_written(tmp_path):
    """A map of gigabytes would stay for good; files of other names and of working processes must stay."""
    for name in ("a[1].tif", "ab.tif"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    (other,) = (folder for folder in tmp_path.iterdir() if ".ab" in folder.name)
    with atomic_path(tmp_path / "a[1].tif") as working:
        working.write_text("first")
        write_text(tmp_path / "a[1].tif", "second")
        assert set(names(tmp_path)) == {"a[1].tif", other.name, working.parent.name}
        (tmp_path / "a[1].tif").unlink()
    assert set(names(tmp_path)) == {"a[1].tif", other.name}
    assert (tmp_path / "a[1].tif").read_text() == "first"


def test_a_folder_of_many_files_is_listed_once(tmp_path, monkeypatch):
    listed = []
    for name in ("iterdir", "glob"):
        method = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda *a, method=method: listed.append(a[0]) or method(*a))
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", "text")
    assert listed == [tmp_path]


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/a\.txt cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(OutputError, match="Not a directory"):
        write_text(tmp_path / "file" / "a.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "folder", "text", force=True)
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(Path("/proc/landcover/a.txt"), "text")


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    class BusyError(OSError):
        pass

    with pytest.raises(BusyError), atomic_path(tmp_path / "a.txt"):
        raise BusyError
    with pytest.raises(FileNotFoundError, match=r"source\.txt"), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "source.txt").read_text()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path):  # the superuser, who may run tests, can list all folders
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"closed cannot be listed: Permission denied\."):
        list(walk(tmp_path))


def test_devices_and_pipes_are_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (lambda: write_text(pipe, "text", force=True), lambda: check_output(pipe, force=True)):
        with pytest.raises(OutputError, match="pipe is a device or a pipe; expected the name of a file"):
            write()
    assert pipe.is_fifo()
    with pytest.raises(OutputError, match="/dev/null is a device"):
        check_output(Path("/dev/null"), force=True)
