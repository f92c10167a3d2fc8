"""The network with normalisation, padding and softmax, as one ONNX graph.

torch's exporter on ``torch.export`` is used: its graph is dynamic in batch, height and width without a branch
or a loop (one Pad, two Resize, two Softmax and arithmetic on the input's shape around the convolutions), with
batch norms folded. The tracer that it replaced freezes conditions on sizes, and is deprecated.
"""

import copy
import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import cast

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landcover import __version__
from landcover.model import DeepLabV3Plus
from landcover.model._compat import Conv2dSame
from landcover.model.card import ModelCard
from landcover.model.runtimes.graph import OUTPUTS, PROBABILITIES

OPSET = 18
"""Version of ONNX's operators: the first whose Pad and Resize take the axes that the exporter writes."""

INPUT = "image"
STANDARDISED = "standardised"
"""Name of the input that has been normalised already; another name, so that no runtime mixes them up."""

# Not 0 or 1, which the exporter takes for constants, no two alike, and no multiple of an output stride.
_EXAMPLE = (2, 3, 97, 75)


class ConstantSame(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding for inputs whose sides are multiples of its stride.

    SAME pads by an amount that depends on the input's size. torch's exporter carries that formula through
    every later layer, and does not finish with the sixth. For multiples of the stride the amount is constant.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C', H / stride, W / stride)."""
        sides = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        answer: Tensor = self._conv_forward(F.pad(input, around), self.weight, self.bias)
        return answer


def with_constant_padding(network: DeepLabV3Plus) -> DeepLabV3Plus:
    """Return a copy of a network that takes only images whose sides are multiples of the output stride."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if type(module) is Conv2dSame:
            module.__class__ = ConstantSame  # type: ignore[assignment]  # the same parameters
    return network


class Served(nn.Module):
    """Pixels to probabilities: normalisation, padding, network, temperature, softmax.

    The image's sides are padded to multiples of the output stride by repeating edge values, as the network
    itself does it; here without a condition, which a graph could not hold. The encoder therefore takes only
    such multiples, whatever the size of the image.
    """

    def __init__(self, network: DeepLabV3Plus, card: ModelCard) -> None:
        super().__init__()
        self.network = with_constant_padding(network)
        self.temperature = card.temperature
        scale, offset = card.preprocessing.factors
        self.register_buffer("scale", torch.from_numpy(scale)[:, None, None])
        self.register_buffer("offset", torch.from_numpy(offset)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities (N, C, H, W) and those at the decoder's stride, of RGB 0..255."""
        return self.classify(image * self.get_buffer("scale") + self.get_buffer("offset"))

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, for normalised values."""
        height, width = x.shape[-2:]
        stride, multiple = self.network.stride, self.network.encoder.output_stride
        below = (height + multiple - 1) // multiple * multiple - height
        right = (width + multiple - 1) // multiple * multiple - width
        padded = F.pad(x, (0, right, 0, below), mode="replicate")
        logits = self.network.logits(padded) / self.temperature
        full = F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
        coarse = logits[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
        return full[..., :height, :width].softmax(dim=1), coarse.softmax(dim=1)


class ServedStandardised(nn.Module):
    """Normalised values to probabilities: what a program wants that normalises by itself."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def forward(self, standardised: Tensor) -> Tensor:
        """Return the probabilities (N, C, H, W) of normalised values (N, 3, H, W)."""
        probabilities, _ = self.served.classify(standardised)
        return probabilities


def model_graph(network: DeepLabV3Plus, card: ModelCard) -> onnx.ModelProto:
    """Return landcover's own graph.

    Input ``image``: float32 (N, 3, H, W), RGB 0..255; N, H and W are any, from 1. Outputs ``probabilities``:
    float32 (N, C, H, W), and ``coarse``: the same at the decoder's stride s, (N, C, ceil(H / s),
    ceil(W / s)).

    Args:
        network: In evaluation mode, on the CPU.
        card: Its preprocessing and temperature go into the graph.
    """
    names = [torch.export.Dim(name, min=1) for name in ("batch", "height", "width")]
    dynamic = {0: names[0], 2: names[1], 3: names[2]}
    model = _exported(Served(network, card), _EXAMPLE, INPUT, OUTPUTS, {INPUT: dynamic})
    # The exporter calls the sides of the outputs by formulas over the input's, which nobody could read.
    for output, sides in zip(model.graph.output, (("height", "width"), ("rows", "columns")), strict=True):
        for dimension, side in zip(list(output.type.tensor_type.shape.dim)[2:], sides, strict=True):
            dimension.dim_param = side
    return model


def standardised_graph(network: DeepLabV3Plus, card: ModelCard) -> onnx.ModelProto:
    """Return the graph without normalisation, static, with one output.

    Input ``standardised``: float32 (1, 3, S, S) for the card's window of S pixels; output ``probabilities``:
    float32 (1, C, S, S). Arguments as :func:`model_graph`.
    """
    shape = (1, 3, card.window_px, card.window_px)
    return _exported(ServedStandardised(Served(network, card)), shape, STANDARDISED, (PROBABILITIES,), None)


def _exported(
    module: nn.Module,
    shape: tuple[int, ...],
    name: str,
    outputs: Sequence[str],
    dynamic_shapes: dict[str, dict[int, torch.export.Dim]] | None,
) -> onnx.ModelProto:
    # The exporter prints what it does, and warns of changes to come within torch: neither is for our users.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(shape),),
            input_names=[name],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    model: onnx.ModelProto = cast("torch.onnx.ONNXProgram", program).model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes about its run: lines of source code with paths of this machine."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    model.graph.name = "landcover"
    model.graph.doc_string = ""
    model.producer_name, model.producer_version = "landcover", __version__
