"""What is written for a scene: the map, and what was asked for besides."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from landcover.inference.engine import Band
from landcover.inference.options import PredictOptions
from landcover.inference.results import MadeMap
from landcover.inference.rowstore import RowStore, Workplace
from landcover.io import write_mask
from landcover.legend import NODATA, Legend, UInt8Array
from landcover.model.preprocessing import Size
from landcover.postprocess import remove_small_regions, sieve_bands
from landcover.raster import Georeference, write_bands, write_map
from landcover.raster.zonal import ClassAreas, ZoneAreas

IN_MEMORY_PIXELS = 1 << 26
"""Up to so many pixels (8192 x 8192) a scene's map stays in memory until it is written."""


class Stores:
    """The rows of a scene's products until they are written: class indices, and bytes for 0..1."""

    def __init__(self, workplace: Workplace, size: Size, classes: int, options: PredictOptions) -> None:
        height, width = size
        self.index = workplace.store("index", height, (width,))
        self.probabilities = (
            workplace.store("probabilities", height, (classes, width)) if options.probabilities else None
        )
        self.confidence = workplace.store("confidence", height, (width,)) if options.confidence else None

    def append(self, band: Band, legend: Legend) -> None:
        """Add a finished band; 255 in the map and 0 elsewhere where there is no imagery."""
        index = band.index(legend)
        if band.valid is not None:
            index[~band.valid] = NODATA
        self.index.append(index)
        if self.probabilities is None and self.confidence is None:
            return
        for part, values in band.probabilities():
            scaled = np.rint(values * 255).astype(np.uint8)
            if band.valid is not None:
                scaled[:, ~band.valid[part]] = 0
            if self.probabilities is not None:
                self.probabilities.append(np.moveaxis(scaled, 0, 1))
            if self.confidence is not None:
                self.confidence.append(scaled.max(axis=0))


def write_products(
    made: MadeMap,
    stores: Stores,
    georeference: Georeference | None,
    zones: ZoneAreas | None,
    options: PredictOptions,
    tags: Mapping[str, str],
) -> None:
    """Write what was asked for, and count the areas of ``made`` and ``zones`` on the way.

    Raises:
        OutputError: If something cannot be written.
    """
    task, legend, cog = made.task, made.areas.legend, options.map_format == "cog"
    replace = options.force or options.resume
    height, width = made.size
    if stores.probabilities is not None:
        write_bands(
            task.beside("_probabilities.tif"),
            (np.moveaxis(strip, 1, 0) for strip in stores.probabilities.strips()),
            len(legend.scored),
            height,
            width,
            georeference,
            names=legend.scored_names,
            tags=tags,
            cog=cog,
            force=replace,
        )
    if stores.confidence is not None:
        write_bands(
            task.beside("_confidence.tif"),
            (strip[None] for strip in stores.confidence.strips()),
            1,
            height,
            width,
            georeference,
            names=["confidence"],
            tags=tags,
            cog=cog,
            force=replace,
        )
    strips = _counted(_cleaned(stores.index, made, options), made.areas, zones)
    if task.map.suffix == ".png":
        index = list(strips)
        whole = index[0] if len(index) == 1 else np.concatenate(index)
        write_mask(task.map, whole, legend, mask_format=options.mask_format, tags=tags, force=replace)
    else:
        write_map(
            task.map,
            strips,
            height,
            width,
            legend,
            georeference,
            tags=tags,
            cog=cog,
            qml=options.qml,
            force=replace,
        )
    if options.vector is not None:
        from landcover.postprocess.vectorize import vectorize  # needs an extra

        confidence = task.beside("_confidence.tif") if options.confidence else None
        vectorize(
            task.map,
            task.map.with_suffix(f".{options.vector}"),
            legend=legend,
            confidence=confidence,
            force=replace,
        )


def _cleaned(index: RowStore, made: MadeMap, options: PredictOptions) -> Iterator[UInt8Array]:
    """Yield the map in strips, small regions removed if asked for."""
    if options.min_region is None:
        yield from index.strips()
        return
    min_pixels = options.min_region.pixels(made.gsd)
    height, width = made.size
    if height * width <= IN_MEMORY_PIXELS:
        yield remove_small_regions(index.read(0, height), min_pixels)
    else:
        yield from sieve_bands(index.read, height, width, min_pixels)


def _counted(
    strips: Iterable[UInt8Array], areas: ClassAreas, zones: ZoneAreas | None
) -> Iterator[UInt8Array]:
    """Count what passes by."""
    row = 0
    for strip in strips:
        areas.add(row, strip)
        if zones is not None:
            zones.add(row, strip)
        row += len(strip)
        yield strip
