"""How much of a map depends on what only the camera's processing and the file format make.

    python benchmarks/robustness.py starter best --data TILES --split scenes-k5@0:val --tiles 60

Tiles are changed in ways that leave the ground as it is: compressed again, blurred or sharpened, moved by a
fraction of a pixel, resampled to the model's scale by other kernels. Printed are the fraction of pixels that
keep the class of the unchanged tile, and mIoU. A model that was trained on the tiles remembers their labels:
there only the agreement means something. The overlap is printed.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from landcover.data import Dataset, Item, open_dataset, select
from landcover.evaluation.overlap import training_overlap
from landcover.inference import predict_index
from landcover.metrics import ConfusionMatrix
from landcover.model.preprocessing import resample_image, resample_mask
from landcover.model.runtimes import Runtime, open_model
from landcover.values import check_views

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    """Return what saves a picture as JPEG and reads it back."""

    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def moved(pixels: float) -> Change:
    """Return what moves a picture to the left and up by a fraction of a pixel, by bicubic interpolation."""

    def change(picture: Image.Image) -> Image.Image:
        place = (1, 0, pixels, 0, 1, pixels)
        inside = picture.transform(picture.size, Image.Transform.AFFINE, place, Image.Resampling.BICUBIC)
        whole = picture.copy()  # the last row and column have no neighbour
        whole.paste(inside.crop((0, 0, picture.width - 1, picture.height - 1)))
        return whole

    return change


CHANGES: dict[str, Change] = {
    **{f"JPEG quality {quality}": jpeg(quality) for quality in (95, 75, 50)},
    **{f"blur, sigma {s} px": lambda p, s=s: p.filter(ImageFilter.GaussianBlur(s)) for s in (0.5, 1.0)},
    "sharpened": lambda picture: picture.filter(ImageFilter.UnsharpMask(1, 80, 0)),
    **{f"moved by {pixels} px": moved(pixels) for pixels in (0.25, 0.5)},
}
"""Changes of a tile at its own pixels."""

KERNELS = {
    f"{kernel.name.lower()} to the model's scale": kernel
    for kernel in (
        Image.Resampling.NEAREST,
        Image.Resampling.BOX,
        Image.Resampling.BILINEAR,
        Image.Resampling.BICUBIC,
        Image.Resampling.LANCZOS,
    )
}
"""Kernels in place of the one that prediction has."""


def versions(image: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the changed versions of uint8 (H, W, 3) at the model's scale; the first is unchanged."""
    picture = Image.fromarray(image)
    made = {"unchanged": resample_image(image, size)}
    for name, change in CHANGES.items():
        made[name] = resample_image(np.asarray(change(picture)), size)
    for name, kernel in KERNELS.items():
        made[name] = np.asarray(picture.resize(size[::-1], kernel))
    return made


def measure(
    runtime: Runtime, dataset: Dataset, items: list[Item], views: int | None
) -> dict[str, tuple[float, float | None]]:
    """Return, for each change, the fraction of pixels that keep their class, and mIoU, both 0..1."""
    gsd, legend = runtime.card.preprocessing.gsd, dataset.legend
    same: dict[str, list[float]] = {}
    matrices: dict[str, ConfusionMatrix] = {}
    for item in items:
        image, truth = dataset.read_image(item), dataset.read_mask(item)
        scale = dataset.known_gsd("the measure") / gsd
        size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
        truth, first = resample_mask(truth, size), None
        for name, version in versions(image, size).items():
            index = predict_index(runtime, version, views=check_views(views))
            first = index if first is None else first
            same.setdefault(name, []).append(float((index == first).mean()))
            matrices.setdefault(name, ConfusionMatrix(legend)).update(truth, index)
    return {name: (float(np.mean(same[name])), matrices[name].scores().miou) for name in same}


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="with the classes of the data")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="NAME:subset")
    parser.add_argument("--tiles", type=int, default=60, help="evenly spaced ones of the subset")
    parser.add_argument("--views", type=int, help="as for landcover predict")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    items = list(select(dataset, options.split))
    items = [items[i] for i in np.linspace(0, len(items) - 1, min(options.tiles, len(items))).astype(int)]
    for name in options.models:
        runtime = open_model(name, threads=options.threads)
        overlap = training_overlap(runtime.card, dataset, items)
        rows = measure(runtime, dataset, items, options.views)
        print(
            f"{name}: {len(items)} tiles of {options.split}; overlap with the training data: {overlap.status}"
        )
        for change, (agreement, miou) in rows.items():
            print(f"  {change:36} same class {100 * agreement:6.2f} %  mIoU {100 * (miou or 0):6.2f}")
        (_, unchanged), *changed = rows.values()
        agreement = np.mean([100 * fraction for fraction, _ in changed])
        loss = np.mean([100 * ((unchanged or 0) - (miou or 0)) for _, miou in changed])
        print(f"  {'mean of the changes':36} same class {agreement:6.2f} %  loses {loss:6.2f}")


if __name__ == "__main__":
    main()
