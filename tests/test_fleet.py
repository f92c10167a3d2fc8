"""Fleets: the same bytes however the work was shared, killed and repeated; nothing is lost or left over."""

import hashlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fleet_world import MODEL, OPTIONS, Here, make_scenes, plan, run, tree
from imagefiles import photo, save_raster
from landcover.errors import DataError, LandcoverError, ModelError, OutputError, UsageError
from landcover.fleet.planning import make_plan
from landcover.fleet.run import Summary
from landcover.fleet.units import Outcome, Unit, read_plan, read_units
from landcover.fleet.work import LocalEngine, Setup
from landcover.inference import PredictOptions, predict
from landcover.storage.store import FolderStore, open_store
from stac_schemas import stac_errors


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def planned(scenes, tmp_path_factory):
    """A store with a plan and nothing else."""
    out = tmp_path_factory.mktemp("planned") / "out"
    plan(scenes, out)
    return out


@pytest.fixture(scope="module")
def undisturbed(planned, tmp_path_factory):
    """All files of a store after one undisturbed run."""
    out = shutil.copytree(planned, tmp_path_factory.mktemp("undisturbed") / "out")
    summary = run(out)
    assert summary == Summary(done=7, damaged=["maps/large_mask.tif"], complete=True)
    return tree(out)


@pytest.fixture
def out(planned, tmp_path):
    return shutil.copytree(planned, tmp_path / "out")


def test_minutes_depend_on_the_views(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("landcover.fleet.planning._speed", lambda runtime: 10.0)
    one, eight = (plan(scenes, tmp_path / str(views), views=views).minutes for views in (1, 8))
    assert eight == pytest.approx(8 * one, rel=0.01)


def units_of(out):
    store = open_store(str(out))
    return list(read_units(store, read_plan(store)))


def test_maps_are_those_of_predict_in_one_process(scenes, undisturbed, tmp_path):
    predict([scenes], MODEL, tmp_path / "predict", OPTIONS)
    maps = {name.removeprefix("maps/"): digest for name, digest in undisturbed.items() if name[:5] == "maps/"}
    expected = tree(tmp_path / "predict")
    assert "sub/a_mask.tif" in expected
    assert "large_confidence.tif" in expected
    assert expected == {name: digest for name, digest in maps.items() if not name.endswith(".json")}


def test_the_plan_splits_large_scenes_and_states_what_is_to_be_done(out):
    units = [unit for _, unit, _ in units_of(out)]
    large = [unit for unit in units if unit.output == "maps/large_mask.tif"]
    assert [unit.blocks is None for unit in large] == [False, False, False, True]
    assert len(large[-1].parts) == 3
    totals = read_plan(open_store(str(out)))
    pixels = 50 * 40 + 40 * 60 + 48 * 48 + 400 * 80
    assert (totals.scenes, totals.units) == (4, 7)
    assert totals.pixels == pytest.approx(pixels, abs=3)
    assert totals.square_km == pytest.approx(pixels * 4 / 1e6, rel=1e-3)
    assert totals.minutes > 0
    assert totals.bbox == pytest.approx((3.0, 51.449, 3.0006, 51.4512), abs=1e-3)


def test_a_plan_that_is_made_again_is_the_same(scenes, out):
    before = tree(out)
    plan(scenes, out)
    assert tree(out) == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shards_share_the_work_and_the_last_one_assembles(out, undisturbed, order):
    first = run(out, shard=(order[0], 2))
    assert first.waiting == ["maps/large_mask.tif"]
    assert not first.complete
    second = run(out, shard=(order[1], 2))
    assert first.done + second.done == 7
    assert second.complete
    assert tree(out) == undisturbed


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_large_scenes_whose_assemblies_are_shared(tmp_path, order):
    """Each is assembled once, by the shard that finds all of its blocks."""
    for name in "ab":
        save_raster(tmp_path / f"scenes/{name}.tif", photo(400, 80, ord(name)), place=True)
    plan(tmp_path / "scenes", tmp_path / "out")
    found = [run(tmp_path / "out", shard=(number, 3)) for number in order]
    assert [one.complete for one in found] == [False, False, True]
    assert sum(one.done for one in found) == 8
    assert [sorted(one.waiting) for one in found[:2]] == [["maps/a_mask.tif", "maps/b_mask.tif"]] * 2
    assert not [*(tmp_path / "out/parts").iterdir()]


@pytest.mark.parametrize(("number", "attempts"), [(1, 0), (3, 1)], ids=["starting", "working"])
def test_two_processes_of_which_one_is_killed(
    out, undisturbed, scenes, tmp_path, monkeypatch, caplog, number, attempts
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # empty: the model's file is compiled
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    class Killing(LocalEngine):
        submitted = 0

        def submit(self, key, line):
            super().submit(key, line)
            self.submitted += 1
            if self.submitted == number:
                slot = next(slot for slot in self._workers if slot.key == key)
                os.kill(slot.worker.pid, signal.SIGKILL)

    engine = Killing(Setup(str(out)), 2)
    try:
        summary = run(out, engine)
    finally:
        engine.close()
    assert (summary.done, summary.repeated, summary.failed) == (7, attempts, {})
    assert tree(out) == undisturbed
    warned = [text for text in caplog.messages if "damaged blocks" in text]
    assert [text.partition(": ")[0] for text in warned] == [str(scenes / "large.tif")]
    assert not [*(tmp_path / "scratch").iterdir()]  # the next process removes what the killed one left


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_write_and_run_again(out, undisturbed, seed, monkeypatch):
    """The driver or its only worker ends before, or right after, one of all changes of the store."""
    chance = random.Random(seed)
    left, after = chance.randint(1, 30), chance.random() < 0.5

    def deadly(change):
        def changed(*args):
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Killed
            result = change(*args)
            if left == 0:
                raise Killed
            return result

        return changed

    with monkeypatch.context() as patch:
        for name in ("put", "put_new", "delete"):
            patch.setattr(FolderStore, name, deadly(getattr(FolderStore, name)))
        with pytest.raises(Killed):
            run(out)
    for record in (out / "runs").glob("*"):  # a killed run leaves one, which is forgotten after an hour
        os.utime(record, (0, 0))
        data = json.loads(record.read_text())
        record.write_text(json.dumps(data | {"updated": 0}))
    assert run(out).complete
    assert tree(out) == undisturbed


def test_a_finished_plan_is_only_looked_through(out, undisturbed):
    run(out)
    again = run(out)
    assert (again.done, again.kept, again.complete) == (0, 7, True)
    assert tree(out) == undisturbed


class Faulty(Here):
    """Fails ``times`` times at each unit of a map."""

    def __init__(self, out, output, times, state="fault"):
        super().__init__(out)
        self.output, self.times, self.state = output, times, state

    def wait(self, seconds):
        key, line = self.jobs[-1]
        if json.loads(line)["output"] == self.output and self.times:
            self.times -= 1
            self.jobs.pop()
            yield key, Outcome(self.state, "the disk is on fire")
        else:
            yield from super().wait(seconds)


def test_a_fault_is_repeated_and_given_up_after_three_attempts(out, undisturbed):
    assert run(out, Faulty(out, "maps/b_mask.tif", 2)).repeated == 2
    shutil.rmtree(out / "maps")
    (out / "collection.json").unlink()
    summary = run(out, Faulty(out, "maps/b_mask.tif", 3))
    assert [*summary.failed] == ["maps/b_mask.tif"]
    (record,) = (json.loads(path.read_text()) for path in (out / "failed").iterdir())
    assert (record["attempts"], record["state"], record["error"]) == (3, "fault", "the disk is on fire")
    skipped = run(out)
    assert [*skipped.failed] == ["maps/b_mask.tif"]
    assert skipped.done == 0
    assert run(out, retry=True).complete
    assert tree(out) == undisturbed


def test_blocks_that_are_given_up_leave_their_map_waiting(out):
    summary = run(out, Faulty(out, "maps/large_mask.tif", 1, "refused"))
    assert [*summary.failed] == summary.waiting == ["maps/large_mask.tif"]
    assert not (out / "maps/large_mask.tif").exists()


def test_unit_after_unit_failing_stops_the_run(out):
    class Broken(Here):
        def wait(self, seconds):
            yield self.jobs.pop()[0], Outcome("fault", "no space left")

    with pytest.raises(OutputError, match="no space left"):
        run(out, Broken(out))


def test_a_scene_that_cannot_be_read_or_changed_is_refused_at_once(tmp_path):
    scenes = make_scenes(tmp_path / "scenes")
    (scenes / "b.tif").write_bytes(b"II*\0 but nothing else")
    plan(scenes, tmp_path / "out")
    (scenes / "sub/a.tif").write_bytes((scenes / "sub/a.tif").read_bytes() + b"more")
    touched = scenes / "c.png"
    os.utime(touched, (1, 1))  # the same content at another time
    summary = run(tmp_path / "out")
    assert summary.repeated == 0
    assert sorted(summary.failed) == ["maps/b_mask.png", "maps/sub/a_mask.tif"]
    assert "changed since the plan" in summary.failed["maps/sub/a_mask.tif"]
    assert str(scenes / "b.tif") in summary.failed["maps/b_mask.png"]


def test_two_plans_into_one_store(scenes, out):
    with pytest.raises(OutputError, match="another plan"):
        plan(scenes, out, views=3)
    with pytest.raises(OutputError, match="another plan"):
        plan(scenes / "sub", out)


def test_a_map_of_another_plan_is_not_taken_for_this_one(scenes, out, tmp_path):
    other = tmp_path / "other"
    plan(scenes, other, views=3)
    run(other)
    shutil.copytree(other / "maps", out / "maps")
    summary = run(out)
    assert (len(summary.failed), summary.complete) == (4, False)


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_plan_of_another_version_or_model_or_damaged(out):
    whole = (out / "plan.json").read_text()
    edited(out / "plan.json", version="0.1.9")
    with pytest.raises(UsageError, match=r"landcover 0\.1\.9.*this is landcover 0\.2"):
        run(out)
    (out / "plan.json").write_text(whole[:-9])
    with pytest.raises(DataError, match=r"plan\.json is damaged"):
        run(out)
    (out / "plan.json").unlink()
    with pytest.raises(DataError, match="landcover fleet plan"):
        run(out)
    (out / "plan.json").write_text(whole)
    model = next((out / "model").rglob("*.onnx"))
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="SHA-256"):
        run(out)
    engine = LocalEngine(Setup(str(out)), 1)  # the same from a process
    try:
        with pytest.raises(ModelError, match="SHA-256"):
            run(out, engine)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "6 units"),
        (lambda lines: [lines[0][:50], *lines[1:]], "line 1"),
        (lambda lines: [lines[0], lines[1].replace("2.0", "3.0"), *lines[2:]], "line 2"),
        (lambda lines: [*lines, lines[0]], "8 units"),
    ],
)
def test_a_damaged_list_of_units(out, change, message):
    engine = Here(out)
    (file,) = out.glob("plan-*.jsonl")
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
    with pytest.raises(DataError, match=message):
        run(out, engine)


def test_a_damaged_part_is_computed_again(out, undisturbed):
    run(out, shard=(0, 2))
    part = next((out / "parts").glob("*.bin"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert run(out, shard=(1, 2)).waiting == ["maps/large_mask.tif"]
    assert run(out).complete
    assert tree(out) == undisturbed


@pytest.mark.parametrize(
    ("inputs", "changes", "error"),
    [
        ([], {"gsd": None}, LandcoverError),
        (["nothing"], {}, DataError),
        (["."], {"jobs": 2}, UsageError),
        (["."], {"resume": True}, UsageError),
    ],
)
def test_plans_that_are_refused_leave_nothing(scenes, tmp_path, inputs, changes, error):
    options = PredictOptions(**({"gsd": 2.0} | changes))
    with pytest.raises(error):
        make_plan([scenes / name for name in inputs], MODEL, str(tmp_path / "out"), options)
    assert not (tmp_path / "out").exists()


def test_two_scenes_of_one_map(scenes, tmp_path):
    shutil.copy(scenes / "b.tif", tmp_path / "b.tif")
    with pytest.raises(OutputError, match="b_mask"):
        make_plan([scenes, tmp_path / "b.tif"], MODEL, str(tmp_path / "out"), OPTIONS)


def test_items_of_stac_are_planned_with_their_time_and_name(scenes, tmp_path):
    item = {
        "type": "Feature", "id": "S1/x", "properties": {"datetime": "2026-05-01T10:00:00Z"},
        "assets": {"thumb": {"href": "t.png", "roles": ["thumbnail"]},
                   "image": {"href": str(scenes / "b.tif"), "roles": ["data"], "type": "image/tiff"}},
        "links": [{"rel": "self", "href": "items/x.json"}],
    }  # fmt: skip
    file = tmp_path / "items.json"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    make_plan([file], MODEL, str(tmp_path / "out"), OPTIONS)
    assert run(tmp_path / "out").complete
    made = json.loads((tmp_path / "out/maps/S1_x_mask.tif.json").read_text())
    assert made["properties"]["datetime"] == "2026-05-01T10:00:00Z"
    assert {"rel": "derived_from", "href": "items/x.json"} in made["links"]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [{"id": "y", "assets": {}}]}))
    with pytest.raises(DataError, match="item 0"):
        make_plan([file], MODEL, str(tmp_path / "other"), OPTIONS)


def test_a_unit_survives_the_way_through_its_line(out):
    plan_ = read_plan(open_store(str(out)))
    for key, unit, line in units_of(out):
        assert isinstance(unit, Unit)
        assert plan_.parse(line) == (key, unit)
        assert Path(unit.scene).is_absolute()


def test_items_and_collection_are_valid_stac(undisturbed, planned, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    run(out)
    paths = [*out.rglob("maps/**/*_mask.*.json"), *out.glob("model/*/model.json"), out / "collection.json"]
    assert len(paths) == 6
    for path in paths:
        data = json.loads(path.read_text())
        assert not stac_errors(data)
        hrefs = [one["href"] for one in [*data["links"], *data.get("assets", {}).values()]]
        assert all((path.parent / href).resolve().is_file() for href in hrefs)
    item = json.loads((out / "maps/sub/a_mask.tif.json").read_text())
    properties, map_ = item["properties"], item["assets"]["map"]
    content = (out / "maps/sub/a_mask.tif").read_bytes()
    assert map_["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    assert map_["file:size"] == len(content)
    with rasterio.open(out / "maps/sub/a_mask.tif") as source:
        assert properties["proj:code"] == source.crs.to_string()
        assert properties["proj:shape"] == [*source.shape]
        assert properties["proj:transform"] == [*source.transform][:6]
        values, counts = np.unique(source.read(1), return_counts=True)
    classes = {one["value"]: one for one in map_["classification:classes"]}
    assert [classes[value]["count"] for value in values.tolist()] == counts.tolist()
    assert classes[255]["nodata"]
    assert properties["processing:software"]["landcover"]
    assert {link["rel"] for link in item["links"]} >= {"derived_from", "collection", "mlm:model"}
    model = json.loads(paths[-2].read_text())["assets"]["model"]
    assert model["file:checksum"].removeprefix("1220") == properties["landcover:model_sha256"]
    assert {"mlm:model", "data"} & {*model["roles"]}
