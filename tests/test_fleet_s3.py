"""Fleets whose scenes and results are in object storage."""

import json
import random
import subprocess
import sys

import pytest

from fleet_world import MODEL, OPTIONS, make_scenes, plan, run, tree
from landcover.errors import LandcoverError, OutputError, StoreError, UsageError
from landcover.fleet.ray_engine import RayEngine
from landcover.fleet.results import verify
from landcover.fleet.work import LocalEngine, Setup
from landcover.inference import predict, scene
from landcover.storage import scenes as addresses
from landcover.storage.store import open_store
from object_storage import BUCKET, client


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = make_scenes(tmp_path_factory.mktemp("scenes"))
    (folder / "c.png").unlink()  # prefixes are searched for rasters
    return folder


@pytest.fixture(scope="module")
def undisturbed(scenes, tmp_path_factory):
    """The results from disk, to disk; as of addresses, whose scenes are read without neighbours."""
    out = tmp_path_factory.mktemp("undisturbed")
    plan(scenes, out, context=False)
    assert run(out).complete
    return results(open_store(out))


def results(store):
    """Return the bytes of maps and other products, and of receipts what does not name the scene."""
    found = {}
    for key in store.list("maps"):
        found[key] = store.read(key)
        if key.endswith(".json"):
            item = json.loads(found[key])
            del item["properties"]["landcover:unit"], item["properties"]["landcover:inputs"]
            item["links"] = [link for link in item["links"] if link["rel"] != "derived_from"]
            found[key] = item
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


@pytest.mark.parametrize("how", ["one process", "two processes", "two shards", "two actors"])
def test_bytes_are_those_from_disk(prefix, out, undisturbed, how, tmp_path, monkeypatch):
    """Small scenes are copied; the large one is read by windows, and copied where that shows damage."""
    plan(prefix, out)
    if how in ("two processes", "two actors"):
        if how == "two processes":
            engine = LocalEngine(Setup(out, threads=1), 2)
        else:
            monkeypatch.setenv("RAY_AUTH_MODE", "token")  # Ray reads it where it is imported
            pytest.importorskip("ray", reason="Ray is not installed", exc_type=ImportError)
            (tmp_path / "token").write_text("0123456789abcdef" * 4)
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
            engine = RayEngine(Setup(out), 2)
        try:
            assert run(out, engine).complete
        finally:
            engine.close()
    elif how == "two shards":
        assert run(out, shard=(0, 2)).waiting
        assert run(out, shard=(1, 2)).complete
    else:
        assert run(out).complete
    assert results(open_store(out)) == undisturbed
    found = verify(open_store(out))
    assert (found.missing, found.damaged, found.orphans) == ([], [], [])


def test_a_large_object_is_identified_by_pieces(prefix, monkeypatch, tmp_path, scenes):
    monkeypatch.setattr(scene, "SAMPLE_BYTES", 64)
    size = (scenes / "large.tif").stat().st_size
    assert len(scene.sampled(size)) == 64
    assert scene.sampled(size)[-1][1] == size
    here = scene._file_digest(scenes / "large.tif")
    assert (
        scene.content_digest(size, addresses.scene_pieces(f"{prefix}large.tif", scene.sampled(size))) == here
    )
    content = bytearray((scenes / "large.tif").read_bytes())
    content[-1] ^= 1
    (tmp_path / "other.tif").write_bytes(content)
    assert scene._file_digest(tmp_path / "other.tif") != here


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
    assert record["state"] == "changed"
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


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_predict_does_not_keep_the_map_of_an_address_that_changed(prefix, proxy, scenes, tmp_path, scheme):
    options, address = OPTIONS.model_copy(update={"resume": True}), f"{prefix}b.tif"
    if scheme == "http":
        key = f"{tmp_path.name}/scenes/b.tif"
        client(proxy.target).put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")
        address = address.replace("s3://", f"{proxy.address}/")
    assert len(predict([address], MODEL, tmp_path, options).maps) == 1
    assert len(predict([address], MODEL, tmp_path, options).kept) == 1
    body = (scenes / "sub/a.tif").read_bytes()
    client(proxy.target).put_object(
        Bucket=BUCKET, Key=f"{tmp_path.name}/scenes/b.tif", Body=body, ACL="public-read"
    )
    with pytest.raises(OutputError, match="another scene"):
        predict([address], MODEL, tmp_path, options)


def test_a_bucket_that_does_not_exist_is_reported_before_the_work(prefix, scenes):
    with pytest.raises(StoreError, match="bucket does not exist"):
        plan(scenes, "s3://no-such-bucket/out")


def test_the_command_line_reads_addresses_and_explains_those_it_cannot(prefix, proxy, tmp_path):
    """In a process of its own, where GDAL may open little else."""
    proxy.faults[:] = [("403:AccessDenied", "/denied", 100), ("400:ExpiredToken", "/expired", 100)]
    names = [f"{prefix}{name}.tif" for name in ("b", "none", "denied", "expired")]
    command = [sys.executable, "-m", "landcover", "predict", *names, "s3://no-such-bucket/a.tif"]
    command += ["--model", str(MODEL), "--gsd", "2", "--out", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    proxy.faults[:] = []
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "out").glob("*_mask.tif")] == ["b_mask.tif"]
    lines = [line for line in done.stderr.splitlines() if "cannot be read" in line]
    words = ["does not exist", "access is denied", "credentials have expired", "bucket does not exist"]
    for line, name, word in zip(lines, [*names[1:], "s3://no-such-bucket"], words, strict=True):
        assert name in line
        assert word in line


@pytest.mark.parametrize("address", ["127.0.0.1:9/a.tif?sig=hidden", "u:hidden@127.0.0.1:9/a.tif"])
def test_a_signed_address_is_not_written_into_a_plan(address, tmp_path):
    with pytest.raises(UsageError) as refused:
        plan(f"https://{address}", tmp_path / "out")
    assert "hidden" not in str(refused.value)
