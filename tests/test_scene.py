"""Scenes from file to file: what the engine is for."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from commands import invoke, refusal
from fake_runtime import ColourRuntime, ContextRuntime, make_card
from imagefiles import read_band, save_polygons, save_raster, spoil_block
from landcover import _gdal
from landcover.errors import OutputError, UsageError
from landcover.inference import PredictOptions, predict
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import Scene

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 6, (40, 30), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
UTM = {"crs": CRS.from_epsg(32631), "transform": Affine(1.0, 0, 5e5, 0, -1.0, 5.7e6)}
RUNTIME = ColourRuntime(make_card(gsd=1.0, window_px=64, overlap_px=16))
WIDE = ColourRuntime(make_card(gsd=10_000.0))
WINDOWS = {"window_px": 64, "overlap_px": 16}


def save(path, index=TRUTH, **profile):
    return save_raster(path, DEEPGLOBE.colours[index], **(UTM | profile))


def run(path, out, runtime=RUNTIME, **options):
    return predict([path], runtime, out, PredictOptions(**(WINDOWS | {"style": False} | options)))


def run_file(path, out, runtime=RUNTIME, **options):
    """Predict with a model that has a file, whose content is its name."""
    model = out.parent / "model.onnx"
    model.write_text("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landcover.inference.maps.open_model", lambda path, **_: runtime)
        chosen = PredictOptions(**(WINDOWS | {"style": False} | options))
        return predict([path], model, out, chosen)


@pytest.fixture
def small_memory(monkeypatch):
    """Let every map be too large for memory."""
    monkeypatch.setattr("landcover.inference.scene.IN_MEMORY_PIXELS", 0)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(1.0, 0, 5e5, 0, -1.0, 5.7e6),
        Affine(1.0, 0, 5e5, 0, 1.0, 5.7e6),  # south up
        Affine(0.75**0.5, 0.5, 5e5, 0.5, -(0.75**0.5), 5.7e6),  # turned by 30 degrees,
    ],
)
def test_pixels_of_the_map_lie_on_those_of_the_scene(tmp_path, transform):
    run(save(tmp_path / "a.tif", transform=transform), tmp_path)
    with rasterio.open(tmp_path / "a_mask.tif") as source:
        assert source.crs == UTM["crs"]
        assert np.allclose(source.transform, transform, rtol=0, atol=1e-6)
    assert np.array_equal(read_band(tmp_path / "a_mask.tif"), TRUTH)


def test_geographic_scenes_keep_their_place_and_count_true_areas(tmp_path):
    degrees = Affine(9e-6, 0, 5.0, 0, -9e-6, 60.0)  # about 1 m north, half a metre east
    result = run(save(tmp_path / "a.tif", crs=CRS.from_epsg(4326), transform=degrees), tmp_path)
    with rasterio.open(tmp_path / "a_mask.tif") as source:
        assert np.allclose(source.transform, degrees, rtol=0, atol=1e-12)
    hectares = sum(area.hectares or 0 for area in result.areas)
    assert hectares == pytest.approx(TRUTH.size * 1.0026 * 0.5023 / 1e4, rel=2e-3)


def test_work_that_does_not_fit_in_memory_gives_the_same_bytes(tmp_path, request):
    path = save(tmp_path / "a.tif")
    run(path, tmp_path / "one", min_region="90px", probabilities=True, confidence=True)
    request.getfixturevalue("small_memory")
    run(path, tmp_path / "two", min_region="90px", probabilities=True, confidence=True)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["a_confidence.tif", "a_mask.tif", "a_probabilities.tif"]
    assert names == sorted(p.name for p in (tmp_path / "two").iterdir())  # and nothing is left over
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_confidence_is_the_probability_of_the_mapped_class(tmp_path):
    run(save(tmp_path / "a.tif", nodata=0), tmp_path, probabilities=True, confidence=True)
    with rasterio.open(tmp_path / "a_probabilities.tif") as source:
        probabilities = source.read()
    index, confidence = read_band(tmp_path / "a_mask.tif"), read_band(tmp_path / "a_confidence.tif")
    inside = index != NODATA
    assert (probabilities[:, ~inside] == 255).all()
    assert (confidence[~inside] == 0).all()
    mapped = np.take_along_axis(probabilities, np.where(inside, index, 0)[None], 0)[0][inside]
    assert np.array_equal(mapped, probabilities.max(axis=0)[inside])
    assert np.abs(mapped / 254 - confidence[inside] / 255).max() <= 1 / 254
    declared = {}
    for name in ("probabilities", "confidence"):
        with rasterio.open(tmp_path / f"a_{name}.tif") as source:
            declared[name] = (source.nodata, set(source.scales))
    assert declared == {"probabilities": (255, {1 / 254}), "confidence": (0, {1 / 255})}


def test_a_raster_without_crs_is_mapped_and_its_areas_are_pixels(tmp_path):
    path = save(tmp_path / "a.tif", crs=None, transform=Affine.identity())
    result = run(path, tmp_path, gsd="model")
    assert result.maps[0].task.map == tmp_path / "a_mask.png"
    assert np.array_equal(read_band(tmp_path / "a_mask.png"), TRUTH)
    assert {area.hectares for area in result.areas} == {None}
    run(path, tmp_path, gsd="model", map_format="tif")
    assert np.array_equal(read_band(tmp_path / "a_mask.tif"), TRUTH)


@pytest.mark.parametrize("gsd", [1.0, 0.37, 2.2])
@pytest.mark.parametrize("box", [(130, 210, 60, 45), (0, 0, 300, 30), (180, 0, 120, 400), (299, 399, 1, 1)])
def test_a_part_has_the_classes_and_probabilities_of_the_whole_scene(tmp_path, gsd, box):
    """Only what is outside of the part is not mapped; a hole that lies beside it is one in both."""
    photo = np.clip(np.random.default_rng(0).normal(120, 60, (400, 300, 3)), 1, 255).astype(np.uint8)
    photo[100:260, 110:140] = 0
    path, options = save_raster(tmp_path / "a.tif", photo, nodata=0, **UTM), {"probabilities": True}
    runtime, (left, top, width, height) = ContextRuntime(make_card(gsd=1.0)), box
    run(path, tmp_path / "whole", runtime, gsd=gsd, **options)
    sides = (5e5 + left, 5.7e6 - top - height, 5e5 + left + width, 5.7e6 - top)
    run(path, tmp_path / "part", runtime, gsd=gsd, bbox=sides, **options)
    window = np.s_[top : top + height, left : left + width]
    whole, part = (read_band(tmp_path / name / "a_mask.tif") for name in ("whole", "part"))
    assert part.shape == (height, width)
    assert (part == whole[window]).mean() >= 0.995
    assert np.array_equal(part == NODATA, whole[window] == NODATA)
    with (
        rasterio.open(tmp_path / "whole/a_probabilities.tif") as expected,
        rasterio.open(tmp_path / "part/a_probabilities.tif") as found,
    ):
        assert found.bounds == sides
        difference = found.read().astype(int) - expected.read()[:, *window]
    assert np.abs(difference).max() <= 2  # resampling rounds


def test_a_part_is_read_with_its_windows_alone(tmp_path, monkeypatch):
    """Of a scene of 40 by 40 windows, those that reach the part, and their rows and columns."""
    path = save(tmp_path / "a.tif", np.resize(TRUTH, (2000, 2000)))
    runtime, asked = ContextRuntime(make_card(gsd=1.0)), []
    straight = Scene.read_rows

    def read_rows(scene, start, stop, cols):
        asked.append((start, stop, cols.start, cols.stop))
        return straight(scene, start, stop, cols)

    monkeypatch.setattr(Scene, "read_rows", read_rows)
    monkeypatch.setattr("landcover.inference.reading._STEP_PIXELS", 1)
    run(path, tmp_path, runtime, bbox=(501_000, 5_699_100, 501_010, 5_699_110))
    first, last, left, right = zip(*asked, strict=True)
    assert 640 <= min(first) <= 890
    assert 900 <= max(last) <= 1280  # steps are of at least 128 rows, and those of the whole scene
    assert 870 <= min(left) <= 1000 - 16
    assert 1010 + 16 <= max(right) <= 1140
    assert len(runtime.windows) <= 9


def test_the_scale_of_a_part_is_that_of_the_whole_scene(tmp_path):
    """Its areas are its own: a pixel of web Mercator at 60 degrees is half as large as at the equator."""
    transform = Affine(1.0, 0, 0, 0, -30_000.0, 9e6)
    path = save(tmp_path / "a.tif", TRUTH[:300], crs=CRS.from_epsg(3857), transform=transform)
    whole = run(path, tmp_path / "whole", window_px=0, overlap_px=0, runtime=WIDE)
    for name, bottom, factor in (("near", 8.37e6, 0.25), ("far", 0, 1)):
        box = (0, bottom, 300, bottom + 6e4)
        part = run(path, tmp_path / name, bbox=box, window_px=0, overlap_px=0, runtime=WIDE)
        assert part.maps[0].scale == whole.maps[0].scale
        hectares = sum(area.hectares or 0 for area in part.areas)
        assert hectares == pytest.approx(300 * 6 * factor, rel=0.03)


def square(left, top, side):
    """Corners of a square of pixels."""
    x, y = 5e5 + left, 5.7e6 - top
    return [(x, y), (x + side, y), (x + side, y - side), (x, y - side)]


def test_outside_an_area_of_interest_there_is_no_map(tmp_path):
    pytest.importorskip("pyogrio")
    aoi = save_polygons(tmp_path / "aoi.geojson", {"a": square(20, 30, 50), "b": square(100, 200, 40)})
    run(save(tmp_path / "a.tif"), tmp_path, aoi=aoi)
    expected = np.full_like(TRUTH, NODATA)
    for left, top, side in [(20, 30, 50), (100, 200, 40)]:
        expected[top : top + side, left : left + side] = TRUTH[top : top + side, left : left + side]
    with rasterio.open(tmp_path / "a_mask.tif") as source:
        assert source.bounds[0] == 500_020
        row, col = source.index(5e5 + 0.5, 5.7e6 - 0.5)
        found = source.read(1)
    height, width = found.shape
    assert np.array_equal(found, expected[-row : height - row, -col : width - col])


def test_areas_are_counted_in_zones_which_may_overlap(tmp_path):
    pytest.importorskip("pyogrio")
    zones = save_polygons(tmp_path / "z.geojson", {"left": square(0, 0, 100), "mid": square(50, 60, 200)})
    report, table = tmp_path / "areas.json", tmp_path / "areas.csv"
    result = run(save(tmp_path / "a.tif"), tmp_path, zones=zones, zone_column="name")
    for name, part in [("left", TRUTH[:100, :100]), ("mid", TRUTH[60:260, 50:250])]:
        counts = np.bincount(part.ravel(), minlength=7)
        assert np.array_equal(result.maps[0].areas.zones[name].pixels, counts)
        assert np.allclose(result.maps[0].areas.zones[name].square_metres, counts, rtol=1e-3)
    rows = list(result.area_rows())
    assert [row["zone"] for row in rows] == [""] * 6 + ["left"] * 6 + ["mid"] * 6
    assert not report.exists()
    assert not table.exists()


@pytest.mark.parametrize("name", ["", None])
def test_a_zone_without_a_name_is_refused(tmp_path, name):
    """The table has the whole map in rows without a name."""
    pytest.importorskip("pyogrio")
    zones = save_polygons(tmp_path / "z.geojson", {"left": square(0, 0, 100), name: square(50, 60, 200)})
    result = run_file(save(tmp_path / "a.tif"), tmp_path / "out", zones=zones, zone_column="name")
    assert "has no 'name'" in next(iter(result.failed.values()))


def damaged(path):
    """Overwrite a block in the middle of a tiled, compressed scene."""
    save(path, tiled=True, blockxsize=64, blockysize=64, compress="deflate", interleave="band")
    return spoil_block(path, 3, 2)


def test_a_damaged_block_has_no_data_and_is_told_of(tmp_path):
    result = run(damaged(tmp_path / "a.tif"), tmp_path)
    assert [tuple(window) for window in result.maps[0].damaged] == [(192, 128, 64, 64)]
    assert not result.complete
    expected = TRUTH.copy()
    expected[192:256, 128:192] = NODATA
    # Around it the mean colour of the hole mixes with the imagery by less than a pixel.
    assert np.array_equal(read_band(tmp_path / "a_mask.tif"), expected)


def test_a_damaged_scene_is_skipped_when_strict(tmp_path):
    path = damaged(tmp_path / "a.tif")
    result = run(path, tmp_path / "out", strict=True)
    assert list(result.failed) == [str(path)]
    assert not list((tmp_path / "out").glob("*"))


def test_a_huge_png_is_refused_before_any_work(tmp_path, small_memory):
    path = save(tmp_path / "a.tif", crs=None, transform=Affine.identity())
    assert "--map-format tif" in run(path, tmp_path, gsd=0.7).failed[str(path)]


class Slow(ContextRuntime):
    """Stops the process for good after some windows."""

    def __init__(self, windows):
        super().__init__(make_card(gsd=0.7, window_px=64, overlap_px=16))
        self.left = windows

    def coarse(self, batch):
        self.left -= 1
        while self.left < 0:
            time.sleep(1)
        return super().coarse(batch)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import landcover.inference.scene
landcover.inference.scene.IN_MEMORY_PIXELS = 0
from test_scene import Slow, run_file
run_file(Path({scene!r}), Path({out!r}), Slow({windows}), min_region="40px", confidence=True)
"""


def kill_at(blocks, scene, out, windows):
    """Start a prediction in a process of its own, kill it after so many blocks; return how many."""
    places = {"tests": str(Path(__file__).parent), "scene": str(scene), "out": str(out)}
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(windows=windows, **places)])
    finished = 0
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and finished < blocks:
        time.sleep(0.2)
        finished = len(list(out.glob(".a_mask.tif.landcover-tmp/block-*.json")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return finished


@pytest.mark.parametrize(("windows", "blocks"), [(25, 2), (60, 4)])
def test_a_killed_scene_is_resumed_and_has_the_same_bytes(tmp_path, small_memory, windows, blocks):
    index = TRUTH.copy()
    index[150:260, 20:140] = 6
    path, out = save(tmp_path / "a.tif", index, nodata=0), tmp_path / "out"
    options = {"min_region": "40px", "confidence": True}
    assert blocks <= kill_at(blocks, path, out, windows) < 9
    assert not (out / "a_mask.tif").exists()
    resumed, whole = Slow(10**9), Slow(10**9)
    run_file(path, out, resumed, resume=True, **options)
    run_file(path, tmp_path / "straight", whole, **options)
    assert len(resumed.windows) < len(whole.windows)
    for name in ("a_mask.tif", "a_confidence.tif"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["a_confidence.tif", "a_mask.tif"]


class Interrupted(ContextRuntime):
    """Is stopped by Ctrl-C after some windows."""

    def __init__(self, windows=25):
        super().__init__(make_card(gsd=1.0, window_px=64, overlap_px=16))
        self.left = windows

    def coarse(self, batch):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().coarse(batch)


def spoil_work(folder):
    (folder / "work.json").write_text("")


def spoil_records(folder):
    for number, text in enumerate(["", "[]", "{}", '{"stop": "x", "damaged": [], "notes": [], "ood": {}}']):
        (folder / f"block-{number:05}.json").write_text(text)


def lose_rows(folder):
    os.truncate(folder / "classes.raw", 10)


def lose_a_file(folder):
    (folder / "classes.raw").unlink()


def change_rows(folder):
    with (folder / "classes.raw").open("r+b") as file:
        file.seek(80 * 300 + 5)
        file.write(bytes([99]))


def change_a_record(folder):
    file = folder / "block-00002.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "damaged": [[0, 0, 5, "x"]]}))


def lose_a_block(folder):
    """Blocks may be made in any order, by several processes."""
    (folder / "block-00001.json").unlink()
    with (folder / "classes.raw").open("r+b") as file:
        file.seek(80 * 300)
        file.write(bytes(10 * 300))


SPOILED = [spoil_work, spoil_records, lose_rows, lose_a_file, lose_a_block, change_rows, change_a_record]


@pytest.mark.parametrize("spoil", SPOILED)
def test_blocks_that_are_damaged_or_missing_are_computed_again(tmp_path, small_memory, spoil):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_file(path, out, Interrupted(40))
    folder = out / ".a_mask.tif.landcover-tmp"
    assert len(list(folder.glob("block-*.json"))) >= 4
    spoil(folder)
    run_file(path, out, Interrupted(10**9), resume=True)
    run_file(path, tmp_path / "straight", Interrupted(10**9))
    assert (out / "a_mask.tif").read_bytes() == (tmp_path / "straight/a_mask.tif").read_bytes()
    assert [p.name for p in out.iterdir()] == ["a_mask.tif"]


def test_work_that_ended_between_the_last_block_and_the_file_is_only_written(
    tmp_path, small_memory, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("landcover.raster.writing.copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_file(path, out, Interrupted(10**9))
    assert (out / ".a_mask.tif.landcover-tmp/classes.vrt").exists()
    rest = Interrupted(0)
    run_file(path, out, rest, resume=True)
    run_file(path, tmp_path / "straight", Interrupted(10**9))
    assert not rest.windows
    assert (out / "a_mask.tif").read_bytes() == (tmp_path / "straight/a_mask.tif").read_bytes()
    assert [p.name for p in out.iterdir()] == ["a_mask.tif"]


@pytest.mark.skipif(sys.platform == "win32", reason="no claims")
def test_of_two_at_one_scene_the_second_is_told_and_the_first_goes_on(tmp_path, small_memory):
    path, out, told = save(tmp_path / "a.tif"), tmp_path / "out", []

    class Second(Interrupted):
        def coarse(self, batch):
            if self.left == 10**9 - 5:
                for resume in (False, True):
                    told.extend(run_file(path, out, Interrupted(), resume=resume).failed.values())
            return super().coarse(batch)

    run_file(path, out, Second(10**9))
    run_file(path, tmp_path / "straight", Interrupted(10**9))
    assert len(told) == 2
    assert all("is being written by another process" in one for one in told)
    assert (out / "a_mask.tif").read_bytes() == (tmp_path / "straight/a_mask.tif").read_bytes()


OTHERWISE = [
    {"gsd": 0.9},
    {"bands": (3, 2, 1)},
    {"scaling": (0.0, 200.0)},
    {"bbox": (500_050, 5_699_700, 500_120, 5_699_900)},
    {"overlap_px": 8},
    {"views": 3},
    {"min_region": "9px"},
    {"map_format": "cog"},
]


@pytest.mark.parametrize("change", OTHERWISE, ids=str)
def test_work_of_other_settings_is_not_resumed(tmp_path, small_memory, change):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_file(path, out, Interrupted())
    result = run_file(path, out, Interrupted(10**9), resume=True, **change)
    assert "without --resume" in result.failed[str(path)]
    run_file(path, out, Interrupted(10**9), **change)
    assert [p.name for p in out.iterdir()] == ["a_mask.tif"]


@pytest.mark.parametrize("change", OTHERWISE, ids=str)
def test_a_map_made_otherwise_is_not_taken_for_this_one(tmp_path, change):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    run_file(path, out)
    with pytest.raises(OutputError, match="with other options"):
        run_file(path, out, resume=True, **change)
    save(path, np.roll(TRUTH, 1, axis=0))
    with pytest.raises(OutputError, match="of another scene"):
        run_file(path, out, resume=True)


def test_a_scene_is_known_by_its_content(tmp_path, monkeypatch):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    run_file(path, out)
    moved = (tmp_path / "moved/a.tif").absolute()
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert run_file(moved, out, resume=True).kept
    monkeypatch.setattr("landcover.inference.scene.SAMPLE_BYTES", 16)
    monkeypatch.setattr("landcover.inference.maps.SAMPLE_BYTES", 16)
    run_file(path, out, force=True)
    assert run_file(path, out, resume=True).kept
    later = (out / "a_mask.tif").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))  # of a large file not all bytes are compared
    with pytest.raises(OutputError, match=r"a\.tif was changed after"):
        run_file(path, out, resume=True)


def test_a_corrected_world_file_makes_another_map(tmp_path):
    path, out = save(tmp_path / "a.tif", crs=None, transform=Affine.identity()), tmp_path / "out"
    place = tmp_path / "a.tfw"
    place.write_text("0.5\n0\n0\n-0.5\n500000\n5600000\n")
    run_file(path, out, gsd=0.5)
    assert run_file(path, out, gsd=0.5, resume=True).kept
    place.write_text("0.5\n0\n0\n-0.5\n600000\n5600000\n")
    with pytest.raises(OutputError, match="--force"):
        run_file(path, out, gsd=0.5, resume=True)


def test_another_gsd_of_the_data_folder_makes_another_map(tmp_path):
    path, out = save(tmp_path / "in/a.tif", crs=None, transform=Affine.identity()), tmp_path / "out"
    settings = path.with_name("landcover.yaml")
    settings.write_text("gsd: 0.5\n")
    run_file(path, out)
    assert run_file(path, out, resume=True).kept
    settings.write_text("gsd: 0.6\n")
    with pytest.raises(OutputError, match="LANDCOVER_GSD"):
        run_file(path, out, resume=True)


def test_maps_that_are_there_are_kept_and_counted(tmp_path):
    pytest.importorskip("pyogrio")
    zones = save_polygons(tmp_path / "z.geojson", {"left": square(0, 0, 100)})
    path, out = damaged(tmp_path / "a.tif"), tmp_path / "out"
    first = run_file(path, out, zones=zones, resume=True)
    before = (out / "a_mask.tif").stat().st_mtime_ns
    again = run_file(path, out, zones=zones, resume=True)
    assert (out / "a_mask.tif").stat().st_mtime_ns == before
    assert not again.maps
    assert [made.task.map for made in again.kept] == [out / "a_mask.tif"]
    assert list(again.area_rows()) == list(first.area_rows())
    assert again.areas == first.areas
    assert not again.complete
    assert again.kept[0].damaged == first.maps[0].damaged


@pytest.mark.parametrize("part", [{}, {"bbox": (5e5, 5.7e6 - 90, 5e5 + 60, 5.7e6)}])
def test_a_png_that_is_kept_has_its_areas_and_zones(tmp_path, part):
    """A PNG says nothing of its CRS; --gsd differs here from the georeference, which areas come from."""
    pytest.importorskip("pyogrio")
    zones = save_polygons(tmp_path / "z.geojson", {"left": square(0, 0, 100)})
    path, options = save(tmp_path / "a.tif"), {"map_format": "png", "gsd": 3.0, "zones": zones, **part}
    first = run_file(path, tmp_path / "out", **options)
    again = run_file(path, tmp_path / "out", **options, resume=True)
    assert again.kept
    assert list(again.area_rows()) == list(first.area_rows())
    assert again.areas == first.areas


@pytest.mark.parametrize(
    ("crs", "map_format", "reason"),
    [
        ("EPSG:32631", "png", "A PNG map has no CRS"),
        ('LOCAL_CS["Site grid",UNIT["metre",1]]', "tif", "No transformation leads from the CRS"),
        ("+proj=longlat +a=1737400 +b=1737400 +no_defs", "tif", "No transformation leads from the CRS"),
    ],
)
def test_polygons_that_could_not_be_written_are_refused_before_the_map(tmp_path, crs, map_format, reason):
    pytest.importorskip("pyogrio")
    place = {"transform": Affine(1e-5, 0, 10, 0, -1e-5, 10)} if "longlat" in crs else {}
    path = save(tmp_path / "a.tif", crs=crs, **place)
    options = {"vector": "geojson", "map_format": map_format, "gsd": 1.0}
    failed = run(path, tmp_path / "out", **options).failed
    assert re.search(reason, failed[str(path)])
    assert "--vector gpkg" in failed[str(path)]
    assert not list((tmp_path / "out").glob("a_mask*"))
    assert run(path, tmp_path / "out", **options | {"vector": "gpkg"}).complete


def test_a_limit_on_pixels_changes_no_map(tmp_path):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    run_file(path, out)
    assert run_file(path, out, resume=True, max_pixels=TRUTH.size).kept


@pytest.mark.parametrize("map_format", ["tif", "png"])
def test_a_map_that_is_kept_has_its_warnings(tmp_path, map_format):
    path, out = save(tmp_path / "a.tif", crs=None, transform=Affine.identity()), tmp_path / "out"
    first = run_file(path, out, gsd=1.0, map_format=map_format).maps[0]
    assert str(path) in first.notes[0]
    assert str(tmp_path).encode() not in first.task.map.read_bytes()
    assert run_file(path, out, gsd=1.0, map_format=map_format, resume=True).kept[0].notes == first.notes


@pytest.mark.parametrize("map_format", ["tif", "cog"])
def test_a_scene_is_opened_twice_and_a_map_that_is_kept_once(tmp_path, monkeypatch, map_format):
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    opened = []
    open_dataset = _gdal._open

    def counting(path, *args, **options):
        opened.append(Path(path).name)
        return open_dataset(path, *args, **options)

    monkeypatch.setattr(_gdal, "_open", counting)
    run_file(path, out, map_format=map_format)
    assert opened.count("a.tif") == 2
    opened.clear()
    assert run_file(path, out, map_format=map_format, resume=True).kept
    assert opened.count("a_mask.tif") == 1


def test_the_rows_of_a_large_map_are_on_disk_once(tmp_path, small_memory, monkeypatch):
    """GDAL reads the row buffer itself: beside it there are only the VRT and what GDAL writes."""
    import landcover.raster.writing as writing

    found = []
    copy = writing.copy

    def looking(source, target, **options):
        files = {file.name: file.stat().st_size for file in (tmp_path / "out").rglob("*.raw")}
        found.append(files)
        copy(source, target, **options)

    monkeypatch.setattr(writing, "copy", looking)
    run(save(tmp_path / "a.tif"), tmp_path / "out", probabilities=True, confidence=True)
    pixels = TRUTH.size
    assert found == [{"classes.raw": pixels, "confidence.raw": pixels, "probabilities.raw": 6 * pixels}] * 3


def test_damage_is_not_forgotten_by_resuming(tmp_path, small_memory):
    path, out = damaged(tmp_path / "a.tif"), tmp_path / "out"
    straight = run_file(path, tmp_path / "straight", Interrupted(10**9))
    with pytest.raises(KeyboardInterrupt):
        run_file(path, out, Interrupted(43))  # behind the damaged block
    resumed = run_file(path, out, Interrupted(10**9), resume=True)
    assert resumed.maps[0].damaged == straight.maps[0].damaged != ()
    assert (out / "a_mask.tif").read_bytes() == (tmp_path / "straight/a_mask.tif").read_bytes()


def test_a_model_in_memory_cannot_resume(tmp_path):
    with pytest.raises(UsageError, match="needs a model file"):
        run(save(tmp_path / "a.tif"), tmp_path / "out", resume=True)
    with pytest.raises(UsageError, match=r"--resume.*--force"):
        PredictOptions(resume=True, force=True)


def test_ctrl_c_stops_all_scenes_that_are_under_way(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        save(tmp_path / f"in/{number}.tif", np.tile(TRUTH, (8, 1)))
    runtime = Interrupted(60)
    whole = Interrupted(10**9)
    predict([tmp_path / "in/0.tif"], whole, tmp_path / "whole", PredictOptions(**WINDOWS))
    with pytest.raises(KeyboardInterrupt):
        predict([tmp_path / "in"], runtime, tmp_path / "out", PredictOptions(**WINDOWS))
    assert len(runtime.windows) < len(whole.windows)
    assert not list((tmp_path / "out").glob("*.tif"))


def test_a_scene_may_lie_on_a_server(tmp_path, address):
    save(tmp_path / "far.tif")
    result = run(f"http://{address}/far.tif", tmp_path / "out")
    assert np.array_equal(read_band(tmp_path / "out/far_mask.tif"), TRUTH)
    assert result.maps[0].scale == (1.0, "raster")
    missing = run(f"http://{address}/missing.tif", tmp_path / "out")
    assert list(missing.failed) == [f"http://{address}/missing.tif"]


def test_tta_on_the_command_line_is_eight_views(tmp_path, monkeypatch):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    monkeypatch.setattr("landcover.inference.maps.open_model", lambda path, **_: RUNTIME)
    path = save(tmp_path / "a.tif")
    words = ["predict", path, "--model", model, "--json", "-", "--out", tmp_path]
    for more, views in ([], "1"), (["--tta"], "8"), (["--views", "3"], "3"), (["--tta", "--views", "8"], "8"):
        result = invoke(*words, *more, "--force")
        assert json.loads(result.stdout)["views"] == int(views)
        assert ("--tta is now --views 8" in result.stderr) == ("--tta" in more)
        with rasterio.open(tmp_path / "a_mask.tif") as made:
            assert made.tags()["LANDCOVER_VIEWS"] == views
    for wrong, reason in (
        (["--tta", "--views", "3"], "--tta .* --views 3"),
        (["--views", "4"], "views is 4"),
    ):
        assert re.search(reason, refusal(*words, *wrong, "--force", error=UsageError))


def test_the_command_takes_what_the_scene_needs(tmp_path, monkeypatch):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    monkeypatch.setattr("landcover.inference.maps.open_model", lambda path, **_: RUNTIME)
    path = save(tmp_path / "a.tif", dtype="uint16")
    invoke(
        *("predict", path, "--model", model, "--out", tmp_path / "out", "--bands", "1,2,3"),
        *("--scaling", "0,255", "--bbox", "500000,5699800,500100,5700000", "--window", 64, "--overlap", 16),
        *("--views", 8, "--confidence", "--csv", tmp_path / "areas.csv", "--json", tmp_path / "r.json"),
    )
    assert np.array_equal(read_band(tmp_path / "out/a_mask.tif"), TRUTH[:200, :100])
    with (tmp_path / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(DEEPGLOBE.scored_names)
    assert sum(int(row["pixels"]) for row in rows) == 20_000
    assert sum(float(row["square_metres"]) for row in rows) == pytest.approx(20_000, rel=1e-3)


def test_a_column_without_zones_is_refused_before_any_work(tmp_path):
    words = ("predict", save(tmp_path / "a.tif"), "--model", "m", "--out", tmp_path / "out")
    assert "--zone" in refusal(*words, "--zone-column", "name", error=UsageError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("in_memory", "limit"), [(0, 30_000), (1 << 30, 2_000)])
def test_no_space_left_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, full_disk, in_memory, limit):
    monkeypatch.setattr("landcover.inference.scene.IN_MEMORY_PIXELS", in_memory)
    path, out = save(tmp_path / "a.tif"), tmp_path / "out"
    with full_disk(limit):
        (message,) = run(path, out).failed.values()
    assert "cannot be written" in message
    assert "\n" not in message
    assert not [path for path in out.glob("*") if not path.name.startswith(".")]
