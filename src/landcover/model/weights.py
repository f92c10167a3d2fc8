"""Pretrained encoder weights: from a local file, or timm's own by name."""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from landcover.errors import ModelError
from landcover.model.encoders import Encoder
from landcover.model.tensorfile import read_tensors

TIMM = "timm"
"""In place of a file: the weights that timm publishes for the encoder."""


def load_encoder_weights(encoder: Encoder, weights: str | Path) -> None:
    """Load pretrained weights into an encoder.

    Args:
        encoder: Where the weights go.
        weights: :data:`TIMM`, or a safetensors file with the tensors of the encoder's timm model. What lies
            behind the features (classifier, head) may be in it or not; it is left out.

    Raises:
        ModelError: If the file cannot be read, lacks tensors of the encoder, has more of its parts, or other
            shapes; or if timm has no weights for it or they cannot be downloaded.
    """
    if str(weights) == TIMM:
        _load(encoder, _download(encoder.name), f"timm's weights of {encoder.name}")
    else:
        path = Path(weights)
        tensors = {key: torch.from_numpy(value) for key, value in read_tensors(path).items()}
        _load(encoder, tensors, str(path))


def _download(name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"timm has no weights for {name!r} ({error}). Give a safetensors file instead."
        ) from error
    except OSError as error:
        raise ModelError(
            f"timm's weights for {name!r} cannot be fetched ({str(error).splitlines()[0]}). "
            "Connect to the network once (the download is kept), or give a safetensors file instead."
        ) from error


def _load(encoder: Encoder, tensors: Mapping[str, Tensor], source: str) -> None:
    name = encoder.name
    own = _without_counters(encoder.body.state_dict())
    tensors = _without_counters(tensors)
    theirs = {key: _classifier_key(key, tensors) for key in own}

    missing = [key for key in theirs.values() if key not in tensors]
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} of {len(own)} tensors of the encoder {name!r}: {_some(missing)}. "
            f"Expected a file with the tensors of timm's {name}, by timm's names."
        )
    # What else the file has must lie outside of the encoder's parts: a deeper network of the same family has
    # all tensors of a shallower one, and more in the same parts.
    parts = {key.split(".")[0] for key in theirs.values()}
    foreign = sorted(key for key in set(tensors).difference(theirs.values()) if key.split(".")[0] in parts)
    if foreign:
        raise ModelError(
            f"{source} has {len(foreign)} tensors that the encoder {name!r} has not: {_some(foreign)}. "
            "It belongs to another model."
        )
    shapes = [
        f"{theirs[key]} is {tuple(tensors[theirs[key]].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if tensors[theirs[key]].shape != value.shape
    ]
    if shapes:
        raise ModelError(f"{source} does not fit the encoder {name!r}: {_some(shapes)}.")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[theirs[key]])


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out batch norm's counters of batches: nothing reads them, and converters drop or reshape them."""
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def _classifier_key(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the name that a tensor of the encoder has in the whole classifier.

    timm's feature models lift the children of top-level containers: ``stages.0.x`` becomes ``stages_0.x``.
    """
    first, dot, rest = key.partition(".")
    container, _, child = first.rpartition("_")
    lifted = f"{container}.{child}{dot}{rest}"
    return lifted if key not in tensors and lifted in tensors else key


def _some(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
