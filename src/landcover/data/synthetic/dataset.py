"""A folder of procedural scenes that :func:`landcover.data.open_dataset` reads like any other."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from landcover.data.synthetic.scene import GSD, make_scene, write_scene
from landcover.errors import UsageError
from landcover.io.files import refuse_existing, write_text
from landcover.io.readahead import parallel_map
from landcover.progress import track
from landcover.scale import SETTINGS_FILE

PARTS: Mapping[str, float] = {"train": 0.75, "validation": 0.25}
"""Share of the scenes in each part."""


def make_dataset(
    out: str | Path,
    *,
    scenes: int,
    size: int | tuple[int, int],
    seed: int = 0,
    parts: Mapping[str, float] = PARTS,
    force: bool = False,
) -> Path:
    """Write a folder of pairs, ``PART/sceneNNNN_sat.jpg`` and ``..._mask.png``, and ``landcover.yaml``.

    Scenes are independent draws, so parts share no ground; each is a function of (seed, its number).
    ``landcover.yaml`` comes last: a folder that has it is whole.

    Args:
        out: The folder.
        scenes: Number of scenes in all.
        size: Pixels along each side, or (height, width).
        seed: Which world.
        parts: Share of the scenes in each part, by name, in any unit.
        force: Replace scenes that are there.

    Returns:
        ``out``.

    Raises:
        UsageError: If a part would be empty, or a size or seed is impossible.
        OutputError: If a set is there already and ``force`` is off, or it cannot be written.
    """
    out = Path(out)
    height, width = (size, size) if isinstance(size, int) else size
    if seed < 0:
        raise UsageError(f"No world has the seed {seed}; seeds start at 0.")
    names = [part for part, count in _counts(scenes, parts).items() for _ in range(count)]
    refuse_existing(out / SETTINGS_FILE, force=force)

    def make(numbered: tuple[int, str]) -> None:
        number, part = numbered
        stem = out / part / f"scene{number - names.index(part):04d}"
        write_scene(stem, make_scene(scene_seed(seed, number), height, width), force=True)

    for _ in track(parallel_map(make, enumerate(names)), "Making scenes", total=len(names)):
        pass
    write_text(out / SETTINGS_FILE, f"gsd: {GSD}\nlegend: deepglobe\n", force=force)
    return out


def scene_seed(world: int, number: int) -> int:
    """Return the seed of one scene of a world, for :func:`landcover.data.synthetic.make_scene`.

    The number is a spawn key: of ``(world, number)`` numpy would write the 32-bit words one after the other,
    and scene 0 of world 2**32 + w would be scene 1 of world w.
    """
    sequence = np.random.SeedSequence(world, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0])


def _counts(scenes: int, parts: Mapping[str, float]) -> dict[str, int]:
    """Share out the scenes."""
    borders = np.rint(np.cumsum([0.0, *parts.values()]) / max(sum(parts.values()), 1e-9) * scenes).astype(int)
    counts = {part: int(count) for part, count in zip(parts, np.diff(borders), strict=True)}
    if min(counts.values(), default=0) < 1:
        raise UsageError(
            f"{scenes} scenes do not make {dict(parts)}: a part would be empty. Ask for more scenes."
        )
    return counts
