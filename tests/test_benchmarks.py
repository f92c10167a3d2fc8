"""The benchmark scripts run on tiny inputs; the tables of docs/reports/results follow from their counts."""

import json
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest

from golden.cases import MODEL, run
from landcover.data.synthetic import make_dataset

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy  # noqa: E402
import common  # noqa: E402
import devices  # noqa: E402
import ood  # noqa: E402
import training  # noqa: E402

HELD_OUT = "--data DATA --split folders:validation"
TINY = """
[tiny]
encoder = "mobilenetv2_050"
preset = "{preset}"
steps = 2

[given]
model = "{given}"
"""
PRESET = """
model: {encoder: mobilenetv2_050, output_stride: 32, aspp_channels: 8, decoder_channels: 8}
crop_px: 32
batch_size: 2
steps: 2
threads: 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve procedural tiles, six of them held out, each with a scene of its own."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, scenes=12, size=48, parts={"train": 0.5, "validation": 0.5})
    rows = [
        f"{subset},scene{number:04d},s{subset}{number},0,0"
        for subset in ("train", "validation")
        for number in range(6)
    ]
    (folder / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]) + "\n")
    return folder


def in_process(command, **_):
    """Run a command of landcover in this process, which has imported everything."""
    assert command[:3] == [sys.executable, "-m", "landcover"]
    run(*command[3:])
    return SimpleNamespace(returncode=0)


def test_a_campaign_trains_scores_and_continues(data, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "subprocess", SimpleNamespace(run=in_process))
    (tmp_path / "preset.yaml").write_text(PRESET)
    folder = tmp_path / "out" / "tiny" / "seed-0"
    (tmp_path / "models.toml").write_text(TINY.format(preset=tmp_path / "preset.yaml", given=folder))
    words = ["in-domain", "--data", str(data), "--out", str(tmp_path / "out")]
    words += ["--config", str(tmp_path / "models.toml"), "--weights", "mobilenetv2_050=none"]
    accuracy.main([*words, "--models", "tiny"])
    result = json.loads((folder.parent / "seed-0.json").read_text())
    assert (result["images"], result["training"]["steps"]) == (6, 2)
    made = (folder.parent / "seed-0.json").stat().st_mtime_ns
    accuracy.main([*words, "--models", "tiny", "given"])
    assert (folder.parent / "seed-0.json").stat().st_mtime_ns == made
    tables = [np.load(tmp_path / "out" / name / "seed-0.npz") for name in ("tiny", "given")]
    np.testing.assert_array_equal(tables[0]["tables"], tables[1]["tables"])
    text = (tmp_path / "out" / "accuracy.md").read_text()
    assert "| tiny - given | +0.0 | +0.0 to +0.0 |" in text


@pytest.mark.parametrize("name", ["scenes", "scenes-best", "scenes-hour", "scenes-views", "course"])
def test_the_committed_tables_are_those_of_their_counts(name, tmp_path):
    committed = ROOT / "docs" / "reports" / "results" / name
    copytree(committed, tmp_path / name)
    accuracy.main(
        [name.split("-")[0].replace("course", "in-domain"), "--report-only", "--out", str(tmp_path / name)]
    )
    assert (tmp_path / name / "accuracy.md").read_text() == (committed / "accuracy.md").read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("masks", "--size 96 --repeats 1", "regions, with specks"),
        ("startup", "--repeats 1", "core install"),
        ("cells", f"{HELD_OUT} --sizes 8", "cells of  8 px: mIoU"),
        (
            "class_calibration",
            "--data DATA --fit starter folders:validation --test starter folders:train",
            "a temperature for each predicted class: ECE",
        ),
        ("views", "DATA/train/scene0000_sat.jpg --gsd 1 --repeats 1", "starter, views 8"),
        ("windows", f"{HELD_OUT} --windows 64,16 --scales 2 --model {MODEL}", "2 m: declared"),
        (
            "ood",
            "--data DATA --split folders:validation --images 1 --model starter",
            "procedural scenes, as if of the model's GSD | 100.0 % | 1 of 1 |",
        ),
        ("training", "--encoders mobilenetv2_050 --repeats 1", "mobilenetv2_050, fp32"),
        ("training", "--data DATA --presets OUT/small.yaml --steps 20 --rounds 1", "small.yaml: "),
        ("memory", "--data DATA --out OUT --width 300 --heights 200 --repeats 1", "200 x 300, landcover:"),
        ("fleet", "--units 2000", '"share_s"'),
        ("fleet", "--large 300", '"identical": true'),
        ("devices", "--devices 1 --steps 2 --preset OUT/small.yaml", "crops/s"),
    ],
)
def test_a_script_runs(name, arguments, line, data, tmp_path, monkeypatch, capsys):
    if name != "startup":
        for module in (common, devices):
            monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=in_process))
    monkeypatch.setattr(ood, "ALTERED", {"grey": ood.ALTERED["grey"]})
    monkeypatch.setattr(training, "compare_gradients", partial(training.compare_gradients, size=64))
    (tmp_path / "small.yaml").write_text(PRESET)
    words = arguments.replace("DATA", str(data)).replace("OUT", str(tmp_path)).split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    import_module(name).main()
    assert line in capsys.readouterr().out
