"""Choose the bundled model for a job by its size: ``--model auto``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from landcover.errors import DataError, UsageError
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, plan
from landcover.inference.reading import open_imagery
from landcover.model.bundled import auto_model
from landcover.model.card import read_card

_log = logging.getLogger(__name__)


def choose_model(inputs: Sequence[str | Path], out: Path, options: PredictOptions) -> str:
    """Return the name of the bundled model for a job, and log the choice.

    Images that cannot be read count nothing; the prediction reports them.

    Args:
        inputs: As for :func:`landcover.inference.predict`.
        out: Folder of the maps.
        options: As for :func:`landcover.inference.predict`.

    Raises:
        UsageError: If there is no input, or an address is not valid.
        DataError: If an input does not exist or a folder holds no images.
        OutputError: If outputs exist or clash, as for :func:`landcover.inference.plan.plan`.
    """
    gsd = read_card("starter").preprocessing.gsd
    tasks = plan(inputs, out, options, model_gsd=gsd)
    megapixels = sum(_pixels(task, options, gsd) for task in tasks) / 1e6
    name = auto_model(megapixels)
    _log.info("Model auto: chose %s for %.1f megapixels at %g m per pixel", name, megapixels, gsd)
    return name


def _pixels(task: Task, options: PredictOptions, gsd: float) -> float:
    """Return the number of pixels of an image at the model's GSD; 0 if it cannot be read."""
    try:
        if task.picture:
            with Image.open(task.path) as picture:  # the header only
                width, height = picture.size
            scale = task.gsd
        else:
            with open_imagery(task, options, gsd) as imagery:
                (height, width), scale = imagery.size, imagery.gsd
    except (DataError, UsageError, OSError, Image.DecompressionBombError):
        return 0.0
    return height * width * (scale / gsd) ** 2
