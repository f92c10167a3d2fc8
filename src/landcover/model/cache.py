"""Cache of compiled models: OpenVINO's result for a model, kept between processes.

Compiling takes most of the time of a short run. The command line turns the cache on; library code does so by
``open_model(..., cache=cache_folder())``. Only the user can read the entries. A damaged entry, or one of
another version, is compiled again. A cache that cannot be used is ignored.
"""

import hashlib
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from landcover.io.files import atomic_path

DISABLE = "LANDCOVER_NO_MODEL_CACHE"
"""Environment variable: any value but an empty one turns the cache off."""

MAX_BYTES = 256 << 20
"""Size of all entries together. The oldest are removed beyond it."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".compiled"

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    r"""Return the folder of compiled models, whether it exists or not.

    The one place outside the output folder and the temporary folder that landcover writes to.
    ``$XDG_CACHE_HOME/landcover/openvino``, or by default ``~/.cache/landcover/openvino`` (macOS:
    ``~/Library/Caches/landcover/openvino``; Windows: ``%LOCALAPPDATA%\landcover\openvino``).

    Returns:
        The folder, or None if :data:`DISABLE` is set or the user has no home folder.
    """
    if os.environ.get(DISABLE):
        return None
    # As the XDG specification asks, a relative path in the variable is ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:
            return None
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        else:
            base = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "landcover" / "openvino" if base.is_absolute() else None


class ModelCache:
    """Entries of one model in a cache folder.

    Each entry is a file: the SHA-256 of its content, then the content. Its name is a digest of ``identity``
    and of the entry's name.

    ``identity`` is all that entries depend on: digest of the model file, versions, settings, processor.
    """

    def __init__(self, folder: Path, *identity: object) -> None:
        self._folder = folder
        self._identity = repr(identity)

    def read(self, name: str) -> bytes | None:
        """Return an entry; None if it is missing, damaged, or in a folder that others can write to."""
        path = self._path(name)
        try:
            if not self._is_private():
                return None
            content = path.read_bytes()
        except OSError:
            return None
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            _log.debug("%s is damaged and is replaced.", path)
            return None
        with suppress(OSError):
            os.utime(path)  # the least recently used entries are removed first
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write an entry whole, or not at all. Failures are only logged, at level DEBUG."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private() or len(content) > MAX_BYTES:
                return
            with atomic_path(self._path(name), force=True) as file:
                file.touch(0o600)
                file.write_bytes(hashlib.sha256(content).digest() + content)
            entries = [(path.stat(), path) for path in self._folder.glob(f"*{_SUFFIX}")]
            total = 0
            for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
                total += status.st_size
                if total > MAX_BYTES:
                    path.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("The compiled model was not stored in %s: %s", self._folder, error)

    def _path(self, name: str) -> Path:
        key = hashlib.sha256(f"{self._identity}\n{name}".encode()).hexdigest()
        return self._folder / f"{key[:40]}{_SUFFIX}"

    def _is_private(self) -> bool:
        """Return whether nobody but this user can write to the folder: its files run as native code."""
        status = self._folder.lstat()
        if not hasattr(os, "getuid"):
            return True
        return status.st_uid == os.getuid() and status.st_mode & 0o170022 == 0o040000
