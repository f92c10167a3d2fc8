"""How long the command line takes to answer: ``python -m landcover.benchmarks.startup``.

``landcover --help`` against an interpreter that does nothing, in turns.
"""

import subprocess
import sys

from landcover.benchmarks.timing import take_turns


def main() -> None:
    """Print the medians and their ratio."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    ours, empty = take_turns(
        "start",
        {
            "landcover --help": lambda: run("-m", "landcover", "--help"),
            "empty interpreter": lambda: run("-c", "pass"),
        },
        repeats=21,
    )
    print(f"{ours.way} {ours.ms:.0f} ms, {empty.way} {empty.ms:.0f} ms: {ours.ms / empty.ms:.1f} x")


if __name__ == "__main__":
    main()
