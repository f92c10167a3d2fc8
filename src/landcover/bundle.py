"""The model file: weights and everything needed to use them, in one safetensors file.

The card stands as JSON in the file's header, so that it can be read without the weights and without torch.
Pickled files can run code when read, and are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator
from safetensors.numpy import save

from landcover.config import Config, from_mapping
from landcover.errors import ConfigError, ModelError
from landcover.files import atomic_path
from landcover.legend import Legend
from landcover.models import ModelConfig
from landcover.models.tensorfile import Tensors, read_metadata, read_tensors
from landcover.preprocessing import Preprocessing

SCHEMA_VERSION = 1
CARD_KEY = "landcover"
BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"


def _legend(value: Any) -> Legend:
    return value if isinstance(value, Legend) else Legend.from_dict(value)


class ModelCard(Config):
    """Everything about a model but its weights.

    Attributes:
        model: Architecture, encoder and widths.
        legend: The classes; the model's channels are the scored ones.
        preprocessing: GSD in metres, mean and std of the input.
        window_px: Side of the windows that suit the model, in pixels at its GSD.
        overlap_px: Overlap of neighbouring windows.
        temperature: What logits are divided by before the softmax.
        recipe: The training configuration.
        scores: Measured results, each with at least ``metric``, ``split`` and ``miou`` (0..1).
        licence: Under which terms the weights may be used, in words.
        provenance: Where the weights come from: ``version``, ``date``, ``data``, ``command`` and the like.
        schema_version: Version of this list of fields.
    """

    model: ModelConfig
    legend: Annotated[Legend, PlainValidator(_legend), PlainSerializer(Legend.to_dict)]
    preprocessing: Preprocessing
    window_px: Annotated[int, Field(ge=1)]
    overlap_px: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    recipe: dict[str, Any] = Field(default_factory=dict)
    scores: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def save_model(path: Path, tensors: Mapping[str, Any], card: ModelCard, *, force: bool = False) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: The file, ``*.safetensors``.
        tensors: Name to array; whatever numpy can view, CPU tensors of torch among them.
        card: The model's card.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(save(arrays, metadata={CARD_KEY: card.model_dump_json()}))


def read_card(path: str | Path) -> ModelCard:
    """Return the card of a model file or run folder, without reading the weights.

    Raises:
        ModelError: As for :func:`read_model`.
    """
    file = resolve_model(path)
    return _card(read_metadata(file), file)


def read_model(path: str | Path) -> tuple[ModelCard, Tensors]:
    """Return card and tensors of a model file or run folder.

    Raises:
        ModelError: If there is no such file, or it is cut short, a pickle, no safetensors file, without a
            card, from a newer landcover, or its card is not valid.
    """
    file = resolve_model(path)
    return read_card(file), read_tensors(file)


def resolve_model(path: str | Path) -> Path:
    """Return the model file that a path stands for: itself, or the best model of a run folder.

    Raises:
        ModelError: If there is no such file or folder, or the folder holds no model (yet).
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(
            f"There is no model {path}. Expected a .safetensors file or the folder of a training run."
        )
    if (path / BEST_NAME).is_file():
        return path / BEST_NAME
    if (path / LAST_NAME).is_file():
        raise ModelError(
            f"The run {path} has no best model yet: the first validation, which writes {BEST_NAME}, has not "
            "come. Let the training go on."
        )
    raise ModelError(f"The folder {path} holds no model: there is no {BEST_NAME} in it.")


def model_digest(path: str | Path) -> str:
    """Return the SHA-256 of a model file, as 64 hexadecimal digits."""
    with resolve_model(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(metadata: Mapping[str, str], path: Path) -> ModelCard:
    if CARD_KEY not in metadata:
        raise ModelError(
            f"{path} has no model card: it holds tensors, but is no model that landcover made. "
            "Weights of an encoder are for training, not for prediction."
        )
    try:
        data = json.loads(metadata[CARD_KEY])
        version = data.get("schema_version")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"The card of {path} is damaged: {error}.") from error
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"{path} was made by a newer landcover (card version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade landcover."
        )
    try:
        return from_mapping(ModelCard, data, f"the card of {path}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
