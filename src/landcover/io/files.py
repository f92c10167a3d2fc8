"""Output files that appear whole or not at all, private work folders, and checks of output paths.

Unfinished files are never written under a name that somebody else could have prepared, such as a symbolic
link planted in a shared output folder. :func:`atomic_path` writes in a new folder with a random name and mode
0700. :func:`work_folder` opens the folder of a resumable job by its known name, without following links, and
checks its owner. Removing either never follows a link.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from landcover.errors import DataError, LockedError, OutputError, UsageError, is_plain
from landcover.io.locks import LOCK_NAME, try_lock

_SUFFIX = ".landcover-tmp"
_SCRATCH = "scratch"
_STEM_CHARACTERS = 40
_SPECIAL_CHARACTERS = str.maketrans({"!": "%21", ";": "%3b"})
"""Characters that GDAL and pyogrio interpret in a path."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flags
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse an output path that is taken, also by a symbolic link without a target, unless ``force`` is on.

    A device or a pipe is always refused: a file in place of ``/dev/null`` would affect every program.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device or a pipe; expected the name of a file to write.")
    if not force and os.path.lexists(path):
        what = "exists already (a symbolic link)" if path.is_symlink() else "exists already"
        raise OutputError(f"{path} {what}. Choose another output, or pass --force to replace it.")


def check_output(path: Path, *, force: bool) -> None:
    """Check that a file can be written, before long work rather than after it. Write nothing."""
    refuse_existing(path, force=force)
    if path.is_dir() and not path.is_symlink():
        raise OutputError(f"{path} is a folder; expected the name of a file to write.")
    nearest = next(above for above in path.absolute().parents if above.exists())
    if not nearest.is_dir():
        raise OutputError(f"{path} cannot be written: {nearest} is a file. Choose another output.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission to write in {nearest}.")


def check_json_output(path: Path, *, force: bool) -> None:
    """Check the path of a report, whose name must end with ``.json``: no model or image is replaced by it."""
    check_output(path, force=force)
    if path.suffix.lower() != ".json":
        raise UsageError(f"The report would be written to {path}; expected a name that ends with .json.")


def is_temporary(path: Path) -> bool:
    """Return whether a path has the name of a lock or of unfinished work, perhaps of a killed process."""
    return path.name.startswith(".") and _SUFFIX in path.name


def remove_temporary(path: Path) -> None:
    """Remove unfinished work, a file or a folder; of a symbolic link, only the link. Locks stay."""
    if path.name.endswith(LOCK_NAME):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # refuses links, and does not follow those inside
    else:
        path.unlink()


@contextmanager
def atomic_path(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a path to write to, and give the file its final name when the block ends without an error.

    The parent folder is created if needed. The yielded path is in a new private folder beside ``path``; files
    written beside it are removed with that folder. It keeps the suffix, for libraries that choose a format by
    suffix. On any error, including Ctrl-C, ``path`` stays as it was. The content reaches the disk before the
    name does, so a power loss leaves no empty file. A file that replaces another one takes over its mode; a
    symbolic link is replaced itself, its target does not change.

    Raises:
        OutputError: If ``path`` exists and ``force`` is off, or if it cannot be written (permission, space).
    """
    refuse_existing(path, force=force)
    stem = path.stem.translate(_SPECIAL_CHARACTERS)
    with _private_folder(path, stem) as folder, writing(path, folder):
        temporary = folder / (stem + path.suffix)
        yield temporary
        is_scratch = f".{_SCRATCH}{_SUFFIX}." in str(path.parent)  # nothing in it survives the process
        if not is_scratch:
            _flush(temporary, os.O_RDWR)
        with suppress(OSError):  # not every system has modes
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                temporary.chmod(status.st_mode & 0o777)  # no set-user-ID bit of another's file
        temporary.replace(path)
        with suppress(OSError):  # not every system can flush a folder
            if not is_scratch:
                _flush(path.parent, os.O_RDONLY)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a private folder in the system's folder of temporary files, and delete it when the block ends.

    Those of processes that were killed are deleted first. What is written in it is not flushed to the disk.
    """
    with _private_folder(Path(tempfile.gettempdir(), _SCRATCH), _SCRATCH) as folder:
        yield folder


@contextmanager
def _private_folder(path: Path, stem: str) -> Iterator[Path]:
    """Create a new folder beside a path for unfinished work, lock it, and delete it when the block ends."""
    start = f".{stem[:_STEM_CHARACTERS]}{_SUFFIX}."
    if _SUFFIX not in str(path.parent):  # a work folder is emptied by its owner
        _remove_leftovers(path.parent, start)
    while True:
        folder = path.with_name(start + secrets.token_hex(4))
        with writing(path, folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(0o700)  # fails if the name exists, link or not
            descriptor = _open_folder(folder)
        if try_lock(descriptor) is not False and folder.exists():
            break
        _close(descriptor)  # another process removed it as a leftover before it was locked
    try:
        yield folder
    finally:
        _close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path, start: str) -> None:
    """Remove the private folders whose names begin so and whose processes were killed."""
    if sys.platform == "win32":  # no lock shows whether a process still works
        return
    for folder in (path for path in _private_folders(parent.absolute()) if path.name[:-8] == start):
        with suppress(OSError):
            descriptor = _open_folder(folder)
            try:
                if _is_mine(os.fstat(descriptor)) and try_lock(descriptor):
                    shutil.rmtree(folder)
            finally:
                _close(descriptor)


@cache
def _private_folders(parent: Path) -> list[Path]:
    """List the private folders in a folder, once in a process: one folder may get very many files."""
    pattern = re.compile(rf"\..*{re.escape(_SUFFIX)}\.[0-9a-f]{{8}}", re.DOTALL)
    with suppress(OSError):  # no such folder
        return [path for path in parent.iterdir() if pattern.fullmatch(path.name)]
    return []


class WorkFolder:
    """A private folder of unfinished work: held open, locked, and safe against planted links.

    Names are looked up in the open folder itself, not by its path, where the system can do that.
    """

    def __init__(self, path: Path, target: Path, descriptor: int) -> None:
        self.path, self._target = path, target
        self._folder = None if sys.platform == "win32" else descriptor

    def _at(self, name: str) -> str:
        return name if self._folder is not None else str(self.path / name)

    def create(self, name: str) -> BinaryIO:
        """Create a file for reading and writing; a file or link of that name is removed first."""
        self.remove(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY
        with writing(self._target, self.path, Path(name)):
            return os.fdopen(os.open(self._at(name), flags, 0o600, dir_fd=self._folder), "w+b")

    def open(self, name: str) -> BinaryIO:
        """Open an existing file for reading and writing.

        Raises:
            FileNotFoundError: If there is no such file.
            OutputError: If it is not a regular file of this user, or has other names (hard links).
        """
        try:
            flags = os.O_RDWR | _NO_FOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self._at(name), flags, dir_fd=self._folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._foreign(name) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not _is_mine(status):
            os.close(descriptor)
            raise self._foreign(name)
        return os.fdopen(descriptor, "r+b")

    def _foreign(self, name: str) -> OutputError:
        return OutputError(
            f"{self.path / name} was not written by landcover: expected a regular file of this user without "
            "links. Delete the folder, or run again without --resume."
        )

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; it survives a power loss."""
        unfinished = f"{name}{_SUFFIX}"
        with writing(self._target, self.path, Path(unfinished)):
            with self.create(unfinished) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._at(unfinished), self._at(name), src_dir_fd=self._folder, dst_dir_fd=self._folder)
            if self._folder is not None:
                with suppress(OSError):
                    os.fsync(self._folder)

    def names(self) -> list[str]:
        """Return the names of all entries."""
        with os.scandir(self.path if self._folder is None else self._folder) as entries:
            return sorted(entry.name for entry in entries)

    def remove(self, name: str) -> None:
        """Remove an entry if it exists; of a link only the link."""
        with writing(self._target, self.path, Path(name)):
            try:
                status = os.stat(self._at(name), dir_fd=self._folder, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    shutil.rmtree(self._at(name), dir_fd=self._folder)
                else:
                    os.unlink(self._at(name), dir_fd=self._folder)
            except FileNotFoundError:
                return

    def clear(self) -> None:
        """Remove all entries."""
        for name in self.names():
            self.remove(name)

    def delete(self) -> None:
        """Remove the folder and its content as far as possible."""
        with suppress(OSError, OutputError):
            self.clear()
            self.path.rmdir()  # a link in its place is not followed


def work_folder_path(path: Path) -> Path:
    """Return the path of the hidden folder beside ``path`` for unfinished work that can be resumed."""
    return path.with_name(f".{path.name}{_SUFFIX}")


@contextmanager
def work_folder(path: Path) -> Iterator[WorkFolder]:
    """Create or open the work folder of a file, with mode 0700, and lock it until the block ends.

    The folder stays at the end. The lock ends with the process. There is no lock on Windows, nor on file
    systems without locks.
    """
    folder = work_folder_path(path)
    with writing(path, folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(0o700)
            new = True
        except FileExistsError:
            new = False
        try:
            descriptor = _open_folder(folder)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise
            raise OutputError(
                f"{folder} is a symbolic link or a file; expected the folder for unfinished work on {path}. "
                "Delete it, or choose another output."
            ) from None
    try:
        if sys.platform != "win32":
            if try_lock(descriptor) is False or not os.path.lexists(folder):
                raise LockedError(  # or the other process has just ended and removed the folder
                    f"{path} is being written by another process. Wait until it ends, or choose another "
                    "output."
                )
            if not new and not _is_mine(os.fstat(descriptor)):
                raise OutputError(
                    f"{folder} belongs to another user. Delete it, or choose another output than {path}."
                )
            with suppress(OSError):  # not every file system has modes
                os.fchmod(descriptor, 0o700)
        yield WorkFolder(folder, path, descriptor)
    finally:
        _close(descriptor)


def _open_folder(folder: Path) -> int:
    """Open a folder without following a link; -1 on Windows, where folders cannot be opened."""
    if sys.platform == "win32":
        if folder.is_symlink() or not folder.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        return -1
    return os.open(folder, os.O_RDONLY | _DIRECTORY | _NO_FOLLOW)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


def _is_mine(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.geteuid()


def open_append(path: Path) -> BinaryIO:
    """Open a file for appending, created if needed; a symbolic link or a pipe is refused."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")


@contextmanager
def writing(path: Path, *temporary: Path) -> Iterator[None]:
    """Turn the system's errors about writing ``path`` (no permission, no space) into :class:`OutputError`.

    ``temporary`` are other names under which it is written, and folders that hold only parts of it. Errors
    about other files pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _WRITE_ERRORS:
            raise
        places = {str(place) for place in (*temporary, path, *path.parents)}
        if error.filename is not None:
            name = str(error.filename)
            if name not in places and Path(name).parent not in temporary:
                raise  # about a file that the block reads
        # A file where a folder is to be made: "File exists" would name neither.
        reason = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        raise OutputError(f"{path} cannot be written: {os.strerror(reason)}.") from error


def check_name(path: str | Path, shown: str | None = None) -> None:
    """Refuse an input's name that lists of files, JSON or GDAL could not contain; messages have ``shown``."""
    if not is_plain(str(path)):
        raise DataError(
            f"The file name {shown or str(path)!r} has control characters or is not valid UTF-8, which "
            "lists and JSON cannot contain. Rename it."
        )


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Return :func:`os.walk` of a folder, where a subfolder that cannot be listed is a DataError."""

    def refuse(error: OSError) -> None:
        raise DataError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from error

    return os.walk(folder, onerror=refuse, followlinks=follow_links)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_WRITE_ERRORS = {
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")
