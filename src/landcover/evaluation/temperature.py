"""The verb ``calibrate``: one number that makes a model as sure of itself as it is right.

Temperature scaling (Guo et al. 2017, 1706.04599): logits are divided by the one number that makes the truth
of held-out pixels likeliest. The order of the classes in a cell stays, and so does the map, but for pixels
between cells where two classes are about even.
"""

import datetime
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from landcover import __version__
from landcover.data import Dataset, Item, open_dataset, select
from landcover.errors import DataError, ModelError, OutputError, UsageError
from landcover.evaluation.calibration import Reliability
from landcover.evaluation.predictions import required_gsd
from landcover.inference.grid import Grid, make_grid
from landcover.io import MAX_PIXELS
from landcover.legend import IGNORE, Legend, UInt8Array, translation
from landcover.model.card import (
    ModelCard,
    is_exported,
    model_digest,
    read_card,
    read_model,
    resolve_model,
    save_model,
)
from landcover.model.preprocessing import resample_image
from landcover.model.runtimes import open_model
from landcover.model.runtimes.base import Float32Array
from landcover.model.tensorfile import Tensors
from landcover.progress import track
from landcover.unseen import encounters, teachers_of
from landcover.windows import Span

if TYPE_CHECKING:
    from landcover.model.runtimes import TorchRuntime

Float64Array = npt.NDArray[np.float64]

LEAST, MOST = 0.05, 20.0
"""Temperatures beyond these are none: the network was right about all it was shown, or by chance only."""

_MOST_CELLS = 1 << 22
"""Cells that are kept, about, 4 C bytes each; of more so many are drawn."""
_SEED = 0
_BLOCK_CELLS = 1 << 16
_PRECISION = 1e-6
_NO_MATTER = {
    *("model", "weights", "seed", "device", "threads", "loaders", "log_every"),
    *("checkpoint_minutes", "checkpoint_steps"),
}
"""Settings of a recipe that say nothing about how sure its model is; the network is compared apart."""


def calibrate(
    run: str | Path,
    data: str | Path,
    split: str,
    *,
    gsd: float | None = None,
    legend: Legend | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> dict[str, Any]:
    """Fit a model's temperature on labelled data and write it into the model's card.

    The file is replaced by one with the same weights, bit for bit, and a card with ``temperature`` and
    ``calibration``. What counts is the likelihood of the truth at the centres of the network's cells, on
    whole images where prediction looks at them whole. Data that the network was trained on are refused, as
    the card tells them: there it is surer and more often right than anywhere else. If the data are those that
    a score is reported on, its calibration is a little optimistic. The card says which they were.

    Args:
        run: Run folder or checkpoint.
        data: Data folder or prepared cache.
        split: ``NAME:part``, as for :func:`landcover.data.select`.
        gsd: Metres per pixel of the data; by default what the data say.
        legend: Legend of the data's masks; by default what the data say.
        device: Where the network computes.
        max_pixels: Larger images and masks are refused.
        force: Replace an earlier calibration.

    Returns:
        Plain data: ``model`` (the file), ``sha256`` (of the new file), ``temperature``, and what the card
        keeps as ``calibration``: ``split``, ``data`` (name), ``gsd``, ``images``, ``pixels`` (cells with a
        known class), ``temperature_before``, ``nll`` and ``ece`` ``{before, after}``, ``date``, ``version``;
        and ``warnings``: sentences.

    Raises:
        UsageError: If the model was trained on some of the items, unless the digest on its card says that it
            was on other data of the same names (then it is a warning); if the GSD is not known, or the model
            has other classes than the data.
        SplitError: If the split cannot be made.
        DataError: If the data cannot be read, no pixel has a known class, or no temperature is the best.
        ModelError: If the model cannot be read, or is an exported one.
        OutputError: If the model has been calibrated and ``force`` is off, was changed meanwhile, or cannot
            be written.

    Example:
        >>> import landcover as lc
        >>> result = lc.calibrate("runs/a", "data", "folders:val")  # doctest: +SKIP
        >>> result["temperature"]  # doctest: +SKIP
        1.2
    """
    before = model_digest(run)
    file, card, tensors = _open(run, force)
    dataset = open_dataset(data, legend=legend, gsd=gsd, max_pixels=max_pixels)
    items = select(dataset, split)
    warnings = _check_unseen(file, card, dataset, items, split)
    scale = required_gsd(dataset, "the model")
    runtime = cast("TorchRuntime", open_model(file, device=device, runtime="torch"))
    logits, truth = _labelled_cells(runtime, dataset, items, scale)
    if not truth.size:
        raise DataError(
            f"None of the {len(items)} images of {split} has a pixel of a known class; expected labels."
        )
    temperature = fit_temperature(logits, truth)

    measured = [_measure(logits, truth, t) for t in (card.temperature, temperature)]
    record = {
        "split": split,
        "data": Path(data).absolute().name,
        "gsd": scale,
        "images": len(items),
        "pixels": int(truth.size),
        "temperature_before": card.temperature,
        **{name: {"before": measured[0][name], "after": measured[1][name]} for name in ("nll", "ece")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": __version__,
    }
    if model_digest(file) != before:
        raise OutputError(
            f"{file} was replaced by another model while this one was looked at; its training may be going "
            "on. Calibrate when it has ended."
        )
    return {**_write(file, card, tensors, temperature, record), "warnings": warnings}


def _check_unseen(
    file: Path, card: ModelCard, dataset: Dataset, items: Sequence[Item], split: str
) -> list[str]:
    """Refuse items that a model was trained on, and return what is to be told of those of the same names."""
    told = []
    for one in encounters(str(file), card, dataset, items):
        if one.known is None or not one.trained_on:
            continue
        these = f"{len(one.trained_on)} of the {len(items)} images of {split}"
        if one.same_data(dataset) is not False:
            raise UsageError(
                f"{one.who} was trained (split {one.known.split}) on {these}, such as "
                f"{one.trained_on[0].key}: a temperature fitted there would make it surer than it may be. "
                "Give data that it has not seen, such as a part that its training left out."
            )
        told.append(
            f"{one.who} was trained (split {one.known.split}) on images of the same names as {these}, in "
            "other data than these or before they were changed. If they are the same images, give another "
            "part: the temperature would make the model surer than it may be."
        )
    return told


def calibrate_like(run: str | Path, other: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Give a model the temperature of a calibrated one that was made alike from other data.

    For a model that was trained on all there is, so that nothing is left to fit on: a run of the same recipe
    that held a part out has the temperature to take.

    Args:
        run: Run folder or checkpoint.
        other: Run folder or checkpoint that has been calibrated.
        force: Replace an earlier calibration.

    Returns:
        Plain data: ``model``, ``sha256``, ``temperature``, and what the card keeps as ``calibration``:
        ``like`` (SHA-256 of the other model), ``split_of_like`` (what that was fitted on),
        ``temperature_before``, ``date``, ``version``. Nothing was measured on this model.

    Raises:
        UsageError: If the two have another recipe, other classes or another scale.
        ModelError: If a model cannot be read or is an exported one, or the other was never calibrated.
        OutputError: If the model has been calibrated and ``force`` is off, or cannot be written.
    """
    file, card, tensors = _open(run, force)
    like = read_card(other)
    if "split" not in like.calibration:
        raise ModelError(
            f"{other} has not been calibrated on data. Run: landcover calibrate {other} --data D --split S"
        )
    there, here = (_made_by(model) for model in (like, card))
    differing = [name for name in there.keys() | here.keys() if there.get(name) != here.get(name)]
    if differing:
        raise UsageError(
            f"{run} and {other} differ in {', '.join(sorted(differing))}: the temperature of one says "
            "nothing about the other. Take a run of the same recipe, or fit on data of its own (--data, "
            "--split)."
        )
    record = {
        "like": model_digest(other),
        "split_of_like": like.calibration["split"],
        "temperature_before": card.temperature,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": __version__,
    }
    return _write(file, card, tensors, like.temperature, record)


def _made_by(card: ModelCard) -> dict[str, Any]:
    """Return what decides how sure a model is of itself: not where its files were, nor which seed it had."""
    recipe = {name: value for name, value in card.recipe.items() if name not in _NO_MATTER}
    # Each fold has teachers of its own, made alike as far as their networks tell.
    recipe["teachers"] = sorted(str(teacher.get("encoder")) for teacher in teachers_of(card))
    return {**recipe, "network": card.model, "classes": card.legend, "preprocessing": card.preprocessing}


def fit_temperature(logits: Float32Array, truth: UInt8Array) -> float:
    """Return the temperature that makes the truth likeliest.

    The mean negative log-likelihood is convex in ``1 / T`` (a log-sum-exp of linear functions, less a linear
    one): Newton's method finds its minimum, kept within a bracket by halving where it would leave it.

    Args:
        logits: float32 (C, P).
        truth: uint8 (P,), the channels of the true classes, at least one.

    Returns:
        Within :data:`LEAST` and :data:`MOST`, to a millionth.

    Raises:
        DataError: If the likelihood grows up to one of these limits.
    """
    low, high = 1 / MOST, 1 / LEAST
    if _likelihood(logits, truth, high).slope <= 0:
        raise DataError(
            f"No temperature down to {LEAST:g} is the best for the {truth.size:,} labelled pixels: the "
            "network is right about nearly all of them. Give more data, and none that it was trained on."
        )
    if _likelihood(logits, truth, low).slope >= 0:
        raise DataError(
            f"No temperature up to {MOST:g} is the best for the {truth.size:,} labelled pixels: the network "
            "is no better than chance. Are these the right data, at the right scale (--gsd)?"
        )
    inverse, step = 1.0, np.inf
    while abs(step) > _PRECISION * inverse:
        _, slope, curvature = _likelihood(logits, truth, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = -slope / curvature if curvature > 0 else np.inf
        if step and not low < inverse + step < high:
            step = (low + high) / 2 - inverse
        inverse += step
    return 1 / inverse


def _open(run: str | Path, force: bool) -> tuple[Path, ModelCard, Tensors]:
    """Return the file, card and weights of a model that may be calibrated."""
    file = resolve_model(run)
    if file.is_symlink():
        file = file.resolve()  # it is replaced, and the link stays
    if is_exported(file):
        raise ModelError(
            f"{file} is an exported model: its temperature is part of its graph. Calibrate the run that it "
            "was exported from (landcover calibrate RUN), then export it again (landcover export RUN)."
        )
    card, tensors = read_model(file)
    if card.calibration and not force:
        raise OutputError(
            f"{file} has been calibrated already, on {card.calibration.get('split')}, to a temperature of "
            f"{card.temperature:g}. Pass --force to fit it anew."
        )
    return file, card, tensors


def _write(
    file: Path, card: ModelCard, tensors: Tensors, temperature: float, record: dict[str, Any]
) -> dict[str, Any]:
    """Put a temperature and where it comes from into a model's card, and say so."""
    update = {"temperature": temperature, "calibration": record}
    save_model(file, tensors, card.model_copy(update=update), force=True)
    return {"model": str(file), "sha256": model_digest(file), "temperature": temperature, **record}


class _Likelihood(NamedTuple):
    """Mean negative log-likelihood of the truth, and its first and second derivative by ``1 / T``."""

    nll: float
    slope: float
    curvature: float


def _likelihood(logits: Float32Array, truth: UInt8Array, inverse: float) -> _Likelihood:
    """Look at float32 (C, P) and uint8 (P,) at the inverse of a temperature."""
    sums = np.zeros(3)
    for cells, classes in _blocks(logits, truth):
        odds = np.exp(inverse * cells)
        total = odds.sum(axis=0)
        odds /= total
        of_truth = np.take_along_axis(cells, classes[None].astype(np.intp), axis=0)[0]
        mean = (odds * cells).sum(axis=0)
        variance = (odds * np.square(cells - mean)).sum(axis=0)
        sums += [(np.log(total) - inverse * of_truth).sum(), (mean - of_truth).sum(), variance.sum()]
    return _Likelihood(*(sums / truth.size).tolist())


def _blocks(logits: Float32Array, truth: UInt8Array) -> Iterator[tuple[Float64Array, UInt8Array]]:
    """Yield logits, float64 (C, n) with a maximum of 0, and truth in parts that stay in the cache."""
    for start in range(0, truth.size, _BLOCK_CELLS):
        part = logits[:, start : start + _BLOCK_CELLS].astype(np.float64)
        yield part - part.max(axis=0), truth[start : start + _BLOCK_CELLS]


def _measure(logits: Float32Array, truth: UInt8Array, temperature: float) -> dict[str, float | None]:
    """Return ``nll`` and ``ece`` of logits (C, P) at a temperature."""
    reliability = Reliability(len(logits))
    for cells, classes in _blocks(logits, truth):
        odds = np.exp(cells / temperature)
        reliability.update((odds / odds.sum(axis=0)).astype(np.float32), classes)
    return {"nll": _likelihood(logits, truth, 1 / temperature).nll, "ece": reliability.ece()}


def _labelled_cells(
    runtime: "TorchRuntime", dataset: Dataset, items: Sequence[Item], gsd: float
) -> tuple[Float32Array, UInt8Array]:
    """Return the logits, float32 (C, P), and the true channels, uint8 (P,), of cells with a known class.

    Of more than :data:`_MOST_CELLS` each is kept with the same chance, the same ones each time. Every n-th
    would not do: where n and the cells of a row have a divisor in common, whole columns are never met.
    """
    legend = runtime.card.legend
    channels = legend.channels[translation(dataset.legend, legend)]
    grids = [make_grid(dataset.size(item), runtime, gsd=gsd) for item in items]
    share = _MOST_CELLS / sum(grid.rows[-1].stop * grid.cols[-1].stop for grid in grids)
    answers, truths = [], []
    pairs = zip(items, grids, strict=True)
    for number, (item, grid) in enumerate(track(pairs, "Calibrating", total=len(items))):
        rows, cols = _centres(grid)
        truth = channels[dataset.read_mask(item)[np.ix_(rows, cols)]]
        logits = _logits(runtime, dataset.read_image(item), grid)[:, : len(rows), : len(cols)]
        kept = truth != IGNORE
        if share < 1:
            kept &= np.random.default_rng((_SEED, number)).random(kept.shape) < share
        answers.append(logits[:, kept])
        truths.append(truth[kept])
    return np.concatenate(answers, axis=1), np.concatenate(truths)


def _centres(grid: Grid) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows and columns of the image's own pixels that the cells' centres lie in.

    The last cell may reach beyond the image; it is left out where its centre does.
    """
    places = []
    for own, model, spans in zip(grid.size, grid.model_size, (grid.rows, grid.cols), strict=True):
        centres = (np.arange(spans[-1].stop) + 0.5) * grid.stride * own / model
        places.append(centres[centres < own].astype(np.intp))
    return places[0], places[1]


def _logits(runtime: "TorchRuntime", image: UInt8Array, grid: Grid) -> Float32Array:
    """Return the logits of an image's cells, float32 (C, n, m).

    Where the image takes several windows each cell is that of the window in whose middle it lies: logits of
    different windows cannot be averaged as their probabilities are.
    """
    scaled = resample_image(image, grid.model_size)
    result = np.empty((len(runtime.card.legend.scored), grid.rows[-1].stop, grid.cols[-1].stop), np.float32)
    for row, own_rows in zip(grid.rows, _middles(grid.rows), strict=True):
        for col, own_cols in zip(grid.cols, _middles(grid.cols), strict=True):
            rows, cols = (slice(span.start * grid.stride, span.stop * grid.stride) for span in (row, col))
            answer = runtime.logits(np.ascontiguousarray(scaled[rows, cols])[None])[0]
            result[:, own_rows, own_cols] = answer[
                :,
                own_rows.start - row.start : own_rows.stop - row.start,
                own_cols.start - col.start : own_cols.stop - col.start,
            ]
    if not np.isfinite(result).all():
        raise ModelError(
            "The model answers with values that are no numbers: its weights are damaged, or its training "
            "broke down. Copy the model again, or train anew."
        )
    return result


def _middles(spans: Sequence[Span]) -> list[slice]:
    """Share an axis out among the windows that cover it, at the middles of their overlaps."""
    cuts = [0, *((one.stop + following.start) // 2 for one, following in pairwise(spans)), spans[-1].stop]
    return [slice(start, stop) for start, stop in pairwise(cuts)]
