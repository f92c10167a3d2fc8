"""Training with teachers: who may teach, what is kept, and that it is learned."""

import hashlib
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from scipy.ndimage import map_coordinates

from commands import invoke
from fake_runtime import AtFullSize, ConstantRuntime, make_card
from landcover.config import dump_yaml
from landcover.data import open_dataset, prepare, select
from landcover.data.fingerprints import image_set
from landcover.errors import ConfigError, DataError, ModelError, UsageError
from landcover.inference import predict_probabilities
from landcover.legend import LandClass, Legend
from landcover.model.card import UsedImages, model_digest, read_card, read_model, save_model
from landcover.model.files import read_tensor_metadata, read_tensors
from landcover.model.runtimes import open_model
from landcover.training import teachers, train
from landcover.training.data import load_training_data
from landcover.training.runs import CONFIG_NAME, SOFT_LABELS_NAME
from landcover.training.sampler import Piece
from landcover.training.teachers import Teacher, check_teachers, read_teachers, soft_labels
from landcover.windows import Window
from training_world import assert_same_tensors, tiny, train_apart, write_pair, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "folder", train_images=6)
    prepare(root / "folder", root / "cache")
    return root / "cache"


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A model with sharp probabilities, trained on the split ``folders``; not to be written to."""
    out = tmp_path_factory.mktemp("teacher")
    train(tiny(), data=data, out=out)
    return changed(out, out / "sure.safetensors", temperature=0.002)


@pytest.fixture(scope="module")
def student(data, teacher, tmp_path_factory):
    """A run with this teacher; not to be written to."""
    out = tmp_path_factory.mktemp("student")
    train(taught(teacher), data=data, out=out)
    return out


def taught(*paths, more=()):
    return tiny(f"teachers=[{', '.join(map(str, paths))}]", *more)


def changed(source, target, **changes):
    """Copy a model with fields of its card changed."""
    card, tensors = read_model(source)
    save_model(target, tensors, card.model_copy(update=changes), force=True)
    return target


def test_soft_labels_are_the_teachers_own_probabilities(data, teacher, student):
    dataset = open_dataset(data)
    runtime = open_model(teacher, device="cpu")
    arrays = read_tensors(student / SOFT_LABELS_NAME)
    items = load_training_data(data, "folders", crop_px=32, model_gsd=None).train
    assert len(arrays) == len(items) == 6
    for number, item in enumerate(items):
        probabilities = predict_probabilities(runtime, dataset.read_image(item), views=8)
        cells = arrays[str(number)]
        assert cells.shape == (12, 12, 6)  # 48 pixels of 1 m, a decoder of stride 4
        # At the centre of four pixels.
        expected = (
            probabilities.reshape(6, 12, 4, 12, 4)[:, :, 1:3, :, 1:3].mean(axis=(2, 4)).transpose(1, 2, 0)
        )
        np.testing.assert_allclose(cells / 255, expected, atol=0.0021)


class Planes(AtFullSize):
    """Probabilities that rise with the image's colours, at a scale and in an order of its own."""

    device = "cpu"

    def __init__(self, gsd, legend, order, share):
        self.card = make_card(gsd=gsd, legend=legend)
        self.order, self.share = order, share

    def probabilities(self, batch):
        red, green = batch[..., 0] / np.float32(510), batch[..., 1] / np.float32(510)
        rest = 1 - red - green
        values = [red, green, rest * self.share, rest * (1 - self.share), 0 * red, 0 * red]
        return np.stack([values[channel] for channel in self.order], axis=1).astype(np.float32)


def reordered(legend, order):
    """The legend with its scored classes in another order; the unknown class stays last."""
    assert legend.unknown == len(legend) - 1
    return Legend("turned", (*(legend.classes[i] for i in order), legend.classes[-1]), legend.unknown)


@pytest.fixture(scope="module")
def slopes(tmp_path_factory):
    """More than ten images, wide and of odd sizes, whose colours rise evenly and differently."""
    root = tmp_path_factory.mktemp("slopes")
    for number in range(12):
        y, x = np.mgrid[: 61 + number, :47]
        image = np.stack([y * 2 + number, x * 3 + 5 * number, y * 0], axis=2)
        write_pair(root / "train", f"{number:04}", image, np.full(y.shape, number % 6, np.uint8))
        Image.fromarray(image.astype(np.uint8)).save(root / "train" / f"{number:04}_sat.png")
        (root / "train" / f"{number:04}_sat.jpg").unlink()
    return root


def replace_models(monkeypatch, of_path):
    """Let soft labels be of runtimes in place of the models at the paths of teachers."""
    monkeypatch.setattr(teachers, "open_model", lambda path, **_: of_path(path))
    monkeypatch.setattr(teachers, "resolve_model", lambda path: path)
    monkeypatch.setattr(teachers, "is_exported", lambda path: False)
    monkeypatch.setattr(teachers, "model_digest", lambda path: path)


@pytest.fixture
def labels(slopes, tmp_path, monkeypatch):
    """Return data and soft labels of runtimes in place of teachers."""

    def computed(*runtimes, cell_m=4.0, data=slopes):
        replace_models(monkeypatch, lambda path: runtimes[int(path)])
        named = [Teacher(str(n), runtime.card, str(n)) for n, runtime in enumerate(runtimes)]
        material = load_training_data(data, "all", crop_px=32, model_gsd=None, gsd=1.0)
        where = {"device": "cpu", "threads": 1, "precision": "fp32"}
        return material, soft_labels(named, material, tmp_path, cell_m=cell_m, **where)

    return computed


def test_soft_labels_follow_classes_scales_and_images(slopes, labels, tmp_path, monkeypatch):
    """Against scipy: classes by name, scales of their own, cells at their centres, images in order."""
    legend = open_dataset(slopes, gsd=1.0).legend
    order = [2, 0, 1, 4, 5, 3]
    both = Planes(0.5, legend, range(6), 0.25), Planes(1.5, reordered(legend, order), order, 0.75)
    material, soft = labels(*both)
    arrays = read_tensors(tmp_path / SOFT_LABELS_NAME)
    assert len(material.train) == 12
    for number, item in enumerate(material.train):
        image = material.dataset.read_image(item)
        height, width = image.shape[:2]
        cells = round(height / 4), round(width / 4)
        planes = Planes(1.0, legend, range(6), 0.5).probabilities(image[None])[0]
        centres = np.meshgrid(
            *((np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(cells, (height, width), strict=True)),
            indexing="ij",
        )
        expected = [map_coordinates(plane, centres, order=1, mode="nearest") for plane in planes]
        expected = np.stack(expected, axis=2)
        assert arrays[str(number)].shape == (*cells, 6)
        inner = np.s_[1:-1, 1:-1]  # resampling is not even at the image's edges
        np.testing.assert_allclose(arrays[str(number)][inner] / 255, expected[inner], atol=0.006)
    whole = [Piece(11, Window(0, 0, 47, 47), (slice(0, 47), slice(0, 47)))]
    assert soft.cut(whole, 47, 12).shape == (12, 12, 6)
    monkeypatch.setattr(teachers, "_compute", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(labels(*both)[1].cut(whole, 47, 12), soft.cut(whole, 47, 12))


def test_soft_labels_of_replaced_images_are_computed_again(slopes, labels, tmp_path, monkeypatch):
    data, file = shutil.copytree(slopes, tmp_path / "data"), tmp_path / SOFT_LABELS_NAME
    teacher = Planes(1.0, open_dataset(data, gsd=1.0).legend, range(6), 0.5)
    labels(teacher, data=data)
    before, path = read_tensors(file), data / "train" / "0003_sat.png"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    labels(teacher, data=data)
    differing = {
        name for name, array in read_tensors(file).items() if not np.array_equal(array, before[name])
    }
    assert differing == {"3"}
    about = read_tensor_metadata(file)
    del about["content"]  # as earlier versions wrote it
    file.write_bytes(save(dict(read_tensors(file)), metadata=about))
    monkeypatch.setattr(teachers, "_compute", lambda *_: pytest.fail("computed again"))
    labels(teacher, data=data)


@pytest.mark.parametrize(
    ("stride", "cells"),
    [(4, (15, 12)), (2, (30, 24)), (1, (30, 24))],  # of a teacher with a value every 2 m
)
def test_cells_are_at_least_those_of_student_and_teacher(slopes, labels, tmp_path, stride, cells):
    labels(Planes(2.0, open_dataset(slopes, gsd=1.0).legend, range(6), 0.5), cell_m=stride)
    assert read_tensors(tmp_path / SOFT_LABELS_NAME)["0"].shape == (*cells, 6)


def test_a_student_learns_from_its_teacher(data, tmp_path, monkeypatch):
    """A teacher that always predicts water, with all the weight: the student soon predicts water too."""
    water = open_dataset(data).legend.scored_names.index("water")
    sure = ConstantRuntime(tuple(float(channel == water) for channel in range(6)))
    replace_models(monkeypatch, lambda path: sure)
    settings = ("steps=30", "loss.teacher_weight=1000", "optimiser.learning_rate=0.01", "ema_decay=0")
    train(taught("starter", more=settings), data=data, out=tmp_path / "taught")
    image = open_dataset(data).read_image(open_dataset(data).items[0])
    probabilities = predict_probabilities(open_model(tmp_path / "taught", device="cpu"), image)
    assert (probabilities.argmax(axis=0) == water).mean() > 0.9


def test_a_model_named_twice_is_one_teacher_and_order_has_no_meaning(teacher, tmp_path):
    copy = shutil.copy(teacher, tmp_path / "copy.safetensors")
    both = sorted([model_digest(teacher), model_digest("starter")])
    for names in (["starter", str(teacher), copy], [copy, str(teacher), "starter"]):
        assert [one.digest for one in read_teachers(names)] == both


@pytest.mark.parametrize(("init", "name"), [(None, "weights.safetensors"), ("0" * 64, None)])
def test_a_teacher_records_the_weights_of_its_encoder(teacher, tmp_path, init, name):
    card = read_card(teacher)
    recipe = card.recipe | {"weights": "/somewhere/weights.safetensors"}
    update = {"recipe": recipe, "provenance": card.provenance | {"init": init}}
    (one,) = read_teachers([str(changed(teacher, tmp_path / "m.safetensors", **update))])
    assert one.describe()["encoder_weights"] == name


def test_a_teacher_of_other_bands_is_refused(data, teacher, tmp_path):
    """Data of as many bands, read as red, green and blue, would give it another input."""
    prepared = replace(
        read_card(teacher).preprocessing, bands=("nir", "red", "green"), band_indices=(4, 1, 2)
    )
    other = changed(teacher, tmp_path / "m.safetensors", preprocessing=prepared)
    with pytest.raises(ModelError, match="--bands 4,1,2"):
        train(taught(other), data=data, out=tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut short", "a model", "one is missing", "other values"])
def test_a_damaged_file_is_computed_again(data, teacher, student, tmp_path, damage):
    file = tmp_path / SOFT_LABELS_NAME
    shutil.copy(teacher if damage == "a model" else student / SOFT_LABELS_NAME, file)
    about, arrays = read_tensor_metadata(file), dict(read_tensors(file))
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage != "a model":
        changed_map = {} if damage == "one is missing" else {"4": 0 * arrays["4"]}
        del arrays["4"]
        file.write_bytes(save({**arrays, **changed_map}, metadata=about))
    train(taught(teacher, more=("steps=1",)), data=data, out=tmp_path)
    assert_same_tensors(file, student / SOFT_LABELS_NAME)


def test_a_run_of_the_first_version_is_resumed_with_its_soft_labels(data, teacher, student):
    material = load_training_data(data, "folders", crop_px=32, model_gsd=None)
    parts = [1, model_digest(teacher), material.digest, 1.0, 4.0, *material.dataset.legend.scored_names]
    made_of = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    assert read_tensor_metadata(student / SOFT_LABELS_NAME)["made-of"] == made_of


def test_the_card_names_the_teacher(student, teacher):
    (entry,) = read_card(student).provenance["teachers"]
    its = read_card(teacher)
    assert entry["sha256"] == model_digest(teacher)
    assert entry["encoder"] == "test_efficientnet"
    assert (entry["split"], entry["step"]) == ("folders", its.provenance["step"])
    assert entry["init"] is entry["encoder_weights"] is None
    assert entry["teachers"] == its.provenance["teachers"] == []


def test_a_started_run_computes_nothing_again(data, teacher, student, tmp_path, monkeypatch):
    """Killed before its first checkpoint: the folder contains nothing but the soft labels."""
    kept = tmp_path / "run"
    kept.mkdir()
    shutil.copy(student / SOFT_LABELS_NAME, kept)
    monkeypatch.setattr(teachers, "_compute", lambda *_: pytest.fail("computed again"))
    train(taught(teacher), data=data, out=kept)
    assert_same_tensors(kept / "last.safetensors", student / "last.safetensors")
    train(taught(teacher), data=data, out=kept)  # which has ended


def test_killed_and_resumed_a_taught_run_ends_alike(data, teacher, student, tmp_path):
    config = taught(teacher, more=("checkpoint_steps=2",))
    assert train_apart(config, data, tmp_path / "run", "between step and average", 3) == -signal.SIGKILL
    assert train_apart(config, data, tmp_path / "run") == 0
    assert_same_tensors(tmp_path / "run" / "last.safetensors", student / "last.safetensors")


def test_another_teacher_is_another_run(data, teacher, student, tmp_path):
    shutil.copytree(student, tmp_path / "run")
    other = changed(teacher, tmp_path / "other.safetensors", temperature=2.0)
    with pytest.raises(ConfigError, match=r"differs in teachers .*unchanged files"):
        train(taught(other), data=data, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="differs in teachers"):
        train(tiny(), data=data, out=tmp_path / "run")
    moved = shutil.copy(teacher, tmp_path / "moved.safetensors")
    train(taught(moved), data=data, out=tmp_path / "run")  # a file may be moved


def images_of(data, split):
    """Fingerprints of the training images of a split."""
    material = load_training_data(data, split, crop_px=32, model_gsd=None)
    return image_set(material.dataset, material.train)


def teacher_of(data, split, *, legend=None, gsd=1.0, complete=True, **used):
    """A teacher of that split, with parts of its card replaced."""
    training = images_of(data, split).model_copy(update={"complete": complete}) if split else None
    card = make_card(gsd=gsd, legend=legend or open_dataset(data).legend)
    update = {"used_images": UsedImages(training=training, **used)}
    return Teacher("its-path", card.model_copy(update=update), "0" * 64)


@pytest.fixture
def check(caplog):
    """Check a teacher for a split; return the warnings."""

    def checked(data, split, taught_by):
        material = load_training_data(data, split, crop_px=32, model_gsd=None)
        caplog.clear()
        check_teachers([taught_by], material)
        return caplog.messages

    return checked


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Twelve tiles in six scenes, enough for folds by scene."""
    root = write_pairs(tmp_path_factory.mktemp("scenes"), train_images=12)
    rows = [f"train,{i:04},s{i // 2},0,{i % 2}" for i in range(12)]
    (root / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]) + "\n")
    return root


@pytest.mark.parametrize(
    ("student", "teacher", "may_teach"),
    [
        ("scenes-k3@0", "folders", False),
        ("scenes-k3@0", "scenes-k3@1", False),
        ("scenes-k3@0,1", "scenes-k3@0", False),  # which leaves 1 to nobody
        ("scenes-k3@0", "all", False),
        ("scenes-k3@0", "scenes-k3@0", True),
        ("scenes-k3@0", "scenes-k3@0,1", True),
        ("folders", "scenes-k3@2", True),
        ("all", "folders", True),
    ],
)
def test_a_teacher_of_the_same_images_or_fewer_may_teach(check, scenes, student, teacher, may_teach):
    if may_teach:
        assert check(scenes, student, teacher_of(scenes, teacher)) == []
        return
    with pytest.raises(DataError, match=r"its-path was trained on \d+ images .*train/00.*same split"):
        check(scenes, student, teacher_of(scenes, teacher))


def test_a_duplicate_of_a_training_image_is_not_held_out(check, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    shutil.copy(data / "train/0000_sat.jpg", data / "validation/0000_sat.jpg")
    assert check(data, "folders", teacher_of(data, "folders")) == []


def test_nothing_is_left_behind_by_a_refusal(scenes, teacher, tmp_path):
    train(tiny("steps=1"), data=scenes, out=tmp_path / "teacher")
    with pytest.raises(DataError, match="was trained on 4 images"):
        train(taught(tmp_path / "teacher"), data=scenes, out=tmp_path / "run", split="scenes-k3@0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("split", "complete"), [(None, True), ("scenes-k3@0", False)])
def test_what_is_not_recorded_is_a_warning(check, scenes, split, complete):
    (warning,) = check(scenes, "scenes-k3@0", teacher_of(scenes, split, complete=complete))
    assert "its-path are not fully recorded" in warning


@pytest.mark.parametrize("part", ["selection", "calibration"])
def test_a_teacher_that_was_selected_or_calibrated_on_held_out_images_is_a_warning(check, scenes, part):
    dataset = open_dataset(scenes)
    judged = image_set(dataset, select(dataset, "scenes-k3@0:val"))
    (warning,) = check(scenes, "scenes-k3@0", teacher_of(scenes, "scenes-k3@0", **{part: judged}))
    assert "its scores on 4 images" in warning


def test_the_card_lists_the_images_of_the_run_its_teacher_and_its_initial_model(scenes, tmp_path):
    """What reached the weights, whichever way; and which of it is not known."""

    def used(out, *settings, split="scenes-k3@0,1", **options):
        train(tiny("steps=1", *settings), data=scenes, out=tmp_path / out, split=split, **options)
        return read_card(tmp_path / out).used_images

    dataset = open_dataset(scenes)
    first = used("first", "validation.keep=best")
    assert first.training == images_of(scenes, "scenes-k3@0,1")
    assert first.selection == image_set(dataset, select(dataset, "scenes-k3@0,1:val"))
    last = used("last", "validation.keep=last", split="scenes-k3@0")
    assert (last.training, last.selection) == (images_of(scenes, "scenes-k3@0"), None)
    for name, options in (
        ("taught", {"settings": (f"teachers=[{tmp_path / 'first'}]", "validation.keep=last")}),
        ("tuned", {"settings": ("validation.keep=last",), "init": tmp_path / "first"}),
    ):
        settings = options.pop("settings")
        both = used(name, *settings, split="folders", **options)
        assert both.training.pixels == images_of(scenes, "folders").pixels | first.training.pixels
        assert both.training.complete
        assert both.selection == first.selection
    card, tensors = read_model(tmp_path / "first")
    save_model(tmp_path / "old.safetensors", tensors, card.model_copy(update={"used_images": UsedImages()}))
    old = used("of-old", "validation.keep=last", init=tmp_path / "old.safetensors")
    assert not old.training.complete


def test_a_teacher_of_other_classes_or_an_absurd_scale_is_refused(check, scenes):
    classes = open_dataset(scenes).legend.classes
    legend = Legend("other", (LandClass("lava", (9, 9, 9)), *classes[1:]), len(classes) - 1)
    with pytest.raises(ModelError, match=r"its-path has the classes lava.*the data have urban"):
        check(scenes, "folders", teacher_of(scenes, "folders", legend=legend))
    for gsd in (0.001, 5000):
        with pytest.raises(UsageError, match=rf"1 m per pixel and the teacher its-path .* {gsd:g} m"):
            check(scenes, "folders", teacher_of(scenes, "folders", gsd=gsd))


def test_a_missing_teacher_is_named(data, tmp_path):
    with pytest.raises(ModelError, match=r"The teacher nowhere cannot be read: .*nowhere"):
        train(taught("nowhere"), data=data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_several(data, teacher, tmp_path):
    settings = tmp_path / CONFIG_NAME
    settings.write_text(dump_yaml(tiny("steps=1")))
    arguments = ["train", "--data", data, "--out", tmp_path / "run", "--preset", settings]
    invoke(*arguments, "--teacher", teacher, "--teacher", "starter")
    encoders = {entry["encoder"] for entry in read_card(tmp_path / "run").provenance["teachers"]}
    assert encoders == {"test_efficientnet", "mobilenetv2_100"}
