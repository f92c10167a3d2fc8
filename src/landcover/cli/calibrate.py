"""``landcover calibrate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from landcover.cli._options import MaxPixels
from landcover.cli._output import check_json, put
from landcover.io.discovery import MAX_PIXELS


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="Labelled data: a folder or prepared cache.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of it that was not trained on, NAME:part.", show_default=False)
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Instead: take over the temperature of this calibrated run of the same recipe.",
            show_default=False,
        ),
    ] = None,
    legend: Annotated[
        str | None, typer.Option(help="Legend of the data's masks: a name or a YAML file.")
    ] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel, where the data do not tell.")] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the result as JSON; - is standard output.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier calibration, and an existing JSON file.")
    ] = False,
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
            raise UsageError(f"--like takes a temperature that was fitted: leave out {', '.join(given)}.")
        result = calibrate_like(run, like, force=force)
    elif data is None or split is None:
        raise UsageError("Give --data DATA and --split NAME:part to fit on, or --like RUN.")
    else:
        result = fit(
            run,
            data,
            split,
            gsd=gsd,
            legend=None if legend is None else load_legend(legend),
            device=device,
            max_pixels=max_pixels,
            force=force,
        )
    put(result, json, lambda: _print_change(result), force=force)
    for warning in result.get("warnings", ()):
        typer.echo(f"Warning: {warning}", err=True)


def _print_change(result: dict[str, Any]) -> None:
    change = f"Temperature {result['temperature']:.4f} (was {result['temperature_before']:.4f})"
    if "like" in result:
        print(f"{change}, that of a run fitted on {result['split_of_like']}; not measured on this one")
    else:
        nll, ece = result["nll"], result["ece"]
        fitted_on = f"{result['pixels']:,} pixels of {result['images']} images of {result['split']}"
        print(f"{change}, fitted on {fitted_on}")
        print(f"calibration error (ECE)  {100 * ece['before']:6.2f} % -> {100 * ece['after']:6.2f} %")
        print(f"likelihood (NLL)         {nll['before']:8.4f} -> {nll['after']:8.4f}")
    print(f"{result['model']}: weights as before, SHA-256 {result['sha256']}")
    print("Exported files keep the temperature that they were made with: export again.")
