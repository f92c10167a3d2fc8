"""The verb from end to end: INT8 by the command line, the file for QGIS, bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import landcover
from commands import invoke
from export_world import WINDOW_PX, noise, reuse_graph, tiny_runtime, write_run
from landcover.data.synthetic import make_scene
from landcover.errors import ModelError, OutputError, SplitError, UsageError
from landcover.exporting.onnxfile import check_plugin_format
from landcover.legend import DEEPGLOBE
from landcover.model.bundled import shipped_file
from landcover.model.card import model_digest, read_card
from landcover.model.runtimes import open_model
from stac_schemas import stac_errors


@pytest.fixture(scope="module")
def reference(exported):
    return exported.reference


@pytest.fixture(scope="module")
def run(exported):
    return exported.run


@pytest.fixture(scope="module")
def data(exported):
    return exported.data


def test_int8_by_the_command_line(exported, tmp_path, monkeypatch):
    reference, run, data = exported.reference, exported.run, exported.data
    reuse_graph(exported, monkeypatch)
    out, more = tmp_path / "deep" / "m.onnx", tmp_path / "more"
    more.mkdir()
    Image.fromarray(noise(48, seed=11)).save(more / "0_sat.jpg")
    done = invoke(
        *("export", run, "--out", out, "--int8", "--no-speed-gate", "a tiny network"),
        *("--calibration", f"{data}:folders:train", "--calibration-images", "8"),
        *("--calibration", more, "--compare", more, "--min-agreement", "0.5"),
        *("--data", data, "--split", "folders:validation", "--max-miou-loss", "100"),
        *("--gsd", "1.0", "--views", "2"),
        *("--stac-mlm", tmp_path / "stac" / "m.json", "--json", "-"),
    )
    report = json.loads(done.stdout)
    assert report["sha256"] == model_digest(out)
    assert report["bytes"] == out.stat().st_size
    assert report["int8"]["calibration"] == [
        {"imagery": "data folders:train", "images": 4},
        {"imagery": "more", "images": 4},
    ]
    compared = report["int8"]["agreement"]
    assert [(row["imagery"], row["windows"]) for row in compared] == [
        ("data folders:validation", 6),
        ("more", 1),
    ]
    assert all(row["fraction"] > 0.5 for row in compared)
    for step in ("Converting the network test_resnet", "on 8 crops", f"Writing {out}"):
        assert step in done.stderr
    assert report["int8"]["accuracy"]["fp32"] > 0.9
    assert report["int8"]["speed"]["no_gate"] == "a tiny network"
    assert [path.name for path in out.parent.iterdir()] == ["m.onnx"]

    card = read_card(out)
    assert card.precision == "int8"
    assert card.export["source_sha256"] == model_digest(run)
    assert card.export["for"] == "landcover"
    assert report.items() >= card.export.items()
    assert card.views == 2
    plain = {"export": {}, "precision": "fp32", "views": 1}
    assert card.model_copy(update=plain) == reference.card
    answer = open_model(out).probabilities(noise(64, seed=1)[None])
    assert np.mean(answer.argmax(1) == reference.probabilities(noise(64, seed=1)[None]).argmax(1)) > 0.8

    item = json.loads((tmp_path / "stac" / "m.json").read_text())
    asset = item["assets"]["model"]
    assert (tmp_path / "stac" / asset["href"]).resolve() == out
    assert asset["file:checksum"] == "1220" + report["sha256"]
    assert asset["file:size"] == out.stat().st_size
    weights = sum(values.numel() for values in reference.module.parameters())
    assert item["properties"]["mlm:total_parameters"] == weights
    assert item["properties"]["mlm:input"][0]["name"] == "image"
    assert not stac_errors(item)


class Plugin:
    """What Deepness does with a file, written again from its sources: checks, entries, arithmetic."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) > 1 or len(outputs) != 1:
            raise ValueError("unsupported number of inputs or outputs")
        shape = outputs[0].shape
        if len(shape) != 4 or shape[0] != 1 or shape[2] != shape[3]:
            raise ValueError(f"output {shape}")
        self.input = inputs[0]
        if self.input.shape[-2:] != shape[-2:] or not all(isinstance(s, int) for s in self.input.shape):
            raise ValueError(f"input {self.input.shape}")
        self.channels = shape[-3]
        entries = self.session.get_modelmeta().custom_metadata_map
        self.entries = {name: json.loads(value) for name, value in entries.items() if name != "landcover"}

    @property
    def class_names(self):
        names = sorted(self.entries["class_names"].items(), key=lambda pair: int(pair[0]))
        if [int(key) for key, _ in names] != list(range(self.channels)):
            raise ValueError("class names are not consecutive")
        return [name for _, name in names]

    def classify(self, tile):
        scaled = np.float32(tile * 1.0 / 255.0)
        mean, std = (np.float32(self.entries[f"standardization_{what}"]) for what in ("mean", "std"))
        batch = np.transpose(((scaled - mean) / std)[None], (0, 3, 1, 2))
        (result,) = self.session.run(None, {self.input.name: batch})
        result[result < float(self.entries["seg_thresh"])] = 0
        return result.argmax(axis=1)[0]


def test_the_file_for_qgis_gives_the_plugin_our_map(exported, tmp_path, monkeypatch):
    reference, run = exported.reference, exported.run
    reuse_graph(exported, monkeypatch)
    options = landcover.ExportOptions(stac_mlm=tmp_path / "q.json")
    made = landcover.export(run, tmp_path / "q.onnx", for_="qgis", options=options)
    plugin = Plugin(made.path)
    assert plugin.input.shape == [1, 3, WINDOW_PX, WINDOW_PX]
    assert plugin.class_names == list(DEEPGLOBE.scored_names)
    assert str(plugin.entries["model_type"]).capitalize() == "Segmentor"
    assert plugin.entries["resolution"] == 100
    assert plugin.entries["tile_size"] == plugin.entries["tiles_size"] == WINDOW_PX
    assert plugin.entries["tiles_overlap"] == 25
    assert plugin.entries["seg_thresh"] == 0
    assert int(plugin.entries["seg_small_segment"]) // 2 * 2 + 1 == 1  # its median filter is off
    for seed in range(3):
        tile = noise(WINDOW_PX, seed=seed)
        ours = reference.probabilities(tile[None])[0].argmax(0)
        assert len(np.unique(ours)) > 1
        assert np.mean(plugin.classify(tile) == ours) >= 0.999

    tile = np.zeros((WINDOW_PX, WINDOW_PX, 3), np.uint8)
    assert plugin.classify(tile).shape == tile.shape[:2]
    for height, width in ((WINDOW_PX, 9), (WINDOW_PX // 3, WINDOW_PX - 1)):  # at the end of a layer
        part = np.maximum(noise(WINDOW_PX, seed=7)[:height, :width], 1)
        tile[:], tile[:height, :width] = 0, part
        around = ((0, WINDOW_PX - height), (0, WINDOW_PX - width), (0, 0))
        ours = reference.probabilities(np.pad(part, around, mode="symmetric")[None])[0].argmax(0)
        assert np.mean(plugin.classify(tile) == ours) >= 0.999

    assert onnx.load(made.path).ir_version <= 9
    assert made.card.export["ir_version"] <= 9
    (parity,) = made.card.export["parity"]
    assert parity["runtime"] == "onnxruntime, as Deepness runs it"
    assert parity["agreement"] >= 0.999
    item = json.loads((tmp_path / "q.json").read_text())
    assert not stac_errors(item)
    assert item["properties"]["mlm:input"][0]["name"] == plugin.input.name
    assert item["properties"]["mlm:output"][0]["name"] == plugin.session.get_outputs()[0].name
    (scaling, *_) = item["properties"]["mlm:input"][0]["value_scaling"]
    assert scaling == {"type": "z-score", "mean": pytest.approx(102), "stddev": pytest.approx(51)}
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [1, 3, WINDOW_PX, WINDOW_PX]
    with pytest.raises(ModelError, match="--for qgis"):  # it would be normalised twice
        open_model(made.path)


STARTER_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
import landcover
exported = landcover.export("starter", sys.argv[1], for_="qgis")
assert exported.card.precision == "fp32"
"""
OLD_RUNTIME = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(port,) = session.get_inputs()
tile = numpy.random.default_rng(0).random(port.shape, numpy.float32)
(result,) = session.run(None, {port.name: tile})
numpy.save(sys.argv[2], result)
print(onnxruntime.__version__, numpy.__version__)
"""


@pytest.fixture(scope="module")
def starter_for_qgis(tmp_path_factory):
    path = tmp_path_factory.mktemp("qgis") / "starter.onnx"
    subprocess.run([sys.executable, "-c", STARTER_WITHOUT_TORCH, str(path)], check=True)
    return path


@pytest.mark.slow
def test_the_starter_becomes_a_file_for_qgis_without_torch(starter_for_qgis):
    plugin, starter = Plugin(starter_for_qgis), open_model("starter-fp32", runtime="onnxruntime")
    side = starter.card.window_px
    assert plugin.input.shape == [1, 3, side, side]
    tile = make_scene(3, side, side).image
    ours = starter.probabilities(tile[None])[0].argmax(0)
    assert np.mean(plugin.classify(tile) == ours) >= 0.999


@pytest.mark.slow
def test_onnxruntime_1_17_runs_the_file_for_qgis(starter_for_qgis, tmp_path):
    """The newest version that Deepness installs, with numpy 1; from the registry, or skipped."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*install, "--target", str(tmp_path), "onnxruntime==1.17.*", "numpy<2"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime 1.17: {done.stderr.strip().splitlines()[-1]}")
    old, alone = tmp_path / "old.npy", os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", OLD_RUNTIME, str(starter_for_qgis), str(old)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    assert re.match(r"1\.17\.\d+ 1\.", done.stdout)
    session = onnxruntime.InferenceSession(str(starter_for_qgis), providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    tile = np.random.default_rng(0).random(port.shape, np.float32)
    (expected,) = session.run(None, {port.name: tile})
    np.testing.assert_allclose(np.load(old), expected, atol=1e-4)


def test_int8_without_a_float_file_is_refused_for_qgis(tmp_path):
    with pytest.raises(UsageError, match=r"best is INT8.*float32 file"):
        landcover.export("best", tmp_path / "q.onnx", for_="qgis")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_the_plugin_cannot_load_is_refused(tmp_path):
    model = onnx.load(shipped_file("starter-fp32"))
    model.ir_version = 10
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(ModelError, match=r"IR version 10 and opset 18"):
        check_plugin_format(tmp_path / "new.onnx")


def test_a_file_that_answers_otherwise_is_refused_and_nothing_is_written(exported, tmp_path, monkeypatch):
    reuse_graph(exported, monkeypatch)  # of the network as it was before it broke
    broken = tiny_runtime()
    with torch.no_grad():
        broken.module.classifier.weight[0] = float("nan")
    run = write_run(tmp_path / "run", broken)
    options = landcover.ExportOptions(stac_mlm=tmp_path / "out" / "m.json")
    with pytest.raises(ModelError, match=r"probabilities differ by up to nan .* Nothing was written"):
        landcover.export(run, tmp_path / "out" / "m.onnx", options=options)
    assert not (tmp_path / "out").exists()


INT8 = {"int8": True, "calibration": "DATA", "data": "DATA", "split": "folders:validation"}


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (UsageError, r"'qgiss'.*'qgis'", {"for_": "qgiss"}),
        (UsageError, r"--calibration.*--int8", {"calibration": "DATA"}),
        (UsageError, r"Pass --calibration DATA", INT8 | {"calibration": None}),
        (UsageError, r"pass --data D and --split", INT8 | {"split": None}),
        (UsageError, r"--int8 or --for qgis", INT8 | {"for_": "qgis"}),
        (UsageError, r"--calibration-images is 0", INT8 | {"calibration_images": 0}),
        (UsageError, r"is 1; .* each of 2", INT8 | {"calibration_images": 1, "calibration": ["DATA"] * 2}),
        (UsageError, r"--min-agreement is 98\.5; .*0 to 1", INT8 | {"min_agreement": 98.5}),
        (UsageError, r"--max-miou-loss is -1", INT8 | {"max_miou_loss": -1.0}),
        (UsageError, r"does not exist; expected DATA", INT8 | {"calibration": "nowhere:all"}),
        (SplitError, r"'tset'", INT8 | {"split": "folders:tset"}),
        (UsageError, r"needs --data", {"split": "all"}),
        (UsageError, r"ends with \.onnx", {"out": "m.pt"}),
        (OutputError, r"exists already.*--force", {"out": "there.onnx"}),
        (OutputError, r"exists already.*--force", {"stac_mlm": "there.json"}),
        (OutputError, r"is a folder", {"out": "folder.onnx", "force": True}),
        (UsageError, r"both the model and its STAC item", {"stac_mlm": "m.onnx"}),
        (ModelError, r"no model", {"run": "nowhere"}),
        (UsageError, r"exported model", {"run": "there.onnx"}),
    ],
)
def test_bad_input_is_one_message_and_no_file(error, message, options, run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("there.onnx", "there.json"):
        Path(name).write_text("mine")
    Path("folder.onnx").mkdir()
    before = sorted(tmp_path.iterdir())
    given = {"run": run, "out": "m.onnx"} | {
        name: str(data) if value == "DATA" else value for name, value in options.items()
    }
    fields = landcover.ExportOptions.model_fields.keys() & given.keys()
    more = landcover.ExportOptions(**{name: given.pop(name) for name in fields})
    with pytest.raises(error, match=message):
        landcover.export(**given, options=more)
    assert sorted(tmp_path.iterdir()) == before
    assert Path("there.onnx").read_text() == "mine"


def test_a_missing_library_is_named_with_its_extra():
    code = "import sys; sys.modules['onnx'] = None; import landcover; landcover.export('a', 'b.onnx')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingExtraError: This needs onnx" in done.stderr
    assert "landcover[export]" in done.stderr


def test_keywords_of_version_0_1_are_accepted_with_a_warning(run, tmp_path):
    with (
        pytest.warns(DeprecationWarning, match=r"seed=.*ExportOptions"),
        pytest.raises(UsageError, match="seed is -1"),
    ):
        landcover.export(run, tmp_path / "m.onnx", seed=-1)
    with pytest.raises(TypeError, match=r"'sede'.*'seed'"):
        landcover.export(run, tmp_path / "m.onnx", sede=1)
