"""What a model has met: the split made again, and whether the data are those it was trained on."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fake_runtime import make_card
from landcover.data import open_dataset, prepare
from landcover.errors import DataError
from landcover.legend import DEEPGLOBE, Legend
from landcover.model.card import ModelCard
from landcover.training.data import load_training_data
from landcover.unseen import common, encounters, fitted_items, fitted_on, is_same_data, met
from training_world import write_pairs


def card_of(split: Any, digest: str | None = None, validation: Any = None) -> ModelCard:
    provenance = {"split": split, "data_digest": digest}
    recipe = {} if validation is None else {"validation": validation}
    return make_card().model_copy(update={"provenance": provenance, "recipe": recipe})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("unseen") / "data", train_images=5)


@pytest.mark.parametrize("split", ["folders", "kfold-2@1", "all"])
def test_what_was_met_is_what_training_gathers(data: Path, split: str) -> None:
    gathered = load_training_data(data, split, crop_px=32, model_gsd=None)
    known = met(card_of(split), open_dataset(data))
    assert known is not None
    assert list(known.trained_on) == list(gathered.train)
    assert list(known.validated_on) == list(gathered.validation)


@pytest.mark.parametrize(
    ("validation", "chosen"),
    [
        ({"keep": "best"}, True),
        ({"keep": "last", "patience": 2}, True),
        ({"keep": "last", "patience": None}, False),
        (None, None),
        ("nonsense", None),
        ({"keep": "other", "patience": 2}, True),
        ({"keep": "other"}, None),
    ],
)
def test_who_stops_in_time_chooses_by_the_score_too(data: Path, validation: Any, chosen: bool | None) -> None:
    known = met(card_of("folders", validation=validation), open_dataset(data))
    assert known is not None
    assert known.chosen is chosen


@pytest.mark.parametrize("split", [None, 7, "scenes-k5@0", "gone.txt", "nonsense", "x" * 5000, "a\0"])
def test_of_a_split_that_cannot_be_made_nothing_is_known(data: Path, split: Any) -> None:
    assert met(card_of(split), open_dataset(data)) is None


class TestDigest:
    @pytest.mark.parametrize("split", ["folders", "kfold-2@1", "all"])
    def test_it_is_trainings_own_wherever_the_data_lie(self, data: Path, split: str, tmp_path: Path) -> None:
        card = card_of(split, load_training_data(data, split, crop_px=32, model_gsd=None).digest)
        prepare(data, tmp_path / "cache")
        for root in (data, tmp_path / "cache"):
            dataset = open_dataset(root)
            known = met(card, dataset)
            assert known is not None
            assert is_same_data(card, dataset, known) is True

    @pytest.mark.parametrize("change", ["less", "relabelled", "validation"])
    def test_other_data_of_the_same_names_are_told_apart(self, change: str, tmp_path: Path) -> None:
        root = write_pairs(tmp_path / "data")
        card = card_of("folders", load_training_data(root, "folders", crop_px=32, model_gsd=None).digest)
        if change == "relabelled":
            Image.new("RGB", (48, 48), (0, 255, 0)).save(root / "train/0001_mask.png")
        else:
            part = "train" if change == "less" else "validation"
            (root / part / "0001_mask.png").unlink()
        dataset = open_dataset(root)
        known = met(card, dataset)
        assert known is not None
        assert is_same_data(card, dataset, known) is False

    def test_the_order_of_classes_is_the_models(self, data: Path) -> None:
        turned = Legend("turned", tuple(reversed(DEEPGLOBE.classes)), 0)
        card = card_of("folders", load_training_data(data, "folders", crop_px=32, model_gsd=None).digest)
        dataset = open_dataset(data, legend=turned)
        known = met(card, dataset)
        assert known is not None
        assert is_same_data(card, dataset, known) is True

    def test_without_a_digest_or_the_same_classes_nothing_is_known(self, data: Path) -> None:
        dataset = open_dataset(data)
        known = met(card_of("folders"), dataset)
        assert known is not None
        assert is_same_data(card_of("folders"), dataset, known) is None
        fewer = Legend("fewer", DEEPGLOBE.classes[1:], 5)
        other = card_of("folders", "0" * 64).model_copy(update={"legend": fewer})
        assert is_same_data(other, dataset, known) is None


class TestEncounters:
    def test_the_model_comes_first_then_its_teachers_and_theirs(self, data: Path) -> None:
        teacher = {"split": "kfold-2@1", "teachers": [{"split": "all", "init": "1" * 64}]}
        card = card_of("folders", validation={"keep": "best"})
        card = card.model_copy(update={"provenance": {**card.provenance, "teachers": [teacher, {}]}})
        dataset = open_dataset(data)
        found = list(encounters("m", card, dataset, reversed(dataset.items), title="The model"))
        assert [one.who for one in found] == ["The model m", *["A teacher of m"] * 3]
        assert [one.began_elsewhere for one in found] == [False, False, True, False]
        assert [one.known is None for one in found] == [False, False, False, True]
        keys = [item.key for item in dataset.items]
        assert [item.key for item in found[0].trained_on] == [key for key in keys if key.startswith("train")]
        assert [item.key for item in found[0].chosen_on] == [key for key in keys if key.startswith("val")]
        assert [item.key for item in found[2].trained_on] == keys
        assert not found[1].chosen_on
        assert not found[3].trained_on
        assert found[3].same_data(dataset) is None

    def test_only_items_that_are_asked_about_are_named(self, data: Path) -> None:
        dataset = open_dataset(data)
        asked = [
            item for item in dataset.items if item.key in ("train/0003", "train/0001", "validation/0000")
        ]
        (found,) = encounters("m", card_of("folders"), dataset, asked)
        assert found.who == "m"
        assert [item.key for item in found.trained_on] == ["train/0001", "train/0003"]
        assert not found.chosen_on

    def test_folds_that_cannot_be_made_are_an_error_or_not_known(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path / "data", train_images=6)
        rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(6)]
        (root / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]) + "\n")
        (root / "train/0000_mask.png").write_bytes(b"no picture")
        dataset = open_dataset(root)
        with pytest.raises(DataError):
            list(encounters("m", card_of("scenes-k3@0"), dataset, dataset.items))
        (found,) = encounters("m", card_of("scenes-k3@0"), dataset, dataset.items, strict=False)
        assert found.known is None


def test_what_a_temperature_was_fitted_on(data: Path) -> None:
    dataset = open_dataset(data)
    keys = [item.key for item in dataset.items if item.part == "validation"]
    own = {"split": "folders:validation", "data": "data"}
    taken = {"like": "0" * 64, "split_of_like": "folders:validation"}
    assert fitted_on(own) == ("folders:validation", "data")
    assert fitted_on(taken) == ("folders:validation", None)
    for record in (own, taken):
        assert [item.key for item in fitted_items(record, dataset)] == keys
        assert common(fitted_items(record, dataset), dataset.items) == keys
    for split in ("scenes-k5@0:val", "folders", "gone.txt:val"):
        assert fitted_items({"split": split}, dataset) == []
    assert fitted_on({}) is None
    assert fitted_items({}, dataset) == []
