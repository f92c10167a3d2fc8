"""What training imagery looks like, and whether a scene is unlike it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from commands import invoke
from export_world import reuse_graph, write_run
from fake_runtime import ColourRuntime, make_card
from imagefiles import save_raster
from landcover.config import from_mapping
from landcover.data.synthetic import make_dataset, make_scene
from landcover.errors import ConfigError
from landcover.inference.blocks import ReadLog, joined
from landcover.inference.engine import row_blocks
from landcover.inference.grid import make_grid
from landcover.inference.maps import read_ood
from landcover.inference.reading import ArraySource
from landcover.model.card import read_card, save_model
from landcover.model.runtimes.torch_runtime import TorchRuntime
from landcover.ood.features import FEATURES, window_features, windows
from landcover.ood.profile import (
    LEVELS,
    WARN_FRACTION,
    ImageryProfile,
    OodReport,
    OodStats,
    measure_profile,
    ood_stats,
)
from landcover.training import train
from landcover.training.data import load_training_data, measure_imagery
from landcover.windows import Window
from onnx_models import save_exported
from training_world import tiny

RNG = np.random.default_rng(3)
SIDE = 384


def world(numbers):
    return [make_scene(number, SIDE, SIDE).image for number in numbers]


@pytest.fixture(scope="module")
def seen():
    return world(range(40))


@pytest.fixture(scope="module")
def learned(seen):
    profile = measure_profile(seen)
    assert profile is not None
    return profile


@pytest.fixture(scope="module")
def unseen():
    return world(range(100, 112))


def one_gaussian():
    spread = RNG.normal(size=(len(FEATURES), len(FEATURES)))
    return ImageryProfile(
        windows=100,
        weights=(1.0,),
        means=(tuple(RNG.normal(size=len(FEATURES)).tolist()),),
        covariances=(tuple(map(tuple, (spread @ spread.T + np.eye(len(FEATURES))).tolist())),),
        levels=LEVELS,
        distances=tuple(map(float, range(len(LEVELS)))),
    )


def test_the_features_are_what_they_are_called():
    image = RNG.integers(0, 256, (32, 32, 3)).repeat(5, 0).repeat(6, 1).astype(np.uint8)
    lines = [*image[::8].astype(float), *image[:, ::8].swapaxes(0, 1).astype(float)]
    red, green, blue = (np.concatenate([line[:, channel] for line in lines]) for channel in range(3))
    light, warmth, greenness = (red + 2 * green + blue) / 4, red - blue, green - (red + blue) / 2

    def step(lag):
        lights = [line @ [0.25, 0.5, 0.25] for line in lines]
        return float(np.log(np.concatenate([np.abs(row[lag:] - row[:-lag]) for row in lights]).mean() + 0.5))

    def joint(one, other):
        covariance = np.cov(one, other, bias=True)[0, 1]
        return float(np.arctanh(covariance / ((one.std() + 0.5) * (other.std() + 0.5))))

    slope = np.cov(red - blue, green, bias=True)[0, 1] / (green.std() + 0.5) ** 2
    expected = {
        "light": light.mean(),
        "warmth": warmth.mean(),
        "greenness": greenness.mean(),
        "contrast": np.log(light.std() + 0.5),
        "warmth_spread": np.log(warmth.std() + 0.5),
        "greenness_spread": np.log(greenness.std() + 0.5),
        "roughness": step(4),
        "sharpness": step(1) - step(8),
        "coarseness": step(16) - step(4),
        "red_with_green": joint(red, green),
        "blue_with_green": joint(blue, green),
        "warm_light": slope,
    }
    found = window_features(image)
    assert tuple(expected) == FEATURES
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-4, atol=1e-4)


def test_what_has_no_imagery_counts_for_nothing():
    image = RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    valid = np.ones((128, 128), bool)
    valid[:, 96:] = False
    other = image.copy()
    other[:, 96:] = 0
    np.testing.assert_array_equal(window_features(image, valid), window_features(other, valid))
    assert window_features(image, np.zeros((128, 128), bool)) is None
    valid[:, 60:] = False
    assert list(windows(image, valid)) == []


@pytest.mark.parametrize("value", [0, 77, 255])
def test_imagery_of_one_colour_has_finite_features(value):
    assert np.isfinite(window_features(np.full((64, 64, 3), value, np.uint8))).all()


def test_windows_cover_an_image_evenly_and_once():
    areas = [area for area, _ in windows(np.zeros((700, 300, 3), np.uint8))]
    assert len(areas) == 3
    assert sum(areas) == 700 * 300
    assert list(windows(np.zeros((63, 300, 3), np.uint8))) == []


def test_one_gaussian_is_numpys_covariance_and_mahalanobis_distance():
    images = [RNG.integers(0, 80 + 2 * i, (128, 128, 3), dtype=np.uint8) for i in range(80)]
    profile = measure_profile(images)
    table = np.array([features for image in images for _, features in windows(image)])
    covariance = np.cov(table.T, bias=True)
    covariance += np.diag(0.03 * np.diag(covariance) + 1e-6)
    assert len(profile.weights) == 1
    np.testing.assert_allclose(profile.means[0], table.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(profile.covariances[0], covariance, rtol=1e-5, atol=1e-6)
    apart = table - table.mean(axis=0)
    squares = np.sum(apart @ np.linalg.inv(covariance) * apart, axis=1)
    volume = np.log(np.linalg.det(2 * np.pi * covariance))
    np.testing.assert_allclose(profile.distance(table), squares + volume, rtol=1e-3, atol=1e-2)
    scores = apart / np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(profile.scores(table), scores, rtol=1e-3, atol=1e-3)


def test_the_distance_of_a_mixture_is_that_of_its_density(learned):
    assert len(learned.weights) > 1
    table = np.array([features for _, features in windows(make_scene(7, SIDE, SIDE).image)])
    density = np.zeros(len(table))
    for weight, mean, spread in zip(learned.weights, learned.means, learned.covariances, strict=True):
        apart = table - np.array(mean)
        squares = np.sum(apart @ np.linalg.inv(spread) * apart, axis=1)
        density += weight * np.exp(-squares / 2) / np.sqrt(np.linalg.det(2 * np.pi * np.array(spread)))
    np.testing.assert_allclose(learned.distance(table), -2 * np.log(density), rtol=1e-6)


def test_the_same_images_give_the_same_profile_and_few_give_none(seen):
    images = seen[:15]
    assert measure_profile(images) == measure_profile(iter(images))
    assert measure_profile(images[:14]) is None  # of four windows each
    assert measure_profile([]) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: image[..., ::-1], "bluer|redder"),
        (lambda image: np.repeat(image[..., 1:2], 3, axis=2), "less varied in colour"),
        (lambda image: 255 - image, "green|bluer|redder|brighter"),
        (lambda image: image // 4, "darker"),
        (lambda image: image // 4 + 190, "brighter"),
        (lambda image: np.asarray(Image.fromarray(image).resize((96, 96)).resize((SIDE, SIDE))), "blurrier"),
        (
            lambda image: np.clip(image + RNG.normal(0, 40, image.shape), 0, 255).astype(np.uint8),
            "sharper or noisier|rougher",
        ),
    ],
)
def test_what_looks_unlike_is_told_with_reasons(learned, unseen, change, word):
    altered = [np.ascontiguousarray(change(image)) for image in unseen]
    verdict = sum((ood_stats(learned, image) for image in altered), OodStats()).report()
    assert verdict.share > WARN_FRACTION
    assert any(one in reason for one in word.split("|") for reason in verdict.reasons)


def test_looks_add_up_whatever_the_order():
    looks = [
        OodStats(10, 4, 1, (1500,) * len(FEATURES)),
        OodStats(),
        OodStats(30),
        OodStats(60, 60, 3, (500,) * 12),
    ]
    total = sum(looks, OodStats())
    assert total == sum(reversed(looks), OodStats())
    assert (total.pixels, total.unlike, total.windows) == (100, 64, 4)
    assert total.report().share == 0.64
    assert OodStats().report() is None
    assert OodStats(30).report() == OodReport(0.0)
    assert [OodReport(share).warning("a") is None for share in (0.2999, 0.3)] == [True, False]


def test_the_card_holds_the_profile(tmp_path, learned):
    card = make_card().model_copy(update={"imagery": learned})
    save_model(tmp_path / "m.safetensors", {"a": np.zeros(2)}, card)
    assert read_card(tmp_path / "m.safetensors") == card
    assert read_card(save_exported(tmp_path / "m.onnx", card)) == card


BAD = [
    ({"means": [[0.0]]}, "means must be 1 x 12"),
    ({"means": [[1e400] + [0.0] * 11]}, "finite|expected"),
    ({"covariances": [np.zeros((12, 12)).tolist()]}, "positive definite"),
    ({"covariances": [np.triu(np.ones((12, 12))).tolist()]}, "symmetric"),
    ({"weights": [0.4]}, "sum to 1"),
    ({"features": ["mood", *FEATURES[1:]]}, "expected the features light"),
    ({"levels": [0.5], "distances": [1.0]}, "level"),
    ({"distances": [3.0] * 7 + [1.0]}, "rise"),
    ({"window_px": 8}, "window_px"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_profile_is_refused(change, message):
    good = one_gaussian().model_dump(mode="json")
    assert from_mapping(ImageryProfile, good, "the card").model_dump(mode="json") == good
    with pytest.raises(ConfigError, match=message):
        from_mapping(ImageryProfile, good | change, "the card")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("world"), scenes=22, size=SIDE)


def test_training_records_what_it_learns_from(data, tmp_path):
    train(tiny("steps=1", "gsd=0.5"), data=data, out=tmp_path / "run")
    material = load_training_data(data, "folders", crop_px=32, model_gsd=0.5)
    profile = measure_imagery(material)
    assert profile is not None
    assert read_card(tmp_path / "run").imagery == profile
    images = [material.dataset.read_image(item) for item in material.train]
    assert measure_profile(images) == profile
    coarser = measure_imagery(load_training_data(data, "folders", crop_px=32, model_gsd=1.0))
    assert coarser is None or coarser.windows < profile.windows


def test_export_carries_the_profile_on(exported, tmp_path, monkeypatch, learned):
    from landcover.exporting import export

    reuse_graph(exported, monkeypatch)
    card = exported.reference.card.model_copy(update={"imagery": learned})
    run = write_run(tmp_path / "run", TorchRuntime(exported.reference.module, card))
    assert export(run, tmp_path / "m.onnx").card.imagery == learned
    assert read_card(tmp_path / "m.onnx").imagery == learned


def runtime(profile, window_px=256):
    card = make_card(window_px=window_px, overlap_px=window_px // 4)
    return ColourRuntime(card.model_copy(update={"imagery": profile}))


@pytest.fixture(scope="module")
def large(unseen):
    return np.concatenate([np.concatenate(unseen[i : i + 3], axis=1) for i in (0, 3, 6)])


@pytest.mark.parametrize(("suffix", "map_format"), [(".tif", "cog"), (".png", "png")])
def test_the_command_line_says_it_once_and_resume_says_it_again(suffix, map_format, tmp_path, learned, large):
    model = save_exported(tmp_path / "m.onnx", runtime(learned).card)
    swapped, scene = np.ascontiguousarray(large[..., ::-1]), tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(swapped).save(scene)
    else:
        save_raster(scene, swapped)
    arguments = ["predict", scene, "--model", model, "--out", tmp_path / "out", "--gsd", "1"]
    arguments += ["--map-format", map_format]
    for more in ([], ["--resume"]):
        done = invoke(*arguments, *more, "--json", "-")
        assert done.stderr.count("out of distribution") == 1
        assert json.loads(done.stdout)["maps"][0]["unlike"]["share"] > WARN_FRACTION


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ('{"share": 0.5, "reasons": ["darker"]}', OodReport(0.5, ("darker",))),
        ('{"share": 0.0, "reasons": []}', OodReport(0.0, ())),
        *[(tag, None) for tag in ("", "{}", "[1]", "null", '{"share": 7, "reasons": []}', '{"share": "x"}')],
    ],
)
def test_a_tag_that_others_wrote_says_nothing(tag, told):
    assert read_ood(tag) == told
    harmful = read_ood(json.dumps({"share": 1, "reasons": ["\x1b[2Jdarker"]}))
    assert "\x1b" not in harmful.warning("a.tif")


def test_every_pixel_is_looked_at_once_and_resumed_work_sees_the_same(learned, large):
    model, large = runtime(learned), large[:832, :600]
    grid = make_grid(large.shape[:2], model, window_px=256, overlap_px=64)
    assert len(grid.rows) > 2
    valid = np.ones(large.shape[:2], bool)
    valid[:80, 350:] = False
    for mask, pixels in ((None, large.size // 3), (valid, int(valid.sum()))):
        source = ArraySource(large, mask)
        straight = [block.ood for block in row_blocks(model, source, grid, profile=learned)]
        assert sum(straight, OodStats()).pixels == pytest.approx(pixels, abs=0 if mask is None else 2000)
        for first in (1, len(grid.rows) - 1):
            resumed = [
                block.ood
                for block in row_blocks(
                    model, source, grid, numbers=range(first, len(grid.rows)), profile=learned
                )
            ]
            assert resumed == straight[first:]
    assert all(block.ood == OodStats() for block in row_blocks(model, ArraySource(large), grid))


def test_the_record_of_a_block_is_read_as_it_was_written():
    log = ReadLog((Window(1, 2, 3, 4),), ("a note",), OodStats(10, 4, 1, (-3,) * len(FEATURES)))
    written = json.dumps({"stop": 7, **asdict(log)})
    assert ReadLog.from_record(json.loads(written)) == log
    for other in ({}, [], {"stop": 1, "damaged": [], "notes": [], "ood": []}, None):
        with pytest.raises(ValueError, match="ReadLog"):
            ReadLog.from_record(other)


def test_logs_are_joined_in_any_grouping():
    stats = OodStats(10, 4, 1, (-3,) * len(FEATURES))
    upper = ReadLog((Window(0, 64, 64, 64), Window(0, 0, 64, 64)), ("first", "second"), stats)
    lower = ReadLog((Window(64, 64, 10, 64), Window(70, 0, 4, 64)), ("first",), stats)
    together = joined([upper, lower])
    assert together.damaged == (Window(0, 0, 64, 64), Window(0, 64, 74, 64), Window(70, 0, 4, 64))
    assert together.notes == ("first", "second")
    assert together.ood == stats + stats
    assert joined([together]) == joined([joined([lower]), joined([upper])]) == together


def test_reports_are_graded(learned, unseen):
    """Stronger noise is farther, by the profile's own distances."""
    found = []
    for sigma in (20, 60):
        noise = np.random.default_rng(0).normal(0, sigma, unseen[0].shape)
        altered = np.clip(unseen[0] + noise, 0, 255).astype(np.uint8)
        report = ood_stats(learned, altered).report()
        features = np.array([features for _, features in windows(altered)])
        distance = learned.distance(features)
        median, limit = (learned.distances[learned.levels.index(level)] for level in (0.5, 0.98))
        far = distance[distance > limit]
        assert report.degree == pytest.approx(((far - median) / (limit - median)).mean(), abs=0.01)
        assert f"{report.degree:.1f} times" in report.warning("a.tif")
        found.append(report.degree)
    assert 1 < found[0] < found[1]


def test_a_folder_has_one_line_and_scenes_that_were_not_judged_count(tmp_path, learned, large):
    model = save_exported(tmp_path / "m.onnx", runtime(learned).card)
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(2):
        save_raster(folder / f"{number}.tif", np.ascontiguousarray(large[..., ::-1]))
    save_raster(folder / "small.tif", large[:40, :40])
    done = invoke("predict", folder, "--model", model, "--out", tmp_path / "out", "--gsd", "1", "--json", "-")
    lines = done.stderr.splitlines()
    assert sum("2 of 3 scenes are out of distribution" in line for line in lines) == 1
    assert sum("1 of 3 scenes" in line and "compare" in line for line in lines) == 1
    summary = json.loads(done.stdout)["out_of_distribution"]
    assert summary == {
        "flagged": [str(folder / f"{number}.tif") for number in range(2)],
        "not_judged": 1,
        "profile": True,
    }
