"""One process at a time writes an output; an output that vanishes during the work is an error."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import rasterio
import rasterio.shutil

from datafolders import write_folder
from fake_runtime import ColourRuntime, make_card
from landcover.data import open_dataset, prepare
from landcover.data.conversion import convert
from landcover.errors import LockedError, OutputLostError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.inference import PredictOptions, predict
from landcover.io.files import is_temporary, write_text
from landcover.io.locks import LOCK_NAME, locked_file, locked_folder
from landcover.model.card import save_model
from landcover.postprocess.cleaning import clean

HOLDER = """
import sys
from pathlib import Path
from landcover.io.locks import locked_file, locked_folder
with (locked_folder if sys.argv[1] == "folder" else locked_file)(Path(sys.argv[2])):
    print("mine", flush=True)
    sys.stdin.read()
"""
links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")


@pytest.fixture
def hold():
    """Return a function that lets another process lock a path; it returns that process."""
    started = []

    def start(kind, path):
        command = [sys.executable, "-c", HOLDER, kind, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_message_names_the_holder_and_a_killed_holder_does_no_harm(tmp_path, hold, kind):
    path = tmp_path / "deep" / "out"
    lock = locked_folder if kind == "folder" else locked_file
    other = hold(kind, path)
    expected = rf"out .*process {other.pid} on {re.escape(socket.gethostname())} since \d{{4}}-"
    with pytest.raises(LockedError, match=expected), lock(path):
        pass
    other.kill()
    other.wait()
    assert [file for file in (tmp_path / "deep").rglob("*") if file.name.endswith(LOCK_NAME)]  # stale
    with lock(path):
        pass
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_lock_leaves_nothing_behind_not_even_the_folders_that_it_made(tmp_path):
    with locked_file(tmp_path / "deep" / "deeper" / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_counts_as_temporary(tmp_path):
    with locked_folder(tmp_path):
        assert [is_temporary(path) for path in tmp_path.iterdir()] == [True]


@links
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe"])
def test_what_is_planted_in_place_of_a_lock_is_not_written_to(tmp_path, kind):
    victim, lock = tmp_path / "victim", tmp_path / "out" / LOCK_NAME
    victim.write_text("precious")
    lock.parent.mkdir()
    if kind == "hard link":
        lock.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(victim if kind == "link" else tmp_path / "missing")
    with locked_folder(lock.parent):
        assert lock.is_file()
        assert not lock.is_symlink()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("lost", ["removed", "replaced"])
def test_a_folder_that_vanishes_during_the_work_is_an_error(tmp_path, lost):
    out = tmp_path / "out"

    def work():
        with locked_file(out / "a.txt"):
            write_text(out / "a.txt", "text")
            out.rename(tmp_path / "elsewhere")
            if lost == "replaced":
                write_text(out / "a.txt", "text")

    with pytest.raises(OutputLostError, match="out"):
        work()


def run_clean(data, out):
    clean([data], out, min_region="4px")


def run_convert(data, out):
    convert([data], out, to="index")


def run_evaluate(data, out):
    data = open_dataset(data, gsd=0.5)
    evaluate(data, "all", model=ColourRuntime(make_card(gsd=0.5)), options=EvaluateOptions(maps=out))


@pytest.mark.parametrize("verb", [prepare, run_clean, run_convert, run_evaluate])
def test_a_verb_refuses_an_output_that_another_process_writes(tmp_path, hold, verb):
    write_folder(tmp_path / "data", "pairs")
    out = tmp_path / "out"
    other = hold("folder", out)
    with pytest.raises(LockedError, match=str(other.pid)):
        verb(tmp_path / "data", out)
    assert [path.name for path in out.iterdir()] == [LOCK_NAME]


def scenes(folder, count=3):
    write_folder(folder / "data", "pairs")
    images = [item.image for item in open_dataset(folder / "data").items]
    copies = []
    for number in range(count):
        copies.append(folder / f"scene{number}{images[number % len(images)].suffix}")
        shutil.copyfile(images[number % len(images)], copies[-1])
    return copies


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model file whose network is the nearest colour."""
    path = tmp_path / "model.safetensors"
    save_model(path, {}, make_card(gsd=0.5))
    monkeypatch.setattr(
        "landcover.inference.maps.open_model", lambda *_, **__: ColourRuntime(make_card(gsd=0.5))
    )
    return path


def test_predict_takes_the_next_scene_while_another_process_makes_one(tmp_path, hold, model):
    inputs, out = scenes(tmp_path), tmp_path / "out"
    other = hold("file", out / "scene0_mask.png")
    options = PredictOptions(gsd=0.5, resume=True)
    prediction = predict(inputs, model, out, options)
    assert [made.task.map.name for made in prediction.maps] == ["scene1_mask.png", "scene2_mask.png"]
    (reason,) = prediction.failed.values()
    assert f"process {other.pid} " in reason
    assert not prediction.complete
    other.kill()
    other.wait()
    again = predict(inputs, model, out, options)
    assert ([made.task.map.name for made in again.maps], len(again.kept)) == (["scene0_mask.png"], 2)
    assert again.complete


def test_a_map_that_another_process_made_meanwhile_is_kept(tmp_path, model, monkeypatch):
    inputs, out = scenes(tmp_path, 2), tmp_path / "out"
    options, originals = PredictOptions(gsd=0.5), []

    def busy_then_made(path):
        """The first scene is locked; when the second is taken, the other process has finished the first."""
        if path.name == "scene0_mask.png" and not originals:
            originals.append(path)
            raise LockedError("busy")
        if path.name == "scene1_mask.png":
            monkeypatch.undo()
            monkeypatch.setattr(
                "landcover.inference.maps.open_model", lambda *_, **__: ColourRuntime(make_card(gsd=0.5))
            )
            predict(inputs[:1], model, out, options)
        return locked_file(path)

    monkeypatch.setattr("landcover.inference.maps.locked_file", busy_then_made)
    prediction = predict(inputs, model, out, options)
    names = [[made.task.map.name for made in part] for part in (prediction.maps, prediction.kept)]
    assert names == [["scene1_mask.png"], ["scene0_mask.png"]]
    assert prediction.complete


def vanishing(monkeypatch, action):
    """Let something happen when the second image is opened."""
    from landcover.inference.plan import open_imagery

    def opened(task, *arguments):
        if "scene1" in task.name:
            action()
        return open_imagery(task, *arguments)

    monkeypatch.setattr("landcover.inference.maps.open_imagery", opened)


def test_maps_that_vanish_with_their_folder_are_reported(tmp_path, model, monkeypatch):
    inputs, out = scenes(tmp_path), tmp_path / "out"
    vanishing(monkeypatch, lambda: out.rename(tmp_path / "elsewhere"))
    prediction = predict(inputs, model, out, PredictOptions(gsd=0.5))
    assert [made.task.map.name for made in prediction.maps] == ["scene2_mask.png"]
    assert sorted(prediction.failed) == [str(path) for path in inputs[:2]]
    assert all(str(out) in reason for reason in prediction.failed.values())


@pytest.mark.parametrize("source", [False, True], ids=["file", "source of a VRT"])
@pytest.mark.parametrize("change", ["removed", "changed"])
def test_an_input_that_changes_while_it_is_read_is_an_error_of_that_scene(
    tmp_path, model, monkeypatch, change, source
):
    inputs, out = scenes(tmp_path), tmp_path / "out"
    changing = inputs[1]
    if source:
        inputs[1] = tmp_path / "scene1.vrt"
        with rasterio.open(changing) as picture:
            rasterio.shutil.copy(picture, inputs[1], driver="VRT")

    def classes(self, batch):
        if change == "removed":
            changing.unlink(missing_ok=True)
        else:
            with changing.open("ab") as file:
                file.write(b"more")
        return original(self, batch)

    original = ColourRuntime.coarse
    monkeypatch.setattr(ColourRuntime, "coarse", classes)
    prediction = predict(inputs[1:], model, out, PredictOptions(gsd=0.5))
    ((name, reason),) = prediction.failed.items()
    assert (name, "changed or removed" in reason) == (str(inputs[1]), True)
    assert [path.name for path in out.iterdir()] == ["scene2_mask.png"]
