"""Peak memory and time of whole scenes, beside geoai's ``predict_geotiff`` where an interpreter has it.

Every run is a process of its own, whose peak of resident memory is read from Linux when it ends. geoai keeps
every score of the scene in memory; it is stopped at 8 GiB.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from landcover.data import open_dataset

BLOCK_PX, LIMIT_BYTES = 512, 8 << 30
PEAK = """
import json, sys
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM:"))
"""
LANDCOVER = f"""{PEAK}
from landcover.inference import PredictOptions, predict
from landcover.model.runtimes import open_model
import landcover.raster, landcover.postprocess, PIL.Image
imported = peak()
scene, out, model = sys.argv[1:]
if failed := predict([scene], model, out, PredictOptions(force=True)).failed:
    sys.exit(str(failed))
print(json.dumps([imported, peak()]))
"""
GEOAI = f"""{PEAK}
import geoai.utils, rasterio
import segmentation_models_pytorch as smp
from geoai.inference import predict_geotiff
imported = peak()
scene, out, _ = sys.argv[1:]
predict_geotiff(
    smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=6), scene, out + ".tif", num_classes=6,
    postprocess_fn=lambda scores: scores.argmax(axis=0).astype("uint8"), output_dtype="uint8",
    output_nodata=255, device="cpu", verbose=False,
)
print(json.dumps([imported, peak()]))
"""


def write_scene(path: Path, height: int, width: int, data: Path, *, collar_px: int) -> None:
    """Write a GeoTIFF of 0.5 m made of tiles side by side, within a collar of nodata."""
    dataset = open_dataset(data)
    images = cycle([dataset.read_image(item) for item in dataset.items[:64]])
    profile = {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5.7e6), "nodata": 0}
    profile |= {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate"}
    size = {"height": height, "width": width, "count": 3, "dtype": "uint8", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", driver="GTiff", **size, **profile) as target:
        for row in range(0, height, BLOCK_PX):
            for col in range(0, width, BLOCK_PX):
                window = Window(col, row, min(BLOCK_PX, width - col), min(BLOCK_PX, height - row))
                tile = np.maximum(next(images), 1)
                times = -(-window.height // tile.shape[0]), -(-window.width // tile.shape[1]), 1
                block = np.tile(tile, times)[: window.height, : window.width]
                rows, cols = np.arange(row, row + window.height), np.arange(col, col + window.width)
                block[(rows < collar_px) | (rows >= height - collar_px)] = 0
                block[:, (cols < collar_px) | (cols >= width - collar_px)] = 0
                target.write(np.moveaxis(block, -1, 0), window=window)


def measure(
    program: str, scene: Path, out: Path, model: str, python: str = sys.executable
) -> tuple[float, float]:
    """Return peak memory above imports in MB and seconds of a program that maps a scene; inf: stopped."""
    start = time.perf_counter()
    command = [python, "-c", program, str(scene), str(out), model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                statm = Path(f"/proc/{process.pid}/statm").read_text().split()
                if int(statm[1]) * resource.getpagesize() > LIMIT_BYTES:
                    process.kill()
                    return float("inf"), time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{scene}: {errors.strip().splitlines()[-1:]}")
    imported, peak = json.loads(output.splitlines()[-1])
    return peak - imported, time.perf_counter() - start


def main() -> None:
    """Print a line for each scene and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder whose images make the scenes")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--out", type=Path, required=True, help="folder of scenes of some GB and their maps")
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--heights", type=int, nargs="*", default=[10_000, 20_000, 40_000])
    parser.add_argument("--geoai", help="interpreter with geoai-py and segmentation-models-pytorch")
    parser.add_argument("--geoai-sides", type=int, nargs="*", default=[3_000, 6_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = [(height, options.width, 700) for height in options.heights]
    sizes += [(side, side, 0) for side in options.geoai_sides if options.geoai]
    for height, width, collar in sizes:
        scene = options.out / f"{height}x{width}-{collar}.tif"
        if not scene.exists():
            write_scene(scene, height, width, options.data, collar_px=collar)
        ways = {"landcover": [(LANDCOVER, sys.executable)] * options.repeats}
        if not collar:
            ways["geoai"] = [(GEOAI, options.geoai)]
        for way, programs in ways.items():
            runs = [
                measure(code, scene, options.out / way, options.model, python) for code, python in programs
            ]
            megabytes, seconds = map(median, zip(*runs, strict=True))
            print(f"{height} x {width}, {way}: {megabytes:.0f} MB above imports, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
