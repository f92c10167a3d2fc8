"""Versions of the software that a run is made with."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import landcover

_LIBRARIES = ("torch", "timm", "lightning-fabric", "numpy", "Pillow", "simplejpeg", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of landcover, Python and the libraries that results depend on."""
    found = {"landcover": landcover.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of landcover's own checkout, with ``-dirty`` where files were changed.

    None if landcover does not run from a git checkout, or git is not installed.
    """
    package = Path(landcover.__file__).parent
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "describe", "--always", "--abbrev=40")
        # Not describe --dirty, which writes the index in spite of --no-optional-locks.
        changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
