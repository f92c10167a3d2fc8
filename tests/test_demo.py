"""The demo: every verb once, end to end; a finished one is shown, another is never overwritten unasked."""

import json

import pytest

import landcover
import landcover.cli.demo as module
from commands import invoke
from landcover.errors import ModelError, OutputError
from landcover.io import read_mask
from landcover.legend import DEEPGLOBE

TINY = {"scenes": 8, "steps": 2, "size": 96, "large_size": 160}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    from landcover import training
    from landcover.config import with_overrides

    real = training.load_preset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHORT", TINY)
        small = ["batch_size=2", "crop_px=64"]
        patch.setattr(training, "load_preset", lambda name: with_overrides(real(name), small))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A demo gone through once, tiny."""
    out = tmp_path_factory.mktemp("world") / "demo"
    result = invoke("demo", "--out", out, "--seed", "5")
    assert [f"[{number}/6]" in result.stderr for number in range(1, 7)] == [True] * 6
    assert str(out / "report.html") in result.stdout
    return out


def test_the_bundled_model_maps_a_scene_before_anything_is_trained(finished):
    first = read_mask(finished / "first" / "scene" / "scene0000_mask.png", DEEPGLOBE).index
    assert first.shape == (160, 160)
    assert (finished / "first").stat().st_mtime <= (finished / "run" / "config.yaml").stat().st_mtime


def test_the_summary_has_the_scores_of_network_and_baselines(finished):
    summary = json.loads((finished / "summary.json").read_text())
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert summary["miou"] == evaluation["miou"]
    assert evaluation["images"] == 2
    assert summary["colour_baseline_miou"] == max(one["miou"] for one in summary["baselines"].values())
    assert set(summary["iou"]) == set(DEEPGLOBE.scored_names)
    assert summary["settings"]["seed"] == 5
    page = (finished / "report.html").read_text()
    assert "validation/scene0000" in page
    assert "data:image/" in page


def test_the_second_time_only_the_result_is_shown(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = invoke("demo", "--out", finished, "--seed", "5")
    assert "[1/6]" not in result.stderr
    assert str(finished / "summary.json") in result.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("words", "fact"), [(["--seed", "6"], "seed"), (["--full"], "steps 2")])
def test_another_demo_does_not_replace_it(finished, words, fact):
    with pytest.raises(OutputError, match=fact) as caught:
        invoke("demo", "--out", finished, *(["--seed", "5"] if "--full" in words else []), *words)
    assert "--force" in str(caught.value)
    assert json.loads((finished / "summary.json").read_text())["settings"]["seed"] == 5


@pytest.mark.parametrize("words", [[], ["--force"]])
def test_a_folder_of_something_else_is_left_alone(tmp_path, words):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a demo"):
        invoke("demo", "--out", tmp_path, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_stopped_in_training_it_continues_there(tmp_path, monkeypatch):
    """An installation without the bundled model goes through it, too."""
    out, predict, train = tmp_path / "demo", landcover.predict, landcover.train
    out.mkdir()
    (out / "own.txt").touch()
    (out / "demo.json").write_text("{}")  # of another version

    class Interrupted:
        reason = "interrupted"

    def interrupted(*given, **named):
        train(*given, **named)
        return Interrupted()

    def without_model(inputs, model, *rest):
        if model == "starter":
            raise ModelError("starter is missing")
        return predict(inputs, model, *rest)

    monkeypatch.setattr("landcover.predict", without_model, raising=False)
    monkeypatch.setattr("landcover.train", interrupted, raising=False)
    stopped = invoke("demo", "--out", out, "--force", status=130)
    assert "starter is missing" in stopped.stderr
    assert not (out / "summary.json").exists()
    scenes = {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.png")}
    monkeypatch.setattr("landcover.train", train, raising=False)
    invoke("demo", "--out", out)
    assert {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.png")} == scenes
    assert (out / "own.txt").exists()
