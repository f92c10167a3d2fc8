"""``landcover.yaml`` of a data folder: what its owner declares."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from landcover.config import Config, from_mapping
from landcover.data.layouts import discover
from landcover.data.survey import legend_text, survey
from landcover.errors import ConfigError, DataError
from landcover.io import MAX_PIXELS
from landcover.io.files import check_output, write_text
from landcover.legend import Legend, load_legend
from landcover.raster import Reading
from landcover.scale import SETTINGS_FILE
from landcover.textfiles import read_yaml
from landcover.values import BandSelection, parse_scaling


class Settings(Config):
    """Content of ``landcover.yaml``.

    Attributes:
        gsd: Metres per pixel.
        legend: The legend of the masks: a name, a YAML file beside it, or written out.
        images: Pattern of the paths of images, such as ``img_dir/{subset}/{id}.png``; and of ``masks``.
        bands: Numbers of the bands: red, green, blue, and others.
        scaling: The values that become 0 and 255.
    """

    gsd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    legend: str | dict[str, Any] | None = None
    images: str | None = None
    masks: str | None = None
    bands: tuple[int, ...] | None = None
    scaling: tuple[float, float] | Literal["percentile"] | None = None

    @property
    def names(self) -> tuple[str, str] | None:
        """The patterns of images and masks; see :func:`landcover.data.layouts.discover`."""
        return (self.images, self.masks) if self.images is not None and self.masks is not None else None

    @property
    def reading(self) -> Reading:
        """How images are read."""
        return Reading(
            bands=None if self.bands is None else BandSelection.parse(self.bands),
            scaling=None if self.scaling is None else parse_scaling(self.scaling),
        )


def read_settings(path: Path) -> Settings:
    """Read ``landcover.yaml``; a missing file gives empty settings."""
    settings = from_mapping(Settings, (read_yaml(path) or {}) if path.exists() else {}, str(path))
    if (settings.images is None) != (settings.masks is None):
        raise ConfigError(f"{path} has only one of images and masks; expected both or none.")
    return settings


def declared_legend(path: Path, settings: Settings) -> Legend | None:
    """Return the legend of the settings in a file, None if they have none."""
    if isinstance(settings.legend, str):
        beside = path.parent / settings.legend
        return load_legend(beside if beside.exists() else settings.legend)
    return None if settings.legend is None else Legend.from_dict(settings.legend, f"{path}: legend")


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
    settings = read_settings(path)
    masks = [item.mask for item in discover(folder, settings.names).items if item.mask]
    if not masks:
        raise DataError(f"{folder} has no masks; expected images with masks.")
    found = survey(masks, max_pixels)
    text = legend_text(found, names=names, ignore=ignore, unknown=unknown, gsd=gsd or settings.gsd)
    for name in ("images", "masks", "bands", "scaling"):
        if name in present:
            text += f"{name}: {json.dumps(present[name])}\n"
    write_text(path, text, force=True)
    return path, text
