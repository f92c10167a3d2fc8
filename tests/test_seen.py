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
from landcover.cli import build
from landcover.data import prepare
from landcover.evaluation import evaluate
from landcover.evaluation.seen import describe_seen
from landcover.legend import DEEPGLOBE, Legend
from landcover.model.card import read_model, save_model
from landcover.training.data import load_training_data
from landcover.training.teachers import Teacher
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
    return load_training_data(data, split, crop_px=32, model_gsd=None).digest


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
    none = f"The model has met none of the {result['images']} images, and none of their neighbours."
    assert describe_seen(result["seen"], result["images"]) == (None if any(expected) else none)


def test_a_cache_tells_the_same(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "cache")
    runtime = model(data, "folders")
    for split in ("folders:train", "folders:validation"):
        here, there = (evaluate(root, split, model=runtime)["seen"] for root in (data, tmp_path / "cache"))
        assert here == there
        assert any(numbers(here[0]))


@pytest.mark.parametrize(
    ("lacking", "same_scenes"),
    [
        ("", 1),
        ("train/0001", 1),
        ("train/0005", 1),
        ("train/000[01]", None),
        ("validation/0000", None),
        (".*", None),
    ],
)
def test_neighbours_are_known_as_far_as_places_are(tmp_path: Path, lacking: str, same_scenes: Any) -> None:
    root = write_scenes(tmp_path / "data")
    head, *rows = (root / "scenes.csv").read_text().splitlines()
    kept = [row for row in rows if not re.fullmatch(lacking, "/".join(row.split(",")[:2]))]
    (root / "scenes.csv").write_text("\n".join([head, *kept]) + "\n")
    if not kept:
        (root / "scenes.csv").unlink()
    result = evaluate(root, "folders:validation", model=model(root, "folders"))
    assert numbers(result["seen"][0]) == (0, same_scenes, 0)
    said = None if same_scenes else "met none of the 2 images; the data do not tell of their neighbours."
    assert (describe_seen(result["seen"], 2) or "").endswith(said or "")


@pytest.mark.parametrize("digest", [None, 5, ["x"], {"a": 1}, True, "", "None", "upper"])
def test_without_a_digest_nothing_is_claimed(data: Path, digest: Any) -> None:
    if digest == "upper":
        digest = digest_of(data, "folders").upper()
    result = evaluate(data, "folders:train", model=model(data, "folders", digest=digest))
    assert numbers(result["seen"][0]) == (None, None, None)
    assert result["seen"][0]["same_data"] is None
    assert told(result) == []
    assert "not known: it cannot be told whether these are the data" in (
        describe_seen(result["seen"], 6) or ""
    )


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
        assert "not known: these are not the data that the model was trained on, as they were then." in said


def test_teachers_are_told_of_where_they_have_met_more(data: Path) -> None:
    last = {"validation": {"keep": "last"}}
    alike = {
        "split": "scenes-k3@0",
        "data_digest": digest_of(data, "scenes-k3@0"),
        "sha256": "1" * 64,
        **last,
    }
    more = {"split": "folders", "data_digest": digest_of(data, "folders"), **last}
    more["teachers"] = [{"split": "gone.txt"}]
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


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_what_is_not_known_of_the_model_hides_nothing_of_its_teacher(data: Path, digest: Any) -> None:
    teacher = {"split": "folders", "data_digest": digest_of(data, "folders"), "validation": {"keep": "last"}}
    result = evaluate(data, "folders:train", model=model(data, "folders", digest=digest, teachers=[teacher]))
    (text,) = told(result)
    assert text.startswith("A teacher of the model in memory (split folders) was trained on 6 of the 6")
    said = describe_seen(result["seen"], 6)
    assert said is not None
    assert said.startswith("Whether the model has met more of the 6 images is not known: ")


def test_a_teacher_has_its_own_order_of_classes(data: Path) -> None:
    turned = Legend("turned", tuple(reversed(DEEPGLOBE.classes)), 0)
    card = make_card(legend=turned).model_copy(
        update={
            "provenance": {
                "split": "folders",
                "data_digest": load_training_data(
                    data, "folders", crop_px=32, model_gsd=None, legend=turned
                ).digest,
            },
            "recipe": {"validation": {"keep": "last"}},
        }
    )
    teacher = Teacher("t", card, "1" * 64).describe()
    assert teacher["classes"] == list(turned.scored_names)
    result = evaluate(data, "folders:train", model=model(data, "scenes-k3@0", teachers=[teacher]))
    assert [numbers(row) for row in result["seen"]] == [(4, 0, 0), (6, 0, 0)]
    damaged = {**teacher, "classes": ["urban", 5]}
    result = evaluate(data, "folders:train", model=model(data, "scenes-k3@0", teachers=[damaged]))
    assert result["seen"][1]["same_data"] is False


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


@pytest.mark.parametrize("recipe", [{}, {"validation": None}, {"validation": {"keep": ["best"]}}])
def test_a_recipe_that_does_not_tell_what_was_chosen(data: Path, recipe: dict[str, Any]) -> None:
    runtime = model(data, "scenes-k3@0")
    runtime.card = runtime.card.model_copy(update={"recipe": recipe})
    result = evaluate(data, "scenes-k3@0:val", model=runtime)
    assert numbers(result["seen"][0]) == (0, 0, None)
    said = describe_seen(result["seen"], 2)
    assert said is not None
    assert said.endswith("is not known: the card does not tell how the weights of the model were chosen.")


def test_what_was_met_and_what_is_not_known_are_both_said(data: Path) -> None:
    runtime = model(data, "scenes-k3@0", keep="best")
    runtime.card = runtime.card.model_copy(
        update={"provenance": {**runtime.card.provenance, "init": "1" * 64}}
    )
    result = evaluate(data, "scenes-k3@0:val", model=runtime)
    (text,) = told(result)
    assert "was chosen by its score on 2 of the 2" in text
    said = describe_seen(result["seen"], 2)
    assert (
        said
        == "Whether the model has met more of the 2 images is not known: the model began from another model."
    )


def test_a_folder_of_maps_has_no_model(data: Path, tmp_path: Path) -> None:
    evaluate(data, "folders:train", model=model(data, "folders"), maps=tmp_path / "maps")
    assert evaluate(data, "folders:train", predictions=tmp_path / "maps")["seen"] is None


@pytest.mark.parametrize("split", ["folders", "scenes-k3@0", "all"])
def test_a_broken_mask_that_is_not_scored_stops_nothing(tmp_path: Path, split: str) -> None:
    root = write_scenes(tmp_path / "data")
    runtime = model(root, split, teachers=[{"split": "folders", "data_digest": digest_of(root, "folders")}])
    (root / "train/0001_mask.png").write_bytes(b"no picture")
    result = evaluate(root, "folders:validation", model=runtime)
    assert [numbers(row) for row in result["seen"]] == [(None, None, None)] * 2
    assert [row["same_data"] for row in result["seen"]] == [None, None]


def test_what_others_wrote_gives_a_terminal_no_orders(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mids.txt is fine.\nNothing was met."
    path.write_text("".join(f"train/{number:04}\ttrain\n" for number in range(6)))
    (text,) = told(evaluate(data, "folders:train", model=model(data, str(path))))
    assert "\x1b" not in text
    assert "\n" not in text
    assert "ids.txt is fine.\\nNothing was met.) was trained on 6 of the 6" in text


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
    assert "The model has met" not in done.stdout
    (row,) = json.loads((tmp_path / "scores.json").read_text())["seen"]
    assert row == {
        **{"role": "model", "sha256": None, "split": "folders", "same_data": True, "began_elsewhere": False},
        **{"trained_on": 0, "same_scenes": None, "chosen_on": 3},
    }
    recipe = {"recipe": {"validation": {"keep": "last"}}}
    save_model(run / "best.safetensors", tensors, card.model_copy(update=known | recipe), force=True)
    done = CliRunner().invoke(build(), command)
    assert "The model has met none of the 3 images; the data do not tell of their neighbours." in done.stdout
    assert "was chosen" not in done.stderr
