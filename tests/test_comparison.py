"""The comparison of trainings: results of one plan are never taken for another's."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import landcover.benchmarks.training as module
from landcover.errors import OutputError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started; each training leaves its result at once."""
    started: list[str] = []

    def run(name: str, *arguments: object) -> None:
        verb = str(arguments[0]) if name == "landcover" else "reference"
        started.append(verb)
        options = dict(pairwise(arguments))
        if "--json" in options:
            Path(str(options["--json"])).write_text(json.dumps({"miou": 0.5, "iou": {}}))
        if verb == "train":
            folder = Path(str(options["--out"]))
            folder.mkdir()
            event = {"event": "step", "images": 8, "seconds": 1.0}
            (folder / "log.jsonl").write_text(json.dumps(event) + "\n")

    monkeypatch.setattr(module, "_run", run)
    return started


def compare(folder: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"data": folder / "data", "folds": [0], "minutes": 1.0} | changes
    return module.compare(weights=folder / "weights", out=folder / "out", **options)


def test_what_is_finished_is_not_done_again(tmp_path: Path, commands: list[str]) -> None:
    first = compare(tmp_path)
    assert commands == ["prepare", "reference", "train", "evaluate"]
    commands.clear()
    assert compare(tmp_path) == first
    assert commands == ["prepare"]
    assert len(compare(tmp_path, folds=[0, 1])["folds"]) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"minutes": 2.0}, "minutes"),
        ({"count": 4}, "folds"),
        ({"preset": "demo"}, "preset"),
        ({"settings": ["batch_size=4"]}, "settings"),
        ({"data": Path("elsewhere")}, "data"),
    ],
)
def test_results_of_another_plan_are_not_used(
    tmp_path: Path, commands: list[str], change: dict[str, Any], named: str
) -> None:
    compare(tmp_path)
    commands.clear()
    with pytest.raises(OutputError, match=f"another {named}"):
        compare(tmp_path, **change)
    assert commands == []


def test_results_of_no_known_plan_are_not_used(tmp_path: Path, commands: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/reference-0.json").write_text("{}")
    with pytest.raises(OutputError, match="no plan"):
        compare(tmp_path)
    assert commands == []
