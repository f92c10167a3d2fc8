"""Fleets whose scenes and results are in object storage."""

import json
import random

import pytest
from rasterio.io import MemoryFile

from fleet_world import make_scenes, plan, run, tree
from landcover.errors import LandcoverError, StoreError, UsageError
from landcover.fleet.results import verify
from landcover.fleet.store import open_store
from object_storage import BUCKET, client


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = make_scenes(tmp_path_factory.mktemp("scenes"))
    (folder / "c.png").unlink()  # prefixes are searched for rasters
    return folder


@pytest.fixture(scope="module")
def undisturbed(scenes, tmp_path_factory):
    """The results from disk, to disk."""
    out = tmp_path_factory.mktemp("undisturbed")
    plan(scenes, out)
    assert run(out).complete
    return results(open_store(out))


def results(store):
    """Return pixels and tags of maps, and the bytes of other products, by key.

    The tag ``LANDCOVER_WORK`` names the scene by its address, and differs.
    """
    found = {}
    for key in store.list("maps"):
        content = store.read(key)
        if key.endswith(".tif"):
            with MemoryFile(content) as file, file.open() as raster:
                tags = {name: value for name, value in raster.tags().items() if name != "LANDCOVER_WORK"}
                found[key] = raster.read().tobytes(), raster.profile, tags, raster.tags(1)
        elif not key.endswith(".json"):
            found[key] = content
    return found


@pytest.fixture
def prefix(proxy, scenes, tmp_path):
    """Return the address of the scenes in the bucket."""
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}/scenes")
    for name in tree(scenes):
        store.put(name, scenes / name)
    return f"{store.root}/"


@pytest.fixture
def out(prefix):
    return prefix.replace("/scenes/", "/out")


def test_maps_are_those_from_disk(prefix, out, undisturbed):
    plan(prefix, out)
    assert run(out).complete
    assert results(open_store(out)) == undisturbed
    found = verify(open_store(out))
    assert (found.missing, found.damaged, found.orphans) == ([], [], [])


@pytest.mark.parametrize("seed", range(2))
def test_faults_of_the_store_change_nothing(prefix, out, proxy, undisturbed, seed):
    plan(prefix, out)
    rng = random.Random(seed)
    kinds = ["500", "503:SlowDown", "409:ConditionalRequestConflict", "lost", "cut"]
    proxy.faults[:] = [
        (rng.choice(kinds), rng.choice(["PUT", "GET", "HEAD", "DELETE"]), 1) for _ in range(30)
    ]
    assert run(out).complete
    proxy.faults.clear()
    assert results(open_store(out)) == undisturbed
    assert not list(open_store(out).list("parts"))
    assert not client(proxy.target).list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_a_scene_that_changed_is_refused(prefix, out, scenes):
    plan(prefix, out)
    changed = (scenes / "b.tif").read_bytes()
    open_store(prefix).put("b.tif", changed[:-1] + b"\0")
    summary = run(out)
    assert list(summary.failed) == ["maps/b_mask.tif"]
    assert f"{prefix}b.tif has changed" in summary.failed["maps/b_mask.tif"]
    record = json.loads(open_store(out).read(next(open_store(out).list("failed"))))
    assert record["input"]
    assert record["attempts"] == 1


def test_credentials_that_expire_end_the_run_which_resumes(prefix, out, proxy, undisturbed):
    plan(prefix, out)
    proxy.requests.clear()

    class Expiring(list):
        """Let so many requests pass."""

        def __iter__(self):
            return iter([("400:ExpiredToken", "", 10**6)] if len(proxy.requests) > 30 else [])

        def __setitem__(self, *_):
            pass

    proxy.faults = Expiring()
    try:
        with pytest.raises(LandcoverError, match="expired") as ended:
            run(out)
    finally:
        proxy.faults = []
    assert "\n" not in str(ended.value)
    assert not results(open_store(out)).keys() >= undisturbed.keys()
    assert run(out, retry=True).complete
    assert results(open_store(out)) == undisturbed


def test_a_bucket_that_does_not_exist_is_reported_before_the_work(prefix, scenes):
    with pytest.raises(StoreError, match="bucket does not exist"):
        plan(scenes, "s3://no-such-bucket/out")


def test_a_signed_address_is_not_written_into_a_plan(scenes, tmp_path):
    with pytest.raises(UsageError) as refused:
        plan("https://127.0.0.1:9/a.tif?sig=hidden", tmp_path / "out")
    assert "hidden" not in str(refused.value)
