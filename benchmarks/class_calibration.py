r"""Does calibration by class help on scenes that were never seen? Fitted on some folds, measured on another.

    python benchmarks/class_calibration.py --data CACHE --fit RUN1 scenes-k5@0,1:val \
        --fit RUN2 scenes-k5@0,2:val --test RUN0 scenes-k5@0:val

A model that was trained on scenes that it is given here is refused. Compared are one temperature (Guo et al.
2017, 1706.04599), a temperature for each predicted class, which changes no map, a factor for the logits of
each class, and vector scaling (a factor and an offset for each class, the same paper). All are fitted by the
likelihood of the truth on the cells of all ``--fit`` models together.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from landcover.data import open_dataset, select
from landcover.errors import DataError, UsageError
from landcover.evaluation.calibration import Reliability
from landcover.evaluation.overlap import training_overlap
from landcover.evaluation.temperature import fit_temperature, labelled_cells
from landcover.metrics import ConfusionMatrix
from landcover.model.runtimes import open_model

Scaling = Callable[[np.ndarray], np.ndarray]
"""From logits, float32 (C, P), to logits whose softmax is the confidence."""

MIN_CELLS = 1000
"""Of a class that is predicted less often the temperature of all cells is taken."""
BLOCK = 1 << 18


def one_temperature(logits: np.ndarray, truth: np.ndarray) -> tuple[str, Scaling]:
    """Divide all logits by the number that makes the truth most likely."""
    temperature = fit_temperature(logits, truth)
    return f"{temperature:.3f}", lambda cells: cells / temperature


def by_predicted_class(logits: np.ndarray, truth: np.ndarray) -> tuple[str, Scaling]:
    """Divide the logits of a cell by a number that depends on its predicted class."""
    temperatures = np.full(len(logits), fit_temperature(logits, truth), np.float32)
    predicted = logits.argmax(axis=0)
    for channel in range(len(logits)):
        if (of_class := predicted == channel).sum() >= MIN_CELLS:
            try:
                temperatures[channel] = fit_temperature(logits[:, of_class], truth[of_class])
            except DataError:  # predicted by chance: as flat as it can be
                temperatures[channel] = 20
    return numbers(temperatures), lambda cells: cells / temperatures[cells.argmax(axis=0)]


def by_vector(logits: np.ndarray, truth: np.ndarray, *, offsets: bool) -> tuple[str, Scaling]:
    """Multiply the logits of each class by a number of its own and, with ``offsets``, add another."""
    cells, classes = torch.from_numpy(logits.T.astype(np.float64)), torch.from_numpy(truth.astype(np.int64))
    factor, offset = (torch.full((len(logits),), value, dtype=torch.float64) for value in (1.0, 0.0))
    fitted = [factor, offset] if offsets else [factor]
    for value in fitted:
        value.requires_grad_()
    optimiser = torch.optim.LBFGS(fitted, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(cells * factor + offset, classes)
        value.backward()
        return value

    optimiser.step(loss)
    scale, shift = (value.detach().numpy()[:, None] for value in (factor, offset))
    text = f"factors {numbers(scale[:, 0])}" + (f", offsets {numbers(shift[:, 0])}" if offsets else "")
    return text, lambda given: given * scale + shift


def numbers(values: np.ndarray) -> str:
    """Return numbers as text."""
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Print a table of the ways and one of the classes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fit", nargs=2, action="append", required=True, metavar=("MODEL", "SPLIT"))
    parser.add_argument("--test", nargs=2, required=True, metavar=("MODEL", "SPLIT"))
    parser.add_argument("--cells", type=int, default=250_000, help="of each model, drawn at random")
    options = parser.parse_args()
    dataset = open_dataset(options.data)

    def cells_of(model: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        runtime = open_model(model, threads=1)
        items = select(dataset, split)
        overlap = training_overlap(runtime.card, dataset, items)
        if overlap.identical or overlap.same_scene:
            raise UsageError(
                f"{model} was trained on scenes of {split}; expected scenes that it has not seen."
            )
        return labelled_cells(runtime, dataset, items)

    drawn = np.random.default_rng(0)
    parts = []
    for model, split in options.fit:
        logits, truth = cells_of(model, split)
        some = drawn.permutation(truth.size)[: options.cells]
        parts.append((logits[:, some], truth[some]))
    fit = (
        np.concatenate([logits for logits, _ in parts], axis=1),
        np.concatenate([truth for _, truth in parts]),
    )
    logits, truth = cells_of(*options.test)
    legend = dataset.legend
    index = np.array(legend.scored, np.uint8)
    ways: dict[str, tuple[str, Scaling]] = {
        "none": ("", lambda cells: cells),
        "one temperature": one_temperature(*fit),
        "a temperature for each predicted class": by_predicted_class(*fit),
        "a factor for each class": by_vector(*fit, offsets=False),
        "vector scaling": by_vector(*fit, offsets=True),
    }
    for name, (fitted, scaling) in ways.items():
        reliability, matrix = Reliability(len(logits)), ConfusionMatrix(legend)
        for start in range(0, truth.size, BLOCK):
            scaled = scaling(logits[:, start : start + BLOCK]).astype(np.float64)
            probabilities = np.exp(scaled - scaled.max(axis=0))
            probabilities /= probabilities.sum(axis=0)
            known = truth[start : start + BLOCK]
            reliability.update(probabilities.astype(np.float32), known)
            matrix.update(index[known][None], index[scaled.argmax(axis=0)][None])
        found, scores = reliability.summary(legend.scored_names), matrix.scores()
        worst = found.worst_class
        print(
            f"{name}: ECE {100 * (found.ece or 0):.1f} %, worst class "
            f"{worst and f'{worst.name} {100 * worst.ece:.1f} %'}, NLL {found.nll:.3f}, "
            f"mIoU of the cells {100 * (scores.miou or 0):.2f}" + (f" ({fitted})" if fitted else "")
        )
        for of, known in found.per_class.items():
            if known is not None:
                print(
                    f"  {of:12} confidence {100 * known.confidence:5.1f}  accuracy "
                    f"{100 * known.accuracy:5.1f}  ECE {100 * known.ece:5.1f}  share {100 * known.share:5.1f}"
                )


if __name__ == "__main__":
    main()
