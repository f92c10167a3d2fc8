"""The demo: every verb once, end to end; the result is kept, gone on with, and never overwritten unasked."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import landcover.cli.demo as module
from landcover.cli import build
from landcover.data.synthetic import GSD
from landcover.errors import OutputError
from landcover.io import read_mask
from landcover.legend import DEEPGLOBE
from landcover.postprocess import remove_small_regions
from landcover.values import RegionSize

TINY = partial(
    module._Settings,
    scenes=8,
    size=96,
    large_size=160,
    overrides=("steps=2", "batch_size=2", "crop_px=64"),
)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["demo", *arguments], catch_exceptions=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Settings", TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo gone through once, tiny."""
    out = tmp_path_factory.mktemp("world") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_Settings", TINY)
        result = call("--out", str(out), "--seed", "5")
    assert result.exit_code == 0, result.output
    assert str(out / "report.html") in result.stdout.replace("\n", "")
    for number in range(1, 8):
        assert f"[{number}/7]" in result.stderr
    return out


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tiny: None) -> list[str]:
    """Three quick stages in place of the real ones; the list of those that ran."""
    ran: list[str] = []

    def work(name: str, out: Path, settings: Any) -> str:
        ran.append(name)
        if name == "second" and not (out / "allowed").exists():
            raise KeyboardInterrupt
        (out / "report.html").write_text("page")
        return "done"

    quick = tuple(module._Stage(name, name, partial(work, name)) for name in ("first", "second", "third"))
    monkeypatch.setattr(module, "_STAGES", quick)
    monkeypatch.setattr(module, "_summary", lambda out, settings, seconds: {"seconds": sum(seconds.values())})
    monkeypatch.setattr(module, "_print", lambda out, summary: print(summary))
    return ran


def test_the_summary_says_what_was_found(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    evaluation = json.loads((finished / "evaluation.json").read_text())
    baselines = json.loads((finished / "baselines.json").read_text())
    assert summary["miou"] == evaluation["miou"]
    assert evaluation["images"] == 2
    assert summary["colour_baseline_miou"] == max(found["miou"] for found in baselines.values())
    assert 0 < summary["colour_baseline_miou"] < 1
    assert set(summary["iou"]) == set(DEEPGLOBE.scored_names)
    assert list(summary["stages"]) == ["make", "verify", "train", "evaluate", "predict", "clean", "report"]
    assert summary["seconds"] == pytest.approx(sum(summary["stages"].values()), abs=0.06)
    assert summary["settings"]["seed"] == 5


def test_the_larger_scene_is_mapped_and_cleaned(finished: Path) -> None:
    predicted, cleaned = (
        read_mask(finished / name / "scene" / "scene0000_mask.png", DEEPGLOBE).index
        for name in ("predicted", "cleaned")
    )
    assert predicted.shape == cleaned.shape == (160, 160)
    scored = json.loads((finished / "large.json").read_text())
    truth = read_mask(finished / "large" / "scene" / "scene0000_mask.png", DEEPGLOBE).index
    assert truth.shape == (160, 160)
    assert set(scored) == {"miou", "cleaned_miou"}
    min_pixels = RegionSize.parse(module._MIN_REGION).pixels(GSD)
    assert min_pixels > 100
    np.testing.assert_array_equal(cleaned, remove_small_regions(predicted, min_pixels))


def test_the_report_shows_the_held_out_scenes(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "validation/scene0000" in page
    assert "data:image/" in page


def test_the_second_time_it_only_shows_the_result(finished: Path, tiny: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = call("--out", str(finished), "--seed", "5")
    assert result.exit_code == 0
    assert "[" not in result.stderr
    assert str(finished / "summary.json") in result.stdout.replace("\n", "")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_world_does_not_replace_it(finished: Path, tiny: None) -> None:
    with pytest.raises(OutputError, match="seed 5 there, 6 here") as caught:
        call("--out", str(finished), "--seed", "6")
    assert f"landcover demo --out {finished} --seed 6 --force" in str(caught.value)
    assert json.loads((finished / "summary.json").read_text())["settings"]["seed"] == 5


@pytest.mark.parametrize("stopped", [True, False])
def test_a_demo_of_another_version_of_the_preset_is_told_of(
    tmp_path: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Neither shown as if it were current nor gone on with."""
    out = tmp_path / "demo"
    call("--out", str(out))
    if not stopped:
        (out / "allowed").touch()
        call("--out", str(out))
    monkeypatch.setattr(module, "_Settings", partial(TINY, overrides=("optimiser.learning_rate=0.5",)))
    with pytest.raises(
        OutputError, match=r"training\.optimiser\.learning_rate 0\.002 there, 0\.5 here"
    ) as caught:
        call("--out", str(out))
    assert "run: landcover demo --out" in str(caught.value)
    stages.clear()
    (out / "allowed").touch()
    assert call("--out", str(out), "--force").exit_code == 0
    assert stages == ["first", "second", "third"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, stages: list[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for arguments in ([], ["--force"]):
        with pytest.raises(OutputError, match="no demo"):
            call("--out", str(tmp_path), *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert not stages


def test_stopped_half_way_it_goes_on(tmp_path: Path, stages: list[str]) -> None:
    out = tmp_path / "demo"
    stopped = call("--out", str(out))
    assert stopped.exit_code == 130
    assert "goes on from here" in stopped.stderr
    assert not (out / "summary.json").exists()
    (out / "allowed").touch()
    again = call("--out", str(out))
    assert again.exit_code == 0
    assert "first: done before" in again.stderr
    assert stages == ["first", "second", "second", "third"]


def test_force_begins_anew_and_spares_what_is_not_the_demos(tmp_path: Path, stages: list[str]) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    call("--out", str(out))
    (out / "allowed").touch()
    call("--out", str(out))
    (out / "data").mkdir()
    (out / "data" / "old").touch()
    stages.clear()
    assert call("--out", str(out), "--seed", "9", "--force").exit_code == 0
    assert stages == ["first", "second", "third"]
    assert not (out / "data").exists()
    assert (out / "allowed").exists()


def test_a_training_that_is_interrupted_stops_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        reason = "interrupted"

    monkeypatch.setattr("landcover.train", lambda *args, **kwargs: Interrupted(), raising=False)
    with pytest.raises(KeyboardInterrupt):
        module._train(tmp_path, TINY(0))


@pytest.mark.parametrize("damaged", ["", "[1", "{}"])
def test_a_damaged_state_is_told_of(tmp_path: Path, stages: list[str], damaged: str) -> None:
    (tmp_path / "demo.json").write_text(damaged)
    with pytest.raises((OutputError, module.DataError), match="--force"):
        call("--out", str(tmp_path))
