"""Scenes, plans and engines for the tests of fleets."""

import hashlib
from pathlib import Path

from imagefiles import photo, save, save_raster
from landcover.fleet.planning import make_plan
from landcover.fleet.run import Run, Summary
from landcover.fleet.units import Plan
from landcover.fleet.work import Setup, Worker
from landcover.inference import PredictOptions
from landcover.storage.store import open_store

MODEL = Path(__file__).parent / "golden/model.onnx"
OPTIONS = PredictOptions(window_px=64, overlap_px=16, gsd=2.0, min_region="20px", confidence=True)
UNIT_MPX = 0.01
"""So small that the scene ``large`` is three units and their assembly."""


def make_scenes(folder: Path) -> Path:
    """Write three small scenes, of which one is a picture, and a large one with a damaged block."""
    save_raster(folder / "sub/a.tif", photo(50, 40, 1), place=True)
    save_raster(folder / "b.tif", photo(40, 60, 2), place=True)
    save(folder / "c.png", photo(48, 48, 3))
    save_damaged(folder / "large.tif")
    return folder


def save_damaged(path: Path) -> None:
    """Write a georeferenced raster of 400 x 80 pixels with a block that cannot be read."""
    save_raster(
        path, photo(400, 80, 4), place=True, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)


def plan(scenes: Path, out: Path, **changes: object) -> Plan:
    options = OPTIONS.model_copy(update=changes)
    return make_plan([scenes], MODEL, str(out), options, unit_mpx=UNIT_MPX)


class Here:
    """An engine without processes, which ends the last unit that was submitted first."""

    slots = 2

    def __init__(self, out: Path) -> None:
        self.worker = Worker(Setup(str(out)))
        self.jobs: list[tuple[str, str]] = []
        self.done: list[str] = []

    def submit(self, key, line):
        assert len(self.jobs) < self.slots
        self.jobs.append((key, line))

    def wait(self, seconds):
        key, line = self.jobs.pop()
        self.done.append(key)
        yield key, self.worker(line)

    def close(self):
        pass


def run(out: Path, engine=None, **more) -> Summary:
    return Run(open_store(str(out)), engine or Here(out), **more).run()


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, hidden ones too, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
