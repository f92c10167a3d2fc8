"""Make the pictures of the documentation: ``python tools/figures.py``."""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from landcover.data.synthetic import make_scene
from landcover.io.files import atomic_path
from landcover.legend import DEEPGLOBE

_GAP_PX = 16
_LEGEND_PX = 44


def scene_figure(seed: int, height: int, width: int) -> Image.Image:
    """Return a procedural scene, its map and the legend, in 256 colours, which keeps the file small."""
    scene = make_scene(seed, height, width)
    figure = Image.new("RGB", (2 * width + _GAP_PX, height + _LEGEND_PX), "white")
    figure.paste(Image.fromarray(scene.image), (0, 0))
    figure.paste(Image.fromarray(DEEPGLOBE.colours[scene.index]), (width + _GAP_PX, 0))
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(19)
    left, top = 2.0, height + (_LEGEND_PX - 20) / 2 + 4
    for entry in DEEPGLOBE.classes:
        pen.rectangle((left, top, left + 28, top + 20), fill=entry.colour, outline="#555555")
        pen.text((left + 36, top + 10), entry.name, fill="#222222", font=font, anchor="lm")
        left += 36 + font.getlength(entry.name) + 34
    return figure.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=473)
    parser.add_argument("--size", type=int, nargs=2, default=(448, 608), metavar=("HEIGHT", "WIDTH"))
    given = parser.parse_args()
    with atomic_path(given.out / "scene.png", force=True) as temporary:
        scene_figure(given.seed, *given.size).save(temporary, optimize=True)


if __name__ == "__main__":
    main()
