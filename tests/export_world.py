"""A tiny network, imagery whose truth is what that network answers, and the file made of it."""

import copy
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from landcover.data import open_dataset
from landcover.exporting import graph as graph_module
from landcover.exporting.exporter import Variant, float_variant
from landcover.legend import DEEPGLOBE
from landcover.model import ModelConfig
from landcover.model.card import ModelCard, save_model
from landcover.model.network import build_model
from landcover.model.preprocessing import Preprocessing
from landcover.model.runtimes.torch_runtime import TorchRuntime

torch.set_num_threads(1)

WINDOW_PX = 48


def tiny_runtime() -> TorchRuntime:
    """Return a network of few layers whose classes, by chance, depend on the colours."""
    config = ModelConfig(
        encoder="test_resnet", output_stride=32, aspp_channels=8, decoder_channels=8, low_level_channels=8
    )
    card = ModelCard(
        model=config,
        legend=DEEPGLOBE,
        preprocessing=Preprocessing(1.0, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3)),
        window_px=WINDOW_PX,
        overlap_px=12,
        temperature=1.7,
        licence="CC0-1.0",
        provenance={"data": "noise"},
    )
    torch.manual_seed(3)
    network = build_model(config, classes=len(DEEPGLOBE.scored))
    with torch.no_grad():
        network.classifier.weight.normal_(std=2.0)
    return TorchRuntime(network, card)


def write_run(folder: Path, runtime: TorchRuntime) -> Path:
    """Write the run folder of a network."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "best.safetensors", runtime.module.state_dict(), runtime.card)
    return folder


def noise(size: int, *, seed: int) -> np.ndarray:
    """uint8 (size, size, 3): patches of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def write_data(root: Path, runtime: TorchRuntime, *, size: int = 64) -> Path:
    """Write pairs with a GSD of 1 m whose masks are what the network answers."""
    for part, count in (("train", 2), ("validation", 3)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            image = noise(size, seed=len(part) * 100 + number)
            Image.fromarray(image).save(root / part / f"{number:04}_sat.jpg", quality=95)
    (root / "landcover.yaml").write_text("gsd: 1.0\n")
    dataset = open_dataset(root)
    for item in dataset.items:
        answer = runtime.probabilities(dataset.read_image(item)[None])[0].argmax(0)
        mask = DEEPGLOBE.colours[np.array(DEEPGLOBE.scored)[answer]]
        Image.fromarray(mask).save(item.image.with_name(item.image.name.replace("_sat.jpg", "_mask.png")))
    return root


class World(NamedTuple):
    """What the tests share.

    Attributes:
        reference: The network.
        run: Its run folder.
        data: Pairs with its answers as truth.
        folder: Holds ``float.onnx``.
        variant: The model in that file.
    """

    reference: TorchRuntime
    run: Path
    data: Path
    folder: Path
    variant: Variant

    @property
    def file(self) -> Path:
        """The float32 file."""
        return self.folder / "float.onnx"


def reuse_graph(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is exported get the graph of the world's network, which took torch's exporter seconds.

    The rest of the way to a file is gone as ever, with copies of the graph.
    """

    monkeypatch.setattr(graph_module, "model_graph", lambda *_: copy.deepcopy(world.variant.model))


_converted: dict[tuple[object, ...], onnx.ModelProto] = {}


def convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the same network with the same card get a copy of the graph that torch's exporter made before."""
    original = graph_module.model_graph

    def graph(network: torch.nn.Module, card: ModelCard) -> onnx.ModelProto:
        weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
        key = hashlib.sha256(weights).hexdigest(), card.temperature, repr(card.preprocessing)
        if key not in _converted:
            _converted[key] = original(network, card)
        return copy.deepcopy(_converted[key])

    monkeypatch.setattr(graph_module, "model_graph", graph)


def make_world(folder: Path) -> World:
    """Make the network and what belongs to it, with the tests' one dynamic export."""
    reference = tiny_runtime()
    probes = [noise(WINDOW_PX, seed=seed) for seed in range(2)]
    variant = float_variant(reference, probes, folder)
    return World(
        reference,
        write_run(folder / "run", reference),
        write_data(folder / "data", reference),
        folder,
        variant,
    )
