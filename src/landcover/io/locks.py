"""Locks of outputs: one process at a time writes a folder, a file or a map.

The lock is advisory and belongs to the process: the system releases it when the process ends, however it
ends. Its file is deleted at the end; one that a killed process left is used again. It is opened here, without
following links, and locked by filelock, which can lock an open file on all systems and never touches its
content: that names the holder.
"""

import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from landcover.errors import LockedError, OutputError, OutputLostError, printable

LOCK_NAME = ".landcover-tmp.lock"
"""Name of the lock of a folder, in it; the lock of a file has the file's name before it, beside the file."""

_ATTEMPTS = 100
_RECORD_BYTES = 1000


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file; return False if another process holds the lock, None if there are no locks here."""
    from filelock import lock_descriptor  # takes a hundredth of a second to import

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
        return None


def locked_folder(folder: Path) -> AbstractContextManager[None]:
    """Create an output folder if needed, and keep other processes out of it until the block ends.

    Raises:
        LockedError: If another process has locked it; the message names that process.
        OutputLostError: If, at the end, the folder was removed or replaced meanwhile.
        OutputError: If it cannot be created.
    """
    return _locked(folder / LOCK_NAME, folder)


def locked_file(path: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing a file until the block ends, as :func:`locked_folder`."""
    return _locked(path.with_name(f".{path.name}{LOCK_NAME}"), path)


@contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    created = [folder for folder in lock.parents if not folder.exists()]
    nearest = next(folder for folder in lock.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise OutputError(
            f"{path} cannot be written: {nearest} is a file; expected a folder. Choose another output."
        )
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(lock, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        if lock.parent.is_dir() and not os.access(lock.parent, os.W_OK):
            yield  # nobody of this user can write there: what has to be written is reported in its turn
            return
        reason = os.strerror(errno.ENOTDIR if error.errno == errno.EEXIST else error.errno or errno.EIO)
        raise OutputError(f"{path} cannot be written: {reason} ({error.filename or lock}).") from error
    try:
        record = _write_record(descriptor)
        problem = None
        try:
            yield
        except OutputError as error:
            problem = error
        try:
            is_lost = _read_record(lock) != record
        except OSError as error:  # others, such as a failing disk, do not show that
            is_lost = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
        if is_lost:
            raise OutputLostError(
                f"{path} is lost: the folder {lock.parent} was removed, replaced or unmounted during the "
                "work. Check it and run the command again."
            ) from problem
        if problem is not None:
            raise problem
    finally:
        with suppress(OSError):
            if os.path.samestat(lock.lstat(), os.fstat(descriptor)):
                lock.unlink()
        os.close(descriptor)
        for folder in created:
            with suppress(OSError):  # a failed command leaves no empty folder
                folder.rmdir()


def _acquire(lock: Path, path: Path) -> int:
    """Open and lock a lock file, and return its descriptor. Of a link in its place only the link goes."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    holder = ""
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(lock, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise
            lock.unlink(missing_ok=True)
            continue
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                lock.unlink(missing_ok=True)  # not a lock: never write to a file of another name
            elif try_lock(descriptor) is False:
                with suppress(OSError):
                    record = _read_record(lock).decode("utf-8", "replace")
                    holder = printable(record.partition("\n")[0])
                raise LockedError(
                    f"{path} is being written by another process ({holder or 'unknown'}). Wait until it "
                    "ends, or choose another output."
                )
            elif os.path.samestat(lock.lstat(), status):
                return descriptor
        except FileNotFoundError:
            pass  # the holder before has just deleted it
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OutputError(f"{path} cannot be locked: {lock} changes all the time. Choose another output.")


def _write_record(descriptor: int) -> bytes:
    """Write who holds the lock, and a random line by which the holder recognises its file."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    # The first byte is the one that Windows locks for reading, too.
    text = f" process {os.getpid()} on {socket.gethostname()} since {since}\n{secrets.token_hex(8)}\n"
    record = text.encode()
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, record)
        return record[1:]
    return b""


def _read_record(lock: Path) -> bytes:
    """Return the content of a lock file but its first byte."""
    descriptor = os.open(lock, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        return os.read(descriptor, _RECORD_BYTES)
    finally:
        os.close(descriptor)
