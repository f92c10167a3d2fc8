"""Predict with --jobs: worker processes make the maps of one process, and lose one scene where one dies."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_world import MODEL, OPTIONS, make_scenes, tree
from landcover.inference import predict
from landcover.inference.workers import LocalEngine, work_through
from landcover.io.locks import locked_file

JOBS = OPTIONS.model_copy(update={"jobs": 2})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = make_scenes(tmp_path_factory.mktemp("scenes"))
    (folder / "bad.tif").write_text("no raster")
    return folder


@pytest.fixture(scope="module")
def alone(scenes, tmp_path_factory):
    """The result of one process, and its files."""
    out = tmp_path_factory.mktemp("alone")
    return predict([scenes], MODEL, out, OPTIONS), tree(out)


class Dying(LocalEngine):
    """Kills the process that gets the third scene: at least one of two has begun then."""

    submitted = 0

    def submit(self, key, unit):
        super().submit(key, unit)
        self.submitted += 1
        if self.submitted == 3:
            slot = next(slot for slot in self._workers if slot.key == key)
            os.kill(slot.worker.pid, signal.SIGKILL)


def test_two_processes_make_the_maps_of_one(scenes, alone, tmp_path):
    result = predict([scenes], MODEL, tmp_path, JOBS)
    assert result.failed == alone[0].failed
    assert [made.task.map.name for made in result.maps] == [made.task.map.name for made in alone[0].maps]
    assert result.areas == alone[0].areas
    assert tree(tmp_path) == alone[1]


def test_a_process_that_dies_costs_one_scene_and_a_locked_map_is_left_to_its_owner(
    scenes, alone, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("landcover.inference.maps.LocalEngine", Dying)
    (tmp_path / "sub").mkdir()
    with locked_file(tmp_path / "sub/a_mask.tif"), caplog.at_level(logging.INFO, "landcover"):
        result = predict([scenes], MODEL, tmp_path, JOBS)
    reasons = {Path(name).name: reason for name, reason in result.failed.items()}
    died = [name for name, reason in reasons.items() if "exit status -9" in reason]
    assert len(died) == 1
    assert reasons.keys() == {"bad.tif", "a.tif", *died}
    assert [message for message in caplog.messages if message.startswith("5 of 5")]
    assert len(result.maps) == 2
    again = predict([scenes], MODEL, tmp_path, OPTIONS.model_copy(update={"resume": True}))
    assert (len(again.kept), len(again.maps)) == (2, 2)
    assert tree(tmp_path) == alone[1]


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_what_workers_log_is_logged_by_their_driver(caplog, level):
    caplog.set_level(level, "landcover")
    units = iter(
        [(logging.INFO, "%s is read by windows", "a.tif"), (logging.WARNING, "%s has no place", "b")]
    )
    engine = LocalEngine(_logs, 1)
    try:
        list(work_through(engine, lambda: next((("key", unit) for unit in units), None)))
    finally:
        engine.close()
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    expected = [("landcover.x", 20, "a.tif is read by windows"), ("landcover.x", 30, "b has no place")]
    assert found == [one for one in expected if one[1] >= level]


def _logs():
    return lambda unit: logging.getLogger("landcover.x").log(*unit)


def test_the_script_of_the_caller_is_not_run_in_the_processes(scenes, alone, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import landcover as lc\n"
        "print('begun')\n"
        "options = lc.PredictOptions(window_px=64, overlap_px=16, gsd=2.0, jobs=2)\n"
        f"print(len(lc.predict([{str(scenes)!r}], {str(MODEL)!r}, 'out', options).maps))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["begun", "4"], done.stderr
    shutil.rmtree(tmp_path / "out")
