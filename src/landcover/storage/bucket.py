"""A store in object storage, reached through obstore.

Its messages contain addresses, answers of servers and settings: none of them is passed on as it is.
"""

import configparser
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from landcover.errors import MissingKeyError, StoreError, UsageError, printable
from landcover.extras import needs
from landcover.io.files import atomic_path
from landcover.raster.address import server_reason
from landcover.storage.store import Store, Version, checked_key

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

T = TypeVar("T")


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
        return self._call(key, lambda: bytes(self._client.get(self._store, checked_key(key)).bytes()))

    def read_pieces(self, key: str, pieces: Sequence[tuple[int, int]]) -> list[bytes]:  # noqa: D102
        if not all(start < stop for start, stop in pieces):
            return [b"" for _ in pieces]
        starts, ends = zip(*pieces, strict=True)
        return self._call(
            key,
            lambda: [
                bytes(piece)
                for piece in self._client.get_ranges(self._store, checked_key(key), starts=starts, ends=ends)
            ],
        )

    def fetch(self, key: str, path: Path) -> None:  # noqa: D102
        def download() -> None:
            answer = self._client.get(self._store, checked_key(key))
            with atomic_path(path, force=True) as temporary, temporary.open("wb") as target:
                for chunk in answer.stream(min_chunk_size=1 << 20):
                    target.write(chunk)
                if target.tell() != answer.meta["size"]:
                    raise ConnectionError

        self._call(key, download)

    def version(self, key: str) -> Version:  # noqa: D102
        found = self._call(key, lambda: self._client.head(self._store, checked_key(key)))
        return Version(found["size"], found["e_tag"] or found["last_modified"].isoformat())

    def put(self, key: str, data: bytes | Path) -> None:  # noqa: D102
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        options = {"chunk_size": max(_PART_BYTES, -(-size // _PARTS)), "max_concurrency": 4}
        self._call(key, lambda: self._client.put(self._writable(), checked_key(key), data, **options))

    def put_new(self, key: str, data: bytes | Path) -> bool:  # noqa: D102
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > _NEW_BYTES:
            raise UsageError(f"{key} has {size} bytes; a conditional write takes {_NEW_BYTES} at most.")

        def create() -> bool:
            try:
                self._client.put(self._writable(), checked_key(key), data, mode="create")
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
        batches = iter(self._client.list(self._store, checked_key(prefix) if prefix else None))
        while (batch := self._call(prefix, lambda: next(batches, None))) is not None:
            for entry in batch:
                yield entry["path"]

    def delete(self, key: str) -> None:  # noqa: D102
        with suppress(MissingKeyError):
            self._call(key, lambda: self._client.delete(self._writable(), checked_key(key)))

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
