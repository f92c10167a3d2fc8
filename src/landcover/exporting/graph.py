"""The network with normalisation, padding and softmax as one ONNX graph.

The graph comes from torch's exporter on ``torch.export``. It is dynamic in batch, height and width, without a
branch or a loop, and batch norms are folded into the convolutions.
"""

import copy
import io
import warnings
from contextlib import redirect_stdout
from typing import cast

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landcover.exporting.onnxfile import OPSET
from landcover.model._compat import Conv2dSame
from landcover.model.card import ModelCard
from landcover.model.network import DeepLabV3Plus
from landcover.model.runtimes import INPUT, OUTPUTS

# Images, height and width: not 0 or 1, which the exporter treats as constants; all different, and no multiple
# of an output stride.
_EXAMPLE = (2, 97, 75)


class ConstantSame(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding for inputs whose sides are multiples of its stride.

    There the amount is constant; torch's exporter does not finish with its general formula.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C', H / stride, W / stride)."""
        sides = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        result: Tensor = self._conv_forward(F.pad(input, around), self.weight, self.bias)
        return result


class Served(nn.Module):
    """Pixels to probabilities: normalisation, padding, a copy of the network, temperature, softmax.

    Edge values are repeated to multiples of the output stride: always, as a graph has no conditions.
    """

    def __init__(self, network: DeepLabV3Plus, card: ModelCard) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            if type(module) is Conv2dSame:
                module.__class__ = ConstantSame  # type: ignore[assignment]  # the same parameters
        self.temperature = card.temperature
        scale, offset = card.preprocessing.factors
        self.register_buffer("scale", torch.from_numpy(scale)[:, None, None])
        self.register_buffer("offset", torch.from_numpy(offset)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (N, C, H, W) of values (N, B, H, W), and those at the decoder's stride."""
        x = image * self.get_buffer("scale") + self.get_buffer("offset")
        height, width = x.shape[-2:]
        stride, multiple = self.network.stride, self.network.encoder.output_stride
        below = (height + multiple - 1) // multiple * multiple - height
        right = (width + multiple - 1) // multiple * multiple - width
        padded = F.pad(x, (0, right, 0, below), mode="replicate")
        logits = self.network.logits(padded) / self.temperature
        full = F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
        probabilities = full[..., :height, :width].softmax(dim=1)
        coarse = logits[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
        return probabilities, coarse.softmax(dim=1)


def model_graph(network: DeepLabV3Plus, card: ModelCard) -> onnx.ModelProto:
    """Return landcover's own graph of a network in evaluation mode on the CPU.

    Input ``image``: float32 (N, B, H, W), bands 0..255; N, H and W are free. Outputs ``probabilities``:
    float32 (N, C, H, W), and ``coarse``: the same at the decoder's stride s: (N, C, ceil(H / s),
    ceil(W / s)).
    """
    names = [torch.export.Dim(name, min=1) for name in ("batch", "height", "width")]
    # The exporter prints its progress and warns of future changes inside torch; neither concerns users.
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            Served(network, card).eval(),
            (torch.zeros(_EXAMPLE[0], card.preprocessing.channels, *_EXAMPLE[1:]),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: names[0], 2: names[1], 3: names[2]}},
        )
    model: onnx.ModelProto = cast("torch.onnx.ONNXProgram", program).model_proto
    graph = model.graph
    # It names the sides of the outputs by long formulas over the input's.
    for output, sides in zip(graph.output, (("height", "width"), ("rows", "columns")), strict=True):
        for dimension, side in zip(list(output.type.tensor_type.shape.dim)[2:], sides, strict=True):
            dimension.dim_param = side
    # What it records about its run: source lines and local paths.
    for properties in (model.metadata_props, graph.metadata_props, graph.value_info):
        del properties[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name, graph.doc_string = "landcover", ""
    return model
