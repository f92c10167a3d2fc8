"""The maintainers' tool that makes the bundled files."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fake_runtime import make_card
from landcover.data import prepare
from landcover.errors import DataError, ModelError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.temperature import calibrate
from landcover.exporting import ExportOptions
from landcover.model.bundled import SHIPPED, TERMS
from landcover.model.card import BEST_NAME, model_digest, read_card, read_model, save_model
from landcover.model.encoders import timm
from landcover.training import train
from onnx_models import save_exported
from training_world import TINY, assert_same_tensors, tiny, write_pairs

PATH = Path(__file__).parents[1] / "tools" / "ship_starter.py"
HELD_OUT = "scenes-k2@0"
STARTER = [model for model in SHIPPED if model.name.startswith("starter")]


@pytest.fixture
def tool(monkeypatch):
    """The tool, for two folds; what it exports are stand-ins, as ``export`` has tests of its own."""
    spec = importlib.util.spec_from_file_location("ship_starter", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HELD_OUT_SPLIT", HELD_OUT)
    monkeypatch.setattr(module, "HELD_OUT_PART", f"{HELD_OUT}:val")
    monkeypatch.setattr(module, "exported", [], raising=False)

    def export(run, out, *, data, split, **int8):
        module.exported.append((run.name, out.name, split, int8))
        save_exported(out, read_card(run))

    monkeypatch.setattr(module, "export", export)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache, and two finished runs on it."""
    root = tmp_path_factory.mktemp("ship")
    data = write_pairs(root / "data", train_images=8)
    rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(8)]
    rows += [f"validation,{i:04},v,0,{i}" for i in range(2)]
    (data / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
    prepare(data, root / "cache")
    weights = root / "mobilenetv2_100_imagenet.safetensors"
    torch.manual_seed(0)  # with some first weights of the encoder these steps learn nothing
    save_file(timm.create_model(TINY["model"]["encoder"]).state_dict(), weights)
    settings = (
        "steps=60",
        "optimiser.learning_rate=0.01",
        "model.dropout=0",
        "validation.keep=last",
        f"weights={weights}",
    )
    for split in ("folders", HELD_OUT):
        train(tiny(*settings), data=root / "cache", out=root / split, split=split)
    train(tiny(*settings, "seed=1", "loss.stride=2"), data=root / "cache", out=root / "other", split=HELD_OUT)
    return root


def test_the_files_are_the_run_with_the_temperature_of_the_other(tool, world, tmp_path):
    runs = [world / "folders", world / HELD_OUT]
    cache, work, shipped = world / "cache", tmp_path / "work", tmp_path / "shipped"
    work.mkdir()
    shipped.mkdir()
    before = [model_digest(run) for run in runs]
    report = tool.make(*runs, cache, work)
    tool.ship(work, shipped)
    assert [model_digest(run) for run in runs] == before
    assert_same_tensors(shipped / "starter.safetensors", runs[0] / BEST_NAME)

    alike = Path(shutil.copy(runs[1] / BEST_NAME, tmp_path))
    temperature = calibrate(alike, cache, f"{HELD_OUT}:val").temperature
    card = read_card(shipped / "starter.safetensors")
    assert card.temperature == temperature
    assert card.calibration["like"] == card.provenance["held_out"]["sha256"]
    assert card.calibration["like"] == model_digest(work / "held-out.safetensors")
    assert card.licence == TERMS
    assert card.recipe["weights"] == "mobilenetv2_100_imagenet.safetensors"
    honest, optimistic = card.scores
    assert (honest["split"], optimistic["split"]) == (f"{HELD_OUT}:val", "folders:validation")
    assert honest["miou"] == evaluate(cache, f"{HELD_OUT}:val", model=alike).miou
    assert report["held_out_before"]["calibration"]["temperature"] == 1

    first = Path(shutil.copy(runs[1] / BEST_NAME, tmp_path))
    halves = work / "halves.tsv"
    lines = halves.read_text().splitlines()
    assert {line.split("\t")[1] for line in lines} == {"a", "b"}
    calibrate(first, cache, f"{halves}:a")
    options = EvaluateOptions(calibration=True)
    scores = evaluate(cache, f"{halves}:b", model=first, options=options)
    assert scores.calibration is not None
    measured = scores.calibration.ece
    assert honest["ece_cross_fitted"][0] == measured != honest["ece_cross_fitted"][1]

    ranges = {"options": ExportOptions(int8=True, calibration=f"{cache}:folders:train")}
    assert tool.exported[:2] == [
        ("run.safetensors", "run.onnx", "folders:validation", {}),
        ("run.safetensors", "run-int8.onnx", "folders:validation", ranges),
    ]
    assert [name for _, name, split, _ in tool.exported[2:] if split == f"{HELD_OUT}:val"] == [
        "held-out.onnx",
        "held-out-int8.onnx",
    ]
    for model in STARTER:
        assert read_card(shipped / model.file).scores == card.scores


@pytest.mark.parametrize("had", [0.0, 1.0])
def test_what_scores_higher_stays(tool, tmp_path, had):
    work, shipped = tmp_path / "work", tmp_path / "shipped"
    for folder, score in ((work, 0.5), (shipped, had)):
        folder.mkdir()
        card = _card(score)
        names = ("run-int8.onnx", "run.onnx") if folder == work else ("starter-int8.onnx", "starter.onnx")
        for name in names:
            save_exported(folder / name, card)
        name = "run.safetensors" if folder == work else "starter.safetensors"
        save_model(folder / name, {}, card)
    if had:
        with pytest.raises(ModelError, match=r"1\.0000 on held-out scenes, .*0\.5000: nothing was replaced"):
            tool.ship(work, shipped)
    else:
        tool.ship(work, shipped)
    assert {read_card(shipped / model.file).scores[0]["miou"] for model in STARTER} == {max(had, 0.5)}


def _card(score):
    return make_card().model_copy(update={"scores": ({"metric": "challenge", "split": "s", "miou": score},)})


def test_other_runs_are_refused(tool, world, tmp_path):
    cache = world / "cache"
    with pytest.raises(UsageError, match=rf"found '{HELD_OUT}' as split, expected 'folders'"):
        tool.make(world / HELD_OUT, world / "folders", cache, tmp_path)
    with pytest.raises(UsageError, match=r"differ in loss"):
        tool.make(world / "folders", world / "other", cache, tmp_path)
    with pytest.raises(ModelError, match=r"no model .*nothing"):
        tool.make(world / "nothing", world / HELD_OUT, cache, tmp_path)
    card, tensors = read_model(world / "folders")
    recipe = card.recipe | {"weights": None}
    save_model(tmp_path / "m.safetensors", tensors, card.model_copy(update={"recipe": recipe}))
    with pytest.raises(UsageError, match="encoder's weights"):
        tool.check(tmp_path / "m.safetensors", cache, "folders")
    with pytest.raises(DataError, match="not recorded"):
        tool.stop_at_warnings(SimpleNamespace(warnings=["Its images are not recorded."]))
