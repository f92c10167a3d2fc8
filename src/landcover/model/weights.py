"""Start weights: pretrained encoders from a file or from timm, and whole models of the same architecture."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from landcover.errors import ModelError
from landcover.legend import Legend
from landcover.model._compat import timm
from landcover.model.card import read_model
from landcover.model.encoders import Encoder
from landcover.model.preprocessing import Preprocessing
from landcover.model.settings import ModelConfig
from landcover.model.tensorfile import read_tensors

TIMM = "timm"
"""Instead of a file: the weights that timm publishes for the encoder."""


def load_encoder_weights(encoder: Encoder, weights: str | Path) -> None:
    """Load pretrained weights into an encoder.

    Args:
        encoder: Changed in place.
        weights: :data:`TIMM`, or a safetensors file with the tensors of the encoder's timm model. Layers
            behind the features (classifier, head) are optional and ignored.

    Raises:
        ModelError: If the file cannot be read, lacks tensors of the encoder, has unexpected ones or other
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
            f"timm does not publish weights for {name!r} ({error}). Pass a safetensors file."
        ) from error
    except OSError as error:
        raise ModelError(
            f"timm's weights for {name!r} cannot be downloaded ({str(error).splitlines()[0]}). "
            "Connect to the network once (the download is cached), or pass a safetensors file."
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
            f"Expected the tensors of timm's {name} under timm's names."
        )
    # Further tensors must be outside the encoder's layers: a deeper network of the same family has all
    # tensors of a shallower one, and more in the same layers.
    layers = {key.split(".")[0] for key in theirs.values()}
    unexpected = sorted(
        key for key in set(tensors).difference(theirs.values()) if key.split(".")[0] in layers
    )
    if unexpected:
        raise ModelError(
            f"{source} has {len(unexpected)} unexpected tensors for the encoder {name!r}: "
            f"{_some(unexpected)}. The file belongs to another model."
        )
    shapes = [
        f"{theirs[key]} has shape {tuple(tensors[theirs[key]].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if tensors[theirs[key]].shape != value.shape
    ]
    if shapes:
        raise ModelError(f"{source} does not fit the encoder {name!r}: {_some(shapes)}.")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[theirs[key]])


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop batch norm's batch counters: nothing reads them, and converters drop or reshape them."""
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def _classifier_key(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the name of an encoder's tensor in the whole classifier.

    timm's feature models rename the children of top-level containers: ``stages.0.x`` becomes ``stages_0.x``.
    """
    first, dot, rest = key.partition(".")
    container, _, child = first.rpartition("_")
    lifted = f"{container}.{child}{dot}{rest}"
    return lifted if key not in tensors and lifted in tensors else key


def _some(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def weights_digest(weights: str | None) -> str | None:
    """Return the SHA-256 of a file of encoder weights; ``timm`` and None are returned unchanged.

    Raises:
        ModelError: If the file cannot be read.
    """
    if weights in (None, TIMM):
        return weights
    try:
        with Path(weights).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"The encoder weights {weights} cannot be read ({error.strerror}). Expected a safetensors file, "
            "timm or none: pass --weights."
        ) from error


def encoder_preprocessing(encoder: str, gsd: float) -> Preprocessing:
    """Return the preprocessing that timm's weights of an encoder expect, at a GSD in metres per pixel."""
    published = timm.get_pretrained_cfg(encoder)
    if published is None:
        return Preprocessing(gsd)
    (r, g, b), (sr, sg, sb) = published.mean, published.std
    return Preprocessing(gsd, mean=(r, g, b), std=(sr, sg, sb))


def load_model_weights(network: nn.Module, settings: ModelConfig, path: Path, legend: Legend) -> list[str]:
    """Load the weights of a model of the same architecture, made for the same or another legend.

    Rows of the classifier are matched by class name; rows of new classes keep their present weights.

    Args:
        network: A network with a module named ``classifier``; changed in place.
        settings: The settings that built it.
        path: Model file or run folder.
        legend: The network's classes.

    Returns:
        Names of the classes that the model does not have.

    Raises:
        ModelError: If the file is not a model, or its network differs; the message names the settings.
    """
    card, arrays = read_model(path)
    own = network.state_dict()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    differing = [
        f"{name} is {_shape(tensors.get(name))} in the file and {_shape(own.get(name))} in the network"
        for name in sorted(own.keys() | tensors.keys())
        if not _fits(name, own.get(name), tensors.get(name))
    ]
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


def _fits(name: str, own: Tensor | None, other: Tensor | None) -> bool:
    if own is None or other is None:
        return False
    start = 1 if name.startswith("classifier.") else 0  # the number of classes may differ
    return own.shape[start:] == other.shape[start:]


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
