"""``landcover export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, PROCESSING, PRODUCTS, option
from landcover.cli._output import check_json, points, put

if TYPE_CHECKING:
    from landcover.exporting import Exported


def export(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint.", show_default=False)],
    out: Annotated[Path, option("Output file, *.onnx.", group=MAIN)],
    for_: Annotated[
        Literal["landcover", "qgis"],
        option("Software that runs the file: landcover, or the QGIS plugin Deepness.", "--for", group=MAIN),
    ] = "landcover",
    data: Annotated[
        Path | None,
        option("Imagery to check the file on. By default procedural scenes.", group=MAIN),
    ] = None,
    split: Annotated[
        str | None,
        option("Subset of --data, NAME:part; INT8 is scored on it.", group=MAIN),
    ] = None,
    int8: Annotated[
        bool,
        option("Quantise to INT8; needs --calibration, --data and --split.", "--int8", group=MAIN),
    ] = False,
    gsd: _options.Gsd = None,
    calibration: Annotated[
        list[str] | None,
        option(
            "Imagery that sets the INT8 ranges, DATA or DATA:SPLIT; repeat it for several scales.",
            group=PROCESSING,
        ),
    ] = None,
    calibration_images: Annotated[int, option("Number of windows of it.", group=PROCESSING)] = 128,
    compare: Annotated[
        list[str] | None,
        option(
            "Further imagery on which INT8 is compared with float32, DATA or DATA:SPLIT; repeatable.",
            group=PROCESSING,
        ),
    ] = None,
    max_miou_loss: Annotated[float, option("Points of mIoU that INT8 may lose.", group=PROCESSING)] = 0.5,
    min_agreement: Annotated[
        float, option("Fraction of pixels that INT8 must classify as float32 does.", group=PROCESSING)
    ] = 0.985,
    no_speed_gate: Annotated[
        str | None,
        option("Write INT8 although it is not faster, for this reason.", group=PROCESSING, metavar="REASON"),
    ] = None,
    seed: _options.Seed = 0,
    stac_mlm: Annotated[
        Path | None,
        option("Also write a STAC item that describes the model.", group=PRODUCTS),
    ] = None,
    force: _options.Force = False,
    json: _options.Json = None,
) -> None:
    """Write a model as one checked ONNX file."""
    from landcover.exporting import ExportOptions
    from landcover.exporting import export as write

    check_json(json, force=force)
    exported = write(
        run,
        out,
        for_=for_,
        data=data,
        split=split,
        gsd=gsd,
        options=ExportOptions(
            int8=int8,
            calibration=calibration,
            calibration_images=calibration_images,
            compare=compare,
            max_miou_loss=max_miou_loss,
            min_agreement=min_agreement,
            no_speed_gate=no_speed_gate,
            seed=seed,
            stac_mlm=stac_mlm,
        ),
        force=force,
    )
    put(exported.to_dict(), json, lambda: _print_figures(exported), force=force)


def _print_figures(exported: "Exported") -> None:
    measured = exported.card.export
    for parity in measured["parity"]:
        print(
            f"{parity['runtime']}: the same class as torch for {100 * parity['agreement']:.3f} % of "
            f"{parity['pixels']:,} pixels, probabilities at most {parity['largest_difference']:.1e} apart"
        )
    if "int8" in measured:
        accuracy, speed = measured["int8"]["accuracy"], measured["int8"]["speed"]
        for agreement in measured["int8"]["agreement"]:
            print(
                f"INT8: the same class as float32 for {100 * agreement['fraction']:.2f} % of "
                f"{agreement['pixels']:,} pixels of {agreement['imagery']}"
            )
        print(
            f"INT8: mIoU {points(accuracy['int8'])} on {accuracy['split']}, in float32 "
            f"{points(accuracy['fp32'])} (loses {accuracy['loss_points']:.2f} points); "
            f"{speed['int8_ms']:.1f} ms for a window of {speed['window_px']} px, in float32 "
            f"{speed['fp32_ms']:.1f}"
        )
    size = exported.path.stat().st_size / 1e6
    print(f"{exported.path}: {size:.1f} MB, SHA-256 {exported.sha256}")
