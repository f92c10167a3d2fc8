"""Scenes read by strips: pixels, holes, parts, scaling, damage, addresses, hostile headers."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio._env import get_gdal_config
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from imagefiles import UTM, photo, save, save_lossless, save_palette, save_raster, spoil_block
from landcover.errors import DataError, ImageError, MissingExtraError, UsageError
from landcover.legend import DEEPGLOBE
from landcover.raster import (
    Georeference,
    Place,
    display_name,
    open_scene,
    read_header,
    write_map,
)
from landcover.raster import scene as scene_module
from landcover.raster.bands import choose_bands, to_bytes
from landcover.windows import Window

COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000)
RNG = np.random.default_rng(0)


def write(path, bands, **profile):
    """Write (bands, H, W) as a GeoTIFF of 64 px tiles."""
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    return save_raster(path, np.moveaxis(bands, 0, -1), place=True, **(blocks | profile))


def rgb(height=150, width=170):
    return RNG.integers(1, 256, (3, height, width), dtype=np.uint8)


def read_all(scene, rows=41):
    """The part of the scene by strips of so many rows: image, and what of it is valid and wanted."""
    row, col, height, width = scene.part
    tops = range(row, row + height, rows)
    read = [scene.read_rows(top, min(top + rows, row + height), slice(col, col + width)) for top in tops]
    valid = [np.ones(s.image.shape[:2], bool) if s.valid is None else s.valid for s in read]
    valid = [v if s.wanted is None else v & s.wanted for v, s in zip(valid, read, strict=True)]
    return np.concatenate([s.image for s in read]), np.concatenate(valid)


@pytest.mark.parametrize("rows", [1, 41, 64, 150])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_strips_put_together_are_the_scene(tmp_path, rows, interleave):
    bands = rgb()
    with open_scene(write(tmp_path / "a.tif", bands, interleave=interleave)) as scene:
        image, valid = read_all(scene, rows)
        assert scene.read_rows(0, 9).valid is None
        assert (scene.height, scene.width, scene.frame.gsd) == (150, 170, 0.5)
        assert scene.place == scene.frame == Georeference(150, 170, NORTH_UP, UTM)
        assert (scene.damaged, scene.warnings) == ([], [])
        assert scene.name == str(tmp_path / "a.tif")
        for start, stop in ((0, 151), (5, 5), (-1, 3)):
            with pytest.raises(ValueError, match="of 150 rows"):
                scene.read_rows(start, stop)
    assert np.array_equal(image, np.moveaxis(bands, 0, -1))
    assert image.flags.c_contiguous
    assert valid.all()


@pytest.mark.parametrize("suffix", ["png", "webp", "jp2"])
def test_pictures_of_other_formats_are_scenes_too(tmp_path, suffix):
    image = photo(150, 170)
    with open_scene(save_lossless(tmp_path / f"a.{suffix}", image)) as scene:
        assert np.array_equal(read_all(scene)[0], image)


def test_a_jpeg_is_read_from_the_top(tmp_path):
    image = photo(300, 170)
    with open_scene(save(tmp_path / "a.jpg", image, quality=95)) as scene:
        read = read_all(scene)[0]
        assert scene.place.georeference is None
        assert scene.place.gsd is None
        assert scene.warnings == [f"{tmp_path / 'a.jpg'} is not georeferenced: it has no position."]
    assert np.abs(read.astype(int) - image).mean() < 4


def bytes_read():
    """Of this thread alone: another test's may not have ended."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/thread-self/io").exists(), reason="counts what the system counts")
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_every_block_is_read_once(tmp_path, monkeypatch, interleave):
    """With no more cache than two rows of blocks, strips that do not fit in blocks, and a mask by nodata."""
    monkeypatch.setattr(scene_module, "_SMALL_CACHE", 1)
    monkeypatch.setattr(scene_module, "_ROWS", 1)
    blocks = {"blockxsize": 128, "blockysize": 128, "nodata": 0, "interleave": interleave}
    path = write(tmp_path / "a.tif", rgb(1280, 1000), **blocks)
    with open_scene(path) as scene:
        before = bytes_read()
        image, _ = read_all(scene, 90)
        assert 0.9 < (bytes_read() - before) / path.stat().st_size < 1.1
    assert image.any()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://user:secret@example.org/a.tif?sig=secret", "https://example.org/a.tif"),
        ("https://user:se@cret@example.org/a.tif", "https://example.org/a.tif"),
        ("https://example.org/a@2x.tif", "https://example.org/a@2x.tif"),
        ("/vsicurl/https://user:secret@example.org/a.tif?sig=a@b", "/vsicurl/https://example.org/a.tif"),
        ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("/maps//a@b?.tif", "/maps//a@b?.tif"),
        (Path("maps") / "a.tif", "maps/a.tif"),
    ],
)
def test_names_for_people_tell_no_secret(given, shown):
    assert display_name(given) == shown


def test_an_address_that_cannot_be_told_tells_no_secret():
    with pytest.raises(DataError, match=r"'https://example\.org/a\.tif' has control characters") as error:
        open_scene("https://user:secret@example.org/a.tif?sig=secret\n")
    assert "secret" not in str(error.value)


def test_colours_are_found_by_their_names(tmp_path):
    bands = RNG.integers(1, 256, (4, 30, 40), dtype=np.uint8)
    kinds = (ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    path = write(tmp_path / "a.tif", bands, photometric="minisblack", colorinterp=kinds)
    with open_scene(path) as scene:
        assert np.array_equal(read_all(scene)[0], np.moveaxis(bands[[3, 2, 1]], 0, -1))
        assert scene.warnings == []
    with open_scene(path, bands=(1, 1, 2)) as scene:
        assert np.array_equal(read_all(scene)[0], np.moveaxis(bands[[0, 0, 1]], 0, -1))


@pytest.mark.parametrize(
    ("count", "taken", "note"),
    [
        (1, [0, 0, 0], None),
        (2, [0, 0, 0], "two bands; band 1"),
        (3, [0, 1, 2], None),
        (5, [0, 1, 2], "1, 2, 3"),
    ],
)
def test_bands_without_names(tmp_path, count, taken, note):
    bands = RNG.integers(1, 256, (count, 30, 40), dtype=np.uint8)
    with open_scene(write(tmp_path / "a.tif", bands, photometric="minisblack")) as scene:
        assert np.array_equal(read_all(scene)[0], np.moveaxis(bands[taken], 0, -1))
        assert len(scene.warnings) == (note is not None)
        assert note is None or (note in scene.warnings[0] and "--bands" in scene.warnings[0])


@pytest.mark.parametrize("count", [2, 4])
def test_alpha_is_no_colour(tmp_path, count):
    bands = RNG.integers(1, 256, (count, 30, 40), dtype=np.uint8)
    bands[-1], bands[-1, :7] = 255, 0
    profile = {"photometric": "rgb" if count == 4 else "minisblack", "alpha": "yes"}
    with open_scene(write(tmp_path / "a.tif", bands, **profile)) as scene:
        image, valid = read_all(scene)
        assert scene.warnings == []
    assert np.array_equal(image[..., 1], bands[0 if count == 2 else 1])
    assert np.array_equal(valid, bands[-1] > 0)


ALPHA_OF = {
    "alpha and nodata value": (4, {"alpha": "yes", "photometric": "rgb", "nodata": 0}),
    "alpha of five bands": (5, {"colorinterp": (*COLOURS, ColorInterp.undefined, ColorInterp.alpha)}),
    "mask and nodata value": (3, {"nodata": 0, "masked": True}),
    "nodata by option": (3, {"option": {"nodata": 0}, "masked": True}),
    "alpha by option": (4, {"photometric": "minisblack", "option": {"alpha": 4, "nodata": 0}}),
}


@pytest.mark.parametrize("case", ALPHA_OF.values(), ids=ALPHA_OF)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_no_imagery_is_the_union_of_alpha_mask_and_nodata(tmp_path, case, dtype):
    count, profile = case
    bands = RNG.integers(1, 256, (count, 30, 40)).astype(dtype)
    bands[:3, 20:25] = 0
    inside = np.ones((30, 40), bool)
    inside[:7] = False
    profile = dict(profile)
    option = profile.pop("option", {})
    if profile.pop("masked", False):
        profile["mask"] = inside
    else:
        bands[-1] = np.where(inside, np.iinfo(dtype).max, 0)
    inside = inside & ((bands[:3] != 0).any(axis=0) if "nodata" in {**profile, **option} else True)
    scaling = None if dtype == "uint8" else (0.0, 255.0)
    with open_scene(write(tmp_path / "a.tif", bands, **profile), scaling=scaling, **option) as scene:
        image, valid = read_all(scene)
    assert np.array_equal(valid, inside)
    assert np.array_equal(image, np.moveaxis(bands[:3], 0, -1))


@pytest.mark.parametrize("rows", [slice(10, 20), slice(0, 24)])
def test_near_infrared_that_is_tagged_alpha_is_not_a_mask(tmp_path, rows):
    bands = RNG.integers(40, 200, (4, 30, 40), dtype=np.uint8)
    bands[3, rows] = 0  # water
    path = write(tmp_path / "a.tif", bands, photometric="rgb", alpha="yes")
    with open_scene(path) as scene:
        assert read_all(scene)[1].all()
        assert "band 4" in scene.warnings[0]
        assert "--alpha 4" in scene.warnings[0]
    with open_scene(path, alpha=4) as scene:
        assert np.array_equal(read_all(scene)[1], bands[3] > 0)
        assert scene.warnings == []
    bands[3] = np.where(bands[3] > 0, 255, 0)
    with open_scene(write(path, bands, photometric="rgb", alpha="yes"), alpha="none") as scene:
        assert read_all(scene)[1].all()
    with pytest.raises(ImageError, match=r"4 bands.*band 5.*--alpha"):
        open_scene(path, alpha=5)


@pytest.mark.parametrize(
    ("names", "taken", "note"),
    [
        (("blue", "green", "red", "nir"), (3, 2, 1), ()),
        (("B02 (Blue)", "B03 (Green)", "B05 Red edge", "B04 (Red)"), (4, 2, 1), ()),
        (("B02", "B03", "B04"), (3, 2, 1), ()),
        (("B2", "B3", "B4", "B8"), (3, 2, 1), ()),
        (("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5"), (4, 3, 2), ("Landsat", "--bands")),
        (("B1", "B2", "B3", "B4", "B8A"), (4, 3, 2), ()),
        (("B1 Blue", "B2 Green", "B3 Red"), (3, 2, 1), ()),
        (("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"), (6, 4, 2), ()),
        (("blue", "green", "red", "red_edge", "nir"), (3, 2, 1), ()),
        (("Blue", "Green", "Red", "red-edge 1"), (3, 2, 1), ()),
        (("nir", "red", "green"), (1, 2, 3), ("nir, red, green", "1, 2, 3", "--bands")),
        (("Band 1", "Band_2", "3"), (1, 2, 3), ()),
        (("N", "B", "G", "R"), (4, 3, 2), ()),
        (("Blau", "Grün", "Rot"), (1, 2, 3), ("Blau, Grün, Rot", "1, 2, 3", "--bands")),
    ],
)
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])  # which GDAL also invents
def test_names_of_sensors_tell_the_colours_or_are_listed(tmp_path, names, taken, note, photometric):
    bands = RNG.integers(1, 256, (len(names), 20, 30), dtype=np.uint8)
    path = write(tmp_path / "a.tif", bands, photometric=photometric)
    with rasterio.open(path, "r+") as target:
        target.descriptions = names
    with open_scene(path) as scene:
        assert np.array_equal(read_all(scene)[0], np.moveaxis(bands[[n - 1 for n in taken]], 0, -1))
        assert len(scene.warnings) == bool(note)
        assert all(fact in scene.warnings[0] for fact in note)


def test_ground_control_points_on_a_grid_are_a_georeference(tmp_path):
    def placed(shift):
        corners = [(row, col) for row in (0, 150) for col in (0, 170)]
        points = [GroundControlPoint(r, c, 5e5 + c / 2 + r / 8, 5.7e6 - r / 2 + c / 8) for r, c in corners]
        points[0].x += shift
        path = write(tmp_path / f"{shift}.tif", rgb(), gcps=points, transform=Affine.identity())
        with open_scene(path) as scene:
            return scene.place.georeference, " ".join(scene.warnings)

    place, _ = placed(0)
    assert place.crs == UTM
    assert np.allclose(place.transform[:6], (0.5, 0.125, 5e5, 0.125, -0.5, 5.7e6), atol=1e-6)
    none, warning = placed(9)
    assert none is None
    assert "gdalwarp -tps" in warning


def test_a_site_grid_and_a_declared_crs_give_the_scale(tmp_path):
    for unit, metres in (("metre", 1), ("foot", 0.3048)):
        crs = CRS.from_wkt(f'LOCAL_CS["Site grid",UNIT["{unit}",{metres}]]')
        path = write(tmp_path / f"{unit}.tif", rgb(), crs=crs)
        assert read_header(path).gsd == pytest.approx(0.5 * metres)
    path = write(tmp_path / "none.tif", rgb(), crs=None)
    with open_scene(path) as scene:
        assert scene.place.georeference is None
        assert "--crs" in scene.warnings[0]
    with open_scene(path, crs=UTM) as scene:
        assert (scene.place, scene.place.gsd) == (Georeference(*scene.place.size, NORTH_UP, UTM), 0.5)


def test_refused_scenes_say_why(tmp_path):
    write(tmp_path / "a.tif", rgb())
    write(tmp_path / "alpha.tif", rgb()[:1], colorinterp=(ColorInterp.alpha,))
    write(tmp_path / "complex.tif", rgb().astype(np.complex64))
    write(tmp_path / "cmyk.tif", np.concatenate([rgb(), rgb()[:1]]), photometric="cmyk")
    write(tmp_path / "wide.tif", rgb().astype(np.uint16))
    write_map(tmp_path / "map.tif", [np.zeros((9, 9), np.uint8)], Place(9, 9), DEEPGLOBE)
    save_palette(tmp_path / "p.png", np.zeros((9, 9), np.uint8), DEEPGLOBE.colours)
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("no raster")
    cases = [
        ("a.tif", {"bands": (1, 2, 4)}, ImageError, "3 bands; .* found bands 1, 2, 4"),
        ("a.tif", {"bands": (1, 2)}, ImageError, "3 bands; expected imagery in three or more"),
        ("alpha.tif", {}, ImageError, "only an alpha band"),
        ("complex.tif", {}, ImageError, "complex64 pixels"),
        ("cmyk.tif", {}, ImageError, "CMYK"),
        ("wide.tif", {}, ImageError, "--scaling MINIMUM,MAXIMUM.*--scaling percentile"),
        ("map.tif", {}, ImageError, "colour table"),
        ("p.png", {}, ImageError, "colour table"),
        ("empty.tif", {}, ImageError, r"empty\.tif is empty \(0 bytes\)"),
        ("text.tif", {}, ImageError, "text.tif is not a supported raster.*no raste"),
        ("missing.tif", {}, ImageError, "No such file"),
        (".", {}, ImageError, "is not a file"),
        ("a\nb.tif", {}, DataError, "control characters"),
        ("a\udcff.tif", {}, DataError, "UTF-8"),
    ]
    for name, arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            open_scene(tmp_path / name, **arguments)


@settings(max_examples=60)
@given(
    values=st.sampled_from(["u1", "i1", "u2", "i2", "i4", "f4", "f8"]).flatmap(
        lambda kind: arrays.arrays(
            kind,
            (3, 5),
            elements=arrays.from_dtype(np.dtype(kind), allow_nan=False, min_value=-1e6, max_value=1e6)
            if kind[0] == "f"
            else None,
        )
    ),
    low=st.integers(-300, 300),
    span=st.integers(1, 40_000),
)
def test_values_are_scaled_linearly_and_clipped(values, low, span):
    exact = np.clip((values.astype(np.float64) - low) * 255 / span, 0, 255)
    scaled = to_bytes(values, low, low + span)
    assert scaled.dtype == np.uint8
    assert np.abs(scaled - exact).max() <= 0.5 + 1e-2  # float32 values are scaled in float32


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_percentiles_are_those_of_all_valid_pixels_in_every_strip(tmp_path, dtype):
    bands = (RNG.gamma(2, 12, (3, 150, 170)) + 1).astype(dtype)
    bands[:, :50] = 5  # dark water: not to be brightened where a strip holds nothing else
    bands[:, 100:, :60] = 0
    low, high = np.percentile(bands[:, bands[0] > 0], (2, 98))
    with open_scene(write(tmp_path / "a.tif", bands, nodata=0), scaling="percentile") as scene:
        image, valid = read_all(scene)
    expected = np.rint(np.clip((bands.astype(float) - low) * 255 / (high - low), 0, 255))
    assert np.abs(np.moveaxis(image, -1, 0)[:, valid] - expected[:, valid]).max() <= 1
    assert np.array_equal(valid, bands[0] > 0)
    assert image[:41].max() < 40


def test_one_scaling_holds_for_scenes_and_their_parts(tmp_path):
    bands = RNG.integers(100, 3000, (3, 150, 170)).astype(np.uint16)
    bands[:, :60, :60] //= 10
    path = write(tmp_path / "a.tif", bands)
    for scaling in ("percentile", (0.0, 2500.0)):
        with open_scene(path, scaling=scaling) as scene:
            whole = read_all(scene)[0]
        with open_scene(path, scaling=scaling, bbox=(500_000, 5_699_980, 500_020, 5_700_000)) as scene:
            assert np.array_equal(read_all(scene)[0], whole[:40, :40])


def test_values_that_are_no_numbers_are_no_imagery(tmp_path):
    bands = RNG.random((3, 30, 40)).astype(np.float32)
    bands[0, 3, 4], bands[1, 5, 6], bands[:, 7, 8] = np.nan, np.inf, -np.inf
    for scaling in ((0.0, 1.0), "percentile"):
        with open_scene(write(tmp_path / "a.tif", bands), scaling=scaling) as scene:
            image, valid = read_all(scene)
        assert np.argwhere(~valid).tolist() == [[3, 4], [5, 6], [7, 8]]
        assert image[valid].max() == 255
    with open_scene(
        write(tmp_path / "b.tif", np.full((3, 9, 9), np.nan, "f4")), scaling="percentile"
    ) as scene:
        assert not read_all(scene)[1].any()
    with open_scene(write(tmp_path / "c.tif", np.full((3, 9, 9), 7, "u2")), scaling="percentile") as scene:
        assert (read_all(scene)[0] == 0).all()


HOLE = np.zeros((150, 170), bool)
HOLE[50:90, 10:130] = True


@pytest.mark.parametrize("how", ["nodata", "alpha", "mask"])
def test_holes_are_found_however_they_are_marked(tmp_path, how):
    bands, profile = rgb(), {}
    if how == "nodata":
        bands[:, HOLE] = 0
        bands[0, 120, 30] = 0  # one band alone at the nodata value is a colour, not a hole
        profile = {"nodata": 0}
    elif how == "alpha":
        bands = np.concatenate([bands, np.where(HOLE, 0, 9)[None].astype(np.uint8)])
        profile = {"photometric": "rgb", "alpha": "yes"}
    else:
        profile = {"mask": ~HOLE}
    with open_scene(write(tmp_path / "a.tif", bands, **profile)) as scene:
        assert np.array_equal(read_all(scene)[1], ~HOLE)
        assert scene.read_rows(100, 150).valid is None
        assert scene.read_rows(60, 61).valid is not None


@pytest.mark.parametrize(("corner", "told"), [((0, 0), True), ((0, 150), True), ((60, 60), False)])
def test_a_black_collar_without_nodata_is_told_of(tmp_path, corner, told):
    bands = rgb()
    bands[:, corner[0] : corner[0] + 20, corner[1] : corner[1] + 20] = 0
    for nodata in (None, 0):
        with open_scene(write(tmp_path / "a.tif", bands, nodata=nodata)) as scene:
            assert any("--nodata 0" in note for note in scene.warnings) == (told and nodata is None)


PLACES = {
    "projected": (UTM, NORTH_UP),
    "geographic": (CRS.from_epsg(4326), Affine(5e-6, 0, 5, 0, -5e-6, 52)),
    "rotated": (UTM, Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5.7e6)),
    "south up": (CRS.from_epsg(32733), Affine(0.5, 0, 5e5, 0, 0.5, 7e6)),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_box_is_read_outward_to_whole_pixels_and_stays_in_place(tmp_path, place):
    crs, transform = place
    bands = rgb()
    path = write(tmp_path / "a.tif", bands, crs=crs, transform=transform)
    whole = Georeference(150, 170, transform, crs)
    # The box around the pixels from row 20.4 and column 30.5, 50 rows and 60 columns.
    inner = whole.points(np.array([30.5, 90.5, 30.5, 90.5]), np.array([20.4, 20.4, 70.4, 70.4]))
    box = (inner[0].min(), inner[1].min(), inner[0].max(), inner[1].max())
    with open_scene(path, bbox=box) as scene:
        image, _ = read_all(scene)
        assert scene.place == whole
        assert scene.place.gsd == pytest.approx(read_header(path).gsd, rel=1e-5)
        part, (_, _, height, width) = whole.part(scene.part), scene.part
        corner = whole.pixels(*part.points(np.array([0.0]), np.array([0.0])))
        col, row = (float(np.rint(value[0])) for value in corner)
        np.testing.assert_allclose([c[0] for c in corner], [col, row], atol=1e-6)
        if transform.b == 0:
            assert scene.part == (row, col, height, width) == (20, 30, 51, 61)
        window = np.s_[int(row) : int(row) + height, int(col) : int(col) + width]
        assert np.array_equal(image, np.moveaxis(bands, 0, -1)[window])
        # Pixels of a map of the part land on those of the scene.
        write_map(tmp_path / "m.tif", [image[..., 0] % 7], part, DEEPGLOBE)
    with rasterio.open(tmp_path / "m.tif") as map_:
        there = Georeference(*map_.shape, map_.transform, map_.crs).points(
            np.array([0.5, 9.5]), np.array([0.5, 7.5])
        )
    back = whole.pixels(*there)
    np.testing.assert_allclose(back, [[col + 0.5, col + 9.5], [row + 0.5, row + 7.5]], atol=1e-6)


def test_boxes_that_cannot_be_used(tmp_path):
    path = write(tmp_path / "a.tif", rgb())
    with pytest.raises(
        DataError, match=r"box 1, 2, 3, 4 does not touch.*500000, 5699925, 500085, 5700000.*32631"
    ):
        open_scene(path, bbox=(1, 2, 3, 4))
    for box in ((3, 2, 1, 4), (1, 4, 3, 2), (1, 2, 3, float("inf")), (1, 2, 3)):
        with pytest.raises(UsageError, match="LEFT,BOTTOM,RIGHT,TOP"):
            open_scene(path, bbox=box)
    picture = save(tmp_path / "a.png", photo())
    for part in ({"bbox": (1, 2, 3, 4)}, {"aoi": tmp_path / "a.gpkg"}):
        with pytest.raises(UsageError, match="is not georeferenced"):
            open_scene(picture, **part)


def write_polygons(path, rings, crs):
    shapely = pytest.importorskip("shapely")
    vectors = pytest.importorskip("landcover.io.vectors", exc_type=MissingExtraError)
    polygons = np.array([shapely.Polygon(ring) for ring in rings], object)
    vectors.write_features(path, [(polygons, {})], {}, crs)
    return path


@pytest.mark.parametrize("transform", [NORTH_UP, PLACES["rotated"][1]], ids=["north up", "rotated"])
def test_pixels_outside_of_the_polygons_are_no_imagery(tmp_path, transform):
    bands = rgb()
    path = write(tmp_path / "a.tif", bands, transform=transform)
    whole = Georeference(150, 170, transform, UTM)
    # In pixels: the triangle (20, 10), (100, 10), (20, 90), and a square further right and below.
    rings = [[(20, 10), (100, 10), (20, 90)], [(120, 100), (140, 100), (140, 120), (120, 120)]]
    placed = [list(zip(*whole.points(*np.array(ring, float).T), strict=True)) for ring in rings]
    area = write_polygons(tmp_path / "area.gpkg", placed, UTM)
    col, row = np.meshgrid(np.arange(170) + 0.5, np.arange(150) + 0.5)
    triangle = (col > 20) & (row > 10) & ((col - 20) + (row - 10) < 80)
    square = (col > 120) & (col < 140) & (row > 100) & (row < 120)
    edge = np.abs((col - 20) + (row - 10) - 80) < 1e-6  # centres on the edge may go either way
    with open_scene(path, aoi=area) as scene:
        image, valid = read_all(scene)
        assert scene.part == (10, 20, 110, 120)
    part = np.s_[10:120, 20:140]
    assert np.array_equal(image, np.moveaxis(bands, 0, -1)[part])
    assert np.array_equal(valid[~edge[part]], (triangle | square)[part][~edge[part]])
    corner = whole.part(Window(0, 0, 60, 60)).extent()
    if transform == NORTH_UP:
        with open_scene(path, aoi=area, bbox=corner) as scene:
            assert scene.part == (10, 20, 50, 40)
            valid, part = read_all(scene)[1], np.s_[10:60, 20:60]
            assert np.array_equal(valid[~edge[part]], triangle[part][~edge[part]])


def test_areas_that_miss_the_scene_print_both_extents(tmp_path):
    path = write(tmp_path / "a.tif", rgb())
    away = write_polygons(tmp_path / "away.gpkg", [[(1e5, 5e6), (1e5 + 9, 5e6), (1e5, 5e6 + 9)]], UTM)
    with pytest.raises(
        DataError, match=r"away.gpkg, which covers 1e\+05|100000.*does not touch.*500000, 5699925"
    ):
        open_scene(path, aoi=away)
    with pytest.raises(DataError):
        open_scene(path, aoi=tmp_path / "missing.gpkg")


@pytest.mark.parametrize("rows", [25, 150])
def test_a_damaged_block_is_a_hole_that_is_told_of(tmp_path, rows):
    bands = rgb()
    path = write(tmp_path / "a.tif", bands, compress="deflate", interleave="pixel")
    spoil_block(path, 1, 1)
    expected = np.ones((150, 170), bool)
    expected[64:128, 64:128] = False
    with open_scene(path) as scene:
        image, valid = read_all(scene, rows)
        assert scene.damaged == [Window(64, 64, 64, 64)]
    assert np.array_equal(valid, expected)
    assert np.array_equal(image, np.moveaxis(bands, 0, -1) * expected[..., None])
    with open_scene(path, bbox=(500_040, 5_699_930, 500_080, 5_699_960)) as scene:  # from row 80, column 80
        valid = read_all(scene, rows)[1]
        assert scene.damaged == [Window(80, 80, 48, 48)]
        assert not valid[:48, :48].any()
        assert valid[48:].all()
    with open_scene(path, scaling="percentile") as scene:
        assert read_all(scene)[1].any()


def test_a_strict_scene_stops_at_damage(tmp_path):
    path = write(tmp_path / "a.tif", rgb(), compress="deflate", interleave="pixel")
    spoil_block(path, 1, 1)
    with open_scene(path, strict=True) as scene:
        scene.read_rows(0, 64)
        with pytest.raises(ImageError, match=r"cannot be read as a raster.*copy it again"):
            scene.read_rows(60, 70)


def test_the_end_of_a_file_cut_short_is_a_hole(tmp_path):
    bands = rgb(600, 200)
    path = write(tmp_path / "a.tif", bands)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_scene(path) as scene:
        image, valid = read_all(scene)
        lost = sum(window.height * window.width for window in scene.damaged)
    assert np.array_equal(image, np.moveaxis(bands, 0, -1) * valid[..., None])
    assert 0.4 < lost / valid.size == (~valid).mean() < 0.6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_cut_short_have_no_imagery_from_there_on(tmp_path, suffix):
    """GDAL fills the rest of a JPEG with grey, and tells so once."""
    path = save(tmp_path / f"a.{suffix}", np.moveaxis(rgb(700, 200), 0, -1))
    with open_scene(path) as scene:
        whole = read_all(scene)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_scene(path) as scene:
        image, valid = read_all(scene)
        (window,) = scene.damaged
    assert window == (window.row, 0, 700 - window.row, 200)
    assert window.row < 360
    assert valid[: window.row].all()
    assert not valid[window.row :].any()
    assert np.array_equal(image[: window.row], whole[: window.row])
    assert suffix == "webp" or window.row > 200


VRT = '<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{head}{bands}</VRTDataset>'
VRT_BAND = """<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>
<SourceFilename relativeToVRT="1">{file}</SourceFilename><SourceBand>{band}</SourceBand>
</SimpleSource></VRTRasterBand>"""


def write_vrt(path, *, width=170, height=150, head="", file="a.tif", bands=1):
    each = "".join(VRT_BAND.format(band=band + 1, file=file) for band in range(bands))
    path.write_text(VRT.format(width=width, height=height, head=head, bands=each))
    return path


def test_a_vrt_is_read_with_its_holes(tmp_path):
    bands = rgb()[:1]
    write(tmp_path / "a.tif", bands)
    with open_scene(write_vrt(tmp_path / "a.vrt")) as scene:
        assert np.array_equal(read_all(scene)[0][..., 0], bands[0])


@pytest.mark.parametrize(
    ("vrt", "message"),
    [
        ({"file": "bad.vrt"}, "refers to itself"),
        ({"file": "bad.vrt", "bands": 3}, "refers to itself"),
        ({"file": "missing.tif"}, "missing.tif: No such file"),
        ({"width": 2**31 - 1, "height": 2**31 - 1}, "two rows of blocks take .* GiB.*TILED=YES"),
        ({"width": -5}, "Invalid dataset dimensions"),
        ({"width": 0}, "Invalid dataset dimensions"),
    ],
    ids=["itself", "itself in bands", "missing file", "huge", "negative", "empty"],
)
def test_vrts_that_cannot_be_read_are_one_error(tmp_path, vrt, message):
    write(tmp_path / "a.tif", rgb()[:1])
    write_vrt(tmp_path / "bad.vrt", **vrt)
    with pytest.raises(ImageError, match=message), open_scene(tmp_path / "bad.vrt") as scene:
        read_all(scene)


SRS = "<SRS>EPSG:32631</SRS>"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (f"<GeoTransform>0,0,0,0,0,0</GeoTransform>{SRS}", "no area"),
        (f"<GeoTransform>0,1,1,0,1,1</GeoTransform>{SRS}", "no area"),
        ("<GeoTransform>52,1e-5,0,120,0,-1e-5</GeoTransform><SRS>EPSG:4326</SRS>", "latitudes reach 120"),
        (SRS, "no position"),
        ("<GeoTransform>5,1,0,5,0,-1</GeoTransform>", "no coordinate reference system"),
        ("<GeoTransform>5,1,0,5,0,-1</GeoTransform><SRS>garbage</SRS>", "no coordinate reference system"),
        (
            '<GeoTransform>5,1,0,5,0,-1</GeoTransform><SRS>PROJCS["x",GEOGCS["y",DATUM["z",SPHEROID["w",0,0]],'
            'PRIMEM["q",0],UNIT["degree",0.017]],PROJECTION["Nonsense"],UNIT["metre",1]]</SRS>',
            "no coordinate reference system",
        ),
        (f'<GCPList><GCP Id="1" Pixel="1" Line="1" X="1" Y="1"/></GCPList>{SRS}', "ground control points"),
    ],
)
def test_a_position_that_cannot_be_is_a_warning(tmp_path, head, reason):
    write(tmp_path / "a.tif", rgb()[:1])
    with open_scene(write_vrt(tmp_path / "a.vrt", head=head)) as scene:
        assert read_all(scene)[0].shape == (150, 170, 3)
        assert (scene.place.georeference, scene.place.gsd) == (None, None)
        (warning,) = scene.warnings
    assert reason in warning
    assert read_header(tmp_path / "a.vrt").gsd is None


def test_an_address_is_read_as_a_file_is(tmp_path, address):
    bands = rgb()
    write(tmp_path / "a.tif", bands)
    with open_scene(f"http://user:secret@{address}/a.tif?signature=secret") as scene:
        assert np.array_equal(read_all(scene)[0], np.moveaxis(bands, 0, -1))
        assert scene.name == f"http://{address}/a.tif"
        assert scene.place == Georeference(*scene.place.size, NORTH_UP, UTM)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "404"), ("stall", "gave no answer for 1 s"), ("whole", r"\(Range\)\. Download it")],
)
def test_addresses_that_fail_are_one_line_without_secrets(tmp_path, address, name, reason, monkeypatch):
    monkeypatch.setattr("landcover.raster.address.TIMEOUT_S", 1.0)
    write(tmp_path / "whole.tif", rgb(500, 500))
    url = f"http://user:secret@{address}/{name}.tif?signature=secret"
    with pytest.raises(ImageError, match=reason) as error:
        open_scene(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert f"http://{address}/{name}.tif cannot be read" in str(error.value)


def test_a_server_that_goes_away_is_no_damage(tmp_path, address, monkeypatch):
    """A failing network must not turn into a map with holes."""
    monkeypatch.setattr("landcover.raster.address.TIMEOUT_S", 1.0)
    path = write(tmp_path / "a.tif", rgb(1500, 700))
    with open_scene(f"http://{address}/a.tif") as scene:
        scene.read_rows(0, 10)
        path.unlink()
        with pytest.raises(ImageError, match="cannot be read"):
            read_all(scene, 300)
        assert scene.damaged == []


def test_a_scene_gives_its_share_of_the_cache_back(tmp_path):
    path, before = write(tmp_path / "a.tif", rgb()), get_gdal_config("GDAL_CACHEMAX")
    first = open_scene(path)
    one = get_gdal_config("GDAL_CACHEMAX")
    second = open_scene(path)
    assert get_gdal_config("GDAL_CACHEMAX") == 2 * one >= 128 << 20
    with pytest.raises(ImageError):
        open_scene(write(tmp_path / "deep.tif", rgb().astype(np.uint16)))
    for scene, left in ((second, one), (first, before)):
        scene.close()
        assert get_gdal_config("GDAL_CACHEMAX") == left


@pytest.mark.parametrize(
    ("lengths", "interpretation", "chosen", "noted"),
    [
        (["0,48", "0,56", "0,66"], False, (3, 2, 1), False),  # decimal commas
        (["480", "560", "660"], True, (3, 2, 1), False),
        (["490", "560", "665", "842"], True, (3, 2, 1), False),
        (["490", "560", "665", "842"], False, (3, 2, 1), False),
        (["0.842", "0.49", "0.56", "0.665"], True, (4, 3, 2), False),
        (["0.842", "0.49", "0.56", "0.665"], False, (4, 3, 2), False),
        (["842", "660", "560"], True, (1, 2, 3), True),  # no blue
        (["842", "660", "560"], False, (1, 2, 3), True),
        (["4800", "5600", "6600"], False, (1, 2, 3), True),  # of another unit
    ],
)
def test_wavelengths_name_bands_or_are_reported(tmp_path, lengths, interpretation, chosen, noted):
    form = {"photometric": "rgb", "alpha": "no"} if interpretation else {"photometric": "minisblack"}
    image = np.tile((90 + 10 * np.arange(len(lengths))).astype(np.uint8), (40, 40, 1))
    path = save_raster(tmp_path / "a.tif", image, **form)
    with rasterio.open(path, "r+") as file:
        for band, text in enumerate(lengths, 1):
            file.update_tags(band, wavelength=text)
    with rasterio.open(path) as file:
        found, note = choose_bands("a.tif", file, None)
    assert (found, note is not None) == (chosen, noted)
    with open_scene(path) as scene:
        assert np.array_equal(read_all(scene)[0], image[..., np.subtract(chosen, 1)])
    if noted:
        assert lengths[0] in note
        assert "--bands" in note
