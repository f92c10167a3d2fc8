"""Several data sets as one, for training: their images together, in the legend of the first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.data.dataset import Dataset, describe_reading, with_scenes
from landcover.data.fingerprints import Fingerprint
from landcover.data.footprints import Neighbours
from landcover.data.layouts import Item, SceneTile
from landcover.errors import UsageError
from landcover.io import Mask
from landcover.legend import index_by_name
from landcover.raster import Georeference
from landcover.windows import Window

_GSD_TOLERANCE = 0.01
"""Fraction by which the GSD of the data sets may differ."""


@dataclass(frozen=True)
class CombinedDataset(Dataset):
    """The items of several data sets. Keys begin with the name of the folder that an item is from.

    Attributes:
        sources: The data set, the item there and the translation of class indices, uint8 (256,), by key.
    """

    sources: Mapping[str, tuple[Dataset, Item, UInt8Array]] = field(repr=False)

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) of an item."""
        dataset, own, _ = self.sources[item.key]
        return dataset.size(own)

    def georeference(self, item: Item) -> Georeference | None:
        """Return CRS and transform of an image, or None."""
        dataset, own, _ = self.sources[item.key]
        return dataset.georeference(own)

    def sides(self, item: Item) -> tuple[float, float]:
        """Return metres down and across a pixel of an image."""
        dataset, own, _ = self.sources[item.key]
        return dataset.sides(own)

    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Read an image or a window of it."""
        dataset, own, _ = self.sources[item.key]
        return dataset.read_imagery(own, window)

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it, in the legend of the first data set."""
        dataset, own, table = self.sources[item.key]
        return np.take(table, dataset.read_mask(own, window))

    def labels_within(self, item: Item, valid: BoolArray | None) -> Mask:
        """Read a whole mask, in the legend of the first data set."""
        dataset, own, table = self.sources[item.key]
        mask = dataset.labels_within(own, valid)
        return mask._replace(index=np.take(table, mask.index))

    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item."""
        dataset, own, _ = self.sources[item.key]
        return dataset.fingerprint(own)

    def by_source(self, items: Sequence[Item]) -> list[tuple[Dataset, list[Item]]]:
        """Return the items in each data set."""
        groups: dict[int, tuple[Dataset, list[Item]]] = {}
        for item in items:
            dataset, own, _ = self.sources[item.key]
            groups.setdefault(id(dataset), (dataset, []))[1].append(own)
        return list(groups.values())


def combine(datasets: Sequence[Dataset]) -> Dataset:
    """Return several data sets as one; a single one as it is.

    Where all images are georeferenced, scenes are joined across the data sets.
    """
    first = datasets[0]
    if len(datasets) == 1:
        return first
    for dataset in datasets:
        gsd, other = first.known_gsd("the combination"), dataset.known_gsd("the combination")
        if abs(other / gsd - 1) > _GSD_TOLERANCE:
            raise UsageError(
                f"{first.root} has {gsd:g} m per pixel, {dataset.root} {other:g}; expected one GSD for all "
                "of --data. Resample one of them (gdalwarp -tr), or pass --gsd if they are equal."
            )
        if dataset.reading != first.reading:
            raise UsageError(
                f"{first.root} is read with {describe_reading(first.reading)}, {dataset.root} with "
                f"{describe_reading(dataset.reading)}; expected the same bands and scaling in all of --data."
            )
    names = [dataset.root.resolve().name for dataset in datasets]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name}-{n}" if name in repeated else name for n, name in enumerate(names, 1)]
    sources: dict[str, tuple[Dataset, Item, UInt8Array]] = {}
    items = []
    scenes: dict[str, SceneTile] = {}
    for name, dataset in zip(names, datasets, strict=True):
        if unknown := [n for n in dataset.legend.scored_names if n not in first.legend.scored_names]:
            raise UsageError(
                f"{dataset.root} has the classes {', '.join(unknown)}, which the first of --data does not "
                f"have ({', '.join(first.legend.scored_names)}). Name the data set that has all classes "
                "first, or give both the same names in their landcover.yaml."
            )
        table = index_by_name(dataset.legend, first.legend)
        for own in dataset.items:
            item = replace(own, key=f"{name}/{own.key}")
            items.append(item)
            sources[item.key] = dataset, own, table
        for key, tile in (dataset.scenes or {}).items():
            scenes[f"{name}/{key}"] = SceneTile(f"{name}/{tile.scene}", tile.row, tile.col)
    combined = CombinedDataset(
        root=Path(" + ".join(names)),
        layout="combined",
        legend=first.legend,
        gsd=first.gsd,
        gsd_from_raster=first.gsd_from_raster,
        items=tuple(sorted(items, key=lambda item: item.key)),
        scenes=scenes if all(dataset.scenes is not None for dataset in datasets) else None,
        scene_table=None,
        reading=first.reading,
        sources=sources,
    )
    # Those of each data set are kept whole.
    first_of: dict[str, str] = {}
    of_tables = [
        Neighbours(first_of.setdefault(tile.scene, key), key, "touching") for key, tile in scenes.items()
    ]
    return with_scenes(combined, of_tables)
