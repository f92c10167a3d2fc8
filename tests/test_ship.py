"""The maintainers' tool that makes the bundled files."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from landcover.data import prepare
from landcover.errors import ModelError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.temperature import calibrate
from landcover.exporting import ExportOptions
from landcover.legend import DEEPGLOBE
from landcover.model.bundled import SHIPPED, TERMS
from landcover.model.card import BEST_NAME, model_digest, read_card
from landcover.model.encoders import timm
from landcover.training import train
from onnx_models import save_exported
from training_world import TINY, assert_same_tensors, tiny, write_pair, write_pairs

PATH = Path(__file__).parents[1] / "tools" / "ship.py"
WEIGHTS = "mobilenetv2_100_imagenet.safetensors"


@pytest.fixture
def tool(monkeypatch):
    """The tool; what it exports are stand-ins, as ``export`` has tests of its own."""
    spec = importlib.util.spec_from_file_location("ship", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "exported", [], raising=False)

    def export(run, out, **how):
        module.exported.append((out.name, how))
        save_exported(out, read_card(run))

    monkeypatch.setattr(module, "export", export)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiles, two labelled images of other scenes, a run, and one that has it as initial model and teacher."""
    root = tmp_path_factory.mktemp("ship")
    prepare(write_pairs(root / "data", train_images=8), root / "tiles")
    for name, seed in (("a", 1), ("b", 2)):
        index = np.kron(np.random.default_rng(seed).integers(0, 6, (6, 6)), np.ones((8, 8))).astype(np.uint8)
        write_pair(root / "full", name, DEEPGLOBE.colours[index] // 2 + 50, index)
    (root / "full" / "landcover.yaml").write_text("gsd: 1.0\n")
    torch.manual_seed(0)  # with some first weights of the encoder these steps learn nothing
    save_file(timm.create_model(TINY["model"]["encoder"]).state_dict(), root / WEIGHTS)
    settings = ("steps=60", "optimiser.learning_rate=0.01", "model.dropout=0", "validation.keep=last")
    how = {"data": root / "tiles", "split": "folders"}
    train(tiny(*settings, f"weights={root / WEIGHTS}"), out=root / "first", **how)
    config = tiny(*settings, f"teachers=[{root / 'first'}]", "seed=1")
    train(config, out=root / "second", init=root / "first", **how)
    return root


def test_the_files_are_the_run_with_temperature_scores_and_origin(tool, world, tmp_path):
    run, first, full = world / "second", world / "first", world / "full"
    parents = {model_digest(first): read_card(first)}
    files = tool.make(run, world / "tiles", full, tmp_path / "unlabelled", tmp_path, parents, 2)
    assert_same_tensors(files[".safetensors"], run / BEST_NAME)

    copy = Path(shutil.copy(run / BEST_NAME, tmp_path / "copy.safetensors"))
    temperature = calibrate(copy, full, "all:all", views=2).temperature
    card = read_card(files["-int8.onnx"])
    assert card.temperature == temperature != 1
    assert card.views == 2
    assert card.licence == TERMS
    assert card.recipe["weights"] == WEIGHTS
    assert card.provenance["encoder_weights"] == tool.ORIGINS[WEIGHTS]
    assert [teacher["encoder_weights"] for teacher in card.teachers] == [tool.ORIGINS[WEIGHTS]]
    in_domain, held_out = card.scores
    assert (in_domain["split"], held_out["split"]) == ("folders:validation", "all:all")
    one_view = EvaluateOptions(views=1)
    assert (
        in_domain["miou"] == evaluate(world / "tiles", in_domain["split"], model=copy, options=one_view).miou
    )
    assert held_out["miou_present"] == evaluate(full, "all:all", model=copy).miou_present

    (tmp_path / "parts.tsv").write_text("a\tone\nb\ttwo\n")
    other = Path(shutil.copy(run / BEST_NAME, tmp_path / "other.safetensors"))
    calibrate(other, full, f"{tmp_path / 'parts.tsv'}:two", views=2)
    options = EvaluateOptions(calibration=True)
    scores = evaluate(full, f"{tmp_path / 'parts.tsv'}:one", model=other, options=options).calibration
    assert scores is not None
    assert held_out["ece_cross_fitted"].keys() == {"a", "b"}
    assert held_out["ece_cross_fitted"]["a"] == scores.ece

    ranges = ExportOptions(
        int8=True,
        calibration=[f"{world / 'tiles'}:folders:train", str(tmp_path / "unlabelled")],
        compare=[str(full)],
        max_miou_loss=0.3,
    )
    where = {"data": world / "tiles", "split": "folders:validation"}
    assert tool.exported == [("model.onnx", where), ("model-int8.onnx", where | {"options": ranges})]


@pytest.mark.parametrize(("now", "before"), [(0.5, 0.4), (0.4, 0.4), (0.3, 0.4)])
def test_what_scores_higher_stays(tool, tmp_path, monkeypatch, now, before):
    class Report:
        def __init__(self, path):
            self.miou_present = now if path.parent == tmp_path else before

    monkeypatch.setattr(tool, "evaluate", lambda *_, model: Report(model))
    folder = tmp_path / "bundled"
    folder.mkdir()
    for model in SHIPPED:
        (folder / model.file).write_bytes(b"before")
    files = {end: tmp_path / f"model{end}" for end in (".safetensors", ".onnx", "-int8.onnx")}
    for end, path in files.items():
        path.write_text(end)
    if now < before:
        with pytest.raises(ModelError, match="nothing was replaced"):
            tool.ship("starter", files, Path("full"), folder)
    else:
        tool.ship("starter", files, Path("full"), folder)
    found = {model.file: (folder / model.file).read_text() for model in SHIPPED}
    replaced = "before" if now < before else None
    assert {name: text for name, text in found.items() if name.startswith("starter")} == {
        f"starter{end}": replaced or end for end in files
    }
    assert found["best-int8.onnx"] == "before"


def test_other_models_are_refused(tool, world, tmp_path):
    tiles, card = world / "tiles", read_card(world / "second")
    with pytest.raises(UsageError, match=rf"{card.provenance['init']}|encoder weights"):
        tool.check(card, tiles, {})
    first = read_card(world / "first")
    with pytest.raises(UsageError, match="found 'scenes', expected 'folders'"):
        tool.check(first.model_copy(update={"provenance": first.provenance | {"split": "scenes"}}), tiles, {})
    with pytest.raises(UsageError, match="temperature: found 2"):
        tool.check(first.model_copy(update={"temperature": 2.0}), tiles, {})
    used = first.used_images.model_copy(update={"selection": first.used_images.training})
    with pytest.raises(UsageError, match="images it was selected on: found 8, expected 0"):
        tool.check(first.model_copy(update={"used_images": used}), tiles, {})
    recipe = first.recipe | {"weights": "other.safetensors"}
    with pytest.raises(UsageError, match=r"'other\.safetensors'"):
        tool.check(first.model_copy(update={"recipe": recipe}), tiles, {})
    prepare(write_pairs(tmp_path / "fewer", train_images=2), tmp_path / "few")
    with pytest.raises(UsageError, match="outside the split: found 6, expected 0"):
        tool.check(first, tmp_path / "few", {})
