"""What a prediction did, and how much of each class it found."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from landcover.inference.plan import Task
from landcover.legend import Legend
from landcover.model.preprocessing import Size
from landcover.ood import OodReport
from landcover.raster.zonal import ClassArea, ClassAreas
from landcover.scale import GsdSource
from landcover.windows import Window


@dataclass(frozen=True, slots=True)
class MadeMap:
    """A map that was written.

    Attributes:
        task: What was to do.
        size: Height and width.
        gsd: Metres per pixel.
        gsd_source: Who says so.
        areas: Pixels and areas of each class.
        zones: The same for each polygon of the file of zones.
        damaged: Windows of the scene that could not be read and have no data in the map.
        notes: What else should be known of the scene.
        ood: How much of it is out of distribution for the model; None where that is not known.
    """

    task: Task
    size: Size
    gsd: float
    gsd_source: GsdSource
    areas: ClassAreas
    zones: dict[str, ClassAreas] = field(default_factory=dict)
    damaged: tuple[Window, ...] = ()
    notes: tuple[str, ...] = ()
    ood: OodReport | None = None


@dataclass
class Prediction:
    """What :func:`landcover.inference.predict` did.

    Attributes:
        legend: Classes of the maps.
        model: The model file or folder as given, or ``in memory``.
        model_sha256: Its hash; None for a model in memory.
        model_gsd: Metres per pixel that the model works at.
        runtime: The library that computed.
        device: Where it computed.
        licence: Terms of the model's weights, in words; empty where its card has none.
        maps: The maps written.
        kept: Maps that were there already and were kept; they count in all sums.
        failed: Why an image was skipped, by its name.
    """

    legend: Legend
    model: str
    model_sha256: str | None
    model_gsd: float
    runtime: str
    device: str
    licence: str = ""
    maps: list[MadeMap] = field(default_factory=list)
    kept: list[MadeMap] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def all(self) -> list[MadeMap]:
        """Maps made and kept, by their paths."""
        return sorted([*self.maps, *self.kept], key=lambda made: made.task.map)

    @property
    def complete(self) -> bool:
        """Whether every image got its map, and every block of it could be read."""
        return not self.failed and not any(made.damaged for made in self.all)

    @property
    def areas(self) -> list[ClassArea]:
        """The scored classes over all maps, in the legend's order."""
        total = ClassAreas(self.legend, None)
        total.scaled = all(made.areas.scaled for made in self.all)
        for made in self.all:
            total.pixels += made.areas.pixels
            total.square_metres += made.areas.square_metres
        return total.table()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "model_gsd": self.model_gsd,
            "runtime": self.runtime,
            "device": self.device,
            "licence": self.licence,
            "classes": [asdict(area) for area in self.areas],
            "maps": [self._map(made) for made in self.all],
            "kept": [str(made.task.map) for made in self.kept],
            "failed": [{"image": image, "error": reason} for image, reason in self.failed.items()],
        }

    def area_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each map, zone (empty: the whole map) and class, for a table."""
        for made in self.all:
            for zone, areas in [("", made.areas), *made.zones.items()]:
                for area in areas.table():
                    square_metres = None if area.hectares is None else area.hectares * 10_000
                    place = {"map": str(made.task.map), "zone": zone, "class": area.name}
                    yield place | {
                        "pixels": area.pixels,
                        "square_metres": square_metres,
                        "hectares": area.hectares,
                        "share": area.share,
                    }

    def _map(self, made: MadeMap) -> dict[str, Any]:
        task, (height, width) = made.task, made.size
        pixels = made.areas.pixels
        return {
            "image": task.name,
            "map": str(task.map),
            "height": height,
            "width": width,
            "gsd": made.gsd,
            "gsd_source": made.gsd_source,
            "nodata_pixels": height * width - int(pixels.sum()),
            "pixels": {self.legend.names[i]: int(pixels[i]) for i in self.legend.scored},
            "classes": [asdict(area) for area in made.areas.table()],
            "zones": {name: [asdict(area) for area in zone.table()] for name, zone in made.zones.items()},
            "damaged": [list(window) for window in made.damaged],
            "notes": list(made.notes),
            "unlike": None if made.ood is None else made.ood.to_dict(),
        }
