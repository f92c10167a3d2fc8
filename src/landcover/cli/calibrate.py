"""``landcover calibrate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import check_json, log, points, put
from landcover.io.discovery import MAX_PIXELS


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint.", show_default=False)],
    data: _options.OptionalData = None,
    split: Annotated[
        str | None,
        option("Subset of the data that was not trained on, NAME:part.", group=MAIN),
    ] = None,
    like: Annotated[
        Path | None,
        option(
            "Copy the temperature of this calibrated run of the same recipe, in place of --data.", group=MAIN
        ),
    ] = None,
    legend: _options.Legend = None,
    gsd: _options.Gsd = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    device: _options.Device = "auto",
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Fit a run's temperature on held-out data."""
    from landcover.errors import UsageError
    from landcover.evaluation.temperature import calibrate as fit
    from landcover.evaluation.temperature import calibrate_like
    from landcover.legend import load_legend

    check_json(json, force=force)
    if like is not None:
        others = {"--data": data, "--split": split, "--legend": legend, "--gsd": gsd}
        if given := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"--like copies a temperature; it cannot be combined with {', '.join(given)}.")
        report = calibrate_like(run, like, force=force)
    elif data is None or split is None:
        raise UsageError("Pass --data DATA and --split NAME:part, or --like RUN.")
    else:
        report = fit(
            run,
            data,
            split,
            gsd=gsd,
            legend=None if legend is None else load_legend(legend),
            device=device,
            max_pixels=max_pixels,
            force=force,
        )
    result = report.to_dict()
    put(result, json, lambda: _print_change(result), force=force)
    for warning in report.warnings:
        log.warning("%s", warning)


def _print_change(result: dict[str, Any]) -> None:
    change = f"Temperature {result['temperature']:.4f} (was {result['temperature_before']:.4f})"
    if "like" in result:
        print(f"{change}, copied from a run that was fitted on {result['split_of_like']}; not measured here")
    else:
        nll, ece = result["nll"], result["ece"]
        fitted_on = f"{result['pixels']:,} pixels of {result['images']} images of {result['split']}"
        print(f"{change}, fitted on {fitted_on}")
        print(f"calibration error (ECE)  {points(ece['before']):>6} % -> {points(ece['after']):>6} %")
        print(f"likelihood (NLL)         {nll['before']:8.4f} -> {nll['after']:8.4f}")
    print(f"{result['model']}: weights unchanged, SHA-256 {result['sha256']}")
    print("Exported files keep their old temperature. Export the run again.")
