"""Export a model as one file, after checks; no file is written if a check fails."""

import datetime
import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast, get_args

from landcover import __version__
from landcover._typing import UInt8Array
from landcover.errors import UsageError, did_you_mean
from landcover.exporting.candidates import (
    Int8Checks,
    Labelled,
    float_candidate,
    integer_candidate,
    qgis_candidate,
)
from landcover.exporting.crops import PROCEDURAL, Imagery, open_imagery, parse_imagery
from landcover.exporting.gates import MAX_MIOU_LOSS, MIN_AGREEMENT
from landcover.exporting.graph import OPSET
from landcover.exporting.metadata import write_model
from landcover.exporting.stac import stac_item
from landcover.io.files import atomic_path, check_output, write_text
from landcover.model.card import ONNX_SUFFIX, ModelCard, model_digest
from landcover.model.runtimes import TorchRuntime, open_model

Purpose = Literal["landcover", "qgis"]

CALIBRATION_IMAGES = 128
"""Crops of imagery that the ranges of INT8 are measured on, of half a window each."""

_PROBES = 6  # windows that the runtimes' answers are compared on
_COMPARED = 64  # windows of each imagery on which INT8 is compared with float32
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote.

    Attributes:
        path: The model file.
        card: Its card; its ``export`` holds what the gates measured.
        sha256: Digest of the file.
        stac: The STAC item, or None.
    """

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


def export(
    run: str | Path,
    out: str | Path,
    *,
    for_: Purpose = "landcover",
    data: str | Path | None = None,
    split: str | None = None,
    gsd: float | None = None,
    int8: bool = False,
    calibration: str | Sequence[str] | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    compare: Sequence[str] | None = None,
    max_miou_loss: float = MAX_MIOU_LOSS,
    min_agreement: float = MIN_AGREEMENT,
    no_speed_gate: str | None = None,
    seed: int = 0,
    stac_mlm: str | Path | None = None,
    force: bool = False,
) -> Exported:
    """Write a model as one ONNX file that runs without torch, after checks.

    The file is run in OpenVINO and onnxruntime on windows of several sizes and compared with torch: the most
    probable class must be the same for 99.9 % of the pixels, and no probability may differ by more than
    0.001. INT8 is compared with float32 in OpenVINO: by the time for a window, by the classes of the pixels
    of each imagery, and by its mIoU on labelled data. A file that fails a check is not written; the
    measurements are in the card of a file that passes. The steps are logged at level INFO.

    Args:
        run: Run folder or checkpoint.
        out: The file, ``*.onnx``.
        for_: ``"landcover"``, or ``"qgis"`` for the plugin Deepness: a static square input that the plugin
            normalises, one output, and the plugin's own metadata.
        data: Folder or cache with the imagery of the gates. None: procedural scenes, enough for float32.
        split: Part of it, ``NAME:part``. INT8 is scored on it and needs both.
        gsd: Metres per pixel of ``data``, ``calibration`` and ``compare``, where the files do not state it.
        int8: Quantise after training, see :func:`landcover.exporting.quantise.quantise`.
        calibration: Imagery that the ranges of INT8 are measured on, ``DATA`` or ``DATA:SPLIT``; several for
            imagery of several scales or sensors. It needs no labels; use other images than those that INT8
            is scored or compared on.
        calibration_images: Number of crops of half a window, shared evenly by the imagery.
        compare: Further imagery on which INT8 must give the same classes as float32, ``DATA`` or
            ``DATA:SPLIT``, without labels. ``data`` is always compared.
        max_miou_loss: Points of mIoU that INT8 may lose.
        min_agreement: Fraction of pixels, 0..1, that must have the same class as in float32.
        no_speed_gate: Why INT8 need not be faster on this machine; it goes into the card.
        seed: Which windows are drawn.
        stac_mlm: Write a STAC item that describes the file, too.
        force: Replace existing files.

    Raises:
        UsageError: If options contradict each other, or the data lack what a gate needs.
        ModelError: If the run holds no model, or the file fails a gate; the message says by how much.
        SplitError: If a split cannot be made.
        DataError: If imagery cannot be read.
        OutputError: If an output exists and ``force`` is off, or cannot be written.

    Example:
        >>> import landcover as lc
        >>> exported = lc.export("runs/a", "model.onnx")  # doctest: +SKIP
        >>> lc.open_model("model.onnx")  # doctest: +SKIP
    """
    out, item = Path(out), None if stac_mlm is None else Path(stac_mlm)
    if for_ not in get_args(Purpose):
        raise UsageError(f"There is no file for {for_!r}. {did_you_mean(for_, get_args(Purpose))}")
    labelled = None if data is None or split is None else Labelled(data, split, gsd)
    calibration = [calibration] if isinstance(calibration, str) else list(calibration or ())
    if int8:
        checks = _int8_checks(for_, labelled, max_miou_loss, min_agreement, no_speed_gate)
        _check_calibration(calibration, calibration_images)
    elif calibration or compare or no_speed_gate is not None:
        raise UsageError(
            "--calibration, --compare and --no-speed-gate are about INT8; add --int8, or leave them out."
        )
    if split is not None and data is None:
        raise UsageError(f"--split {split} is a part of some data; name them with --data.")
    if seed < 0:
        raise UsageError(f"No windows are drawn with the seed {seed}; seeds start at 0.")
    _check_outputs(out, item, force=force)

    reference = cast("TorchRuntime", open_model(run, device="cpu", runtime="torch"))
    imagery = PROCEDURAL if data is None else open_imagery(data, split, gsd=gsd)
    ranges = [parse_imagery(text, gsd=gsd) for text in calibration]
    compared = [imagery, *(parse_imagery(text, gsd=gsd) for text in compare or ())]
    side, scale = reference.card.window_px, reference.card.preprocessing.gsd
    probes = list(imagery.crops(_PROBES, side, scale, seed=seed))

    with tempfile.TemporaryDirectory(prefix="landcover-export-") as name:
        folder = Path(name)
        if for_ == "qgis":
            made = qgis_candidate(reference, probes, folder)
        else:
            made = float_candidate(reference, probes, folder)
        if int8:
            share = -(-calibration_images // len(ranges))
            drawn = [
                (source.name, _calibration_crops(source, share, reference.card, seed)) for source in ranges
            ]
            images = [image for _, some in drawn for image in some]
            comparisons = [
                (source.name, source.crops(_at_most(_COMPARED, source, side, scale), side, scale, seed=seed))
                for source in compared
            ]
            checks = replace(checks, comparisons=comparisons)
            made = integer_candidate(made, images, probes[0], checks, folder)
            made.figures["int8"]["calibration"] = [
                {"imagery": name, "images": len(some)} for name, some in drawn
            ]
    figures = {**_circumstances(run, for_, imagery, seed), **made.figures}
    card = made.card.model_copy(update={"export": figures})
    _log.info("Writing %s", out)
    with atomic_path(out, force=force) as temporary:
        write_model(temporary, made.model, card, made.entries)
    exported = Exported(out, card, model_digest(out), item)
    if item is not None:
        parameters = sum(values.numel() for values in reference.module.parameters())
        _write_item(item, exported, parameters, side=side if for_ == "qgis" else None, force=force)
    return exported


def _calibration_crops(source: Imagery, count: int, card: ModelCard, seed: int) -> list[UInt8Array]:
    """Return crops of half a window: more different ones in the same pixels, also from a few images."""
    side, gsd = max(1, card.window_px // 2), card.preprocessing.gsd
    return list(source.crops(_at_most(count, source, side, gsd, overlapping=4), side, gsd, seed=seed))


def _at_most(count: int, source: Imagery, side: int, gsd: float, *, overlapping: int = 1) -> int:
    """Return how many crops to draw: ``count``, but no more than there are different ones."""
    return int(min(count, overlapping * source.capacity(side, gsd)))


def _int8_checks(
    for_: Purpose,
    labelled: Labelled | None,
    max_miou_loss: float,
    min_agreement: float,
    no_speed_gate: str | None,
) -> Int8Checks:
    """Return the limits for INT8, still without imagery to compare on, or refuse options before any work."""
    if for_ == "qgis":
        raise UsageError("INT8 is for landcover's own file; leave out --int8 or --for qgis.")
    if labelled is None:
        raise UsageError(
            "INT8 is written only after its mIoU is measured, which needs labelled data: pass --data D "
            "and --split NAME:part, such as folders:validation."
        )
    if not (math.isfinite(max_miou_loss) and max_miou_loss >= 0):
        raise UsageError(f"--max-miou-loss is {max_miou_loss}; expected points of mIoU, 0 or more.")
    if not 0 <= min_agreement <= 1:
        raise UsageError(
            f"--min-agreement is {min_agreement}; expected a fraction from 0 to 1, such as 0.985."
        )
    if no_speed_gate is not None and not no_speed_gate.strip():
        raise UsageError("--no-speed-gate needs a reason, which goes into the model's card.")
    return Int8Checks(
        labelled, max_miou_loss=max_miou_loss, min_agreement=min_agreement, no_speed_gate=no_speed_gate
    )


def _check_calibration(calibration: Sequence[str], images: int) -> None:
    if not calibration:
        raise UsageError(
            "INT8 needs imagery to measure the range of every layer on, without labels and best not the "
            "images it is scored on. Pass --calibration DATA or DATA:SPLIT, such as tiles:folders:train."
        )
    if images < len(calibration):
        raise UsageError(
            f"--calibration-images is {images}; expected at least one for each of {len(calibration)} "
            "--calibration."
        )


def _check_outputs(out: Path, item: Path | None, *, force: bool) -> None:
    if out.suffix.lower() != ONNX_SUFFIX:
        raise UsageError(f"{out} is to be an ONNX file; give a name that ends with {ONNX_SUFFIX}.")
    check_output(out, force=force)
    if item is not None:
        if item.absolute() == out.absolute():
            raise UsageError(f"{out} cannot be both the model and its STAC item; name the item *.json.")
        check_output(item, force=force)


def _circumstances(run: str | Path, for_: Purpose, imagery: Imagery, seed: int) -> dict[str, Any]:
    """Return what led to the file, for its card."""
    return {
        "for": for_,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source_sha256": model_digest(run),
        "opset": OPSET,
        "versions": {"landcover": __version__, **{name: version(name) for name in _LIBRARIES}},
        "imagery": imagery.name,
        "seed": seed,
    }


def _write_item(item: Path, exported: Exported, parameters: int, *, side: int | None, force: bool) -> None:
    href = Path(os.path.relpath(exported.path.absolute(), item.absolute().parent)).as_posix()
    content = stac_item(
        exported.card,
        name=exported.path.stem,
        href=href if href.startswith("../") else f"./{href}",
        sha256=exported.sha256,
        size=exported.path.stat().st_size,
        parameters=parameters,
        side=side,
    )
    write_text(item, json.dumps(content, indent=1) + "\n", force=force)
