"""Georeferenced chips are neighbours, scenes and leaks; scenes.csv has keys; turned pictures are refused."""

import json
import logging

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS

from imagefiles import photo, save, save_raster
from landcover.data import open_dataset, prepare, split, verify
from landcover.data.footprints import find_neighbours, find_scenes
from landcover.data.splits import advice_on_splits, separated_neighbours
from landcover.errors import DataError, MaskError, SplitError
from landcover.legend import LandClass, Legend
from landcover.raster import Georeference
from landcover.training.data import load_training_data
from landcover.training.sampler import NeighbourTiles

UTM = CRS.from_epsg(32633)
LEGEND = Legend("two", (LandClass("a", (1, 1, 1)), LandClass("b", (2, 2, 2))), None)
SIZE = 32


def place(x, y, *, height=SIZE, width=SIZE, turn=0.0, res=0.5, crs=UTM):
    grid = Affine.translation(5e5 + x, 55e5 + y) @ Affine.rotation(turn) @ Affine.scale(res, -res)
    return Georeference(height, width, grid, crs)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(*2 * [st.integers(-40, 40)], st.integers(8, 64), st.sampled_from([0, 0, 30, 77])),
        min_size=2,
        max_size=6,
    )
)
def test_neighbours_are_those_whose_footprints_meet(chips):
    places = {str(i): place(x, y, width=width, turn=turn) for i, (x, y, width, turn) in enumerate(chips)}
    shapes = {}
    for key, one in places.items():
        x, y = one.points(
            np.array([0.0, one.width, one.width, 0]), np.array([0.0, 0, one.height, one.height])
        )
        shapes[key] = shapely.Polygon(np.stack([x, y], axis=1))
    found = {(pair.a, pair.b): pair.kind for pair in find_neighbours(places)}
    for a in places:
        for b in places:
            if a < b and shapes[a].distance(shapes[b]) > 0.4:  # beyond the tolerance of half a pixel
                assert (a, b) not in found
            if a < b and shapes[a].buffer(-0.6).intersects(shapes[b]):
                assert found[a, b] == "overlapping"
            if a < b and shapes[a].intersects(shapes[b]):
                assert (a, b) in found


def test_tiles_of_one_grid_have_rows_and_columns_and_others_none():
    tiles = {f"{row}{col}": place(16 * col, -16 * row) for row in range(2) for col in range(3)}
    far = {"far": place(9000, 0), "far2": place(9008, 0)}
    places = tiles | far
    pairs = find_neighbours(places)
    assert {pair.kind for pair in pairs if pair.a in tiles} == {"touching"}
    scenes = find_scenes(places, pairs)
    assert {key: (s.scene, s.row, s.col) for key, s in scenes.items() if key in tiles} == {
        key: ("00", int(key[0]), int(key[1])) for key in tiles
    }
    assert [(scenes[key].scene, scenes[key].row) for key in far] == [("far", None)] * 2
    around = NeighbourTiles([scenes[key] for key in places], [(SIZE, SIZE)] * len(places))
    assert around.margin(0) == ((0, SIZE), (0, SIZE))
    assert around.margin(6) == ((0, 0), (0, 0))


def test_chips_of_two_utm_zones_are_compared_on_the_ground():
    west = Georeference(500, 500, Affine(10, 0, 716000, 0, -10, 5500000), UTM)
    x, y = 283000.0, 5500000.0  # near the same meridian in the next zone
    east = Georeference(500, 500, Affine(10, 0, x, 0, -10, y), CRS.from_epsg(32634))
    other = Georeference(500, 500, Affine(10, 0, x + 90000, 0, -10, y), CRS.from_epsg(32634))
    assert [(p.a, p.b, p.kind) for p in find_neighbours({"w": west, "e": east, "o": other})] == [
        ("e", "w", "overlapping")
    ]


def chips(root, positions, *, folder="images"):
    for name, (x, y) in positions.items():
        grid = {"crs": UTM, "transform": place(x, y).transform}
        save_raster(root / f"{folder}/{name}.tif", photo(SIZE, SIZE, seed=x), **grid)
        mask = root / f"{folder.replace('images', 'masks')}/{name}.tif"
        save_raster(mask, np.eye(SIZE, dtype=np.uint8), **grid)
    (root / "landcover.yaml").write_text(json.dumps({"legend": LEGEND.to_dict()}))
    return root


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory):
    """Write chips every 12 m of 16 m, four of each of two scenes."""
    positions = {f"{s}{i}": (1000 * s + 12 * i, 0) for s in range(2) for i in range(4)}
    return chips(tmp_path_factory.mktemp("two"), positions)


def test_leakage_between_overlapping_chips_is_found_and_scenes_keep_it_out(two_scenes, tmp_path, caplog):
    for dataset in (open_dataset(two_scenes), prepare(two_scenes, tmp_path / "cache").dataset):
        assert {tile.scene for tile in dataset.scenes.values()} == {"images/00", "images/10"}
        assert separated_neighbours(dataset, split(dataset, "kfold-2@0"))
        assert not separated_neighbours(dataset, split(dataset, "scenes-k2@1"))
        assert "scenes-k2@0" in advice_on_splits(dataset)
    report = verify(two_scenes, split="kfold-2@0")
    assert sum(leak.kind == "overlapping" for leak in report.leaks) == 6
    kept = verify(two_scenes, split="scenes-k2@0")
    assert {leak.kind for leak in kept.leaks} <= {"near-copy"}  # waves look alike
    with caplog.at_level(logging.WARNING):
        load_training_data(tmp_path / "cache", "kfold-2@0", crop_px=32, model_gsd=None)
    assert "6 pairs of overlapping or touching images" in caplog.text
    assert "scenes-k2@0" in caplog.text
    caplog.clear()
    load_training_data(tmp_path / "cache", "scenes-k2@0", crop_px=32, model_gsd=None)
    assert "pairs of overlapping" not in caplog.text


def test_one_contiguous_scene_gets_no_advice_that_separates_neighbours(tmp_path):
    dataset = open_dataset(chips(tmp_path, {str(i): (12 * i, 0) for i in range(4)}))
    with pytest.raises(SplitError, match="number of scenes is 1"):
        split(dataset, "scenes-k2@0")
    with pytest.raises(SplitError, match="one contiguous scene") as refused:
        split(dataset, "folders")
    assert "kfold" not in str(refused.value)


def test_folders_are_groups(tmp_path):
    for i, name in enumerate(("aachen", "bern", "chur")):
        chips(tmp_path, {str(n): (1000 * i + 12 * n, 0) for n in range(2)}, folder=f"{name}/images")
    dataset = open_dataset(tmp_path)
    parts = split(dataset, "group-k3@1")
    assert len({item.key.split("/")[0] for item in parts["val"]}) == 1
    assert len(parts["val"]) == 2
    assert not separated_neighbours(dataset, parts)
    with pytest.raises(SplitError, match="choose 2 to 3"):
        split(dataset, "group-k4@0")


def pairs(root, keys):
    for i, key in enumerate(keys):
        save(root / f"{key}.png", photo(SIZE, SIZE, seed=i))
        save(root / f"{key.replace('images', 'masks')}.png", np.eye(SIZE, dtype=np.uint8))
    (root / "landcover.yaml").write_text(json.dumps({"gsd": 1, "legend": LEGEND.to_dict()}))
    return root


def test_the_table_of_scenes_takes_keys_and_counts_rows_that_fit_nothing(tmp_path, caplog):
    keys = [f"{scene}/images/{i}" for scene in "ab" for i in range(2)]
    pairs(tmp_path, keys)
    table = tmp_path / "scenes.csv"
    table.write_text("part,id,scene,row,col\n" + "".join(f",{i},s,{i},0\n" for i in range(2)))
    with pytest.raises(DataError, match="a/images/0, b/images/0"):
        open_dataset(tmp_path)
    rows = [f"{key},{key[0]},0,{key[-1]}\n" for key in keys] + ["gone,x,0,0\n"]
    table.write_text("id,scene,row,col\n" + "".join(rows))
    scenes = open_dataset(tmp_path).scenes
    assert {key: (tile.scene, tile.row, tile.col) for key, tile in scenes.items()} == {
        key: (key[0], 0, int(key[-1])) for key in keys
    }
    assert "1 of 5 rows" in caplog.text
    assert "'gone'" in caplog.text
    table.write_text(f"id,scene,row,col\na/images/0,a,{'7x' * 30},0\n")
    with pytest.raises(DataError, match=rf"found '{'7x' * 20}'\.\.\. and '0'\."):
        open_dataset(tmp_path)
    flat = pairs(tmp_path / "flat", ["images/0", "images/1"])
    (flat / "scenes.csv").write_text("id,scene,row,col\n0,s,0,0\n1,s,0,1\n")
    assert len(open_dataset(flat).scenes) == 2


@pytest.mark.parametrize(
    ("size", "mask", "turns", "suffix", "refused"),
    [((32, 32), (32, 32), (6, 1), "jpg", True), ((32, 32), (32, 32), (3, 1), "tif", True),
     ((32, 32), (32, 32), (1, 1), "webp", False), ((24, 32), (24, 32), (6, 1), "png", False),
     ((24, 32), (32, 24), (6, 1), "png", True), ((24, 32), (24, 32), (3, 1), "webp", True),
     ((32, 32), (32, 32), (1, 6), "png", True), ((32, 32), (32, 32), (6, 6), "jpg", False)],
)  # fmt: skip
def test_a_mask_that_may_fit_the_turned_picture_is_refused(size, mask, turns, suffix, refused, tmp_path):
    of_image, of_mask = Image.Exif(), Image.Exif()
    of_image[0x0112], of_mask[0x0112] = turns
    save(tmp_path / f"images/a.{suffix}", photo(*size), exif=of_image)
    save(tmp_path / "masks/a.png", np.eye(*mask, dtype=np.uint8), exif=of_mask)
    dataset = open_dataset(tmp_path, legend=LEGEND, gsd=1)
    if refused:
        with pytest.raises(MaskError, match=f"orientation {max(turns)}.*exiftool"):
            dataset.labels(dataset.items[0])
    else:
        assert dataset.labels(dataset.items[0]).index.shape == mask
