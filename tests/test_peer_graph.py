"""The peer's network is run as ours is: the same settings, and answers that are the caller's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export_world import needs_exact_int8
from landcover.benchmarks import peer_graph
from landcover.benchmarks.peer_graph import quantised_peer
from landcover.model.preprocessing import Preprocessing
from landcover.model.runtimes import openvino_runtime

SIDE = 16


@needs_exact_int8
def test_the_peer_is_compiled_and_asked_as_our_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core, settings = openvino_runtime.openvino_core(), []

    class Listening:
        def compile_model(self, network: Any, device: str, given: dict[str, Any]) -> Any:
            settings.append(given)
            return core.compile_model(network, device, given)

        def read_model(self, file: Path) -> Any:
            return core.read_model(file)

    monkeypatch.setattr(peer_graph, "openvino_core", Listening)
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    classify = quantised_peer(network, images, SIDE, tmp_path)
    assert settings == [openvino_runtime.cpu_settings()]
    assert settings[0]["ENABLE_CPU_PINNING"] is False
    first, second = classify(images[:1]), classify(images[1:2])
    with torch.inference_mode():
        pixels = torch.from_numpy(Preprocessing(1.0).normalise(images[:2])).permute(0, 3, 1, 2)
        expected = network(pixels).softmax(1).numpy()
    np.testing.assert_allclose(first, expected[:1], atol=0.05)  # the second has not overwritten it
    np.testing.assert_allclose(second, expected[1:], atol=0.05)
    assert first.dtype == np.float32
