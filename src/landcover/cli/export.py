"""``landcover export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landcover.cli._output import check_json, log_to_standard_error, put

if TYPE_CHECKING:
    from landcover.exporting import Exported


def export(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The file, *.onnx.", show_default=False)],
    for_: Annotated[
        Literal["landcover", "qgis"],
        typer.Option("--for", help="What is to run it: landcover, or the QGIS plugin Deepness."),
    ] = "landcover",
    data: Annotated[
        Path | None,
        typer.Option(help="Imagery to check the file on; else procedural scenes.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Part of it, NAME:part; INT8 is scored on it.", show_default=False),
    ] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel, where the data do not tell.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise; needs --calibration, --data and --split.")
    ] = False,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            help="Imagery to measure ranges on, DATA or DATA:SPLIT; repeat it for several scales.",
            show_default=False,
        ),
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="Number of crops to measure ranges on.")] = 128,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="Further imagery to compare INT8 with float32 on, DATA or DATA:SPLIT; repeatable.",
            show_default=False,
        ),
    ] = None,
    max_miou_loss: Annotated[float, typer.Option(help="Points of mIoU that INT8 may lose.")] = 0.5,
    min_agreement: Annotated[
        float, typer.Option(help="Fraction of pixels that INT8 must classify as float32 does.")
    ] = 0.985,
    no_speed_gate: Annotated[
        str | None,
        typer.Option(
            help="Write INT8 even where it is not faster, for this reason.",
            metavar="REASON",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which windows are drawn.")] = 0,
    stac_mlm: Annotated[
        Path | None, typer.Option(help="Write a STAC item that describes the model.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write what was measured as JSON; - is standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Write a model as one checked ONNX file."""
    from landcover.exporting import export as write

    check_json(json, force=force)
    log_to_standard_error()
    exported = write(
        run,
        out,
        for_=for_,
        data=data,
        split=split,
        gsd=gsd,
        int8=int8,
        calibration=calibration,
        calibration_images=calibration_images,
        compare=compare,
        max_miou_loss=max_miou_loss,
        min_agreement=min_agreement,
        no_speed_gate=no_speed_gate,
        seed=seed,
        stac_mlm=stac_mlm,
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
            f"INT8: mIoU {100 * accuracy['int8']:.2f} on {accuracy['split']}, in float32 "
            f"{100 * accuracy['fp32']:.2f} (loses {accuracy['loss_points']:.2f} points); "
            f"{speed['int8_ms']:.1f} ms for a window of {speed['window_px']} px, in float32 "
            f"{speed['fp32_ms']:.1f}"
        )
    size = exported.path.stat().st_size / 1e6
    print(f"{exported.path}: {size:.1f} MB, SHA-256 {exported.sha256}")
