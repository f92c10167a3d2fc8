"""The torch runtime against numpy, and the cache of compiled models."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fake_runtime import make_card, normalised
from landcover.errors import ModelError, UsageError
from landcover.model import ModelConfig
from landcover.model.card import save_model
from landcover.model.network import build_model
from landcover.model.runtimes import open_model
from landcover.model.runtimes import openvino_runtime as module
from landcover.model.runtimes.openvino_runtime import ModelCache, cache_folder
from landcover.model.runtimes.torch_runtime import TorchRuntime

RNG = np.random.default_rng(0)
BATCH = RNG.integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)


class Pointwise(nn.Module):
    """A 1x1 convolution behind a dropout that must be off."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dropout = nn.Dropout(0.5)
        self.convolution = nn.Conv2d(3, 6, 1)

    def forward(self, x):
        return self.convolution(self.dropout(x))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_the_softmax_of_the_normalised_pixels(temperature):
    card = make_card().model_copy(update={"temperature": temperature})
    module = Pointwise()
    result = TorchRuntime(module, card).probabilities(BATCH)
    weight = module.convolution.weight.detach().numpy()[:, :, 0, 0]
    logits = normalised(card.preprocessing, BATCH) @ weight.T + module.convolution.bias.detach().numpy()
    odds = np.exp(logits / temperature)
    expected = np.moveaxis(odds / odds.sum(-1, keepdims=True), -1, 1)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert np.allclose(result, expected, atol=1e-5)
    read_only = BATCH[:, ::2]
    read_only.flags.writeable = False
    sliced = TorchRuntime(module, card, "auto").probabilities(read_only)
    assert np.allclose(sliced, expected[:, :, ::2], atol=1e-5)


def test_half_precision_is_close_to_full_and_still_sums_to_one():
    full = TorchRuntime(Pointwise(), make_card()).probabilities(BATCH)
    half = TorchRuntime(Pointwise(), make_card(), precision="bf16").probabilities(BATCH)
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert np.allclose(half, full, atol=0.02)
    assert np.allclose(half.sum(1), 1, atol=1e-5)


def test_coarse_probabilities_are_the_softmax_of_the_decoders_logits():
    torch.manual_seed(0)
    card = make_card().model_copy(update={"temperature": 1.5})
    module = build_model(ModelConfig(), classes=6).eval()
    runtime = TorchRuntime(module, card)
    batch = BATCH[:, :30, :37]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.moveaxis(normalised(card.preprocessing, batch), -1, 1))
        expected = torch.softmax(module.logits(pixels) / 1.5, 1).numpy()
    answer = runtime.coarse(batch)
    assert runtime.stride == 4
    assert answer.shape == (2, 6, 8, 10)
    assert answer.flags.c_contiguous
    assert np.allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("module", [Pointwise(), nn.Conv2d(3, 6, 1, stride=1)])
def test_a_module_without_a_decoder_has_one_output(module):
    runtime = TorchRuntime(module, make_card())
    assert (runtime.name, runtime.stride) == ("torch", 1)
    assert np.array_equal(runtime.coarse(BATCH), runtime.probabilities(BATCH))


@pytest.mark.parametrize("batch", [BATCH.astype(np.float32), BATCH[0], BATCH[:, :, :0]])
def test_other_batches_are_refused(batch):
    with pytest.raises(UsageError, match="images of red, green, blue"):
        TorchRuntime(Pointwise(), make_card()).coarse(batch)


@pytest.mark.parametrize("device", ["cuda:7", "gpu", ""])
def test_an_unavailable_device_is_refused(device):
    with pytest.raises(UsageError, match="landcover doctor"):
        TorchRuntime(Pointwise(), make_card(), device)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    module = build_model(ModelConfig(), classes=6)
    save_model(folder / "best.safetensors", module.state_dict(), make_card())
    return folder


def test_a_saved_model_predicts_as_the_one_in_memory(run):
    torch.manual_seed(0)
    in_memory = TorchRuntime(build_model(ModelConfig(), classes=6), make_card())
    for path in (run, run / "best.safetensors", str(run)):
        opened = open_model(path, device="cpu")
        assert np.allclose(opened.probabilities(BATCH), in_memory.probabilities(BATCH), atol=1e-6)
        assert opened.card == in_memory.card


def test_weights_of_another_network_are_refused(tmp_path, run):
    module = build_model(ModelConfig(), classes=5)
    save_model(tmp_path / "m.safetensors", module.state_dict(), make_card())
    with pytest.raises(ModelError, match="do not fit"):
        open_model(tmp_path / "m.safetensors")


def test_without_torch_all_but_opening_a_checkpoint_works_and_the_extra_is_named(tmp_path):
    save_model(tmp_path / "m.safetensors", {}, make_card())
    code = f"""
import sys
sys.modules["torch"] = None
import landcover.inference
from landcover.model.runtimes import open_model
open_model({str(tmp_path / "m.safetensors")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingExtraError: This needs torch" in done.stderr
    assert "landcover[train]" in done.stderr


PIXELS = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv(module.DISABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "landcover" / "openvino"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "home" / ".cache" / "landcover" / "openvino"
    monkeypatch.setenv(module.DISABLE, "1")
    assert cache_folder() is None


def test_entries_are_private_and_belong_to_one_identity(tmp_path):
    folder = tmp_path / "deep" / "cache"
    cache = ModelCache(folder, "model", 1)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"
    assert cache.read("b") is None
    assert ModelCache(folder, "model", 2).read("a") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_a_damaged_entry_is_not_used_and_is_written_again(tmp_path, damage):
    cache = ModelCache(tmp_path / "cache", "model")
    cache.write("a", b"content")
    [file] = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no POSIX modes")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    folder = tmp_path / "cache"
    cache = ModelCache(folder, "model")
    cache.write("a", b"content")
    folder.chmod(0o770)
    assert cache.read("a") is None
    cache.write("b", b"content")
    assert len(list(folder.iterdir())) == 1
    (tmp_path / "link").symlink_to(folder)
    folder.chmod(0o700)
    assert ModelCache(tmp_path / "link", "model").read("a") is None


def test_the_least_recently_used_entries_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 200)
    cache = ModelCache(tmp_path / "cache", "model")
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        cache.write(name, bytes(50))
        for file in (tmp_path / "cache").iterdir():
            os.utime(file, (1e9 - age, 1e9 - age)) if file.stat().st_mtime > 1e9 else None
    cache.write("d", bytes(50))
    assert [name for name in "abcd" if cache.read(name)] == ["c", "d"]


def test_a_cached_model_answers_alike_and_is_not_read_again(tmp_path, monkeypatch):
    expected = open_model("starter").coarse(PIXELS)
    folder = tmp_path / "cache"
    assert np.array_equal(open_model("starter", cache=folder).coarse(PIXELS), expected)
    cached = open_model("starter", cache=folder)
    assert np.array_equal(cached.coarse(PIXELS), expected)
    assert "_network" not in vars(cached)
    assert cached.stride == open_model("starter").stride
    for file in folder.iterdir():  # damage all
        file.write_bytes(file.read_bytes()[:-1])
    again = open_model("starter", cache=folder)
    assert np.array_equal(again.coarse(PIXELS), expected)
    assert "_network" in vars(again)


def test_an_entry_that_openvino_refuses_is_compiled_again(tmp_path, monkeypatch):
    write = ModelCache.write
    monkeypatch.setattr(
        ModelCache,
        "write",
        lambda cache, name, data: write(cache, name, b"4" if name == "stride" else b"no graph"),
    )
    expected = open_model("starter", cache=tmp_path / "cache").coarse(PIXELS)
    assert np.array_equal(open_model("starter", cache=tmp_path / "cache").coarse(PIXELS), expected)


def test_a_library_call_writes_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(module.DISABLE, raising=False)
    open_model("starter").coarse(PIXELS)
    assert list(tmp_path.iterdir()) == []
