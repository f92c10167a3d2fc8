"""Files and addresses as GDAL opens them: its settings, its block cache, and plain error messages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import rasterio

from landcover._gdal import (
    CPLE_BaseError,
    CPLE_OpenFailedError,
    get_gdal_config,
    object_storage,
    set_gdal_config,
)
from landcover.errors import ImageError, foreign_reason
from landcover.io.files import check_name

_REMOTE = re.compile(r"(https?|ftp|s3|gs|az|oss|swift)://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)\b")
TIMEOUT_S = 30.0
"""Seconds without an answer after which a server has stalled; each request is tried 3 times."""

_SLOW_BYTES_PER_S = 1000
_RETRIES = 2
_CACHE_SIZE = "GDAL_CACHEMAX"


def display_name(path_or_url: str | Path) -> str:
    """Return how a file or URL is named in messages, tables and maps: without user, password and query.

    Signed URLs have their secret in the query. A file's path is returned as it is.
    """
    text = str(path_or_url)
    return re.sub(r"//[^/]*@", "//", text.partition("?")[0]) if _REMOTE.search(text) else text


_REASONS = {
    "NoSuchBucket|ContainerNotFound|bucket does not exist": (
        "the bucket does not exist. Create it, or check its name and the endpoint"
    ),
    "ExpiredToken|TokenRefreshRequired|RequestExpired|[Tt]oken.{0,20}expired": (
        "the credentials have expired. Renew them and run it again"
    ),
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|AuthenticationFailed|InvalidAuth|: 401"
    "|Access Key Id you provided|request signature we calculated": (
        "the credentials are not valid. Check them (environment, AWS's files) and the clock"
    ),
    "MACHINE|metadata server|[Cc]redential|[Aa]ccount|AWS_SECRET_ACCESS_KEY": (
        "no credentials were found in the environment, in AWS's files or on this machine. Set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or those of your provider; for public data "
        "AWS_NO_SIGN_REQUEST=YES"
    ),
    "AccessDenied|Access Denied|AllAccessDisabled|AuthorizationPermissionMismatch|: 403": (
        "access is denied. Check the rights of these credentials, to list, read, write and delete"
    ),
    "PermanentRedirect|AuthorizationHeaderMalformed|redirect": (
        "the bucket is in another region. Set AWS_REGION"
    ),
    "NotImplemented|: 501": "the server does not support conditional writes, or another request",
}
"""What servers of object storage report, and how it is reported here."""


def server_reason(report: str) -> str | None:
    """Return what a report of a server of object storage means, and what to do; None if it is not known."""
    return next((reason for pattern, reason in _REASONS.items() if re.search(pattern, report)), None)


@dataclass(frozen=True, slots=True)
class Address:
    """A raster file or URL, and how GDAL is to read it.

    Attributes:
        text: The address that GDAL opens.
        name: The name in messages, see :func:`display_name`.
        remote: Whether it is on a network.
    """

    text: str
    name: str
    remote: bool

    @classmethod
    def of(cls, path: str | Path) -> "Address":
        """Return the address of a path or URL."""
        text, name = str(path), display_name(path)
        check_name(text, name)
        return cls(text, name, _REMOTE.search(text) is not None)

    def environment(self) -> rasterio.Env:
        """Return GDAL's settings while this address is opened and read, for a ``with`` block."""
        options: dict[str, object] = {
            "GDAL_ERROR_ON_LIBJPEG_WARNING": True,  # else the end of a JPEG cut short is grey
        }
        if self.remote:
            options |= {
                "GDAL_HTTP_CONNECTTIMEOUT": f"{TIMEOUT_S:g}",
                "GDAL_HTTP_LOW_SPEED_TIME": f"{max(1, round(TIMEOUT_S))}",
                "GDAL_HTTP_LOW_SPEED_LIMIT": str(_SLOW_BYTES_PER_S),
                "GDAL_HTTP_TIMEOUT": f"{10 * TIMEOUT_S:g}",
                "GDAL_HTTP_MAX_RETRY": str(_RETRIES),
                "GDAL_HTTP_RETRY_DELAY": "1",
                "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # else ten requests for files beside it
                **object_storage(self.text),
            }
        return rasterio.Env(**options)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of GDAL inside the block into an :class:`ImageError` that names this address."""
        try:
            yield
        except Exception as error:
            if foreign_reason(error) is None and not isinstance(error, CPLE_BaseError):
                raise
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> ImageError:
        """Return an error of GDAL as an :class:`ImageError`."""
        cause = _first_cause(error)
        if _is_endless(cause):
            return ImageError(
                f"{self.name} refers to itself, or to files that do; expected a VRT of other rasters. "
                "Build it again."
            )
        reason = str(cause).replace(self.text, self.name).rstrip(". \n")
        is_bucket = re.match(r"(s3|gs|az)://|/vsi(s3|gs|az)/", self.text) is not None
        known = server_reason(reason)
        if known is None and "key does not exist" in reason:
            known = "it does not exist. Check the address; upper and lower case differ"
        if is_bucket and known is not None:
            return ImageError(f"{self.name} cannot be read: {known}.")
        if self.remote and re.search("not recognized as being in a supported|Range downloading", reason):
            return ImageError(
                f"{self.name} cannot be read: it is not a raster, or its server ignores requests for parts "
                "of a file (Range). Download it, and pass the file."
            )
        if self.remote:
            return ImageError(
                f"{self.name} cannot be read: {reason}. It does not exist, or its server refused, failed or "
                f"gave no answer for {TIMEOUT_S:g} s. Check address and connection, or download it."
            )
        return ImageError(
            f"{self.name} cannot be read as a raster: {reason}. If it is damaged or incomplete, "
            "copy it again."
        )

    def is_fatal(self, error: Exception) -> bool:
        """Return whether an error concerns the whole scene and not single blocks.

        The network failed, or a VRT refers to itself or to a file that does not exist.
        """
        cause = _first_cause(error)
        return self.remote or isinstance(cause, CPLE_OpenFailedError) or _is_endless(cause)


def _is_endless(cause: BaseException) -> bool:
    """Return whether a VRT refers to itself: GDAL reports it, or too many open files."""
    return "Recursion" in str(cause) or "proxy datasets are opened in a cascaded way" in str(cause)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class BlockCache:
    """The limit of GDAL's block cache: the sum of all shares, and GDAL's own without any. Safe in threads.

    The cache is one for the whole process and drops the least recently used blocks of all its users; together
    they need no more than the sum.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._shares: list[int] = []
        self._default = 0

    @contextmanager
    def share(self, size: int) -> Iterator[None]:
        """Reserve ``size`` bytes until the block ends."""
        with self._lock:
            if not self._shares:
                self._default = get_gdal_config(_CACHE_SIZE)
            self._shares.append(size)
            set_gdal_config(_CACHE_SIZE, sum(self._shares))
        try:
            yield
        finally:
            with self._lock:
                self._shares.remove(size)
                set_gdal_config(_CACHE_SIZE, sum(self._shares) or self._default)


BLOCK_CACHE = BlockCache()
