"""The weights at the first step: a network as built, or the weights of another model."""

import hashlib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from landcover.errors import ModelError
from landcover.legend import Legend
from landcover.model import ModelConfig
from landcover.model.card import read_model
from landcover.model.preprocessing import Preprocessing
from landcover.model.weights import TIMM


def encoder_preprocessing(encoder: str, gsd: float) -> Preprocessing:
    """Return the preprocessing that timm's weights of an encoder expect, at a GSD in metres per pixel."""
    published = timm.get_pretrained_cfg(encoder)
    if published is None:
        return Preprocessing(gsd)
    (r, g, b), (sr, sg, sb) = published.mean, published.std
    return Preprocessing(gsd, mean=(r, g, b), std=(sr, sg, sb))


def weights_digest(weights: str | None) -> str | None:
    """Return the SHA-256 of a file of encoder weights; ``timm`` and None stay as they are.

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
            f"The encoder's weights {weights} cannot be read ({error.strerror}). Give a safetensors "
            "file, timm or none."
        ) from error


def load_initial(network: nn.Module, settings: ModelConfig, path: Path, legend: Legend) -> list[str]:
    """Load the weights of a model of the same architecture, made for the same or another legend.

    The classifier's rows are matched by class name; rows of classes that the model does not know stay as they
    are.

    Args:
        network: A network with a part named ``classifier``; changed in place.
        settings: What it was built by.
        path: Model file or run folder.
        legend: The network's classes.

    Returns:
        Names of the classes that start fresh.

    Raises:
        ModelError: If the file is no model, or its network differs; the message names the differing settings.
    """
    card, arrays = read_model(path)
    own = network.state_dict()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    differing = [
        _difference(name, own.get(name), tensors.get(name))
        for name in sorted(own.keys() | tensors.keys())
        if not _fits(name, own.get(name), tensors.get(name))
    ]
    if differing:
        mine, its = settings.model_dump(), card.model.model_dump()
        changes = [f"model.{key}={its[key]} (found {mine[key]})" for key in its if its[key] != mine[key]]
        raise ModelError(
            f"{path} does not fit the network to be trained; {len(differing)} tensors differ, such as "
            f"{differing[0]}. Train with its settings: {', '.join(changes)}."
        )
    theirs = {name: row for row, name in enumerate(card.legend.scored_names)}
    rows = [(row, theirs[name]) for row, name in enumerate(legend.scored_names) if name in theirs]
    with torch.no_grad():
        for name, tensor in own.items():
            if _is_classifier(name):
                for row, source in rows:
                    tensor[row] = tensors[name][source]
            else:
                tensor.copy_(tensors[name])
    return [name for name in legend.scored_names if name not in theirs]


def _is_classifier(name: str) -> bool:
    return name.startswith("classifier.")


def _fits(name: str, own: Tensor | None, theirs: Tensor | None) -> bool:
    if own is None or theirs is None:
        return False
    start = 1 if _is_classifier(name) else 0  # a classifier may have other rows
    return own.shape[start:] == theirs.shape[start:]


def _difference(name: str, own: Tensor | None, theirs: Tensor | None) -> str:
    if own is None:
        return f"{name} is not in the network"
    if theirs is None:
        return f"{name} is not in the file"
    return f"{name} is {tuple(theirs.shape)}, expected {tuple(own.shape)}"
