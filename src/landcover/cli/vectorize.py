"""``landcover vectorize``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import INPUT, MAIN, PROCESSING, option
from landcover.cli._output import check_json, log, put


def vectorize(
    map: Annotated[Path, typer.Argument(help="Map of classes: GeoTIFF or PNG.", show_default=False)],
    out: Annotated[
        Path,
        option("Output file: .gpkg, .geojson, .fgb or .parquet.", group=MAIN),
    ],
    legend: _options.Legend = None,
    confidence: Annotated[
        Path | None,
        option("Confidence or probabilities of the map.", group=INPUT),
    ] = None,
    min_region: _options.MinRegion = None,
    simplify: Annotated[
        str | None,
        option("Smooth shared outlines with this tolerance: 2m or 4px.", group=PROCESSING),
    ] = None,
    gsd: _options.Gsd = None,
    max_memory_mb: Annotated[
        int,
        option("Refuse to simplify if it needs more memory.", group=PROCESSING, min=1),
    ] = 4096,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Convert a map to polygons without overlaps or gaps."""
    from landcover.legend import load_legend
    from landcover.postprocess.vectorize import Tolerance
    from landcover.postprocess.vectorize import vectorize as vectorize_map

    check_json(json, force=force)
    result = vectorize_map(
        map,
        out,
        legend=None if legend is None else load_legend(legend),
        confidence=confidence,
        min_region=min_region,
        simplify=None if simplify is None else Tolerance.parse(simplify, max_memory_mb),
        gsd=gsd,
        force=force,
    )
    summary = {
        "path": str(result.path),
        "polygons": result.polygons,
        "pixels": result.pixels,
        "area_m2": result.area_m2,
    }
    put(summary, json, None, force=force)
    if not result.polygons:
        log.warning("%s is all nodata: %s has no polygons.", map, out)
    else:
        count, classes = sum(result.polygons.values()), ", ".join(result.polygons)
        log.info("Wrote %s polygons of %s to %s.", f"{count:,}", classes, out)
