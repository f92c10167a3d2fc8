"""Fill: what files do not declare, and the mirrored ground that the network sees in its place."""

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from rasterio.windows import Window as RasterWindow

from imagefiles import PLACE, class_index, cut, photo, save, save_raster, spoil_block
from landcover.data import open_dataset, verify
from landcover.errors import ImageError
from landcover.inference.options import PredictOptions
from landcover.inference.plan import open_imagery, plan
from landcover.legend import DEEPGLOBE, NODATA
from landcover.model.preprocessing import any_within, mirrored, resample_image
from landcover.raster import Reading, open_scene, read_picture
from landcover.raster.fill import find_fill
from landcover.windows import Window


def noise(height=90, width=110, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(40, 200, (height, width, 3)).astype(dtype)


def valid_of(scene):
    strip = scene.read_rows(0, scene.height)
    return np.ones((scene.height, scene.width), bool) if strip.valid is None else strip.valid


@pytest.mark.parametrize("colours", [(0, 17, 255), ((10, 20, 30), (0, 0, 0), (250, 250, 251))])
@pytest.mark.parametrize("seed", range(20))
def test_frames_are_found_whatever_their_depth_and_value(seed, colours):
    rng = np.random.default_rng(seed)
    image = noise(*rng.integers(40, 120, 2) + 130 * isinstance(colours[0], tuple), seed=seed)
    top, bottom, left, right = (int(rng.integers(0, 20)) * int(rng.integers(0, 2)) for _ in range(4))
    height, width = image.shape[:2]
    values = {side: colours[rng.integers(3)] for side in ("top", "bottom", "left", "right")}
    image[:, :left], image[:, width - right :] = values["left"], values["right"]
    image[:top], image[height - bottom :] = values["top"], values["bottom"]
    seen = []

    def read(window):
        seen.append(window.height * window.width)
        return np.moveaxis(image[window.slices], 2, 0)

    fill = find_fill(read, height, width, 16)
    assert fill.inside == Window(top, left, height - top - bottom, width - left - right)
    counts = dict.fromkeys(values, 0)
    for side, value, count in fill.lines:
        counts[side] += count
        assert value in {tuple(np.broadcast_to(colour, 3).tolist()) for colour in values.values()}
    assert counts == {"top": top, "bottom": bottom, "left": left, "right": right}
    if not fill.lines:
        assert sum(seen) <= 4 * (3 + 256)  # corners alone


def test_water_and_snow_that_touch_an_edge_are_imagery():
    image = noise()
    image[:30, :109] = 255  # all of the edge but a pixel
    image[60:, 20:90] = 0
    fill = find_fill(lambda w: np.moveaxis(image[w.slices], 2, 0), 90, 110, 16)
    assert (fill.inside, fill.lines, fill.corners) == (Window(0, 0, 90, 110), (), ((255, 255, 255),))


@pytest.mark.parametrize(
    ("value", "depth", "width", "rows"),
    [((0, 255, 0), 20, 127, 0), ((0, 255, 0), 20, 128, 20), (0, 5, 15, 0), (0, 5, 16, 5)],
)
def test_one_value_along_a_short_edge_is_no_fill(value, depth, width, rows):
    """It may be water or a roof in a small image; of a colour more pixels are wanted."""
    image = noise(90, width)
    image[:depth] = value
    fill = find_fill(lambda w: np.moveaxis(image[w.slices], 2, 0), 90, width, 16)
    assert fill.inside == Window(rows, 0, 90 - rows, width)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("rows", "found"), [(40, 40), (41, 0), (90, 0), (160, 0)])
def test_a_colour_in_a_large_part_is_flat_water(rows, found, turns):
    sea = noise(160, 160)
    sea[:rows] = 0, 38, 89
    image = np.rot90(sea, turns)
    fill = find_fill(lambda w: np.moveaxis(image[w.slices], 2, 0), 160, 160, 16)
    assert [count for _, _, count in fill.lines] == [found] * (found > 0)
    assert fill.corners == (((0, 38, 89),) if not found else ())


@pytest.mark.parametrize("form", ["png", "tif"])
def test_labelled_ground_of_one_colour_is_kept_and_what_is_not_is_reported(tmp_path, form):
    for number in range(2):
        image, classes = noise(180, 170, seed=number), np.full((180, 170, 3), 255, np.uint8)
        image[:40] = 0, 38, 89
        classes[:40] = 0, 0, 255
        if number:
            image[:, 160:] = 255
        path = tmp_path / f"images/{number}.{form}"
        save_raster(path, image, place=True) if form == "tif" else save(path, image)
        save(tmp_path / f"masks/{number}.png", classes)
    dataset = open_dataset(tmp_path, legend=DEEPGLOBE, gsd=0.5)
    water = DEEPGLOBE.names.index("water")
    first, second = (dataset.labels(item).index for item in dataset.items)
    assert np.array_equal(first == water, np.arange(180)[:, None] < np.full(170, 40))
    assert np.array_equal(second != NODATA, np.tile(np.arange(170) < 160, (180, 1)))
    (note,) = verify(dataset).notes
    assert f"1 of 2 images, most of all images/1.{form}" in note
    assert "2.9 % of all pixels" in note


@pytest.mark.parametrize("form", ["tif", "png", "jpg"])
def test_a_mask_is_read_beside_a_damaged_image_that_has_imagery_everywhere(tmp_path, form):
    """The edges of a raster tell, and with --fill keep the header of a picture."""
    path, index = tmp_path / f"images/a.{form}", class_index(512, 512)
    path.parent.mkdir()
    if form == "tif":
        tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
        spoil_block(save_raster(path, photo(512, 512), place=True, **tiles), 3, 4)
    else:
        cut(save(path, photo(512, 512)), -2000)
    save(tmp_path / "masks/a.png", DEEPGLOBE.colours[index])
    reading = Reading(fill="nodata" if form == "tif" else "keep")
    dataset = open_dataset(tmp_path, legend=DEEPGLOBE, gsd=0.5, reading=reading)
    (item,) = dataset.items
    with pytest.raises(ImageError, match=r"a\."):
        dataset.read_imagery(item)
    assert np.array_equal(dataset.labels(item).index, index)
    assert dataset.class_pixels(item).sum() == 512 * 512


@pytest.mark.parametrize(("mode", "form"), [("LA", "png"), ("RGBA", "webp"), ("P", "png")])
def test_masks_are_nodata_where_a_picture_is_transparent_whatever_the_fill(tmp_path, mode, form):
    image = Image.fromarray(photo(32, 32)).convert(mode)
    hidden, options = np.eye(32, dtype=bool), {"lossless": True} if form == "webp" else {}
    if mode == "P":
        hidden, options = np.asarray(image) < 128, {"transparency": bytes([0] * 128 + [255] * 128)}
    else:
        image.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    (tmp_path / "images").mkdir()
    image.save(tmp_path / f"images/a.{form}", **options)
    save(tmp_path / "masks/a.png", DEEPGLOBE.colours[class_index(32, 32)])
    dataset = open_dataset(tmp_path, legend=DEEPGLOBE, gsd=0.5, reading=Reading(fill="keep"))
    assert np.array_equal(dataset.labels(dataset.items[0]).index == NODATA, hidden)


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 255), ("int16", -9999), ("uint16", 65535), ("float32", -1)]
)
@pytest.mark.parametrize("profile", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_fill_is_nodata_reported_and_not_in_percentiles(tmp_path, dtype, value, profile):
    image = noise(dtype=dtype)
    image[:, 80:] = value
    path = save_raster(tmp_path / "a.tif", image, place=True, **profile)
    with open_scene(path, scaling="percentile") as scene:
        expected = np.zeros(image.shape[:2], bool)
        expected[:, :80] = True
        assert np.array_equal(valid_of(scene), expected)
        low, high = np.percentile(image[:, :80], (2, 98))
        strip = scene.read_rows(0, 90).image[:, :80]
        exact = np.clip((image[:, :80].astype(float) - low) * 255 / (high - low), 0, 255)
        assert np.abs(strip - exact).max() <= 1
        assert any(str(value) in note and "--fill" in note for note in scene.warnings)
    with open_scene(path, scaling="percentile", fill="keep") as scene:
        assert valid_of(scene).all()
        assert not scene.warnings


@pytest.mark.parametrize("form", ["tif", "png"])
@pytest.mark.parametrize("kind", ["a collar of a colour", "an alpha of 255 everywhere"])
def test_fill_is_nodata_and_reported_in_rasters_and_pictures(tmp_path, form, kind):
    image, options, profile = noise(180, 170), {}, {}
    if kind.startswith("a collar"):
        image[:, :40] = image[150:] = 10, 20, 30
        counts = ("30 at the bottom ((10, 20, 30))", "40 at the left")
        options = {"bands": (3, 2, 1)}  # in another order than those of the file
    else:
        image[:30] = 7
        counts = ("30 at the top",)
        profile = {"photometric": "rgb", "alpha": "yes"}
    expected = (image != image[0, 0]).any(axis=2)
    if profile:
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    if form == "tif":
        with open_scene(save_raster(tmp_path / "a.tif", image, place=True, **profile), **options) as scene:
            found, notes = valid_of(scene), scene.warnings
    else:
        _, found, notes = read_picture(save(tmp_path / "a.png", image), max_pixels=10**6)
    assert np.array_equal(found, expected)
    assert any(all(count in note for count in counts) for note in notes)


@pytest.mark.parametrize(
    ("value", "options", "advice"),
    [
        (-9999, {}, "--nodata -9999"),
        ((-9999, 5, 7), {}, '-srcnodata "-9999 5 7"'),
        ((-9999, 5, 7), {"place": False}, "--alpha"),
        ((-9999, 5, 7, 9), {"bands": (3, 2, 1)}, "--alpha"),
    ],
)
def test_corners_of_one_value_are_reported_and_not_in_percentiles(tmp_path, value, options, advice):
    bands, place = options.get("bands"), options.get("place", True)
    image = noise(dtype="int16")
    image = image if bands is None else np.dstack([image, image[..., :1]])
    image[:20, :20] = value
    path = save_raster(tmp_path / "a.tif", image, place=place)
    with open_scene(path, scaling="percentile", bands=bands) as scene:
        assert valid_of(scene).all()
        assert any(advice in note for note in scene.warnings)
        assert scene.read_rows(40, 90).image.std() > 50


@pytest.mark.parametrize("declared", ["nodata value", "alpha"])
def test_where_anything_is_declared_no_other_value_is_fill(tmp_path, declared):
    image, valid = noise(), np.ones((90, 110), bool)
    image[:30] = 7
    options = {"nodata": 0}
    if declared == "alpha":
        valid[40:60, 40:60] = False
        image, options = np.dstack([image, valid * np.uint8(255)]), {"photometric": "rgb", "alpha": "yes"}
    with open_scene(save_raster(tmp_path / "a.tif", image, place=True, **options)) as scene:
        assert np.array_equal(valid_of(scene), valid)


def test_a_nodata_value_of_zero_is_declared(tmp_path):
    image = noise()
    image[:30], image[70:] = 0, 7
    path = save_raster(tmp_path / "a.tif", image, place=True)
    with open_scene(path, nodata=0) as scene:
        assert np.array_equal(valid_of(scene), (image != 0).any(axis=2))
        assert not scene.warnings
    near = np.dstack([image, noise(seed=1)[..., 0]])  # tagged alpha, but no mask
    options = {"photometric": "rgb", "alpha": "yes", "nodata": 0}
    with open_scene(save_raster(tmp_path / "b.tif", near, place=True, **options)) as scene:
        assert np.array_equal(valid_of(scene), (image != 0).any(axis=2))


def test_blocks_that_were_never_written_are_nodata(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 96, "width": 100, "tiled": True}
    image = np.moveaxis(noise(48, 100), 2, 0)
    with rasterio.open(path, "w", blockxsize=16, blockysize=16, sparse_ok=True, **profile, **PLACE) as target:
        target.write(image[:, :, :48], window=RasterWindow(0, 0, 48, 48))
        target.write(image[:, :, 64:], window=RasterWindow(64, 0, 36, 48))
    expected = np.zeros((96, 100), bool)
    expected[:48, :48] = expected[:48, 64:] = True
    with open_scene(path) as scene:
        assert np.array_equal(valid_of(scene), expected)
        assert any("3 blocks" in note for note in scene.warnings)  # the others are whole rows
        assert any("48 at the bottom" in note for note in scene.warnings)


def test_a_scene_of_one_value_is_all_nodata(tmp_path):
    with open_scene(
        save_raster(tmp_path / "a.tif", np.full((40, 50, 3), 255, np.uint8), place=True)
    ) as scene:
        assert not valid_of(scene).any()
        assert any("255" in note for note in scene.warnings)


def test_damage_is_still_found_where_fill_was_looked_for(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(200, 120)).save(path, quality=95)
    (tmp_path / "a.jgw").write_text("0.5\n0\n0\n-0.5\n500000\n5700000\n")
    path.write_bytes(path.read_bytes()[:4000])
    with open_scene(path) as scene:
        assert not valid_of(scene)[-1].any()
        assert scene.damaged
        assert not any("corners" in note for note in scene.warnings)  # of GDAL's grey below the damage


def test_pictures_have_fill_too(tmp_path):
    image = noise()
    image[70:] = 255
    path = save(tmp_path / "a.png", image)
    (task,) = plan([path], tmp_path / "maps", PredictOptions(gsd=1, nodata=255), model_gsd=1)
    with open_imagery(task, PredictOptions(gsd=1, nodata=255), 1) as imagery:
        assert np.array_equal(valid_of(imagery.source), (image != 255).any(axis=2))
    for fill, count in (("nodata", 20 * 110), ("keep", 0)):
        options = PredictOptions(gsd=1, fill=fill)
        (task,) = plan([path], tmp_path / "maps", options, model_gsd=1)
        with open_imagery(task, options, 1) as imagery:
            valid = imagery.source.valid
            assert (0 if valid is None else np.count_nonzero(~valid)) == count
            assert bool(imagery.source.warnings) == (count > 0)


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def picture(shape):
    """uint8 (H, W, 3), every pixel of another colour."""
    number = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.stack([number % 251 + 1, number // 251 + 1, np.full(shape, 9)], -1).astype(np.uint8)


@given(hnp.arrays(bool, SHAPES))
def test_imagery_stays_and_the_rest_is_made_of_imagery(valid):
    image = picture(valid.shape)
    image[~valid] = 0
    filled = mirrored(image, valid)
    np.testing.assert_array_equal(filled[valid], image[valid])
    if valid.any():
        known = {tuple(pixel) for pixel in image[valid]}
        assert {tuple(pixel) for pixel in filled.reshape(-1, 3)} <= known


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("width", "missing"), [(9, 1), (9, 3), (9, 5), (9, 7), (60, 33)])
def test_beyond_an_edge_stands_what_numpy_calls_symmetric(width, missing, turns):
    """Also where more is missing than there is, to and fro, and where an image is long and narrow."""
    ground = picture((3, width))[:, : width - missing]
    valid = np.ones((3, width), bool)
    valid[:, width - missing :] = False
    image = np.pad(ground, ((0, 0), (0, missing), (0, 0)))
    filled = mirrored(np.rot90(image, turns), np.rot90(valid, turns))
    expected = np.pad(ground, ((0, 0), (0, missing), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(filled, np.rot90(expected, turns))


def test_the_nearer_edge_is_taken():
    image = np.zeros((7, 7, 3), np.uint8)
    image[:, :2], image[:2] = 10, 20
    valid = (image > 0).all(-1)
    filled = mirrored(image, valid)
    assert filled[5, 2, 0] == 10
    assert filled[2, 5, 0] == 20


def test_nothing_is_shown_where_nothing_is():
    image = picture((4, 5))
    assert mirrored(image, np.zeros((4, 5), bool)) is image
    assert mirrored(image, np.ones((4, 5), bool)) is image


@given(hnp.arrays(bool, SHAPES), st.integers(1, 20), st.integers(0, 1))
def test_a_pixel_is_whole_if_all_that_it_is_resampled_from_is(missing, length, axis):
    """By the resampling itself: what is missing leaves a trace of its brightness."""
    shape = list(missing.shape)
    step, shape[axis] = shape[axis] / length, length
    found = any_within(missing, slice(0, length), step, 0, axis)
    bright = np.repeat(np.where(missing, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
    seen = resample_image(bright, (shape[0], shape[1]))[..., 0] > 0
    assert not (seen & ~found).any()
    assert found.shape == tuple(shape)


@given(st.integers(2, 40), st.integers(1, 40))
def test_no_more_is_missing_than_the_filter_reaches(length, pixels):
    step = length / pixels
    missing = np.zeros((length, 1), bool)
    missing[length // 2] = True
    found = np.flatnonzero(any_within(missing, slice(0, pixels), step, 0, 0))
    centre = (found + 0.5) * step
    assert (np.abs(centre - length // 2 - 0.5) < max(step, 1) + 0.5).all()


def test_a_part_is_as_in_the_whole():
    missing = np.random.default_rng(0).random((40, 3)) < 0.2
    whole = any_within(missing, slice(0, 17), 40 / 17, 0, 0)
    part = any_within(missing[9:30], slice(5, 11), 40 / 17, 9, 0)
    np.testing.assert_array_equal(part, whole[5:11])
