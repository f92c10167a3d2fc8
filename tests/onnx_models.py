"""Tiny exported models, made with the onnx package, with an oracle in numpy.

The graph is what export writes in miniature: normalisation, a convolution of stride :data:`STRIDE` over the
image (padded on the right and at the bottom by repeating its edge), softmax for ``coarse``, and bilinear
upsampling, cropped to the image, before the softmax for ``probabilities``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fake_runtime import make_card, normalised
from landcover.model.card import CARD_KEY, ModelCard

STRIDE = 4
CLASSES = 6
RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(0, 0.5, (CLASSES, 3, STRIDE, STRIDE)).astype(np.float32)
BIAS = RNG.normal(0, 0.5, CLASSES).astype(np.float32)

Float32Array = npt.NDArray[np.float32]


def make_model(
    card: ModelCard,
    *,
    classes: int = CLASSES,
    height: Any = "height",
    width: Any = "width",
    image: str = "image",
    outputs: tuple[str, ...] = ("probabilities", "coarse"),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model without metadata; the arguments make it a wrong one."""
    prepared = card.preprocessing
    scale, offset = (factor.reshape(1, 3, 1, 1) for factor in prepared.factors)
    constants = {
        "scale": scale,
        "offset": offset,
        "weight": WEIGHT[:classes],
        "bias": BIAS[:classes],
        "temperature": np.float32(card.temperature),
        "stride": np.array([STRIDE, STRIDE], np.int64),
        "zeros": np.zeros(2, np.int64),
        "spatial": np.array([2, 3], np.int64),
        "scales": np.array([1, 1, STRIDE, STRIDE], np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Mul", [image, "scale"], ["scaled"]),
        node("Add", ["scaled", "offset"], ["normalised"]),
        node("Shape", [image], ["size"], start=2),
        node("Neg", ["size"], ["negated"]),
        node("Mod", ["negated", "stride"], ["missing"]),
        node("Concat", ["zeros", "missing"], ["pads"], axis=0),
        node("Pad", ["normalised", "pads", "", "spatial"], ["padded"], mode="edge"),
        node("Conv", ["padded", "weight", "bias"], ["logits"], strides=[STRIDE, STRIDE]),
        node("Div", ["logits", "temperature"], ["tempered"]),
        node("Softmax", ["tempered"], ["coarse"], axis=1),
        node("Resize", ["tempered", "", "scales"], ["upsampled"], mode="linear"),
        node("Slice", ["upsampled", "zeros", "size", "spatial"], ["cropped"]),
        node("Softmax", ["cropped"], ["probabilities"], axis=1),
    ]
    sizes = {"probabilities": ("height", "width"), "coarse": ("rows", "cols")}
    graph = helper.make_graph(
        nodes,
        "landcover",
        [helper.make_tensor_value_info(image, dtype, ["batch", 3, height, width])],
        [
            helper.make_tensor_value_info(name, dtype, ["batch", classes, *sizes.get(name, ("a", "b"))])
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_exported(path: Path, card: ModelCard | None = None, **changes: Any) -> Path:
    """Write :func:`make_model` with its card, as export does."""
    card = card or make_card()
    model = make_model(card, **changes)
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    onnx.save(model, path)
    return path


def expected(card: ModelCard, batch: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
    """Return ``probabilities`` and ``coarse`` as plain numpy has them."""
    height, width = batch.shape[1:3]
    pixels = np.moveaxis(normalised(card.preprocessing, batch), -1, 1)
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, -height % STRIDE), (0, -width % STRIDE)), mode="edge")
    count, _, rows, cols = padded.shape
    blocks = padded.reshape(count, 3, rows // STRIDE, STRIDE, cols // STRIDE, STRIDE)
    logits = np.einsum("ncyixj,kcij->nkyx", blocks, WEIGHT) + BIAS[:, None, None]
    full = _stretch(_stretch(logits, 2), 3)[:, :, :height, :width]
    return _softmax(full / card.temperature), _softmax(logits / card.temperature)


def _stretch(values: Float32Array, axis: int) -> Float32Array:
    """Upsample one axis by :data:`STRIDE`, linearly, pixel centres to pixel centres."""
    length = values.shape[axis]
    position = np.clip((np.arange(length * STRIDE) + 0.5) / STRIDE - 0.5, 0, length - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, length - 1)
    part = (position - low).reshape(-1, *[1] * (values.ndim - 1 - axis))
    return np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part


def _softmax(logits: Float32Array) -> Float32Array:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)
