"""Leakage between subsets: identical images, near copies, adjacent tiles, and tiles with matching edges.

Near copies (recompressed, resized, flipped or turned) are found by a perceptual hash, the difference hash of
rows and columns of 9 x 9 grey values (128 bits). On 493 tiles of 512 pixels, JPEG of quality 30, half the
size and flips change at most 14 bits; other tiles differ in at least 36.

Without a table of scenes, edges show adjacency: the right edge of a tile and the left edge of its neighbour
are the same ground one pixel apart. A pair of edges scores the correlation of their fine image structure
times the agreement of their classes, and is a link if each is the other's best match.

The confidence of links comes from *decoys*, pairs that cannot touch: two right edges, two left, two top, two
bottom. They are as many as real candidates, with the same statistics, so the decoys above a score estimate
the false links above it (target-decoy estimation: Elias and Gygi, 2007, doi:10.1038/nmeth1019).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import dhash
import numpy as np
from PIL import Image

from landcover._typing import Float32Array, Float64Array, Int8Array, Int64Array, UInt8Array
from landcover.data.footprints import Neighbours
from landcover.data.layouts import SceneTile

SAMPLES = 128
"""Points along an edge of any length."""

SMOOTH = 17
"""Points over which an edge is averaged to find its coarse trend, which is removed."""

MIN_SCORE = 0.5
"""Smallest score of a link; 1 in 10,000 unrelated edges reaches it."""

MIN_CONFIDENCE = 0.99
"""Smallest confidence of a link."""

_ROWS_AT_ONCE = 1024
_HASH_PX = 9
_LEAST_CONTRAST = 2.0
"""Standard deviation of the grey values below which an image has no hash."""
_MOST_BITS = 16
"""Bits by which the hashes of copies may differ."""

TOP, BOTTOM, LEFT, RIGHT = range(4)
_TARGETS = ((RIGHT, LEFT), (BOTTOM, TOP))
_DECOYS = ((RIGHT, RIGHT), (LEFT, LEFT), (TOP, TOP), (BOTTOM, BOTTOM))


@dataclass(frozen=True, slots=True)
class Leak:
    """Two items of different subsets with identical or adjacent ground, by key.

    ``kind`` is ``identical``, ``near-copy``, ``overlapping`` or ``touching`` by georeferences or scenes.csv,
    or ``matching-edges``; ``confidence`` is the estimated probability, 0..1.
    """

    a: str
    b: str
    kind: str
    confidence: float


def perceptual_hashes(image: UInt8Array) -> Int8Array | None:
    """Return the hashes of an image (height, width, C) in its eight orientations, the image's own first.

    Returns:
        int8 (8, 128) of -1 and 1; None for an image with almost one grey value, which has no hash.
    """
    grey = Image.fromarray(np.ascontiguousarray(image[..., :3])).convert("L")
    grey = grey.resize((_HASH_PX, _HASH_PX), Image.Resampling.LANCZOS)
    values = np.asarray(grey)
    if values.std() < _LEAST_CONTRAST:
        return None
    hashes = []
    for mirrored in (values, values[:, ::-1]):
        for quarters in range(4):
            grays = np.rot90(mirrored, quarters).ravel().tolist()
            rows, cols = dhash.dhash_row_col(grays, _HASH_PX - 1)
            bits = f"{rows:064b}{cols:064b}"
            hashes.append(np.frombuffer(bits.encode(), np.uint8).astype(np.int8) * 2 - 97)
    return np.stack(hashes)


def near_copies(hashes: Mapping[str, Int8Array], part_of: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the pairs of items of different subsets that look the same in some orientation, by key."""
    keys = sorted(key for key in hashes if key in part_of)
    if len({part_of[key] for key in keys}) < 2:
        return []
    parts = np.unique([part_of[key] for key in keys], return_inverse=True)[1]
    every = np.stack([hashes[key] for key in keys]).astype(np.float32)
    found = set()
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        rows = every[start : start + _ROWS_AT_ONCE, 0]
        for orientation in range(every.shape[1]):
            differing = (every.shape[2] - rows @ every[:, orientation].T) / 2
            near = (differing <= _MOST_BITS) & (parts[start : start + len(rows), None] != parts)
            found |= {(min(start + i, j), max(start + i, j)) for i, j in np.argwhere(near).tolist()}
    return [(keys[i], keys[j]) for i, j in sorted(found)]


class Borders(NamedTuple):
    """The four edges of a tile, top, bottom, left and right, and their lengths in pixels.

    ``image`` is float32 (4, SAMPLES, 3), RGB of 0..255; ``mask`` uint8 (4, SAMPLES), classes.
    """

    image: Float32Array
    mask: UInt8Array
    lengths: tuple[int, int, int, int]


def borders(image: UInt8Array, index: UInt8Array) -> Borders:
    """Sample the edges of an image (height, width, C) and its mask (height, width)."""
    height, width = index.shape
    colours = []
    image = image[..., :3]
    for side in (image[0], image[-1], image[:, 0], image[:, -1]):
        # Each point is the mean over its exact share of the length.
        total = np.concatenate([np.zeros((1, 3)), np.cumsum(side, axis=0, dtype=np.float64)])
        bounds = np.linspace(0, len(side), SAMPLES + 1)
        at = np.stack([np.interp(bounds, np.arange(len(side) + 1), total[:, c]) for c in range(3)], axis=1)
        colours.append((np.diff(at, axis=0) * (SAMPLES / len(side))).astype(np.float32))
    classes = [
        side[((np.arange(SAMPLES) + 0.5) * len(side) / SAMPLES).astype(int)]
        for side in (index[0], index[-1], index[:, 0], index[:, -1])
    ]
    return Borders(np.stack(colours), np.stack(classes), (width, width, height, height))


def find_leaks(
    part_of: Mapping[str, str],
    identical: Iterable[Sequence[str]],
    scenes: Mapping[str, SceneTile] | None,
    tiles: Mapping[str, Borders],
    placed: Sequence[Neighbours] = (),
    copies: Sequence[tuple[str, str]] = (),
) -> list[Leak]:
    """Return the pairs of items of different subsets with identical or adjacent ground.

    ``part_of`` is the subset of each item that is compared, by key; items that are not in it have no leaks.
    ``identical`` are groups of items, ``placed`` those that overlap or touch by georeferences, ``copies``
    near copies. By ``scenes``, 4-neighbours of one scene touch; without, the edges of ``tiles`` are matched,
    which takes seconds for thousands.
    """

    def leaks(
        pairs: Iterable[tuple[str, str, str, float]], known: Iterable[tuple[str, str]] = ()
    ) -> list[Leak]:
        """Return those across subsets, but for known pairs."""
        named = set(map(frozenset, known))
        return [
            Leak(min(a, b), max(a, b), kind, confidence)
            for a, b, kind, confidence in pairs
            if a in part_of and b in part_of and part_of[a] != part_of[b] and frozenset((a, b)) not in named
        ]

    same = [pair for group in identical for pair in combinations(group, 2)]
    neighbours = [(a, b) for a, b, _ in placed]
    near = leaks(((a, b, "near-copy", 1.0) for a, b in copies), known=[*same, *neighbours])
    if scenes is None:  # edges of a copy match, too
        adjacent = leaks(((a, b, "matching-edges", sure) for a, b, sure in links(tiles)), known=copies)
    else:
        key_at = {tile: key for key, tile in scenes.items() if tile.row is not None}
        touching = (
            (key, key_at[neighbour], "touching", 1.0)
            for tile, key in key_at.items()
            for neighbour in (tile.moved(0, 1), tile.moved(1, 0))
            if neighbour in key_at
        )
        adjacent = leaks(touching, known=neighbours)
    by_place = leaks((*pair, 1.0) for pair in placed)
    repeated = leaks((a, b, "identical", 1.0) for a, b in same)
    return repeated + near + by_place + sorted(adjacent, key=lambda leak: (leak.a, leak.b))


def links(tiles: Mapping[str, Borders]) -> list[tuple[str, str, float]]:
    """Return (left or upper key, right or lower key, confidence) of adjacent tiles."""
    keys = sorted(tiles)
    if len(keys) < 2:
        return []
    colours, classes, sides = (np.stack(values) for values in zip(*(tiles[key] for key in keys), strict=True))
    image = _fine_structure(colours).reshape(len(keys), 4, -1)
    one_hot = (classes[..., None] == np.unique(classes)).astype(np.float32).reshape(len(keys), 4, -1)

    def matches(pairs: Sequence[tuple[int, int]]) -> Float64Array:
        edges = [_Edges(image[:, side], one_hot[:, side], sides[:, side]) for side in range(4)]
        return np.concatenate([_mutual_best(edges[a], edges[b]) for a, b in pairs], axis=1)

    first, second, scores = matches(_TARGETS)
    decoys = matches(_DECOYS)
    confidence = _confidence(scores, decoys[2, decoys[0] < decoys[1]])
    return [
        (keys[int(first[i])], keys[int(second[i])], round(float(confidence[i]), 4))
        for i in np.flatnonzero((scores >= MIN_SCORE) & (confidence >= MIN_CONFIDENCE))
    ]


class _Edges(NamedTuple):
    """One side of all tiles: features (tiles, n) of image and mask, and lengths (tiles,).

    Products of features are correlations of image structure and agreements of classes.
    """

    image: Float32Array
    mask: Float32Array
    lengths: Int64Array


def _mutual_best(first: _Edges, second: _Edges) -> Float64Array:
    """Match one side of each tile to another side of the other tiles; keep mutual best matches.

    Returns float64 (3, matches): number of the one tile, of the other, score.
    """
    count = len(first.lengths)
    best_second = np.empty(count, np.int64)
    best_first = np.zeros(count, np.int64)
    score_first = np.full(count, -np.inf, np.float32)
    score_second = np.empty(count, np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, count))
        score = first.image[rows] @ second.image.T
        score *= first.mask[rows] @ second.mask.T / SAMPLES
        score[first.lengths[rows, None] != second.lengths] = -1
        score[np.arange(len(rows)), rows] = -1
        best_second[rows], score_second[rows] = score.argmax(axis=1), score.max(axis=1)
        better = score.max(axis=0) > score_first
        best_first[better] = start + score.argmax(axis=0)[better]
        score_first[better] = score.max(axis=0)[better]
    mutual = np.flatnonzero((best_first[best_second] == np.arange(count)) & (score_second > 0))
    return np.stack([mutual, best_second[mutual], score_second[mutual].astype(np.float64)])


def _fine_structure(image: Float32Array) -> Float32Array:
    """Remove the coarse trend of edges (tiles, 4, SAMPLES, 3) and scale each to unit length.

    An edge with less than one grey level of structure stays shorter.
    """
    padded = np.pad(image, ((0, 0), (0, 0), (SMOOTH // 2 + 1, SMOOTH // 2), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=2, dtype=np.float64)
    fine = image - ((total[:, :, SMOOTH:] - total[:, :, :-SMOOTH]) / SMOOTH).astype(np.float32)
    length = np.sqrt((fine**2).sum(axis=(2, 3), keepdims=True))
    unit: Float32Array = fine / np.maximum(length, np.float32(np.sqrt(3 * SAMPLES)))
    return unit


def _confidence(scores: Float64Array, decoys: Float64Array) -> Float64Array:
    """Return 1 - the fraction of false links among those with at least this score, (links,) in 0..1.

    The number of false links above a score is the number of decoys above it, or that of an exponential tail
    through the upper decoys if larger: a small set has few decoys.
    """
    decoys = np.sort(decoys)
    above = len(decoys) - np.searchsorted(decoys, scores)
    tail = decoys[len(decoys) * 9 // 10 :]
    if len(tail) > 1:
        slope = max(float(np.mean(tail - tail[0])), 1e-6)
        above = np.maximum(above, len(tail) * np.exp(-np.maximum(scores - tail[0], 0) / slope))
    links_above = len(scores) - np.searchsorted(np.sort(scores), scores)
    false_share = np.minimum(above / links_above, 1.0)
    # Confidence must not fall with the score: take the smallest fraction at this score or a lower one.
    order = np.argsort(scores, kind="stable")
    result = np.empty(len(scores))
    result[order] = 1 - np.minimum.accumulate(false_share[order])
    return result
