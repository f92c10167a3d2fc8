"""The exported file: format, metadata, and the form for the QGIS plugin Deepness; without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from landcover import __version__
from landcover.errors import ModelError
from landcover.model.card import CARD_KEY, ModelCard
from landcover.model.runtimes import INPUT, PROBABILITIES, STANDARDISED

OPSET = 18
"""Version of ONNX's operators: the first whose Pad and Resize take the axes that the exporter writes."""

IR_VERSION = 9
"""Version of ONNX's file format, the newest that onnxruntime 1.17 reads."""

_MIRRORED = "mirrored"
"""The input of the plugin's file after the filling of black rows and columns."""

_BLACK = 1e-3
"""Standardised values that are closer to those of black are black; a grey value is 0.015 or more."""

PLUGIN_OPSET = 20
"""Newest operators of onnxruntime 1.17, the newest version that Deepness installs."""


def standardised_graph(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return the form for Deepness of what :func:`~landcover.exporting.graph.model_graph` returns.

    Input ``standardised``: float32 (1, B, S, S) for the card's window of S pixels, normalised by the plugin;
    output ``probabilities``: float32 (1, C, S, S). Black rows below the imagery and columns right of it,
    which the plugin adds at the end of a layer, show the imagery mirrored, as in prediction. Raises
    ModelError for a graph without a normalisation.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, side = result.graph, card.window_px
    users = [node for node in graph.node if INPUT in node.input and node.op_type == "Mul"]
    offsets = [node for node in graph.node if users and users[0].output[0] in node.input]
    if len(users) != 1 or [node.op_type for node in offsets] != ["Add"]:
        raise ModelError("The graph does not begin with its normalisation; export the run, not this file.")
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in (INPUT, offsets[0].output[0]):
                node.input[place] = _MIRRORED
    needed, nodes = {PROBABILITIES}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    mirroring, constants = _mirror_black(card)
    nodes += mirroring[::-1]
    weights += constants
    channels = {STANDARDISED: card.preprocessing.channels, PROBABILITIES: len(card.legend.scored)}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, side, side])
        for name, count in channels.items()
    ]
    result.graph.CopyFrom(helper.make_graph(nodes[::-1], graph.name, ports[:1], ports[1:], weights))
    return result


def _mirror_black(card: ModelCard) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes and constants that make :data:`_MIRRORED` of the input ``standardised``."""
    mean, std = (np.array(values, np.float32) for values in (card.preprocessing.mean, card.preprocessing.std))
    side = card.window_px
    constants: dict[str, Any] = {
        "black": (-mean / std)[None, :, None, None],
        "near": np.float32(_BLACK),
        "bands": np.array([1]),
        "all": np.array([0, 1, 2, 3]),
        "place2": np.arange(1, side + 1, dtype=np.float32)[:, None],
        "place3": np.arange(1, side + 1, dtype=np.float32),
        "index": np.arange(side),
        "none": np.int64(0),
        "side": np.int64(side),
        "one": np.int64(1),
        "two": np.int64(2),
    }
    nodes: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = [
        ("Sub", (STANDARDISED, "black"), "difference", {}),
        ("Abs", ("difference",), "distance", {}),
        ("ReduceMax", ("distance", "bands"), "farthest", {}),
        ("Greater", ("farthest", "near"), "is_imagery", {}),
        ("Cast", ("is_imagery",), "imagery", {"to": TensorProto.FLOAT}),
    ]
    source = STANDARDISED
    for axis, result in ((2, "mirrored_rows"), (3, _MIRRORED)):
        nodes += [
            ("Mul", ("imagery", f"place{axis}"), f"places{axis}", {}),
            ("ReduceMax", (f"places{axis}", "all"), f"last{axis}", {"keepdims": 0}),
            ("Cast", (f"last{axis}",), f"length{axis}", {"to": TensorProto.INT64}),
            ("Equal", (f"length{axis}", "none"), f"is_black{axis}", {}),
            ("Where", (f"is_black{axis}", "side", f"length{axis}"), f"there{axis}", {}),
            ("Mul", (f"there{axis}", "two"), f"period{axis}", {}),
            ("Mod", ("index", f"period{axis}"), f"forth{axis}", {}),
            ("Sub", (f"period{axis}", f"forth{axis}"), f"rest{axis}", {}),
            ("Sub", (f"rest{axis}", "one"), f"back{axis}", {}),
            ("Min", (f"forth{axis}", f"back{axis}"), f"source{axis}", {}),
            ("Gather", (source, f"source{axis}"), result, {"axis": axis}),
        ]
        source = result
    own = {name: f"mirror_{name}" for name in (*constants, *(output for *_, output, _ in nodes))}
    own |= {STANDARDISED: STANDARDISED, _MIRRORED: _MIRRORED}
    return [
        helper.make_node(kind, [own[name] for name in inputs], [own[output]], **attributes)
        for kind, inputs, output, attributes in nodes
    ], [numpy_helper.from_array(np.asarray(value), own[name]) for name, value in constants.items()]


def check_plugin_format(path: Path) -> dict[str, int]:
    """Return the IR version and the opset of a file; ModelError if onnxruntime 1.17 is too old for them."""
    model = onnx.load(path)
    opset = max(entry.version for entry in model.opset_import)
    if model.ir_version > IR_VERSION or opset > PLUGIN_OPSET:
        raise ModelError(
            f"The file has IR version {model.ir_version} and opset {opset}; Deepness's onnxruntime 1.17 "
            f"loads at most {IR_VERSION} and {PLUGIN_OPSET}. Nothing was written. Please report it with the "
            "output of 'landcover doctor'."
        )
    return {"ir_version": model.ir_version, "opset": opset}


def deepness_entries(card: ModelCard) -> dict[str, str]:
    """Return the metadata that the QGIS plugin Deepness reads, each entry as JSON.

    Overlap is in percent of a tile, resolution in centimetres per pixel. Values below ``seg_thresh`` become
    zero before the argmax; ``seg_small_segment`` is the size of a median filter. See its sources,
    https://github.com/PUTvision/qgis-plugin-deepness, 2024 to 2026.
    """
    values = {
        "model_type": "Segmentor",
        "class_names": {str(i): name for i, name in enumerate(card.legend.scored_names)},
        "resolution": round(100 * card.preprocessing.gsd, 6),
        "tile_size": card.window_px,
        "tiles_size": card.window_px,
        "tiles_overlap": round(100 * card.overlap_px / card.window_px),
        "standardization_mean": list(card.preprocessing.mean),
        "standardization_std": list(card.preprocessing.std),
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def write_model(
    path: Path, model: onnx.ModelProto, card: ModelCard, entries: Mapping[str, str] | None = None
) -> None:
    """Write or replace one ONNX file: graph, weights, card, and further entries of ``metadata_props``."""
    classes = ", ".join(card.legend.scored_names)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "landcover", __version__
    model.doc_string = (
        f"Land cover from imagery of {card.preprocessing.gsd:g} m per pixel in the bands "
        f"{', '.join(card.preprocessing.bands)}: {classes}. "
        f"The card is JSON under {CARD_KEY!r} in metadata_props."
    )
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json(), **(entries or {})})
    path.write_bytes(model.SerializeToString(deterministic=True))
