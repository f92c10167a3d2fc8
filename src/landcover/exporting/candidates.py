"""Models that have been made and have passed their checks, not yet written."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnx

from landcover._typing import UInt8Array
from landcover.exporting.gates import (
    MAX_MIOU_LOSS,
    MIN_AGREEMENT,
    check_accuracy,
    check_agreement,
    check_speed,
    measure_accuracy,
    measure_agreement,
    measure_speed,
)
from landcover.exporting.graph import model_graph, standardised_graph
from landcover.exporting.metadata import standard_entries, write_model
from landcover.exporting.parity import check_parity, measure_parity, probing_batches, whole_answer
from landcover.exporting.qgis import DeepnessAnswer, deepness_entries
from landcover.exporting.quantise import quantise
from landcover.model import DeepLabV3Plus
from landcover.model.card import ModelCard
from landcover.model.runtimes import Runtime, TorchRuntime, open_model

_RUNTIMES = ("openvino", "onnxruntime")
_log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A model that may be written.

    Attributes:
        model: Graph and weights.
        card: Its card, without the figures.
        entries: What the file says besides the card.
        figures: What the gates measured.
    """

    model: onnx.ModelProto
    card: ModelCard
    entries: dict[str, str]
    figures: dict[str, Any]


class Labelled(NamedTuple):
    """Labelled data to score on: folder or cache, ``NAME:part``, metres per pixel where they do not tell."""

    data: str | Path
    split: str
    gsd: float | None


@dataclass(frozen=True)
class Int8Checks:
    """What an INT8 model is checked on, and the limits.

    Attributes:
        labelled: Labelled data to score on.
        comparisons: Names of imagery, each with the windows on which classes are compared with float32.
        max_miou_loss: Points of mIoU that may be lost.
        min_agreement: Fraction of pixels of each imagery that must keep their class.
        no_speed_gate: Reason why INT8 need not be faster here, or None.
    """

    labelled: Labelled
    comparisons: Sequence[tuple[str, Iterable[UInt8Array]]] = ()
    max_miou_loss: float = MAX_MIOU_LOSS
    min_agreement: float = MIN_AGREEMENT
    no_speed_gate: str | None = None


def float_candidate(reference: TorchRuntime, probes: Sequence[UInt8Array], folder: Path) -> Candidate:
    """Make landcover's own file in float32 and compare it with torch in every runtime.

    Args:
        reference: The network.
        probes: uint8 (H, W, 3) each, what is compared.
        folder: An existing folder; ``float.onnx`` is written into it.

    Raises:
        ModelError: If a runtime's answers are too far from the network's.
    """
    card, entries = reference.card, standard_entries(reference.card)
    _log.info("Converting the network %s to ONNX; this can take a minute", card.model.encoder)
    model = model_graph(_network(reference), card)
    file = folder / "float.onnx"
    write_model(file, model, card, entries)
    _log.info("Comparing the ONNX file with torch in %s", " and ".join(_RUNTIMES))
    candidates = {name: whole_answer(open_model(file, device="cpu", runtime=name)) for name in _RUNTIMES}
    parities = measure_parity(whole_answer(reference), candidates, probing_batches(probes))
    for parity in parities:
        check_parity(parity)
    return Candidate(model, card, entries, {"parity": [parity.to_dict() for parity in parities]})


def integer_candidate(
    origin: Candidate,
    images: Sequence[UInt8Array],
    window: UInt8Array,
    checks: Int8Checks,
    folder: Path,
) -> Candidate:
    """Quantise a float32 candidate and compare both in OpenVINO: speed, classes, mIoU.

    Args:
        origin: What :func:`float_candidate` returned.
        images: uint8 (H, W, 3) each, what the ranges are measured on.
        window: uint8 (H, W, 3), the window that is timed.
        checks: What is compared, and the limits.
        folder: The folder of :func:`float_candidate`.

    Raises:
        ModelError: If INT8 exceeds a limit; the message says by how much.
        UsageError: If the labelled data cannot be scored on.
        DataError: If imagery cannot be read.
    """
    card = origin.card.model_copy(update={"precision": "int8"})
    _log.info("Quantising: measuring ranges on %d crops", len(images))
    model = quantise(origin.model, images, folder)
    file = folder / "int8.onnx"
    write_model(file, model, card, origin.entries)
    runtimes: list[Runtime] = [open_model(path, runtime="openvino") for path in (folder / "float.onnx", file)]
    fp32, int8 = runtimes

    # Speed first: it takes seconds where scoring can take minutes.
    speed = measure_speed(fp32, int8, _window(window, card.window_px))
    if checks.no_speed_gate is None:
        check_speed(speed)
    agreements = []
    for name, windows in checks.comparisons:
        _log.info("Comparing INT8 with float32 on %s", name)
        agreements.append(measure_agreement(fp32, int8, name, windows))
        check_agreement(agreements[-1], checks.min_agreement)
    labelled = checks.labelled
    _log.info("Scoring float32 and INT8 on %s %s", labelled.data, labelled.split)
    accuracy = measure_accuracy(fp32, int8, labelled.data, labelled.split, gsd=labelled.gsd)
    check_accuracy(accuracy, checks.max_miou_loss)
    figures = {
        **origin.figures,
        "int8": {
            "accuracy": {**accuracy.to_dict(), "max_loss_points": checks.max_miou_loss},
            "agreement": [agreement.to_dict() for agreement in agreements],
            "min_agreement": checks.min_agreement,
            "speed": {**speed.to_dict(), "no_gate": checks.no_speed_gate},
        },
    }
    return Candidate(model, card, origin.entries, figures)


def qgis_candidate(reference: TorchRuntime, probes: Sequence[UInt8Array], folder: Path) -> Candidate:
    """Make the file for Deepness and compare what the plugin gets from it with torch.

    Arguments and errors as :func:`float_candidate`.
    """
    card = reference.card
    entries = deepness_entries(card)
    model = standardised_graph(_network(reference), card)
    file = folder / "qgis.onnx"
    write_model(file, model, card, entries)
    parities = measure_parity(
        lambda batch: (reference.probabilities(batch),),
        {"onnxruntime, as Deepness runs it": DeepnessAnswer(file)},
        (_window(probe, card.window_px)[None] for probe in probes),
    )
    for parity in parities:
        check_parity(parity)
    return Candidate(model, card, entries, {"parity": [parity.to_dict() for parity in parities]})


def _window(image: UInt8Array, side: int) -> UInt8Array:
    """Repeat the last row and column of uint8 (H, W, 3) until it is ``side`` high and wide."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


def _network(reference: TorchRuntime) -> DeepLabV3Plus:
    return cast("DeepLabV3Plus", reference.module)
