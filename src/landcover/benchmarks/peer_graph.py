"""The peer's network exported, quantised and run as ours is."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from landcover.exporting.quantise import quantise
from landcover.legend import UInt8Array
from landcover.model.preprocessing import Preprocessing
from landcover.model.runtimes.base import Float32Array
from landcover.model.runtimes.openvino_runtime import answer, cpu_settings, openvino_core, taking_pixels


class _Served(nn.Module):
    """Pixels 0..255 in, probabilities out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        scale, offset = Preprocessing(1.0).factors
        self.scale = nn.Buffer(torch.from_numpy(scale)[:, None, None])
        self.offset = nn.Buffer(torch.from_numpy(offset)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 (N, 3, H, W) to (N, C, H, W)."""
        return torch.softmax(self.network(image * self.scale + self.offset), dim=1)


def quantised_peer(
    network: nn.Module, images: Iterable[UInt8Array], side: int, folder: Path
) -> Callable[[UInt8Array], Float32Array]:
    """Return a function from a uint8 (1, side, side, 3) batch to probabilities, in OpenVINO.

    OpenVINO is set, fed and asked as by :class:`landcover.model.runtimes.openvino_runtime.OpenVINORuntime`.

    Args:
        network: A module from normalised images to logits.
        images: What the ranges are measured on: uint8 (H, W, 3) each.
        side: Height and width.
        folder: For intermediate files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of changes to come within itself
        program = torch.onnx.export(
            _Served(network).eval(),
            (torch.zeros(1, 3, side, side),),
            input_names=["image"],
            output_names=["probabilities"],
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing.")
    file = folder / "peer.onnx"
    onnx.save(quantise(program.model_proto, images, folder), file)
    core = openvino_core()
    compiled = core.compile_model(taking_pixels(core.read_model(file)), "CPU", cpu_settings())
    return partial(answer, compiled.create_infer_request())
