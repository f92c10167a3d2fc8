"""DeepLabv3+ after Chen et al. 2018 (arXiv 1802.02611), on any timm encoder with features.

Encoder, atrous spatial pyramid, decoder at stride 4. Differences from the paper:

- The image is padded to multiples of the output stride (edge values repeated) and the logits are cropped:
  row ``i`` of the logits covers rows ``4 i`` to ``4 i + 3`` of any image.
- The image-pooling branch has a bias and no batch norm: one value per image and channel is too little for
  batch statistics, and an error for a batch of one.
- Separable convolutions have no norm and activation between their halves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landcover.errors import ModelError, UsageError
from landcover.legend import Legend
from landcover.model import DEFAULT_ASPP_RATES, ModelConfig
from landcover.model.card import read_model
from landcover.model.encoders import (
    LOW_LEVEL_STRIDE,
    Encoder,
    build_encoder,
    fit_first_layer,
    load_encoder_weights,
)


def build_model(config: ModelConfig, *, classes: int, weights: str | Path | None = None) -> "DeepLabV3Plus":
    """Build a model in training mode; random weights come from torch's global generator.

    ``weights`` of the encoder: None for random ones, ``"timm"`` for timm's own, or a safetensors file.
    """
    if classes < 1:
        raise UsageError(f"A model needs at least one class; found {classes}.")
    encoder = build_encoder(config.encoder, config.output_stride, config.in_channels)
    if weights is not None:
        load_encoder_weights(encoder, weights)
    return DeepLabV3Plus(encoder, config, classes=classes)


def _conv(
    inputs: int, outputs: int, *, kernel: int = 1, rate: int = 1, separable: bool = False
) -> nn.Sequential:
    """Return convolution, batch norm and ReLU; height and width stay the same."""
    layers: list[nn.Module] = []
    if separable:
        layers.append(
            nn.Conv2d(
                inputs, inputs, kernel, padding=rate * (kernel // 2), dilation=rate, groups=inputs, bias=False
            )
        )
        kernel = rate = 1
    layers.append(nn.Conv2d(inputs, outputs, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False))
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class ImagePooling(nn.Module):
    """Image pooling: the mean over the image, a 1x1 convolution and ReLU, expanded to the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h, w) with equal values at all positions."""
        pooled = F.relu(self.conv(F.adaptive_avg_pool2d(x, 1)))
        return pooled.expand(-1, -1, x.shape[-2], x.shape[-1])


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: five branches, fused by a 1x1 convolution, with dropout."""

    def __init__(
        self, inputs: int, channels: int, rates: tuple[int, int, int], *, separable: bool, dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv(inputs, channels),
                *(_conv(inputs, channels, kernel=3, rate=rate, separable=separable) for rate in rates),
                ImagePooling(inputs, channels),
            ]
        )
        self.fuse = _conv(len(self.branches) * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, channels, h, w)."""
        fused: Tensor = self.dropout(self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1)))
        return fused


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+: encoder, atrous pyramid and decoder; one logit for each class and pixel."""

    stride = LOW_LEVEL_STRIDE

    def __init__(self, encoder: Encoder, config: ModelConfig, *, classes: int) -> None:
        """Add a head to ``encoder``.

        Its convolutions start as in He et al. 2015 (normal, fan-in; gain 1 if no ReLU follows), batch norms
        as the identity, the classifier as N(0, 0.01) with bias 0: classes are about equally likely.
        """
        super().__init__()
        self.encoder = encoder
        self.aspp = AtrousPyramid(
            encoder.deep_channels,
            config.aspp_channels,
            config.aspp_rates or DEFAULT_ASPP_RATES[config.output_stride],
            separable=config.separable,
            dropout=config.dropout,
        )
        self.reduce = _conv(encoder.low_channels, config.low_level_channels)
        width = config.decoder_channels
        self.decoder = nn.Sequential(
            _conv(
                config.aspp_channels + config.low_level_channels, width, kernel=3, separable=config.separable
            ),
            _conv(width, width, kernel=3, separable=config.separable),
        )
        self.classifier = nn.Conv2d(width, classes, 1)
        for part in (self.aspp, self.reduce, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(
                        module.weight, nonlinearity="linear" if module.groups > 1 else "relu"
                    )
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)
        if config.freeze_batch_norm:
            self.freeze("batch_norms")

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, ceil(H / stride), ceil(W / stride)) of normalised (N, B, H, W)."""
        height, width = x.shape[-2:]
        return self._padded_logits(x)[..., : -(-height // self.stride), : -(-width // self.stride)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, H, W), bilinearly upsampled, of normalised images (N, B, H, W)."""
        height, width = x.shape[-2:]
        full = F.interpolate(
            self._padded_logits(x), scale_factor=float(self.stride), mode="bilinear", align_corners=False
        )
        return full[..., :height, :width]

    def train(self, mode: bool = True) -> "DeepLabV3Plus":
        """Set training mode; frozen batch norms use their statistics and do not update them."""
        super().train(mode)
        for norm in _batch_norms(self):
            own = list(norm.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                norm.eval()
        return self

    def freeze(self, part: Literal["low_level", "encoder_batch_norms", "batch_norms"]) -> int:
        """Freeze a part, weights and statistics; return the number of its norms, or of its tensors.

        ``low_level`` are the layers of the encoder up to its stride-4 features.
        """
        frozen: Sequence[nn.Module | nn.Parameter]
        if part == "low_level":
            frozen = self.encoder.low_level_parameters()
        else:
            frozen = _batch_norms(self if part == "batch_norms" else self.encoder)
        for item in frozen:
            item.requires_grad_(False)
        self.train(self.training)  # frozen norms switch to their statistics
        return len(frozen)

    def _padded_logits(self, x: Tensor) -> Tensor:
        multiple = self.encoder.output_stride
        bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        low, deep = self.encoder(x)
        context = F.interpolate(self.aspp(deep), size=low.shape[-2:], mode="bilinear", align_corners=False)
        decoded: Tensor = self.classifier(self.decoder(torch.cat([context, self.reduce(low)], dim=1)))
        return decoded


def load_model_weights(network: nn.Module, settings: ModelConfig, path: Path, legend: Legend) -> list[str]:
    """Load the weights of a model of the same architecture, made for the same or another legend, in place.

    Rows of the classifier are matched by class name; rows of new classes, whose names are returned, keep
    their present weights. ``network`` was built with ``settings`` for the classes of ``legend``.
    A model of three bands fits a network of more, see
    :func:`~landcover.model.encoders.fit_first_layer`.
    """
    card, arrays = read_model(path)
    own = network.state_dict()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors |= {name: fit_first_layer(tensors[name], own[name]) for name in own.keys() & tensors.keys()}
    differing = []
    for name in sorted(own.keys() | tensors.keys()):
        first = 1 if name.startswith("classifier.") else 0  # the number of classes may differ
        there, here = (list(side[name].shape) if name in side else "missing" for side in (tensors, own))
        if "missing" in (there, here) or there[first:] != here[first:]:
            differing.append(f"{name} is {there} in the file and {here} in the network")
    if differing:
        wanted, given = card.model.model_dump(), settings.model_dump()
        changes = [
            f"model.{key}={wanted[key]} (found {given[key]})" for key in wanted if wanted[key] != given[key]
        ]
        raise ModelError(
            f"{path} does not fit the network: {len(differing)} tensors differ ({differing[0]}). "
            f"Train with the settings of the model: {', '.join(changes)}."
        )
    rows = {name: row for row, name in enumerate(card.legend.scored_names)}
    with torch.no_grad():
        for name, tensor in own.items():
            if not name.startswith("classifier."):
                tensor.copy_(tensors[name])
                continue
            for row, class_name in enumerate(legend.scored_names):
                if class_name in rows:
                    tensor[row] = tensors[name][rows[class_name]]
    return [name for name in legend.scored_names if name not in rows]
