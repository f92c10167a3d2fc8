"""An image or scene opened for prediction: its pixels, its place and its scale."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landcover.errors import UsageError
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task
from landcover.inference.reading import ArraySource
from landcover.io import read_imagery
from landcover.model.preprocessing import Size
from landcover.raster import Georeference, Scene, open_scene, pixel_sides, row_areas
from landcover.scale import GsdSource, unknown_gsd
from landcover.windows import Window

_SQUARE = 0.01
"""Sides of a pixel that differ by less are taken as equal."""


@dataclass(frozen=True, slots=True)
class Imagery:
    """Open imagery.

    Attributes:
        source: Its pixels, in strips.
        gsd: Metres per pixel, the geometric mean of the two sides.
        sides: Metres down and across a pixel; both ``gsd`` where it is square.
        gsd_source: Who says so.
        georeference: Where it lies, or None.
    """

    source: Scene | ArraySource
    gsd: float
    sides: tuple[float, float]
    gsd_source: GsdSource
    georeference: Georeference | None

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.source.height, self.source.width

    @property
    def damaged(self) -> list[Window]:
        """Windows that could not be read so far."""
        return list(self.source.damaged) if isinstance(self.source, Scene) else []

    @property
    def notes(self) -> list[str]:
        """What else was found out so far."""
        return list(self.source.warnings) if isinstance(self.source, Scene) else []

    def row_areas(self) -> npt.NDArray[np.float64] | None:
        """Return float64 (H,), square metres of a pixel in each row; None where no scale is known."""
        true = None if self.georeference is None else row_areas(self.georeference, *self.size)
        if true is not None or self.gsd_source == "assumed":
            return true
        return np.full(self.size[0], self.gsd**2)


@contextmanager
def open_imagery(task: Task, options: PredictOptions, model_gsd: float) -> Iterator[Imagery]:
    """Open what a task is about.

    Args:
        task: The image.
        options: How it is read.
        model_gsd: GSD of a scene of unknown scale, if ``options.gsd`` is ``"model"``.

    Raises:
        DataError: If it cannot be read.
        UsageError: If an option does not suit it.
    """
    if task.picture:
        if options.bbox is not None or options.aoi is not None:
            raise UsageError(
                f"{task.name} is a picture without georeference: --bbox and --aoi cannot be found in it."
            )
        source = ArraySource(*read_imagery(task.path, max_pixels=options.max_pixels))
        _check_known(task, options, task.gsd_source, model_gsd)
        yield Imagery(source, task.gsd, (task.gsd, task.gsd), task.gsd_source, None)
        return
    with open_scene(
        task.image,
        bands=options.bands,
        scaling=options.scaling,
        bbox=options.bbox,
        aoi=options.aoi,
        strict=options.strict,
    ) as scene:
        gsd, gsd_source, sides = task.gsd, task.gsd_source, (task.gsd, task.gsd)
        if gsd_source == "raster" and scene.gsd is None:
            gsd, gsd_source, sides = model_gsd, "assumed", (model_gsd, model_gsd)
        elif gsd_source == "raster" and scene.gsd is not None:
            # That of the part that is mapped, which may be far from the middle of the file.
            gsd, sides = scene.gsd, _sides(scene, scene.gsd)
        _check_known(task, options, gsd_source, model_gsd)
        yield Imagery(scene, gsd, sides, gsd_source, scene.georeference)


def _check_known(task: Task, options: PredictOptions, source: GsdSource, model_gsd: float) -> None:
    if source == "assumed" and options.gsd != "model":
        raise unknown_gsd(task.name, f"or --gsd model to assume the model's {model_gsd:g} m")


def _sides(scene: Scene, gsd: float) -> tuple[float, float]:
    """Return metres down and across a pixel, whose geometric mean is ``gsd``."""
    sides = None if scene.georeference is None else pixel_sides(scene.georeference, scene.height, scene.width)
    if sides is None or abs(sides[0] / sides[1] - 1) < _SQUARE:
        return gsd, gsd
    ratio = math.sqrt(sides[0] / sides[1])
    return gsd * ratio, gsd / ratio
