"""Many files in, many files out: what is read and what is written, settled before any work."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from landcover.errors import DataError, OutputError, UsageError
from landcover.io.files import check_name, refuse_existing, walk

IMAGE_END = "_sat"
"""End of the names of imagery in the challenge's data: ``<id>_sat.jpg``."""

PICTURE_SUFFIXES = frozenset({".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files that are looked for as pictures."""

MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
"""Those of them that keep class indices as they are and that masks are usually in."""

RASTER_SUFFIXES = frozenset({".jp2", ".tif", ".tiff"})
"""Those of them that can tell where they lie."""

MAX_OFF_PALETTE = 0.01
"""Share of pixels of no class's colour above which a file is taken for no mask of the legend."""

MAX_PIXELS = 1 << 28
"""Pixels of a file that are decoded at most unless told otherwise: 16384 x 16384."""


class Found(NamedTuple):
    """A file to work on.

    Attributes:
        path: The file.
        relative: Its path below the input folder; its name, where it was given itself.
        folder: The input folder that it was found in, or None.
    """

    path: Path
    relative: Path
    folder: Path | None


def find_files(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    what: str,
    suffixes: frozenset[str],
    left_out: tuple[str, ...],
) -> list[Found]:
    """Find files and what folders hold, subfolders included, each once and in a fixed order.

    Hidden files and folders are passed over, and so is ``out`` where it lies in an input folder: results are
    no inputs.

    Args:
        inputs: Files, which are taken as they are, and folders.
        out: Folder of the results.
        what: What is looked for, such as ``masks``, for messages.
        suffixes: Suffixes, in lower case, of the files that are looked for in folders.
        left_out: Ends of names, without suffix, that folders are not searched for.

    Raises:
        UsageError: If there is no input.
        DataError: If an input does not exist, a folder holds no such file, or a name has control characters
            or is no valid UTF-8.
        OutputError: If ``out`` is a file.
    """
    if not inputs:
        raise UsageError(f"No input was given; pass files or folders of {what}.")
    if "" in inputs:
        raise UsageError(f"An input has no name, like a variable that is not set; pass files of {what}.")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the folder that the results are written to.")
    found: dict[tuple[str, Path], Found] = {}
    for given in map(Path, inputs):
        if not given.exists():
            raise DataError(f"{given} does not exist; expected a file or a folder of {what}.")
        if given.is_file():
            found.setdefault((_real(given), Path(given.name)), Found(given, Path(given.name), None))
            continue
        if not given.is_dir():
            raise DataError(f"{given} is a device or a pipe; expected a file or a folder of {what}.")
        paths = [
            path
            for path in _walk(given, out)
            if path.suffix.lower() in suffixes and not path.stem.endswith(left_out)
        ]
        if not paths:
            raise DataError(
                f"{given} holds no {what}; expected {', '.join(sorted(suffixes))} files in it or below "
                f"it ({', '.join('*' + end for end in left_out)} files are passed over)."
            )
        for path in paths:
            relative = path.relative_to(given)
            found.setdefault((_real(path), relative), Found(path, relative, given))
    for one in found.values():
        check_name(one.path)
    return list(found.values())


def check_targets(
    pairs: Iterable[tuple[Path | str, Path]], *, force: bool, shown: Callable[[Path | str], str] = str
) -> None:
    """Refuse a job whose results would get in each other's way, or in that of other files.

    Args:
        pairs: Source and target of each result; a source may have several. One that is no path is no file.
        force: Allow targets that exist.
        shown: How messages call a source.

    Raises:
        OutputError: If two sources have one target, a target is a source, or exists and ``force`` is off.
    """
    pairs = list(pairs)
    sources = {_real(source) for source, _ in pairs if isinstance(source, Path)}
    owners: dict[Path, Path | str] = {}
    for source, target in pairs:
        other = owners.setdefault(target, source)
        if other != source:
            raise OutputError(
                f"{shown(other)} and {shown(source)} would both be written to {target}. Write them to two "
                "folders, or give the folder that holds both."
            )
        if _real(target) in sources:
            raise OutputError(f"{target} would replace an input. Choose another output folder.")
        refuse_existing(target, force=force)


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    results = _real(out)
    for root, folders, names in walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and _real(Path(root, name)) != results
        )
        paths = (Path(root, name) for name in sorted(names) if not name.startswith("."))
        # Opening a pipe waits for a writer. A broken link is kept: its image is missed, which is to be told.
        yield from (path for path in paths if path.is_file() or not path.exists())


def _real(path: Path) -> str:
    """Return the path without links; unlike :meth:`pathlib.Path.resolve` also where they go in circles."""
    return os.path.realpath(path)
