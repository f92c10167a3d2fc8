"""Scenes in object storage: identified by their version, read by windows or copied here."""

import re
import shutil
from functools import lru_cache
from pathlib import Path, PurePosixPath

from landcover.errors import DataError, MissingKeyError, UsageError
from landcover.fleet.store import Store, Version, open_store
from landcover.inference.scene import content_digest, sampled
from landcover.machine import readable
from landcover.raster.address import display_name

COPY_SHARE = 0.5
"""Fraction of a file from which on it is copied: windows would need a request for each few blocks."""

_stores = lru_cache(maxsize=8)(open_store)
"""Connections are kept: opening one costs 60 ms."""


def scene_version(address: str) -> Version:
    """Return the size and the entity tag of a scene at an address.

    Raises:
        DataError: If it does not exist.
        StoreError: If the server refuses or does not answer; the message states the reason.
        UsageError: If the address has a signature or password, which a plan would contain, or another scheme.
    """
    store, key = _object(address)
    try:
        return store.version(key)
    except MissingKeyError as error:
        raise DataError(f"{store.address(key)} does not exist. Check the address.") from error


def check_version(address: str, planned: Version) -> None:
    """Check that a scene is the one that was planned.

    Raises:
        DataError: If it has changed or does not exist.
        StoreError: If the server refuses or does not answer.
    """
    found = scene_version(address)
    if found != planned:
        raise DataError(
            f"{display_name(address)} has changed since the plan was made: then {planned.size} bytes, tag "
            f"{planned.etag}; now {found.size} bytes, tag {found.etag}. Make a new plan, into another store."
        )


def address_content(address: str, size: int) -> str:
    """Return the digest of what is at an address, as of a file here, from a few pieces of it.

    Raises:
        DataError: If it does not exist.
        StoreError: If the server refuses or does not answer.
    """
    store, key = _object(address)
    try:
        return content_digest(size, store.read_pieces(key, sampled(size)))
    except MissingKeyError as error:
        raise DataError(f"{store.address(key)} does not exist.") from error


def copy_or_address(address: str, size: int, *, share: float, folder: Path) -> tuple[Path | str, str]:
    """Return what to read a scene from: a copy here if most of it is needed, else its address; and why.

    GDAL reads an address by windows. The scene may change meanwhile: :func:`check_version` is called before
    and after.

    Args:
        address: The scene.
        size: Its bytes.
        share: Fraction of the file that will be read, 0..1.
        folder: Where to copy it to.

    Raises:
        DataError: If it does not exist.
        StoreError: If the server refuses or does not answer.
    """
    need = f"about {readable(share * size)} of {readable(size)}"
    free = shutil.disk_usage(folder).free
    if share < COPY_SHARE or size > free:
        reason = "" if share < COPY_SHARE else f"; {readable(free)} are free in {folder}"
        return address, f"{display_name(address)} is read by windows: {need}{reason}"
    store, key = _object(address)
    target = folder / PurePosixPath(key).name
    try:
        store.fetch(key, target)
    except MissingKeyError as error:
        raise DataError(f"{store.address(key)} does not exist.") from error
    return target, f"{display_name(address)} is copied to read {need}"


def _object(address: str) -> tuple[Store, str]:
    """Return the store and the key of an address or of GDAL's name of one (``/vsis3/bucket/key``)."""
    if "?" in address:
        raise UsageError(
            f"{display_name(address)} has a query, such as a signature, which expires and would be planned. "
            "Use s3://, gs:// or az:// with credentials, or a file."
        )
    plain = re.sub(r"^/vsi(s3|gs|az)/", r"\1://", address).removeprefix("/vsicurl/")
    folder, _, name = plain.rpartition("/")
    return _stores(folder), name
