"""Verbs that make models, and pages of them: train, calibrate, export, report, page."""

import ctypes
import json as json_
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from landcover.cli import _options
from landcover.cli._options import argument, option
from landcover.cli._output import log, put, say
from landcover.config import INPUT, MAIN, PROCESSING, REPORTS
from landcover.errors import INTERRUPTED, LostProcessError, UsageError
from landcover.exporting.options import ExportOptions
from landcover.inference.options import ImageryOptions
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS
from landcover.values import check_views, points

Run = Annotated[Path, argument("Run folder or checkpoint.", "RUN")]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _LARGEST = -1, -4, 2**31 - 1
"""Parameters of glibc's ``mallopt``, and the largest value."""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process; do nothing with other C libraries.

    Otherwise every large buffer of a training step is mapped again, and the kernel zeroes each of its pages
    at first touch. The setting holds for the whole process, so only the command line calls this.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def train(
    imagery: ImageryOptions,
    data: Annotated[
        list[Path] | None,
        option(
            "Data folder or prepared cache. May be given several times; classes are matched to the first by "
            "name.",
            group=MAIN,
        ),
    ] = None,
    out: Annotated[Path | None, option("Run folder.", group=MAIN)] = None,
    preset: Annotated[
        str,
        option(
            "Preset (see landcover presets) or a YAML file. config.yaml of a run also has its data, split "
            "and --init.",
            group=MAIN,
        ),
    ] = "starter",
    split: Annotated[
        str | None,
        option(
            "Split: trains on its subset train, validates on val, valid or validation.  [default: folders]",
            group=MAIN,
        ),
    ] = None,
    minutes: Annotated[float | None, option("Limit in minutes, resumed parts included.", group=MAIN)] = None,
    steps: Annotated[int | None, option("Limit in steps.", group=PROCESSING)] = None,
    settings: Annotated[
        list[str] | None,
        option(
            "Change a setting, such as optimiser.name=sgd.", "--set", group=PROCESSING, metavar="KEY=VALUE"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        option(
            "Encoder weights: a safetensors file, timm (downloads them) or none.  [default: the preset's]",
            group=INPUT,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        option(
            "Model to fine-tune, with the same or another legend. Network and scale are the model's; "
            "--set gsd=M changes the scale, --set model.KEY=VALUE settings without weights, such as dropout.",
            group=INPUT,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        option(
            "Model or run folder whose probabilities are soft labels. May be given several times. It "
            "must be trained on the same split or on other data.",
            group=INPUT,
        ),
    ] = None,
    device: Annotated[
        str | None, option("auto, cpu or cuda.  [default: the preset's]", group=PROCESSING)
    ] = None,
    devices: Annotated[
        int | None,
        option(
            "Processes on this machine: one for each GPU, or on the CPU. Each has batch_size crops per pass.",
            group=PROCESSING,
            min=1,
            max=1024,
        ),
    ] = None,
    resume: Annotated[
        str,
        option(
            "auto: continue the run in --out; never; or a run folder to continue in a copy.", group=PROCESSING
        ),
    ] = "auto",
    extend: Annotated[
        bool,
        option(
            "Continue the run in --out to another limit in steps or minutes, also where it has ended.",
            "--extend",
            group=PROCESSING,
        ),
    ] = False,
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    max_off_palette: Annotated[
        float | None,
        option(
            "Refuse masks with more than this fraction (0..1) of pixels whose colour is not in the legend.  "
            "[default: 0.01]",
            group=INPUT,
        ),
    ] = None,
    show_config: Annotated[
        bool, option("Print the configuration as YAML and exit.", "--show-config", group=REPORTS)
    ] = False,
) -> None:
    """Train a model, or fine-tune one."""
    from landcover.machine import sleep_between_layers

    sleep_between_layers()
    from landcover.config import dump_yaml, with_overrides
    from landcover.data import open_dataset
    from landcover.data.dataset import combine
    from landcover.legend import Legend as LegendClass
    from landcover.model.card import read_card
    from landcover.textfiles import read_yaml
    from landcover.training import load_preset
    from landcover.training import train as train_network
    from landcover.training.processes import LOST, launch

    if minutes is not None and steps is not None:
        raise UsageError(f"--minutes {minutes} and --steps {steps} are both limits. Pass only one.")
    if init is not None and weights not in (None, "none"):
        raise UsageError(
            f"--init {init} and --weights {weights} both set the initial weights. Pass only one."
        )
    config = load_preset(preset)
    inputs = config.inputs
    if init is not None:
        card = read_card(init)
        model = {"model": card.model, "gsd": card.preprocessing.gsd}
        in_file = (read_yaml(Path(preset)) or {}).keys() if Path(preset).is_file() else ()
        stated = {name: getattr(config, name) for name in model if name in in_file}
        if differing := [name for name, value in stated.items() if value not in (None, model[name])]:
            log.warning(
                "%s of %s: those of the model of --init %s are used. --set changes what has no weights.",
                " and ".join(differing),
                preset,
                init,
            )
        config = config.model_copy(update=model)
    elif inputs.init is not None and weights is None:
        init = Path(inputs.init)  # of a run, whose file has network and scale
    chosen: dict[str, Any] = {}  # setting: value
    if weights is not None:
        chosen["weights"] = None if weights == "none" else weights
    if teacher:
        chosen["teachers"] = teacher
    if device is not None:
        chosen["device"] = device
    if minutes is not None or steps is not None:
        chosen |= {"minutes": minutes, "steps": steps}
    quoted = [f"{key}={json_.dumps(value, ensure_ascii=False)}" for key, value in chosen.items()]
    config = with_overrides(config, [*(settings or ()), *quoted])
    options = {
        "data": tuple(str(path.absolute()) for path in data) if data else None,
        "split": split,
        # A name that is no path is that of a bundled model.
        "init": None if init is None else str(init.absolute() if init.exists() else init),
        "data_gsd": gsd,
        "legend": None if legend is None else legend.to_dict(),
        "max_off_palette": max_off_palette,
        **imagery.model_dump(exclude_defaults=True),
    }
    given = {name: value for name, value in options.items() if value is not None}
    if given.keys() & {"data", "split", "legend"}:
        given |= {"data_digest": None, "content_digest": None}  # of other data
    if init is None:
        given["init"] = None
    if not show_config:
        given["command"] = shlex.join(["landcover", *sys.argv[1:]])
    inputs = inputs.model_copy(update=given)
    config = config.model_copy(update={"inputs": inputs})
    if show_config:
        print(dump_yaml(config), end="")
        return
    if config.weights == "timm" and init is None:
        log.info(
            "Encoder weights: timm downloads those of %s if they are not in its cache. To work offline, pass "
            "--weights FILE or --weights none.",
            config.model.encoder,
        )
    if extend and resume != "auto":
        raise UsageError(
            f"--extend continues the run in --out; it cannot be combined with --resume {resume}."
        )
    if not inputs.data or out is None:
        missing = [name for name, value in {"--data": inputs.data, "--out": out}.items() if not value]
        raise UsageError(f"Missing option {' and '.join(missing)}.")
    in_group = os.environ.get("WORLD_SIZE", "1")  # of torchrun, or of the call that follows
    if devices is not None and str(devices) != in_group:
        if in_group != "1":
            raise UsageError(f"--devices {devices}: torchrun has started {in_group} processes. Leave it out.")
        raise typer.Exit(launch(devices, [sys.executable, "-m", "landcover", *sys.argv[1:]]))
    keep_freed_memory()
    stated = inputs.model_dump(include=set(ImageryOptions.model_fields), exclude_none=True)
    reading = ImageryOptions(**stated).reading
    labels = (
        None if inputs.legend is None else LegendClass.from_dict(inputs.legend, f"{preset}: inputs.legend")
    )
    limit = MAX_OFF_PALETTE if inputs.max_off_palette is None else inputs.max_off_palette
    datasets = [
        open_dataset(folder, legend=labels, gsd=inputs.data_gsd, reading=reading, max_off_palette=limit)
        for folder in inputs.data
    ]
    try:
        result = train_network(
            config,
            data=combine(datasets),
            out=out,
            split=inputs.split or "folders",
            init=init,
            resume="extend" if extend else resume,
        )
    except LostProcessError:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun reports which one
            raise
        raise typer.Exit(LOST) from None  # so does launch
    if result.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
    best = ""
    if result.best_miou is not None:
        best = f" Best mIoU {points(result.best_miou)}, step {result.best_step}."
        if result.kept_miou is None:
            best = f" The kept weights have no score (best mIoU {points(result.best_miou)} before)."
        elif result.kept_miou != result.best_miou:
            best = (
                f" mIoU of the kept weights {points(result.kept_miou)} (best {points(result.best_miou)}, "
                f"step {result.best_step})."
            )
    weights_of = " (weights of the last step)" if config.validation.keep == "last" else ""
    if result.expected_steps is not None:
        log.info(
            "%d of %d expected steps, by the speed of the first minute.", result.step, result.expected_steps
        )
    log.info(
        "%d steps in %.1f minutes.%s The model: %s%s", result.step, result.seconds / 60, best, out, weights_of
    )


def calibrate(
    run: Run,
    imagery: ImageryOptions,
    data: _options.OptionalData = None,
    split: Annotated[
        str | None, option("Subset of the data that was not trained on, NAME:part.", group=MAIN)
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
    views: _options.Views = None,
    device: _options.Device = "auto",
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Fit a run's temperature on held-out data."""
    from landcover.data import open_dataset
    from landcover.evaluation import temperature

    if like is not None:
        others = {"--data": data, "--split": split, "--legend": legend, "--gsd": gsd, "--views": views}
        if given := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"--like copies a temperature; it cannot be combined with {', '.join(given)}.")
        report = temperature.calibrate_like(run, like, force=force)
    elif data is None or split is None:
        raise UsageError("Pass --data DATA and --split NAME:part, or --like RUN.")
    else:
        dataset = open_dataset(data, legend=legend, gsd=gsd, reading=imagery.reading, max_pixels=max_pixels)
        report = temperature.calibrate(
            run, dataset, split, views=check_views(views), device=device, force=force
        )

    def show() -> None:
        change = f"Temperature {report.temperature:.4f} (was {report.temperature_before:.4f})"
        nll, ece = report.nll, report.ece
        if nll is None or ece is None:
            say(f"{change}, copied from a run that was fitted on {report.split_of_like}; not measured here")
        else:
            say(f"{change}, fitted on {report.pixels:,} pixels of {report.images} images of {report.split}")
            say(f"calibration error (ECE)  {points(ece.before):>6} % -> {points(ece.after):>6} %")
            say(f"likelihood (NLL)         {nll.before:8.4f} -> {nll.after:8.4f}")
        say(f"{report.model}: weights unchanged, SHA-256 {report.sha256}")
        say("Exported files keep their old temperature. Export the run again.")

    put(report.to_dict(), json, show, force=force)
    for warning in report.warnings:
        log.warning("%s", warning)


def export(
    run: Run,
    out: Annotated[Path, option("Output file, *.onnx.", group=MAIN)],
    imagery: ImageryOptions,
    for_: Annotated[
        Literal["landcover", "qgis"],
        option("Software that runs the file: landcover, or the QGIS plugin Deepness.", "--for", group=MAIN),
    ] = "landcover",
    data: Annotated[
        Path | None, option("Imagery to check the file on. By default procedural scenes.", group=MAIN)
    ] = None,
    split: Annotated[
        str | None, option("Subset of --data, NAME:part; INT8 is scored on it.", group=MAIN)
    ] = None,
    gsd: _options.Gsd = None,
    *,
    options: ExportOptions,
    force: _options.Force = False,
    json: _options.Json = None,
) -> None:
    """Write a model as one checked ONNX file."""
    from landcover.exporting import export as write

    options = options.model_copy(update={"reading": imagery.reading})
    exported = write(run, out, for_=for_, data=data, split=split, gsd=gsd, options=options, force=force)

    def show() -> None:
        measured = exported.card.export
        for parity in measured["parity"]:
            say(
                f"{parity['runtime']}: the same class as torch for {100 * parity['agreement']:.3f} % of "
                f"{parity['pixels']:,} pixels, probabilities at most {parity['largest_difference']:.1e} apart"
            )
        if "int8" in measured:
            accuracy, speed = measured["int8"]["accuracy"], measured["int8"]["speed"]
            for agreement in measured["int8"]["agreement"]:
                say(
                    f"INT8: the same class as float32 for {100 * agreement['fraction']:.2f} % of "
                    f"{agreement['pixels']:,} pixels of {agreement['imagery']}"
                )
            say(
                f"INT8: mIoU {points(accuracy['int8'])} on {accuracy['split']}, in float32 "
                f"{points(accuracy['fp32'])} (loses {accuracy['loss_points']:.2f} points); "
                f"{speed['int8_ms']:.1f} ms for a window of {speed['window_px']} px, in float32 "
                f"{speed['fp32_ms']:.1f}"
            )
        size = exported.path.stat().st_size / 1e6
        say(f"{exported.path}: {size:.1f} MB, SHA-256 {exported.sha256}")

    put(exported.to_dict(), json, show, force=force)


def report(
    inputs: Annotated[list[Path], argument("Run folders and JSON files of landcover evaluate.", "INPUTS")],
    out: Annotated[Path, option("HTML file to write.", group=MAIN)],
    title: Annotated[str, option("Heading of the page.", group=MAIN)] = "Land-cover report",
    images: Annotated[int, option("Number of best and of worst images to show.", group=MAIN)] = 3,
    force: _options.Force = False,
) -> None:
    """Write an HTML page about training runs and evaluations."""
    from landcover.reporting import report as write_report

    file = write_report(inputs, out, title=title, images=images, force=force)
    log.info("%s  (%.1f MB)", file, file.stat().st_size / 1e6)


def page(
    out: Annotated[
        Path | None, option("HTML file to write.  [default: landcover.html, none with --open]", group=MAIN)
    ] = None,
    model: Annotated[str, option("Exported model (.onnx) or name of a bundled one.", group=MAIN)] = "starter",
    open_: Annotated[bool, option("Serve the page on 127.0.0.1 and open it.", "--open", group=MAIN)] = False,
    force: _options.Force = False,
) -> None:
    """Write one HTML file that maps land cover in a browser."""
    import webbrowser

    from landcover.page import build_page, serve_page, write_page

    if out is not None or not open_:
        file = write_page(out or Path("landcover.html"), model, force=force)
        log.info("%s  (%.1f MB)", file, file.stat().st_size / 1e6)

    def show(address: str) -> None:
        log.info("%s  (Ctrl-C stops it)", address)
        webbrowser.open(address)

    if open_:
        serve_page(build_page(model) if out is None else out.read_text(encoding="utf-8"), show)
