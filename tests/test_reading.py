"""Imagery of data sets is read as in prediction: nodata, alpha, masks, bands and the scaling of values."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from commands import invoke, refusal
from fake_runtime import ContextRuntime, make_card
from imagefiles import PLACE, class_index, photo, save, save_raster
from landcover.config import dump_yaml, load_config
from landcover.data import open_dataset, prepare
from landcover.errors import OutputError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.temperature import labelled_cells
from landcover.inference import PredictOptions, predict
from landcover.inference.model import Model
from landcover.legend import IGNORE
from landcover.model.card import read_card
from landcover.model.preprocessing import Preprocessing, resample_valid
from landcover.raster import Reading
from landcover.raster.bands import band_names
from landcover.training import TrainConfig, train
from landcover.training.batches import BatchReader
from landcover.training.data import load_training_data
from training_world import tiny

SIZE = (96, 80)
COLLAR = np.zeros(SIZE, bool)
COLLAR[:, :30] = True
COLLAR[70:, 50:] = True
BELOW = np.zeros(SIZE, bool)
BELOW[70:] = True
"""Where the images have no data."""
DEGREES = {"crs": "EPSG:4326", "transform": Affine(9e-6, 0, 14, 0, -9e-6, 60)}


def rgb(seed=0, *, fill=0):
    return np.where(COLLAR[..., None], fill, np.maximum(photo(*SIZE, seed=seed), 1)).astype(np.uint8)


def four(image, *, nir=200):
    return np.dstack([image, np.full(SIZE, nir, np.uint8)])


def deep(seed=0):
    """Return 16-bit blue, green, red and infrared, of which 0 to 1020 is scaled to 0 to 255."""
    return four(rgb(seed)[..., ::-1]).astype(np.uint16) * 4


ALPHA = np.where(COLLAR, 0, 255).astype(np.uint8)
RGBN = {"colorinterp": [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]}
MASKED = {"place": True, "mask": ~COLLAR}
WITH_ALPHA = {"place": True, "photometric": "RGB", "alpha": "YES"}
FORMS = {
    "nodata value": ("tif", rgb, {"place": True, "nodata": 0}),
    "alpha": ("tif", lambda i: np.dstack([photo(*SIZE, seed=i), ALPHA]), WITH_ALPHA),
    "mask": ("tif", lambda i: photo(*SIZE, seed=i), MASKED),
    "mask beside infrared": ("tif", lambda i: four(photo(*SIZE, seed=i)), {**MASKED, **RGBN}),
    "degrees": ("tif", rgb, {**DEGREES, "nodata": 0}),
    "without a place": ("tif", rgb, {"nodata": 0}),
    "undeclared fill": ("png", lambda i: np.where(BELOW[..., None], 255, photo(*SIZE, seed=i)), {}),
    "transparent": ("png", lambda i: np.dstack([photo(*SIZE, seed=i), ALPHA]), {}),
}


def write(root, form, images=2):
    suffix, make, options = FORMS[form]
    for i in range(images):
        pixels, path = make(i), root / f"images/{i}.{suffix}"
        save_raster(path, pixels, **options) if suffix == "tif" else save(path, pixels)
        save(root / f"masks/{i}.png", class_index(*SIZE, seed=i))
    degrees = form == "degrees"
    (root / "landcover.yaml").write_text("legend: deepglobe\n" + ("" if degrees else "gsd: 0.6\n"))
    return root


def runtime(**preprocessing):
    card = make_card(gsd=1.0)
    return ContextRuntime(card.model_copy(update={"preprocessing": Preprocessing(1.0, **preprocessing)}))


@pytest.mark.parametrize("form", FORMS)
def test_a_model_and_its_own_maps_have_the_same_score(form, tmp_path):
    root, model = write(tmp_path / "data", form), runtime()
    outside = BELOW if form == "undeclared fill" else COLLAR
    predict([root], model, tmp_path / "maps")
    by_maps = evaluate(root, "all:all", predictions=tmp_path / "maps")
    cache = prepare(root, tmp_path / "cache").dataset
    for data in (root, cache):
        options = EvaluateOptions(calibration=True)
        for report in (
            evaluate(data, "all:all", model=model),
            evaluate(data, "all:all", model=model, options=options),
        ):
            np.testing.assert_array_equal(report.confusion, by_maps.confusion)
            assert report.miou == by_maps.miou
            assert report.pixels == 2 * (~outside).sum()
    item = open_dataset(root).items[0]
    for dataset in (open_dataset(root), cache):
        valid = dataset.read_imagery(item)[1]
        np.testing.assert_array_equal(valid, ~outside)


def test_pixels_without_imagery_change_neither_training_nor_validation_nor_calibration(tmp_path):
    """Whatever is stored there: the same crops, targets, logits and scores."""
    crops, cells, scores = [], [], []
    for fill in (0, 255):
        root = tmp_path / str(fill)
        for part, seed in (("train", 0), ("train", 1), ("val", 2)):
            image = np.dstack([rgb(seed, fill=fill), ALPHA])
            save_raster(root / part / f"images/{seed}.tif", image, place=True, photometric="RGB", alpha="YES")
            save(root / part / f"masks/{seed}.png", class_index(*SIZE, seed=seed))
        (root / "landcover.yaml").write_text("legend: deepglobe\n")
        dataset = prepare(root, tmp_path / f"cache{fill}").dataset
        config = tiny("steps=2", "validation.every_steps=2", "class_balance=0")
        data = load_training_data(dataset, "folders", crop_px=32, model_gsd=None)
        batch = BatchReader(data, config, Preprocessing(1.0)).read(1)
        assert (batch.targets == IGNORE).any()
        crops.append(batch)
        cells.append(labelled_cells(runtime(), dataset, dataset.items))
        result = train(config, data=dataset, out=tmp_path / f"run{fill}")
        scores.append((result.best_miou, read_card(tmp_path / f"run{fill}").scores))
    for one, other in ((crops[0].images, crops[1].images), (crops[0].targets, crops[1].targets), cells):
        if isinstance(one, tuple):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_array_equal(one, other)
    assert scores[0] == scores[1]


def test_resampled_pixels_are_imagery_if_all_their_sources_are():
    valid = np.ones((8, 8), bool)
    valid[0, 0] = False
    assert not resample_valid(valid, (4, 4))[0, 0]
    assert resample_valid(valid, (4, 4))[2:, 2:].all()
    np.testing.assert_array_equal(resample_valid(valid, (8, 8)), valid)


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """Write 16-bit chips of four bands, blue first, and their masks."""
    root = tmp_path_factory.mktemp("chips")
    for part, seed in (("train", 0), ("train", 1), ("val", 2)):
        place = {**PLACE, "transform": PLACE["transform"] @ Affine.translation(1000 * seed, 0)}
        save_raster(root / part / f"images/{seed}.tif", deep(seed), **place, nodata=0)
        save(root / part / f"masks/{seed}.png", class_index(*SIZE, seed=seed))
    (root / "landcover.yaml").write_text("legend: deepglobe\n")
    return root


def test_bands_and_scaling_go_from_the_command_to_card_and_map(chips, tmp_path):
    assert "--scaling" in invoke("verify", chips, status=1).output
    reading = ("--bands", "3,2,1", "--scaling", "0,1020")
    invoke("verify", chips, *reading)
    invoke("prepare", chips, "--out", tmp_path / "cache", *reading)
    cache, folder = (
        open_dataset(tmp_path / "cache"),
        open_dataset(chips, reading=Reading((3, 2, 1), (0, 1020))),
    )
    for dataset in (cache, folder):
        np.testing.assert_array_equal(dataset.read_image(dataset.items[0]), rgb(0))
        np.testing.assert_array_equal(dataset.read_imagery(dataset.items[0])[1], ~COLLAR)
    config = tiny("steps=1", "validation.every_steps=1")
    train(config, data=cache, out=tmp_path / "run")
    card = read_card(tmp_path / "run").preprocessing
    assert (card.band_indices, card.scaling) == ((3, 2, 1), (0, 1020))
    assert card.bands == ("band 3", "band 2", "band 1")
    scene = chips / "val/images/2.tif"
    predict([scene], tmp_path / "run", tmp_path / "default")
    predict([scene], tmp_path / "run", tmp_path / "given", PredictOptions(bands="3,2,1", scaling="0,1020"))
    maps = [(tmp_path / name / "2_mask.tif").read_bytes() for name in ("default", "given")]
    assert maps[0] == maps[1]
    model = Model(runtime(bands=("r", "g", "b"), band_indices=(3, 2, 1), scaling=(0, 1020)))
    expected = Model(runtime()).predict(save_raster(tmp_path / "plain.tif", rgb(2), place=True, nodata=0))
    np.testing.assert_array_equal(model.predict(scene).class_map, expected.class_map)
    report = evaluate(chips, "folders:val", model=tmp_path / "run")  # bands and scaling of the card
    by_maps = evaluate(tmp_path / "cache", "folders:val", model=tmp_path / "run")
    np.testing.assert_array_equal(report.confusion, by_maps.confusion)
    save_raster(tmp_path / "eight.tif", rgb(0), place=True)
    failed = predict([tmp_path / "eight.tif"], model.runtime, tmp_path / "eight").failed
    assert "8-bit" in next(iter(failed.values()))


def test_a_cache_keeps_the_bands_and_the_scaling_it_was_prepared_with(chips, tmp_path):
    reading = Reading((3, 2, 1), (0, 1020))
    assert prepare(chips, tmp_path / "cache", reading=reading).written
    assert not prepare(chips, tmp_path / "cache", reading=reading).written
    other = reading._replace(bands=(4, 3, 2))
    with pytest.raises(OutputError, match="--force"):
        prepare(chips, tmp_path / "cache", reading=other)
    with pytest.raises(UsageError, match="--bands 3,2,1 and --scaling 0,1020"):
        open_dataset(tmp_path / "cache", reading=other)
    (chips / "landcover.yaml").write_text("legend: deepglobe\nbands: [3, 2, 1]\nscaling: [0, 1020]\n")
    assert not prepare(chips, tmp_path / "cache").written
    (chips / "landcover.yaml").write_text("legend: deepglobe\n")
    plain = write(tmp_path / "plain", "nodata value")
    cache = prepare(plain, tmp_path / "plain cache").dataset
    model = runtime(bands=("r", "g", "b"), band_indices=(3, 2, 1))
    with pytest.raises(UsageError, match="--bands 3,2,1"):
        evaluate(cache, "all:all", model=model)


def test_nodata_alpha_and_fill_go_from_the_command_to_cache_and_config(tmp_path):
    data = tmp_path / "data"
    for part, seed in (("train", 0), ("val", 1)):
        save_raster(data / part / f"images/{seed}.tif", rgb(seed, fill=9), place=True)
        save(data / part / f"masks/{seed}.png", class_index(*SIZE, seed=seed))
    (data / "landcover.yaml").write_text("legend: deepglobe\n")
    invoke("prepare", data, "--out", tmp_path / "cache", "--nodata", 9)
    cache = open_dataset(tmp_path / "cache")
    for item in cache.items:
        np.testing.assert_array_equal(cache.read_imagery(item)[1], ~COLLAR)
        assert (cache.read_mask(item)[COLLAR] == 255).all()
    invoke("prepare", data, "--out", tmp_path / "cache", "--nodata", 9)
    assert "--force" in refusal("prepare", data, "--out", tmp_path / "cache")
    with pytest.raises(UsageError, match="--nodata 9"):
        open_dataset(tmp_path / "cache", reading=Reading(nodata=8))
    plain = prepare(data, tmp_path / "kept", reading=Reading(fill="keep")).dataset
    assert plain.read_imagery(plain.items[0])[1] is None
    (tmp_path / "tiny.yaml").write_text(dump_yaml(tiny("steps=1")))
    options = ("--preset", tmp_path / "tiny.yaml", "--data", data, "--nodata", 9, "--alpha", "none")
    invoke("train", *options, "--out", tmp_path / "run")
    inputs = load_config(TrainConfig, tmp_path / "run/config.yaml").inputs
    assert (inputs.nodata, inputs.alpha, inputs.fill) == (9, "none", None)


def test_a_cache_in_which_no_fill_was_searched_is_not_up_to_date(tmp_path):
    source = write(tmp_path / "data", "nodata value")
    assert prepare(source, tmp_path / "cache").written
    assert not prepare(source, tmp_path / "cache").written
    file = tmp_path / "cache/index.json"
    index = json.loads(file.read_text())
    del index["about"]["fill"]
    file.write_text(json.dumps(index))
    assert open_dataset(tmp_path / "cache").items
    with pytest.raises(OutputError, match="--force"):
        prepare(source, tmp_path / "cache")
    assert prepare(source, tmp_path / "cache", force=True).written


def test_bands_are_named_as_in_the_file(tmp_path):
    path = save_raster(tmp_path / "a.tif", deep())
    assert band_names(path, (4, 1, 2)) == ("band 4", "band 1", "band 2")
    assert band_names(tmp_path / "missing.tif", (1, 2, 3)) == ("band 1", "band 2", "band 3")


def test_bands_that_are_guessed_are_reported_once(chips, tmp_path, caplog):
    open_dataset(chips, reading=Reading(scaling=(0, 1020)))
    assert sum("does not name its 4 bands" in record.message for record in caplog.records) == 1
    caplog.clear()
    open_dataset(chips, reading=Reading((3, 2, 1), (0, 1020)))
    assert "bands" not in caplog.text


def test_bands_of_a_model_are_found_by_name_before_number(tmp_path):
    image = photo(*SIZE, seed=2)
    expected = Model(runtime()).predict(save_raster(tmp_path / "plain.tif", image, place=True))
    named = save_raster(tmp_path / "named.tif", image, place=True)
    with rasterio.open(named, "r+") as target:
        target.descriptions = ("red", "green", "blue")
    infrared = save_raster(tmp_path / "infrared.tif", image, place=True)
    with rasterio.open(infrared, "r+") as target:
        target.descriptions = ("NIR", "red", "green")
    unnamed = save_raster(tmp_path / "unnamed.tif", image[..., ::-1], place=True, photometric="MINISBLACK")
    picture = save(tmp_path / "picture.png", image)
    of_colours = Model(runtime(bands=("red", "green", "blue"), band_indices=(3, 2, 1)))
    of_infrared = Model(runtime(bands=("nir", "red", "green"), band_indices=(4, 1, 2)))
    for model, files in ((of_colours, (named, unnamed, picture)), (of_infrared, (infrared,))):
        for file in files:
            got = model.predict(file, gsd=0.5 if file == picture else None).class_map
            np.testing.assert_array_equal(got, expected.class_map, err_msg=file.name)
