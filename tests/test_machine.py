"""Memory, processors and disk of the machine, and errors of lacking them."""

import errno
import subprocess
import sys
from typing import NamedTuple

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fake_runtime import ColourRuntime, make_card
from landcover import machine
from landcover.data import open_dataset, prepare
from landcover.errors import LandcoverError, OutOfMemoryError, OutputError
from landcover.inference import predict
from landcover.machine import check_disk, free_memory, lacks_memory, needing_memory, processors
from training_world import write_pairs

GB = 10**9


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes files of /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    write({"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GB // 1024} kB\nSwapFree: 0 kB\n"})
    return write


V2 = {
    "proc/self/cgroup": "0::/job/step\n",
    "cgroup/job/memory.max": f"{3 * GB}\n",
    "cgroup/job/memory.current": f"{2 * GB}\n",
    "cgroup/job/memory.stat": f"anon 1\ninactive_file {GB // 2}\n",
    "cgroup/job/step/memory.max": "max\n",
    "cgroup/job/step/memory.current": "5\n",
    "cgroup/job/cpu.max": "150000 100000\n",
    "cgroup/job/step/cpu.max": "max 100000\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/elsewhere/job\n1:name=systemd:/\n",
    "cgroup/memory/memory.limit_in_bytes": f"{3 * GB}\n",
    "cgroup/memory/memory.usage_in_bytes": f"{2 * GB}\n",
    "cgroup/memory/memory.stat": f"cache 7\ntotal_inactive_file {GB // 2}\n",
    "cgroup/cpu/job/cpu.cfs_quota_us": "50000\n",
    "cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
    "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "cgroup/cpu/cpu.cfs_period_us": "100000\n",
}


def test_without_control_groups_the_machine_counts(system):
    assert free_memory() == pytest.approx(8 * GB, rel=0.01)


@pytest.mark.parametrize("files", [V1, V2], ids=["version 1", "version 2"])
def test_the_tightest_control_group_counts(system, files):
    system(files)
    assert free_memory() == 1.5 * GB  # what is cached of files can go


def test_processors_are_those_of_affinity_and_quota(system, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert processors() == 4
    system(V2)
    assert processors() == 2
    system(V1)
    assert processors() == 1


def test_idle_processors_are_counted_on_those_of_this_process(system, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    text = "cpu 0 0 0 0\ncpu0 {0} 0 0 {1} 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\ncpu2 0 0 0 {2} 0 0 0 0\n"
    system({"proc/stat": text.format(0, 0, 0)})
    monkeypatch.setattr(machine.time, "sleep", lambda _: system({"proc/stat": text.format(15, 5, 20)}))
    assert machine.idle_processors() == 1.25  # a quarter of the one, all of the other


def test_a_need_beyond_what_is_free_is_refused_before_the_work(system):
    expected = r"big\.png .*160 GB.*8\.0 GB.*--window"
    with (
        pytest.raises(OutOfMemoryError, match=expected) as caught,
        needing_memory(160 * GB, "big.png", "Pass --window."),
    ):
        pytest.fail("began")
    assert isinstance(caught.value, LandcoverError)
    with needing_memory(7 * GB, "small.png", ""):
        pass


def chained(cause):
    try:
        raise cause
    except Exception as error:
        try:
            raise ValueError("cannot be read") from error
        except ValueError as outer:
            return outer


class CPLE_OutOfMemoryError(Exception):  # noqa: N801 - as GDAL's is called
    pass


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("Exception from src/inference/src/cpp/core.cpp:109:\nstd::bad_alloc"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("can't start new thread"), True),
        (CPLE_OutOfMemoryError("out of memory allocating 5 bytes"), True),
        (chained(MemoryError()), True),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (RuntimeException("Failed to allocate memory for requested buffer of size 160000000000"), True),
        (ImportError("No module named 'x'"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),  # the text of somebody's file
    ],
    ids=repr,
)
def test_failed_allocations_of_all_libraries_are_recognised(error, lacks):
    assert lacks_memory(error) is lacks
    expected = OutOfMemoryError if lacks else type(error)
    with pytest.raises(expected), needing_memory(0, "scene.tif", "Do this."):
        raise error


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses ulimit -v")
def test_the_limit_of_the_address_space_counts():
    code = (
        "import resource\nfrom landcover.machine import free_memory, needing_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\nassert 0 < free_memory() < 10**9\n"
        "with needing_memory(0, 'x', ''):\n    bytearray(2 * 10**9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("landcover.errors.OutOfMemoryError: x needs")


def test_disk_space_is_checked_where_the_output_will_be(tmp_path):
    check_disk(tmp_path / "not" / "yet", 1, "A map")
    with pytest.raises(OutputError, match=r"A map .*GB.*not.*GB.* are free"):
        check_disk(tmp_path / "not" / "yet", 10**18, "A map")


@pytest.fixture
def full(monkeypatch):
    """A disk with one kilobyte left."""
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def run_train(data, out):
    from landcover.training import train
    from training_world import tiny

    train(tiny(), data=data, out=out)


def run_predict(data, out):
    images = [item.image for item in open_dataset(data).items][:1]
    prediction = predict(images, ColourRuntime(make_card(gsd=1.0)), out)
    for reason in prediction.failed.values():
        raise OutputError(reason)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("verb", [prepare, run_train, run_predict])
def test_a_full_disk_is_reported_before_the_work(tmp_path, verb):
    data = write_pairs(tmp_path / "data")
    with pytest.raises(OutputError, match=r"needs about .* of disk space in .*out.*; 1,000 bytes are free"):
        verb(data, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize(("quota", "threads"), [(1, 1), (4, None)])
def test_openvino_gets_the_quota_of_a_control_group(monkeypatch, quota, threads):
    from landcover.model.runtimes import openvino_runtime

    monkeypatch.setattr(openvino_runtime, "processors", lambda: quota)
    monkeypatch.setattr(openvino_runtime.os, "cpu_count", lambda: 4)
    assert openvino_runtime.cpu_settings().get("INFERENCE_NUM_THREADS") == threads
    assert openvino_runtime.cpu_settings(3)["INFERENCE_NUM_THREADS"] == 3
