"""Initial weights: pretrained encoders from a file or from timm, and whole models."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from landcover.errors import ModelError, first_few
from landcover.legend import Legend
from landcover.model import ModelConfig
from landcover.model._compat import timm
from landcover.model.card import read_model
from landcover.model.encoders import Encoder
from landcover.model.files import read_tensors
from landcover.model.preprocessing import Preprocessing

TIMM = "timm"
"""Instead of a file: the weights that timm publishes for the encoder."""


def load_encoder_weights(encoder: Encoder, weights: str | Path) -> None:
    """Load pretrained weights into an encoder.

    Args:
        encoder: Changed in place.
        weights: :data:`TIMM`, or a safetensors file with the tensors of the encoder's timm model. Layers
            after the features (classifier, head) are optional and ignored.

    Raises:
        ModelError: If the file cannot be read, lacks tensors of the encoder, has unexpected ones or other
            shapes; or if timm has no weights for it or they cannot be downloaded.
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
    # Further tensors must be outside the encoder's layers: a deeper network of the same family has all
    # tensors of a shallower one, and more in the same layers.
    layers = {key.split(".")[0] for key in theirs.values()}
    differing = [f"{key} is missing" for key in theirs.values() if key not in tensors]
    differing += sorted(
        f"{key} is unexpected"
        for key in set(tensors).difference(theirs.values())
        if key.split(".")[0] in layers
    )
    differing += [
        f"{theirs[key]} has shape {tuple(tensors[theirs[key]].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if theirs[key] in tensors and tensors[theirs[key]].shape != value.shape
    ]
    if differing:
        raise ModelError(
            f"{source} does not fit the encoder {name!r}: {len(differing)} of its {len(own)} tensors differ "
            f"({first_few(differing)}). Expected those of timm's {name} under timm's names."
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[theirs[key]])


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

    ``network`` was built with ``settings`` for the classes of ``legend``; it is changed in place.

    Returns:
        Names of the classes that the model does not have.

    Raises:
        ModelError: If the file is not a model, or its network differs; the message names the settings.
    """
    card, arrays = read_model(path)
    own = network.state_dict()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
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
