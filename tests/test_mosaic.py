"""Files of one grid mapped as one mosaic, and ground of several maps counted once."""

import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from fake_runtime import ColourRuntime, ContextRuntime, make_card
from imagefiles import PLACE, UTM, grid_place, photo, read_band, save_parts, save_polygons, save_raster
from landcover.errors import DataError, ImageError, OutputError, UsageError
from landcover.inference import PredictOptions, predict
from landcover.inference.plan import open_imagery, plan
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import Georeference, write_class_raster
from landcover.raster.mosaic import MosaicScene, lay_out, lay_under, repeated_rows
from landcover.windows import Window

HEIGHT, WIDTH = 200, 260
CARD = {"card": make_card(gsd=0.5, window_px=64, overlap_px=16)}


def test_a_mosaic_is_the_map_of_the_whole_scene(tmp_path):
    image = photo(HEIGHT, WIDTH)
    save_raster(tmp_path / "whole.tif", image, place=True)
    windows = [(0, 0, 110, 130), (0, 130, 110, 130), (110, 0, 90, 130), (90, 100, 110, 160)]
    save_parts(tmp_path / "parts", image, windows)
    runtime, options = ContextRuntime(**CARD), {"window_px": 64}
    predict([tmp_path / "whole.tif"], runtime, tmp_path / "maps", PredictOptions(**options))
    target = tmp_path / "all.tif"
    result = predict([tmp_path / "parts"], runtime, options=PredictOptions(mosaic=target, **options))
    with rasterio.open(target) as mosaic, rasterio.open(tmp_path / "maps" / "whole_mask.tif") as whole:
        assert np.array_equal(mosaic.read(), whole.read())
        assert (mosaic.crs, mosaic.transform) == (whole.crs, whole.transform)
    (made,) = result.maps
    assert sum(area.pixels for area in made.areas.table()) == HEIGHT * WIDTH

    box = (500_020.0, 5_699_930.0, 500_090.0, 5_699_980.0)
    predict(
        [tmp_path / "parts"], runtime, None, PredictOptions(mosaic=tmp_path / "box.tif", bbox=box, **options)
    )
    assert np.array_equal(read_band(tmp_path / "box.tif"), read_band(target)[40:140, 40:180])


def test_the_first_file_with_imagery_counts(tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(1, 200, (3, 60, 80, 3)).astype(np.uint8)
    corners = [(0, 0), (30, 20), (10, 100)]
    expected = np.zeros((90, 180, 3), np.uint8)
    valid = np.zeros((90, 180), bool)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, (image, (row, col)) in enumerate(zip(images, corners, strict=True)):
        hole = rng.random((60, 80)) < 0.3
        image[hole] = 0
        save_raster(folder / f"{number}.tif", image, nodata=0, **grid_place(row, col))
        part = slice(row, row + 60), slice(col, col + 80)
        free = ~valid[part] & ~hole
        expected[part][free] = image[free]
        valid[part] |= free
    (task,) = plan([folder], tmp_path, PredictOptions(mosaic=tmp_path / "m.tif"), model_gsd=0.5)
    with open_imagery(task, PredictOptions(), 0.5) as imagery:
        for start, stop, cols in ((0, 90, slice(0, 180)), (25, 61, slice(15, 120)), (5, 6, slice(0, 3))):
            strip = imagery.source.read_rows(start, stop, cols)
            inside = valid[start:stop, cols]
            assert np.array_equal(np.ones_like(inside) if strip.valid is None else strip.valid, inside)
            assert np.array_equal(strip.image[inside], expected[start:stop, cols][inside])


def test_a_later_map_shows_where_the_first_has_no_data():
    index = np.array([[1, NODATA, NODATA]], np.uint8)
    lay_under(index, np.array([[2, 3, NODATA]], np.uint8))
    assert index.tolist() == [[1, 3, NODATA]]


def test_percentiles_are_those_of_all_files(tmp_path):
    image = (photo(100, 120).astype(np.uint16) * 9) + 40
    save_parts(tmp_path / "parts", image, [(0, 0, 100, 60), (0, 60, 100, 60)])
    options = PredictOptions(scaling="percentile", mosaic=tmp_path / "m.tif")
    (task,) = plan([tmp_path / "parts"], tmp_path, options, model_gsd=0.5)
    low, high = np.percentile(image, (2, 98))
    with open_imagery(task, options, 0.5) as imagery:
        strip = imagery.source.read_rows(0, 100, slice(0, 120))
    exact = np.clip((image.astype(float) - low) * 255 / (high - low), 0, 255)
    assert np.abs(strip.image - exact).max() <= 1


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({**PLACE, "transform": Affine(0.5, 0, 500_032.2, 0, -0.5, 5_700_000)}, "grid"),
        ({**PLACE, "transform": Affine(0.6, 0, 500_032, 0, -0.6, 5_700_000)}, "1.2"),
        ({**PLACE, "transform": Affine(0.5, 0, 500_032, 0, 0.5, 5_700_000)}, "grid"),
        ({**PLACE, "crs": CRS.from_epsg(32632)}, "EPSG:32632"),
        ({**PLACE, "transform": Affine(0.5, 0, 900_000, 0, -0.5, 5_700_000)}, "--mosaic"),
        ({}, "b.tif"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_the_command(tmp_path, other, shown):
    save_raster(tmp_path / "a.tif", photo(), place=True)
    save_raster(tmp_path / "b.tif", photo(), **other)
    with pytest.raises(DataError, match=shown) as caught:
        predict([tmp_path], ColourRuntime(), None, PredictOptions(mosaic=tmp_path / "m.tif"))
    assert "b.tif" in str(caught.value) or "others" in str(caught.value) or "other" in str(caught.value)
    assert not (tmp_path / "m.tif").exists()


def test_usage(tmp_path):
    save_raster(tmp_path / "a.tif", photo(), place=True)
    with pytest.raises(UsageError, match="png"):
        predict([tmp_path], ColourRuntime(), None, PredictOptions(mosaic=tmp_path / "m.png"))
    with pytest.raises(UsageError, match="https"):
        predict(["https://a/b.tif"], ColourRuntime(), None, PredictOptions(mosaic=tmp_path / "m.tif"))
    with pytest.raises(UsageError, match="--out"):
        predict([tmp_path], ColourRuntime())


def test_all_files_belong_to_the_identity(tmp_path):
    save_parts(tmp_path / "parts", photo(60, 80), [(0, 0, 60, 40), (0, 40, 60, 40)])
    from landcover.inference.scene import Inputs

    options = PredictOptions(mosaic=tmp_path / "m.tif")

    def digest():
        (task,) = plan([tmp_path / "parts"], tmp_path, options, model_gsd=0.5)
        return Inputs(task, options).digests

    before = digest()
    assert digest() == before
    os.utime(tmp_path / "parts" / "1.tif", ns=(1, 1))  # the same content at another time
    assert digest() == before
    save_raster(tmp_path / "parts" / "1.tif", photo(60, 40, 2), **grid_place(0, 40))
    changed = digest()
    assert changed != before
    (tmp_path / "parts" / "1.tif").unlink()
    assert digest() not in (before, changed)
    predict([tmp_path / "parts"], ColourRuntime(), None, options)
    with pytest.raises(OutputError, match="force"):
        predict([tmp_path / "parts"], ColourRuntime(), None, options)


def test_ground_of_several_maps_counts_once(tmp_path):
    image = photo(120, 160)
    save_parts(tmp_path / "parts", image, [(0, 0, 120, 100), (0, 60, 120, 100)])
    zone = [[500_020, 5_699_950], [500_070, 5_699_950], [500_070, 5_699_990], [500_020, 5_699_990]]
    save_polygons(tmp_path / "z.geojson", {None: zone})
    options = PredictOptions(zones=tmp_path / "z.geojson")
    result = predict([tmp_path / "parts"], ColourRuntime(**CARD), tmp_path / "maps", options)
    assert sum(area.pixels for area in result.areas) == 120 * 160
    first, second = (read_band(tmp_path / "maps" / f"{number}_mask.tif") for number in (0, 1))
    whole = np.concatenate([first, second[:, 40:]], axis=1)
    for area in result.areas:
        index = DEEPGLOBE.names.index(area.name)
        assert area.pixels == np.count_nonzero(whole == index)
        assert area.hectares == pytest.approx(area.pixels * 0.25 / 10_000)
    ((areas, coverage),) = result.zones.values()
    assert sum(area.pixels for area in areas) == 100 * 80
    assert coverage == pytest.approx({"covered": 1, "nodata": 0})
    assert [entry["repeated_pixels"] for entry in result.to_dict()["maps"]] == [0, 120 * 40]


@pytest.mark.parametrize("crs", [32631, 32632, 3857])
def test_maps_of_other_grids_are_compared_by_the_centres_of_pixels(tmp_path, crs):
    rng = np.random.default_rng(crs)
    first = rng.integers(0, 6, (60, 70)).astype(np.uint8)
    first[rng.random(first.shape) < 0.3] = NODATA
    second = rng.integers(0, 6, (64, 68)).astype(np.uint8)
    own = Georeference(60, 70, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), UTM)
    x, y = rasterio.warp.transform(UTM, CRS.from_epsg(crs), [500_012], [5_699_993])
    other = Georeference(64, 68, Affine(0.4, 0.02, x[0], 0.02, -0.4, y[0]), CRS.from_epsg(crs))
    maps = []
    for name, index, place in (("a", first, own), ("b", second, other)):
        write_class_raster(tmp_path / f"{name}.tif", index, DEEPGLOBE, place)
        maps.append((tmp_path / f"{name}.tif", place))
    found = np.full(second.shape, NODATA, np.uint8)
    for number, row, strip in repeated_rows(maps):
        assert number == 1
        found[row : row + len(strip)] = strip
    covered = np.full(second.shape, NODATA, np.uint8)
    reproject(
        first,
        covered,
        src_transform=own.transform,
        src_crs=own.crs,
        dst_transform=other.transform,
        dst_crs=other.crs,
        resampling=Resampling.nearest,
        src_nodata=NODATA,
        dst_nodata=NODATA,
        tolerance=0,
    )
    expected = np.where(covered == NODATA, NODATA, second)
    assert (expected != NODATA).any()
    assert (found != expected).mean() < 0.01  # WarpedVRT approximates within an eighth of a pixel


def test_adjoining_maps_are_not_read(tmp_path):
    place = Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), UTM)
    maps = [(tmp_path / "none.tif", place.part(Window(0, col, 10, 10))) for col in (0, 10, 20)]
    assert not list(repeated_rows(maps))


def test_the_extent_of_a_map_is_computed_once_per_crs(tmp_path, monkeypatch):
    """Maps that are far apart are not compared one with another."""
    place = Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), UTM)
    lonely = Georeference(100, 100, place.transform, CRS.from_epsg(32660))
    maps = [(tmp_path / "none.tif", place.part(Window(0, 100 * n, 10, 10))) for n in range(30)]
    maps += [(tmp_path / "none.tif", lonely.part(Window(0, 100 * n, 10, 10))) for n in range(3)]
    calls = {"extent": 0, "pixels": 0}

    def count(name):
        original = getattr(Georeference, name)

        def counted(*arguments):
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(Georeference, name, counted)

    count("extent")
    count("pixels")
    assert not list(repeated_rows(maps[:1]))
    assert calls == {"extent": 0, "pixels": 0}
    assert not list(repeated_rows(maps))
    assert calls == {"extent": 2 * len(maps), "pixels": 0}


def test_pieces_have_whole_pixels_in_the_mosaic(tmp_path):
    place = Georeference(100, 100, Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_700_000), UTM)
    files = [
        (tmp_path / f"{n}.tif", place.part(Window(row, col, 7, 9)))
        for n, (row, col) in enumerate([(5, 4), (0, 9)])
    ]
    for path, own in files:
        save_raster(path, photo(*own.size), crs=UTM, transform=own.transform)
    mosaic = lay_out(files)
    assert [piece.window for piece in mosaic.pieces] == [(5, 0, 7, 9), (0, 5, 7, 9)]
    assert (mosaic.height, mosaic.width) == (12, 14)
    scene = MosaicScene(mosaic, "m.tif")
    scene.close()
    assert scene.frame.transform.almost_equals(place.part(Window(0, 4, 12, 14)).transform, 1e-6)


def test_exchanged_axes_and_several_types_are_refused(tmp_path):
    bands = np.random.default_rng(0).integers(1, 255, (64, 64, 3))
    straight, right = Affine(0.5, 0, 0, 0, -0.5, 0), Affine(0.5, 0, 32, 0, -0.5, 0)
    first = save_raster(tmp_path / "a.tif", bands.astype(np.uint8), crs=UTM, transform=straight)
    other = save_raster(tmp_path / "b.tif", bands.astype(np.uint16), crs=UTM, transform=right)
    turned = Georeference(64, 64, Affine(0, 0.5, 32, -0.5, 0, 0), UTM)
    own, beside = Georeference(64, 64, straight, UTM), Georeference(64, 64, right, UTM)
    with pytest.raises(DataError, match=r"b\.tif is on another grid"):
        lay_out([(first, own), (other, turned)])
    mosaic = lay_out([(first, own), (other, beside)])
    with pytest.raises(ImageError, match=r"uint8 .*a\.tif.*uint16 .*b\.tif"):
        MosaicScene(mosaic, "m.tif", scaling="percentile")
