"""Make procedural scenes (plan, textures, colours, water, clouds, light), and data folders of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from landcover._typing import BoolArray, UInt8Array
from landcover.data.synthetic import colours, textures
from landcover.data.synthetic.layout import (
    AGRICULTURE,
    BARREN,
    FOREST,
    RANGELAND,
    UNKNOWN,
    URBAN,
    WATER,
    Layout,
    plan,
)
from landcover.data.synthetic.noise import (
    Colours,
    Field,
    Shape,
    fractal_noise,
    shifted,
    smooth_step,
    value_noise,
    white_noise,
)
from landcover.errors import UsageError
from landcover.io import write_mask
from landcover.io.discovery import IMAGE_END, MASK_END
from landcover.io.files import atomic_path, refuse_existing, write_text
from landcover.io.readahead import parallel_map
from landcover.legend import DEEPGLOBE
from landcover.progress import track
from landcover.scale import SETTINGS_FILE

GSD = 0.5
"""Metres per pixel of the procedural world."""

PARTS: Mapping[str, float] = {"train": 0.75, "validation": 0.25}
"""Fraction of the scenes in each subset."""

_TEXTURES = {
    URBAN: textures.urban,
    AGRICULTURE: textures.agriculture,
    RANGELAND: textures.rangeland,
    FOREST: textures.forest,
    BARREN: textures.barren,
}
_CLOUDY = 0.3
_CLOUD_LEVELS = (1.2, 2.3)
_CLOUD_SHADOW_PX = 60
_HAZE = (0.55, 0.6, 0.68)
_JPEG_QUALITY = 90
_WATERS = np.array([(48, 70, 66), (66, 84, 66), (44, 72, 92), (94, 96, 74)], np.float32) / 255


@dataclass(frozen=True)
class Scene:
    """A scene, uint8 (H, W, 3) RGB, and its truth, uint8 (H, W) indices of ``DEEPGLOBE``."""

    image: UInt8Array
    index: UInt8Array


def make_scene(seed: int, height: int, width: int) -> Scene:
    """Make a half-metre-like scene with its land cover, a function of the seed and the size in pixels."""
    if seed < 0 or height < 1 or width < 1:
        raise UsageError(f"Found {height} x {width} pixels and seed {seed}; sizes start at 1, seeds at 0.")
    # Separate streams, so that a change of one step does not change the others.
    plan_rng, ground_rng, colour_rng, sky_rng = np.random.default_rng(seed).spawn(4)
    layout = plan(plan_rng, (height, width))
    light, tone = _ground(ground_rng, layout)
    image = colours.paint(light, tone, layout.index, colours.greenery(colour_rng), colours.earth(colour_rng))
    wet = layout.index == WATER
    image[wet] = _water(colour_rng, layout)[wet]
    image, clouded = _sky(sky_rng, image)
    index = np.where(clouded, np.uint8(UNKNOWN), layout.index)
    return Scene(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8), index)


def write_scene(stem: Path, scene: Scene, *, force: bool = False) -> None:
    """Write ``STEM_sat.jpg`` and ``STEM_mask.png``, the challenge's two files of a scene."""
    with atomic_path(stem.with_name(f"{stem.name}{IMAGE_END}.jpg"), force=force) as temporary:
        Image.fromarray(scene.image).save(temporary, quality=_JPEG_QUALITY)
    mask = stem.with_name(f"{stem.name}{MASK_END}.png")
    write_mask(mask, scene.index, DEEPGLOBE, mask_format="rgb", force=force)


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

    Scenes are independent, each a function of (seed, its number), of ``size`` pixels along each side or
    (height, width). ``parts`` are the fractions of the subsets, in any unit. ``landcover.yaml`` is written
    last.
    """
    out = Path(out)
    height, width = (size, size) if isinstance(size, int) else size
    if seed < 0:
        raise UsageError(f"seed is {seed}; seeds start at 0.")
    names = share_out(scenes, parts)
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
    """Return the seed of one scene of a world, for :func:`make_scene`."""
    # A spawn key, because numpy joins the 32-bit words of (world, number): scene 0 of world 2**32 + w would
    # be scene 1 of world w.
    sequence = np.random.SeedSequence(world, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0])


def share_out(scenes: int, parts: Mapping[str, float]) -> list[str]:
    """Return the name of the subset of each scene."""
    borders = np.rint(np.cumsum([0.0, *parts.values()]) / max(sum(parts.values()), 1e-9) * scenes).astype(int)
    if not parts or np.diff(borders).min() < 1:
        raise UsageError(
            f"{scenes} scenes are too few for {dict(parts)}: a subset would be empty. Use more scenes."
        )
    return np.repeat(list(parts), np.diff(borders)).tolist()


def _ground(rng: np.random.Generator, layout: Layout) -> tuple[Field, Field]:
    """Return (light, tone) of the land: each class with its texture, shadows thrown across classes."""
    light, tone = np.zeros(layout.shape, np.float32), np.zeros(layout.shape, np.float32)
    height = np.zeros(layout.shape, np.int8)
    for (number, texture_of), stream in zip(_TEXTURES.items(), rng.spawn(len(_TEXTURES)), strict=True):
        here = layout.index == number
        if here.any():
            light[here], tone[here], height[here] = texture_of(textures.Ground(stream, layout, here))
    # Outlines pulled along the sun's direction as far as they are high; the ground under them is in shadow.
    shadow = np.zeros(height.shape, np.bool_)
    for step in range(1, int(height.max()) + 1):
        shadow |= shifted(height >= step, round(layout.sun[0] * step), round(layout.sun[1] * step))
    light[shadow & (height == 0)] -= 2.5
    for axis in (0, 1):  # a little blur, as of optics
        padded = np.pad(light, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        light = 0.6 * light + 0.2 * (before + after)
    return light, tone


def _water(rng: np.random.Generator, layout: Layout) -> Colours:
    """Return the look of water everywhere: one hue, paler along the shore, with faint waves and drifts."""
    shape = layout.shape
    hue = rng.dirichlet(np.full(len(_WATERS), 0.7)).astype(np.float32) @ _WATERS
    waves = value_noise(rng, shape, 5, stretch=0.4)
    drift = fractal_noise(rng, shape, 70, octaves=3)
    brightness = 1 + 0.07 * drift + 0.025 * waves + 0.025 * white_noise(rng, shape)
    shallow = (0.75 * np.exp(-np.maximum(layout.depth, 0) / np.float32(6 + 2 * rng.random())))[..., None]
    pale = np.array((0.50, 0.47, 0.36), np.float32)
    water: Colours = (hue + shallow * (pale - hue)) * brightness[..., None]
    return water


def _sky(rng: np.random.Generator, image: Colours) -> tuple[Colours, BoolArray]:
    """Return (image, clouded): the scene's exposure, haze, clouds with their shadows, the sensor's grain."""
    shape: Shape = image.shape[0], image.shape[1]
    haze = rng.uniform(0, 0.1)
    gain = rng.uniform(0.88, 1.12) * (1 + rng.normal(0, 0.025, 3))
    image = image * np.float32((1 - haze) * gain) + np.float32(haze * np.array(_HAZE))
    clouded = np.zeros(shape, np.bool_)
    if rng.random() < _CLOUDY:
        away = _CLOUD_SHADOW_PX
        thickness = fractal_noise(rng, (shape[0] + away, shape[1] + away), 140, octaves=6, gain=0.5)
        above, sunwards = thickness[away:, away:], thickness[:-away, :-away]
        image = image * (1 - 0.5 * smooth_step(sunwards, *_CLOUD_LEVELS)[..., None])
        cloud = smooth_step(above, *_CLOUD_LEVELS)[..., None]
        white = 0.87 + 0.05 * np.clip(above - 2, -1, 1.5)[..., None]
        image = image + cloud * (white - image)
        clouded = cloud[..., 0] > 0.5
    return image + 0.012 * white_noise(rng, shape)[..., None], clouded
