"""The maintainers' tool that makes the shipped files."""

import importlib.util
from pathlib import Path

import pytest

from landcover.bundle import BEST_NAME, model_digest, read_card, read_model
from landcover.data import prepare
from landcover.evaluation import evaluate
from landcover.shipped import SHIPPED, TERMS
from landcover.training import train
from onnx_models import save_exported
from training_world import assert_same_tensors, tiny, write_pairs

TOOL = Path(__file__).parents[1] / "tools" / "ship_starter.py"


def test_the_files_are_the_run_with_the_other_ones_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("ship_starter", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    held_out = "scenes-k2@0:val"
    monkeypatch.setattr(tool, "HELD_OUT_PART", held_out)
    monkeypatch.setattr(tool, "NOTES", {held_out: "honest", "folders:validation": "optimistic"})
    exported = []

    def export(run: Path, out: Path, **options: object) -> None:
        exported.append((out.name, options.get("int8", False), options["split"]))
        save_exported(out, read_card(run))

    monkeypatch.setattr(tool, "export", export)  # with its gates it has tests of its own
    data = write_pairs(tmp_path / "data", train_images=8)
    rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(8)]
    rows += [f"validation,{i:04},v,0,{i}" for i in range(2)]
    (data / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
    cache = tmp_path / "cache"
    prepare(data, cache)
    runs = []
    for split in ("folders", "scenes-k2@0"):
        runs.append(tmp_path / split)
        config = tiny("steps=30", "model.dropout=0", "validation.keep=last")
        train(config, data=cache, out=runs[-1], split=split)
    before = [model_digest(run) for run in runs]
    out = tmp_path / "shipped"
    out.mkdir()
    figures = tool.ship(*runs, cache, out)

    assert [model_digest(run) for run in runs] == before
    assert exported == [
        ("starter.onnx", False, "folders:validation"),
        ("starter-int8.onnx", True, "folders:validation"),
    ]
    assert_same_tensors(out / "starter.safetensors", runs[0] / BEST_NAME)
    cards = [read_card(out / model.file) for model in SHIPPED]
    assert all(card.scores == cards[0].scores and card.licence == TERMS for card in cards)
    honest, optimistic = cards[0].scores
    assert (honest["split"], optimistic["split"]) == (held_out, "folders:validation")
    assert honest["miou"] == pytest.approx(evaluate(cache, held_out, model=runs[1])["miou"], abs=1e-3)
    assert optimistic["miou"] == pytest.approx(
        evaluate(cache, "folders:validation", model=runs[0])["miou"], abs=1e-3
    )
    assert cards[0].temperature != 1
    assert len(figures["ece_cross_fitted"]) == len(honest["ece_cross_fitted"]) == 2
    assert read_model(out / "starter.safetensors")[0].provenance["teachers"] == "none"
