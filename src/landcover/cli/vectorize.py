"""``landcover vectorize``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli._output import check_json, put


def vectorize(
    map: Annotated[Path, typer.Argument(help="A map of classes: GeoTIFF or PNG.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="File to write: .gpkg, .geojson, .fgb or .parquet.", show_default=False)
    ],
    legend: Annotated[
        str | None, typer.Option(help="Legend of a map that does not name its classes.", show_default=False)
    ] = None,
    confidence: Annotated[
        Path | None, typer.Option(help="Confidence or probabilities of the map.", show_default=False)
    ] = None,
    min_region: Annotated[
        str | None,
        typer.Option(help="Remove smaller regions first: 8000px or 2000m2.", show_default=False),
    ] = None,
    simplify: Annotated[
        str | None, typer.Option(help="Smooth shared borders by about 2m or 4px.", show_default=False)
    ] = None,
    gsd: Annotated[
        float | None, typer.Option(help="Metres per pixel of a map that is not georeferenced.")
    ] = None,
    max_memory_mb: Annotated[
        int, typer.Option(min=1, help="Refuse to simplify where it would take more memory.")
    ] = 4096,
    json: Annotated[Path | None, typer.Option(help="Write a summary as JSON; - is standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Turn a map into polygons that neither overlap nor leave gaps."""
    from landcover.legend import load_legend
    from landcover.postprocess.vectorize import vectorize as vectorize_map

    check_json(json, force=force)
    result = vectorize_map(
        map,
        out,
        legend=None if legend is None else load_legend(legend),
        confidence=confidence,
        min_region=min_region,
        simplify=simplify,
        gsd=gsd,
        max_memory_mb=max_memory_mb,
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
        typer.echo(f"{map} holds nothing but nodata: {out} has no polygons.", err=True)
    else:
        count, classes = sum(result.polygons.values()), ", ".join(result.polygons)
        typer.echo(f"Wrote {count:,} polygons of {classes} to {out}.", err=True)
