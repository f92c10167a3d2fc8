"""Bundled models: names for model files in this folder.

Their terms are not those of the package: see ``LICENSE-MODEL``.
"""

from dataclasses import dataclass
from pathlib import Path

from landcover.errors import ModelError

FOLDER = Path(__file__).parent
"""Folder of the files."""

TERMS = "research use only (LICENSE-MODEL): trained on DeepGlobe imagery"


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A model that is part of the package, by its name wherever a model is accepted."""

    name: str
    file: str
    about: str
    licence: str = TERMS

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        return FOLDER / self.file


# INT8 has the plain name: predict runs on CPUs by default, where it is faster.
SHIPPED = (
    ShippedModel("starter", "starter-int8.onnx", "six DeepGlobe classes; INT8, the faster one on a CPU"),
    ShippedModel("starter-fp32", "starter.onnx", "the same in float32, for CUDA and as a reference"),
    ShippedModel("starter-weights", "starter.safetensors", "its weights, for train --init"),
    ShippedModel("best", "best-int8.onnx", "the same classes by a larger network: better and slower; INT8"),
)
"""All of them; those of ``starter`` first."""

BY_NAME = {model.name: model for model in SHIPPED}

AUTO = "auto"
"""The name for which :func:`auto_model` chooses a model."""

BEST_MEGAPIXELS = 100.0
"""Largest job for which :func:`auto_model` chooses ``best``: several hundred windows."""


def auto_model(megapixels: float) -> str:
    """Return the name of the bundled model for a job of some million pixels at 2.39 m, the models' GSD.

    ``best`` up to :data:`BEST_MEGAPIXELS`, if its file is installed; ``starter`` for larger jobs.
    """
    installed = BY_NAME["best"].path.is_file()
    return "best" if installed and megapixels <= BEST_MEGAPIXELS else "starter"


def shipped_file(name: str) -> Path | None:
    """Return the file of a bundled model, None for other names; ModelError if it is not installed."""
    if name not in BY_NAME:
        return None
    path = BY_NAME[name].path
    if not path.is_file():
        raise ModelError(
            f"The bundled model {name!r} is not in this installation, which was built without model files: "
            f"it lacks {path}. Install a released wheel, copy the file there, or pass another model file."
        )
    return path
