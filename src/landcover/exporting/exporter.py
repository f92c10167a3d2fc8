"""Export a model as one file, after acceptance checks; no file is written if a check fails."""

import datetime
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import onnx

from landcover import __version__
from landcover._typing import UInt8Array
from landcover.config import with_deprecated
from landcover.errors import UsageError, did_you_mean
from landcover.exporting.acceptance import (
    DeepnessPrediction,
    Pair,
    both_outputs,
    check_accuracy,
    check_agreement,
    check_parity,
    check_speed,
    parity_batches,
)
from landcover.exporting.crops import PROCEDURAL, open_crops, parse_crops
from landcover.exporting.int8 import quantise
from landcover.exporting.onnxfile import (
    OPSET,
    check_plugin_format,
    deepness_entries,
    standardised_graph,
    write_model,
)
from landcover.exporting.options import ExportOptions
from landcover.io.files import atomic_path, check_output, write_text
from landcover.io.locks import locked_file
from landcover.model.bundled import shipped_file
from landcover.model.card import ONNX_SUFFIX, ModelCard, is_exported, model_digest, read_card, resolve_model
from landcover.model.preprocessing import PLAIN
from landcover.model.runtimes import Runtime, open_model
from landcover.model.stac import stac_item

if TYPE_CHECKING:  # an exported model becomes the file for QGIS without torch
    from landcover.model.network import DeepLabV3Plus
    from landcover.model.runtimes.torch_runtime import TorchRuntime

Purpose = Literal["landcover", "qgis"]

# https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
_PIXELS = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}
_RUNTIMES = ("openvino", "onnxruntime")
_PARITY_WINDOWS = 6  # windows on which runtimes are compared with torch
_AGREEMENT_WINDOWS = 64  # windows of each imagery on which INT8 is compared with float32
_SHIPPED_FLOAT = {"starter": "starter-fp32"}
"""Bundled models in float32, by those in INT8."""
_PLUGIN_LIBRARIES = ("onnx", "onnxruntime")
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote; ``card.export`` contains the results of the checks."""

    path: Path
    card: ModelCard
    sha256: str
    stac: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "bytes": self.path.stat().st_size,
            "precision": self.card.precision,
            "stac": None if self.stac is None else str(self.stac),
            **self.card.export,
        }


Labelled = tuple[str | Path, str, float | None]
"""Data to score on: folder or cache, ``NAME:subset``, metres per pixel if not stated there."""


class Variant(NamedTuple):
    """A model that has passed its checks: graph, card without results, further metadata, results."""

    model: onnx.ModelProto
    card: ModelCard
    entries: dict[str, str]
    results: dict[str, Any]


def export(
    run: str | Path,
    out: str | Path,
    *,
    for_: Purpose = "landcover",
    data: str | Path | None = None,
    split: str | None = None,
    gsd: float | None = None,
    options: ExportOptions | None = None,
    force: bool = False,
    **deprecated: object,
) -> Exported:
    """Write a model as one ONNX file that runs without torch, after acceptance checks.

    The file is run in OpenVINO and onnxruntime on windows of several sizes and compared with torch: the
    predicted class must be the same for 99.9 % of the pixels, and no probability may differ by more than
    0.001. INT8 is compared with float32 in OpenVINO: by the time for a window, by the predicted classes on
    each imagery, and by its mIoU on labelled data. If a check fails, nothing is written; the card of the file
    contains the results. The steps are logged at level INFO.

    Args:
        run: Run folder or checkpoint; for QGIS also an exported float32 model or ``starter``, without torch.
        out: The file, ``*.onnx``.
        for_: ``"landcover"``, or ``"qgis"`` for the plugin Deepness: a static square input that the plugin
            normalises, one output, and the plugin's own metadata.
        data: Folder or cache with the imagery of the checks. None: procedural scenes, enough for float32.
        split: Subset of it, ``NAME:subset``. INT8 is scored on it and needs both.
        gsd: Metres per pixel of ``data`` and the imagery in ``options``, if the files do not state it.
        options: INT8 and further outputs.
        force: Replace existing files.
        **deprecated: The fields of ``options`` as keywords, as in version 0.1.

    Raises:
        UsageError: If options contradict each other, or the data lack what a check needs.
        ModelError: If the run contains no model, or the file fails a check; the message has the numbers.
        SplitError: If a split cannot be made.
        DataError: If imagery cannot be read.
        OutputError: If an output exists and ``force`` is off, or cannot be written.

    Example:
        >>> exported = lc.export("runs/a", "model.onnx")  # doctest: +SKIP
        >>> lc.open_model("model.onnx")  # doctest: +SKIP
    """
    options = with_deprecated(options or ExportOptions(), deprecated, "export")
    out, item = Path(out), options.stac_mlm
    if for_ not in get_args(Purpose):
        raise UsageError(f"Unknown purpose {for_!r}. {did_you_mean(for_, get_args(Purpose))}")
    labelled = None if data is None or split is None else (data, split, gsd)
    if options.int8:
        _check_int8(options, labelled, for_)
    elif options.calibration or options.compare or options.no_speed_gate is not None:
        raise UsageError("--calibration, --compare and --no-speed-gate need --int8; add it, or omit them.")
    if split is not None and data is None:
        raise UsageError(f"--split {split} needs --data, of which it is a subset.")
    if options.seed < 0:
        raise UsageError(f"The seed is {options.seed}; expected 0 or more.")
    if out.suffix.lower() != ONNX_SUFFIX:
        raise UsageError(f"The output is {out}; expected a name that ends with {ONNX_SUFFIX}.")
    if item is not None and item.absolute() == out.absolute():
        raise UsageError(f"{out} cannot be both the model and its STAC item; name the item *.json.")
    for path in filter(None, (out, item)):
        check_output(path, force=force)

    with locked_file(out):
        if from_file := for_ == "qgis" and is_exported(resolve_model(run)):
            run = _float_file(run)
        reference = open_model(run, device="cpu", runtime="onnxruntime" if from_file else "torch")
        like = reference.card.preprocessing
        if for_ == "qgis" and like.scaling != PLAIN:
            raise UsageError(
                f"{run} was trained with the scaling {like.scaling}; QGIS passes 8-bit imagery. Use "
                "landcover predict, or train on 8-bit imagery."
            )
        how: dict[str, Any] = {"gsd": gsd, "like": like, "reading": options.reading}
        imagery = replace(PROCEDURAL, channels=like.channels)
        if data is not None:
            imagery = open_crops(data, split, **how)
        sources = [parse_crops(text, **how) for text in options.calibration]
        compared = [imagery, *(parse_crops(text, **how) for text in options.compare)]
        side, scale, seed = reference.card.window_px, reference.card.preprocessing.gsd, options.seed
        # The graph of a file was checked when it was exported: half the side, and not all windows.
        count, window = (2, max(1, side // 2)) if from_file else (_PARITY_WINDOWS, side)
        windows = list(imagery.crops(count, window, scale, seed=seed))

        with tempfile.TemporaryDirectory(prefix="landcover-export-") as name:
            folder = Path(name)
            if for_ == "qgis":
                model = onnx.load(Path(run)) if from_file else _converted(reference)
                variant = qgis_variant(model, reference, windows, folder)
            else:
                variant = float_variant(reference, windows, folder)
            if labelled is not None and options.int8:
                share = -(-options.calibration_images // len(sources))
                # Half a window: more different crops in the same number of pixels, also from a few images.
                half = max(1, side // 2)
                crops = [list(s.crops(share, half, scale, seed=seed, overlapping=4)) for s in sources]
                comparisons = [
                    (source.name, source.crops(_AGREEMENT_WINDOWS, side, scale, seed=seed, overlapping=1))
                    for source in compared
                ]
                images = [crop for some in crops for crop in some]
                variant = int8_variant(variant, images, windows[0], comparisons, labelled, options, folder)
                variant.results["int8"]["calibration"] = [
                    {"imagery": source.name, "images": len(some)}
                    for source, some in zip(sources, crops, strict=True)
                ]
        results = {
            "for": for_,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "source_sha256": model_digest(run),
            "opset": OPSET,
            "versions": {
                "landcover": __version__,
                **{name: version(name) for name in (_PLUGIN_LIBRARIES if from_file else _LIBRARIES)},
            },
            "imagery": imagery.name,
            "seed": seed,
            **variant.results,
        }
        views = options.views or variant.card.views
        card = variant.card.model_copy(update={"export": results, "views": views})
        if views != variant.card.views and card.calibration:
            _log.warning(
                "The temperature of %s was fitted for %d views, not %d: landcover calibrate --views fits it.",
                run,
                variant.card.views,
                views,
            )
        _log.info("Writing %s", out)
        with atomic_path(out, force=force) as temporary:
            write_model(temporary, variant.model, card, variant.entries)
        exported = Exported(out, card, model_digest(out), item)
        if item is not None:
            href = Path(os.path.relpath(out.absolute(), item.absolute().parent)).as_posix()
            content = stac_item(
                card,
                name=out.stem,
                href=href if href.startswith("../") else f"./{href}",
                sha256=exported.sha256,
                size=out.stat().st_size,
                # The run's own number, or that of a file's graph, where norms are folded.
                parameters=sum(math.prod(tensor.dims) for tensor in variant.model.graph.initializer)
                if from_file
                else sum(part.numel() for part in cast("TorchRuntime", reference).module.parameters()),
                side=side if for_ == "qgis" else None,
            )
            write_text(item, json.dumps(content, indent=1) + "\n", force=force)
        return exported


def _check_int8(options: ExportOptions, labelled: Labelled | None, for_: Purpose) -> None:
    """Refuse options that contradict INT8, before any work."""
    if for_ == "qgis":
        raise UsageError("INT8 is not available for QGIS; omit --int8 or --for qgis.")
    if labelled is None:
        raise UsageError(
            "INT8 is written only after its mIoU is measured, which needs labelled data: pass --data D "
            "and --split NAME:subset, such as folders:validation."
        )
    if not (math.isfinite(options.max_miou_loss) and options.max_miou_loss >= 0):
        raise UsageError(f"--max-miou-loss is {options.max_miou_loss}; expected points of mIoU, 0 or more.")
    if not 0 <= options.min_agreement <= 1:
        raise UsageError(
            f"--min-agreement is {options.min_agreement}; expected a fraction from 0 to 1, such as 0.985."
        )
    if options.no_speed_gate is not None and not options.no_speed_gate.strip():
        raise UsageError("--no-speed-gate needs a reason, which is stored in the model's card.")
    if not options.calibration:
        raise UsageError(
            "INT8 needs imagery, best not that of --split, on which the ranges of the layers are measured. "
            "Pass --calibration DATA or DATA:SPLIT, such as tiles:folders:train."
        )
    if options.calibration_images < len(options.calibration):
        raise UsageError(
            f"--calibration-images is {options.calibration_images}; expected at least one for each of "
            f"{len(options.calibration)} --calibration."
        )


def _float_file(model: str | Path) -> Path:
    """Return the exported float32 file of a model, for ``starter`` that of ``starter-fp32``."""
    file = resolve_model(model)
    if read_card(file).precision == "fp32":
        return file
    if file == shipped_file(str(model)) and (other := _SHIPPED_FLOAT.get(str(model))):
        return resolve_model(other)
    raise UsageError(
        f"{model} is INT8, which the plugin's onnxruntime computes wrongly on some processors. Export the "
        "run that it was made of, or its float32 file."
    )


def _converted(reference: Runtime) -> onnx.ModelProto:
    """Return the graph of a network in torch."""
    from landcover.exporting.graph import model_graph

    torch_runtime = cast("TorchRuntime", reference)
    _log.info("Converting the network %s to ONNX; this can take a minute", reference.card.model.encoder)
    return model_graph(cast("DeepLabV3Plus", torch_runtime.module), reference.card)


def float_variant(reference: Runtime, windows: Sequence[UInt8Array], folder: Path) -> Variant:
    """Write ``float.onnx``, and compare it with torch on windows, uint8 (H, W, B), in every runtime."""
    card, file, model = reference.card, folder / "float.onnx", _converted(reference)
    entries = dict(_PIXELS) if card.preprocessing.channels == 3 else {}
    if card.licence:
        entries["model_license"] = card.licence
    write_model(file, model, card, entries)
    _log.info("Comparing the ONNX file with torch")
    runtimes = {name: both_outputs(open_model(file, device="cpu", runtime=name)) for name in _RUNTIMES}
    parity = check_parity(both_outputs(reference), runtimes, parity_batches(windows))
    return Variant(model, card, entries, {"parity": parity})


def qgis_variant(
    model: onnx.ModelProto, reference: Runtime, windows: Sequence[UInt8Array], folder: Path
) -> Variant:
    """Write the file for Deepness, check its format, and compare what the plugin computes with the model."""
    card, file = reference.card, folder / "qgis.onnx"
    model, entries = standardised_graph(model, card), deepness_entries(card)
    write_model(file, model, card, entries)
    form = check_plugin_format(file)
    parity = check_parity(
        lambda batch: (reference.probabilities(batch),),
        {"onnxruntime, as Deepness runs it": DeepnessPrediction(file)},
        (_full_window(window, card.window_px)[None] for window in windows),
    )
    return Variant(model, card, entries, {**form, "parity": parity})


def int8_variant(
    origin: Variant,
    images: Sequence[UInt8Array],
    window: UInt8Array,
    comparisons: Iterable[tuple[str, Iterable[UInt8Array]]],
    labelled: Labelled,
    options: ExportOptions,
    folder: Path,
) -> Variant:
    """Quantise what :func:`float_variant` returned, and compare both in OpenVINO within the options' limits.

    Ranges are measured on ``images``, a ``window`` is timed (uint8 (H, W, B) each), predicted classes are
    compared on the windows of each imagery, by name, and the mIoU on labelled data.
    """
    card = origin.card.model_copy(update={"precision": "int8"})
    _log.info("Quantising: measuring ranges on %d crops", len(images))
    model = quantise(origin.model, images, folder)
    write_model(folder / "int8.onnx", model, card, origin.entries)
    pair = Pair(*(open_model(folder / name, runtime="openvino") for name in ("float.onnx", "int8.onnx")))

    # Speed first: it takes seconds where scoring can take minutes.
    reason = options.no_speed_gate
    speed = check_speed(pair, _full_window(window, card.window_px), must_be_faster=reason is None)
    agreements = []
    for name, windows in comparisons:
        _log.info("Comparing INT8 with float32 on %s", name)
        agreements.append(check_agreement(pair, name, windows, minimum=options.min_agreement))
    data, split, gsd = labelled
    _log.info("Scoring float32 and INT8 on %s %s", data, split)
    results = {
        "accuracy": check_accuracy(
            pair, data, split, gsd=gsd, reading=options.reading, max_loss=options.max_miou_loss
        ),
        "agreement": agreements,
        "min_agreement": options.min_agreement,
        "speed": {**speed, "no_gate": reason},
    }
    return Variant(model, card, origin.entries, {**origin.results, "int8": results})


def _full_window(image: UInt8Array, side: int) -> UInt8Array:
    """Repeat the last row and column of uint8 (H, W, B) until it is ``side`` high and wide."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
