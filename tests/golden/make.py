"""Write the golden files with the package that is importable: ``python -m golden.make`` in ``tests``.

The committed files were made with version 0.1.0 (commit 7e7fa1e). Make them again only where a change of
results is intended, and state in the commit which results changed and why. ``--model`` makes the model too
(with the modules of 0.1.0).
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from golden.cases import MODEL, measure, save

KERNEL, STRIDE, SHARES = 28, 4, 2**15


def make_model() -> None:
    """Write a classifier by colour that sees 28 x 28 pixels and answers every four.

    All values are whole numbers below 2^24, and the probabilities whole numbers of 1/32768, so that float32
    holds each exactly, whatever the order of sums and the processor. A class that is little behind the best
    one gets up to an eighth; the best gets the rest.
    """
    from landcover.bundle import CARD_KEY, ModelCard
    from landcover.models import ModelConfig
    from landcover.preprocessing import Preprocessing

    from landcover.legend import DEEPGLOBE

    card = ModelCard(
        model=ModelConfig(), legend=DEEPGLOBE, preprocessing=Preprocessing(1.0), window_px=64, overlap_px=16
    )
    offset = np.abs(np.arange(KERNEL) - (KERNEL - 1) / 2)
    kernel = np.round(4 * np.exp(-(offset[:, None] ** 2 + offset**2) / 60))
    total = kernel.sum()
    corners = DEEPGLOBE.colours[list(DEEPGLOBE.scored)] / 255.0
    constants = {
        "kernel": (2 * corners[:, :, None, None] * kernel).astype(np.float32),
        "bias": (-corners.sum(1) * total * 255).astype(np.float32),
        "level": np.float32(2.0**-9),
        "eight": np.float32(8),
        "order": np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1),
        "quarter": np.float32(SHARES / 8),
        "all": np.float32(SHARES),
        "unit": np.float32(1 / SHARES),
        "one": np.float32(1),
        "zero": np.float32(0),
        "axes": np.array([1], np.int64),
        "stride": np.array([STRIDE, STRIDE], np.int64),
        "zeros": np.zeros(2, np.int64),
        "spatial": np.array([2, 3], np.int64),
        "scales": np.array([1, 1, STRIDE, STRIDE], np.float32),
    }
    node, margin = helper.make_node, (KERNEL - STRIDE) // 2
    nodes = [
        node("Shape", ["image"], ["size"], start=2),
        node("Neg", ["size"], ["negated"]),
        node("Mod", ["negated", "stride"], ["missing"]),
        node("Concat", ["zeros", "missing"], ["pads"], axis=0),
        node("Pad", ["image", "pads", "", "spatial"], ["padded"], mode="edge"),
        node("Conv", ["padded", "kernel", "bias"], ["logits"], strides=[STRIDE] * 2, pads=[margin] * 4),
        node("Mul", ["logits", "level"], ["scaled"]),
        node("Floor", ["scaled"], ["floors"]),
        node("Mul", ["floors", "eight"], ["spread"]),
        node("Add", ["spread", "order"], ["levels"]),  # no two classes have the same
        node("ReduceMax", ["levels", "axes"], ["most"]),
        node("Sub", ["most", "levels"], ["behind"]),
        node("Sub", ["quarter", "behind"], ["left"]),
        node("Max", ["left", "zero"], ["shares"]),
        node("ReduceSum", ["shares", "axes"], ["sum"]),
        node("Sub", ["all", "sum"], ["rest"]),
        node("Sub", ["one", "behind"], ["ahead"]),
        node("Max", ["ahead", "zero"], ["wins"]),
        node("Mul", ["wins", "rest"], ["prize"]),
        node("Add", ["shares", "prize"], ["counts"]),
        node("Mul", ["counts", "unit"], ["coarse"]),
        node("Resize", ["coarse", "", "scales"], ["upsampled"], mode="linear"),
        node("Slice", ["upsampled", "zeros", "size", "spatial"], ["probabilities"]),
    ]
    sizes = {"coarse": ("rows", "cols"), "probabilities": ("height", "width")}
    graph = helper.make_graph(
        nodes,
        "golden",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 6, *s]) for n, s in sizes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    helper.set_model_props(model, {CARD_KEY: json.dumps(json.loads(card.model_dump_json()))})
    onnx.save(model, MODEL)


if __name__ == "__main__":
    if "--model" in sys.argv:
        make_model()
    with tempfile.TemporaryDirectory() as folder:
        save(dict(measure(Path(folder))))
