"""Folders of image and mask files as data sets."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from landcover._gdal import files_of
from landcover._typing import BoolArray, UInt8Array
from landcover.data.dataset import (
    GSD_TOLERANCE,
    DataOptions,
    Dataset,
    Valid,
    crop,
    describe_reading,
    with_scenes,
)
from landcover.data.fingerprints import Fingerprint, hash_file, hash_pixels
from landcover.data.footprints import read_scenes
from landcover.data.layouts import SCENES_FILE, Discovery, Item, discover, find_images, typical_size
from landcover.data.settings import check_assumed_legend, declared_legend, read_settings
from landcover.errors import DataError, MaskError, UsageError
from landcover.io import MAX_PIXELS, Mask, image_size, read_mask
from landcover.io.discovery import MAX_OFF_PALETTE, RASTER_SUFFIXES
from landcover.io.images import check_pixels, exif_orientation, is_masked
from landcover.io.masks import binary_mask, check_off_palette_limit, lossy_mask
from landcover.legend import DEEPGLOBE, NODATA, Legend, translation
from landcover.model.preprocessing import Preprocessing
from landcover.raster import (
    Georeference,
    Header,
    Reading,
    Scene,
    is_picture,
    open_scene,
    read_header,
    read_picture,
)
from landcover.raster.bands import band_note
from landcover.raster.mapfiles import read_map_legend
from landcover.scale import SETTINGS_FILE, find_scale
from landcover.windows import Window

if TYPE_CHECKING:
    from landcover.data.vectorlabels import VectorLabels

logger = logging.getLogger(__name__)

_SAME_PLACE_PX = 0.5
"""Distance in pixels up to which image and mask are in the same place."""
_FIRST_QUARTER_TURN = 5
"""EXIF orientations from this one on exchange height and width."""
_BINARY_MASKS = 100
"""Masks that are searched for values beside 0 and 255."""


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A folder of image and mask files, whose legend may have another index order than :attr:`legend`.

    Reading a window decodes the whole file first: prepare a cache for training. ``headers`` are those of the
    images that may be georeferenced, by item key.
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
        return header.place.size if header and header.place else image_size(item.image)

    def georeference(self, item: Item) -> Georeference | None:
        """Return size, CRS and transform from the header of the image file, or None."""
        header = self.headers.get(item.key)
        return None if header is None else header.georeference

    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Decode an image and cut the window out of it; fill of one colour may be labelled as water."""
        if self._is_picture(item):
            image, valid, _ = read_picture(
                item.image, max_pixels=self.max_pixels, fill=self.reading.fill, colour_fill=False
            )
        else:
            with self._open(item) as scene:
                image, valid, _ = scene.read_rows(0, scene.height)
        return crop(image, window), None if valid is None else crop(valid, window)

    def _is_picture(self, item: Item) -> bool:
        return is_picture(item.image, self.georeference(item), self.reading)

    def _open(self, item: Item) -> Scene:
        check_pixels(item.image, self.size(item), self.max_pixels)
        return open_scene(item.image, **self.reading._replace(strict=True, colour_fill=False)._asdict())

    def fingerprint(self, item: Item) -> Fingerprint:
        """Hash the image file, and its pixels once they are decoded."""
        try:
            status = item.image.stat()
        except OSError as error:
            raise DataError(f"{item.image} cannot be read: {error.strerror}.") from error
        version = item.key, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return self._hash_once(
            version, lambda: Fingerprint(hash_file(item.image), hash_pixels(self.read_imagery(item)[0]))
        )

    def labels(self, item: Item, valid: Valid = "decode") -> Mask:
        """Decode a mask, and then the image where its header or its edges say that it may lack imagery."""
        path = item.mask
        if path is None:
            raise DataError(f"{item.image} has no mask.")
        if self.vector is not None:
            mask = Mask(self.vector.mask(item.key, self.size(item)), 0)
        else:
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
            size = self.size(item)
            _check_orientation(item.image, path, size, mask.index.shape)
            if mask.index.shape != size:
                raise DataError(
                    f"{path} is {mask.index.shape[0]} x {mask.index.shape[1]} pixels, its image "
                    f"{item.image} {size[0]} x {size[1]}; expected equal sizes."
                )
            _check_places(item.image, path, size)
        if self.mask_legend is not self.legend:
            mask = mask._replace(index=translation(self.mask_legend, self.legend)[mask.index])
        if isinstance(valid, str):
            valid = self.read_imagery(item)[1] if self._may_lack_imagery(item) else None
        if valid is not None:
            mask = mask._replace(index=np.where(valid, mask.index, np.uint8(NODATA)))
        return mask

    def _may_lack_imagery(self, item: Item) -> bool:
        if self._is_picture(item):
            return self.reading.fill == "nodata" or is_masked(item.image)
        with self._open(item) as scene:
            return scene.is_masked

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
    places = [place for path in (image, mask) if (place := read_header(path).place) is not None]
    grids = [place.transform for place in places if place.transform is not None]
    if len(grids) < 2:
        return
    systems = [place.georeference and place.georeference.crs for place in places]
    if all(systems) and systems[0] != systems[1]:
        of_image, of_mask = (system.to_string() for system in systems if system)
        raise MaskError(
            f"{mask} has the CRS {of_mask}, its image {image} {of_image}; expected one grid. Warp the mask "
            "to the image's grid (gdalwarp -r near -t_srs)."
        )
    height, width = size
    cols, rows = np.array([(0.0, 0.0), (0.0, height), (width, 0.0)]).T
    (x, y), (other_x, other_y) = (grid @ (cols, rows) for grid in grids)
    pixel = float(np.hypot(grids[0].a, grids[0].d))
    if not all(systems) and abs(np.hypot(grids[1].a, grids[1].d) / pixel - 1) > GSD_TOLERANCE:
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


def open_folder(path: Path, **options: Unpack[DataOptions]) -> FolderDataset:
    """Open a folder of files; see :func:`landcover.data.open_dataset`."""
    legend, gsd, labels = options.get("legend"), options.get("gsd"), options.get("labels")
    reading = options.get("reading") or Reading()
    max_pixels = options.get("max_pixels", MAX_PIXELS)
    max_off_palette = options.get("max_off_palette", MAX_OFF_PALETTE)
    check_off_palette_limit(max_off_palette)
    root = path.parent if labels is not None and path.is_file() else path
    settings = read_settings(root / SETTINGS_FILE)
    own = settings.reading
    reading = reading._replace(bands=reading.bands or own.bands, scaling=reading.scaling or own.scaling)
    found = discover(path, settings.names) if labels is None else find_images(path)
    legend = legend or declared_legend(root / SETTINGS_FILE, settings)
    masks = [item.mask for item in found.items if item.mask]
    if legend is None and masks and found.layout.size is None:  # no published set
        legend = read_map_legend(masks[0])
        if legend is None:
            check_assumed_legend(path, masks, max_pixels)

    headers = {
        item.key: read_header(item.image)
        for item in found.items
        if item.image.suffix.lower() in RASTER_SUFFIXES or Path(f"{item.image}.aux.xml").exists()
    }
    first = next((item.image for item in found.items if item.key in headers), None)
    if first is not None and reading.bands is None and (note := band_note(first)):
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
    layout = found.layout
    scale = find_scale(
        gsd,
        raster=lambda: _raster_gsd(found, headers),
        settings=lambda: settings.gsd,
        # Resized copies keep the names of a layout, but not its scale.
        layout=lambda: (
            layout.gsd
            if layout.gsd and typical_size(item.image for item in found.items) == layout.size
            else None
        ),
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
        reading=reading,
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


def _raster_gsd(found: Discovery, headers: Mapping[str, Header]) -> float | None:
    """Return the GSD of georeferenced images, None if there are none; refuse different ones."""
    known = {
        item.image: gsd
        for item in found.items
        if (header := headers.get(item.key)) is not None and (gsd := header.gsd) is not None
    }
    if not known:
        return None
    fine, coarse = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[coarse] > known[fine] * (1 + GSD_TOLERANCE):
        raise DataError(
            f"{fine} has {known[fine]:g} m per pixel, {coarse} {known[coarse]:g}; expected one GSD in a "
            "folder. Put them into separate folders, or pass --gsd if they are equal."
        )
    return next(iter(known.values()))
