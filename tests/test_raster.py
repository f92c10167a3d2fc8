import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from imagefiles import save_raster
from landcover.raster import ground_sample_distance, read_georeference

RNG = np.random.default_rng(0)


def write_tiff(path, bands, **profile):
    return save_raster(path, np.moveaxis(bands, 0, -1), place=True, **profile)


def rgb(height=40, width=60):
    return RNG.integers(1, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        (32631, Affine(0.5, 0, 5e5, 0, -0.5, 5.7e6), 0.5),
        (28992, Affine(0.25, 0, 127_375, 0, -0.25, 428_250), 0.25),
        (2263, Affine(2, 0, 9.8e5, 0, -2, 2e5), 2 * 0.3048006096),  # New York, US survey feet
        (32631, Affine(0.5, 0, 5e5, 0, -2, 5.7e6), 1.0),  # oblong pixels
        (32631, Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5.7e6), 0.5),
    ],
)
def test_gsd_of_projected_rasters(tmp_path, crs, transform, expected):
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(crs), transform=transform)
    assert ground_sample_distance(path) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("latitude", [0.0, 45.0, -60.0])
def test_gsd_of_longitude_and_latitude_is_in_metres(tmp_path, latitude):
    degrees = 5e-6
    transform = Affine(degrees, 0, 10, 0, -degrees, latitude)
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(4326), transform=transform)
    # Lengths of a degree on WGS 84: the series of the US National Geospatial-Intelligence Agency.
    phi = np.radians(latitude)
    north = 111132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    east = 111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi)
    assert ground_sample_distance(path) == pytest.approx(degrees * np.sqrt(north * east), rel=1e-4)


def test_gsd_in_web_mercator_is_that_on_the_ground(tmp_path):
    """Its metres are stretched by 1 / cos(latitude): 0.6 m at 52 degrees north are 0.37 m."""
    y = 6_800_125.0  # 52 degrees north
    transform = Affine(0.6, 0, 556_000, 0, -0.6, y)
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_epsg(3857), transform=transform)
    latitude = 2 * np.arctan(np.exp(y / 6_378_137)) - np.pi / 2
    assert ground_sample_distance(path) == pytest.approx(0.6 * np.cos(latitude), rel=5e-3)


def test_files_that_tell_no_place_have_no_gsd(tmp_path):
    image = Image.fromarray(np.moveaxis(rgb(), 0, -1))
    for name in ("a.png", "a.jpg", "a.tif"):
        image.save(tmp_path / name)
        assert ground_sample_distance(tmp_path / name) is None
        assert read_georeference(tmp_path / name) is None
    (tmp_path / "text.tif").write_text("no raster")
    assert ground_sample_distance(tmp_path / "text.tif") is None
    assert ground_sample_distance(tmp_path / "missing.tif") is None


@pytest.mark.parametrize(
    ("crs", "gsd"),
    [
        ('LOCAL_CS["site",UNIT["metre",1]]', 0.5),
        ('LOCAL_CS["site",UNIT["foot",0.3048]]', 0.1524),
        ("+proj=eqc +R=3396190 +units=m +no_defs +type=crs", None),
    ],
    ids=["building site", "building site in feet", "Mars"],
)
def test_a_site_grid_has_a_gsd_and_another_planet_has_none(tmp_path, crs, gsd):
    path = write_tiff(tmp_path / "a.tif", rgb(), crs=CRS.from_user_input(crs))
    assert ground_sample_distance(path) == (None if gsd is None else pytest.approx(gsd))
