"""Bundled models: names that stand for model files in this folder.

Their terms are not those of the package: see ``LICENSE-MODEL``.
"""

from dataclasses import dataclass
from pathlib import Path

from landcover.errors import ModelError

FOLDER = Path(__file__).parent
"""Where the files are."""

TERMS = "research use only (LICENSE-MODEL): trained on DeepGlobe imagery"


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A model that comes with the package.

    Attributes:
        name: What it is called wherever a model is taken.
        file: Its file in :data:`FOLDER`.
        about: What it is, in a line.
        licence: Under which terms the weights may be used, in words.
    """

    name: str
    file: str
    about: str
    licence: str = TERMS

    @property
    def path(self) -> Path:
        """The file, whether it is there or not."""
        return FOLDER / self.file


# INT8 has the plain name: predict runs on CPUs by default, where it is faster and loses less than the half
# point of mIoU that its export allows.
SHIPPED = (
    ShippedModel("starter", "starter-int8.onnx", "seven DeepGlobe classes; INT8, the faster one on a CPU"),
    ShippedModel("starter-fp32", "starter.onnx", "the same in float32, for CUDA and as a reference"),
    ShippedModel("starter-weights", "starter.safetensors", "its weights, for train --init"),
    ShippedModel("best", "best-int8.onnx", "the same classes by a larger network: better and slower; INT8"),
)
"""All of them; those of ``starter`` first."""

AUTO = "auto"
"""The name by which :func:`auto_model` is requested."""

BEST_MEGAPIXELS = 100.0
"""Largest job for which :func:`auto_model` chooses ``best``: some hundred windows of work."""


def auto_model(megapixels: float) -> str:
    """Return the name of the bundled model for a job of some size.

    ``best`` up to :data:`BEST_MEGAPIXELS`, if its file is installed; ``starter`` for larger jobs.

    Args:
        megapixels: Size of the job in million pixels at the models' ground sample distance (2.39 m).
    """
    installed = shipped_model("best").path.is_file()
    return "best" if installed and megapixels <= BEST_MEGAPIXELS else "starter"


def shipped_model(name: str) -> ShippedModel:
    """Return a model by name.

    Raises:
        KeyError: If there is no such model.
    """
    return {model.name: model for model in SHIPPED}[name]


def names() -> list[str]:
    """Return the names of the models."""
    return [model.name for model in SHIPPED]


def shipped_file(name: str) -> Path | None:
    """Return the file that a name stands for; None where it is no model's name.

    Raises:
        ModelError: If the file is not in this installation.
    """
    model = next((model for model in SHIPPED if model.name == name), None)
    if model is None:
        return None
    if not model.path.is_file():
        raise ModelError(
            f"The model {name!r} comes with the package, but this installation lacks its file "
            f"{model.path}: it was made of sources without model files. Install a released wheel, put the "
            "file there, or give a model file of your own."
        )
    return model.path
