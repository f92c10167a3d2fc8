"""Small regions, timed against GDAL's sieve of the whole map: ``python -m landcover.benchmarks.regions``."""

from functools import partial

import numpy as np
from rasterio.features import sieve

from landcover.benchmarks.timing import Timing, run_benchmark, take_turns
from landcover.data.synthetic import make_scene
from landcover.legend import UInt8Array
from landcover.postprocess.sieve import sieve_bands

_MIN_PIXELS = 8000
_SPECK_PX = 6


def region_benchmark(size: int = 2448, *, repeats: int = 9, seed: int = 0) -> list[Timing]:
    """Time removal by bands, and GDAL's, on a procedural map and on the same with specks.

    Args:
        size: Edge of the maps in pixels.
        repeats: Runs of each way.
        seed: Seed of the maps.
    """
    index = make_scene(seed, size, size).index
    rng = np.random.default_rng(seed)
    speckled = index.copy()
    for row, col in rng.integers(0, size - _SPECK_PX, (size * size // 1000, 2)):
        speckled[row : row + _SPECK_PX, col : col + _SPECK_PX] = rng.integers(0, 6)
    timings = []
    for name, array in {"regions": index, "regions, with specks": speckled}.items():
        if not np.array_equal(_by_bands(array), sieve(array, _MIN_PIXELS)):
            raise RuntimeError("Both ways are to give one map.")
        timings += take_turns(
            name,
            {
                "landcover, by bands": partial(_by_bands, array),
                "rasterio, whole": partial(sieve, array, _MIN_PIXELS),
            },
            repeats,
        )
    return timings


def _by_bands(index: UInt8Array) -> UInt8Array:
    height, width = index.shape
    bands = sieve_bands(lambda start, stop: index[start:stop], height, width, _MIN_PIXELS)
    return np.concatenate(list(bands))


if __name__ == "__main__":
    run_benchmark(region_benchmark, __doc__, repeats=9)
