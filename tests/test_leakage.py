"""What evaluate tells of images that its model has met; digests on cards are made by training's own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export_world import tiny_runtime, write_run
from fake_runtime import ColourRuntime, make_card
from landcover.bundle import read_model, save_model
from landcover.cli import build
from landcover.data import prepare
from landcover.evaluation import evaluate
from landcover.legend import DEEPGLOBE
from landcover.training.material import gather
from training_world import write_pair, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("leakage") / "data")


def write_scenes(root: Path) -> Path:
    """Write six training tiles in three scenes; of two validation tiles one lies in the first of them."""
    write_pairs(root, train_images=6)
    rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(6)]
    rows += ["validation,0000,s0,1,0", "validation,0001,s9,0,0"]
    (root / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]) + "\n")
    return root


def model(
    data: Path, split: str, *, keep: str = "last", digest: Any = "its own", teachers: Any = ()
) -> ColourRuntime:
    """A model of a card that tells of that split."""
    card = make_card().model_copy(
        update={
            "provenance": {
                "split": split,
                "data_digest": digest_of(data, split) if digest == "its own" else digest,
                "teachers": list(teachers),
            },
            "recipe": {"validation": {"keep": keep}},
        }
    )
    return ColourRuntime(card)


def digest_of(data: Path, split: str) -> str:
    return gather(data, split, crop_px=32, model_gsd=None).digest


def numbers(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["trained_on"], row["same_scenes"], row["chosen_on"]


@pytest.mark.parametrize(
    ("trained", "keep", "scored", "expected"),
    [
        ("folders", "last", "folders:train", (6, 0, 0)),
        ("folders", "last", "folders:validation", (0, 1, 0)),
        ("folders", "best", "folders:validation", (0, 1, 2)),
        ("all", "last", "folders:validation", (2, 0, 0)),
        ("folders", "best", "all:all", (6, 1, 2)),
        ("scenes-k3@0", "best", "scenes-k3@0:val", (0, 0, 2)),
        ("scenes-k3@0", "last", "scenes-k3@1:val", (2, 0, 0)),
        ("scenes-k3@0,1", "best", "scenes-k3@0:val", None),  # fold 0 is left alone
        ("scenes-k3@0", "last", "scenes-k3@0:val", None),
    ],
)
def test_numbers_of_images_that_were_met(
    data: Path, trained: str, keep: str, scored: str, expected: tuple[int, int, int] | None
) -> None:
    result = evaluate(data, scored, model=model(data, trained, keep=keep))
    assert [numbers(row) for row in result["seen"]] == ([] if expected is None else [expected])
    assert all(row["split"] == trained and row["same_data"] is True for row in result["seen"])
    told = [text for text in result["warnings"] if "The model in memory" in text]
    assert len(told) == sum(map(bool, expected or ()))
    for text, count in zip(told, filter(None, expected or ()), strict=True):
        assert f"(split {trained})" in text
        assert f" {count} of the {result['images']} images scored here: " in text


def test_a_cache_tells_the_same(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "cache")
    runtime = model(data, "folders")
    for split in ("folders:train", "folders:validation"):
        here, there = (evaluate(root, split, model=runtime)["seen"] for root in (data, tmp_path / "cache"))
        assert here == there != []


@pytest.mark.parametrize(
    ("digest", "same", "words"),
    [(None, None, "its card does not tell"), ("0" * 64, False, "the data are others than it was trained on")],
)
def test_what_names_do_not_prove_is_said_with_an_if(data: Path, digest: Any, same: Any, words: str) -> None:
    result = evaluate(data, "folders:train", model=model(data, "folders", digest=digest))
    assert [row["same_data"] for row in result["seen"]] == [same]
    (text,) = (text for text in result["warnings"] if "The model in memory" in text)
    assert f"6 of the 6 images scored here, if the names mean the same images ({words}" in text


def test_teachers_are_told_of_where_they_have_met_more(data: Path) -> None:
    alike = {"split": "scenes-k3@0", "data_digest": digest_of(data, "scenes-k3@0")}
    more = {"split": "folders", "data_digest": digest_of(data, "folders")}
    taught = model(data, "scenes-k3@0", teachers=[alike, more])
    (row,) = evaluate(data, "scenes-k3@0:val", model=taught)["seen"]
    assert (row["who"], numbers(row)) == ("A teacher of in memory", (2, 0, 0))
    (row,) = evaluate(data, "scenes-k3@1:val", model=taught)["seen"]
    assert row["who"] == "The model in memory"
    assert numbers(row) == (2, 0, 0)


@pytest.mark.parametrize("split", [None, "gone.txt", "kfold-2@0:"])
def test_of_an_unknown_split_and_of_maps_nothing_is_said(data: Path, tmp_path: Path, split: Any) -> None:
    assert evaluate(data, "folders:train", model=model(data, split, digest=None))["seen"] == []
    evaluate(data, "folders:train", model=model(data, "folders"), maps=tmp_path / "maps")
    assert evaluate(data, "folders:train", predictions=tmp_path / "maps")["seen"] is None


def test_a_broken_mask_that_is_not_scored_stops_nothing(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    runtimes = [model(root, split, keep="best") for split in ("folders", "scenes-k3@0", "all")]
    (root / "train/0001_mask.png").write_bytes(b"no picture")
    seen = [evaluate(root, "folders:validation", model=runtime)["seen"] for runtime in runtimes]
    assert numbers(seen[0][0]) == (0, 1, 2)
    assert seen[0][0]["same_data"] is None
    assert seen[1] == []
    assert numbers(seen[2][0]) == (2, 0, 0)


def test_the_command_warns_and_names_the_model(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data")
    write_pair(root / "validation", "0002", np.full((48, 48, 3), 90), np.zeros((48, 48), np.uint8))
    run = write_run(tmp_path / "run", tiny_runtime())
    card, tensors = read_model(run)
    told = {"provenance": {"split": "folders", "data_digest": digest_of(root, "folders")}}
    recipe = {"recipe": {"validation": {"keep": "best"}}}
    save_model(run / "best.safetensors", tensors, card.model_copy(update=told | recipe), force=True)
    command = ["evaluate", "--data", str(root), "--split", "folders:validation", "--model", str(run)]
    done = CliRunner().invoke(build(), [*command, "--json", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    expected = f"The model {run} (split folders) was chosen by its score on 3 of the 3 images scored here: "
    assert f"Warning: {expected}" in done.stderr
    assert expected not in done.stdout
    (row,) = json.loads((tmp_path / "scores.json").read_text())["seen"]
    assert row == {
        **{"who": f"The model {run}", "split": "folders"},
        **{"trained_on": 0, "same_scenes": 0, "chosen_on": 3, "same_data": True},
    }
    assert DEEPGLOBE.names[0] in done.stdout
