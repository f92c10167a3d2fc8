"""A store of results: a folder, or a bucket of object storage, behind one small interface.

A key is a relative path with forward slashes. An object appears whole or not at all. The promise that fleets
rely on is :meth:`Store.put_new`: of many writers of one key, exactly one writes it.

Buckets are reached through obstore. Its messages contain addresses, answers of servers and settings: none of
them is passed on as it is.
"""

import configparser
import errno
import os
import random
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
from landcover.extras import needs
from landcover.io.files import atomic_path, is_temporary, scratch_folder, writing
from landcover.io.locks import locked_file
from landcover.machine import check_disk
from landcover.raster.address import display_name, server_reason
from landcover.textfiles import NOT_REGULAR, TEXT_BYTES, file_problem

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PART_BYTES = 16 << 20
_PARTS = 9000
"""Parts of an upload at most; servers allow 10,000."""
_NEW_BYTES = 1 << 30
"""Bytes of a conditional put at most: it is a single request, made in memory."""
_ATTEMPTS = 4
_TIMEOUT_S = 120.0
_BACKOFF_S = 0.2
_CREDENTIALS_S = 300
"""Seconds after which a file of credentials is read again: another program may renew them."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

T = TypeVar("T")


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
    :class:`UsageError` for a key that is not a plain relative path.
    """

    root: str
    """The address, without credentials."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object.

        Raises:
            MissingKeyError: If it does not exist.
        """

    def read_pieces(self, key: str, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each from a byte to the one before another.

        Raises:
            MissingKeyError: If it does not exist.
        """
        data = self.read(key)
        return [data[start:stop] for start, stop in pieces]

    @abstractmethod
    def fetch(self, key: str, path: Path) -> None:
        """Copy an object to a file, which appears whole or not at all and replaces another one.

        Raises:
            MissingKeyError: If the object does not exist.
        """

    @abstractmethod
    def version(self, key: str) -> Version:
        """Return the size and the entity tag of an object.

        Raises:
            MissingKeyError: If it does not exist.
        """

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
        """Yield an object as a file, which is not to be changed: itself in a folder, else a copy.

        Raises:
            MissingKeyError: If the object does not exist.
        """
        with scratch_folder() as folder:
            path = folder / key.rpartition("/")[2]
            self.fetch(key, path)
            yield path

    def size(self, key: str) -> int:
        """Return the bytes of an object.

        Raises:
            MissingKeyError: If it does not exist.
        """
        return self.version(key).size

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        try:
            self.version(key)
        except MissingKeyError:
            return False
        return True

    def address(self, key: str = "") -> str:
        """Return the path or address of an object, which may not exist, or of the store."""
        return f"{self.root}/{_checked(key)}" if key else self.root

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

    Raises:
        UsageError: If the scheme is another one, or the address contains credentials or a query.
        MissingExtraError: If obstore is not installed.
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
        _checked(prefix)
    return BucketStore(scheme, bucket, prefix)


def _checked(key: str) -> str:
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
        return self._root / _checked(key)

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
                    raise _TakenError from None
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise _NoLinksError from None
        except _TakenError:
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
        folders = [_checked(prefix) if prefix else ""]
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


class _TakenError(Exception):
    """The key exists."""


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


class BucketStore(Store):
    """A store in a bucket of S3, Google Cloud Storage or Azure; by HTTP, one that is read only.

    Requests that fail for a moment (5xx, 409 of racing conditional writes, slow or cut connections) are
    repeated with growing, random pauses. Large files are uploaded in parts; those of a failed upload are
    removed, those of a killed process are not (a rule of the bucket does that).
    """

    def __init__(self, scheme: str, bucket: str, prefix: str) -> None:
        with needs("fleet"):
            import obstore
        self.root = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        self._read_only = scheme.startswith("http")
        self._client: Any = obstore
        self._store = _connect(scheme, bucket, prefix)

    def read(self, key: str) -> bytes:  # noqa: D102
        return self._call(key, lambda: bytes(self._client.get(self._store, _checked(key)).bytes()))

    def read_pieces(self, key: str, pieces: Sequence[tuple[int, int]]) -> list[bytes]:  # noqa: D102
        if not all(start < stop for start, stop in pieces):
            return [b"" for _ in pieces]
        starts, ends = zip(*pieces, strict=True)
        return self._call(
            key,
            lambda: [
                bytes(piece)
                for piece in self._client.get_ranges(self._store, _checked(key), starts=starts, ends=ends)
            ],
        )

    def fetch(self, key: str, path: Path) -> None:  # noqa: D102
        def download() -> None:
            answer = self._client.get(self._store, _checked(key))
            with atomic_path(path, force=True) as temporary, temporary.open("wb") as target:
                for chunk in answer.stream(min_chunk_size=1 << 20):
                    target.write(chunk)
                if target.tell() != answer.meta["size"]:
                    raise ConnectionError

        self._call(key, download)

    def version(self, key: str) -> Version:  # noqa: D102
        found = self._call(key, lambda: self._client.head(self._store, _checked(key)))
        return Version(found["size"], found["e_tag"] or found["last_modified"].isoformat())

    def put(self, key: str, data: bytes | Path) -> None:  # noqa: D102
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        options = {"chunk_size": max(_PART_BYTES, -(-size // _PARTS)), "max_concurrency": 4}
        self._call(key, lambda: self._client.put(self._writable(), _checked(key), data, **options))

    def put_new(self, key: str, data: bytes | Path) -> bool:  # noqa: D102
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > _NEW_BYTES:
            raise UsageError(f"{key} has {size} bytes; a conditional write takes {_NEW_BYTES} at most.")

        def create() -> bool:
            try:
                self._client.put(self._writable(), _checked(key), data, mode="create")
            except self._client.exceptions.AlreadyExistsError:
                # A conflict of writers (409) has this type too: perhaps none of them has written.
                self._client.head(self._store, key)
                return False
            return True

        for pause in _pauses():
            with suppress(MissingKeyError):
                return self._call(key, create)
            time.sleep(pause)
        raise StoreError(f"{self.address(key)} cannot be written: other writers conflict. Run it again.")

    def list(self, prefix: str = "") -> Iterator[str]:  # noqa: D102
        batches = iter(self._client.list(self._store, _checked(prefix) if prefix else None))
        while (batch := self._call(prefix, lambda: next(batches, None))) is not None:
            for entry in batch:
                yield entry["path"]

    def delete(self, key: str) -> None:  # noqa: D102
        with suppress(MissingKeyError):
            self._call(key, lambda: self._client.delete(self._writable(), _checked(key)))

    def _writable(self) -> "ObjectStore":
        if self._read_only:
            raise UsageError(f"{self.root} cannot be written. Use a folder, s3://, gs:// or az://.")
        return self._store

    def _call(self, key: str, request: Callable[[], T]) -> T:
        """Make a request, again if it failed for a moment."""
        address = f"{self.root}/{key}" if key else self.root
        pauses = _pauses()
        while True:
            try:
                return request()
            except (FileNotFoundError, ConnectionError, self._client.exceptions.BaseError) as error:
                if isinstance(error, FileNotFoundError) and error.filename is not None:
                    raise  # a file here
                refusal, momentary = _refusal(
                    address, str(error), missing=isinstance(error, FileNotFoundError)
                )
                pause = next(pauses, None)
                if not momentary or pause is None:
                    raise refusal from None  # the cause contains addresses and answers
                time.sleep(pause)


def _pauses() -> Iterator[float]:
    return (_BACKOFF_S * 2**n * (0.5 + random.random()) for n in range(_ATTEMPTS - 1))


def _refusal(address: str, text: str, *, missing: bool = False) -> tuple[StoreError, bool]:
    """Return the error for a failed request, and whether the request may succeed a moment later."""
    line = text.partition("Debug source")[0]
    line = re.sub(r"https?://[^/\s]+/latest/(api/token|meta-data)\S*", "MACHINE", line)  # its role
    line = re.sub(r"https?://\S+|<Key>.*?</Key>", "", line)  # names of objects may contain anything
    line = line.replace(address.partition("://")[2].partition("/")[2], "")
    if (known := server_reason(line)) is not None:
        return StoreError(f"{address} cannot be used: {known}."), False
    if missing:
        return MissingKeyError(f"{address} does not exist."), False
    status = re.search(r"status code: (\d{3})", line)
    if status is None:
        reason, momentary = "the server gave no complete answer", True
    else:
        code = re.search(r"<Code>(\w{1,60})</Code>", line)
        reason = f"the server answered {status[1]}" + (f" {code[1]}" if code else "")
        momentary = status[1] in ("408", "409", "429") or status[1] >= "500"
    return StoreError(f"{address} cannot be used: {reason}. Check the endpoint and run it again."), momentary


def _connect(scheme: str, bucket: str, prefix: str) -> "ObjectStore":
    """Return obstore's store, with the endpoint and credentials of the usual places."""
    from obstore import exceptions, store

    environment = os.environ
    timing: dict[str, Any] = {
        "retry_config": {
            "max_retries": _ATTEMPTS,
            "retry_timeout": timedelta(seconds=_TIMEOUT_S),
            "backoff": {"init_backoff": timedelta(seconds=_BACKOFF_S), "max_backoff": timedelta(seconds=10)},
        },
        "client_options": {
            "timeout": timedelta(seconds=_TIMEOUT_S),
            "connect_timeout": timedelta(seconds=min(10.0, _TIMEOUT_S)),
        },
    }
    try:
        if scheme == "gs":
            return store.GCSStore(bucket, prefix=prefix or None, **timing)
        if scheme == "az":
            account = environment.get("AZURE_STORAGE_ACCOUNT")  # GDAL's name of it
            named: dict[str, Any] = {"account_name": account} if account else {}
            return store.AzureStore(bucket, prefix=prefix or None, **named, **timing)
        if scheme != "s3":
            timing["client_options"]["allow_http"] = scheme == "http"
            return store.HTTPStore(f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else ""), **timing)
        settings = _aws_profile()
        own: dict[str, Any] = {}
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        if not endpoint and (endpoint := settings.get("endpoint_url")):
            own["endpoint"] = endpoint
        if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environment.keys() and "region" in settings:
            own["region"] = settings["region"]
        if environment.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):  # GDAL's name of it
            own["skip_signature"] = True
        elif "aws_access_key_id" in settings:
            own["credential_provider"] = _profile_credentials
        timing["client_options"]["allow_http"] = (endpoint or "").startswith("http://")
        return store.S3Store(bucket, prefix=prefix or None, **own, **timing)
    except (exceptions.BaseError, ValueError) as error:
        raise _refusal(f"{scheme}://{bucket}", str(error))[0] from None


def _aws_profile() -> dict[str, str]:
    """Return the settings of the profile in AWS's files, which obstore does not read.

    Keys are left out where the environment, or the machine by a role, has credentials.
    """
    environment = os.environ
    profile = environment.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    home = Path.home() / ".aws"
    for variable, name, section in (
        ("AWS_CONFIG_FILE", "config", profile if profile == "default" else f"profile {profile}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile),
    ):
        path = Path(environment.get(variable) or home / name)
        parser = configparser.RawConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except OSError:
            continue
        except (configparser.Error, UnicodeError):
            raise StoreError(f"{path} is not a file of settings of AWS. Repair it, or delete it.") from None
        if parser.has_section(section):
            found |= dict(parser.items(section))
    if "AWS_PROFILE" in environment and not found:
        raise StoreError(f"AWS_PROFILE={printable(profile)}: AWS's files do not have this profile.")
    others = "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
    if any(name in environment for name in others) or "AWS_CONTAINER_CREDENTIALS_FULL_URI" in environment:
        found = {name: value for name, value in found.items() if not name.startswith("aws_")}
    return found


def _profile_credentials() -> Any:
    """Return the credentials of the profile for a few minutes, after which they are read again."""
    settings = _aws_profile()
    return {
        "access_key_id": settings.get("aws_access_key_id", ""),
        "secret_access_key": settings.get("aws_secret_access_key", ""),
        "token": settings.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + timedelta(seconds=_CREDENTIALS_S),
    }
