"""The Ray engine: the bytes of one process, dead actors, and clusters that cannot be joined."""

import os
import shutil
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from fleet_world import make_scenes, plan, run, tree
from landcover.errors import FleetError, MissingExtraError, UsageError
from landcover.fleet import ray_engine
from landcover.fleet.ray_engine import RayEngine
from landcover.fleet.work import Setup
from landcover.inference.workers import Slot

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(ray_engine, "_CONNECT_S", 1.0)
    return monkeypatch


def refused(error, address, words):
    with pytest.raises(error) as caught:
        RayEngine(Setup("out"), 1, address)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert TOKEN not in message


def test_no_cluster_at_the_address(environment):
    refused(FleetError, "127.0.0.1:9", ["127.0.0.1:9"])
    environment.setenv("RAY_ADDRESS", "127.0.0.1:9")
    refused(FleetError, None, ["127.0.0.1:9"])


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:port", "http://host:8265"])
def test_addresses_of_another_form(environment, address):
    refused(UsageError, address, [address, "HOST:PORT"])


def test_a_cluster_is_not_joined_without_a_token(environment, tmp_path):
    environment.delenv("RAY_AUTH_TOKEN")
    environment.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    refused(UsageError, "10.0.0.1:6379", ["token", "RAY_AUTH_TOKEN_PATH"])
    environment.setenv("RAY_AUTH_TOKEN", TOKEN)
    environment.setenv("RAY_AUTH_MODE", "disabled")
    refused(UsageError, "10.0.0.1:6379", ["RAY_AUTH_MODE=token"])


def test_without_ray(environment):
    environment.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"landcover\[ray\]"):
        RayEngine(Setup("out"), 1)


def test_a_wrong_token_is_reported_as_that():
    """What Ray 2.60 raises and prints: the token of another cluster looks like no connection."""
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379.\nMore.")
    printed = (
        "gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken: Authentication token is missing"
    )
    assert "refused the token" in str(ray_engine._unreachable("10.0.0.1:6379", error, printed))
    assert "\n" not in str(ray_engine._unreachable("10.0.0.1:6379", error, ""))


def test_a_worker_of_another_version_is_refused():
    engine, actor = RayEngine.__new__(RayEngine), Slot()
    engine._ray = SimpleNamespace(wait=lambda pending, timeout: (pending, []), get=lambda answer: answer)
    engine._workers, engine._pending = [actor], {"0.1.9": actor}
    with pytest.raises(UsageError, match=r"has landcover 0\.1\.9"):
        list(engine.wait(1))


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_actors_make_the_bytes_of_one_process_and_are_replaced(environment, tmp_path):
    """Ray is not imported before: it reads its environment then."""
    environment.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    environment.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    scenes, alone, out = make_scenes(tmp_path / "scenes"), tmp_path / "alone", tmp_path / "out"
    plan(scenes, alone)
    shutil.copytree(alone, out)
    assert run(alone).complete
    engine = RayEngine(Setup(str(out)), 2)
    submit, submitted = engine.submit, []

    def kill_two(key, line):
        submit(key, line)
        submitted.append(key)
        if len(submitted) in (1, 3):  # the first has not loaded the model, so its unit has not begun
            engine._ray.kill(next(slot for slot in engine._workers if slot.key == key).worker)

    environment.setattr(engine, "submit", kill_two)
    try:
        assert engine.slots == 2
        summary = run(out, engine)
    finally:
        engine.close()
    assert (summary.done, summary.repeated, summary.complete) == (7, 1, True)
    assert tree(out) == tree(alone)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_node_that_is_lost_takes_nothing_with_it(environment, tmp_path):
    environment.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    environment.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    environment.setenv("RAY_AUTH_MODE", "token")
    from ray.cluster_utils import Cluster

    alone, out = tmp_path / "alone", tmp_path / "out"
    plan(make_scenes(tmp_path / "scenes"), alone)
    shutil.copytree(alone, out)
    assert run(alone).complete
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        engine = RayEngine(Setup(str(out)), 2, cluster.address)
        submit, submitted = engine.submit, []

        def losing(key, line):
            submit(key, line)
            submitted.append(key)
            if len(submitted) == 3:
                cluster.remove_node(lost, allow_graceful=False)
                cluster.add_node(num_cpus=1)

        environment.setattr(engine, "submit", losing)
        try:
            summary = run(out, engine)
        finally:
            engine.close()
    finally:
        cluster.shutdown()
    assert (summary.done, summary.complete) == (7, True)
    assert tree(out) == tree(alone)
