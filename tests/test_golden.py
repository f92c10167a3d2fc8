"""Maps, scores, areas and polygons are those of version 0.1.0, to the byte; see ``golden/cases.py``."""

import pytest

from golden import cases

EXPECTED = cases.load()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return dict(cases.measure(tmp_path_factory.mktemp("golden")))


@pytest.mark.parametrize("name", EXPECTED)
def test_results_are_those_of_version_0_1(measured, name):
    assert list(cases.differences(measured[name], EXPECTED[name])) == []
