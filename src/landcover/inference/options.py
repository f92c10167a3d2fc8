"""Options of a prediction: each one declared once.

The command line, its reference page and the identity that ``resume`` compares are made from this list.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, field_validator, model_validator
from rasterio.crs import CRS
from rasterio.errors import CRSError

from landcover._gdal import grid_file
from landcover.config import INPUT, MAIN, PROCESSING, PRODUCTS, REPORTS, Option, Options
from landcover.errors import UsageError
from landcover.io.discovery import MAX_PIXELS
from landcover.model.card import ModelCard
from landcover.raster import Reading
from landcover.scale import FromModel, check_gsd
from landcover.textfiles import parse_number
from landcover.values import (
    BandSelection,
    BoundingBox,
    MaskFormat,
    RegionSize,
    Scaling,
    Views,
    check_views,
    parse_scaling,
)
from landcover.windows import cannot_overlap

MapFormat = Literal["auto", "png", "tif", "cog"]
VectorFormat = Literal["gpkg", "geojson", "fgb", "parquet"]


def _parsed(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else parse(value))


def _gsd(value: Any) -> Any:
    """Return metres per pixel, or ``model``; a number may be written as text."""
    if value is None or value == "model":
        return value
    try:
        return check_gsd(float(value) if parse_number(str(value)) is not None else math.nan)
    except (TypeError, ValueError):
        raise UsageError(
            f"The ground sample distance is {value!r}; expected metres per pixel above 0, or model."
        ) from None


def _alpha(value: Any) -> Any:
    """Return the number of a band, or ``none``."""
    text = str(value).strip().lower()
    if text == "none":
        return text
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise UsageError(f"The alpha band is {value!r}; expected the number of a band, from 1, or none.")


def _crs(value: Any) -> str:
    """Return a CRS as text."""
    try:
        crs = CRS.from_user_input(str(value))
    except CRSError:
        crs = None
    if not crs or grid_file(crs.to_wkt()):
        raise UsageError(f"The CRS is {value!r}; expected one such as EPSG:32631.")
    text: str = crs.to_string()
    return text


class ImageryOptions(Options):
    """How imagery is read: its bands and values, and what marks pixels without imagery.

    Example:
        >>> from landcover.inference.options import ImageryOptions
        >>> ImageryOptions(bands="3,2,1", nodata=0).reading.nodata
        0.0
    """

    bands: Annotated[
        InstanceOf[BandSelection] | None,
        _parsed(BandSelection.parse),
        Option(
            "Numbers of the bands, from 1: red, green, blue, and others for models of more, such as 3,2,1 or "
            "3,2,1,4. By default those of landcover.yaml or the model; red, green and blue by their names.",
            group=INPUT,
            metavar="R,G,B",
        ),
    ] = None
    scaling: Annotated[
        Scaling | None,
        _parsed(parse_scaling),
        Option(
            "Values of 16-bit imagery that become 0 and 255, such as 0,3000; or percentile, of each scene. "
            "By default those of landcover.yaml or the model.",
            group=INPUT,
            metavar="MIN,MAX",
        ),
    ] = None
    alpha: Annotated[
        int | Literal["none"] | None,
        _parsed(_alpha),
        Option("Number of the alpha band; none: no band is a mask.", group=INPUT, metavar="BAND|none"),
    ] = None
    nodata: Annotated[
        float | None,
        AfterValidator(lambda value: None if value is None or not math.isfinite(value) else value),
        Option("Value of pixels without imagery, in all bands.", group=INPUT),
    ] = None
    fill: Annotated[
        Literal["nodata", "keep"],
        Option(
            "Rows and columns of one value at the edges, which a file does not declare as nodata: make them "
            "nodata, or keep them as imagery.",
            group=INPUT,
        ),
    ] = "nodata"

    @property
    def reading(self) -> Reading:
        """The options as :func:`landcover.raster.open_scene` takes them."""
        own = {name: getattr(self, name) for name in ImageryOptions.model_fields}
        return Reading(**own)


FURTHER_RASTERS = ("probabilities", "confidence")
"""What can be written of each row beside the classes, by the option that asks for it."""


class PredictOptions(ImageryOptions):
    """How images are read, classified and written. Every field has a default.

    Texts as on the command line are accepted where a field has a type of its own: ``min_region="8000px"``,
    ``bands="3,2,1"``.

    Raises:
        UsageError: If a value cannot be used.

    Example:
        >>> lc.PredictOptions(gsd=0.5, min_region="2000m2").batch
        1
    """

    gsd: Annotated[
        float | FromModel | None,
        BeforeValidator(_gsd),
        Option(
            "Metres per pixel of the images (ground sample distance). By default that of the georeference, "
            "of landcover.yaml, or of a recognised data set. model: assume the model's where none is known.",
            group=MAIN,
            metavar="METRES",
        ),
    ] = None
    bbox: Annotated[
        BoundingBox | None,
        _parsed(BoundingBox.parse),
        Option("Map only this box, in the scene's CRS.", group=INPUT, metavar="LEFT,BOTTOM,RIGHT,TOP"),
    ] = None
    aoi: Annotated[
        Path | None, Option("Map only the area inside the polygons of this file.", group=INPUT)
    ] = None
    layer: Annotated[
        str | None, Option("Layer of --aoi, if the file has several.", group=INPUT, metavar="NAME")
    ] = None
    crs: Annotated[
        str | None,
        _parsed(_crs),
        Option(
            "CRS of the coordinates of files that do not declare it, or a wrong one.",
            group=INPUT,
            metavar="EPSG:CODE",
        ),
    ] = None
    strict: Annotated[
        bool,
        Option("Skip a scene that has a damaged block, instead of mapping the rest of it.", group=INPUT),
    ] = False
    max_pixels: Annotated[
        int,
        Field(ge=1),
        Option(
            "Refuse larger pictures that cannot be read by windows.",
            group=INPUT,
            changes_map=False,
            minimum=1,
        ),
    ] = MAX_PIXELS
    window_px: Annotated[
        int | None,
        Option(
            "Side of the sliding window, in pixels at the model's GSD. 0: the whole image at once.",
            flag="--window",
            group=PROCESSING,
            metavar="PIXELS",
        ),
    ] = None
    overlap_px: Annotated[
        int | None,
        Option(
            "Pixels that neighbouring windows share.", flag="--overlap", group=PROCESSING, metavar="PIXELS"
        ),
    ] = None
    batch: Annotated[
        int, Field(ge=1), Option("Windows per run of the network.", group=PROCESSING, minimum=1)
    ] = 1
    views: Annotated[
        Views | None,
        BeforeValidator(check_views),
        Option(
            "Average the probabilities of several views of each window: 2, also enlarged 1.35 times (2.8 "
            "times the work); 3, also mirrored (3.8 times); 8, all rotations and reflections (8 times). By "
            "default those of the model's card, as a rule 1.",
            group=PROCESSING,
            metavar="1|2|3|8",
        ),
    ] = None
    min_region: Annotated[
        RegionSize | None,
        _parsed(RegionSize.parse),
        Option(
            "Give smaller regions the class of their largest neighbour: 8000px, 2000m2, 1ha.",
            group=MAIN,
            metavar="SIZE",
        ),
    ] = None
    min_region_strict: Annotated[
        bool,
        Option(
            "Also remove small regions that --min-region leaves: they join their largest neighbour, or "
            "become nodata without one.",
            group=PROCESSING,
        ),
    ] = False
    context: Annotated[
        bool,
        Option(
            "Read georeferenced files that adjoin or overlap, on one grid, with their neighbours: the maps "
            "are those of one scene, without seams. Scenes at addresses are mapped alone. --no-context: "
            "each alone.",
            flag="--context/--no-context",
            group=PROCESSING,
            changes_map=False,
        ),
    ] = True
    probabilities: Annotated[
        bool,
        Option("Also write the probability of each class.", group=PRODUCTS, changes_map=False),
    ] = False
    confidence: Annotated[
        bool,
        Option(
            "Also write the probability of the most probable class, before --min-region.",
            group=PRODUCTS,
            changes_map=False,
        ),
    ] = False
    map_format: Annotated[
        MapFormat, Option("auto: GeoTIFF for georeferenced images and URLs, else PNG.", group=PRODUCTS)
    ] = "auto"
    mask_format: Annotated[MaskFormat, Option("Form of PNG maps.", group=PRODUCTS)] = "palette"
    style: Annotated[
        bool,
        Option(
            "Write class names and colours for QGIS and GDAL beside each GeoTIFF map.",
            flag="--style/--no-style",
            group=PRODUCTS,
            changes_map=False,
        ),
    ] = True
    mosaic: Annotated[
        Path | None,
        Option(
            "Map all inputs together, as one mosaic of one grid, into this GeoTIFF.",
            group=PRODUCTS,
            changes_map=False,
            metavar="FILE",
        ),
    ] = None
    vector: Annotated[
        VectorFormat | None,
        Option("Also write the map as polygons.", group=PRODUCTS, changes_map=False),
    ] = None
    zones: Annotated[
        Path | None,
        Option("Also count areas in each polygon of this file.", group=REPORTS, changes_map=False),
    ] = None
    zones_layer: Annotated[
        str | None,
        Option(
            "Layer of --zones, if the file has several.", group=REPORTS, changes_map=False, metavar="NAME"
        ),
    ] = None
    zone_column: Annotated[
        str | None,
        Option(
            "Column with the names of the zones. By default they are numbered from 1.",
            group=REPORTS,
            changes_map=False,
        ),
    ] = None
    jobs: Annotated[
        int,
        Field(ge=1),
        Option(
            "Processes that map scenes, each with the model.", group=PROCESSING, changes_map=False, minimum=1
        ),
    ] = 1
    resume: Annotated[
        bool,
        Option(
            "Continue an interrupted run: keep finished maps and the finished parts of others.",
            group=PROCESSING,
            changes_map=False,
        ),
    ] = False
    force: Annotated[bool, Option("Overwrite existing maps and reports.", group=MAIN, changes_map=False)] = (
        False
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        renamed = {"turns": "views", "tta": "views", "qml": "style"}
        for old in renamed.keys() & values.keys():
            new = renamed[old]
            if new in values:
                raise UsageError(f"{old} and {new} are the same option; pass {new} alone.")
            warnings.warn(f"PredictOptions({old}=...) is now {new}=...", DeprecationWarning, stacklevel=4)
            value = values[old]
            if new == "views":
                value = 8 if value else 1
            values = {name: other for name, other in values.items() if name != old} | {new: value}
        return values

    @field_validator("window_px")
    @classmethod
    def _check_window(cls, window_px: int | None) -> int | None:
        if window_px is not None and window_px < 0:
            raise UsageError(f"--window is {window_px} px; expected 0 or more.")
        return window_px

    @model_validator(mode="after")
    def _check_together(self) -> "PredictOptions":
        if self.overlap_px is not None and (
            self.overlap_px < 0 or (self.window_px and self.overlap_px >= self.window_px)
        ):
            raise cannot_overlap(self.window_px or 0, self.overlap_px)
        if self.zones is None and not (self.zone_column is None and self.zones_layer is None):
            raise UsageError("--zone-column and --zones-layer need --zones, the file of polygons.")
        if self.min_region_strict and self.min_region is None:
            raise UsageError("--min-region-strict needs --min-region, the smallest region that stays.")
        if self.layer is not None and self.aoi is None:
            raise UsageError("--layer needs --aoi, the file of polygons that has the layer.")
        if self.resume and self.force:
            raise UsageError("--resume keeps existing maps and --force overwrites them. Pass only one.")
        return self

    def for_model(self, card: ModelCard) -> "PredictOptions":
        """Return the options with bands, scaling and views of a model's card, where none are set.

        Raises:
            UsageError: If the bands are not as many as the model's.

        Example:
            >>> lc.PredictOptions().for_model(lc.open_model("starter").card).views
            8
        """
        bands, scaling = card.preprocessing.reading
        names = card.preprocessing.bands
        if self.bands is not None and len(self.bands) != len(names):
            raise UsageError(
                f"--bands has {len(self.bands)} numbers; the model takes {len(names)} bands: "
                f"{', '.join(names)}."
            )
        return self.model_copy(
            update={
                "bands": self.bands or bands,
                "scaling": self.scaling or scaling,
                "views": self.views or card.views,
            }
        )

    def identity(self) -> dict[str, Any]:
        """Return the options that change the map, by name, which ``resume`` compares.

        Example:
            >>> lc.PredictOptions(views=3).identity()["views"]
            3
        """
        declared = self.declared()
        return {name: getattr(self, name) for name, option in declared.items() if option.changes_map}


OF_A_RUN = ("jobs", "resume", "force", "mosaic", "zones", "zone_column", "zones_layer")
"""Options that belong to a run of ``predict`` and not to a map, so that plans of fleets lack them."""


class PlanOptions(PredictOptions):
    """The options of ``fleet plan``."""

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Return the declarations; those of a run have no group, so that the command line lacks them."""
        declared = super().declared()
        return declared | {name: replace(declared[name], group=None) for name in OF_A_RUN}


def further_rasters(options: PredictOptions) -> list[str]:
    """Return which of :data:`FURTHER_RASTERS` are written."""
    return [name for name in FURTHER_RASTERS if getattr(options, name)]
