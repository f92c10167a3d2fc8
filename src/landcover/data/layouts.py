"""The layouts in which land-cover data are found, as a table, and the one function that goes through it.

A layout is data: patterns of image and mask paths, and what is known of such a set (ground sample distance,
size, counts, index order of its masks). To teach landcover another one, add a row to :data:`LAYOUTS`.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from landcover.data.items import Item
from landcover.errors import DataError, ImageError
from landcover.io import image_size
from landcover.io.discovery import MASK_SUFFIXES, PICTURE_SUFFIXES
from landcover.io.files import check_name, walk
from landcover.legend import DEEPGLOBE, Legend

_EXT = rf"(?:{'|'.join(map(re.escape, sorted(PICTURE_SUFFIXES)))})"
_DIR = r"(?P<dir>.*/)?"
_SAT = rf"(?P<id>[^/]+)_sat{_EXT}"
_MASK = rf"(?P<id>[^/]+)_mask(?:{'|'.join(map(re.escape, sorted(MASK_SUFFIXES)))})"

_USUAL_PARTS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "valid",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_CHALLENGE_PARTS: Mapping[str, str] = {
    f"land{joint}{part}": part for joint in "-_" for part in ("train", "valid", "test")
}

UNKNOWN_FIRST = Legend(
    name="deepglobe-unknown-first",
    classes=(DEEPGLOBE.classes[6], *DEEPGLOBE.classes[:6]),
    unknown=0,
)
"""Index order of GLNet, MagNet, ISDNet and F2Net: 0 = unknown, 1 = urban ... 6 = barren."""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies in a folder.

    Attributes:
        name: Short name, printed and stored.
        title: What it is, in words.
        image: Pattern of image paths below the data folder. Its groups together (``dir``, ``sub``, ``id``)
            tell which mask belongs to which image.
        masks: Patterns of mask paths with the same groups; an earlier pattern is preferred to a later one.
        requires: Pattern of a file that must be there for this layout.
        listing: Pattern of files that list the items: the MagNet lists or the Kaggle ``metadata.csv``.
        parts: Part of each folder name; the first folder of a path that is named here decides.
        size: (height, width) of the images as published.
        by_size: Whether the layout is recognised only where the images have that size.
        gsd: Metres per pixel at that size.
        counts: Number of images per part as published.
        mask_legend: Legend of index masks whose order is not landcover's.
        refusal: Why this layout cannot be read and what to do, if so.
    """

    name: str
    title: str
    image: str
    masks: tuple[str, ...]
    requires: str | None = None
    listing: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    by_size: bool = False
    gsd: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    mask_legend: Legend | None = None
    refusal: str | None = None


def _challenge(name: str, title: str, image: str, masks: tuple[str, ...], **known: object) -> Layout:
    """Return a layout that holds the challenge's own images: 2448 x 2448 at half a metre."""
    return Layout(name, title, image, masks, size=(2448, 2448), gsd=0.5, **known)  # type: ignore[arg-type]


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "supervisely",
        "Supervisely export",
        rf"{_DIR}img/(?P<id>[^/]+){_EXT}",
        (),
        requires=r"(?:.*/)?ann/[^/]+\.json",
        refusal="its annotations are JSON, not masks. Convert them to one mask image per picture first "
        "(Supervisely's 'Export as masks'), then point landcover at folders images/ and masks/.",
    ),
    _challenge(
        "kaggle",
        "Kaggle mirror of the challenge (balraj98)",
        _DIR + _SAT,
        (_DIR + _MASK,),
        requires=r"(?:.*/)?metadata\.csv",
        listing=r"(?:.*/)?metadata\.csv",
        parts=_USUAL_PARTS,
        counts={"train": 803, "valid": 171, "test": 172},
    ),
    _challenge(
        "torchgeo",
        "third-party re-split that torchgeo reads (Kaggle geoap96)",
        rf"{_DIR}images/{_SAT}",
        (rf"{_DIR}masks/{_MASK}",),
        requires=r"(?:.*/)?(?:training|test)_data/images/[^/]+",
        parts={"training_data": "train", "test_data": "test"},
    ),
    _challenge(
        "glnet",
        "GLNet folders",
        rf"{_DIR}Sat/{_SAT}",
        (rf"{_DIR}Label/{_MASK}",),
        requires=r"(?:.*/)?(?:crossvali|offical_crossvali|train)/Sat/[^/]+",
        parts={"train": "train", "crossvali": "val", "offical_crossvali": "offical_crossvali"},
        counts={"train": 454, "val": 207},
    ),
    _challenge(
        "mmsegmentation",
        "mmsegmentation folders (ISDNet, FCtL forks) with index masks, 0 = unknown",
        rf"{_DIR}img_dir/(?P<sub>.*/)?{_SAT}",
        (rf"{_DIR}rgb2id/(?P<sub>.*/)?{_MASK}",),
        requires=r"(?:.*/)?rgb2id/.+",
        parts=_USUAL_PARTS,
        counts={"train": 454, "val": 207, "test": 142},
        mask_legend=UNKNOWN_FIRST,
    ),
    _challenge(
        "magnet",
        "challenge images with MagNet's id lists",
        _DIR + _SAT,
        (_DIR + _MASK,),
        requires=r"(?:.*/)?list/deepglobe/(?:train|val|test)\.txt",
        listing=r"(?:.*/)?list/deepglobe/(?:train|val|test)\.txt",
        counts={"train": 454, "val": 207, "test": 142},
    ),
    _challenge(
        "davidfm43",
        "DavidFM43/landcover-segmentation; the colour masks in raw_masks/ are read",
        rf"{_DIR}images/(?P<id>[^/]+?)(?:_sat)?{_EXT}",
        (r"(?P<dir>.*/)?raw_masks/(?P<id>[^/]+?)(?:_mask)?\.png",),
        requires=r"(?:.*/)?raw_masks/[^/]+",
        counts={"all": 803},
    ),
    # The seed's own label files turn red, which is no class, into urban: colour masks come first where they
    # are.
    _challenge(
        "seed",
        "land_train/ with onechannel_label/ of the TensorFlow seed project",
        rf"{_DIR}land_train/{_SAT}",
        (rf"{_DIR}land_train/{_MASK}", r"(?P<dir>.*/)?onechannel_label/(?P<id>[^/]+)_label\.png"),
        requires=r"(?:.*/)?onechannel_label/[^/]+",
        parts=_CHALLENGE_PARTS,
        counts={"train": 803},
    ),
    _challenge(
        "challenge",
        "DeepGlobe 2018 challenge archive",
        rf"(?P<dir>(?:.*/)?land[-_](?:train|valid|test)/){_SAT}",
        (rf"(?P<dir>(?:.*/)?land[-_](?:train|valid|test)/){_MASK}",),
        parts=_CHALLENGE_PARTS,
        counts={"train": 803, "valid": 171, "test": 172},
    ),
    Layout(
        "tiles-512",
        "512-pixel tile set (NTU course): images reduced to 1024 and cut into quadrants",
        r"(?P<dir>(?:.*/)?(?:train|validation)/)(?P<id>\d{4})_sat\.jpg",
        (r"(?P<dir>(?:.*/)?(?:train|validation)/)(?P<id>\d{4})_mask\.png",),
        requires=r"(?:.*/)?validation/\d{4}_sat\.jpg",
        parts=_USUAL_PARTS,
        size=(512, 512),
        by_size=True,
        gsd=1.195,
        counts={"train": 2000, "validation": 257},
    ),
    _challenge(
        "challenge-images",
        "pairs of the challenge's names and size",
        rf"{_DIR}(?P<id>\d+)_sat\.jpg",
        (rf"{_DIR}(?P<id>\d+)_mask\.png",),
        parts=_USUAL_PARTS,
        by_size=True,
    ),
    Layout(
        "pairs",
        "pairs NAME_sat and NAME_mask (or NAME_label)",
        _DIR + _SAT,
        (rf"{_DIR}(?P<id>[^/]+)_(?:mask|label)\.(?:png|tiff?)",),
        parts=_USUAL_PARTS,
    ),
    Layout(
        "folders",
        "folders images/ and masks/ (or labels/)",
        rf"{_DIR}(?:images?|imgs?|sat)/(?P<sub>.*/)?(?P<id>[^/]+?)(?:_sat)?{_EXT}",
        (
            rf"{_DIR}(?:masks?|labels?|annotations?|gt)/(?P<sub>.*/)?"
            r"(?P<id>[^/]+?)(?:_mask|_label)?\.(?:png|tiff?)",
        ),
        parts=_USUAL_PARTS,
    ),
    Layout(
        "stems",
        "pairs of one name: NAME.jpg (or .tif, .jp2, .webp) and NAME.png",
        rf"{_DIR}(?P<id>[^/]+)\.(?:jpe?g|tiff?|jp2|webp)",
        (rf"{_DIR}(?P<id>[^/]+)\.png",),
        parts=_USUAL_PARTS,
    ),
)
"""The known layouts, the most particular first; the last three take any folder of pairs."""


@dataclass(frozen=True)
class Discovery:
    """What was found in a folder.

    Attributes:
        layout: The layout that fits.
        items: The images, sorted by key.
        missing_images: Paths below the folder that are masks without an image, or listed images that are not
            there.
    """

    layout: Layout
    items: tuple[Item, ...]
    missing_images: tuple[str, ...]


def discover(root: Path) -> Discovery:
    """Find the layout of a folder, and its images with their masks.

    The first layout of the table that has pairs is taken, else the first that has images.

    Raises:
        DataError: If no layout fits, the one that fits is refused, two images or masks claim one name, or a
            name has control characters or is no valid UTF-8.
    """
    paths = list(_files_below(root))
    found: list[Discovery] = []
    for layout in LAYOUTS:
        discovery = _match(layout, root, paths)
        if discovery is None:
            continue
        if layout.refusal:
            raise DataError(f"{root} is a {layout.title}, which landcover cannot read: {layout.refusal}")
        found.append(discovery)
        if any(item.mask for item in discovery.items):
            return discovery
    if not found:
        raise DataError(
            f"{root} holds no imagery that landcover recognises: {len(paths)} files"
            + (f", such as {paths[0]!r}" if paths else "")
            + ". Expected pairs such as ID_sat.jpg and ID_mask.png, folders images/ and masks/, or "
            "the layout of a published set."
        )
    return found[0]


def _match(layout: Layout, root: Path, paths: list[str]) -> Discovery | None:
    """Apply one layout to the paths below a folder, or return None where it does not fit."""
    if layout.requires and not any(_full(layout.requires, path) for path in paths):
        return None
    images = _by_identity(layout.image, root, paths)
    if not images or (
        layout.by_size and typical_size(root / path for path in images.values()) != layout.size
    ):
        return None
    masks: dict[_Identity, str] = {}
    for pattern in layout.masks:
        masks = _by_identity(pattern, root, paths) | masks
    listed = {_bare(entry.image): entry for entry in _listed(layout, root, paths)}
    if layout.listing and not listed:
        return None
    items: dict[str, Item] = {}
    for identity, path in images.items():
        mask = masks.get(identity)
        part = _part(layout, path)
        if part is None and _bare(path) in listed:
            part = listed[_bare(path)].part
        check_name(root / path)
        item = Item(_key(path), part, root / path, None if mask is None else root / mask)
        if items.setdefault(item.key, item) is not item:
            raise DataError(
                f"{item.image} and {items[item.key].image} share the name {item.key!r}; "
                "rename or remove one of them."
            )
    present = {_bare(path) for path in images.values()}
    missing = [masks[identity] for identity in masks.keys() - images.keys()]
    missing += [entry.image for name, entry in listed.items() if name not in present]
    return Discovery(layout, tuple(items[key] for key in sorted(items)), tuple(sorted(missing)))


def typical_size(images: Iterable[Path]) -> tuple[int, int] | None:
    """Return (height, width) of the first image whose header can be read, None where there is none."""
    for path in images:
        try:
            return image_size(path)
        except ImageError:  # A damaged file is told of when it is read; it does not decide what the set is.
            continue
    return None


_Identity = tuple[tuple[str, str], ...]


def _full(pattern: str, path: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, path, re.IGNORECASE)


def _by_identity(pattern: str, root: Path, paths: Iterable[str]) -> dict[_Identity, str]:
    """Return the paths that match, by the values of the pattern's groups."""
    result: dict[_Identity, str] = {}
    for path in paths:
        match = _full(pattern, path)
        if match:
            identity = tuple(sorted((name, value or "") for name, value in match.groupdict().items()))
            if identity in result:
                raise DataError(
                    f"{root / path} and {root / result[identity]} claim the same name; "
                    "rename or remove one of them."
                )
            result[identity] = path
    return result


def _key(path: str) -> str:
    return re.sub(r"_sat$", "", path[: -len(PurePosixPath(path).suffix)])


def _bare(path: str) -> str:
    return _key(PurePosixPath(path).name)


def _part(layout: Layout, path: str) -> str | None:
    folders = (folder.lower() for folder in PurePosixPath(path).parts[:-1])
    return next((layout.parts[folder] for folder in folders if folder in layout.parts), None)


@dataclass(frozen=True, slots=True)
class _Listed:
    part: str
    image: str


def _listed(layout: Layout, root: Path, paths: list[str]) -> Iterator[_Listed]:
    """Yield the entries of a layout's list files."""
    if layout.listing is None:
        return
    for path in (path for path in paths if _full(layout.listing or "", path)):
        try:
            text = (root / path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{root / path} is not UTF-8 text: {error}.") from error
        if path.endswith(".csv"):
            for row in csv.DictReader(text.splitlines()):
                if row.get("split") and row.get("sat_image_path"):  # Else another set's metadata.csv.
                    yield _Listed(row["split"], row["sat_image_path"])
        else:  # A line may lack its end: MagNet's lists stop without a final newline.
            for line in filter(None, map(str.strip, text.splitlines())):
                yield _Listed(PurePosixPath(path).stem, line.split()[0])


def _files_below(root: Path) -> Iterator[str]:
    """Yield the POSIX paths of all files below a folder, sorted; hidden ones and zip leftovers are not."""
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {found}; expected a data folder (unpack archives first).")
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in walk(root, follow_links=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # A link that leads back up.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(folder).relative_to(root)
        for name in sorted(files):
            if not name.startswith(".") and not Path(folder, name).is_fifo():  # which waits for a writer
                yield (below / name).as_posix()
