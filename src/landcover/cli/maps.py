"""Verbs of maps: predict, sample, vectorize."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import argument, option
from landcover.cli._output import log, print_areas, put
from landcover.config import INPUT, MAIN, PROCESSING, REPORTS
from landcover.inference.options import PredictOptions

if TYPE_CHECKING:
    from landcover.inference import Prediction

_COVERED = 0.99
"""Fraction of a zone from which on it counts as covered: pixels are counted by their centres."""


def predict(
    model: Annotated[
        str,
        option(
            "Model file, run folder, or a bundled model: starter, best, auto (best if the job is small "
            "enough), or another of landcover models.",
            group=MAIN,
        ),
    ],
    options: PredictOptions,
    out: Annotated[Path | None, option("Folder of the maps.", group=MAIN)] = None,
    inputs: Annotated[
        list[str] | None, argument("Images, folders of images, URLs of rasters.", "INPUTS")
    ] = None,
    list_file: Annotated[
        Path | None,
        option(
            "Text file with more inputs: one path a line, relative to the file's folder; # comments.",
            "--list",
            group=INPUT,
        ),
    ] = None,
    device: _options.Device = "auto",
    runtime: _options.Runtime = "auto",
    threads: _options.Threads = None,
    precision: _options.Precision = "fp32",
    json: _options.Json = None,
    qml: Annotated[bool, typer.Option("--qml", hidden=True)] = False,
    tta: _options.OldTta = False,
    csv: Annotated[Path | None, option("Write the areas of each map and zone as CSV.", group=REPORTS)] = None,
) -> None:
    """Make a land-cover map of every image or scene, of any size."""
    from landcover.errors import UsageError
    from landcover.inference.maps import predict as make_maps
    from landcover.inference.plan import read_list
    from landcover.io.files import write_text
    from landcover.model.runtimes import DEFAULT_CACHE
    from landcover.model.runtimes.openvino_runtime import cache_folder
    from landcover.textfiles import csv_text

    if qml:
        log.warning("--qml is the default now; the old option will be removed in 0.3.")
    options = _options.with_old_tta(options, tta)
    if not inputs and list_file is None:
        raise UsageError("No input. Pass images, folders, URLs, or --list FILE.")
    given = [*(inputs or []), *([] if list_file is None else read_list(list_file))]
    token = DEFAULT_CACHE.set(cache_folder())
    try:
        prediction = make_maps(
            given, model, out, options, device=device, runtime=runtime, threads=threads, precision=precision
        )
    finally:
        DEFAULT_CACHE.reset(token)
    overwrite = options.force or options.resume
    put(
        prediction.to_dict(),
        json,
        lambda: print_areas(prediction.areas if prediction.all else []),
        force=overwrite,
    )
    if csv is not None:
        names = [
            *("map", "zone", "class", "pixels", "square_metres", "hectares", "share"),
            *("zone_covered", "zone_nodata"),
        ]
        rows = ([row.get(name, "") for name in names] for row in prediction.area_rows())
        write_text(csv, csv_text(names, rows), force=overwrite)
    _report(prediction, out or options.mosaic)
    if not prediction.complete:
        raise typer.Exit(1)


def _report(prediction: "Prediction", out: Path | None) -> None:
    for made in prediction.all:
        for text in made.warnings:
            log.warning("%s", text)
        zones = made.areas.zones.values()
        if made.areas.pixels.any() and zones and not any(zone.pixels.any() for zone in zones):
            log.warning("%s: no zone overlaps its imagery.", made.task.name)
    totals = prediction.zones
    if partial := {name: parts for name, (_, parts) in totals.items() if parts["covered"] < _COVERED}:
        name, parts = min(partial.items(), key=lambda item: item[1]["covered"])
        log.warning(
            "%d of %d zones are not fully mapped: of zone %s %.1f %% is covered and %.1f %% is nodata, the "
            "rest is outside the imagery. Areas are of the covered part.",
            len(partial),
            len(totals),
            name,
            100 * parts["covered"],
            100 * parts["nodata"],
        )
    flagged, number = prediction.flagged, len(prediction.all)
    if flagged and number == 1:
        report, name = flagged[0]
        log.warning("%s", report.warning(name))
    elif flagged:
        report, name = flagged[0]
        log.warning(
            "%d of %d scenes are out of distribution for this model; --json lists them. Check their maps "
            "before use. The farthest is %s (%s).",
            len(flagged),
            number,
            name,
            report.summary,
        )
    if number and not prediction.has_profile:
        log.info("The model's card has no profile of its training imagery to compare scenes with.")
    elif prediction.not_judged:
        log.info(
            "%d of %d scenes are too small, or have too little imagery, to compare with training imagery.",
            prediction.not_judged,
            number,
        )
    if prediction.repeated:
        log.info(
            "%d maps overlap with earlier ones. Totals count such ground once, of the first map by name.",
            len(prediction.repeated),
        )
    if prediction.kept:
        log.info("%d finished maps were kept.", len(prediction.kept))
    if prediction.licence:
        log.info("Terms of the model: %s.", prediction.licence)
    done, failed = len(prediction.maps), len(prediction.failed)
    log.info("%d of %d maps written to %s.", done, done + failed, out)


def sample(
    map_path: Annotated[Path, argument("Georeferenced map of classes.", "MAP")],
    out: Annotated[Path, option("Output file: .gpkg, .geojson, .fgb or .csv.", group=MAIN)],
    per_class: Annotated[int, option("Points in each class of the map.", group=MAIN, min=1)] = 50,
    total: Annotated[
        int | None, option("Points in total; the remainder goes to large classes.", group=MAIN, min=1)
    ] = None,
    seed: _options.Seed = 0,
    legend: _options.Legend = None,
    force: _options.Force = False,
) -> None:
    """Draw random points in each class of a map to check it with."""
    from landcover.evaluation.sampling import sample as draw

    drawn = draw(map_path, out, per_class=per_class, total=total, seed=seed, legend=legend, force=force)
    numbers = ", ".join(f"{name} {number}" for name, number in drawn.items())
    log.info("Drew %d points into %s: %s.", sum(drawn.values()), out, numbers)
    log.info(
        "Fill in the column class with the true class, then run: landcover evaluate --map %s --truth %s",
        map_path,
        out,
    )
    if few := [name for name, number in drawn.items() if number < per_class]:
        log.info("Fewer points, because the map has no more pixels of: %s.", ", ".join(few))


def vectorize(
    map: Annotated[Path, argument("Map of classes: GeoTIFF or PNG.", "MAP")],
    out: Annotated[Path, option("Output file: .gpkg, .geojson, .fgb or .parquet.", group=MAIN)],
    legend: _options.Legend = None,
    confidence: Annotated[Path | None, option("Confidence or probabilities of the map.", group=INPUT)] = None,
    min_region: _options.MinRegion = None,
    min_region_strict: _options.MinRegionStrict = False,
    simplify: Annotated[
        str | None, option("Smooth shared outlines with this tolerance: 2m or 4px.", group=PROCESSING)
    ] = None,
    gsd: _options.Gsd = None,
    max_memory_mb: Annotated[
        int, option("Refuse to simplify if it needs more memory.", group=PROCESSING, min=1)
    ] = 4096,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Convert a map to polygons without overlaps or gaps."""
    from landcover.postprocess.sieve import remaining_regions
    from landcover.postprocess.vectorize import vectorize as vectorize_map
    from landcover.values import Tolerance

    result = vectorize_map(
        map,
        out,
        legend=legend,
        confidence=confidence,
        min_region=_options.region_size(min_region, strict=min_region_strict),
        simplify=None if simplify is None else Tolerance.parse(simplify, max_memory_mb=max_memory_mb),
        gsd=gsd,
        force=force,
    )
    put({**asdict(result), "path": str(result.path)}, json, None, force=force)
    if result.small_regions:
        log.warning("%s", remaining_regions(map, result.small_regions))
    if not result.polygons:
        log.warning("%s is all nodata: %s has no polygons.", map, out)
    else:
        count, classes = sum(result.polygons.values()), ", ".join(result.polygons)
        log.info("Wrote %s polygons of %s to %s.", f"{count:,}", classes, out)
