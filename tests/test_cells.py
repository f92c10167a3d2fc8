"""What answers in cells cost."""

from pathlib import Path

import numpy as np
import pytest

from landcover.benchmarks.cells import cell_scores, in_cells
from training_world import write_pairs


def test_cells_as_large_as_what_is_in_them_cost_nothing(tmp_path: Path) -> None:
    data = write_pairs(tmp_path)  # blocks of 8 px
    scores = cell_scores(data, "folders:validation", [1, 4, 16])
    assert scores[1].miou == 1
    assert 0.8 < scores[4].miou < 1  # corners are rounded off
    assert scores[16].miou < scores[4].miou


@pytest.mark.parametrize(("height", "width", "size"), [(10, 7, 4), (1, 1, 8), (9, 9, 3)])
def test_odd_sizes(height: int, width: int, size: int) -> None:
    halves = np.zeros((height, width), np.uint8)
    halves[:, width // 2 :] = 2
    found = in_cells(halves, size, 3)
    assert found.shape == halves.shape
    assert set(np.unique(found)) <= {0, 2}


def test_a_line_thinner_than_half_a_cell_is_lost() -> None:
    line = np.zeros((32, 32), np.uint8)
    line[:, 8:10] = 1
    assert in_cells(line, 8, 2).max() == 0
    assert in_cells(line, 2, 2).max() == 1
