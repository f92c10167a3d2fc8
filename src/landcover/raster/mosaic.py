"""Rasters side by side on one grid, and the one rule for ground that several of them cover.

Ground belongs to the first raster that has data there, in the order in which they are given (the files of a
folder: that of their names). This holds for imagery that is mapped as one mosaic, for maps that are put
together, and for areas of several maps. A file that is mapped with its neighbours as context comes first in
its own mosaic.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform_bounds

from landcover._gdal import CPLE_BaseError
from landcover._typing import BoolArray, Float64Array, Int64Array, UInt8Array
from landcover.errors import DataError, ImageError
from landcover.legend import NODATA
from landcover.raster.bands import percentile_range
from landcover.raster.classmap import open_class_map
from landcover.raster.extent import inside_polygons, part_of
from landcover.raster.georeference import Georeference, Header, Place
from landcover.raster.scene import Reading, Scene, Strip, open_scene
from landcover.windows import Window

_SHIFT_PX = 0.05
"""Corners that are farther from whole pixels are on another grid."""
_SHIFTS = 20
"""Steps of this size in a pixel."""
SPARSE = 100
"""Times the pixels of its files that a mosaic may have."""
_TOUCH_PX = 0.5
"""Rasters that overlap by less adjoin."""
_FAR_PX = 1 << 40
"""Rasters farther apart have a damaged georeference."""
MOST_PIECES = 64
"""Files that are read for the map of one; a file with more in reach is mapped alone."""

_Grids = list[tuple[int, Georeference]]
"""Numbers of grids, and where their first files are."""


class Piece(NamedTuple):
    """A file of a mosaic, and its pixels in it."""

    path: Path
    window: Window


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Files on one grid.

    Attributes:
        pieces: The files; where several have data the first counts.
        is_context: Whether the first file alone is mapped, and the others are its context.
    """

    height: int
    width: int
    pieces: tuple[Piece, ...]
    is_context: bool = False


def lay_out(files: Sequence[tuple[Path, Georeference]]) -> Mosaic:
    """Place files, at least one, on the grid of the first one.

    Raises:
        DataError: If a file has another CRS, another grid, or is far from the others; the message has the
            command that helps.
    """
    first, own = files[0]
    a, b, _, d, e, _ = own.transform[:6]
    placed = []
    for path, place in files:
        how = f"gdalwarp -t_srs {own.crs.to_string()[:60]} -tr {np.hypot(a, d):.9g} {np.hypot(b, e):.9g} -tap"
        if place.crs != own.crs:
            raise DataError(
                f"{path} is in {place.crs.to_string()[:60]}, {first} in {own.crs.to_string()[:60]}; a mosaic "
                f"needs one CRS and one grid. Run on all files: {how} IN OUT.tif"
            )
        corner = _corner(own, place)
        if corner is None:
            cols, rows = own.pixels(*place.corners()[::2].T)
            raise DataError(
                f"{path} is on another grid than {first}: its corner is at row {rows[0]:.9g}, column "
                f"{cols[0]:.9g} of it, and its pixels have {abs(cols[1] - cols[0]) / place.width:.6g} times "
                f"the width. A mosaic needs one grid. Run on all files: {how} IN OUT.tif"
            )
        placed.append((path, *corner, *place.size))
    top, left = min(row for _, row, *_ in placed), min(col for _, _, col, *_ in placed)
    bottom = max(row + height for _, row, _, height, _ in placed)
    right = max(col + width for _, _, col, _, width in placed)
    pixels = sum(height * width for *_, height, width in placed)
    if (bottom - top) * (right - left) > SPARSE * pixels:
        raise DataError(
            f"{first} and the other {len(files) - 1} files cover less than {100 / SPARSE:g} % of the "
            f"{bottom - top} x {right - left} pixels around them. Map them without --mosaic, or in parts."
        )
    pieces = (Piece(path, Window(row - top, col - left, *size)) for path, row, col, *size in placed)
    return Mosaic(bottom - top, right - left, tuple(pieces))


def _corner(own: Georeference, place: Georeference) -> tuple[int, int] | None:
    """Return row and column of the corner of a raster on the grid of another one; None: its grid differs."""
    height, width = place.size
    cols, rows = own.pixels(*place.points(np.array([0.0, width, width]), np.array([0.0, height, 0.0])))
    ends = np.array([rows[0], cols[0], rows[1], cols[1], rows[2], cols[2]])
    whole = np.rint(ends)
    expected = whole[0], whole[1], whole[0] + height, whole[1] + width, whole[0], whole[1] + width
    if (
        not np.abs(ends - whole).max() <= _SHIFT_PX
        or tuple(whole) != expected
        or np.abs(whole).max() > _FAR_PX
    ):
        return None
    return int(whole[0]), int(whole[1])


class Neighbours:
    """Files that adjoin or overlap on one grid, each the context of the others.

    Memory: about 100 bytes a file. Files of other pixel types or numbers of bands are not neighbours. Where
    ground is shown twice, as by images of two dates, files are joined within their folders alone; where one
    folder shows it twice, its files have no neighbours: which of them show the same date is not known.

    Args:
        files: Paths and headers, in the order in which ground belongs to them.

    Attributes:
        repeated: Number of files that lack neighbours for this reason.
    """

    def __init__(self, files: Iterable[tuple[Path, Header]]) -> None:
        self._paths: list[Path] = []
        table = array("q")  # of each file: number of its grid, row, column, height, width
        folders, folder_of = dict[Path, int](), array("q")
        # By CRS, pixel type and pixel size: the first file, and all grids by how they are shifted to its own.
        alike: dict[tuple[object, ...], tuple[Georeference, dict[tuple[int, int], _Grids]]] = {}
        numbers = 0
        for path, header in files:
            self._paths.append(path)
            folder_of.append(folders.setdefault(path.parent, len(folders)))
            if (place := header.georeference) is None:
                table.extend((-1, 0, 0, 0, 0))
                continue
            a, b, _, d, e, _ = place.transform[:6]
            steps = tuple(f"{step:.6g}" for step in (a, b, d, e))
            first, grids = alike.setdefault((place.crs.to_wkt(), header.dtypes, steps), (place, {}))
            # How far the corner is from whole pixels of the first grid, and shifts a step at most from there.
            col, row = np.concatenate(first.pixels(*place.points(np.zeros(1), np.zeros(1))))
            offset = np.nan_to_num(np.array([row % 1, col % 1]) / _SHIFT_PX).astype(int)
            down, across = (offset % _SHIFTS).tolist()
            shifts = product((down - 1, down, down + 1), (across - 1, across, across + 1))
            near = (grids.get((r % _SHIFTS, c % _SHIFTS), []) for r, c in shifts)
            fits = ((number, _corner(origin, place)) for number, origin in sorted(chain(*near)))
            grid, corner = next((pair for pair in fits if pair[1] is not None), (numbers, None))
            if corner is None:
                corner, numbers = (0, 0), numbers + 1
                grids.setdefault((down, across), []).append((grid, place))
            table.extend((grid, *corner, *place.size))
        self._boxes = np.array(table, np.int64).reshape(-1, 5)
        self._folder_of = np.array(folder_of, np.int64)
        self._order: dict[int, tuple[int, Int64Array, Int64Array, int]] = {}
        grid_of = self._boxes[:, 0]
        for grid in np.flatnonzero(np.bincount(grid_of + 1)[1:] > 1).tolist():
            files_of_grid = np.flatnonzero(grid_of == grid)
            corners = self._boxes[files_of_grid, 1:3]
            axis = int(np.ptp(corners, axis=0).argmax())  # along which they are farther apart
            order = files_of_grid[corners[:, axis].argsort(kind="stable")]
            self._order[grid] = axis, order, self._boxes[order, 1 + axis], self._boxes[order, 3 + axis].max()
        self.repeated = 0
        self._frames: list[Window | None] = []  # None: without neighbours, or of ground that is shown twice
        self._frame_of = np.full(len(self._boxes), -1)
        for _, order, *_ in self._order.values():
            for number in order.tolist():
                if self._frame_of[number] == -1:
                    self._join(number)

    def frame(self, number: int) -> Window | None:
        """Return the ground of all files that are joined to one, in its pixels; None if none is."""
        frame = self._frames[self._frame_of[number]] if self._frame_of[number] >= 0 else None
        row, col = self._boxes[number, 1:3].tolist()
        return frame and frame._replace(row=frame.row - row, col=frame.col - col)

    def mosaic(self, number: int, margin: int) -> Mosaic | None:
        """Return a file with its neighbours within a margin of pixels; None without any, or with too many."""
        frame, near = self._frames[self._frame_of[number]], self._near(number, margin)
        near = near[(self._frame_of[near] == self._frame_of[number]) & (near != number)]
        if frame is None or not 0 < near.size < MOST_PIECES:
            return None
        pieces = [
            Piece(self._paths[file], Window(row - frame.row, col - frame.col, *size))
            for file in (number, *near.tolist())
            for row, col, *size in [self._boxes[file, 1:].tolist()]
        ]
        return Mosaic(frame.height, frame.width, tuple(pieces), is_context=True)

    def _near(self, number: int, margin: int) -> Int64Array:
        """Return the files of the same grid that touch one, or are within a margin, in their order."""
        grid, *own = self._boxes[number].tolist()
        axis, order, starts, longest = self._order[grid]
        first, last = np.searchsorted(
            starts, [own[axis] - margin - longest, own[axis] + own[2 + axis] + margin + 1]
        )
        near = order[first:last]
        boxes = self._boxes[near, 1:]
        for side in (0, 1):
            ends = boxes[:, side] + boxes[:, 2 + side]
            is_near = (ends >= own[side] - margin) & (boxes[:, side] <= own[side] + own[2 + side] + margin)
            near, boxes = near[is_near], boxes[is_near]
        return np.sort(near)

    def _join(self, number: int, folder: int | None = None) -> None:
        """Give a file, all that touch it, those that touch them, and so on, one frame; of a folder or all."""
        frame, joined, waiting, is_repeated, lacking = len(self._frames), [], [number], False, 0
        self._frame_of[number] = frame
        while waiting:
            joined.append(waiting.pop())
            near = self._near(joined[-1], 0)
            is_own = self._folder_of[near] == folder if folder is not None else np.ones(len(near), bool)
            near, others = near[is_own], near[~is_own]
            new = near[self._frame_of[near] == -1]
            self._frame_of[new] = frame
            waiting += new.tolist()
            is_repeated |= bool(self._repeats(near[near == joined[-1]], near[near != joined[-1]]).any())
            lacking += not is_repeated and not self._repeats(others, near).any(axis=1).all()
        if is_repeated and folder is None:
            self._frame_of[joined] = -1
            for one in joined:
                if self._frame_of[one] == -1:
                    self._join(one, int(self._folder_of[one]))
            return
        self.repeated += len(joined) if is_repeated else lacking
        if len(joined) == 1 or is_repeated:
            self._frames.append(None)
            return
        boxes = self._boxes[joined, 1:]
        first, end = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        self._frames.append(Window(*first.tolist(), *(end - first).tolist()))

    def _repeats(self, files: Int64Array, others: Int64Array) -> BoolArray:
        """Return which files show the ground of others, more than half of the smaller one: bool (n, m)."""
        own, other = self._boxes[files, None, 1:], self._boxes[None, others, 1:]
        starts = np.maximum(own[..., :2], other[..., :2])
        ends = np.minimum(own[..., :2] + own[..., 2:], other[..., :2] + other[..., 2:])
        smaller = np.minimum(own[..., 2:].prod(axis=2), other[..., 2:].prod(axis=2))
        repeats: BoolArray = 2 * np.maximum(ends - starts, 0).prod(axis=2) > smaller
        return repeats


def lay_under(target: UInt8Array, other: UInt8Array) -> None:
    """Complete class indices (h, w) where they are nodata by those of a later raster."""
    np.copyto(target, other, where=target == NODATA)


class MosaicScene:
    """Imagery of several files as one scene, with the attributes and methods of :class:`Scene`.

    A file is open while rows of it are read. Each has its own bands, nodata and fill; percentiles are those
    of all files together. Where the first file alone is mapped, ground sample distance, percentiles, warnings
    and damage are its own, pixels of others are not wanted, and one that cannot be read is left out, or its
    damaged parts, with a warning.
    Arguments are those of :func:`open_scene`.
    """

    def __init__(
        self,
        mosaic: Mosaic,
        name: str,
        *,
        bbox: Sequence[float] | None = None,
        aoi: str | Path | None = None,
        layer: str | None = None,
        **how: Any,
    ) -> None:
        self.name, self.height, self.width = name, mosaic.height, mosaic.width
        self.damaged: list[Window] = []
        self.warnings: list[str] = []
        self._pieces, self._alone = mosaic.pieces, mosaic.is_context
        self._open: dict[Path, Scene] = {}
        sample, places = [np.empty(0)], list[Georeference]()
        types: dict[str, Path] = {}
        scaling = how.get("scaling")
        if scaling == "percentile":
            how["scaling"] = 0, 1
        for piece in self._pieces[: 1 if self._alone else None]:  # errors of any file come before the work
            with open_scene(piece.path, **how) as scene:
                if scene.place.georeference is None or scene.place.size != piece.window[2:]:
                    raise ImageError(f"{piece.path} was changed meanwhile. Run the command again.")
                places.append(scene.place.georeference)
                self.warnings += scene.warnings
                if scaling == "percentile":
                    sample.append(scene.sample())
                    types.setdefault(scene.dtype, piece.path)
        if len(types) > 1:
            found = " and ".join(f"{dtype} pixels ({path.name})" for dtype, path in types.items())
            raise ImageError(
                f"{name} has {found}; --scaling percentile needs one type. Convert them to one scaling first."
            )
        if scaling == "percentile":
            how["scaling"] = percentile_range(np.concatenate(sample))
        first = self._pieces[0].window
        self.frame: Place = places[0].part(Window(-first.row, -first.col, self.height, self.width))
        self.own = first if self._alone else Window(0, 0, self.height, self.width)
        self.place: Place = places[0] if self._alone else self.frame
        part, self._polygons = part_of(name, self.place, bbox, aoi, layer)
        self.part = part._replace(row=part.row + self.own.row, col=part.col + self.own.col)
        self._how = how
        self._channels = Reading(**how).channels
        self._left_out: set[Path] = set()
        self._damaged_context: set[Path] = set()

    def close(self) -> None:
        """Close all files."""
        for path in list(self._open):
            self._open.pop(path).close()

    def read_rows(self, start: int, stop: int, cols: slice | None = None) -> Strip:
        """Read rows ``start`` to ``stop`` of all files, as :meth:`Scene.read_rows`."""
        cols = cols or slice(0, self.width)
        image = np.zeros((stop - start, cols.stop - cols.start, self._channels), np.uint8)
        valid: BoolArray = np.zeros(image.shape[:2], bool)
        wanted = None
        if self._polygons is not None:
            part = Window(start - self.own.row, cols.start - self.own.col, *valid.shape)
            wanted = inside_polygons(self._polygons, part)
        for number, (path, (row, col, height, width)) in enumerate(self._pieces):
            is_context = self._alone and number > 0
            if is_context and number == 1:  # what is valid so far is of the first file
                wanted = valid.copy() if wanted is None else wanted & valid
            top, bottom = max(start, row), min(stop, row + height)
            left, right = max(cols.start, col), min(cols.stop, col + width)
            if bottom <= start and path in self._open:
                self._open.pop(path).close()
            if top >= bottom or left >= right or path in self._left_out:
                continue
            target = slice(top - start, bottom - start), slice(left - cols.start, right - cols.start)
            free = ~valid[target]
            if not free.any():
                continue
            try:
                if path not in self._open:
                    how = self._how | ({"strict": False} if is_context else {})
                    self._open[path] = open_scene(path, **how)
                scene = self._open[path]
                if (scene.height, scene.width) != (height, width):
                    raise ImageError(f"{path} was changed while it was read. Run the command again.")
                strip = scene.read_rows(top - row, bottom - row, slice(left - col, right - col))
                if is_context and scene.damaged and path not in self._damaged_context:
                    self._damaged_context.add(path)
                    self.warnings.append(
                        f"{self.name} is mapped without the damaged parts of a neighbour as context: "
                        f"{self._beside(path)}. Copy it again."
                    )
            except ImageError as error:
                if not is_context:
                    raise
                self._left_out.add(path)
                reason = str(error).replace(str(path), self._beside(path))
                self.warnings.append(f"{self.name} is mapped without a neighbour as context: {reason}")
                continue
            free = free if strip.valid is None else free & strip.valid
            image[target][free] = strip.image[free]
            valid[target] |= free
            for window in () if is_context else scene.damaged:
                moved = window._replace(row=window.row + row, col=window.col + col)
                if moved not in self.damaged:
                    self.damaged.append(moved)
        return Strip(image, None if valid.all() else valid, wanted)

    def _beside(self, path: Path) -> str:
        """Return the path of a neighbour from the file that is mapped: maps move with their files."""
        return Path(os.path.relpath(path, self._pieces[0].path.parent)).as_posix()


def repeated_rows(maps: Sequence[tuple[Path, Georeference]]) -> Iterator[tuple[int, int, UInt8Array]]:
    """Yield the classes of maps on ground that an earlier map has a class for.

    A pixel is compared with the pixel of the other map that contains its centre; maps may have other grids
    and CRS, and are in the order in which ground belongs to them.

    Yields:
        Number of a map, first row, and class indices, uint8 (n, width), NODATA where no earlier map has one.
    """
    boxes: dict[str, Float64Array] = {}  # of all maps, by the CRS that they are in
    places = [place for _, place in maps]
    for number, (path, own) in enumerate(maps[1:], 1):
        crs = own.crs
        if (name := crs.wkt) not in boxes:
            boxes[name] = _extents(places, crs)
        own_box, earlier = boxes[name][number], boxes[name][:number]
        near = (earlier[:, :2] < own_box[2:]).all(axis=1) & (earlier[:, 2:] > own_box[:2]).all(axis=1)
        windows = ((maps[other][0], _overlap(own, earlier[other])) for other in np.flatnonzero(near).tolist())
        others = [(other, window) for other, window in windows if window is not None]
        if not others:
            continue
        with ExitStack() as stack:
            mapped = stack.enter_context(open_class_map(path))
            opened = []
            for other, window in others:
                source = stack.enter_context(open_class_map(other))
                opened.append((stack.enter_context(source.on_grid(own)), window))
            for strip in mapped.strips():
                index = np.full((strip.height, strip.width), NODATA, np.uint8)
                for read, window in opened:
                    top = max(strip.row, window.row)
                    rows = min(strip.row + strip.height, window.row + window.height) - top
                    if rows > 0:
                        part = Window(top, window.col, rows, window.width)
                        target = part._replace(row=top - strip.row).slices
                        lay_under(index[target], read(part))
                if (index != NODATA).any():
                    yield number, strip.row, np.where(index == NODATA, NODATA, mapped.read(strip))


def _extents(places: Sequence[Georeference], crs: CRS) -> Float64Array:
    """Return left, bottom, right and top of maps in a CRS, (N, 4); NaN where one has no place in it."""
    boxes = np.array([one.extent() for one in places])
    for box, one in zip(boxes, places, strict=True):
        if one.crs != crs:
            try:
                box[:] = transform_bounds(one.crs, crs, *box)
            except (CRSError, RasterioError, CPLE_BaseError):
                box[:] = np.nan
    boxes[:, ::2].sort(axis=1)  # one that crosses 180 degrees has left > right; this one holds it
    return boxes


def _overlap(own: Georeference, box: Float64Array) -> Window | None:
    """Return the pixels of a map within a box of its CRS; None if there are none."""
    cols, rows = own.pixels(*np.meshgrid(box[::2], box[1::2]))
    height, width = own.size
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return None
    left, top = max(0.0, cols.min()), max(0.0, rows.min())
    right, bottom = min(float(width), cols.max()), min(float(height), rows.max())
    if right - left < _TOUCH_PX or bottom - top < _TOUCH_PX:
        return None
    row, col = int(top), int(left)
    return Window(row, col, int(np.ceil(bottom)) - row, int(np.ceil(right)) - col)
