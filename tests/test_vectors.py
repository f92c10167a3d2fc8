"""Vector files in and out, against coordinates worked out by other means."""

import json
import os
import sqlite3
from contextlib import closing

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform

from landcover.errors import DataError, LandcoverError, OutputError, UsageError
from landcover.io import vectors
from landcover.io.vectors import WGS84, read_features, reproject, vector_driver, write_features

UTM = CRS.from_epsg(32631)
DUTCH = CRS.from_epsg(28992)
COLUMNS = {"class": str, "number": np.int64, "share": np.float64}
FORMATS = ["gpkg", "geojson", "fgb"]


def squares(count, x=500_000, y=5_700_000):
    """Squares of 100 m in a row that touch."""
    left = x + 100.0 * np.arange(count)
    return shapely.box(left, y, left + 100, y + 100)


def attributes(count, start=0):
    numbers = np.arange(start, start + count)
    names = np.array([None if n == 1 else f"näme {n}" for n in numbers], object)
    return {"class": names, "number": numbers, "share": np.where(numbers == 2, np.nan, numbers / 4)}


def write_raw(path, geometries, crs="EPSG:32631", **options):
    """Write what landcover would not."""
    wkb = np.array([None if g is None else g.wkb for g in geometries], object)
    types = {g.geom_type for g in geometries if g is not None}
    kind = types.pop() if len(types) == 1 else "Unknown"
    fields = [np.arange(len(wkb))]
    pyogrio.raw.write(path, wkb, fields, ["number"], crs=crs, geometry_type=kind, **options)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_batches_come_back_as_one(tmp_path, suffix):
    path = tmp_path / f"parcels.{suffix}"
    boxes, columns = squares(5), attributes(5)
    batches = [
        (boxes[part], {name: values[part] for name, values in columns.items()})
        for part in (slice(0, 3), slice(3, 3), slice(3, 5))
    ]
    assert write_features(path, batches, COLUMNS, UTM) == 5
    back = read_features(path, UTM)
    order = np.argsort(back.attributes["number"])  # FlatGeobuf sorts by place
    assert back.kind == "polygon"
    assert back.crs == UTM
    assert back.attributes["number"][order].tolist() == [0, 1, 2, 3, 4]
    assert back.attributes["class"][order].tolist() == ["näme 0", None, "näme 2", "näme 3", "näme 4"]
    np.testing.assert_array_equal(back.attributes["share"][order], [0, 0.25, np.nan, 0.75, 1])
    assert shapely.hausdorff_distance(back.geometries[order], boxes).max() < 1e-3
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["parcels"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_features_give_the_same_bytes(tmp_path, suffix):
    files = [tmp_path / folder / f"out.{suffix}" for folder in "ab"]
    for file in files:
        write_features(file, [(squares(3), attributes(3))], COLUMNS, UTM)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"out.{suffix}"] * 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_without_features_has_its_columns(tmp_path, suffix):
    path = tmp_path / f"none.{suffix}"
    assert write_features(path, [], COLUMNS, UTM) == 0
    meta, _, geometries, _ = pyogrio.raw.read(path)
    assert len(geometries) == 0
    if suffix != "geojson":  # which has columns in its features only
        assert list(meta["fields"]) == list(COLUMNS)


def test_geojson_is_as_its_standard_wants_it(tmp_path):
    path = tmp_path / "out.geojson"
    write_features(path, [(squares(2), attributes(2))], COLUMNS, UTM)
    content = json.loads(path.read_text())
    assert "crs" not in content
    ring = np.array(content["features"][0]["geometry"]["coordinates"][0])
    corners = np.transpose(transform(WGS84, UTM, *ring.T))
    expected = shapely.get_coordinates(squares(1))
    assert {tuple(c) for c in corners.round(2)} == {tuple(c) for c in expected}
    assert shapely.is_ccw(shapely.linearrings(ring))


def test_points_in_geographic_coordinates_and_multipoints(tmp_path):
    points = [shapely.MultiPoint([(3.1, 51.2), (3.2, 51.3)]), shapely.MultiPoint([(3.4, 51.4)])]
    features = read_features(write_raw(tmp_path / "points.gpkg", points, "EPSG:4326"), UTM)
    expected = transform(WGS84, UTM, [3.1, 3.2, 3.4], [51.2, 51.3, 51.4])
    assert features.kind == "point"
    assert features.attributes["number"].tolist() == [0, 0, 1]
    np.testing.assert_allclose(shapely.get_coordinates(features.geometries).T, expected, atol=1e-3)


@pytest.mark.parametrize(("source", "target"), [(28992, 32632), (4326, 32631), (32631, 4326), (3857, 28992)])
def test_long_edges_stay_where_they_are_on_the_ground(source, target):
    """Points on an edge, far from any vertex, are on it afterwards within 5 cm, a tenth of a pixel."""
    before, after = CRS.from_epsg(source), CRS.from_epsg(target)
    (left, right), (bottom, top) = transform(WGS84, before, [4.0, 5.5], [51.2, 52.4])
    box = shapely.box(left, bottom, right, top)
    moved = reproject(np.array([box], object), before, after)[0]
    places = np.linspace(0, 1, 997)
    on_edge = shapely.get_coordinates(shapely.line_interpolate_point(box.exterior, places, normalized=True))
    oracle = transform(before, after, *on_edge.T)
    metres = 111_320 if target == 4326 else 1
    assert metres * shapely.distance(moved.exterior, shapely.points(*oracle)).max() < 0.05


@pytest.mark.parametrize("crs", ["+proj=longlat +R=1737400 +no_defs", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_a_system_that_no_transformation_leads_to_is_named(crs):
    box = np.array([shapely.box(1, 1, 2, 2)], object)
    with pytest.raises(DataError, match=r"cannot be transformed|not tied"):
        reproject(box, UTM, CRS.from_user_input(crs))


def test_shared_borders_are_shared_after_reprojection():
    tiles = shapely.box(np.array([0.0, 30_000]), 400_000, np.array([30_000.0, 60_000]), 430_000)
    moved = reproject(tiles, DUTCH, WGS84)
    assert shapely.intersection(*moved).area == 0
    assert shapely.union_all(moved).area == pytest.approx(shapely.area(moved).sum(), rel=1e-12)
    assert len(shapely.get_parts(shapely.union_all(moved))) == 1


def test_the_same_crs_leaves_every_vertex_as_it_is():
    box = np.array([shapely.box(0, 0, 100_000, 100_000)], object)
    assert reproject(box, UTM, CRS.from_epsg(32631))[0] is box[0]


def test_what_folds_over_itself_is_refused_and_what_touches_itself_is_not():
    """The whole world in a zone of UTM left out the scene in its middle, and the areas counted in it."""
    world, europe = shapely.box(-180, -90, 180, 90), shapely.box(-10, 35, 40, 70)
    with pytest.raises(DataError, match="some fold over themselves there"):
        reproject(np.array([europe, world], object), WGS84, UTM)
    (moved,) = reproject(np.array([europe], object), WGS84, UTM)
    assert moved.contains(shapely.Point(500_000, 5_700_000))
    # A hole that touches the side of its polygon may cross it by rounding.
    touching = shapely.Polygon([(3, 51), (4.3, 51.2), (4, 52)], [[(3.65, 51.1), (3.7, 51.3), (3.65, 51.3)]])
    assert shapely.area(reproject(np.array([touching], object), WGS84, UTM))[0] > 0


@pytest.mark.parametrize(
    "name", ["a!b", "a;b", "a?b", "a#b", "a'b\" c", "~a", ".a", "$a", "gpkg", "GPKG_a", "-"]
)
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_names_that_look_like_addresses(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "deep" / f"{name}{suffix}"
    write_features(path, [(squares(5), attributes(5))], COLUMNS, UTM)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    if set("!;") & set(name):
        with pytest.raises(DataError, match="takes for an address"):
            read_features(path, UTM)
    else:
        assert len(read_features(path, UTM).geometries) == 5


def test_layers_are_chosen_by_name(tmp_path):
    path = tmp_path / "two.gpkg"
    write_raw(path, [shapely.Point(1, 1)], layer="fields")
    write_raw(path, [shapely.box(0, 0, 1, 1)], layer="woods", append=True)
    with pytest.raises(DataError, match="2 layers with geometries: fields, woods"):
        read_features(path, UTM)
    with pytest.raises(UsageError, match=r"no layer 'wood'\. Did you mean 'woods'"):
        read_features(path, UTM, layer="wood")
    assert read_features(path, UTM, layer="woods").kind == "polygon"


ENDLESS = (
    "create view endless as with recursive n(i) as (select 1 union all select i + 1 from n) "
    "select i as fid, null as geom from n where i < 0"
)
LISTED = "insert into gpkg_contents (table_name, data_type, srs_id) values ({}, 'features', 32631)"


@pytest.mark.parametrize(
    "statements",
    [
        [ENDLESS, LISTED.format("'endless'")],
        [ENDLESS],
        [ENDLESS, "delete from gpkg_contents", "delete from gpkg_geometry_columns"],
        [ENDLESS, LISTED.format("'endless'"), LISTED.format("cast(x'ff66' as text)")],
    ],
    ids=["listed", "not listed", "alone", "not utf-8"],
)
def test_a_geopackage_with_a_view_is_refused(tmp_path, statements):
    path = write_raw(tmp_path / "a.gpkg", squares(1))
    with closing(sqlite3.connect(path)) as file:
        for statement in statements:
            file.execute(statement)
        file.commit()
    with pytest.raises(DataError, match=r"a\.gpkg: endless is a view.*Export"):
        read_features(path, UTM)


def test_changes_that_another_program_has_not_written_back(tmp_path):
    path = write_raw(tmp_path / "a.gpkg", squares(1))
    with closing(sqlite3.connect(path)) as file:
        file.execute("pragma journal_mode = wal")
        file.execute(ENDLESS)
        file.commit()
        with pytest.raises(DataError, match=r"a\.gpkg: endless is a view"):
            read_features(path, UTM)
        for end in ("", "-wal"):
            (tmp_path / f"b.gpkg{end}").write_bytes((tmp_path / f"a.gpkg{end}").read_bytes())
        with pytest.raises(DataError, match=r"b\.gpkg has changes in b\.gpkg-wal.*Open and close it"):
            read_features(tmp_path / "b.gpkg", UTM)
        assert not (tmp_path / "b.gpkg-shm").exists()
        file.execute("drop view endless")
        file.commit()
        assert len(read_features(path, UTM).geometries) == 1


def write_cut(path):
    write_features(path, [(squares(500), attributes(500))], COLUMNS, UTM)
    path.write_bytes(path.read_bytes()[:60_000])


def write_broken_schema(path):
    with closing(sqlite3.connect(write_raw(path, squares(1)))) as file:
        file.execute("pragma writable_schema = 1")
        file.execute("update sqlite_master set sql = 'create' where name = 'gpkg_contents'")
        file.commit()


BOX, BOW_TIE = shapely.box(0, 0, 1, 1), shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
FAR = [shapely.Point(500_000, 5_700_000), shapely.Point(1e30, 1e30)]
REFUSED = [
    ("a.gpkg", lambda path: None, "does not exist"),
    ("a.gpkg", lambda path: path.write_bytes(b"no vectors"), r"a\.gpkg (cannot be read|is not a)"),
    ("a.geojson", lambda path: path.write_text('{"type": "Feat'), r"a\.geojson (cannot be read|is not)"),
    # Opening a pipe would wait for ever.
    ("a.gpkg", os.mkfifo, r"a\.gpkg is a device or a pipe; expected a vector file"),
    ("a.gpkg", write_cut, r"a\.gpkg"),
    ("a.gpkg", write_broken_schema, r"a\.gpkg cannot be read: malformed database schema.*Export"),
    (
        "a.gpkg",
        lambda path: pyogrio.raw.write(path, None, [np.array([1])], ["a"], driver="GPKG"),
        "table without geometries",
    ),
    ("a.gpkg", lambda path: write_features(path, [], COLUMNS, UTM), "no features in its layer 'a'"),
    ("a.fgb", lambda path: write_raw(path, [shapely.Point(1, 1)], None), "does not declare the CRS"),
    *[
        ("a.gpkg", lambda path, shapes=shapes: write_raw(path, shapes), message)
        for shapes, message in (
            ([shapely.LineString([(0, 0), (1, 1)])], "holds LineString; expected only polygons"),
            ([BOX, shapely.Point(0, 0)], "holds Point and Polygon"),
            ([shapely.Point(0, 0), None], "1 of 2 features have no geometry.*number 2"),
            ([shapely.Polygon()], "1 of 1 features have no geometry"),
            ([BOX, BOW_TIE], r"1 of 2 features are invalid \(Self-intersection.*number 2"),
        )
    ],
]


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize(("name", "write", "message"), REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_features(tmp_path / name, UTM)


def test_coordinates_that_do_not_exist_in_the_crs(tmp_path):
    with pytest.raises(DataError, match=r"far\.gpkg: The coordinates 1e\+30, 1e\+30 do not exist in"):
        read_features(write_raw(tmp_path / "far.gpkg", FAR), WGS84)


def test_suffixes_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"'\.shp'"):
        write_features(tmp_path / "out.shp", [], COLUMNS, UTM)
    if "w" not in pyogrio.list_drivers().get("Parquet", ""):
        with pytest.raises(UsageError, match="has no Parquet driver"):
            vector_driver(tmp_path / "out.parquet")


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_is_replaced_unasked_and_nothing_half_written_stays(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_features(path, [], COLUMNS, UTM)

    def broken():
        yield squares(2), attributes(2)
        raise LandcoverError("half way")

    with pytest.raises(LandcoverError, match="half way"):
        write_features(path, broken(), COLUMNS, UTM, force=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE gpkg_contents SET min_x = NULL",
        "UPDATE gpkg_contents SET max_y = max_y - 100",
        "UPDATE gpkg_ogr_contents SET feature_count = 4",
        "DELETE FROM rtree_parcels_geom WHERE id = 2",
        "DROP TRIGGER trigger_insert_feature_count_parcels",
        "DELETE FROM gpkg_spatial_ref_sys WHERE srs_id = 32631",
        "PRAGMA application_id = 0",
    ],
)
def test_a_geopackage_that_gdal_did_not_finish_is_not_written(tmp_path, monkeypatch, damage):
    original = vectors._write

    def interrupted(target, batch, *arguments, **options):
        original(target, batch, *arguments, **options)
        if len(batch[0]):
            with closing(sqlite3.connect(target)) as database:
                database.execute(damage)
                database.commit()

    monkeypatch.setattr(vectors, "_write", interrupted)
    with pytest.raises(OutputError, match=r"parcels\.gpkg"):
        write_features(tmp_path / "parcels.gpkg", [(squares(3), attributes(3))], COLUMNS, UTM)
    assert list(tmp_path.iterdir()) == []


def test_a_shapefile_with_heights_is_read_without_them(tmp_path):
    square = shapely.Polygon([(5e5, 5e6, 7), (500010, 5e6, 8), (500010, 5000010, 9), (5e5, 5000010, 8)])
    points = shapely.to_wkb(np.array([square], object), output_dimension=3)
    path, names = tmp_path / "a.shp", np.array(["pond"], object)
    pyogrio.raw.write(path, points, [names], ["name"], geometry_type="Polygon Z", crs="EPSG:32631")
    assert shapely.from_wkb(pyogrio.raw.read(path)[2])[0].has_z
    features = read_features(path, CRS.from_epsg(32631))
    assert not shapely.has_z(features.geometries).any()
    assert features.geometries[0].equals(shapely.force_2d(square))
    assert list(features.attributes["name"]) == ["pond"]
