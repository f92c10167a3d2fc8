"""The ways of the benchmark of prediction, without the networks: what runs before the clock does."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fake_runtime import ColourRuntime
from landcover import benchmarks
from landcover.errors import ConfigError, ImageError, UsageError


@pytest.fixture
def prediction(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark's module, imported where the peer is not installed."""
    name = "landcover.benchmarks.prediction"
    for peer in ("segmentation_models_pytorch", "simplejpeg"):
        monkeypatch.setitem(sys.modules, peer, ModuleType(peer))
    # Set to be put back after the test, whatever the import leaves.
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(benchmarks, "prediction", None, raising=False)
    del sys.modules[name]
    return importlib.import_module(name)


def test_every_way_has_run_once_before_it_is_timed(
    prediction: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    ran: list[Any] = []
    jobs: list[dict[str, Any]] = []

    def usual_way(*given: Any, scale: float, whole: bool, **_: Any) -> None:
        ran.append((given[2], scale, whole))

    def take_turns(job: str, ways: dict[str, Any], repeats: int) -> list[Any]:
        warm = list(ran)
        for run in ways.values():
            ran.clear()
            run()
            assert ran[0] in warm
        ran[:] = warm
        jobs.append(ways)
        return []

    monkeypatch.setattr(prediction, "usual_way", usual_way)
    monkeypatch.setattr(prediction, "eager", lambda network: network)
    monkeypatch.setattr(prediction, "on_runtime", lambda runtime: runtime)
    monkeypatch.setattr(prediction, "take_turns", take_turns)
    monkeypatch.setattr(
        prediction, "predict", lambda *given: ran.append(given[-1]) or SimpleNamespace(failed={})
    )
    monkeypatch.setattr(
        prediction, "predict_index", lambda *_, gsd: ran.append("index") or np.zeros((32, 32), np.uint8)
    )
    models = prediction.Models("peer", "checkpoint", ColourRuntime(), ColourRuntime())
    prediction.step_by_step(image, models, 0.5, 1, tmp_path)
    first, second = jobs
    assert [*first][-3:] == ["whole, not windows", "at the model's scale", "the usual way"]
    assert [*second] == ["landcover", "the usual way"]


def test_what_cannot_be_timed_is_refused_before_a_model_is_read(
    prediction: ModuleType, tmp_path: Path
) -> None:
    image, models = tmp_path / "a.png", [tmp_path / name for name in ("run", "fp32.onnx", "int8.onnx")]
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(image)
    with pytest.raises(UsageError, match=r"a\.png has 32 x 48 pixels; expected a JPEG of 2448 x 2448"):
        prediction.compare(image, *models)
    with pytest.raises(ConfigError, match="A ground sample distance of nan"):
        prediction.compare(image, *models, gsd=float("nan"))
    image.write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        prediction.compare(image, *models)
