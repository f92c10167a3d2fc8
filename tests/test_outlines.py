"""Outlines of regions: a partition into valid polygons, equal to GDAL's, whatever the bands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize, shapes

from landcover.legend import NODATA
from landcover.postprocess.components import Labeller

shapely = pytest.importorskip("shapely")

from landcover.postprocess.outlines import Bends, find_bends, to_polygons, trace  # noqa: E402

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 10), st.integers(1, 10)),
    elements=st.sampled_from([0, 0, 1, 1, 2, NODATA]),
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


@settings(max_examples=150, deadline=None)
@given(index=MAPS, band_rows=st.integers(1, 12))
def test_polygons_are_those_of_gdal_in_reading_order(index, band_rows):
    polygons, classes = outline(index, band_rows)
    expected = sorted(gdal_outline(index), key=lambda pair: by_first_pixel(pair[0]))
    assert shapely.normalize(polygons).tolist() == [polygon for polygon, _ in expected]
    assert classes.tolist() == [value for _, value in expected]


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=100, deadline=None)
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
