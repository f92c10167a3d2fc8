"""Overlap of evaluated images with the training images, from fingerprints in the card."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fake_runtime import ColourRuntime, make_card
from landcover.data import open_dataset, prepare, select
from landcover.data.fingerprints import hash_file, hash_pixels, image_set
from landcover.errors import OutputError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.overlap import training_overlap
from landcover.model.card import ImageSet, UsedImages
from training_world import write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("overlap") / "data")


def write_scenes(root):
    """Write six training tiles of three scenes; of two validation tiles one is in the first of them."""
    write_pairs(root, train_images=6)
    rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(6)]
    rows += ["validation,0000,s0,1,0", "validation,0001,s9,0,0"]
    (root / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]) + "\n")
    return root


def card_of(dataset, split, **other):
    """Return the card of a model that was trained on a subset of the data."""
    training = None if split is None else image_set(dataset, select(dataset, split))
    return make_card().model_copy(update={"used_images": UsedImages(training=training, **other)})


def overlap_of(data, split, card):
    dataset = open_dataset(data)
    return training_overlap(card, dataset, select(dataset, split))


@pytest.mark.parametrize(
    ("trained", "scored", "status", "identical", "same_scene"),
    [
        ("folders:train", "folders:train", "identical image found", 6, 0),
        ("folders:train", "all", "identical image found", 6, 1),
        ("folders:train", "folders:validation", "scene of the training data found", 0, 1),
        ("scenes-k3@0:train", "scenes-k3@0:val", "no overlap", 0, 0),
        (None, "all", "not recorded", None, None),
    ],
)
def test_the_status_is_what_the_fingerprints_and_scenes_prove(
    data, tmp_path, trained, scored, status, identical, same_scene
):
    card = card_of(open_dataset(data), trained)
    overlap = overlap_of(data, scored, card)
    assert (overlap.status, overlap.identical, overlap.same_scene) == (status, identical, same_scene)
    cache = prepare(data, tmp_path / "cache").dataset
    assert card_of(cache, trained).used_images == card.used_images
    assert training_overlap(card, cache, select(cache, scored)) == overlap


def test_an_image_is_recognised_whatever_its_name_format_and_folder(data, tmp_path):
    card = card_of(open_dataset(data), "folders:train")
    other = tmp_path / "other"
    for number, change in enumerate(("copy", "lossless", "new")):
        source = data / f"train/000{number}_sat.jpg"
        (other / "val").mkdir(parents=True, exist_ok=True)
        pixels = open_dataset(data).read_image(select(open_dataset(data), "folders:train")[number])
        if change == "copy":
            shutil.copy(source, other / "val/x_sat.jpg")
        else:
            Image.fromarray(pixels ^ (change == "new")).save(other / f"val/{change}_sat.png")
        name = "x" if change == "copy" else change
        shutil.copy(data / f"train/000{number}_mask.png", other / f"val/{name}_mask.png")
    (other / "landcover.yaml").write_text("gsd: 1.0\n")
    overlap = overlap_of(other, "folders:val", card)
    assert (overlap.status, overlap.identical, overlap.images) == ("identical image found", 2, 3)
    assert overlap.same_scene is None  # no scene table here


def test_no_overlap_is_claimed_only_if_all_scenes_are_known_from_one_table(data, tmp_path):
    card = card_of(open_dataset(data), "scenes-k3@0:train")
    training = card.used_images.training
    assert training is not None

    def status(**changes):
        used = UsedImages(training=training.model_copy(update=changes))
        return overlap_of(data, "scenes-k3@0:val", card.model_copy(update={"used_images": used})).status

    assert status() == "no overlap"
    assert status(unplaced=1) == "no identical image found"
    assert status(scenes={**training.scenes, "0" * 16: ("s0",)}) == "no identical image found"
    assert status(scenes={"0" * 16: ("s0", "s1", "s2", "s9")}) == "no identical image found"
    assert status(complete=False) == "not recorded"
    # The same ids in another table are other scenes; without a table nothing is known of scenes.
    for table in ("part,id,scene,row,col\n" + "validation,0000,s0,7,7\n", None):
        copy = shutil.copytree(data, tmp_path / str(table is None))
        (copy / "scenes.csv").unlink() if table is None else (copy / "scenes.csv").write_text(table)
        found = overlap_of(copy, "folders:validation", card_of(open_dataset(data), "folders:train"))
        assert (found.status, found.same_scene) == ("no identical image found", None)


def test_images_that_chose_weights_or_temperature_are_counted_and_warned_of(data):
    dataset = open_dataset(data)
    validation = image_set(dataset, select(dataset, "folders:validation"))
    card = card_of(dataset, "scenes-k3@0:train", selection=validation, calibration=validation)
    runtime = ColourRuntime(card)
    for calibration in (False, True):
        result = evaluate(
            data, "folders:validation", model=runtime, options=EvaluateOptions(calibration=calibration)
        )
        overlap = result.training_overlap
        assert (overlap.selection, overlap.calibration) == (2, 2)
        text = " ".join(result.warnings)
        assert "weights of the model in memory were chosen by their scores on 2 of the 2" in text
        assert ("temperature of the model in memory was fitted on 2 of the 2" in text) == calibration


def test_the_union_of_two_models_has_the_images_of_both(data):
    dataset = open_dataset(data)
    train, validation = (image_set(dataset, select(dataset, f"folders:{p}")) for p in ("train", "validation"))
    both = train | validation
    assert both == image_set(dataset, dataset.items)
    assert not (both | ImageSet(complete=False)).complete
    assert ImageSet.model_validate_json(both.model_dump_json()) == both
    text = json.loads(both.model_dump_json())
    assert len(text["pixels"]) < 8 * 8 * 4 / 3 + 4  # base64 of 8 bytes an image
    with pytest.raises(ValueError, match="multiple of 8 bytes"):
        ImageSet.model_validate({"pixels": "AAAA"})


def test_a_fingerprint_is_of_bytes_pixels_and_shape(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert hash_file(tmp_path / "f").hex() == "ba7816bf8f01cfea"  # SHA-256 of "abc", FIPS 180-2
    image = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    hashes = {hash_pixels(image), hash_pixels(image.reshape(6, 2, 3)), hash_pixels(image[:, ::-1])}
    assert len(hashes) == 3
    assert hash_pixels(np.asfortranarray(image)) in hashes


def test_a_cache_of_the_first_version_has_the_same_fingerprints(data, tmp_path):
    """It records files, not pixels, whose fingerprints are made when asked for; prepare makes it again."""
    new = prepare(data, tmp_path / "cache").dataset
    index = json.loads((tmp_path / "cache/index.json").read_text())
    for entry in index["items"]:
        del entry["pixels_hash"]
    del index["about"]["scene_table"], index["about"]["fill"]
    (tmp_path / "cache/index.json").write_text(json.dumps(index))
    old = open_dataset(tmp_path / "cache")
    assert [old.fingerprint(item) for item in old.items] == [new.fingerprint(item) for item in new.items]
    assert old.scene_table is None
    assert old.reading.fill == "keep"  # none was searched
    with pytest.raises(OutputError, match="--force"):
        prepare(data, tmp_path / "cache")
    assert prepare(data, tmp_path / "cache", force=True).dataset.index == new.index
    assert open_dataset(tmp_path / "cache").scene_table == new.scene_table


def test_a_folder_of_maps_has_no_model(data, tmp_path):
    shutil.copytree(data, tmp_path / "maps")
    assert evaluate(data, "all", predictions=tmp_path / "maps").training_overlap is None
