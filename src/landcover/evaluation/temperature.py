"""``calibrate``: fit the temperature that brings a model's confidence in line with its accuracy.

Temperature scaling (Guo et al. 2017, 1706.04599): logits are divided by the number that makes the truth of
held-out pixels most likely. The order of the classes in a cell stays, and so does the map, except between
cells where two classes are almost equally probable.
"""

import datetime
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from landcover import __version__
from landcover._typing import BoolArray, Float32Array, Float64Array, IntArray, UInt8Array
from landcover.data import Dataset, Item, open_dataset, select
from landcover.data.dataset import DataOptions
from landcover.data.fingerprints import image_set
from landcover.data.folder import read_as
from landcover.errors import DataError, ModelError, OutputError, UsageError
from landcover.evaluation.calibration import Reliability
from landcover.evaluation.overlap import training_overlap
from landcover.evaluation.report import CalibrationReport
from landcover.inference.engine import row_blocks
from landcover.inference.grid import Grid, make_grid
from landcover.inference.reading import ArraySource
from landcover.legend import IGNORE, translation
from landcover.model.card import (
    RUN_SETTINGS,
    ImageSet,
    ModelCard,
    is_exported,
    model_digest,
    read_card,
    read_model,
    resolve_model,
    save_model,
)
from landcover.model.files import Tensors
from landcover.model.runtimes import Runtime, open_model
from landcover.progress import track
from landcover.values import Views, check_views

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Beyond these, nearly all predictions were correct, or no better than chance."""

MAX_CELLS = 1 << 22
"""Approximate number of cells that are fitted, 4 C bytes each; of more a random sample is drawn."""
_SEED = 0
_BLOCK_CELLS = 1 << 16
_PRECISION = 1e-6
_IRRELEVANT = RUN_SETTINGS | {"model", "weights", "seed"}
"""Settings of a recipe that do not affect a model's confidence, or are compared by other means."""


def calibrate(
    run: str | Path,
    data: str | Path | Dataset,
    split: str,
    *,
    views: Views | None = None,
    device: str = "auto",
    force: bool = False,
    **options: Unpack[DataOptions],
) -> CalibrationReport:
    """Fit a model's temperature on labelled data and write it into the model's card.

    The file is replaced by one with the same weights, bit for bit, and a card with the new ``temperature``,
    the ``views`` it was fitted for, the ``calibration`` record and the fingerprints of the images. The fit
    maximises the likelihood of the truth at the centres of the logit grid's cells. Training images are
    refused: there a model is more confident and more often correct than elsewhere. A score on the same images
    is slightly optimistic.

    Args:
        run: Run folder or checkpoint.
        data: Data folder, prepared cache or open dataset.
        split: ``NAME:subset``, as for :func:`landcover.data.select`.
        views: Views that prediction will average, see :class:`landcover.PredictOptions`: a mean of several
            is less confident than one. By default those of the card.
        device: Where the network computes: ``auto``, ``cpu`` or ``cuda``.
        force: Replace an earlier calibration.
        **options: How a data folder is read, such as ``gsd``; see :func:`landcover.data.open_dataset`.

    Raises:
        UsageError: If the model was trained on some of the images, the GSD is not known, or the model has
            other classes than the data.
        SplitError: If the split cannot be made.
        DataError: If the data cannot be read, no pixel has a known class, or no temperature fits best.
        ModelError: If the model cannot be read, or is an exported one.
        OutputError: If the model is calibrated already and ``force`` is off, was changed meanwhile, or cannot
            be written.

    Example:
        >>> lc.calibrate("runs/a", "data", "folders:val").temperature  # doctest: +SKIP
        1.2
    """
    before = model_digest(run)
    file, card, tensors = _open(run, force)
    dataset = read_as(open_dataset(data, **options), card.preprocessing)
    items = select(dataset, split)
    overlap = training_overlap(card, dataset, items)
    if overlap.identical:
        raise UsageError(
            f"{file} was trained on {overlap.identical} of the {len(items)} images of {split} (for example "
            f"{overlap.example}); fitting the temperature on training data makes the model overconfident. "
            "Pass --data and --split of held-out images."
        )
    warnings = []
    if overlap.status == "not recorded":
        warnings.append(
            f"Cannot tell whether {file} was trained on the images of {split}: its card does not record all "
            "training images. Fitting the temperature on training data makes the model overconfident."
        )
    if overlap.same_scene:
        warnings.append(
            f"{file} was trained on other tiles of the scenes of {overlap.same_scene} of the {len(items)} "
            f"images of {split} (for example {overlap.example}); the temperature may be too low."
        )
    used = image_set(dataset, items)
    dataset.known_gsd("the model")
    runtime = open_model(file, device=device, runtime="torch")
    views = check_views(views) or card.views
    logits, truth = labelled_cells(runtime, dataset, items, views)
    if not truth.size:
        raise DataError(
            f"None of the {len(items)} images of {split} has a pixel of a known class; expected labels."
        )
    temperature = fit_temperature(logits, truth)
    losses, eces = [], []
    for divisor in (card.temperature, temperature):
        reliability = Reliability(len(logits))
        for _, probabilities, classes in _blocks(logits, truth, divisor):
            reliability.update(probabilities.astype(np.float32), classes.astype(np.uint8))
        losses.append(reliability.loss / truth.size)
        eces.append(reliability.ece())
    record = {
        "split": split,
        "data": dataset.root.absolute().name,
        "gsd": dataset.gsd,
        "views": views,
        "images": len(items),
        "pixels": int(truth.size),
        "nll": dict(zip(("before", "after"), losses, strict=True)),
        "ece": dict(zip(("before", "after"), eces, strict=True)),
    }
    if model_digest(file) != before:
        raise OutputError(
            f"{file} changed during calibration; its training may still be running. Run calibrate again "
            "afterwards."
        )
    return _write(file, card, tensors, temperature, record, used, warnings)


def calibrate_like(run: str | Path, other: str | Path, *, force: bool = False) -> CalibrationReport:
    """Copy the temperature of a calibrated model of the same recipe.

    For a model that was trained on all data, so that none are left to fit on: train a second run of the same
    recipe on a part of the data, calibrate it on the rest, and copy its temperature.
    """
    file, card, tensors = _open(run, force)
    like = read_card(other)
    if "split" not in like.calibration:
        raise ModelError(
            f"{other} has not been calibrated on data. Run: landcover calibrate {other} --data D --split S"
        )
    there, here = (
        {name: value for name, value in model.recipe.items() if name not in _IRRELEVANT}
        # Each fold has its own teachers; those of the same encoder count as the same.
        | {"teachers": sorted(str(teacher.get("encoder")) for teacher in model.teachers)}
        | {"network": model.model, "classes": model.legend, "preprocessing": model.preprocessing}
        for model in (like, card)
    )
    differing = [name for name in there.keys() | here.keys() if there.get(name) != here.get(name)]
    if differing:
        raise UsageError(
            f"{run} and {other} differ in {', '.join(sorted(differing))}, so that their temperatures differ "
            "too. Pass a run of the same recipe, or fit on data (--data, --split)."
        )
    record = {
        "like": model_digest(other),
        "split_of_like": like.calibration["split"],
        "views": like.views,
    }
    return _write(file, card, tensors, like.temperature, record, like.used_images.calibration)


def fit_temperature(logits: Float32Array, truth: UInt8Array) -> float:
    """Return the temperature, 0.05 to 20, that makes the truth most likely, to a relative precision of 1e-6.

    The mean negative log-likelihood is convex in ``1 / T``; the root of its slope is found by bisection.
    ``logits`` or log probabilities are float32 (C, P), ``truth`` uint8 (P,) the channel of each cell's class.
    """

    def slope(temperature: float) -> float:
        """Return the sum of the derivatives of the negative log-likelihood by ``1 / T``."""
        return sum(
            float((probabilities * cells).sum() - np.take_along_axis(cells, classes[None], axis=0).sum())
            for cells, probabilities, classes in _blocks(logits, truth, temperature)
        )

    low, high = MIN_TEMPERATURE, MAX_TEMPERATURE
    if slope(low) <= 0:
        raise DataError(
            f"The best temperature is below {low:g}: almost all of the {truth.size:,} labelled pixels are "
            "predicted correctly. Use more images, none of them a training image."
        )
    if slope(high) >= 0:
        raise DataError(
            f"The best temperature is above {high:g}: the predictions for the {truth.size:,} labelled pixels "
            "match them only by chance. Check the data and their scale (--gsd)."
        )
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def _blocks(
    logits: Float32Array, truth: UInt8Array, temperature: float
) -> Iterator[tuple[Float64Array, Float64Array, IntArray]]:
    """Yield logits with a maximum of 0, their softmax, float64 (C, n) each, and the truth, in blocks."""
    for start in range(0, truth.size, _BLOCK_CELLS):
        cells = logits[:, start : start + _BLOCK_CELLS].astype(np.float64)
        cells -= cells.max(axis=0)
        probabilities = np.exp(cells / temperature)
        probabilities /= probabilities.sum(axis=0)
        yield cells, probabilities, truth[start : start + _BLOCK_CELLS].astype(np.intp)


def _open(run: str | Path, force: bool) -> tuple[Path, ModelCard, Tensors]:
    """Return the file, card and weights of a model that may be calibrated."""
    file = resolve_model(run)
    if file.is_symlink():
        file = file.resolve()  # the target is replaced, the link stays
    if is_exported(file):
        raise ModelError(
            f"{file} is an exported model: its temperature is part of its graph. Calibrate the run that it "
            "was exported from (landcover calibrate RUN), then export it again (landcover export RUN)."
        )
    card, tensors = read_model(file)
    if card.calibration and not force:
        raise OutputError(
            f"{file} is calibrated already (on {card.calibration.get('split')}, temperature "
            f"{card.temperature:g}). Pass --force to calibrate it again."
        )
    return file, card, tensors


def _write(
    file: Path,
    card: ModelCard,
    tensors: Tensors,
    temperature: float,
    measured: dict[str, Any],
    images: ImageSet | None,
    warnings: Sequence[str] = (),
) -> CalibrationReport:
    """Write a temperature, how it was fitted and on which images into a model's card."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = measured | {"temperature_before": card.temperature, "date": date, "version": __version__}
    used = card.used_images.model_copy(update={"calibration": images})
    update = {
        "temperature": temperature,
        "views": measured["views"],
        "calibration": record,
        "used_images": used,
    }
    save_model(file, tensors, card.model_copy(update=update), force=True)
    return CalibrationReport(
        model=file, sha256=model_digest(file), temperature=temperature, warnings=list(warnings), **record
    )


def labelled_cells(
    runtime: Runtime, dataset: Dataset, items: Sequence[Item], views: Views | None = None
) -> tuple[Float32Array, UInt8Array]:
    """Return the logits, float32 (C, P), and the true channels, uint8 (P,), of cells with a known class.

    Of more than :data:`MAX_CELLS` always the same random sample is drawn: every n-th cell could leave out
    whole columns.
    """
    legend = runtime.card.legend
    channels = legend.channels[translation(dataset.legend, legend)]
    grids = [make_grid(dataset.size(item), runtime, gsd=dataset.sides(item)) for item in items]
    share = MAX_CELLS / sum(grid.rows[-1].stop * grid.cols[-1].stop for grid in grids)
    values, truths = [], []
    pairs = zip(items, grids, strict=True)
    for number, (item, grid) in enumerate(track(pairs, "Calibrating", total=len(items))):
        pixels = []  # of the image at the centres of the cells; a last cell may have its centre beyond it
        for own, model, spans in zip(grid.size, grid.model_size, (grid.rows, grid.cols), strict=True):
            centres = (np.arange(spans[-1].stop) + 0.5) * grid.stride * own / model
            pixels.append(centres[centres < own].astype(np.intp))
        image, valid = dataset.read_imagery(item)
        truth = channels[dataset.labels(item, valid).index[np.ix_(*pixels)]]
        logits = cell_logits(runtime, image, grid, valid, views)[:, : truth.shape[0], : truth.shape[1]]
        kept = truth != IGNORE
        if share < 1:
            kept &= np.random.default_rng((_SEED, number)).random(kept.shape) < share
        values.append(logits[:, kept])
        truths.append(truth[kept])
    return np.concatenate(values, axis=1), np.concatenate(truths)


def cell_logits(
    runtime: Runtime,
    image: UInt8Array,
    grid: Grid,
    valid: BoolArray | None = None,
    views: Views | None = None,
) -> Float32Array:
    """Return the logits of an image's cells at temperature 1, float32 (C, n, m), up to a constant per cell.

    They are the log probabilities that prediction interpolates between, times the present temperature. Of
    several views they are those of the mean: prediction divides by the temperature before it averages, which
    differs little.
    """
    source = ArraySource(image, valid, channels=runtime.card.preprocessing.channels)
    blocks = row_blocks(runtime, source, grid, views=views)
    rows = [block.logit_grid[:, 1 if block.number else 0 :] for block in blocks]  # they share a row of cells
    logits: Float32Array = np.log(np.maximum(np.concatenate(rows, axis=1), np.finfo(np.float32).tiny))
    logits *= np.float32(runtime.card.temperature)
    return logits
