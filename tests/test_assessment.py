"""Maps against truth on other grids, in polygons and at points, counted again pixel by pixel."""

import json

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from commands import invoke, refusal
from imagefiles import save_raster
from landcover.errors import DataError, MaskError, OutputError, UsageError
from landcover.evaluation.assessment import TruthOptions, assess
from landcover.io import write_mask
from landcover.io.vectors import WGS84, write_features
from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend
from landcover.raster import Georeference, classmap, write_class_raster
from landcover.windows import Window

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(7)
UTM = CRS.from_epsg(32631)

COS, SIN = 3**0.5 / 2, 0.5

PLACES = {
    "projected": Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), UTM),
    "rotated": Georeference(100, 100, Affine(0.5 * COS, 0.5 * SIN, 5e5, 0.5 * SIN, -0.5 * COS, 5.7e6), UTM),
    "south-up": Georeference(100, 100, Affine(0.5, 0, 500_000, 0, 0.5, 5_699_950), UTM),
    "geographic": Georeference(100, 100, Affine(6e-6, 0, 3.0, 0, -4e-6, 51.45), WGS84),
}
SHAPE = (90, 110)


def blocks(seed, shape=SHAPE, *, holes=0.1):
    """Classes in blocks of 5 x 5 pixels; a share of the blocks is nodata."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 6, (-(-shape[0] // 5), -(-shape[1] // 5)), np.uint8)
    small[rng.random(small.shape) < holes] = NODATA
    return np.ascontiguousarray(small.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]])


def write_map(path, place, index):
    write_class_raster(path, index, DEEPGLOBE, place)
    return path


def apply(grid, x, y):
    """Move places by a transform, as every version of affine can."""
    a, b, c, d, e, f = grid[:6]
    return a * x + b * y + c, d * x + e * y + f


def centres(place, shape=SHAPE, crs=None):
    """x and y (H, W) of the pixels' centres, in another CRS if given."""
    cols, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = apply(place.transform, cols, rows)
    if crs is not None:
        x, y = (np.reshape(v, shape) for v in transform(place.crs, crs, x.ravel(), y.ravel()))
    return x, y


def lookup(index, place, x, y):
    """The class at each place in the map's own CRS, NODATA outside, one after the other."""
    found = []
    for px, py in zip(np.ravel(x), np.ravel(y), strict=True):
        col, row = apply(~place.transform, px, py)
        inside = 0 <= row < index.shape[0] and 0 <= col < index.shape[1]
        found.append(index[int(row), int(col)] if inside else NODATA)
    return np.array(found, np.uint8)


def confusion(truth, mapped):
    table = np.zeros((7, 7), int)
    for t, m in zip(np.ravel(truth), np.ravel(mapped), strict=True):
        if t not in (UNKNOWN, NODATA) and m != NODATA:
            table[t, m] += 1
    return table.tolist()


def write_points(path, x, y, labels, crs=WGS84, column="class"):
    columns = {column: np.asarray(labels, object)}
    write_features(path, [(shapely.points(x, y), columns)], {column: str}, crs, geometry="Point")
    return path


def write_polygons(path, polygons, labels, crs=UTM):
    write_features(path, [(polygons, {"class": np.asarray(labels, object)})], {"class": str}, crs)
    return path


@pytest.fixture
def small_strips(monkeypatch):
    """Strips of one row of blocks, and tiles that do not fit the raster."""
    monkeypatch.setattr(classmap, "_STRIP_PX", 1)
    monkeypatch.setattr("landcover.evaluation.assessment._TILE_PX", 13)


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("truth_crs", [4326, 32632, 3857])
def test_a_raster_on_another_grid(tmp_path, where, truth_crs):
    place, index = PLACES[where], blocks(0)
    x, y = centres(place, crs=(crs := CRS.from_epsg(truth_crs)))
    size = (70, 60)  # some of it off the map
    step_x, step_y = 1.1 * np.ptp(x) / size[1], 1.1 * np.ptp(y) / size[0]
    grid = Georeference(100, 100, Affine(step_x, 0, x.min() + np.ptp(x) / 5, 0, -step_y, y.max()), crs)
    truth = blocks(1, size)
    truth[:5, :5] = UNKNOWN
    result = assess(write_map(tmp_path / "map.tif", place, index), write_map(tmp_path / "t.tif", grid, truth))
    mapped = lookup(index, place, *centres(grid, size, place.crs))
    assert result.confusion.tolist() == confusion(truth, mapped)
    assert result.units == np.sum(result.confusion) > 500
    assert result.truth_kind == "raster"
    assert result.estimates.overall.se is None
    assert "landcover sample" in result.estimates.without_errors


@pytest.mark.parametrize("where", PLACES)
def test_points_in_another_crs(tmp_path, where):
    place, index = PLACES[where], blocks(2)
    rng = np.random.default_rng(3)
    cols, rows = rng.uniform(-10, SHAPE[1] + 10, 400), rng.uniform(-10, SHAPE[0] + 10, 400)
    x, y = apply(place.transform, cols, rows)
    labels = rng.integers(0, 7, 400)
    names = np.array(DEEPGLOBE.names, object)[labels]
    points = write_points(tmp_path / "p.gpkg", *transform(place.crs, WGS84, x, y), names)
    result = assess(write_map(tmp_path / "map.tif", place, index), points)
    mapped = lookup(index, place, x, y)
    assert result.confusion.tolist() == confusion(labels, mapped)
    assert result.unknown == np.sum(labels == UNKNOWN)
    assert result.off_map == np.sum((mapped == NODATA) & (labels != UNKNOWN))
    assert result.units + result.unknown + result.off_map == 400
    assert result.truth_kind == "points"


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("where", PLACES)
def test_pixels_whose_centres_lie_in_polygons(tmp_path, where):
    place, index = PLACES[where], blocks(4)
    rng = np.random.default_rng(5)
    corners = rng.uniform(-10, 110, (12, 3, 2))
    triangles = np.array(
        [shapely.Polygon([apply(place.transform, *c) for c in triangle]) for triangle in corners], object
    )
    labels = rng.integers(0, 6, 12)
    path = write_polygons(tmp_path / "p.fgb", triangles, [str(label) for label in labels], place.crs)
    result = assess(write_map(tmp_path / "map.tif", place, index), path)

    x, y = centres(place)
    claims = np.zeros((6, *SHAPE), bool)
    for triangle, label in zip(triangles, labels, strict=True):
        claims[label] |= shapely.contains_xy(triangle, x, y)
    conflicts = claims.sum(axis=0) > 1
    truth = np.where(claims.any(axis=0) & ~conflicts, claims.argmax(axis=0), NODATA)
    assert result.confusion.tolist() == confusion(truth, index)
    assert result.conflicting == conflicts.sum() > 0
    assert any("polygons of different classes" in warning for warning in result.warnings)
    assert result.estimates.users["urban"].se is None


def test_overlaps_of_one_class_count_once(tmp_path):
    place, index = PLACES["projected"], blocks(6, holes=0)
    box = shapely.box(500_010, 5_699_970, 500_020, 5_699_990)
    path = write_polygons(tmp_path / "p.gpkg", np.array([box, box], object), ["forest", "forest"])
    result = assess(write_map(tmp_path / "map.tif", place, index), path)
    assert (result.units, result.conflicting) == (20 * 40, 0)


def test_a_palette_stands_for_its_colours_and_the_files_nodata_for_none(tmp_path):
    place, index = PLACES["projected"], blocks(7)
    turned = np.where(index == NODATA, 0, 6 - index).astype(np.uint8)  # 6 = urban, 1 = barren
    palette = {6 - i: (*DEEPGLOBE.classes[i].colour, 255) for i in range(6)} | {0: (9, 9, 9, 255)}
    there = {"crs": place.crs, "transform": place.transform}
    save_raster(tmp_path / "t.tif", turned, nodata=0, colormap=palette, **there)
    result = assess(write_map(tmp_path / "map.tif", place, index), tmp_path / "t.tif")
    assert result.confusion.tolist() == confusion(index, index)
    assert result.pixel_accuracy == 1


def test_legends_in_another_order_are_matched_by_name(tmp_path):
    place, index = PLACES["projected"], blocks(8, holes=0)
    other = Legend("other", tuple(DEEPGLOBE.classes[i] for i in (6, 5, 4, 3, 2, 1, 0)), unknown=0)
    write_class_raster(tmp_path / "map.tif", (6 - index).astype(np.uint8), other, place)
    truth = write_map(tmp_path / "t.tif", place, index)
    with pytest.raises(MaskError, match="is a map of the classes 0=unknown,1=barren"):
        assess(tmp_path / "map.tif", truth, map_legend=DEEPGLOBE)
    for options in ({"map_legend": other}, {"legend": DEEPGLOBE}, {}):  # the map carries its legend
        assert assess(tmp_path / "map.tif", truth, **options).pixel_accuracy == 1


def test_a_legend_without_an_unknown_class(tmp_path):
    legend = Legend("two", (LandClass("dry", (9, 9, 9)), LandClass("wet", (1, 1, 1))), unknown=None)
    place, index = PLACES["projected"], (blocks(16) % 2).astype(np.uint8)
    index[blocks(16) == NODATA] = NODATA
    write_class_raster(tmp_path / "map.tif", index, legend, place)
    write_class_raster(tmp_path / "t.tif", np.zeros_like(index), legend, place)
    result = assess(tmp_path / "map.tif", tmp_path / "t.tif", legend=legend)
    assert result.confusion.tolist() == [[int((index == 0).sum()), int((index == 1).sum())], [0, 0]]
    assert (result.off_map, result.unknown) == (int((index == NODATA).sum()), 0)


def test_only_the_part_of_a_raster_that_the_map_touches_is_read(tmp_path):
    """A country's raster beside a village's map: what lies elsewhere may even be damaged."""
    place, index = PLACES["projected"], blocks(17)
    large = np.full((600, 700), 77, np.uint8)  # no class
    large[200:310, 300:430] = FOREST
    corner = place.part(Window(-210, -310, 100, 100))
    save_raster(tmp_path / "t.tif", large, crs=corner.crs, transform=corner.transform)
    result = assess(write_map(tmp_path / "map.tif", place, index), tmp_path / "t.tif")
    assert result.units == (index != NODATA).sum()


def test_names_and_indices_mean_the_same(tmp_path):
    place, index = PLACES["projected"], blocks(9, holes=0)
    path = write_map(tmp_path / "map.tif", place, index)
    x, y = (v[::9, ::9].ravel() for v in centres(place))
    labels = index[::9, ::9].ravel()
    named = write_points(tmp_path / "a.gpkg", x, y, np.array(DEEPGLOBE.names, object)[labels], UTM)
    write_features(
        tmp_path / "b.gpkg",
        [(shapely.points(x, y), {"code": labels.astype(float)})],
        {"code": float},
        UTM,
        geometry="Point",
    )
    (tmp_path / "c.csv").write_text(
        "\ufeffx;y;class\n" + "".join(f"{a};{b};{n}\n" for a, b, n in zip(x, y, labels, strict=True)), "utf-8"
    )
    results = [
        assess(path, named),
        assess(path, tmp_path / "b.gpkg", options=TruthOptions(column="code")),
        assess(path, tmp_path / "c.csv", options=TruthOptions(crs="EPSG:32631")),
    ]
    assert [r.confusion.tolist() for r in results] == [confusion(labels, labels)] * 3


def test_rows_without_a_class_are_left_out(tmp_path):
    place, index = PLACES["projected"], blocks(10, holes=0)
    x, y = (v[:3, 0] for v in centres(place))
    points = write_points(tmp_path / "p.gpkg", x, y, [None, " ", "urban"], UTM)
    result = assess(write_map(tmp_path / "map.tif", place, index), points)
    assert (result.unlabelled, result.units) == (2, 1)
    assert any("2 rows of the truth have no class" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (["forrest", "urban"], {}, DataError, "row 1 has the class 'forrest'.*Did you mean 'forest'"),
        (["urban", "7"], {}, DataError, "row 2 has the class '7'"),
        (["urban", "urban"], {"column": "clas"}, UsageError, "no column 'clas'. Did you mean 'class'"),
        (["urban", "urban"], {"crs": "EPSG:4326"}, UsageError, "--truth-crs is for CSV files"),
        (["unknown", "unknown"], {}, DataError, "No point of .* 2 are of the unknown class"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, options, error, message):
    place = PLACES["projected"]
    x, y = (v[:2, 0] for v in centres(place))
    points = write_points(tmp_path / "p.gpkg", x, y, labels, UTM)
    with pytest.raises(error, match=message):
        assess(write_map(tmp_path / "map.tif", place, blocks(11)), points, options=TruthOptions(**options))


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("x,y,class\n1,2,urban\n", {}, UsageError, "has the columns x, y, class; expected .*lon and lat"),
        ("lon,lat,class\n1,2,urban\n", {"crs": "EPSG:1"}, UsageError, "'EPSG:1' is not a CRS"),
        ("lon,lat,class\n1,two,urban\n", {}, DataError, "row 1 has 'two' as lat; expected a number"),
        ("lon,lat,class\n3.000_23,2,urban\n", {}, DataError, "'3.000_23' as lon; expected a number"),
        ("lon,lat,class\n1,2\n", {}, DataError, "line 2: 2 cells; expected 3"),
        ("lon,lat,class,class\n1,2,urban,water\n", {}, DataError, "same name: 'class'"),
        ("lon,lat,class\n", {}, DataError, "has no rows"),
        ("lon,lat,class\n3,95,urban\n", {}, DataError, "p.csv: .*3, 95 .*EPSG:4326"),
        ("lon,lat,class\n3,40,urban\n", {}, DataError, "p.csv.*map.tif: 1 are outside"),
    ],
)
def test_tables_that_are_none(tmp_path, text, options, error, message):
    (tmp_path / "p.csv").write_text(text, "latin-1")
    with pytest.raises(error, match=message):
        assess(
            write_map(tmp_path / "map.tif", PLACES["projected"], blocks(12)),
            tmp_path / "p.csv",
            options=TruthOptions(**options),
        )


def test_maps_that_are_none(tmp_path):
    truth = write_map(tmp_path / "t.tif", PLACES["projected"], blocks(13))
    with pytest.raises(MaskError, match="does not exist"):
        assess(tmp_path / "none.tif", truth)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(MaskError, match=r"text\.tif is not a .*raster"):
        assess(tmp_path / "text.tif", truth)
    write_mask(tmp_path / "plain.png", blocks(13), DEEPGLOBE)
    with pytest.raises(MaskError, match=r"plain\.png .*gdal_edit"):
        assess(tmp_path / "plain.png", truth)
    place = PLACES["projected"]
    profile = {"driver": "GTiff", "height": 8, "width": 8, "crs": place.crs, "transform": place.transform}
    with rasterio.open(tmp_path / "rgb.tif", "w", count=3, dtype="uint8", **profile):
        pass
    with pytest.raises(MaskError, match=r"rgb\.tif .*3 bands"):
        assess(tmp_path / "rgb.tif", truth)
    with rasterio.open(tmp_path / "strange.tif", "w", count=1, dtype="uint8", **profile) as target:
        target.write(np.full((8, 8), 77, np.uint8), 1)
    far = Georeference(100, 100, Affine(0.5, 0, 700_000, 0, -0.5, 5_900_000), UTM)
    with pytest.raises(DataError, match=r"No raster of .*t\.tif with a known class is on .*far\.tif"):
        assess(write_map(tmp_path / "far.tif", far, blocks(14)), truth)
    with pytest.raises(MaskError, match=r"strange\.tif .*77"):
        assess(tmp_path / "strange.tif", truth)


def test_areas_and_errors_of_the_whole_map(tmp_path):
    """Three classes, 30 % of the mapped forest is agriculture: by hand, with the paper's equations."""
    place = PLACES["geographic"]
    index = np.full((100, 100), WATER, np.uint8)
    index[:60] = FOREST
    index[:, :10] = NODATA
    path = write_map(tmp_path / "map.tif", place, index)
    rows, cols = np.array([5] * 10 + [80] * 4), np.arange(14) + 20.5
    labels = ["forest"] * 7 + ["agriculture"] * 3 + ["water"] * 4
    result = assess(path, write_points(tmp_path / "p.gpkg", *apply(place.transform, cols, rows), labels))

    areas = place.row_areas()
    assert areas is not None
    forest, water = 90 * areas[:60].sum() / 1e4, 90 * areas[60:].sum() / 1e4
    assert result.mapped["forest"].hectares == pytest.approx(forest)
    assert result.mapped["forest"].pixels == 5400
    estimates, weight = result.estimates, forest / (forest + water)
    se = weight * np.sqrt(0.7 * 0.3 / 9)
    hectares = estimates.hectares["agriculture"]
    assert hectares.value == pytest.approx(0.3 * forest)
    assert hectares.se == pytest.approx(se * (forest + water))
    low, high = hectares.interval
    assert low == pytest.approx(hectares.value - 1.959964 * hectares.se, abs=1e-9)
    assert high == pytest.approx(hectares.value + 1.959964 * hectares.se)
    assert estimates.overall.value == pytest.approx(1 - 0.3 * weight)
    assert estimates.overall.se == pytest.approx(se)
    assert estimates.users["forest"].value == pytest.approx(0.7)
    assert estimates.users["urban"] is None
    assert result.estimates.shares["urban"].interval == (0, 0)
    assert estimates.producers["agriculture"].value == 0
    assert estimates.without_errors is None
    assert "drawn at random" in estimates.hold_if
    assert result.users["forest"] == pytest.approx(0.7)
    assert result.producers["forest"] == 1
    assert any("'water'" in w and "right at all of its 4 points" in w for w in result.warnings)


def test_classes_with_too_few_points(tmp_path):
    place = PLACES["projected"]
    index = np.full((100, 100), WATER, np.uint8)
    index[:50], index[:5] = FOREST, URBAN
    path = write_map(tmp_path / "map.tif", place, index)
    x, y = apply(place.transform, np.arange(5) + 0.5, np.array([20, 30, 70, 80, 90]) + 0.5)
    labels = ["forest", "water", "water", "forest", "water"]
    none = assess(path, write_points(tmp_path / "none.gpkg", x, y, labels, UTM))
    assert none.estimates.overall is None
    assert none.estimates.users["forest"].value == 0.5
    assert any("'urban', 5.00% of the map, " in w for w in none.warnings)

    x, y = np.append(x, x[0]), np.append(y, 5_700_000 - 1)
    one = assess(path, write_points(tmp_path / "one.gpkg", x, y, [*labels, "urban"], UTM))
    assert one.estimates.overall.value == pytest.approx(0.05 + 0.45 * 0.5 + 0.5 * 2 / 3)
    assert one.estimates.overall.se is None
    assert one.estimates.users["forest"].se == 0.5
    assert any("'urban'" in w and "one point" in w for w in one.warnings)


@pytest.fixture
def pair(tmp_path):
    place, index = PLACES["projected"], blocks(15, holes=0)
    x, y = (v[2::5, 2::5].ravel() for v in centres(place))
    labels = np.array(DEEPGLOBE.names, object)[index[2::5, 2::5].ravel()]
    labels[::4] = "water"
    points = write_points(tmp_path / "points.gpkg", x, y, labels, UTM)
    return write_map(tmp_path / "map.tif", place, index), points


def test_the_verb_prints_and_writes(pair, tmp_path):
    words = ("evaluate", "--map", pair[0], "--truth", pair[1], "--json")
    done = invoke(*words, tmp_path / "a.json")
    result = json.loads((tmp_path / "a.json").read_text())
    water = result["estimates"]["hectares"]["water"]
    assert f"{water['value']:,.2f} ± {1.96 * water['se']:,.2f}" in done.stdout
    assert "The estimates hold if the points were drawn at random" in done.stdout
    assert json.loads(invoke(*words, "-").stdout) == result
    with pytest.raises(OutputError, match="exists already"):
        assess(*pair, json=tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"expected a name that ends with \.json"):
        assess(*pair, json=pair[0], force=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "map.tif"], "--map MAP and --truth FILE go together"),
        (["--truth", "t.tif"], "--map MAP and --truth FILE go together"),
        (["--map", "m.tif", "--truth", "t.tif", "--data", "d", "--maps", "o"], "without --data, --maps"),
        (
            ["--map", "m.tif", "--truth", "t.tif", "--nodata", "0", "--fill", "keep"],
            "without --nodata, --fill",
        ),
        (["--data", "d"], "Missing: --split. Pass --data DATA and --split NAME:part"),
    ],
)
def test_options_that_do_not_go_together(arguments, message):
    assert message in refusal("evaluate", *arguments, error=UsageError)


def test_options_of_another_kind_of_truth(pair, tmp_path):
    with pytest.raises(UsageError, match=r"are for vector files; .*map\.tif is a raster"):
        assess(pair[0], pair[0], options=TruthOptions(column="class"))
    (tmp_path / "p.csv").write_text("lon,lat,class\n3,51,urban\n")
    with pytest.raises(UsageError, match="--layer"):
        assess(pair[0], tmp_path / "p.csv", options=TruthOptions(layer="points"))
    with pytest.raises(UsageError, match="metric 'iou'"):
        assess(*pair, metric="iou")
    other = Legend("two", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 1, 1))), unknown=None)
    with pytest.raises(MaskError, match="is a map of the classes 0=urban"):
        assess(*pair, map_legend=other)
    with pytest.raises(UsageError, match="expected the same"):
        assess(*pair, legend=other)


def test_tables_of_other_programs_are_read(tmp_path):
    """Other letter case, long names of coordinates, whole numbers as floats."""
    place, index = PLACES["geographic"], blocks(8, holes=0)
    path = write_map(tmp_path / "map.tif", place, index)
    lon, lat = place.points(np.array([10.5, 60.5]), np.array([10.5, 60.5]))
    classes = [int(index[10, 10]), int(index[60, 60])]
    names = [DEEPGLOBE.names[number] for number in classes]
    for cells in ([f"{number}.0" for number in classes], [name.upper() for name in names]):
        rows = [f"{x:.9f},{y:.9f},{cell}" for x, y, cell in zip(lon, lat, cells, strict=True)]
        (tmp_path / "p.csv").write_text("\n".join(["Longitude,LATITUDE,Class", *rows]) + "\n")
        report = assess(path, tmp_path / "p.csv")
        assert (report.units, report.pixel_accuracy) == (2, 1)
