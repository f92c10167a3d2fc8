"""The model file: weights and everything needed to use them, in one file.

Training writes safetensors, export writes ONNX. Both store the card as JSON in the file's metadata, under
:data:`CARD_KEY`. A card is read without the weights, torch or onnx. Pickled files can run code when they are
read, and are refused.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AliasChoices, Field, PlainSerializer, PlainValidator, model_validator
from safetensors.numpy import save

from landcover.config import Config, from_mapping
from landcover.errors import ConfigError, ModelError, did_you_mean
from landcover.io.files import atomic_path
from landcover.legend import LegendField
from landcover.model import ModelConfig
from landcover.model.bundled import BY_NAME, shipped_file
from landcover.model.files import Tensors, read_onnx_metadata, read_tensor_metadata, read_tensors
from landcover.model.preprocessing import RGB, Preprocessing
from landcover.ood.profile import ImageryProfile
from landcover.textfiles import parse_json
from landcover.values import Views

SCHEMA_VERSION = 4
"""Schema of the cards that landcover 0.2 writes; 0.1 wrote 1 to 3."""
CARD_KEY = "landcover"
RUN_SETTINGS = frozenset(
    {"device", "threads", "loaders", "log_every", "checkpoint_minutes", "checkpoint_steps"}
)
"""Settings of training that do not change the result and may differ after a resume."""
BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"
STATE_KEY = "landcover-training"
"""Metadata entry of a training checkpoint, which is not a model file."""
_RESERVED = ("class_scale", "class_offset")
"""Fields of version 4 that are empty in all cards of landcover; a map that ignored them would be wrong."""
ONNX_SUFFIX = ".onnx"
FINGERPRINT_BYTES = 8
"""Length of a fingerprint: the first bytes of a SHA-256."""


def _decode_hashes(value: Any) -> frozenset[bytes]:
    if isinstance(value, frozenset):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")
    data = base64.b64decode(value, validate=True)
    if len(data) % FINGERPRINT_BYTES:
        raise ValueError(f"expected a multiple of {FINGERPRINT_BYTES} bytes, found {len(data)}")
    return frozenset(data[i : i + FINGERPRINT_BYTES] for i in range(0, len(data), FINGERPRINT_BYTES))


Hashes = Annotated[
    frozenset[bytes],
    PlainValidator(_decode_hashes),
    PlainSerializer(lambda hashes: base64.b64encode(b"".join(sorted(hashes))).decode(), return_type=str),
]
"""Fingerprints of :data:`FINGERPRINT_BYTES` each; in JSON the base64 text of all of them, sorted."""


class ImageSet(Config):
    """Fingerprints of images that were used to make a model (see :mod:`landcover.data.fingerprints`).

    Attributes:
        files: Fingerprints of the image files' bytes; none for images without a known file.
        pixels: Fingerprints of the decoded pixels, one for each different image.
        scenes: Scene ids of the images, by the digest of the scene table that defines them.
        unplaced: Number of images without a scene id.
        complete: False where images of a parent model (``--init``, a teacher) were not recorded.
    """

    files: Hashes = frozenset()
    pixels: Hashes = frozenset()
    scenes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unplaced: Annotated[int, Field(ge=0)] = 0
    complete: bool = True

    def __or__(self, other: "ImageSet") -> "ImageSet":
        """Return the union of two sets."""
        tables = sorted(self.scenes.keys() | other.scenes.keys())
        return ImageSet(
            files=self.files | other.files,
            pixels=self.pixels | other.pixels,
            scenes={
                table: tuple(sorted({*self.scenes.get(table, ()), *other.scenes.get(table, ())}))
                for table in tables
            },
            unplaced=self.unplaced + other.unplaced,
            complete=self.complete and other.complete,
        )


class UsedImages(Config):
    """The images that a model, its parent models included, depends on.

    Attributes:
        training: Images that the weights were fitted to; None where that was not recorded.
        selection: Images whose scores chose the weights (``validation.keep=best``, early stopping).
        calibration: Images that the temperature was fitted on.
    """

    training: ImageSet | None = None
    selection: ImageSet | None = None
    calibration: ImageSet | None = None

    def with_parents(self, parents: Iterable["UsedImages"]) -> "UsedImages":
        """Return the images of a model together with those of its teachers and its initial model."""
        training, selection = self.training or ImageSet(complete=False), self.selection
        for parent in parents:
            training |= parent.training or ImageSet(complete=False)
            for part in (parent.selection, parent.calibration):  # both have reached the weights
                selection = part if selection is None else selection | (part or ImageSet())
        return self.model_copy(update={"training": training, "selection": selection})


class ModelCard(Config):
    """Everything about a model but its weights.

    Attributes:
        model: Architecture, encoder and widths.
        legend: The classes; the model's channels are the scored ones.
        preprocessing: GSD in metres, bands, scaling, mean and std of the input.
        window_px: Recommended side of the windows, in pixels at the model's GSD.
        overlap_px: Recommended overlap of neighbouring windows, in pixels at the model's GSD.
        views: Views that prediction averages by default; see :data:`landcover.values.Views`.
        temperature: Logits are divided by it before the softmax.

        recipe: The training configuration.
        scores: Measured results, each with at least ``metric``, ``split`` and ``miou`` (0..1).
        licence: Terms of the weights, in words. ``license`` is accepted too.
        licence_id: SPDX identifier of these terms, ``LicenseRef-…`` for others; empty: unknown.
        licence_url: Address of the full text; empty: none.
        provenance: Where the weights come from: ``version``, ``date``, ``data``, ``command`` and the like.
        precision: Arithmetic of the network: ``int8`` for a model that was quantised on export.
        export: Results of the checks on export: parity with the checkpoint, accuracy and speed.
        calibration: How the temperature was fitted, if it was: ``split``, ``data``, ``images``, ``pixels``,
            and ``nll`` and ``ece`` before and after on them.
        used_images: Fingerprints of the images that the model depends on.
        imagery: Profile of the training imagery; None where that was not recorded.
        schema_version: Version of this list of fields.
    """

    model: ModelConfig
    legend: LegendField
    preprocessing: Preprocessing
    window_px: Annotated[int, Field(ge=1)]
    overlap_px: Annotated[int, Field(ge=0)]
    views: Views = 1
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    recipe: dict[str, Any] = Field(default_factory=dict)
    scores: tuple[dict[str, Any], ...] = ()
    licence: str = Field("", validation_alias=AliasChoices("licence", "license"))
    licence_id: str = Field("", validation_alias=AliasChoices("licence_id", "license_id"))
    licence_url: str = Field("", validation_alias=AliasChoices("licence_url", "license_url"))
    provenance: dict[str, Any] = Field(default_factory=dict)
    precision: Literal["fp32", "int8"] = "fp32"
    export: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] = Field(default_factory=dict)
    used_images: UsedImages = UsedImages()
    imagery: ImageryProfile | None = None
    schema_version: int = SCHEMA_VERSION

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model.in_channels != self.preprocessing.channels:
            raise ValueError(
                f"model.in_channels is {self.model.in_channels}, but preprocessing has "
                f"{self.preprocessing.channels} bands ({', '.join(self.preprocessing.bands)})"
            )
        return self

    @property
    def license(self) -> str:
        """The licence, under its American spelling."""
        return self.licence

    @property
    def teachers(self) -> list[dict[str, Any]]:
        """Descriptions of the model's teachers, empty ones where nothing is known."""
        entries = self.provenance.get("teachers")
        if entries in (None, "none"):  # "none": cards written before teachers existed
            return []
        listed = entries if isinstance(entries, list | tuple) else [entries]
        return [dict(entry) if isinstance(entry, Mapping) else {} for entry in listed]


def save_model(path: Path, tensors: Mapping[str, Any], card: ModelCard, *, force: bool = False) -> None:
    """Write a model file, ``*.safetensors``, whole or not at all; tensors are whatever numpy can view."""
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(save(arrays, metadata={CARD_KEY: card.model_dump_json()}))


def read_card(path: str | Path) -> ModelCard:
    """Return the card of a model file, exported or not, or of a run folder, without reading the weights.

    Raises:
        ModelError: If there is no such file, or it is cut short, a pickle, neither ONNX nor safetensors,
            without a card, from a newer landcover, or its card is not valid.
    """
    file = resolve_model(path)
    metadata = read_onnx_metadata(file) if is_exported(file) else read_tensor_metadata(file)
    if CARD_KEY not in metadata:
        found = ", ".join(repr(name[:40]) for name in sorted(metadata)[:5]) or "nothing"
        reason = (
            f"it is an ONNX file whose metadata has no entry {CARD_KEY!r} (found: {found}). Expected a model "
            "written by 'landcover export'."
        )
        if STATE_KEY in metadata:
            reason = (
                "it is a training checkpoint, from which a run is resumed. Pass the run folder "
                f"{file.parent}, whose {BEST_NAME} is the model."
            )
        elif not is_exported(file):
            reason = (
                "it contains tensors, but was not written by landcover. Encoder weights are for training "
                "(--weights), not for prediction."
            )
        raise ModelError(f"{file} has no model card: {reason}")
    data = parse_json(metadata[CARD_KEY], f"the card of {path}", ModelError)
    try:
        json.dumps(data, ensure_ascii=False).encode()  # halves of characters could not be written again
    except UnicodeEncodeError as error:
        raise ModelError(f"The card of {file} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise ModelError(
            f"The card of {file} is damaged: found {str(data)[:40]!r}; expected names and values."
        )
    if unsupported := [name for name in _RESERVED if data.pop(name, None)]:
        raise ModelError(
            f"The card of {file} sets {', '.join(unsupported)}, which this landcover cannot apply. "
            "Upgrade landcover."
        )
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"{file} was written by a newer landcover (card version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade landcover."
        )
    if version in range(1, SCHEMA_VERSION):  # later fields all have defaults
        data["schema_version"] = SCHEMA_VERSION
    try:
        card = from_mapping(ModelCard, data, f"the card of {file}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    prepared = card.preprocessing
    if prepared.bands != RGB and not prepared.band_indices:
        raise ModelError(
            f"The card of {file} has the bands {', '.join(prepared.bands)} without their numbers in a file; "
            "expected preprocessing.band_indices with as many numbers. Export the model again."
        )
    return card


def read_model(path: str | Path) -> tuple[ModelCard, Tensors]:
    """Return card and tensors of a model that training wrote, not export: its file or run folder."""
    file = resolve_model(path)
    if is_exported(file):
        raise ModelError(
            f"{file} is an exported model, whose weights cannot be trained. Pass the run folder or "
            ".safetensors file that it was exported from (for starter: starter-weights)."
        )
    return read_card(file), read_tensors(file)


def is_exported(path: Path) -> bool:
    """Return whether a model file is an exported one, which runs without torch: by its suffix."""
    return path.suffix.lower() == ONNX_SUFFIX


def resolve_model(path: str | Path) -> Path:
    """Return the file of a model, a run folder's best model, or a bundled model; files come first."""
    if not str(path):
        raise ModelError("The model's name is empty (''). Expected a file, a run folder or a bundled model.")
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        shipped = shipped_file(str(path))
        if shipped is not None:
            return shipped
        raise ModelError(
            f"There is no model {path}. Expected an .onnx or .safetensors file, a run folder, or a bundled "
            f"model. {did_you_mean(str(path), BY_NAME)}"
        )
    if (path / BEST_NAME).is_file():
        return path / BEST_NAME
    hides = ""
    if str(path) in BY_NAME:
        hides = f" It hides the bundled model {str(path)!r}: rename it, or work in another directory."
    if (path / LAST_NAME).is_file():
        raise ModelError(
            f"The run {path} has no best model yet: {BEST_NAME} is written by its first validation. Resume "
            f"the training.{hides}"
        )
    raise ModelError(f"The folder {path} contains no model: it has no {BEST_NAME}.{hides}")


def model_digest(path: str | Path) -> str:
    """Return the SHA-256 of a model file, as 64 hexadecimal digits."""
    with resolve_model(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
