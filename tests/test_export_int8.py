"""INT8: what is quantised, and the acceptance checks, both ways."""

import itertools
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export_world import WINDOW_PX, noise
from fake_runtime import ColourRuntime
from landcover.errors import ModelError, UsageError
from landcover.exporting import ExportOptions, acceptance
from landcover.exporting.acceptance import Pair, check_accuracy, check_agreement, check_speed
from landcover.exporting.exporter import int8_variant
from landcover.exporting.onnxfile import write_model
from landcover.model.card import read_card
from landcover.model.runtimes import open_model
from training_world import write_pair

NO_GATE = "the network is too small to be faster"


def quantised(exported, images, max_miou_loss):
    return int8_variant(
        exported.variant,
        images,
        noise(WINDOW_PX, seed=7),
        [("noise", iter([noise(WINDOW_PX, seed=8), noise(32, seed=9)]))],
        (exported.data, "folders:validation", None),
        ExportOptions(max_miou_loss=max_miou_loss, min_agreement=0.0, no_speed_gate=NO_GATE),
        exported.folder,
    )


@pytest.fixture(scope="module")
def variant(exported):
    return quantised(exported, [noise(WINDOW_PX, seed=seed) for seed in range(8)], 100.0)


def test_convolutions_compute_with_integers_and_what_follows_with_floats(exported, variant):
    model = variant.model
    onnx.checker.check_model(model, full_check=True)
    made_by = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in exported.variant.model.graph.node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kinds = {name: tensor.data_type for name, tensor in constants.items()}
    assert all(node.input[1] in constants for node in convolutions[:3])  # the first block
    for node in convolutions[3:]:
        activation, weight = (made_by[name] for name in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert kinds[activation.input[2]] == onnx.TensorProto.UINT8
        assert kinds[weight.input[0]] == onnx.TensorProto.INT8
        channels = next(tensor for tensor in model.graph.initializer if tensor.name == weight.input[1]).dims
        assert channels == [next(t for t in model.graph.initializer if t.name == weight.input[0]).dims[0]]
        two = np.sort(numpy_helper.to_array(constants[weight.input[0]]).astype(int).reshape(channels[0], -1))
        assert max(two[:, -2:].sum(axis=1).max(), -two[:, :2].sum(axis=1).min()) <= 128  # sums fit 16 bits
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Resize", "Pad"):
            assert made_by[node.input[0]].op_type != "DequantizeLinear" or node.op_type == "Resize"
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_a_good_one_passes_with_its_results(exported, variant, tmp_path):
    results = variant.results["int8"]
    accuracy = results["accuracy"]
    assert accuracy["fp32"] > 0.9  # the truth is the network's prediction
    assert 0.5 < accuracy["int8"] < accuracy["fp32"]
    assert accuracy["loss_points"] == pytest.approx(100 * (accuracy["fp32"] - accuracy["int8"]))
    assert (accuracy["images"], accuracy["split"]) == (3, "data folders:validation")
    (agreement,) = results["agreement"]
    assert (agreement["imagery"], agreement["windows"]) == ("noise", 2)
    assert agreement["pixels"] == WINDOW_PX**2 + 32**2
    assert 0.8 < agreement["fraction"] <= 1
    assert (results["speed"]["no_gate"], results["speed"]["window_px"]) == (NO_GATE, WINDOW_PX)
    assert variant.results["parity"] == exported.variant.results["parity"]
    assert variant.card.precision == read_card(exported.folder / "int8.onnx").precision == "int8"
    # The float32 file is still the one that passed: quantisation has files of its own.
    origin = exported.variant
    write_model(tmp_path / "again.onnx", origin.model, origin.card, origin.entries)
    assert exported.file.read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_it_runs_at_any_size_in_both_runtimes(exported, variant):
    assert variant.card.precision == "int8"
    batch = np.stack([noise(64, seed=5)[:33, :47]] * 2)
    expected = exported.reference.probabilities(batch)
    for name in ("openvino", "onnxruntime"):
        answer = open_model(exported.folder / "int8.onnx", runtime=name, device="cpu").probabilities(batch)
        assert answer.shape == expected.shape
        assert np.mean(answer.argmax(1) == expected.argmax(1)) > 0.8


def test_one_that_maps_worse_is_refused_with_what_it_loses(exported):
    black = [np.zeros((WINDOW_PX, WINDOW_PX, 3), np.uint8)] * 2  # ranges that fit no real image
    with pytest.raises(ModelError, match=r"INT8 loses \d+\.\d\d points of mIoU on data folders:validation"):
        quantised(exported, black, 0.5)


def test_the_limit_of_the_loss(monkeypatch):
    pair = Pair(ColourRuntime(), ColourRuntime())
    for int8, passes in ((0.7, True), (0.695, True), (0.6949, False), (0.8, True), (float("nan"), False)):
        scores = iter([0.7, int8])
        monkeypatch.setattr(
            acceptance,
            "evaluate",
            lambda *_, **__: SimpleNamespace(miou=next(scores), images=1),  # noqa: B023
        )
        if passes:
            results = check_accuracy(pair, "d", "s", gsd=None, max_loss=0.5 + 1e-9)
            assert results["loss_points"] == pytest.approx(70 - 100 * int8)
        else:
            with pytest.raises(ModelError, match=r"(0\.51|nan) points .*at most 0\.5"):
                check_accuracy(pair, "d", "s", gsd=None, max_loss=0.5 + 1e-9)


class Constant(ColourRuntime):
    """Predict class 0 for the first rows, class 1 for the others."""

    def __init__(self, rows):
        super().__init__()
        self._rows = rows

    def probabilities(self, batch):
        result = np.zeros((len(batch), 6, *batch.shape[1:3]), np.float32)
        result[:, 0, : self._rows] = 1
        result[:, 1, self._rows :] = 1
        return result


def test_agreement_counts_pixels_of_the_same_class():
    windows = [np.zeros((size, 10, 3), np.uint8) for size in (10, 20)]
    pair = Pair(Constant(5), Constant(6))
    results = check_agreement(pair, "two images", iter(windows), minimum=280 / 300)
    assert (results["windows"], results["pixels"], results["same"]) == (2, 300, 280)
    assert results["fraction"] == 280 / 300
    with pytest.raises(ModelError, match=r"93\.33 % .*two images.*at least 98\.5 %.*--calibration"):
        check_agreement(pair, "two images", windows, minimum=0.985)


def test_times_are_medians_of_turns_and_a_slower_file_is_refused():
    """A clock that advances by the cost of the runtime, and by much more where the machine is interrupted."""
    order = []
    now = 0.0

    class Timed(ColourRuntime):
        def __init__(self, name, costs):
            super().__init__()
            self.name, self._costs, self._calls = name, costs, itertools.count()

        def coarse(self, batch):
            nonlocal now
            order.append(self.name)
            assert batch.shape == (1, 48, 48, 3)
            now += self._costs(next(self._calls))
            return np.zeros(0, np.float32)

    slow = Timed("openvino", lambda call: 9.0 if call < 3 else 0.1)  # the first calls compile
    fast = Timed("other", lambda call: 5.0 if call % 4 == 3 else 0.04)

    def check(pair, *, must_be_faster=True):
        window = noise(48, seed=0)
        return check_speed(pair, window, must_be_faster=must_be_faster, rounds=9, clock=lambda: now)

    speed = check(Pair(slow, fast))
    assert order == ["openvino", "other"] * 12
    assert (speed["runtime"], speed["window_px"], speed["rounds"]) == ("openvino", 48, 9)
    assert (speed["fp32_ms"], speed["int8_ms"]) == (pytest.approx(100), pytest.approx(40))
    assert speed["times_as_fast"] == pytest.approx(2.5)
    with pytest.raises(ModelError, match=r"100\.0 ms against 40\.0 for a window of 48 px in other"):
        check(Pair(fast, slow))
    assert check(Pair(fast, slow), must_be_faster=False)["times_as_fast"] == pytest.approx(0.4)
    with pytest.raises(ModelError, match="not faster"):
        check(Pair(slow, slow))


def test_data_without_a_known_class_cannot_judge(tmp_path):
    write_pair(tmp_path / "d" / "validation", "0", noise(32, seed=0), np.full((32, 32), 6))
    pair = Pair(ColourRuntime(), ColourRuntime())
    with pytest.raises(UsageError, match="no pixel of a known class"):
        check_accuracy(pair, tmp_path / "d", "folders:validation", gsd=1.0, max_loss=0.5)
