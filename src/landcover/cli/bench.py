"""``landcover bench``."""

from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    run: Annotated[Path, typer.Argument(help="Checkpoint of the model.", show_default=False)],
    fp32: Annotated[Path, typer.Option(help="The model as ONNX.", show_default=False)],
    int8: Annotated[Path, typer.Option(help="The model as INT8 ONNX.", show_default=False)],
    image: Annotated[Path, typer.Option(help="A JPEG of 2448 x 2448 pixels.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of results and scenes.", show_default=False)],
    gsd: Annotated[float, typer.Option(help="Metres per pixel of the image.")] = 0.5,
    tiles: Annotated[
        Path | None, typer.Option(help="Data whose images make scenes, for memory and mosaics.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="NAME:part of it that the model has not seen, for mosaics.")
    ] = None,
    geoai: Annotated[
        Path | None,
        typer.Option(help="Python that has geoai, to map scenes beside it.", show_default="not measured"),
    ] = None,
    full: Annotated[
        Path | None, typer.Option(help="Data of large labelled images, to score whole and by windows.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each way.")] = 3,
    force: Annotated[bool, typer.Option("--force", help="Replace results.")] = False,
) -> None:
    """Measure prediction on this machine, against peers."""
    from landcover.errors import UsageError
    from landcover.extras import needs
    from landcover.io.files import check_output

    if split is not None and tiles is None:
        raise UsageError("A split was named, but no data: pass --tiles DATA.")
    if geoai is not None and tiles is None:
        raise UsageError("geoai was named, but no data to make scenes of: pass --tiles DATA.")
    for name in ("bench.json", "bench.svg"):
        check_output(out / name, force=force)
    with needs("bench"):
        from landcover.benchmarks.suite import bench as measure
    result = measure(
        run,
        fp32,
        int8,
        image,
        out,
        gsd=gsd,
        tiles=tiles,
        split=split,
        geoai=geoai,
        full=full,
        repeats=repeats,
        force=force,
    )
    _print(result)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("job", "way")
    for name in ("ms", "times the first"):
        table.add_column(name, justify="right")
    for row in result["timings"]:
        table.add_row(row["job"], row["way"], f"{row['ms']:.1f}", f"{row['ratio']:.2f}")
    console.print(table)
    sizes = result["installed_mb"]
    console.print(f"Core install {sum(sizes.values()):.0f} MB; cold start {result['cold_start_s']:.2f} s.")
    for scene, found in result.get("memory", {}).items():
        console.print(f"{scene}: {_memory(found)}.")
    for scene, ways in result.get("beside_geoai", {}).items():
        for way, found in ways.items():
            console.print(f"{scene}, {way}: {found.get('failed') or _memory(found)}.", markup=False)
    for row in result.get("windows", []):
        window = "" if row["window_px"] is None else f"{row['window_px']}, {row['overlap_px']}"
        console.print(f"{row['way']} {window}: mIoU {100 * row['miou']:.2f}")
    for row in result.get("scales", []):
        right, wrong = 100 * row["declared rightly"], 100 * row["not declared"]
        console.print(f"{row['gsd']:g} m: mIoU {right:.2f} declared, {wrong:.2f} not declared")
    for name, found in result.get("paths", {}).items():
        whole, default = 100 * found["whole"], 100 * found["default"]
        console.print(
            f"{name}, {found['scenes']}: checkpoint whole {whole:.2f}, INT8 by default {default:.2f}"
        )


def _memory(found: dict[str, Any]) -> str:
    return f"{found['above_imports_mb']:.0f} MB above imports, {found['seconds']:.0f} s"
