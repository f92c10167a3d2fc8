"""Encoders: timm models with feature maps, checked before use, and their pretrained weights."""

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landcover.errors import ConfigError, ModelError, did_you_mean, first_few
from landcover.model import OUTPUT_STRIDES, TESTED_ENCODERS, EncoderInfo
from landcover.model._compat import timm
from landcover.model.files import read_tensors
from landcover.model.preprocessing import Preprocessing
from landcover.textfiles import file_problem

LOW_LEVEL_STRIDE = 4

_PROBE_PX = 64
"""Side of the image on which an encoder is checked."""

TIMM = "timm"
"""Instead of a file: the weights that timm publishes for the encoder."""

# What timm's constructors raise for an unsupported option; there is no common type.
_UNSUPPORTED = (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


class Encoder(nn.Module):
    """A timm model reduced to its features of stride 4 and its deepest ones."""

    def __init__(self, name: str, output_stride: int, in_channels: int = 3) -> None:
        """Create the encoder with random weights; :func:`build_encoder` has messages for users."""
        super().__init__()
        # Without the argument a model has stride 32; many have no other and do not accept the argument.
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        if in_channels != 3:
            options["in_chans"] = in_channels
        self.name = name
        self.output_stride = output_stride
        self.in_channels = in_channels
        self.body = timm.create_model(name, features_only=True, **options)
        info: Any = self.body.feature_info
        strides: list[int] = info.reduction()
        channels: list[int] = info.channels()
        if LOW_LEVEL_STRIDE not in strides:
            raise NotImplementedError(f"it has no features of stride 4, only of {strides}")
        self._low = max(i for i, stride in enumerate(strides) if stride == LOW_LEVEL_STRIDE)
        self.low_channels = channels[self._low]
        self.deep_channels = channels[-1]
        # The features of a small image must have the shapes that timm declares.
        self.eval()
        with torch.no_grad():
            found = [tuple(x.shape) for x in self(torch.zeros(1, in_channels, _PROBE_PX, _PROBE_PX))]
        self.train()
        at_4, at_deep = _PROBE_PX // LOW_LEVEL_STRIDE, _PROBE_PX // output_stride
        expected = [(1, self.low_channels, at_4, at_4), (1, self.deep_channels, at_deep, at_deep)]
        if found != expected:
            raise NotImplementedError(f"its features have the shapes {found}, expected {expected}")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stride-4 and the deepest features (N, C, h, w) of normalised images (N, B, H, W)."""
        maps = self.body(x)
        return maps[self._low], maps[-1]

    def low_level_parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters that the stride-4 features depend on."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        training = self.training
        self.eval()
        probe = torch.zeros(1, self.in_channels, _PROBE_PX, _PROBE_PX, device=next(self.parameters()).device)
        low = self(probe)[0]
        self.train(training)
        if not low.requires_grad:
            return []
        gradients = torch.autograd.grad(low.sum(), parameters, allow_unused=True)
        return [parameter for parameter, grad in zip(parameters, gradients, strict=True) if grad is not None]


def build_encoder(name: str, output_stride: int, in_channels: int = 3) -> Encoder:
    """Create an encoder with random weights: timm's model of a name without a weights tag."""
    check_encoder_name(name)
    try:
        return Encoder(name, output_stride, in_channels)
    except _UNSUPPORTED as error:
        possible = list(_built(name))
        can = (
            f"Supported strides: {possible}; set model.output_stride."
            if possible
            else "Choose another encoder, see: landcover models"
        )
        reason = f" ({error})" if str(error) else ""
        raise ModelError(
            f"The encoder {name!r} does not support the output stride {output_stride}{reason}. {can}"
        ) from error


def check_encoder_name(name: str) -> None:
    """Raise :class:`ConfigError` with close matches if timm has no model called ``name``."""
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = did_you_mean(name, close or TESTED_ENCODERS)
        raise ConfigError(f"timm {timm.__version__} does not have the encoder {name!r}. {hint}")


def _built(name: str) -> dict[int, Encoder]:
    """Return the encoder at each output stride that it can have, built without memory or sums."""
    built = {}
    for stride in OUTPUT_STRIDES:
        try:
            with torch.device("meta"):
                built[stride] = Encoder(name, stride)
        except _UNSUPPORTED:
            continue
    return built


def describe_encoder(name: str) -> EncoderInfo:
    """Return the facts about an encoder, built without weights; ConfigError if timm does not have it."""
    check_encoder_name(name)
    built = _built(name)
    sizes = [sum(p.numel() for p in encoder.parameters()) for encoder in built.values()]
    pretrained = timm.get_pretrained_cfg(name)
    licence = pretrained.license if pretrained is not None and pretrained.has_weights else None
    return EncoderInfo(name, sizes[-1] if sizes else None, tuple(built), licence, tested=False)


def load_encoder_weights(encoder: Encoder, weights: str | Path) -> None:
    """Load pretrained weights into an encoder: :data:`TIMM`, or a safetensors file of its timm model.

    Layers after the features (classifier, head) are optional and ignored. A first layer of three bands fits
    encoders of more, see :func:`fit_first_layer`.
    """
    name = encoder.name
    if str(weights) == TIMM:
        source = f"timm's weights of {name}"
        try:
            loaded: Mapping[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
        except RuntimeError as error:
            raise ModelError(
                f"timm does not publish weights for {name!r} ({error}). Pass a safetensors file."
            ) from error
        except OSError as error:
            raise ModelError(
                f"timm's weights for {name!r} cannot be downloaded ({str(error).splitlines()[0]}). "
                "Connect to the network once (the download is cached), or pass a safetensors file."
            ) from error
    else:
        source = str(weights)
        loaded = {key: torch.from_numpy(value) for key, value in read_tensors(Path(weights)).items()}

    own, tensors = (
        # Nothing reads the counters of batch norms, and converters drop or reshape them.
        {key: value for key, value in each.items() if not key.endswith("num_batches_tracked")}
        for each in (encoder.body.state_dict(), loaded)
    )
    # timm's feature models rename the children of top-level containers: stages.0.x becomes stages_0.x.
    theirs = {}
    for key in own:
        first, dot, rest = key.partition(".")
        container, _, child = first.rpartition("_")
        nested = f"{container}.{child}{dot}{rest}"
        theirs[key] = nested if key not in tensors and nested in tensors else key
    fitted: dict[str, Tensor] = {}
    differing = []
    for key, value in own.items():
        if theirs[key] not in tensors:
            differing.append(f"{theirs[key]} is missing")
            continue
        fitted[key] = fit_first_layer(tensors[theirs[key]], value)
        if fitted[key].shape != value.shape:
            found, expected = tuple(fitted[key].shape), tuple(value.shape)
            differing.append(f"{theirs[key]} has shape {found}, expected {expected}")
    # Further tensors must be outside the encoder's layers: a deeper network of the same family has all
    # tensors of a shallower one, and more in the same layers.
    layers = {key.split(".")[0] for key in theirs.values()}
    further = sorted(key for key in tensors.keys() - theirs.values() if key.split(".")[0] in layers)
    differing += [f"{key} is unexpected" for key in further]
    if differing:
        raise ModelError(
            f"{source} does not fit the encoder {name!r}: {len(differing)} of its {len(own)} tensors differ "
            f"({first_few(differing)}). Expected those of timm's {name} under timm's names."
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(fitted[key])


def fit_first_layer(weights: Tensor, own: Tensor) -> Tensor:
    """Return the weights of a first layer of three bands for one of more; others as they are.

    The rule of timm's ``adapt_input_conv`` (timm/models/_manipulate.py, Apache-2.0): the fourth band starts
    with the weights of red, the fifth with those of green and so on, and all are multiplied by 3 / C, so that
    the layer's sums keep their size.

    ``weights`` is (M, 3, h, w), ``own`` the network's tensor, (M, C, h, w).
    """
    bands = own.shape[1] if own.ndim == 4 else 0
    if bands <= 3 or weights.shape != (own.shape[0], 3, *own.shape[2:]):
        return weights
    return weights.repeat(1, -(-bands // 3), 1, 1)[:, :bands] * (3 / bands)


def weights_digest(weights: str | None) -> str | None:
    """Return the SHA-256 of a file of encoder weights; ``timm`` and None are returned unchanged."""
    if weights in (None, TIMM):
        return weights
    if (problem := file_problem(Path(weights))) is not None:
        raise ModelError(
            f"The encoder weights {weights} cannot be read: the path {problem}. Expected a safetensors file, "
            "timm or none: pass --weights."
        )
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoder_preprocessing(encoder: str, gsd: float) -> Preprocessing:
    """Return the preprocessing that timm's weights of an encoder expect, at a GSD in metres per pixel."""
    published = timm.get_pretrained_cfg(encoder)
    if published is None:
        return Preprocessing(gsd)
    (r, g, b), (sr, sg, sb) = published.mean, published.std
    return Preprocessing(gsd, mean=(r, g, b), std=(sr, sg, sb))
