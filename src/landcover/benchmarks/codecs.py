"""Masks in and out, timed against the usual ways: ``python -m landcover.benchmarks.codecs``."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from landcover.benchmarks.timing import Timing, blocky_index, take_turns
from landcover.codecs import colours_to_index, encode_mask, index_to_colours
from landcover.files import write_text
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


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2448, help="edge of the mask in pixels")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each way")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    timings = codec_benchmark(options.size, repeats=options.repeats)
    for timing in timings:
        print(f"{timing.job:20} {timing.way:32} {timing.ms:8.1f} ms {timing.ratio:7.1f} x")
    if options.json:
        write_text(options.json, json.dumps([asdict(t) for t in timings], indent=1) + "\n", force=True)


if __name__ == "__main__":
    main()
