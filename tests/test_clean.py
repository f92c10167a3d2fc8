"""Cleaning of files and folders: what is written, what is kept, and what is refused before any work."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from commands import invoke
from imagefiles import save_raster
from landcover.errors import DataError, OutputError, UsageError
from landcover.io import read_mask, write_mask
from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend
from landcover.postprocess.cleaning import clean
from landcover.postprocess.sieve import remove_small_regions
from landcover.raster import Georeference, write_class_raster
from landcover.raster.classmap import ClassMap
from landcover.raster.mapfiles import read_map_legend

UTM = rasterio.crs.CRS.from_epsg(32647)


def speckled(seed=0, size=40):
    rng = np.random.default_rng(seed)
    index = np.full((size, size + 3), 3, np.uint8)
    index[:, size // 2 :] = 4
    index[rng.random(index.shape) < 0.05] = 1
    return index


def write_geotiff(path, index, *, gsd=0.5, **tags):
    place = Georeference(100, 100, from_origin(700_000, 1_500_000, gsd, gsd), UTM)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_class_raster(path, index, DEEPGLOBE, place, tags=tags)
    return path


@pytest.mark.parametrize("mask_format", ["palette", "rgb", "index"])
def test_png_is_cleaned_by_the_rule_and_written_in_the_form_asked_for(tmp_path, mask_format):
    index = speckled()
    write_mask(tmp_path / "a_mask.png", index, DEEPGLOBE, tags={"LANDCOVER_MODEL_SHA256": "abc"})
    result = clean([tmp_path / "a_mask.png"], tmp_path / "out", min_region="6px", mask_format=mask_format)
    target = tmp_path / "out" / "a_mask.png"
    expected = remove_small_regions(index, 6)
    np.testing.assert_array_equal(read_mask(target, DEEPGLOBE).index, expected)
    assert (result.written, result.failed, result.pixels) == ([target], {}, index.size)
    assert result.changed == np.count_nonzero(index != expected) > 0
    with Image.open(target) as image:
        assert image.mode == {"palette": "P", "rgb": "RGB", "index": "L"}[mask_format]
        assert image.info["LANDCOVER_MODEL_SHA256"] == "abc"
        assert image.info["LANDCOVER_MIN_REGION"] == "6px"


def test_geotiff_keeps_place_colours_nodata_and_tags(tmp_path):
    index = speckled()
    index[:5] = NODATA
    source = write_geotiff(tmp_path / "s_mask.tif", index, LANDCOVER_VERSION="1")
    clean([source], tmp_path / "out", min_region="6px")
    with rasterio.open(source) as before, rasterio.open(tmp_path / "out/s_mask.tif") as after:
        np.testing.assert_array_equal(after.read(1), remove_small_regions(index, 6))
        assert (after.crs, after.transform, after.nodata) == (before.crs, before.transform, NODATA)
        assert after.colormap(1) == before.colormap(1)
        assert after.tags() == before.tags() | {"LANDCOVER_MIN_REGION": "6px"}


def write_raster(path, values, **options):
    """A georeferenced band of no writer of landcover, with a mask inside the file if it has one."""
    place = {"crs": UTM, "transform": from_origin(700_000, 1_500_000, 0.5, 0.5)}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        return save_raster(path, values, **place, **options)


@pytest.mark.parametrize("kind", ["of landcover", "of another program"])
def test_rasters_of_indices_are_cleaned_by_bands_whatever_their_size(tmp_path, monkeypatch, kind):
    index = np.random.default_rng(0).choice([0, 3, 4, 4, 4, NODATA], (700, 60)).astype(np.uint8)
    index[250:600, 20:23] = 5  # a region across the borders of bands
    if kind == "of landcover":
        source = write_geotiff(tmp_path / "large.tif", index)
    else:
        source = write_raster(tmp_path / "large.tif", np.where(index == NODATA, 9, index), nodata=9)
    read = ClassMap.read
    rows = []

    def watched(self, window, *others):
        rows.append(window.height)
        return read(self, window, *others)

    monkeypatch.setattr(ClassMap, "read", watched)
    result = clean([source], tmp_path / "out", min_region="12px", max_pixels=1)
    assert result.failed == {}
    expected = remove_small_regions(index, 12)
    assert (result.pixels, result.changed) == (index.size, int(np.count_nonzero(index != expected)))
    assert sum(rows) == 2 * len(index)
    assert max(rows) <= 256
    write_geotiff(tmp_path / "whole.tif", expected, LANDCOVER_MIN_REGION="12px")
    assert (tmp_path / "out/large.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_rasters_of_colours_and_with_masks_are_held_whole(tmp_path):
    index, inside = speckled(), np.ones((40, 43), bool)
    inside[:9] = False
    masked = write_raster(tmp_path / "masked.tif", index, mask=inside)
    turned = write_raster(
        tmp_path / "colours.tif",
        np.where(index == 1, 77, 6 - index).astype(np.uint8),
        colormap={3: (0, 255, 0, 255), 2: (0, 0, 255, 255), 77: (255, 0, 0, 255)},  # red: no class
    )
    result = clean([masked, turned], tmp_path / "out", min_region="6px", max_off_palette=0.2)
    assert result.failed == {}
    assert result.off_palette == np.count_nonzero(index == 1)
    for name, expected in (
        ("masked", np.where(inside, index, NODATA).astype(np.uint8)),
        ("colours", np.where(index == 1, 6, index).astype(np.uint8)),
    ):
        with rasterio.open(tmp_path / f"out/{name}.tif") as cleaned:
            np.testing.assert_array_equal(cleaned.read(1), remove_small_regions(expected, 6))
    assert "--max-pixels" in str(
        clean([masked], tmp_path / "no", min_region="6px", max_pixels=100).failed[masked]
    )


def test_rasters_that_are_damaged_or_hold_no_classes_are_skipped(tmp_path):
    (tmp_path / "m").mkdir()
    index = np.random.default_rng(0).integers(0, 6, (1200, 1100), np.uint8)
    cut = write_geotiff(tmp_path / "m/cut.tif", index)
    content = bytearray(cut.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50_000] = bytes(50_000)
    cut.write_bytes(content)
    strange = write_raster(tmp_path / "m/strange.tif", np.full((600, 5), 77, np.uint8))
    result = clean([tmp_path / "m"], tmp_path / "out", min_region="6px")
    assert result.written == []
    assert "damaged or incomplete" in result.failed[cut]
    assert "contains 77; expected classes of urban" in result.failed[strange]
    assert "--legend" in result.failed[strange]
    assert not (tmp_path / "out").exists()


def test_area_is_measured_by_each_rasters_own_pixels(tmp_path):
    index = np.zeros((20, 20), np.uint8)
    index[5:9, 5:9] = 4  # 16 pixels: 4 square metres at 0.5 m, 16 at 1 m
    for gsd in (0.5, 1.0):
        write_geotiff(tmp_path / f"maps/{gsd}.tif", index, gsd=gsd)
    clean([tmp_path / "maps"], tmp_path / "out", min_region="10m2")
    assert not read_mask(tmp_path / "out/0.5.tif", DEEPGLOBE).index.any()
    np.testing.assert_array_equal(read_mask(tmp_path / "out/1.0.tif", DEEPGLOBE).index, index)
    clean([tmp_path / "maps"], tmp_path / "told", min_region="10m2", gsd=1.0)
    np.testing.assert_array_equal(read_mask(tmp_path / "told/0.5.tif", DEEPGLOBE).index, index)


def test_area_without_a_gsd_skips_the_mask_and_names_the_option(tmp_path):
    write_mask(tmp_path / "m/a_mask.png", speckled(), DEEPGLOBE)
    write_geotiff(tmp_path / "m/b_mask.tif", speckled())
    (tmp_path / "m/c_mask.tif").write_bytes(b"")
    result = clean([tmp_path / "m"], tmp_path / "out", min_region="4m2")
    assert result.written == [tmp_path / "out/b_mask.tif"]
    assert "--gsd" in result.failed[tmp_path / "m/a_mask.png"]
    assert "is empty" in result.failed[tmp_path / "m/c_mask.tif"]


def test_folders_keep_their_structure_and_imagery_is_passed_over(tmp_path):
    for key in ("train/1", "val/1"):
        write_mask(tmp_path / f"m/{key}_mask.png", speckled(), DEEPGLOBE)
    Image.new("RGB", (8, 8), (90, 80, 70)).save(tmp_path / "m/val/1_sat.png")
    (tmp_path / "m/.hidden.png").write_bytes(b"")
    (tmp_path / "m/notes.txt").write_text("")
    write_mask(tmp_path / "single.png", speckled(), DEEPGLOBE)
    result = clean([tmp_path / "m", tmp_path / "single.png"], tmp_path / "out", min_region="6px")
    written = [path.relative_to(tmp_path / "out").as_posix() for path in result.written]
    assert written == ["train/1_mask.png", "val/1_mask.png", "single.png"]


FARM = Legend("farm", (LandClass("Äcker", (10, 120, 60)), LandClass("pond", (0, 50, 200))), None)


def farm_index():
    index = np.zeros((9, 9), np.uint8)
    index[4:8, 4:8] = 1
    return index


@pytest.mark.parametrize("mask_format", ["palette", "rgb", "index"])
def test_a_map_is_read_by_its_own_legend_and_another_is_refused(tmp_path, mask_format):
    write_mask(tmp_path / "m/a.png", farm_index(), FARM, mask_format=mask_format)
    place = Georeference(100, 100, from_origin(700_000, 1_500_000, 0.5, 0.5), UTM)
    write_class_raster(tmp_path / "m/b.tif", farm_index(), FARM, place)
    result = clean([tmp_path / "m"], tmp_path / "out", min_region="2px", legend=DEEPGLOBE)
    assert result.written == []
    assert len(result.failed) == 2
    assert all("0=Äcker,1=pond" in why and "--legend" in why for why in result.failed.values())
    for number, legend in enumerate((FARM, None)):
        out = tmp_path / f"out{number}"
        result = clean([tmp_path / "m"], out, min_region="2px", legend=legend)
        assert [path.name for path in result.written] == ["a.png", "b.tif"]
        np.testing.assert_array_equal(read_mask(out / "a.png", FARM).index, farm_index())
        assert [read_map_legend(out / name) for name in ("a.png", "b.tif")] == [FARM, FARM]


def test_colours_of_no_class_are_limited(tmp_path):
    """Colours of a legend of one's own, without tags, are not garbled by the challenge's thresholds."""
    colours = np.full((20, 20, 3), (200, 10, 20), np.uint8)  # red: no class
    colours[:, 2:] = (0, 200, 10)
    Image.fromarray(colours).save(tmp_path / "a.png")
    result = clean([tmp_path / "a.png"], tmp_path / "out", min_region="2px")
    assert "40 pixels (10.0%)" in result.failed[tmp_path / "a.png"]
    assert "--max-off-palette" in result.failed[tmp_path / "a.png"]
    allowed = clean([tmp_path / "a.png"], tmp_path / "out", min_region="2px", max_off_palette=0.1)
    assert (len(allowed.written), allowed.off_palette) == (1, 40)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        clean([tmp_path / "a.png"], tmp_path / "no", min_region="2px", max_off_palette=2)


def test_everything_that_can_be_refused_is_refused_before_any_work(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        write_mask(tmp_path / name, speckled(), DEEPGLOBE)
    out = tmp_path / "out"
    write_mask(out / "2.png", speckled(), DEEPGLOBE)
    with pytest.raises(UsageError, match=r"8000px.*2000m2"):
        clean([tmp_path / "a"], out, min_region="8000")
    with pytest.raises(OutputError, match="would both be written to"):
        clean([tmp_path / "a", tmp_path / "b"], out, min_region="4px")
    with pytest.raises(OutputError, match="--force"):
        clean([tmp_path / "b"], out, min_region="4px")
    with pytest.raises(OutputError, match="replace an input"):
        clean([tmp_path / "a"], tmp_path / "a", min_region="4px", force=True)
    with pytest.raises(DataError, match="does not exist"):
        clean([tmp_path / "a", tmp_path / "nowhere"], out, min_region="4px")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no masks"):
        clean([tmp_path / "empty"], out, min_region="4px")
    with pytest.raises(OutputError, match=r"1\.png is a file; expected a folder"):
        clean([tmp_path / "a"], tmp_path / "b/1.png", min_region="4px")
    with pytest.raises(UsageError, match="No input"):
        clean([], out, min_region="4px")
    assert [path.name for path in out.iterdir()] == ["2.png"]


def test_force_replaces_and_results_within_the_input_are_no_input(tmp_path):
    write_mask(tmp_path / "m/1.png", speckled(), DEEPGLOBE)
    for _ in range(2):
        result = clean([tmp_path / "m"], tmp_path / "m/out", min_region="6px", force=True)
        assert result.written == [tmp_path / "m/out/1.png"]


def test_command_ends_with_1_where_a_mask_was_skipped(tmp_path):
    write_mask(tmp_path / "m/1.png", speckled(), DEEPGLOBE)
    words = ("clean", tmp_path / "m", "--out", tmp_path / "out", "--min-region", "6px")
    assert "Cleaned 1 of 1" in invoke(*words).stderr
    (tmp_path / "m/2.png").write_bytes(b"no picture")
    partly = invoke(*words, "--force", status=1)
    assert "Skipped: " in partly.stderr
    assert "2.png" in partly.stderr
    assert "Cleaned 1 of 2" in partly.stderr
