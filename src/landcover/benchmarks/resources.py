"""Memory of a scene, start of a prediction, size of the installation.

Every prediction is a process of its own, whose peak is read from the system when it ends.
"""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from itertools import cycle
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from landcover.data import open_dataset
from landcover.io.files import atomic_path

_BLOCK_PX = 512

PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
"""
"""A function for programs that are measured: bytes of their peak of resident memory. What the system counts
for its ``getrusage`` would begin at the memory of the process that started the program."""

_MEASURED = f"""{PEAK}
import sys
from landcover.inference import PredictOptions, predict
from landcover.model.runtimes import open_model
import landcover.raster, landcover.postprocess.sieve, PIL.Image
imported = peak()
scene, model, out, min_region = sys.argv[1:]
made = predict([scene], model, out, PredictOptions(force=True, min_region=min_region or None))
if made.failed:
    sys.exit(str(made.failed))
print(imported, peak())
"""


def write_scene(path: Path, height: int, width: int, tiles: Path, *, collar_px: int = 700) -> None:
    """Write a tiled GeoTIFF of 0.5 m made of real tiles side by side, within a collar of nodata."""
    dataset = open_dataset(tiles)
    images = cycle(dataset.read_image(item) for item in dataset.items[:64])
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "height": height,
        "width": width,
        "crs": CRS.from_epsg(32631),
        "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5.7e6),
        "nodata": 0,
        "tiled": True,
        "blockxsize": _BLOCK_PX,
        "blockysize": _BLOCK_PX,
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }
    with atomic_path(path) as temporary, rasterio.open(temporary, "w", **profile) as target:
        for row in range(0, height, _BLOCK_PX):
            for col in range(0, width, _BLOCK_PX):
                window = Window(col, row, min(_BLOCK_PX, width - col), min(_BLOCK_PX, height - row))
                tile = np.maximum(next(images), 1)
                times = -(-window.height // tile.shape[0]), -(-window.width // tile.shape[1]), 1
                block = np.tile(tile, times)[: window.height, : window.width]
                rows = np.arange(row, row + window.height)
                cols = np.arange(col, col + window.width)
                block[(rows < collar_px) | (rows >= height - collar_px)] = 0
                block[:, (cols < collar_px) | (cols >= width - collar_px)] = 0
                target.write(np.moveaxis(block, -1, 0), window=window)


def memory(model: Path, scene: Path, out: Path, min_region: str = "") -> dict[str, float]:
    """Return ``imports_mb``, ``above_imports_mb`` and ``seconds`` of mapping a scene, on Linux."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(scene), str(model), str(out), min_region],
        check=True,
        capture_output=True,
        text=True,
    )
    imported, peak = map(int, done.stdout.split())
    return {
        "imports_mb": imported / 1e6,
        "above_imports_mb": (peak - imported) / 1e6,
        "seconds": time.perf_counter() - start,
    }


def cold_start(model: Path, image: Path, out: Path, repeats: int) -> float:
    """Return the median seconds from the command to the map of one image on disk."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        words = ["predict", image, "--model", model, "--out", out, "--force"]
        subprocess.run([sys.executable, "-m", "landcover", *map(str, words)], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def installed(distribution: str = "landcover") -> dict[str, float]:
    """Return MB on disk of a distribution and of all that it needs without extras, by name."""
    sizes: dict[str, float] = {}
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another system or Python
        files = (Path(str(found.locate_file(file))) for file in found.files or ())
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        waiting += _needed(found)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _needed(distribution: metadata.Distribution) -> Iterator[str]:
    for requirement in distribution.requires or ():
        name, _, condition = requirement.partition(";")
        if "extra" not in condition:
            yield re.split(r"[^\w.-]", name.strip())[0].lower().replace("_", "-")
