"""Rounding before quantisation: what each filter and each layer answers in the mean stays."""

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from landcover.exporting import int8
from landcover.exporting.int8 import (
    best_range,
    correct_biases,
    in_steps,
    network_input,
    quantise,
    round_filters,
    rounded,
    sample_activations,
    weight_steps,
)

SHAPES = st.tuples(*(st.integers(1, most) for most in (4, 4, 3, 3)))


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(-50, 50, width=32)))
def test_filters_keep_their_sums_on_a_grid_whose_products_fit_16_bits_in_pairs(weights):
    step = weight_steps(weights)
    kept = round_filters(weights, step)
    integers = np.round(kept / step)
    np.testing.assert_allclose(kept / step, integers, atol=1e-6)
    assert np.all(np.abs(kept - weights) <= step * (1 + 1e-9))  # one of the two steps beside it
    assert np.abs(integers).max() <= 127
    assert np.all(np.abs((kept - weights).sum(axis=(2, 3), keepdims=True)) <= step * (0.5 + 1e-6))
    for channel in integers.reshape(len(integers), -1):
        for first, second in itertools.combinations(channel, 2):
            assert -(2**15) <= 255 * (first + second) * (first * second > 0) < 2**15
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    assert np.all(step[largest > 0] <= largest[largest > 0] / 63)  # at least 7 bits


def test_errors_that_agree_are_shared_out():
    weights = np.full((1, 1, 3, 3), 10.4)
    weights[0, 0, 1, 1] = 64
    step = np.ones((1, 1, 1, 1))
    assert round_filters(weights, step).sum() == 64 + 83  # 83.2; each for itself would give 80
    assert round_filters(-weights, step).sum() == -64 - 83


def network(seed, *, bias, groups):
    """Return image -> 3x3 to 8 channels -> relu -> 3x3 in groups -> answer."""
    rng = np.random.default_rng(seed)
    first = rng.normal(0, 0.02, (8, 3, 3, 3)).astype(np.float32)
    second = rng.normal(0, 1, (8, 8 // groups, 3, 3)).astype(np.float32)
    constants = {"first": first, "second": second}
    inputs = {"a": ["image", "first"], "b": ["seen", "second"]}
    if bias:
        constants["shared"] = rng.normal(0, 1, 8).astype(np.float32)
        for names in inputs.values():
            names.append("shared")
    nodes = [
        helper.make_node("Conv", inputs["a"], ["made"], name="a"),
        helper.make_node("Relu", ["made"], ["seen"], name="r"),
        helper.make_node("Conv", inputs["b"], ["answer"], name="b", group=groups),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, None, None])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 8, None, None])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def answers(model, images):
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"image": network_input(image)})[0][0] for image in images])


def smooth(count, seed):
    rng = np.random.default_rng(seed)
    return [np.full((24, 24, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_answer_the_same_in_the_mean(bias, groups):
    images = smooth(6, groups)
    model = network(groups, bias=bias, groups=groups)
    before = model.SerializeToString()
    result, _ = rounded(model, images, {"a", "b"})
    onnx.checker.check_model(result)
    assert model.SerializeToString() == before
    naive = onnx.ModelProto()
    naive.CopyFrom(model)
    for tensor in naive.graph.initializer:
        if tensor.dims != [8]:
            weights = numpy_helper.to_array(tensor).astype(np.float64)
            step = weight_steps(weights)
            values = (np.round(weights / step) * step).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    inside = np.s_[:, :, 4:-4, 4:-4]  # where no filter sees the border's zeros
    expected, kept, nearest = (answers(each, images)[inside] for each in (model, result, naive))
    lost = np.abs((kept - expected).mean(axis=(0, 2, 3))).max()
    assert lost < 0.25 * np.abs((nearest - expected).mean(axis=(0, 2, 3))).max()
    used = {name for node in result.graph.node for name in node.input}
    assert {tensor.name for tensor in result.graph.initializer} <= used


def test_samples_are_values_of_each_channel():
    model = network(1, bias=True, groups=8)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output[0].CopyFrom(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    images = [np.random.default_rng(n).integers(0, 256, (20 + n, 24, 3), dtype=np.uint8) for n in range(3)]
    samples = sample_activations(model, ["image", "seen"], images)
    assert {name: values.shape[0] for name, values in samples.items()} == {"image": 3, "seen": 8}
    maps = [answers(probe, [image])[0] for image in images]
    values = np.concatenate([each.reshape(8, -1) for each in maps], axis=1)
    for channel, some in enumerate(samples["seen"]):
        assert len(some) == 9 + 9 + 9  # rows and columns 14, 7 and 0 of a map of 18, 19 or 20 by 22
        assert np.isin(some, values[channel]).all()
    one_value = sample_activations(model, ["seen"], [images[0][:5, :5]])
    np.testing.assert_allclose(one_value["seen"][:, 0], maps[0][:, 0, 0], rtol=1e-5)


def test_steps_are_those_of_uint8():
    values = np.linspace(-2, 4, 1000, dtype=np.float32)
    rounded_values = in_steps(values, (-1.0, 3.0))
    inside = (values >= -1) & (values <= 3)
    assert np.abs(rounded_values - values)[inside].max() <= 0.51 * 4 / 255
    assert len(np.unique(rounded_values)) == 256
    assert rounded_values.max() - rounded_values.min() == pytest.approx(4, abs=1e-5)
    assert (in_steps(np.zeros(3, np.float32), (-1.0, 3.0)) == 0).all()
    assert (in_steps(np.zeros(3, np.float32), (0.0, 0.0)) == 0).all()


def test_a_range_gives_up_few_far_values_for_finer_steps():
    rng = np.random.default_rng(0)
    even = rng.uniform(-1, 3, 10_000).astype(np.float32)
    assert best_range(even) == (even.min(), even.max())
    far = np.append(rng.uniform(-1, 1, 99_998), [-3, 4]).astype(np.float32)
    low, high = best_range(far)
    assert -3 < low < -1 < 1 < high < 4
    errors = [np.square(in_steps(far, limits) - far).mean() for limits in ((low, high), (-3.0, 4.0))]
    assert errors[0] < errors[1]
    assert best_range(np.full(5, 2.0, np.float32))[0] == 0  # zero is within


def test_biases_make_up_for_what_rounding_of_activations_changes():
    model, images = network(7, bias=True, groups=4), smooth(6, 7)
    prepared, _ = rounded(model, images, {"a", "b"})
    samples = sample_activations(prepared, ["seen"], images)
    limits = {"seen": (0.0, 0.6 * float(samples["seen"].max()))}  # clips a part of the values
    corrected = onnx.ModelProto()
    corrected.CopyFrom(prepared)
    correct_biases(corrected, samples, limits)

    def lost(model):
        """Return the largest change of a channel's mean if the second convolution gets rounded inputs."""
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        node = model.graph.node[2]
        weights, bias = (constants[name].astype(np.float64) for name in node.input[1:])
        original = {tensor.name: numpy_helper.to_array(tensor) for tensor in prepared.graph.initializer}
        values = {"exact": samples["seen"], "steps": in_steps(samples["seen"], limits["seen"])}
        mean = {name: each.mean(axis=1).reshape(4, 1, 2) for name, each in values.items()}
        summed = weights.sum(axis=(2, 3)).reshape(4, 2, 2)
        answer = {name: (summed * each).sum(axis=2).ravel() for name, each in mean.items()}
        expected = answer["exact"] + original[node.input[2]]
        return float(np.abs(answer["steps"] + bias - expected).max())

    assert lost(corrected) < 1e-3 * lost(prepared)


def test_the_int8_file_holds_the_weights_as_rounded(tmp_path, monkeypatch):
    """The grid is the one that quantisation takes, so that nothing is rounded a second time."""
    monkeypatch.setattr(int8, "_FLOAT_FIRST", 1)
    model, images = network(3, bias=True, groups=8), smooth(4, 3)
    expected = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in rounded(model, images, {"a", "b"})[0].graph.initializer
        if len(tensor.dims) == 4 and tensor.dims[1] != 3  # the first convolution stays float32
    }
    assert expected
    made = {t.name: numpy_helper.to_array(t) for t in quantise(model, images, tmp_path).graph.initializer}
    for name, weights in expected.items():
        integers, step = made[f"{name}_quantized"], made[f"{name}_scale"].reshape(-1, 1, 1, 1)
        assert integers.dtype == np.int8
        np.testing.assert_allclose(integers * step, weights, rtol=1e-5, atol=1e-9)
