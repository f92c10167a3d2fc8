"""Output files appear whole or not at all, and never replace another without being asked to."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from landcover.errors import DataError, OutputError, UsageError, is_plain

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".landcover-tmp"
_NO_ADDRESS = str.maketrans({"!": "%21", ";": "%3b"})
"""Characters of a name that libraries take for parts of an address."""


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise :class:`OutputError` if ``path`` exists and ``force`` is off, or is no file that can be replaced.

    A device such as ``/dev/null`` would become a plain file, for every program on the machine.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device or a pipe; expected the name of a file to write.")
    if not force and path.exists():
        raise OutputError(f"{path} exists already. Choose another output, or pass --force to replace it.")


def check_output(path: Path, *, force: bool) -> None:
    """Raise :class:`OutputError` where ``path`` can not be written, before long work rather than after it.

    It exists and ``force`` is off, or is a folder, or lies where no file can be made. Nothing is written.
    """
    refuse_existing(path, force=force)
    if path.is_dir():
        raise OutputError(f"{path} is a folder; expected the name of a file to write.")
    there = next(above for above in path.absolute().parents if above.exists())
    if not there.is_dir():
        raise OutputError(f"{path} cannot be written: {there} is a file. Choose another output.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission to write in {there}.")


def check_json_output(path: Path, *, force: bool) -> None:
    """The same for a report: its name ends with ``.json``, so that none takes the place of a model or image.

    Raises:
        UsageError: If it does not.
        OutputError: As :func:`check_output`.
    """
    check_output(path, force=force)
    if path.suffix.lower() != ".json":
        raise UsageError(f"The report would be written to {path}; expected a name that ends with .json.")


def is_temporary(path: Path) -> bool:
    """Return whether a file is what :func:`atomic_path` writes to, and so a leftover of a killed process."""
    return path.name.startswith(".") and _SUFFIX in path.name


@contextmanager
def atomic_path(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends well.

    The folder is made if needed. The temporary file keeps the final suffix, so that libraries which choose a
    format by suffix work. On any error, Ctrl-C included, it is deleted and ``path`` is as it was before; its
    content reaches the disk before its name does, so that a power loss leaves no empty file either. A file
    that takes the place of another takes over its mode.

    Raises:
        OutputError: If ``path`` exists and ``force`` is off, or if it cannot be written (permission, space).
    """
    refuse_existing(path, force=force)
    stem = path.stem.translate(_NO_ADDRESS)
    temporary = path.with_name(f".{stem}.{os.getpid()}{_SUFFIX}{path.suffix}")
    try:
        with writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary, os.O_RDWR)
            if path.exists():
                with suppress(OSError):  # not every system has modes
                    shutil.copymode(path, temporary)
            temporary.replace(path)
            with suppress(OSError):  # not every system can flush a folder
                _flush(path.parent, os.O_RDONLY)
            _remove_leftovers(path, stem)
    finally:
        with suppress(OSError):  # the error above, if any, says more
            temporary.unlink()


def work_folder(path: Path) -> Path:
    """Return the hidden folder beside ``path`` for unfinished work that can be taken up again."""
    return path.with_name(f".{path.name}{_SUFFIX}")


@contextmanager
def claimed(folder: Path, path: Path) -> Iterator[None]:
    """Make a hidden folder of work on ``path`` and keep other processes out of it until the block ends.

    The claim goes with the process, however that ends. There is none on Windows, nor where the file system
    has no locks.

    Raises:
        OutputError: If another process has claimed it, or it cannot be made.
    """
    with writing(path, folder):
        folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    with ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(descriptor), folder.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False  # or the other process has just ended, and taken the folder away
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            mine = True
        if not mine:
            raise OutputError(
                f"{path} is being written by another process. Wait for its end, or choose another output."
            )
        yield


@contextmanager
def writing(path: Path, *temporary: Path) -> Iterator[None]:
    """Turn the system's errors about writing ``path`` (no permission, no space) into :class:`OutputError`.

    Args:
        path: What is written.
        temporary: Under which other names. Errors about other files are not touched.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _WRITE_ERRORS:
            raise
        places = {str(place) for place in (*temporary, path, *path.parents)}
        if error.filename is not None and str(error.filename) not in places:
            raise  # about a file that the block reads
        # A file where a folder is to be made: "File exists" would name neither.
        reason = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        raise OutputError(f"{path} cannot be written: {os.strerror(reason)}.") from error


def check_name(path: str | Path, shown: str | None = None) -> None:
    """Raise :class:`DataError` if lists of files, JSON or GDAL could not hold the name of an input.

    It has control characters, such as the end of a line, or is no valid UTF-8. The message has ``shown`` for
    the name, where that differs.
    """
    if not is_plain(str(path)):
        raise DataError(
            f"The file name {shown or str(path)!r} has control characters or is no valid UTF-8, which lists "
            "and JSON cannot hold. Rename it."
        )


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """As :func:`os.walk`, but a folder that cannot be listed is an error: its files are not just passed over.

    Raises:
        DataError: If a folder cannot be listed; the message names it.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from error

    return os.walk(folder, onerror=refuse, followlinks=follow_links)


def _remove_leftovers(path: Path, stem: str) -> None:
    """Remove the temporary files for ``path`` of processes that were killed."""
    if os.name != "posix":  # elsewhere there is no harmless way to ask whether a process lives
        return
    pattern = re.compile(rf"\.{re.escape(stem)}\.(\d+){re.escape(_SUFFIX + path.suffix)}")
    for other in path.parent.iterdir():
        found = pattern.fullmatch(other.name)
        if found is None:
            continue
        with suppress(OSError, OverflowError):
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                other.unlink()


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_WRITE_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")
