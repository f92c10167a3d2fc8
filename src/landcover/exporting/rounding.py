"""Weights on a grid of 8-bit steps, rounded so that what a layer answers stays the same in the mean.

Rounding each weight to the nearest step is not enough for small filters. A folded batch norm can leave a
depthwise filter with weights of some tens over inputs near zero, and nine rounding errors that happen to
agree move the whole channel: the first depthwise layer of a MobileNetV2 alone cost some points of mIoU.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

from landcover._typing import Float32Array, Float64Array, UInt8Array
from landcover.exporting.graph import INPUT

_STEPS = 127
"""Steps on each side of zero: the range of symmetric int8."""


def rounded(model: onnx.ModelProto, images: Sequence[UInt8Array]) -> onnx.ModelProto:
    """Return a model whose convolutions have weights that int8 holds without a further error.

    The grid is what symmetric quantisation for each output channel takes: its largest weight is 127 steps.
    Each filter is rounded so that its sum stays, see :func:`round_filters`, as neighbouring pixels are much
    alike. What is still lost is, in the mean over the images, put into the bias (Nagel et al. 2019,
    "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2).

    Args:
        model: Convolutions whose weights are constants, with norms folded; it is left as it is.
        images: uint8 (H, W, 3) each: what means are taken over.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    convolutions = [node for node in result.graph.node if node.op_type == "Conv"]
    means = _means(model, list(dict.fromkeys(node.input[0] for node in convolutions)), images)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    added: dict[str, Float64Array] = {}
    for node in convolutions:
        weights = constants[node.input[1]].astype(np.float64)
        steps = round_filters(weights)
        lost = (weights - steps).sum(axis=(2, 3))
        before = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
        bias = before + mean_answer(lost, means[node.input[0]])
        # In constants of their own: exporters let layers share equal ones.
        names = [f"{node.output[0]}_weight", f"{node.output[0]}_bias"]
        added |= dict(zip(names, (steps, bias), strict=True))
        del node.input[1:]
        node.input.extend(names)
    used = {name for node in result.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    result.graph.initializer.extend(
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in added.items()
    )
    return result


def round_filters(weights: Float64Array) -> Float64Array:
    """Round to steps of a 127th of each output channel's largest weight, keeping the sum of each filter.

    Every weight goes to one of the two steps beside it. Where the errors of a filter add up to more than half
    a step, the weights whose rounding was closest to a tie go the other way (Guo et al. 2022, "SQuant", its
    kernel-wise step), but never one at the end of the grid, which hangs on it.

    Args:
        weights: float64 (out, in, height, width).

    Returns:
        float64 of the same shape; the sum over height and width differs by half a step at most, but where
        weights at the end of the grid would have had to move.
    """
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / _STEPS
    step[step == 0] = 1
    exact = (weights / step).reshape(-1, weights.shape[2] * weights.shape[3])
    nearest = np.round(exact)
    error = nearest - exact
    excess = np.round(error.sum(axis=1, keepdims=True))
    # In what order weights would go the other way: first those that were moved farthest towards the excess.
    gain = np.where(np.abs(nearest) == _STEPS, -1, np.sign(excess) * error)
    order = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1, kind="stable")
    nearest -= np.sign(excess) * ((order < np.abs(excess)) & (gain > 0))
    result: Float64Array = nearest.reshape(weights.shape) * step
    return result


def network_input(image: UInt8Array) -> Float32Array:
    """Return uint8 (H, W, 3) as what the graph takes: float32 (1, 3, H, W), 0..255."""
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)[None], np.float32)


def mean_answer(lost: Float64Array, mean: Float64Array) -> Float64Array:
    """Return a convolution's mean answer (out,) to an input's mean (in,).

    Args:
        lost: Its weights or a change of them, (out, in of one group), summed over the filter.
        mean: The input's mean, or a change of it.
    """
    groups = len(mean) // lost.shape[1]
    seen: Float64Array = np.repeat(mean.reshape(groups, -1), len(lost) // groups, axis=0)
    answer: Float64Array = (lost * seen).sum(axis=1)
    return answer


def _means(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[UInt8Array]
) -> dict[str, Float64Array]:
    """Mean of each channel (C,) of tensors inside the model, over images and pixels."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    axes, outputs = "landcover_axes", [f"{name}_mean" for name in names]
    probe.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), axes))
    for name, output in zip(names, outputs, strict=True):
        probe.graph.node.append(helper.make_node("ReduceMean", [name, axes], [output], keepdims=0))
        probe.graph.output.append(helper.make_empty_tensor_value_info(output))
    session = InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = [np.zeros(1)] * len(names)
    for image in images:
        found = session.run(outputs, {INPUT: network_input(image)})
        sums = [total + mean for total, mean in zip(sums, found, strict=True)]
    return {name: total / len(images) for name, total in zip(names, sums, strict=True)}
