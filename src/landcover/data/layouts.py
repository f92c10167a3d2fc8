"""Find the items of a data folder by a table of known layouts.

A layout is data: patterns of image and mask paths, and the published facts of such a set (ground sample
distance, size, counts, index order of its masks). To support another one, add a row to :data:`LAYOUTS`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from landcover.data.pairing import SUBSETS, Pairs, pair_by_formats, pair_by_words, subset_of
from landcover.errors import DataError, ImageError
from landcover.io import image_size
from landcover.io.discovery import IMAGE_END, MASK_END, MASK_SUFFIXES, PICTURE_SUFFIXES, find_files
from landcover.io.files import check_name, walk
from landcover.legend import DEEPGLOBE, Legend
from landcover.textfiles import parse_csv, read_text

SCENES_FILE = "scenes.csv"
VECTOR_SUFFIXES = (".fgb", ".geojson", ".gpkg", ".json", ".kml", ".parquet", ".shp")
"""Suffixes of files of polygons and points."""
DECLARED_NAMES = (
    'Other names are declared in landcover.yaml: images: "img/{subset}/{id}.png" and masks: '
    '"ann/{subset}/{id}.png".'
)

_EXT = rf"(?:{'|'.join(map(re.escape, sorted(PICTURE_SUFFIXES | MASK_SUFFIXES)))})"
_SAT = rf"(?P<id>[^/]+){IMAGE_END}{_EXT}"
_LOSSLESS = rf"(?:{'|'.join(map(re.escape, sorted(MASK_SUFFIXES)))})"
_MASK = rf"(?P<id>[^/]+){MASK_END}{_LOSSLESS}"

_CHALLENGE_PARTS: Mapping[str, str] = {
    f"land{joint}{part}": part for joint in "-_" for part in ("train", "valid", "test")
}

UNKNOWN_FIRST = Legend(
    name="deepglobe-unknown-first",
    classes=(DEEPGLOBE.classes[6], *DEEPGLOBE.classes[:6]),
    unknown=0,
)
"""Index order of GLNet, MagNet, ISDNet and F2Net: 0 = unknown, 1 = urban ... 6 = barren."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image, with its mask if it has one.

    ``key`` is the POSIX path of the image below the data folder, without ``_sat`` and suffix, such as
    ``train/0000``; ``part`` the subset of its folder, such as ``train``, None in layouts without subsets.
    """

    key: str
    part: str | None
    image: Path
    mask: Path | None

    @property
    def id(self) -> str:
        """The last component of the key, which may repeat in other subsets."""
        return self.key.rpartition("/")[2]


class SceneTile(NamedTuple):
    """Position of an item in a larger contiguous scene, in tiles; None for images on no grid of tiles."""

    scene: str
    row: int | None
    col: int | None

    def moved(self, rows: int, cols: int) -> "SceneTile | None":
        """Return the position of a neighbour in the scene; None without a grid of tiles."""
        if self.row is None or self.col is None:
            return None
        return SceneTile(self.scene, self.row + rows, self.col + cols)


@dataclass(frozen=True)
class Layout:
    """One way to arrange a data set in a folder.

    Attributes:
        name: Short name, printed and stored.
        title: Description for messages.
        image: Pattern of image paths below any folder of the data. That folder and the groups of the pattern
            (``sub``, ``id``) together identify the mask of an image.
        masks: Patterns of mask paths with the same groups, in order of preference.
        requires: Pattern of a file that this layout must have.
        listing: Whether the required files list the items: MagNet's lists or the Kaggle ``metadata.csv``.
        parts: Subset of each folder name; the first folder of a path that is named here decides.
        size: (height, width) of the images as published.
        by_size: Whether the layout is recognised only if the images have that size.
        gsd: Metres per pixel at that size.
        counts: Number of images per subset as published.
        mask_legend: Legend of index masks whose order is not landcover's.
        refusal: If the layout cannot be read, the reason and the remedy.
    """

    name: str
    title: str
    image: str = _SAT
    masks: tuple[str, ...] = (_MASK,)
    requires: str | None = None
    listing: bool = False
    parts: Mapping[str, str] = field(default_factory=lambda: SUBSETS)
    size: tuple[int, int] | None = None
    by_size: bool = False
    gsd: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    mask_legend: Legend | None = None
    refusal: str | None = None


_challenge = partial(Layout, size=(2448, 2448), gsd=0.5)
"""A layout of the challenge's own images."""


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "supervisely",
        "Supervisely export",
        rf"img/(?P<id>[^/]+){_EXT}",
        (),
        requires=r"ann/[^/]+\.json",
        refusal="its annotations are JSON, not masks. Convert them to one mask image per picture first "
        "(Supervisely's 'Export as masks'), in folders images/ and masks/.",
    ),
    _challenge(
        "kaggle",
        "Kaggle mirror of the challenge (balraj98)",
        requires=r"metadata\.csv",
        listing=True,
        counts={"train": 803, "valid": 171, "test": 172},
    ),
    _challenge(
        "torchgeo",
        "third-party re-split that torchgeo reads (Kaggle geoap96)",
        rf"images/{_SAT}",
        (rf"masks/{_MASK}",),
        requires=r"(?:training|test)_data/images/[^/]+",
        parts={"training_data": "train", "test_data": "test"},
    ),
    _challenge(
        "glnet",
        "GLNet folders",
        rf"Sat/{_SAT}",
        (rf"Label/{_MASK}",),
        requires=r"(?:crossvali|offical_crossvali|train)/Sat/[^/]+",
        parts={"train": "train", "crossvali": "val", "offical_crossvali": "offical_crossvali"},
        counts={"train": 454, "val": 207},
    ),
    _challenge(
        "mmsegmentation",
        "mmsegmentation folders (ISDNet, FCtL forks) with index masks, 0 = unknown",
        rf"img_dir/(?P<sub>.*/)?{_SAT}",
        (rf"rgb2id/(?P<sub>.*/)?{_MASK}",),
        requires=r"rgb2id/.+",
        counts={"train": 454, "val": 207, "test": 142},
        mask_legend=UNKNOWN_FIRST,
    ),
    _challenge(
        "magnet",
        "challenge images with MagNet's id lists",
        requires=r"list/deepglobe/(?:train|val|test)\.txt",
        listing=True,
        parts={},
        counts={"train": 454, "val": 207, "test": 142},
    ),
    _challenge(
        "davidfm43",
        "DavidFM43/landcover-segmentation; the colour masks in raw_masks/ are read",
        rf"images/(?P<id>[^/]+?)(?:_sat)?{_EXT}",
        (r"raw_masks/(?P<id>[^/]+?)(?:_mask)?\.png",),
        requires=r"raw_masks/[^/]+",
        parts={},
        counts={"all": 803},
    ),
    # The seed's label files turn red, which is not a class, into urban: colour masks are preferred.
    _challenge(
        "seed",
        "land_train/ with onechannel_label/ of the TensorFlow seed project",
        rf"land_train/{_SAT}",
        (rf"land_train/{_MASK}", r"onechannel_label/(?P<id>[^/]+)_label\.png"),
        requires=r"onechannel_label/[^/]+",
        parts=_CHALLENGE_PARTS,
        counts={"train": 803},
    ),
    _challenge(
        "challenge",
        "DeepGlobe 2018 challenge archive",
        rf"(?P<sub>land[-_](?:train|valid|test)/){_SAT}",
        (rf"(?P<sub>land[-_](?:train|valid|test)/){_MASK}",),
        parts=_CHALLENGE_PARTS,
        counts={"train": 803, "valid": 171, "test": 172},
    ),
    Layout(
        "tiles-512",
        "512-pixel tile set (NTU course): images reduced to 1024 and cut into quadrants",
        r"(?P<sub>(?:train|validation)/)(?P<id>\d{4})_sat\.jpg",
        (r"(?P<sub>(?:train|validation)/)(?P<id>\d{4})_mask\.png",),
        requires=r"validation/\d{4}_sat\.jpg",
        size=(512, 512),
        by_size=True,
        gsd=1.195,
        counts={"train": 2000, "validation": 257},
    ),
    _challenge(
        "challenge-images",
        "pairs of the challenge's names and size",
        r"(?P<id>\d+)_sat\.jpg",
        (r"(?P<id>\d+)_mask\.png",),
        by_size=True,
    ),
    Layout(
        "pairs",
        "pairs NAME_sat and NAME_mask (or NAME_label)",
        masks=(rf"(?P<id>[^/]+)_(?:mask|label){_LOSSLESS}",),
    ),
    Layout(
        "folders",
        "folders images/ and masks/ (or labels/)",
        rf"(?:images?|imgs?|sat)/(?P<sub>.*/)?(?P<id>[^/]+?)(?:_sat)?{_EXT}",
        (rf"(?:masks?|labels?|annotations?|gt)/(?P<sub>.*/)?(?P<id>[^/]+?)(?:_mask|_label)?{_LOSSLESS}",),
    ),
)
"""The known layouts, the most specific first; the last two match many folders."""

_STEMS = Layout(
    "stems",
    "pairs of one name in two formats, such as NAME.jpg and NAME.png",
    r"(?P<id>[^/]+)\.(?:jpe?g|tiff?|jp2|webp)",
    (),
)
_WORDS = Layout("words", "pairs whose names differ in words for image and mask")


@dataclass(frozen=True)
class Discovery:
    """The items of a folder; ``missing_images`` are masks, and entries of lists, without an image."""

    layout: Layout
    items: tuple[Item, ...]
    missing_images: tuple[str, ...]

    @property
    def rule(self) -> str:
        """How the files were paired, with an example, for reports."""
        pair = next((item for item in self.items if item.mask), None)
        if pair is None or pair.mask is None:
            return self.layout.title
        common = Path(os.path.commonpath([pair.image.parent, pair.mask.parent]))
        image, mask = (path.relative_to(common).as_posix() for path in (pair.image, pair.mask))
        return f"{self.layout.title}, for example {image} with {mask}"


def discover(root: Path, names: tuple[str, str] | None = None) -> Discovery:
    """Find the layout of a folder, and its images with their masks.

    The first layout of the table that has pairs is taken; else images and masks are distinguished by words
    in their paths, and by content; else the first layout that has images is taken. ``names`` are patterns of
    image and mask paths with ``{subset}``, ``{id}`` and other names in braces; they replace the table.
    """
    paths = list(_files_below(root))
    listing = f"{len(paths)} files{f', such as {paths[0]!r}' if paths else ''}"
    if names is not None:
        image, mask = names
        declared = Layout("declared", f"images {image}, masks {mask}", _pattern(image), (_pattern(mask),))
        match = _match(declared, root, paths)
        if match is None or not any(item.mask for item in match.items):
            raise DataError(
                f"No pair below {root} fits images {image!r} and masks {mask!r} of landcover.yaml: "
                f"{listing}. {{subset}}, {{id}} and other names in braces stand for a part "
                "of a path without a slash."
            )
        return match
    matches: list[Discovery] = []
    for layout in LAYOUTS:
        match = _match(layout, root, paths)
        if match is None:
            continue
        if layout.refusal:
            raise DataError(f"{root} is a {layout.title}, which landcover cannot read: {layout.refusal}")
        matches.append(match)
        if layout.size is not None and any(item.mask for item in match.items):
            return match
    candidates = [match for match in matches if match.layout.size is None]
    candidates += _paired(_WORDS, root, pair_by_words(root, paths))
    candidates += _paired(_STEMS, root, pair_by_formats(root, paths))
    best = max(candidates, key=lambda match: sum(item.mask is not None for item in match.items), default=None)
    if best is not None and any(item.mask for item in best.items):
        return best
    matches += filter(None, [_match(_STEMS, root, paths)])
    if not matches:
        raise DataError(
            f"{root} has no imagery in a known layout: {listing}. Expected pairs such as "
            "ID_sat.jpg and ID_mask.png, folders images/ and masks/, or the layout of a published set. "
            f"{DECLARED_NAMES}{vector_hint(root)}"
        )
    return matches[0]


def find_images(path: Path) -> Discovery:
    """Return a scene, or all images below a folder, whose labels are elsewhere."""
    files = find_files(
        [path], path / ".landcover", what="images", suffixes=PICTURE_SUFFIXES, left_out=(MASK_END, "_label")
    )
    root = path if path.is_dir() else path.parent
    images = [file.relative.as_posix() for file in files]
    items = _items(root, ((image, None, subset_of(image)) for image in images))
    return Discovery(Layout("scenes", "scenes with labels of their own"), items, ())


def vector_hint(root: Path) -> str:
    """Return how polygons or points below a folder become labels; an empty text without such files."""
    for path in _files_below(root):
        if path.lower().endswith(VECTOR_SUFFIXES):
            return (
                f" {root / path} may hold polygons or points: landcover prepare IMAGES --labels "
                f"{(root / path).parent} --column COLUMN --out CACHE makes training data of them."
            )
    return ""


def _pattern(template: str) -> str:
    """Return the regular expression of a path with names in braces."""
    parts = re.split(r"\{([A-Za-z_]\w*)\}", template)
    seen: set[str] = set()
    pattern = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            seen.add(part)
            pattern += f"(?P<{part}>[^/]+)"
    if "id" not in seen:
        raise DataError(f"landcover.yaml has the path {template!r}; expected {{id}} in it.")
    return pattern


def _paired(layout: Layout, root: Path, pairs: Pairs) -> list[Discovery]:
    """Return paired files as the items of a layout, in a list that is empty without any pair."""
    items = _items(root, ((image, mask, subset_of(image)) for image, mask in sorted(pairs.masks.items())))
    found = Discovery(layout, items, tuple(sorted(pairs.missing_images)))
    return [found] if any(pairs.masks.values()) else []


def _match(layout: Layout, root: Path, paths: list[str]) -> Discovery | None:
    """Apply one layout to the paths below a folder; None if it does not fit."""
    required = [path for path in paths if layout.requires and _parsed(layout.requires, path)]
    if layout.requires and not required:
        return None

    def by_identity(pattern: str) -> dict[tuple[str, ...], str]:
        """Return the paths that match, by their folder and the values of the pattern's groups."""
        result: dict[tuple[str, ...], str] = {}
        for path in paths:
            if groups := _parsed(pattern, path):
                identity = tuple(value or "" for name, value in sorted(groups.items()))
                if result.setdefault(identity, path) is not path:
                    raise _same_key(root / path, root / result[identity])
        return result

    images = by_identity(layout.image)
    if not images or (
        layout.by_size and typical_size(root / path for path in images.values()) != layout.size
    ):
        return None
    masks: dict[tuple[str, ...], str] = {}
    for pattern in layout.masks:
        masks = by_identity(pattern) | masks
    listed = {_bare(image): (part, image) for path in required for part, image in _listed(layout, root, path)}
    if layout.listing and not listed:
        return None

    def part(path: str) -> str | None:
        """Return the subset of an image: of declared names, of the first known folder, or of the lists."""
        if (groups := _parsed(layout.image, path)) and (subset := groups.get("subset")):
            return SUBSETS.get(subset.lower(), subset)
        folders = (folder.lower() for folder in PurePosixPath(path).parts[:-1])
        of_folder = next((layout.parts[folder] for folder in folders if folder in layout.parts), None)
        return of_folder or listed.get(_bare(path), (None,))[0]

    items = _items(root, ((path, masks.get(identity), part(path)) for identity, path in images.items()))
    present = {_bare(path) for path in images.values()}
    missing = [masks[identity] for identity in masks.keys() - images.keys()]
    missing += [image for name, (_, image) in listed.items() if name not in present]
    return Discovery(layout, items, tuple(sorted(missing)))


def _items(root: Path, found: Iterable[tuple[str, str | None, str | None]]) -> tuple[Item, ...]:
    """Return the items of images with their masks and subsets, sorted by key; no two may have one key."""
    items: dict[str, Item] = {}
    for image, mask, part in found:
        check_name(root / image)
        item = Item(_key(image), part, root / image, None if mask is None else root / mask)
        if items.setdefault(item.key, item) is not item:
            raise _same_key(item.image, items[item.key].image)
    return tuple(items[key] for key in sorted(items))


def typical_size(images: Iterable[Path]) -> tuple[int, int] | None:
    """Return (height, width) of the first image whose header can be read, None if there is none."""
    for path in images:
        try:
            return image_size(path)
        except ImageError:  # reported when the image is read; the layout does not depend on it
            continue
    return None


def _parsed(pattern: str, path: str) -> dict[str, str | None] | None:
    """Return the groups of a pattern, and ``dir``, the folder before it; None if a path does not match."""
    match = re.fullmatch(f"(?P<dir>.*/)?(?:{pattern})", path, re.IGNORECASE)
    return match and match.groupdict()


def _same_key(one: Path, other: Path) -> DataError:
    return DataError(f"{one} and {other} have the same key. Rename or remove one of them.")


def _key(path: str) -> str:
    return path[: -len(PurePosixPath(path).suffix)].removesuffix(IMAGE_END)


def _bare(path: str) -> str:
    return _key(PurePosixPath(path).name)


def _listed(layout: Layout, root: Path, path: str) -> Iterator[tuple[str, str]]:
    """Yield (subset, image) of the entries in a layout's list file."""
    if not layout.listing:
        return
    text = read_text(root / path, DataError, "a list of images")
    if path.endswith(".csv"):
        header, rows = parse_csv(text, str(root / path), DataError)
        if {"split", "sat_image_path"} <= set(header):  # else the metadata.csv of another set
            for _, row in rows:
                if row["split"] and row["sat_image_path"]:
                    yield row["split"], row["sat_image_path"]
    else:  # the last line of MagNet's lists has no newline
        for line in filter(None, map(str.strip, text.splitlines())):
            yield PurePosixPath(path).stem, line.split()[0]


def _files_below(root: Path) -> Iterator[str]:
    """Yield the sorted POSIX paths of all files below a folder but hidden ones and zip leftovers."""
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {state}; expected a data folder (unpack archives first).")
    visited: set[tuple[int, int]] = set()
    for folder, folders, files in walk(root, follow_links=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link back up
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(folder).relative_to(root)
        for name in sorted(files):
            if not name.startswith(".") and not Path(folder, name).is_fifo():  # opening one would block
                yield (below / name).as_posix()
