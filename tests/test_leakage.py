"""What evaluate tells of images that its model has met; digests on cards are made by training's own code."""

import json
import re
import shutil
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
from landcover.evaluation.leakage import describe_seen
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


def numbers(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    return row["trained_on"], row["same_scenes"], row["chosen_on"]


def told(result: dict[str, Any]) -> list[str]:
    return [text for text in result["warnings"] if "the model in memory" in text]


SENTENCES = (
    r"was trained on {} of the {} images scored here: the scores tell how well it remembers them",
    r"was trained on other images of the scenes of {} of the {} images scored here: expect less of it in",
    r"was chosen by its score on {} of the {} images scored here: the scores are a little too good",
)


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
        ("scenes-k3@0,1", "best", "scenes-k3@0:val", (0, 0, 0)),  # fold 0 is left alone
        ("scenes-k3@0", "last", "scenes-k3@0:val", (0, 0, 0)),
    ],
)
def test_numbers_of_images_that_were_met(
    data: Path, trained: str, keep: str, scored: str, expected: tuple[int, int, int]
) -> None:
    result = evaluate(data, scored, model=model(data, trained, keep=keep))
    (row,) = result["seen"]
    assert numbers(row) == expected
    assert (
        row.items()
        >= {
            **{"role": "model", "sha256": None, "split": trained},
            **{"same_data": True, "began_elsewhere": False},
        }.items()
    )
    sentences = [
        f"the model in memory (split {trained}) " + sentence.format(count, result["images"])
        for sentence, count in zip(SENTENCES, expected, strict=True)
        if count
    ]
    assert [text[: len(start)] for text, start in zip(told(result), sentences, strict=True)] == sentences
    assert not any("names" in text for text in told(result))
    line = describe_seen(result["seen"], result["images"])
    assert line == (None if any(expected) else f"The model has met none of the {result['images']} images.")


def test_a_cache_tells_the_same(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "cache")
    runtime = model(data, "folders")
    for split in ("folders:train", "folders:validation"):
        here, there = (evaluate(root, split, model=runtime)["seen"] for root in (data, tmp_path / "cache"))
        assert here == there
        assert any(numbers(here[0]))


def test_tiles_without_a_place_are_in_no_scene(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    rows = (root / "scenes.csv").read_text().splitlines()
    (root / "scenes.csv").write_text("\n".join(rows[:1] + rows[2:-2]) + "\n")
    for scored in ("folders:validation", "folders:train"):
        (row,) = evaluate(root, scored, model=model(root, "folders"))["seen"]
        assert row["same_scenes"] == 0


def test_without_a_digest_names_tell_and_a_sentence_says_so(data: Path) -> None:
    result = evaluate(data, "folders:train", model=model(data, "folders", digest=None))
    assert numbers(result["seen"][0]) == (6, 0, 0)
    assert result["seen"][0]["same_data"] is None
    (text,) = told(result)
    assert text.endswith(
        "This is as far as names tell; nothing proves that these are the data that it learned from."
    )
    unmet = evaluate(data, "scenes-k3@0:val", model=model(data, "scenes-k3@0", digest=None))
    assert told(unmet) == []
    assert "nothing proves that these are the data" in (describe_seen(unmet["seen"], 2) or "")


@pytest.mark.parametrize("split", ["folders", "all", "kfold-3@0", "scenes-k3@0"])
@pytest.mark.parametrize("change", ["another region", "a tile more", "relabelled"])
def test_of_other_data_nothing_is_claimed(tmp_path: Path, split: str, change: str) -> None:
    """Splits are made again of the data at hand: of other data they would say that anything was met."""
    root = write_scenes(tmp_path / "data")
    runtime = model(root, split, keep="best")
    if change == "another region":
        for path in list(root.glob("*/*_*.*")):
            path.rename(path.with_name(f"berlin{path.name}"))
        rows = (root / "scenes.csv").read_text().replace(",0", ",berlin0", 1)
        (root / "scenes.csv").write_text(re.sub(r"(train|validation),(?=\d{4})", r"\1,berlin", rows))
    elif change == "a tile more":
        for path in root.glob("train/0001_*"):
            shutil.copy(path, path.with_name(path.name.replace("0001", "00005")))
        with (root / "scenes.csv").open("a") as file:
            file.write("train,00005,s0,5,5\n")
    else:
        shutil.copy(root / "train/0001_mask.png", root / "train/0002_mask.png")
    for scored in ("all:all", "kfold-3@0:val"):
        result = evaluate(root, scored, model=runtime)
        (row,) = result["seen"]
        assert row["same_data"] is False
        assert numbers(row) == (None, None, None)
        assert told(result) == []
        said = describe_seen(result["seen"], result["images"])
        assert said is not None
        assert "not known: these are not the data that the model was trained on, or they have changed" in said


def test_teachers_are_told_of_where_they_have_met_more(data: Path) -> None:
    alike = {"split": "scenes-k3@0", "data_digest": digest_of(data, "scenes-k3@0"), "sha256": "1" * 64}
    more = {
        "split": "folders",
        "data_digest": digest_of(data, "folders"),
        "teachers": [{"split": "gone.txt"}],
    }
    taught = model(data, "scenes-k3@0", teachers=[alike, more])
    held_out = evaluate(data, "scenes-k3@0:val", model=taught)
    assert [row["role"] for row in held_out["seen"]] == ["model", *["teacher"] * 3]
    assert [row["sha256"] for row in held_out["seen"]] == [None, "1" * 64, None, None]
    expected = [(0, 0, 0), (0, 0, 0), (2, 0, 0), (None, None, None)]
    assert [numbers(row) for row in held_out["seen"]] == expected
    (text,) = told(held_out)
    assert text.startswith("A teacher of the model in memory (split folders) was trained on 2 of the 2")
    (text,) = told(evaluate(data, "scenes-k3@1:val", model=taught))
    assert text.startswith("the model in memory (split scenes-k3@0) was trained on 2 of the 2")


@pytest.mark.parametrize(("digest", "who"), [(None, "A teacher of the"), ("0" * 64, "A teacher of the")])
def test_what_is_certain_is_said_before_what_names_tell(data: Path, digest: Any, who: str) -> None:
    teacher = {"split": "folders", "data_digest": digest_of(data, "folders")}
    result = evaluate(data, "folders:train", model=model(data, "folders", digest=digest, teachers=[teacher]))
    (text,) = told(result)
    assert text.startswith(who)
    assert "names" not in text


def test_a_teacher_that_was_judged_by_what_the_model_learned_is_not_told_of(data: Path) -> None:
    teacher = {
        **{"split": "scenes-k3@0,1", "data_digest": digest_of(data, "scenes-k3@0,1")},
        **{"validation": {"keep": "best"}},
    }
    result = evaluate(data, "scenes-k3@0:train", model=model(data, "scenes-k3@0", teachers=[teacher]))
    assert numbers(result["seen"][1])[2] > 0
    assert len(told(result)) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": None}, "the card names no split that the model was trained on and that can be made"),
        ({"split": "gone.txt"}, "the card names no split"),
        ({"split": "kfold-2@0:"}, "the card names no split"),
        ({"split": ["a"]}, "the card names no split"),
        ({"init": "1" * 64}, "the model began from another model"),
        ({"teachers": "a path"}, "the card names no split that a teacher of the model was trained on"),
    ],
)
def test_what_is_not_known_is_not_called_unmet(data: Path, change: dict[str, Any], reason: str) -> None:
    runtime = model(data, "scenes-k3@0")
    runtime.card = runtime.card.model_copy(update={"provenance": {**runtime.card.provenance, **change}})
    result = evaluate(data, "scenes-k3@0:val", model=runtime)
    assert told(result) == []
    said = describe_seen(result["seen"], 2)
    assert said is not None
    assert said.startswith(f"Whether the model has met any of the 2 images is not known: {reason}")


def test_a_folder_of_maps_has_no_model(data: Path, tmp_path: Path) -> None:
    evaluate(data, "folders:train", model=model(data, "folders"), maps=tmp_path / "maps")
    assert evaluate(data, "folders:train", predictions=tmp_path / "maps")["seen"] is None


def test_a_broken_mask_that_is_not_scored_stops_nothing(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    told_of = {split: digest_of(root, split) for split in ("folders", "scenes-k3@0", "all")}
    (root / "train/0001_mask.png").write_bytes(b"no picture")
    expected = {"folders": (0, 1, 2), "scenes-k3@0": (None, None, None), "all": (2, 0, 0)}
    for split, digest in told_of.items():
        teacher = {"split": "all", "data_digest": None}
        runtime = model(root, split, keep="best", digest=digest, teachers=[teacher])
        own, of_teacher = evaluate(root, "folders:validation", model=runtime)["seen"]
        assert numbers(own) == expected[split]
        assert own["same_data"] is None
        assert numbers(of_teacher) == (2, 0, 0)


def test_what_others_wrote_gives_a_terminal_no_orders(data: Path, tmp_path: Path) -> None:
    name = "\x1b[31mids.txt"
    (tmp_path / name).write_text("".join(f"train/{number:04}\ttrain\n" for number in range(6)))
    (text,) = told(evaluate(data, "folders:train", model=model(data, str(tmp_path / name), digest=None)))
    assert "\x1b" not in text
    assert "ids.txt" in text


def test_the_command_warns_and_names_the_model(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data")
    write_pair(root / "validation", "0002", np.full((48, 48, 3), 90), np.zeros((48, 48), np.uint8))
    run = write_run(tmp_path / "run", tiny_runtime())
    card, tensors = read_model(run)
    known = {"provenance": {"split": "folders", "data_digest": digest_of(root, "folders")}}
    recipe = {"recipe": {"validation": {"keep": "best"}}}
    save_model(run / "best.safetensors", tensors, card.model_copy(update=known | recipe), force=True)
    command = ["evaluate", "--data", str(root), "--split", "folders:validation", "--model", str(run)]
    done = CliRunner().invoke(build(), [*command, "--json", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    expected = f"{run} (split folders) was chosen by its score on 3 of the 3 images scored here: "
    assert f"Warning: {expected}" in done.stderr
    assert "has met" not in done.stdout
    (row,) = json.loads((tmp_path / "scores.json").read_text())["seen"]
    assert row == {
        **{"role": "model", "sha256": None, "split": "folders", "same_data": True, "began_elsewhere": False},
        **{"trained_on": 0, "same_scenes": 0, "chosen_on": 3},
    }
    save_model(run / "best.safetensors", tensors, card.model_copy(update=known), force=True)
    done = CliRunner().invoke(build(), command)
    assert "The model has met none of the 3 images." in done.stdout
    assert "was chosen" not in done.stderr
