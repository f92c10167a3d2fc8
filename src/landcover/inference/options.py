"""What a prediction is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from landcover.errors import UsageError
from landcover.io import MAX_PIXELS, MaskFormat
from landcover.model.preprocessing import check_gsd
from landcover.postprocess import parse_min_region
from landcover.raster import Scaling, check_box, check_scaling
from landcover.windows import cannot_overlap

MapFormat = Literal["auto", "png", "tif", "cog"]
VectorFormat = Literal["gpkg", "geojson", "fgb", "parquet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """How images are read, classified and written; every field has a default that suits most.

    Attributes:
        gsd: Metres per pixel of all images. None asks the image's transform, then ``landcover.yaml`` in or
            above its folder, then the layout of the input folder; else the model's is assumed, and said so.
        bands: Numbers of the red, green and blue band of rasters, from 1. None: by their colours.
        scaling: Values of rasters beyond 8 bits that become 0 and 255, or ``"percentile"``: the 2nd and
            98th percentile of each scene. None refuses such rasters.
        bbox: Left, bottom, right, top in the scene's CRS: only this part.
        aoi: File of polygons: only what lies inside.
        strict: Stop at a damaged block of a raster, instead of leaving it without data.
        max_pixels: Larger pictures that cannot be read by windows are refused.
        window_px: Sliding window in pixels of the model's grid; see
            :func:`landcover.inference.grid.make_grid`.
        overlap_px: Its overlap; likewise.
        batch: Windows that the network gets at once.
        turns: Average over the eight turns and flips of each window: eight times the work.
        min_region: Give smaller regions the class of their largest neighbour: ``8000px`` or ``2000m2``.
        probabilities: Write ``NAME_probabilities.tif`` too: a band for each class, 0..255.
        confidence: Write ``NAME_confidence.tif`` too: the probability of the mapped class, 0..255.
        map_format: ``auto``: GeoTIFF for what is georeferenced or a URL, PNG for all else.
        mask_format: Form of PNG maps.
        qml: Write a style for QGIS beside each GeoTIFF.
        vector: Write the map as polygons too, ``NAME_mask.<format>``.
        zones: File of polygons: areas are counted for each of them too.
        zone_column: What the polygons are called; None numbers them from 1.
        jobs: Scenes that are worked on at a time; they share the network.
        resume: Keep maps that this model made already, and go on with a scene where a killed run stopped.
        force: Replace existing maps.

    Raises:
        UsageError: If a value cannot be used.

    Example:
        >>> import landcover as lc
        >>> lc.PredictOptions(gsd=0.5, min_region="2000m2").batch
        1
    """

    gsd: float | None = None
    bands: tuple[int, int, int] | None = None
    scaling: Scaling | None = None
    bbox: tuple[float, float, float, float] | None = None
    aoi: Path | None = None
    strict: bool = False
    max_pixels: int = MAX_PIXELS
    window_px: int | None = None
    overlap_px: int | None = None
    batch: int = 1
    turns: bool = False
    min_region: str | None = None
    probabilities: bool = False
    confidence: bool = False
    map_format: MapFormat = "auto"
    mask_format: MaskFormat = "palette"
    qml: bool = False
    vector: VectorFormat | None = None
    zones: Path | None = None
    zone_column: str | None = None
    jobs: int = 1
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.gsd is not None:
            check_gsd(self.gsd)
        if self.bbox is not None:
            check_box(self.bbox)
        if self.scaling is not None:
            check_scaling(self.scaling)
        if self.min_region is not None:
            parse_min_region(self.min_region, 1.0)
        if self.window_px is not None and self.window_px < 0:
            raise UsageError(f"Windows of {self.window_px} px are not possible; expected 0 or more.")
        if self.overlap_px is not None and (
            self.overlap_px < 0 or (self.window_px and self.overlap_px >= self.window_px)
        ):
            raise cannot_overlap(self.window_px or 0, self.overlap_px)
        if self.batch < 1:
            raise UsageError(f"{self.batch} windows at once are not possible; expected at least 1.")
        if self.jobs < 1:
            raise UsageError(f"{self.jobs} scenes at a time are not possible; expected at least 1.")
        if self.zone_column is not None and self.zones is None:
            raise UsageError("A column of the zones was named, but no file of zones was given.")
        if self.resume and self.force:
            raise UsageError("Either --resume keeps the maps that are there, or --force replaces them.")
