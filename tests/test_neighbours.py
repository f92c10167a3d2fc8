"""Files of a folder that adjoin or overlap, each mapped with its neighbours as context."""

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from fake_runtime import ContextRuntime, make_card
from fleet_world import MODEL
from imagefiles import UTM, grid_place, photo, read_band, save_parts, save_raster
from landcover.errors import OutputError
from landcover.inference import PredictOptions, predict
from landcover.inference.plan import open_imagery, plan
from landcover.inference.scene import CONTEXT, WORK, Inputs
from landcover.legend import NODATA
from landcover.raster import Georeference, Header
from landcover.raster.mosaic import Neighbours
from landcover.windows import Window

HEIGHT, WIDTH = 200, 260
WINDOW = 64
PARTS = [(0, 0, 110, 130), (0, 130, 110, 130), (110, 0, 90, 130), (90, 100, 110, 160)]
CARD = {"card": make_card(gsd=0.5, window_px=WINDOW, overlap_px=16)}


def maps_of(folder, out, runtime=None, **options):
    result = predict([folder], runtime or ContextRuntime(**CARD), out, PredictOptions(**options))
    assert not result.failed
    return result


def tasks_of(folder, **options):
    found = plan([folder], folder / "maps", PredictOptions(**options), model_gsd=0.5, window_px=WINDOW)
    return {task.map.name: task for task in found}


@pytest.mark.parametrize("window_px", [None, WINDOW, 0])
@pytest.mark.parametrize("gsd", [None, 0.33, 0.3505, 0.6])
def test_the_map_of_each_file_is_that_of_the_whole_scene(tmp_path, window_px, gsd):
    image = photo(HEIGHT, WIDTH)
    save_raster(tmp_path / "whole.tif", image, **grid_place(0, 0))
    save_parts(tmp_path / "parts", image, PARTS)
    maps_of(tmp_path / "whole.tif", tmp_path / "maps", window_px=window_px, gsd=gsd)
    whole = read_band(tmp_path / "maps/whole_mask.tif")
    maps_of(tmp_path / "parts", tmp_path / "maps", window_px=window_px, gsd=gsd, confidence=True)
    maps_of(tmp_path / "parts", tmp_path / "alone", window_px=window_px, gsd=gsd, context=False)
    alone = 0
    for number, (row, col, height, width) in enumerate(PARTS):
        expected = whole[row : row + height, col : col + width]
        with rasterio.open(tmp_path / f"parts/{number}.tif") as source:
            place = source.crs, source.transform, source.shape
        with rasterio.open(tmp_path / f"maps/{number}_mask.tif") as mapped:
            assert np.array_equal(mapped.read(1), expected)
            assert (mapped.crs, mapped.transform, mapped.shape) == place
        alone += np.count_nonzero(read_band(tmp_path / f"alone/{number}_mask.tif") != expected)
    assert alone


@pytest.mark.parametrize("crs", [CRS.from_epsg(3857), CRS.from_epsg(4326)])
def test_the_scale_is_that_of_the_whole_scene(tmp_path, crs):
    """Where it differs from row to row, files would have other windows."""
    image, place = photo(HEIGHT, WIDTH), {"crs": crs, "transform": Affine(1e-5, 0, 7, 0, -1e-5, 60)}
    if crs.is_projected:
        place["transform"] = Affine(1, 0, 0, 0, -1, 8_000_000)
    save_raster(tmp_path / "whole.tif", image, **place)
    for number, (row, col, height, width) in enumerate(PARTS):
        moved = {"crs": crs, "transform": place["transform"] @ Affine.translation(col, row)}
        save_raster(tmp_path / f"parts/{number}.tif", image[row : row + height, col : col + width], **moved)
    options = PredictOptions()
    with open_imagery(tasks_of(tmp_path / "whole.tif")["whole_mask.tif"], options, 0.5) as imagery:
        expected = imagery.scale.gsd, *imagery.sides
    for task in tasks_of(tmp_path / "parts").values():
        with open_imagery(task, options, 0.5) as imagery:
            assert (imagery.scale.gsd, *imagery.sides) == pytest.approx(expected, rel=1e-12)
            assert imagery.source.own[2:] == imagery.place.size


def test_a_box_of_a_file_and_its_own_nodata(tmp_path):
    image = photo(HEIGHT, WIDTH)
    image[:30, 100:160] = 0
    save_parts(tmp_path / "parts", image, PARTS[:2], nodata=0)
    save_raster(tmp_path / "parts/9.tif", np.full((60, 80, 3), 90, np.uint8), **grid_place(0, 90), nodata=0)
    maps_of(tmp_path / "parts", tmp_path / "maps")
    first, second = (read_band(tmp_path / f"maps/{number}_mask.tif") for number in (0, 1))
    assert np.array_equal(first == NODATA, (image[:110, :130] == 0).all(axis=2))  # not completed by 9.tif
    assert np.array_equal(second == NODATA, (image[:110, 130:] == 0).all(axis=2))
    box = (500_070.0, 5_699_950.0, 500_090.0, 5_699_970.0)  # within the second file
    maps_of(tmp_path / "parts/1.tif", tmp_path / "one", bbox=box)
    result = predict([tmp_path / "parts"], ContextRuntime(**CARD), tmp_path / "box", PredictOptions(bbox=box))
    assert [made.task.map.name for made in result.maps] == ["1_mask.tif", "9_mask.tif"][: len(result.maps)]
    boxed = read_band(tmp_path / "box/1_mask.tif")
    assert np.array_equal(boxed, second[60:100, 10:50])
    assert not np.array_equal(boxed, read_band(tmp_path / "one/1_mask.tif"))  # 1.tif alone


def test_neighbours_belong_to_the_identity_of_a_map(tmp_path):
    image = photo(HEIGHT, WIDTH)
    save_parts(tmp_path / "parts", image, PARTS)
    names = [f"{number}_mask.tif" for number in range(4)]

    def digests(tag, **options):
        tasks = tasks_of(tmp_path / "parts", **options).values()
        return [Inputs(task, PredictOptions()).digests.get(tag) for task in tasks]

    def resumed(**options):
        result = maps_of(tmp_path / "parts", tmp_path / "maps", MODEL, resume=True, **options)
        return [[made.task.map.name for made in some] for some in (result.maps, result.kept)]

    before, work = digests(CONTEXT), digests(WORK)
    assert digests(CONTEXT, context=False) == [None] * 4
    assert digests(WORK, context=False) == work
    os.utime(tmp_path / "parts/3.tif", ns=(1, 1))
    assert digests(CONTEXT) == before
    maps_of(tmp_path / "parts", tmp_path / "maps", MODEL)
    assert resumed() == [[], names]
    save_raster(tmp_path / "parts/4.tif", image[:20, :20], **grid_place(0, WIDTH))
    assert not set(digests(CONTEXT)) & set(before)
    assert digests(WORK)[:4] == work
    assert resumed() == [[*names, "4_mask.tif"], []]
    (tmp_path / "parts/4.tif").unlink()
    assert resumed() == [names, []]
    assert resumed(context=False) == [names, []]
    for options in ({"views": 2}, {"fill": "keep"}, {"overlap_px": 8}):
        with pytest.raises(OutputError, match=r"0_mask\.tif was made"):
            resumed(**options)
    save_raster(tmp_path / "parts/3.tif", photo(110, 160, 2), **grid_place(90, 100))
    with pytest.raises(OutputError, match=r"3_mask\.tif was made"):
        resumed()


def test_files_that_are_not_context(tmp_path, caplog):
    image = photo(HEIGHT, WIDTH)
    folder = save_parts(tmp_path / "parts", image, [(0, 0, 100, 100)])
    others = {
        "far.tif": (image[:50, :50], grid_place(0, 101)),
        "shifted.tif": (image[:50, :50], grid_place(0, 100.3)),
        "coarse.tif": (image[:50, :50], grid_place(0, 100, 0.6)),
        "crs.tif": (image[:50, :50], grid_place(0, 100, crs=CRS.from_epsg(32632))),
        "grey.tif": (image[:50, :50, 0], grid_place(0, 100)),
        "deep.tif": (image[:50, :50].astype(np.uint16), grid_place(0, 100)),
    }
    for name, (pixels, place) in others.items():
        save_raster(folder / name, pixels, **place)
    with caplog.at_level(logging.INFO):
        tasks = tasks_of(folder)
    assert len(tasks) == 7
    assert all(task.mosaic is None for task in tasks.values())
    assert not caplog.text
    save_raster(folder / "beside.tif", image[:50, :50], **grid_place(100, 0))
    with caplog.at_level(logging.INFO):
        tasks = tasks_of(folder)
    found = {name: task.mosaic for name, task in tasks.items() if task.mosaic is not None}
    assert list(found) == ["0_mask.tif", "beside_mask.tif"]
    assert [piece.path.name for piece in found["beside_mask.tif"].pieces] == ["beside.tif", "0.tif"]
    assert "2 of 8 images adjoin or overlap" in caplog.text
    caplog.clear()
    assert all(task.mosaic is None for task in tasks_of(folder, context=False).values())
    assert not caplog.text


@pytest.mark.parametrize("box", [(0, 0, 100, 100), (20, 30, 40, 50), (0, 40, 100, 100)])
def test_images_of_two_dates_are_not_mixed(tmp_path, caplog, box):
    image = photo(HEIGHT, WIDTH)
    folder = save_parts(tmp_path / "parts", image, [(0, 0, 100, 100), (0, 100, 100, 50), box])
    assert all(task.mosaic is None for task in tasks_of(folder).values())
    assert "3 of 3 images adjoin or overlap others where ground is shown twice" in caplog.text


def test_files_of_several_folders_are_context_but_not_those_of_two_dates(tmp_path, caplog):
    image, parts = photo(HEIGHT, WIDTH), [(0, 0, 100, 100), (0, 100, 100, 100), (100, 0, 100, 100)]
    for number, window in enumerate(parts):
        save_parts(tmp_path / f"scenes/tile{number}", image, [window])
    found = plan([tmp_path / "scenes"], tmp_path, PredictOptions(), model_gsd=0.5, window_px=WINDOW)
    assert [[file.parent.name for file in task.files] for task in found] == [
        ["tile0", "tile1", "tile2"],
        ["tile1", "tile0", "tile2"],
        ["tile2", "tile0", "tile1"],
    ]
    for number in (1, 2):
        save_parts(tmp_path / f"dates/2020/{number}", image, parts[:number])
    save_parts(tmp_path / "dates/2021", photo(HEIGHT, WIDTH, 2), parts[:2])
    save_parts(tmp_path / "dates/2022", photo(HEIGHT, WIDTH, 3), [*parts[:2], parts[0]])
    caplog.clear()
    found = plan([tmp_path / "dates"], tmp_path, PredictOptions(), model_gsd=0.5, window_px=WINDOW)
    joined = {str(task.map.parent.relative_to(tmp_path)): len(task.files) for task in found}
    assert joined == {"2020/1": 1, "2020/2": 2, "2021": 2, "2022": 1}
    assert "4 of 8 images adjoin or overlap others where ground is shown twice" in caplog.text


def headers_of(boxes, grid=(0, 0)):
    """Files of 8 x 8 pixels, (folder, row, col), on a grid of this shift."""
    place = Georeference(
        8, 8, Affine(0.5, 0, 500_000 + 0.5 * grid[1], 0, -0.5, 5_700_000 - 0.5 * grid[0]), UTM
    )
    for folder, row, col in boxes:
        yield Path(folder, f"{row}_{col}.tif"), Header(place.part(Window(row, col, 8, 8)), dtypes=("uint8",))


@pytest.mark.parametrize("twins", [[], [("new", 0, 0)], [("new", 0, col) for col in range(0, 96, 8)]])
def test_files_that_lack_neighbours_by_ground_that_is_shown_twice_are_counted(twins):
    """Twelve tiles in a row, two in each folder, and none, one or all of them again in another folder."""
    tiles = [(f"{col // 16}", 0, col) for col in range(0, 96, 8)]
    neighbours = Neighbours(headers_of(tiles + twins))
    widths = [neighbours.frame(number).width for number in range(12)]
    assert widths == [16 if twins else 96] * 12
    counts = {0: 0, 1: 11, 12: 10}  # of the tiles, all but the ends of the row lack one beyond the folder
    assert neighbours.repeated == counts[len(twins)]


def test_files_on_many_grids_have_neighbours():
    rng = np.random.default_rng(0)
    shifts = [*rng.uniform(0, 1, (60, 2)), (0, 0.999), (0.02, 0.001)]  # the last two are one grid
    pairs = [[("a", 0, 400 * number), ("b", 0, 400 * number + 8)] for number in range(62)]
    files = (file for pair, shift in zip(pairs, shifts, strict=True) for file in headers_of(pair, shift))
    neighbours = Neighbours(files)
    assert [neighbours.frame(number)[2:] for number in range(124)] == [(8, 16)] * 124


def test_files_with_many_others_in_reach_are_mapped_alone(tmp_path, caplog):
    image = photo(90, 90)
    windows = [(10 * row, 10 * col, 10, 10) for row in range(9) for col in range(9)]
    tasks = tasks_of(save_parts(tmp_path / "parts", image, windows), window_px=128)
    assert all(task.mosaic is None for task in tasks.values())
    assert "81 of 81 images have 64 or more others in reach" in caplog.text


def test_an_origin_beyond_all_bounds_is_no_neighbour(tmp_path):
    image = photo(HEIGHT, WIDTH)
    folder = save_parts(tmp_path / "parts", image, PARTS[:2])
    far = {"crs": UTM, "transform": Affine(0.5, 0, 1e300, 0, -0.5, 1e300)}
    save_raster(folder / "9.tif", image[:50, :50], **far)
    tasks = tasks_of(folder, gsd="model")  # nothing tells the scale of the last one
    assert [task.mosaic is None for task in tasks.values()] == [False, False, True]


def test_a_damaged_neighbour_is_left_out_and_named(tmp_path):
    image = photo(HEIGHT, WIDTH)
    tiles = {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}
    save_parts(tmp_path / "parts", image, PARTS[:2], **tiles)
    content = bytearray((tmp_path / "parts/1.tif").read_bytes())
    content[3000:3040] = bytes(40)
    (tmp_path / "parts/1.tif").write_bytes(content)
    first, second = maps_of(tmp_path / "parts", tmp_path / "maps").maps
    assert not first.damaged
    assert second.damaged
    (note,) = [note for note in first.notes if "neighbour" in note]
    assert "1.tif" in note
    assert str(tmp_path) not in note.removeprefix(str(tmp_path / "parts/0.tif"))  # where files are
    assert not any("neighbour" in note for note in second.notes)
    strict = predict(
        [tmp_path / "parts"], ContextRuntime(**CARD), tmp_path / "strict", PredictOptions(strict=True)
    )
    assert [made.task.map.name for made in strict.maps] == ["0_mask.tif"]
    tasks = tasks_of(tmp_path / "parts")
    (tmp_path / "parts/1.tif").write_bytes(b"II*\0" + bytes(100))
    with open_imagery(tasks["0_mask.tif"], PredictOptions(), 0.5) as imagery:
        strip = imagery.source.read_rows(0, 110, slice(0, WIDTH))
        assert strip.valid[:, :130].all()
        assert not strip.valid[:, 130:].any()
        note = imagery.source.warnings[-1]
        assert "context: 1.tif" in note
        assert str(tmp_path / "parts/1.tif") not in note
    (tmp_path / "other").mkdir()
    (tmp_path / "parts/1.tif").rename(tmp_path / "other/0.tif")
    save_raster(tmp_path / "other/0.tif", image[:110, 130:], **grid_place(0, 130))
    task = plan([tmp_path], tmp_path / "maps", PredictOptions(), model_gsd=0.5, window_px=WINDOW)[-1]
    (tmp_path / "other/0.tif").write_bytes(b"II*\0" + bytes(100))
    with open_imagery(task, PredictOptions(), 0.5) as imagery:
        imagery.source.read_rows(0, 110, slice(0, WIDTH))
        assert "context: ../other/0.tif" in imagery.source.warnings[-1]


def test_percentiles_are_those_of_the_file_itself(tmp_path):
    image = photo(110, 260).astype(np.uint16) * 9
    image[:, 130:] += 3000
    save_parts(tmp_path / "parts", image, PARTS[:2])
    options = PredictOptions(scaling="percentile")
    for name, own in {"0_mask.tif": image[:, :130], "1_mask.tif": image[:, 130:]}.items():
        low, high = np.percentile(own, (2, 98))
        task = tasks_of(tmp_path / "parts", scaling="percentile")[name]
        with open_imagery(task, options, 0.5) as imagery:
            strip = imagery.source.read_rows(0, 110, slice(0, 260))
        exact = np.clip((image - low) * 255 / (high - low), 0, 255)
        assert np.abs(strip.image - exact).max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_files_are_joined_as_by_comparing_all_pairs(tmp_path, seed):
    rng = np.random.default_rng(seed)
    place = Georeference(100, 100, Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_700_000), UTM)
    count = 60
    boxes = np.column_stack([rng.integers(0, 160, (count, 2)), rng.integers(1, 14, (count, 2))])
    files = []
    for number, (row, col, height, width) in enumerate(boxes.tolist()):
        header = Header(place.part(Window(row, col, height, width)), dtypes=("uint8",) * 3)
        files.append((tmp_path / f"{number:02}.tif", header))
    neighbours = Neighbours(files)
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]

    def near(margin):
        gap = np.maximum(starts[:, None] - ends[None], starts[None] - ends[:, None]).max(axis=2)
        return gap <= margin

    common = np.minimum(ends[:, None], ends[None]) - np.maximum(starts[:, None], starts[None])
    areas = boxes[:, 2:].prod(axis=1)
    shown_twice = 2 * common.clip(0).prod(axis=2) > np.minimum(areas[:, None], areas[None])
    repeated = 0
    joined = near(0)
    for _ in range(count):
        joined = joined @ joined
    for number in range(count):
        group = np.flatnonzero(joined[number])
        if len(group) == 1:
            assert neighbours.frame(number) is None
            continue
        if any(shown_twice[one, other] for one in group for other in group if one != other):
            assert neighbours.frame(number) is None
            repeated += 1
            continue
        top, left = starts[group].min(axis=0)
        bottom, right = ends[group].max(axis=0)
        row, col = starts[number]
        assert neighbours.frame(number) == (top - row, left - col, bottom - top, right - left)
        expected = [one for one in group if one != number and near(5)[number, one]]
        mosaic = neighbours.mosaic(number, 5)
        found = [] if mosaic is None else [int(piece.path.stem) for piece in mosaic.pieces]
        assert found == [number, *expected]
        for piece in () if mosaic is None else mosaic.pieces:
            row, col, *size = boxes[int(piece.path.stem)]
            assert piece.window == (row - top, col - left, *size)
    assert repeated


def test_a_file_without_permission_costs_one_scene(tmp_path, monkeypatch):
    folder = save_parts(tmp_path / "parts", photo(HEIGHT, WIDTH), PARTS[:2])
    original = Path.open

    def refuse(path, *how, **options):
        if path.name == "1.tif":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *how, **options)

    monkeypatch.setattr(Path, "open", refuse)
    result = predict([folder], ContextRuntime(**CARD), tmp_path / "maps", PredictOptions())
    assert [made.task.map.name for made in result.maps] == ["0_mask.tif"]
    (reason,) = result.failed.values()
    assert "1.tif cannot be read: Permission denied" in reason
