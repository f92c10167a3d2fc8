"""Vector files as they come: several layers, metres as degrees, longitudes beyond 180, swapped axes."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from fake_runtime import ColourRuntime, make_card
from imagefiles import UTM, photo, save_polygons, save_raster
from landcover.errors import DataError, UsageError
from landcover.evaluation.assessment import assess
from landcover.inference import PredictOptions, predict
from landcover.io.vectors import read_features
from landcover.legend import DEEPGLOBE, NODATA
from landcover.postprocess.vectorize import vectorize
from landcover.raster import Georeference, write_class_raster

RUNTIME = ColourRuntime(card=make_card(gsd=0.5))
BOX = (500_010.0, 5_699_970.0, 500_030.0, 5_699_990.0)
"""Left, bottom, right, top of a part of :func:`scene`: rows 20 to 60, columns 20 to 60."""


@pytest.fixture
def scene(tmp_path):
    return save_raster(tmp_path / "scene.tif", photo(100, 120), place=True)


def geojson(path, polygon, crs=None):
    return save_polygons(path, {"0": polygon}, crs)


def box_in(crs, box=BOX, source=UTM):
    """A box of a projection, with many points along its edges, in another CRS."""
    polygon = shapely.segmentize(shapely.box(*box), 1.0)
    return shapely.transform(polygon, lambda p: np.transpose(transform(source, CRS.from_epsg(crs), *p.T)))


def mapped(scene, folder, **options):
    (made,) = predict([scene], RUNTIME, folder, PredictOptions(**options)).maps
    with rasterio.open(made.task.map) as source:
        return source.read(1), source.transform


def test_layers_are_chosen(scene, tmp_path):
    path = tmp_path / "layers.gpkg"
    for layer, box in (("far", (0, 0, 10, 10)), ("near", BOX)):
        wkb = np.array([shapely.to_wkb(shapely.box(*box))], object)
        pyogrio.raw.write(
            path, wkb, [], [], crs="EPSG:32631", geometry_type="Polygon", layer=layer, driver="GPKG"
        )
    index, _ = mapped(scene, tmp_path / "aoi", aoi=path, layer="near")
    assert index.shape == (40, 40)
    options = PredictOptions(zones=path, zones_layer="near")
    result = predict([scene], RUNTIME, tmp_path / "zones", options)
    assert sum(area.pixels for area in result.zones["1"][0]) == 1600
    for options, flag in (({"aoi": path}, "--layer"), ({"zones": path}, "--zones-layer")):
        result = predict([scene], RUNTIME, tmp_path / "none", PredictOptions(**options))
        (reason,) = result.failed.values()
        assert f"{flag}." in reason
        assert "near" in reason
    for options in ({"layer": "near"}, {"zones_layer": "near"}):
        with pytest.raises(UsageError, match="need"):
            PredictOptions(**options)


def failure(scene, folder, **options):
    result = predict([scene], RUNTIME, folder, PredictOptions(**options))
    (reason,) = result.failed.values()
    assert "\n" not in reason
    return reason


def test_geojson_in_metres_is_refused_with_the_command(scene, tmp_path):
    path = geojson(tmp_path / "a.geojson", shapely.box(*BOX))
    for options in ({"aoi": path}, {"zones": path}):
        assert "ogr2ogr -a_srs EPSG:32631 a.gpkg a.geojson" in failure(scene, tmp_path / "maps", **options)


def test_swapped_axes_are_refused_with_the_command(scene, tmp_path):
    swapped = shapely.transform(box_in(4326), lambda p: p[:, ::-1])
    path = geojson(tmp_path / "degrees.geojson", swapped)
    metres = shapely.transform(shapely.box(*BOX), lambda p: p[:, ::-1])
    other = geojson(tmp_path / "metres.geojson", metres, crs="EPSG::32631")
    for options in ({"aoi": path}, {"zones": path}, {"aoi": other}, {"zones": other}):
        assert "-swapxy" in failure(scene, tmp_path / "maps", **options)
    far = geojson(tmp_path / "far.geojson", shapely.box(1, 2, 3, 4))
    assert "-swapxy" not in failure(scene, tmp_path / "maps", aoi=far)


@pytest.fixture(params=["utm", "degrees beyond 180", "degrees below -180"])
def across(request, tmp_path):
    """A scene across the antimeridian in Fiji, and a box of 40 x 60 pixels across it, in UTM."""
    centre = transform(CRS.from_epsg(4326), CRS.from_epsg(32760), [180.0], [-17.0])
    x, y = centre[0][0], centre[1][0]
    image = photo(100, 120)
    if request.param == "utm":
        place = {"crs": CRS.from_epsg(32760), "transform": Affine(0.5, 0, x - 30, 0, -0.5, y + 25)}
    else:
        west = 180.0 if "beyond" in request.param else -180.0
        size = 0.5 / 106_000
        place = {
            "crs": CRS.from_epsg(4326),
            "transform": Affine(size, 0, west - 60 * size, 0, -size, -17 + 50 * size),
        }
    return save_raster(tmp_path / "across.tif", image, **place), (x - 15, y - 10, x + 15, y + 10)


@pytest.mark.parametrize("how", ["cut", "beyond", "below", "utm"])
def test_areas_across_the_antimeridian(across, tmp_path, how):
    scene, box = across
    if how == "utm":
        path = geojson(tmp_path / "a.geojson", shapely.box(*box), crs="EPSG::32760")
    else:
        polygon = box_in(4326, box, CRS.from_epsg(32760))
        beyond = shapely.transform(polygon, lambda p: p + [360, 0] * (p < 0)[:, :1])
        if how == "cut":
            east = shapely.intersection(beyond, shapely.box(180, -90, 540, 90))
            west = shapely.intersection(beyond, shapely.box(-180, -90, 180, 90))
            east = shapely.transform(east, lambda p: p - [360, 0])
            beyond = shapely.multipolygons([west, east])
        elif how == "below":
            beyond = shapely.transform(beyond, lambda p: p - [360, 0])
        path = geojson(tmp_path / "a.geojson", beyond)
    index, _ = mapped(scene, tmp_path / "aoi", aoi=path)
    assert np.count_nonzero(index != NODATA) == pytest.approx(40 * 60, rel=0.06)
    result = predict([scene], RUNTIME, tmp_path / "zones", PredictOptions(zones=path))
    ((areas, coverage),) = result.zones.values()
    assert sum(area.hectares for area in areas) == pytest.approx(20 * 30 / 10_000, rel=0.06)
    assert coverage["covered"] == pytest.approx(1, abs=0.02)


def test_truth_across_the_antimeridian(across, tmp_path):
    scene, _ = across
    with rasterio.open(scene) as source:
        place = Georeference(100, 100, source.transform, source.crs)
    index = np.zeros((100, 120), np.uint8)
    index[:, 60:] = 3
    write_class_raster(tmp_path / "map.tif", index, DEEPGLOBE, place)
    x, y = place.points(np.arange(5, 120, 10) + 0.5, np.full(12, 50.5))
    lon, lat = transform(place.crs, CRS.from_epsg(4326), x, y)
    names = ["urban"] * 6 + ["forest"] * 6
    rows = [f"{(a + 180) % 360 - 180},{b},{name}" for a, b, name in zip(lon, lat, names, strict=True)]
    (tmp_path / "truth.csv").write_text("\n".join(["lon,lat,class", *rows]))
    report = assess(tmp_path / "map.tif", tmp_path / "truth.csv")
    assert np.trace(np.array(report.confusion)) == 12


def test_an_edge_around_the_earth_is_refused(across, tmp_path):
    scene, _ = across
    path = geojson(tmp_path / "a.geojson", shapely.box(-179.9999, -17.1, 179.9999, -16.9))
    assert "-wrapdateline" in failure(scene, tmp_path / "maps", aoi=path)


@pytest.mark.parametrize("crs", [32760, 4326])
def test_polygons_of_a_map_across_the_antimeridian_are_cut_there(tmp_path, crs):
    index = np.zeros((40, 60), np.uint8)
    index[10:30, 20:40] = 1
    index[15:25, 25:35] = 3
    index[:5] = NODATA
    if crs == 4326:
        place = Georeference(100, 100, Affine(1e-5, 0, 180 - 30e-5, 0, -1e-5, -17), CRS.from_epsg(crs))
    else:
        x, y = transform(CRS.from_epsg(4326), CRS.from_epsg(crs), [180.0], [-17.0])
        place = Georeference(100, 100, Affine(0.5, 0, x[0] - 15, 0, -0.5, y[0] + 10), CRS.from_epsg(crs))
    write_class_raster(tmp_path / "a.tif", index, DEEPGLOBE, place)
    result = vectorize(tmp_path / "a.tif", tmp_path / "a.geojson")
    _, _, raw, fields = pyogrio.raw.read(tmp_path / "a.geojson")
    geometries = shapely.from_wkb(raw)
    bounds = shapely.bounds(geometries)
    assert bounds[:, 0].min() == pytest.approx(-180, abs=1e-8)
    assert bounds[:, 2].max() == pytest.approx(180, abs=1e-8)
    parts = shapely.get_parts(geometries)
    assert (shapely.bounds(parts)[:, 2] - shapely.bounds(parts)[:, 0]).max() < 0.001
    assert shapely.is_valid(geometries).all()
    assert sum(fields[-1]) == pytest.approx(sum(result.area_m2.values()))
    whole = shapely.union_all(shapely.transform(parts, lambda p: p + [360, 0] * (p < 0)[:, :1]))
    assert whole.area == pytest.approx(shapely.area(parts).sum())  # no overlaps


def test_the_world_is_not_an_edge_around_the_earth(scene, tmp_path):
    path = geojson(tmp_path / "a.geojson", shapely.box(-180, -90, 180, 90))
    with pytest.raises(DataError, match="fold"):
        read_features(path, UTM)
