"""What a prediction did, and how much of each class it found."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover.inference.plan import Task
from landcover.legend import Legend
from landcover.preprocessing import Size


@dataclass(frozen=True, slots=True)
class Area:
    """How much of the imagery one class covers; share is 0..1, hectares None where a scale is assumed."""

    name: str
    pixels: int
    share: float
    hectares: float | None


@dataclass(frozen=True, slots=True)
class MadeMap:
    """A map that was written: its height and width, and the pixels of each class, int64 (classes,)."""

    task: Task
    size: Size
    pixels: npt.NDArray[np.int64]


@dataclass
class Prediction:
    """What :func:`landcover.inference.predict` did.

    Attributes:
        legend: Classes of the maps.
        model: The model file or folder as given, or ``in memory``.
        model_sha256: Its hash; None for a model in memory.
        model_gsd: Metres per pixel that the model works at.
        maps: The maps written.
        failed: Why an image was skipped, by its path.
    """

    legend: Legend
    model: str
    model_sha256: str | None
    model_gsd: float
    maps: list[MadeMap] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)

    @property
    def areas(self) -> list[Area]:
        """The scored classes over all maps, in the legend's order."""
        pixels = np.zeros(len(self.legend), np.int64)
        hectares = np.zeros(len(self.legend))
        for made in self.maps:
            pixels += made.pixels
            hectares += made.pixels * made.task.gsd**2 / 10_000
        scale_known = all(made.task.gsd_source != "assumed" for made in self.maps)
        total = max(1, int(pixels.sum()))
        return [
            Area(
                self.legend.names[i],
                int(pixels[i]),
                int(pixels[i]) / total,
                float(hectares[i]) if scale_known else None,
            )
            for i in self.legend.scored
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "model_gsd": self.model_gsd,
            "classes": [asdict(area) for area in self.areas],
            "maps": [self._map(made) for made in self.maps],
            "failed": [{"image": str(image), "error": reason} for image, reason in self.failed.items()],
        }

    def _map(self, made: MadeMap) -> dict[str, Any]:
        task, (height, width) = made.task, made.size
        return {
            "image": str(task.image),
            "map": str(task.map),
            "probabilities": None if task.probabilities is None else str(task.probabilities),
            "height": height,
            "width": width,
            "gsd": task.gsd,
            "gsd_source": task.gsd_source,
            "nodata_pixels": height * width - int(made.pixels.sum()),
            "pixels": {self.legend.names[i]: int(made.pixels[i]) for i in self.legend.scored},
        }
