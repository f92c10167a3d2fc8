"""Training with teachers: who may teach, what is kept, and that it is learned."""

import shutil
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fake_runtime import ConstantRuntime, make_card
from landcover import cli
from landcover.bundle import read_card, read_model, save_model
from landcover.config import dump_yaml
from landcover.data import open_dataset, prepare
from landcover.errors import ConfigError, DataError, ModelError
from landcover.inference import predict_probabilities
from landcover.legend import LandClass, Legend
from landcover.models.tensorfile import read_tensors
from landcover.runtimes import open_model
from landcover.training import teachers, train
from landcover.training.material import gather
from landcover.training.runs import CONFIG_NAME
from landcover.training.surroundings import Piece
from landcover.training.teachers import SOFT_LABELS_NAME, soft_labels
from landcover.windows import Window
from training_world import assert_same_tensors, tiny, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "folder", train_images=6)
    prepare(root / "folder", root / "cache")
    return root / "cache"


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A run on the split ``folders`` that has made up its mind; not to be written to."""
    out = tmp_path_factory.mktemp("teacher")
    train(tiny(), data=data, out=out)
    return changed(out, out / "sure.safetensors", temperature=0.002)


@pytest.fixture(scope="module")
def student(data, teacher, tmp_path_factory):
    """A run that it taught; not to be written to."""
    out = tmp_path_factory.mktemp("student")
    train(taught(teacher), data=data, out=out)
    return out


def taught(*paths: Any, more: tuple[str, ...] = ()):
    return tiny(f"teachers=[{', '.join(map(str, paths))}]", *more)


def changed(source, target, **changes):
    """Copy a model with fields of its card changed."""
    card, tensors = read_model(source)
    save_model(target, tensors, card.model_copy(update=changes))
    return target


# What teachers say


def test_soft_labels_are_the_teachers_own_probabilities(data, teacher, student):
    dataset = open_dataset(data)
    runtime = open_model(teacher, device="cpu")
    arrays = read_tensors(student / SOFT_LABELS_NAME)
    items = gather(data, "folders", crop_px=32, model_gsd=None).train
    assert len(arrays) == len(items) == 6
    for number, item in enumerate(items):
        probabilities = predict_probabilities(runtime, dataset.read_image(item), turns=True)
        cells = arrays[str(number)]
        assert cells.shape == (12, 12, 6)  # 48 pixels of 1 m, a decoder of stride 4
        expected = probabilities.reshape(6, 12, 4, 12, 4).mean(axis=(2, 4)).transpose(1, 2, 0)
        np.testing.assert_allclose(cells / 255, expected, atol=0.0021)


def test_several_teachers_are_averaged_and_classes_are_matched_by_name(data, tmp_path, monkeypatch):
    legend = open_dataset(data).legend
    turned = Legend("turned", tuple(reversed(legend.classes)), len(legend) - 1 - legend.unknown)
    runtimes = {
        "one": ConstantRuntime((0.1, 0.2, 0.3, 0.15, 0.05, 0.2)),
        "two": ConstantRuntime((0.2, 0.0, 0.0, 0.4, 0.4, 0.0), card=make_card(legend=turned)),
    }
    monkeypatch.setattr(teachers, "_open", lambda path, *_: runtimes[path])
    monkeypatch.setattr(teachers, "model_digest", str)
    material = gather(data, "folders", crop_px=32, model_gsd=None)

    def said(*names):
        folder = tmp_path / "+".join(names)
        soft = soft_labels(names, material, folder, device="cpu", threads=1, precision="fp32")
        pieces = [Piece(3, Window(0, 0, 48, 48), (slice(0, 48), slice(0, 48)))]
        cells = soft.cut(pieces, 48, 48)  # of a decoder that answers at every pixel
        np.testing.assert_array_equal(cells, np.broadcast_to(cells[0, 0], (48, 48, 6)))
        return cells[0, 0] / 255

    one, two = (0.1, 0.2, 0.3, 0.15, 0.05, 0.2), (0.0, 0.4, 0.4, 0.0, 0.0, 0.2)
    np.testing.assert_allclose(said("one"), one, atol=0.002)
    np.testing.assert_allclose(said("two"), two, atol=0.002)
    np.testing.assert_allclose(said("one", "two"), np.mean([one, two], axis=0), atol=0.002)


# What is learned


def test_a_teacher_changes_what_is_learned(data, teacher, student):
    taught_by = read_tensors(student / "best.safetensors")
    alone = read_tensors(teacher)
    assert any((taught_by[name] != alone[name]).any() for name in alone)


def test_a_student_learns_what_its_teacher_says(data, tmp_path, monkeypatch):
    """One that always says water, with all the weight: soon the student does too, whatever labels say."""
    water = open_dataset(data).legend.scored_names.index("water")
    sure = ConstantRuntime(tuple(float(channel == water) for channel in range(6)))
    monkeypatch.setattr(teachers, "_open", lambda *_: sure)
    settings = ("steps=30", "loss.teacher_weight=1000", "optimiser.learning_rate=0.01", "ema_decay=0")
    train(taught("starter", more=settings), data=data, out=tmp_path / "taught")
    image = open_dataset(data).read_image(open_dataset(data).items[0])
    said = predict_probabilities(open_model(tmp_path / "taught", device="cpu"), image)
    assert (said.argmax(axis=0) == water).mean() > 0.9


# The run


def test_the_card_names_the_teacher(student, teacher):
    (told,) = read_card(student).provenance["teachers"]
    its = read_card(teacher)
    assert told["encoder"] == "mobilenetv2_050"
    assert (told["split"], told["step"]) == ("folders", its.provenance["step"])
    assert told["data_digest"] == its.provenance["data_digest"]
    assert len(told["sha256"]) == 64
    assert "teachers" not in its.provenance


def test_a_resumed_run_asks_nobody_and_ends_alike(data, teacher, student, tmp_path, monkeypatch):
    config = taught(teacher)
    kept = tmp_path / "run"
    # Killed before its first checkpoint: nothing is there but what the teacher said.
    kept.mkdir()
    shutil.copy(student / SOFT_LABELS_NAME, kept)
    monkeypatch.setattr(teachers, "_ask", lambda *_: pytest.fail("asked again"))
    train(config, data=data, out=kept)
    assert_same_tensors(kept / "last.safetensors", student / "last.safetensors")
    train(config, data=data, out=kept)  # which has ended


@pytest.mark.parametrize("damage", ["cut short", "of another teacher", "gone"])
def test_answers_that_cannot_be_used_are_asked_for_again(data, teacher, student, tmp_path, damage):
    shutil.copytree(student, tmp_path / "run")
    file = tmp_path / "run" / SOFT_LABELS_NAME
    before = read_tensors(file)
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "gone":
        file.unlink()
    else:
        other = changed(teacher, tmp_path / "other.safetensors", temperature=2.0)
        train(taught(other), data=data, out=tmp_path / "others")
        shutil.copy(tmp_path / "others" / SOFT_LABELS_NAME, file)
        assert any((array != before[name]).any() for name, array in read_tensors(file).items())
    train(taught(teacher), data=data, out=tmp_path / "run")
    assert_same_tensors(file, student / SOFT_LABELS_NAME)


def test_another_teacher_is_another_run(data, teacher, student, tmp_path):
    shutil.copytree(student, tmp_path / "run")
    other = changed(teacher, tmp_path / "other.safetensors", temperature=2.0)
    with pytest.raises(ConfigError, match="differs in teachers"):
        train(taught(other), data=data, out=tmp_path / "run")
    moved = tmp_path / "moved.safetensors"
    shutil.copy(teacher, moved)
    config = taught(moved)
    with pytest.raises(ConfigError, match="differs in teachers"):
        train(tiny(), data=data, out=tmp_path / "run")
    train(config, data=data, out=tmp_path / "run")  # a file may lie elsewhere


def test_an_exported_model_may_teach(data, tmp_path):
    train(taught("starter", more=("steps=1",)), data=data, out=tmp_path / "run")
    (told,) = read_card(tmp_path / "run").provenance["teachers"]
    assert told["encoder"] == "mobilenetv2_100"


# Who may not teach


def test_a_teacher_that_saw_what_is_kept_from_the_student_is_refused(data, teacher, tmp_path):
    with pytest.raises(DataError, match=r"trained on 3 images \(--split folders\).*kfold-2@0.*train/000"):
        train(taught(teacher), data=data, out=tmp_path / "run", split="kfold-2@0")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_fewer_of_the_images_may_teach(data, tmp_path):
    train(tiny("steps=1"), data=data, out=tmp_path / "fold", split="kfold-2@0")
    train(taught(tmp_path / "fold", more=("steps=1",)), data=data, out=tmp_path / "run")
    assert read_card(tmp_path / "run").provenance["teachers"][0]["split"] == "kfold-2@0"


def test_a_teacher_of_other_data_with_the_same_names_may_teach(data, teacher, tmp_path):
    other = write_pairs(tmp_path / "data", train_images=7)
    train(taught(teacher, more=("steps=1",)), data=other, out=tmp_path / "run", split="kfold-2@0")


def test_a_teacher_of_other_classes_is_refused(data, teacher, tmp_path):
    legend = read_card(teacher).legend
    renamed = Legend("other", (LandClass("lava", (9, 9, 9)), *legend.classes[1:]), legend.unknown)
    file = changed(teacher, tmp_path / "other.safetensors", legend=renamed)
    with pytest.raises(ModelError, match=r"knows the classes lava.*the data have urban"):
        train(taught(file), data=data, out=tmp_path / "run")


@pytest.mark.parametrize("path", ["nowhere", "nowhere/best.safetensors"])
def test_a_teacher_that_is_not_there_is_told_of(data, tmp_path, path):
    with pytest.raises(ModelError, match="nowhere"):
        train(taught(path), data=data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_several(data, teacher, tmp_path):
    settings = tmp_path / CONFIG_NAME
    settings.write_text(dump_yaml(tiny("steps=1")))
    arguments = ["train", "--data", data, "--out", tmp_path / "run", "--preset", settings]
    result = CliRunner().invoke(
        cli.build(), [*map(str, arguments), "--teacher", str(teacher), "--teacher", "starter"]
    )
    assert result.exit_code == 0, result.output
    encoders = [told["encoder"] for told in read_card(tmp_path / "run").provenance["teachers"]]
    assert encoders == ["mobilenetv2_050", "mobilenetv2_100"]
