"""Rasters of classes: what their values mean, in which order, and where they lie."""

import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio._env import get_gdal_config
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from imagefiles import save_raster
from landcover.errors import MaskError, UsageError, is_plain
from landcover.io import write_mask
from landcover.legend import CLASS_NAMES, DEEPGLOBE, NODATA, LandClass, Legend
from landcover.raster import Georeference, classmap, write_class_raster
from landcover.raster.classmap import open_class_map
from landcover.windows import Window

PLACE = Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), CRS.from_epsg(32631))
REVERSED = Legend("reversed", DEEPGLOBE.classes[::-1], unknown=0)


def some_index(shape=(60, 70)):
    return np.random.default_rng(0).choice([0, 1, 2, 3, 4, 5, 6, NODATA], shape).astype(np.uint8)


def write(path, values, palette=None, **tags):
    return save_raster(path, values, nodata=200, colormap=palette, tags=tags)


def test_a_map_of_landcover_says_all_by_itself(tmp_path):
    index = some_index()
    write_class_raster(tmp_path / "map.tif", index, DEEPGLOBE, PLACE)
    for legend in (None, DEEPGLOBE):
        with open_class_map(tmp_path / "map.tif", legend) as source:
            assert (source.legend.names, source.nodata) == (DEEPGLOBE.names, NODATA)
            assert source.place == PLACE.part(Window(0, 0, *index.shape))
            window = Window(7, 5, 20, 30)
            np.testing.assert_array_equal(source.read(window), index[window.slices])


def test_classes_are_found_by_name_in_another_legend(tmp_path):
    index = some_index()
    write_class_raster(tmp_path / "map.tif", index, DEEPGLOBE, PLACE)
    with open_class_map(tmp_path / "map.tif", DEEPGLOBE, REVERSED) as source:
        found = source.read(Window(0, 0, *index.shape))
        assert source.legend.names == REVERSED.names
    np.testing.assert_array_equal(found, np.where(index == NODATA, NODATA, 6 - index))
    with open_class_map(tmp_path / "map.tif", None, REVERSED) as source:  # its own legend is in the file
        np.testing.assert_array_equal(source.read(Window(0, 0, *index.shape)), found)
    with pytest.raises(MaskError, match="'reversed' has 0=unknown,1=barren"):
        open_class_map(tmp_path / "map.tif", REVERSED).__enter__()
    write(tmp_path / "hostile.tif", index, **{CLASS_NAMES: "0=\x9b2J" + "y" * 100_000})
    with pytest.raises(MaskError, match=r"0=\\+x9b2Jyyy") as error:
        open_class_map(tmp_path / "hostile.tif", DEEPGLOBE).__enter__()
    assert is_plain(str(error.value))
    assert len(str(error.value)) < 2000
    two = Legend("two", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 1, 1))), unknown=None)
    with pytest.raises(UsageError, match="expected the same"):
        open_class_map(tmp_path / "map.tif", DEEPGLOBE, two).__enter__()


def test_values_without_names_need_a_legend(tmp_path):
    path = write(tmp_path / "map.tif", np.array([[0, 5, 200, 255]], np.uint8))
    with pytest.raises(MaskError, match=f"no tag {CLASS_NAMES}"):
        open_class_map(path).__enter__()
    with open_class_map(path, DEEPGLOBE) as source:
        assert source.read(Window(0, 0, 1, 4)).tolist() == [[0, 5, NODATA, NODATA]]
        assert source.nodata == 200


@pytest.mark.parametrize("listing", ["hello", "0=a,2=b", "0=a,1=\x9b31mred"])
def test_tags_that_name_no_classes_are_refused(tmp_path, listing):
    path = write(tmp_path / "map.tif", np.zeros((4, 4), np.uint8), **{CLASS_NAMES: listing})
    with pytest.raises(MaskError, match="expected 0=NAME,1=NAME") as error:
        open_class_map(path).__enter__()
    assert is_plain(str(error.value))


def test_a_map_with_lossy_compression_is_refused(tmp_path):
    save_raster(tmp_path / "a.tif", some_index().clip(0, 6), compress="jpeg")
    for name, source in (("b.vrt", "a.tif"), ("c.vrt", "b.vrt")):
        (tmp_path / name).write_text(
            '<VRTDataset rasterXSize="70" rasterYSize="60"><VRTRasterBand dataType="Byte" band="1">'
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source}</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
    for name in ("a.tif", "b.vrt", "c.vrt"):
        with (
            pytest.raises(MaskError, match=r"JPEG.*Make the map again"),
            open_class_map(tmp_path / name, DEEPGLOBE),
        ):
            pass


def test_a_pipe_is_no_map(tmp_path):
    """Opening one would wait for ever."""
    os.mkfifo(tmp_path / "map.tif")
    with pytest.raises(MaskError, match="is a device or a pipe; expected a raster of classes"):
        open_class_map(tmp_path / "map.tif").__enter__()


def test_a_palette_stands_for_its_colours_unless_the_classes_are_named(tmp_path):
    values = np.array([[0, 1, 2, 200]], np.uint8)
    palette = {0: (0, 0, 255, 255), 1: (0, 255, 0, 255), 2: (9, 9, 9, 255)}
    with open_class_map(write(tmp_path / "a.tif", values, palette), DEEPGLOBE) as source:
        assert source.read(Window(0, 0, 1, 3)).tolist() == [[4, 3, 6]]
    tags = {CLASS_NAMES: DEEPGLOBE.listing}
    with open_class_map(write(tmp_path / "b.tif", values, palette, **tags)) as source:
        assert source.read(Window(0, 0, 1, 4)).tolist() == [[0, 1, 2, NODATA]]


def test_transparent_entries_of_a_palette_are_no_data(tmp_path):
    index = some_index()
    write_mask(tmp_path / "map.png", index, DEEPGLOBE)
    with open_class_map(tmp_path / "map.png", DEEPGLOBE) as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, *index.shape)), index)


def test_values_of_no_class_are_refused_where_they_are_read(tmp_path):
    values = np.zeros((4, 4), np.uint8)
    values[3] = [7, 77, 200, 255]
    with open_class_map(write(tmp_path / "map.tif", values), DEEPGLOBE) as source:
        assert not source.read(Window(0, 0, 3, 4)).any()
        with pytest.raises(MaskError, match=r"contains 7, 77; expected .*urban.* and 200 for nodata"):
            source.read(Window(3, 0, 1, 4))


def test_only_who_asks_for_a_place_is_told_that_there_is_none(tmp_path):
    path = write(tmp_path / "map.tif", np.zeros((4, 4), np.uint8))
    with open_class_map(path, DEEPGLOBE) as source:
        assert source.place.georeference is None
        with pytest.raises(MaskError, match=r"is not georeferenced: it has no position.*gdal_edit"):
            _ = source.required_georeference
    with rasterio.open(path, "r+") as target:
        corners = [(0, 0), (0, 4)]
        target.gcps = [GroundControlPoint(row, col, col, row) for row, col in corners], PLACE.crs
    with (
        open_class_map(path, DEEPGLOBE) as source,
        pytest.raises(MaskError, match="it has 2 ground control points"),
    ):
        _ = source.required_georeference


@settings(max_examples=50)
@given(rows=st.one_of(st.none(), st.integers(1, 200)), strip_px=st.sampled_from([1, 5000, 1 << 22]))
def test_strips_are_the_map_from_top_to_bottom(tmp_path_factory, rows, strip_px):
    path = tmp_path_factory.getbasetemp() / "strips.tif"
    index = some_index((150, 40))
    if not path.exists():
        write(path, index)
    with pytest.MonkeyPatch.context() as patch, open_class_map(path, DEEPGLOBE) as source:
        patch.setattr(classmap, "_STRIP_PX", strip_px)
        strips = source.strips(rows)
        whole = np.concatenate([source.read(strip) for strip in strips])
        block = source.source.block_shapes[0][0]
    np.testing.assert_array_equal(whole, index)
    if rows is None:
        assert all(strip.row % block == 0 for strip in strips)
        assert all(strip.height * 40 <= max(strip_px, block * 40) for strip in strips)
    else:
        assert all(strip.height == rows for strip in strips[:-1])


def test_the_cache_holds_two_rows_of_blocks_and_is_given_back(tmp_path, monkeypatch):
    write_class_raster(tmp_path / "map.tif", np.zeros((1500, 1300), np.uint8), DEEPGLOBE, PLACE)
    before = get_gdal_config("GDAL_CACHEMAX")
    with open_class_map(tmp_path / "map.tif") as source:
        assert get_gdal_config("GDAL_CACHEMAX") == classmap.two_rows_of_blocks(source.source) == 64 << 20
        monkeypatch.setattr(classmap, "_LEAST_CACHE", 0)
        # Blocks of 512 x 512: three across, of which the last reaches beyond the border.
        assert 2 * 512 * 3 * 512 <= classmap.two_rows_of_blocks(source.source) < 2 * 512 * 4 * 512
    assert get_gdal_config("GDAL_CACHEMAX") == before
