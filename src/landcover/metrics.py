"""One int64 confusion matrix over a whole split, and all scores computed from it.

Rows are the truth, columns the prediction, over all classes of the legend. One count serves all metrics:

=============  ==================================  =======================  ===========================
metric         pixels whose truth is unknown       mean over                class absent from both sides
=============  ==================================  =======================  ===========================
challenge      ignored                             the scored classes       left out (None)
glnet          false positives                     the scored classes       0
seven-class    an ordinary class                   all classes of a legend  left out (None)
=============  ==================================  =======================  ===========================

A scored pixel that is predicted as unknown is a miss of its class in all three, and a false positive of no
scored class. ``NODATA`` is not unknown: pixels with NODATA as truth are not counted; a predicted NODATA
counts as a predicted unknown. ``glnet`` follows VITA-Group/GLNet, ``seven-class`` the seed's ``evaluate.py``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from landcover._typing import Float64Array, Int64Array, UInt8Array
from landcover.errors import MaskError, UsageError, did_you_mean
from landcover.legend import NODATA, Legend

Metric = Literal["challenge", "glnet", "seven-class"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_BLOCK_PX = 1 << 17
"""Pixels counted at a time: as 8-byte codes they fit the level-2 cache."""


@dataclass(frozen=True)
class Scores:
    """Scores of one metric from one confusion matrix.

    Attributes:
        metric: Name of the metric.
        miou: Mean of the intersections over union, 0..1; None if no class has one.
        iou: Intersection over union by class name, 0..1; None for a class absent from truth and prediction.
        pixel_accuracy: Fraction of the counted pixels that are correct, 0..1; None if none is counted.
        miou_present: Mean over the classes that occur in the truth, 0..1; None if no class does.
        warnings: Limits of these numbers, such as a class that is absent.
    """

    metric: Metric
    miou: float | None
    iou: dict[str, float | None]
    pixel_accuracy: float | None
    miou_present: float | None = None
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return ``miou``, ``iou`` and ``pixel_accuracy`` as plain data for JSON."""
        return {"miou": self.miou, "iou": self.iou, "pixel_accuracy": self.pixel_accuracy}


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of images.

    Attributes:
        legend: The classes.
        table: int64 (K, K + 1), rows = truth, columns = prediction. Predicted NODATA is in the column of the
            unknown class, or in the last column if there is none.
    """

    def __init__(self, legend: Legend) -> None:
        self.legend = legend
        self.table: Int64Array = np.zeros((len(legend), len(legend) + 1), np.int64)

    @property
    def counts(self) -> Int64Array:
        """int64 (K, K), rows = truth, columns = prediction, all classes of the legend in its order."""
        return self.table[:, :-1]

    @property
    def missed(self) -> Int64Array:
        """int64 (K,): pixels of each true class predicted as NODATA, if the legend has no unknown class."""
        return self.table[:, -1]

    def update(self, truth: UInt8Array, prediction: UInt8Array) -> None:
        """Count one image of class indices, uint8 (H, W).

        NODATA as truth is not counted, as prediction it is a predicted unknown.
        """
        for what, array in (("truth", truth), ("prediction", prediction)):
            if array.ndim != 2 or array.dtype != np.uint8:
                raise MaskError(
                    f"The {what} has shape {array.shape} and type {array.dtype}; expected class indices, "
                    "uint8 (height, width). Convert colours to indices first."
                )
        if truth.shape != prediction.shape:
            raise MaskError(
                f"The truth has {truth.shape[0]} x {truth.shape[1]} pixels (height x width), the prediction "
                f"{prediction.shape[0]} x {prediction.shape[1]}. Score at the size of the truth."
            )
        values = len(self.legend) + 1  # index 0 is NODATA, index i + 1 is class i
        flat = {"truth": truth.ravel(), "prediction": prediction.ravel()}
        totals = np.zeros(values * values, np.int64)
        for start in range(0, truth.size, _BLOCK_PX):
            codes = np.zeros(min(_BLOCK_PX, truth.size - start), np.intp)
            for what, array in flat.items():
                shifted = array[start : start + _BLOCK_PX] + np.uint8(1)  # NODATA wraps around to 0
                if shifted.max() >= values:
                    raise MaskError(
                        f"The {what} holds the value {shifted.max() - 1}; expected 0 to {values - 2}, or "
                        f"{NODATA} for nodata. Was it made with another legend?"
                    )
                codes *= values
                codes += shifted
            totals += np.bincount(codes, minlength=totals.size)
        joint = totals.reshape(values, values)
        table = np.roll(joint[1:], -1, axis=1)  # a NODATA truth is dropped, a NODATA prediction goes last
        if self.legend.unknown is not None:
            table[:, self.legend.unknown] += table[:, -1]
            table[:, -1] = 0
        self.table += table

    def __add__(self, other: Self) -> Self:
        """Return the matrix over the images of both."""
        if (self.legend.names, self.legend.unknown) != (other.legend.names, other.legend.unknown):
            raise UsageError(
                f"Matrices over {', '.join(self.legend.names)} and over {', '.join(other.legend.names)} "
                "cannot be added."
            )
        result = type(self)(self.legend)
        result.table = self.table + other.table
        return result

    def scores(self, metric: Metric = "challenge") -> Scores:
        """Read the scores of one metric from the counts."""
        classes = averaged_classes(self.legend, metric)
        names = [self.legend.names[i] for i in classes]
        iou = class_iou(self.table, self.legend, metric)
        miou = float(mean_iou(iou))
        rows = _counted_rows(self.legend, metric)
        counted = self.table[rows]
        if counted.any():
            verdict = "counts as 0 in the mean" if metric == "glnet" else "is left out of the mean"
            warnings = [
                f"Class {name!r} is absent from truth and prediction and {verdict}."
                for i, name in zip(classes, names, strict=True)
                if not self.table[i].any() and not counted[:, i].any()
            ]
        else:
            warnings = ["No pixel was counted: the truth has no known class anywhere."]
        in_truth = self.table.sum(axis=1)
        present = float(mean_iou(np.where(in_truth[list(classes)] > 0, iou, np.nan)))
        for i, name in zip(classes, names, strict=True):
            predicted = int(counted[:, i].sum())
            if predicted and not in_truth[i]:
                warnings.append(
                    f"Class {name!r} is absent from the truth, but predicted on {predicted:,} pixels, which "
                    f"lowers the mIoU by an IoU of 0; over the classes present it is {100 * present:.2f} %."
                )
        if counted.any() and sum(in_truth[i] > 0 for i in classes) == 1:
            only = next(name for i, name in zip(classes, names, strict=True) if in_truth[i] > 0)
            warnings.append(f"The truth has one class only ({only}): the mIoU covers this class alone.")
        return Scores(
            metric=metric,
            miou=None if np.isnan(miou) else miou,
            iou={
                name: None if np.isnan(value) else float(value)
                for name, value in zip(names, iou, strict=True)
            },
            pixel_accuracy=float(self.table.diagonal()[rows].sum() / counted.sum())
            if counted.any()
            else None,
            miou_present=None if np.isnan(present) else present,
            warnings=tuple(warnings),
        )


def class_measures(matrix: ConfusionMatrix) -> tuple[dict[str, dict[str, float | None]], float | None]:
    """Return precision, recall and F1 of each scored class, and Cohen's kappa; unknown truth is ignored.

    By class name ``precision`` (user's accuracy), ``recall`` (producer's accuracy) and ``f1``, 0..1, None
    where there are no pixels to divide by; and kappa, -1..1.
    """
    scored = list(matrix.legend.scored)
    table = matrix.table[scored]
    total = int(table.sum())
    measures: dict[str, dict[str, float | None]] = {}
    agreed = expected = 0.0
    for row, index in enumerate(scored):
        hits, in_truth, in_map = (
            int(n) for n in (table[row, index], table[row].sum(), table[:, index].sum())
        )
        pairs = {"precision": (hits, in_map), "recall": (hits, in_truth), "f1": (2 * hits, in_truth + in_map)}
        measures[matrix.legend.names[index]] = {
            name: part / whole if whole else None for name, (part, whole) in pairs.items()
        }
        agreed += hits
        expected += in_truth * in_map
    if not total or total**2 == expected:
        return measures, None
    return measures, (agreed / total - expected / total**2) / (1 - expected / total**2)


def averaged_classes(legend: Legend, metric: Metric) -> tuple[int, ...]:
    """Return the indices of the classes that a metric averages; UsageError if it is unknown."""
    if metric not in METRICS:
        raise UsageError(f"Unknown metric {metric!r}. {did_you_mean(metric, METRICS)}")
    return tuple(range(len(legend))) if metric == "seven-class" else legend.scored


def class_iou(table: npt.NDArray[Any], legend: Legend, metric: Metric) -> Float64Array:
    """Return TP / (TP + FP + FN) of each averaged class, float64 (..., C), for tables (..., K, K + 1).

    In the order of :func:`averaged_classes`; NaN (0 for ``glnet``) where a class is in neither truth nor
    prediction.
    """
    classes = list(averaged_classes(legend, metric))
    true_positives = table[..., classes, classes]
    in_truth = table.sum(axis=-1)[..., classes]
    in_prediction = table[..., _counted_rows(legend, metric), :].sum(axis=-2)[..., classes]
    union = in_truth + in_prediction - true_positives
    iou = np.full(union.shape, 0.0 if metric == "glnet" else np.nan)
    np.divide(true_positives, union, out=iou, where=union > 0)
    return iou


def mean_iou(iou: Float64Array) -> Float64Array:
    """Return the mean over the last axis without the NaN: float64 (...), NaN if all are."""
    known = ~np.isnan(iou)
    number = np.asarray(known.sum(axis=-1))
    mean = np.full(number.shape, np.nan)
    np.divide(np.where(known, iou, 0.0).sum(axis=-1), number, out=mean, where=number > 0)
    return mean


def _counted_rows(legend: Legend, metric: Metric) -> list[int]:
    """Return the true classes whose pixels count at all: unknown ones do not in the challenge."""
    return list(legend.scored if metric == "challenge" else range(len(legend)))
