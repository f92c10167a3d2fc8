"""What windows, mosaics and a wrong scale do to the score of a model.

Tiles of one scene are laid side by side as ``scenes.csv`` records, with holes where tiles are missing or of
another subset, and mapped as one GeoTIFF through several windows; the same pixels are scored tile by tile.
Then tiles are resampled to other ground sample distances, declared and not declared.
"""

import argparse
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

from common import landcover
from landcover.data import Dataset, Item, open_dataset, select
from landcover.legend import NODATA
from landcover.metrics import ConfusionMatrix
from landcover.model.card import read_card

WINDOWS = ((512, 0), (512, 64), (512, 128), (512, 256), (1024, 128), (1024, 256), (1536, 256))
SCALES = (0.3, 0.5, 0.8, 1.0, 1.195, 1.5)


def write_mosaics(dataset: Dataset, items: Sequence[Item], folder: Path) -> dict[str, np.ndarray]:
    """Write a GeoTIFF with a mask for each scene; return the truth by file name, 255 where no tile is."""
    if dataset.scenes is None:
        raise SystemExit(f"{dataset.root} has no scenes.csv, which records where the tiles of a scene are.")
    members: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[dataset.scenes[item.key].scene].append(item)
    truths = {}
    for scene, tiles in members.items():
        places = [dataset.scenes[tile.key] for tile in tiles]
        height, width = dataset.size(tiles[0])
        top, left = min(place.row for place in places), min(place.col for place in places)
        rows, cols = (max(getattr(p, axis) for p in places) + 1 for axis in ("row", "col"))
        image = np.zeros(((rows - top) * height, (cols - left) * width, 3), np.uint8)
        truth = np.full(image.shape[:2], NODATA, np.uint8)
        for tile, place in zip(tiles, places, strict=True):
            row, col = (place.row - top) * height, (place.col - left) * width
            image[row : row + height, col : col + width] = dataset.read_image(tile)
            truth[row : row + height, col : col + width] = dataset.read_mask(tile)
        gsd = dataset.gsd or 1.0
        profile = {"crs": "EPSG:32631", "transform": Affine(gsd, 0, 5e5, 0, -gsd, 5e6), "tiled": True}
        size = {"height": truth.shape[0], "width": truth.shape[1], "count": 3, "dtype": "uint8"}
        with rasterio.open(folder / f"{scene}.tif", "w", driver="GTiff", nodata=0, **size, **profile) as out:
            out.write(np.where(truth == NODATA, 0, np.maximum(np.moveaxis(image, -1, 0), 1)))
        truths[scene] = truth
    return truths


def score(
    model: str, images: Path, truths: Mapping[str, np.ndarray], legend: object, *words: object
) -> float:
    """Map a folder of images and return the mIoU, 0..1, the maps brought to the truths' size by nearest."""
    matrix = ConfusionMatrix(legend)
    with tempfile.TemporaryDirectory() as out:
        landcover("predict", images, "--model", model, "--out", out, "--no-style", *words)
        for name, truth in truths.items():
            (path,) = Path(out).glob(f"{name}_mask.*")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a PNG is not georeferenced
                with rasterio.open(path) as raster:
                    found = raster.read(1)
            pairs = zip(truth.shape, found.shape, strict=True)
            rows, cols = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in pairs)
            matrix.update(truth, np.where(truth == NODATA, 0, found[np.ix_(rows, cols)]).astype(np.uint8))
    return float(matrix.scores().miou or 0.0)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model file or run folder")
    parser.add_argument("--data", type=Path, required=True, help="tiles with a scenes.csv")
    parser.add_argument("--split", required=True, help="NAME:subset that the model was not trained on")
    parser.add_argument(
        "--windows", nargs="*", default=[f"{a},{b}" for a, b in WINDOWS], metavar="PX,OVERLAP"
    )
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    options = parser.parse_args()
    dataset, model_gsd = open_dataset(options.data), read_card(options.model).preprocessing.gsd
    items, own = select(dataset, options.split), dataset.gsd or model_gsd
    truths = {str(number): dataset.read_mask(item) for number, item in enumerate(items)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mosaics = write_mosaics(dataset, items, folder)
        for window, overlap in (text.split(",") for text in options.windows):
            words = ("--window", window, "--overlap", overlap)
            miou = score(options.model, folder, mosaics, dataset.legend, *words)
            print(f"mosaics, window {window}, overlap {overlap}: mIoU {100 * miou:.2f}", flush=True)
    for gsd in [own, *options.scales]:
        with tempfile.TemporaryDirectory() as name:
            for number, item in enumerate(items):
                picture = Image.fromarray(dataset.read_image(item))
                size = tuple(max(1, round(side * own / gsd)) for side in picture.size)
                picture.resize(size, Image.Resampling.BILINEAR).save(Path(name) / f"{number}.png")
            mious = [
                score(options.model, Path(name), truths, dataset.legend, "--gsd", declared)
                for declared in (gsd, own)
            ]
        text = "tiles as they are" if gsd == own else f"{gsd:g} m"
        print(f"{text}: declared {100 * mious[0]:.2f}, taken for {own:g} m {100 * mious[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
