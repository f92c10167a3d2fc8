"""Soft labels: teachers' probabilities of each class in cells of the training images, and crops of them.

They are learned beside the labels (Hinton et al. 2015, 1503.02531). A label is one class, up to a boundary
that is often drawn coarsely; probabilities also contain the other likely classes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from landcover._typing import Float32Array, Float64Array, UInt8Array
from landcover.training.sampler import Piece, Size


class SoftLabels:
    """Probabilities in cells that divide each image evenly.

    Args:
        maps: For each image uint8 (h, w, C); 255 is a probability of 1.
        sizes: Height and width of each image in pixels.
    """

    def __init__(self, maps: Sequence[UInt8Array], sizes: Sequence[Size]) -> None:
        self._maps = maps
        self._sizes = sizes

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self._maps[0].shape[2])

    def cut(self, pieces: Iterable[Piece], side: int, cells: int) -> UInt8Array:
        """Return the probabilities at the centres of a crop's cells, each interpolated within its image.

        Args:
            pieces: The parts of images that the crop consists of.
            side: Its height and width in pixels of the images.
            cells: Its height and width in cells.

        Returns:
            uint8 (cells, cells, C); zero over C where the crop has no imagery.
        """
        crop = np.zeros((cells, cells, self.classes), np.uint8)
        centres = (np.arange(cells) + 0.5) * (side / cells)
        for item, window, (rows, cols) in pieces:
            height, width = self._sizes[item]
            down = (centres >= rows.start) & (centres < rows.stop)
            across = (centres >= cols.start) & (centres < cols.stop)
            soft = self._maps[item]
            values = _between(soft, (centres[down] - rows.start + window.row) / height)
            values = _between(values.swapaxes(0, 1), (centres[across] - cols.start + window.col) / width)
            crop[np.ix_(down, across)] = np.rint(values.swapaxes(0, 1))
        return crop


def at_centres(probabilities: Float32Array, cells: Size) -> Float32Array:
    """Return probabilities at the centres of cells that divide an image evenly.

    Args:
        probabilities: float32 (C, H, W).
        cells: Rows h and columns w of the cells.

    Returns:
        float32 (h, w, C).
    """
    rows, cols = ((np.arange(count) + 0.5) / count for count in cells)
    values = _between(probabilities.transpose(1, 2, 0), rows)
    return _between(values.swapaxes(0, 1), cols).swapaxes(0, 1)


def _between(values: UInt8Array | Float32Array, shares: Float64Array) -> Float32Array:
    """Interpolate (n, …) linearly between the centres of its n cells, at fractions 0..1 of the axis."""
    position = np.clip(shares * len(values) - 0.5, 0, len(values) - 1)
    low = position.astype(np.intp)
    high = np.minimum(low + 1, len(values) - 1)
    part = (position - low).astype(np.float32)[:, None, None]
    return np.asarray(values[low] * (1 - part) + values[high] * part, np.float32)
