"""What the benchmarks of scenes stand on: the mosaics, the scenes and the chart are what they claim to be."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from datafolders import write_image
from fake_runtime import ColourRuntime, ConstantRuntime, make_card
from landcover import benchmarks
from landcover.benchmarks import peer_scene, resources
from landcover.benchmarks.resources import installed, write_scene
from landcover.benchmarks.waterfall import waterfall
from landcover.benchmarks.windowing import (
    labelled_images,
    mosaics,
    score_paths,
    score_scales,
    score_windows,
)
from landcover.cli import build
from landcover.data import open_dataset, select
from landcover.errors import UsageError
from landcover.io import write_mask
from landcover.legend import DEEPGLOBE
from onnx_models import save_exported

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


def test_one_model_whole_and_another_as_predict_does_are_scored_on_the_same_pixels(tiles: Path) -> None:
    dataset = open_dataset(tiles)
    right, wrong = ColourRuntime(make_card(gsd=1.0)), ConstantRuntime(card=make_card(gsd=1.0))
    scenes = list(mosaics(dataset, select(dataset, "all:all")))
    found = score_paths(wrong, right, scenes)
    assert found["scenes"] == 2
    assert (found["default"], found["whole"] < 0.1) == (1.0, True)
    images = list(labelled_images(dataset))
    assert len(images) == 4
    assert score_paths(right, right, images, gsd=0.5)["default"] > 0.8  # half as many pixels of the model's


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


def test_memory_is_that_of_the_prediction_alone(tiles: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 300, 300, tiles, collar_px=0)
    ours = b"x" * 400_000_000
    found = resources.memory(save_exported(tmp_path / "model.onnx"), tmp_path / "scene.tif", tmp_path / "out")
    assert len(ours) == 400_000_000
    assert 20 < found["imports_mb"] < 350, "the memory of the process that asks is no part of it"
    assert 0 < found["above_imports_mb"] < 350


def test_a_prediction_that_fails_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "scene.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(subprocess.CalledProcessError):
        resources.memory(save_exported(tmp_path / "model.onnx"), tmp_path / "scene.tif", tmp_path / "out")


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


FakePython = Callable[[str], Path]


@pytest.fixture
def fake_python(tmp_path: Path) -> FakePython:
    """Makes an interpreter whose geoai is a stub: ``predict_geotiff`` has the body that is given."""
    folder = tmp_path / "fake"

    def make(body: str) -> Path:
        (folder / "geoai").mkdir(parents=True)
        for name in ("geoai_py-9.8", "segmentation_models_pytorch-1.0"):
            (folder / f"{name}.dist-info").mkdir()
            (folder / f"{name}.dist-info" / "METADATA").write_text(f"Version: {name.split('-')[1]}\n")
        signature = "def predict_geotiff(model, scene, out, *, num_classes, postprocess_fn, **options):"
        for file, lines in {
            "torch.py": "class library: Library = 0\nclass ops: torchvision = type('', (), {'nms': 0})",
            "segmentation_models_pytorch.py": "def DeepLabV3Plus(*_, **given): return given",
            "geoai/__init__.py": "",
            "geoai/utils.py": "",
            "geoai/inference.py": f"import os, time\n{signature}\n    {body}",
        }.items():
            (folder / file).write_text(lines + "\n")
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        return python

    return make


def test_geoai_is_measured_above_its_imports(fake_python: FakePython, tmp_path: Path) -> None:
    python = fake_python("b'x' * 200_000_000; print('Done.'); open(out, 'w').write(str(model['classes']))")
    ours = b"x" * 400_000_000
    found = peer_scene.map_with_geoai(python, tmp_path / "scene.tif", tmp_path / "map.tif")
    assert len(ours) == 400_000_000
    assert found["above_imports_mb"] == pytest.approx(200, abs=20)
    assert found["imports_mb"] < 300, "the memory of the process that asks is no part of geoai's"
    assert found["seconds"] > 0
    assert (tmp_path / "map.tif").read_text() == "6"


def test_the_class_of_the_largest_score_is_asked_for(fake_python: FakePython, tmp_path: Path) -> None:
    python = fake_python(
        "import numpy; scores = numpy.random.default_rng(0).random((num_classes, 4, 5)).astype('float32')\n"
        "    open(out, 'wb').write(postprocess_fn(scores).tobytes())"
    )
    peer_scene.map_with_geoai(python, tmp_path / "scene.tif", tmp_path / "map.tif")
    scores = np.random.default_rng(0).random((6, 4, 5)).astype(np.float32)
    written = np.frombuffer((tmp_path / "map.tif").read_bytes(), np.uint8)
    assert np.array_equal(written, scores.argmax(axis=0).ravel())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise MemoryError('Unable to allocate 22 GiB')", "MemoryError: Unable to allocate 22 GiB"),
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "exit status -9"),
    ],
)
def test_a_scene_that_geoai_does_not_survive_says_why(
    fake_python: FakePython, tmp_path: Path, body: str, reason: str
) -> None:
    found = peer_scene.map_with_geoai(fake_python(body), tmp_path / "scene.tif", tmp_path / "map.tif")
    assert found == {"failed": reason}


def test_geoai_is_ended_at_the_limit_of_memory(fake_python: FakePython, tmp_path: Path) -> None:
    python = fake_python(
        "open(out, 'w').write(str(os.getpid())); kept = b'x' * 400_000_000; time.sleep(20); os.remove(out)"
    )
    found = peer_scene.map_with_geoai(
        python, tmp_path / "scene.tif", tmp_path / "map.tif", limit_bytes=300_000_000
    )
    assert found["failed"].startswith("ended at 0.28 GiB of memory, after ")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "map.tif").read_text()), 0)


@pytest.mark.parametrize(
    ("python", "words"),
    [("/nowhere/python", "No such file"), ("/bin/false", "exit status 1"), (sys.executable, "geoai-py")],
)
def test_an_interpreter_without_geoai_is_refused(python: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        peer_scene.geoai_version(Path(python))


def test_both_map_the_same_scenes(
    tiles: Path, fake_python: FakePython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def memory(model: Path, scene: Path, out: Path) -> dict[str, float]:
        with rasterio.open(scene) as source:
            seen.append((source.shape, bool(source.read_masks(1).all())))
        return {"seconds": 1.0}

    monkeypatch.setattr(resources, "memory", memory)
    python = fake_python("__import__('shutil').copy(scene, out)")
    found = peer_scene.compare(tmp_path / "m.onnx", python, tiles, tmp_path, (64, 600))
    assert seen == [((64, 64), True), ((600, 600), True)]
    assert list(found) == ["64 x 64", "600 x 600"]
    assert all(list(ways) == ["landcover", "geoai 9.8"] for ways in found.values())
    assert (tmp_path / "geoai.tif").read_bytes() == (tmp_path / "600x600_no_collar.tif").read_bytes()


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite with nothing slow in it, imported where the peers are not installed."""
    fakes = {"prediction": ModuleType("prediction"), "suite": ModuleType("suite")}
    for name, module in fakes.items():  # set to be put back after the test, whatever the import leaves
        monkeypatch.setitem(sys.modules, f"landcover.benchmarks.{name}", module)
        monkeypatch.setattr(benchmarks, name, module, raising=False)
    vars(fakes["prediction"]).update(compare=lambda *_, **__: [], chart=lambda _: "<svg/>")
    monkeypatch.setattr(resources, "installed", dict)
    monkeypatch.setattr(resources, "cold_start", lambda *_: 1.0)
    del sys.modules["landcover.benchmarks.suite"]
    return importlib.import_module("landcover.benchmarks.suite")


def test_the_suite_measures_geoai_where_it_is_named(
    suite: ModuleType, tmp_path: Path, fake_python: FakePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_scene, "compare", lambda *given: {"with": str(given[1]), "sides": given[4]})
    given = [tmp_path / name for name in ("run", "fp32.onnx", "int8.onnx", "a.jpg", "out")]
    python = fake_python("pass")
    options: dict[str, Any] = {"tiles": tmp_path, "heights": ()}
    suite.bench(*given, geoai=python, geoai_sides=(64,), **options)
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert written["beside_geoai"] == {"with": str(python), "sides": [64]}
    assert "beside_geoai" not in suite.bench(*given, force=True, **options)


def test_an_unusable_geoai_is_refused_before_anything_is_measured(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: Any, **__: Any) -> None:
        pytest.fail("measured")

    monkeypatch.setattr(suite, "prediction", SimpleNamespace(compare=compare))
    with pytest.raises(UsageError, match="geoai"):
        suite.bench(*[tmp_path] * 5, tiles=tmp_path, geoai=Path(sys.executable))


def test_bench_wants_data_for_geoai(tmp_path: Path) -> None:
    words = ["bench", "run", "--fp32=a", "--int8=b", "--image=c", f"--out={tmp_path}", "--geoai=python"]
    done = CliRunner().invoke(build(), words)
    assert isinstance(done.exception, UsageError)
    assert "--tiles" in str(done.exception)


def test_bench_prints_what_geoai_needed_or_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("landcover.cli.bench")
    taken = {"above_imports_mb": 1512.5, "seconds": 23.1}
    ways = {"landcover": taken, "geoai 9.8": {"failed": "MemoryError: [8 GiB]"}}
    module._print(
        {"timings": [], "installed_mb": {}, "cold_start_s": 1.0, "beside_geoai": {"6 x 6": ways}},
    )
    printed = capsys.readouterr().out
    assert "6 x 6, landcover: 1512 MB above imports, 23 s." in printed
    assert "6 x 6, geoai 9.8: MemoryError: [8 GiB]." in printed
