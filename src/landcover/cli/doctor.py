"""Verbs about this installation: doctor, help."""

import os
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import argument, option
from landcover.cli._output import put
from landcover.config import MAIN

_RUNTIMES = {"openvino": "openvino_runtime", "onnxruntime": "onnx_runtime", "torch": "torch_runtime"}
_REASONS = {
    "MODEL.onnx": "the fastest on a CPU; with --device cuda onnxruntime",
    "a checkpoint": "the only one that runs it; a model exported from it runs faster on a CPU",
}
_NOT_FOR_USERS = {"dev"}  # extras
_BUNDLED = {"float32": "starter-fp32", "INT8": "starter"}
_WINDOW_PX, _IMAGE_PX, _ROUNDS = 512, 2448, 9


def doctor(
    speed: Annotated[
        bool,
        option(
            "Also time the bundled model: INT8 against float32. Takes some seconds.", "--speed", group=MAIN
        ),
    ] = False,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Show what this machine uses, and why: runtimes, codecs, models."""
    from rich.console import Console
    from rich.table import Table

    findings = _system() | _runtimes() | _extras() | (_speed() if speed else {})

    def show() -> None:
        table = Table.grid(padding=(0, 2))
        for row in findings.items():
            table.add_row(*row)
        Console(markup=False).print(table)

    put(findings, json, show, force=force)


def help(verb: Annotated[list[str] | None, argument("Verb to explain.", "VERB")] = None) -> None:
    """Show the help of a verb."""
    from landcover.cli import build

    typer.main.get_command(build()).main(
        [*(verb or []), "--help"], prog_name="landcover", standalone_mode=False
    )


def _system() -> dict[str, str]:
    """Return versions of this package, of Python and of the codecs, and the number of processors."""
    import rasterio
    from PIL import features
    from rasterio.drivers import raster_driver_extensions

    from landcover import __version__
    from landcover.machine import processors

    limit = os.environ.get("OMP_NUM_THREADS")
    jp2 = "with" if "jp2" in raster_driver_extensions() else "without"
    webp = "with" if features.check("webp") else "without"
    return {
        "landcover": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": f"{processors()} of {os.cpu_count()} may be used"
        + (f"; OMP_NUM_THREADS={limit} sets the threads" if limit else ""),
        "numpy": metadata.version("numpy"),
        "JPEG": f"simplejpeg {metadata.version('simplejpeg')} (libjpeg-turbo)",
        "PNG, TIFF, WebP": f"Pillow {metadata.version('Pillow')}, {webp} WebP",
        "GeoTIFF, JP2": f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}, {jp2} JP2",
        "projections": f"PROJ {rasterio.__proj_version__}",
    }


def _runtimes() -> dict[str, str]:
    """Return what each library that runs models offers here, and which of them runs which model."""
    from landcover.errors import MissingExtraError
    from landcover.extras import needs
    from landcover.model.bundled import SHIPPED
    from landcover.model.runtimes import choose_runtime

    found: dict[str, str] = {}
    missing = set()
    for name, module in _RUNTIMES.items():
        try:
            with needs("train"):  # the torch runtime imports torch itself
                found |= import_module(f"landcover.model.runtimes.{module}").describe()
        except MissingExtraError as error:
            found[name] = str(error)
            missing.add(name)
    for model, reason in _REASONS.items():
        name = choose_runtime(Path(model))
        lack = ", which is missing here (see above)" if name in missing else ""
        found[f"predict with {model}"] = f"{name}{lack}: {reason}"
    for bundled in SHIPPED:
        about = f"{choose_runtime(bundled.path)}; {bundled.about}"
        found[f"model {bundled.name}"] = about if bundled.path.is_file() else "not in this installation"
    return found


def _extras() -> dict[str, str]:
    """Return for each extra whether the distributions that it requires are installed."""
    extras = metadata.metadata("landcover").get_all("Provides-Extra") or ()
    missing: dict[str, list[str]] = {extra: [] for extra in extras if extra not in _NOT_FOR_USERS}
    for requirement in metadata.requires("landcover") or ():
        match = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"](.+?)['\"]", requirement.strip())
        if match and match[2] in missing:
            try:
                metadata.version(match[1])
            except metadata.PackageNotFoundError:
                missing[match[2]].append(match[1])
    return {
        f"extra {extra}": f"lacks {', '.join(names)}. Run: pip install 'landcover[{extra}]'"
        if names
        else "complete"
        for extra, names in missing.items()
    }


def _speed() -> dict[str, str]:
    """Time the bundled model on one window, INT8 and float32 in turns, and on one image at 0.5 m."""
    import numpy as np

    from landcover.errors import LandcoverError
    from landcover.inference import predict_index
    from landcover.model.runtimes import open_model

    try:
        runtimes = {form: open_model(name) for form, name in _BUNDLED.items()}
    except LandcoverError as error:
        return {"speed": str(error)}
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGE_PX, _IMAGE_PX, 3), np.uint8)
    window = np.ascontiguousarray(pixels[None, :_WINDOW_PX, :_WINDOW_PX])
    times: dict[str, list[float]] = {form: [] for form in runtimes}
    for _ in range(_ROUNDS + 1):  # in turns, so that a busy machine slows both alike
        for form, runtime in runtimes.items():
            times[form].append(_seconds(partial(runtime.coarse, window)))
    figures = {form: 1e3 * median(own[1:]) for form, own in times.items()}  # the first run compiles
    faster = min(figures, key=lambda form: figures[form])
    scene = partial(predict_index, runtimes[faster], pixels, gsd=0.5)
    rate = _IMAGE_PX**2 / 1e6 / median([_seconds(scene) for _ in range(4)][1:])
    name, gain = _BUNDLED[faster], figures["float32"] / figures["INT8"]
    size = f"{_WINDOW_PX} x {_WINDOW_PX} px"
    return {
        f"speed {form}": f"{figure:.1f} ms for a window of {size} on {runtimes[form].name}"
        for form, figure in figures.items()
    } | {
        "INT8 against float32": f"{gain:.1f} times as fast; use the model {name}",
        "speed of a scene": f"{rate:.1f} megapixels per second at 0.5 m with {name}, without file access",
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
