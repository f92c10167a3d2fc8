"""A fleet whose scenes, plan and maps are in object storage."""

import pytest
import rasterio

from fleet_world import MODEL, OPTIONS, UNIT_MPX, Here, make_scenes, plan, run
from imagefiles import photo, save_raster
from landcover.fleet.planning import make_plan
from landcover.fleet.results import merge, verify
from landcover.fleet.run import Summary
from landcover.fleet.store import open_store
from object_storage import BUCKET
from test_store import proxy, server  # noqa: F401 - fixtures

pytest.importorskip("obstore")
pytest.importorskip("moto")


def read(path):
    """Return the pixels and the tags of a map, but for the one that states path or address of its scene."""
    with rasterio.open(path) as source:
        return source.read().tobytes(), {k: v for k, v in source.tags().items() if k != "LANDCOVER_WORK"}


def test_maps_are_those_of_a_folder_and_faults_are_overcome(tmp_path, proxy):  # noqa: F811
    scenes, here = make_scenes(tmp_path / "scenes"), tmp_path / "here"
    save_raster(scenes / "large.tif", photo(400, 80, 8), place=True)  # damage of a remote file is a fault
    plan(scenes, here)
    assert run(here).complete
    root = f"s3://{BUCKET}/{tmp_path.name}"
    bucket = open_store(f"{root}/in")
    for name in ("sub/a.tif", "b.tif", "large.tif"):
        bucket.put(name, scenes / name)
    address = f"{root}/out"
    made = make_plan([f"{root}/in/"], MODEL, address, OPTIONS, unit_mpx=UNIT_MPX)
    assert (made.scenes, made.units, made.pixels) == (3, 6, 50 * 40 + 40 * 60 + 400 * 80)
    proxy.faults += [("503", "PUT .*/maps/b_mask.tif", 2), ("cut", "GET .*/parts/.*bin", 1)]
    summary = run(address, Here(address))
    assert summary == Summary(done=6, complete=True, repeated=summary.repeated)
    assert all(times == 0 for *_, times in proxy.faults)
    store = open_store(address)
    for name in ("sub/a_mask.tif", "b_mask.tif", "b_confidence.tif", "large_mask.tif"):
        store.fetch(f"maps/{name}", tmp_path / "fetched.tif")
        assert read(tmp_path / "fetched.tif") == read(here / "maps" / name)
    assert [*store.list("parts")] == [*store.list("runs")] == []
    found = verify(store)
    assert (found.maps, found.missing, found.damaged, found.orphans) == (3, [], [], [])
    assert merge(store, tmp_path / "all.tif").pixels.sum() > 0


def test_a_scene_that_was_replaced_since_the_plan(tmp_path, proxy):  # noqa: F811
    scenes, root = make_scenes(tmp_path / "scenes"), f"s3://{BUCKET}/{tmp_path.name}"
    bucket = open_store(root)
    bucket.put("in/b.tif", scenes / "b.tif")
    out = f"{root}/out"
    make_plan([f"{root}/in/"], MODEL, out, OPTIONS)
    bucket.put("in/b.tif", scenes / "large.tif")
    summary = run(out, Here(out))
    assert summary.repeated == 0
    assert "has changed since the plan" in summary.failed["maps/b_mask.tif"]
    assert [*bucket.list("out/maps")] == []
