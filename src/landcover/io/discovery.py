"""Find input files and check output files before any work; the one table of file names."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from unicodedata import normalize

from landcover.errors import DataError, OutputError, UsageError
from landcover.io.files import check_name, refuse_existing, walk

IMAGE_END = "_sat"
"""End of the names of images in the challenge's data, ``<id>_sat.jpg``: not masks."""

MASK_END = "_mask"
"""End of the names of masks in the challenge's data, ``<id>_mask.png``: not images."""

PICTURE_SUFFIXES = frozenset({".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of image files."""

MASK_SUFFIXES = frozenset({".bmp", ".gif", ".png", ".tif", ".tiff"})
"""Those of lossless formats, in which masks are usual."""

RASTER_SUFFIXES = frozenset({".jp2", ".tif", ".tiff"})
"""Those that may be georeferenced."""

MAX_OFF_PALETTE = 0.01
"""Default fraction of off-palette pixels above which a file is not a mask of the legend."""

MAX_PIXELS = 1 << 28
"""Default limit on the pixels of a file that is decoded: 16384 x 16384."""


_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{name}{i}" for name in ("COM", "LPT") for i in range(1, 10))]
)
"""Names that Windows reserves, with any suffix."""


_IMAGE_WORDS = r"images?|imgs?|rgb|jpegimages|leftimg8bit|inputs?|aerial|ortho|photos?|pansharpen"
_IMAGE_FOLDERS = rf"{_IMAGE_WORDS}|x|sat|top|src"
_MASK_WORDS = (
    r"masks?|msks?|\d*labels?|lbls?|annotations?|annotated|annot|ann|gts?|targets?|segs?|"
    r"segmentation(?:s|class)?|semantic|groundtruth|truth"
)
_MASK_FOLDERS = rf"{_MASK_WORDS}|y|map|sem"


def words_of(name: str) -> list[str]:
    """Return the words of a file's or folder's name, in lower case."""
    return [word for word in re.split(r"[_\-. ]+", name.lower()) if word]


def role_of(words: Iterable[str], *, in_file: bool = False) -> Literal["image", "mask", ""]:
    """Return what words of a folder's name, or of a file's, state that it holds.

    Examples:
        >>> role_of(words_of("5_Labels_all")), role_of(words_of("img_dir")), role_of(["top"], in_file=True)
        ('mask', 'image', '')
    """
    words = list(words)
    masks, images = _MASK_FOLDERS, _IMAGE_FOLDERS
    if in_file:
        masks, images = rf"{_MASK_WORDS}|labelids|classes", rf"{_IMAGE_WORDS}|sat"
    if any(re.fullmatch(masks, word) for word in words):
        return "mask"
    return "image" if any(re.fullmatch(images, word) for word in words) else ""


class Found(NamedTuple):
    """A file to work on, its path below the input folder (or its name), and the input folder, if any."""

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
    """Return files and the files of folders, subfolders included, each once and in a fixed order.

    Files are taken whatever their name; in folders those that have one of the ``suffixes`` (in lower case)
    and none of the ends of names ``left_out``. Where these are masks, folders of masks beside a folder of
    images are skipped, too. Hidden files and folders are skipped, and so is ``out`` below an input folder:
    results are not inputs. ``what`` is looked for, such as ``masks``, for messages.
    """
    if not inputs:
        raise UsageError(f"No input was given; pass files or folders of {what}.")
    if "" in inputs:
        raise UsageError(f"An input has no name, like a variable that is not set; pass files of {what}.")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the folder that the results are written to.")
    found: dict[tuple[str, Path], Found] = {}
    for given in map(Path, inputs):
        if given.is_file():
            found.setdefault((_real(given), Path(given.name)), Found(given, Path(given.name), None))
            continue
        if not given.is_dir():
            state = "is a device or a pipe" if given.exists() else "does not exist"
            raise DataError(f"{given} {state}; expected a file or a folder of {what}.")
        paths, results = [], _real(out)
        for root, folders, names in walk(given):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and _real(Path(root, name)) != results
            )
            if MASK_END in left_out and any(role_of(words_of(name)) == "image" for name in folders):
                folders[:] = [name for name in folders if role_of(words_of(name)) != "mask"]
            for path in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
                wanted = path.suffix.lower() in suffixes and not path.stem.endswith(left_out)
                # Opening a pipe waits for a writer. A broken link is reported later as a missing image.
                if wanted and (path.is_file() or not path.exists()):
                    paths.append(path)
        if not paths:
            skipped = f" ({', '.join('*' + end for end in left_out)} files are skipped)" if left_out else ""
            raise DataError(
                f"{given} holds no {what}; expected {', '.join(sorted(suffixes))} files in it or below "
                f"it{skipped}."
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
    """Refuse pairs of source and target whose results would overwrite each other, an input or existing files.

    Only sources that are paths are files; ``shown`` returns the name of a source in messages.

    Raises:
        OutputError: If two sources have one target, or targets whose names differ only in case, a target has
            a name that Windows reserves (``con``, ``nul``), is a source, or exists and ``force`` is off.
    """
    pairs = list(pairs)
    sources = {_real(source) for source, _ in pairs if isinstance(source, Path)}
    owners: dict[str, tuple[Path | str, Path]] = {}
    for source, target in pairs:
        # As file systems compare names that do not distinguish cases and forms of characters.
        other, taken = owners.setdefault(normalize("NFC", str(target)).casefold(), (source, target))
        if other != source:
            where = f"both be written to {target}"
            if taken != target:
                where = f"be written to {taken} and {target}, which are one file on Windows and macOS"
            raise OutputError(
                f"{shown(other)} and {shown(source)} would {where}. Rename one, or write them to two folders."
            )
        if target.name.partition(".")[0].upper() in _DEVICES:
            raise OutputError(
                f"{target} has a name that Windows reserves for a device. Rename {shown(source)}."
            )
        if _real(target) in sources:
            raise OutputError(f"{target} would replace an input. Choose another output folder.")
        refuse_existing(target, force=force)


def _real(path: Path) -> str:
    """Return the path without links; unlike :meth:`pathlib.Path.resolve` also for circular links."""
    return os.path.realpath(path)
