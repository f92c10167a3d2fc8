"""Exported models on OpenVINO and onnxruntime: against numpy, with what can lack."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fake_runtime import make_card
from landcover.errors import MissingExtraError, ModelError, UsageError
from landcover.model.card import CARD_KEY
from landcover.model.runtimes import choose_runtime, onnx_runtime, open_model
from landcover.model.runtimes import openvino_runtime as openvino_module
from landcover.model.runtimes.onnx_runtime import ONNXRuntime
from landcover.model.runtimes.openvino_runtime import OpenVINORuntime
from onnx_models import STRIDE, expected, make_model, save_exported

CARD = make_card().model_copy(update={"temperature": 1.7})
RNG = np.random.default_rng(0)


def images(count, height, width):
    return RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_exported(tmp_path_factory.mktemp("exported") / "M.onnx", CARD)


@pytest.fixture(scope="module")
def openvino(model):
    return OpenVINORuntime(model)


@pytest.fixture(params=["openvino", "onnxruntime"], scope="module")
def runtime(request, model):
    return open_model(model, runtime=request.param)


def test_a_runtime_has_card_name_device_and_stride(runtime):
    assert runtime.card == CARD
    assert runtime.name in ("openvino", "onnxruntime")
    assert runtime.device == "cpu"
    assert runtime.stride == STRIDE


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 1, 1), (2, 3, 9), (1, 64, 64), (3, 33, 18), (1, 16, 130)]
)
def test_outputs_are_those_of_numpy(runtime, count, height, width):
    batch = images(count, height, width)
    answers = runtime.probabilities(batch), runtime.coarse(batch)
    for answer, truth in zip(answers, expected(CARD, batch), strict=True):
        assert answer.shape == truth.shape
        assert answer.dtype == np.float32
        assert answer.flags.c_contiguous
        np.testing.assert_allclose(answer, truth, atol=2e-6)
        np.testing.assert_allclose(answer.sum(1), 1, atol=1e-6)


def test_an_answer_stays_as_it_is_and_so_does_the_batch(runtime):
    first, second = images(1, 24, 24), images(1, 24, 24)
    given_before = first.copy()
    for ask in (runtime.probabilities, runtime.coarse):
        answer = ask(first)
        kept = answer.copy()
        other = ask(second)
        assert not np.array_equal(other, answer)
        np.testing.assert_array_equal(answer, kept)
        answer[:] = 7  # the caller's own: nothing that is written to it comes back
        np.testing.assert_array_equal(ask(second), other)
    np.testing.assert_array_equal(first, given_before)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
    ids=lambda batch: f"{batch.dtype}{batch.shape}",
)
def test_other_batches_are_refused(runtime, batch):
    with pytest.raises(UsageError, match=r"uint8 \(N, H, W, 3\)"):
        runtime.probabilities(batch)


class TestWrongGraphs:
    """A file with a card whose graph is not what the runtimes rely on is refused when it is opened."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image": "input"}, r"takes input: float32 .*expected image: float32 \(\?, 3, \?, \?\)"),
            ({"height": 64, "width": 64}, r"takes image: float32 \(\?, 3, 64, 64\).*--for qgis"),
            ({"outputs": ("probabilities",)}, "returns probabilities; .*probabilities, coarse"),
            ({"outputs": ("coarse", "cropped")}, "returns coarse, cropped"),
            ({"classes": 5}, r"probabilities of \(1, 5, 64, 64\).*6 scored classes"),
        ],
    )
    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_is_refused(self, tmp_path, runtime, changes, message):
        path = save_exported(tmp_path / "wrong.onnx", CARD, **changes)
        with pytest.raises(ModelError, match=message) as caught:
            open_model(path, runtime=runtime)
        assert "wrong.onnx" in str(caught.value)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_coarse_of_another_size_is_refused(self, tmp_path, runtime):
        proto = make_model(CARD)
        (softmax,) = [node for node in proto.graph.node if node.output[0] == "coarse"]
        softmax.input[0] = "widened"
        pad = helper.make_node("Pad", ["tempered", "more"], ["widened"], mode="edge")
        proto.graph.node.insert(list(proto.graph.node).index(softmax), pad)
        proto.graph.initializer.append(helper.make_tensor("more", TensorProto.INT64, [8], [0] * 7 + [1]))
        helper.set_model_props(proto, {CARD_KEY: CARD.model_dump_json()})
        onnx.save(proto, tmp_path / "M.onnx")
        with pytest.raises(ModelError, match=r"coarse of \(1, 6, 16, 17\).*64 rows"):
            open_model(tmp_path / "M.onnx", runtime=runtime)


@pytest.mark.parametrize(
    ("library", "message"),
    [("openvino", "pip install openvino"), ("onnxruntime", r"landcover\[onnxruntime\]")],
)
def test_a_missing_library_is_named(model, monkeypatch, library, message):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=message):
        open_model(model, runtime=library)
    with pytest.raises(UsageError, match="0 threads"):
        open_model(model, threads=0)


class TestCompiledShapes:
    @pytest.fixture
    def compiled(self, monkeypatch):
        calls = []
        compile_ = OpenVINORuntime._compile

        def counting(self, output, shape):
            calls.append((output, shape))
            return compile_(self, output, shape)

        monkeypatch.setattr(OpenVINORuntime, "_compile", counting)
        return calls

    def test_the_last_few_are_kept(self, model, compiled):
        runtime = OpenVINORuntime(model)
        kept = [images(1, 8, width) for width in range(8, 8 + openvino_module.SHAPES_KEPT)]
        for batch in (*kept, *kept, kept[0]):
            runtime.coarse(batch)
        assert len(compiled) == len(kept)
        runtime.coarse(images(1, 9, 9))  # takes the place of the longest unused: the second
        runtime.coarse(kept[0])
        assert len(compiled) == len(kept) + 1
        runtime.coarse(kept[1])
        assert len(compiled) == len(kept) + 2

    def test_coarse_answers_cost_no_upsampling(self, openvino):
        def kinds(output):
            graph = openvino._request(output, (1, 16, 16, 3)).get_compiled_model().get_runtime_model()
            return {node.get_rt_info()["layerType"].astype(str) for node in graph.get_ordered_ops()}

        assert any(kind.startswith("Interpolate") for kind in kinds("probabilities"))
        assert not any(kind.startswith("Interpolate") for kind in kinds("coarse"))


def test_openvino_gets_its_settings(model):
    """By default it ties its threads to cores: two processes of one thread each would share the first."""
    runtime = OpenVINORuntime(model, threads=1)
    graph = runtime._request("coarse", (1, 8, 8, 3)).get_compiled_model()
    assert graph.get_property("INFERENCE_NUM_THREADS") == 1
    assert graph.get_property("ENABLE_CPU_PINNING") is False
    assert graph.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


class TestPrecision:
    def test_bf16_is_close_to_float32(self, model, openvino):
        try:
            half = OpenVINORuntime(model, precision="bf16")
        except UsageError as error:
            pytest.skip(str(error))
        batch = images(1, 64, 64)
        exact = openvino.probabilities(batch)
        assert not np.array_equal(half.probabilities(batch), exact)
        np.testing.assert_allclose(half.probabilities(batch), exact, atol=0.05)


class TestChoice:
    @pytest.mark.parametrize(
        ("file", "device", "runtime", "chosen"),
        [
            ("M.onnx", "auto", "auto", "openvino"),
            ("M.onnx", "cuda", "auto", "onnxruntime"),
            ("M.onnx", "cpu", "onnxruntime", "onnxruntime"),
            ("M.onnx", "auto", "openvino", "openvino"),
            ("best.safetensors", "auto", "auto", "torch"),
        ],
    )
    def test_by_file_device_and_name(self, file, device, runtime, chosen):
        assert choose_runtime(Path(file), device=device, runtime=runtime) == chosen

    @pytest.mark.parametrize(
        ("file", "device", "runtime", "message"),
        [
            ("M.onnx", "auto", "openvin", "'openvin'.*'openvino'"),
            ("M.onnx", "auto", "torch", r"M\.onnx is an exported model.*torch"),
            ("M.onnx", "cuda", "openvino", "found the device 'cuda'"),
            ("M.onnx", "gpu", "auto", "found the device 'gpu'"),
            ("best.safetensors", "auto", "openvino", r"best\.safetensors is a checkpoint.*landcover export"),
            (
                "best.safetensors",
                "auto",
                "onnxruntime",
                r"best\.safetensors is a checkpoint.*landcover export",
            ),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, file, device, runtime, message):
        with pytest.raises(UsageError, match=message):
            choose_runtime(Path(file), device=device, runtime=runtime)

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "auto:1", "cuda:"])
    def test_an_unknown_device_of_onnxruntime_is_refused(self, model, device):
        with pytest.raises(UsageError, match=rf"{device!r}.*cuda:1"):
            ONNXRuntime(model, device=device)

    def test_cuda_that_does_not_load_is_an_error_unless_the_device_is_auto(self):
        """onnxruntime continues without CUDA and only logs it."""
        cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
        with pytest.raises(UsageError, match=r"CUDA.*onnxruntime-gpu"):
            onnx_runtime.device_providers("cuda", [cpu])
        assert onnx_runtime.device_providers("auto", [cpu]) == [cpu]
        assert onnx_runtime.device_providers("cpu", [cuda, cpu]) == [cpu]
        wanted = onnx_runtime.device_providers("cuda:1", [cuda, cpu])
        assert wanted == [(cuda, {"device_id": 1}), cpu]
        assert onnx_runtime.used_device("cuda:1", [cuda, cpu], wanted) == "cuda:1"
        with pytest.raises(UsageError, match="cannot compute on cuda:1"):
            onnx_runtime.used_device("cuda:1", [cpu], wanted)
        assert (
            onnx_runtime.used_device("auto", [cpu], onnx_runtime.device_providers("auto", [cuda, cpu]))
            == "cpu"
        )


def test_opening_a_model_reports_to_nobody_and_imports_no_more_than_it_needs(model):
    """Left alone, OpenVINO's import loads its conversion tools, which report the import to a server."""
    code = f"""
import sys
from landcover.model.runtimes import open_model
open_model({str(model)!r}, threads=1)
foreign = ("telemetry", "openvino.tools", "onnx", "torch", "timm", "rasterio")
print([name for name in sys.modules if any(part in name for part in foreign) and "landcover" not in name])
import openvino.tools.ovc  # whoever wants the tools can have them
"""
    opted_out = {**os.environ, "CI": "true"}  # by the tools' own rule, for the last line
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=opted_out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_ctrl_c_is_heard_after_models_have_gone_in_any_order(model):
    """Two of OpenVINO's cores that go first in, first out leave a signal no stack: a segmentation fault."""
    code = (
        "import gc, signal, sys; from pathlib import Path; from landcover.model.runtimes import open_model\n"
        "first, second = (open_model(Path(sys.argv[1]), runtime='openvino') for _ in range(2))\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, str(model)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
