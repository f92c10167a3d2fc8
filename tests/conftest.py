"""What all tests share: one thread per worker, the exported tiny network, and which tests are slow."""

import os
import shutil
import sys

# Before numpy and torch load: workers of pytest-xdist share the processor, and single threads are exact.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from export_world import World
    from object_storage import FaultProxy

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,  # the same examples in every run
    deadline=None,  # a machine that is busy is no fault
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("ci")

SLOW = (
    "test_benchmarks.py::test_a_script_runs",
    "test_calibrate.py",
    "test_crash_recovery.py",
    "test_demo.py",
    "test_export.py",
    "test_export_graph.py",
    "test_export_int8.py",
    "test_likeness.py",
    "test_processes.py::test_a_killed_rank_ends_the_run_which_another_number_of_processes_resumes",
    "test_report.py",
    "test_resume.py",
    "test_runtimes_exported.py",
    "test_scene.py",
    "test_ship.py",
    "test_shipped.py",
    "test_splits.py::TestListedFolds::test_it_is_what_the_scenes_and_masks_give",
    "test_teachers.py",
    "test_training.py",
    "test_weights.py",
)
"""Beginnings of the names of tests that take most of the time; ``make check`` leaves them out."""

GROUPS = {
    "exported": ("test_export.py", "test_export_graph.py", "test_export_int8.py", "test_likeness.py"),
    "forked": ("test_processes.py", "test_resume.py", "test_teachers.py"),
}
"""Files that one worker runs, as what they share takes long to make: an exported network, forks of torch."""
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}

DEAREST = ("test_page", "test_faults", "exported", "test_docs", "forked", "test_security")
"""Groups of half a minute or more. They begin first, then files with slow tests: workers end together."""


def group_of(nodeid: str) -> str:
    """Return the group of a test: its file, or the files that share what takes long to make."""
    path = Path(nodeid.partition("::")[0])
    return GROUP_OF.get(path.name, path.stem)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    rank = {group: number for number, group in enumerate(DEAREST)}
    slow = {group_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
    groups = ((item, group_of(item.nodeid)) for item in items)
    order = {item: (rank.get(group, len(rank)), group not in slow) for item, group in groups}
    items.sort(key=order.__getitem__)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling | None":
    """Keep each group on one worker, so that its fixtures are made once, and groups in our order.

    ``--dist loadgroup`` does not: pytest 9.2 ignores the names that pytest-xdist 3.8 gives to tests.
    """
    if config.option.dist not in ("load", "loadgroup"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.fixture(autouse=True)
def own_draws(request: pytest.FixtureRequest) -> None:
    """Start generators again: what a test draws does not depend on the tests before it."""
    if (generator := getattr(request.module, "RNG", None)) is not None:
        generator.bit_generator.state = np.random.default_rng(0).bit_generator.state
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Return what lets no file of this process grow beyond so many bytes, as on a full disk."""
    import resource

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> "World":
    """A tiny network, its run, data with its answers as truth, and the float32 file made of it."""
    from export_world import make_world

    return make_world(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="session")
def object_storage() -> "Iterator[FaultProxy]":
    """Object storage behind a proxy that makes faults, see :mod:`object_storage`."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    from object_storage import FaultProxy, s3_server

    with s3_server() as address, FaultProxy(address) as proxy:
        yield proxy


@pytest.fixture
def proxy(object_storage: "FaultProxy", monkeypatch: pytest.MonkeyPatch) -> "FaultProxy":
    """The proxy without faults; the environment leads to it, and pauses are short."""
    from landcover.storage import bucket, scenes
    from object_storage import ENVIRONMENT

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": object_storage.address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket, "_BACKOFF_S", 0.01)
    scenes._stores.cache_clear()
    object_storage.faults.clear()
    object_storage.requests.clear()
    return object_storage


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The system's Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium")
    api = pytest.importorskip("playwright.sync_api")
    # Without its sandbox, which containers and root do not allow: it opens nothing but our pages.
    options = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    with (
        api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=options) as started,
    ):
        yield started


class Server(SimpleHTTPRequestHandler):
    """Serves a folder with ranges; ``whole`` in a name: without; what is named ``stall`` never answers."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if "stall" in self.path:
            time.sleep(5)
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        data, first, last = file.read_bytes(), 0, file.stat().st_size - 1
        if "whole" not in self.path and (wanted := self.headers.get("Range")):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(last, int(end or last))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def address(tmp_path):
    """Host and port of a server of the files in ``tmp_path``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Server(*args, directory=str(tmp_path)))
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
