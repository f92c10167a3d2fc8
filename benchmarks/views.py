"""One image from its file to its map on disk, by bundled model and views, the model loaded.

python benchmarks/views.py IMAGE.jpg --gsd 0.5 --repeats 20
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import landcover as lc
from common import print_timings, take_turns

WAYS = {"starter": (1, 2, 3, 8), "best": (1,)}


def main() -> None:
    """Time them in turns; the first is what the others are compared with."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--gsd", type=float, required=True, help="metres per pixel")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()

    def map_it(model: lc.Model, views: int, target: Path) -> None:
        result = model.predict(options.image, gsd=options.gsd, options=lc.PredictOptions(views=views))
        result.save(target, force=True)

    with tempfile.TemporaryDirectory() as folder:
        ways = {}
        for name, numbers in WAYS.items():
            model = lc.open_model(name)
            for views in numbers:
                ways[f"{name}, views {views}"] = partial(map_it, model, views, Path(folder, "map.png"))
                ways[f"{name}, views {views}"]()  # the first call compiles
        print_timings(take_turns(options.image.name, ways, options.repeats))


if __name__ == "__main__":
    main()
