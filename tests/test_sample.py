"""Random points in the classes of a map."""

import csv

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from landcover.errors import MaskError, OutputError, UsageError
from landcover.evaluation.assessment import assess
from landcover.evaluation.sampling import allocate, sample
from landcover.io.vectors import WGS84, read_features, write_features
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import Georeference, classmap, write_class_raster

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(7)
UTM = CRS.from_epsg(32631)
PLACE = Georeference(100, 100, Affine(0.48, 0.14, 5e5, 0.14, -0.48, 5.7e6), UTM)  # rotated by 16 degrees


def scattered(seed=0, shape=(120, 90)):
    """Much forest, some water and nodata, three pixels of barren land."""
    rng = np.random.default_rng(seed)
    index = rng.choice([FOREST, WATER, NODATA], shape, p=[0.8, 0.15, 0.05]).astype(np.uint8)
    index.ravel()[rng.choice(index.size, 3, replace=False)] = BARREN
    return index


@pytest.fixture
def path(tmp_path):
    write_class_raster(tmp_path / "map.tif", scattered(), DEEPGLOBE, PLACE)
    return tmp_path / "map.tif"


def apply(grid, x, y):
    """Move places by a transform, as every version of affine can."""
    a, b, c, d, e, f = grid[:6]
    return a * x + b * y + c, d * x + e * y + f


def drawn(file):
    """Row, column and class of the points."""
    features = read_features(file, UTM)
    cols, rows = apply(~PLACE.transform, *shapely.get_coordinates(features.geometries).T)
    return rows, cols, features.attributes["class_map"].tolist()


def test_points_are_centres_of_pixels_of_their_class(path, tmp_path):
    numbers = sample(path, tmp_path / "p.gpkg", per_class=40)
    assert numbers == {"forest": 40, "water": 40, "barren": 3}
    rows, cols, names = drawn(tmp_path / "p.gpkg")
    np.testing.assert_allclose(rows % 1, 0.5, atol=1e-6)
    np.testing.assert_allclose(cols % 1, 0.5, atol=1e-6)
    found = scattered()[rows.astype(int), cols.astype(int)]
    assert [DEEPGLOBE.names[i] for i in found] == names
    assert len(set(zip(rows.round(1), cols.round(1), strict=True))) == 83  # none twice
    assert {name: names.count(name) for name in numbers} == numbers
    features = read_features(tmp_path / "p.gpkg", UTM)
    assert features.attributes["id"].tolist() == list(range(1, 84))
    assert features.attributes["class"].tolist() == [None] * 83
    assert names != sorted(names)  # the order tells nothing


def test_the_seed_alone_decides(path, tmp_path, monkeypatch):
    sample(path, tmp_path / "a.gpkg", per_class=20, seed=1)
    sample(path, tmp_path / "c.gpkg", per_class=20, seed=2)
    write_class_raster(tmp_path / "large.tif", scattered(3, (1300, 40)), DEEPGLOBE, PLACE)
    sample(tmp_path / "large.tif", tmp_path / "d.csv", per_class=20)
    monkeypatch.setattr(classmap, "_STRIP_PX", 1)  # strips of one row of blocks
    sample(path, tmp_path / "b" / "a.gpkg", per_class=20, seed=1)
    sample(tmp_path / "large.tif", tmp_path / "e.csv", per_class=20)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b" / "a.gpkg").read_bytes()
    assert (tmp_path / "d.csv").read_bytes() == (tmp_path / "e.csv").read_bytes()
    assert drawn(tmp_path / "a.gpkg")[0].tolist() != drawn(tmp_path / "c.gpkg")[0].tolist()


def test_every_pixel_of_a_class_is_as_likely(tmp_path):
    index = np.full((4, 10), FOREST, np.uint8)
    index[0, :5] = WATER
    write_class_raster(tmp_path / "map.tif", index, DEEPGLOBE, PLACE)
    times = np.zeros(index.shape)
    for seed in range(60):
        sample(tmp_path / "map.tif", tmp_path / "p.csv", per_class=4, seed=seed, force=True)
        with (tmp_path / "p.csv").open() as file:
            rows = list(csv.DictReader(file))
        x, y = transform(WGS84, UTM, [float(r["lon"]) for r in rows], [float(r["lat"]) for r in rows])
        cols, lines = (np.floor(v).astype(int) for v in apply(~PLACE.transform, np.array(x), np.array(y)))
        np.add.at(times, (lines, cols), 1)
    # Five standard deviations around 4/5 and 4/35 of the 60 samples.
    assert np.abs(times[index == WATER] - 48).max() < 16
    assert np.abs(times[index == FOREST] - 240 / 35).max() < 13
    assert times[index == FOREST].sum() == 240


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "csv"])
def test_evaluate_reads_it_back(path, tmp_path, suffix):
    file = tmp_path / f"p.{suffix}"
    sample(path, file, per_class=10)
    if suffix == "csv":
        rows = list(csv.reader(file.open()))
        filled = [[*row[:-1], row[-2]] for row in rows[1:]]
        with file.open("w", newline="") as target:
            csv.writer(target).writerows([rows[0], *filled])
    else:
        features = read_features(file, UTM)
        columns = {"class": features.attributes["class_map"]}
        write_features(
            file, [(features.geometries, columns)], {"class": str}, UTM, geometry="Point", force=True
        )
    result = assess(path, file)
    assert result.units == 23
    assert result.pixel_accuracy == 1
    assert result.estimates.overall.value == pytest.approx(1)


def test_points_drawn_on_another_map_give_no_errors(path, tmp_path):
    """The map was made again: its classes are no longer the strata."""
    sample(path, tmp_path / "p.gpkg", per_class=10)
    features = read_features(tmp_path / "p.gpkg", UTM)
    columns = {"class": features.attributes["class_map"], "class_map": features.attributes["class_map"]}
    types = dict.fromkeys(columns, str)
    write_features(
        tmp_path / "q.gpkg", [(features.geometries, columns)], types, UTM, geometry="Point", force=True
    )
    assert assess(path, tmp_path / "q.gpkg").estimates.without_errors is None
    index = scattered()
    index[(index == FOREST) & (np.arange(90) < 45)] = WATER
    write_class_raster(tmp_path / "new.tif", index, DEEPGLOBE, PLACE)
    rows, cols, names = drawn(tmp_path / "p.gpkg")
    changed = index[rows.astype(int), cols.astype(int)] != [DEEPGLOBE.names.index(name) for name in names]
    estimates = assess(tmp_path / "new.tif", tmp_path / "q.gpkg").estimates
    assert f"At {changed.sum()} points the map has another class" in estimates.without_errors
    assert estimates.overall.se is None


def test_allocation():
    pixels = np.array([0, 3, 1000, 9000])
    assert allocate(pixels, 50, None).tolist() == [0, 3, 50, 50]
    divided = allocate(pixels, 50, 400)
    assert divided[:2].tolist() == [0, 3]
    # 297 left of 400: a tenth to the class of a tenth of the pixels.
    assert divided[2:].tolist() == [50 + 30, 50 + 267]
    assert allocate(np.array([5, 5]), 1, 5).tolist() == [3, 2]
    assert allocate(np.array([5, 5]), 1, 10**30).tolist() == [5, 5]
    country = np.array([3, 5]) * 10**12
    assert allocate(country, 1, 4 * 10**12).tolist() == [1_500_000_000_000, 2_500_000_000_000]
    with pytest.raises(UsageError, match=r"100 points.* 50 .* 3 classes.* 150"):
        allocate(pixels, 50, 100)
    with pytest.raises(UsageError, match="per_class is 0"):
        allocate(pixels, 0, None)


def test_what_cannot_be_drawn(path, tmp_path):
    write_class_raster(tmp_path / "empty.tif", np.full((5, 5), NODATA, np.uint8), DEEPGLOBE, PLACE)
    with pytest.raises(MaskError, match="no pixel of any class"):
        sample(tmp_path / "empty.tif", tmp_path / "p.csv")
    with pytest.raises(UsageError, match=r"'\.shp'"):
        sample(path, tmp_path / "p.shp")
    with pytest.raises(UsageError, match="seed is -1"):
        sample(path, tmp_path / "p.csv", seed=-1)
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        sample(path, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "mine"
