"""Near copies of training images in held-out subsets are found: recompressed, resized, flipped and turned."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from imagefiles import save
from landcover.data import verify
from landcover.data.leakage import near_copies, perceptual_hashes
from landcover.data.synthetic import make_scene
from landcover.legend import DEEPGLOBE

SCENES = [make_scene(seed, 96, 96).image for seed in range(6)]


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer))


def half(image):
    return np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))


COPIES = {
    "recompressed": jpeg,
    "resized": half,
    "flipped": lambda image: image[:, ::-1],
    "turned": np.rot90,
    "all": lambda image: half(jpeg(np.rot90(image)[::-1])),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_and_other_images_are_not(change, tmp_path):
    for part, images in {"train": SCENES[:3], "val": [*SCENES[3:], COPIES[change](SCENES[1])]}.items():
        for i, image in enumerate(images):
            image = np.ascontiguousarray(image)
            save(tmp_path / part / f"images/{i}.png", image)
            save(tmp_path / part / f"masks/{i}.png", np.zeros(image.shape[:2], np.uint8))
    settings = {"gsd": 1, "legend": DEEPGLOBE.to_dict()}
    (tmp_path / "landcover.yaml").write_text(json.dumps(settings))
    found = [(leak.a, leak.b) for leak in verify(tmp_path).leaks if leak.kind == "near-copy"]
    assert found == [("train/images/1", "val/images/3")]


def test_images_of_one_subset_and_of_one_grey_value_are_not_compared():
    hashes = {str(i): perceptual_hashes(SCENES[0]) for i in range(3)}
    assert near_copies(hashes, dict.fromkeys(hashes, "train")) == []
    assert near_copies(hashes, {"0": "train", "1": "train", "2": "val"}) == [("0", "2"), ("1", "2")]
    assert perceptual_hashes(np.full((9, 9, 3), 7, np.uint8)) is None


def test_the_eight_hashes_are_those_of_the_eight_orientations():
    square = SCENES[0]
    own = perceptual_hashes(square)
    assert own.shape == (8, 128)
    assert set(np.unique(own)) == {-1, 1}
    for turned in (np.rot90(square), square[:, ::-1], square[::-1].swapaxes(0, 1)):
        other = perceptual_hashes(np.ascontiguousarray(turned))
        assert min((own[0] != each).sum() for each in other) <= 4
