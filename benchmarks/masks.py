"""Masks in and out, the confusion matrix and small regions, timed against the usual ways."""

import argparse
from io import BytesIO

import numpy as np
from PIL import Image
from rasterio.features import sieve
from sklearn.metrics import confusion_matrix

from common import blocky_index, print_timings, take_turns
from landcover.data.synthetic import make_scene
from landcover.io import encode_mask, index_to_colours
from landcover.io.colours import find_classes
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix
from landcover.postprocess.sieve import remove_small_regions

K, MIN_PIXELS, SPECK_PX = len(DEEPGLOBE), 8000, 6
PALETTE = DEEPGLOBE.colours[:K]


def compare_colours(rgb: np.ndarray) -> np.ndarray:
    """Compare every pixel with every colour."""
    index = np.full(rgb.shape[:2], 6, np.uint8)
    for value, colour in enumerate(PALETTE):
        index[(rgb == colour).all(-1)] = value
    return index


def assign_codes(rgb: np.ndarray) -> np.ndarray:
    """Threshold the channels, then assign by boolean masks."""
    bits = rgb >= 128
    code = 4 * bits[..., 0].astype(np.uint8) + 2 * bits[..., 1] + bits[..., 2]
    index = np.full(rgb.shape[:2], 6, np.uint8)
    for value, colour in enumerate(PALETTE >> 7):
        index[code == 4 * colour[0] + 2 * colour[1] + colour[2]] = value
    return index


def count_masked(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Count as most projects do since FCN: mask, widen, count."""
    known = (truth >= 0) & (truth < K)
    return np.bincount(K * truth[known].astype(int) + prediction[known], minlength=K**2).reshape(K, K)


def main() -> None:
    """Time every job on one mask of the challenge's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2448, help="edge of the masks in pixels")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each way")
    options = parser.parse_args()
    index = blocky_index(options.size)
    rgb = index_to_colours(index, DEEPGLOBE)
    rng = np.random.default_rng(1)
    changed = np.where(rng.random(index.shape) < 0.15, rng.integers(0, K - 1, index.shape), index)
    prediction = changed.astype(np.uint8)
    jobs = {
        "colours to indices": {
            "landcover": lambda: find_classes(rgb, DEEPGLOBE),
            "seven comparisons": lambda: compare_colours(rgb),
            "threshold, boolean assignments": lambda: assign_codes(rgb),
        },
        "indices to colours": {
            "landcover": lambda: index_to_colours(index, DEEPGLOBE),
            "palette[index]": lambda: PALETTE[index],
        },
        "indices to PNG": {
            "landcover, palette": lambda: encode_mask(index, DEEPGLOBE),
            "Pillow, RGB": lambda: Image.fromarray(rgb).save(BytesIO(), "PNG"),
        },
        "confusion matrix": {
            "landcover": lambda: ConfusionMatrix(DEEPGLOBE).update(index, prediction),
            "scikit-learn": lambda: confusion_matrix(index.ravel(), prediction.ravel()),
            "numpy, masked int64": lambda: count_masked(index, prediction),
        },
    }
    land = make_scene(0, options.size, options.size).index
    specks = land.copy()
    for row, col in rng.integers(0, options.size - SPECK_PX, (options.size**2 // 1000, 2)):
        specks[row : row + SPECK_PX, col : col + SPECK_PX] = rng.integers(0, 6)
    for name, array in {"regions": land, "regions, with specks": specks}.items():
        if not np.array_equal(remove_small_regions(array, MIN_PIXELS), sieve(array, MIN_PIXELS)):
            raise SystemExit("Both ways must give the same map.")
        jobs[name] = {
            "landcover, by row blocks": lambda array=array: remove_small_regions(array, MIN_PIXELS),
            "GDAL's sieve of the whole array": lambda array=array: sieve(array, MIN_PIXELS),
        }
    for job, ways in jobs.items():
        print_timings(take_turns(job, ways, options.repeats))


if __name__ == "__main__":
    main()
