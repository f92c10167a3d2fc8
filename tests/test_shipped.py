"""Bundled models: names for files, wherever a model is accepted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import invoke
from fake_runtime import make_card
from landcover.errors import ModelError
from landcover.inference import predict
from landcover.inference.options import PredictOptions
from landcover.inference.plan import choose_model, plan
from landcover.model import bundled as shipped
from landcover.model.bundled import BY_NAME, SHIPPED, shipped_file
from landcover.model.card import model_digest, read_card, read_model, resolve_model, save_model
from landcover.model.runtimes import open_model
from onnx_models import save_exported

FOLDER = shipped.FOLDER
PRESENT = [model for model in SHIPPED if model.path.is_file()]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder with tiny models under the names of the files."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(shipped, "FOLDER", folder)
    scores = ({"metric": "challenge", "split": "scenes-k5@0:val", "miou": 0.6543},)
    for model, gsd in zip(SHIPPED, (1.0, 2.0, 2.0, 1.0), strict=True):
        card = make_card(gsd=gsd).model_copy(update={"scores": scores, "licence": "research only"})
        if model.file.endswith(".onnx"):
            save_exported(folder / model.file, card)
        else:
            save_model(folder / model.file, {"weight": np.ones(2, np.float32)}, card)
    return folder


def test_names_stand_for_files(installed):
    assert list(BY_NAME) == ["starter", "starter-fp32", "starter-weights", "best"]
    assert resolve_model("best") == installed / "best-int8.onnx"
    assert resolve_model("starter") == installed / "starter-int8.onnx"
    assert resolve_model(Path("starter-fp32")) == installed / "starter.onnx"
    assert read_card("starter-fp32").preprocessing.gsd == 2.0
    assert model_digest("starter") == model_digest(installed / "starter-int8.onnx")
    assert open_model("starter").card.preprocessing.gsd == 1.0
    assert shipped_file("another") is None
    assert read_model("starter-weights")[1]["weight"].tolist() == [1, 1]


def test_an_existing_file_or_folder_is_preferred(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    for ask in (lambda: resolve_model("starter"), lambda: invoke("info", "starter")):
        with pytest.raises(ModelError, match=r"folder starter .* hides the bundled model 'starter'"):
            ask()
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError, match=r"folder runs contains no model") as caught:
        resolve_model("runs")
    assert "hides" not in str(caught.value)
    (tmp_path / "starter").rmdir()
    save_exported(tmp_path / "starter", make_card(gsd=7.0))
    assert resolve_model("starter") == Path("starter")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("startr", r"startr\. .*'starter"),
        ("starter-int8", r"starter-int8\. .*'starter"),
        ("runs/x.onnx", r"runs/x\.onnx.* starter, starter-fp32"),
        ("", r"''"),
        (Path(), "contains no model"),
    ],
)
def test_another_name_is_an_error_with_the_known_ones(installed, name, message):
    with pytest.raises(ModelError, match=message):
        resolve_model(name)


def test_a_missing_file_and_an_exported_one_name_the_remedy(installed):
    with pytest.raises(ModelError, match=r"exported model.*starter-weights"):
        read_model("starter")
    (installed / "starter-int8.onnx").unlink()
    with pytest.raises(ModelError, match=r"'starter' .*starter-int8\.onnx.*wheel"):
        read_card("starter")


def test_predict_and_info_take_the_name(installed, tmp_path):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    made = predict([tmp_path / "a.png"], "starter", tmp_path / "out", PredictOptions(gsd=1.0))
    assert (made.model, made.model_sha256) == ("starter", model_digest("starter"))
    assert predict([tmp_path / "a.png"], "auto", tmp_path / "2", PredictOptions(gsd=1.0)).model == "best"
    printed = json.loads(invoke("info", "starter-fp32", "--json", "-").stdout)
    assert printed["file"] == str(installed / "starter.onnx")
    assert "research only" in invoke("info", "starter").stdout
    assert "starter" in " ".join(invoke("predict", "--help").stdout.split())


@pytest.mark.parametrize(
    ("size", "lacking", "expected"),
    [((50, 40), None, "best"), ((5000, 4000), None, "starter"), ((50, 40), "best-int8.onnx", "starter")],
)
def test_auto_chooses_by_the_size_of_the_job(
    installed, tmp_path, monkeypatch, caplog, size, lacking, expected
):
    """At 2 m per pixel and a model of 1 m, 20 million pixels are 80."""
    monkeypatch.setattr(shipped, "BEST_MEGAPIXELS", 79.0)
    if lacking is not None:
        (installed / lacking).unlink()
    Image.new("RGB", size).save(tmp_path / "a.png")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    caplog.set_level("INFO", logger="landcover")
    options = PredictOptions(gsd=2.0)
    tasks = plan([tmp_path / "a.png", tmp_path / "damaged.png"], tmp_path / "out", options, model_gsd=1.0)
    chosen = choose_model(tasks, options, model_gsd=1.0)
    assert chosen == expected
    assert f"{expected} for {4 * size[0] * size[1] / 1e6:.1f} megapixels at 1 m" in caplog.text


@pytest.mark.parametrize("model", PRESENT, ids=lambda model: model.name)
def test_the_file_is_what_its_name_says(model, tmp_path):
    card = read_card(model.name)
    assert card.precision == ("int8" if model.file.endswith("-int8.onnx") else "fp32")
    assert card.licence
    assert card.imagery is not None
    assert card.scores
    assert card.legend.name == "deepglobe"
    assert card.provenance
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(
        tmp_path / "noise.png"
    )
    options = PredictOptions(gsd="model")
    made = predict([tmp_path / "noise.png"], model.name, tmp_path / "out", options).maps[0]
    assert made.areas.pixels.sum() == 200 * 300
    assert made.ood is not None
    assert made.ood.share > 0.9


@pytest.mark.skipif(len(PRESENT) < len(SHIPPED), reason="the model files are not in this installation")
def test_the_files_fit_a_wheel_and_their_cards_have_the_results_of_the_checks():
    assert sum(model.path.stat().st_size for model in SHIPPED) < 55e6
    cards = [read_card(model.name) for model in SHIPPED if model.name.startswith("starter")]
    for name in ("model", "legend", "preprocessing", "imagery", "temperature", "recipe", "scores"):
        assert all(getattr(card, name) == getattr(cards[0], name) for card in cards), name
    assert cards[0].temperature != 1
    _, tensors = read_model("starter-weights")
    assert sum(array.size for array in tensors.values()) < 6e6
    for name in ("starter", "best"):
        results = read_card(name).export["int8"]
        assert len(results["calibration"]) == len(results["agreement"]) == 2  # tiles and full-size images
        assert all(row["fraction"] >= 0.985 for row in results["agreement"])
        assert results["accuracy"]["loss_points"] <= 0.3
    card = read_card("best")
    assert card.temperature != 1
    assert "temperature was fitted" in card.scores[1]["note"]
    assert not any(str(value).startswith("/") for value in card.recipe.values())
