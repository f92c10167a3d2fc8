"""Pixel sizes and areas, against integrals that know nothing of the closed form and a geodesic polygon."""

from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from shapely import box

from imagefiles import save_polygons, save_raster
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import Georeference, read_header
from landcover.raster.zonal import ClassAreas


def write_tiff(path, bands, **profile):
    return save_raster(path, np.moveaxis(bands, 0, -1), place=True, **profile)


def rgb(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        (32631, Affine(0.5, 0, 5e5, 0, -0.5, 5.7e6), 0.5),
        (28992, Affine(0.25, 0, 127_375, 0, -0.25, 428_250), 0.25),
        (2263, Affine(2, 0, 9.8e5, 0, -2, 2e5), 2 * 0.3048006096012192),  # New York, US survey feet
        (32631, Affine(0.5, 0, 5e5, 0, -2, 5.7e6), 1.0),  # oblong pixels
        (32631, Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5.7e6), 0.5),
    ],
)
def test_gsd_and_areas_of_national_grids_are_those_of_the_plane(tmp_path, crs, transform, expected):
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(crs), transform=transform)
    assert read_header(path).gsd == pytest.approx(expected, rel=1e-6)
    areas = Georeference(3, 5, transform, CRS.from_epsg(crs)).row_areas()
    np.testing.assert_allclose(areas, [expected**2] * 3, rtol=1e-12)


@pytest.mark.parametrize("latitude", [0.0, 45.0, -60.0])
def test_gsd_of_longitude_and_latitude_is_in_metres(tmp_path, latitude):
    degrees = 5e-6
    transform = Affine(degrees, 0, 10, 0, -degrees, latitude)
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(4326), transform=transform)
    # Lengths of a degree on WGS 84: the series of the US National Geospatial-Intelligence Agency.
    phi = np.radians(latitude)
    north = 111132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    east = 111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi)
    assert read_header(path).gsd == pytest.approx(degrees * np.sqrt(north * east), rel=1e-4)


def test_gsd_in_web_mercator_is_that_on_the_ground(tmp_path):
    """Its metres are stretched by 1 / cos(latitude): 0.6 m at 52 degrees north are 0.37 m."""
    y = 6_800_125.0  # 52 degrees north
    transform = Affine(0.6, 0, 556_000, 0, -0.6, y)
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(3857), transform=transform)
    latitude = 2 * np.arctan(np.exp(y / 6_378_137)) - np.pi / 2
    assert read_header(path).gsd == pytest.approx(0.6 * np.cos(latitude), rel=5e-3)


def test_files_that_tell_no_place_have_no_gsd(tmp_path):
    image = Image.fromarray(np.moveaxis(rgb(), 0, -1))
    for name in ("a.png", "a.jpg", "a.tif"):
        image.save(tmp_path / name)
        assert read_header(tmp_path / name).gsd is None
        assert read_header(tmp_path / name).georeference is None
    (tmp_path / "text.tif").write_text("no raster")
    assert read_header(tmp_path / "text.tif").gsd is None
    assert read_header(tmp_path / "missing.tif").gsd is None


@pytest.mark.parametrize(
    ("crs", "gsd"),
    [
        ('LOCAL_CS["site",UNIT["metre",1]]', 0.5),
        ('LOCAL_CS["site",UNIT["foot",0.3048]]', 0.1524),
        ("+proj=eqc +R=3396190 +units=m +no_defs +type=crs", None),
    ],
    ids=["building site", "building site in feet", "Mars"],
)
def test_a_site_grid_has_a_scale_and_another_planet_has_none(tmp_path, crs, gsd):
    place = Georeference(4, 4, Affine(0.5, 0, 0, 0, -0.5, 0), CRS.from_user_input(crs))
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=place.crs)
    expected = (None, None) if gsd is None else (pytest.approx(gsd), pytest.approx([gsd**2] * 4))
    assert (read_header(path).gsd, place.row_areas()) == expected
    assert (place.gsd is None) == (gsd is None)


WGS84 = (6_378_137.0, 298.257223563)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def zone(south, north, ellipsoid=WGS84):
    """Square metres per radian of longitude between two latitudes in degrees: the integral of M N cos."""
    radius, inverse = ellipsoid
    e2 = (2 - 1 / inverse) / inverse if inverse else 0.0
    middle, half = np.radians(north + south) / 2, np.radians(north - south) / 2
    latitude = middle + half * NODES
    bend = 1 - e2 * np.sin(latitude) ** 2
    return float(half * WEIGHTS @ (radius**2 * (1 - e2) / bend**2 * np.cos(latitude)))


def test_all_pixels_of_the_earth_are_as_large_as_the_earth():
    areas = Georeference(360, 720, Affine(0.5, 0, -180, 0, -0.5, 90), CRS.from_epsg(4326)).row_areas()
    assert areas is not None
    assert areas.shape == (360,)
    assert areas.sum() * 720 == pytest.approx(5.10065621724e14, rel=1e-11)  # of WGS 84, by NIMA TR8350.2


@pytest.mark.parametrize("step", [-5e-6, -0.1, 5e-6], ids=["half a metre", "ten kilometres", "south up"])
@pytest.mark.parametrize("top", [0.0, 52.0, -71.5])
def test_longitude_and_latitude(top, step):
    place = Georeference(9, 50, Affine(abs(step), 0, 11, 0, step, top), CRS.from_epsg(4326))
    areas = place.row_areas()
    edges = top + step * np.arange(10)
    expected = [zone(*sorted(pair)) * np.radians(abs(step)) for pair in pairwise(edges)]
    np.testing.assert_allclose(areas, expected, rtol=1e-7)  # doubles carry degrees to 1e-14: 3e-9 of 5e-6


@pytest.mark.parametrize(
    ("crs", "unit", "ellipsoid"),
    [
        ("EPSG:4267", 1.0, (6_378_206.4, 294.9786982)),  # NAD27, Clarke 1866
        ("+proj=longlat +R=3396190 +no_defs +type=crs", 1.0, (3_396_190.0, 0.0)),  # Mars
        ("EPSG:4807", 0.9, (6_378_249.2, 293.4660213)),  # in grads, Clarke 1880
        (
            # GDAL writes three axes as WKT 2, where the ellipsoid keeps its unit: EPSG:3139's, in feet.
            'GEOGCRS["x",DATUM["x",ELLIPSOID["Clarke 1880",20926202,293.466307655635,LENGTHUNIT["foot",'
            '0.3048]]],CS[ellipsoidal,3],AXIS["latitude",north],AXIS["longitude",east],AXIS["height",up,'
            'LENGTHUNIT["metre",1]],ANGLEUNIT["degree",0.0174532925199433]]',
            1.0,
            (20_926_202 * 0.3048, 293.466307655635),
        ),
        ("EPSG:4042", 1.0, (6_377_299.365595, 300.8017255)),  # Everest 1830, declared in Indian feet
    ],
)
def test_a_reference_system_has_its_own_ellipsoid_and_unit(crs, unit, ellipsoid):
    place = Georeference(1, 1, Affine(0.1, 0, 5, 0, -0.1, 50), CRS.from_user_input(crs))
    expected = zone(49.9 * unit, 50 * unit, ellipsoid) * np.radians(0.1 * unit)
    areas = place.row_areas()
    assert areas is not None
    assert areas[0] == pytest.approx(expected, rel=1e-8)


def test_web_mercator_is_measured_on_the_ground_row_by_row():
    """Its pixels are rectangles of longitude and latitude, so that their areas are those of zones."""
    height, step = 400, 250.0
    place = Georeference(height, 300, Affine(step, 0, 556_000, 0, -step, 8_000_000), CRS.from_epsg(3857))
    y = 8_000_000 - step * np.arange(height + 1)
    latitude = np.degrees(2 * np.arctan(np.exp(y / 6_378_137)) - np.pi / 2)
    expected = [zone(latitude[i + 1], latitude[i]) * step / 6_378_137 for i in range(height)]
    areas = place.row_areas()
    np.testing.assert_allclose(areas, expected, rtol=1e-7)
    assert expected[-1] / expected[0] > 1.02


def test_a_turned_grid_of_longitude_and_latitude():
    cosine, sine = 1e-3 * np.cos(0.5), 1e-3 * np.sin(0.5)
    transform = Affine(cosine, sine, 10, sine, -cosine, 50)
    areas = Georeference(40, 60, transform, CRS.from_epsg(4326)).row_areas()
    cols, rows = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    latitude = np.radians(transform.d * cols + transform.e * rows + transform.f)
    e2 = (2 - 1 / WGS84[1]) / WGS84[1]
    density = WGS84[0] ** 2 * (1 - e2) / (1 - e2 * np.sin(latitude) ** 2) ** 2 * np.cos(latitude)
    expected = (density * np.radians(1e-3) ** 2).mean(axis=1)
    np.testing.assert_allclose(areas, expected, rtol=1e-6)


def test_a_scene_is_as_large_as_the_geodesic_polygon_around_it():
    geod = pytest.importorskip("pyproj").Geod(ellps="WGS84")
    areas = Georeference(500, 800, Affine(2e-5, 0, 7, 0, -2e-5, 47), CRS.from_epsg(4326)).row_areas()
    lon, lat = 7 + 2e-5 * 800 * np.linspace(0, 1, 200), 47 - 2e-5 * 500 * np.ones(200)
    polygon = geod.polygon_area_perimeter([*lon, *lon[::-1]], [*lat, *(lat + 2e-5 * 500)])[0]
    assert areas is not None
    assert areas.sum() * 800 == pytest.approx(polygon, rel=1e-7)


def test_a_pixel_across_the_date_line_has_its_size():
    """The Fiji grid: longitudes jump from 180 to -180 within the pixel at the centre."""
    crs = CRS.from_user_input("+proj=merc +lon_0=178 +type=crs")
    x = 6_378_137 * np.radians(2.0)
    place = Georeference(10, 10, Affine(10, 0, x - 50, 0, -10, 50), crs)
    assert place.gsd == pytest.approx(10, rel=0.01)


def test_areas_of_classes_are_summed_row_by_row():
    areas = ClassAreas(DEEPGLOBE, np.array([1.0, 10.0, 100.0]))
    index = np.array([[0, 0, 3], [3, 3, 0], [0, NODATA, 3]], np.uint8)
    areas.add(0, index[:1])
    areas.add(1, index[1:])
    assert [areas.square_metres[number] for number in (0, 3)] == [2 + 10 + 100, 1 + 20 + 100]


def test_zones_report_what_of_them_is_covered(tmp_path):
    """A zone inside, one of which a fortieth is on the map, and one over nodata; the oracle is by hand."""
    place = Georeference(400, 600, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), CRS.from_epsg(32631))
    boxes = {"inside": (20, 20, 120, 120), "outside": (290, 20, 690, 120), "empty": (0, 180, 20, 200)}
    rings = {
        name: box(5e5 + left, 5.7e6 - bottom, 5e5 + right, 5.7e6 - top)
        for name, (left, top, right, bottom) in boxes.items()
    }
    save_polygons(tmp_path / "zones.geojson", rings)
    index = np.zeros((400, 600), np.uint8)
    index[380:] = NODATA
    areas = ClassAreas(DEEPGLOBE, np.full(400, 0.25))
    areas.add_zones(tmp_path / "zones.geojson", "name", place)
    areas.add(0, index)
    assert {name: zone.coverage() for name, zone in areas.zones.items()} == {
        "inside": {"covered": 1.0, "nodata": 0.0},
        "outside": {"covered": 0.025, "nodata": 0.0},
        "empty": {"covered": 0.5, "nodata": 0.5},
    }
