"""From light and tone to RGB, so that colour alone hardly separates classes.

Forest, rangeland and agriculture share one palette, urban and barren another. In each class of a scene, tone
becomes its rank among the class's pixels, and light its rank among those of similar tone. Both are then
uniform and independent: classes of one palette have the same joint distribution of colours.
"""

from collections.abc import Sequence

import numpy as np

from landcover._typing import Int32Array, UInt8Array
from landcover.data.synthetic.layout import BARREN, URBAN
from landcover.data.synthetic.noise import Colours, Field, ranks

Palette = Colours
"""float32 (_TONES, _LIGHTS, 3): RGB in 0..1 by rank of tone and of light."""

Anchors = Sequence[tuple[float, tuple[float, float, float]]]

_TONES, _LIGHTS = 96, 256
_TONE_BINS = 8

_LUSH = (
    (0.0, (60, 84, 52)),
    (0.3, (78, 100, 58)),
    (0.6, (102, 116, 68)),
    (0.85, (128, 128, 82)),
    (1.0, (152, 138, 98)),
)
_DRY = (
    (0.0, (76, 84, 58)),
    (0.3, (102, 102, 68)),
    (0.6, (130, 120, 82)),
    (0.85, (150, 134, 96)),
    (1.0, (164, 138, 104)),
)
_EARTH = (
    (0.0, (136, 138, 140)),
    (0.2, (146, 142, 134)),
    (0.42, (160, 148, 128)),
    (0.62, (168, 146, 116)),
    (0.76, (166, 126, 94)),
    (0.87, (156, 100, 76)),
    (0.885, (82, 96, 56)),
    (1.0, (58, 82, 44)),
)
_GREENERY_LIGHT = ((0, 0.36), (0.06, 0.52), (0.2, 0.76), (0.5, 1.0), (0.8, 1.17), (0.96, 1.38), (1, 1.55))
_EARTH_LIGHT = ((0, 0.26), (0.07, 0.42), (0.18, 0.68), (0.5, 0.98), (0.8, 1.2), (0.95, 1.5), (1, 1.75))


def greenery(rng: np.random.Generator) -> Palette:
    """Draw a scene's palette of forest, rangeland and agriculture, between a lush and a dry season."""
    dryness = np.float32(rng.uniform(0, 1))
    return _palette((1 - dryness) * _hues(_LUSH) + dryness * _hues(_DRY), _GREENERY_LIGHT, rng)


def earth(rng: np.random.Generator) -> Palette:
    """Draw a scene's palette of urban and barren: slate, concrete, sand, red earth, and some green."""
    return _palette(_hues(_EARTH), _EARTH_LIGHT, rng)


def _hues(anchors: Anchors) -> Palette:
    """Return float32 (_TONES, 3): the hue of each tone, RGB in 0..1."""
    places, colours = zip(*anchors, strict=True)
    tones = np.linspace(0, 1, _TONES)
    channels = [np.interp(tones, places, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=-1).astype(np.float32) / 255


def _palette(hue: Palette, light: Sequence[tuple[float, float]], rng: np.random.Generator) -> Palette:
    """Draw a palette: hues by tone, times brightness by light; shadows are bluish."""
    hue = hue + rng.normal(0, 0.012, 3)
    brightness = np.interp(np.linspace(0, 1, _LIGHTS), *np.transpose(light))[:, None]
    shade = np.clip(1 - brightness, 0, 1) * (-0.03, 0.0, 0.10)
    palette: Palette = (hue[:, None, :] * (brightness + shade)[None]).astype(np.float32)
    return palette


def paint(light: Field, tone: Field, index: UInt8Array, green: Palette, bare: Palette) -> Colours:
    """Return float32 (H, W, 3) RGB in 0..1 of the land classes.

    ``light`` and ``tone``, float32 (H, W), may have any scale; ``index``, uint8 (H, W), has the classes;
    ``green`` is the palette of forest, rangeland and agriculture, ``bare`` of urban and barren.
    """
    classes: Int32Array = index.astype(np.int32)
    count = int(classes.max()) + 1
    tone_rank = ranks(tone, classes, count)
    tone_bin = (tone_rank * _TONE_BINS).astype(np.int32)
    light_rank = ranks(light, classes * _TONE_BINS + tone_bin, count * _TONE_BINS)
    place = (tone_rank * _TONES).astype(np.int32) * _LIGHTS + (light_rank * _LIGHTS).astype(np.int32)
    palettes = np.concatenate([green.reshape(-1, 3), bare.reshape(-1, 3)])
    place += np.where(np.isin(index, (URBAN, BARREN)), np.int32(_TONES * _LIGHTS), np.int32(0))
    return palettes[place]
