"""Maps to polygons: outlines equal to GDAL's, a partition with true areas, in every format."""

import json

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes

from commands import invoke
from imagefiles import save_raster
from landcover.errors import MaskError, OutputError, UsageError
from landcover.io import write_mask
from landcover.legend import CLASS_NAMES, DEEPGLOBE, NODATA, LandClass, Legend

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

import landcover.postprocess.vectorize as module  # noqa: E402
from landcover.postprocess.components import Labeller  # noqa: E402
from landcover.postprocess.outlines import Bends, find_bends, to_polygons, trace  # noqa: E402
from landcover.postprocess.sieve import remove_small_regions  # noqa: E402
from landcover.postprocess.vectorize import Vectorized, vectorize  # noqa: E402
from landcover.values import Tolerance  # noqa: E402

UTM = (CRS.from_epsg(32633), Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000))
MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0, 0, 1, 1, 4, NODATA]),
)


def outline(index, band_rows=100, *, junctions=False):
    """Return the polygons of a map in the order of their first pixels, and their classes."""
    framed = np.pad(index, ((0, 1), (0, 1)), constant_values=NODATA)
    bands = [framed[start : start + band_rows] for start in range(0, len(framed), band_rows)]
    first, second = Labeller(framed.shape[1]), Labeller(framed.shape[1])
    for band in bands:
        first.label(band)
    regions, found, classes = first.regions(), [], {}
    for band in bands:
        runs = second.label(band)
        found.append(find_bends(runs, regions[runs.piece], junctions=junctions))
        classes |= dict(zip(regions[runs.piece].tolist(), runs.value.tolist(), strict=True))
    rings = trace(Bends.joined(found), framed.shape[1])
    return to_polygons(rings), np.array([classes[region] for region in rings.region.tolist()], np.uint8)


def gdal_outline(index):
    found = shapes(index, mask=index != NODATA, connectivity=4)
    return [(shapely.normalize(shapely.geometry.shape(shape)), int(value)) for shape, value in found]


def by_first_pixel(polygon):
    top = min(y for _, y in polygon.exterior.coords)
    return top, min(x for x, y in polygon.exterior.coords if y == top)


@settings(max_examples=150)
@given(index=MAPS, band_rows=st.integers(1, 12))
def test_polygons_are_those_of_gdal_in_reading_order(index, band_rows):
    polygons, classes = outline(index, band_rows)
    expected = sorted(gdal_outline(index), key=lambda pair: by_first_pixel(pair[0]))
    assert shapely.normalize(polygons).tolist() == [polygon for polygon, _ in expected]
    assert classes.tolist() == [value for _, value in expected]


@settings(max_examples=150)
@given(index=MAPS, band_rows=st.integers(1, 12), junctions=st.booleans())
def test_polygons_are_a_partition(index, band_rows, junctions):
    polygons, classes = outline(index, band_rows, junctions=junctions)
    assert shapely.is_valid(polygons).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()  # rows downwards: clockwise on the map
    inside = np.count_nonzero(index != NODATA)
    assert shapely.area(polygons).sum() == inside
    if inside:
        assert shapely.union_all(polygons).area == inside
        burnt = rasterize(zip(polygons, classes, strict=True), index.shape, fill=NODATA, dtype="uint8")
        np.testing.assert_array_equal(burnt, index)


@settings(max_examples=100)
@given(index=MAPS)
def test_no_point_is_in_vain_unless_others_need_it(index):
    polygons, _ = outline(index)
    coordinates = [np.array(ring.coords) for p in polygons for ring in (p.exterior, *p.interiors)]
    for points in coordinates:
        steps = np.diff(np.append(points, points[1:2], axis=0), axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all()  # along one axis
        assert ((steps[:-1] == 0) != (steps[1:] == 0)).all()  # and each time the other one
    with_junctions, _ = outline(index, junctions=True)
    assert shapely.coverage_is_valid(with_junctions)
    assert [a.equals(b) for a, b in zip(polygons, with_junctions, strict=True)] == [True] * len(polygons)


def test_holes_that_touch_at_points_are_rings_of_their_own():
    index = np.zeros((5, 5), np.uint8)
    index[[1, 2, 3], [1, 2, 3]] = [1, NODATA, 2]
    polygons, classes = outline(index)
    assert shapely.is_valid(polygons).all()
    assert [(len(p.interiors), p.area) for p in polygons] == [(3, 22), (0, 1), (0, 1)]
    assert classes.tolist() == [0, 1, 2]


def test_nodata_alone_has_no_outlines():
    polygons, _ = outline(np.full((4, 5), NODATA, np.uint8))
    assert len(polygons) == 0


def some_map(shape=(60, 50), seed=0):
    rng = np.random.default_rng(seed)
    index = np.kron(rng.integers(0, 6, (12, 10)), np.ones((5, 5), int))[: shape[0], : shape[1]]
    index[rng.random(index.shape) < 0.05] = 2
    index[:4, :9] = NODATA
    return index.astype(np.uint8)


def write(path, bands, place=UTM, *, listing=DEEPGLOBE.listing, nodata=NODATA):
    bands = bands if bands.ndim == 2 else np.moveaxis(bands, 0, -1)
    tags = None if listing is None else {CLASS_NAMES: listing}
    return save_raster(path, bands, crs=place[0], transform=place[1], nodata=nodata, tags=tags)


def read(path):
    meta, _, geometries, fields = pyogrio.raw.read(path)
    return shapely.from_wkb(geometries), dict(zip(meta["fields"], fields, strict=True)), meta


def burn(polygons, values, index, place):
    """Check that polygons rasterised again are the map."""
    pairs = list(zip(polygons, values.tolist(), strict=True))
    burnt = rasterize(pairs, index.shape, fill=NODATA, transform=place, dtype="uint8")
    np.testing.assert_array_equal(burnt, index)


@settings(max_examples=20)
@given(index=MAPS, block_rows=st.integers(1, 15), batch=st.sampled_from([1, 30, 1 << 20]))
def test_polygons_are_a_partition_in_any_blocks_and_batches(tmp_path, monkeypatch, index, block_rows, batch):
    monkeypatch.setattr(module, "_BATCH", batch)
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    source, out = write(tmp_path / "map.tif", index), tmp_path / "out.gpkg"
    result = vectorize(source, out, force=True)
    assert result.pixels == {
        name: n for i, name in enumerate(DEEPGLOBE.names) if (n := np.count_nonzero(index == i))
    }
    polygons, fields, _ = read(out)
    inside = np.count_nonzero(index != NODATA)
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).sum() == inside / 4
    assert fields["area_m2"].sum() == inside / 4
    np.testing.assert_array_equal(fields["area_m2"], shapely.area(polygons))
    assert [DEEPGLOBE.names[i] for i in fields["class_index"]] == fields["class"].tolist()
    if inside:
        assert shapely.union_all(polygons).area == inside / 4
        burn(polygons, fields["class_index"], index, UTM[1])
    whole = tmp_path / "whole.gpkg"
    monkeypatch.setattr(module, "_BATCH", 1 << 20)
    monkeypatch.setattr(module, "BLOCK_ROWS", 256)
    vectorize(source, whole, force=True)
    again, _, _ = read(whole)
    assert shapely.equals_exact(polygons, again).all()  # the same in the same order


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_formats_hold_the_same(tmp_path, suffix):
    index = some_map()
    out = tmp_path / f"out{suffix}"
    result = vectorize(write(tmp_path / "map.tif", index), out)
    polygons, fields, meta = read(out)
    assert len(polygons) == sum(result.polygons.values())
    assert meta["geometry_type"] == "Polygon"
    assert fields["area_m2"].sum() == pytest.approx(np.count_nonzero(index != NODATA) / 4)
    assert set(fields["class"]) == set(result.polygons)
    assert CRS.from_user_input(meta["crs"]) == (CRS.from_epsg(4326) if suffix == ".geojson" else UTM[0])
    if suffix == ".geojson":
        text = json.loads(out.read_text())
        assert "crs" not in text  # RFC 7946
        (west, south), (east, north) = np.array(shapely.total_bounds(polygons)).reshape(2, 2)
        assert shapely.coverage_is_valid(polygons)  # not even the projection opens gaps
        assert 15 > east > west > 13
        assert 46 > north > south > 44
    else:
        burn(polygons, fields["class_index"], index, UTM[1])


@pytest.mark.parametrize(
    "place",
    [
        (CRS.from_epsg(32633), Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)),
        (CRS.from_epsg(32633), Affine(0.5, 0, 400_000, 0, 0.5, 5_000_000)),  # south up
        (CRS.from_epsg(32633), Affine(0.4, 0.3, 400_000, 0.3, -0.4, 5_000_000)),
        (CRS.from_epsg(3857), Affine(0.7, 0, 1_500_000, 0, -0.7, 8_000_000)),
        (CRS.from_epsg(4326), Affine(5e-6, 0, 14.0, 0, -5e-6, 60.0)),
        (CRS.from_epsg(2227), Affine(1.64, 0, 6e6, 0, -1.64, 2.1e6)),  # feet
    ],
    ids=["utm", "south up", "rotated", "web mercator", "longitude and latitude", "feet"],
)
def test_areas_are_those_of_the_ground(tmp_path, place):
    """Against the polygons themselves in an equal-area projection centred on the map."""
    index = some_map()
    vectorize(write(tmp_path / "map.tif", index, place), tmp_path / "out.gpkg")
    polygons, fields, _ = read(tmp_path / "out.gpkg")
    from landcover.io.vectors import reproject

    lon, lat = shapely.get_coordinates(reproject(polygons[:1], place[0], CRS.from_epsg(4326)))[0]
    equal_area = CRS.from_proj4(f"+proj=laea +lat_0={lat} +lon_0={lon} +ellps=WGS84")
    expected = shapely.area(reproject(polygons, place[0], equal_area))
    np.testing.assert_allclose(fields["area_m2"], expected, rtol=2e-3)  # UTM's own scale is off by 1e-3


def test_a_map_that_lies_nowhere_is_in_pixels(tmp_path):
    index = some_map()
    write_mask(tmp_path / "map.png", index, DEEPGLOBE)
    result = vectorize(tmp_path / "map.png", tmp_path / "out.gpkg")
    assert result.area_m2 is None
    polygons, fields, _ = read(tmp_path / "out.gpkg")
    assert "area_m2" not in fields
    np.testing.assert_array_equal(fields["area_px"], shapely.area(polygons))
    burn(polygons, fields["class_index"], index, Affine.identity())
    result = vectorize(tmp_path / "map.png", tmp_path / "metres.gpkg", gsd=0.5)
    assert result.area_m2 is not None
    assert sum(result.area_m2.values()) == np.count_nonzero(index != NODATA) / 4
    with pytest.raises(UsageError, match="longitude and latitude"):
        vectorize(tmp_path / "map.png", tmp_path / "out.geojson")


def test_names_may_hold_commas_and_equal_signs(tmp_path):
    legend = Legend("odd", (LandClass("a, b=c", (0, 0, 0)), LandClass("7=d,8", (1, 1, 1))), None)
    source = write(tmp_path / "map.tif", np.array([[0, 1]], np.uint8), listing=legend.listing)
    result = vectorize(source, tmp_path / "out.gpkg", legend=legend)
    assert result.polygons == {"a, b=c": 1, "7=d,8": 1}


@pytest.mark.parametrize("kind", ["confidence", "probabilities", "float"])
def test_mean_confidence(tmp_path, kind):
    index = some_map()
    rng = np.random.default_rng(1)
    probabilities = rng.integers(0, 256, (1 if kind == "confidence" else 4, *index.shape), dtype=np.uint8)
    stored = probabilities
    if kind == "float":
        stored = np.where(index == NODATA, np.nan, probabilities / 255).astype(np.float32)
    write(tmp_path / "sure.tif", stored, listing=None, nodata=None)
    source = write(tmp_path / "map.tif", index)
    vectorize(source, tmp_path / "out.gpkg", confidence=tmp_path / "sure.tif")
    polygons, fields, _ = read(tmp_path / "out.gpkg")
    highest = probabilities.max(axis=0) / 255
    assert len(polygons) > 20
    for polygon, mean in zip(polygons, fields["mean_confidence"], strict=True):
        inside = rasterize([(polygon, 1)], index.shape, transform=UTM[1], dtype="uint8") == 1
        assert mean == pytest.approx(highest[inside].mean(), rel=1e-5)


def test_small_regions_can_go_first(tmp_path):
    index = some_map()
    source = write(tmp_path / "map.tif", index)
    vectorize(source, tmp_path / "out.gpkg", min_region="3m2")
    polygons, fields, _ = read(tmp_path / "out.gpkg")
    burn(polygons, fields["class_index"], remove_small_regions(index, 12), UTM[1])


@settings(max_examples=25)
@given(index=MAPS, tolerance=st.sampled_from(["0px", "1px", "1.5m", "20px"]))
def test_simplified_polygons_stay_a_partition(tmp_path, index, tolerance):
    source, out = write(tmp_path / "map.tif", index), tmp_path / "out.fgb"
    vectorize(source, out, simplify=tolerance, force=True)
    polygons, fields, _ = read(out)
    assert shapely.is_valid(polygons).all()
    inside = np.count_nonzero(index != NODATA)
    assert shapely.area(polygons).sum() == pytest.approx(inside / 4)
    assert fields["area_m2"].sum() == inside / 4
    if inside:
        assert shapely.coverage_is_valid(polygons)
        assert shapely.union_all(polygons).area == pytest.approx(inside / 4)


def test_simplifying_leaves_points_out(tmp_path):
    index = (np.indices((80, 80)).sum(axis=0) > 80).astype(np.uint8)  # a diagonal of stairs
    source = write(tmp_path / "map.tif", index)
    vectorize(source, tmp_path / "out.gpkg", simplify="1m")
    polygons, _, _ = read(tmp_path / "out.gpkg")
    assert shapely.get_num_coordinates(polygons).max() < 12
    rng = np.random.default_rng(0)
    noise = write(tmp_path / "noise.tif", rng.integers(0, 6, (60, 60)).astype(np.uint8))
    with pytest.raises(UsageError, match=r"--max-memory-mb, or leave --simplify out"):
        vectorize(noise, tmp_path / "noise.gpkg", simplify=Tolerance.parse("1m", max_memory_mb=1))
    assert not (tmp_path / "noise.gpkg").exists()


@pytest.mark.parametrize(
    ("text", "gsd", "pixels"), [("2m", 0.5, 4), ("4px", None, 4), (" 1.5 PX", 0.1, 1.5), ("0px", None, 0)]
)
def test_tolerance(text, gsd, pixels):
    assert Tolerance.parse(text).pixels(gsd) == pixels


@pytest.mark.parametrize("text", ["2", "", "m", "-1m", "2 metres", "1e3px", "nanpx"])
def test_tolerance_without_a_unit_names_both_forms(text):
    with pytest.raises(UsageError, match=r"2m.*4px"):
        Tolerance.parse(text)
    with pytest.raises(UsageError, match="--gsd"):
        Tolerance.parse("2m").pixels(None)


def test_the_same_map_gives_the_same_bytes(tmp_path):
    source = write(tmp_path / "map.tif", some_map())
    for folder in ("a", "b"):
        vectorize(source, tmp_path / folder / "out.gpkg")
    assert (tmp_path / "a/out.gpkg").read_bytes() == (tmp_path / "b/out.gpkg").read_bytes()


def refused(tmp_path, source, message, **options):
    out = tmp_path / "out.gpkg"
    with pytest.raises((MaskError, UsageError), match=message):
        vectorize(source, out, **options)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_maps_that_are_none(tmp_path):
    index = some_map()
    path = tmp_path / "map.tif"
    refused(tmp_path, path, "does not exist")
    path.write_bytes(b"no raster")
    refused(tmp_path, path, "is not a supported raster")
    refused(tmp_path, write(path, np.stack([index] * 3)), "3 bands of uint8")
    refused(tmp_path, write(path, index.astype(np.float32)), "1 bands? of float32")
    refused(tmp_path, write(path, index, listing=None), "CLASS_NAMES")
    refused(tmp_path, write(path, index, listing="0=a,2=b"), "in index order")
    refused(tmp_path, write(path, index, listing="nonsense"), "in index order")
    refused(tmp_path, write(path, np.full((5, 5), 99, np.uint8)), "99")
    refused(tmp_path, write(path, np.full((5, 5), 9, np.uint8), listing=None), "contains 9", legend=DEEPGLOBE)
    other = Legend("other", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 1, 1))), None)
    refused(tmp_path, write(path, index), "'other' has 0=a,1=b", legend=other)
    path.write_bytes(write(path, np.tile(index, (40, 40))).read_bytes()[:-2_000_000])
    refused(tmp_path, path, "damaged or incomplete")


def test_confidences_that_are_none(tmp_path):
    index = some_map()
    source, sure = write(tmp_path / "map.tif", index), tmp_path / "sure.tif"
    refused(tmp_path, source, "does not exist", confidence=sure)
    sure.write_text("no raster")
    refused(tmp_path, source, "is not a supported raster", confidence=sure)
    write(sure, index[:-1], listing=None)
    refused(tmp_path, source, "same position", confidence=sure)
    write(sure, index, (UTM[0], Affine(0.5, 0, 400_000.5, 0, -0.5, 5_000_000)), listing=None)
    refused(tmp_path, source, "same position", confidence=sure)
    write(sure, index.astype(np.int32), listing=None)
    refused(tmp_path, source, "int32", confidence=sure)
    for value in (50, -0.1, np.nan):
        write(sure, np.full(index.shape, value, np.float32), listing=None, nodata=None)
        refused(tmp_path, source, "not probabilities", confidence=sure)


def test_outputs_that_cannot_be(tmp_path):
    source = write(tmp_path / "map.tif", some_map())
    with pytest.raises(UsageError, match=r"\.gpkg"):
        vectorize(source, tmp_path / "out.dxf")
    vectorize(source, tmp_path / "out.gpkg")
    before = (tmp_path / "out.gpkg").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        vectorize(source, tmp_path / "out.gpkg")
    with pytest.raises(UsageError, match="8000px"):
        vectorize(source, tmp_path / "out.gpkg", min_region="8", force=True)
    for options in ({"gsd": 0.0}, {"gsd": -1.0}):
        with pytest.raises(UsageError, match="expected"):
            vectorize(source, tmp_path / "out.gpkg", simplify="2m", force=True, **options)
    assert (tmp_path / "out.gpkg").read_bytes() == before


def test_a_map_of_nodata_gives_an_empty_layer_and_says_so(tmp_path):
    source = write(tmp_path / "map.tif", np.full((6, 5), NODATA, np.uint8))
    done = invoke("vectorize", source, "--out", tmp_path / "out.gpkg")
    assert "nodata" in done.stderr
    polygons, fields, _ = read(tmp_path / "out.gpkg")
    assert len(polygons) == 0
    assert list(fields) == ["class", "class_index", "area_m2"]
    assert vectorize(source, tmp_path / "out.geojson", simplify="1m") == Vectorized(
        tmp_path / "out.geojson", {}, {}, {}
    )
