"""Scene-disjoint folds: greedy, size-capped and class-stratified.

Images of one scene touch, so a random split measures filling-in within known scenes. Here whole scenes go
to folds. Those of the published benchmark are listed, so that a change here cannot change what was scored.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib.resources import files

import numpy as np

from landcover._typing import Int64Array
from landcover.errors import SplitError

SIZE_CAP = 1.05
"""No fold takes more than this many times the mean number of items, unless one scene alone is larger."""

LISTED_COUNTS = (340, 368, 367, 338, 342)
"""Tiles of each listed fold: together the 1755 training tiles of 512 x 512 pixels at 1.195 m."""


@cache
def listed_folds() -> Mapping[str, int]:
    """Return the fold of each of the 1755 training tiles, by item key: the published benchmark's five folds.

    The list is the definition of the benchmark. It was made once by :func:`scene_folds`, from the table of
    scenes and the masks of these tiles; whatever becomes of that function, of the table or of a decoder, a
    published score stays one on these tiles. A data set of other tiles has folds of its own.

    Raises:
        SplitError: If the list that came with the package is not the published one.
    """
    text = (files("landcover.data") / "ids" / "scenes-k5.tsv").read_text("utf-8")
    rows = [line.partition("\t")[::2] for line in text.splitlines()]
    folds = {key: int(fold) for key, fold in rows if fold.isdecimal()}
    counts = tuple(sum(fold == number for fold in folds.values()) for number in range(len(LISTED_COUNTS)))
    if counts != LISTED_COUNTS or len(rows) != sum(LISTED_COUNTS):
        raise SplitError(
            f"The list of folds of this installation is damaged: {counts} tiles in {len(rows)} lines, "
            f"expected {LISTED_COUNTS}."
        )
    return folds


def scene_folds(pixels: Mapping[str, Int64Array], scene_of: Mapping[str, str], folds: int) -> list[list[str]]:
    """Share items out to folds, whole scenes at a time.

    Scenes are placed from the largest to the smallest. Each goes to the fold, among those that it does not
    push past the size cap, where the folds' shares of every class end up most even: the placement with the
    smallest sum, over folds and classes, of squared (pixels of the class in the fold / in all folds).
    The result depends only on the arguments, and not on their order or the machine: sums are exact.

    Args:
        pixels: Pixels per scored class, int64 (classes,), of every item's mask, by item key.
        scene_of: Scene name of every item, by item key.
        folds: Number of folds, at least 2.

    Returns:
        One list of item keys per fold, each sorted.

    Raises:
        SplitError: If there are fewer scenes than folds, or an item has no scene.
    """
    homeless = sorted(set(pixels) - set(scene_of))
    if homeless:
        raise SplitError(f"{len(homeless)} items have no scene in scenes.csv, such as {homeless[0]!r}.")
    members: dict[str, list[str]] = {}
    for key in sorted(pixels):
        members.setdefault(scene_of[key], []).append(key)
    if not 2 <= folds <= len(members):
        raise SplitError(
            f"{folds} folds asked for, {len(members)} scenes found; 2 to {len(members)} are possible."
        )

    totals = _sum(list(pixels.values()))
    cap = max(SIZE_CAP * len(pixels) / folds, max(len(keys) for keys in members.values()))
    held = [[0] * len(totals) for _ in range(folds)]
    result: list[list[str]] = [[] for _ in range(folds)]
    for scene in sorted(members, key=lambda s: (-len(members[s]), s)):
        open_folds = [f for f in range(folds) if len(result[f]) + len(members[scene]) <= cap]
        own = _sum([pixels[key] for key in members[scene]])
        # Every placement adds the same squares elsewhere, so the growth of the chosen fold's squares decides.
        candidates = open_folds or [min(range(folds), key=lambda f: len(result[f]))]
        growths = {fold: _growth(own, held[fold], totals) for fold in candidates}
        best = min(candidates, key=lambda fold: (growths[fold], fold))
        held[best] = [a + b for a, b in zip(held[best], own, strict=True)]
        result[best] += members[scene]
    return [sorted(keys) for keys in result]


def _sum(counts: Sequence[Int64Array]) -> list[int]:
    """Sum counts by class."""
    return [int(count) for count in np.sum(counts, axis=0)]


def _growth(added: list[int], held: list[int], totals: list[int]) -> Fraction:
    """Return how much the sum of the squared shares of a fold grows, exactly: two machines choose alike."""
    return sum(
        (Fraction(a * (2 * h + a), t * t) for a, h, t in zip(added, held, totals, strict=True) if t),
        Fraction(),
    )
