"""Pretrained encoder weights: the tensors of the file are loaded, and a wrong file is refused."""

import functools

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from landcover.errors import LandcoverError, ModelError
from landcover.model import ModelConfig
from landcover.model.encoders import build_encoder, load_encoder_weights, timm
from landcover.model.network import build_model


@functools.cache
def classifier(name):
    """Return a whole timm classifier with random weights, batch norm statistics included."""
    torch.manual_seed(3)
    model = timm.create_model(name)
    for key, value in model.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return model.eval()


def tensors_of(name):
    return {key: value.numpy() for key, value in classifier(name).state_dict().items()}


def saved(folder, tensors):
    path = folder / "encoder.safetensors"
    save_file({key: np.array(value) for key, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv3_large_100", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("stride", [8, 32])
def test_the_encoder_computes_what_the_classifier_did(tmp_path, name, stride):
    encoder = build_encoder(name, stride)
    load_encoder_weights(encoder, saved(tmp_path, tensors_of(name)))
    x = torch.randn(1, 3, 64, 64)
    body, whole = encoder.body.eval(), classifier(name)
    with torch.inference_mode():
        ours = body(x)[0]
        (theirs,) = whole.forward_intermediates(x, indices=[0], intermediates_only=True)
    torch.testing.assert_close(ours, theirs)
    own = dict(encoder.body.named_parameters())
    loaded = {id(p) for p in own.values()}
    values = {value.detach().numpy().tobytes() for value in whole.state_dict().values()}
    assert len(loaded) == len(own)
    assert all(p.detach().numpy().tobytes() in values for p in own.values())


def test_half_precision_missing_heads_and_odd_counters_are_taken(tmp_path):
    tensors = {
        key: value.astype(np.float16) if value.ndim else value.reshape(1)
        for key, value in tensors_of("mobilenetv2_100").items()
        if not key.startswith(("classifier", "conv_head", "bn2"))
    }
    model = build_model(ModelConfig(), classes=2, weights=saved(tmp_path, tensors))
    stem = model.state_dict()["encoder.body.conv_stem.weight"]
    assert stem.dtype == torch.float32
    np.testing.assert_array_equal(stem.numpy(), tensors["conv_stem.weight"].astype(np.float32))


def without(*keys):
    return {key: value for key, value in tensors_of("mobilenetv2_100").items() if key not in keys}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("bn1.weight"), r"'mobilenetv2_100': 1 of .*bn1\.weight is missing"),
        (without("bn1.running_var", "conv_stem.weight"), r": 2 of .*conv_stem\.weight is missing"),
        ({"weight": np.zeros(3, np.float32)}, r"\d+ of its \d+ .*conv_stem\.weight is missing, .* more"),
        ({}, "is missing"),
        (
            without() | {"blocks.6.1.conv_pw.weight": np.zeros(3, np.float32)},
            r": 1 of .*blocks\.6\.1\.conv_pw\.weight is unexpected",
        ),
        (without() | {"bn1.bias": np.zeros(31, np.float32)}, r"bn1\.bias .*\(31,\).*\(32,\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_tensor(tmp_path, tensors, message):
    encoder = build_encoder("mobilenetv2_100", 16)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_encoder_weights(encoder, saved(tmp_path, tensors))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_weights_of_a_deeper_network_of_the_family_are_refused(tmp_path):
    """A ResNet-34 has every tensor of a ResNet-18, in the same shapes."""
    with pytest.raises(ModelError, match=r"layer1\.2.*unexpected"):
        load_encoder_weights(build_encoder("resnet18", 16), saved(tmp_path, tensors_of("resnet34")))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    path = tmp_path / "encoder.pth"
    torch.save(classifier("mobilenetv2_100").state_dict(), path)
    with pytest.raises(ModelError, match=r"pickled checkpoint.*convert it to safetensors"):
        build_model(ModelConfig(), classes=2, weights=path)
    with pytest.raises(LandcoverError, match=r"none\.safetensors"):
        build_model(ModelConfig(), classes=2, weights=tmp_path / "none.safetensors")
