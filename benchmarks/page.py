"""The browser page: its size, how soon it is ready, agreement with ``landcover predict``, and memory.

Needs Chromium and Playwright. Imagery is procedural; ``--data`` takes a folder of DeepGlobe images
(``*_sat.jpg``) instead. Memory is the peak of the tab's process, read from Linux.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from playwright.sync_api import sync_playwright
from rasterio.windows import Window

import landcover as lc
from landcover.data.synthetic import GSD, make_scene
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix
from landcover.page import write_page

SIDE, BLOCK_PX = 2448, 512
RUNTIMES = ("openvino", "onnxruntime")
"""The first is what ``landcover predict`` chooses."""
Pixels = np.ndarray


@contextmanager
def open_page(page_file: Path, browser: Any) -> Iterator[Any]:
    """Open the page in a new tab, ready to map."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.set_default_timeout(1_800_000)
    try:
        tab.goto(page_file.as_uri())
        tab.wait_for_selector("body[data-ready=true]")
        yield tab
    finally:
        tab.close()


def map_file(tab: Any, image: Path, gsd: float | None, out: Path) -> Pixels:
    """Map an image in the page and return the classes of the GeoTIFF that it saves."""
    tab.set_input_files("#files", str(image))
    if gsd is not None:
        tab.wait_for_selector("#setup:not([hidden])")
        tab.fill("#gsd", str(gsd))
        tab.click("#go")
    tab.wait_for_selector("#result:not([hidden])")
    with tab.expect_download() as download:
        tab.click("[data-export=tif]")
    download.value.save_as(out)
    tab.click("#scene-list .drop")
    with rasterio.open(out) as file:
        return file.read(1)


def write_tiff(path: Path, image: Pixels, gsd: float, **options: Any) -> Path:
    """Write a georeferenced GeoTIFF whose black pixels are nodata."""
    height, width, count = image.shape
    profile = {"crs": "EPSG:32631", "transform": Affine(gsd, 0, 5e5, 0, -gsd, 5.7e6), "nodata": 0}
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype=image.dtype, **profile | options
    ) as file:
        file.write(np.moveaxis(image, 2, 0))
    return path


def holes(image: Pixels) -> Pixels:
    """Return an image without black pixels but in a collar, a rectangle and a stripe."""
    image = np.maximum(image, 1)
    height, width = image.shape[:2]
    image[: height // 20] = image[:, -width // 30 :] = 0
    image[height // 3 : height // 2, width // 4 : width // 2] = 0
    rows, cols = np.ogrid[:height, :width]
    image[(rows - cols) % height < 40] = 0
    return image


def lossless(images: list[Pixels], folder: Path) -> Iterator[tuple[str, Path, float | None]]:
    """Yield name, file and scale (None: its georeference) of five files without loss of pixels."""
    first, second, third = images[:3]
    tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    path = folder / "whole.png"
    Image.fromarray(first).save(path)
    yield "PNG, 0.5 m", path, GSD
    path = folder / "holes.png"
    hollow = holes(second)
    alpha = np.where(hollow.any(axis=2), 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([second, alpha])).save(path)
    yield "PNG with holes, 0.7 m", path, 0.7
    path = write_tiff(folder / "holes.tif", holes(third), GSD, compress="deflate", predictor=2, **tiled)
    yield "GeoTIFF with holes, 0.5 m", path, None
    coarse = np.asarray(Image.fromarray(first).resize((1024, 1024), Image.Resampling.BOX))
    path = write_tiff(folder / "coarse.tif", holes(coarse), 1.195, compress="lzw")
    yield "GeoTIFF with holes, 1.195 m", path, None
    row = np.concatenate([first, second], axis=1)
    large = np.concatenate([row, np.concatenate([third, first[::-1]], axis=1)])
    path = write_tiff(folder / "large.tif", holes(large), 1.1, compress="zstd", **tiled)
    yield "GeoTIFF of several windows, 1.1 m", path, None


def agreement(tab: Any, image: Path, gsd: float | None, model: str, folder: Path) -> tuple[Pixels, ...]:
    """Return the classes of the page and those of ``landcover predict`` with each runtime."""
    maps = [map_file(tab, image, gsd, folder / "page.tif")]
    options = lc.PredictOptions(gsd=gsd, map_format="tif", force=True)
    for runtime in RUNTIMES:
        made = lc.predict([image], model, folder / "maps", options, runtime=runtime)
        with rasterio.open(made.maps[0].task.map) as file:
            maps.append(file.read(1))
    return tuple(maps)


def print_agreement(tab: Any, model: str, folder: Path, data: Path | None) -> None:
    """Print the share of pixels with the same class for ten files; for labelled ones the mIoU of all."""
    scenes: list[tuple[Pixels, Pixels | None]]
    if data is None:
        scenes = [(s.image, s.index) for s in (make_scene(20 + n, SIDE, SIDE) for n in range(5))]
    else:
        scenes = [(np.asarray(Image.open(path)), None) for path in sorted(data.glob("*_sat.jpg"))[:5]]
        scenes += [(np.ascontiguousarray(image[::-1, 300:-300]), None) for image, _ in scenes][
            : 5 - len(scenes)
        ]
    print(f"{'same class as predict with':36} {RUNTIMES[0]:>12} {RUNTIMES[1]:>12}")
    for name, path, gsd in lossless([image for image, _ in scenes], folder):
        own, *others = agreement(tab, path, gsd, model, folder)
        holes_alike = all(np.array_equal(own == 255, other == 255) for other in others)
        shares = " ".join(f"{same(own, other):10.2f} %" for other in others)
        print(f"{name:36} {shares}   holes {'alike' if holes_alike else 'DIFFER'}", flush=True)
    tables = [ConfusionMatrix(DEEPGLOBE) for _ in range(1 + len(RUNTIMES))]
    for number, (image, truth) in enumerate(scenes):
        path = folder / f"{number}.jpg"
        Image.fromarray(image).save(path, quality=90)
        maps = agreement(tab, path, GSD, model, folder)
        shares = " ".join(f"{same(maps[0], other):10.2f} %" for other in maps[1:])
        print(f"{f'JPEG {number + 1}, 0.5 m':36} {shares}", flush=True)
        for table, index in zip(tables, maps, strict=True):
            if truth is not None:
                table.update(truth, index)
    if data is None:
        scores = [f"{100 * (table.scores().miou or 0):.2f} %" for table in tables]
        print(
            f"mIoU of the five JPEG: page {scores[0]}, {RUNTIMES[0]} {scores[1]}, {RUNTIMES[1]} {scores[2]}"
        )


def same(own: Pixels, other: Pixels) -> float:
    """Return percent of the imagery's pixels with the same class."""
    return 100 * float(np.mean((own == other)[other != 255]))


def print_times(page_file: Path, folder: Path, start: Callable[[], Any], repeats: int) -> None:
    """Print seconds until the page is ready and until the first map, each in a new browser."""
    image = folder / "first.jpg"
    Image.fromarray(make_scene(20, SIDE, SIDE).image).save(image, quality=90)
    ready, first = [], []
    for _ in range(repeats):
        browser = start()
        began = time.perf_counter()
        with open_page(page_file, browser) as tab:
            ready.append(time.perf_counter() - began)
            tab.set_input_files("#files", str(image))
            tab.wait_for_selector("#setup:not([hidden])")
            tab.fill("#gsd", "0.5")
            began = time.perf_counter()
            tab.click("#go")
            tab.wait_for_selector("#result:not([hidden])")
            first.append(time.perf_counter() - began)
        browser.close()
    print(f"ready after {median(ready):.2f} s (of {len(ready)}: {min(ready):.2f} to {max(ready):.2f})")
    print(f"first 2448² JPEG {median(first):.2f} s more ({min(first):.2f} to {max(first):.2f}), one thread")


def write_large(path: Path, side: int) -> None:
    """Write a square GeoTIFF of 0.5 m, tiled and deflated, of procedural scenes side by side in a collar."""
    tiles = [np.maximum(make_scene(40 + n, 1024, 1024).image, 1) for n in range(6)]
    size = {"height": side, "width": side, "count": 3, "dtype": "uint8", "bigtiff": "if_safer"}
    stored = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate"}
    place = {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5.7e6), "nodata": 0}
    with rasterio.open(path, "w", "GTiff", **size, **stored, **place, zlevel=1) as file:
        for row in range(0, side, BLOCK_PX):
            for col in range(0, side, BLOCK_PX):
                high, wide = min(BLOCK_PX, side - row), min(BLOCK_PX, side - col)
                tile = tiles[(row // 1024 * 7 + col // 1024 * 3) % len(tiles)]
                block = tile[row % 1024 : row % 1024 + high, col % 1024 : col % 1024 + wide].copy()
                if row == 0 or col == 0:
                    block[:] = 0
                file.write(np.moveaxis(block, 2, 0), window=Window(col, row, wide, high))


def print_memory(page_file: Path, folder: Path, browser: Any, side: int) -> None:
    """Print seconds and the tab's peak of memory while a large GeoTIFF is mapped, cleaned and saved."""
    scene = folder / f"{side}.tif"
    write_large(scene, side)
    print(f"{side} x {side} GeoTIFF of {scene.stat().st_size / 1e6:.0f} MB written", flush=True)
    with open_page(page_file, browser) as tab:
        memory = Sampler(renderer())
        memory.start()
        before = peak(memory.process)
        began = time.perf_counter()
        tab.set_input_files("#files", str(scene))
        tab.wait_for_selector("#result:not([hidden])")
        seconds = time.perf_counter() - began
        print(
            f"mapped in {seconds:.0f} s; peak of the tab {memory.peak:.0f} MB ({before:.0f} before)",
            flush=True,
        )
        tab.fill("#region", "14")
        tab.wait_for_timeout(5000)
        with tab.expect_download() as download:
            tab.click("[data-export=tif]")
        download.value.save_as(folder / "large_map.tif")
        with tab.expect_download():
            tab.click("[data-export=png]")
        with tab.expect_download():
            tab.click("[data-export=geojson]")
        print(f"cleaned and saved; peak of the tab {memory.peak:.0f} MB", flush=True)
    with rasterio.open(folder / "large_map.tif") as file:
        counts = sum(
            np.bincount(file.read(1, window=w).ravel(), minlength=256) for _, w in file.block_windows(1)
        )
        print(f"{file.width} x {file.height} pixels saved, {100 * counts[255] / counts.sum():.1f} % nodata")


def renderer() -> Path:
    """Return the /proc folder of the largest renderer of Chromium: the tab."""
    tabs = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                tabs.append((peak(process), process))
        except OSError:
            continue
    return max(tabs)[1]


def peak(process: Path) -> float:
    """Return the peak of resident memory of a process so far, in MB."""
    lines = (process / "status").read_text().splitlines()
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM:")), 0.0)


class Sampler(threading.Thread):
    """Follows the peak of a process, which Chromium sets back now and then."""

    def __init__(self, process: Path) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = process, 0.0

    def run(self) -> None:
        """Read twice a second until the process ends."""
        with suppress(OSError):
            while True:
                self.peak = max(self.peak, peak(self.process))
                time.sleep(0.5)


def main() -> None:
    """Parse options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter", help="name of a bundled model, or a file")
    parser.add_argument("--data", type=Path, help="folder of *_sat.jpg for the table of agreement")
    parser.add_argument("--repeats", type=int, default=5, help="browsers started for the times")
    parser.add_argument("--side", type=int, default=20_000, help="side of the large GeoTIFF, in pixels")
    parser.add_argument("--only", choices=("times", "agreement", "memory"), help="one table of the three")
    args = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium was not found; expected it in PATH.")
    options = {"executable_path": chromium, "args": ["--no-sandbox", "--disable-gpu"]}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        page_file = write_page(folder / "page.html", args.model)
        print(f"page of {args.model}: {page_file.stat().st_size / 1e6:.2f} MB", flush=True)
        if args.only in (None, "times"):
            print_times(page_file, folder, lambda: playwright.chromium.launch(**options), args.repeats)
        browser = playwright.chromium.launch(**options)
        if args.only in (None, "agreement"):
            with open_page(page_file, browser) as tab:
                print_agreement(tab, args.model, folder, args.data)
        if args.only in (None, "memory"):
            print_memory(page_file, folder, browser, args.side)
        browser.close()


if __name__ == "__main__":
    main()
