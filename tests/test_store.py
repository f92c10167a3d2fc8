"""Stores: the same promises of a folder and of a bucket, and faults of the network."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from rasterio.transform import from_origin

from imagefiles import save_raster
from landcover.errors import DataError, LandcoverError, MissingKeyError, OutputError, StoreError, UsageError
from landcover.storage import bucket as buckets
from landcover.storage import scenes as addresses
from landcover.storage import store as stores
from landcover.storage.scenes import check_version, copy_or_address, scene_version
from landcover.storage.store import open_store
from object_storage import BUCKET, ENVIRONMENT, client

pytest.importorskip("obstore")
pytest.importorskip("moto")


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path, proxy):
    root = (
        tmp_path / "store" if request.param == "folder" else f"s3://{BUCKET}/{tmp_path.name}/{request.param}"
    )
    return open_store(root)


@pytest.fixture
def bucket(proxy, tmp_path):
    return open_store(f"s3://{BUCKET}/{tmp_path.name}")


def test_what_is_put_is_read(store, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3 << 20))
    store.put("maps/ä b.tif", source)
    assert store.read("maps/ä b.tif") == source.read_bytes()
    assert store.version("maps/ä b.tif").size == 3 << 20
    target.write_bytes(b"older")
    store.fetch("maps/ä b.tif", target)
    assert target.read_bytes() == source.read_bytes()
    before = store.version("maps/ä b.tif")
    store.put("maps/ä b.tif", b"")
    assert store.read("maps/ä b.tif") == b""
    assert store.version("maps/ä b.tif") != before
    assert store.exists("maps/ä b.tif")
    assert store.address("a/b") == f"{store.root}/a/b"


def test_a_missing_key_is_reported(store, tmp_path):
    for work in (store.read, store.version, lambda key: store.fetch(key, tmp_path / "copy")):
        with pytest.raises(MissingKeyError, match="no/such"):
            work("no/such")
    assert not store.exists("no/such")
    assert not store.exists("no")
    assert list(store.list("no")) == []
    assert not store.exists("credentials/account redirect AccessDenied")  # the name of an object is no answer
    store.delete("no/such")
    assert not (tmp_path / "copy").exists()


def test_put_new_writes_once(store):
    assert store.put_new("r/1", b"first")
    assert not store.put_new("r/1", b"second")
    assert store.read("r/1") == b"first"
    store.delete("r/1")
    assert store.put_new("r/1", b"third")


def test_of_eight_racers_one_wins(store):
    barrier = threading.Barrier(8)

    def race(number):
        barrier.wait()
        return store.put_new("race", bytes([number]) * 1000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert won.count(True) == 1
    assert store.read("race") == bytes([won.index(True)]) * 1000
    assert list(store.list()) == ["race"]


def test_list_is_by_folder_and_streamed(store):
    keys = {"a/1", "a/b/2", "ab/3", "c"}
    for key in keys:
        store.put(key, b"")
    assert set(store.list()) == keys
    assert set(store.list("a")) == {"a/1", "a/b/2"}
    assert len(list(islice(store.list(), 1))) == 1


@pytest.mark.parametrize(
    "key", ["", "/a", "a//b", "../a", "a/..", "a\\b", "a\nb", ".a.landcover-tmp.0", "a/"]
)
def test_a_key_leads_nowhere_else(store, key):
    for work in (
        store.read,
        store.delete,
        lambda key: store.put(key, b""),
        lambda key: store.put_new(key, b""),
    ):
        with pytest.raises(UsageError):
            work(key)


def test_a_store_that_keeps_the_promise_is_accepted(store):
    store.check()
    assert list(store.list()) == []


def test_a_folder_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(tmp_path / "store")
    store.check()
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda n: store.put_new("k", bytes([n])), range(4)))
    assert won.count(True) == 1
    assert list(store.list()) == ["k"]


def test_nothing_half_written_is_visible(tmp_path, monkeypatch):
    """A source that ends early for an error leaves the older object, or none."""
    store = open_store(tmp_path / "store")
    store.put("k", b"old")

    def fail(*_):
        raise OSError(errno.EIO, "disk", str(tmp_path / "source"))

    (tmp_path / "source").write_bytes(b"new")
    monkeypatch.setattr(stores.shutil, "copyfile", fail)
    for work in (store.put, store.put_new):
        for key in ("k", "other"):
            if (work, key) != (store.put_new, "k"):
                with pytest.raises(OSError, match="source"):
                    work(key, tmp_path / "source")
    assert {key: store.read(key) for key in store.list()} == {"k": b"old"}


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        open_store(tmp_path / "file").check()
    with pytest.raises(MissingKeyError):
        open_store(tmp_path / "file").read("a")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="store"):
        open_store(tmp_path / "store").check()


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/a",
        "s3://",
        "/vsis3/bucket/a",
        "s3://key:hidden@bucket/a",
        "s3://bucket/a?hidden=1",
        "s3://b/../a",
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UsageError) as refused:
        open_store(address)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("kind", ["500", "503:SlowDown", "lost"])
def test_a_failing_server_is_asked_again(bucket, proxy, tmp_path, kind):
    bucket.put("k", b"content")
    for method, work in {
        "PUT": lambda: bucket.put("k", b"content"),
        "GET /maps/[^?]": lambda: bucket.read("k"),
        "HEAD": lambda: bucket.version("k"),
        r"GET .*list-type": lambda: list(bucket.list()),
        "DELETE|POST": lambda: bucket.delete("gone"),
    }.items():
        proxy.faults[:] = [(kind, method, 2)]
        work()
        assert proxy.faults[0][2] == 0
    assert (
        client(proxy.target).get_object(Bucket=BUCKET, Key=f"{tmp_path.name}/k")["Body"].read() == b"content"
    )


def test_a_cut_answer_is_not_taken_as_the_object(bucket, proxy, tmp_path):
    content = os.urandom(1 << 20)
    bucket.put("k", content)
    proxy.faults[:] = [("cut", "GET", 2)]
    assert bucket.read("k") == content
    proxy.faults[:] = [("cut", "GET", 2)]
    bucket.fetch("k", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_a_slow_server(proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(buckets, "_TIMEOUT_S", 0.5)
    proxy.slow_s = 1.0
    bucket = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    proxy.faults[:] = [("slow", "PUT", 1)]
    bucket.put("k", b"content")
    proxy.faults[:] = [("slow", "GET", 1)]
    assert bucket.read("k") == b"content"


@pytest.mark.parametrize("times", [1, 2])
def test_a_conflict_of_writers_is_not_a_loss(bucket, proxy, times):
    """S3 answers 409 where two conditional writes race; neither may have written."""
    proxy.faults[:] = [("409:ConditionalRequestConflict", "PUT", times)]
    assert bucket.put_new("k", b"1")
    assert bucket.read("k") == b"1"


def test_an_endless_conflict_ends(bucket, proxy):
    proxy.faults[:] = [("409:ConditionalRequestConflict", "PUT", 1000)]
    with pytest.raises(StoreError):
        bucket.put_new("k", b"1")


def test_an_answer_lost_after_the_write(bucket, proxy):
    proxy.faults[:] = [("lost", "PUT", 1)]
    bucket.put_new("k", b"1")  # True or False
    assert bucket.read("k") == b"1"
    assert not bucket.put_new("k", b"2")


def test_a_large_file_in_parts(bucket, proxy, monkeypatch, tmp_path):
    """The parts of a failed upload are removed; a repeated one replaces the object only when it is whole."""
    monkeypatch.setattr(buckets, "_PART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(os.urandom(12 << 20))
    bucket.put("large", b"older")
    proxy.faults[:] = [("500", "PUT .*partNumber=2", 2)]
    bucket.put("large", source)
    assert bucket.read("large") == source.read_bytes()
    assert sum("partNumber" in request for request in proxy.requests) >= 5
    monkeypatch.setattr(buckets, "_ATTEMPTS", 2)
    proxy.faults[:] = [("403:AccessDenied", "PUT .*partNumber=2", 1000)]
    bucket.put("other", b"older")
    with pytest.raises(StoreError, match="denied"):
        bucket.put("other", source)
    assert bucket.read("other") == b"older"
    assert not client(proxy.target).list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_a_server_that_ignores_conditions_is_detected(bucket, proxy):
    proxy.faults[:] = [("unconditional", "PUT", 1000)]
    with pytest.raises(StoreError, match="If-None-Match"):
        bucket.check()
    assert list(bucket.list()) == []


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        ("403:AccessDenied", "denied"),
        ("400:ExpiredToken", "expired"),
        ("403:SignatureDoesNotMatch", "not valid"),
        ("403:InvalidAccessKeyId", "not valid"),
        ("301:PermanentRedirect", "AWS_REGION"),
        ("501:NotImplemented", "support"),
        ("418:Teapot", "418"),
    ],
)
def test_a_refusal_is_one_line_without_secrets(bucket, proxy, fault, fact):
    proxy.faults[:] = [(fault, "PUT|GET", 1000)]
    for work in (lambda: bucket.put("k", b""), lambda: bucket.put_new("k", b""), lambda: bucket.read("k")):
        with pytest.raises(StoreError) as refused:
            work()
        message = str(refused.value)
        assert fact in message
        assert f"{bucket.root}/k" in message
        assert "\n" not in message
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in message
        assert ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in message
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__


def test_a_server_that_stays_away(proxy, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StoreError, match="s3://maps/a/k"):
        open_store("s3://maps/a").put("k", b"")
    assert time.monotonic() - start < 20


def test_a_bucket_that_does_not_exist(proxy):
    store = open_store("s3://no-such-bucket/a")
    for work in (store.check, lambda: store.read("k"), lambda: list(store.list())):
        with pytest.raises(StoreError, match="bucket does not exist") as refused:
            work()
        assert not isinstance(refused.value, MissingKeyError)


def test_credentials_come_from_the_files_of_aws_too(proxy, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "survey")
    with pytest.raises(StoreError, match="survey"):
        open_store(f"s3://{BUCKET}/p")
    credentials.write_text("[survey]\naws_access_key_id = FROMFILE\naws_secret_access_key = s\n")
    config.write_text(f"[profile survey]\nregion = us-east-1\nendpoint_url = {proxy.address}\n")
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    store.put("k", b"1")
    assert store.read("k") == b"1"
    config.write_text("[profile survey\n")
    with pytest.raises(StoreError, match="config"):
        open_store(f"s3://{BUCKET}/p")


def test_no_credentials_at_all(proxy, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    proxy.faults[:] = [("404", "latest", 1000)]
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxy.address)
    with pytest.raises(StoreError, match="credentials"):
        open_store(f"s3://{BUCKET}/p").put("k", b"")


def test_other_clouds_are_opened_without_a_connection(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "survey")
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "aGlkZGVu")
    assert open_store("az://container/p").address("k") == "az://container/p/k"
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/no/such/file")
    with pytest.raises(LandcoverError):
        open_store("gs://bucket/p").put("k", b"")


def test_http_is_read_only(proxy, tmp_path):
    client(proxy.target).put_object(Bucket=BUCKET, Key="open/scene.tif", Body=b"pixels", ACL="public-read")
    store = open_store(f"{proxy.address}/{BUCKET}/open")
    assert store.read("scene.tif") == b"pixels"
    assert store.version("scene.tif").size == 6
    with pytest.raises(UsageError, match="written"):
        store.check()


@pytest.fixture
def scene(tmp_path):
    """Return a tiled GeoTIFF of noise, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    place = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 0.5, 0.5)}
    blocks = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    return save_raster(tmp_path / "scene.tif", pixels, **place, **blocks), pixels


def test_gdal_reads_windows_of_the_server_that_is_set(bucket, proxy, scene):
    from landcover.raster import open_scene
    from landcover.windows import Window

    path, pixels = scene
    bucket.put("a/scene.tif", path)
    proxy.requests.clear()
    with open_scene(bucket.address("a/scene.tif"), bbox=(500000, 4999936, 500064, 5000000)) as opened:
        assert opened.part == Window(0, 0, 128, 128)
        image = opened.read_rows(0, 128).image
    assert (image == pixels[:128, : image.shape[1]]).all()
    assert any("scene.tif" in request for request in proxy.requests)


def test_a_scene_is_its_version(bucket, scene, tmp_path):
    path, _ = scene
    bucket.put("scene.tif", path)
    address = bucket.address("scene.tif")
    version = scene_version(address)
    assert version.size == path.stat().st_size
    assert scene_version(address.replace("s3://", "/vsis3/")) == version
    folder = tmp_path / "scratch"
    folder.mkdir()
    image, note = copy_or_address(address, version.size, share=0.1, folder=folder)
    assert image == address
    assert address in note
    assert list(folder.iterdir()) == []
    copy, note = copy_or_address(address, version.size, share=1.0, folder=folder)
    assert copy.read_bytes() == path.read_bytes()
    assert address in note
    bucket.put("scene.tif", path.read_bytes()[:-1] + b"\0")  # of the same size
    with pytest.raises(DataError, match="changed"):
        check_version(address, version)
    bucket.delete("scene.tif")
    with pytest.raises(DataError, match="does not exist"):
        check_version(address, version)


def test_no_room_for_a_copy(bucket, scene, tmp_path, monkeypatch):
    path, _ = scene
    bucket.put("scene.tif", path)
    address = bucket.address("scene.tif")
    monkeypatch.setattr(addresses.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    image, note = copy_or_address(address, path.stat().st_size, share=1.0, folder=tmp_path)
    assert image == address
    assert "free" in note


def test_a_scene_that_is_replaced_is_read_again(bucket, scene):
    """GDAL would answer from its memory of the object before."""
    import rasterio

    from landcover._gdal import open_raster

    path, pixels = scene
    bucket.put("scene.tif", path)
    address = bucket.address("scene.tif")
    with open_raster(address) as first:
        assert (first.read().transpose(1, 2, 0) == pixels).all()
    with rasterio.open(path, "r+") as file:
        file.write(255 - pixels.transpose(2, 0, 1))
    bucket.put("scene.tif", path)
    with open_raster(address) as second:
        assert (second.read().transpose(1, 2, 0) == 255 - pixels).all()


def test_a_scene_that_is_refused_is_reported_so(bucket, proxy):
    """GDAL itself reports "not recognized as a supported file format"."""
    proxy.faults[:] = [("403", "HEAD", 1000)]
    with pytest.raises(StoreError, match=r"secret\.tif.*denied"):
        scene_version(bucket.address("secret.tif"))
