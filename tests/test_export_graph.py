"""The float32 file and its parity check; made once, run in two runtimes."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export_world import noise
from fake_runtime import make_card, normalised
from landcover.errors import ModelError
from landcover.exporting.acceptance import both_outputs, check_parity, parity_batches
from landcover.exporting.graph import ConstantSame, model_graph
from landcover.exporting.onnxfile import write_model
from landcover.model import ModelConfig
from landcover.model._compat import Conv2dSame, timm
from landcover.model.card import read_card
from landcover.model.network import build_model
from landcover.model.runtimes import open_model
from landcover.model.runtimes.torch_runtime import TorchRuntime

SIZES = [(1, 1, 1), (1, 33, 47), (3, 32, 64), (1, 2, 130), (1, 511, 513)]


def images(shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SIZES)
def test_any_size_and_number_of_images_gives_the_network_s_answers(exported, shape):
    batch = images(shape)
    runtime = open_model(exported.file, runtime="onnxruntime", device="cpu", threads=1)
    with torch.inference_mode():
        card = exported.reference.card
        pixels = torch.from_numpy(normalised(card.preprocessing, batch)).permute(0, 3, 1, 2)
        module = exported.reference.module
        expected = (module(pixels) / 1.7).softmax(1).numpy()
        coarse = (module.logits(pixels) / 1.7).softmax(1).numpy()
    np.testing.assert_allclose(runtime.probabilities(batch), expected, atol=1e-4)
    np.testing.assert_allclose(runtime.coarse(batch), coarse, atol=1e-4)
    assert expected.std() > 0.01  # a constant network would prove nothing


@pytest.mark.parametrize("shape", SIZES[:3])
def test_openvino_gives_the_same(exported, shape):
    batch = images(shape)
    one, two = (open_model(exported.file, runtime=name, device="cpu") for name in ("openvino", "onnxruntime"))
    np.testing.assert_allclose(one.probabilities(batch), two.probabilities(batch), atol=1e-4)
    np.testing.assert_allclose(one.coarse(batch), two.coarse(batch), atol=1e-4)


def test_the_file_is_one_valid_onnx_file_of_the_agreed_form(exported):
    model = onnx.load(exported.file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version >= 18
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    ports = {
        port.name: [side.dim_param or side.dim_value for side in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }
    assert ports == {
        "image": ["batch", 3, "height", "width"],
        "probabilities": ["batch", 6, "height", "width"],
        "coarse": ["batch", 6, "rows", "columns"],
    }


def test_the_file_says_what_it_is_and_not_where_it_was_made(exported):
    content = exported.file.read_bytes()
    for trace in (b"site-packages", b"Traceback", b".py", str(Path(__file__).parents[1]).encode()):
        assert trace not in content
    model = onnx.load(exported.file)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert entries["Image.NominalPixelRange"] == "NominalRange_0_255"
    assert entries["model_license"] == "CC0-1.0"
    assert model.producer_name == "landcover"
    assert "urban" in model.doc_string
    assert read_card(exported.file) == exported.reference.card


def test_writing_again_replaces_what_the_file_says(exported, tmp_path):
    model = onnx.load(exported.file)
    card = exported.reference.card.model_copy(update={"licence": "mine", "export": {"a": 1}})
    write_model(tmp_path / "m.onnx", model, card, {"more": json.dumps(1)})
    assert read_card(tmp_path / "m.onnx") == card
    again = onnx.load(tmp_path / "m.onnx")
    assert {entry.key for entry in again.metadata_props} == {"landcover", "more"}


def test_the_results_of_parity_are_good_and_kept(exported):
    openvino, onnxruntime = exported.variant.results["parity"]
    assert [openvino["runtime"], onnxruntime["runtime"]] == ["openvino", "onnxruntime"]
    for results in (openvino, onnxruntime):
        assert results["agreement"] >= 0.999
        assert results["largest_difference"] <= 1e-3
        assert {"1x48x48", "2x48x48", "1x33x47", "1x1x1"} <= set(results["sizes"])


def test_a_sabotaged_graph_does_not_pass(exported, tmp_path):
    model = onnx.load(exported.file)
    weight = next(tensor for tensor in model.graph.initializer if tensor.dims == [6, 8, 1, 1])
    values = onnx.numpy_helper.to_array(weight) * np.float32(0.9)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    write_model(tmp_path / "m.onnx", model, exported.reference.card)
    file = open_model(tmp_path / "m.onnx", runtime="onnxruntime", device="cpu")
    batches = parity_batches([noise(64, seed=1)])
    with pytest.raises(ModelError, match=r"differ by up to 0\.\d+ \(expected at most 0\.001"):
        check_parity(both_outputs(exported.reference), {"onnxruntime": both_outputs(file)}, batches)


def constant(*probabilities):
    values = np.array(probabilities, np.float32)[None, :, None, None]
    return lambda batch: (np.broadcast_to(values, (len(batch), len(probabilities), *batch.shape[1:3])),)


BATCH = np.zeros((2, 4, 5, 3), np.uint8)


def test_parity_counts_pixels_and_finds_the_largest_difference():
    def half_wrong(batch):
        result = constant(0.6, 0.4)(batch)[0].copy()
        result[:, :, :2] = np.array([0.3, 0.7], np.float32)[None, :, None, None]
        return (result,)

    batches = [BATCH, BATCH[:1]]
    (same,) = check_parity(constant(0.6, 0.4), {"same": constant(0.6, 0.4)}, batches)
    assert same == {
        "runtime": "same",
        "sizes": ["2x4x5", "1x4x5"],
        "pixels": 60,
        "agreement": 1.0,
        "largest_difference": 0.0,
    }
    variants = {"same": constant(0.6, 0.4), "other": half_wrong}
    with pytest.raises(ModelError, match=r"in other: .*same for 50\.000 % .* differ by up to 0\.3 "):
        check_parity(constant(0.6, 0.4), variants, batches)


def test_nan_and_other_shapes_do_not_pass():
    nan = float("nan")
    for reference, variant in (((nan, 1.0), (nan, 1.0)), ((0.6, 0.4), (nan, 0.4))):
        with pytest.raises(ModelError, match="nan"):
            check_parity(constant(*reference), {"x": constant(*variant)}, [BATCH])
    with pytest.raises(ModelError, match=r"\(2, 3, 4, 5\) where the network returns \(2, 2, 4, 5\)"):
        check_parity(constant(0.5, 0.5), {"x": constant(0.2, 0.3, 0.5)}, [BATCH])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (48, 48), (100, 60)])
def test_probes_hold_pixels_whatever_the_images(size):
    pieces = [np.zeros((*size, 3), np.uint8), np.zeros((5, 7, 3), np.uint8)]
    shapes = [batch.shape for batch in parity_batches(pieces)]
    assert all(np.prod(shape) for shape in shapes)
    assert (2, min(size[0], 5), min(size[1], 7), 3) in shapes


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (2, 2), (4, 1), ((2, 4), 1)])
def test_constant_padding_is_timm_s_at_multiples_of_the_stride(kernel, stride, dilation):
    torch.manual_seed(0)
    convolution = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation)
    for height, width in ((8, 12), (16, 4), (4, 4)):
        x = torch.randn(2, 4, height, width)
        convolution.__class__ = Conv2dSame
        expected = convolution(x)
        convolution.__class__ = ConstantSame
        assert torch.equal(convolution(x), expected)


FAMILIES = {
    "test_efficientnet": {"pad_type": "same"},
    "test_convnext": {"depths": (1, 1, 1, 1)},
    "hgnetv2_b0": {},
}
"""Encoders with each kind of layer, depthwise padded as in TensorFlow, layer norms and pooled stems, and
options of timm that keep them small: torch's exporter takes long for large graphs."""


@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_family_of_encoders_can_be_exported(encoder, tmp_path, monkeypatch):
    """The graph is made at one size; its answers are compared at others, beside multiples of 32 too."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **FAMILIES[encoder]))
    configs = timm.models.hgnet.model_cfgs  # whose last number, layers of each block, is no option
    one = {key: [*of[:-1], 1] if "stage" in key else of for key, of in configs["hgnetv2_b0"].items()}
    monkeypatch.setitem(configs, "hgnetv2_b0", one)
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=encoder, output_stride=32, aspp_channels=8, decoder_channels=8, low_level_channels=4
    )
    network = build_model(config, classes=6).eval()
    with torch.no_grad():  # logits of a trained network's size: rounding errors grow with them
        network.classifier.weight.mul_(2 / network.logits(torch.randn(1, 3, 64, 96)).std())
    card = make_card().model_copy(update={"model": config})
    write_model(tmp_path / "m.onnx", model_graph(network, card), card)
    batches = [images(shape) for shape in ((2, 32, 32), (1, 33, 47))]
    runtimes = {
        name: both_outputs(open_model(tmp_path / "m.onnx", runtime=name, device="cpu"))
        for name in ("openvino", "onnxruntime")
    }
    reference = both_outputs(TorchRuntime(network, card))
    check_parity(reference, runtimes, batches)
