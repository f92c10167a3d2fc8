"""Does a model notice imagery unlike its training data? Held-out tiles as they are, and altered.

``predict`` compares each scene with the profile in the model's card. Held-out tiles should pass; the same
tiles as other sensors, errors of preparation and weather would show them should not. The model must have
been trained without the tiles of ``--split``.
"""

import argparse
import io
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from common import report
from landcover.data import open_dataset, select
from landcover.data.synthetic import make_scene
from landcover.model.card import read_card

WARN_FRACTION = 0.3
Change = Callable[[np.ndarray], np.ndarray]


def linear(scale: float, offset: float) -> Change:
    """Change brightness and contrast."""
    return lambda image: np.clip(np.rint(image * float(scale) + offset), 0, 255).astype(np.uint8)


def noisy(sigma: float) -> Change:
    """Add noise."""
    return lambda image: linear(1, 0)(image + np.random.default_rng(0).normal(0, sigma, image.shape))


def blurred(sigma: float) -> Change:
    """Blur."""
    return lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    """Resample by a factor, averaging where it is below 1."""
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def enlarged(factor: float) -> Change:
    """Show a part of the tile at a finer scale, without more detail."""
    return lambda image: resized(image, factor)[: image.shape[0], : image.shape[1]]


def reduced(times: int) -> Change:
    """Show the tile at a coarser scale, mirrored to its size."""

    def change(image: np.ndarray) -> np.ndarray:
        small = resized(image, 1 / times)
        wide = np.concatenate([small if i % 2 == 0 else small[:, ::-1] for i in range(times)], axis=1)
        return np.concatenate([wide if i % 2 == 0 else wide[::-1] for i in range(times)])

    return change


def compressed(image: np.ndarray) -> np.ndarray:
    """Compress as JPEG of quality 20."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=20)
    return np.asarray(Image.open(content))


ALTERED: dict[str, Change] = {
    "red and blue swapped": lambda image: image[..., ::-1],
    "red and green swapped": lambda image: image[..., [1, 0, 2]],
    "bands in the order G, B, R": lambda image: image[..., [1, 2, 0]],
    "grey": lambda image: np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, axis=2),
    "inverted": linear(-1, 255),
    "thick haze (0.4 x + 120)": linear(0.4, 120),
    "thin haze (0.7 x + 60)": linear(0.7, 60),
    "under-exposed (0.4 x)": linear(0.4, 0),
    "over-exposed (1.6 x)": linear(1.6, 0),
    "noise, sigma 10": noisy(10),
    "noise, sigma 25": noisy(25),
    "blur, sigma 1 px": blurred(1),
    "blur, sigma 2 px": blurred(2),
    "JPEG of quality 20": compressed,
    "half the GSD, taken for the tile's": enlarged(2),
    "a quarter of the GSD, taken for it": enlarged(4),
    "twice the GSD, taken for it": reduced(2),
    "four times the GSD, taken for it": reduced(4),
    "twice the GSD, rightly declared": lambda image: resized(resized(image, 0.5), 2),
}


def look(name: str, model: str, images: dict[str, np.ndarray], gsd: float, scenes: dict[str, str]) -> None:
    """Map images, and print the share of windows that are out of distribution and the scenes warned of."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "in").mkdir()
        for number, image in enumerate(images.values()):
            Image.fromarray(np.ascontiguousarray(image)).save(folder / "in" / f"{number}.png")
        words = ("--model", model, "--out", folder / "out", "--gsd", gsd)
        rows = report(folder, "predict", folder / "in", *words)["maps"]
    found: dict[str, list[float]] = defaultdict(list)
    keys = list(images)
    for row in rows:
        if verdict := row.get("ood") or row.get("unlike"):
            key = keys[int(Path(row["image"]).stem)]
            found[scenes.get(key, key)].append(verdict["share"])
    shares = [share for of in found.values() for share in of]
    warned = sum(np.mean(of) >= WARN_FRACTION for of in found.values())
    mean = f"{100 * np.mean(shares):.1f} %" if shares else "not known"
    print(f"| {name} | {mean} | {warned} of {len(found)} |", flush=True)


def main() -> None:
    """Print a row for each kind of imagery."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model file or run folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="NAME:subset that the model was not trained on")
    parser.add_argument("--images", type=int, default=80, help="tiles to alter")
    parser.add_argument("--gsd", type=float, help="metres per pixel of the data, where they do not record it")
    parser.add_argument("--other", nargs=2, action="append", default=[], metavar=("IMAGE", "GSD"))
    options = parser.parse_args()
    dataset = open_dataset(options.data, gsd=options.gsd)
    items = select(dataset, options.split)
    scenes = {key: tile.scene for key, tile in (dataset.scenes or {}).items()}
    gsd = dataset.gsd
    if gsd is None:
        parser.error("the data do not record their scale: give --gsd")
    tiles = {item.key: dataset.read_image(item) for item in items}
    print("| imagery | windows out of distribution | scenes warned of |\n| --- | --- | --- |")
    look("held-out tiles as they are", options.model, tiles, gsd, scenes)
    step = max(1, len(tiles) // options.images)
    some = dict(list(tiles.items())[::step][: options.images])
    for name, change in ALTERED.items():
        look(name, options.model, {key: change(tile) for key, tile in some.items()}, gsd, scenes)
    procedural = {str(seed): make_scene(seed, 512, 512).image for seed in range(min(12, options.images))}
    model_gsd = read_card(options.model).preprocessing.gsd
    look("procedural scenes, as if of the model's GSD", options.model, procedural, model_gsd, {})
    for path, own_gsd in options.other:
        picture = {path: np.asarray(Image.open(path).convert("RGB"))}
        look(f"{Path(path).name}, {own_gsd} m", options.model, picture, float(own_gsd), {})
        look(f"{Path(path).name}, taken for the model's GSD", options.model, picture, model_gsd, {})


if __name__ == "__main__":
    main()
