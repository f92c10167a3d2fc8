"""The cache of compiled models: private, never in the way, and never trusted when damaged."""

import os
import sys

import numpy as np
import pytest

from landcover.model.runtimes import open_model
from landcover.model.runtimes import openvino_runtime as module
from landcover.model.runtimes.openvino_runtime import ModelCache, cache_folder

BATCH = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv(module.DISABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "landcover" / "openvino"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "home" / ".cache" / "landcover" / "openvino"
    monkeypatch.setenv(module.DISABLE, "1")
    assert cache_folder() is None


def test_entries_are_private_and_belong_to_one_identity(tmp_path):
    folder = tmp_path / "deep" / "cache"
    cache = ModelCache(folder, "model", 1)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"
    assert cache.read("b") is None
    assert ModelCache(folder, "model", 2).read("a") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_a_damaged_entry_is_not_used_and_is_written_again(tmp_path, damage):
    cache = ModelCache(tmp_path / "cache", "model")
    cache.write("a", b"content")
    [file] = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no POSIX modes")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    folder = tmp_path / "cache"
    cache = ModelCache(folder, "model")
    cache.write("a", b"content")
    folder.chmod(0o770)
    assert cache.read("a") is None
    cache.write("b", b"content")
    assert len(list(folder.iterdir())) == 1
    (tmp_path / "link").symlink_to(folder)
    folder.chmod(0o700)
    assert ModelCache(tmp_path / "link", "model").read("a") is None


def test_the_least_recently_used_entries_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 200)
    cache = ModelCache(tmp_path / "cache", "model")
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        cache.write(name, bytes(50))
        for file in (tmp_path / "cache").iterdir():
            os.utime(file, (1e9 - age, 1e9 - age)) if file.stat().st_mtime > 1e9 else None
    cache.write("d", bytes(50))
    assert [name for name in "abcd" if cache.read(name)] == ["c", "d"]


def test_a_cached_model_answers_alike_and_is_not_read_again(tmp_path, monkeypatch):
    expected = open_model("starter").coarse(BATCH)
    folder = tmp_path / "cache"
    assert np.array_equal(open_model("starter", cache=folder).coarse(BATCH), expected)
    cached = open_model("starter", cache=folder)
    assert np.array_equal(cached.coarse(BATCH), expected)
    assert "_network" not in vars(cached)
    assert cached.stride == open_model("starter").stride
    for file in folder.iterdir():  # damage all
        file.write_bytes(file.read_bytes()[:-1])
    again = open_model("starter", cache=folder)
    assert np.array_equal(again.coarse(BATCH), expected)
    assert "_network" in vars(again)


def test_an_entry_that_openvino_refuses_is_compiled_again(tmp_path, monkeypatch):
    write = ModelCache.write
    monkeypatch.setattr(
        ModelCache,
        "write",
        lambda cache, name, data: write(cache, name, b"4" if name == "stride" else b"no graph"),
    )
    expected = open_model("starter", cache=tmp_path / "cache").coarse(BATCH)
    assert np.array_equal(open_model("starter", cache=tmp_path / "cache").coarse(BATCH), expected)


def test_a_library_call_writes_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(module.DISABLE, raising=False)
    open_model("starter").coarse(BATCH)
    assert list(tmp_path.iterdir()) == []
