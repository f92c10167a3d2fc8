"""Verbs of fleets: many scenes on several processes and machines."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from landcover.cli import _options
from landcover.cli._options import argument, option
from landcover.cli._output import log, print_areas, put, say
from landcover.config import MAIN, PROCESSING, PRODUCTS, REPORTS
from landcover.errors import UsageError, counted
from landcover.inference.options import PlanOptions

Planned = Annotated[
    str, argument("The store with the plan: the --out of landcover fleet plan, or its plan.json.", "PLAN")
]


def fleet_plan(
    inputs: Annotated[
        list[str],
        argument(
            "Images, folders, URLs, prefixes such as s3://bucket/scenes/, JSON files of STAC items, searches "
            "of a STAC API such as https://host/search?collections=NAME&bbox=5,52,6,53.",
            "INPUTS",
        ),
    ],
    model: Annotated[str, option("Model file, run folder, or a bundled model.", group=MAIN)],
    out: Annotated[str, option("Store of plan and results: a folder, or s3://, gs:// or az://.", group=MAIN)],
    options: PlanOptions,
    unit_mpx: Annotated[
        float, option("Megapixels of a unit; larger scenes are split.", group=PROCESSING)
    ] = 256.0,
    device: _options.Device = "auto",
    runtime: _options.Runtime = "auto",
    precision: _options.Precision = "fp32",
    tta: _options.OldTta = False,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Write the plan of a fleet: its units, pixels, area, and how long it will take."""
    from landcover.fleet.planning import make_plan

    how = {"device": device, "runtime": runtime}
    plan = make_plan(
        inputs, model, out, _options.with_old_tta(options, tta), **how, precision=precision, unit_mpx=unit_mpx
    )

    def show() -> None:
        say(
            f"{counted(plan.scenes, 'scene')} in {counted(plan.units, 'unit')}: {plan.pixels:,} pixels, "
            f"{plan.square_km:,.2f} km2, about {plan.minutes:,.1f} minutes of one process here."
        )

    put(asdict(plan), json, show, force=force)
    log.info("Run it: landcover fleet run %s", out)


def fleet_run(
    plan: Planned,
    engine: Annotated[
        Literal["local", "ray"], option("Processes here, or actors of a Ray cluster.", group=MAIN)
    ] = "local",
    address: Annotated[
        str | None,
        option("Ray cluster, HOST:PORT or auto.  [default: RAY_ADDRESS, else one is started]", group=MAIN),
    ] = None,
    workers: Annotated[
        int | None,
        option("Processes or actors.  [default: one per core or GPU]", group=MAIN, min=1, max=1024),
    ] = None,
    shard: Annotated[
        str,
        option("Do only this share of the units: number/count, such as 0/10.", group=MAIN, metavar="I/N"),
    ] = "0/1",
    retry: Annotated[
        bool, option("Try the units again that were given up.", "--retry", group=PROCESSING)
    ] = False,
    device: _options.Device = "auto",
    threads: _options.Threads = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Do the units of a plan that are not done; run it again after any failure."""
    from landcover.fleet.ray_engine import RayEngine
    from landcover.fleet.run import Run
    from landcover.fleet.units import open_planned, read_plan
    from landcover.fleet.work import LocalEngine, Setup
    from landcover.inference.workers import Engine
    from landcover.machine import processors

    if address is not None and engine != "ray":
        raise UsageError(f"--address {address} is that of a Ray cluster. Add --engine ray.")
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", shard)
    share = (int(match[1]), int(match[2])) if match else (0, 0)
    if share[0] >= share[1]:
        raise UsageError(
            f"--shard is {shard!r}; expected NUMBER/COUNT with a number from 0 below the count: 0/10."
        )
    store = open_planned(plan)
    units = read_plan(store).units
    setup = Setup(store.root, device, threads)
    chosen: Engine
    if engine == "ray":
        chosen = RayEngine(setup, workers and min(workers, units), address)
    else:
        chosen = LocalEngine(setup, min(workers or processors(), units))
    try:
        summary = Run(store, chosen, shard=share, retry=retry).run()
    finally:
        chosen.close()
    put(asdict(summary), json, None, force=force)
    log.info(
        "%s done, %d were done before, %d failed, %s repeated.",
        counted(summary.done, "unit"),
        summary.kept,
        len(summary.failed),
        counted(summary.repeated, "attempt"),
    )
    if summary.waiting:
        log.info("%d maps wait for blocks of other shards, or of failed units.", len(summary.waiting))
    if summary.complete:
        log.info("All maps are in %s.", store.address("maps"))
    if summary.missing:
        map_ = store.address(summary.missing[0])
        log.warning(
            "%s published before and missing now, such as %s. To make them again, delete their receipts, "
            "such as %s.json, then: landcover fleet run %s",
            counted(len(summary.missing), "map"),
            map_,
            map_,
            plan,
        )
    if summary.failed:
        log.warning("%s failed; see landcover fleet failed %s", counted(len(summary.failed), "unit"), plan)
    if summary.damaged:
        log.warning("%s with nodata where scenes are damaged.", counted(len(summary.damaged), "map"))
    if summary.failed or summary.damaged or summary.missing or (share == (0, 1) and not summary.complete):
        raise typer.Exit(1)


def fleet_status(plan: Planned, json: _options.Json = None, force: _options.Force = False) -> None:
    """Show how far a plan is: maps done, units running and failed, rate, time left."""
    from landcover.fleet.results import status
    from landcover.fleet.units import open_planned

    found = status(open_planned(plan))

    def show() -> None:
        left = found["minutes_left"]
        say(
            f"{found['maps']:,} of {found['scenes']:,} maps done, {counted(found['failed'], 'unit')} failed, "
            f"{found['running']:,} running in {found['runs']:,} runs."
        )
        if found["parts"]:
            say(f"{found['parts']:,} parts of large scenes wait to be assembled.")
        if left is not None:
            say(f"{found['maps_per_minute']:,.1f} maps a minute; about {left:,.0f} minutes left.")

    put(found, json, show, force=force)


def fleet_failed(plan: Planned, json: _options.Json = None, force: _options.Force = False) -> None:
    """List the units that were given up, with their last error."""
    from landcover.fleet.results import failures
    from landcover.fleet.units import open_planned

    found = list(failures(open_planned(plan)))

    def show() -> None:
        for record in found:
            blocks = "" if record["blocks"] is None else " row blocks {} to {}".format(*record["blocks"])
            say(f"{record['scene']}{blocks}, {counted(record['attempts'], 'attempt')}: {record['error']}")

    put(found, json, show, force=force)
    changed = sum(record["state"] == "changed" for record in found)
    log.info("%s failed.", counted(len(found), "unit"))
    if changed:
        log.info(
            "Inputs of %s changed since the plan: plan again, into another store.", counted(changed, "unit")
        )
    if others := len(found) - changed:
        log.info(
            "Try %s again, after a repair: landcover fleet run %s --retry", counted(others, "unit"), plan
        )


def fleet_verify(plan: Planned, json: _options.Json = None, force: _options.Force = False) -> None:
    """Compare the digest of everything that is published with its receipt."""
    from landcover.fleet.results import verify
    from landcover.fleet.units import open_planned

    found = verify(open_planned(plan))

    def show() -> None:
        for what, names in (
            ("is missing", found.missing),
            ("is not what its receipt states", found.damaged),
            ("belongs to no receipt", found.orphans),
        ):
            for name in names:
                say(f"{name} {what}.")

    put(asdict(found), json, show, force=force)
    faults = len(found.missing) + len(found.damaged) + len(found.orphans)
    compared = [counted(found.maps, "map"), counted(found.files, "file"), counted(found.size, "byte")]
    log.info("%s compared: %s.", ", ".join(compared), counted(faults, "fault"))
    if faults:
        log.warning(
            "To make a map, delete its receipt, such as maps/NAME_mask.tif.json, if there is one, then: "
            "landcover fleet run %s. Of units that were given up: landcover fleet failed %s",
            plan,
            plan,
        )
        raise typer.Exit(1)


def fleet_merge(
    plan: Planned,
    out: Annotated[
        Path,
        option("The mosaic: .tif, a Cloud Optimized GeoTIFF; or .vrt, which refers to the maps.", group=MAIN),
    ],
    vector: Annotated[
        Path | None, option("Also write it as polygons: .gpkg, .geojson, .fgb or .parquet.", group=PRODUCTS)
    ] = None,
    csv: Annotated[Path | None, option("Write the areas of the classes as CSV.", group=REPORTS)] = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Merge all maps into one mosaic with its polygons and areas; overlaps count once."""
    from landcover.fleet.results import merge
    from landcover.fleet.units import open_planned
    from landcover.io.files import write_text
    from landcover.textfiles import csv_text

    merged, left_out = merge(open_planned(plan), out, vector=vector, force=force)
    areas = merged.table()
    if csv is not None:
        rows = ((area.name, area.pixels, area.share, area.hectares) for area in areas)
        write_text(csv, csv_text(["class", "pixels", "share", "hectares"], rows), force=force)
    put([asdict(area) for area in areas], json, lambda: print_areas(areas), force=force)
    log.info("Wrote %s.", out)
    if left_out:
        log.warning("%d maps are not in it.", len(left_out))
        raise typer.Exit(1)
