"""What answers on a coarse grid cost: the truth itself, averaged in cells of each size and interpolated.

No network whose logit grid has such cells can score more.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from landcover.data import open_dataset, select
from landcover.metrics import ConfusionMatrix


def in_cells(index: np.ndarray, size: int, classes: int) -> np.ndarray:
    """Return class indices (H, W) as they are after averaging in cells and bilinear interpolation."""
    shares = functional.one_hot(torch.from_numpy(index).long(), classes).permute(2, 0, 1)[None].float()
    cells = functional.avg_pool2d(shares, size, ceil_mode=True)
    height, width = (side * size for side in cells.shape[2:])
    whole = functional.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)[0]
    return whole[:, : index.shape[0], : index.shape[1]].argmax(0).numpy().astype(np.uint8)


def main() -> None:
    """Score each size of cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="NAME:subset")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="pixels of the masks")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    matrices = {size: ConfusionMatrix(dataset.legend) for size in options.sizes}
    for item in select(dataset, options.split):
        truth = dataset.read_mask(item)
        for size, matrix in matrices.items():
            matrix.update(truth, in_cells(truth, size, len(dataset.legend)))
    for size, matrix in matrices.items():
        scores = matrix.scores()
        ious = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in scores.iou.items() if iou is not None)
        print(f"cells of {size:2} px: mIoU {100 * (scores.miou or 0):.2f} ({ious})")


if __name__ == "__main__":
    main()
