"""Masks in and out, timed against the usual ways: ``python -m landcover.benchmarks.codecs``."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

from landcover.benchmarks.timing import Timing, blocky_index, run_benchmark, take_turns
from landcover.io import colours_to_index, encode_mask, index_to_colours
from landcover.legend import DEEPGLOBE, UInt8Array


def codec_benchmark(size: int = 2448, *, repeats: int = 7, seed: int = 0) -> list[Timing]:
    """Time landcover's ways against the usual ones on one mask, in one process.

    Args:
        size: Edge of the mask in pixels.
        repeats: Runs of each way. The ways of a job take turns, so that a busy machine slows all of them.
        seed: Seed of the mask: blocks of 24 px of the classes, with a frayed border.

    Returns:
        The ways of each job, landcover's first.
    """
    index = blocky_index(size, seed)
    rgb = index_to_colours(index, DEEPGLOBE)
    palette = DEEPGLOBE.colours[: len(DEEPGLOBE)]
    jobs: dict[str, dict[str, Callable[[], object]]] = {
        "colours to indices": {
            "landcover": lambda: colours_to_index(rgb, DEEPGLOBE),
            "seven comparisons": lambda: _compare_colours(rgb, palette),
            "threshold, boolean assignments": lambda: _assign_codes(rgb, palette),
        },
        "indices to colours": {
            "landcover": lambda: index_to_colours(index, DEEPGLOBE),
            "palette[index]": lambda: palette[index],
        },
        "indices to PNG": {
            "landcover, palette": lambda: encode_mask(index, DEEPGLOBE),
            "Pillow, RGB": lambda: Image.fromarray(rgb).save(BytesIO(), "PNG"),
        },
    }
    return [timing for job, ways in jobs.items() for timing in take_turns(job, ways, repeats)]


def _compare_colours(rgb: UInt8Array, palette: UInt8Array) -> UInt8Array:
    index = np.full(rgb.shape[:2], 6, np.uint8)
    for value, colour in enumerate(palette):
        index[(rgb == colour).all(-1)] = value
    return index


def _assign_codes(rgb: UInt8Array, palette: UInt8Array) -> UInt8Array:
    bits = rgb >= 128
    code = 4 * bits[..., 0].astype(np.uint8) + 2 * bits[..., 1] + bits[..., 2]
    index = np.full(rgb.shape[:2], 6, np.uint8)
    for value, colour in enumerate(palette >> 7):
        index[code == 4 * colour[0] + 2 * colour[1] + colour[2]] = value
    return index


if __name__ == "__main__":
    run_benchmark(codec_benchmark, __doc__, repeats=7)
