"""What all tests share: one thread per worker, the exported tiny network, and which tests are slow."""

import os

# Before numpy and torch load: workers of pytest-xdist share the processor, and single threads are exact.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from export_world import World

SLOW = (
    "test_benchmarks.py::test_a_script_runs",
    "test_calibrate.py",
    "test_demo.py",
    "test_export.py",
    "test_export_graph.py",
    "test_export_int8.py",
    "test_likeness.py",
    "test_models.py::TestModelsCommand",
    "test_report.py",
    "test_resume.py",
    "test_runtimes_exported.py",
    "test_scene.py",
    "test_seen.py",
    "test_ship_starter.py",
    "test_shipped.py",
    "test_splits.py::TestListedFolds::test_it_is_what_the_scenes_and_masks_give",
    "test_teachers.py",
    "test_training.py",
    "test_unseen.py",
    "test_weights.py",
)
"""Beginnings of the names of tests that take most of the time; ``make check`` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> "World":
    """A tiny network, its run, data with its answers as truth, and the float32 file made of it."""
    from export_world import make_world

    return make_world(tmp_path_factory.mktemp("export"))
