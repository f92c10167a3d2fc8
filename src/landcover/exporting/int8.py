"""From float32 to INT8 after training, with onnxruntime's static quantisation.

Two things that it does by default cost several points of mIoU, and are replaced here. Weights: a folded batch
norm can leave a depthwise filter with weights of several tens over inputs near zero, and nine rounding errors
of the same sign shift the whole channel; :func:`round_filters` keeps the sum of each filter. Ranges of
activations: a few values of a SiLU reach 70 while most are between -0.3 and 1, so that 255 steps from the
smallest to the largest leave them three or four; :func:`best_range` has the smallest squared error.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from landcover._typing import Float32Array, Float64Array, UInt8Array
from landcover.model.runtimes import INPUT
from landcover.progress import track

_WEIGHT_STEPS = 127
"""Steps on each side of zero: the range of symmetric int8."""

_PAIR_STEPS = 126
"""Steps of two weights of one sign together. x86 processors without VNNI add two products of uint8 and int8
in 16 bits: 255 * 128 fits, and rounding adds less than a step to each weight. Without this limit such sums
saturate, and 5 % of the pixels of a map changed their class."""

_FLOAT_FIRST = 3
"""Convolutions at the start that stay float32, an encoder's first block: 8 bits are too few for the three
channels of the image, and of the others' rounding that of the second and third costs most."""

_ACTIVATION_STEPS = 255
_STRIDE = 7
"""Every seventh row and column of a feature map is sampled: prime, so that no layer's grid coincides."""

_PIXELS = 48  # of each feature map and image, at most
_VALUES = 100_000  # of each feature map, on which ranges are tried
_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.16)
"""Fractions of the largest (smallest) value that are tried as the end of a range."""

_QUANTISED = ["Conv", "Add"]


def quantise(model: onnx.ModelProto, images: Iterable[UInt8Array], folder: Path) -> onnx.ModelProto:
    """Return a model whose convolutions compute with 8-bit integers: plain ONNX in QDQ form.

    Weights are int8 with a scale for each output channel, activations uint8 with a zero point. Only the
    inputs of convolutions and of residual sums are quantised, so that a convolution, its activation and the
    rounding of its result stay one operation. The first block, the logits and what follows stay float32.
    Ranges are measured on images, uint8 (H, W, B) each, at the model's scale. Intermediate files in the
    folder take about three times the size of the model.
    """
    source, target = folder / "to_quantise.onnx", folder / "quantised.onnx"
    images = list(images)
    initial = {tensor.name for tensor in model.graph.initializer}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"][_FLOAT_FIRST:]
    # A sum with a constant is normalisation.
    sums = [n.name for n in model.graph.node if n.op_type == "Add" and initial.isdisjoint(n.input)]
    heavy = {*convolutions, *sums}
    prepared, steps = rounded(model, images, heavy)
    constants = {tensor.name for tensor in prepared.graph.initializer}
    nodes = [node for node in prepared.graph.node if node.name in heavy]
    inputs = dict.fromkeys(name for node in nodes for name in node.input if name not in constants)
    samples = sample_activations(prepared, list(inputs), images)
    ranges = {name: best_range(values) for name, values in samples.items()}
    correct_biases(prepared, samples, ranges)
    add_pre_process_metadata(prepared)  # stops a warning that asks for the folding of batch norms
    source.write_bytes(prepared.SerializeToString())
    quantize_static(
        source,
        target,
        _FirstImage(images),  # it measures ranges of its own, which the overrides replace
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_QUANTISED,
        nodes_to_quantize=sorted(heavy),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "OpTypesToExcludeOutputQuantization": _QUANTISED,
            "TensorQuantOverrides": {
                name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
                for name, (low, high) in ranges.items()
            }
            | {
                name: [{"axis": 0, "scale": np.float32(step), "zero_point": np.int8(0)} for step in channels]
                for name, channels in steps.items()
            },
        },
    )
    return onnx.load(target)


class _FirstImage(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, images: Sequence[UInt8Array]) -> None:
        self._batches = iter([{INPUT: network_input(image)} for image in images[:1]])

    def get_next(self) -> dict[str, Float32Array] | None:
        return next(self._batches, None)


def rounded(
    model: onnx.ModelProto, images: Sequence[UInt8Array], names: Collection[str]
) -> tuple[onnx.ModelProto, dict[str, Float64Array]]:
    """Round the weights of some convolutions to steps that int8 represents without a further error.

    The error that remains is put into the bias, in the mean over images, uint8 (H, W, B) each (Nagel et al.
    2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2). Returns a
    new model, and the steps of the output channels (out,) by the name of the weights.
    """
    result = deepcopy(model)
    convolutions = [node for node in result.graph.node if node.op_type == "Conv" and node.name in names]
    inputs = list(dict.fromkeys(node.input[0] for node in convolutions))
    totals = [np.zeros(1)] * len(inputs)
    axes = {"landcover_axes": np.array([0, 2, 3])}
    for maps in _inside(model, inputs, images, "ReduceMean", axes, keepdims=0):
        totals = [total + mean for total, mean in zip(totals, maps, strict=True)]
    means = {name: total / len(images) for name, total in zip(inputs, totals, strict=True)}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    added: dict[str, Float64Array] = {}
    steps: dict[str, Float64Array] = {}
    for node in convolutions:
        weights = constants[node.input[1]].astype(np.float64)
        step = weight_steps(weights)
        kept = round_filters(weights, step)
        error = (weights - kept).sum(axis=(2, 3))
        before = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
        # In constants of their own: exporters let layers share equal ones.
        own = [f"{node.output[0]}_weight", f"{node.output[0]}_bias"]
        steps[own[0]] = step.ravel()
        added |= dict(zip(own, (kept, before + mean_response(error, means[node.input[0]])), strict=True))
        del node.input[1:]
        node.input.extend(own)
    used = {name for node in result.graph.node for name in node.input}
    del result.graph.initializer[:]
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    result.graph.initializer.extend(
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in added.items()
    )
    return result, steps


def weight_steps(weights: Float64Array) -> Float64Array:
    """Return the finest step of each output channel (out, 1, 1, 1) whose products fit 16 bits in pairs.

    No weight, of float64 (out, in, height, width), has more than 127 steps, no two of one sign more than 126.
    """
    ordered = np.sort(weights.reshape(len(weights), -1), axis=1)
    ends = np.abs(ordered[:, [0, -1]]).max(axis=1) / _WEIGHT_STEPS
    pairs = np.maximum(-ordered[:, :2].sum(axis=1), ordered[:, -2:].sum(axis=1)) / _PAIR_STEPS
    step: Float64Array = np.maximum(ends, pairs)[:, None, None, None]
    step[step == 0] = 1
    return step


def round_filters(weights: Float64Array, step: Float64Array) -> Float64Array:
    """Round weights (out, in, height, width) to steps (out, 1, 1, 1), keeping the sum of each filter.

    Every weight becomes one of the two multiples beside it. Where the errors of a filter add up to more than
    half a step, the weights whose rounding was closest to a tie are rounded the other way (Guo et al. 2022,
    "SQuant", its kernel-wise step).
    """
    exact = (weights / step).reshape(-1, weights.shape[2] * weights.shape[3])
    nearest = np.round(exact)
    error = nearest - exact
    excess = np.round(error.sum(axis=1, keepdims=True))
    # The order in which weights are rounded the other way: those first whose error adds most to the excess.
    gain = np.sign(excess) * error
    order = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1, kind="stable")
    nearest -= np.sign(excess) * ((order < np.abs(excess)) & (gain > 0))
    result: Float64Array = nearest.reshape(weights.shape) * step
    return result


def sample_activations(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[UInt8Array]
) -> dict[str, Float32Array]:
    """Return values of named feature maps (1, C, H, W) at some pixels: float32 (C, samples) by name."""
    # Slices run from the end to the start, so that a map smaller than the stride still gives one value.
    slices = {"starts": [-4, -4], "ends": [-(1 << 31)] * 2, "axes": [2, 3], "steps": [-_STRIDE] * 2}
    constants = {f"landcover_{name}": np.array(value) for name, value in slices.items()}
    rng = np.random.default_rng(0)
    samples: dict[str, list[Float32Array]] = {name: [] for name in names}
    for maps in _inside(model, names, track(images, "Measuring ranges"), "Slice", constants):
        for name, values in zip(names, maps, strict=True):
            pixels = values.reshape(values.shape[1], -1)
            samples[name].append(pixels[:, rng.permutation(pixels.shape[1])[:_PIXELS]])
    return {name: np.concatenate(some, axis=1) for name, some in samples.items()}


def best_range(values: Float32Array) -> tuple[float, float]:
    """Return the range of 8-bit steps with the smallest squared error for values; it contains zero."""
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
    """Round values as uint8 with a zero point stores them between two limits, (smallest, largest)."""
    low, high = limits
    step = (high - low) / _ACTIVATION_STEPS or 1.0
    zero = round(-low / step)
    steps = np.clip(np.round(values / step) + zero, 0, _ACTIVATION_STEPS) - zero
    result: Float32Array = steps * np.float32(step)
    return result


def correct_biases(
    model: onnx.ModelProto, samples: Mapping[str, Float32Array], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Add to the biases, in place, the mean change that rounding and clipping of the inputs causes.

    ``model`` is what :func:`rounded` returns; ``samples`` are those of the inputs that are quantised.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    errors = {
        name: (values - in_steps(values, ranges[name])).mean(axis=1, dtype=np.float64)
        for name, values in samples.items()
    }
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in errors:
            weights, bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            summed = weights.astype(np.float64).sum(axis=(2, 3))
            corrected = (bias + mean_response(summed, errors[node.input[0]])).astype(np.float32)
            constants[node.input[2]].CopyFrom(numpy_helper.from_array(corrected, node.input[2]))


def mean_response(weights: Float64Array, mean: Float64Array) -> Float64Array:
    """Return a convolution's mean output (out,) for a mean input (in,).

    The weights are summed over the filter: (out, in of one group). Either may be a change of it.
    """
    groups = len(mean) // weights.shape[1]
    inputs: Float64Array = np.repeat(mean.reshape(groups, -1), len(weights) // groups, axis=0)
    response: Float64Array = (weights * inputs).sum(axis=1)
    return response


def network_input(image: UInt8Array) -> Float32Array:
    """Return uint8 (H, W, B) as the graph's input: float32 (1, B, H, W), 0..255."""
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)[None], np.float32)


def _inside(
    model: onnx.ModelProto,
    names: Sequence[str],
    images: Iterable[UInt8Array],
    operator: str,
    constants: Mapping[str, npt.NDArray[np.int64]],
    **attributes: Any,
) -> Iterator[list[Float32Array]]:
    """Apply an ONNX operator to named tensors inside a model; yield their results image by image."""
    probe = deepcopy(model)
    del probe.graph.output[:]
    probe.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    outputs = [f"{name}_{operator}" for name in names]
    for name, output in zip(names, outputs, strict=True):
        probe.graph.node.append(helper.make_node(operator, [name, *constants], [output], **attributes))
        probe.graph.output.append(helper.make_empty_tensor_value_info(output))
    session = InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    for image in images:
        yield session.run(outputs, {INPUT: network_input(image)})
