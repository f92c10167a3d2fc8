"""Open data sets: images and masks of a folder or a prepared cache, behind one interface."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

import numpy as np
from pydantic import Field

from landcover._gdal import files_of
from landcover._typing import BoolArray, Int64Array, UInt8Array
from landcover.config import Config, from_mapping
from landcover.data.fingerprints import Fingerprint, hash_file, hash_pixels
from landcover.data.footprints import Neighbours, Place, find_neighbours, find_scenes, read_scenes
from landcover.data.layouts import (
    SCENES_FILE,
    Discovery,
    Item,
    SceneTile,
    discover,
    find_images,
    typical_size,
)
from landcover.data.survey import check_assumed_legend, legend_text, survey
from landcover.errors import ConfigError, DataError, MaskError, UsageError
from landcover.io import MAX_PIXELS, Mask, image_size, read_mask
from landcover.io.discovery import MAX_OFF_PALETTE, RASTER_SUFFIXES
from landcover.io.files import check_output, write_text
from landcover.io.images import check_pixels, exif_orientation, is_masked
from landcover.io.masks import binary_mask, check_off_palette_limit, lossy_mask
from landcover.legend import DEEPGLOBE, NODATA, Legend, load_legend, translation
from landcover.model.preprocessing import Preprocessing
from landcover.raster import (
    Georeference,
    Header,
    Reading,
    Scene,
    ground_sides,
    is_picture,
    open_scene,
    pixel_size,
    read_header,
    read_picture,
)
from landcover.raster.bands import band_note
from landcover.raster.mapfiles import read_map_legend
from landcover.scale import SETTINGS_FILE, find_scale, unknown_gsd
from landcover.textfiles import read_yaml
from landcover.values import BandSelection, Scaling, parse_scaling
from landcover.windows import Window

if TYPE_CHECKING:
    from landcover.data.vectorlabels import VectorLabels, VectorSource

logger = logging.getLogger(__name__)

_GSD_TOLERANCE = 0.01
"""Fraction by which the GSD of images in one folder may differ."""

_SAME_PLACE_PX = 0.5
"""Distance in pixels up to which image and mask are in the same place."""
_FIRST_QUARTER_TURN = 5
"""EXIF orientations from this one on exchange height and width."""
_BINARY_MASKS = 100
"""Masks that are searched for values beside 0 and 255."""

Array = TypeVar("Array", UInt8Array, BoolArray)


DatasetT = TypeVar("DatasetT", bound="Dataset")


@dataclass(frozen=True)
class Dataset(ABC):
    """Items of one folder or prepared cache. It can be pickled and used after a fork.

    Attributes:
        root: The folder or cache.
        layout: Name of the layout.
        legend: Meaning of the class indices that :meth:`read_mask` returns.
        gsd: Metres per pixel of the images, or None if unknown.
        items: All images, labelled or not, sorted by key.
        gsd_from_raster: Whether the GSD is that of the georeference.
        scenes: Positions in larger scenes by item key, of ``scenes.csv``, else of georeferences; None if both
            are missing.
        scene_table: Digest of that file; None without it, or if the cache does not record it.
        reading: How image files are read: the bands, and the scaling of their values.

    Example:
        >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
        >>> item = dataset.items[0]
        >>> dataset.size(item), dataset.read_image(item).shape, dataset.read_mask(item).shape
        ((64, 64), (64, 64, 3), (64, 64))
        >>> int(dataset.class_pixels(item).sum()), dataset.labels(item).off_palette
        (4096, 0)
        >>> len(dataset.fingerprint(item).pixels)  # bytes
        8
        >>> image, valid = dataset.read_imagery(item)  # valid: where there is imagery, None: everywhere
        >>> image.shape, valid, dataset.georeference(item)
        ((64, 64, 3), None, None)
        >>> dataset.known_gsd("training"), dataset.sides(item), len(dataset.by_source(dataset.items))
        (0.5, (0.5, 0.5), 1)
    """

    root: Path
    layout: str
    legend: Legend
    gsd: float | None
    gsd_from_raster: bool
    items: tuple[Item, ...]
    scenes: Mapping[str, SceneTile] | None
    scene_table: str | None
    reading: Reading

    def by_source(self, items: Sequence[Item]) -> "list[tuple[Dataset, list[Item]]]":
        """Return the items with the data set that they are from: more than one for combined data."""
        return [(self, list(items))]

    def known_gsd(self, needed_by: str) -> float:
        """Return :attr:`gsd`; where it is unknown, refuse with what needs it."""
        if self.gsd is None:
            raise unknown_gsd(f"{self.root}, which {needed_by} needs")
        return self.gsd

    @property
    def labelled(self) -> list[Item]:
        """Items with a mask."""
        return [item for item in self.items if item.mask is not None]

    @cached_property
    def parts(self) -> dict[str | None, list[Item]]:
        """Labelled items by subset; the only key is None if the layout has no subsets."""
        parts: dict[str | None, list[Item]] = {}
        for item in self.labelled:
            parts.setdefault(item.part, []).append(item)
        return parts

    @abstractmethod
    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) of an item without decoding it."""

    @abstractmethod
    def georeference(self, item: Item) -> Georeference | None:
        """Return CRS and transform of an image, or None."""

    def sides(self, item: Item) -> tuple[float, float]:
        """Return metres down and across a pixel of an image, as prediction takes them from its georeference.

        Raises:
            UsageError: If :attr:`gsd` is unknown.
        """
        gsd, place, size = self.known_gsd("its imagery"), self.georeference(item), self.size(item)
        own = pixel_size(place, *size) if self.gsd_from_raster and place is not None else None
        return (gsd, gsd) if own is None else ground_sides(place, size, own)

    @cached_property
    def places(self) -> dict[str, Place]:
        """Georeferences and sizes of the georeferenced images, by key."""
        placed = ((item, self.georeference(item)) for item in self.items)
        return {item.key: Place(place, self.size(item)) for item, place in placed if place is not None}

    @cached_property
    def neighbours(self) -> list[Neighbours]:
        """The images that overlap or touch by their georeferences."""
        return find_neighbours(self.places)

    @abstractmethod
    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Read an image or a window of it, as prediction does.

        Returns:
            uint8 (height, width, C), RGB or the bands of :attr:`reading`; and bool (height, width), where
            there is imagery, None: everywhere.

        Raises:
            ImageError: If the file is truncated or of an unsupported form.
        """

    def read_image(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read an image or a window of it: uint8 (height, width, C); see :meth:`read_imagery`."""
        return self.read_imagery(item, window)[0]

    def labels(self, item: Item) -> Mask:
        """Read a whole mask as class indices of :attr:`legend`, with the count of its off-palette pixels.

        It is NODATA where the image has no imagery.

        Raises:
            DataError: If the item has no mask, or the mask is unreadable or of another size than the image.
            MaskError: If its compression is lossy, or image and mask are georeferenced in different places.
        """
        mask = self.labels_within(item, None)  # first, so that a damaged mask beside a damaged image is named
        valid = self.read_imagery(item)[1] if self.may_lack_imagery(item) else None
        return mask if valid is None else _only_within(mask, valid)

    @abstractmethod
    def labels_within(self, item: Item, valid: BoolArray | None) -> Mask:
        """As :meth:`labels`, with the mask of valid pixels of an image that is decoded already."""

    def may_lack_imagery(self, item: Item) -> bool:
        """Return whether :meth:`labels_within` needs the mask of valid pixels of an image."""
        return False

    @abstractmethod
    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item's file and pixels; see :mod:`landcover.data.fingerprints`.

        Raises:
            DataError: If the image cannot be read.
        """

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it: uint8 (height, width), class indices of :attr:`legend`."""
        return crop(self.labels(item).index, window)

    def class_pixels(self, item: Item) -> Int64Array:
        """Count the pixels of each class in an item's mask: int64 (classes,)."""
        return count_classes(self.labels(item).index, self.legend)


def with_scenes(dataset: DatasetT, known: Sequence[Neighbours] = ()) -> DatasetT:
    """Return data with the scenes of their georeferences, as they are if not all images have one.

    ``known`` are images that are of one scene by other knowledge.
    """
    if len(dataset.places) < len(dataset.items):
        return dataset
    return replace(dataset, scenes=find_scenes(dataset.places, [*dataset.neighbours, *known]))


def count_classes(index: UInt8Array, legend: Legend) -> Int64Array:
    """Count the pixels of each class: int64 (classes,). NODATA is not counted."""
    return np.bincount(index.ravel(), minlength=256)[: len(legend)].astype(np.int64)


def crop(array: Array, window: Window | None) -> Array:
    """Cut a window out of (height, width, ...)."""
    if window is None:
        return array
    height, width = array.shape[:2]
    inside = 0 <= window.row < window.row + window.height <= height
    if not (inside and 0 <= window.col < window.col + window.width <= width):
        raise UsageError(f"{window} is not inside the image of {height} x {width} pixels.")
    return array[window.slices]


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A folder of image and mask files.

    Reading a window decodes the whole file first: prepare a cache for training.

    Attributes:
        mask_legend: Legend of the mask files, which may have another index order than :attr:`legend`.
        headers: Headers of the images that may be georeferenced, by item key.
        max_off_palette: Fraction of off-palette pixels, 0..1, above which a mask is refused.
    """

    mask_legend: Legend
    found: Discovery = field(repr=False)
    headers: Mapping[str, Header] = field(repr=False)
    vector: "VectorLabels | None" = field(default=None, repr=False)
    max_pixels: int = MAX_PIXELS
    max_off_palette: float = MAX_OFF_PALETTE

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) from the header of the image file."""
        header = self.headers.get(item.key)
        return (header and header.size) or image_size(item.image)

    def georeference(self, item: Item) -> Georeference | None:
        """Return CRS and transform from the header of the image file, or None."""
        header = self.headers.get(item.key)
        return None if header is None else header.georeference

    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Decode an image and cut the window out of it."""
        if self._is_picture(item):
            image, valid, _ = read_picture(item.image, max_pixels=self.max_pixels, fill=self.reading.fill)
        else:
            with self._open(item) as scene:
                image, valid, _ = scene.read_rows(0, scene.height)
        return crop(image, window), None if valid is None else crop(valid, window)

    def may_lack_imagery(self, item: Item) -> bool:
        """Return whether pixels of an image lack imagery, by its file or as fill."""
        if self._is_picture(item):
            return self.reading.fill == "nodata" or is_masked(item.image)
        with self._open(item) as scene:
            return scene.is_masked

    def _is_picture(self, item: Item) -> bool:
        return is_picture(item.image, self.georeference(item), self.reading)

    def _open(self, item: Item) -> Scene:
        check_pixels(item.image, self.size(item), self.max_pixels)
        return open_scene(item.image, **self.reading._replace(strict=True)._asdict())

    def fingerprint(self, item: Item) -> Fingerprint:
        """Hash the image file, and its pixels once they are decoded."""
        image, _ = self.read_imagery(item)
        return Fingerprint(hash_file(item.image), hash_pixels(image))

    def labels_within(self, item: Item, valid: BoolArray | None) -> Mask:
        """Decode a mask to class indices of :attr:`legend`; NODATA where the image has no data."""
        if item.mask is None:
            raise DataError(f"{item.image} has no mask.")
        if self.vector is None:
            mask = self._read_mask(item, item.mask)
        else:
            mask = Mask(self.vector.mask(item.key, self.size(item)), 0)
        index = mask.index
        if self.mask_legend is not self.legend:
            index = translation(self.mask_legend, self.legend)[index]
        mask = mask._replace(index=index)
        return mask if valid is None else _only_within(mask, valid)

    def _read_mask(self, item: Item, path: Path) -> Mask:
        """Decode a mask file, and check that it fits the image."""
        mask = read_mask(
            path,
            self.mask_legend,
            max_pixels=self.max_pixels,
            max_off_palette=self.max_off_palette,
            allow_binary=True,
        )
        if mask.lossy:
            raise lossy_mask(path, mask.lossy)
        if mask.is_binary and self._is_binary:
            raise binary_mask(path)
        height, width = self.size(item)
        _check_orientation(item.image, path, (height, width), mask.index.shape)
        if mask.index.shape != (height, width):
            raise DataError(
                f"{path} is {mask.index.shape[0]} x {mask.index.shape[1]} pixels, its image "
                f"{item.image} {height} x {width}; expected equal sizes."
            )
        _check_places(item.image, path, (height, width))
        return mask

    @cached_property
    def _is_binary(self) -> bool:
        """Whether no mask has a value beside 0 and 255, so that the meaning of 255 is unknown."""
        for item in self.labelled[:: max(1, len(self.labelled) // _BINARY_MASKS)]:
            try:
                mask = read_mask(item.mask, self.mask_legend, max_pixels=self.max_pixels, allow_binary=True)  # type: ignore[arg-type]
            except DataError:  # reported when its turn comes
                continue
            if mask.form != "indices" or not np.isin(mask.index, (0, NODATA)).all():
                return False
        return True


def _check_orientation(image: Path, mask: Path, size: tuple[int, int], of_mask: tuple[int, ...]) -> None:
    """Refuse a mask that may be drawn on a picture as viewers turn it: landcover reads pixels as stored."""
    turns = {path: exif_orientation(path) for path in (image, mask)}
    if turns[image] == turns[mask]:
        return
    is_quarter = (turns[image] >= _FIRST_QUARTER_TURN) != (turns[mask] >= _FIRST_QUARTER_TURN)
    turned = size[::-1] if is_quarter else size
    if of_mask == turned and (turned == size or of_mask != size):
        one, other = (image, mask) if turns[image] != 1 else (mask, image)
        raise MaskError(
            f"{one} has the EXIF orientation {turns[one]}, by which viewers turn it; {other} has "
            f"{turns[other]} (1: as stored). The mask has {of_mask[0]} x {of_mask[1]} pixels (height x "
            "width). If the two fit as viewers show them, turn the stored pixels (mogrify -auto-orient); if "
            "they fit as they are stored, remove the tag (exiftool -Orientation=)."
        )


def _check_places(image: Path, mask: Path, size: tuple[int, int]) -> None:
    """Refuse a mask whose position is another than its image's, by a CRS or by a transform alone."""
    if not all(path.suffix.lower() in RASTER_SUFFIXES or len(files_of(path)) > 1 for path in (image, mask)):
        return
    one, other = read_header(image), read_header(mask)
    if one.transform is None or other.transform is None:
        return
    systems = [header.georeference and header.georeference.crs for header in (one, other)]
    if all(systems) and systems[0] != systems[1]:
        of_image, of_mask = (system.to_string() for system in systems if system)
        raise MaskError(
            f"{mask} has the CRS {of_mask}, its image {image} {of_image}; expected one grid. Warp the mask "
            "to the image's grid (gdalwarp -r near -t_srs)."
        )
    height, width = size
    cols, rows = np.array([(0.0, 0.0), (0.0, height), (width, 0.0)]).T
    (x, y), (other_x, other_y) = one.transform @ (cols, rows), other.transform @ (cols, rows)
    pixel = float(np.hypot(one.transform.a, one.transform.d))
    if not all(systems) and abs(np.hypot(other.transform.a, other.transform.d) / pixel - 1) > _GSD_TOLERANCE:
        return  # perhaps the unit of a program, not a position
    apart = float(np.hypot(x - other_x, y - other_y).max())
    if apart > _SAME_PLACE_PX * pixel:
        system = systems[0] or systems[1]
        unit = "units" if not system else "degrees" if system.is_geographic else system.linear_units
        raise MaskError(
            f"{mask} is up to {apart:.6g} {unit} ({apart / pixel:.1f} pixels) away from its image {image}; "
            "expected the same place. Pair the right files, or warp the mask to the image's grid "
            "(gdalwarp -te -tr)."
        )


def read_as(dataset: Dataset, preprocessing: Preprocessing) -> Dataset:
    """Return a dataset whose images are read with the bands and the scaling that a model was trained with.

    Those that the data declare or the user passed are kept.
    """
    own, (bands, scaling) = dataset.reading, preprocessing.reading
    reading = own._replace(bands=own.bands or bands, scaling=own.scaling or scaling)
    if reading.channels != preprocessing.channels:
        raise UsageError(
            f"{dataset.root} is read with {describe_reading(reading)}; the model takes "
            f"{preprocessing.channels} bands ({', '.join(preprocessing.bands)}). Pass --bands with as many "
            "numbers."
        )
    if reading != own and not isinstance(dataset, FolderDataset):
        raise UsageError(
            f"{dataset.root} was prepared with {describe_reading(own)}, and the model was trained with "
            f"{describe_reading(reading)}. Run landcover prepare with these."
        )
    return replace(dataset, reading=reading)


def describe_reading(reading: Reading) -> str:
    """Return how images are read as options, for messages."""
    found = ["--bands " + ",".join(map(str, reading.bands)) if reading.bands else "bands by their names"]
    if isinstance(reading.scaling, tuple):
        found.append("--scaling {:g},{:g}".format(*reading.scaling))
    else:
        found.append(f"--scaling {reading.scaling}" if reading.scaling else "no scaling")
    for name, default in (("alpha", None), ("nodata", None), ("fill", "nodata")):
        if (value := getattr(reading, name)) != default:
            found.append(f"--{name} {value}")
    return f"{', '.join(found[:-1])} and {found[-1]}"


class DataOptions(TypedDict, total=False):
    """How a data folder is read.

    Attributes:
        legend: Meaning of the mask files; by default that of ``landcover.yaml``, else that of the layout.
        gsd: Metres per pixel; by default from the georeference, ``landcover.yaml`` or the layout.
        reading: Bands and scaling of the images; by default those of ``landcover.yaml``, else as for
            prediction: red, green and blue by name or order, and 8-bit values as they are.
        labels: Polygons or points that label the images, in place of masks.
        max_pixels: Larger images and masks are refused when they are read.
        max_off_palette: Masks with a larger fraction of pixels, 0..1, whose colour is not in the legend are
            refused when they are read.
    """

    legend: Legend | None
    gsd: float | None
    reading: Reading | None
    labels: "VectorSource | None"
    max_pixels: int
    max_off_palette: float


def open_folder(path: Path, **options: Unpack[DataOptions]) -> FolderDataset:
    """Open a folder of files; see :func:`landcover.data.open_dataset`."""
    legend, gsd, labels = options.get("legend"), options.get("gsd"), options.get("labels")
    reading = options.get("reading") or Reading()
    max_pixels = options.get("max_pixels", MAX_PIXELS)
    max_off_palette = options.get("max_off_palette", MAX_OFF_PALETTE)
    check_off_palette_limit(max_off_palette)
    root = path.parent if labels is not None and path.is_file() else path
    settings = read_settings(root / SETTINGS_FILE)
    found = discover(path, settings.names) if labels is None else find_images(path)
    legend = legend or settings.legend
    masks = [item.mask for item in found.items if item.mask]
    if legend is None and masks and found.layout.size is None:  # no published set
        legend = read_map_legend(masks[0])
        if legend is None:
            check_assumed_legend(path, masks, max_pixels)

    def published_gsd() -> float | None:
        # Resized copies keep the names of a layout, but not its scale.
        layout = found.layout
        published = layout.gsd and typical_size(item.image for item in found.items) == layout.size
        return layout.gsd if published else None

    headers = {
        item.key: read_header(item.image)
        for item in found.items
        if item.image.suffix.lower() in RASTER_SUFFIXES or Path(f"{item.image}.aux.xml").exists()
    }
    first = next((item.image for item in found.items if item.key in headers), None)
    if first is not None and (reading.bands or settings.bands) is None and (note := band_note(first)):
        logger.warning(note)
    vector = None
    if labels is not None:
        from landcover.data.annotations import Target
        from landcover.data.vectorlabels import read_vector_labels

        targets = {
            item.key: Target(item.image, image_size(item.image), headers.get(item.key, Header()).georeference)
            for item in found.items
        }
        vector = read_vector_labels(labels, targets, legend)
        legend = vector.legend
        items = tuple(replace(item, mask=vector.files.get(item.key)) for item in found.items)
        found = replace(found, items=items)
    scale = find_scale(
        gsd, raster=lambda: _raster_gsd(found, headers), settings=lambda: settings.gsd, layout=published_gsd
    )
    scenes_file = root / SCENES_FILE
    has_scenes = scenes_file.is_file()
    dataset = FolderDataset(
        root=root,
        layout=found.layout.name,
        legend=legend or DEEPGLOBE,
        gsd=None if scale is None else scale.gsd,
        items=found.items,
        scenes=read_scenes(scenes_file, found.items) if has_scenes else None,
        # The digest of the table gives scene ids their meaning.
        scene_table=hash_file(scenes_file).hex() if has_scenes else None,
        reading=reading._replace(
            bands=reading.bands or settings.bands, scaling=reading.scaling or settings.scaling
        ),
        # A legend given by the user describes the files; only without one the layout's index order applies.
        mask_legend=legend or found.layout.mask_legend or DEEPGLOBE,
        found=found,
        headers=headers,
        gsd_from_raster=scale is not None and scale.source == "raster",
        vector=vector,
        max_pixels=max_pixels,
        max_off_palette=max_off_palette,
    )
    return dataset if has_scenes else with_scenes(dataset)


def describe_legend(
    folder: Path,
    *,
    names: Sequence[str],
    ignore: Sequence[int],
    unknown: str | None,
    gsd: float | None,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> tuple[Path, str]:
    """Write ``landcover.yaml`` of a data folder from what its masks hold; return its path and text.

    See :func:`landcover.data.survey.legend_text` for the arguments.
    """
    path = folder / SETTINGS_FILE
    present: dict[str, Any] = (read_yaml(path) or {}) if path.exists() else {}
    if "legend" in present:
        check_output(path, force=force)
    settings = from_mapping(
        _SettingsFile, {key: present[key] for key in present if key != "legend"}, str(path)
    )
    names_of_files = (settings.images, settings.masks) if settings.images and settings.masks else None
    masks = [item.mask for item in discover(folder, names_of_files).items if item.mask]
    if not masks:
        raise DataError(f"{folder} has no masks; expected images with masks.")
    found = survey(masks, max_pixels)
    text = legend_text(found, names=names, ignore=ignore, unknown=unknown, gsd=gsd or settings.gsd)
    for name in ("images", "masks", "bands", "scaling"):
        if name in present:
            text += f"{name}: {json.dumps(present[name])}\n"
    write_text(path, text, force=True)
    return path, text


def _raster_gsd(found: Discovery, headers: Mapping[str, Header]) -> float | None:
    """Return the GSD of georeferenced images, None if there are none; refuse different ones."""
    known = {
        item.image: header.gsd
        for item in found.items
        if (header := headers.get(item.key)) is not None and header.gsd is not None
    }
    if not known:
        return None
    fine, coarse = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[coarse] > known[fine] * (1 + _GSD_TOLERANCE):
        raise DataError(
            f"{fine} has {known[fine]:g} m per pixel, {coarse} {known[coarse]:g}; expected one GSD in a "
            "folder. Put them into separate folders, or pass --gsd if they are equal."
        )
    return next(iter(known.values()))


class Settings(NamedTuple):
    """Content of ``landcover.yaml`` in a data folder.

    Attributes:
        gsd: Metres per pixel.
        legend: The legend of the masks.
        names: Patterns of the paths of images and masks; see :func:`landcover.data.layouts.discover`.
        bands: Numbers of the bands: red, green, blue, and others.
        scaling: The values that become 0 and 255.
    """

    gsd: float | None = None
    legend: Legend | None = None
    names: tuple[str, str] | None = None
    bands: BandSelection | None = None
    scaling: Scaling | None = None


class _SettingsFile(Config):
    gsd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    legend: str | dict[str, Any] | None = None
    images: str | None = None
    masks: str | None = None
    bands: tuple[int, ...] | None = None
    scaling: tuple[float, float] | Literal["percentile"] | None = None


def read_settings(path: Path) -> Settings:
    """Read ``landcover.yaml``; a missing file gives empty settings.

    It may hold ``gsd``, in metres per pixel; ``legend``: a name, a YAML file beside it, or written out;
    ``images`` and ``masks``: paths with names in braces, such as ``img_dir/{subset}/{id}.png``; and ``bands``
    and ``scaling``, such as ``[4, 3, 2]`` and ``[0, 3000]``.
    """
    file = from_mapping(_SettingsFile, (read_yaml(path) or {}) if path.exists() else {}, str(path))
    names = None
    if file.images is not None and file.masks is not None:
        names = file.images, file.masks
    elif file.images is not None or file.masks is not None:
        raise ConfigError(f"{path} has only one of images and masks; expected both or none.")
    legend = None
    if isinstance(file.legend, str):
        beside = path.parent / file.legend
        legend = load_legend(beside if beside.exists() else file.legend)
    elif file.legend is not None:
        legend = Legend.from_dict(file.legend, f"{path}: legend")
    bands = None if file.bands is None else BandSelection.parse(file.bands)
    scaling = None if file.scaling is None else parse_scaling(file.scaling)
    return Settings(file.gsd, legend, names, bands, scaling)


def _only_within(mask: Mask, valid: BoolArray) -> Mask:
    """Return a mask that is nodata where the image is not valid."""
    return mask._replace(index=np.where(valid, mask.index, np.uint8(NODATA)))
