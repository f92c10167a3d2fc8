"""The exported file: format, metadata, and the form for the QGIS plugin Deepness; without torch."""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from landcover import __version__
from landcover.errors import ModelError
from landcover.model.card import CARD_KEY, ModelCard
from landcover.model.runtimes import INPUT, PROBABILITIES, STANDARDISED

OPSET = 18
"""Version of ONNX's operators: the first whose Pad and Resize take the axes that the exporter writes."""

IR_VERSION = 9
"""Version of ONNX's file format, the newest that onnxruntime 1.17 reads."""

PLUGIN_OPSET = 20
"""Newest operators of onnxruntime 1.17, the newest version that Deepness installs."""


def standardised_graph(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return the form for Deepness of what :func:`~landcover.exporting.graph.model_graph` returns.

    Input ``standardised``: float32 (1, 3, S, S) for the card's window of S pixels, normalised by the plugin;
    output ``probabilities``: float32 (1, C, S, S). Raises ModelError for a graph without a normalisation.
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
                node.input[place] = STANDARDISED
    needed, nodes = {PROBABILITIES}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])
        for name, channels in ((STANDARDISED, 3), (PROBABILITIES, len(card.legend.scored)))
    ]
    result.graph.CopyFrom(helper.make_graph(nodes[::-1], graph.name, ports[:1], ports[1:], weights))
    return result


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
        f"Land cover from RGB imagery of {card.preprocessing.gsd:g} m per pixel: {classes}. "
        f"The card is JSON under {CARD_KEY!r} in metadata_props."
    )
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json(), **(entries or {})})
    path.write_bytes(model.SerializeToString(deterministic=True))
