"""Models of four bands: from chips of 16 bits to a cache, a run, an exported file and a map."""

import json

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.enums import ColorInterp

from commands import invoke, refusal
from export_world import convert_once
from imagefiles import PLACE, photo, save, save_raster
from landcover import Model, PredictOptions, UsageError, open_model, predict
from landcover.data import open_dataset
from landcover.errors import ConfigError, ImageError, ModelError
from landcover.exporting import ExportOptions, export
from landcover.io import read_image
from landcover.model._compat import timm
from landcover.model.card import read_card
from landcover.model.encoders import build_encoder, fit_first_layer, load_encoder_weights
from landcover.model.files import read_tensors
from landcover.model.preprocessing import Preprocessing, resample_image
from landcover.page import build_page
from landcover.raster import Reading, open_scene
from landcover.training import train
from landcover.training.batches import draw_colours, vary_texture
from landcover.training.config import AugmentConfig
from landcover.values import BandSelection
from training_world import tiny, write_pairs

SIDE = 64
adapt_input_conv = timm.models.adapt_input_conv
NAMES = ("red", "green", "blue", "nir")


@pytest.fixture(autouse=True)
def converted_once(monkeypatch):
    """Two tests export one run."""
    convert_once(monkeypatch)


def chip(seed):
    """Return uint16 (H, W, 4), blue first, and ids from 1: only infrared, which is last, shows the class."""
    rng = np.random.default_rng(seed)
    index = np.kron(rng.integers(1, 3, (4, 4)), np.ones((16, 16), int)).astype(np.uint8)
    bands = rng.integers(400, 600, (SIDE, SIDE, 4)).astype(np.uint16)
    bands[..., 3] = np.where(index == 1, 300, 2700) + rng.integers(0, 100, index.shape)
    return bands, index


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write chips with their legend, prepare them and train by the command line."""
    root = tmp_path_factory.mktemp("bands")
    for number in range(8):
        bands, index = chip(number)
        place = {**PLACE, "transform": PLACE["transform"] @ Affine.translation(1000 * number, 0)}
        folder = root / "chips" / ("val" if number >= 6 else "train")
        save_raster(folder / f"images/{number}.tif", bands, **place)
        name_bands(folder / f"images/{number}.tif", NAMES[2::-1] + NAMES[3:])
        save(folder / f"masks/{number}.png", index)
    legend = {"name": "two", "classes": [{"name": n, "values": [i]} for i, n in ((1, "water"), (2, "crop"))]}
    for entry, colour in zip(legend["classes"], ([0, 0, 255], [0, 255, 0]), strict=True):
        entry["colour"] = colour
    (root / "chips/landcover.yaml").write_text(json.dumps({"legend": legend}))
    reading = ("--bands", "3,2,1,4", "--scaling", "0,3000")
    invoke("prepare", root / "chips", *reading, "--out", root / "cache")
    return root


def name_bands(path, names):
    with rasterio.open(path, "r+") as target:
        target.descriptions = names


SETTINGS = tiny(
    *("model.in_channels=4", "steps=150", "batch_size=4", "ema_decay=0", "model.dropout=0"),
    *("optimiser.learning_rate=0.01", "validation.every_steps=150", "augment.saturation=0"),
)


@pytest.fixture(scope="module")
def run(world):
    """Train until infrared alone gives the classes."""
    folder = world / "run"
    train(SETTINGS, data=open_dataset(world / "cache"), out=folder)
    return folder


def test_a_cache_holds_all_bands_in_the_order_given(world):
    cache = open_dataset(world / "cache")
    expected = np.rint(chip(0)[0][..., [2, 1, 0, 3]] * (255 / 3000)).astype(np.uint8)
    np.testing.assert_array_equal(cache.read_image(cache.items[0]), expected)


def test_a_class_that_only_infrared_shows_is_mapped_by_name_before_number(world, run, tmp_path):
    card = read_card(run)
    assert card.model.in_channels == 4
    assert card.preprocessing.bands == NAMES
    assert card.preprocessing.band_indices == (3, 2, 1, 4)
    assert len(card.preprocessing.mean) == 4
    assert card.scores[0]["miou"] > 0.75
    bands, index = chip(7)
    for name, order in (("same", [0, 1, 2, 3]), ("other", [3, 0, 1, 2])):
        scene = save_raster(tmp_path / f"{name}.tif", bands[..., order], place=True)
        name_bands(scene, [(NAMES[2::-1] + NAMES[3:])[i] for i in order])
        assert not predict([scene], run, tmp_path / "maps").failed
    maps = [rasterio.open(tmp_path / f"maps/{name}_mask.tif").read(1) for name in ("same", "other")]
    np.testing.assert_array_equal(*maps)
    assert (maps[0] == index - 1).mean() > 0.85
    scene = save_raster(tmp_path / "plain.tif", bands, place=True)  # no names: by number
    assert not predict([scene], run, tmp_path / "maps").failed
    np.testing.assert_array_equal(rasterio.open(tmp_path / "maps/plain_mask.tif").read(1), maps[0])
    invoke("evaluate", "--data", world / "chips", "--split", "folders:val", "--model", run)
    pixels = np.rint(np.clip(bands[..., [2, 1, 0, 3]] * (255 / 3000), 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(open_model(run).predict(pixels, gsd=0.5).class_map, maps[0])


def test_bands_named_otherwise_are_taken_by_number_with_a_warning(run, tmp_path):
    scene = save_raster(tmp_path / "a.tif", chip(7)[0], place=True)
    name_bands(scene, ("coastal", "blue", "green", "red"))
    found = predict([scene], run, tmp_path / "maps")
    assert any("coastal" in note and "nir" in note for note in found.maps[0].warnings)
    given = predict([scene], run, tmp_path / "given", PredictOptions(bands="3,2,1,4"))
    assert not any("coastal" in note for note in given.maps[0].warnings)


@pytest.mark.parametrize("bands", ["3,2,1", "3,2,1,4,4"])
def test_another_number_of_bands_is_refused_with_the_number_expected(world, run, tmp_path, bands):
    scene = world / "chips/val/images/7.tif"
    with pytest.raises(UsageError, match="4 bands: red, green, blue, nir"):
        predict([scene], run, tmp_path / "maps", PredictOptions(bands=bands))
    arguments = ("--data", world / "chips", "--split", "folders:val", "--bands", bands, "--scaling", "0,3000")
    assert "--bands" in refusal("evaluate", *arguments, "--model", run)
    with pytest.raises(UsageError, match="4"):
        open_model(run).predict(np.zeros((64, 64, 3), np.uint8), gsd=0.5)
    few = save_raster(tmp_path / "three.tif", chip(0)[0][..., :3], place=True)
    assert "has 3 bands" in next(iter(predict([few], run, tmp_path / "few").failed.values()))


def test_data_and_network_of_different_bands_are_refused(world, tmp_path):
    with pytest.raises(UsageError, match=r"model.in_channels=4"):
        train(tiny(), data=open_dataset(world / "cache"), out=tmp_path / "a")
    rgb = write_pairs(tmp_path / "rgb")
    with pytest.raises(UsageError, match=r"4 numbers as --bands"):
        train(tiny("model.in_channels=4"), data=rgb, out=tmp_path / "b")
    with pytest.raises(ConfigError):
        tiny("model.in_channels=2")


def test_a_model_of_three_bands_is_fine_tuned_to_four(world, tmp_path):
    train(tiny("steps=1"), data=write_pairs(tmp_path / "rgb"), out=tmp_path / "three")
    config = tiny("steps=1", "model.in_channels=4", "optimiser.learning_rate=1e-12", "ema_decay=0")
    data = open_dataset(world / "cache")
    train(config, data=data, out=tmp_path / "four", init=tmp_path / "three")
    one, two = (read_tensors(tmp_path / name / "best.safetensors") for name in ("three", "four"))
    (first,) = (name for name in one if one[name].shape[1:2] == (3,) and one[name].ndim == 4)
    expected = adapt_input_conv(4, torch.from_numpy(one[first])).numpy()
    np.testing.assert_allclose(two[first], expected, atol=1e-6)
    with pytest.raises(ModelError, match=r"model.in_channels=4"):
        train(tiny("steps=1"), data=tmp_path / "rgb", out=tmp_path / "back", init=tmp_path / "four")
    with pytest.raises(ModelError, match="takes 3 bands"):
        train(
            config.model_copy(update={"teachers": (str(tmp_path / "three"),)}),
            data=data,
            out=tmp_path / "taught",
        )


@pytest.mark.parametrize("bands", [4, 6, 7])
def test_pretrained_first_layers_are_repeated_by_the_rule_of_timm(tmp_path, bands):
    three = build_encoder("test_efficientnet", 32)
    weights = torch.from_numpy(np.random.default_rng(bands).normal(size=(8, 3, 3, 3)).astype(np.float32))
    expected = adapt_input_conv(bands, weights)
    torch.testing.assert_close(fit_first_layer(weights, torch.empty(8, bands, 3, 3)), expected)
    assert fit_first_layer(weights, torch.empty(8, 3, 3, 3)) is weights
    from safetensors.torch import save_file

    save_file(three.body.state_dict(), tmp_path / "e.safetensors")
    encoder = build_encoder("test_efficientnet", 32, bands)
    load_encoder_weights(encoder, tmp_path / "e.safetensors")
    assert encoder(torch.zeros(1, bands, 64, 64))[0].shape[1] == three.low_channels


def test_exported_it_gives_the_same_classes_and_the_page_refuses_it(world, run, tmp_path):
    exported = export(run, tmp_path / "m.onnx")
    assert exported.card.preprocessing.bands == NAMES
    pixels = np.random.default_rng(5).integers(0, 256, (1, 96, 80, 4), np.uint8)
    found = [
        open_model(tmp_path / "m.onnx", runtime=name).runtime.probabilities(pixels)
        for name in ("openvino", "onnxruntime")
    ]
    expected = open_model(run).runtime.probabilities(pixels)
    for probabilities in found:
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    with pytest.raises(ModelError, match=r"red, green, blue, nir.*RGB"):
        build_page(tmp_path / "m.onnx")
    scene, store = world / "chips/val/images/7.tif", tmp_path / "store"
    invoke("fleet", "plan", scene, "--model", tmp_path / "m.onnx", "--out", store)


def test_a_run_with_bands_is_resumed_and_not_with_others(world, run):
    before = (run / "best.safetensors").read_bytes()
    train(SETTINGS, data=open_dataset(world / "cache"), out=run)
    assert (run / "best.safetensors").read_bytes() == before
    for change, named in (({"bands": BandSelection((1, 2, 3, 4))}, "bands"), ({"nodata": 0.0}, "nodata")):
        reading = Reading(bands=BandSelection((3, 2, 1, 4)), scaling=(0.0, 3000.0))._replace(**change)
        with pytest.raises(ConfigError, match=named):
            train(SETTINGS, data=open_dataset(world / "chips", reading=reading), out=run)


def test_hue_and_saturation_change_red_green_and_blue_alone():
    prepared = Preprocessing(
        1, (0.0,) * 4, (1.0,) * 4, ("nir", "blue", "red", "green"), band_indices=(1, 2, 3, 4)
    )
    config = AugmentConfig(hue=0.5, saturation=0.9)
    matrix = draw_colours(np.random.default_rng(1), config, prepared)
    assert matrix.shape == (4, 5)
    np.testing.assert_allclose(matrix[0], np.eye(5)[0] / 255, atol=1e-9)
    np.testing.assert_allclose(matrix[1:, 0], 0, atol=1e-9)
    three = Preprocessing(1, (0.0,) * 3, (1.0,) * 3)
    alone = draw_colours(np.random.default_rng(1), config, three)
    np.testing.assert_allclose(matrix[np.ix_([2, 3, 1], [2, 3, 1])], alone[:, :3], atol=1e-9)
    gains = draw_colours(np.random.default_rng(1), AugmentConfig(channel_gain=0.5), prepared)
    assert len(set(np.diag(gains[:, :4]).round(7))) == 4


@pytest.mark.parametrize("seed", range(6))
def test_the_texture_of_further_bands_varies_as_that_of_grey_pictures(seed):
    image = np.repeat(np.random.default_rng(9).integers(0, 256, (40, 40, 1), np.uint8), 4, axis=2)
    found = vary_texture(np.random.default_rng(seed), image, 32, 0.7)
    assert found.shape[2] == 4
    alone = vary_texture(np.random.default_rng(seed), image[..., :3], 32, 0.7)
    np.testing.assert_array_equal(found[..., :3], alone)
    np.testing.assert_allclose(found[..., 3].astype(int), alone[..., 0], atol=3)  # JPEG's colour transform


@pytest.mark.parametrize("size", [(31, 20), (90, 77), (17, 120)])
def test_each_of_four_bands_is_resampled_as_alone(size):
    image = np.random.default_rng(3).integers(0, 256, (60, 50, 4), np.uint8)
    found = resample_image(image, size)
    for band in range(4):
        alone = resample_image(np.repeat(image[..., band : band + 1], 3, axis=2), size)
        np.testing.assert_array_equal(found[..., band], alone[..., 0])


def test_infrared_tagged_alpha_that_is_read_is_not_a_mask(run, tmp_path):
    bands, _ = chip(7)
    bands[..., 3] = np.where(bands[..., 3] > 1000, 65535, 0)
    scene = save_raster(
        tmp_path / "a.tif", bands[..., [2, 1, 0, 3]], place=True, photometric="RGB", alpha="YES"
    )
    found = predict([scene], run, tmp_path / "maps", PredictOptions(bands="1,2,3,4"))
    assert not found.failed
    assert (rasterio.open(tmp_path / "maps/a_mask.tif").read(1) != 255).all()
    assert isinstance(open_model(run), Model)


def test_white_as_0_and_few_bits_are_not_read_as_8_bit_imagery(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    save_raster(tmp_path / "inverted.tif", grey, place=True, photometric="miniswhite")
    save_raster(tmp_path / "four.tif", grey // 16, place=True, nbits=4)
    for name, words in (("inverted.tif", "MINISWHITE"), ("four.tif", "4-bit")):
        with pytest.raises(ImageError, match=words):
            open_scene(tmp_path / name)
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)
    with open_scene(tmp_path / "four.tif", scaling=(0, 15)) as scene:
        assert np.array_equal(scene.read_rows(0, 40).image[..., 0], grey // 16 * 17)


@pytest.mark.parametrize(
    ("profile", "kinds", "name"),
    [
        ({}, (ColorInterp.hue, ColorInterp.saturation, ColorInterp.lightness), "HSL"),
        ({}, (ColorInterp.Y, ColorInterp.Cb, ColorInterp.Cr), "YCbCr"),
        ({"photometric": "cielab"}, None, "CIELAB"),
    ],
)
def test_other_colours_than_rgb_are_refused(tmp_path, profile, kinds, name):
    path = save_raster(tmp_path / "a.tif", photo(40, 50), place=True, **profile)
    if kinds is not None:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = kinds
    for read in (open_scene, read_image):
        with pytest.raises(ImageError, match=f"is {name}; expected RGB"):
            read(path)


def test_a_scaling_of_declared_units_is_refused_with_that_of_stored_values(tmp_path):
    values = photo(40, 50).astype(np.uint16) * 10 + 1000
    path = save_raster(tmp_path / "a.tif", values, place=True)
    with pytest.raises(ImageError, match=r"0,0\.25; expected the stored values that become 0 and 255\.$"):
        open_scene(path, scaling=(0, 0.25))
    with rasterio.open(path, "r+") as file:
        file.scales = (0,) * 3
    with pytest.raises(ImageError, match=r"become 0 and 255\.$"):
        open_scene(path, scaling=(0, 0.25))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4,) * 3, (-0.1,) * 3
    with pytest.raises(ImageError, match=r"--scaling 1000,3500\."):
        open_scene(path, scaling=(0, 0.25))
    open_scene(path, scaling=(1000, 3500)).close()


def test_int8_of_four_bands_is_calibrated_and_gives_the_classes_of_the_run(world, run, tmp_path):
    cache = world / "cache"
    options = ExportOptions(
        int8=True, calibration=f"{cache}:folders:train", min_agreement=0.9, no_speed_gate="a test"
    )
    export(run, tmp_path / "m.onnx", data=cache, split="folders:val", options=options)
    int8 = open_model(tmp_path / "m.onnx")
    assert (int8.card.precision, int8.card.preprocessing.bands) == ("int8", NAMES)
    dataset = open_dataset(cache)
    image = dataset.read_image(dataset.items[0])[None]
    with_nir, without = image, image.copy()
    without[..., 3] = 128
    expected = open_model(run).runtime.probabilities(with_nir).argmax(axis=1)
    assert (int8.runtime.probabilities(with_nir).argmax(axis=1) == expected).mean() > 0.95
    assert (int8.runtime.probabilities(without).argmax(axis=1) != expected).mean() > 0.2
