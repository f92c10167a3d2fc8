"""A store of objects: a folder, or a bucket of object storage, behind one small interface.

A key is a relative path with forward slashes. An object appears whole or not at all. The promise that fleets
rely on is :meth:`Store.put_new`: of many writers of one key, exactly one writes it.
"""

import errno
import os
import random
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from landcover.errors import (
    LandcoverError,
    LockedError,
    MissingKeyError,
    OutputError,
    StoreError,
    UsageError,
    is_plain,
    printable,
)
from landcover.io.files import atomic_path, is_temporary, scratch_folder, writing
from landcover.io.locks import locked_file
from landcover.machine import check_disk
from landcover.raster.address import display_name
from landcover.textfiles import NOT_REGULAR, TEXT_BYTES, file_problem

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Version:
    """What identifies the content of an object: its size in bytes, and the server's mark of it.

    Attributes:
        etag: The entity tag, or the time of change where a server gives no tag; None for files.
    """

    size: int
    etag: str | None


class Store(ABC):
    """A folder or bucket of objects; see :func:`open_store`. Safe in threads.

    Every method raises :class:`StoreError` if the store cannot be reached, read or written, and
    :class:`UsageError` for a key that is not a plain relative path. Those that read an object raise
    :class:`MissingKeyError` if it does not exist.
    """

    root: str
    """The address, without credentials."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object."""

    def read_pieces(self, key: str, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each from a byte to the one before another."""
        data = self.read(key)
        return [data[start:stop] for start, stop in pieces]

    @abstractmethod
    def fetch(self, key: str, path: Path) -> None:
        """Copy an object to a file, which appears whole or not at all and replaces another one."""

    @abstractmethod
    def version(self, key: str) -> Version:
        """Return the size and the entity tag of an object."""

    @abstractmethod
    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object from bytes or a file, whole or not at all; it replaces another one."""

    @abstractmethod
    def put_new(self, key: str, data: bytes | Path) -> bool:
        """Write an object if none has its key; return whether it was written.

        Of many writers one writes. If a server's answer is lost after it wrote the object, False is returned
        to the writer itself; so whoever gets False reads the object.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a folder of the store, in no particular order, as they are received."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """Yield an object as a file, which is not to be changed: itself in a folder, else a copy."""
        with scratch_folder() as folder:
            path = folder / key.rpartition("/")[2]
            self.fetch(key, path)
            yield path

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        try:
            self.version(key)
        except MissingKeyError:
            return False
        return True

    def address(self, key: str = "") -> str:
        """Return the path or address of an object, which may not exist, or of the store."""
        return f"{self.root}/{checked_key(key)}" if key else self.root

    def check(self) -> None:
        """Check that objects can be written here, and that a second conditional put is refused.

        Some servers ignore the condition: two workers would then publish one result.
        """
        key = f"landcover-probe-{secrets.token_hex(8)}"
        try:
            if not self.put_new(key, b"1") or self.put_new(key, b"2") or self.read(key) != b"1":
                raise StoreError(
                    f"{self.root} cannot be used for results: it ignores conditional writes "
                    "(If-None-Match), so two workers could publish the same unit. Use a store that supports "
                    "them, such as AWS S3, Google Cloud Storage, Azure or a folder."
                )
        finally:
            with suppress(StoreError, OutputError):
                self.delete(key)


def open_store(address: str | Path) -> Store:
    """Return the store at a folder or at an address; it is not contacted yet.

    Args:
        address: A folder, which is created at the first write; or ``s3://``, ``gs://``, ``az://`` with a
            bucket and perhaps a prefix. ``http://`` and ``https://`` can be read only. Credentials come from
            the environment, AWS's files or the machine, never from the address.
    """
    text = str(address)
    scheme, separator, rest = text.partition("://")
    if not separator and not text.startswith("/vsi"):
        return FolderStore(Path(text))
    bucket, _, prefix = rest.partition("/")
    name = printable(display_name(text))
    if scheme not in ("s3", "gs", "az", "http", "https") or not bucket:
        raise UsageError(
            f"{name} is not a store; expected a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX."
        )
    if re.search("[@?#]", text) or not is_plain(text):
        raise UsageError(
            f"{name} contains credentials, a query or control characters. Pass the plain address, and "
            "credentials in the environment or in AWS's files."
        )
    prefix = prefix.rstrip("/")
    if prefix:
        checked_key(prefix)
    from landcover.storage.bucket import BucketStore  # it imports this module

    return BucketStore(scheme, bucket, prefix)


def checked_key(key: str) -> str:
    """Return a key; UsageError if it is not a plain relative path."""
    parts = key.split("/")
    if (
        not is_plain(key)
        or not {"", ".", ".."}.isdisjoint(parts)
        or "\\" in key
        or Path(key).drive
        or any(is_temporary(Path(part)) for part in parts)
    ):
        raise UsageError(f"{key!r} is not a key; expected a relative path such as 'maps/a.tif'.")
    return key


class FolderStore(Store):
    """A store in a folder. Nothing unfinished is visible under a key, also after a power loss."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._root = root

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        """Yield the path of an object, and turn errors of the system about it."""
        path = self._path(key)
        problem = file_problem(path)
        if problem == NOT_REGULAR:
            raise StoreError(f"{path} {problem}; expected a file. Delete it.")
        try:
            yield path
        except (FileNotFoundError, NotADirectoryError):
            raise MissingKeyError(f"{path} does not exist.") from None
        except OSError as error:
            if isinstance(error, LandcoverError):
                raise
            raise StoreError(f"{path} cannot be read: {error.strerror}.") from error

    def read(self, key: str) -> bytes:  # noqa: D102
        with self._reading(key) as path:
            if (size := path.stat().st_size) > TEXT_BYTES:
                raise StoreError(f"{path} has {size:,} bytes; expected at most {TEXT_BYTES:,}. Delete it.")
            return path.read_bytes()

    def fetch(self, key: str, path: Path) -> None:  # noqa: D102
        with self._reading(key) as source, source.open("rb"), atomic_path(path, force=True) as temporary:
            check_disk(path.parent, source.stat().st_size, str(source))
            shutil.copyfile(source, temporary)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:  # noqa: D102
        if not (path := self._path(key)).is_file():
            raise MissingKeyError(f"{path} does not exist.")
        yield path

    def version(self, key: str) -> Version:  # noqa: D102
        with self._reading(key) as path:
            if path.is_dir():
                raise FileNotFoundError
            return Version(path.stat().st_size, None)

    def put(self, key: str, data: bytes | Path) -> None:  # noqa: D102
        with atomic_path(self._path(key), force=True) as temporary:
            _write(temporary, data)  # and atomic_path flushes it

    def put_new(self, key: str, data: bytes | Path) -> bool:  # noqa: D102
        path = self._path(key)
        if os.path.lexists(path):
            return False
        try:
            with atomic_path(path, force=True) as temporary:
                _write(temporary, data, flush=True)
                try:
                    os.link(temporary, path)  # the rename that follows then changes nothing
                except FileExistsError:
                    raise _KeyExistsError from None
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise _NoLinksError from None
        except _KeyExistsError:
            return False
        except _NoLinksError:
            return self._put_new_locked(key, data)
        return True

    def _put_new_locked(self, key: str, data: bytes | Path) -> bool:
        """Do it on a file system without hard links, such as exFAT."""
        path = self._path(key)
        while True:
            try:
                with locked_file(path):
                    if os.path.lexists(path):
                        return False
                    self.put(key, data)
                    return True
            except LockedError:
                time.sleep(0.01 + random.random() / 100)

    def list(self, prefix: str = "") -> Iterator[str]:  # noqa: D102
        folders = [checked_key(prefix) if prefix else ""]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(self._root / folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StoreError(f"{self._root / folder} cannot be listed: {error.strerror}.") from error
            with entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if is_temporary(Path(entry.name)):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    else:
                        yield name

    def delete(self, key: str) -> None:  # noqa: D102
        path = self._path(key)
        with writing(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


class _KeyExistsError(Exception):
    """Another writer was first."""


class _NoLinksError(Exception):
    """The file system does not have hard links."""


def _write(path: Path, data: bytes | Path, *, flush: bool = False) -> None:
    """Write bytes or a copy of a file."""
    if isinstance(data, Path):
        shutil.copyfile(data, path)
    else:
        path.write_bytes(data)
    if flush:
        with path.open("r+b") as target:
            os.fsync(target.fileno())
