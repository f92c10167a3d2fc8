"""What runs are made from: data sets, config.yaml and --extend; and the scores of the kept weights."""

import json
import logging

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from commands import invoke, refusal
from imagefiles import photo, save, save_raster
from landcover.config import dump_yaml, load_config
from landcover.data import open_dataset, prepare, split
from landcover.data.dataset import combine
from landcover.data.fingerprints import fingerprints, image_set
from landcover.data.splits import separated_neighbours
from landcover.errors import ConfigError, SplitError, UsageError
from landcover.legend import NODATA, LandClass, Legend
from landcover.model.card import read_card
from landcover.training import TrainConfig, runs, train
from landcover.training.data import load_training_data
from training_world import assert_same_tensors, tiny, write_pairs

FIRST = Legend("one", tuple(LandClass(name, (i, 1, 1)) for i, name in enumerate("abc")), None)
SECOND = Legend("two", tuple(LandClass(name, (i, 2, 2)) for i, name in enumerate(["?", "c", "a"])), 0)
UTM = CRS.from_epsg(32633)
INDEX = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3


def folder(root, legend, *, gsd=1, seed=0):
    for part in ("train", "val"):
        save(root / part / "images/1.png", photo(8, 8, seed=seed))
        save(root / part / "masks/1.png", INDEX)
    (root / "landcover.yaml").write_text(json.dumps({"gsd": gsd, "legend": legend.to_dict()}))
    return root


def test_several_data_sets_are_one_in_the_legend_of_the_first(tmp_path):
    paths = [folder(tmp_path / "x", FIRST), folder(tmp_path / "y", SECOND, seed=3)]
    data = combine([open_dataset(path) for path in paths])
    assert [item.key for item in data.items] == [f"{n}/{p}/images/1" for n in "xy" for p in ("train", "val")]
    expected = {"x": INDEX, "y": np.choose(INDEX, [NODATA, 2, 0])}
    for item in data.items:
        np.testing.assert_array_equal(data.read_mask(item), expected[item.key[0]])
        np.testing.assert_array_equal(data.labels(item).index, expected[item.key[0]])
        np.testing.assert_array_equal(data.read_image(item), photo(8, 8, seed=3 * (item.key[0] == "y")))
    assert {part: len(items) for part, items in split(data, "folders").items()} == {"train": 2, "val": 2}
    assert len(image_set(data, data.items).pixels) == 2
    same = combine([open_dataset(folder(tmp_path / f"{i}/x", FIRST)) for i in range(2)])
    assert {item.key.split("/")[0] for item in same.items} == {"x-1", "x-2"}
    with pytest.raises(UsageError, match="b, which the first"):
        combine([open_dataset(path) for path in paths[::-1]])
    with pytest.raises(UsageError, match=r"x has 1 m per pixel, .*z 2"):
        combine([open_dataset(path) for path in (paths[0], folder(tmp_path / "z", FIRST, gsd=2))])


@pytest.mark.parametrize("name", ["folders", "kfold-2@0"])
def test_a_data_set_without_a_subset_of_the_others_is_refused(tmp_path, name):
    one = folder(tmp_path / "x", FIRST)
    for number in range(2):
        save(one / f"train/images/{number}.png", photo(8, 8, seed=number))
        save(one / f"train/masks/{number}.png", INDEX)
    save(tmp_path / "flat/images/1.png", photo(8, 8, seed=9))
    save(tmp_path / "flat/masks/1.png", INDEX)
    (tmp_path / "flat/landcover.yaml").write_text((one / "landcover.yaml").read_text())
    data = combine([open_dataset(one), open_dataset(tmp_path / "flat")])
    with pytest.raises(SplitError, match="flat") as error:
        split(data, name)
    assert "--split" in str(error.value)
    assert str(one) not in str(error.value)


def test_scenes_are_joined_across_data_sets(tmp_path):
    at = {"x": (0, 100), "y": (4, 300)}  # the first chips overlap
    for name, offsets in at.items():
        for number, offset in enumerate(offsets):
            grid = Affine.translation(5e5 + offset, 55e5) @ Affine.scale(1, -1)
            image = photo(8, 8, seed=offset)
            save_raster(tmp_path / name / f"images/{number}.tif", image, crs=UTM, transform=grid)
            save(tmp_path / name / f"masks/{number}.png", INDEX)
        settings = json.dumps({"legend": FIRST.to_dict()})
        (tmp_path / name / "landcover.yaml").write_text(settings)
    sources = [open_dataset(tmp_path / name) for name in at]
    data = combine(sources)
    assert {len({tile.scene for tile in source.scenes.values()}) for source in sources} == {2}
    scene_of = {key.replace("images/", ""): tile.scene for key, tile in data.scenes.items()}
    assert scene_of["x/0"] == scene_of["y/0"]
    assert len(set(scene_of.values())) == 3
    for fold in range(3):
        assert separated_neighbours(data, split(data, f"scenes-k3@{fold}")) == []
    table = "id,scene,row,col\n" + "".join(f"images/{number},s,0,{number}\n" for number in (0, 1))
    (tmp_path / "x/scenes.csv").write_text(table)  # what it joins stays joined
    data = combine([open_dataset(tmp_path / name) for name in at])
    assert len({tile.scene for tile in data.scenes.values()}) == 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write data and a run that others start from."""
    root = tmp_path_factory.mktemp("world")
    write_pairs(root / "data")
    write_pairs(root / "more", train_images=2)
    config = tiny("steps=2", "validation.every_steps=2")
    (root / "tiny.yaml").write_text(dump_yaml(config), encoding="utf-8")
    train(config, data=root / "data", out=root / "first")
    return root


def test_config_yaml_reproduces_a_run_with_its_data_split_and_start(world, tmp_path):
    run = tmp_path / "run"
    arguments = ("--data", world / "data", "--data", world / "more", "--init", world / "first")
    settings = ("--preset", world / "tiny.yaml", "--set", "gsd=1.5", "--set", "model.dropout=0.25")
    invoke("train", *arguments, *settings, "--split", "folders", "--gsd", 1, "--out", run)
    inputs = load_config(TrainConfig, run / "config.yaml").inputs
    assert (inputs.data, inputs.split) == ((str(world / "data"), str(world / "more")), "folders")
    assert (inputs.init, inputs.data_gsd) == (str(world / "first"), 1)
    assert inputs.command.startswith("landcover")
    invoke("train", "--preset", run / "config.yaml", "--out", tmp_path / "again")
    assert_same_tensors(run / "best.safetensors", tmp_path / "again/best.safetensors")
    assert_same_tensors(run / "last.safetensors", tmp_path / "again/last.safetensors")
    assert "inputs" not in read_card(run).recipe
    invoke("train", "--preset", run / "config.yaml", "--data", world / "data", "--out", tmp_path / "other")
    assert load_config(TrainConfig, tmp_path / "other/config.yaml").inputs.data == (str(world / "data"),)


def test_config_yaml_is_refused_for_data_that_have_changed(world, tmp_path):
    data = write_pairs(tmp_path / "data")
    config = ("--preset", world / "tiny.yaml", "--set", "steps=1", "--data", data, "--out", tmp_path / "run")
    invoke("train", *config)
    write_pairs(tmp_path / "data", train_images=5)
    again = ("--preset", tmp_path / "run/config.yaml", "--out", tmp_path / "again")
    assert str(data) in refusal("train", *again, error=UsageError)
    assert not (tmp_path / "again/config.yaml").exists()
    invoke("train", *again, "--data", data)


@pytest.mark.parametrize("changed", ["sat.jpg", "mask.png"])
def test_images_and_masks_with_other_pixels_are_other_data(world, tmp_path, changed):
    data = write_pairs(tmp_path / "data")
    config = ("--preset", world / "tiny.yaml", "--data", data, "--out", tmp_path / "run")
    invoke("train", *config, "--set", "steps=1")
    flip(next(data.rglob(f"*{changed}")))
    again = ("--preset", tmp_path / "run/config.yaml", "--out", tmp_path / "again")
    assert "content_digest" in refusal("train", *again, error=UsageError)
    assert "differs in data_content" in refusal("train", *config, "--set", "steps=1", error=ConfigError)
    text = (tmp_path / "run/config.yaml").read_text()
    lines = [line for line in text.splitlines(keepends=True) if "content_digest" not in line]
    assert len(lines) == text.count("\n") - 1
    (tmp_path / "older.yaml").write_text("".join(lines))
    invoke("train", "--preset", tmp_path / "older.yaml", "--out", tmp_path / "older")


def flip(path):
    """Replace an image or mask by its mirror image: the same size and class counts."""
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


@pytest.mark.parametrize("changed", ["two training images", "a validation image", "a validation mask"])
def test_the_content_is_the_image_and_mask_of_each_item_of_both_subsets(tmp_path, monkeypatch, changed):
    data = write_pairs(tmp_path / "data")
    before = load_training_data(data, "folders", crop_px=32, model_gsd=None)
    cache = prepare(data, tmp_path / "cache").dataset
    of_cache = load_training_data(cache, "folders", crop_px=32, model_gsd=None)
    assert of_cache.content_digest == before.content_digest
    if changed == "two training images":
        one, two = (data / f"train/000{number}_sat.jpg" for number in range(2))
        pixels = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(pixels)
    else:
        flip(data / f"validation/0000_{'sat.jpg' if changed.endswith('image') else 'mask.png'}")
    after = load_training_data(data, "folders", crop_px=32, model_gsd=None)
    assert after.digest == before.digest
    assert after.content_digest != before.content_digest
    known = [after.dataset.fingerprint(item) for item in after.validation]
    monkeypatch.setattr(type(after.dataset), "read_imagery", lambda *_: pytest.fail("decoded again"))
    assert fingerprints(after.dataset, after.validation) == known


def test_an_image_that_changes_is_hashed_again_by_an_open_data_set(tmp_path):
    dataset = open_dataset(write_pairs(tmp_path / "data"))
    item = dataset.items[0]
    before = dataset.fingerprint(item)
    flip(item.image)
    after = dataset.fingerprint(item)
    assert after.file != before.file
    assert after.pixels != before.pixels


def test_a_cache_of_an_old_version_is_hashed_once(tmp_path, monkeypatch):
    new = prepare(write_pairs(tmp_path / "data"), tmp_path / "cache").dataset
    index = json.loads((tmp_path / "cache/index.json").read_text())
    for entry in index["items"]:
        entry["pixels_hash"] = None
    (tmp_path / "cache/index.json").write_text(json.dumps(index))
    old = open_dataset(tmp_path / "cache")
    assert fingerprints(old, old.items) == fingerprints(new, new.items)
    monkeypatch.setattr(type(old), "read_imagery", lambda *_: pytest.fail("read again"))
    assert fingerprints(old, old.items) == fingerprints(new, new.items)


@pytest.mark.parametrize("content", [{}, {"data_content": "0" * 64}], ids=["none", "of an earlier form"])
def test_runs_without_a_digest_of_each_item_are_resumed(world, tmp_path, monkeypatch, content):
    config, original = load_config(TrainConfig, world / "tiny.yaml"), runs.run_identity
    earlier_inputs = config.inputs.model_copy(update={"content_digest": content.get("data_content")})
    config = config.model_copy(update={"inputs": earlier_inputs})
    with monkeypatch.context() as earlier:
        earlier.setattr(
            runs,
            "run_identity",
            lambda *a, **k: {n: v for n, v in original(*a, **k).items() if n != "data_content"} | content,
        )
        train(config, data=world / "data", out=tmp_path / "run")
    saved = runs.read_checkpoint(tmp_path / "run/last.safetensors")[1]
    assert saved.get("data_content") == content.get("data_content")
    longer = config.model_copy(update={"steps": 4})
    train(longer, data=world / "data", out=tmp_path / "run", resume="extend")
    progress, identity = runs.read_checkpoint(tmp_path / "run/last.safetensors")
    assert progress.step == 4
    assert identity["data_content"].startswith("items:")


def test_config_yaml_holds_for_another_folder_and_the_limit_of_masks(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    arguments = ("--preset", "tiny.yaml", "--data", "data", "--init", "first", "--max-off-palette", 0.5)
    invoke("train", *arguments, "--out", tmp_path / "run")
    inputs = load_config(TrainConfig, tmp_path / "run/config.yaml").inputs
    assert (inputs.data, inputs.init) == ((str(world / "data"),), str(world / "first"))
    assert inputs.max_off_palette == 0.5


def test_values_of_a_file_that_init_replaces_are_named(world, tmp_path, caplog):
    (tmp_path / "wide.yaml").write_text(
        dump_yaml(tiny("model.aspp_channels=16", "steps=1")), encoding="utf-8"
    )
    caplog.set_level(logging.WARNING)
    start = ("--data", world / "data", "--init", world / "first", "--out", tmp_path / "run")
    invoke("train", "--preset", tmp_path / "wide.yaml", *start)
    assert f"model of {tmp_path / 'wide.yaml'}" in caplog.text


def test_a_finished_run_is_extended_to_another_limit(world, tmp_path):
    data, run = world / "data", tmp_path / "run"
    settings = ("validation.every_steps=2", "schedule.name=constant")
    train(tiny("steps=2", *settings), data=data, out=run)
    longer = tiny("steps=4", *settings)
    with pytest.raises(ConfigError, match="--extend"):
        train(longer, data=data, out=run)
    with pytest.raises(ConfigError, match="seed"):
        train(tiny("steps=4", "seed=3", *settings), data=data, out=run, resume="extend")
    result = train(longer, data=data, out=run, resume="extend")
    assert (result.step, result.reason) == (4, "limit")
    assert load_config(TrainConfig, run / "config.yaml").steps == 4
    train(longer, data=data, out=tmp_path / "whole")
    assert_same_tensors(run / "last.safetensors", tmp_path / "whole/last.safetensors")
    with pytest.raises(UsageError, match="no run to extend"):
        train(longer, data=data, out=tmp_path / "none", resume="extend")


def test_a_start_from_a_model_of_the_validation_images_is_reported(world, tmp_path, caplog):
    everything = tiny("steps=1", "validation.every_steps=1")
    train(everything, data=world / "data", out=tmp_path / "all", split="all")
    caplog.clear()
    train(everything, data=world / "data", out=tmp_path / "run", init=tmp_path / "all")
    assert "Identical image found" in caplog.text
    assert "2 of the 2 images" in caplog.text
    caplog.clear()
    train(everything, data=world / "data", out=tmp_path / "clean", init=world / "first")
    assert "Identical image found" not in caplog.text


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_reported_score_is_that_of_the_kept_weights(world, tmp_path, keep):
    config = tiny(
        "steps=4", "validation.every_steps=2", f"validation.keep={keep}", "optimiser.learning_rate=1.0"
    )
    result = train(config, data=world / "data", out=tmp_path)
    card = read_card(tmp_path)
    assert result.kept_miou == card.scores[0]["miou"]
    assert card.provenance["step"] == (result.best_step if keep == "best" else 4)


@pytest.mark.parametrize(("key", "words"), [("epochs", "--steps"), ("lr", "optimiser.learning_rate")])
def test_keys_of_other_tools_get_a_hint(key, words):
    assert words in refusal("train", "--show-config", "--set", f"{key}=3")
