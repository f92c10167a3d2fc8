"""Does the profile tell unlike imagery? ``python -m landcover.benchmarks.unlike --data D --split S``.

The profile is measured on the training part, as training does. Then it looks at the held-out part, which
should pass, and at the same imagery as other sensors, errors of preparation and weather would show it; at
procedural scenes; and at other imagery, at its own scale and taken for imagery of the model's.
"""

import argparse
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from rasterio.errors import NotGeoreferencedWarning

from landcover.data import Item
from landcover.data.synthetic import make_scene
from landcover.errors import UsageError
from landcover.io.files import refuse_existing, write_text
from landcover.legend import UInt8Array
from landcover.model.preprocessing import resample_image
from landcover.ood import WARN_FRACTION, ImageryProfile, OodStats, ood_stats
from landcover.progress import track
from landcover.raster import open_scene
from landcover.training.data import TrainingData, load_training_data, measure_imagery
from landcover.training.validation import evenly_spaced

Altered = Callable[[UInt8Array], UInt8Array]

HELD_OUT = "held-out part as it is"


@dataclass(frozen=True)
class Row:
    """What the profile says of one kind of imagery.

    Attributes:
        imagery: What it is.
        share: Of its windows that look unlike, 0..1.
        warned: Scenes that would be warned of; images, where the data have no scenes.
        scenes: How many there are.
        reasons: How they differ, in the words of the warning.
    """

    imagery: str
    share: float
    warned: int
    scenes: int
    reasons: tuple[str, ...]


def measure(
    data: Path,
    split: str,
    *,
    gsd: float | None = None,
    images: int = 80,
    others: Sequence[tuple[Path, float]] = (),
) -> tuple[ImageryProfile, list[Row]]:
    """Measure a profile on the training part of a split, and look at imagery with it.

    Args:
        data: Data folder or cache.
        split: A split with a training and a validation part.
        gsd: Metres per pixel of the model; None: those of the data.
        images: Held-out images that are altered; as they are, all are looked at.
        others: Other images or rasters, with their metres per pixel.

    Raises:
        UsageError: If the training part is too small for a profile.
        DataError: If imagery cannot be read.
    """
    material = load_training_data(data, split, crop_px=1, model_gsd=gsd)
    profile = measure_imagery(material)
    if profile is None or not material.validation:
        raise UsageError(f"{split} of {data} has too few images to learn from, or none held out.")
    some = evenly_spaced(material.validation, images)
    rows = [_row(HELD_OUT, profile, material, material.validation)]
    rows += [
        _row(name, profile, material, some, change) for name, change in track([*ALTERED.items()], "Rows")
    ]
    scenes = [make_scene(seed, 512, 512).image for seed in range(12)]
    rows.append(
        _sum_up("procedural scenes, as if of that GSD", [ood_stats(profile, scene) for scene in scenes])
    )
    for path, gsd in others:
        image = read_scene(path)
        scaled = resample_image(image, gsd / material.model_gsd)
        rows.append(_sum_up(f"{path.name}, {gsd:g} m", [ood_stats(profile, scaled)]))
        rows.append(
            _sum_up(f"{path.name}, taken for {material.model_gsd:g} m", [ood_stats(profile, image)]),
        )
    return profile, rows


def read_scene(path: Path) -> UInt8Array:
    """Return a whole image or raster of 8 bits: uint8 (H, W, 3)."""
    with open_scene(path) as scene:
        return np.ascontiguousarray(scene.read_rows(0, scene.height).image)


def _row(
    name: str,
    profile: ImageryProfile,
    material: TrainingData,
    items: Iterable[Item],
    change: Altered = lambda image: image,
) -> Row:
    """OodStats at images that are changed at the data's scale, then brought to the model's."""
    dataset, scale = material.dataset, material.data_gsd / material.model_gsd
    looks: dict[str, OodStats] = {}
    for item in items:
        place = None if dataset.scenes is None else dataset.scenes.get(item.key)
        scene = item.key if place is None else place.scene
        seen = ood_stats(
            profile, resample_image(np.ascontiguousarray(change(dataset.read_image(item))), scale)
        )
        looks[scene] = looks.get(scene, OodStats()) + seen
    return _sum_up(name, looks.values())


def _sum_up(name: str, looks: Iterable[OodStats]) -> Row:
    looks = list(looks)
    verdicts = [verdict for seen in looks if (verdict := seen.report()) is not None]
    whole = sum(looks, OodStats()).report()
    warned = sum(verdict.share >= WARN_FRACTION for verdict in verdicts)
    if whole is None:
        return Row(name, 0.0, 0, 0, ())
    return Row(name, whole.share, warned, len(verdicts), whole.reasons)


def _grey(image: UInt8Array) -> UInt8Array:
    return np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, axis=2)


def _linear(scale: float, offset: float) -> Altered:
    def change(image: UInt8Array) -> UInt8Array:
        return _bytes(image.astype(np.float64) * scale + offset)

    return change


def _noisy(sigma: float) -> Altered:
    def change(image: UInt8Array) -> UInt8Array:
        return _bytes(image + np.random.default_rng(0).normal(0, sigma, image.shape))

    return change


def _blurred(sigma: float) -> Altered:
    def change(image: UInt8Array) -> UInt8Array:
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))

    return change


def _scaled(factor: float) -> Altered:
    """Imagery of another scale: enlarged, no detail is added; reduced, the tile is mirrored to its size."""

    def change(image: UInt8Array) -> UInt8Array:
        other = resample_image(image, factor)
        if factor > 1:
            return other[: image.shape[0], : image.shape[1]]
        times = round(1 / factor)
        wide = np.concatenate([other if i % 2 == 0 else other[:, ::-1] for i in range(times)], axis=1)
        return np.concatenate([wide if i % 2 == 0 else wide[::-1] for i in range(times)])

    return change


def _enlarged(factor: float) -> Altered:
    def change(image: UInt8Array) -> UInt8Array:
        return resample_image(resample_image(image, 1 / factor), image.shape[:2])

    return change


def _compressed(image: UInt8Array) -> UInt8Array:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=20)
    return np.asarray(Image.open(content))


def _bytes(values: npt.NDArray[np.float64]) -> UInt8Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


ALTERED: dict[str, Altered] = {
    "red and blue swapped": lambda image: image[..., ::-1],
    "red and green swapped": lambda image: image[..., [1, 0, 2]],
    "bands in the order G, B, R": lambda image: image[..., [1, 2, 0]],
    "grey": _grey,
    "inverted": _linear(-1, 255),
    "thick haze (0.4 x + 120)": _linear(0.4, 120),
    "thin haze (0.7 x + 60)": _linear(0.7, 60),
    "under-exposed (0.4 x)": _linear(0.4, 0),
    "over-exposed (1.6 x)": _linear(1.6, 0),
    "noise, sigma 10": _noisy(10),
    "noise, sigma 25": _noisy(25),
    "blur, sigma 1 px": _blurred(1),
    "blur, sigma 2 px": _blurred(2),
    "JPEG of quality 20": _compressed,
    "half the GSD, taken for the model's": _scaled(2),
    "a quarter of the GSD, taken for it": _scaled(4),
    "twice the GSD, taken for it": _scaled(1 / 2),
    "four times the GSD, taken for it": _scaled(1 / 4),
    "twice the GSD, rightly declared": _enlarged(2),
}
"""What is done to held-out imagery, uint8 (H, W, 3) in and out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write JSON."""
    import warnings

    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    parser = argparse.ArgumentParser(prog="python -m landcover.benchmarks.unlike", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder or prepared cache")
    parser.add_argument("--split", required=True, help="with a training and a validation part")
    parser.add_argument("--gsd", type=float, help="metres per pixel of the model, if not the data's")
    parser.add_argument("--images", type=int, default=80, help="held-out images to alter")
    parser.add_argument(
        "--other", nargs=2, action="append", default=[], metavar=("IMAGE", "GSD"), help="other imagery"
    )
    parser.add_argument("--json", type=Path, help="write the results as JSON")
    given = parser.parse_args(arguments)
    if given.json is not None:
        refuse_existing(given.json, force=False)
    others = [(Path(path), float(gsd)) for path, gsd in given.other]
    profile, rows = measure(given.data, given.split, gsd=given.gsd, images=given.images, others=others)
    print(f"{profile.windows} windows learned from; scenes are warned of from {WARN_FRACTION:.0%} on")
    for row in rows:
        warned = f"{row.warned} of {row.scenes}"
        print(f"{row.imagery:38} {100 * row.share:5.1f} % {warned:>9}  {', '.join(row.reasons)}")
    if given.json is not None:
        write_text(given.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
