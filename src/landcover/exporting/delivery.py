"""The verb: write a model file, or refuse to."""

import datetime
import json
import math
import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast, get_args

from landcover import __version__
from landcover.errors import UsageError, did_you_mean
from landcover.exporting.candidates import (
    Labelled,
    float_candidate,
    integer_candidate,
    qgis_candidate,
)
from landcover.exporting.crops import PROCEDURAL, Imagery, open_imagery, parse_imagery
from landcover.exporting.gates import MAX_MIOU_LOSS
from landcover.exporting.graph import OPSET
from landcover.exporting.metadata import write_model
from landcover.exporting.stac import stac_item
from landcover.io.files import atomic_path, check_output, write_text
from landcover.model.card import ONNX_SUFFIX, ModelCard, model_digest
from landcover.model.runtimes import TorchRuntime, open_model

Purpose = Literal["landcover", "qgis"]

CALIBRATION_IMAGES = 128
"""Windows of imagery that the ranges of INT8 are measured on."""

_PROBES = 6  # windows that the runtimes' answers are compared on
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")


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
    calibration: str | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    max_miou_loss: float = MAX_MIOU_LOSS,
    no_speed_gate: str | None = None,
    seed: int = 0,
    stac_mlm: str | Path | None = None,
    force: bool = False,
) -> Exported:
    """Write a model as one ONNX file that runs without torch, after a look at whether it answers alike.

    The file is run in OpenVINO and onnxruntime on windows of several sizes and compared with torch: the most
    probable class must be the same for 99.9 % of the pixels, and no probability may differ by more than
    0.001. INT8 is compared with float32 in OpenVINO: by its mIoU on labelled data and by the time for a
    window. A file that fails is not written; what was measured stands in the card of one that passes.

    Args:
        run: Run folder or checkpoint.
        out: The file, ``*.onnx``.
        for_: ``"landcover"``, or ``"qgis"`` for the plugin Deepness: a static square input that the plugin
            normalises, one output, and the plugin's own metadata.
        data: Folder or cache with the imagery of the gates. None: procedural scenes, enough for float32.
        split: Part of it, ``NAME:part``. INT8 is scored on it and needs both.
        gsd: Metres per pixel of ``data`` and ``calibration``, where they do not tell.
        int8: Quantise after training, see :func:`landcover.exporting.quantise.quantise`.
        calibration: Imagery that the ranges of INT8 are measured on, ``DATA`` or ``DATA:SPLIT``. It needs no
            labels, and is best not what INT8 is scored on.
        calibration_images: How many windows of it.
        max_miou_loss: Points of mIoU that INT8 may lose.
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
    _check_int8(int8, for_, calibration, labelled, calibration_images, max_miou_loss, no_speed_gate)
    if split is not None and data is None:
        raise UsageError(f"--split {split} is a part of some data; name them with --data.")
    if seed < 0:
        raise UsageError(f"No windows are drawn with the seed {seed}; seeds start at 0.")
    _check_outputs(out, item, force=force)

    reference = cast("TorchRuntime", open_model(run, device="cpu", runtime="torch"))
    imagery = PROCEDURAL if data is None else open_imagery(data, split, gsd=gsd)
    ranges = None if calibration is None else parse_imagery(calibration, gsd=gsd)
    side, scale = reference.card.window_px, reference.card.preprocessing.gsd
    probes = list(imagery.crops(_PROBES, side, scale, seed=seed))
    with tempfile.TemporaryDirectory(prefix="landcover-export-") as name:
        folder = Path(name)
        if for_ == "qgis":
            made = qgis_candidate(reference, probes, folder)
        else:
            made = float_candidate(reference, probes, folder)
        if ranges is not None and labelled is not None:
            made = integer_candidate(
                made,
                ranges.crops(calibration_images, side, scale, seed=seed),
                probes,
                labelled,
                folder,
                max_miou_loss=max_miou_loss,
                no_speed_gate=no_speed_gate,
            )
            made.figures["int8"]["calibration"] = {"imagery": ranges.name, "images": calibration_images}
    figures = {**_circumstances(run, for_, imagery, seed), **made.figures}
    card = made.card.model_copy(update={"export": figures})
    with atomic_path(out, force=force) as temporary:
        write_model(temporary, made.model, card, made.entries)
    exported = Exported(out, card, model_digest(out), item)
    if item is not None:
        parameters = sum(values.numel() for values in reference.module.parameters())
        _write_item(item, exported, parameters, side=side if for_ == "qgis" else None, force=force)
    return exported


def _check_int8(
    int8: bool,
    for_: Purpose,
    calibration: str | None,
    labelled: Labelled | None,
    calibration_images: int,
    max_miou_loss: float,
    no_speed_gate: str | None,
) -> None:
    """Refuse combinations of options about INT8 that say two things, or too little, before any work."""
    if not int8:
        if calibration is not None or no_speed_gate is not None:
            raise UsageError(
                "--calibration and --no-speed-gate are about INT8; add --int8, or leave them out."
            )
        return
    if for_ == "qgis":
        raise UsageError("INT8 is for landcover's own file; leave out --int8 or --for qgis.")
    if calibration is None:
        raise UsageError(
            "INT8 needs imagery to measure the range of every layer on, without labels and best not what it "
            "is scored on. Pass --calibration DATA or DATA:SPLIT, such as tiles:folders:train."
        )
    if labelled is None:
        raise UsageError(
            "INT8 is written only where its mIoU has been measured, which needs labelled data: pass --data D "
            "and --split NAME:part, such as folders:validation."
        )
    if calibration_images < 1:
        raise UsageError(f"Ranges cannot be measured on {calibration_images} images; expected 1 or more.")
    if not (math.isfinite(max_miou_loss) and max_miou_loss >= 0):
        raise UsageError(f"--max-miou-loss is {max_miou_loss}; expected points of mIoU, 0 or more.")
    if no_speed_gate is not None and not no_speed_gate.strip():
        raise UsageError("--no-speed-gate needs a reason, which goes into the model's card.")


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
