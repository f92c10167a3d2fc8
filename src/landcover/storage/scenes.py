"""Scenes in object storage: identified by their version, read by windows or copied here.

A scene that does not exist is a :class:`DataError`; a server that refuses or does not answer a
:class:`StoreError`; an address with a signature or password, or of another scheme, a :class:`UsageError`.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

from landcover.errors import ChangedInputError, DataError, LandcoverError, MissingKeyError, UsageError
from landcover.machine import readable
from landcover.raster.address import display_name
from landcover.storage.store import Store, Version, open_store

COPY_SHARE = 0.5
"""Fraction of a file from which on it is copied: windows would need a request for each few blocks."""

_stores = lru_cache(maxsize=8)(open_store)
"""Connections are kept: opening one costs 60 ms."""


def scene_version(address: str) -> Version:
    """Return the size and the entity tag of a scene at an address."""
    with _object(address) as (store, key):
        return store.version(key)


def version_name(address: str) -> str | None:
    """Return what identifies the present version of a scene at an address.

    None if that is not known: the extra ``fleet`` is not installed, the address has a signature, or its
    server does not answer.
    """
    try:
        version = scene_version(address)
    except LandcoverError:
        return None
    return f"{display_name(address)} {version.size} {version.etag}"


def check_version(address: str, planned: Version) -> None:
    """Raise a :class:`ChangedInputError` if a scene is not the one that was planned."""
    found = scene_version(address)
    if found != planned:
        raise ChangedInputError(
            f"{display_name(address)} has changed since the plan was made: then {planned.size} bytes, tag "
            f"{planned.etag}; now {found.size} bytes, tag {found.etag}. Make a new plan, into another store."
        )


def scene_pieces(address: str, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return pieces of what is at an address; arguments as for :meth:`Store.read_pieces`."""
    with _object(address) as (store, key):
        return store.read_pieces(key, pieces)


def copy_or_address(address: str, size: int, *, share: float, folder: Path) -> tuple[Path | str, str]:
    """Return what to read a scene from: a copy here if most of it is needed, else its address; and why.

    ``share`` is the fraction of its ``size`` bytes that will be read. GDAL reads an address by windows. The
    scene may change meanwhile: :func:`check_version` is called before and after.
    """
    need = f"about {readable(share * size)} of {readable(size)}"
    free = shutil.disk_usage(folder).free
    if share < COPY_SHARE or size > free:
        reason = "" if share < COPY_SHARE else f"; {readable(free)} are free in {folder}"
        return address, f"{display_name(address)} is read by windows: {need}{reason}"
    with _object(address) as (store, key):
        target = folder / PurePosixPath(key).name
        store.fetch(key, target)
    return target, f"{display_name(address)} is copied to read {need}"


@contextmanager
def _object(address: str) -> Iterator[tuple[Store, str]]:
    """Yield the store and the key of an address or of GDAL's name of one (``/vsis3/bucket/key``)."""
    if "?" in address:
        raise UsageError(
            f"{display_name(address)} has a query, such as a signature, which expires and would be planned. "
            "Use s3://, gs:// or az:// with credentials, or a file."
        )
    plain = re.sub(r"^/vsi(s3|gs|az)/", r"\1://", address).removeprefix("/vsicurl/")
    folder, _, name = plain.rpartition("/")
    store = _stores(folder)
    try:
        yield store, name
    except MissingKeyError as error:
        raise DataError(f"{store.address(name)} does not exist. Check the address.") from error
