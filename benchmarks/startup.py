"""How long the command line takes to start, from nothing to a map, and how large the installation is."""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from common import landcover, print_timings, take_turns


def installed(distribution: str = "landcover") -> dict[str, float]:
    """Return MB on disk of a distribution and of all that it needs without extras, by name."""
    sizes: dict[str, float] = {}
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        files = (Path(str(found.locate_file(file))) for file in found.files or ())
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        waiting += needed(found)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def needed(distribution: metadata.Distribution) -> Iterator[str]:
    """Yield the names that a distribution requires without extras."""
    for requirement in distribution.requires or ():
        name, _, condition = requirement.partition(";")
        if "extra" not in condition:
            yield re.split(r"[^\w.-]", name.strip())[0].lower().replace("_", "-")


def main() -> None:
    """Time ``landcover --help``, and ``landcover predict`` of one image where one is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a JPEG of 2448 x 2448 pixels at 0.5 m")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    ways = {
        "empty interpreter": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        "landcover --help": lambda: landcover("--help"),
    }
    with tempfile.TemporaryDirectory() as out:
        if options.image is not None:
            words = (options.image, "--gsd", 0.5, "--model", options.model, "--out", out, "--force")
            ways["landcover predict, command to map"] = lambda: landcover("predict", *words)
        print_timings(take_turns("start", ways, options.repeats))
    sizes = installed()
    print(f"core install {sum(sizes.values()):.0f} MB:", *(f"{name} {mb:.0f}," for name, mb in sizes.items()))


if __name__ == "__main__":
    main()
