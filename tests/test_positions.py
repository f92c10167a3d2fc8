"""Positions are kept: without a CRS, by a world file, rotated; and images inside files have names."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.shutil import copy
from scipy.io import netcdf_file

import landcover as lc
from fake_runtime import ColourRuntime, make_card
from imagefiles import PLACE, UTM, class_index, photo, save, save_palette, save_raster
from landcover.errors import ImageError
from landcover.inference import PredictOptions, predict
from landcover.legend import DEEPGLOBE
from landcover.raster import open_scene

TURNED = Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_700_000)
RUNTIME = ColourRuntime(card=make_card(gsd=0.5))


def transform_of(path):
    with rasterio.open(path) as source:
        return source.transform


@pytest.mark.parametrize("transform", [PLACE["transform"], TURNED])
@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png"])
@pytest.mark.parametrize("map_format", ["auto", "png", "tif"])
def test_a_transform_without_a_crs_is_kept(tmp_path, transform, name, map_format):
    if name == "a.tif":
        save_raster(tmp_path / name, photo(), transform=transform)
    else:
        save(tmp_path / name, photo())
        a, b, c, d, e, f = transform[:6]
        lines = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
        (tmp_path / f"a.{name[-3]}{name[-1]}w").write_text("\n".join(map(str, lines)))
    options = PredictOptions(gsd=0.5, map_format=map_format)
    (made,) = predict([tmp_path / name], RUNTIME, tmp_path / "maps", options).maps
    assert made.task.map.suffix == (".tif" if map_format == "tif" else ".png")
    assert transform_of(made.task.map).almost_equals(transform, 1e-9)


@pytest.mark.parametrize("transform", [PLACE["transform"], TURNED])
def test_a_png_map_of_a_georeferenced_image_has_a_world_file(tmp_path, transform):
    save_raster(tmp_path / "a.tif", photo(), crs=UTM, transform=transform)
    predict([tmp_path / "a.tif"], RUNTIME, tmp_path / "maps", PredictOptions(map_format="png"))
    assert transform_of(tmp_path / "maps" / "a_mask.png").almost_equals(transform, 1e-9)
    x, y = zip(transform @ (10, 5), transform @ (30, 25), strict=True)
    options = PredictOptions(map_format="png", bbox=(min(x), min(y), max(x), max(y)))
    predict([tmp_path / "a.tif"], RUNTIME, tmp_path / "part", options)
    part = transform_of(tmp_path / "part" / "a_mask.png")
    assert (part.a, part.b, part.d, part.e) == pytest.approx(transform[:2] + transform[3:5])
    corner = ~transform @ (part.c, part.f)
    assert corner == pytest.approx(np.rint(corner), abs=1e-6)


def test_cleaned_and_converted_masks_keep_their_world_file(tmp_path):
    save_palette(tmp_path / "a.png", class_index(), DEEPGLOBE.colours)
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n5699999.75\n")
    lc.clean([tmp_path / "a.png"], tmp_path / "cleaned", min_region="20px")
    lc.convert([tmp_path / "a.png"], tmp_path / "converted", to="index")
    for folder in ("cleaned", "converted"):
        assert transform_of(tmp_path / folder / "a.png").almost_equals(PLACE["transform"], 1e-9)


def test_maps_in_memory_are_saved_in_place(tmp_path):
    save_raster(tmp_path / "a.tif", photo(96, 96), place=True)
    lc.open_model("starter").predict(tmp_path / "a.tif").save(tmp_path / "map.png")
    assert transform_of(tmp_path / "map.png").almost_equals(PLACE["transform"], 1e-9)


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """A TIFF of two images, and a netCDF of two variables."""
    folder = tmp_path_factory.mktemp("containers")
    for number in range(2):
        save_raster(folder / f"{number}.tif", photo(40, 50, seed=number), place=True)
    copy(folder / "0.tif", folder / "both.tif", driver="GTiff")
    copy(folder / "1.tif", folder / "both.tif", driver="GTiff", APPEND_SUBDATASET="YES")
    with netcdf_file(folder / "both.nc", "w") as file:
        for name, size in (("band", 3), ("y", 40), ("x", 50)):
            file.createDimension(name, size)
        for number, name in enumerate(("first", "second")):
            values = file.createVariable(name, "b", ("band", "y", "x"))
            values._Unsigned = b"true"
            values[:] = np.moveaxis(photo(40, 50, seed=number), 2, 0).view(np.int8)
    return folder


def test_images_of_a_tiff_are_listed_and_can_be_chosen(containers, tmp_path):
    with open_scene(containers / "both.tif") as scene:
        assert any(f"GTIFF_DIR:2:{containers / 'both.tif'}" in note for note in scene.warnings)
        assert np.array_equal(scene.read_rows(0, 40).image, photo(40, 50))
    name = f"GTIFF_DIR:2:{containers / 'both.tif'}"
    with open_scene(name) as scene:
        assert np.array_equal(scene.read_rows(0, 40).image, photo(40, 50, seed=1))
    result = predict([name], RUNTIME, tmp_path, PredictOptions())
    assert [made.task.map.name for made in result.maps] == ["both_2_mask.tif"]


def test_a_file_without_bands_lists_its_images(containers, tmp_path):
    with pytest.raises(ImageError, match=r"first.*second"):
        open_scene(containers / "both.nc")
    names = [f"NETCDF:{containers / 'both.nc'}:{name}" for name in ("first", "second")]
    with open_scene(names[1]) as scene:
        image = scene.read_rows(0, 40).image
        assert np.array_equal(image, photo(40, 50, seed=1)) or np.array_equal(
            image[::-1], photo(40, 50, seed=1)
        )
    options = PredictOptions(gsd=0.5)
    result = predict([containers / "both.nc", *names], RUNTIME, tmp_path, options)
    assert list(result.failed) == [str(containers / "both.nc")]
    assert sorted(made.task.map.stem for made in result.maps) == ["both_first_mask", "both_second_mask"]


@pytest.mark.parametrize(
    "name", ["GTIFF_DIR:2:/vsicurl/http://127.0.0.1:9/a.tif", "GTIFF_DIR:9:a.tif", "NETCDF:b:c"]
)
def test_names_that_lead_nowhere_are_one_line(tmp_path, name):
    result = predict([name], RUNTIME, tmp_path, PredictOptions(gsd=1))
    (reason,) = result.failed.values()
    assert "\n" not in reason


def test_a_netcdf_of_longitude_and_latitude_names_what_is_missing_before_the_work(tmp_path):
    image = photo(40, 50)
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, length in (("band", 3), ("lat", 40), ("lon", 50)):
            file.createDimension(name, length)
        for name, unit, values in (
            ("lat", "degrees_north", 50 + 5e-6 * np.arange(40)),  # from the south
            ("lon", "degrees_east", 7 + 5e-6 * np.arange(50)),
        ):
            axis = file.createVariable(name, "d", (name,))
            axis[:], axis.units, axis.standard_name = values, unit, unit
        rgb = file.createVariable("rgb", "i", ("band", "lat", "lon"))
        rgb[:] = np.moveaxis(image[::-1], 2, 0)
    model, options = ColourRuntime(card=make_card()), PredictOptions(scaling=(0, 255))
    with pytest.raises(lc.UsageError, match=r"a\.nc: it has a position but no coord.*--crs EPSG:CODE"):
        predict([tmp_path / "a.nc"], model, tmp_path / "maps", options)
    with open_scene(tmp_path / "a.nc", scaling=(0, 255), crs=UTM) as scene:
        assert np.array_equal(scene.read_rows(0, 40).image, image)
