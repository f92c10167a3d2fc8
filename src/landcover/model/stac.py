"""A STAC item that describes a model, with the Machine Learning Model extension, version 1.4.

https://github.com/stac-extensions/mlm/tree/v1.4.0. A model covers no place, so its geometry is null, which
the STAC specification allows (and then forbids a bounding box).
"""

import re
from typing import Any

from landcover.legend import Legend
from landcover.model.card import ONNX_SUFFIX, ModelCard
from landcover.model.preprocessing import RGB
from landcover.model.runtimes import INPUT, PROBABILITIES, STANDARDISED

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
STAC_VERSION = "1.1.0"
ANY_TIME = {
    "datetime": None,
    "start_datetime": "1900-01-01T00:00:00Z",
    "end_datetime": "9999-12-31T23:59:59Z",
}
"""Properties of an item without a time, which STAC requires."""

_SHA256 = "1220"  # a multihash of SHA-256 begins with it
_TASKS = ["semantic-segmentation"]


def stac_item(
    card: ModelCard, *, name: str, href: str, sha256: str, size: int, parameters: int | None, side: int | None
) -> dict[str, Any]:
    """Return the item as plain data for JSON.

    ``name`` is its id, ``href`` the model file relative to it, with its ``sha256`` (hexadecimal) and ``size``
    in bytes; ``parameters`` is the number of weights, if known. ``side`` is the height and width of a static
    input that the caller normalises; None for any size and values of 0 to 255.
    """
    model, prepared, is_onnx = card.model, card.preprocessing, href.endswith(ONNX_SUFFIX)
    bands = [{"name": band} for band in prepared.bands]
    kind = "RGB" if prepared.bands == RGB else ", ".join(prepared.bands)
    if side is None:
        name_in, description, batch, dynamic, scaling = INPUT, f"{kind}, 0 to 255", -1, -1, None
    else:
        name_in, description, batch, dynamic = STANDARDISED, f"{kind}, normalised by value_scaling", 1, side
        scaling = [
            {"type": "z-score", "mean": 255 * mean, "stddev": 255 * std}
            for mean, std in zip(prepared.mean, prepared.std, strict=True)
        ]
    title = f"landcover {model.architecture} {model.encoder} {card.precision}"
    properties = {
        "title": f"Land cover at {prepared.gsd:g} m: {', '.join(card.legend.scored_names)}",
        **ANY_TIME,
        "gsd": prepared.gsd,
        "bands": bands,  # the extension wants them here, and STAC only if an asset has them, too
        "mlm:name": re.sub(r"[^a-zA-Z0-9_. -]+", "-", title),  # the extension allows no others
        "mlm:architecture": f"DeepLabv3+ ({model.encoder})",
        "mlm:tasks": _TASKS,
        "mlm:framework": "ONNX" if is_onnx else "PyTorch",
        "mlm:batch_size_suggestion": 1,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:accelerator_summary": "Any processor that OpenVINO or ONNX Runtime supports; tested on a CPU.",
        "mlm:input": [
            {
                "name": name_in,
                "description": description,
                "bands": list(prepared.bands),
                "input": _tensor([batch, prepared.channels, dynamic, dynamic], "bands"),
                "value_scaling": scaling,
                "resize_type": None,
                "pre_processing_function": None,
            }
        ],
        "mlm:output": [
            {
                "name": PROBABILITIES,
                "tasks": _TASKS,
                "result": _tensor([batch, len(card.legend.scored), dynamic, dynamic], "class"),
                "classification:classes": [
                    class_object(card.legend, index, value=channel)
                    for channel, index in enumerate(card.legend.scored)
                ],
                "post_processing_function": None,
            }
        ],
        "mlm:hyperparameters": {
            "window_px": card.window_px,
            "overlap_px": card.overlap_px,
            "temperature": card.temperature,
        },
    }
    if parameters is not None:
        properties["mlm:total_parameters"] = parameters
    if card.licence:
        properties["license"] = "other"
        properties["description"] = f"Licence of the weights: {card.licence}"
    return {
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS),
        "type": "Feature",
        "id": name,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {
            "model": {
                "href": href,
                "title": "Weights, graph and card in one file",
                "type": f"application/octet-stream; application={'onnx' if is_onnx else 'safetensors'}",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "onnx" if is_onnx else "safetensors",
                "bands": bands,
                **file_fields(size, sha256),
            }
        },
    }


def class_object(legend: Legend, index: int, *, value: int) -> dict[str, Any]:
    """Return a class object of the classification extension for a class of a legend."""
    return {
        "value": value,
        "name": re.sub(r"[^0-9A-Za-z_-]+", "-", legend.names[index]),
        "title": legend.names[index],
        "color_hint": "{:02X}{:02X}{:02X}".format(*legend.classes[index].colour),
    }


def file_fields(size: int, sha256: str) -> dict[str, Any]:
    """Return the fields of the file extension for a file of ``size`` bytes with this digest."""
    return {"file:size": size, "file:checksum": _SHA256 + sha256}


def _tensor(shape: list[int], channels: str) -> dict[str, Any]:
    """Describe an input or output (batch, channels, height, width)."""
    return {"shape": shape, "dim_order": ["batch", channels, "height", "width"], "data_type": "float32"}
