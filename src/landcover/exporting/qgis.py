"""The file for Deepness, the QGIS plugin that runs ONNX models on map layers.

According to its sources (https://github.com/PUTvision/qgis-plugin-deepness, 2024 to 2026) it reads entries of
``metadata_props``, each a JSON value. It feeds a tile as float32 (1, 3, S, S), divided by 255, minus the
mean, divided by the standard deviation, and takes one square output. Values below ``seg_thresh`` become zero
before the argmax, so the threshold here is 0; ``seg_small_segment`` is the size of a median filter, 0: none.
"""

import json
from pathlib import Path

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.model.card import ModelCard
from landcover.model.runtimes.onnx_runtime import import_onnxruntime


def deepness_entries(card: ModelCard) -> dict[str, str]:
    """Return the entries that Deepness reads: ``tiles_size`` of its manual and ``tile_size`` of its code.

    The overlap is in percent of a tile, the resolution in centimetres per pixel.
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


class DeepnessPrediction:
    """What Deepness computes with a file: its arithmetic, on the runtime that it uses.

    Args:
        path: The ONNX file.
    """

    def __init__(self, path: Path) -> None:
        self._session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entries = self._session.get_modelmeta().custom_metadata_map
        self._mean = np.array(json.loads(entries["standardization_mean"]), np.float32)
        self._std = np.array(json.loads(entries["standardization_std"]), np.float32)

    def __call__(self, batch: UInt8Array) -> tuple[Float32Array]:
        """Return the probabilities, float32 (N, C, S, S), of uint8 (N, S, S, 3), one tile after the other."""
        scaled = (np.float32(batch * 1.0 / 255.0) - self._mean) / self._std
        tiles = scaled.transpose(0, 3, 1, 2)
        name = self._session.get_inputs()[0].name
        return (np.concatenate([self._session.run(None, {name: tile[None]})[0] for tile in tiles]),)
