"""INT8: what is quantised, and the gates, both ways."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export_world import WINDOW_PX, World, needs_exact_int8, noise, saturates
from fake_runtime import ColourRuntime
from landcover.errors import ModelError, UsageError
from landcover.exporting.candidates import Candidate, Int8Checks, Labelled, integer_candidate
from landcover.exporting.gates import (
    Accuracy,
    Agreement,
    Speed,
    check_accuracy,
    check_agreement,
    check_speed,
    measure_accuracy,
    measure_agreement,
    measure_speed,
)
from landcover.exporting.metadata import write_model
from landcover.model.card import read_card
from landcover.model.runtimes import open_model
from training_world import write_pair

NO_GATE = "the network is too small to be faster"


def quantised(exported: World, images: list[np.ndarray], max_miou_loss: float) -> Candidate:
    return integer_candidate(
        exported.candidate,
        images,
        noise(WINDOW_PX, seed=7),
        Int8Checks(
            Labelled(exported.data, "folders:validation", None),
            [("noise", iter([noise(WINDOW_PX, seed=8), noise(32, seed=9)]))],
            max_miou_loss=max_miou_loss,
            min_agreement=0.0,
            no_speed_gate=NO_GATE,
        ),
        exported.folder,
    )


@pytest.fixture(scope="module")
def candidate(exported: World) -> Candidate:
    return quantised(exported, [noise(WINDOW_PX, seed=seed) for seed in range(8)], 100.0)


def test_convolutions_compute_with_integers_and_what_follows_with_floats(
    exported: World, candidate: Candidate
) -> None:
    model = candidate.model
    onnx.checker.check_model(model, full_check=True)
    made_by = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in exported.candidate.model.graph.node)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    first, *others = convolutions
    assert made_by[first.input[0]].op_type != "DequantizeLinear"
    for node in others:
        activation, weight = (made_by[name] for name in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert kinds[activation.input[2]] == onnx.TensorProto.UINT8
        assert kinds[weight.input[0]] == onnx.TensorProto.INT8
        channels = next(tensor for tensor in model.graph.initializer if tensor.name == weight.input[1]).dims
        assert channels == [next(t for t in model.graph.initializer if t.name == weight.input[0]).dims[0]]
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Resize", "Pad"):
            assert made_by[node.input[0]].op_type != "DequantizeLinear" or node.op_type == "Resize"
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_the_float_file_is_still_the_one_that_passed(
    exported: World, candidate: Candidate, tmp_path: Path
) -> None:
    """It is what INT8 is compared with; quantisation has files of its own in the folder."""
    assert candidate.card.precision == "int8"
    origin = exported.candidate
    write_model(tmp_path / "again.onnx", origin.model, origin.card, origin.entries)
    assert exported.file.read_bytes() == (tmp_path / "again.onnx").read_bytes()


@needs_exact_int8
def test_a_good_one_passes_and_says_what_was_measured(exported: World, candidate: Candidate) -> None:
    figures = candidate.figures["int8"]
    accuracy = figures["accuracy"]
    assert accuracy["fp32"] > 0.9  # the truth is what the network answers
    assert 0.5 < accuracy["int8"] < accuracy["fp32"]
    assert accuracy["loss_points"] == pytest.approx(100 * (accuracy["fp32"] - accuracy["int8"]))
    assert (accuracy["images"], accuracy["split"]) == (3, "data folders:validation")
    (agreement,) = figures["agreement"]
    assert (agreement["imagery"], agreement["windows"]) == ("noise", 2)
    assert agreement["pixels"] == WINDOW_PX**2 + 32**2
    assert 0.8 < agreement["fraction"] <= 1
    assert figures["speed"]["no_gate"] == NO_GATE
    assert figures["speed"]["window_px"] == WINDOW_PX
    assert candidate.figures["parity"] == exported.candidate.figures["parity"]
    assert candidate.card.precision == "int8"
    assert read_card(exported.folder / "int8.onnx").precision == "int8"


def test_it_runs_at_any_size_in_both_runtimes(exported: World, candidate: Candidate) -> None:
    assert candidate.card.precision == "int8"
    batch = np.stack([noise(64, seed=5)[:33, :47]] * 2)
    expected = exported.reference.probabilities(batch)
    for name in ("openvino", "onnxruntime"):
        if name == "openvino" and saturates:
            continue
        answer = open_model(exported.folder / "int8.onnx", runtime=name, device="cpu").probabilities(batch)
        assert answer.shape == expected.shape
        assert np.mean(answer.argmax(1) == expected.argmax(1)) > 0.8


def test_one_that_maps_worse_is_refused_with_what_it_loses(exported: World) -> None:
    black = [np.zeros((WINDOW_PX, WINDOW_PX, 3), np.uint8)] * 2  # ranges that fit no real image
    with pytest.raises(ModelError, match=r"INT8 loses \d+\.\d\d points of mIoU on data folders:validation"):
        quantised(exported, black, 0.5)


@pytest.mark.parametrize(("int8", "passes"), [(0.7, True), (0.695, True), (0.6949, False), (0.8, True)])
def test_the_limit_of_the_loss(int8: float, passes: bool) -> None:
    accuracy = Accuracy("s", 1, 0.7, int8)
    if passes:
        check_accuracy(accuracy, 0.5 + 1e-9)
    else:
        with pytest.raises(ModelError, match=r"0\.51 points .*at most 0\.5 "):
            check_accuracy(accuracy, 0.5)


def test_agreement_counts_pixels_of_the_same_class() -> None:
    class Constant(ColourRuntime):
        """Give class 0 to the first ``rows`` rows, class 1 to the others."""

        def __init__(self, rows: int) -> None:
            super().__init__()
            self._rows = rows

        def probabilities(self, batch: np.ndarray) -> np.ndarray:
            answer = np.zeros((len(batch), 6, *batch.shape[1:3]), np.float32)
            answer[:, 0, : self._rows] = 1
            answer[:, 1, self._rows :] = 1
            return answer

    windows = (np.zeros((size, 10, 3), np.uint8) for size in (10, 20))
    agreement = measure_agreement(Constant(5), Constant(6), "two images", windows)
    assert (agreement.windows, agreement.pixels, agreement.same) == (2, 300, 280)
    check_agreement(agreement, 280 / 300)
    with pytest.raises(ModelError, match=r"93\.33 % .*two images.*at least 98\.5 %.*--calibration"):
        check_agreement(agreement)
    with pytest.raises(ModelError, match="two images"):
        check_agreement(Agreement("two images", 1, 1000, 984))


def test_a_slower_one_is_refused_with_both_times() -> None:
    check_speed(Speed("openvino", 512, 21, 100.0, 33.0))
    for int8_ms in (100.0, 120.0, float("nan")):
        with pytest.raises(ModelError, match=r"against 100\.0 for a window of 512 px in openvino"):
            check_speed(Speed("openvino", 512, 21, 100.0, int8_ms))


def test_times_are_medians_of_turns(exported: World) -> None:
    """A clock that advances by what the runtime costs, and by a fortune where the machine is interrupted."""
    order: list[str] = []
    now = 0.0

    class Timed(ColourRuntime):
        def __init__(self, name: str, costs: Callable[[int], float]) -> None:
            super().__init__()
            self.name, self._costs, self._calls = name, costs, itertools.count()

        def coarse(self, batch: np.ndarray) -> np.ndarray:
            nonlocal now
            order.append(self.name)
            assert batch.shape == (1, 48, 48, 3)
            now += self._costs(next(self._calls))
            return np.zeros(0, np.float32)

    fp32 = Timed("openvino", lambda call: 9.0 if call < 3 else 0.1)  # the first calls compile
    int8 = Timed("other", lambda call: 5.0 if call % 4 == 3 else 0.04)
    speed = measure_speed(fp32, int8, noise(48, seed=0), rounds=9, clock=lambda: now)
    assert order == ["openvino", "other"] * 12
    assert (speed.runtime, speed.window_px, speed.rounds) == ("openvino", 48, 9)
    assert speed.fp32_ms == pytest.approx(100)
    assert speed.int8_ms == pytest.approx(40)
    assert speed.to_dict()["times_as_fast"] == pytest.approx(2.5)


def test_data_without_a_known_class_cannot_judge(tmp_path: Path) -> None:
    image = noise(32, seed=0)
    write_pair(tmp_path / "d" / "validation", "0", image, np.full((32, 32), 6))
    runtime = ColourRuntime()
    with pytest.raises(UsageError, match="no pixel of a known class"):
        measure_accuracy(runtime, runtime, tmp_path / "d", "folders:validation", gsd=1.0)
