"""Masks between colours and indices, files and folders of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from landcover.data.maskfiles import MaskTask, plan_masks, work_off
from landcover.errors import UsageError, did_you_mean
from landcover.io import MaskFormat, read_mask
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS, PICTURE_SUFFIXES
from landcover.legend import DEEPGLOBE, Legend

Form = Literal["index", "colour"]
ColourFormat = Literal["palette", "rgb"]


@dataclass
class Converted:
    """What :func:`convert` did.

    Attributes:
        written: The new masks.
        failed: Why a mask was skipped, by its path.
        off_palette: Number of pixels whose colour has no class, by path, for masks that have such.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    off_palette: dict[Path, int] = field(default_factory=dict)


def convert(
    masks: Sequence[str | Path],
    out: str | Path,
    *,
    to: Form,
    legend: Legend = DEEPGLOBE,
    mask_format: ColourFormat | None = None,
    max_off_palette: float = MAX_OFF_PALETTE,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Converted:
    """Convert masks of any form to indices or colours; sizes stay as they are.

    Folders are searched with their subfolders, hidden files and ``*_sat.*`` (imagery) left out, and keep
    their structure below ``out``. A georeferenced mask becomes a GeoTIFF in the same place, whose colour
    table gives both indices and colours; every other becomes ``<stem>.png``. A file that is no mask is
    skipped and told of in the result.

    Args:
        masks: Files and folders, in any form that :func:`landcover.io.read_mask` takes.
        out: Folder of the results.
        to: ``index``, one band in the legend's order, or ``colour``.
        legend: The classes, their colours and their order.
        mask_format: Form of colours in PNGs, ``palette`` (default) or ``rgb``.
        max_off_palette: Share of pixels, 0..1, whose colour may have no class; a mask with more is skipped.
        max_pixels: Larger files are skipped before they are decoded.
        force: Replace existing results.

    Raises:
        UsageError: If an option has no such value, or there is no input.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one name, a result would replace an input, or exists and ``force``
            is off: nothing has been written then. Also if a result cannot be written.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> converted = lc.convert([folder], "indices", to="index")
        >>> len(converted.written), converted.failed
        (3, {})
    """
    png_format = _png_format(to, mask_format)
    if max_pixels < 1:
        raise UsageError(f"max_pixels is {max_pixels}; expected at least 1.")
    tasks = plan_masks(masks, Path(out), suffixes=PICTURE_SUFFIXES, force=force)

    def convert_one(task: MaskTask) -> int:
        mask = read_mask(task.source, legend, max_pixels=max_pixels, max_off_palette=max_off_palette)
        task.write(mask.index, legend, mask_format=png_format, force=force)
        return mask.off_palette

    done, failed = work_off(tasks, convert_one, "Converting")
    return Converted(
        written=[task.target for task, _ in done],
        failed=failed,
        off_palette={task.source: off_palette for task, off_palette in done if off_palette},
    )


def _png_format(to: Form, mask_format: ColourFormat | None) -> MaskFormat:
    if to not in get_args(Form):
        raise UsageError(f"Masks cannot be converted to {to!r}. {did_you_mean(to, get_args(Form))}")
    if to == "index":
        if mask_format is not None:
            raise UsageError("A mask format is chosen for colours only; leave it out, or convert to colour.")
        return "index"
    if mask_format is None:
        return "palette"
    if mask_format not in get_args(ColourFormat):
        hint = did_you_mean(mask_format, get_args(ColourFormat))
        raise UsageError(f"Colours have no format {mask_format!r}. {hint}")
    return mask_format
