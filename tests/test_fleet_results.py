"""What is reported of a fleet, and the mosaic of its maps."""

import csv
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

from commands import invoke
from fleet_world import MODEL, OPTIONS, Here, run, tree
from imagefiles import UTM, photo, save_raster
from landcover import cli
from landcover.errors import DataError, OutputError, UsageError
from landcover.fleet.planning import make_plan
from landcover.fleet.results import failures, merge, status, verify
from landcover.fleet.run import Run, running
from landcover.fleet.units import read_plan
from landcover.legend import NODATA
from landcover.storage.store import open_store

HALF = {"crs": UTM, "transform": Affine(2.0, 0, 500_000, 0, -2.0, 5_700_000)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three scenes of which two overlap and the third has another CRS, mapped."""
    folder = tmp_path_factory.mktemp("made")
    whole = photo(90, 80, 5)
    save_raster(folder / "scenes/a.tif", whole[:60, :50], **HALF)
    moved = Affine(2.0, 0, 500_000 + 2 * 30, 0, -2.0, 5_700_000 - 2 * 20)
    save_raster(folder / "scenes/b.tif", photo(70, 50, 6), crs=UTM, transform=moved, nodata=0)
    degrees = Affine(2e-5, 0, 2.9975, 0, -2e-5, 51.4512)
    save_raster(folder / "scenes/c.tif", photo(50, 60, 7), crs="EPSG:4326", transform=degrees)
    make_plan([folder / "scenes"], MODEL, str(folder / "out"), OPTIONS)
    run(folder / "out")
    return folder / "out"


def read(path):
    with rasterio.open(path) as source:
        return source.read(1), source.transform


def test_the_mosaic_counts_overlaps_once_and_the_first_map_wins(made, tmp_path):
    out, table = tmp_path / "all.tif", tmp_path / "areas.csv"
    vector = tmp_path / "all.gpkg"
    done = invoke("fleet", "merge", made, "--out", out, "--vector", vector, "--csv", table, "--json", "-")
    mosaic, place = read(out)
    maps = {name: read(made / f"maps/{name}_mask.tif") for name in "abc"}
    for name in "ba":  # the first in the order of the plan is put down last
        index, own = maps[name]
        col, row = (round(v) for v in ~place * (own.c, own.f))
        window = mosaic[row : row + index.shape[0], col : col + index.shape[1]]
        if name == "b":
            own_part = np.s_[40:, 20:]  # where a does not reach
            np.testing.assert_array_equal(window[own_part], index[own_part])
        else:
            np.testing.assert_array_equal(window, index)
    inside = mosaic != NODATA
    assert 0.9 < (inside.sum() - 60 * 50 - (70 * 50 - 40 * 20)) * 4 / _ground(maps["c"]) < 1.1
    classes = json.loads(done.stdout)
    assert sum(one["pixels"] for one in classes) == inside.sum()
    assert sum(one["hectares"] for one in classes) == pytest.approx(inside.sum() * 4 / 1e4, rel=1e-3)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], int(row["pixels"])) for row in rows] == [(c["name"], c["pixels"]) for c in classes]
    import pyogrio

    areas = pyogrio.read_dataframe(vector, layer="all").area.sum()
    assert areas == pytest.approx(inside.sum() * 4, rel=1e-6)
    with pytest.raises(OutputError, match=r"all\.tif exists"):
        merge(open_store(made), out)


def test_a_vrt_is_the_mosaic_of_maps_on_one_grid(made, tmp_path):
    scenes = tmp_path / "scenes"
    shutil.copytree(made.parent / "scenes", scenes, ignore=shutil.ignore_patterns("c.tif"))
    out, store = tmp_path / "out", open_store(tmp_path / "out")
    make_plan([scenes], MODEL, store.root, OPTIONS)
    run(out)
    cog, _ = merge(store, tmp_path / "all.tif")
    done = invoke("fleet", "merge", out, "--out", tmp_path / "sub/all.vrt", "--json", "-")
    assert [one["pixels"] for one in json.loads(done.stdout)] == [area.pixels for area in cog.table()]
    with rasterio.open(tmp_path / "all.tif") as expected, rasterio.open(tmp_path / "sub/all.vrt") as found:
        np.testing.assert_array_equal(found.read(), expected.read())
        assert (found.crs, found.transform, found.nodata) == (expected.crs, expected.transform, NODATA)
        assert found.colormap(1)[0] == expected.colormap(1)[0]
        assert len(found.files) >= 3
    assert str(tmp_path) not in (tmp_path / "sub/all.vrt").read_text()
    with pytest.raises(DataError, match=r"c_mask\.tif is not on the grid.*\.tif"):
        merge(open_store(made), tmp_path / "other.vrt")
    with pytest.raises(UsageError, match=r"all\.png"):
        merge(open_store(made), tmp_path / "all.png")
    assert {path.name for path in tmp_path.iterdir()} == {"scenes", "out", "sub", "all.tif", *STYLE}


STYLE = "all.qml", "all.tif.aux.xml"


def _ground(map_):
    """Square metres of a map in degrees."""
    (height, width), place = map_[0].shape, map_[1]
    return height * width * place.a * -place.e * 111_320**2 * np.cos(np.radians(51.45)) * 0.9995


def test_no_ground_of_rotated_maps_is_lost(tmp_path):
    """Two adjoining scenes on a grid that is rotated by 30 degrees."""
    grid = Affine.translation(500_000, 5_700_000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    for number in (0, 1):
        place = grid @ Affine.translation(64 * number, 0)
        save_raster(tmp_path / f"in/{number}.tif", photo(64, 64, number), crs=UTM, transform=place)
    make_plan([tmp_path / "in"], MODEL, str(tmp_path / "out"), OPTIONS)
    run(tmp_path / "out")
    areas, _ = merge(open_store(tmp_path / "out"), tmp_path / "all.tif")
    mosaic, _ = read(tmp_path / "all.tif")
    assert (mosaic != NODATA).sum() == areas.pixels.sum() == 2 * 64 * 64


def test_a_scene_that_was_given_up_is_left_out_of_the_mosaic(made, tmp_path):
    scenes = shutil.copytree(made.parent / "scenes", tmp_path / "scenes")
    make_plan([scenes], MODEL, str(tmp_path / "out"), OPTIONS.model_copy(update={"context": False}))
    (scenes / "b.tif").write_bytes(b"")
    assert [*run(tmp_path / "out").failed] == ["maps/b_mask.tif"]
    done = invoke("fleet", "merge", tmp_path / "out", "--out", tmp_path / "all.tif", "--json", "-", status=1)
    assert "maps/b_mask.tif" in done.stderr
    mosaic, _ = read(tmp_path / "all.tif")
    assert sum(one["pixels"] for one in json.loads(done.stdout)) == (mosaic != NODATA).sum() > 60 * 50


def test_a_scene_that_could_not_be_read_when_it_was_planned_is_missed_in_the_mosaic(made, tmp_path):
    scenes = shutil.copytree(made.parent / "scenes", tmp_path / "scenes")
    (scenes / "b.tif").write_bytes(b"II*\0")
    save_raster(scenes / "placeless.png", photo(40, 40))
    make_plan([scenes], MODEL, str(tmp_path / "out"), OPTIONS)
    with pytest.raises(DataError, match=r"Finish the plan first"):
        merge(open_store(tmp_path / "out"), tmp_path / "all.tif")
    assert [*run(tmp_path / "out").failed] == ["maps/b_mask.png"]
    done = invoke("fleet", "merge", tmp_path / "out", "--out", tmp_path / "all.tif", status=1)
    assert "maps/b_mask.png is not in the mosaic" in done.stderr
    assert "1 maps are not in it" in done.stderr


@pytest.mark.parametrize("code", [32638, 32760])
def test_maps_that_are_far_apart_are_not_merged(tmp_path, code):
    save_raster(tmp_path / "in/a.tif", photo(40, 40), **HALF)
    save_raster(tmp_path / "in/b.tif", photo(40, 40), **HALF | {"crs": f"EPSG:{code}"})
    make_plan([tmp_path / "in"], MODEL, str(tmp_path / "out"), OPTIONS)
    run(tmp_path / "out")
    with pytest.raises(DataError, match=r"a_mask\.tif"):
        merge(open_store(tmp_path / "out"), tmp_path / "all.tif")
    assert not (tmp_path / "all.tif").exists()


def test_a_plan_that_is_not_finished_or_not_placed_is_not_merged(made, tmp_path):
    scenes = made.parent / "scenes"
    make_plan([scenes], MODEL, str(tmp_path / "one"), OPTIONS)
    with pytest.raises(DataError, match="a_mask"):
        merge(open_store(tmp_path / "one"), tmp_path / "all.tif")
    save_raster(tmp_path / "p/p.tif", photo(40, 40))
    make_plan([tmp_path / "p"], MODEL, str(tmp_path / "two"), OPTIONS)
    run(tmp_path / "two")
    with pytest.raises(DataError, match="no georeferenced map"):
        merge(open_store(tmp_path / "two"), tmp_path / "all.tif")
    assert not (tmp_path / "all.tif").exists()


def test_maps_without_a_place_are_left_out_with_a_warning(tmp_path, caplog):
    save_raster(tmp_path / "in/a.tif", photo(40, 40), **HALF)
    save_raster(tmp_path / "in/p.tif", photo(40, 40))
    make_plan([tmp_path / "in"], MODEL, str(tmp_path / "out"), OPTIONS)
    run(tmp_path / "out")
    merge(open_store(tmp_path / "out"), tmp_path / "all.tif")
    assert "lack 1 of 2 maps, which are not georeferenced (for example maps/p_mask.png)" in caplog.text


def test_verify_finds_every_damage(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    invoke("fleet", "verify", out)
    whole = verify(open_store(out))
    assert (whole.maps, whole.missing, whole.damaged, whole.orphans) == (3, [], [], [])
    files = [name for name in tree(out) if name.startswith("maps/") and not name.endswith(".json")]
    assert whole.files == len(files) + 1  # the model
    assert whole.size == sum(
        (out / name).stat().st_size for name in [*files, read_plan(open_store(out)).model]
    )
    changed = out / "maps/a_mask.tif"
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    (out / "maps/b_confidence.tif").unlink()
    (out / "maps/c_mask.tif.json").unlink()
    (out / "parts").mkdir()
    (out / "parts/1.bin").touch()
    found = verify(open_store(out))
    assert found.damaged == ["maps/a_mask.tif"]
    assert sorted(found.missing) == ["maps/b_confidence.tif", "maps/c_mask.tif"]
    assert {"parts/1.bin", "maps/c_mask.tif", "maps/c_confidence.tif"} <= {*found.orphans}
    assert "maps/a_mask.tif" not in found.orphans
    done = invoke("fleet", "verify", out / "plan.json", status=1)
    assert "maps/a_mask.tif is not what its receipt states" in done.stdout
    assert "maps/b_confidence.tif is missing" in done.stdout
    assert "delete its receipt" in done.stderr


def test_a_published_map_that_was_lost_is_made_again_as_the_messages_say(made, tmp_path, monkeypatch):
    monkeypatch.setattr("landcover.fleet.work.LocalEngine", lambda setup, workers: Here(setup.store))
    out, store = shutil.copytree(made, tmp_path / "out"), open_store(tmp_path / "out")
    before = tree(out / "maps")
    for name, lose in (("a_mask.tif", Path.unlink), ("b_mask.tif", lambda path: path.write_bytes(b""))):
        lose(out / "maps" / name)
        with pytest.raises(DataError, match=rf"{name}.* Delete .*{name}\.json.* landcover fleet run"):
            merge(store, tmp_path / "all.tif")
        assert not (tmp_path / "all.tif").exists()
        done = invoke("fleet", "run", out, status=None)
        is_gone = not (out / "maps" / name).exists()
        assert done.exit_code == is_gone
        assert (f"{out}/maps/{name}.json" in done.stderr) == is_gone
        assert ("All maps are in" in done.stderr) != is_gone
        assert status(store)["maps"] == 3 - is_gone
        (out / f"maps/{name}.json").unlink()
        assert run(out).complete
        found = verify(store)
        assert (found.missing, found.damaged) == ([], [])
    assert tree(out / "maps").keys() == before.keys()


def test_status_and_failures(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    make_plan([made.parent / "scenes"], MODEL, str(out), OPTIONS)
    seen = []

    class Watched(Here):
        def wait(self, seconds):
            if not seen:  # the clock is set back: a record is as old as the work
                monkeypatch.setattr(time, "time", lambda now=time.time: now() - 7200)
                run._beat()
            ((record, _),) = running(store)
            assert 0 <= record["updated"] - record["began"] < 600
            seen.append(status(open_store(out)))
            yield from super().wait(seconds)

    store = open_store(out)
    (made.parent / "scenes/b.tif").touch()
    run = Run(store, Watched(out))
    run.run()
    monkeypatch.undo()
    assert (seen[0]["scenes"], seen[0]["maps"], seen[0]["runs"]) == (3, 0, 1)
    record = {"updated": time.time(), "began": time.time() - 60, "in_flight": 2, "maps": 4, "failed": 0}
    store.put("runs/other.json", json.dumps(record).encode())
    (out / "maps/a_mask.tif.json").unlink()
    store.put("failed/k.json", b'{"scene": "s", "blocks": [1, 2], "attempts": 3, "error": "why"}')
    found = status(store)
    assert (found["maps"], found["running"], found["failed"]) == (2, 2, 1)
    assert found["maps_per_minute"] == pytest.approx(4, rel=1e-2)
    assert found["minutes_left"] == pytest.approx(0.25, abs=0.06)
    assert [one["error"] for one in failures(store)] == ["why"]
    for number, content in enumerate([b"", b"[]", b"{"]):
        store.put(f"failed/{number}.json", content)
    damaged = [*failures(store)][:3]
    assert [one["scene"] for one in damaged] == [f"failed/{number}.json" for number in range(3)]
    assert invoke("fleet", "failed", out).stdout.count("damaged") == 3
    for number in range(3):
        store.delete(f"failed/{number}.json")
    assert "2 of 3 maps done, 1 unit failed, 2 running" in invoke("fleet", "status", out).stdout
    done = invoke("fleet", "failed", out)
    assert "row blocks 1 to 2, 3 attempts: why" in done.stdout
    assert "Try 1 unit again" in done.stderr
    assert "plan again" not in done.stderr
    store.put("failed/k.json", b'{"state": "changed"}')
    done = invoke("fleet", "failed", out)
    assert "plan again" in done.stderr
    assert "--retry" not in done.stderr


def test_plan_and_run_by_the_command_line(made, tmp_path, monkeypatch):
    counts = []

    def engine(setup, workers):
        counts.append(workers)
        return Here(setup.store)

    monkeypatch.setattr("landcover.fleet.work.LocalEngine", engine)
    scenes, out = made.parent / "scenes/a.tif", tmp_path / "out"
    arguments = ["--model", MODEL, "--out", out, "--window", 64, "--overlap", 16, "--gsd", 2, "--json", "-"]
    done = invoke("fleet", "plan", scenes, *arguments)
    assert json.loads(done.stdout)["scenes"] == 1
    invoke("fleet", "run", out, "--workers", 2)
    assert counts == [1]  # the plan has one unit
    invoke("fleet", "run", out, "--workers", 1025, status=2)
    assert counts == [1]
    os.utime(made.parent / "scenes/c.tif", (1, 1))
    for words, message in (
        (["run", out, "--shard", "2/2"], "--shard is '2/2'"),
        ([], "fleet plan"),
    ):
        with pytest.raises(UsageError, match=message):
            invoke("fleet", *words)
    # What belongs to a run of predict is neither taken nor in the help.
    assert (
        "No such option: --jobs" in invoke("fleet", "plan", scenes, "--jobs", 2, *arguments, status=2).stderr
    )
    assert not re.search("--(jobs|resume|mosaic|zone)", invoke("help", "fleet", "plan").stdout)
    report = ["--json", tmp_path / "report.json"]
    invoke("fleet", "plan", scenes, *arguments[:-2], *report)
    with pytest.raises(OutputError, match="--force"):
        invoke("fleet", "plan", scenes, *arguments[:-2], *report)
    invoke("fleet", "plan", scenes, *arguments[:-2], *report, "--force")
    with pytest.raises(DataError, match=r"has no plan\.json"):
        invoke("fleet", "status", tmp_path)


SCHEDULERS = Path(__file__).parents[1] / "docs/how-to/fleets"


def job_of(name):
    """Return what a scheduler runs for the fourth job, the environment, and the number of jobs."""
    path = SCHEDULERS / name
    if name == "slurm.sh":
        first, last = re.search(r"^#SBATCH --array=(\d+)-(\d+)$", path.read_text(), re.MULTILINE).groups()
        count = int(last) - int(first) + 1
        return ["bash", path], {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": str(count)}, count
    data = yaml.safe_load(path.read_text())
    if name == "aws-batch.yaml":
        size = re.search(r"--array-properties size=(\d+)", path.read_text())
        command = data["containerProperties"]["command"]
        return command, {"AWS_BATCH_JOB_ARRAY_INDEX": "3"}, int(size[1])
    spec = data["spec"]
    if name == "kubernetes.yaml":
        (container,) = spec["template"]["spec"]["containers"]
        volumes = {one["name"] for one in spec["template"]["spec"]["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} == volumes
        assert (data["apiVersion"], data["kind"]) == ("batch/v1", "Job")
        assert (spec["completionMode"], spec["template"]["spec"]["restartPolicy"]) == ("Indexed", "Never")
        command = [*container["command"], *container["args"]]
        return command, {"JOB_COMPLETION_INDEX": "3"}, spec["completions"]
    templates = {one["name"]: one for one in spec["templates"]}
    steps = [step for group in templates[spec["entrypoint"]]["steps"] for step in group]
    assert {step["template"] for step in steps} == templates.keys() - {spec["entrypoint"]}
    given = {one["name"]: one["value"] for one in spec["arguments"]["parameters"]}
    names = {f"workflow.parameters.{name}": value for name, value in given.items()}
    assert names[steps[0]["withSequence"]["count"].strip("{}")] == given["shards"]
    names["inputs.parameters.number"] = "3"
    container = templates["shard"]["container"]
    words = [*container["command"], *container["args"]]
    return (
        [re.sub(r"{{(.+?)}}", lambda match: names[match[1]], word) for word in words],
        {},
        int(given["shards"]),
    )


@pytest.mark.parametrize("name", ["kubernetes.yaml", "aws-batch.yaml", "argo.yaml", "slurm.sh"])
def test_the_example_of_a_scheduler_runs_a_share(name, tmp_path):
    """Its command is run by a shell, with a program in place of landcover that prints its arguments."""
    for program, line in (("landcover", "printf '%s\\n' \"$@\""), ("srun", 'exec "$@"')):
        (tmp_path / program).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / program).chmod(0o755)
    command_, environment, count = job_of(name)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command_, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:2] == ["fleet", "run"]
    parsed = cli.command("fleet run").make_context("fleet run", words[2:]).params
    assert (parsed["shard"], parsed["plan"][-8:]) == (f"3/{count}", "/country")


def test_the_example_of_aws_batch_is_a_definition_of_a_job():
    """By the description of the service in its client."""
    validate, session = pytest.importorskip("botocore.validate"), pytest.importorskip("botocore.session")
    batch = session.get_session().get_service_model("batch").operation_model("RegisterJobDefinition")
    data = yaml.safe_load((SCHEDULERS / "aws-batch.yaml").read_text())
    report = validate.ParamValidator().validate(data, batch.input_shape)
    assert not report.has_errors(), report.generate_report()
