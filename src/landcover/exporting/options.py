"""Options of an export: each one declared once."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, InstanceOf

from landcover.config import MAIN, PROCESSING, PRODUCTS, Option, Options
from landcover.raster import Reading
from landcover.values import Views, check_views

Imagery = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: () if value is None else (value,) if isinstance(value, str) else value),
]


class ExportOptions(Options):
    """Options of :func:`landcover.export` beyond the file and its imagery.

    Example:
        >>> lc.ExportOptions(int8=True, calibration="tiles:folders:train").max_miou_loss
        0.5
    """

    int8: Annotated[
        bool, Option("Quantise to INT8; needs --calibration, --data and --split.", group=MAIN)
    ] = False
    calibration: Annotated[
        Imagery,
        Option(
            "Imagery that sets the INT8 ranges, DATA or DATA:SPLIT; repeat it for several scales or sensors. "
            "It needs no labels; take other images than those for scores and comparison.",
            group=PROCESSING,
        ),
    ] = ()
    calibration_images: Annotated[
        int, Option("Number of crops of half a window, divided evenly among --calibration.", group=PROCESSING)
    ] = 128
    compare: Annotated[
        Imagery,
        Option(
            "Further imagery on which INT8 is compared with float32, DATA or DATA:SPLIT, without labels; "
            "repeatable. That of --data always is.",
            group=PROCESSING,
        ),
    ] = ()
    max_miou_loss: Annotated[float, Option("Points of mIoU that INT8 may lose.", group=PROCESSING)] = 0.5
    min_agreement: Annotated[
        float,
        Option("Fraction (0..1) of pixels that INT8 must classify as float32 does.", group=PROCESSING),
    ] = 0.985
    no_speed_gate: Annotated[
        str | None,
        Option(
            "Write INT8 although it is not faster here, for this reason, which the card contains.",
            group=PROCESSING,
            metavar="REASON",
        ),
    ] = None
    views: Annotated[
        Views | None,
        BeforeValidator(check_views),
        Option(
            "Views that prediction averages by default; see predict. By default those of the run's card.",
            group=PRODUCTS,
            metavar="1|2|3|8",
        ),
    ] = None
    reading: Annotated[
        InstanceOf[Reading] | None,
        Option(
            "How the imagery is read, with the bands of the model; by default as in its card.", group=None
        ),
    ] = None
    seed: Annotated[int, Option("Seed of the windows' positions.", group=PROCESSING, minimum=0)] = 0
    stac_mlm: Annotated[
        Path | None, Option("Also write a STAC item that describes the model.", group=PRODUCTS)
    ] = None
