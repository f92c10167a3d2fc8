"""Ranges of 8-bit activations, and biases that correct what their rounding changes in the mean.

The smallest and largest value over some images are poor ranges for an EfficientNet: a few values of a SiLU
reach 70, most are between -0.3 and 1, and 255 steps over the whole range leave them three or four. The range
here has the smallest squared error; the few values outside are clipped.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

from landcover._typing import Float32Array, UInt8Array
from landcover.exporting.graph import INPUT
from landcover.exporting.rounding import mean_answer, network_input
from landcover.progress import track

_STRIDE = 7
"""Every so many rows and columns of a feature map are sampled: prime, so that no grid of a layer is hit."""

_PIXELS = 48  # of each feature map and image, at most
_VALUES = 100_000  # of each feature map, that ranges are tried on
_STEPS = 255
_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.16)
"""Fractions of the largest (smallest) value that are tried as the end of a range."""


def sample_activations(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[UInt8Array]
) -> dict[str, Float32Array]:
    """Return values of feature maps at some pixels of some images.

    Args:
        model: The network, in float32.
        names: The feature maps, (1, C, H, W) each.
        images: uint8 (H, W, 3) each.

    Returns:
        float32 (C, samples) by name.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    # From the end to the start, where a start beyond the other end is moved into the map: none gives nothing.
    slices = {"starts": -4, "ends": -(1 << 31), "steps": -_STRIDE}
    constants = {f"landcover_{name}": np.array([value, value]) for name, value in slices.items()}
    constants["landcover_axes"] = np.array([2, 3])
    probe.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    order = ["landcover_starts", "landcover_ends", "landcover_axes", "landcover_steps"]
    outputs = [f"{name}_sampled" for name in names]
    for name, output in zip(names, outputs, strict=True):
        probe.graph.node.append(helper.make_node("Slice", [name, *order], [output]))
        probe.graph.output.append(helper.make_empty_tensor_value_info(output))
    session = InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    samples: dict[str, list[Float32Array]] = {name: [] for name in names}
    for image in track(images, "Measuring ranges"):
        for name, values in zip(names, session.run(outputs, {INPUT: network_input(image)}), strict=True):
            pixels = values.reshape(values.shape[1], -1)
            some = rng.permutation(pixels.shape[1])[:_PIXELS]
            samples[name].append(pixels[:, some])
    return {name: np.concatenate(some, axis=1) for name, some in samples.items()}


def best_range(values: Float32Array) -> tuple[float, float]:
    """Return the range of 8-bit steps, zero within, that has the smallest squared error.

    Args:
        values: float32, any shape.
    """
    values = values.ravel()
    if values.size > _VALUES:
        values = np.random.default_rng(0).choice(values, _VALUES, replace=False)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    # The lower end of a SiLU is near zero already.
    lows = [low * fraction for fraction in _FRACTIONS] if low < -0.4 else [low]
    ranges = [(one, high * fraction) for one in lows for fraction in _FRACTIONS]
    errors = [float(np.square(in_steps(values, one) - values).mean()) for one in ranges]
    return ranges[int(np.argmin(errors))]


def in_steps(values: Float32Array, limits: tuple[float, float]) -> Float32Array:
    """Return values as uint8 with a zero point holds them within limits, (smallest, largest)."""
    low, high = limits
    step = (high - low) / _STEPS or 1.0
    zero = round(-low / step)
    result: Float32Array = (np.clip(np.round(values / step) + zero, 0, _STEPS) - zero) * np.float32(step)
    return result


def correct_biases(
    model: onnx.ModelProto, samples: Mapping[str, Float32Array], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Put into the biases, in place, what rounding and clipping of the inputs changes in the mean.

    Args:
        model: Its convolutions have weights and biases that no two share, as
            :func:`landcover.exporting.rounding.rounded` returns it.
        samples: What :func:`sample_activations` returns for the inputs that are quantised.
        ranges: The range of each; convolutions of other inputs stay as they are.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    lost = {
        name: (values - in_steps(values, ranges[name])).mean(axis=1, dtype=np.float64)
        for name, values in samples.items()
    }
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in lost:
            weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64).sum(axis=(2, 3))
            bias = numpy_helper.to_array(constants[node.input[2]])
            corrected = bias + mean_answer(weights, lost[node.input[0]])
            constants[node.input[2]].CopyFrom(
                numpy_helper.from_array(corrected.astype(np.float32), node.input[2])
            )
