import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landcover.errors import DataError, OutOfMemoryError, OutputError
from landcover.io.files import is_temporary, work_folder_path
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import (
    Georeference,
    Place,
    read_header,
    style_files,
    write_bands,
    write_map,
    writing,
)
from landcover.windows import Window

PLACE = Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000), CRS.from_epsg(32631))


def placed(height, width):
    return PLACE.part(Window(0, 0, height, width))


RNG = np.random.default_rng(0)


def class_map(height, width):
    """Blocks of 20 px of all classes, with a hole: uint8 (height, width)."""
    blocks = RNG.integers(0, 7, (height // 20 + 1, width // 20 + 1), dtype=np.uint8)
    index = blocks.repeat(20, 0).repeat(20, 1)[:height, :width].copy()
    index[:3] = NODATA
    return index


def strips(array, rows):
    return [array[..., top : top + rows, :] for top in range(0, array.shape[-2], rows)]


def most_frequent(index, factor):
    """The class with most pixels of each factor x factor block, and whether no other has as many."""
    high, wide = index.shape[0] // factor, index.shape[1] // factor
    blocks = index[: high * factor, : wide * factor].reshape(high, factor, wide, factor)
    counts = np.stack([(blocks == value).sum(axis=(1, 3)) for value in range(7)])
    ordered = np.sort(counts, axis=0)
    return counts.argmax(axis=0), ordered[-1] > ordered[-2]


@pytest.mark.parametrize("cog", [False, True])
def test_a_written_map_keeps_place_classes_and_provenance(tmp_path, cog):
    index = class_map(1300, 700)
    path = tmp_path / "deep" / "map.tif"
    write_map(
        path, strips(index, 300), placed(1300, 700), DEEPGLOBE, tags={"LANDCOVER_VERSION": "1"}, cog=cog
    )
    with rasterio.open(path) as source:
        assert np.array_equal(source.read(1), index)
        assert (source.crs, source.transform) == (PLACE.crs, PLACE.transform)
        assert source.nodata == NODATA
        assert np.array_equal(source.dataset_mask() == 0, index == NODATA)
        assert (source.profile["tiled"], source.profile["compress"]) == (True, "deflate")
        assert source.block_shapes == [(512, 512)]
        assert source.overviews(1) == [2, 4]
        assert source.descriptions == ("land cover",)
        assert [source.colormap(1)[i][:3] for i in range(7)] == [c.colour for c in DEEPGLOBE.classes]
        assert source.tags()["CLASS_NAMES"].split(",")[3] == "3=forest"
        assert source.tags()["LANDCOVER_VERSION"] == "1"
        assert (source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG") or not cog
    assert sorted(p.name for p in path.parent.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("cog", [False, True])
def test_overviews_show_the_most_frequent_class(tmp_path, cog):
    index = np.where(RNG.random((600, 1040)) < 0.5, RNG.integers(0, 7, (600, 1040)), 2).astype(np.uint8)
    write_map(tmp_path / "m.tif", [index], placed(600, 1040), DEEPGLOBE, cog=cog)
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as source:
        reduced = source.read(1)
    expected, clear = most_frequent(index, 2)
    assert clear.mean() > 0.7
    assert np.array_equal(reduced[clear], expected[clear])


@pytest.mark.parametrize("bands", [1, 6])
def test_cloud_optimized_files_are_valid(tmp_path, bands):
    validate = pytest.importorskip("rio_cogeo").cog_validate
    path = tmp_path / "a.tif"
    if bands == 1:
        write_map(path, [class_map(900, 1100)], placed(900, 1100), DEEPGLOBE, cog=True)
    else:
        values = RNG.integers(0, 256, (bands, 900, 1100), dtype=np.uint8)
        names = DEEPGLOBE.scored_names
        write_bands(path, [values], placed(900, 1100), names, cog=True)
    valid, errors, warnings = validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])


@pytest.mark.parametrize("cog", [False, True])
def test_the_same_pixels_give_the_same_bytes_however_they_are_cut(tmp_path, cog):
    index = class_map(1100, 1030)
    written = set()
    for number, rows in enumerate([1100, 1, 77, 512, 1100]):
        path = tmp_path / f"{number}.tif"
        write_map(path, strips(index, rows), placed(*index.shape), DEEPGLOBE, cog=cog)
        written.add(path.read_bytes())
    assert len(written) == 1
    probabilities = RNG.integers(0, 256, (3, 520, 600), dtype=np.uint8)
    for rows in (520, 77):
        path = tmp_path / f"p{rows}.tif"
        write_bands(path, strips(probabilities, rows), placed(520, 600), "abc", cog=cog)
    assert (tmp_path / "p520.tif").read_bytes() == (tmp_path / "p77.tif").read_bytes()


@settings(max_examples=12)
@given(height=st.integers(1, 40), width=st.integers(1, 40), count=st.integers(1, 4), rows=st.integers(1, 40))
def test_any_size_comes_back(tmp_path_factory, height, width, count, rows):
    path = tmp_path_factory.mktemp("any") / "a.tif"
    values = RNG.integers(0, 256, (count, height, width), dtype=np.uint8)
    write_bands(path, strips(values, rows), placed(height, width), "abcd"[:count])
    with rasterio.open(path) as source:
        assert np.array_equal(source.read(), values)


TURNED = Affine(0.48, 0.14, 5e5, 0.14, -0.48, 5.7e6)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (28992, Affine(0.25, 0, 127_375.123456789, 0, -0.25, 428_250.987654321)),
        (4326, Affine(4.9e-6, 0, 5.123456789012, 0, -4.9e-6, 52.123456789012)),
        (32631, TURNED),
        (32733, Affine(0.5, 0, 5e5, 0, 0.5, 7e6)),
        (3857, Affine(0.6, 0, 556_000, 0, -0.6, 6_800_125)),
    ],
    ids=["projected", "geographic", "rotated", "south up", "web Mercator"],
)
def test_the_place_is_kept(tmp_path, crs, transform, cog):
    place = Georeference(30, 40, transform, CRS.from_epsg(crs))
    write_map(tmp_path / "a.tif", [class_map(30, 40)], place, DEEPGLOBE, cog=cog)
    read = read_header(tmp_path / "a.tif").georeference
    assert read is not None
    assert read.crs == place.crs
    corners = np.array([0.0, 30_000]), np.array([0.0, 40_000])
    back = read.pixels(*place.points(*corners))
    np.testing.assert_allclose(back, corners, atol=1e-6)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("place", [placed(60, 90), Place(60, 90)], ids=["place", "none"])
def test_bands_have_names_scale_and_tags(tmp_path, place, cog):
    values = RNG.integers(0, 256, (6, 60, 90), dtype=np.uint8)
    path, names = tmp_path / "p.tif", DEEPGLOBE.scored_names
    write_bands(path, strips(values, 25), place, names, tags={"A": "b"}, cog=cog)
    with rasterio.open(path) as source:
        assert np.array_equal(source.read(), values)
        assert source.descriptions == names
        assert source.tags()["A"] == "b"
        assert {source.tags(band)["SCALE"] for band in source.indexes} == {"1/254"}
        assert set(source.scales) == {1 / 254}
        assert source.nodata == NODATA
    assert read_header(path).place == place


@pytest.mark.parametrize("name", ["map.tif", "map.qml", "map.tif.aux.xml"])
def test_existing_files_stay_without_force(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        write_map(tmp_path / "map.tif", [class_map(4, 4)], placed(4, 4), DEEPGLOBE)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "precious")]
    write_map(tmp_path / "map.tif", [class_map(4, 4)], placed(4, 4), DEEPGLOBE, force=True)
    assert (tmp_path / name).read_bytes() != b"precious"


def test_strips_that_fail_leave_nothing(tmp_path):
    def failing():
        yield class_map(20, 30)
        raise DataError("the scene ends here")

    with pytest.raises(DataError, match="ends here"):
        write_map(tmp_path / "m.tif", failing(), placed(40, 30), DEEPGLOBE)
    for wrong in ([class_map(20, 30)], [class_map(40, 31)], [class_map(40, 30).astype(np.int16)]):
        with pytest.raises(ValueError, match=r"raster of 40|does not fit"):
            write_map(tmp_path / "m.tif", wrong, placed(40, 30), DEEPGLOBE)
    assert list(tmp_path.iterdir()) == []


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from landcover.legend import DEEPGLOBE
from landcover.raster import Place, write_map

def strips():
    yield np.zeros((20, 30), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

write_map(Path(sys.argv[1]), strips(), Place(40, 30), DEEPGLOBE)
"""


def test_what_a_killed_process_left_goes_when_the_map_is_written_again(tmp_path):
    path = tmp_path / "m.tif"
    for _ in range(2):  # a second one that is killed leaves no more
        done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)])
        assert done.returncode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        assert is_temporary(left)
        assert len(list(left.iterdir())) == 1
    engine = work_folder_path(path)
    engine.mkdir()
    (engine / "state.json").write_text("the engine's")
    write_map(path, [class_map(40, 30)], placed(40, 30), DEEPGLOBE, style=False)
    assert sorted(tmp_path.rglob("*")) == [engine, engine / "state.json", path]


def test_two_writers_of_one_map_do_not_share_pixels(tmp_path):
    """Each has a private folder, and leaves that of the other alone: the map is whole, of the last one."""
    index, path = class_map(600, 300), tmp_path / "map.tif"

    def slowly():
        yield index[:100]
        write_map(path, [np.zeros_like(index)], placed(600, 300), DEEPGLOBE)
        yield index[100:]

    write_map(path, slowly(), placed(600, 300), DEEPGLOBE)
    with rasterio.open(path) as source:
        assert np.array_equal(source.read(1), index)
    assert sorted(tmp_path.iterdir()) == sorted([path, *style_files(path)])


@pytest.mark.parametrize("cog", [False, True])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, full_disk, cog):
    """Full while the strips are written, while GDAL makes the file, and by one byte in the end."""
    values = RNG.integers(0, 256, (2, 600, 600), dtype=np.uint8)

    def write(path):
        write_bands(path, [values], Place(600, 600), "ab", cog=cog)
        return path

    whole = write(tmp_path / "whole.tif")
    size = whole.stat().st_size
    whole.unlink()
    for limit in (10_000, values.size, values.size + 100_000, size - 20_000, size - 1):
        with full_disk(limit), pytest.raises(OutputError, match=r"map\.tif cannot be written") as error:
            write(tmp_path / "map.tif")
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("size", [(4001, 7), (7, 4001), (1200, 1)])
def test_long_and_narrow_maps_are_written(tmp_path, size, cog):
    """A level of 7 columns may have one: its ratio of widths, 7, is not the factor of its rows, 8."""
    index = class_map(*size)
    write_map(tmp_path / "map.tif", [index], placed(*size), DEEPGLOBE, cog=cog)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert np.array_equal(source.read(1), index)
        assert len(source.overviews(1)) == (2 if size[0] == 1200 else 3)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("lost", ["description", "overviews", "blocks of overviews", "a write"])
def test_a_failure_that_gdal_does_not_report_is_an_error(tmp_path, monkeypatch, lost, cog):
    """GDAL would write the map without its georeference or overviews, with blank ones, or in disorder."""
    describe, write = writing._describe, writing._CheckedFile.write

    def described(vrt, *arguments):
        levels = describe(vrt, *arguments)
        overviews = vrt.with_name(f"{vrt.name}.ovr")
        if lost == "description":
            vrt.write_text(re.sub(r"<NoDataValue>.*?</NoDataValue>|<SRS.*?</SRS>", "", vrt.read_text()))
        elif lost == "overviews":
            overviews.unlink()
        return levels

    def written(self, data):
        if lost == "a write" and self.tell() == 0:
            self._files.error = OSError(errno.ENOSPC, "No space left")
        return write(self, data)

    monkeypatch.setattr(writing, "_describe", described)
    monkeypatch.setattr(writing._CheckedFile, "write", written)
    if lost == "blocks of overviews":
        monkeypatch.setattr(rasterio.io.DatasetWriter, "build_overviews", blank)
    spec = placed(700, 600)
    with pytest.raises(OutputError, match=r"map.tif cannot be written: .*(incomplete|No space left)"):
        write_map(tmp_path / "map.tif", [class_map(700, 600)], spec, DEEPGLOBE, cog=cog)
    assert list(tmp_path.iterdir()) == []


def test_a_map_for_which_memory_lacks_says_so(tmp_path, monkeypatch):
    def describe(*_):
        raise rasterio.errors.RasterioError("no map") from MemoryError()

    monkeypatch.setattr(writing, "_describe", describe)
    with pytest.raises(OutOfMemoryError, match=r"map.tif cannot be written: not enough memory"):
        write_map(tmp_path / "map.tif", [class_map(9, 9)], placed(9, 9), DEEPGLOBE)
    assert list(tmp_path.iterdir()) == []


def blank(dataset, *_):
    """Make overviews without blocks, as GDAL does if it cannot open its file of overviews again."""
    Path(f"{dataset.name}.ovr").write_bytes(b"II*\0" + bytes(100))
