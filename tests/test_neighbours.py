"""Files of a folder that adjoin or overlap, each mapped with its neighbours as context."""

import logging
import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from fake_runtime import ContextRuntime, make_card
from fleet_world import MODEL
from imagefiles import UTM, photo, save_raster
from landcover.errors import OutputError
from landcover.inference import PredictOptions, predict
from landcover.inference.plan import plan
from landcover.inference.scene import Inputs
from landcover.legend import NODATA
from landcover.raster import Georeference, Header
from landcover.raster.mosaic import Neighbours

HEIGHT, WIDTH = 200, 260
WINDOW = 64
PARTS = [(0, 0, 110, 130), (0, 130, 110, 130), (110, 0, 90, 130), (90, 100, 110, 160)]
CARD = {"card": make_card(gsd=0.5, window_px=WINDOW, overlap_px=16)}


def place_of(row, col, size=0.5, crs=UTM):
    return {"crs": crs, "transform": Affine(size, 0, 500_000 + col / 2, 0, -size, 5_700_000 - row / 2)}


def cut(folder, image, windows=PARTS, **profile):
    for number, (row, col, height, width) in enumerate(windows):
        part = image[row : row + height, col : col + width]
        save_raster(folder / f"{number}.tif", part, **place_of(row, col), **profile)
    return folder


def read(path):
    with rasterio.open(path) as source:
        return source.read(1)


def maps_of(folder, out, runtime=None, **options):
    result = predict([folder], runtime or ContextRuntime(**CARD), out, PredictOptions(**options))
    assert not result.failed
    return result


def tasks_of(folder, **options):
    found = plan([folder], folder / "maps", PredictOptions(**options), model_gsd=0.5, window_px=WINDOW)
    return {task.map.name: task for task in found}


@pytest.mark.parametrize("window_px", [None, WINDOW, 0])
@pytest.mark.parametrize("gsd", [None, 0.33])
def test_the_map_of_each_file_is_that_of_the_whole_scene(tmp_path, window_px, gsd):
    image = photo(HEIGHT, WIDTH)
    save_raster(tmp_path / "whole.tif", image, **place_of(0, 0))
    cut(tmp_path / "parts", image)
    maps_of(tmp_path / "whole.tif", tmp_path / "maps", window_px=window_px, gsd=gsd)
    whole = read(tmp_path / "maps/whole_mask.tif")
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
        alone += np.count_nonzero(read(tmp_path / f"alone/{number}_mask.tif") != expected)
    assert alone


def test_a_box_of_a_file_and_its_own_nodata(tmp_path):
    image = photo(HEIGHT, WIDTH)
    image[:30, 100:160] = 0
    cut(tmp_path / "parts", image, PARTS[:2], nodata=0)
    save_raster(tmp_path / "parts/9.tif", np.full((60, 90, 3), 90, np.uint8), **place_of(0, 90), nodata=0)
    maps_of(tmp_path / "parts", tmp_path / "maps")
    first, second = (read(tmp_path / f"maps/{number}_mask.tif") for number in (0, 1))
    assert np.array_equal(first == NODATA, (image[:110, :130] == 0).all(axis=2))  # not completed by 9.tif
    assert np.array_equal(second == NODATA, (image[:110, 130:] == 0).all(axis=2))
    box = (500_070.0, 5_699_950.0, 500_090.0, 5_699_970.0)  # within the second file
    maps_of(tmp_path / "parts/1.tif", tmp_path / "one", bbox=box)
    result = predict([tmp_path / "parts"], ContextRuntime(**CARD), tmp_path / "box", PredictOptions(bbox=box))
    assert [made.task.map.name for made in result.maps] == ["1_mask.tif", "9_mask.tif"][: len(result.maps)]
    boxed = read(tmp_path / "box/1_mask.tif")
    assert np.array_equal(boxed, second[60:100, 10:50])
    assert not np.array_equal(boxed, read(tmp_path / "one/1_mask.tif"))  # 1.tif alone


def test_neighbours_belong_to_the_identity_of_a_map(tmp_path):
    image = photo(HEIGHT, WIDTH)
    cut(tmp_path / "parts", image)
    names = [f"{number}_mask.tif" for number in range(4)]

    def digests(**options):
        return [
            Inputs(task, PredictOptions()).digest for task in tasks_of(tmp_path / "parts", **options).values()
        ]

    before, alone = digests(), digests(context=False)
    assert not set(before) & set(alone)
    os.utime(tmp_path / "parts/3.tif", ns=(1, 1))
    assert digests() == before
    maps_of(tmp_path / "parts", tmp_path / "maps", MODEL)
    kept = maps_of(tmp_path / "parts", tmp_path / "maps", MODEL, resume=True)
    assert [made.task.map.name for made in kept.kept] == names
    save_raster(tmp_path / "parts/3.tif", photo(110, 160, 2), **place_of(90, 100))
    assert not set(digests()) & set(before)
    assert digests(context=False)[:3] == alone[:3]
    with pytest.raises(OutputError, match=r"0_mask\.tif was made"):
        maps_of(tmp_path / "parts", tmp_path / "maps", MODEL, resume=True)


def test_files_that_are_not_context(tmp_path, caplog):
    image = photo(HEIGHT, WIDTH)
    folder = cut(tmp_path / "parts", image, [(0, 0, 100, 100)])
    others = {
        "same.tif": (image[:100, :100], place_of(0, 0)),
        "inside.tif": (image[:40, :50], place_of(20, 30)),
        "far.tif": (image[:50, :50], place_of(0, 101)),
        "shifted.tif": (image[:50, :50], place_of(0, 100.3)),
        "coarse.tif": (image[:50, :50], place_of(0, 100, 0.6)),
        "crs.tif": (image[:50, :50], place_of(0, 100, crs=CRS.from_epsg(32632))),
        "grey.tif": (image[:50, :50, 0], place_of(0, 100)),
        "deep.tif": (image[:50, :50].astype(np.uint16), place_of(0, 100)),
        "sub/b.tif": (image[:50, :50], place_of(0, 100)),
    }
    for name, (pixels, place) in others.items():
        save_raster(folder / name, pixels, **place)
    with caplog.at_level(logging.INFO):
        tasks = tasks_of(folder)
    found = {name: task.mosaic for name, task in tasks.items() if task.mosaic is not None}
    assert list(found) == ["inside_mask.tif"]  # the others add nothing to what they have
    assert [piece.path.name for piece in found["inside_mask.tif"].pieces] == ["inside.tif", "0.tif"]
    assert "3 of 10 images adjoin or overlap" in caplog.text
    caplog.clear()
    assert all(task.mosaic is None for task in tasks_of(folder, context=False).values())
    assert "adjoin" not in caplog.text


def test_a_damaged_neighbour_is_left_out_and_named(tmp_path):
    image = photo(HEIGHT, WIDTH)
    cut(tmp_path / "parts", image, PARTS[:2], compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    content = bytearray((tmp_path / "parts/1.tif").read_bytes())
    content[3000:3040] = bytes(40)
    (tmp_path / "parts/1.tif").write_bytes(content)
    first, second = maps_of(tmp_path / "parts", tmp_path / "maps").maps
    assert not first.damaged
    assert second.damaged
    strict = predict(
        [tmp_path / "parts"], ContextRuntime(**CARD), tmp_path / "strict", PredictOptions(strict=True)
    )
    assert [made.task.map.name for made in strict.maps] == ["0_mask.tif"]
    tasks = tasks_of(tmp_path / "parts")
    (tmp_path / "parts/1.tif").write_bytes(b"II*\0" + bytes(100))
    from landcover.inference.plan import open_imagery

    with open_imagery(tasks["0_mask.tif"], PredictOptions(), 0.5) as imagery:
        strip = imagery.source.read_rows(0, 110, slice(0, WIDTH))
        assert strip.valid[:, :130].all()
        assert not strip.valid[:, 130:].any()
        assert "1.tif" in imagery.source.warnings[-1]


def test_percentiles_are_those_of_the_file_itself(tmp_path):
    image = photo(110, 260).astype(np.uint16) * 9
    image[:, 130:] += 3000
    cut(tmp_path / "parts", image, PARTS[:2])
    from landcover.inference.plan import open_imagery

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
    place = Georeference(UTM, Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_700_000))
    count = 60
    boxes = np.column_stack([rng.integers(0, 90, (count, 2)), rng.integers(1, 14, (count, 2))])
    files = []
    for number, (row, col, height, width) in enumerate(boxes.tolist()):
        header = Header(place.moved(row, col), 0.5, (height, width), dtypes=("uint8",) * 3)
        files.append((tmp_path / f"{number:02}.tif", header))
    neighbours = Neighbours(files)
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]

    def near(margin):
        gap = np.maximum(starts[:, None] - ends[None], starts[None] - ends[:, None]).max(axis=2)
        return gap <= margin

    joined = near(0)
    for _ in range(count):
        joined = joined @ joined
    for number in range(count):
        group = np.flatnonzero(joined[number])
        if len(group) == 1:
            assert neighbours.size(number) is None
            continue
        top, left = starts[group].min(axis=0)
        bottom, right = ends[group].max(axis=0)
        assert neighbours.size(number) == (bottom - top, right - left)
        expected = {tuple(boxes[one]): one for one in reversed(group) if near(5)[number, one]}
        inside = [
            one
            for one in expected.values()
            if not ((starts[one] >= starts[number]) & (ends[one] <= ends[number])).all()
        ]
        mosaic = neighbours.mosaic(number, 5)
        found = [] if mosaic is None else [int(piece.path.stem) for piece in mosaic.pieces]
        assert found == ([number, *sorted(inside)] if inside else [])
        for piece in () if mosaic is None else mosaic.pieces:
            row, col, *size = boxes[int(piece.path.stem)]
            assert piece.window == (row - top, col - left, *size)
