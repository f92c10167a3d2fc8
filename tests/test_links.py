"""Symbolic links planted in an output folder: nothing outside is written, changed or deleted."""

import os
import stat
import sys

import numpy as np
import pytest

from datafolders import write_folder
from fake_runtime import ColourRuntime, make_card
from imagefiles import PLACE as GRID
from imagefiles import save_raster
from landcover.data import prepare
from landcover.errors import OutputError
from landcover.inference import PredictOptions, predict
from landcover.io import write_mask
from landcover.io.files import (
    atomic_path,
    open_append,
    work_folder,
    work_folder_path,
    write_text,
)
from landcover.legend import DEEPGLOBE
from landcover.model.card import save_model
from landcover.postprocess.cleaning import clean
from landcover.raster import Georeference, write_class_raster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")

PLACE = Georeference(100, 100, **GRID)
INDEX = np.random.default_rng(0).integers(0, 6, (8, 11), dtype=np.uint8).repeat(6, 0).repeat(6, 1)


@pytest.fixture
def victim(tmp_path):
    """A folder that must be the same after the test."""
    folder = tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    for name in ("file", "state.json", "index.raw", "sub/file"):
        (folder / name).write_text("precious")
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


def snapshot(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


TARGETS = {"file": "file", "folder": "sub", "dangling": "missing"}


@pytest.fixture(params=TARGETS)
def plant(request, victim):
    """Create a symbolic link to a file, to a folder or to nothing, under any name."""

    def link(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(victim / TARGETS[request.param])

    return link


def scene(path):
    return save_raster(path, DEEPGLOBE.colours[INDEX], place=True)


def run_predict(tmp_path, *, force=False, resume=False):
    source = tmp_path / "a.tif"
    if not source.exists():
        scene(source)
    runtime = ColourRuntime(make_card(gsd=0.5))
    options = PredictOptions(force=force, probabilities=True, confidence=True, vector="gpkg")
    return predict([source], runtime, tmp_path / "out", options).failed


def run_clean(tmp_path, *, force=False):
    write_class_raster(tmp_path / "a_mask.tif", INDEX, DEEPGLOBE, PLACE, force=True)
    clean([tmp_path / "a_mask.tif"], tmp_path / "out", min_region="9px", force=force)


def run_prepare(tmp_path, *, force=False):
    write_folder(tmp_path / "data", "restarting")
    prepare(tmp_path / "data", tmp_path / "out", force=force)


def run_model(tmp_path, *, force=False):
    save_model(tmp_path / "out/model.safetensors", {"a": np.zeros(3)}, make_card(), force=force)


def run_png(tmp_path, *, force=False):
    write_mask(tmp_path / "out/a.png", INDEX, DEEPGLOBE, force=force)


def run_text(tmp_path, *, force=False):
    write_text(tmp_path / "out/report.json", "{}", force=force)


OUTPUTS = [
    (run_predict, "a_mask.tif"),
    (run_predict, "a_mask.qml"),
    (run_predict, "a_mask.tif.aux.xml"),
    (run_predict, "a_mask.gpkg"),
    (run_predict, "a_probabilities.tif"),
    (run_clean, "a_mask.tif"),
    (run_model, "model.safetensors"),
    (run_png, "a.png"),
    (run_text, "report.json"),
]


@pytest.mark.parametrize(("write", "name"), OUTPUTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_link_in_place_of_an_output_is_refused_and_replaced_with_force(tmp_path, plant, write, name):
    output = tmp_path / "out" / name
    plant(output)
    with pytest.raises(OutputError, match=rf"{name} .*--force"):
        write(tmp_path)
    assert output.is_symlink()
    assert not write(tmp_path, force=True)
    assert not output.is_symlink()
    assert output.stat().st_size > 0


WORK_FILES = [
    (run_predict, ".a_mask.tif.landcover-tmp"),
    (run_predict, ".a_mask.tif.landcover-tmp.pixels"),
    (run_predict, ".a_mask.4242.landcover-tmp.tif"),
    (run_predict, ".a_mask.4242.landcover-tmp.tif.aux.xml"),
    (run_predict, ".a_mask.landcover-tmp.0123abcd"),
    (run_predict, "a_mask.tif.ovr"),
    (run_predict, "a_mask.tif.msk"),
    (run_predict, "a_mask.gpkg-journal"),
    (run_predict, "a_mask.gpkg-wal"),
    (run_clean, ".a_mask.tif.landcover-tmp"),
    (run_clean, ".a_mask.tif.landcover-tmp.pixels"),
    (run_clean, ".a_mask.landcover-tmp.0123abcd"),
    (run_prepare, ".images.landcover-tmp.0123abcd"),
    (run_prepare, ".images.4711.landcover-tmp.bin"),
    (run_model, ".model.landcover-tmp.0123abcd"),
]


@pytest.mark.parametrize(("write", "name"), WORK_FILES, ids=lambda value: getattr(value, "__name__", value))
def test_a_link_in_place_of_a_work_file_is_not_followed(tmp_path, plant, write, name):
    plant(tmp_path / "out" / name)
    failed = write(tmp_path)
    assert not failed or name in str(failed)  # GDAL would read what is beside a map: it is refused by name


@pytest.fixture
def large(monkeypatch):
    """Let every map be too large for memory."""
    monkeypatch.setattr("landcover.inference.scene.IN_MEMORY_PIXELS", 0)


@pytest.mark.usefixtures("large")
def test_a_link_in_place_of_the_work_folder_of_a_large_scene_is_refused(tmp_path, plant):
    link = tmp_path / "out/.a_mask.tif.landcover-tmp"
    plant(link)
    (message,) = run_predict(tmp_path).values()
    assert str(link) in message
    link.unlink()
    assert not run_predict(tmp_path)
    assert (tmp_path / "out/a_mask.tif").exists()


@pytest.mark.usefixtures("large")
def test_links_inside_a_planted_work_folder_are_removed_alone(tmp_path, plant):
    """An archive that the user unpacked can bring a folder of the right name, owner and mode."""
    folder = tmp_path / "out/.a_mask.tif.landcover-tmp"
    folder.mkdir(mode=0o700, parents=True)
    for name in ("work.json", "block-00000.json", "classes.raw", "classes.vrt", "other"):
        plant(folder / name)
    assert not run_predict(tmp_path)
    assert not folder.exists()


def test_a_work_folder_is_private_and_its_files_are_new(tmp_path, plant):
    target = tmp_path / "map.tif"
    with work_folder(target) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        for name in ("created", "written", "opened"):
            plant(folder.path / name)
        with folder.create("created") as file:
            file.write(b"rows")
        folder.write("written", b"state")
        with pytest.raises(OutputError, match="opened"):
            folder.open("opened")
        assert not any((folder.path / name).is_symlink() for name in ("created", "written"))
        assert {path.read_bytes() for path in map(folder.path.joinpath, ("created", "written"))} == {
            b"rows",
            b"state",
        }


def test_a_hard_link_in_a_work_folder_is_not_opened(tmp_path, victim):
    with work_folder(tmp_path / "map.tif") as folder:
        (folder.path / "index.raw").hardlink_to(victim / "index.raw")
        with pytest.raises(OutputError, match=r"index\.raw"):
            folder.open("index.raw")
        folder.delete()


def test_a_folder_that_others_may_write_to_is_made_private(tmp_path):
    place = work_folder_path(tmp_path / "map.tif")
    place.mkdir()
    place.chmod(0o777)
    with work_folder(tmp_path / "map.tif"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a folder away")
def test_a_work_folder_of_another_user_is_refused(tmp_path):
    place = work_folder_path(tmp_path / "map.tif")
    place.mkdir()
    os.chown(place, 12345, 12345)
    with pytest.raises(OutputError, match="another user"), work_folder(tmp_path / "map.tif"):
        pass
    assert place.stat().st_uid == 12345


def test_unfinished_files_have_names_that_nobody_can_prepare(tmp_path):
    folders = set()
    for _ in range(3):
        with atomic_path(tmp_path / "a.tif", force=True) as temporary:
            temporary.touch()
            folders.add(temporary.parent)
            assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
    assert len(folders) == 3


def test_a_log_is_not_appended_through_a_link(tmp_path, plant):
    plant(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match=r"log\.jsonl"):
        open_append(tmp_path / "log.jsonl")
