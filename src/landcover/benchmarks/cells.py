"""What answers in cells cost: ``python -m landcover.benchmarks.cells --data DATA --split NAME:part``.

A network answers in cells of several pixels, between which its probabilities are interpolated. Here the truth
itself is averaged in cells of each size and interpolated: no network with such cells can score more.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from landcover.data import open_dataset, select
from landcover.legend import UInt8Array
from landcover.metrics import ConfusionMatrix, Scores


def cell_scores(data: Path, split: str, sizes: Sequence[int]) -> dict[int, Scores]:
    """Score the truth in cells against the truth.

    Args:
        data: Data folder or prepared cache.
        split: ``NAME:part``, as for :func:`landcover.data.select`.
        sizes: Sides of cells, in pixels of the masks.

    Returns:
        By size, the scores of ``challenge``.

    Raises:
        DataError: If the data cannot be read.
        SplitError: If the split cannot be made.
    """
    dataset = open_dataset(data)
    matrices = {size: ConfusionMatrix(dataset.legend) for size in sizes}
    for item in select(dataset, split):
        truth = dataset.read_mask(item)
        for size, matrix in matrices.items():
            matrix.update(truth, in_cells(truth, size, len(dataset.legend)))
    return {size: matrix.scores("challenge") for size, matrix in matrices.items()}


def in_cells(index: UInt8Array, size: int, classes: int) -> UInt8Array:
    """Return class indices (H, W) as they are after averaging in cells and bilinear interpolation."""
    shares = functional.one_hot(torch.from_numpy(index).long(), classes).permute(2, 0, 1)[None].float()
    cells = functional.avg_pool2d(shares, size, ceil_mode=True)
    height, width = (side * size for side in cells.shape[2:])
    whole = functional.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)[0]
    return whole[:, : index.shape[0], : index.shape[1]].argmax(0).numpy().astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="pixels of the masks")
    options = parser.parse_args()
    for cell, scores in cell_scores(options.data, options.split, options.sizes).items():
        ious = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in scores.iou.items() if value is not None
        )
        miou = "-" if scores.miou is None else f"{100 * scores.miou:.2f}"
        print(f"cells of {cell:2} px: mIoU {miou} ({ious})")
