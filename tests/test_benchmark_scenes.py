"""What the benchmarks of scenes stand on: the mosaics, the scenes and the chart are what they claim to be."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from datafolders import write_image
from fake_runtime import ColourRuntime, make_card
from landcover.benchmarks.resources import installed, write_scene
from landcover.benchmarks.waterfall import waterfall
from landcover.benchmarks.windowing import mosaics, score_scales, score_windows
from landcover.codecs import write_mask
from landcover.data import open_dataset, select
from landcover.legend import DEEPGLOBE

RNG = np.random.default_rng(0)
SIDE = 96


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Two scenes of tiles cut from larger maps, one with a hole; each pixel has the colour of its class."""
    lines = ["part,id,scene,row,col"]
    number = 0
    for scene, places in {"a": [(3, 5), (3, 6), (4, 6)], "b": [(0, 0)]}.items():
        for row, col in places:
            name = f"{number:04d}"
            index = RNG.integers(0, 6, (8, 8), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
            write_image(tmp_path / f"train/{name}_sat.png", DEEPGLOBE.colours[index])
            write_mask(tmp_path / f"train/{name}_mask.png", index, DEEPGLOBE)
            lines.append(f"train,{name},{scene},{row},{col}")
            number += 1
    (tmp_path / "scenes.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "landcover.yaml").write_text("gsd: 1.0\n")
    return tmp_path


def test_tiles_lie_in_a_mosaic_as_the_table_says(tiles: Path) -> None:
    dataset = open_dataset(tiles)
    first, second = mosaics(dataset, select(dataset, "all:all"))
    assert first.image.shape == (2 * SIDE, 2 * SIDE, 3)
    assert second.image.shape == (SIDE, SIDE, 3)
    assert not first.valid[SIDE:, :SIDE].any()
    assert first.valid.sum() == 3 * SIDE * SIDE
    keys = [item.key for item in dataset.items]
    for key, (row, col) in zip(keys[:3], [(0, 0), (0, 1), (1, 1)], strict=True):
        item = next(item for item in dataset.items if item.key == key)
        part = slice(row * SIDE, (row + 1) * SIDE), slice(col * SIDE, (col + 1) * SIDE)
        assert np.array_equal(first.image[part], dataset.read_image(item))
        assert np.array_equal(first.truth[part], dataset.read_mask(item))


def test_a_classifier_without_context_scores_alike_by_tile_and_by_mosaic(tiles: Path) -> None:
    dataset = open_dataset(tiles)
    rows = score_windows(ColourRuntime(), dataset, select(dataset, "all:all"))
    assert [row["miou"] for row in rows] == [1.0] * len(rows)
    assert len(rows) == 8


def test_a_scale_that_is_declared_is_undone(tiles: Path) -> None:
    dataset = open_dataset(tiles)
    rows = score_scales(ColourRuntime(make_card(gsd=1.0)), dataset, select(dataset, "all:all"))
    assert all(row["declared rightly"] > 0.8 for row in rows)


def test_scenes_for_the_measurement_of_memory_have_a_collar(tiles: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 700, 600, tiles, collar_px=90)
    with rasterio.open(tmp_path / "scene.tif") as source:
        assert source.shape == (700, 600)
        inside = source.read_masks(1) > 0
    assert inside[90:-90, 90:-90].any()
    inside[90:-90, 90:-90] = False
    assert not inside.any()


def test_the_core_needs_no_deep_learning_library() -> None:
    sizes = installed()
    assert {"landcover", "numpy", "rasterio", "openvino"} <= set(sizes)
    assert not {"torch", "timm", "onnx", "onnxruntime", "tensorboard", "jinja2"} & set(sizes)


def test_the_chart_tells_each_gain_and_the_whole() -> None:
    drawn = waterfall("One <map>", [("the usual way", 9700.0), ("INT8", 970.0), ("ours", 97.0)])
    root = ElementTree.fromstring(drawn)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "One <map>: 100 times faster" in texts
    assert {"9.70 s", "970 ms", "97 ms"} <= set(texts)
    assert texts.count("10.0\u00d7") == 2
    bars = [float(node.get("width", 0)) for node in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == sorted(bars, reverse=True)
